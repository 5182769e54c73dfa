//! What is refused, by which code and field, and that it leaves no trace.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Fate, URL, each, plant, queue_of};
use crate::stage::{Answer, Stage, User};

const INVALID: &str = "VALIDATION_FAILED";

/// URLs that may not be posted to, wherever they are given. What else may not: `src/webhooks/`.
pub const FORBIDDEN_URLS: [&str; 9] = [
    "http://hooks.example.org/",
    "ftp://hooks.example.org/",
    "https://hooks.example.org:8443/",
    "https://user:secret@hooks.example.org/",
    "https://127.0.0.1/",
    "https://0x7f.1/",
    "https://[::ffff:169.254.169.254]/latest/meta-data",
    "https://10.0.0.1/",
    "https://localhost/",
];

#[track_caller]
fn refused(name: &str, answer: &Answer, status: u16, code: &str, field: &str) {
    let errors = answer.body["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let named = field.is_empty() || errors.iter().any(|error| error["field"] == field);
    let seen = (answer.status, answer.code(), named);
    assert_eq!(seen, (status, code, true), "{name}: {}", answer.raw);
    assert!(!answer.raw.contains("secret@"), "{name}");
}

#[tokio::test]
async fn a_wrong_endpoint_is_refused_by_its_fields() {
    let stage = Stage::new("hooks-wrong").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let with = |field: &str, value: Value| {
        let mut body = json!({ "url": URL, "eventTypes": ["*"] });
        body[field] = value;
        body
    };
    let many = vec!["*"; 21];
    let mut cases = vec![
        ("no url", with("url", Value::Null), "url"),
        ("a number as url", with("url", json!(1)), "url"),
        ("no url at all", with("url", json!("hooks")), "url"),
        ("a url of 3000", with("url", json!(format!("{URL}/{}", "a".repeat(3000)))), "url"),
        ("no types", with("eventTypes", Value::Null), "eventTypes"),
        ("empty types", with("eventTypes", json!([])), "eventTypes"),
        ("21 types", with("eventTypes", json!(many)), "eventTypes"),
        ("a text as types", with("eventTypes", json!("*")), "eventTypes"),
        ("an unknown type", with("eventTypes", json!(["*", "booking.lost"])), "eventTypes[1]"),
        ("an unknown kind", with("eventTypes", json!(["user.*"])), "eventTypes[0]"),
        ("of callbacks only", with("eventTypes", json!(["command.succeeded"])), "eventTypes[0]"),
        ("a number as type", with("eventTypes", json!([1])), "eventTypes[0]"),
        ("501 characters", with("description", json!("d".repeat(501))), "description"),
        ("a NUL", with("description", json!("a\0")), "description"),
        ("an own secret", with("secret", json!("whsec_AAAA")), "secret"),
        ("another's calendar", with("userId", json!(Uuid::nil())), "userId"),
    ];
    cases.extend(FORBIDDEN_URLS.map(|url| (url, with("url", json!(url)), "url")));
    for (name, body, field) in &cases {
        let answer = user.post("/api/webhooks", &[], body.clone()).await;
        refused(name, &answer, 400, INVALID, field);
    }
    refused("no body", &user.post_text("/api/webhooks", &[], "").await, 400, INVALID, "url");
    refused("an array", &user.post("/api/webhooks", &[], json!([])).await, 400, INVALID, "body");
    assert_eq!(stage.number("select count(*) from webhook_endpoints").await, 0);

    let path = format!("/api/webhooks/{}", user.registers().await);
    let before = user.get(&path).await.is(200).body;
    for (name, body, field) in &cases {
        if body[field.split('[').next().unwrap()].is_null() {
            continue; // in a change it is what stays as it is
        }
        refused(name, &user.patch(&path, body.clone()).await, 400, INVALID, field);
    }
    for (name, body, field) in [
        ("a text as enabled", json!({ "enabled": "true" }), "enabled"),
        ("another kind", json!({ "kind": "callback" }), "kind"),
        ("an own reason", json!({ "disabledReason": "x" }), "disabledReason"),
    ] {
        refused(name, &user.patch(&path, body).await, 400, INVALID, field);
    }
    assert_eq!(user.get(&path).await.is(200).body, before);
}

#[tokio::test]
async fn this_machine_is_a_receiver_only_where_a_setting_says_so() {
    let stage = Stage::new("hooks-insecure").await;
    let gateway = stage.start("gateway", &[("WEBHOOK_ALLOW_INSECURE", "true")]).await;
    gateway.is_ready().await;
    let user = User::new(&gateway);
    for url in ["http://127.0.0.1:9000/hook", "http://localhost:9000/hook"] {
        let body = json!({ "url": url, "eventTypes": ["*"] });
        assert_eq!(user.post("/api/webhooks", &[], body).await.is(201).text("url"), url);
        let mut body = user.slot(0, 30);
        body["callbackUrl"] = json!(url);
        user.books_with_key(url, body).await.is(202);
    }
}

#[tokio::test]
async fn wrong_queries_and_wishes_are_refused_by_their_fields() {
    let stage = Stage::new("hooks-wishes").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    let delivery = plant(&stage, &id, 5, "booking.held", Fate::Exhausted).await;
    let path = format!("/api/webhooks/{id}");
    for (query, field) in [
        ("/deliveries?status=lost", "status"),
        ("/deliveries?status=pending,delivered", "status"),
        ("/deliveries?eventType=booking.*", "eventType"),
        ("/deliveries?from=yesterday", "from"),
        ("/deliveries?to=2032-01-01", "to"),
        ("/deliveries?limit=101", "limit"),
        ("/deliveries?limit=0", "limit"),
        ("/deliveries?cursor=1", "cursor"),
        ("/deliveries?state=pending", "state"),
        ("/deliveries?limit=1&limit=1", "limit"),
        ("/deliveries/first", "deliveryId"),
        ("/deliveries/%ff/attempts", "id"),
    ] {
        refused(query, &user.get(&format!("{path}{query}")).await, 400, INVALID, field);
    }
    for query in ["limit=0", "cursor=x", "sort=url"] {
        let field = query.split('=').next().unwrap();
        refused(query, &user.get(&format!("/api/webhooks?{query}")).await, 400, INVALID, field);
    }
    refused("an id", &user.get("/api/webhooks/mine").await, 400, INVALID, "id");

    let late = json!(Utc::now() + TimeDelta::minutes(5));
    let early = json!(Utc::now() - TimeDelta::days(31));
    for (wish, body, status, code, field) in [
        ("recover", json!({}), 400, INVALID, "since"),
        ("recover", json!({ "since": "yesterday" }), 400, INVALID, "since"),
        ("recover", json!({ "since": "2020-01-01T00:00:00" }), 422, "INVALID_TIME", "since"),
        ("recover", json!({ "since": late }), 422, "INVALID_TIME", "since"),
        ("recover", json!({ "since": early }), 422, "INVALID_TIME", "since"),
        (
            "recover",
            json!({ "since": "2020-01-01T00:00:00Z", "cursor": 1 }),
            400,
            INVALID,
            "cursor",
        ),
        ("recover", json!({ "since": "2020-01-01T00:00:00Z", "all": true }), 400, INVALID, "all"),
        ("rotate-secret", json!({ "overlapSeconds": -1 }), 400, INVALID, "overlapSeconds"),
        ("rotate-secret", json!({ "overlapSeconds": 604_801 }), 400, INVALID, "overlapSeconds"),
        ("rotate-secret", json!({ "secret": "whsec_AAAA" }), 400, INVALID, "secret"),
        ("test", json!({ "url": "https://example.org" }), 400, INVALID, "url"),
    ] {
        let answer = user.post(&format!("{path}/{wish}"), &[], body.clone()).await;
        refused(&format!("{wish} {body}"), &answer, status, code, field);
    }
    let again = format!("{path}/deliveries/{delivery}/redeliver");
    refused("again", &user.post(&again, &[], json!({ "at": 1 })).await, 400, INVALID, "at");
    assert_eq!(queue_of(&stage, &id).await, []);
}

/// Whether an endpoint or a delivery exists is told to nobody but its owner.
#[tokio::test]
async fn anothers_endpoint_is_answered_like_one_that_never_was() {
    let stage = Stage::new("hooks-others").await;
    let gateway = stage.gateway().await;
    let (owner, stranger) = (User::new(&gateway), User::new(&gateway));
    let id = owner.registers().await;
    let delivery = plant(&stage, &id, 5, "booking.held", Fate::Exhausted).await;
    let before = owner.get(&format!("/api/webhooks/{id}")).await.is(200).body;
    let never = Uuid::now_v7().to_string();

    let (there, nowhere) =
        (asked(&stranger, &id, &delivery).await, asked(&stranger, &never, &delivery).await);
    for (there, nowhere) in there.iter().zip(&nowhere) {
        assert_eq!((there.status, there.code()), (404, "NOT_FOUND"), "{}", there.raw);
        let masked = |answer: &Answer, id: &str| {
            let correlation = answer.text("correlationId");
            answer.raw.replace(id, "…").replace(correlation, "…")
        };
        assert_eq!(masked(there, &id), masked(nowhere, &never));
    }
    assert_eq!(stranger.get("/api/webhooks").await.is(200).body, json!({ "endpoints": [] }));
    assert_eq!(owner.get(&format!("/api/webhooks/{id}")).await.is(200).body, before);
    assert_eq!(queue_of(&stage, &id).await, []);

    // Of the owner's own endpoints, each has its deliveries.
    let other = owner.registers().await;
    let deliveries = format!("/api/webhooks/{other}/deliveries");
    for wrong in [&delivery, &never] {
        let path = format!("{deliveries}/{wrong}");
        for answer in [
            owner.get(&path).await,
            owner.get(&format!("{path}/attempts")).await,
            owner.post(&format!("{path}/redeliver"), &[], json!({})).await,
        ] {
            assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{}", answer.raw);
        }
    }
    assert_eq!(each(&owner.get(&deliveries).await.is(200).body["deliveries"], "id"), [""; 0]);
}

/// Everything that can be asked of an endpoint.
async fn asked(user: &User, id: &str, delivery: &str) -> Vec<Answer> {
    let path = format!("/api/webhooks/{id}");
    let one = format!("{path}/deliveries/{delivery}");
    let since = json!({ "since": Utc::now() - TimeDelta::minutes(60) });
    vec![
        user.get(&path).await,
        user.patch(&path, json!({ "enabled": false })).await,
        user.patch(&path, json!({ "url": URL })).await,
        user.delete(&path).await,
        user.post(&format!("{path}/rotate-secret"), &[], json!({})).await,
        user.post(&format!("{path}/test"), &[], json!({})).await,
        user.post(&format!("{path}/recover"), &[], since).await,
        user.get(&format!("{path}/deliveries")).await,
        user.get(&one).await,
        user.get(&format!("{one}/attempts")).await,
        user.post(&format!("{one}/redeliver"), &[], json!({})).await,
    ]
}
