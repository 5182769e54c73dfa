//! The events as JSON Schema: CloudEvents 1.0, each type with the data that it always has.
//!
//! An event is open: subscribers ignore what they do not know. Examples are written by the code that
//! writes the real ones.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::shapes::{about, named, open, utc, uuid};
use super::{Message, examples, replies};
use crate::booking::decide::{Action, Effect};
use crate::booking::event::{self, Endpoint};
use crate::booking::{Booking, Buffers, Interval, Metadata, Status};

/// Which way an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// To the events exchange, with its type as the routing key, and to webhook endpoints.
    Published,
    /// To webhook endpoints, or to the callback of one command, alone.
    Posted,
}

/// One event type.
pub struct Event {
    pub name: &'static str,
    pub about: &'static str,
    pub road: Road,
}

const fn published(name: &'static str, about: &'static str) -> Event {
    Event { name, about, road: Road::Published }
}

const fn posted(name: &'static str, about: &'static str) -> Event {
    Event { name, about, road: Road::Posted }
}

/// In the order of [`event::TYPES`].
pub const EVENTS: [Event; event::TYPES.len()] = [
    published(event::BOOKING_HELD, "A time is held until it is confirmed or the hold lapses."),
    published(event::BOOKING_CONFIRMED, "A booking was made, or a hold confirmed."),
    published(event::BOOKING_RESCHEDULED, "A booking was moved; `previous` says from where."),
    published(event::BOOKING_CANCELLED, "A booking gave its time back."),
    published(event::BOOKING_EXPIRED, "A hold lapsed."),
    published(event::BOOKING_COMPLETED, "A booking is over."),
    posted(
        event::COMMAND_SUCCEEDED,
        "A command succeeded without a change. Only its own callback is told.",
    ),
    published(event::COMMAND_REJECTED, "A command came to a business no."),
    published(event::COMMAND_FAILED, "A command was given up after retries."),
    published(
        event::WEBHOOK_DISABLED,
        "A webhook endpoint was given up. It gets nothing until its owner enables it again.",
    ),
    posted(event::WEBHOOK_TEST, "The owner of a webhook endpoint asked for a test."),
];

pub fn all() -> Vec<Message> {
    let message = |event: &Event| {
        Message::new("events", event.name, event.name, event.about, schema(event.name))
    };
    EVENTS.iter().map(message).collect()
}

fn schema(event_type: &str) -> Value {
    let is_change = event_type.starts_with("booking.");
    let (subject, data) = match event_type {
        event::COMMAND_SUCCEEDED => ("The booking.", outcome("succeeded", "booking")),
        event::COMMAND_REJECTED => ("The booking.", outcome("rejected", "error")),
        event::COMMAND_FAILED => ("The booking.", outcome("failed", "error")),
        event::WEBHOOK_DISABLED => ("The endpoint.", disabled()),
        event::WEBHOOK_TEST => ("The endpoint.", test()),
        change => ("The booking.", change_data(change)),
    };
    let mut properties = json!({
        "specversion": constant("1.0"),
        "id": about("The same in every copy, so a repeated event is known by it.", uuid()),
        "source": constant(event::SOURCE),
        "type": constant(event_type),
        "subject": about(subject, uuid()),
        "time": about("When it was decided.", utc()),
        "datacontenttype": constant("application/json"),
        "dataschema": constant(&event::schema_of(event_type)),
        "data": data,
    });
    let mut required = vec![
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
    ];
    if is_change {
        properties["sequence"] = about(
            "The booking's version after the change. A booking's events come in this order, some \
             of them twice.",
            json!({ "type": "string", "pattern": "^[1-9][0-9]*$" }),
        );
        required.push("sequence");
    }
    required.push("data");
    open(properties, &required, &example(event_type))
}

fn constant(text: &str) -> Value {
    json!({ "type": "string", "const": text })
}

/// What a change of a booking carries.
fn change_data(event_type: &str) -> Value {
    let states: &[&str] = match event_type {
        event::BOOKING_HELD => &["PENDING"],
        event::BOOKING_CONFIRMED => &["CONFIRMED"],
        event::BOOKING_CANCELLED => &["CANCELLED"],
        event::BOOKING_EXPIRED => &["EXPIRED"],
        event::BOOKING_COMPLETED => &["COMPLETED"],
        _ => &["PENDING", "CONFIRMED"],
    };
    let mut booking = about("The booking after the change.", named("Booking"));
    booking["properties"] = json!({ "status": { "enum": states } });
    if event_type == event::BOOKING_HELD {
        booking["required"] = json!(["holdExpiresAt"]);
    }
    let mut previous = about("What it was before.", named("Interval"));
    previous["properties"] = json!({ "status": super::shapes::status() });
    previous["required"] = json!(["status"]);
    let by = about("The command that did it; none where time did.", uuid());
    let mut properties =
        Map::from_iter([("booking".to_owned(), booking), ("commandId".into(), by)]);
    let mut required = vec!["booking"];
    let is_by_time = matches!(event_type, event::BOOKING_EXPIRED | event::BOOKING_COMPLETED);
    if event_type != event::BOOKING_HELD {
        properties.insert("previous".into(), previous);
    }
    if !matches!(event_type, event::BOOKING_HELD | event::BOOKING_CONFIRMED) {
        required.push("previous");
    }
    if !is_by_time {
        required.push("commandId");
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// A Command object in its final state, with what became of it.
fn outcome(state: &str, result: &str) -> Value {
    let mut schema = replies::in_state(&[state], &["decidedAt", result], &[]);
    if let Some(members) = schema.as_object_mut() {
        members.remove("examples"); // the event has one
    }
    schema
}

fn disabled() -> Value {
    let of_a_list = json!({ "type": "array", "items": { "type": "string" } });
    let endpoint = json!({
        "type": "object",
        "properties": {
            "id": uuid(),
            "url": { "type": "string" },
            "eventTypes": about("What it asked for: types, or patterns such as `booking.*`.", of_a_list),
        },
        "required": ["id", "url", "eventTypes"],
    });
    let reason = about("Why, for people.", json!({ "type": "string" }));
    json!({
        "type": "object",
        "properties": { "endpoint": endpoint, "reason": reason },
        "required": ["endpoint", "reason"],
    })
}

fn test() -> Value {
    json!({ "type": "object", "properties": { "endpointId": uuid() }, "required": ["endpointId"] })
}

/// An event of this type.
fn example(event_type: &str) -> Value {
    // Always there: the tests hold each example against its schema, and nothing is none.
    written(event_type).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn written(event_type: &str) -> Option<String> {
    let id = examples::EVENT.parse().ok()?;
    let time = examples::DECIDED.parse().ok()?;
    let of_command = |event_type, record: Value| {
        let subject = examples::BOOKING.parse().ok()?;
        Some(event::of_command(id, event_type, subject, time, &record))
    };
    match event_type {
        event::COMMAND_SUCCEEDED => of_command(event::COMMAND_SUCCEEDED, examples::succeeded()),
        event::COMMAND_REJECTED => of_command(event::COMMAND_REJECTED, examples::rejected()),
        event::COMMAND_FAILED => of_command(event::COMMAND_FAILED, examples::failed()),
        event::WEBHOOK_DISABLED => {
            let types = ["booking.*".to_owned()];
            let url = "https://hooks.example/booking";
            let endpoint =
                Endpoint { id: examples::ENDPOINT.parse().ok()?, url, event_types: &types };
            let reason = "It answered 410 Gone.";
            Some(event::of_webhook_disabled(id, endpoint, reason, time))
        }
        event::WEBHOOK_TEST => {
            Some(event::of_webhook_test(id, examples::ENDPOINT.parse().ok()?, time))
        }
        change => of_change(id, change),
    }
}

fn of_change(id: Uuid, event_type: &str) -> Option<String> {
    let first = |status| booking(1, status);
    let (action, before, after) = match event_type {
        event::BOOKING_HELD => (Action::Held, None, first(Status::Pending)?),
        event::BOOKING_CONFIRMED => (Action::Created, None, first(Status::Confirmed)?),
        event::BOOKING_RESCHEDULED => {
            let (before, mut after) = (first(Status::Confirmed)?, booking(2, Status::Confirmed)?);
            after.interval.start += TimeDelta::hours(1);
            after.interval.end += TimeDelta::hours(1);
            (Action::Rescheduled, Some(before), after)
        }
        event::BOOKING_CANCELLED => {
            let reason = Some(examples::REASON.to_owned());
            let after = Booking { cancel_reason: reason, ..booking(2, Status::Cancelled)? };
            (Action::Cancelled, Some(first(Status::Confirmed)?), after)
        }
        event::BOOKING_EXPIRED => {
            (Action::Expired, Some(first(Status::Pending)?), booking(2, Status::Expired)?)
        }
        event::BOOKING_COMPLETED => {
            (Action::Completed, Some(first(Status::Confirmed)?), booking(2, Status::Completed)?)
        }
        _ => return None,
    };
    let by_time = matches!(action, Action::Expired | Action::Completed);
    let command_id = (!by_time).then(|| examples::COMMAND.parse().ok()).flatten();
    let json = to_raw_value(&after).ok()?;
    Some(event::of_change(id, command_id, &Effect { action, before, after }, &json))
}

/// The booking of the examples, in its first version or as the second left it.
fn booking(version: i32, status: Status) -> Option<Booking> {
    let created: DateTime<Utc> = examples::DECIDED.parse().ok()?;
    let interval =
        Interval { start: examples::START.parse().ok()?, end: examples::END.parse().ok()? };
    let updated = match status {
        _ if version == 1 => created,
        Status::Expired => created + TimeDelta::minutes(10),
        Status::Completed => interval.end,
        _ => created + TimeDelta::hours(2),
    };
    Some(Booking {
        id: examples::BOOKING.parse().ok()?,
        calendar_id: examples::USER.parse().ok()?,
        interval,
        status,
        version,
        metadata: Metadata::from_json(examples::METADATA.to_owned()).ok()?,
        hold_expires_at: (status == Status::Pending).then(|| created + TimeDelta::minutes(10)),
        cancel_reason: None,
        created_at: created,
        updated_at: updated,
        buffers: Buffers::default(),
    })
}
