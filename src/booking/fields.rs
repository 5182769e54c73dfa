//! Reads the fields of a JSON object one by one and collects everything that is wrong.
//!
//! Both doors (HTTP and the queue) parse with it, so a caller sees all mistakes at once, each
//! with its field, and in the same words. Unknown fields are mistakes too: a misspelt optional
//! field would otherwise be lost without a word.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::problem::{Code, FieldError};
use super::{Interval, Metadata};

/// A booking may be this long at most; longer is `DURATION_OUT_OF_RANGE`.
pub const MAX_DURATION: TimeDelta = TimeDelta::days(31);
/// Times from here on are refused: far beyond any calendar, far below what Postgres, chrono and
/// JavaScript's `Date` can hold.
pub const LATEST: DateTime<Utc> = match DateTime::from_timestamp(2_932_896 * 86_400, 0) {
    Some(time) => time,
    None => DateTime::<Utc>::MAX_UTC, // not reached: chrono knows the year 9999
};
/// Metadata with more keys is refused.
pub const MAX_METADATA_KEYS: usize = 50;
/// Metadata keys of more characters are refused.
pub const MAX_METADATA_KEY_CHARS: usize = 40;
/// Metadata strings of more characters are refused.
pub const MAX_METADATA_VALUE_CHARS: usize = 500;
/// Metadata that is larger as canonical JSON, in bytes, is refused: every answer and every audit row
/// carries it.
pub const MAX_METADATA_BYTES: usize = 32 * 1024;
/// A cancel reason of more characters is refused.
pub const MAX_REASON_CHARS: usize = 500;

/// A hold lasts this many seconds; shorter and longer ones are refused.
pub const HOLD_SECONDS: RangeInclusive<i32> = 30..=1800;
/// Longer idempotency keys are refused.
pub const MAX_KEY_CHARS: usize = 255;
/// Longer correlation ids are refused.
pub const MAX_CORRELATION_CHARS: usize = 128;
/// More mistakes than these are not listed: a body full of them must not come back doubled.
const MAX_MISTAKES: usize = 100;

/// A JSON object being read.
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Where the object is, as in `weekly[2].`; empty for the body itself.
    path: String,
    known: BTreeSet<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    pub fn of(object: &'a Map<String, Value>) -> Self {
        Self::at(String::new(), object)
    }

    fn at(path: String, object: &'a Map<String, Value>) -> Self {
        Self { object, path, known: BTreeSet::new(), errors: Vec::new() }
    }

    /// The value, unless it is absent or null; both mean "not given".
    pub(super) fn take(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.insert(field);
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn refuse(
        &mut self,
        field: impl Into<String>,
        code: Code,
        message: impl Into<String>,
    ) {
        if self.errors.len() < MAX_MISTAKES {
            let field = format!("{}{}", self.path, field.into());
            self.errors.push(FieldError { field, code, message: message.into() });
        }
    }

    pub(super) fn required(&mut self, field: &'static str) -> Option<&'a Value> {
        let value = self.take(field);
        if value.is_none() {
            self.refuse(field, Code::ValidationFailed, "is required");
        }
        value
    }

    /// A required UUID.
    pub fn uuid(&mut self, field: &'static str) -> Option<Uuid> {
        let parsed = self.required(field)?.as_str().and_then(parse_uuid);
        if parsed.is_none() {
            self.refuse(
                field,
                Code::ValidationFailed,
                "must be a UUID such as 018f3c1e-7c1a-7000-8000-0123456789ab",
            );
        }
        parsed
    }

    /// The required `startTime` and `endTime` of a booking.
    pub fn interval(&mut self) -> Option<Interval> {
        let interval = self.stretch()?;
        if interval.end - interval.start > MAX_DURATION {
            let days = MAX_DURATION.num_days();
            self.refuse(
                "endTime",
                Code::DurationOutOfRange,
                format!("must be at most {days} days after startTime"),
            );
            return None;
        }
        Some(interval)
    }

    /// The required `startTime` and `endTime` of a time that may be as long as it likes.
    pub fn stretch(&mut self) -> Option<Interval> {
        let (start, end) = (self.time("startTime"), self.time("endTime"));
        let stretch = Interval { start: start?, end: end? };
        if stretch.end <= stretch.start {
            self.refuse("endTime", Code::InvalidTime, "must be after startTime");
            return None;
        }
        Some(stretch)
    }

    /// A required RFC 3339 time with an offset.
    pub fn time(&mut self, field: &'static str) -> Option<DateTime<Utc>> {
        let text = self.required(field)?.as_str().unwrap_or_default();
        match parse_time(text) {
            Ok(time) => Some(time),
            Err((code, message)) => {
                self.refuse(field, code, message);
                None
            }
        }
    }

    /// An optional string in a notation of its own; `shape` says what it must be.
    pub fn notation<T>(
        &mut self,
        field: &'static str,
        shape: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(field)?;
        let parsed = value.as_str().and_then(read);
        if parsed.is_none() {
            self.refuse(field, Code::ValidationFailed, format!("must be {shape}"));
        }
        parsed
    }

    /// The same, but required.
    pub fn required_notation<T>(
        &mut self,
        field: &'static str,
        shape: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.required(field)?;
        self.notation(field, shape, read)
    }

    /// An optional text of at most `most` characters.
    pub fn text(&mut self, field: &'static str, most: usize) -> Option<String> {
        let value = self.take(field)?;
        let Some(text) = value.as_str() else {
            self.refuse(field, Code::ValidationFailed, "must be a string");
            return None;
        };
        if let Some(message) = text_mistake(text, most) {
            self.refuse(field, Code::ValidationFailed, message);
            return None;
        }
        Some(text.to_owned())
    }

    /// An optional whole number within `bounds`.
    pub fn whole(&mut self, field: &'static str, bounds: RangeInclusive<i32>) -> Option<i32> {
        let value = self.take(field)?;
        let within = |number: i64| number.try_into().ok().filter(|n| bounds.contains(n));
        let whole = value.as_i64().or_else(|| whole_of(value.as_f64()?)).and_then(within);
        if whole.is_none() {
            let (least, most) = bounds.into_inner();
            let message = format!("must be a whole number from {least} to {most}");
            self.refuse(field, Code::ValidationFailed, message);
        }
        whole
    }

    /// An optional array of at most `most` objects, each read by `read`, which leaves a mistake
    /// behind where it returns nothing.
    pub fn list<T>(
        &mut self,
        field: &'static str,
        most: usize,
        mut read: impl FnMut(&mut Fields<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.take(field)? else {
            self.refuse(field, Code::ValidationFailed, "must be an array");
            return None;
        };
        if items.len() > most {
            let message = format!("must have at most {most} entries");
            self.refuse(field, Code::ValidationFailed, message);
            return None;
        }
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Value::Object(object) = item else {
                let entry = format!("{field}[{index}]");
                self.refuse(entry, Code::ValidationFailed, "must be an object");
                continue;
            };
            let mut entry = Fields::at(format!("{}{field}[{index}].", self.path), object);
            list.extend(read(&mut entry));
            let room = MAX_MISTAKES - self.errors.len();
            self.errors.extend(entry.finish().err().unwrap_or_default().into_iter().take(room));
        }
        Some(list)
    }

    /// The same, but required.
    pub fn required_list<T>(
        &mut self,
        field: &'static str,
        most: usize,
        read: impl FnMut(&mut Fields<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.required(field)?;
        self.list(field, most, read)
    }

    /// The optional `metadata`: a flat object, here brought into one canonical text (keys in
    /// order, no blanks), so that equal content always has an equal fingerprint.
    pub fn metadata(&mut self) -> Option<Metadata> {
        const FIELD: &str = "metadata";
        let empty = Map::new();
        let object = match self.take(FIELD) {
            None => &empty,
            Some(Value::Object(object)) => object,
            Some(_) => {
                self.refuse(FIELD, Code::ValidationFailed, "must be an object");
                return None;
            }
        };
        if object.len() > MAX_METADATA_KEYS {
            self.refuse(
                FIELD,
                Code::ValidationFailed,
                format!("must have at most {MAX_METADATA_KEYS} keys"),
            );
            return None;
        }
        let before = self.errors.len();
        for (key, value) in object {
            if let Some(message) = metadata_mistake(key, value) {
                let shown: String = key.chars().take(MAX_METADATA_KEY_CHARS).collect();
                self.refuse(format!("{FIELD}.{shown}"), Code::ValidationFailed, message);
            }
        }
        if self.errors.len() > before {
            return None;
        }
        let text = serde_json::to_string(object).ok()?;
        if text.len() > MAX_METADATA_BYTES {
            let most = MAX_METADATA_BYTES / 1024;
            self.refuse(FIELD, Code::ValidationFailed, format!("must have at most {most} KiB"));
            return None;
        }
        Metadata::from_json(text).ok()
    }

    /// Adds an unknown-field mistake for whatever was not read, and ends the reading.
    ///
    /// # Errors
    /// Everything that was wrong, in the order of reading.
    pub fn finish(mut self) -> Result<(), Vec<FieldError>> {
        const MOST_SHOWN: usize = 20; // a body full of unknown names must not come back doubled
        let unknown: Vec<_> = self
            .object
            .keys()
            .filter(|key| !self.known.contains(key.as_str()))
            .take(MOST_SHOWN)
            .collect();
        for key in unknown {
            let shown: String = key.chars().take(MAX_METADATA_KEY_CHARS).collect();
            let known: Vec<_> = self.known.iter().copied().collect();
            self.refuse(
                shown,
                Code::ValidationFailed,
                format!("is not known here; known are: {}", known.join(", ")),
            );
        }
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }
}

/// Reads an RFC 3339 time with an offset.
///
/// # Errors
/// What is wrong with it, and its code.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, (Code, &'static str)> {
    const SHAPE: (Code, &str) = (
        Code::ValidationFailed,
        "must be an RFC 3339 time with an offset, such as 2027-03-01T09:00:00Z",
    );
    let Ok(time) = DateTime::parse_from_rfc3339(text) else {
        let zoneless = text.parse::<NaiveDateTime>().is_ok()
            || NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").is_ok();
        let offset = (Code::InvalidTime, "has no offset; add Z or one such as +01:00");
        return Err(if zoneless { offset } else { SHAPE });
    };
    // To the microsecond, and a leap second as the first of the next minute: as Postgres
    // keeps it. Otherwise an interval could be one here and empty there.
    let time = DateTime::from_timestamp_micros(time.timestamp_micros()).ok_or(SHAPE)?;
    if !(DateTime::UNIX_EPOCH..LATEST).contains(&time) {
        return Err((Code::InvalidTime, "must lie between the years 1970 and 9999"));
    }
    Ok(time)
}

/// A UUID in its hyphenated form only: the one form that we give out.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| text.parse().ok()).flatten()
}

/// 30.0 is as whole as 30: some languages write all numbers so.
fn whole_of(number: f64) -> Option<i64> {
    // In this range every whole number is exact.
    let fine = number.fract() == 0.0 && number.abs() < f64::from(i32::MAX);
    fine.then_some(number as i64)
}

fn text_mistake(text: &str, most: usize) -> Option<String> {
    if text.chars().count() > most {
        return Some(format!("must have at most {most} characters"));
    }
    // Postgres cannot keep the character U+0000.
    text.contains('\0').then(|| "must not contain the character U+0000".to_owned())
}

fn metadata_mistake(key: &str, value: &Value) -> Option<String> {
    if key.is_empty() {
        return Some("the key must not be empty".into());
    }
    if let Some(mistake) = text_mistake(key, MAX_METADATA_KEY_CHARS) {
        return Some(format!("the key {mistake}"));
    }
    match value {
        Value::String(text) => text_mistake(text, MAX_METADATA_VALUE_CHARS),
        Value::Object(_) | Value::Array(_) => {
            Some("must be a string, a number, true, false or null".into())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}
