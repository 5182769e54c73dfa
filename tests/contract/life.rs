//! Lives of the bookings of one calendar, made up: what is asked for, and when.

use booking::booking::command::{Change, Command};
use booking::booking::{Booking, Interval, Metadata};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::Map;
use uuid::Uuid;

/// One moment of a life.
#[derive(Clone, Debug)]
pub struct Step {
    pub ask: Ask,
    /// Seconds that pass before it.
    pub pause: i64,
}

#[derive(Clone, Debug)]
pub enum Ask {
    /// A booking so many minutes ahead; `hold` in seconds.
    Book {
        ahead: i64,
        minutes: i64,
        hold: Option<i32>,
        metadata: String,
    },
    Confirm(usize),
    Move {
        booking: usize,
        later: i64,
    },
    Cancel {
        booking: usize,
        reason: Option<String>,
    },
    /// The sweep looks.
    Look,
}

/// Few times and bookings, so that they meet.
pub fn life() -> impl Strategy<Value = Vec<Step>> {
    let booking = 0..4_usize;
    let reason = prop::option::of("[^\\x00]{0,20}");
    let ask = prop_oneof![
        4 => (1..60_i64, 1..30_i64, prop::option::of(30..1800_i32), metadata())
            .prop_map(|(ahead, minutes, hold, metadata)| Ask::Book { ahead, minutes, hold, metadata }),
        2 => booking.clone().prop_map(Ask::Confirm),
        2 => (booking.clone(), 0..3_i64)
            .prop_map(|(booking, later)| Ask::Move { booking, later }),
        1 => (booking, reason).prop_map(|(booking, reason)| Ask::Cancel { booking, reason }),
        1 => Just(Ask::Look),
    ];
    let pause = prop_oneof![3 => 0..5_i64, 1 => 0..4000_i64];
    prop::collection::vec((ask, pause).prop_map(|(ask, pause)| Step { ask, pause }), 1..30)
}

/// Metadata as it is kept: any flat object within its bounds.
fn metadata() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "[^\\x00]{0,20}".prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ];
    let entries = prop::collection::vec(("[^\\x00]{1,10}", value), 0..4);
    entries.prop_map(|entries| serde_json::to_string(&Map::from_iter(entries)).unwrap())
}

/// The command that asks for it; none where only time does something.
pub fn command(ask: &Ask, bookings: &[Booking], now: DateTime<Utc>) -> Option<Command> {
    // A booking that never was is asked for too.
    let named = |number: &usize| bookings.get(*number).map_or_else(Uuid::now_v7, |b| b.id);
    let (booking_id, change) = match ask {
        Ask::Book { ahead, minutes, hold, metadata } => {
            let start = now + TimeDelta::minutes(*ahead);
            let interval = Interval { start, end: start + TimeDelta::minutes(*minutes) };
            let metadata = Metadata::from_json(metadata.clone()).unwrap();
            (Uuid::now_v7(), Change::Create { interval, metadata, hold: *hold })
        }
        Ask::Confirm(booking) => (named(booking), Change::Confirm {}),
        Ask::Move { booking, later } => {
            let before = bookings.get(*booking).map(|b| b.interval);
            let mut interval = before.unwrap_or(Interval { start: now, end: now });
            interval.start += TimeDelta::minutes(*later);
            interval.end += TimeDelta::minutes(*later);
            (named(booking), Change::Reschedule { interval })
        }
        Ask::Cancel { booking, reason } => {
            (named(booking), Change::Cancel { reason: reason.clone() })
        }
        Ask::Look => return None,
    };
    Some(Command {
        command_id: Uuid::now_v7(),
        booking_id,
        calendar_id: Uuid::nil(),
        caller: Uuid::nil().to_string(),
        correlation_id: "018f3c1e".to_owned(),
        traceparent: None,
        accepted_at: now,
        expected_version: None,
        callback: None,
        reply_to: None,
        change,
    })
}
