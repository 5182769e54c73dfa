//! The queue door: what a service gets for a message.

mod doors;
mod many;
mod permissions;
mod refused;
pub mod service;
mod trouble;

use booking::queue::{EVENTS_EXCHANGE, SUBMIT_QUEUE};
use serde_json::json;
use uuid::Uuid;

use crate::issuer::{SECRET, Signer};
use crate::listener::Listener;
use crate::stage::{Answer, Process, Stage, User, until};
pub use service::{Letter, Service};

/// Starts a gateway whose queue door is open.
async fn open_gateway(stage: &Stage, settings: &[(&str, &str)]) -> Process {
    let consumers = async || {
        let broker = booking::queue::Connection::open(&stage.amqp_url, "tests").await.unwrap();
        broker.declare_topology(stage.partitions).await.unwrap();
        broker.depth(SUBMIT_QUEUE).await.unwrap().consumers
    };
    let before = consumers().await;
    let gateway = stage.start("gateway", settings).await;
    gateway.is_ready().await;
    until("the queue door is open", async || consumers().await > before).await;
    gateway
}

#[tokio::test]
async fn a_message_is_told_accepted_then_decided() {
    let stage = Stage::new("queue-door").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let (service, user) = (Service::at(&stage).await, User::new(&gateway));
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["#".to_owned()]).await;

    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let letter = Letter::create(user.id, 0, 30).header("x-correlation-id", "desk-17");
    let id = service.submits(&letter.header("traceparent", trace)).await;
    let booked = service.is_decided(&id).await;
    assert_eq!((&booked["kind"], &booked["status"]), (&json!("create"), &json!("succeeded")));
    let path = format!("/api/commands/{}", booked["commandId"].as_str().unwrap());
    assert_eq!(user.get(&path).await.is(200).body, booked, "the answer is the command object");
    let booking = booked["bookingId"].as_str().unwrap();
    let history = user.get(&format!("/api/bookings/{booking}/history")).await.is(200);
    assert_eq!(history.body["entries"][0]["actor"], "service:guest");
    let logged =
        "select count(*) from commands where content like '%\"correlationId\":\"desk-17\"%'
                    and content like '%4bf92f3577b34da6a3ce929d0e0e4736%'";
    assert_eq!(stage.number(logged).await, 1);
    assert_eq!(events.hears(1).await[0]["type"], "booking.confirmed");

    let change = async |kind: &str, body: serde_json::Value| {
        service.is_decided(&service.submits(&Letter::new(kind, user.id, &body)).await).await
    };
    let stale = json!({ "bookingId": booking, "expectedVersion": 7 });
    let refused = change("booking.cancel", stale).await;
    assert_eq!(refused["status"], "rejected");
    assert_eq!(refused["error"]["code"], "VERSION_MISMATCH");
    let (start, end) = (crate::stage::at(60), crate::stage::at(90));
    let moved = json!({ "bookingId": booking, "startTime": start, "endTime": end });
    assert_eq!(change("booking.reschedule", moved).await["booking"]["version"], 2);
    let cancelled = change("booking.cancel", json!({ "bookingId": booking, "reason": "rain" }));
    assert_eq!(cancelled.await["booking"]["cancelReason"], "rain");
    let mut held = Letter::create(user.id, 120, 150);
    held.body = serde_json::to_vec(&{
        let mut body = user.slot(120, 150);
        body["hold"] = json!(600);
        body
    })
    .unwrap();
    let held = service.is_decided(&service.submits(&held).await).await;
    assert_eq!(held["booking"]["status"], "PENDING");
    let confirmed = change("booking.confirm", json!({ "bookingId": held["bookingId"] })).await;
    assert_eq!(confirmed["booking"]["status"], "CONFIRMED");
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn the_same_key_through_both_doors_is_one_command() {
    let stage = Stage::new("both-doors").await;
    let settings = [("AUTH_MODE", "jwt"), ("JWT_SECRET", SECRET)];
    let gateway = open_gateway(&stage, &settings).await;
    let (service, user) = (Service::at(&stage).await, User::new(&gateway));
    let claims = json!({ "sub": "guest", "scope": "bookings.write" });
    let proof = format!("Bearer {}", Signer::secret(SECRET.as_bytes()).token(&claims));
    let books = async |key: &str, start: i64| -> Answer {
        let headers = [("Idempotency-Key", key), ("Authorization", proof.as_str())];
        user.post("/api/bookings", &headers, user.slot(start, start + 30)).await
    };

    let by_http = books("one", 0).await.is(202);
    let again = service.submits(&Letter::create(user.id, 0, 30).key("one")).await;
    // Nobody decides yet: a replay is told that it is accepted, and then waits.
    let accepted = service.hears(&again, 1).await;
    assert_eq!(accepted[0].body, by_http.body);
    let first = service.submits(&Letter::create(user.id, 60, 90).key("two")).await;
    let first_told = service.hears(&first, 1).await;
    let over_http = books("two", 60).await.is(202);
    assert_eq!(over_http.header("idempotency-replayed"), "true");
    assert_eq!(over_http.body, first_told[0].body);

    let _worker = stage.worker().await;
    assert_eq!(service.is_decided(&again).await["commandId"], by_http.body["commandId"]);
    assert_eq!(service.is_decided(&first).await["status"], "succeeded");
    let late = service.submits(&Letter::create(user.id, 0, 30).key("one")).await;
    assert_eq!(service.is_decided(&late).await["commandId"], by_http.body["commandId"]);
    let other = service.submits(&Letter::create(user.id, 120, 150).key("one")).await;
    let refused = service.is_refused(&other).await;
    assert_eq!(refused["code"], "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(refused["status"], 422);
    assert_eq!(books("two", 180).await.is(422).code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(stage.number("select count(*) from commands").await, 2);
    stage.all_promises_hold().await;
}

/// Answers are of use to somebody, or to nobody; the work is done all the same.
#[tokio::test]
async fn answers_that_nobody_can_get_hold_nobody_up() {
    let stage = Stage::new("no-replies").await;
    let (gateway, _worker) = (open_gateway(&stage, &[]).await, stage.worker().await);
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    let gone = "service.guest.gone".to_owned();
    for (start, queue) in [(0, gone), (60, service.full_queue().await)] {
        let queue = Some(queue);
        let letter = Letter::create(user, start, start + 30).key(&format!("{start}"));
        let lost = Letter { reply_to: queue.clone(), ..letter.clone() };
        service.sends(&lost).await;
        service.sends(&lost).await; // a replay, whose answers the door sends itself
        service.sends(&letter).await;
        let refused = Letter { reply_to: queue, ..letter.key("of another").body("{}") };
        service.sends(&refused).await;
    }
    let heard = service.submits(&Letter::create(user, 120, 150)).await;
    assert_eq!(service.is_decided(&heard).await["status"], "succeeded");
    stage.everything_is_decided().await;
    stage.everything_is_relayed().await;
    until("all nine are done with", async || {
        gateway.metric("booking_submissions_total").await == 9.0
    })
    .await;
    assert_eq!(stage.number("select count(*) from bookings").await, 3);
    stage.all_promises_hold().await;
}
