//! Messages that are never accepted: who is told, and what is left of them.

use booking::queue::{DEAD_QUEUE, partition_queue};
use lapin::types::AMQPValue;
use serde_json::json;
use uuid::Uuid;

use super::open_gateway;
use super::service::{Letter, Service, header};
use crate::stage::{Stage, until};

/// The reason on the next dead letter.
pub async fn dead(service: &Service) -> String {
    header(&service.finds_dead().await, "x-reason")
}

/// Each is wrong in one thing, which the reason names.
fn malformed(user: Uuid) -> Vec<(&'static str, Letter)> {
    let good = || Letter::create(user, 0, 30);
    let cancel = |body| Letter::new("booking.cancel", user, &body);
    let id = json!({ "bookingId": Uuid::now_v7() });
    vec![
        ("type", Letter { kind: None, ..good() }),
        ("type", Letter { kind: Some("booking.destroy".into()), ..good() }),
        ("message_id", Letter { key: None, ..good() }),
        ("message_id", Letter { key: Some("two words".into()), ..good() }),
        ("message_id", Letter { key: None, ..cancel(id.clone()) }),
        ("user-id", Letter { user: Some(AMQPValue::LongString("alice".into())), ..good() }),
        ("user-id", Letter { user: Some(AMQPValue::LongInt(7)), ..good() }),
        ("user-id", Letter { user: None, ..cancel(id.clone()) }),
        ("user-id", Letter { user: Some(AMQPValue::LongInt(7)), ..cancel(id.clone()) }),
        ("x-correlation-id", good().header("x-correlation-id", "two words")),
        ("correlation_id", Letter { correlation_id: Some("\0".into()), ..good() }),
        ("content_type", Letter { content_type: Some("text/xml".into()), ..good() }),
        ("body", good().body("{")),
        ("body", good().body("[]")),
        ("body", good().body(vec![0xff; 100])),
        ("body must have", good().body(vec![b' '; 256 * 1024 + 1])),
        ("bookingId", cancel(json!({}))),
        ("bookingId", cancel(json!({ "bookingId": "mine" }))),
        ("expectedVersion", cancel(json!({ "bookingId": user, "expectedVersion": "1" }))),
        ("expectedVersion", cancel(json!({ "bookingId": user, "expectedVersion": 0 }))),
        ("bookingId", good().body(json!({ "bookingId": user }).to_string())),
    ]
}

#[tokio::test]
async fn malformed_messages_go_to_the_dead_letters_with_the_reason() {
    let stage = Stage::new("malformed").await;
    let gateway = open_gateway(&stage, &[]).await;
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    let cases = malformed(user);
    for (name, letter) in &cases {
        let letter = letter.clone().header("note", "kept");
        service.sends(&letter).await;
        let found = service.finds_dead().await;
        let reason = header(&found, "x-reason");
        assert!(reason.contains(name) || reason.contains("fields are not"), "{name}: {reason}");
        assert_eq!(found.data, letter.body, "{name}");
        let text = |value: &Option<lapin::types::ShortString>| {
            value.as_ref().map(|v| v.to_string()).unwrap_or_default()
        };
        assert_eq!(text(found.properties.message_id()), letter.key.clone().unwrap_or_default());
        assert_eq!(text(found.properties.kind()), letter.kind.clone().unwrap_or_default());
        assert_eq!(header(&found, "note"), "kept");
        assert!(!header(&found, "x-correlation-id").is_empty());
    }
    for (name, letter) in &cases {
        let mut letter = letter.clone();
        letter.reply_to = Some(service.replies.clone());
        let id = service.sends(&letter).await;
        let refused = service.is_refused(&id).await;
        let told = refused["detail"].as_str().unwrap();
        let reason = dead(&service).await;
        let whole = format!("{}: {told}", refused["code"].as_str().unwrap());
        assert!(whole.starts_with(&reason), "{name}: {whole} {reason}");
    }
    assert_eq!(stage.number("select count(*) from commands").await, 0);
    // Nobody is held up by any of them.
    let accepted = service.submits(&Letter::create(user, 0, 30)).await;
    assert_eq!(service.hears(&accepted, 1).await[0].kind, "command.accepted");
    let done = f64::from(u32::try_from(2 * cases.len() + 1).unwrap());
    until("all are done with", async || gateway.metric("booking_submissions_total").await == done)
        .await;
}

/// Answers would reach a queue that is not the sender's, past all permissions.
#[tokio::test]
async fn answers_go_to_no_queue_of_ours() {
    let stage = Stage::new("foreign-replies").await;
    let _gateway = open_gateway(&stage, &[]).await;
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    for queue in ["booking.commands.p.00", "booking.dead", "amq.gen-of-somebody", "a\nb"] {
        let reply_to = Some(queue.to_owned());
        service.sends(&Letter { reply_to, ..Letter::create(user, 0, 30) }).await;
        let reason = dead(&service).await;
        assert!(reason.starts_with("VALIDATION_FAILED: reply_to: must be"), "{queue}: {reason}");
    }
    assert_eq!(stage.number("select count(*) from commands").await, 0);
    assert!(service.gets(DEAD_QUEUE).await.is_none());
    let broker = booking::queue::Connection::open(&stage.amqp_url, "tests").await.unwrap();
    assert_eq!(broker.depth(&partition_queue(0)).await.unwrap().ready, 0);
}

/// What a service can mend is told to it; only where it does not listen it is kept for people.
#[tokio::test]
async fn a_refusal_that_is_told_leaves_no_dead_letter() {
    let stage = Stage::new("told").await;
    let _gateway = open_gateway(&stage, &[]).await;
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    let backwards = Letter::create(user, 30, 0);
    let of_another = Letter::create(user, 0, 30);
    let of_another = Letter {
        user: Some(AMQPValue::LongString(Uuid::now_v7().to_string().into())),
        ..of_another
    };
    for (letter, code, status) in [(backwards, "INVALID_TIME", 422), (of_another, "FORBIDDEN", 403)]
    {
        let refused = service.is_refused(&service.submits(&letter).await).await;
        assert_eq!((&refused["code"], &refused["status"]), (&json!(code), &json!(status)));
        assert!(service.gets(DEAD_QUEUE).await.is_none(), "{code}");
        service.sends(&letter).await;
        assert!(dead(&service).await.starts_with(code));
    }
    assert_eq!(stage.number("select count(*) from commands").await, 0);
}
