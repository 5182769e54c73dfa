//! What an owner has delivered again, and the test of an endpoint.
//!
//! The queue's key does not keep a delivery from being queued twice, because the time is part of
//! it; so whoever queues one again holds the endpoint's row, and looks for it in the queue with a
//! statement that begins after that. Each is a transaction: run it in a task of its own
//! ([`crate::store::to_its_end`]).

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection as _, PgConnection, PgExecutor};
use uuid::Uuid;

use super::endpoints::{Endpoint, Whose, find, lock};
use super::log::{self, first_id_at};
use crate::booking::event;

/// Deliveries that one recovery looks at; then it says where to go on.
pub const MAX_RECOVERED: i64 = 10_000;
/// How much the time in an id may be before the time from which is recovered.
const SLACK: TimeDelta = TimeDelta::minutes(1);

/// What became of the wish to deliver something again.
#[derive(Debug)]
pub enum Again<T> {
    Queued(T),
    NoEndpoint,
    NoDelivery,
    /// The endpoint gets nothing as long as it is disabled.
    Disabled,
    /// Callbacks' targets have no URL of their own that a test could go to.
    NoUrl,
}

/// Queues a test for an endpoint; `body` is the event.
///
/// # Errors
/// When the server is away; it may have been queued.
pub async fn test(
    connection: &mut PgConnection,
    whose: &Whose,
    endpoint: Uuid,
    (id, body, now): (Uuid, &str, DateTime<Utc>),
) -> Result<Again<()>, sqlx::Error> {
    const TEST: &str = "
with target as (
  select id, shard from webhook_endpoints
  where id = $1 and owner = $2 and ($3::uuid is null or calendar_id = $3)
    and enabled and kind = 'endpoint'
), logged as (
  insert into webhook_deliveries (target_id, event_id, event_type, subject, body, created_at)
  select id, $4, $5, id, $6, $7 from target
)
insert into webhook_queue (shard, target_id, due_at, event_id)
select shard, id, $7, $4 from target";
    let queued = sqlx::query(TEST)
        .bind(endpoint)
        .bind(&whose.owner)
        .bind(whose.only)
        .bind(id)
        .bind(event::WEBHOOK_TEST)
        .bind(body)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    if queued.rows_affected() > 0 {
        return Ok(Again::Queued(()));
    }
    Ok(match find(connection, whose, endpoint).await? {
        None => Again::NoEndpoint,
        Some(endpoint) if endpoint.is_callback() => Again::NoUrl,
        Some(_) => Again::Disabled,
    })
}

/// Makes a delivery due now, whatever became of it.
///
/// # Errors
/// When the server is away; it may have been queued.
pub async fn redeliver(
    connection: &mut PgConnection,
    whose: &Whose,
    endpoint: Uuid,
    id: Uuid,
) -> Result<Again<()>, sqlx::Error> {
    const REDELIVER: &str = "
with hastened as (
  update webhook_queue set due_at = now()
  where shard = $1 and target_id = $2 and event_id = $3 and due_at > now()
)
insert into webhook_queue (shard, target_id, due_at, event_id)
select $1, $2, now(), $3
where not exists (
  select from webhook_queue where shard = $1 and target_id = $2 and event_id = $3)";
    let mut transaction = connection.begin().await?;
    let endpoint = match lock(&mut *transaction, whose, endpoint).await? {
        None => return Ok(Again::NoEndpoint),
        Some(endpoint) => endpoint,
    };
    if !log::exists(&mut *transaction, endpoint.id, id).await? {
        return Ok(Again::NoDelivery);
    }
    if !endpoint.enabled {
        return Ok(Again::Disabled);
    }
    sqlx::query(REDELIVER)
        .bind(endpoint.shard)
        .bind(endpoint.id)
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Again::Queued(()))
}

/// How far a recovery got.
#[derive(Debug)]
pub struct Recovered {
    pub queued: usize,
    /// The last delivery that was looked at, where more follow.
    pub looked_until: Option<Uuid>,
}

/// Queues what is exhausted among the deliveries since a time, the oldest first, behind the one
/// where the recovery before ended.
///
/// # Errors
/// When the server is away; it may have been queued.
pub async fn recover(
    connection: &mut PgConnection,
    whose: &Whose,
    endpoint: Uuid,
    (since, after): (DateTime<Utc>, Option<Uuid>),
) -> Result<Again<Recovered>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let endpoint = match lock(&mut *transaction, whose, endpoint).await? {
        None => return Ok(Again::NoEndpoint),
        Some(endpoint) if !endpoint.enabled => return Ok(Again::Disabled),
        Some(endpoint) => endpoint,
    };
    let after = after.unwrap_or_default().max(first_id_at(since - SLACK));
    let logged: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(
        "select event_id, created_at from webhook_deliveries
         where target_id = $1 and event_id > $2 order by event_id limit $3",
    )
    .bind(endpoint.id)
    .bind(after)
    .bind(MAX_RECOVERED)
    .fetch_all(&mut *transaction)
    .await?;
    let is_full = i64::try_from(logged.len()).is_ok_and(|rows| rows >= MAX_RECOVERED);
    let looked_until = logged.last().filter(|_| is_full).map(|(id, _)| *id);
    let since: Vec<Uuid> =
        logged.into_iter().filter(|(_, at)| *at >= since).map(|(id, _)| id).collect();
    let exhausted = exhausted(&mut transaction, &endpoint, since).await?;
    sqlx::query(
        "insert into webhook_queue (shard, target_id, due_at, event_id)
         select $1, $2, now(), id from unnest($3::uuid[]) as e(id)",
    )
    .bind(endpoint.shard)
    .bind(endpoint.id)
    .bind(&exhausted)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Again::Queued(Recovered { queued: exhausted.len(), looked_until }))
}

/// Those that do not wait and were never delivered.
async fn exhausted(
    connection: &mut PgConnection,
    endpoint: &Endpoint,
    mut ids: Vec<Uuid>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let waiting = log::waiting(&mut *connection, endpoint, &ids).await?;
    ids.retain(|id| !waiting.contains_key(id));
    let delivered = delivered(connection, endpoint.id, &ids).await?;
    ids.retain(|id| !delivered.contains(id));
    Ok(ids)
}

async fn delivered(
    executor: impl PgExecutor<'_>,
    target: Uuid,
    ids: &[Uuid],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let delivered: Vec<Uuid> = sqlx::query_scalar(
        "select distinct event_id from webhook_attempts
         where target_id = $1 and event_id = any($2) and outcome = 'delivered'",
    )
    .bind(target)
    .bind(ids)
    .persistent(false) // planned with the ids, as in the log
    .fetch_all(executor)
    .await?;
    Ok(delivered.into_iter().collect())
}
