//! The commit of a decided batch, or of what time has changed: one statement, so all of it happens
//! or nothing.
//!
//! The statement carries its own judges. The fences say that the writer still owns the
//! partitions; the count of undecided commands says that no one decided them before; the
//! bookings' versions and the exclusion constraint on allocations say that what the rules were
//! told is still so. Whoever of them disagrees ends the statement ([`super::Failure::of`]).

mod rows;
mod told;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::booking::command::Command;
use crate::booking::decide::{Decision, Effect};
use crate::booking::problem::Problem;
use crate::store::partitions::Fence;
use rows::Rows;

/// A command and what was decided of it.
pub struct Decided<'a> {
    pub command: &'a Command,
    pub verdict: Verdict,
}

/// How a command ends.
pub enum Verdict {
    Decided(Decision),
    /// Given up after retries; the problem is what the client is told.
    Failed(Problem),
}

/// Commits everything that follows from a batch: outcomes, bookings, allocations, audit, events,
/// replies, and the deliveries to those who listen.
///
/// # Errors
/// Any; [`super::Failure::of`] says which judge objected. Nothing was written then, unless the
/// server went away after the statement was sent.
pub async fn commit(
    connection: &mut PgConnection,
    fences: &[Fence],
    batch: &[Decided<'_>],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    write(connection, fences, Rows::of_batch(batch, now), now).await
}

/// Commits what time has changed, of which no command asked. It needs no fence: a worker that
/// has read one of the bookings meets another version, reads again and decides again.
///
/// # Errors
/// As [`commit`].
pub async fn commit_by_time(
    connection: &mut PgConnection,
    effects: &[Effect],
    correlation_id: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    write(connection, &[], Rows::of_time(effects, correlation_id), now).await
}

async fn write(
    connection: &mut PgConnection,
    fences: &[Fence],
    rows: Result<Rows, serde_json::Error>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let rows = rows.map_err(|error| sqlx::Error::Encode(error.into()))?;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let statement = sqlx::query(COMMIT)
        .bind(now)
        .bind(fences.iter().map(|f| i32::from(f.partition())).collect::<Vec<_>>())
        .bind(fences.iter().map(|f| f.number()).collect::<Vec<_>>())
        .bind(&rows.command_ids)
        .bind(&rows.statuses)
        .bind(&rows.versions)
        .bind(&rows.errors)
        .bind(rows.created.ids)
        .bind(rows.created.calendar_ids)
        .bind(rows.created.starts)
        .bind(rows.created.ends)
        .bind(rows.created.statuses)
        .bind(rows.created.versions)
        .bind(rows.created.metadata)
        .bind(rows.created.hold_expiries)
        .bind(rows.created.cancel_reasons)
        .bind(rows.created.buffers_before)
        .bind(rows.created.buffers_after)
        .bind(&rows.changed.ids)
        .bind(&rows.expected_versions)
        .bind(rows.changed.starts)
        .bind(rows.changed.ends)
        .bind(rows.changed.statuses)
        .bind(rows.changed.versions)
        .bind(rows.changed.hold_expiries)
        .bind(rows.changed.cancel_reasons)
        .bind(rows.changed.buffers_before)
        .bind(rows.changed.buffers_after)
        .bind(&rows.freed)
        .bind(&rows.taken.ids)
        .bind(&rows.taken.calendar_ids)
        .bind(&rows.taken.starts)
        .bind(&rows.taken.ends)
        .bind(&rows.taken.lapses)
        .bind(&rows.audit.booking_ids)
        .bind(&rows.audit.versions)
        .bind(&rows.audit.calendar_ids)
        .bind(&rows.audit.command_ids)
        .bind(&rows.audit.actions)
        .bind(&rows.audit.actors)
        .bind(&rows.audit.correlation_ids)
        .bind(&rows.audit.befores)
        .bind(&rows.audit.afters);
    rows.told
        .bind_to(statement)
        .bind(count(fences.len()))
        .bind(count(rows.command_ids.len()))
        .bind(count(rows.changed.ids.len()))
        .bind(count(rows.freed.len()))
        .execute(connection)
        .await?;
    Ok(())
}

const COMMIT: &str = "
with held as (
  select p.id
  from unnest($2::int[], $3::bigint[]) as f(id, fence)
  join partitions p on p.id = f.id and p.fence = f.fence
  order by p.id for share of p
), settled as (
  update commands c
  set status = v.status, booking_version = v.booking_version, error = v.error::json,
      decided_at = $1
  from unnest($4::uuid[], $5::text[], $6::int[], $7::text[])
    as v(id, status, booking_version, error)
  where c.id = v.id and c.decided_at is null
  returning 1
), created as (
  insert into bookings (id, calendar_id, start_time, end_time, status, version, metadata,
                        hold_expires_at, cancel_reason, buffer_before, buffer_after, created_at,
                        updated_at)
  select id, calendar_id, start_time, end_time, status, version, metadata::json,
         hold_expires_at, cancel_reason, buffer_before, buffer_after, $1, $1
  from unnest($8::uuid[], $9::uuid[], $10::timestamptz[], $11::timestamptz[], $12::text[],
              $13::int[], $14::text[], $15::timestamptz[], $16::text[], $17::smallint[],
              $18::smallint[])
    as b(id, calendar_id, start_time, end_time, status, version, metadata, hold_expires_at,
         cancel_reason, buffer_before, buffer_after)
), changed as (
  update bookings b
  set start_time = v.start_time, end_time = v.end_time, status = v.status, version = v.version,
      hold_expires_at = v.hold_expires_at, cancel_reason = v.cancel_reason,
      buffer_before = v.buffer_before, buffer_after = v.buffer_after, updated_at = $1
  from unnest($19::uuid[], $20::int[], $21::timestamptz[], $22::timestamptz[], $23::text[],
              $24::int[], $25::timestamptz[], $26::text[], $27::smallint[], $28::smallint[])
    as v(id, expected, start_time, end_time, status, version, hold_expires_at, cancel_reason,
         buffer_before, buffer_after)
  where b.id = v.id and b.version = v.expected
  returning 1
), freed as (
  delete from allocations a using unnest($29::uuid[]) as f(booking_id)
  where a.booking_id = f.booking_id
  returning 1
), taken as (
  insert into allocations (booking_id, calendar_id, during, lapses_at)
  select booking_id, calendar_id, tstzrange(start_time, end_time), lapses_at
  from unnest($30::uuid[], $31::uuid[], $32::timestamptz[], $33::timestamptz[],
              $34::timestamptz[])
    as t(booking_id, calendar_id, start_time, end_time, lapses_at)
  -- Reading the count first makes the freed time free before it is taken.
  where (select count(*) from freed) >= 0
), audited as (
  insert into audit (booking_id, version, calendar_id, command_id, action, actor,
                     correlation_id, at, before, after)
  select booking_id, version, calendar_id, command_id, action, actor, correlation_id, $1,
         before::json, after::json
  from unnest($35::uuid[], $36::int[], $37::uuid[], $38::uuid[], $39::text[], $40::text[],
              $41::text[], $42::text[], $43::text[])
    as a(booking_id, version, calendar_id, command_id, action, actor, correlation_id, before,
         after)
), told as (
  select * from unnest($44::uuid[], $45::smallint[], $46::uuid[], $47::uuid[], $48::text[],
                       $49::text[], $50::text[], $51::text[], $52::text[], $53::text[],
                       $54::text[], $55::text[])
    as t(id, stream, subject, calendar_id, routing_key, kind, body, traceparent, correlation_id,
         caller, callback_origin, callback_url)
), appended as (
  insert into outbox (stream, message_id, subject, routing_key, kind, body, correlation_id,
                      traceparent, appended_at)
  select stream, id, subject, routing_key, kind, body, correlation_id, traceparent, $1
  from told where stream > 0
), wanted as (
  select w.shard, w.id as target_id, t.id, t.routing_key, t.subject, t.body, null as url,
         t.traceparent
  from told t
  join webhook_endpoints w
    on w.calendar_id = any(array[t.calendar_id, '00000000-0000-0000-0000-000000000000'])
    and w.enabled and w.kind = 'endpoint'
    and w.event_types && array[t.routing_key, split_part(t.routing_key, '.', 1) || '.*', '*']
  where t.stream = 2
  union all
  select w.shard, w.id, t.id, t.routing_key, t.subject, t.body, t.callback_url, t.traceparent
  from told t
  join webhook_endpoints w
    on w.owner = t.caller and w.url = t.callback_origin and w.kind = 'callback' and w.enabled
  where t.callback_url is not null
), delivering as (
  insert into webhook_deliveries (target_id, event_id, event_type, subject, body, url,
                                  traceparent, created_at)
  select target_id, id, routing_key, subject, body, url, traceparent, $1 from wanted
), queued as (
  insert into webhook_queue (shard, target_id, due_at, event_id)
  select shard, target_id, $1, id from wanted
)
select expect_rows('fence', (select count(*) from held), $56),
       expect_rows('undecided', (select count(*) from settled), $57),
       expect_rows('changed', (select count(*) from changed), $58),
       expect_rows('freed', (select count(*) from freed), $59)";
