//! One table of bodies through both doors: the same answers at each.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::service::{Letter, Service};
use super::{open_gateway, refused};
use crate::bad_input::bodies;
use crate::stage::{Stage, User, at};
use crate::wire::{Request, exchange};

/// The same request as a message; nothing where a message has no such thing.
fn as_letter(request: &Request) -> Option<Letter> {
    let (path, body) = request.parts();
    let user: Uuid = request.header("X-User-ID")?.parse().ok()?;
    if request.header("Content-Type") != Some("application/json") {
        return None;
    }
    let letter = |kind: &str| Letter::new(kind, user, &Value::Null);
    if path == "/api/bookings" {
        return Some(letter("booking.create").body(body));
    }
    let (booking, verb) = path.strip_prefix("/api/bookings/")?.split_once('/')?;
    // A message names the booking in its body, so that has to be one.
    let mut object: Map<String, Value> = match body {
        b"" => Map::new(),
        body => serde_json::from_slice(body).ok()?,
    };
    object.insert("bookingId".into(), booking.into());
    let text = Value::Object(object).to_string();
    Some(letter(&format!("booking.{verb}")).body(text))
}

#[tokio::test]
async fn bad_bodies_get_the_same_answers_at_both_doors() {
    let stage = Stage::new("bad-both").await;
    let gateway = open_gateway(&stage, &[]).await;
    let service = Service::at(&stage).await;
    let (mut compared, mut changes, mut wrong) = (0, 0, Vec::new());
    for case in bodies::cases() {
        let Some(letter) = as_letter(&case.request) else { continue };
        let over_http = exchange(&gateway, &case.request.bytes()).await.expect(&case.name).body;
        let by_message = service.is_refused(&service.submits(&letter).await).await;
        for member in ["type", "title", "status", "detail", "code", "errors"] {
            if over_http[member] != by_message[member] {
                let name = &case.name;
                wrong.push(format!("{name}: {} {}", over_http[member], by_message[member]));
            }
        }
        compared += 1;
        changes += usize::from(letter.kind.as_deref() != Some("booking.create"));
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 80 && changes > 5, "{compared} cases, {changes} of changes");
    assert_eq!(stage.number("select count(*) from commands").await, 0);
}

#[tokio::test]
async fn good_bodies_ask_for_the_same_at_both_doors() {
    let stage = Stage::new("good-both").await;
    let gateway = open_gateway(&stage, &[]).await;
    let (service, user) = (Service::at(&stage).await, User::new(&gateway));
    let with = |fields: Value| {
        let mut body = user.slot(0, 30);
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let (booking, moved) = (Uuid::now_v7(), json!({ "startTime": at(60), "endTime": at(90) }));
    let good = [
        ("create", with(json!({}))),
        ("create", with(json!({ "metadata": { "title": "Zahnarzt \u{1f9b7}", "n": 1.5 } }))),
        ("create", with(json!({ "hold": 600 }))),
        (
            "create",
            with(json!({ "startTime": "2032-12-22T08:00:00.25+01:00",
                                "endTime": "2032-12-22T10:00:00+02:30" })),
        ),
        ("create", with(json!({ "callbackUrl": "HTTPS://Example.com./done?x=1" }))),
        ("confirm", json!({})),
        ("cancel", json!({ "reason": "rain" })),
        ("reschedule", moved),
    ];
    for (number, (verb, body)) in good.iter().enumerate() {
        let key = format!("good-{number}");
        let (path, mut letter_body) = match *verb {
            "create" => ("/api/bookings".to_owned(), body.clone()),
            verb => (format!("/api/bookings/{booking}/{verb}"), body.clone()),
        };
        if *verb != "create" {
            letter_body["bookingId"] = json!(booking);
        }
        user.post(&path, &[("Idempotency-Key", &key)], body.clone()).await.is(202);
        let letter = Letter::new(&format!("booking.{verb}"), user.id, &letter_body).key(&key);
        let accepted = service.hears(&service.submits(&letter).await, 1).await;
        assert_eq!(accepted[0].kind, "command.accepted", "{accepted:?}");
    }
    // The fingerprint is the hash of everything that was asked for.
    let pairs = "select count(*) from commands a join commands b using (idempotency_key)
                 where a.caller < b.caller and a.fingerprint = b.fingerprint
                   and (a.content::jsonb -> 'change') = (b.content::jsonb -> 'change')
                   and a.content::jsonb -> 'callback' is not distinct from
                       b.content::jsonb -> 'callback'";
    assert_eq!(stage.number(pairs).await, i64::try_from(good.len()).unwrap());
}

/// Where a callback may go is judged before anything is accepted.
#[tokio::test]
async fn a_callback_to_a_private_address_is_refused_at_both_doors() {
    let stage = Stage::new("callbacks-both").await;
    let gateway = open_gateway(&stage, &[]).await;
    let (service, user) = (Service::at(&stage).await, User::new(&gateway));
    for url in ["http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://desk/"] {
        let mut body = user.slot(0, 30);
        body["callbackUrl"] = json!(url);
        let over_http = user.books_with_key("one", body.clone()).await.is(400);
        let letter = Letter::new("booking.create", user.id, &body);
        let by_message = service.is_refused(&service.submits(&letter).await).await;
        assert_eq!(over_http.body["errors"][0]["field"], "callbackUrl", "{url}");
        assert_eq!(over_http.body["errors"], by_message["errors"], "{url}");
        let letter = refused::dead(&service).await;
        assert!(letter.starts_with("VALIDATION_FAILED: callbackUrl"), "{letter}");
    }
    assert_eq!(stage.number("select count(*) from commands").await, 0);
}
