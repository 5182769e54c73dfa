//! The judgement: may this command change this calendar, and what is the booking then?
//!
//! Commands of one calendar come here one after the other, in the order they were accepted. The
//! time `now` is the database's, one clock for all workers. Rules about the request itself
//! (shape, bounds, "in the future") were settled at acceptance and are not asked again, so a
//! command that waited out a fault is judged as if it had not.

use chrono::{DateTime, Utc};

use super::calendar::Calendar;
use super::command::{Change, Command};
use super::problem::{Code, Problem};
use super::{Booking, Interval, Metadata, Status};

/// What a command came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The booking changed.
    Changed(Effect),
    /// The booking already was as asked: a success without a new version, audit row or event.
    Unchanged(Booking),
    /// A business no; nothing changed.
    Rejected(Problem),
}

/// A change of one booking, from one version to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    pub action: Action,
    pub before: Option<Booking>,
    pub after: Booking,
}

/// What happened to the booking: the audit's word and the event's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Created,
    Rescheduled,
    Cancelled,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Rescheduled => "RESCHEDULED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// Judges `command` by what is known of its calendar. Changes nothing; see [`Calendar::apply`].
pub fn decide(calendar: &Calendar, command: &Command, now: DateTime<Utc>) -> Decision {
    match &command.change {
        Change::Create { interval, metadata } => {
            create(calendar, command, *interval, metadata, now)
        }
        Change::Cancel { reason } => cancel(calendar, command, reason.as_deref(), now),
        Change::Reschedule { interval } => reschedule(calendar, command, *interval, now),
    }
}

fn create(
    calendar: &Calendar,
    command: &Command,
    interval: Interval,
    metadata: &Metadata,
    now: DateTime<Utc>,
) -> Decision {
    if let Some(taken) = calendar.conflict(interval, command.booking_id) {
        return Decision::Rejected(slot_conflict(taken));
    }
    Decision::Changed(Effect {
        action: Action::Created,
        before: None,
        after: Booking {
            id: command.booking_id,
            calendar_id: command.calendar_id,
            interval,
            status: Status::Confirmed,
            version: 1,
            metadata: metadata.clone(),
            cancel_reason: None,
            created_at: now,
            updated_at: now,
        },
    })
}

fn cancel(
    calendar: &Calendar,
    command: &Command,
    reason: Option<&str>,
    now: DateTime<Utc>,
) -> Decision {
    let Some(booking) = calendar.booking(command.booking_id) else {
        return Decision::Rejected(not_found(command));
    };
    if booking.status == Status::Cancelled {
        let detail = "The booking was cancelled before; nothing is left to do.";
        return Decision::Rejected(Problem::new(Code::AlreadyCancelled, detail));
    }
    if let Some(problem) = not_changeable(booking, now) {
        return Decision::Rejected(problem);
    }
    let after = Booking {
        status: Status::Cancelled,
        cancel_reason: reason.map(str::to_owned),
        ..next_version(booking, now)
    };
    Decision::Changed(Effect { action: Action::Cancelled, before: Some(booking.clone()), after })
}

fn reschedule(
    calendar: &Calendar,
    command: &Command,
    interval: Interval,
    now: DateTime<Utc>,
) -> Decision {
    let Some(booking) = calendar.booking(command.booking_id) else {
        return Decision::Rejected(not_found(command));
    };
    if let Some(problem) = not_changeable(booking, now) {
        return Decision::Rejected(problem);
    }
    if booking.interval == interval {
        return Decision::Unchanged(booking.clone());
    }
    if let Some(taken) = calendar.conflict(interval, booking.id) {
        return Decision::Rejected(slot_conflict(taken));
    }
    let after = Booking { interval, ..next_version(booking, now) };
    Decision::Changed(Effect { action: Action::Rescheduled, before: Some(booking.clone()), after })
}

fn next_version(booking: &Booking, now: DateTime<Utc>) -> Booking {
    Booking { version: booking.version + 1, updated_at: now, ..booking.clone() }
}

fn not_changeable(booking: &Booking, now: DateTime<Utc>) -> Option<Problem> {
    if !booking.status.is_active() {
        let detail = format!("The booking is {}, which is final.", booking.status);
        return Some(Problem::new(Code::InvalidState, detail));
    }
    if booking.interval.end <= now {
        let detail = "The booking's time is over; it can no longer be changed.";
        return Some(Problem::new(Code::InvalidState, detail));
    }
    None
}

fn slot_conflict(taken: Interval) -> Problem {
    let detail = format!(
        "The calendar is taken from {} to {}; ask for another time.",
        event_time(taken.start),
        event_time(taken.end)
    );
    Problem { conflicts_with: Some(taken), ..Problem::new(Code::SlotConflict, detail) }
}

fn not_found(command: &Command) -> Problem {
    let detail = format!("You have no booking with the id {}.", command.booking_id);
    Problem::new(Code::NotFound, detail)
}

fn event_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
