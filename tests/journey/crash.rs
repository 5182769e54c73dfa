//! Processes that die at the worst moments: between a commit and telling of it.
//!
//! Each has one effect: one booking, one audit row, one final state. Messages may be doubled,
//! outcomes may not.

use booking::booking::Stream;
use booking::queue::{COMMANDS_EXCHANGE, EVENTS_EXCHANGE, partition_key};

use crate::listener::{Listener, first_sight};
use crate::stage::{Process, Stage, User, until};

#[tokio::test]
async fn a_worker_that_dies_before_its_commit_leaves_the_command_to_the_next() {
    let stage = Stage::new("dies-deciding").await;
    let gateway = stage.gateway().await;
    let mut first = doomed(&stage, "worker", "worker.decided=kill").await;
    let user = User::new(&gateway);

    let accepted = user.books(0, 30).await.is(202);
    first.ended().await;
    assert_eq!(stage.number("select count(*) from bookings").await, 0);
    assert_eq!(user.get(accepted.location()).await.text("status"), "accepted");

    let _second = stage.worker().await;
    assert_eq!(user.polls(&accepted).await.text("status"), "succeeded");
    one_booking_came_of_it(&stage).await;
}

#[tokio::test]
async fn a_worker_that_dies_before_its_acknowledgement_has_decided_once() {
    let stage = Stage::new("dies-acknowledging").await;
    let gateway = stage.gateway().await;
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["#".to_owned()]).await;
    let mut first = doomed(&stage, "worker", "worker.committed=kill").await;
    let user = User::new(&gateway);

    let accepted = user.books(0, 30).await.is(202);
    first.ended().await;
    let decided = user.get(accepted.location()).await.is(200);
    assert_eq!(decided.text("status"), "succeeded", "the commit was made before the death");

    let second = stage.worker().await;
    until("the message came again and was known", async || {
        second.metric("booking_commands_duplicate_total").await >= 1.0
    })
    .await;
    assert_eq!(user.get(accepted.location()).await.body, decided.body);
    // The acknowledgement took that message only: the partition goes on.
    let again = user.who_waits().books(0, 30).await.is(409);
    assert_eq!(again.code(), "SLOT_CONFLICT");
    one_booking_came_of_it(&stage).await;
    let seen = events.hears(2).await;
    let types: Vec<&str> = seen.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["booking.confirmed", "command.rejected"]);
}

/// A rejection writes nothing that a second one would collide with but the command itself.
#[tokio::test]
async fn a_rejection_that_is_delivered_again_is_told_once() {
    let stage = Stage::new("dies-rejecting").await;
    let gateway = stage.gateway().await;
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["#".to_owned()]).await;
    let mut first = doomed(&stage, "worker", "worker.committed=kill").await;
    let user = User::new(&gateway);

    let accepted = user.cancels(&user.id.to_string()).await.is(202);
    first.ended().await;
    let decided = user.get(accepted.location()).await.is(200);
    assert_eq!((decided.text("status"), decided.code()), ("rejected", "NOT_FOUND"));

    let _second = stage.worker().await;
    user.who_waits().books(0, 30).await.is(201);
    let seen = events.hears(2).await;
    let types: Vec<&str> = seen.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["command.rejected", "booking.confirmed"]);
    assert_eq!(user.get(accepted.location()).await.body, decided.body);
    one_booking_came_of_it(&stage).await;
}

#[tokio::test]
async fn a_relay_that_dies_before_deleting_has_commands_doubled_and_decided_once() {
    let stage = Stage::new("dies-relaying-commands").await;
    let keys: Vec<String> = (0..stage.partitions).map(partition_key).collect();
    let commands = Listener::on(&stage, COMMANDS_EXCHANGE, &keys).await;
    let mut first = leader(&stage, "relay.published=kill").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);

    let accepted = user.books(0, 30).await.is(202);
    first.ended().await;
    let _second = stage.worker().await;
    assert_eq!(user.polls(&accepted).await.text("status"), "succeeded");
    stage.everything_is_relayed().await;
    let copies = commands.hears(2).await;
    assert_eq!(copies[0][0]["commandId"], accepted.text("commandId"));
    assert_eq!(copies[0], copies[1], "published again, the same");
    one_booking_came_of_it(&stage).await;
}

#[tokio::test]
async fn events_of_a_relay_that_dies_reach_subscribers_in_version_order() {
    let stage = Stage::new("dies-relaying-events").await;
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["booking.*".to_owned()]).await;
    // The command is published first, then the event of its decision.
    let mut first = leader(&stage, "relay.published=kill@2").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);

    let accepted = user.books(0, 30).await.is(202);
    first.ended().await;
    let id = accepted.text("bookingId");
    user.reschedules(id, 60, 90).await.is(202);
    user.reschedules(id, 0, 30).await.is(202);
    user.cancels(id).await.is(202);
    let _second = stage.worker().await;
    stage.all_promises_hold().await;
    stage.everything_is_relayed().await;

    let seen = events.hears(5).await; // four changes, the first told twice
    assert_eq!(seen[0], seen[1], "told again, the same");
    let story: Vec<_> = first_sight(&seen)
        .iter()
        .map(|event| (event["type"].as_str().unwrap(), event["sequence"].as_str().unwrap()))
        .collect();
    assert_eq!(
        story,
        [
            ("booking.confirmed", "1"),
            ("booking.rescheduled", "2"),
            ("booking.rescheduled", "3"),
            ("booking.cancelled", "4"),
        ]
    );
    assert!(seen.iter().all(|event| event["subject"] == id));
}

#[tokio::test]
async fn a_gateway_that_dies_before_its_answer_has_accepted_for_the_retry() {
    let stage = Stage::new("dies-accepting").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let mut first = doomed(&stage, "gateway", "accept.committed=kill").await;
    let user = User::new(&gateway);
    let (key, slot) = ("kept-for-the-retry", user.slot(0, 30));

    let request = reqwest::Client::new()
        .post(first.url("/api/bookings"))
        .header("X-User-ID", user.id.to_string())
        .header("Idempotency-Key", key)
        .json(&slot);
    assert!(request.send().await.is_err(), "no answer: the connection broke");
    first.ended().await;

    let retried = user.books_with_key(key, slot.clone()).await.is(202);
    assert_eq!(retried.header("idempotency-replayed"), "true");
    let decided = user.polls(&retried).await;
    assert_eq!(decided.text("status"), "succeeded");
    let once_more = user.books_with_key(key, slot).await.is(202);
    assert_eq!(once_more.text("commandId"), retried.text("commandId"));
    assert_eq!(stage.number("select count(*) from commands").await, 1);
    one_booking_came_of_it(&stage).await;
}

/// A ready process that dies by SIGKILL when it reaches the failpoint.
async fn doomed(stage: &Stage, role: &str, failpoint: &str) -> Process {
    let process = stage.start(role, &[("BOOKING_FAILPOINTS", failpoint)]).await;
    process.is_ready().await;
    process
}

/// A doomed worker that relays all streams.
async fn leader(stage: &Stage, failpoint: &str) -> Process {
    let worker = doomed(stage, "worker", failpoint).await;
    let streams = Stream::ALL.len() as f64;
    until("it relays all", async || worker.metric("booking_relay_leader").await >= streams).await;
    worker
}

async fn one_booking_came_of_it(stage: &Stage) {
    stage.all_promises_hold().await;
    assert_eq!(stage.number("select count(*) from bookings").await, 1);
    assert_eq!(stage.number("select count(*) from allocations").await, 1);
    assert_eq!(stage.number("select count(*) from audit").await, 1);
    let succeeded = "select count(*) from commands where status = 'succeeded'";
    assert_eq!(stage.number(succeeded).await, 1);
}
