//! The rules of booking against a simple model, over sequences that nobody would write down.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod content;
mod hours;
mod minutes;
mod slots;

use std::collections::{BTreeMap, BTreeSet};

use booking::booking::calendar::Calendar;
use booking::booking::command::{Change, Command};
use booking::booking::decide::{Decision, Effect, by_time, decide};
use booking::booking::problem::{Code, Problem};
use booking::booking::{Booking, Buffers, Interval, Metadata, Status};
use chrono::{DateTime, TimeDelta, Utc};
use minutes::{Ask, Model, Noted, State, To, Verdict};
use proptest::prelude::*;
use uuid::Uuid;

/// One moment of a sequence.
#[derive(Clone, Debug)]
struct Step {
    calendar: usize,
    ask: Ask,
    /// Minutes that pass before it.
    pause: i64,
    /// Whether the calendar is loaded anew, as by another worker.
    reload: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![3 => Just(0_i64), 1 => 1..4_i64];
    (0..2_usize, minutes::ask(0), pause, any::<bool>())
        .prop_map(|(calendar, ask, pause, reload)| Step { calendar, ask, pause, reload })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn decisions_agree_with_a_model_of_minutes(steps in prop::collection::vec(step(), 1..=40)) {
        let mut play = Play::default();
        for step in &steps {
            play.takes(step)?;
            play.has_no_overlap()?;
        }
    }
}

/// The rules and the model, side by side.
#[derive(Default)]
struct Play {
    calendars: [Calendar; 2],
    bookings: BTreeMap<usize, Booking>,
    model: Model,
    created: usize,
    now: i64,
}

impl Play {
    fn takes(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.now += step.pause;
        if step.reload {
            self.calendars[step.calendar] = self.loaded(step.calendar);
        }
        let number = match step.ask {
            Ask::Create { .. } => {
                self.created += 1;
                self.created - 1
            }
            Ask::Change { booking, .. } => booking,
            Ask::Sweep => 0,
        };
        let before = self.bookings.get(&number).filter(|b| b.calendar_id == owner(step.calendar));
        let before = before.cloned();
        let verdict = self.model.judge(step.calendar, &step.ask, number, self.now);
        let Some(change) = change(&step.ask, number) else {
            self.sweep();
            return self.agrees();
        };
        let command = command(step, id(number), change);
        match (&decide(&self.calendars[step.calendar], &command, at(self.now)), &verdict) {
            (Decision::Changed(changed), Verdict::Changed) => {
                prop_assert_eq!(&changed.effect.before, &before);
                changed.effects().for_each(|effect| self.apply(effect));
            }
            (Decision::Unchanged(booking), Verdict::Unchanged) => {
                prop_assert_eq!(Some(booking), before.as_ref());
            }
            (Decision::Rejected(problem), Verdict::Refused(code)) => {
                prop_assert_eq!(problem.code, *code);
                self.names_what_is_in_the_way(step, number, problem)?;
            }
            (decision, _) => prop_assert!(false, "{decision:?} is not {verdict:?}"),
        }
        let known = self.calendars[step.calendar].booking(id(number));
        let own = self.bookings.get(&number).filter(|b| b.calendar_id == owner(step.calendar));
        prop_assert_eq!(known, own);
        self.agrees()
    }

    fn sweep(&mut self) {
        let due = self.bookings.values().filter_map(|booking| by_time(booking, at(self.now)));
        due.collect::<Vec<_>>().iter().for_each(|effect| self.apply(effect));
    }

    fn apply(&mut self, effect: &Effect) {
        let calendar = usize::from(effect.after.calendar_id == owner(1));
        self.calendars[calendar].apply(effect);
        self.bookings.insert(number(effect.after.id), effect.after.clone());
    }

    fn agrees(&self) -> Result<(), TestCaseError> {
        let seen: BTreeMap<_, _> = self.bookings.iter().map(|(n, b)| (*n, noted(b))).collect();
        prop_assert_eq!(&seen, &self.model.bookings);
        Ok(())
    }

    /// The calendar as a worker loads it from the database.
    fn loaded(&self, calendar: usize) -> Calendar {
        let mut loaded = Calendar::default();
        for booking in self.bookings.values().filter(|b| b.calendar_id == owner(calendar)) {
            if booking.status.uses_time() {
                loaded.take(booking.id, booking.blocked());
                loaded.take(booking.id, booking.blocked()); // noting it twice is harmless
            }
            loaded.know(booking.clone());
        }
        loaded
    }

    /// A conflict shows the first taken interval that is in the way, and nothing else shows one.
    fn names_what_is_in_the_way(
        &self,
        step: &Step,
        number: usize,
        problem: &Problem,
    ) -> Result<(), TestCaseError> {
        let shown = problem.conflicts_with.map(|i| (minute(i.start), minute(i.end)));
        let wanted = match (problem.code, &step.ask) {
            (Code::SlotConflict, Ask::Create { start, minutes, .. })
            | (Code::SlotConflict, Ask::Change { to: To::Rescheduled { start, minutes }, .. }) => {
                (*start, start + minutes)
            }
            _ => {
                prop_assert_eq!(shown, None);
                return Ok(());
            }
        };
        let in_the_way = self.model.in_the_way(step.calendar, number, wanted, self.now);
        prop_assert_eq!(shown, in_the_way);
        Ok(())
    }

    fn has_no_overlap(&self) -> Result<(), TestCaseError> {
        let mut taken = BTreeSet::new();
        for booking in self.bookings.values().filter(|b| b.status.uses_time()) {
            for minute in minute(booking.interval.start)..minute(booking.interval.end) {
                prop_assert!(taken.insert((booking.calendar_id, minute)), "{minute} twice");
            }
        }
        Ok(())
    }
}

const FIRST: u128 = 0xb000;

fn id(number: usize) -> Uuid {
    Uuid::from_u128(FIRST + number as u128)
}

fn number(id: Uuid) -> usize {
    usize::try_from(id.as_u128() - FIRST).unwrap()
}

fn owner(calendar: usize) -> Uuid {
    Uuid::from_u128(0xca00 + calendar as u128)
}

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(23_000) + TimeDelta::minutes(minute)
}

fn minute(time: DateTime<Utc>) -> i64 {
    (time - at(0)).num_minutes()
}

fn interval(start: i64, minutes: i64) -> Interval {
    Interval { start: at(start), end: at(start + minutes) }
}

/// What a command would ask for; nothing for what time does.
fn change(ask: &Ask, number: usize) -> Option<Change> {
    Some(match ask {
        Ask::Sweep => return None,
        Ask::Create { start, minutes, hold } => Change::Create {
            interval: interval(*start, *minutes),
            metadata: Metadata::from_json(format!(r#"{{"of":"{number}"}}"#)).unwrap(),
            hold: hold.map(|minutes| i32::try_from(60 * minutes).unwrap()),
        },
        Ask::Change { to: To::Confirmed, .. } => Change::Confirm {},
        Ask::Change { to: To::Cancelled { reason }, .. } => {
            Change::Cancel { reason: reason.clone() }
        }
        Ask::Change { to: To::Rescheduled { start, minutes }, .. } => {
            Change::Reschedule { interval: interval(*start, *minutes) }
        }
    })
}

fn command(step: &Step, booking_id: Uuid, change: Change) -> Command {
    let expected_version = match step.ask {
        Ask::Change { expects, .. } => expects,
        _ => None,
    };
    Command {
        command_id: Uuid::from_u128(1),
        booking_id,
        calendar_id: owner(step.calendar),
        caller: owner(step.calendar).to_string(),
        correlation_id: "model".into(),
        traceparent: None,
        accepted_at: at(0),
        expected_version,
        callback: None,
        reply_to: None,
        change,
    }
}

/// A booking of the rules in the model's terms.
fn noted(booking: &Booking) -> Noted {
    assert_eq!(booking.metadata.as_json(), format!(r#"{{"of":"{}"}}"#, number(booking.id)));
    assert_eq!(booking.buffers, Buffers::default());
    let state = match (booking.status, booking.hold_expires_at) {
        (Status::Pending, Some(until)) => State::Held { until: minute(until) },
        (Status::Confirmed, None) => State::Confirmed,
        (Status::Cancelled, None) => State::Cancelled,
        (Status::Expired, None) => State::Expired,
        (Status::Completed, None) => State::Completed,
        odd => panic!("{odd:?}"),
    };
    Noted {
        calendar: usize::from(booking.calendar_id == owner(1)),
        start: minute(booking.interval.start),
        end: minute(booking.interval.end),
        state,
        version: booking.version,
        reason: booking.cancel_reason.clone(),
        created: minute(booking.created_at),
        updated: minute(booking.updated_at),
    }
}
