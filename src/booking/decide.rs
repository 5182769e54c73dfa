//! The judgement: may this command change this calendar, and what is the booking then?
//!
//! Commands of one calendar come here one after the other, in the order they were accepted. The
//! time `now` is the database's, one clock for all workers. Rules about the request itself
//! (shape, bounds, "in the future") were settled at acceptance and are not asked again, so a
//! command that waited out a fault is judged as if it had not.
//!
//! Time changes bookings too ([`by_time`]). Whether the sweep has come round yet makes no
//! difference to any answer: a hold that has lapsed is judged as expired, a booking that is over
//! as over.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::calendar::Calendar;
use super::command::{Change, Command};
use super::problem::{Code, Problem};
use super::{Booking, Buffers, Interval, Metadata, Status};

/// What a command came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The booking changed.
    Changed(Box<Changed>),
    /// The booking already was as asked: a success without a new version, audit row or event.
    Unchanged(Booking),
    /// A business no; nothing changed.
    Rejected(Problem),
}

/// What a command changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// Holds that had lapsed and whose time the booking claims: they expire before it.
    pub lapsed: Vec<Effect>,
    pub effect: Effect,
}

impl Changed {
    /// All effects, in the order in which they happen.
    pub fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.lapsed.iter().chain([&self.effect])
    }
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
    Held,
    Confirmed,
    Rescheduled,
    Cancelled,
    Expired,
    Completed,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Held => "HELD",
            Self::Confirmed => "CONFIRMED",
            Self::Rescheduled => "RESCHEDULED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
            Self::Completed => "COMPLETED",
        }
    }
}

/// Judges `command` by what is known of its calendar. Changes nothing; see [`Calendar::apply`].
pub fn decide(calendar: &Calendar, command: &Command, now: DateTime<Utc>) -> Decision {
    let judged = match &command.change {
        Change::Create { interval, metadata, hold } => {
            create(calendar, command, *interval, metadata, *hold, now)
        }
        Change::Confirm {} => confirm(calendar, command, now),
        Change::Cancel { reason } => cancel(calendar, command, reason.as_deref(), now),
        Change::Reschedule { interval } => reschedule(calendar, command, *interval, now),
    };
    judged.unwrap_or_else(Decision::Rejected)
}

/// What time alone makes of a booking, if anything: a hold lapses at its time or with the end of
/// the booking, a confirmed booking is completed when it is over, its buffer too.
pub fn by_time(booking: &Booking, now: DateTime<Utc>) -> Option<Effect> {
    let (action, status) = match booking.lapses_at() {
        Some(lapses_at) if lapses_at <= now => (Action::Expired, Status::Expired),
        None if booking.status == Status::Confirmed && booking.blocked().end <= now => {
            (Action::Completed, Status::Completed)
        }
        _ => return None,
    };
    let after = Booking { status, hold_expires_at: None, ..next_version(booking, now) };
    Some(changed(action, booking, after))
}

fn create(
    calendar: &Calendar,
    command: &Command,
    interval: Interval,
    metadata: &Metadata,
    hold: Option<i32>,
    now: DateTime<Utc>,
) -> Result<Decision, Problem> {
    let hold = hold.map(|seconds| now + TimeDelta::seconds(seconds.into()));
    let after = Booking {
        id: command.booking_id,
        calendar_id: command.calendar_id,
        interval,
        status: if hold.is_some() { Status::Pending } else { Status::Confirmed },
        version: 1,
        metadata: metadata.clone(),
        hold_expires_at: hold,
        cancel_reason: None,
        created_at: now,
        updated_at: now,
        buffers: Buffers::default(),
    };
    let action = if hold.is_some() { Action::Held } else { Action::Created };
    claim(calendar, command, Effect { action, before: None, after }, now)
}

fn confirm(
    calendar: &Calendar,
    command: &Command,
    now: DateTime<Utc>,
) -> Result<Decision, Problem> {
    let booking = named(calendar, command, now)?;
    if is_expired(booking, now) {
        let detail = "The hold has lapsed and its time is free again; make a new booking.";
        return Err(Problem::new(Code::HoldExpired, detail));
    }
    changeable(booking, now)?;
    if booking.status == Status::Confirmed {
        let detail = "The booking is CONFIRMED already; only a hold is confirmed.";
        return Err(Problem::new(Code::InvalidState, detail));
    }
    let after =
        Booking { status: Status::Confirmed, hold_expires_at: None, ..next_version(booking, now) };
    Ok(alone(changed(Action::Confirmed, booking, after)))
}

fn cancel(
    calendar: &Calendar,
    command: &Command,
    reason: Option<&str>,
    now: DateTime<Utc>,
) -> Result<Decision, Problem> {
    let booking = named(calendar, command, now)?;
    if booking.status == Status::Cancelled {
        let detail = "The booking was cancelled before; nothing is left to do.";
        return Err(Problem::new(Code::AlreadyCancelled, detail));
    }
    changeable(booking, now)?;
    let after = Booking {
        status: Status::Cancelled,
        hold_expires_at: None,
        cancel_reason: reason.map(str::to_owned),
        ..next_version(booking, now)
    };
    Ok(alone(changed(Action::Cancelled, booking, after)))
}

fn reschedule(
    calendar: &Calendar,
    command: &Command,
    interval: Interval,
    now: DateTime<Utc>,
) -> Result<Decision, Problem> {
    let booking = named(calendar, command, now)?;
    changeable(booking, now)?;
    if booking.interval == interval {
        return Ok(Decision::Unchanged(booking.clone()));
    }
    let after = Booking { interval, ..next_version(booking, now) };
    claim(calendar, command, changed(Action::Rescheduled, booking, after), now)
}

/// The change, if the calendar admits the time that it claims, and the time is free. Holds that
/// have lapsed give way; a booking that is over does not, because its time was used. The
/// calendar's notice is counted from the acceptance.
fn claim(
    calendar: &Calendar,
    command: &Command,
    mut effect: Effect,
    now: DateTime<Utc>,
) -> Result<Decision, Problem> {
    effect.after.buffers = calendar.admits(effect.after.interval, command.accepted_at)?;
    let mut lapsed = Vec::new();
    for (holder, taken) in calendar.taken_in(effect.after.blocked(), effect.after.id) {
        match calendar.booking(holder).and_then(|booking| by_time(booking, now)) {
            Some(effect) if effect.action == Action::Expired => lapsed.push(effect),
            _ => return Err(slot_conflict(taken)),
        }
    }
    Ok(Decision::Changed(Box::new(Changed { lapsed, effect })))
}

fn alone(effect: Effect) -> Decision {
    Decision::Changed(Box::new(Changed { lapsed: Vec::new(), effect }))
}

fn changed(action: Action, before: &Booking, after: Booking) -> Effect {
    Effect { action, before: Some(before.clone()), after }
}

fn next_version(booking: &Booking, now: DateTime<Utc>) -> Booking {
    Booking { version: booking.version + 1, updated_at: now, ..booking.clone() }
}

/// The booking that the command names, at the version that it expects. What time has ended is
/// told as such: whether that was noticed, and counted as a version, must make no difference.
fn named<'a>(
    calendar: &'a Calendar,
    command: &Command,
    now: DateTime<Utc>,
) -> Result<&'a Booking, Problem> {
    let booking = calendar.booking(command.booking_id).ok_or_else(|| {
        let detail = format!("You have no booking with the id {}.", command.booking_id);
        Problem::new(Code::NotFound, detail)
    })?;
    let ended = matches!(booking.status, Status::Expired | Status::Completed)
        || by_time(booking, now).is_some();
    match command.expected_version {
        Some(expected) if expected != booking.version && !ended => {
            let detail = format!(
                "The booking has version {}, not {expected}; read it again before you change it.",
                booking.version
            );
            Err(Problem::new(Code::VersionMismatch, detail))
        }
        _ => Ok(booking),
    }
}

/// Whether the booking is an expired hold, swept or not.
fn is_expired(booking: &Booking, now: DateTime<Utc>) -> bool {
    let status = by_time(booking, now).map_or(booking.status, |effect| effect.after.status);
    status == Status::Expired
}

fn changeable(booking: &Booking, now: DateTime<Utc>) -> Result<(), Problem> {
    let final_status = match booking.status {
        _ if is_expired(booking, now) => Status::Expired,
        Status::Confirmed if booking.interval.end <= now => Status::Completed,
        status if status.is_active() => return Ok(()),
        status => status,
    };
    let detail = match final_status {
        Status::Completed => "The booking's time is over; it can no longer be changed.".into(),
        status => format!("The booking is {status}, which is final."),
    };
    Err(Problem::new(Code::InvalidState, detail))
}

fn slot_conflict(taken: Interval) -> Problem {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let (from, to) = (time(taken.start), time(taken.end));
    let detail = format!("The calendar is taken from {from} to {to}; ask for another time.");
    Problem { conflicts_with: Some(taken), ..Problem::new(Code::SlotConflict, detail) }
}
