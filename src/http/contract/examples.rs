//! The objects that the document and the page show. Tests validate each against its schema, and
//! schemathesis sends those of requests as they are.

use serde_json::{Value, json};

use crate::booking::problem::{Code, FieldError, Problem};

pub const USER: &str = "018f3c1e-7c1a-7000-8000-0123456789ab";
pub const BOOKING: &str = "018f3c1e-7c1a-7000-8000-0000000000b1";
pub const COMMAND: &str = "018f3c1e-7c1a-7000-8000-0000000000c1";
pub const KEY: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";
/// A Monday.
pub const DATE: &str = "2031-03-03";
const CORRELATION: &str = "018f3c1e-7c1a-7000-8000-0000000000e1";
const START: &str = "2031-03-03T09:00:00Z";
const END: &str = "2031-03-03T09:30:00Z";
const ASKED: &str = "2031-02-24T15:04:05.123456Z";
const DECIDED: &str = "2031-02-24T15:04:05.131072Z";

pub fn interval() -> Value {
    json!({ "startTime": START, "endTime": END })
}

pub fn new_booking() -> Value {
    json!({
        "userId": USER, "startTime": START, "endTime": END,
        "metadata": { "title": "First booking" }
    })
}

pub fn cancellation() -> Value {
    json!({ "reason": "The client called." })
}

pub fn booking() -> Value {
    json!({
        "id": BOOKING, "userId": USER, "startTime": START, "endTime": END,
        "status": "CONFIRMED", "version": 1, "metadata": { "title": "First booking" },
        "createdAt": DECIDED, "updatedAt": DECIDED
    })
}

pub fn accepted() -> Value {
    json!({
        "commandId": COMMAND, "bookingId": BOOKING, "kind": "create", "status": "accepted",
        "acceptedAt": ASKED
    })
}

pub fn succeeded() -> Value {
    json!({
        "commandId": COMMAND, "bookingId": BOOKING, "kind": "create", "status": "succeeded",
        "booking": booking(), "acceptedAt": ASKED, "decidedAt": DECIDED
    })
}

pub fn rejected() -> Value {
    json!({
        "commandId": COMMAND, "bookingId": BOOKING, "kind": "create", "status": "rejected",
        "error": refusal(Code::SlotConflict), "acceptedAt": ASKED, "decidedAt": DECIDED
    })
}

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

/// A problem document with this code, written as the real ones are.
pub fn refusal(code: Code) -> Value {
    let mut problem = Problem::new(code, detail(code));
    if code == Code::ValidationFailed {
        let message = "must be a whole number from 30 to 1800".to_owned();
        problem = Problem::of_fields(vec![FieldError { field: "hold".into(), code, message }]);
    }
    if code == Code::SlotConflict {
        problem.conflicts_with = serde_json::from_value(interval()).ok();
    }
    serde_json::from_str(&problem.document(CORRELATION)).unwrap_or_default() // it is JSON
}

/// What such a refusal says, or much like it.
fn detail(code: Code) -> String {
    match code {
        Code::IdempotencyKeyMissing => {
            "Send the header Idempotency-Key with a value that is new for each booking and kept \
             for its retries."
                .into()
        }
        Code::NotFound => format!("You have no booking with the id {BOOKING}."),
        Code::SlotConflict => {
            format!("The calendar is taken from {START} to {END}; ask for another time.")
        }
        Code::VersionMismatch => {
            "The booking has version 2, not 1; read it again before you change it.".into()
        }
        other => format!("{}.", other.title()),
    }
}
