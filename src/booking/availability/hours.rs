//! Hours on the wall clock, and the instants they stand for.
//!
//! Where a zone changes its clock, a wall time may not exist or may exist twice. The rule: a time
//! that does not exist is the first instant after the gap; of a time that exists twice, a window
//! begins at the earlier instant and ends at the later. A window that is empty by this rule does
//! not take place. So 00:00 to 06:00 lasts 5 h on the night in spring and 7 h in autumn.

use std::fmt;

use chrono::{DateTime, Datelike as _, Days, MappedLocalTime, NaiveDate, NaiveTime, TimeZone as _};
use chrono::{TimeDelta, Utc};
use chrono_tz::{GapInfo, Tz};
use serde::{Deserialize, Serialize};

use crate::booking::Interval;

const MINUTES_A_DAY: u16 = 24 * 60;

/// Minutes after midnight on the wall clock, up to the midnight that ends the day, "24:00".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WallTime(u16);

impl WallTime {
    /// Reads "00:00" to "24:00".
    pub fn parse(text: &str) -> Option<Self> {
        let two_digits = |text: &str| -> Option<u16> {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let (hours, minutes) = text.split_once(':')?;
        let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
        let minute_of_day = hours * 60 + minutes;
        (minutes < 60 && minute_of_day <= MINUTES_A_DAY).then_some(Self(minute_of_day))
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl From<WallTime> for String {
    fn from(time: WallTime) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for WallTime {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a time from 00:00 to 24:00")
    }
}

/// Hours within one day; the end is after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallWindow {
    pub start: WallTime,
    pub end: WallTime,
}

impl WallWindow {
    pub const WHOLE_DAY: Self = Self { start: WallTime(0), end: WallTime(MINUTES_A_DAY) };

    /// The instants of the window on a date; nothing where the clock skips all of it.
    pub fn on(self, date: NaiveDate, zone: Tz) -> Option<Interval> {
        let (start, _) = instants(date, self.start, zone)?;
        let (_, end) = instants(date, self.end, zone)?;
        (start < end).then_some(Interval { start, end })
    }
}

/// The first and the last instant at which the wall clock shows `time` of `date`, or twice the
/// first instant after the gap that swallowed it. Nothing beyond the end of chrono's calendar.
fn instants(date: NaiveDate, time: WallTime, zone: Tz) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let date = if time.0 == MINUTES_A_DAY { date.checked_add_days(Days::new(1))? } else { date };
    let after_midnight = TimeDelta::minutes(i64::from(time.0 % MINUTES_A_DAY));
    let local = date.and_time(NaiveTime::MIN) + after_midnight;
    let (a, b) = match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(only) => (only, only),
        MappedLocalTime::Ambiguous(a, b) => (a, b),
        MappedLocalTime::None => {
            let after = GapInfo::new(&local, &zone)?.end?;
            (after, after)
        }
    };
    Some((a.min(b).to_utc(), a.max(b).to_utc()))
}

/// A day of the week, as RFC 5545 abbreviates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Day {
    Mo,
    Tu,
    We,
    Th,
    Fr,
    Sa,
    Su,
}

impl Day {
    const NAMED: [(&str, Self); 7] = [
        ("MO", Self::Mo),
        ("TU", Self::Tu),
        ("WE", Self::We),
        ("TH", Self::Th),
        ("FR", Self::Fr),
        ("SA", Self::Sa),
        ("SU", Self::Su),
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(name, _)| *name == text).map(|(_, day)| day)
    }

    pub fn of(date: NaiveDate) -> Self {
        match date.weekday() {
            chrono::Weekday::Mon => Self::Mo,
            chrono::Weekday::Tue => Self::Tu,
            chrono::Weekday::Wed => Self::We,
            chrono::Weekday::Thu => Self::Th,
            chrono::Weekday::Fri => Self::Fr,
            chrono::Weekday::Sat => Self::Sa,
            chrono::Weekday::Sun => Self::Su,
        }
    }
}

/// Joins what overlaps or touches; the result is in order and has gaps between its stretches.
pub fn merged(mut stretches: Vec<Interval>) -> Vec<Interval> {
    stretches.sort_unstable_by_key(|stretch| stretch.start);
    let mut joined: Vec<Interval> = Vec::with_capacity(stretches.len());
    for next in stretches {
        match joined.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            _ => joined.push(next),
        }
    }
    joined
}
