//! The objects that the document and the page show, besides those of [`crate::messages`]. Tests
//! validate each against its schema, and schemathesis sends those of requests as they are.

use serde_json::{Value, json};

pub use crate::messages::examples::{
    BOOKING, COMMAND, DECIDED, ENDPOINT, EVENT, KEY, USER, booking, interval, refusal,
};

/// A Monday.
pub const DATE: &str = "2031-03-03";

pub fn bookings() -> Value {
    json!({ "bookings": [booking()] })
}

pub fn history_entry() -> Value {
    json!({
        "version": 1, "action": "CREATED", "actor": USER, "at": DECIDED, "before": null,
        "after": booking(), "commandId": COMMAND
    })
}

pub fn history() -> Value {
    json!({ "entries": [history_entry()] })
}

pub fn availability() -> Value {
    json!({
        "timeZone": "Europe/Berlin",
        "weekly": [{ "day": "MO", "start": "09:00", "end": "17:00" }],
        "overrides": [{ "date": "2031-12-24", "windows": [{ "start": "09:00", "end": "12:00" }] }],
        "blackouts": [{ "startTime": "2031-12-31T00:00:00Z", "endTime": "2032-01-02T00:00:00Z" }],
        "bufferBefore": 0, "bufferAfter": 10, "minNotice": 60, "maxAdvance": 5_256_000,
        "minDuration": 15, "maxDuration": 480, "slotStep": 15
    })
}

pub fn slots() -> Value {
    json!({ "slots": [interval()], "timeZone": "Europe/Berlin" })
}
