//! Reads an availability from JSON: every bound, and every mistake with its place.

use std::collections::BTreeSet;

use chrono::{Datelike as _, NaiveDate};
use chrono_tz::Tz;
use serde_json::{Map, Value};

use super::hours::{Day, WallTime, WallWindow};
use super::{Availability, DateOverride, WeeklyRule};
use crate::booking::fields::{Fields, MAX_DURATION};
use crate::booking::problem::{Code, FieldError};

/// More weekly rules are refused.
pub const MAX_WEEKLY_RULES: usize = 100;
/// More date overrides are refused; a year and a month of single days.
pub const MAX_OVERRIDES: usize = 400;
/// More windows in one override are refused.
pub const MAX_WINDOWS_A_DAY: usize = 24;
/// More blackouts are refused.
pub const MAX_BLACKOUTS: usize = 400;
/// Buffers of more minutes are refused: a day.
pub const MAX_BUFFER: i32 = 24 * 60;
/// A notice of more minutes is refused: a year.
pub const MAX_NOTICE: i32 = 365 * 24 * 60;
/// An advance of more minutes is refused: ten years.
pub const MAX_ADVANCE: i32 = 10 * MAX_NOTICE;
/// Slots further apart are refused: a day.
pub const MAX_SLOT_STEP: i32 = 24 * 60;
/// Longer names are refused; the longest zone has half as many characters.
pub const MAX_ZONE_CHARS: usize = 64;
/// No booking is longer than this many minutes, see [`MAX_DURATION`].
pub const MAX_DURATION_MINUTES: i32 = 31 * 24 * 60;
const _: () = assert!(MAX_DURATION.num_minutes() == MAX_DURATION_MINUTES as i64);

const TIME_OF_DAY: &str = "a wall time as HH:MM, from 00:00 to 24:00";
/// What [`parse_date`] takes.
pub const DATE: &str = "a date such as 2027-03-28, between the years 1970 and 9998";

impl Availability {
    /// Reads the JSON of an availability.
    ///
    /// # Errors
    /// Every field that is malformed, out of bounds, contradictory or unknown, up to a hundred.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(body);
        let mut dates = BTreeSet::new();
        let availability = Self {
            time_zone: zone(&mut fields),
            weekly: fields.list("weekly", MAX_WEEKLY_RULES, |rule| {
                let day = rule.required_notation("day", "MO, TU, WE, TH, FR, SA or SU", Day::parse);
                let window = wall_window(rule);
                Some(WeeklyRule { day: day?, window: window? })
            }),
            overrides: fields.list("overrides", MAX_OVERRIDES, |day| {
                let date = day.required_notation("date", DATE, parse_date);
                if date.is_some_and(|date| !dates.insert(date)) {
                    day.refuse("date", Code::InvalidTime, "is given twice");
                }
                let windows = day.required_list("windows", MAX_WINDOWS_A_DAY, wall_window);
                Some(DateOverride { date: date?, windows: windows? })
            }),
            blackouts: fields.list("blackouts", MAX_BLACKOUTS, Fields::stretch),
            buffer_before: fields.whole("bufferBefore", 0..=MAX_BUFFER),
            buffer_after: fields.whole("bufferAfter", 0..=MAX_BUFFER),
            min_notice: fields.whole("minNotice", 0..=MAX_NOTICE),
            max_advance: fields.whole("maxAdvance", 1..=MAX_ADVANCE),
            min_duration: fields.whole("minDuration", 1..=MAX_DURATION_MINUTES),
            max_duration: fields.whole("maxDuration", 1..=MAX_DURATION_MINUTES),
            slot_step: fields.whole("slotStep", 1..=MAX_SLOT_STEP),
        };
        availability.refuse_contradictions(&mut fields);
        fields.finish()?;
        Ok(availability)
    }

    /// What no booking could obey.
    fn refuse_contradictions(&self, fields: &mut Fields<'_>) {
        let mut refuse =
            |field: &str, code: Code, message: &str| fields.refuse(field, code, message);
        let exceeds = |least: Option<i32>, most: Option<i32>| least > most && most.is_some();
        if exceeds(self.min_duration, self.max_duration) {
            refuse("maxDuration", Code::DurationOutOfRange, "must not be less than minDuration");
        }
        if exceeds(self.min_notice, self.max_advance) {
            refuse("maxAdvance", Code::InvalidTime, "must not be less than minNotice");
        }
    }
}

/// The optional `timeZone`.
pub fn zone(fields: &mut Fields<'_>) -> Option<Tz> {
    const FIELD: &str = "timeZone";
    let name = fields.text(FIELD, MAX_ZONE_CHARS)?;
    let zone = name.parse().ok();
    if zone.is_none() {
        let message = "must be an IANA time zone such as Europe/Berlin";
        fields.refuse(FIELD, Code::InvalidTime, message);
    }
    zone
}

fn wall_window(fields: &mut Fields<'_>) -> Option<WallWindow> {
    let start = fields.required_notation("start", TIME_OF_DAY, WallTime::parse);
    let end = fields.required_notation("end", TIME_OF_DAY, WallTime::parse);
    let window = WallWindow { start: start?, end: end? };
    if window.end <= window.start {
        let message = "must be after start; hours over midnight are two windows";
        fields.refuse("end", Code::InvalidTime, message);
        return None;
    }
    Some(window)
}

/// A date as `YYYY-MM-DD` and not otherwise.
pub fn parse_date(text: &str) -> Option<NaiveDate> {
    let date: NaiveDate = text.parse().ok()?;
    (date.to_string() == text && (1970..=9998).contains(&date.year())).then_some(date)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<Availability, Vec<FieldError>> {
        Availability::parse(body.as_object().unwrap())
    }

    #[test]
    fn what_is_read_is_written_and_kept_as_it_was_given() {
        for body in [
            json!({}),
            json!({ "weekly": [] }),
            json!({
                "timeZone": "Europe/Berlin",
                "weekly": [{ "day": "MO", "start": "09:00", "end": "17:00" },
                           { "day": "SU", "start": "00:00", "end": "24:00" }],
                "overrides": [{ "date": "2027-03-28", "windows": [{ "start": "00:00", "end": "24:00" }] },
                              { "date": "2027-12-24", "windows": [] }],
                "blackouts": [{ "startTime": "2027-01-01T00:00:00Z", "endTime": "2027-06-01T00:00:00Z" }],
                "bufferBefore": 0, "bufferAfter": 10, "minNotice": 60, "maxAdvance": 129_600,
                "minDuration": 15, "maxDuration": 480, "slotStep": 15
            }),
        ] {
            let read = parse(body.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), body);
            let kept: Availability = serde_json::from_value(body).unwrap();
            assert_eq!(kept, read);
        }
        let nulls = json!({ "timeZone": null, "weekly": null, "slotStep": null });
        assert_eq!(parse(nulls).unwrap(), Availability::default());
        let unknown: Result<Availability, _> = serde_json::from_value(json!({ "capacity": 3 }));
        assert!(unknown.is_err());
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let errors = parse(json!({
            "timeZone": "Mars/Olympus",
            "weekly": [{ "day": "MO", "start": "09:00", "end": "17:00" }, 7,
                       { "day": "mo", "start": "9:00", "end": "24:01", "note": "" }],
            "overrides": [{ "date": "2027-02-29" },
                          { "date": "2027-03-01", "windows": [{ "start": "12:00", "end": "12:00" }] },
                          { "date": "2027-03-01", "windows": [] }],
            "blackouts": [{ "startTime": "2027-01-02T00:00:00Z", "endTime": "2027-01-01T00:00:00Z" }],
            "bufferAfter": 1441, "minNotice": 1.5, "maxAdvance": 0,
            "minDuration": 60, "maxDuration": 30, "slotStep": "15", "capacity": 3
        }))
        .unwrap_err();
        let mut fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        fields.sort_unstable();
        let mut expected = [
            "timeZone",
            "weekly[1]",
            "weekly[2].day",
            "weekly[2].start",
            "weekly[2].end",
            "weekly[2].note",
            "overrides[0].date",
            "overrides[0].windows",
            "overrides[1].windows[0].end",
            "overrides[2].date",
            "blackouts[0].endTime",
            "bufferAfter",
            "minNotice",
            "maxAdvance",
            "maxDuration",
            "slotStep",
            "capacity",
        ];
        expected.sort_unstable();
        assert_eq!(fields, expected, "{errors:#?}");
    }

    #[test]
    fn too_much_is_refused_and_not_all_of_it_told() {
        let day = json!({ "day": "MO", "start": "09:00", "end": "17:00" });
        let errors = parse(json!({ "weekly": vec![day; MAX_WEEKLY_RULES + 1] })).unwrap_err();
        assert_eq!(errors[0].message, "must have at most 100 entries");
        let windows = vec![json!({}); MAX_WINDOWS_A_DAY];
        let overrides = vec![json!({ "windows": windows }); MAX_OVERRIDES];
        assert_eq!(parse(json!({ "overrides": overrides })).unwrap_err().len(), 100);
    }
}
