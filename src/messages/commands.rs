//! What other services publish to `booking.submit`: the body of each command, as over HTTP, and the
//! properties and headers that come with it.

use serde_json::{Value, json};

use super::shapes::{self, about, open, uuid};
use super::{Message, examples};
use crate::booking::command::Kind;
use crate::booking::fields::{MAX_CORRELATION_CHARS, MAX_KEY_CHARS};

/// In the order of a booking's life.
const KINDS: [Kind; 4] = [Kind::Create, Kind::Confirm, Kind::Reschedule, Kind::Cancel];

/// The AMQP type of a command.
pub fn type_of(kind: Kind) -> String {
    format!("booking.{}", kind.as_str())
}

/// The bodies. Closed: a field that is not known is refused.
pub fn all() -> Vec<Message> {
    let body = |kind| match kind {
        Kind::Create => ("Books a time, or holds it.", shapes::new_booking()),
        Kind::Confirm => ("Confirms a hold.", of_a_booking(shapes::confirmation())),
        Kind::Cancel => ("Gives a booking's time back.", of_a_booking(shapes::cancellation())),
        Kind::Reschedule => {
            ("Moves a booking to another time.", of_a_booking(shapes::rescheduling()))
        }
    };
    let message = |kind: Kind| {
        let (about, schema) = body(kind);
        Message::new("commands", kind.as_str(), type_of(kind), about, schema)
    };
    KINDS.map(message).into()
}

/// Over HTTP the path names the booking; in a message the body does.
fn of_a_booking(mut schema: Value) -> Value {
    schema["properties"]["bookingId"] = about("The booking to change.", uuid());
    if let Some(required) = schema["required"].as_array_mut() {
        required.insert(0, "bookingId".into());
    }
    for example in schema["examples"].as_array_mut().into_iter().flatten() {
        example["bookingId"] = examples::BOOKING.into();
    }
    schema
}

/// What comes with the body of any command.
pub fn headers() -> Message {
    let types: Vec<_> = KINDS.into_iter().map(type_of).collect();
    let visible =
        |most: usize| json!({ "type": "string", "pattern": format!("^[!-~]{{1,{most}}}$") });
    let properties = json!({
        "content_type": { "type": "string", "const": "application/json" },
        "type": about("Which command it is.", json!({ "type": "string", "enum": types })),
        "message_id": about(
            "The idempotency key: new for each command and kept for its retries.",
            visible(MAX_KEY_CHARS),
        ),
        "delivery_mode": about("Persistent.", json!({ "type": "integer", "const": 2 })),
        "reply_to": about(
            "The queue that gets the replies; none are sent without it.",
            json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
        ),
        "correlation_id": about(
            "Comes back with the replies. It holds no control characters.",
            json!({ "type": "string", "maxLength": 255 }),
        ),
        "x-correlation-id": about(
            "A header: names the command in logs and in the history. Without it the correlation_id \
             does, where that is as short and visible.",
            visible(MAX_CORRELATION_CHARS),
        ),
        "user-id": about("A header: the user on whose behalf.", uuid()),
        "traceparent": about(
            "A header: W3C trace context.",
            json!({ "type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}" }),
        ),
    });
    let example = json!({
        "content_type": "application/json", "type": "booking.create", "delivery_mode": 2,
        "message_id": examples::KEY, "reply_to": "service.front-desk.replies",
        "correlation_id": examples::CORRELATION, "user-id": examples::USER
    });
    let schema = open(properties, &["content_type", "type", "message_id"], &example);
    let about = "The AMQP properties and headers of a command. What has a dash in its name is a header, and so is \
         `traceparent`.";
    Message::new("commands", "headers", "booking.submit", about, schema)
}
