//! The queue of deliveries: what is due, and what came of it.
//!
//! A row is read by the process that owns its shard ([`super::shards`]) and is not touched until
//! its attempt is over. Results are recorded by the row's whole key: where somebody else was
//! quicker, or its owner has queued it anew, they only add to the log.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

/// A delivery that is due, with all that an attempt needs.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Due {
    pub shard: i16,
    pub target_id: Uuid,
    pub due_at: DateTime<Utc>,
    pub event_id: Uuid,
    /// How often it was tried since it was queued.
    pub tried: i16,
    pub body: String,
    pub traceparent: Option<String>,
    pub created_at: DateTime<Utc>,
    /// A callback's own URL, or the endpoint's.
    pub url: String,
    pub is_callback: bool,
    pub secret: Vec<u8>,
    /// While a rotation is not over.
    pub previous_secret: Option<Vec<u8>>,
    /// Since when nothing has reached the target.
    pub failing_since: Option<DateTime<Utc>>,
}

/// What is due in `shards`, of each target its oldest `usual` rows, or as many as `rows` says; at
/// most `most` in all, by and large of one target in each shard after the other.
///
/// # Errors
/// When the server is away.
pub async fn due(
    connection: &mut PgConnection,
    shards: &[i16],
    rows: &HashMap<Uuid, usize>,
    usual: usize,
    most: usize,
) -> Result<Vec<Due>, sqlx::Error> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    sqlx::query_as(DUE)
        .bind(shards)
        .bind(Json(json!(rows)))
        .bind(count(usual))
        .bind(count(most))
        .fetch_all(connection)
        .await
}

/// Walks from target to target by the queue's key, so that the length of a target's queue costs
/// the others nothing.
const DUE: &str = "
with recursive waiting (shard, target_id) as (
  (select s.shard, q.target_id
   from unnest($1::smallint[]) s(shard)
   cross join lateral (
     select target_id from webhook_queue where shard = s.shard order by target_id limit 1) q)
  union all
  select w.shard, q.target_id from waiting w
  cross join lateral (
    select target_id from webhook_queue where shard = w.shard and target_id > w.target_id
    order by target_id limit 1) q
), asked as (
  select w.*, coalesce(($2::jsonb ->> w.target_id::text)::bigint, $3) as rows from waiting w
)
select q.shard, q.target_id, q.due_at, q.event_id, q.tried, d.body, d.traceparent, d.created_at,
       coalesce(d.url, e.url) as url, e.kind = 'callback' as is_callback, e.secret,
       case when e.previous_secret_until > now() then e.previous_secret end as previous_secret,
       e.failing_since
from asked a
join webhook_endpoints e on e.id = a.target_id and e.enabled
cross join lateral (
  select * from webhook_queue q
  where q.shard = a.shard and q.target_id = a.target_id and q.due_at <= now()
  order by q.due_at, q.event_id limit a.rows) q
join webhook_deliveries d on d.target_id = q.target_id and d.event_id = q.event_id
where a.rows > 0
limit $4";

/// What an attempt came to.
#[derive(Clone, Debug)]
pub struct Tried {
    pub shard: i16,
    pub target_id: Uuid,
    pub due_at: DateTime<Utc>,
    pub event_id: Uuid,
    pub at: DateTime<Utc>,
    pub outcome: &'static str,
    pub status: Option<i16>,
    pub duration_ms: i32,
    pub detail: Option<String>,
    /// When it is to be tried again; none: never.
    pub next_at: Option<DateTime<Utc>>,
}

/// Since when a target fails, or that it does no more.
pub type Health = (Uuid, Option<DateTime<Utc>>);

/// Records attempts, and how their targets do.
///
/// # Errors
/// When the server is away: all or nothing may be recorded. It can be recorded again.
pub async fn record(
    connection: &mut PgConnection,
    tried: &[Tried],
    health: &[Health],
) -> Result<(), sqlx::Error> {
    sqlx::query(RECORD)
        .bind(tried.iter().map(|t| t.shard).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.target_id).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.due_at).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.event_id).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.at).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.outcome).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.status).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.duration_ms).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.detail.as_deref()).collect::<Vec<_>>())
        .bind(tried.iter().map(|t| t.next_at).collect::<Vec<_>>())
        .bind(health.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(health.iter().map(|(_, since)| *since).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

const RECORD: &str = "
with tried as (
  select * from unnest($1::smallint[], $2::uuid[], $3::timestamptz[], $4::uuid[],
                       $5::timestamptz[], $6::text[], $7::smallint[], $8::int[], $9::text[],
                       $10::timestamptz[])
    as t(shard, target_id, due_at, event_id, at, outcome, status, duration_ms, detail, next_at)
), logged as (
  insert into webhook_attempts (target_id, event_id, at, outcome, status, duration_ms, detail)
  select target_id, event_id, at, outcome, status, duration_ms, detail from tried
  on conflict do nothing
), over as (
  delete from webhook_queue q using tried t
  where t.next_at is null and q.shard = t.shard and q.target_id = t.target_id
    and q.due_at = t.due_at and q.event_id = t.event_id
), again as (
  update webhook_queue q set due_at = t.next_at, tried = q.tried + 1 from tried t
  where t.next_at is not null and q.shard = t.shard and q.target_id = t.target_id
    and q.due_at = t.due_at and q.event_id = t.event_id
)
update webhook_endpoints e set failing_since = h.since
from unnest($11::uuid[], $12::timestamptz[]) as h(id, since)
where e.id = h.id";

/// An endpoint as it is when it is given up.
#[derive(Debug, sqlx::FromRow)]
pub struct GivenUp {
    pub url: String,
    pub event_types: Vec<String>,
}

/// What subscribers are told of a disabled endpoint.
#[derive(Debug)]
pub struct Notice<'a> {
    pub event_id: Uuid,
    pub event_type: &'a str,
    pub body: &'a str,
}

/// The endpoint, unless it is disabled or deleted already.
///
/// # Errors
/// When the server is away.
pub async fn enabled(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<GivenUp>, sqlx::Error> {
    sqlx::query_as(
        "select url, event_types from webhook_endpoints
         where id = $1 and enabled and kind = 'endpoint'",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
}

/// Disables an endpoint, gives up what waits for it, and tells subscribers, in one commit.
///
/// # Errors
/// When the server is away.
pub async fn disable(
    connection: &mut PgConnection,
    id: Uuid,
    reason: &str,
    notice: &Notice<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with disabled as (
           update webhook_endpoints set enabled = false, disabled_reason = $2, updated_at = now()
           where id = $1 and enabled and kind = 'endpoint' returning id, shard
         ), given_up as (
           delete from webhook_queue q using disabled d
           where q.shard = d.shard and q.target_id = d.id
         )
         insert into outbox (stream, message_id, subject, routing_key, body, appended_at)
         select 2, $3, id, $4, $5, now() from disabled",
    )
    .bind(id)
    .bind(reason)
    .bind(notice.event_id)
    .bind(notice.event_type)
    .bind(notice.body)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives up what waits for disabled endpoints: a decision that had seen one of them enabled may have
/// queued it while that one was being disabled.
///
/// # Errors
/// When the server is away.
pub async fn give_up_disabled(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from webhook_queue q using webhook_endpoints e
         where e.disabled_reason is not null and q.shard = e.shard and q.target_id = e.id",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What waits to be delivered, counted up to [`MOST_COUNTED`] rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, sqlx::FromRow)]
pub struct Waiting {
    pub rows: i64,
    /// How late the latest is, in seconds.
    pub overdue_seconds: f64,
}

/// To count more would cost more than it tells.
pub const MOST_COUNTED: i64 = 100_000;

/// What waits in the queue.
///
/// # Errors
/// When the server is away.
pub async fn waiting(connection: &mut PgConnection) -> Result<Waiting, sqlx::Error> {
    sqlx::query_as(
        "select count(*) as rows,
                coalesce(extract(epoch from greatest(now() - min(due_at), '0')), 0)::float8
                  as overdue_seconds
         from (select due_at from webhook_queue limit $1) q",
    )
    .bind(MOST_COUNTED)
    .fetch_one(connection)
    .await
}
