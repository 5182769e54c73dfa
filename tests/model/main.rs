//! The rules of booking against a simple model, over sequences that nobody would write down.
//!
//! The model knows minutes, not intervals: a calendar is the set of minutes that are taken, found
//! anew by brute force for every question. It shares no code with the rules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod content;

use std::collections::{BTreeMap, BTreeSet};

use booking::booking::calendar::Calendar;
use booking::booking::command::{Change, Command};
use booking::booking::decide::{Action, Decision, decide};
use booking::booking::problem::{Code, Problem};
use booking::booking::{Booking, Interval, Metadata, Status};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

/// One command of a sequence, in small numbers.
#[derive(Clone, Debug)]
struct Step {
    calendar: usize,
    ask: Ask,
    /// Minutes that pass before it.
    pause: i64,
    /// Whether the calendar is loaded anew, as by another worker.
    reload: bool,
}

#[derive(Clone, Debug)]
enum Ask {
    Create {
        start: i64,
        minutes: i64,
    },
    /// The booking is counted in order of the creations, of both calendars, refused ones too.
    Cancel {
        booking: usize,
        reason: Option<String>,
    },
    Reschedule {
        booking: usize,
        start: i64,
        minutes: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let times = || (0..60_i64, 1..16_i64);
    let ask = prop_oneof![
        4 => times().prop_map(|(start, minutes)| Ask::Create { start, minutes }),
        2 => (0..12_usize, prop::option::of("[a-z]{1,3}"))
            .prop_map(|(booking, reason)| Ask::Cancel { booking, reason }),
        3 => (0..12_usize, times())
            .prop_map(|(booking, (start, minutes))| Ask::Reschedule { booking, start, minutes }),
    ];
    let pause = prop_oneof![3 => Just(0_i64), 1 => 1..4_i64];
    (0..2_usize, ask, pause, any::<bool>()).prop_map(|(calendar, ask, pause, reload)| Step {
        calendar,
        ask,
        pause,
        reload,
    })
}

/// A booking as the model sees it.
#[derive(Clone, Debug, PartialEq)]
struct Noted {
    calendar: usize,
    start: i64,
    end: i64,
    active: bool,
    version: i32,
    reason: Option<String>,
    created: i64,
    updated: i64,
}

/// What the model expects.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Changed(Action),
    Unchanged,
    Refused(Code),
}

#[derive(Default)]
struct Model {
    bookings: BTreeMap<Uuid, Noted>,
}

impl Model {
    /// The minutes of a calendar that are taken by others than `own`.
    fn taken(&self, calendar: usize, own: Uuid) -> BTreeSet<i64> {
        let others = self.bookings.iter().filter(|(id, _)| **id != own);
        others
            .filter(|(_, noted)| noted.calendar == calendar && noted.active)
            .flat_map(|(_, noted)| noted.start..noted.end)
            .collect()
    }

    fn is_free(&self, calendar: usize, own: Uuid, start: i64, end: i64) -> bool {
        let taken = self.taken(calendar, own);
        (start..end).all(|minute| !taken.contains(&minute))
    }

    fn judge(&mut self, step: &Step, id: Uuid, now: i64) -> Verdict {
        let calendar = step.calendar;
        if let Ask::Create { start, minutes } = step.ask {
            let end = start + minutes;
            if !self.is_free(calendar, id, start, end) {
                return Verdict::Refused(Code::SlotConflict);
            }
            let (active, version, reason) = (true, 1, None);
            let (created, updated) = (now, now);
            let noted = Noted { calendar, start, end, active, version, reason, created, updated };
            self.bookings.insert(id, noted);
            return Verdict::Changed(Action::Created);
        }
        let Some(noted) = self.bookings.get(&id).filter(|b| b.calendar == calendar).cloned() else {
            return Verdict::Refused(Code::NotFound);
        };
        let over = noted.end <= now;
        let (changed, action) = match &step.ask {
            Ask::Cancel { .. } if !noted.active => {
                return Verdict::Refused(Code::AlreadyCancelled);
            }
            _ if !noted.active || over => return Verdict::Refused(Code::InvalidState),
            Ask::Cancel { reason, .. } => {
                let changed = Noted { active: false, reason: reason.clone(), ..noted };
                (changed, Action::Cancelled)
            }
            Ask::Reschedule { start, minutes, .. } => {
                let (start, end) = (*start, start + minutes);
                if (start, end) == (noted.start, noted.end) {
                    return Verdict::Unchanged;
                }
                if !self.is_free(calendar, id, start, end) {
                    return Verdict::Refused(Code::SlotConflict);
                }
                (Noted { start, end, ..noted }, Action::Rescheduled)
            }
            Ask::Create { .. } => unreachable!("answered above"),
        };
        let version = changed.version + 1;
        self.bookings.insert(id, Noted { version, updated: now, ..changed });
        Verdict::Changed(action)
    }
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
    bookings: BTreeMap<Uuid, Booking>,
    model: Model,
    created: usize,
    now: i64,
}

impl Play {
    fn takes(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.now += step.pause;
        let number = match step.ask {
            Ask::Create { .. } => {
                self.created += 1;
                self.created - 1
            }
            Ask::Cancel { booking, .. } | Ask::Reschedule { booking, .. } => booking,
        };
        let (id, now) = (Uuid::from_u128(0xb000 + number as u128), self.now);
        if step.reload {
            self.calendars[step.calendar] = self.loaded(step.calendar);
        }
        let before = self.bookings.get(&id).filter(|b| b.calendar_id == owner(step.calendar));
        let before = before.cloned();
        let decision = decide(&self.calendars[step.calendar], &command(step, id), at(now));
        let verdict = self.model.judge(step, id, now);
        match (&decision, &verdict) {
            (Decision::Changed(effect), Verdict::Changed(action)) => {
                prop_assert_eq!(effect.action, *action);
                prop_assert_eq!(&effect.before, &before);
                let version = before.map_or(0, |booking| booking.version) + 1;
                prop_assert_eq!(effect.after.version, version);
                self.calendars[step.calendar].apply(effect);
                self.bookings.insert(id, effect.after.clone());
            }
            (Decision::Unchanged(booking), Verdict::Unchanged) => {
                prop_assert_eq!(Some(booking), before.as_ref());
            }
            (Decision::Rejected(problem), Verdict::Refused(code)) => {
                prop_assert_eq!(problem.code, *code);
                self.names_what_is_in_the_way(step, id, problem)?;
            }
            _ => prop_assert!(false, "{decision:?} is not {verdict:?}"),
        }
        let known = self.calendars[step.calendar].booking(id);
        let own = self.bookings.get(&id).filter(|b| b.calendar_id == owner(step.calendar));
        prop_assert_eq!(known, own);
        let seen: BTreeMap<_, _> = self.bookings.iter().map(|(id, b)| (*id, noted(b))).collect();
        prop_assert_eq!(&seen, &self.model.bookings);
        Ok(())
    }

    /// The calendar as a worker loads it from the database.
    fn loaded(&self, calendar: usize) -> Calendar {
        let mut loaded = Calendar::default();
        for booking in self.bookings.values().filter(|b| b.calendar_id == owner(calendar)) {
            loaded.know(booking.clone());
            if booking.status.is_active() {
                loaded.take(booking.id, booking.interval);
                loaded.take(booking.id, booking.interval); // noting it twice is harmless
            }
        }
        loaded
    }

    /// A conflict shows the first taken interval that is in the way, and nothing else shows one.
    fn names_what_is_in_the_way(
        &self,
        step: &Step,
        id: Uuid,
        problem: &Problem,
    ) -> Result<(), TestCaseError> {
        let shown = problem.conflicts_with.map(|i| (minute(i.start), minute(i.end)));
        let (start, end) = match (problem.code, &step.ask) {
            (Code::SlotConflict, Ask::Create { start, minutes })
            | (Code::SlotConflict, Ask::Reschedule { start, minutes, .. }) => {
                (*start, start + minutes)
            }
            _ => {
                prop_assert_eq!(shown, None);
                return Ok(());
            }
        };
        let others = self.model.bookings.iter().filter(|(other, _)| **other != id);
        let in_the_way = others
            .filter(|(_, noted)| noted.calendar == step.calendar && noted.active)
            .filter(|(_, noted)| (noted.start..noted.end).any(|m| (start..end).contains(&m)))
            .map(|(_, noted)| (noted.start, noted.end));
        prop_assert_eq!(shown, in_the_way.min());
        Ok(())
    }

    fn has_no_overlap(&self) -> Result<(), TestCaseError> {
        let mut taken = BTreeSet::new();
        for booking in self.bookings.values().filter(|b| b.status == Status::Confirmed) {
            for minute in minute(booking.interval.start)..minute(booking.interval.end) {
                prop_assert!(taken.insert((booking.calendar_id, minute)), "{minute} twice");
            }
        }
        Ok(())
    }
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

fn command(step: &Step, booking_id: Uuid) -> Command {
    let change = match &step.ask {
        Ask::Create { start, minutes } => {
            let metadata = Metadata::from_json(format!(r#"{{"of":"{booking_id}"}}"#)).unwrap();
            Change::Create { interval: interval(*start, *minutes), metadata }
        }
        Ask::Cancel { reason, .. } => Change::Cancel { reason: reason.clone() },
        Ask::Reschedule { start, minutes, .. } => {
            Change::Reschedule { interval: interval(*start, *minutes) }
        }
    };
    Command {
        command_id: Uuid::from_u128(1),
        booking_id,
        calendar_id: owner(step.calendar),
        caller: owner(step.calendar).to_string(),
        correlation_id: "model".into(),
        traceparent: None,
        accepted_at: at(0),
        change,
    }
}

/// A booking of the rules in the model's terms.
fn noted(booking: &Booking) -> Noted {
    assert_eq!(booking.metadata.as_json(), format!(r#"{{"of":"{}"}}"#, booking.id));
    assert!(matches!(booking.status, Status::Confirmed | Status::Cancelled));
    Noted {
        calendar: usize::from(booking.calendar_id == owner(1)),
        start: minute(booking.interval.start),
        end: minute(booking.interval.end),
        active: booking.status == Status::Confirmed,
        version: booking.version,
        reason: booking.cancel_reason.clone(),
        created: minute(booking.created_at),
        updated: minute(booking.updated_at),
    }
}
