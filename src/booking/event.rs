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
/// Told to a callback of a command that found the booking as it asked for: no event is published.
pub const COMMAND_SUCCEEDED: &str = "command.succeeded";
pub const COMMAND_REJECTED: &str = "command.rejected";
pub const COMMAND_FAILED: &str = "command.failed";

/// The event type of a change; also its routing key.
pub fn type_of(action: Action) -> &'static str {
    match action {
        Action::Held => "booking.held",
        Action::Created | Action::Confirmed => "booking.confirmed",
        Action::Rescheduled => "booking.rescheduled",
        Action::Cancelled => "booking.cancelled",
        Action::Expired => "booking.expired",
        Action::Completed => "booking.completed",
    }
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

/// The event of a command that came to nothing; `record` is its Command object.
pub fn of_command(
    id: Uuid,
    event_type: &'static str,
    booking_id: Uuid,
    time: DateTime<Utc>,
    record: &impl Serialize,
) -> String {
    to_json(&envelope(id, event_type, booking_id, time, record))
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
        dataschema: format!("urn:booking:schema:{event_type}:1"),
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
