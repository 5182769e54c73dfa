//! The commit of a decided batch: one statement, so all of it happens or nothing.
//!
//! The statement carries its own judges. The fences say that the writer still owns the
//! partitions; the count of undecided commands says that no one decided them before; the
//! bookings' versions and the exclusion constraint on allocations say that what the rules were
//! told is still so. Whoever of them disagrees ends the statement ([`super::Failure::of`]).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::value::{RawValue, to_raw_value};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::booking::command::{Command, CommandRecord, CommandStatus};
use crate::booking::decide::{Decision, Effect};
use crate::booking::problem::Problem;
use crate::booking::{Booking, event};
use crate::store::partitions::Fence;

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

/// Commits everything that follows from a batch: outcomes, bookings, allocations, audit, events.
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
    let rows = Rows::of(batch, now).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    sqlx::query(COMMIT)
        .bind(fences.iter().map(|f| i32::from(f.partition())).collect::<Vec<_>>())
        .bind(fences.iter().map(|f| f.number()).collect::<Vec<_>>())
        .bind(&rows.command_ids)
        .bind(&rows.statuses)
        .bind(&rows.versions)
        .bind(&rows.errors)
        .bind(now)
        .bind(rows.created.ids)
        .bind(rows.created.calendar_ids)
        .bind(rows.created.starts)
        .bind(rows.created.ends)
        .bind(rows.created.statuses)
        .bind(rows.created.versions)
        .bind(rows.created.metadata)
        .bind(rows.created.cancel_reasons)
        .bind(&rows.changed.ids)
        .bind(&rows.expected_versions)
        .bind(rows.changed.starts)
        .bind(rows.changed.ends)
        .bind(rows.changed.statuses)
        .bind(rows.changed.versions)
        .bind(rows.changed.cancel_reasons)
        .bind(&rows.freed)
        .bind(&rows.taken_ids)
        .bind(&rows.taken_calendar_ids)
        .bind(&rows.taken_starts)
        .bind(&rows.taken_ends)
        .bind(&rows.audit.booking_ids)
        .bind(&rows.audit.versions)
        .bind(&rows.audit.calendar_ids)
        .bind(&rows.audit.command_ids)
        .bind(&rows.audit.actions)
        .bind(&rows.audit.actors)
        .bind(&rows.audit.correlation_ids)
        .bind(&rows.audit.befores)
        .bind(&rows.audit.afters)
        .bind(&rows.events.ids)
        .bind(&rows.events.subjects)
        .bind(&rows.events.types)
        .bind(&rows.events.bodies)
        .bind(&rows.events.traceparents)
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
  from unnest($1::int[], $2::bigint[]) as f(id, fence)
  join partitions p on p.id = f.id and p.fence = f.fence
  order by p.id for share of p
), settled as (
  update commands c
  set status = v.status, booking_version = v.booking_version, error = v.error::json,
      decided_at = $7
  from unnest($3::uuid[], $4::text[], $5::int[], $6::text[])
    as v(id, status, booking_version, error)
  where c.id = v.id and c.decided_at is null
  returning 1
), created as (
  insert into bookings (id, calendar_id, start_time, end_time, status, version, metadata,
                        cancel_reason, created_at, updated_at)
  select id, calendar_id, start_time, end_time, status, version, metadata::json, cancel_reason,
         $7, $7
  from unnest($8::uuid[], $9::uuid[], $10::timestamptz[], $11::timestamptz[], $12::text[],
              $13::int[], $14::text[], $15::text[])
    as b(id, calendar_id, start_time, end_time, status, version, metadata, cancel_reason)
), changed as (
  update bookings b
  set start_time = v.start_time, end_time = v.end_time, status = v.status, version = v.version,
      cancel_reason = v.cancel_reason, updated_at = $7
  from unnest($16::uuid[], $17::int[], $18::timestamptz[], $19::timestamptz[], $20::text[],
              $21::int[], $22::text[])
    as v(id, expected, start_time, end_time, status, version, cancel_reason)
  where b.id = v.id and b.version = v.expected
  returning 1
), freed as (
  delete from allocations a using unnest($23::uuid[]) as f(booking_id)
  where a.booking_id = f.booking_id
  returning 1
), taken as (
  insert into allocations (booking_id, calendar_id, during)
  select booking_id, calendar_id, tstzrange(start_time, end_time)
  from unnest($24::uuid[], $25::uuid[], $26::timestamptz[], $27::timestamptz[])
    as t(booking_id, calendar_id, start_time, end_time)
  -- Reading the count first makes the freed time free before it is taken.
  where (select count(*) from freed) >= 0
), audited as (
  insert into audit (booking_id, version, calendar_id, command_id, action, actor,
                     correlation_id, at, before, after)
  select booking_id, version, calendar_id, command_id, action, actor, correlation_id, $7,
         before::json, after::json
  from unnest($28::uuid[], $29::int[], $30::uuid[], $31::uuid[], $32::text[], $33::text[],
              $34::text[], $35::text[], $36::text[])
    as a(booking_id, version, calendar_id, command_id, action, actor, correlation_id, before,
         after)
), appended as (
  insert into outbox (stream, message_id, subject, routing_key, body, traceparent, appended_at)
  select 2, id, subject, routing_key, body, traceparent, $7
  from unnest($37::uuid[], $38::uuid[], $39::text[], $40::text[], $41::text[])
    as e(id, subject, routing_key, body, traceparent)
)
select expect_rows('fence', (select count(*) from held), $42),
       expect_rows('undecided', (select count(*) from settled), $43),
       expect_rows('changed', (select count(*) from changed), $44),
       expect_rows('freed', (select count(*) from freed), $45)";

/// The statement's parameters, column by column.
#[derive(Default)]
struct Rows {
    command_ids: Vec<Uuid>,
    statuses: Vec<&'static str>,
    versions: Vec<Option<i32>>,
    errors: Vec<Option<String>>,
    created: BookingColumns,
    changed: BookingColumns,
    expected_versions: Vec<i32>,
    freed: Vec<Uuid>,
    taken_ids: Vec<Uuid>,
    taken_calendar_ids: Vec<Uuid>,
    taken_starts: Vec<DateTime<Utc>>,
    taken_ends: Vec<DateTime<Utc>>,
    audit: AuditColumns,
    events: EventColumns,
}

#[derive(Default)]
struct BookingColumns {
    ids: Vec<Uuid>,
    calendar_ids: Vec<Uuid>,
    starts: Vec<DateTime<Utc>>,
    ends: Vec<DateTime<Utc>>,
    statuses: Vec<&'static str>,
    versions: Vec<i32>,
    metadata: Vec<String>,
    cancel_reasons: Vec<Option<String>>,
}

#[derive(Default)]
struct AuditColumns {
    booking_ids: Vec<Uuid>,
    versions: Vec<i32>,
    calendar_ids: Vec<Uuid>,
    command_ids: Vec<Uuid>,
    actions: Vec<&'static str>,
    actors: Vec<String>,
    correlation_ids: Vec<String>,
    befores: Vec<Option<String>>,
    afters: Vec<String>,
}

#[derive(Default)]
struct EventColumns {
    ids: Vec<Uuid>,
    subjects: Vec<Uuid>,
    types: Vec<&'static str>,
    bodies: Vec<String>,
    traceparents: Vec<Option<String>>,
}

impl Rows {
    fn of(batch: &[Decided<'_>], now: DateTime<Utc>) -> Result<Self, serde_json::Error> {
        let mut rows = Self::default();
        // A booking that changes twice in a batch is written once: from how it was before the
        // batch to how it is after.
        let mut net: HashMap<Uuid, (Option<&Booking>, &Booking)> = HashMap::new();
        for Decided { command, verdict } in batch {
            match verdict {
                Verdict::Decided(Decision::Changed(effect)) => {
                    rows.change(command, effect)?;
                    net.entry(effect.after.id)
                        .and_modify(|(_, after)| *after = &effect.after)
                        .or_insert((effect.before.as_ref(), &effect.after));
                }
                Verdict::Decided(Decision::Unchanged(booking)) => {
                    rows.settle(command, CommandStatus::Succeeded, Some(booking.version), None);
                }
                Verdict::Decided(Decision::Rejected(problem)) => {
                    rows.refuse(command, CommandStatus::Rejected, problem, now)?;
                }
                Verdict::Failed(problem) => {
                    rows.refuse(command, CommandStatus::Failed, problem, now)?;
                }
            }
        }
        for (before, after) in net.into_values() {
            rows.write_booking(before, after);
        }
        Ok(rows)
    }

    fn settle(
        &mut self,
        command: &Command,
        status: CommandStatus,
        version: Option<i32>,
        error: Option<String>,
    ) {
        self.command_ids.push(command.command_id);
        self.statuses.push(status.as_str());
        self.versions.push(version);
        self.errors.push(error);
    }

    fn change(&mut self, command: &Command, effect: &Effect) -> Result<(), serde_json::Error> {
        let booking = &effect.after;
        self.settle(command, CommandStatus::Succeeded, Some(booking.version), None);
        let after = to_raw_value(booking)?;
        let id = Uuid::now_v7();
        let body = event::of_change(id, command.command_id, effect, &after);
        self.tell(command, id, event::type_of(effect.action, booking.status), body);
        self.audit.booking_ids.push(booking.id);
        self.audit.versions.push(booking.version);
        self.audit.calendar_ids.push(booking.calendar_id);
        self.audit.command_ids.push(command.command_id);
        self.audit.actions.push(effect.action.as_str());
        self.audit.actors.push(command.caller.clone());
        self.audit.correlation_ids.push(command.correlation_id.clone());
        let before = effect.before.as_ref().map(serde_json::to_string);
        self.audit.befores.push(before.transpose()?);
        self.audit.afters.push(after.get().to_owned());
        Ok(())
    }

    fn refuse(
        &mut self,
        command: &Command,
        status: CommandStatus,
        problem: &Problem,
        now: DateTime<Utc>,
    ) -> Result<(), serde_json::Error> {
        let error = RawValue::from_string(problem.document(&command.correlation_id))?;
        let event_type = match status {
            CommandStatus::Failed => event::COMMAND_FAILED,
            _ => event::COMMAND_REJECTED,
        };
        let record = CommandRecord {
            command_id: command.command_id,
            booking_id: command.booking_id,
            kind: command.change.kind().as_str().to_owned(),
            status,
            booking: None,
            error: Some(error.clone()),
            accepted_at: command.accepted_at,
            decided_at: Some(now),
        };
        self.settle(command, status, None, Some(error.get().to_owned()));
        let id = Uuid::now_v7();
        let body = event::of_command(id, event_type, command.booking_id, now, &record);
        self.tell(command, id, event_type, body);
        Ok(())
    }

    fn tell(&mut self, command: &Command, id: Uuid, event_type: &'static str, body: String) {
        self.events.ids.push(id);
        self.events.subjects.push(command.booking_id);
        self.events.types.push(event_type);
        self.events.bodies.push(body);
        self.events.traceparents.push(command.traceparent.clone());
    }

    fn write_booking(&mut self, before: Option<&Booking>, after: &Booking) {
        let columns = match before {
            None => &mut self.created,
            Some(before) => {
                self.expected_versions.push(before.version);
                &mut self.changed
            }
        };
        columns.ids.push(after.id);
        columns.calendar_ids.push(after.calendar_id);
        columns.starts.push(after.interval.start);
        columns.ends.push(after.interval.end);
        columns.statuses.push(after.status.as_str());
        columns.versions.push(after.version);
        columns.metadata.push(after.metadata.as_json().to_owned());
        columns.cancel_reasons.push(after.cancel_reason.clone());

        let held = before.filter(|b| b.status.is_active()).map(|b| b.interval);
        let holds = after.status.is_active().then_some(after.interval);
        if held == holds {
            return;
        }
        if held.is_some() {
            self.freed.push(after.id);
        }
        if let Some(interval) = holds {
            self.taken_ids.push(after.id);
            self.taken_calendar_ids.push(after.calendar_id);
            self.taken_starts.push(interval.start);
            self.taken_ends.push(interval.end);
        }
    }
}
