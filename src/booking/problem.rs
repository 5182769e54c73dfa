//! Why a request or a command gets a no: one stable code each, its HTTP status and its title.
//!
//! The same problem document (RFC 9457) is the HTTP answer, the `error` of a polled command, the
//! body of a refusal on the queue and the data of `command.rejected`, so it is made here.
//! Codes are promises to clients: they are added to, never changed.

use serde::{Deserialize, Serialize};

use super::Interval;

macro_rules! codes {
    ($($variant:ident $status:literal $code:literal $title:literal;)*) => {
        /// What was wrong, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Code { $(#[serde(rename = $code)] $variant,)* }

        impl Code {
            /// Every code there is, for the table in the README and its test.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $code,)* } }

            /// The HTTP status that goes with the code.
            pub fn status(self) -> u16 { match self { $(Self::$variant => $status,)* } }

            /// The code in words, for people.
            pub fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }
        }
    };
}

codes! {
    ValidationFailed 400 "VALIDATION_FAILED" "The request is not valid";
    IdempotencyKeyMissing 400 "IDEMPOTENCY_KEY_MISSING" "An idempotency key is required";
    Unauthenticated 401 "UNAUTHENTICATED" "The caller is not known";
    Forbidden 403 "FORBIDDEN" "The caller may not do this";
    NotFound 404 "NOT_FOUND" "There is no such thing, or it is not yours";
    MethodNotAllowed 405 "METHOD_NOT_ALLOWED" "The path does not take this method";
    SlotConflict 409 "SLOT_CONFLICT" "The time is taken";
    InvalidState 409 "INVALID_STATE" "Its state does not allow this";
    AlreadyCancelled 409 "ALREADY_CANCELLED" "The booking is cancelled already";
    HoldExpired 410 "HOLD_EXPIRED" "The hold has lapsed";
    VersionMismatch 412 "VERSION_MISMATCH" "Another version is stored";
    PayloadTooLarge 413 "PAYLOAD_TOO_LARGE" "The body is too large";
    UnsupportedMediaType 415 "UNSUPPORTED_MEDIA_TYPE" "The body is not JSON";
    InvalidTime 422 "INVALID_TIME" "A time is not acceptable";
    DurationOutOfRange 422 "DURATION_OUT_OF_RANGE" "The interval is too short or too long";
    OutsideWorkingHours 422 "OUTSIDE_WORKING_HOURS" "The calendar is closed at that time";
    BlackedOut 422 "BLACKED_OUT" "The calendar is blocked at that time";
    TooSoon 422 "TOO_SOON" "The time is too near";
    TooFarAhead 422 "TOO_FAR_AHEAD" "The time is too far away";
    NotAligned 422 "NOT_ALIGNED" "The start is not on the calendar's grid";
    RangeTooLarge 422 "RANGE_TOO_LARGE" "Too much was asked for at once";
    IdempotencyKeyReused 422 "IDEMPOTENCY_KEY_REUSED" "The idempotency key was used for other content";
    LimitReached 422 "LIMIT_REACHED" "There are as many of these as there may be";
    RateLimited 429 "RATE_LIMITED" "Too many requests";
    CalendarBacklogFull 429 "CALENDAR_BACKLOG_FULL" "Too many commands of this calendar wait";
    InternalError 500 "INTERNAL_ERROR" "The command could not be processed";
    Overloaded 503 "OVERLOADED" "The service has too much to do";
    DependencyUnavailable 503 "DEPENDENCY_UNAVAILABLE" "A server this service needs is away";
}

/// One thing wrong with one field, parameter or header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub field: String,
    pub code: Code,
    pub message: String,
}

impl FieldError {
    /// A mistake that is neither about times nor about keys.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), code: Code::ValidationFailed, message: message.into() }
    }
}

/// A no, complete but for the correlation id of the request it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// What was wrong and what to do, in a sentence that names no one else's data.
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// The taken interval of a `SLOT_CONFLICT`; never whose it is.
    pub conflicts_with: Option<Interval>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), conflicts_with: None }
    }

    /// A mistake in one field, parameter, header or property.
    pub fn of_field(field: &str, message: impl Into<String>) -> Self {
        Self::of_fields(vec![FieldError::new(field, message)])
    }

    /// One problem for everything that is wrong with a request. Malformed fields outrank times
    /// that are well-formed but not acceptable, because the caller has to mend those first.
    pub fn of_fields(errors: Vec<FieldError>) -> Self {
        let malformed = errors.iter().find(|e| e.code == Code::ValidationFailed);
        let code = malformed.or(errors.first()).map_or(Code::ValidationFailed, |e| e.code);
        let detail = match errors.as_slice() {
            [only] => format!("{}: {}", only.field, only.message),
            all => format!("{} fields are not valid; see errors", all.len()),
        };
        Self { errors, ..Self::new(code, detail) }
    }

    /// Whether the same may be accepted later: the service is in no state to take it now.
    pub fn may_pass(&self) -> bool {
        matches!(self.code.status(), 429 | 503)
    }

    /// The JSON text of the RFC 9457 document.
    pub fn document(&self, correlation_id: &str) -> String {
        let document = Document {
            type_uri: format!("urn:booking:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status(),
            detail: &self.detail,
            code: self.code,
            correlation_id,
            errors: &self.errors,
            conflicts_with: self.conflicts_with,
        };
        serde_json::to_string(&document).unwrap_or_else(|_| "{}".into()) // strings and numbers only: cannot fail
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(rename = "type")]
    type_uri: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: Code,
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    conflicts_with: Option<Interval>,
}
