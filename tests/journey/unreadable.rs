//! A command or a booking that this release cannot read, such as one of a newer release during
//! an upgrade, among good neighbours.

use booking::booking::command::{Change, Command};
use chrono::Utc;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::{Stage, User, at, until};

#[tokio::test]
async fn an_unreadable_command_fails_and_does_not_take_its_neighbours_with_it() {
    let stage = Stage::with_partitions("unreadable", 1).await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let before = user.books(0, 30).await.is(202);
    let mut unreadable = planted(&user, 60);
    unreadable.1["change"] = json!({ "teleport": {} });
    let commands = [planted(&user, 30), unreadable, planted(&user, 60)];
    plant(&stage, &commands).await;
    let after = user.books(90, 120).await.is(202);
    let worker = stage.worker().await;

    for command in [&before, &after] {
        assert_eq!(user.polls(command).await.text("status"), "succeeded");
    }
    stage.everything_is_decided().await;
    let mut ends = Vec::new();
    for (id, _) in &commands {
        let end = user.get(&format!("/api/commands/{id}")).await.is(200);
        ends.push(format!("{} {}", end.text("status"), end.code()));
    }
    assert_eq!(ends, ["succeeded ", "failed INTERNAL_ERROR", "succeeded "]);
    assert_eq!(worker.metric("booking_messages_parked_total").await, 1.0);
    let letter = "select count(*) from dead_letters where body like '%teleport%'";
    assert_eq!(stage.number(letter).await, 1);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_booking_of_a_newer_release_does_not_keep_the_sweep_from_the_others() {
    let stage = Stage::new("unreadable-booking").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();
    let mut held = Vec::new();
    for start in [0, 60] {
        held.push(user.holds(start, start + 30, 600).await.is(201).text("id").to_owned());
    }
    let newer = format!(
        "alter table bookings drop constraint bookings_status, drop constraint bookings_hold;
         update bookings set status = 'SEATED' where id = '{}';
         update bookings set hold_expires_at = now();
         update allocations set lapses_at = now()",
        held[0]
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(newer)).execute(&mut stage.database().await).await.unwrap();
    let path = format!("/api/bookings/{}", held[1]);
    until("the other is swept", async || user.get(&path).await.text("status") == "EXPIRED").await;
    // Whoever asks for it is told no, and stops nobody either.
    user.cancels(&held[0]).await.is(500);
    user.books(120, 150).await.is(201);
}

/// A booking as acceptance would write it: its id and its content.
fn planted(user: &User, start: i64) -> (Uuid, Value) {
    let body = json!({ "userId": user.id, "startTime": at(start), "endTime": at(start + 30) });
    let (calendar_id, asked) = Change::parse_create(body.as_object().unwrap()).unwrap();
    let command = Command {
        command_id: Uuid::now_v7(),
        booking_id: Uuid::now_v7(),
        calendar_id,
        caller: user.id.to_string(),
        correlation_id: "planted".into(),
        traceparent: None,
        accepted_at: Utc::now(),
        expected_version: None,
        callback: None,
        reply_to: None,
        change: asked.change,
    };
    (command.command_id, serde_json::to_value(&command).unwrap())
}

/// All in one commit, so that they travel in one message.
async fn plant(stage: &Stage, commands: &[(Uuid, Value)]) {
    let (ids, contents): (Vec<Uuid>, Vec<String>) =
        commands.iter().map(|(id, content)| (*id, content.to_string())).unzip();
    sqlx::query(
        "with planted as (
           insert into commands (id, booking_id, calendar_id, partition, kind, caller,
                                 fingerprint, content, accepted_at)
           select id, (content::json->>'bookingId')::uuid, (content::json->>'calendarId')::uuid, 0,
                  'create', content::json->>'caller', decode(repeat('00', 32), 'hex'), content,
                  now()
           from unnest($1::uuid[], $2::text[]) as t(id, content) returning id, calendar_id)
         insert into outbox (stream, message_id, subject, partition, appended_at)
         select 1, id, calendar_id, 0, now() from planted order by id",
    )
    .bind(ids)
    .bind(contents)
    .execute(&mut stage.database().await)
    .await
    .unwrap();
}
