//! What a message asks for: its properties, headers and body as a request.
//!
//! Whoever may publish here is a service with write scope: the broker's permissions are the lock.
//! The rest is checked like a request over HTTP, by the same code.

use serde_json::{Map, Value};
use tracing::Span;
use uuid::Uuid;

use crate::accept::reading::{self, is_visible_ascii};
use crate::accept::request::Request;
use crate::booking::command::{Kind, ReplyAddress};
use crate::booking::fields::{Fields, MAX_CORRELATION_CHARS, MAX_KEY_CHARS, parse_uuid};
use crate::booking::problem::{Code, FieldError, Problem};
use crate::identity::{MAX_SERVICE_CHARS, Principal, WRITE_SCOPE, names_a_service};
use crate::queue::Delivery;
use crate::telemetry::{self, TRACEPARENT};

const USER_ID: &str = "user-id";
const CORRELATION_ID: &str = "x-correlation-id";
/// Who sent a message that does not say so.
const NAMELESS: &str = "queue";
/// Queues that are not their sender's: ours, and the broker's own. Answers to `amq.…reply-to`
/// would be lost when the sender's connection breaks.
const FOREIGN_QUEUES: [&str; 2] = ["booking.", "amq."];

/// A message as it is understood.
pub struct Submission {
    /// Where answers go, if there is such a place.
    pub reply_to: Option<ReplyAddress>,
    /// Names it in logs, audit rows and problems.
    pub correlation_id: String,
    pub request: Result<Request, Problem>,
}

/// Reads a message; anything may be in it.
pub fn read(delivery: &Delivery, span: &Span) -> Submission {
    let mut mistakes = Vec::new();
    let kind = kind(delivery, &mut mistakes);
    let idempotency_key = key(delivery, &mut mistakes);
    let principal = principal(delivery, &mut mistakes);
    let reply_to = reply_address(delivery, &mut mistakes);
    let correlation_id = correlation_id(delivery, &mut mistakes);
    let request = body(delivery, &mut mistakes).and_then(|mut body| {
        // Without the kind nobody knows which fields there should be.
        let (Some(kind), Some(body)) = (kind, body.as_mut()) else {
            return Err(Problem::of_fields(std::mem::take(&mut mistakes)));
        };
        let (booking_id, expected_version) = match kind {
            Kind::Create => (None, None),
            _ => of_a_change(body, &mut mistakes),
        };
        Ok(Request {
            principal,
            kind,
            booking_id,
            idempotency_key,
            expected_version,
            correlation_id: correlation_id.clone(),
            traceparent: telemetry::traceparent(span, header(delivery, TRACEPARENT)),
            reply_to: reply_to.clone(),
            body: std::mem::take(body),
            mistakes: std::mem::take(&mut mistakes),
        })
    });
    Submission { reply_to, correlation_id, request }
}

/// A header with a text in it; of several, the first.
pub fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a str> {
    delivery.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// A change must say whose booking it is: the booking may still be on the road.
pub fn nobody_named() -> Problem {
    Problem::of_field(USER_ID, "is required: the UUID of the user whose booking is changed")
}

fn kind(delivery: &Delivery, mistakes: &mut Vec<FieldError>) -> Option<Kind> {
    let kind = match delivery.kind.as_deref() {
        Some("booking.create") => Some(Kind::Create),
        Some("booking.confirm") => Some(Kind::Confirm),
        Some("booking.cancel") => Some(Kind::Cancel),
        Some("booking.reschedule") => Some(Kind::Reschedule),
        _ => None,
    };
    if kind.is_none() {
        let kinds = "booking.create, booking.confirm, booking.cancel or booking.reschedule";
        mistakes.push(FieldError::new("type", format!("must be one of {kinds}")));
    }
    kind
}

/// Required for every kind: the broker may deliver any message twice.
fn key(delivery: &Delivery, mistakes: &mut Vec<FieldError>) -> Option<String> {
    let key = delivery.message_id.as_ref().filter(|key| !key.is_empty());
    let Some(key) = key else {
        mistakes.push(FieldError {
            field: "message_id".into(),
            code: Code::IdempotencyKeyMissing,
            message: "is the idempotency key and required: new for each command, kept when it is \
                      sent again"
                .into(),
        });
        return None;
    };
    if !is_visible_ascii(key.as_bytes(), MAX_KEY_CHARS) {
        let bounds = format!("must be 1 to {MAX_KEY_CHARS} visible ASCII characters");
        mistakes.push(FieldError::new("message_id", bounds));
    }
    Some(key.clone())
}

/// Who sends, and on whose behalf.
fn principal(delivery: &Delivery, mistakes: &mut Vec<FieldError>) -> Principal {
    let name = delivery.user_id.as_deref().unwrap_or(NAMELESS);
    if !names_a_service(name) {
        let bounds = format!("must be 1 to {MAX_SERVICE_CHARS} visible ASCII characters");
        mistakes.push(FieldError::new("user_id", bounds));
    }
    let service = Principal::service(name, [WRITE_SCOPE]);
    // One that is no text must not pass for none.
    let is_odd = delivery.odd_headers.iter().any(|name| name == USER_ID);
    let named = match header(delivery, USER_ID) {
        None if !is_odd => return service,
        named => named.and_then(parse_uuid),
    };
    match named.map(|user| service.clone().on_behalf_of(user)) {
        Some(Ok(on_behalf)) => on_behalf,
        _ => {
            mistakes.push(FieldError::new(USER_ID, "must be a UUID"));
            service
        }
    }
}

fn reply_address(delivery: &Delivery, mistakes: &mut Vec<FieldError>) -> Option<ReplyAddress> {
    let correlation_id = delivery.correlation_id.clone();
    // What would be kept must be text that the database takes.
    if correlation_id.as_ref().is_some_and(|id| id.contains(char::is_control)) {
        let shape = "must not contain control characters";
        mistakes.push(FieldError::new("correlation_id", shape));
    }
    let queue = delivery.reply_to.clone()?;
    let foreign = FOREIGN_QUEUES.iter().any(|prefix| queue.starts_with(prefix));
    if queue.is_empty() || queue.contains(char::is_control) || foreign {
        let shape = "must be the name of a queue of your own: without control characters, and not \
                     beginning with booking. or amq.";
        mistakes.push(FieldError::new("reply_to", shape));
        return None;
    }
    Some(ReplyAddress { queue, correlation_id })
}

/// What names the message in logs: the header, or what its answers carry, or something new.
fn correlation_id(delivery: &Delivery, mistakes: &mut Vec<FieldError>) -> String {
    let fits = |id: &&str| is_visible_ascii(id.as_bytes(), MAX_CORRELATION_CHARS);
    let own = delivery.correlation_id.as_deref().filter(fits);
    match header(delivery, CORRELATION_ID) {
        Some(given) if fits(&given) => given.into(),
        given => {
            if given.is_some() {
                let bounds =
                    format!("must be 1 to {MAX_CORRELATION_CHARS} visible ASCII characters");
                mistakes.push(FieldError::new(CORRELATION_ID, bounds));
            }
            own.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
        }
    }
}

/// The object in the body; nothing where it is none, which is a mistake.
fn body(
    delivery: &Delivery,
    mistakes: &mut Vec<FieldError>,
) -> Result<Option<Map<String, Value>>, Problem> {
    if delivery.content_type.as_deref().is_some_and(|given| !reading::is_json(given)) {
        let detail = "Send the body as JSON, with the property content_type: application/json.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    match reading::object(&delivery.body) {
        Ok(body) => Ok(Some(body)),
        Err(problem) if problem.errors.is_empty() => Err(problem), // too large
        Err(problem) => {
            mistakes.extend(problem.errors);
            Ok(None)
        }
    }
}

/// The fields that HTTP has in the path and in `If-Match`.
fn of_a_change(
    body: &mut Map<String, Value>,
    mistakes: &mut Vec<FieldError>,
) -> (Option<Uuid>, Option<i32>) {
    let names = ["bookingId", "expectedVersion"];
    let own: Map<_, _> = names.iter().filter_map(|name| body.remove_entry(*name)).collect();
    let mut fields = Fields::of(&own);
    let booking_id = fields.uuid("bookingId");
    let expected_version = fields.whole("expectedVersion", 1..=i32::MAX);
    mistakes.extend(fields.finish().err().into_iter().flatten());
    (booking_id, expected_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "018f3c1e-7c1a-7000-8000-0123456789ab";

    fn delivery() -> Delivery {
        Delivery {
            tag: 1,
            redelivered: false,
            message_id: Some("key-1".into()),
            kind: Some("booking.cancel".into()),
            headers: vec![(USER_ID.into(), USER.into())],
            odd_headers: Vec::new(),
            body: format!(r#"{{"bookingId":"{USER}","expectedVersion":3}}"#).into_bytes(),
            reply_to: Some("service.desk.replies".into()),
            correlation_id: Some("7".into()),
            content_type: Some("application/json; charset=utf-8".into()),
            user_id: Some("desk".into()),
        }
    }

    #[test]
    fn a_message_is_a_request_of_its_service_on_behalf_of_a_user() {
        let submission = read(&delivery(), &Span::none());
        let request = submission.request.unwrap();
        assert_eq!(request.mistakes, []);
        assert_eq!(request.correlation_id, "7");
        assert_eq!(request.principal.name, "service:desk");
        assert_eq!(request.principal.writes_of(), Ok(parse_uuid(USER)));
        assert_eq!((request.booking_id, request.expected_version), (parse_uuid(USER), Some(3)));
        assert_eq!(request.idempotency_key.as_deref(), Some("key-1"));
        assert!(request.body.is_empty());
        let address = request.reply_to.unwrap();
        assert_eq!(
            (address.queue.as_str(), address.correlation_id.as_deref()),
            ("service.desk.replies", Some("7"))
        );
        let nameless = read(&Delivery { user_id: None, ..delivery() }, &Span::none());
        assert_eq!(nameless.request.unwrap().principal.name, "service:queue");
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let wrong = Delivery {
            message_id: None,
            headers: vec![(USER_ID.into(), "alice".into()), (CORRELATION_ID.into(), "a b".into())],
            body: br#"{"expectedVersion":0}"#.to_vec(),
            reply_to: Some("amq.rabbitmq.reply-to".into()),
            correlation_id: Some("\0".into()),
            user_id: Some("two words".into()),
            ..delivery()
        };
        let submission = read(&wrong, &Span::none());
        assert_eq!(submission.reply_to, None);
        let request = submission.request.unwrap();
        let named: Vec<_> = request.mistakes.iter().map(|m| m.field.as_str()).collect();
        let expected = [
            "message_id",
            "user_id",
            "user-id",
            "correlation_id",
            "reply_to",
            "x-correlation-id",
            "bookingId",
            "expectedVersion",
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn what_cannot_be_read_at_all_is_refused_as_it_is() {
        let code = |delivery| match read(&delivery, &Span::none()).request {
            Ok(_) => "",
            Err(problem) => problem.code.as_str(),
        };
        assert_eq!(code(delivery()), "");
        for kind in [None, Some("booking.commands".to_owned())] {
            assert_eq!(code(Delivery { kind, ..delivery() }), "VALIDATION_FAILED");
        }
        for body in ["", "17", "{"] {
            let read = code(Delivery { body: body.into(), ..delivery() });
            assert_eq!(read, if body.is_empty() { "" } else { "VALIDATION_FAILED" }, "{body}");
        }
        let large = vec![b' '; reading::MAX_BODY_BYTES + 1];
        assert_eq!(code(Delivery { body: large, ..delivery() }), "PAYLOAD_TOO_LARGE");
        let form = Some("text/plain".to_owned());
        assert_eq!(code(Delivery { content_type: form, ..delivery() }), "UNSUPPORTED_MEDIA_TYPE");
    }
}
