//! The schema of when a calendar takes bookings: request and answer are the same.

use serde_json::{Value, json};

use super::examples;
use crate::booking::availability::parse::{
    MAX_ADVANCE, MAX_BLACKOUTS, MAX_BUFFER, MAX_DURATION_MINUTES, MAX_NOTICE, MAX_OVERRIDES,
    MAX_SLOT_STEP, MAX_WEEKLY_RULES, MAX_WINDOWS_A_DAY,
};
use crate::messages::shapes::{about, closed, date_time, nullable};

pub fn availability() -> Value {
    let properties = json!({
        "timeZone": about("Of the wall times below; UTC when absent.", nullable(time_zone())),
        "weekly": about(
            "When the calendar is open. Absent: always. Empty: only as `overrides` say.",
            list(MAX_WEEKLY_RULES, weekly_rule()),
        ),
        "overrides": about(
            "Each replaces the hours of its date; without windows it is closed.",
            list(MAX_OVERRIDES, date_override()),
        ),
        "blackouts": about("No booking meets one.", list(MAX_BLACKOUTS, blackout())),
        "bufferBefore": about("Kept free before each booking.", minutes(0, MAX_BUFFER)),
        "bufferAfter": about("Kept free after each booking.", minutes(0, MAX_BUFFER)),
        "minNotice": about("From the request to the start, at least.", minutes(0, MAX_NOTICE)),
        "maxAdvance": about("From the request to the start, at most.", minutes(1, MAX_ADVANCE)),
        "minDuration": about("Of a booking.", minutes(1, MAX_DURATION_MINUTES)),
        "maxDuration": about("Of a booking.", minutes(1, MAX_DURATION_MINUTES)),
        "slotStep": about(
            "Bookings start a whole number of steps after the start of a window.",
            minutes(1, MAX_SLOT_STEP),
        ),
    });
    let mut schema = closed(properties, &[], &examples::availability());
    schema["description"] =
        "When a calendar takes bookings. Durations are minutes; what is absent \
                             or null is no limit."
            .into();
    schema
}

/// The name of a zone is not bound by a pattern: the list changes with the world.
pub fn time_zone() -> Value {
    json!({
        "type": "string", "format": "iana-time-zone", "examples": ["Europe/Berlin"],
        "description": "An IANA name."
    })
}

fn list(most: usize, items: Value) -> Value {
    json!({ "type": ["array", "null"], "maxItems": most, "items": items })
}

fn minutes(least: i32, most: i32) -> Value {
    json!({ "type": ["integer", "null"], "minimum": least, "maximum": most })
}

fn weekly_rule() -> Value {
    let days = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];
    let properties = json!({
        "day": { "type": "string", "enum": days }, "start": wall_time(), "end": wall_time()
    });
    let example = json!({ "day": "MO", "start": "09:00", "end": "17:00" });
    closed(properties, &["day", "start", "end"], &example)
}

fn date_override() -> Value {
    let window = json!({ "start": "09:00", "end": "12:00" });
    let windows =
        closed(json!({ "start": wall_time(), "end": wall_time() }), &["start", "end"], &window);
    let date = json!({
        "type": "string", "format": "date", "pattern": "^(19[7-9]|[2-9][0-9]{2})[0-9]-",
        "description": "Of the years 1970 to 9998, each once."
    });
    let properties = json!({
        "date": date,
        "windows": { "type": "array", "maxItems": MAX_WINDOWS_A_DAY, "items": windows },
    });
    let example = json!({ "date": "2031-12-24", "windows": [window] });
    closed(properties, &["date", "windows"], &example)
}

fn blackout() -> Value {
    let properties = json!({ "startTime": date_time(), "endTime": date_time() });
    closed(properties, &["startTime", "endTime"], &examples::interval())
}

/// `end` is after `start`; hours over midnight are two windows.
fn wall_time() -> Value {
    json!({ "type": "string", "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$" })
}
