//! Calendars: when each takes bookings, and which of its time is taken.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;
use uuid::Uuid;

use crate::booking::Interval;
use crate::booking::availability::Availability;

/// The availability of a calendar, as it was set for the last time.
#[derive(Clone, Debug)]
pub struct Kept {
    pub availability: Availability,
    pub version: i32,
}

/// Every calendar begins always open, with version 1.
impl Default for Kept {
    fn default() -> Self {
        Self { availability: Availability::default(), version: 1 }
    }
}

/// The availability of one calendar.
///
/// # Errors
/// When the server is away, or a newer release wrote rules that this one does not know.
pub async fn availability(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Kept, sqlx::Error> {
    Ok(availabilities(executor, &[id]).await?.remove(&id).unwrap_or_default())
}

/// The availabilities that were ever set, of many calendars at once.
///
/// # Errors
/// As [`availability`], for any of them.
pub async fn availabilities(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Kept>, sqlx::Error> {
    let rows: Vec<(Uuid, Json<Availability>, i32)> =
        sqlx::query_as("select id, availability, version from calendars where id = any($1)")
            .bind(ids)
            .fetch_all(executor)
            .await?;
    let kept = |(id, Json(availability), version)| (id, Kept { availability, version });
    Ok(rows.into_iter().map(kept).collect())
}

const SET: &str = "
insert into calendars (id, availability, buffer_before, buffer_after, version)
select $1, $2, $4, $5, 2
where coalesce($3, 1) = 1 or exists (select from calendars where id = $1)
on conflict (id) do update
  set availability = excluded.availability, buffer_before = excluded.buffer_before,
      buffer_after = excluded.buffer_after, version = calendars.version + 1, updated_at = now()
  where $3 is null or calendars.version = $3
returning version";

/// Replaces the availability and returns its new version; nothing is done, and nothing returned,
/// when it does not have the `expected` version.
///
/// # Errors
/// When the server is away.
pub async fn set_availability(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    availability: &Availability,
    expected: Option<i32>,
) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar(SET)
        .bind(id)
        .bind(Json(availability))
        .bind(expected)
        .bind(availability.buffers().before)
        .bind(availability.buffers().after)
        .fetch_optional(executor)
        .await
}

/// What the calendar's bookings use with their buffers, as far as it meets `window`. Holds that have
/// lapsed use nothing.
///
/// # Errors
/// When the server is away.
pub async fn taken(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    window: Interval,
) -> Result<Vec<Interval>, sqlx::Error> {
    let rows: Vec<(DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
        "select lower(during), upper(during) from allocations
         where calendar_id = $1 and during && tstzrange($2, $3)
           and (lapses_at is null or lapses_at > now())
         union all
         select since, until from completed_in($1, $2, $3) where $2 < now()",
    )
    .bind(id)
    .bind(window.start)
    .bind(window.end)
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(|(start, end)| Interval { start, end }).collect())
}
