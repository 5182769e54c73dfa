//! When a calendar takes bookings, as its owner says.
//!
//! Weekly hours in local wall time, single days that replace them, blackouts, notice, durations,
//! a grid of starts, and buffers. Bookings are checked against it ([`Availability::check`]), and
//! free slots are found by the same windows ([`super::slots`]), so that the two agree. Hours,
//! blackouts and the grid are asked of the booking itself; buffers only keep other bookings away
//! from it ([`Availability::blocked`]) and may lie outside the hours.

pub mod hours;
pub mod parse;

mod refusal;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::booking::problem::Problem;
use crate::booking::{Buffers, Interval};
use hours::{Day, WallWindow, merged};

/// The rules of one calendar. Every part may be absent, which means "no limit"; an availability
/// with no parts is that of a calendar that is always open. Numbers are minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
// An older release must not book against a rule that it does not know.
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Availability {
    /// The zone of the wall times; UTC when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<Tz>,
    /// Absent: each day is open from 00:00 to 24:00. Empty: closed but for the overrides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<Vec<WeeklyRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<DateOverride>>,
    /// Instants, whatever the hours say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blackouts: Option<Vec<Interval>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_before: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_after: Option<i32>,
    /// From the asking to the earliest start, elapsed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_notice: Option<i32>,
    /// From the asking to the latest start, elapsed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_advance: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<i32>,
    /// Starts are this far apart, counted from the start of each window in elapsed time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_step: Option<i32>,
}

/// Hours of one day of every week.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeeklyRule {
    pub day: Day,
    #[serde(flatten)]
    pub window: WallWindow,
}

/// The hours of one date, instead of the weekly ones; without windows it is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DateOverride {
    pub date: NaiveDate,
    pub windows: Vec<WallWindow>,
}

impl Availability {
    /// Whether a booking of `interval`, asked for at `asked_at`, keeps to the rules. Other
    /// bookings are not looked at.
    ///
    /// # Errors
    /// `DURATION_OUT_OF_RANGE`, `TOO_SOON`, `TOO_FAR_AHEAD`, `OUTSIDE_WORKING_HOURS`,
    /// `BLACKED_OUT` or `NOT_ALIGNED`, the first that applies, saying what would be taken.
    pub fn check(&self, interval: Interval, asked_at: DateTime<Utc>) -> Result<(), Problem> {
        self.check_length(interval.end - interval.start)?;
        if interval.start < self.earliest_start(asked_at) {
            return Err(self.too_soon(asked_at));
        }
        if let Some(latest) = self.latest_start(asked_at).filter(|latest| *latest < interval.start)
        {
            return Err(self.too_far_ahead(latest));
        }
        if !self.depends_on_zone() {
            return self.check_blackouts(interval);
        }
        let windows = self.windows(interval);
        let open = merged(windows.clone());
        if !open.iter().any(|open| open.start <= interval.start && interval.end <= open.end) {
            return Err(self.outside_hours(interval, &open));
        }
        self.check_blackouts(interval)?;
        self.check_grid(interval.start, &windows)
    }

    /// What the booking of `interval` holds: the interval and its buffers. Two bookings are
    /// therefore apart by at least the earlier one's buffer after and the later one's before.
    pub fn blocked(&self, interval: Interval) -> Interval {
        self.buffers().around(interval)
    }

    /// The buffers that a booking made now is given.
    pub fn buffers(&self) -> Buffers {
        let minutes = |buffer: Option<i32>| {
            buffer.unwrap_or(0).try_into().unwrap_or(i16::MAX) // a day at most: it fits
        };
        Buffers { before: minutes(self.buffer_before), after: minutes(self.buffer_after) }
    }

    pub fn zone(&self) -> Tz {
        self.time_zone.unwrap_or(Tz::UTC)
    }

    /// Whether there are hours or a grid, which are other instants in another zone.
    pub fn depends_on_zone(&self) -> bool {
        self.weekly.is_some() || self.overrides.is_some() || self.slot_step.is_some()
    }

    /// Whether bookings may be so long.
    ///
    /// # Errors
    /// `DURATION_OUT_OF_RANGE`.
    pub fn check_length(&self, length: TimeDelta) -> Result<(), Problem> {
        let long_enough = self.min_duration.is_none_or(|least| minutes(least) <= length);
        let short_enough = self.max_duration.is_none_or(|most| length <= minutes(most));
        if long_enough && short_enough { Ok(()) } else { Err(self.wrong_length()) }
    }

    pub fn earliest_start(&self, asked_at: DateTime<Utc>) -> DateTime<Utc> {
        asked_at + minutes(self.min_notice.unwrap_or(0))
    }

    pub fn latest_start(&self, asked_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.max_advance.map(|advance| asked_at + minutes(advance))
    }

    /// The windows of all local dates around `span`, by start. They are as the rules have them,
    /// not merged, because each begins a grid.
    pub fn windows(&self, span: Interval) -> Vec<Interval> {
        let zone = self.zone();
        let date = |time: DateTime<Utc>| time.with_timezone(&zone).date_naive();
        // A day more on each side, because the hour that a clock repeats may be at midnight.
        let first = date(span.start).pred_opt().unwrap_or(NaiveDate::MIN);
        let last = date(span.end).succ_opt().unwrap_or(NaiveDate::MAX);
        let dates = first.iter_days().take_while(|date| *date <= last);
        let mut windows: Vec<Interval> = dates
            .flat_map(|date| {
                let hours = self.hours_on(date).into_iter();
                hours.filter_map(move |window| window.on(date, zone))
            })
            .collect();
        windows.sort_unstable_by_key(|window| window.start);
        windows
    }

    fn hours_on(&self, date: NaiveDate) -> Vec<WallWindow> {
        if let Some(day) = self.overrides.iter().flatten().find(|day| day.date == date) {
            return day.windows.clone();
        }
        let Some(weekly) = &self.weekly else {
            return vec![WallWindow::WHOLE_DAY];
        };
        let day = Day::of(date);
        weekly.iter().filter(|rule| rule.day == day).map(|rule| rule.window).collect()
    }

    fn check_blackouts(&self, interval: Interval) -> Result<(), Problem> {
        let blackouts = self.blackouts.iter().flatten();
        match blackouts.filter(|blackout| blackout.overlaps(&interval)).min_by_key(|b| b.start) {
            Some(blackout) => Err(self.blacked_out(*blackout)),
            None => Ok(()),
        }
    }

    /// Whether `start` is a whole number of steps after the start of a window that it lies in.
    fn check_grid(&self, start: DateTime<Utc>, windows: &[Interval]) -> Result<(), Problem> {
        let Some(step) = self.slot_step.map(minutes) else { return Ok(()) };
        let around = windows.iter().filter(|w| w.start <= start && start < w.end);
        let grids: Vec<_> = around
            .map(|window| {
                let steps = (start - window.start).num_seconds() / step.num_seconds();
                window.start + TimeDelta::seconds(steps * step.num_seconds())
            })
            .collect();
        if grids.contains(&start) { Ok(()) } else { Err(self.not_aligned(step, &grids)) }
    }
}

/// A rule's minutes as elapsed time.
pub fn minutes(minutes: i32) -> TimeDelta {
    TimeDelta::minutes(minutes.into())
}
