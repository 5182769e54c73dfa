//! The API of webhooks: what owners see and change of their endpoints and of the log.
//!
//! Gateways alone: nothing is sent here. What has become of deliveries is planted in the log, the
//! queue and the attempts, as the stage that delivers writes it.

mod again;
mod endpoints;
mod log;
mod owners;
pub mod refusals;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::{Answer, Stage, User};

const URL: &str = "https://hooks.example.org/booking";

/// What has become of a delivery.
#[derive(Clone, Copy, PartialEq)]
pub enum Fate {
    Pending,
    Delivered,
    Exhausted,
    /// Tried in vain, and tried again later.
    Retried,
    /// Delivered once, and then queued again.
    Redelivered,
}

impl User {
    /// Registers an endpoint that is told of everything; its id.
    pub async fn registers(&self) -> String {
        self.registers_for(&["*"]).await.is(201).text("id").to_owned()
    }

    async fn registers_for(&self, event_types: &[&str]) -> Answer {
        self.post("/api/webhooks", &[], json!({ "url": URL, "eventTypes": event_types })).await
    }
}

/// Plants one delivery of a booking event that was made so many minutes ago; its id.
pub async fn plant(stage: &Stage, target: &str, minutes: i64, kind: &str, fate: Fate) -> String {
    let (target, at) = (uuid(target), Utc::now() - chrono::TimeDelta::minutes(minutes));
    let id = id_made_at(at);
    let body = json!({ "specversion": "1.0", "id": id, "type": kind, "data": { "n": minutes } });
    let mut database = stage.database().await;
    sqlx::query(
        "insert into webhook_deliveries (target_id, event_id, event_type, subject, body, created_at)
         values ($1, $2, $3, $2, $4, $5)",
    )
    .bind(target)
    .bind(id)
    .bind(kind)
    .bind(body.to_string())
    .bind(at)
    .execute(&mut database)
    .await
    .unwrap();
    if matches!(fate, Fate::Pending | Fate::Retried | Fate::Redelivered) {
        sqlx::query(
            "insert into webhook_queue (shard, target_id, due_at, event_id)
             select shard, id, now() + interval '1 hour', $2 from webhook_endpoints where id = $1",
        )
        .bind(target)
        .bind(id)
        .execute(&mut database)
        .await
        .unwrap();
    }
    let outcomes: &[(&str, Option<i16>)] = match fate {
        Fate::Pending => &[],
        Fate::Delivered | Fate::Redelivered => &[("unreachable", None), ("delivered", Some(204))],
        Fate::Exhausted | Fate::Retried => &[("refused", Some(500)), ("unreachable", None)],
    };
    for (number, (outcome, status)) in outcomes.iter().enumerate() {
        sqlx::query(
            "insert into webhook_attempts (target_id, event_id, at, outcome, status, duration_ms)
             values ($1, $2, $3 + $4 * interval '1 second', $5, $6, 12)",
        )
        .bind(target)
        .bind(id)
        .bind(at)
        .bind(i32::try_from(number).unwrap() + 1)
        .bind(outcome)
        .bind(status)
        .execute(&mut database)
        .await
        .unwrap();
    }
    id.to_string()
}

/// Plants that many exhausted deliveries, a millisecond apart; the last was made a minute ago.
async fn plant_many(stage: &Stage, target: &str, many: i64) {
    let last = Utc::now() - chrono::TimeDelta::minutes(1);
    sqlx::query(
        "with made as (
           select $2 - n * interval '1 millisecond' as at, n from generate_series(0, $3 - 1) as g(n)
         )
         insert into webhook_deliveries
           (target_id, event_id, event_type, subject, body, created_at)
         select $1, (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0')
                     || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
                'booking.confirmed', $1, '{}', at
         from made",
    )
    .bind(uuid(target))
    .bind(last)
    .bind(many)
    .execute(&mut stage.database().await)
    .await
    .unwrap();
}

/// A version 7 UUID of that time.
fn id_made_at(at: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(at.timestamp_millis()).unwrap();
    let chance = Uuid::now_v7().as_u128() & 0x3fff_ffff_ffff_ffff;
    Uuid::from_u128(millis << 80 | 7 << 76 | 2 << 62 | chance)
}

fn uuid(text: &str) -> Uuid {
    text.parse().unwrap()
}

/// The rows of the queue, each with its delivery and whether it is due.
async fn queue_of(stage: &Stage, target: &str) -> Vec<(Uuid, bool)> {
    sqlx::query_as(
        "select event_id, due_at <= now() from webhook_queue q
         where q.target_id = $1
           and q.shard = (select shard from webhook_endpoints where id = q.target_id)
         order by event_id",
    )
    .bind(uuid(target))
    .fetch_all(&mut stage.database().await)
    .await
    .unwrap()
}

/// A field of each row of a page.
fn each<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}
