//! The objects that people are shown: a booking, what asks for it and what became of it. Tests
//! validate each against its schema.

use serde_json::{Value, json};

use crate::booking::problem::{Code, FieldError, Problem};

pub const USER: &str = "018f3c1e-7c1a-7000-8000-0123456789ab";
pub const BOOKING: &str = "018f3c1e-7c1a-7000-8000-0000000000b1";
pub const KEY: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";
pub const EVENT: &str = "018f3c1e-7c1a-7000-8000-0000000000f1";
pub const ENDPOINT: &str = "018f3c1e-7c1a-7000-8000-0000000000a1";
pub const COMMAND: &str = "018f3c1e-7c1a-7000-8000-0000000000c1";
pub const CORRELATION: &str = "018f3c1e-7c1a-7000-8000-0000000000e1";
pub const START: &str = "2031-03-03T09:00:00Z";
pub const END: &str = "2031-03-03T09:30:00Z";
pub const METADATA: &str = r#"{"title":"First booking"}"#;
pub const REASON: &str = "The client called.";
const ASKED: &str = "2031-02-24T15:04:05.123456Z";
pub const DECIDED: &str = "2031-02-24T15:04:05.131072Z";

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
    json!({ "reason": REASON })
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

pub fn failed() -> Value {
    json!({
        "commandId": COMMAND, "bookingId": BOOKING, "kind": "create", "status": "failed",
        "error": refusal(Code::InternalError), "acceptedAt": ASKED, "decidedAt": DECIDED
    })
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
