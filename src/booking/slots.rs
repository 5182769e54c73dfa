//! Which times of a calendar are free: the slots that a client may offer.
//!
//! A slot is found by the same windows and limits that [`Availability::check`] asks of a booking,
//! so every slot can be booked as long as nothing else changes. Slots stand on a grid that is
//! anchored at the start of each window, in elapsed time; what is booked takes slots away and
//! never moves the others.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::Interval;
use super::availability::hours::merged;
use super::availability::{Availability, minutes};

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Slots lie wholly within it.
    pub window: Interval,
    /// The length of a slot in minutes.
    pub duration: i32,
    /// Minutes from start to start, at least 1. Where the calendar has a `slotStep`, starts are
    /// those that fit both.
    pub step: i32,
}

/// The free slots in order, as of `now`. `taken` is what active bookings hold with their buffers,
/// in any order; it must be complete for the search window widened by the calendar's buffers.
pub fn slots(
    availability: &Availability,
    taken: &[Interval],
    search: &Search,
    now: DateTime<Utc>,
) -> Vec<Interval> {
    let length = minutes(search.duration);
    if availability.check_length(length).is_err() {
        return Vec::new();
    }
    let windows = availability.windows(search.window);
    let starts = starts(availability, &windows, search, now);
    let blackouts = availability.blackouts.clone().unwrap_or_default();
    let mut open = Walk::along(windows);
    let mut blackouts = Walk::along(blackouts);
    let mut taken = Walk::along(taken.to_vec());
    let candidates = starts.into_iter().map(|start| Interval { start, end: start + length });
    candidates
        .filter(|slot| open.holds(slot))
        .filter(|slot| !blackouts.meets(slot))
        .filter(|slot| !taken.meets(&availability.blocked(*slot)))
        .collect()
}

/// The points of the windows' grids at which a slot may start by the clock, each once, in order.
fn starts(
    availability: &Availability,
    windows: &[Interval],
    search: &Search,
    now: DateTime<Utc>,
) -> Vec<DateTime<Utc>> {
    let earliest = availability.earliest_start(now).max(search.window.start);
    let latest = search.window.end - minutes(search.duration);
    let latest = availability.latest_start(now).map_or(latest, |advance| advance.min(latest));
    let step = 60 * i64::from(common_step(search.step, availability.slot_step));
    // Windows that overlap often share their grid; how far each grid is done, by its phase.
    let mut done: HashMap<i64, DateTime<Utc>> = HashMap::new();
    let mut starts = Vec::new();
    for window in windows {
        let done = done.entry(window.start.timestamp().rem_euclid(step)).or_insert(earliest);
        let steps = ((*done - window.start).num_seconds() / step).max(0);
        let mut start = window.start + TimeDelta::seconds(steps * step);
        while start < window.end && start <= latest {
            if start >= *done && start > now {
                starts.push(start);
            }
            start += TimeDelta::seconds(step);
        }
        *done = window.end.max(*done);
    }
    starts.sort_unstable();
    starts
}

/// The least common multiple of the two steps, in minutes.
fn common_step(asked: i32, required: Option<i32>) -> i32 {
    let asked = asked.max(1);
    let Some(required) = required else { return asked };
    let (mut divisor, mut rest) = (asked, required);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    asked / divisor * required
}

/// Stretches of time that are passed once, beside slots in order of their starts.
struct Walk {
    ahead: std::iter::Peekable<std::vec::IntoIter<Interval>>,
}

impl Walk {
    fn along(stretches: Vec<Interval>) -> Self {
        Self { ahead: merged(stretches).into_iter().peekable() }
    }

    /// Whether a stretch overlaps `wanted`.
    fn meets(&mut self, wanted: &Interval) -> bool {
        while self.ahead.next_if(|stretch| stretch.end <= wanted.start).is_some() {}
        self.ahead.peek().is_some_and(|stretch| stretch.overlaps(wanted))
    }

    /// Whether `wanted` lies wholly in one stretch.
    fn holds(&mut self, wanted: &Interval) -> bool {
        while self.ahead.next_if(|stretch| stretch.end < wanted.end).is_some() {}
        self.ahead.peek().is_some_and(|s| s.start <= wanted.start && wanted.end <= s.end)
    }
}
