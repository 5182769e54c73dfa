//! The rules of booking: pure, without IO, clock, randomness or async.
//!
//! A **calendar** is whose time is claimed. A **booking** claims a half-open interval of it. A
//! **command** asks for a change; [`decide::decide`] judges it against what is known of the
//! calendar and answers with a **decision**; an **event** is the fact that is published after it.
//!
//! Everything here is a function of its arguments, so a redelivered command is judged the same
//! way on any worker, and the property tests can compare the rules with a simple model.

pub mod availability;
pub mod calendar;
pub mod callback;
pub mod command;
pub mod decide;
pub mod endpoint;
pub mod event;
pub mod fields;
pub mod json;
pub mod problem;
pub mod slots;

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A half-open stretch of time `[start, end)`; intervals that only touch do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    #[serde(rename = "startTime")]
    pub start: DateTime<Utc>,
    #[serde(rename = "endTime")]
    pub end: DateTime<Utc>,
}

impl Interval {
    /// The one overlap formula of the system; Postgres' `&&` on `[)` ranges agrees with it.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Where a booking is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    Pending,
    Confirmed,
    Cancelled,
    Expired,
    Completed,
}

impl Status {
    /// Whether the booking keeps its interval from others.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Pending | Self::Confirmed)
    }

    /// Whether the booking's time is, or was, somebody's. Used time stays used: a command that is
    /// decided late must not be given it once more.
    pub fn uses_time(self) -> bool {
        self.is_active() || self == Self::Completed
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Confirmed => "CONFIRMED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
            Self::Completed => "COMPLETED",
        }
    }

    /// The status a database row names, or nothing when a newer version wrote it.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Confirmed, Self::Cancelled, Self::Expired, Self::Completed]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The caller's own notes on a booking: the text of a flat JSON object, checked once at
/// acceptance ([`fields::Fields::metadata`]) and carried as it is from then on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(Box<RawValue>);

impl Metadata {
    /// Takes a JSON text that the database or a checked request holds.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn from_json(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

/// A booking as clients, events, webhooks and the audit show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Booking {
    pub id: Uuid,
    #[serde(rename = "userId")]
    pub calendar_id: Uuid,
    #[serde(flatten)]
    pub interval: Interval,
    pub status: Status,
    /// Counts up by exactly one with each change; 1 is the creation.
    pub version: i32,
    pub metadata: Metadata,
    /// When the hold lapses; set exactly while the booking is PENDING.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_expires_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// As the calendar wanted them when the time was claimed. Not shown: they are the calendar's.
    #[serde(skip)]
    pub buffers: Buffers,
}

impl Booking {
    /// The time that is kept from others: the interval with its buffers.
    pub fn blocked(&self) -> Interval {
        self.buffers.around(self.interval)
    }

    /// When a hold lapses: at its time, and at the latest when the booking would be over.
    pub fn lapses_at(&self) -> Option<DateTime<Utc>> {
        self.hold_expires_at.map(|lapses_at| lapses_at.min(self.interval.end))
    }
}

/// Minutes kept free around a booking. Each booking brings its own, so the gap between two
/// neighbours is at least the earlier's `after` plus the later's `before`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    pub before: i16,
    pub after: i16,
}

impl Buffers {
    pub fn around(self, interval: Interval) -> Interval {
        Interval {
            start: interval.start - TimeDelta::minutes(self.before.into()),
            end: interval.end + TimeDelta::minutes(self.after.into()),
        }
    }
}

/// The kinds of messages that leave through the outbox, each in an order of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// To the workers, by partition.
    Commands,
    /// To whoever subscribes, by event type.
    Events,
    /// To the services that submit by message, each to the queue that it named.
    Replies,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Commands, Self::Events, Self::Replies];

    pub fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Events => "events",
            Self::Replies => "replies",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_that_only_touch_do_not_overlap() {
        let at = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        let interval = |start, end| Interval { start: at(start), end: at(end) };
        let held = interval(0, 30);
        for (other, overlaps) in [
            (interval(0, 30), true),
            (interval(-15, 15), true),
            (interval(15, 45), true),
            (interval(10, 20), true),
            (interval(-15, 45), true),
            (interval(30, 60), false),
            (interval(-30, 0), false),
        ] {
            assert_eq!(held.overlaps(&other), overlaps, "{other:?}");
            assert_eq!(other.overlaps(&held), overlaps, "{other:?}, the other way");
        }
    }
}
