//! A simple model of a calendar's life, against which the rules and the whole system are held.
//!
//! The model knows minutes, not intervals: a calendar is the set of minutes that are taken, found
//! anew by brute force for every question. It shares no code with the rules.

use std::collections::{BTreeMap, BTreeSet};

use booking::booking::problem::Code;
use proptest::prelude::*;

/// What is asked of a calendar, in small numbers. Bookings are counted in the order of their
/// creations, of all calendars, refused ones too.
#[derive(Clone, Debug)]
pub enum Ask {
    Create {
        start: i64,
        minutes: i64,
        /// Minutes for which the time is only held.
        hold: Option<i64>,
    },
    Change {
        booking: usize,
        /// The version that the booking must have.
        expects: Option<i32>,
        to: To,
    },
    /// Time does what is due, in all calendars.
    Sweep,
}

#[derive(Clone, Debug)]
pub enum To {
    Confirmed,
    Cancelled { reason: Option<String> },
    Rescheduled { start: i64, minutes: i64 },
}

/// Anything that may be asked; bookings start within the hour that begins at minute `first`.
pub fn ask(first: i64) -> impl Strategy<Value = Ask> {
    let times = move || (first..first + 60, 1..16_i64);
    let hold = prop_oneof![Just(None), (1..4_i64).prop_map(Some)];
    let to = prop_oneof![
        2 => Just(To::Confirmed),
        2 => prop::option::of("[a-z]{1,3}").prop_map(|reason| To::Cancelled { reason }),
        3 => times().prop_map(|(start, minutes)| To::Rescheduled { start, minutes }),
    ];
    let expects = prop_oneof![3 => Just(None), 1 => (1..4_i32).prop_map(Some)];
    prop_oneof![
        5 => (times(), hold)
            .prop_map(|((start, minutes), hold)| Ask::Create { start, minutes, hold }),
        6 => (0..12_usize, expects, to)
            .prop_map(|(booking, expects, to)| Ask::Change { booking, expects, to }),
        1 => Just(Ask::Sweep),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Held { until: i64 },
    Confirmed,
    Cancelled,
    Expired,
    Completed,
}

/// A booking as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Noted {
    pub calendar: usize,
    pub start: i64,
    pub end: i64,
    pub state: State,
    pub version: i32,
    pub reason: Option<String>,
    pub created: i64,
    pub updated: i64,
}

impl Noted {
    /// Whether it keeps its minutes from others at `now`. Used time stays used: a claim that is
    /// decided late must not get it once more.
    fn blocks(&self, now: i64) -> bool {
        matches!(self.state_at(now), State::Held { .. } | State::Confirmed | State::Completed)
    }

    /// Whether it seems to hold its minutes only because nobody has noticed that it lapsed.
    fn gives_way(&self, now: i64) -> bool {
        matches!(self.state, State::Held { .. }) && self.state_at(now) == State::Expired
    }

    /// What time has made of it by `now`, whether anybody has noticed or not.
    fn state_at(&self, now: i64) -> State {
        match self.state {
            State::Held { until } if until.min(self.end) <= now => State::Expired,
            State::Confirmed if self.end <= now => State::Completed,
            state => state,
        }
    }

    fn becomes(&mut self, state: State, now: i64) {
        *self = Self { state, version: self.version + 1, updated: now, ..self.clone() };
    }
}

/// What the model expects.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Changed,
    Unchanged,
    Refused(Code),
}

/// All bookings, by number.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub bookings: BTreeMap<usize, Noted>,
}

impl Model {
    /// Judges what is asked of `calendar` about the booking `number` and changes what follows.
    pub fn judge(&mut self, calendar: usize, ask: &Ask, number: usize, now: i64) -> Verdict {
        match ask {
            Ask::Sweep => self.sweep(now),
            Ask::Create { start, minutes, hold } => {
                let state = hold.map_or(State::Confirmed, |m| State::Held { until: now + m });
                let (end, reason) = (start + minutes, None);
                let noted = Noted {
                    calendar,
                    start: *start,
                    end,
                    state,
                    version: 1,
                    reason,
                    created: now,
                    updated: now,
                };
                self.claim(number, noted, now)
            }
            Ask::Change { expects, to, .. } => {
                let booking = self.bookings.get(&number).filter(|b| b.calendar == calendar);
                let Some(noted) = booking.cloned() else {
                    return Verdict::Refused(Code::NotFound);
                };
                // What time has ended has no version that could still be changed.
                let over = matches!(noted.state_at(now), State::Expired | State::Completed);
                match expects {
                    Some(version) if *version != noted.version && !over => {
                        Verdict::Refused(Code::VersionMismatch)
                    }
                    _ => self.change(number, noted, to, now),
                }
            }
        }
    }

    fn change(&mut self, number: usize, noted: Noted, to: &To, now: i64) -> Verdict {
        let state = noted.state_at(now);
        match (to, state) {
            (To::Confirmed, State::Expired) => return Verdict::Refused(Code::HoldExpired),
            (To::Cancelled { .. }, State::Cancelled) => {
                return Verdict::Refused(Code::AlreadyCancelled);
            }
            (To::Confirmed, State::Held { .. })
            | (To::Cancelled { .. } | To::Rescheduled { .. }, State::Held { .. })
            | (To::Cancelled { .. } | To::Rescheduled { .. }, State::Confirmed) => {}
            _ => return Verdict::Refused(Code::InvalidState),
        }
        let mut changed = noted.clone();
        match to {
            To::Confirmed => changed.becomes(State::Confirmed, now),
            To::Cancelled { reason } => {
                changed.reason.clone_from(reason);
                changed.becomes(State::Cancelled, now);
            }
            To::Rescheduled { start, minutes } => {
                (changed.start, changed.end) = (*start, start + minutes);
                if (changed.start, changed.end) == (noted.start, noted.end) {
                    return Verdict::Unchanged;
                }
                changed.becomes(noted.state, now);
                return self.claim(number, changed, now);
            }
        }
        self.bookings.insert(number, changed);
        Verdict::Changed
    }

    /// Claims the minutes of `noted`; what only seems to hold some of them gives way.
    fn claim(&mut self, number: usize, noted: Noted, now: i64) -> Verdict {
        let minutes: BTreeSet<i64> = (noted.start..noted.end).collect();
        let meets = |(other, held): &(&usize, &mut Noted)| {
            let meets = (held.start..held.end).any(|minute| minutes.contains(&minute));
            **other != number && held.calendar == noted.calendar && meets
        };
        let others: Vec<_> = self.bookings.iter_mut().filter(meets).collect();
        if others.iter().any(|(_, held)| held.blocks(now)) {
            return Verdict::Refused(Code::SlotConflict);
        }
        for (_, held) in others.into_iter().filter(|(_, held)| held.gives_way(now)) {
            held.becomes(State::Expired, now);
        }
        self.bookings.insert(number, noted);
        Verdict::Changed
    }

    fn sweep(&mut self, now: i64) -> Verdict {
        let due = self.bookings.values_mut().filter(|noted| noted.state_at(now) != noted.state);
        due.for_each(|noted| noted.becomes(noted.state_at(now), now));
        Verdict::Unchanged
    }

    /// The taken interval, first by its start, that keeps the calendar from `start..end`.
    pub fn in_the_way(
        &self,
        calendar: usize,
        own: usize,
        (start, end): (i64, i64),
        now: i64,
    ) -> Option<(i64, i64)> {
        let others = self.bookings.iter().filter(|(other, _)| **other != own);
        others
            .map(|(_, noted)| noted)
            .filter(|noted| noted.calendar == calendar && noted.blocks(now))
            .filter(|noted| (noted.start..noted.end).any(|m| (start..end).contains(&m)))
            .map(|noted| (noted.start, noted.end))
            .min()
    }
}
