//! What a client reads when a booking does not keep to the rules: what would, in local time.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::Availability;
use crate::booking::Interval;
use crate::booking::problem::{Code, Problem};

/// More open times than these are not listed in a refusal.
const MOST_LISTED: usize = 6;

impl Availability {
    pub(super) fn wrong_length(&self) -> Problem {
        let detail = match (self.min_duration, self.max_duration) {
            (Some(least), Some(most)) if least == most => {
                format!("Bookings of this calendar last {least} minutes.")
            }
            (Some(least), Some(most)) => {
                format!("Bookings of this calendar last from {least} to {most} minutes.")
            }
            (Some(least), None) => {
                format!("Bookings of this calendar last at least {least} minutes.")
            }
            (None, most) => {
                let most = most.unwrap_or_default();
                format!("Bookings of this calendar last at most {most} minutes.")
            }
        };
        Problem::new(Code::DurationOutOfRange, detail)
    }

    pub(super) fn too_soon(&self, asked_at: DateTime<Utc>) -> Problem {
        let (notice, earliest) = (self.min_notice.unwrap_or(0), self.earliest_start(asked_at));
        let detail = format!(
            "This calendar is booked at least {notice} minutes ahead: start at {} or later.",
            self.local(earliest)
        );
        Problem::new(Code::TooSoon, detail)
    }

    pub(super) fn too_far_ahead(&self, latest: DateTime<Utc>) -> Problem {
        let advance = self.max_advance.unwrap_or(0);
        let detail = format!(
            "This calendar is booked at most {advance} minutes ahead: start at {} or earlier.",
            self.local(latest)
        );
        Problem::new(Code::TooFarAhead, detail)
    }

    /// `open` are the merged windows around the interval.
    pub(super) fn outside_hours(&self, interval: Interval, open: &[Interval]) -> Problem {
        let mut nearest = open.to_vec();
        nearest.sort_by_key(|open| {
            let before = (interval.start - open.end).max(TimeDelta::zero());
            before.max(open.start - interval.end)
        });
        nearest.truncate(MOST_LISTED);
        nearest.sort_unstable_by_key(|open| open.start);
        let zone = self.zone();
        let mut detail = format!("The booking must lie within the calendar's hours ({zone}): ");
        for (index, Interval { start, end }) in nearest.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(detail, "{comma}{} to {}", self.local(*start), self.local(*end));
        }
        if nearest.is_empty() {
            detail.push_str("it is closed on that day, the day before and the day after");
        }
        detail.push('.');
        Problem::new(Code::OutsideWorkingHours, detail)
    }

    pub(super) fn blacked_out(&self, blackout: Interval) -> Problem {
        let detail = format!(
            "The calendar is blocked from {} to {}; ask for another time.",
            self.local(blackout.start),
            self.local(blackout.end)
        );
        Problem::new(Code::BlackedOut, detail)
    }

    /// `before` are the last starts at or before the one asked for, of each window it lies in.
    pub(super) fn not_aligned(&self, step: TimeDelta, before: &[DateTime<Utc>]) -> Problem {
        let mut detail = format!(
            "Bookings start every {} minutes from the beginning of the calendar's hours",
            step.num_minutes()
        );
        let after = before.iter().map(|start| *start + step).min();
        if let (Some(before), Some(after)) = (before.iter().max(), after) {
            let (before, after) = (self.local(*before), self.local(after));
            let _ = write!(detail, "; the nearest are {before} and {after}");
        }
        detail.push('.');
        Problem::new(Code::NotAligned, detail)
    }

    /// RFC 3339 with the offset that the calendar's zone has at that time.
    fn local(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.zone()).to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }
}
