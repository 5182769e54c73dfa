//! What was to be delivered, and what became of it.
//!
//! A delivery waits while it is in the queue, was delivered if one of its attempts says so, and is
//! exhausted otherwise. Pages are cut by the id, which is a version 7 UUID and so follows the time;
//! `created_at` may be a little older, because a batch is dated before its events are made.
//!
//! Queue and attempts are asked for the ids of a page by statements that are planned with them:
//! then both are read by their keys, however long the queue is and whatever its statistics say.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

use super::endpoints::Endpoint;

/// Deliveries that one page is looked for in; then it ends with where to go on, however few it has.
pub const MAX_LOOKED_AT: usize = 10_000;
/// Of a page that is filtered by status, so many are looked at in one round.
const ROUND: usize = 1_000;
/// Attempts of one delivery that are shown: the latest.
pub const MAX_ATTEMPTS: i64 = 100;
/// How far the time in an id may be from `created_at`.
const SLACK: TimeDelta = TimeDelta::hours(1);

/// Where a delivery is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pending,
    Delivered,
    Exhausted,
}

impl Status {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Exhausted];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Exhausted => "exhausted",
        }
    }
}

/// Which deliveries of an endpoint, from where; the newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// None: all.
    pub status: Option<Status>,
    pub event_type: Option<String>,
    /// From this time on.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
    /// Only older ones than this.
    pub before: Option<Uuid>,
}

/// One delivery, as the API shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    pub id: Uuid,
    pub event_type: String,
    pub subject: Uuid,
    pub status: Status,
    pub attempts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Attempt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// Of a callback: where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// One try of a delivery.
#[derive(Clone, Debug, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub at: DateTime<Utc>,
    pub outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i16>,
    pub duration_ms: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A part of a list.
pub struct Part {
    pub deliveries: Vec<Delivery>,
    /// Where to go on, when the search ended before the page was full.
    pub looked_until: Option<Uuid>,
}

#[derive(FromRow)]
struct Logged {
    event_id: Uuid,
    event_type: String,
    subject: Uuid,
    url: Option<String>,
    created_at: DateTime<Utc>,
}

/// At most `most` deliveries that pass the filter, out of at most [`MAX_LOOKED_AT`].
///
/// # Errors
/// When the server is away.
pub async fn deliveries(
    connection: &mut PgConnection,
    endpoint: &Endpoint,
    filter: &Filter,
    most: usize,
) -> Result<Part, sqlx::Error> {
    let oldest = filter.from.map_or(Uuid::nil(), |from| first_id_at(from - SLACK));
    let newest = filter.to.map_or(Uuid::max(), |to| first_id_at(to + SLACK));
    let mut before = filter.before.map_or(newest, |before| before.min(newest));
    let filters = filter.status.is_some() || filter.event_type.is_some() || filter.to.is_some();
    let round = if filters { ROUND } else { most };
    let mut found = Vec::new();
    let mut looked_at = 0;
    while looked_at < MAX_LOOKED_AT {
        let logged = logged(&mut *connection, endpoint.id, (oldest, before), round).await?;
        let Some(last) = logged.last() else { break };
        (before, looked_at) = (last.event_id, looked_at + logged.len());
        let is_last = logged.len() < round;
        let wanted = logged.into_iter().filter(|logged| filter.wants(logged)).collect();
        let told = told(connection, endpoint, wanted).await?;
        found.extend(told.into_iter().filter(|d| filter.status.is_none_or(|s| s == d.status)));
        if is_last || found.len() >= most {
            found.truncate(most);
            return Ok(Part { deliveries: found, looked_until: None });
        }
    }
    let more = looked_at >= MAX_LOOKED_AT;
    Ok(Part { deliveries: found, looked_until: more.then_some(before) })
}

impl Filter {
    fn wants(&self, logged: &Logged) -> bool {
        self.event_type.as_ref().is_none_or(|name| *name == logged.event_type)
            && self.from.is_none_or(|from| logged.created_at >= from)
            && self.to.is_none_or(|to| logged.created_at < to)
    }
}

async fn logged(
    executor: impl PgExecutor<'_>,
    target: Uuid,
    (oldest, before): (Uuid, Uuid),
    most: usize,
) -> Result<Vec<Logged>, sqlx::Error> {
    sqlx::query_as(
        "select event_id, event_type, subject, url, created_at from webhook_deliveries
         where target_id = $1 and event_id >= $2 and event_id < $3
         order by event_id desc limit $4",
    )
    .bind(target)
    .bind(oldest)
    .bind(before)
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .fetch_all(executor)
    .await
}

/// One delivery, and the body that its receiver gets.
///
/// # Errors
/// When the server is away.
pub async fn delivery(
    connection: &mut PgConnection,
    endpoint: &Endpoint,
    id: Uuid,
) -> Result<Option<(Delivery, Box<RawValue>)>, sqlx::Error> {
    #[derive(FromRow)]
    struct WithBody {
        #[sqlx(flatten)]
        logged: Logged,
        body: Json<Box<RawValue>>,
    }
    let found: Option<WithBody> = sqlx::query_as(
        "select event_id, event_type, subject, url, created_at, body::json as body
         from webhook_deliveries where target_id = $1 and event_id = $2",
    )
    .bind(endpoint.id)
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(WithBody { logged, body: Json(body) }) = found else { return Ok(None) };
    let told = told(connection, endpoint, vec![logged]).await?.pop();
    Ok(told.map(|delivery| (delivery, body)))
}

/// The latest attempts of a delivery, the latest first; nothing where there is no such delivery.
///
/// # Errors
/// When the server is away.
pub async fn attempts(
    connection: &mut PgConnection,
    target: Uuid,
    id: Uuid,
) -> Result<Option<Vec<Attempt>>, sqlx::Error> {
    if !exists(&mut *connection, target, id).await? {
        return Ok(None);
    }
    sqlx::query_as(
        "select at, outcome, status, duration_ms, detail from webhook_attempts
         where target_id = $1 and event_id = $2 order by at desc limit $3",
    )
    .bind(target)
    .bind(id)
    .bind(MAX_ATTEMPTS)
    .fetch_all(connection)
    .await
    .map(Some)
}

/// Whether there is such a delivery.
///
/// # Errors
/// When the server is away.
pub async fn exists(
    executor: impl PgExecutor<'_>,
    target: Uuid,
    id: Uuid,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from webhook_deliveries where target_id = $1 and event_id = $2)",
    )
    .bind(target)
    .bind(id)
    .fetch_one(executor)
    .await
}

/// When each of these is tried next; only what waits is in it.
///
/// # Errors
/// When the server is away.
pub async fn waiting(
    executor: impl PgExecutor<'_>,
    endpoint: &Endpoint,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, DateTime<Utc>>, sqlx::Error> {
    let rows: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(
        "select event_id, min(due_at) from webhook_queue
         where shard = $1 and target_id = $2 and event_id = any($3) group by event_id",
    )
    .bind(endpoint.shard)
    .bind(endpoint.id)
    .bind(ids)
    .persistent(false)
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().collect())
}

#[derive(FromRow)]
struct Tried {
    event_id: Uuid,
    #[sqlx(flatten)]
    last: Attempt,
    attempts: i64,
    delivered: bool,
}

async fn tried(
    executor: impl PgExecutor<'_>,
    target: Uuid,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Tried>, sqlx::Error> {
    let rows: Vec<Tried> = sqlx::query_as(
        "select distinct on (event_id) event_id, at, outcome, status, duration_ms, detail,
           count(*) over of_event as attempts,
           bool_or(outcome = 'delivered') over of_event as delivered
         from webhook_attempts where target_id = $1 and event_id = any($2)
         window of_event as (partition by event_id)
         order by event_id, at desc",
    )
    .bind(target)
    .bind(ids)
    .persistent(false)
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(|tried| (tried.event_id, tried)).collect())
}

/// What became of each.
async fn told(
    connection: &mut PgConnection,
    endpoint: &Endpoint,
    logged: Vec<Logged>,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let ids: Vec<Uuid> = logged.iter().map(|logged| logged.event_id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // The queue first: what leaves it in between has its attempt by then.
    let waiting = waiting(&mut *connection, endpoint, &ids).await?;
    let mut tried = tried(connection, endpoint.id, &ids).await?;
    let told = logged.into_iter().map(|logged| {
        let tried = tried.remove(&logged.event_id);
        let next_attempt_at = waiting.get(&logged.event_id).copied();
        let status = match (&next_attempt_at, &tried) {
            (Some(_), _) => Status::Pending,
            (None, Some(tried)) if tried.delivered => Status::Delivered,
            _ => Status::Exhausted,
        };
        Delivery {
            id: logged.event_id,
            event_type: logged.event_type,
            subject: logged.subject,
            status,
            attempts: tried.as_ref().map_or(0, |tried| tried.attempts),
            last_attempt: tried.map(|tried| tried.last),
            next_attempt_at,
            created_at: logged.created_at,
            url: logged.url,
        }
    });
    Ok(told.collect())
}

/// The least id that is made at this time.
pub fn first_id_at(time: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(time.timestamp_millis().max(0)).unwrap_or_default();
    Uuid::from_u128((millis & 0xffff_ffff_ffff) << 80)
}
