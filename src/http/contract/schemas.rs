//! The objects of the API as JSON Schema, each with its bounds and an example.
//!
//! Requests are closed: what is not named here is refused. Answers are open for clients, who must
//! ignore what they do not know, because fields are added; the tests close them, so that nothing
//! is answered that is not named here. Required fields stand in the order in which people read them.

use serde_json::{Map, Value, json};

use super::availability;
use super::examples;
use crate::booking::fields::{
    HOLD_SECONDS, MAX_METADATA_KEY_CHARS, MAX_METADATA_KEYS, MAX_METADATA_VALUE_CHARS,
    MAX_REASON_CHARS,
};
use crate::booking::problem::Code;
use crate::http::caller::MAX_CORRELATION_CHARS;

/// Every named schema.
pub fn all() -> Map<String, Value> {
    let named = [
        ("NewBooking", new_booking()),
        ("Confirmation", closed(json!({}), &[], &json!({}))),
        ("Cancellation", cancellation()),
        ("Rescheduling", rescheduling()),
        ("Booking", booking()),
        ("Command", command()),
        ("Bookings", bookings()),
        ("History", history()),
        ("HistoryEntry", history_entry()),
        ("Availability", availability::availability()),
        ("Slots", slots()),
        ("Interval", interval()),
        ("Metadata", metadata()),
        ("Problem", problem()),
        ("FieldError", field_error()),
        ("Code", code()),
        ("Health", health()),
        ("Live", live()),
        ("Readiness", readiness()),
    ];
    named.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

/// The first example of a named schema.
pub fn example(name: &str) -> Value {
    all().get_mut(name).map(|schema| schema["examples"][0].take()).unwrap_or_default()
}

/// A reference to a named schema.
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object of an answer.
fn open(properties: Value, required: &[&str], example: &Value) -> Value {
    json!({
        "type": "object", "properties": properties, "required": required, "examples": [example]
    })
}

/// An object of a request.
pub fn closed(properties: Value, required: &[&str], example: &Value) -> Value {
    let mut schema = open(properties, required, example);
    schema["additionalProperties"] = false.into();
    schema
}

/// The same, or null, which is the same as nothing.
pub fn nullable(mut schema: Value) -> Value {
    match schema.get("type").cloned() {
        Some(kind) => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        None => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

pub fn about(text: &str, mut schema: Value) -> Value {
    schema["description"] = text.into();
    schema
}

fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid" })
}

/// A time of a request.
pub fn date_time() -> Value {
    json!({
        "type": "string", "format": "date-time", "pattern": "^(19[7-9]|[2-9][0-9]{2})[0-9]-",
        "description": "RFC 3339 with an offset, of the years 1970 to 9999."
    })
}

/// A time of an answer.
fn utc() -> Value {
    json!({ "type": "string", "format": "date-time", "pattern": "Z$" })
}

/// Text that Postgres can keep.
fn text(most: usize) -> Value {
    json!({ "type": "string", "maxLength": most, "pattern": "^[^\\u0000]*$" })
}

/// The states of a booking.
pub fn status() -> Value {
    json!({
        "type": "string", "enum": ["PENDING", "CONFIRMED", "CANCELLED", "EXPIRED", "COMPLETED"]
    })
}

fn new_booking() -> Value {
    let (least, most) = HOLD_SECONDS.into_inner();
    let properties = json!({
        "userId": about("Whose calendar: yours, or that of the user you act for.", uuid()),
        "startTime": about("In the future; RFC 3339 with an offset.", date_time()),
        "endTime": about("After the start, by 31 days at most.", date_time()),
        "metadata": nullable(metadata()),
        "hold": about(
            "Holds the time for so many seconds; it must be confirmed by then. Without it the \
             booking is confirmed.",
            json!({ "type": ["integer", "null"], "minimum": least, "maximum": most }),
        ),
    });
    closed(properties, &["userId", "startTime", "endTime"], &examples::new_booking())
}

fn cancellation() -> Value {
    let reason = about("Kept with the booking.", nullable(text(MAX_REASON_CHARS)));
    closed(json!({ "reason": reason }), &[], &examples::cancellation())
}

fn rescheduling() -> Value {
    let properties = json!({
        "startTime": about("In the future; RFC 3339 with an offset.", date_time()),
        "endTime": about("After the start, by 31 days at most.", date_time()),
    });
    closed(properties, &["startTime", "endTime"], &examples::interval())
}

fn metadata() -> Value {
    let mut key = text(MAX_METADATA_KEY_CHARS);
    key["minLength"] = 1.into();
    let types = ["string", "number", "boolean", "null"];
    let value = json!({
        "type": types, "maxLength": MAX_METADATA_VALUE_CHARS, "pattern": "^[^\\u0000]*$"
    });
    json!({
        "type": "object", "maxProperties": MAX_METADATA_KEYS, "propertyNames": key,
        "additionalProperties": value,
        "description": "Your own notes, flat, at most 32 KiB of JSON.", "examples": [{ "title": "First booking" }]
    })
}

fn booking() -> Value {
    let properties = json!({
        "id": uuid(),
        "userId": uuid(),
        "startTime": utc(),
        "endTime": utc(),
        "status": status(),
        "version": about("Counts up by one with each change.", positive()),
        "metadata": named("Metadata"),
        "holdExpiresAt": about("When the hold lapses; there while PENDING.", utc()),
        "cancelReason": { "type": "string" },
        "createdAt": utc(),
        "updatedAt": utc(),
    });
    let required = [
        "id",
        "userId",
        "startTime",
        "endTime",
        "status",
        "version",
        "metadata",
        "createdAt",
        "updatedAt",
    ];
    open(properties, &required, &examples::booking())
}

fn command() -> Value {
    let properties = json!({
        "commandId": uuid(),
        "bookingId": uuid(),
        "kind": { "type": "string", "enum": ["create", "confirm", "cancel", "reschedule"] },
        "status": about(
            "The last three are final.",
            json!({ "type": "string", "enum": ["accepted", "succeeded", "rejected", "failed"] }),
        ),
        "booking": about("The booking as the command left it; there if it succeeded.", named("Booking")),
        "error": about("Why not; there if it was rejected or failed.", named("Problem")),
        "acceptedAt": utc(),
        "decidedAt": utc(),
    });
    let required = ["commandId", "bookingId", "kind", "status", "acceptedAt"];
    let mut command = open(properties, &required, &examples::accepted());
    command["examples"] =
        json!([examples::accepted(), examples::succeeded(), examples::rejected()]);
    command
}

fn bookings() -> Value {
    let properties = json!({
        "bookings": { "type": "array", "items": named("Booking") },
        "nextCursor": next_cursor(),
    });
    open(properties, &["bookings"], &examples::bookings())
}

fn history() -> Value {
    let properties = json!({
        "entries": { "type": "array", "items": named("HistoryEntry") },
        "nextCursor": next_cursor(),
    });
    open(properties, &["entries"], &examples::history())
}

fn next_cursor() -> Value {
    about("There while more follows.", json!({ "type": "string" }))
}

fn history_entry() -> Value {
    let actions =
        ["CREATED", "HELD", "CONFIRMED", "RESCHEDULED", "CANCELLED", "EXPIRED", "COMPLETED"];
    let properties = json!({
        "version": positive(),
        "action": { "type": "string", "enum": actions },
        "actor": about(
            "Who asked: a user's id, `service:` and its name, or `time`.",
            json!({ "type": "string" }),
        ),
        "at": utc(),
        "before": about("Null at the creation.", nullable(named("Booking"))),
        "after": named("Booking"),
        "commandId": about("Null where time did it.", nullable(uuid())),
    });
    let required = ["version", "action", "actor", "at", "before", "after", "commandId"];
    open(properties, &required, &examples::history_entry())
}

fn slots() -> Value {
    let properties = json!({
        "slots": { "type": "array", "items": named("Interval") },
        "timeZone": about("In which dates were read.", json!({ "type": "string" })),
    });
    open(properties, &["slots", "timeZone"], &examples::slots())
}

fn interval() -> Value {
    let properties = json!({ "startTime": utc(), "endTime": utc() });
    open(properties, &["startTime", "endTime"], &examples::interval())
}

fn problem() -> Value {
    let correlation = json!({ "type": "string", "maxLength": MAX_CORRELATION_CHARS });
    let properties = json!({
        "type": { "type": "string", "pattern": "^urn:booking:problem:[A-Z_]+$" },
        "title": about("The code in words.", json!({ "type": "string" })),
        "status": about("As of the answer.", json!({ "type": "integer" })),
        "detail": about("What was wrong and what to do.", json!({ "type": "string" })),
        "code": named("Code"),
        "correlationId": about("Name it when you ask for help.", correlation),
        "errors": about(
            "Everything that is wrong with the request.",
            json!({ "type": "array", "minItems": 1, "items": named("FieldError") }),
        ),
        "conflictsWith": about("The time that is taken, of a `SLOT_CONFLICT`.", named("Interval")),
    });
    let required = ["type", "title", "status", "detail", "code", "correlationId"];
    let mut problem = open(properties, &required, &examples::refusal(Code::SlotConflict));
    problem["description"] = "A problem document of RFC 9457.".into();
    problem
}

fn field_error() -> Value {
    let properties = json!({
        "field": about("A field, parameter or header.", json!({ "type": "string" })),
        "code": named("Code"),
        "message": { "type": "string" },
    });
    let example = json!({
        "field": "hold", "code": "VALIDATION_FAILED",
        "message": "must be a whole number from 30 to 1800"
    });
    open(properties, &["field", "code", "message"], &example)
}

fn code() -> Value {
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let about = "For programs. New ones may be added; treat an unknown one by its status.";
    json!({ "type": "string", "enum": codes, "description": about, "examples": [codes[0]] })
}

fn health() -> Value {
    let properties = json!({
        "status": { "type": "string", "enum": ["healthy", "unhealthy"] },
        "timestamp": utc(),
    });
    let example = json!({ "status": "healthy", "timestamp": "2031-02-24T15:04:05.123456Z" });
    open(properties, &["status", "timestamp"], &example)
}

fn live() -> Value {
    let properties = json!({ "status": { "type": "string", "const": "live" } });
    open(properties, &["status"], &json!({ "status": "live" }))
}

fn readiness() -> Value {
    let words = ["ready", "degraded", "unavailable", "stopping"];
    let server = json!({ "type": "string", "enum": ["up", "down"] });
    let properties = json!({
        "status": { "type": "string", "enum": words },
        "checks": about(
            "Each server by its name.",
            json!({ "type": "object", "additionalProperties": server }),
        ),
    });
    let checks = json!({ "postgres": "up", "rabbitmq": "up", "redis": "up" });
    open(properties, &["status", "checks"], &json!({ "status": "ready", "checks": checks }))
}

fn positive() -> Value {
    json!({ "type": "integer", "minimum": 1 })
}
