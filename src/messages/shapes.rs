//! The objects that requests, answers and messages are made of, as JSON Schema with their bounds and
//! an example. Written once: the HTTP contract and the schemas of messages both take them from here.
//!
//! What we are sent is closed: what is not named here is refused. What we send is open for those who
//! get it, who must ignore what they do not know, because fields are added. Required fields stand in
//! the order in which people read them.

use serde_json::{Map, Value, json};

use super::examples;
use crate::booking::callback::MAX_URL_CHARS;
use crate::booking::fields::{
    HOLD_SECONDS, MAX_CORRELATION_CHARS, MAX_METADATA_KEY_CHARS, MAX_METADATA_KEYS,
    MAX_METADATA_VALUE_CHARS, MAX_REASON_CHARS,
};
use crate::booking::problem::Code;

/// The objects that others refer to by their names ([`named`]).
pub fn shared() -> Map<String, Value> {
    let named = [
        ("Booking", booking()),
        ("Command", command()),
        ("Interval", interval()),
        ("Metadata", metadata()),
        ("Problem", problem()),
        ("FieldError", field_error()),
        ("Code", code()),
    ];
    named.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

/// What a reference to a named schema begins with: where the OpenAPI document has it.
pub const NAMED: &str = "#/components/schemas/";

/// A reference to a named schema.
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("{NAMED}{name}") })
}

/// The words of an enum, and any new one that is written as they are: for those who keep a copy of a
/// schema for years.
pub fn extensible(words: &Value) -> Value {
    let mut any = json!({ "anyOf": [words, { "type": "string", "pattern": "^[A-Z][A-Z_]*$" }] });
    any["description"] = words["description"].clone();
    any
}

/// An object that we send.
pub fn open(properties: Value, required: &[&str], example: &Value) -> Value {
    json!({
        "type": "object", "properties": properties, "required": required, "examples": [example]
    })
}

/// An object that we are sent.
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

pub fn uuid() -> Value {
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
pub fn utc() -> Value {
    json!({ "type": "string", "format": "date-time", "pattern": "Z$" })
}

/// Text that Postgres can keep.
pub fn text(most: usize) -> Value {
    json!({ "type": "string", "maxLength": most, "pattern": "^[^\\u0000]*$" })
}

pub fn positive() -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

/// Where the outcome of a command is to be posted to.
fn callback_url() -> Value {
    json!({
        "type": ["string", "null"], "format": "uri", "maxLength": MAX_URL_CHARS,
        "pattern": "^https?://[^/?#]",
        "description": "Where the outcome of this command is posted to, signed as a webhook: its \
                        event, or `command.succeeded` where nothing changed."
    })
}

/// The states of a booking.
pub fn status() -> Value {
    json!({
        "type": "string", "enum": ["PENDING", "CONFIRMED", "CANCELLED", "EXPIRED", "COMPLETED"]
    })
}

pub fn new_booking() -> Value {
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
        "callbackUrl": callback_url(),
    });
    closed(properties, &["userId", "startTime", "endTime"], &examples::new_booking())
}

pub fn confirmation() -> Value {
    closed(json!({ "callbackUrl": callback_url() }), &[], &json!({}))
}

pub fn cancellation() -> Value {
    let reason = about("Kept with the booking.", nullable(text(MAX_REASON_CHARS)));
    let properties = json!({ "reason": reason, "callbackUrl": callback_url() });
    closed(properties, &[], &examples::cancellation())
}

pub fn rescheduling() -> Value {
    let properties = json!({
        "startTime": about("In the future; RFC 3339 with an offset.", date_time()),
        "endTime": about("After the start, by 31 days at most.", date_time()),
        "callbackUrl": callback_url(),
    });
    closed(properties, &["startTime", "endTime"], &examples::interval())
}

pub fn metadata() -> Value {
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

pub fn booking() -> Value {
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

pub fn command() -> Value {
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

pub fn interval() -> Value {
    let properties = json!({ "startTime": utc(), "endTime": utc() });
    open(properties, &["startTime", "endTime"], &examples::interval())
}

pub fn problem() -> Value {
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

pub fn field_error() -> Value {
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

pub fn code() -> Value {
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let about = "For programs. New ones may be added; treat an unknown one by its status.";
    json!({ "type": "string", "enum": codes, "description": about, "examples": [codes[0]] })
}
