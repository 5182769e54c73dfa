//! Requests that must be refused: each with the right problem document, and without a trace.
//!
//! One gateway, no worker: nothing here gets as far as a decision. Every case is the
//! base request with one thing changed, so that nothing else can be the reason.

pub mod bodies;
mod heads;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{Answer, PATIENCE, Process, Stage};
use crate::wire::{Request, exchange, parsed, raw_exchange};

const USER: &str = "018f3c1e-7c1a-7000-8000-0123456789ab";
const BOOKING: &str = "018f3c1e-7c1a-7000-8000-0000000000b1";
const INVALID: &str = "VALIDATION_FAILED";

/// A request, and what the refusal must say.
pub struct Case {
    pub name: String,
    pub request: Request,
    status: u16,
    code: &'static str,
    /// A field that `errors` names; empty when the problem has no `errors`.
    field: &'static str,
    /// The `Allow` header.
    allow: &'static str,
}

/// The request that would be accepted.
fn create() -> Request {
    let body = base_body().to_string();
    post("/api/bookings", &body).with("Idempotency-Key", "key-1")
}

fn cancel(body: &str) -> Request {
    post(&format!("/api/bookings/{BOOKING}/cancel"), body)
}

fn reschedule(body: &str) -> Request {
    post(&format!("/api/bookings/{BOOKING}/reschedule"), body)
}

fn post(path: &str, body: &str) -> Request {
    let request = Request::new("POST", path).with("X-User-ID", USER);
    request.with("Content-Type", "application/json").body(body)
}

fn get(path: &str) -> Request {
    Request::new("GET", path).with("X-User-ID", USER)
}

fn base_body() -> Value {
    let (start, end) = ("2032-12-21T09:00:00Z", "2032-12-21T10:00:00Z");
    json!({ "userId": USER, "startTime": start, "endTime": end })
}

fn case(
    name: &str,
    request: Request,
    status: u16,
    code: &'static str,
    field: &'static str,
) -> Case {
    Case { name: name.to_owned(), request, status, code, field, allow: "" }
}

/// Metadata of that many keys.
fn keys(count: usize) -> Value {
    (0..count).map(|n| (format!("key-{n}"), json!(n))).collect::<Map<_, _>>().into()
}

/// As many keys as there may be, each with as many of these characters as a value may have.
fn full(character: &str) -> Value {
    let value = character.repeat(500);
    (0..50).map(|n| (format!("key-{n}"), json!(value))).collect::<Map<_, _>>().into()
}

#[tokio::test]
async fn bad_requests_are_refused_by_name_and_change_nothing() {
    let stage = Stage::new("bad-input").await;
    let gateway = stage.gateway().await;
    let cases: Vec<Case> = bodies::cases().chain(heads::cases()).collect();
    let names: BTreeSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
    assert!(names.len() == cases.len() && cases.len() >= 80, "{} cases", cases.len());

    let mut wrong = Vec::new();
    for case in &cases {
        match exchange(&gateway, &case.request.bytes()).await {
            Some(answer) => wrong.extend(mistake_in(case, &answer)),
            None => wrong.push(format!("{}: no answer", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    nothing_changed(&stage).await;

    good_requests_are_accepted(&stage, &gateway).await;
}

#[tokio::test]
async fn what_is_not_http_is_turned_away_and_the_gateway_lives_on() {
    let stage = Stage::new("not-http").await;
    let gateway = stage.gateway().await;
    for (name, bytes) in broken_http() {
        let a_moment = Duration::from_millis(300);
        if let Some(answer) = parsed(&raw_exchange(&gateway, &bytes, a_moment).await) {
            assert!((400..500).contains(&answer.status), "{name}: {answer:?}");
        }
        let alive = exchange(&gateway, &get("/health/live").bytes()).await;
        assert_eq!(alive.map(|answer| answer.status), Some(200), "after {name}");
    }
    nothing_changed(&stage).await;
}

/// A request with two lengths is read by one of them only, and what follows it is never taken
/// for a second request.
#[tokio::test]
async fn no_request_hides_in_the_body_of_another() {
    let stage = Stage::new("smuggling").await;
    let gateway = stage.gateway().await;
    let inner = String::from_utf8(create().bytes()).unwrap();
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let outer = format!(
            "POST /api/bookings HTTP/1.1\r\nHost: test\r\n{lengths}\r\n\r\n0\r\n\r\n{inner}"
        );
        let text = raw_exchange(&gateway, outer.as_bytes(), PATIENCE).await;
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HTTP/1.1 4"), "{lengths:?}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{lengths:?}: {text}");
    }
    nothing_changed(&stage).await;
}

/// A client that announces more than it sends gets no answer but a 4xx, and leaves nothing.
#[tokio::test]
async fn a_body_that_breaks_off_is_no_request() {
    let stage = Stage::new("broken-off").await;
    let gateway = stage.gateway().await;
    let whole = create().bytes();
    for kept in [whole.len() - 1, whole.len() - base_body().to_string().len()] {
        let mut stream = TcpStream::connect(&gateway.address).await.unwrap();
        stream.write_all(&whole[..kept]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.unwrap();
        let status = parsed(&text).map(|answer| answer.status);
        assert!(status.is_none_or(|status| status == 400), "{status:?}");
    }
    nothing_changed(&stage).await;
}

/// The same request without its defect is accepted, so it was the defect that was refused.
async fn good_requests_are_accepted(stage: &Stage, gateway: &Process) {
    let padded = format!("{}{}", base_body(), " ".repeat(256 * 1024));
    let good = [
        ("as it is", create()),
        ("nonsense in Prefer", create().with("Prefer", "wait=soon, ;;=, wait; \"")),
        ("non-ASCII in Prefer", create().with("Prefer", "wait=\u{fc}")),
        ("a charset", create().with("Content-Type", "Application/JSON; charset=utf-8")),
        ("chunked", create().chunked()),
        ("the largest body", create().body(&padded[..256 * 1024])),
        ("null is not given", create().set("metadata", Value::Null)),
        ("a callback", create().set("callbackUrl", "https://hooks.example.org/booked?a=b")),
        ("a callback of a cancel", cancel(r#"{"callbackUrl":"https://hooks.example.org"}"#)),
        ("50 keys", create().set("metadata", keys(50))),
        ("50 keys with 500 characters", create().set("metadata", full("v"))),
        ("the longest correlation id", create().with("X-Correlation-ID", "c".repeat(128))),
        ("no key for a cancel", cancel("{}").without("Idempotency-Key")),
        ("no body for a cancel", cancel("").without("Content-Type")),
    ];
    for (number, (name, request)) in good.iter().enumerate() {
        let key = format!("good-{number}");
        let has_key = request.header("Idempotency-Key").is_some();
        let request = if has_key { request.with("Idempotency-Key", key) } else { request.clone() };
        let answer = exchange(gateway, &request.bytes()).await.expect(name);
        assert_eq!(answer.status, 202, "{name}: {:#}", answer.body);
    }
    let accepted = stage.number("select count(*) from commands").await;
    assert_eq!(accepted, i64::try_from(good.len()).unwrap());

    // One key under both names, quoted and bare, is one key; and a replay is no new command.
    let both = create().with("Idempotency-Key", "good-0").with("X-Idempotency-Key", "\"good-0\"");
    let replayed = exchange(gateway, &both.bytes()).await.unwrap();
    assert_eq!((replayed.status, replayed.header("idempotency-replayed")), (202, "true"));
    assert_eq!(stage.number("select count(*) from commands").await, accepted);
}

async fn nothing_changed(stage: &Stage) {
    for (table, count) in [
        ("commands", "select count(*) from commands"),
        ("outbox", "select count(*) from outbox"),
        ("bookings", "select count(*) from bookings"),
        ("allocations", "select count(*) from allocations"),
        ("audit", "select count(*) from audit"),
        ("dead_letters", "select count(*) from dead_letters"),
        ("webhook_endpoints", "select count(*) from webhook_endpoints"),
    ] {
        assert_eq!(stage.number(count).await, 0, "rows of {table}");
    }
}

/// What is wrong with the answer, if anything.
fn mistake_in(case: &Case, answer: &Answer) -> Option<String> {
    let Case { name, status, code, field, allow, .. } = case;
    let body = &answer.body;
    let errors: Vec<&Value> = body["errors"].as_array().into_iter().flatten().collect();
    let complete = |error: &&Value| {
        ["field", "code", "message"]
            .iter()
            .all(|m| error[*m].as_str().is_some_and(|t| !t.is_empty()))
    };
    let filled = |member: &str| !answer.text(member).is_empty();
    let wrong = if answer.status != *status || body["status"] != *status {
        format!("the status is {}", answer.status)
    } else if answer.header("content-type") != "application/problem+json" {
        format!("the content type is {:?}", answer.header("content-type"))
    } else if answer.text("code") != *code {
        format!("the code is {:?}", answer.text("code"))
    } else if answer.text("type") != format!("urn:booking:problem:{code}") {
        format!("the type is {:?}", answer.text("type"))
    } else if !(filled("title") && filled("detail")) {
        "the title or the detail is empty".to_owned()
    } else if !filled("correlationId") || answer.text("correlationId") != correlation(answer) {
        format!("the correlation id is {:?}", answer.text("correlationId"))
    } else if errors.is_empty() != field.is_empty() || !errors.iter().all(complete) {
        "the errors are not as they should be".to_owned()
    } else if !field.is_empty() && errors.iter().all(|error| error["field"] != *field) {
        format!("no error names {field:?}")
    } else if answer.header("allow") != *allow {
        format!("Allow is {:?}", answer.header("allow"))
    } else {
        return None;
    };
    Some(format!("{name}: {wrong}: {body}"))
}

fn correlation(answer: &Answer) -> &str {
    answer.header("x-correlation-id")
}

/// Byte streams that are not a request at all, or whose head is too much.
fn broken_http() -> Vec<(&'static str, Vec<u8>)> {
    let head = |lines: &str| {
        format!("POST /api/bookings HTTP/1.1\r\nHost: test\r\n{lines}\r\n\r\n").into_bytes()
    };
    let many: Vec<_> = (0..200).map(|n| format!("X-Header-{n}: 1")).collect();
    vec![
        ("nothing", Vec::new()),
        ("no HTTP", b"HELLO WORLD\r\n\r\n".to_vec()),
        ("a request line of one word", b"POST\r\n\r\n".to_vec()),
        ("a blank in the path", b"GET /api/bookings/a b HTTP/1.1\r\nHost: t\r\n\r\n".to_vec()),
        ("a version there is not", b"GET / HTTP/9.9\r\nHost: test\r\n\r\n".to_vec()),
        ("the start of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("NULs", vec![0; 4096]),
        ("a header line without a colon", head("nonsense")),
        ("a NUL in a header", head("X-User-ID: a\0b")),
        ("a folded header", head("X-User-ID: a\r\n b")),
        ("a header of 40 KB", head(&format!("X-Long: {}", "x".repeat(40_000)))),
        ("a path of 40 KB", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(40_000)).into()),
        ("200 headers", head(&many.join("\r\n"))),
        ("a length that is no number", head("Content-Length: many")),
        ("a negative length", head("Content-Length: -1")),
        ("a length beyond 64 bits", head("Content-Length: 99999999999999999999999")),
        ("two lengths that differ", head("Content-Length: 5\r\nContent-Length: 6\r\n\r\n{    }")),
        ("an unknown transfer encoding", head("Transfer-Encoding: zip")),
        ("a chunk without a size", head("Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}")),
        ("a chunk beyond 64 bits", head("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n")),
    ]
}
