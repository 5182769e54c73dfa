//! Commands that are decided when their time is over: what was accepted is judged all the same.

use booking::booking::calendar::partition_of;
use booking::booking::command::{Change, Command};
use booking::store::commands::{self, NewCommand};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::{Stage, User, until};

/// The time of a booking that is over is used, also for commands that have waited out its end.
#[tokio::test]
async fn a_slot_is_given_once_however_late_it_is_decided() {
    let stage = Stage::new("late").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let soon = Utc::now() + TimeDelta::seconds(6);
    let end = soon + TimeDelta::milliseconds(500);
    let slot = json!({ "userId": user.id, "startTime": soon, "endTime": end });
    let mut asked = Vec::new();
    for key in ["first", "second"] {
        asked.push(user.books_with_key(key, slot.clone()).await.is(202));
    }
    until("the slot is over", async || Utc::now() > end).await;
    let _worker = stage.worker().await;
    let mut decided = Vec::new();
    for answer in &asked {
        decided.push(user.polls(answer).await);
    }
    let won = decided.iter().filter(|answer| answer.text("status") == "succeeded");
    assert_eq!(won.count(), 1, "{decided:#?}");
    assert_eq!(decided[1].code(), "SLOT_CONFLICT");

    let booking = asked[0].text("bookingId");
    let path = format!("/api/bookings/{booking}");
    until("the sweep has come", async || user.get(&path).await.text("status") == "COMPLETED").await;
    // Accepted in time, as the two, and decided after the sweep.
    let late = accepted_at(&stage, soon - TimeDelta::seconds(1), &slot).await;
    until("the third is decided", async || user.get(&late).await.text("status") != "accepted")
        .await;
    assert_eq!(user.get(&late).await.code(), "SLOT_CONFLICT");
    stage.all_promises_hold().await;
}

/// Accepts a booking as a gateway did at that time; the path of its command.
async fn accepted_at(stage: &Stage, time: DateTime<Utc>, body: &Value) -> String {
    let (calendar_id, asked) = Change::parse_create(body.as_object().unwrap()).unwrap();
    let fingerprint = asked.fingerprint(calendar_id, None, None);
    let command = Command {
        command_id: Uuid::now_v7(),
        booking_id: Uuid::now_v7(),
        calendar_id,
        caller: calendar_id.to_string(),
        correlation_id: "late".into(),
        traceparent: None,
        accepted_at: time,
        expected_version: None,
        callback: None,
        reply_to: None,
        change: asked.change,
    };
    let path = format!("/api/commands/{}", command.command_id);
    let partition = partition_of(calendar_id, stage.partitions);
    let new = NewCommand { command, partition, idempotency_key: None, fingerprint };
    commands::accept(&mut stage.database().await, &[&new]).await.unwrap();
    path
}
