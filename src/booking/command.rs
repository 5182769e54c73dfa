//! What a caller asks for, and what is later known of it.
//!
//! A [`Command`] is made once, at acceptance, and travels unchanged: it is the `content` of its
//! row, the message on the queue and what the worker decides. A [`CommandRecord`] is the answer
//! to "what became of it", the Command object of the API.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::callback::CallbackUrl;
use super::fields::{Fields, HOLD_SECONDS, MAX_REASON_CHARS};
use super::problem::{Code, FieldError};
use super::{Interval, Metadata};

/// The change asked for, with its content. A field that only a newer release knows must not be
/// ignored: the command is parked instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Change {
    Create {
        interval: Interval,
        metadata: Metadata,
        /// For how many seconds the time is only held; without it the booking is confirmed.
        #[serde(skip_serializing_if = "Option::is_none")]
        hold: Option<i32>,
    },
    Confirm {},
    Cancel {
        reason: Option<String>,
    },
    Reschedule {
        interval: Interval,
    },
}

/// What the body of a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub change: Change,
    /// Where the outcome is to be posted to.
    pub callback: Option<CallbackUrl>,
}

impl Asked {
    /// What makes two requests "the same content": SHA-256 of the checked change in its
    /// canonical JSON, and of the booking, the version and the callback when the caller named them.
    pub fn fingerprint(
        &self,
        calendar_id: Uuid,
        booking_id: Option<Uuid>,
        expected_version: Option<i32>,
    ) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(calendar_id.as_bytes());
        hash.update(booking_id.unwrap_or_default().as_bytes());
        if let Some(version) = expected_version {
            hash.update(version.to_be_bytes());
        }
        if let Some(callback) = &self.callback {
            hash.update(callback.as_str());
        }
        hash.update(serde_json::to_vec(&self.change).unwrap_or_default()); // plain data: cannot fail
        hash.finalize().into()
    }
}

/// Which change, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Create,
    Confirm,
    Cancel,
    Reschedule,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Reschedule => "reschedule",
        }
    }
}

impl Change {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Create { .. } => Kind::Create,
            Self::Confirm {} => Kind::Confirm,
            Self::Cancel { .. } => Kind::Cancel,
            Self::Reschedule { .. } => Kind::Reschedule,
        }
    }

    /// The interval that the change would claim.
    pub fn claims(&self) -> Option<Interval> {
        match self {
            Self::Create { interval, .. } | Self::Reschedule { interval } => Some(*interval),
            Self::Confirm {} | Self::Cancel { .. } => None,
        }
    }

    /// Reads the body of a create: whose calendar, and the change.
    ///
    /// # Errors
    /// Every field that is missing, malformed, out of bounds or unknown.
    pub fn parse_create(body: &Map<String, Value>) -> Result<(Uuid, Asked), Vec<FieldError>> {
        let mut fields = Fields::of(body);
        let calendar_id = fields.uuid("userId");
        let interval = fields.interval();
        let metadata = fields.metadata();
        let hold = fields.whole("hold", HOLD_SECONDS);
        let callback = callback(&mut fields);
        fields.finish()?;
        match (calendar_id, interval, metadata) {
            (Some(calendar_id), Some(interval), Some(metadata)) => Ok((
                calendar_id,
                Asked { change: Self::Create { interval, metadata, hold }, callback },
            )),
            _ => Err(Vec::new()), // not reached: a missing part has left its mistake behind
        }
    }

    /// Reads the body of a confirm, which has no fields of its own.
    ///
    /// # Errors
    /// Every field that is malformed or unknown.
    pub fn parse_confirm(body: &Map<String, Value>) -> Result<Asked, Vec<FieldError>> {
        let mut fields = Fields::of(body);
        let callback = callback(&mut fields);
        fields.finish()?;
        Ok(Asked { change: Self::Confirm {}, callback })
    }

    /// Reads the body of a cancel.
    ///
    /// # Errors
    /// Every field that is malformed, out of bounds or unknown.
    pub fn parse_cancel(body: &Map<String, Value>) -> Result<Asked, Vec<FieldError>> {
        let mut fields = Fields::of(body);
        let reason = fields.text("reason", MAX_REASON_CHARS);
        let callback = callback(&mut fields);
        fields.finish()?;
        Ok(Asked { change: Self::Cancel { reason }, callback })
    }

    /// Reads the body of a reschedule.
    ///
    /// # Errors
    /// Every field that is missing, malformed, out of bounds or unknown.
    pub fn parse_reschedule(body: &Map<String, Value>) -> Result<Asked, Vec<FieldError>> {
        let mut fields = Fields::of(body);
        let interval = fields.interval();
        let callback = callback(&mut fields);
        fields.finish()?;
        let change = interval.map(|interval| Self::Reschedule { interval }).ok_or_else(Vec::new)?;
        Ok(Asked { change, callback })
    }

    /// What the passing of time makes unacceptable. Asked only of a command that is not a retry
    /// of an accepted one, because the answer to a retry must not depend on when it comes.
    pub fn too_late(&self, now: DateTime<Utc>) -> Option<FieldError> {
        let interval = self.claims()?;
        (interval.start <= now).then(|| FieldError {
            field: "startTime".into(),
            code: Code::InvalidTime,
            message: "must be in the future".into(),
        })
    }
}

/// The field that every change takes.
fn callback(fields: &mut Fields<'_>) -> Option<CallbackUrl> {
    fields.notation("callbackUrl", CallbackUrl::SHAPE, CallbackUrl::parse)
}

pub type Fingerprint = [u8; 32];

/// Counts the shapes that a [`Command`] has had in released versions. A worker parks a command with a
/// field that it does not know, so no gateway accepts one while an older worker decides.
///
/// 1: the changes, with `expectedVersion`. 2: `callback` and `replyTo`.
pub const FORMAT: u16 = 2;

/// An accepted request for a change of one booking. Unknown fields as in [`Change`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    pub command_id: Uuid,
    pub booking_id: Uuid,
    pub calendar_id: Uuid,
    /// Who asked, as the audit names them.
    pub caller: String,
    pub correlation_id: String,
    /// W3C trace context of the request, when it came with one or tracing is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    pub accepted_at: DateTime<Utc>,
    /// The version that the booking must have for the change to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<i32>,
    /// Where the caller wants the outcome posted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackUrl>,
    /// Where the sender of a message wants its answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<ReplyAddress>,
    pub change: Change,
}

impl Command {
    /// The first format that can say what this command says.
    pub fn format(&self) -> u16 {
        match (&self.callback, &self.reply_to) {
            (None, None) => 1,
            _ => 2,
        }
    }
}

/// A queue that answers are sent to, and what the sender knows them by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplyAddress {
    pub queue: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// Where a command is in its life; the last three are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandStatus {
    Accepted,
    Succeeded,
    Rejected,
    Failed,
}

impl CommandStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Succeeded => "succeeded",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Accepted, Self::Succeeded, Self::Rejected, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// What is known of a command: the Command object of the API.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandRecord {
    pub command_id: Uuid,
    pub booking_id: Uuid,
    pub kind: String,
    pub status: CommandStatus,
    /// The booking as this command left it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booking: Option<Box<RawValue>>,
    /// The problem document of a rejected or failed command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<RawValue>>,
    pub accepted_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<DateTime<Utc>>,
}

impl CommandRecord {
    /// The record of a command that is not decided yet.
    pub fn accepted(command: &Command) -> Self {
        Self {
            command_id: command.command_id,
            booking_id: command.booking_id,
            kind: command.change.kind().as_str().to_owned(),
            status: CommandStatus::Accepted,
            booking: None,
            error: None,
            accepted_at: command.accepted_at,
            decided_at: None,
        }
    }

    /// The record as it was at first, whatever has become of the command since.
    pub fn when_accepted(&self) -> Self {
        let status = CommandStatus::Accepted;
        Self { status, booking: None, error: None, decided_at: None, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    fn plain() -> Command {
        Command {
            command_id: Uuid::nil(),
            booking_id: Uuid::nil(),
            calendar_id: Uuid::nil(),
            caller: "caller".into(),
            correlation_id: "correlation".into(),
            traceparent: Some("00-1-2-03".into()),
            accepted_at: DateTime::UNIX_EPOCH,
            expected_version: Some(1),
            callback: None,
            reply_to: None,
            change: Change::Confirm {},
        }
    }

    /// Whoever adds a field finds that older workers park what has it: count [`FORMAT`] up, and give
    /// the field its number in [`Command::format`].
    #[test]
    fn a_command_has_the_fields_of_its_format() {
        let fields = |command: &Command| match serde_json::to_value(command).unwrap() {
            Value::Object(fields) => fields.into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
            other => panic!("{other}"),
        };
        let mut of_1 = vec!["acceptedAt", "bookingId", "calendarId", "caller", "change"];
        of_1.extend(["commandId", "correlationId", "expectedVersion", "traceparent"]);
        assert_eq!((fields(&plain()), plain().format()), (names(&of_1), 1));
        let callback = CallbackUrl::parse("https://example.org/booked");
        let reply_to = Some(ReplyAddress { queue: "replies".into(), correlation_id: None });
        for command in [
            Command { callback: callback.clone(), ..plain() },
            Command { reply_to: reply_to.clone(), ..plain() },
        ] {
            assert_eq!(command.format(), 2);
        }
        let mut of_2 = of_1;
        of_2.extend(["callback", "replyTo"]);
        of_2.sort_unstable();
        assert_eq!(fields(&Command { callback, reply_to, ..plain() }), names(&of_2));
        assert_eq!(FORMAT, 2);
    }

    /// What every worker since the first release reads.
    #[test]
    fn a_command_of_the_first_format_is_written_as_it_always_was() {
        let written = serde_json::to_value(Command { traceparent: None, ..plain() }).unwrap();
        let nil = Uuid::nil();
        let expected = json!({
            "commandId": nil, "bookingId": nil, "calendarId": nil, "caller": "caller",
            "correlationId": "correlation", "acceptedAt": "1970-01-01T00:00:00Z",
            "expectedVersion": 1, "change": written["change"],
        });
        assert_eq!(written, expected);
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }
}
