//! Request bodies: what is read must be what was meant, however it was written.

use std::collections::BTreeMap;

use booking::booking::Interval;
use booking::booking::command::Change;
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::at;

/// The time as a clock `offset` minutes ahead of UTC shows it, with microseconds.
fn shown(time: DateTime<Utc>, offset: i32) -> String {
    let local = time.naive_utc() + TimeDelta::minutes(offset.into());
    let (sign, ahead) = if offset < 0 { ('-', -offset) } else { ('+', offset) };
    let zone = format!("{sign}{:02}:{:02}", ahead / 60, ahead % 60);
    format!("{}{zone}", local.format("%Y-%m-%dT%H:%M:%S%.6f"))
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

proptest! {
    #[test]
    fn a_valid_body_means_the_same_in_any_offset(
        start in 0_i64..200_000_000_000_000_000, // microseconds: until the year 8307
        length in 1_i64..=31 * 86_400_000_000,
        offsets in prop::array::uniform4(-1439..=1439_i32),
        user in any::<u128>(),
        metadata in prop::collection::btree_map("[a-z]{1,40}", "[^\0]{0,9}", 0..5),
    ) {
        let user = Uuid::from_u128(user);
        let time = |micros| DateTime::from_timestamp_micros(micros).unwrap();
        let interval = Interval { start: time(start), end: time(start + length) };
        // Days that are before 1970 or after 9999 by the local clock are fine: it is the instant.
        let body = |start_offset, end_offset| object(&json!({
            "userId": user,
            "startTime": shown(interval.start, start_offset),
            "endTime": shown(interval.end, end_offset),
            "metadata": metadata,
        }));
        let (calendar, asked) = Change::parse_create(&body(offsets[0], offsets[1])).unwrap();
        prop_assert_eq!(calendar, user);
        prop_assert_eq!(asked.change.claims(), Some(interval));
        let Change::Create { metadata: kept, .. } = &asked.change else { panic!("{asked:?}") };
        let kept: Value = serde_json::from_str(kept.as_json()).unwrap();
        prop_assert_eq!(kept, json!(metadata));
        let again = Change::parse_create(&body(offsets[2], offsets[3])).unwrap().1;
        prop_assert_eq!(again.fingerprint(user, None, None), asked.fingerprint(user, None, None));
    }

    /// The space is so small that about every eighth pair is the same content.
    #[test]
    fn fingerprints_are_equal_when_and_only_when_the_content_is(
        a in content(), b in content(), offset in -1439..=1439_i32
    ) {
        let same = a == b;
        prop_assert_eq!(a.fingerprint(0) == b.fingerprint(offset), same, "{:?} {:?}", a, b);
        prop_assert_eq!(a.fingerprint(0), a.fingerprint(offset));
    }
}

/// What a caller may mean, in few variants.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    Create {
        user: u128,
        start: i64,
        minutes: i64,
        metadata: BTreeMap<String, u8>,
        hold: Option<i32>,
    },
    Confirm {
        user: u128,
        booking: u128,
        expects: Option<i32>,
    },
    Cancel {
        user: u128,
        booking: u128,
        expects: Option<i32>,
        reason: Option<String>,
    },
    Reschedule {
        user: u128,
        booking: u128,
        start: i64,
        minutes: i64,
    },
}

fn content() -> impl Strategy<Value = Content> {
    let (user, booking) = (0..2_u128, 0..2_u128);
    let metadata = prop::collection::btree_map("[ab]", 0..2_u8, 0..2);
    let few = || prop::option::of(prop_oneof![Just(30), Just(31)]);
    prop_oneof![
        (user.clone(), 0..2_i64, 1..3_i64, metadata, few()).prop_map(
            |(user, start, minutes, metadata, hold)| {
                Content::Create { user, start, minutes, metadata, hold }
            }
        ),
        (user.clone(), booking.clone(), few())
            .prop_map(|(user, booking, expects)| Content::Confirm { user, booking, expects }),
        (user.clone(), booking.clone(), few(), prop::option::of("[ab]")).prop_map(
            |(user, booking, expects, reason)| Content::Cancel { user, booking, expects, reason }
        ),
        (user, booking, 0..2_i64, 1..3_i64).prop_map(|(user, booking, start, minutes)| {
            Content::Reschedule { user, booking, start, minutes }
        }),
    ]
}

impl Content {
    /// Writes the body with times in that offset, reads it and takes the fingerprint.
    fn fingerprint(&self, offset: i32) -> [u8; 32] {
        let id = |number: u128| Uuid::from_u128(0xc000 + number);
        let time = |minute| shown(at(minute), offset);
        match self {
            Self::Create { user, start, minutes, metadata, hold } => {
                let body = json!({
                    "userId": id(*user), "startTime": time(*start),
                    "endTime": time(start + minutes), "metadata": metadata, "hold": hold,
                });
                let (calendar, change) = Change::parse_create(&object(&body)).unwrap();
                change.fingerprint(calendar, None, None)
            }
            Self::Confirm { user, booking, expects } => {
                let change = Change::parse_confirm(&Map::new()).unwrap();
                change.fingerprint(id(*user), Some(id(*booking)), *expects)
            }
            Self::Cancel { user, booking, expects, reason } => {
                let change = Change::parse_cancel(&object(&json!({ "reason": reason }))).unwrap();
                change.fingerprint(id(*user), Some(id(*booking)), *expects)
            }
            Self::Reschedule { user, booking, start, minutes } => {
                let body = json!({ "startTime": time(*start), "endTime": time(start + minutes) });
                let change = Change::parse_reschedule(&object(&body)).unwrap();
                change.fingerprint(id(*user), Some(id(*booking)), None)
            }
        }
    }
}

/// An older worker that ignored what a newer gateway has added would do something else.
#[test]
fn a_field_of_a_newer_release_is_not_ignored() {
    let known = json!({ "create": {
        "interval": { "startTime": at(0), "endTime": at(30) }, "metadata": {}, "hold": 60
    } });
    assert!(serde_json::from_value::<Change>(known.clone()).is_ok());
    let mut newer = known;
    newer["create"]["seats"] = json!(2);
    let text = newer.to_string();
    assert!(serde_json::from_str::<Change>(&text).unwrap_err().to_string().contains("seats"));
}
