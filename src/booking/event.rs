//! The facts we publish: CloudEvents 1.0 in JSON.
//!
//! An event is written to the outbox in the commit of the decision it tells of. Its id is given
//! then, so every copy that a subscriber or a webhook receiver ever sees carries the same id and
//! the same bytes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::decide::{Action, Effect};
use super::{Booking, Interval, Status};

/// The `source` of every event.
pub const SOURCE: &str = "urn:booking";
/// The content type of an event.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

pub const BOOKING_HELD: &str = "booking.held";
pub const BOOKING_CONFIRMED: &str = "booking.confirmed";
pub const BOOKING_RESCHEDULED: &str = "booking.rescheduled";
pub const BOOKING_CANCELLED: &str = "booking.cancelled";
pub const BOOKING_EXPIRED: &str = "booking.expired";
pub const BOOKING_COMPLETED: &str = "booking.completed";
/// Told to a callback of a command that found the booking as it asked for: no event is published.
pub const COMMAND_SUCCEEDED: &str = "command.succeeded";
pub const COMMAND_REJECTED: &str = "command.rejected";
pub const COMMAND_FAILED: &str = "command.failed";
/// An endpoint was given up, and gets nothing until its owner enables it again.
pub const WEBHOOK_DISABLED: &str = "webhook.disabled";
/// Tells nothing: the owner of an endpoint asked whether it hears.
pub const WEBHOOK_TEST: &str = "webhook.test";

/// Every type there is. An event has one of them for good: they are added to, never changed.
pub const TYPES: [&str; 11] = [
    BOOKING_HELD,
    BOOKING_CONFIRMED,
    BOOKING_RESCHEDULED,
    BOOKING_CANCELLED,
    BOOKING_EXPIRED,
    BOOKING_COMPLETED,
    COMMAND_SUCCEEDED,
    COMMAND_REJECTED,
    COMMAND_FAILED,
    WEBHOOK_DISABLED,
    WEBHOOK_TEST,
];

/// The event type of a change; also its routing key.
pub fn type_of(action: Action) -> &'static str {
    match action {
        Action::Held => BOOKING_HELD,
        Action::Created | Action::Confirmed => BOOKING_CONFIRMED,
        Action::Rescheduled => BOOKING_RESCHEDULED,
        Action::Cancelled => BOOKING_CANCELLED,
        Action::Expired => BOOKING_EXPIRED,
        Action::Completed => BOOKING_COMPLETED,
    }
}

/// The `dataschema` of an event of this type: the name of the schema that it keeps to.
pub fn schema_of(event_type: &str) -> String {
    format!("urn:booking:schema:{event_type}:1")
}

/// The event of a change, as JSON. `after` is the JSON of the booking after it, which the
/// caller has at hand for the audit row; time's own changes have no command.
pub fn of_change(id: Uuid, command_id: Option<Uuid>, effect: &Effect, after: &RawValue) -> String {
    let event_type = type_of(effect.action);
    let data = ChangeData {
        booking: after,
        previous: effect.before.as_ref().map(Previous::of),
        command_id,
    };
    let version = effect.after.version.to_string();
    let mut event = envelope(id, event_type, effect.after.id, effect.after.updated_at, &data);
    event.sequence = Some(&version);
    to_json(&event)
}

/// The event of a command that changed nothing ([`COMMAND_SUCCEEDED`]) or came to nothing;
/// `record` is its Command object.
pub fn of_command(
    id: Uuid,
    event_type: &'static str,
    booking_id: Uuid,
    time: DateTime<Utc>,
    record: &impl Serialize,
) -> String {
    to_json(&envelope(id, event_type, booking_id, time, record))
}

/// A webhook endpoint as events show it. Never with its secret.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint<'a> {
    pub id: Uuid,
    pub url: &'a str,
    /// What it asked for: types, or patterns such as `booking.*`.
    pub event_types: &'a [String],
}

/// The event of an endpoint that was disabled; `reason` is the one that its owner reads.
pub fn of_webhook_disabled(
    id: Uuid,
    endpoint: Endpoint<'_>,
    reason: &str,
    time: DateTime<Utc>,
) -> String {
    let data = Disabled { endpoint, reason };
    to_json(&envelope(id, WEBHOOK_DISABLED, endpoint.id, time, &data))
}

/// The event that tests an endpoint.
pub fn of_webhook_test(id: Uuid, endpoint_id: Uuid, time: DateTime<Utc>) -> String {
    to_json(&envelope(id, WEBHOOK_TEST, endpoint_id, time, &Test { endpoint_id }))
}

fn envelope<'a, D: Serialize>(
    id: Uuid,
    event_type: &'static str,
    subject: Uuid,
    time: DateTime<Utc>,
    data: &'a D,
) -> Envelope<'a, D> {
    Envelope {
        specversion: "1.0",
        id,
        source: SOURCE,
        event_type,
        subject,
        time,
        datacontenttype: "application/json",
        dataschema: schema_of(event_type),
        sequence: None,
        data,
    }
}

fn to_json(event: &impl Serialize) -> String {
    serde_json::to_string(event).unwrap_or_default() // plain data: cannot fail
}

#[derive(Serialize)]
struct Envelope<'a, D> {
    specversion: &'static str,
    id: Uuid,
    source: &'static str,
    #[serde(rename = "type")]
    event_type: &'static str,
    subject: Uuid,
    time: DateTime<Utc>,
    datacontenttype: &'static str,
    dataschema: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<&'a str>,
    data: &'a D,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeData<'a> {
    booking: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Previous>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<Uuid>,
}

#[derive(Serialize)]
struct Disabled<'a> {
    endpoint: Endpoint<'a>,
    reason: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    endpoint_id: Uuid,
}

/// What a subscriber needs to free the time that the booking held before.
#[derive(Serialize)]
struct Previous {
    #[serde(flatten)]
    interval: Interval,
    status: Status,
}

impl Previous {
    fn of(booking: &Booking) -> Self {
        Self { interval: booking.interval, status: booking.status }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_endpoint_that_is_disabled_is_told_of_without_its_secret() {
        let types = ["booking.*".to_owned()];
        let (id, url) = (Uuid::from_u128(2), "https://hooks.example/booking");
        let endpoint = Endpoint { id, url, event_types: &types };
        let time = DateTime::UNIX_EPOCH;
        let event = of_webhook_disabled(Uuid::from_u128(1), endpoint, "answered 410", time);
        let event: Value = serde_json::from_str(&event).unwrap();
        let endpoint = json!({ "id": id, "url": url, "eventTypes": types });
        assert_eq!(event["data"], json!({ "endpoint": endpoint, "reason": "answered 410" }));
        assert_eq!(event["subject"], json!(id));
        assert_eq!(event["type"], WEBHOOK_DISABLED);
        assert_eq!(event["dataschema"], "urn:booking:schema:webhook.disabled:1");
    }

    #[test]
    fn a_test_names_its_endpoint_and_has_no_version() {
        let (id, endpoint_id) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let event = of_webhook_test(id, endpoint_id, DateTime::UNIX_EPOCH);
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["id"], json!(id));
        assert_eq!(event["data"], json!({ "endpointId": endpoint_id }));
        assert_eq!(event.get("sequence"), None);
    }
}
