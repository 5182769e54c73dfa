//! What receivers answer, and what becomes of it.

use std::time::Duration;

use booking::webhooks::sender::{MAX_KEPT_BYTES, Outcome, Outgoing};
use booking::webhooks::signature::{Secret, sign};

use crate::attempt::{BODY, ID, TIMESTAMP, outcome, secret, send, sender};
use crate::receiver::{Answer, Receiver};

#[tokio::test]
async fn an_event_arrives_byte_for_byte_with_its_signature() {
    let receiver = Receiver::answering("204 No Content").await;
    let reply = send(&sender(), &receiver.url()).await;
    assert_eq!(reply.outcome, Outcome::Delivered { status: 204 });

    let requests = receiver.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.body, BODY);
    let signature = sign(&ID.to_string(), TIMESTAMP, BODY.as_bytes(), &[secret()]);
    for (name, value) in [
        ("content-type", "application/json"),
        ("content-length", &BODY.len().to_string()),
        ("user-agent", concat!("booking/", env!("CARGO_PKG_VERSION"))),
        ("webhook-id", &ID.to_string()),
        ("webhook-timestamp", &TIMESTAMP.to_string()),
        ("webhook-signature", &signature),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn while_a_secret_is_replaced_both_sign() {
    let receiver = Receiver::answering("200 OK").await;
    let secrets = [Secret::generate().unwrap(), secret()];
    let url = receiver.url().parse().unwrap();
    let timestamp = chrono::DateTime::from_timestamp(TIMESTAMP, 0).unwrap();
    let delivery =
        Outgoing { url: &url, id: ID, timestamp, secrets: &secrets, traceparent: None, body: BODY };
    sender().send(&delivery).await;

    let request = &receiver.requests()[0];
    let signatures: Vec<_> = request.header("webhook-signature").unwrap().split(' ').collect();
    let each = secrets.map(|secret| sign(&ID.to_string(), TIMESTAMP, BODY.as_bytes(), &[secret]));
    assert_eq!(signatures, each);
}

#[tokio::test]
async fn only_2xx_is_a_success() {
    let refused = |status| Outcome::Refused { status, retry_after: None };
    for (head, expected) in [
        ("200 OK", Outcome::Delivered { status: 200 }),
        ("299 Strange", Outcome::Delivered { status: 299 }),
        ("300 Multiple Choices", refused(300)),
        ("304 Not Modified", refused(304)),
        ("400 Bad Request", refused(400)),
        ("404 Not Found", refused(404)),
        ("410 Gone", Outcome::Gone),
        ("500 Internal Server Error", refused(500)),
        ("599 Strange", refused(599)),
    ] {
        let receiver = Receiver::answering(head).await;
        assert_eq!(outcome(&sender(), &receiver.url()).await, expected, "{head}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::answering("200 OK").await;
    for status in [301, 302, 303, 307, 308] {
        let moved = format!("{status} Moved\r\nLocation: {}", elsewhere.url());
        let receiver = Receiver::answering(&moved).await;
        let refused = Outcome::Refused { status, retry_after: None };
        assert_eq!(outcome(&sender(), &receiver.url()).await, refused);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_receiver_may_ask_for_a_wait_in_seconds_or_until_a_date() {
    for (asked, wait) in [("120", Some(120)), ("soon", None)] {
        let head = format!("503 Service Unavailable\r\nRetry-After: {asked}");
        let receiver = Receiver::answering(&head).await;
        let retry_after = wait.map(Duration::from_secs);
        let refused = Outcome::Refused { status: 503, retry_after };
        assert_eq!(outcome(&sender(), &receiver.url()).await, refused, "{asked}");
    }

    let date = chrono::DateTime::from_timestamp(TIMESTAMP + 3600, 0).unwrap();
    let date = date.format("%a, %d %b %Y %H:%M:%S GMT");
    let receiver = Receiver::answering(&format!("429 Slow down\r\nRetry-After: {date}")).await;
    match outcome(&sender(), &receiver.url()).await {
        // The wait counts from the answer, which a busy machine gives late.
        Outcome::Refused { status: 429, retry_after: Some(wait) } => {
            assert!((3500..=3600).contains(&wait.as_secs()), "{wait:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn attempts_to_one_receiver_share_a_connection() {
    let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks";
    let receiver = Receiver::start(Answer::Bytes(bytes.into())).await;
    let sender = sender();
    for _ in 0..10 {
        let reply = send(&sender, &receiver.url()).await;
        assert_eq!(reply.answer, "thanks");
    }
    assert_eq!(receiver.requests().len(), 10);
    // One, but for the pauses of a busy machine.
    assert!(receiver.connections() < 5, "{}", receiver.connections());
}

#[tokio::test]
async fn the_beginning_of_an_answer_is_kept_as_text_that_can_be_stored() {
    let body = format!("\0Zoë {}", "ü".repeat(MAX_KEPT_BYTES));
    let bytes = format!("HTTP/1.1 422 No\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let receiver = Receiver::start(Answer::Bytes(bytes)).await;
    let sender = sender();
    let reply = send(&sender, &receiver.url()).await;
    assert_eq!(reply.outcome, Outcome::Refused { status: 422, retry_after: None });
    assert!(reply.answer.starts_with("Zoë üü"), "{}", reply.answer);
    let length = reply.answer.len();
    assert!((MAX_KEPT_BYTES - 4..=MAX_KEPT_BYTES).contains(&length), "{length}");

    for _ in 1..10 {
        send(&sender, &receiver.url()).await;
    }
    let connections = receiver.connections();
    assert!(connections < 5, "what is short is read to its end: {connections} connections");
}
