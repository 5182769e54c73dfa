//! The objects of the API as JSON Schema, each with its bounds and an example. Those that messages
//! are made of too are in [`shapes`]; its rules for what is open and what is closed hold here.
//! The tests close what is answered, so that nothing is answered that is not named here.

use serde_json::{Map, Value, json};

use super::availability;
use super::examples;
use super::webhooks;
use crate::messages::shapes::{self, about, named, nullable, open, positive, utc, uuid};

/// Every named schema.
pub fn all() -> Map<String, Value> {
    let named = [
        ("NewBooking", shapes::new_booking()),
        ("Confirmation", shapes::confirmation()),
        ("Cancellation", shapes::cancellation()),
        ("Rescheduling", shapes::rescheduling()),
        ("Bookings", bookings()),
        ("History", history()),
        ("HistoryEntry", history_entry()),
        ("Availability", availability::availability()),
        ("Slots", slots()),
        ("Health", health()),
        ("Live", live()),
        ("Readiness", readiness()),
    ];
    let own = named.map(|(name, schema)| (name.to_owned(), schema));
    shapes::shared().into_iter().chain(own).chain(webhooks::schemas::all()).collect()
}

/// The first example of a named schema.
pub fn example(name: &str) -> Value {
    all().get_mut(name).map(|schema| schema["examples"][0].take()).unwrap_or_default()
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

pub fn next_cursor() -> Value {
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
