//! What a decided batch comes to in rows, column by column, as the statement takes them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use super::told::{Told, ToldColumns};
use super::{Decided, Verdict};
use crate::booking::callback::CallbackUrl;
use crate::booking::command::{Command, CommandRecord, CommandStatus};
use crate::booking::decide::{Decision, Effect};
use crate::booking::problem::Problem;
use crate::booking::{Booking, Stream, event};

/// The audit's actor of what no one asked for.
const TIME: &str = "time";

/// The statement's parameters.
#[derive(Default)]
pub struct Rows {
    pub command_ids: Vec<Uuid>,
    pub statuses: Vec<&'static str>,
    pub versions: Vec<Option<i32>>,
    pub errors: Vec<Option<String>>,
    pub created: BookingColumns,
    pub changed: BookingColumns,
    pub expected_versions: Vec<i32>,
    pub freed: Vec<Uuid>,
    pub taken: AllocationColumns,
    pub audit: AuditColumns,
    pub told: ToldColumns,
}

#[derive(Default)]
pub struct BookingColumns {
    pub ids: Vec<Uuid>,
    pub calendar_ids: Vec<Uuid>,
    pub starts: Vec<DateTime<Utc>>,
    pub ends: Vec<DateTime<Utc>>,
    pub statuses: Vec<&'static str>,
    pub versions: Vec<i32>,
    pub metadata: Vec<String>,
    pub hold_expiries: Vec<Option<DateTime<Utc>>>,
    pub cancel_reasons: Vec<Option<String>>,
    pub buffers_before: Vec<i16>,
    pub buffers_after: Vec<i16>,
}

#[derive(Default)]
pub struct AllocationColumns {
    pub ids: Vec<Uuid>,
    pub calendar_ids: Vec<Uuid>,
    pub starts: Vec<DateTime<Utc>>,
    pub ends: Vec<DateTime<Utc>>,
    pub lapses: Vec<Option<DateTime<Utc>>>,
}

#[derive(Default)]
pub struct AuditColumns {
    pub booking_ids: Vec<Uuid>,
    pub versions: Vec<i32>,
    pub calendar_ids: Vec<Uuid>,
    pub command_ids: Vec<Option<Uuid>>,
    pub actions: Vec<&'static str>,
    pub actors: Vec<String>,
    pub correlation_ids: Vec<String>,
    pub befores: Vec<Option<String>>,
    pub afters: Vec<String>,
}

/// Why a booking changed.
#[derive(Clone, Copy)]
pub(super) struct Cause<'a> {
    /// None where time did it.
    pub command_id: Option<Uuid>,
    pub actor: &'a str,
    pub correlation_id: &'a str,
    pub traceparent: Option<&'a str>,
    pub callback: Option<&'a CallbackUrl>,
}

impl<'a> Cause<'a> {
    fn command(command: &'a Command) -> Self {
        Self {
            command_id: Some(command.command_id),
            actor: &command.caller,
            correlation_id: &command.correlation_id,
            traceparent: command.traceparent.as_deref(),
            callback: command.callback.as_ref(),
        }
    }

    /// Time, noticed by a command or the sweep.
    fn time(self) -> Self {
        Self { command_id: None, actor: TIME, callback: None, ..self }
    }
}

/// A booking that changes twice in a batch is written once: from how it was before the batch to
/// how it is after. In the order of the ids, so that a worker and the sweep wait for each other
/// instead of deadlocking.
type Net<'a> = BTreeMap<Uuid, (Option<&'a Booking>, &'a Booking)>;

impl Rows {
    /// The rows of decided commands.
    ///
    /// # Errors
    /// Not reached: everything in them can be written as JSON.
    pub fn of_batch(batch: &[Decided<'_>], now: DateTime<Utc>) -> Result<Self, serde_json::Error> {
        let mut rows = Self::default();
        let mut net = Net::new();
        for Decided { command, verdict } in batch {
            match verdict {
                Verdict::Decided(Decision::Changed(changed)) => {
                    let cause = Cause::command(command);
                    for over in &changed.lapsed {
                        rows.change(cause.time(), over, &mut net)?;
                    }
                    rows.succeed(command, &changed.effect.after, now)?;
                    rows.change(cause, &changed.effect, &mut net)?;
                }
                Verdict::Decided(Decision::Unchanged(booking)) => {
                    rows.succeed(command, booking, now)?;
                    rows.tell_callback(command, booking, now)?;
                }
                Verdict::Decided(Decision::Rejected(problem)) => {
                    rows.refuse(command, CommandStatus::Rejected, problem, now)?;
                }
                Verdict::Failed(problem) => {
                    rows.refuse(command, CommandStatus::Failed, problem, now)?;
                }
            }
        }
        rows.write_bookings(net);
        Ok(rows)
    }

    /// The rows of what time has changed.
    ///
    /// # Errors
    /// As [`Self::of_batch`].
    pub fn of_time(effects: &[Effect], correlation_id: &str) -> Result<Self, serde_json::Error> {
        let mut rows = Self::default();
        let mut net = Net::new();
        let (command_id, traceparent, callback) = (None, None, None);
        let cause = Cause { command_id, actor: TIME, correlation_id, traceparent, callback };
        for effect in effects {
            rows.change(cause, effect, &mut net)?;
        }
        rows.write_bookings(net);
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

    /// Audit and event of one change; the booking itself is written at the end.
    fn change<'a>(
        &mut self,
        cause: Cause<'_>,
        effect: &'a Effect,
        net: &mut Net<'a>,
    ) -> Result<(), serde_json::Error> {
        let booking = &effect.after;
        let after = to_raw_value(booking)?;
        let id = Uuid::now_v7();
        self.told.tell(
            cause,
            Some(Stream::Events),
            Told {
                id,
                subject: booking.id,
                calendar_id: booking.calendar_id,
                event_type: event::type_of(effect.action),
                body: event::of_change(id, cause.command_id, effect, &after),
            },
        );
        self.audit.booking_ids.push(booking.id);
        self.audit.versions.push(booking.version);
        self.audit.calendar_ids.push(booking.calendar_id);
        self.audit.command_ids.push(cause.command_id);
        self.audit.actions.push(effect.action.as_str());
        self.audit.actors.push(cause.actor.to_owned());
        self.audit.correlation_ids.push(cause.correlation_id.to_owned());
        let before = effect.before.as_ref().map(serde_json::to_string);
        self.audit.befores.push(before.transpose()?);
        self.audit.afters.push(after.get().to_owned());
        net.entry(booking.id)
            .and_modify(|(_, after)| *after = booking)
            .or_insert((effect.before.as_ref(), booking));
        Ok(())
    }

    fn succeed(
        &mut self,
        command: &Command,
        booking: &Booking,
        now: DateTime<Utc>,
    ) -> Result<(), serde_json::Error> {
        self.settle(command, CommandStatus::Succeeded, Some(booking.version), None);
        if command.reply_to.is_some() {
            self.told.reply(command, &succeeded(command, booking, now)?)?;
        }
        Ok(())
    }

    /// No event tells of a success without a change; who asked to be called back is told.
    fn tell_callback(
        &mut self,
        command: &Command,
        booking: &Booking,
        now: DateTime<Utc>,
    ) -> Result<(), serde_json::Error> {
        if command.callback.is_some() {
            let record = succeeded(command, booking, now)?;
            self.tell_of(command, event::COMMAND_SUCCEEDED, None, &record, now);
        }
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
            status,
            error: Some(error.clone()),
            decided_at: Some(now),
            ..CommandRecord::accepted(command)
        };
        self.settle(command, status, None, Some(error.get().to_owned()));
        self.tell_of(command, event_type, Some(Stream::Events), &record, now);
        self.told.reply(command, &record)
    }

    fn tell_of(
        &mut self,
        command: &Command,
        event_type: &'static str,
        stream: Option<Stream>,
        record: &CommandRecord,
        now: DateTime<Utc>,
    ) {
        let id = Uuid::now_v7();
        let told = Told {
            id,
            subject: command.booking_id,
            calendar_id: command.calendar_id,
            event_type,
            body: event::of_command(id, event_type, command.booking_id, now, record),
        };
        self.told.tell(Cause::command(command), stream, told);
    }

    fn write_bookings(&mut self, net: Net<'_>) {
        for (before, after) in net.into_values() {
            match before {
                None => self.created.push(after),
                Some(before) => {
                    self.expected_versions.push(before.version);
                    self.changed.push(after);
                }
            }
            let claim = |booking: &Booking| {
                booking.status.is_active().then(|| (booking.blocked(), booking.lapses_at()))
            };
            if before.and_then(claim) == claim(after) {
                continue;
            }
            if before.and_then(claim).is_some() {
                self.freed.push(after.id);
            }
            if claim(after).is_some() {
                self.taken.push(after);
            }
        }
    }
}

fn succeeded(
    command: &Command,
    booking: &Booking,
    now: DateTime<Utc>,
) -> Result<CommandRecord, serde_json::Error> {
    Ok(CommandRecord {
        status: CommandStatus::Succeeded,
        booking: Some(to_raw_value(booking)?),
        decided_at: Some(now),
        ..CommandRecord::accepted(command)
    })
}

impl BookingColumns {
    fn push(&mut self, booking: &Booking) {
        self.ids.push(booking.id);
        self.calendar_ids.push(booking.calendar_id);
        self.starts.push(booking.interval.start);
        self.ends.push(booking.interval.end);
        self.statuses.push(booking.status.as_str());
        self.versions.push(booking.version);
        self.metadata.push(booking.metadata.as_json().to_owned());
        self.hold_expiries.push(booking.hold_expires_at);
        self.cancel_reasons.push(booking.cancel_reason.clone());
        self.buffers_before.push(booking.buffers.before);
        self.buffers_after.push(booking.buffers.after);
    }
}

impl AllocationColumns {
    fn push(&mut self, booking: &Booking) {
        let blocked = booking.blocked();
        self.ids.push(booking.id);
        self.calendar_ids.push(booking.calendar_id);
        self.starts.push(blocked.start);
        self.ends.push(blocked.end);
        self.lapses.push(booking.lapses_at());
    }
}
