//! The main road: book, poll, wait, change. `tls.rs` takes it too, by TLS.

use crate::stage::{Stage, User, at};

#[tokio::test]
async fn a_booking_is_accepted_decided_and_shown() {
    a_booking_goes_its_way(&Stage::new("main-road").await).await;
}

pub async fn a_booking_goes_its_way(stage: &Stage) {
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway);

    let accepted = user.books(0, 30).await.is(202);
    assert_eq!(accepted.text("status"), "accepted");
    assert_eq!(accepted.location(), format!("/api/commands/{}", accepted.text("commandId")));
    assert_eq!(accepted.header("retry-after"), "1");

    let decided = user.polls(&accepted).await;
    assert_eq!(decided.text("status"), "succeeded");
    assert_eq!(decided.body["booking"]["status"], "CONFIRMED");
    assert_eq!(decided.body["booking"]["startTime"], serde_json::json!(at(0)));

    let booking = user.get(&format!("/api/bookings/{}", accepted.text("bookingId"))).await.is(200);
    assert_eq!(booking.body, decided.body["booking"]);
    assert_eq!(booking.header("etag"), "\"1\"");
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn whoever_waits_is_answered_with_the_decision() {
    a_client_waits(&Stage::new("waits").await).await;
}

pub async fn a_client_waits(stage: &Stage) {
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();

    let booked = user.books(0, 30).await.is(201);
    let id = booked.text("id").to_owned();
    assert_eq!(booked.location(), format!("/api/bookings/{id}"));
    assert_eq!(user.books(10, 20).await.is(409).code(), "SLOT_CONFLICT");
    let moved = user.reschedules(&id, 60, 90).await.is(200);
    assert_eq!(moved.body["version"], 2);
    let cancelled = user.cancels(&id).await.is(200);
    assert_eq!((cancelled.text("status"), &cancelled.body["version"]), ("CANCELLED", &3.into()));
    assert_eq!(user.cancels(&id).await.is(409).code(), "ALREADY_CANCELLED");
    assert_eq!(user.reschedules(&id, 0, 30).await.is(409).code(), "INVALID_STATE");
    stage.all_promises_hold().await;
}
