//! POST: from a request to an accepted command, and with `Prefer: wait` to its decision.
//!
//! Everything that can be checked without a calendar is refused here with a 4xx and leaves no
//! trace. 202 means that the command is committed ([`crate::accept`]).

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use chrono::{SubsecRound as _, Utc};
use serde_json::{Map, Value};
use tracing::Span;
use uuid::Uuid;

use super::Gateway;
use super::bookings;
use super::caller::{self, CorrelationId, Principal};
use super::conditions;
use super::problem::{PathId, mistake};
use super::status::{accepted, decided};
use crate::accept::Acceptance;
use crate::booking::calendar::partition_of;
use crate::booking::command::{Asked, Change, Command, CommandRecord, CommandStatus};
use crate::booking::json;
use crate::booking::problem::{Code, FieldError, Problem};
use crate::store::commands::NewCommand;
use crate::telemetry;

/// Larger bodies are answered 413. Enough for the largest booking and for most of an availability.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// A body that has not arrived by then is answered 400.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// `POST /api/bookings`
pub async fn create(
    State(gateway): State<Arc<Gateway>>,
    Extension(principal): Extension<Principal>,
    Extension(correlation): Extension<CorrelationId>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let ask = Ask::of(request.headers(), principal, correlation)?;
    let body = json_object(request).await?.unwrap_or_default();
    let (calendar_id, asked) = Change::parse_create(&body).map_err(Problem::of_fields)?;
    ask.principal.may_write(calendar_id)?;
    if ask.idempotency_key.is_none() {
        let detail = "Send the header Idempotency-Key with a value that is new for each booking \
                      and kept for its retries.";
        return Err(Problem::new(Code::IdempotencyKeyMissing, detail));
    }
    submit(&gateway, ask, calendar_id, None, asked).await
}

/// `POST /api/bookings/{id}/confirm`
pub async fn confirm(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    Extension(correlation): Extension<CorrelationId>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let ask = Ask::of(request.headers(), principal, correlation)?;
    change_of(&gateway, ask, id, request, Change::parse_confirm).await
}

/// `POST /api/bookings/{id}/cancel`
pub async fn cancel(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    Extension(correlation): Extension<CorrelationId>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let ask = Ask::of(request.headers(), principal, correlation)?;
    change_of(&gateway, ask, id, request, Change::parse_cancel).await
}

/// `POST /api/bookings/{id}/reschedule`
pub async fn reschedule(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    Extension(correlation): Extension<CorrelationId>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let ask = Ask::of(request.headers(), principal, correlation)?;
    change_of(&gateway, ask, id, request, Change::parse_reschedule).await
}

/// Reads the body of one kind of change.
type Parse = fn(&Map<String, Value>) -> Result<Asked, Vec<FieldError>>;

async fn change_of(
    gateway: &Gateway,
    ask: Ask,
    id: PathId,
    request: Request<Body>,
    parse: Parse,
) -> Result<Response, Problem> {
    let booking_id = id.uuid()?;
    let body = json_object(request).await?.unwrap_or_default();
    let asked = parse(&body).map_err(Problem::of_fields)?;
    let calendar_id = match ask.principal.writes_of()? {
        Some(user) => user,
        // A service that names no user: the booking tells whose it is.
        None => bookings::find(gateway, booking_id, None).await?.calendar_id,
    };
    submit(gateway, ask, calendar_id, Some(booking_id), asked).await
}

/// What the headers say.
struct Ask {
    principal: Principal,
    idempotency_key: Option<String>,
    wait: Option<Duration>,
    expected_version: Option<i32>,
    traceparent: Option<String>,
    correlation: CorrelationId,
}

impl Ask {
    fn of(
        headers: &HeaderMap,
        principal: Principal,
        correlation: CorrelationId,
    ) -> Result<Self, Problem> {
        principal.writes_of()?; // who may write nothing is told so whatever they send
        Ok(Self {
            principal,
            idempotency_key: caller::idempotency_key(headers)?,
            wait: caller::wait(headers),
            expected_version: conditions::if_match(headers)?,
            traceparent: telemetry::traceparent(&Span::current(), caller::traceparent(headers)),
            correlation,
        })
    }
}

/// Accepts the change and answers 202, or the decision when the caller waits for it.
async fn submit(
    gateway: &Gateway,
    ask: Ask,
    calendar_id: Uuid,
    booking_id: Option<Uuid>,
    asked: Asked,
) -> Result<Response, Problem> {
    if gateway.vitals.outbox_age() > gateway.outbox_max_age {
        let detail = "Accepted commands cannot be passed on at the moment; retry later.";
        return Err(Problem::new(Code::Overloaded, detail));
    }
    // A booking that is to be made has no version yet.
    let expected_version = booking_id.and(ask.expected_version);
    let fingerprint = asked.fingerprint(calendar_id, booking_id, expected_version);
    let Asked { change, callback } = asked;
    let command = Command {
        command_id: Uuid::now_v7(),
        booking_id: booking_id.unwrap_or_else(Uuid::now_v7),
        calendar_id,
        caller: ask.principal.name,
        correlation_id: ask.correlation.0,
        traceparent: ask.traceparent,
        accepted_at: Utc::now().trunc_subsecs(6), // as Postgres keeps it: a replay shows the same
        expected_version,
        callback,
        reply_to: None,
        change,
    };
    let mut record = CommandRecord::accepted(&command);
    // Before accepting, so that no decision can come between.
    let mut decision = ask.wait.and_then(|_| gateway.waiters.register(command.command_id));
    let new = NewCommand {
        partition: partition_of(command.calendar_id, gateway.partitions),
        command,
        idempotency_key: ask.idempotency_key,
        fingerprint,
    };
    let mut replayed = false;
    if let Acceptance::Replayed(stored) = gateway.acceptor.accept(new).await? {
        replayed = true;
        record = stored.record;
        if ask.wait.is_some() && record.status != CommandStatus::Accepted {
            return Ok(decided(record, replayed));
        }
        decision = ask.wait.and_then(|_| gateway.waiters.register(record.command_id));
        gateway.waiters.look_again(); // it may have been decided before we registered
    }
    if let (Some(wait), Some(decision)) = (ask.wait, decision)
        && let Some(record) = decision.within(wait, &gateway.stop).await
    {
        return Ok(decided(record, replayed));
    }
    Ok(accepted(record, replayed, ask.wait))
}

/// Reads the body as a JSON object; nothing where there is no body.
pub async fn json_object(request: Request<Body>) -> Result<Option<Map<String, Value>>, Problem> {
    let media_type = media_type(request.headers());
    let body = read(request).await?;
    if body.is_empty() {
        return Ok(None);
    }
    let is_json = match media_type.as_str() {
        "application/json" => true,
        // What curl says of any body when it is not told; a form never begins so.
        "application/x-www-form-urlencoded" => body.starts_with(b"{"),
        _ => false,
    };
    if !is_json {
        let detail = "Send the body as JSON, with the header Content-Type: application/json.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    match json::read(&body) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(mistake("body", "must be a JSON object")),
        Err(error) => Err(mistake("body", format!("is not JSON: {error}"))),
    }
}

/// The media type of the body without its parameters; empty when there is none.
fn media_type(headers: &HeaderMap) -> String {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

async fn read(request: Request<Body>) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("The body must have at most {MAX_BODY_BYTES} bytes.");
        Problem::new(Code::PayloadTooLarge, detail)
    };
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let reading = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
    match tokio::time::timeout(BODY_LIMIT, reading).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error))
            if std::error::Error::source(&error)
                .is_some_and(|e| e.is::<http_body_util::LengthLimitError>()) =>
        {
            Err(too_large())
        }
        Ok(Err(_)) => Err(mistake("body", "broke off")),
        Err(_) => {
            let seconds = BODY_LIMIT.as_secs();
            Err(mistake("body", format!("did not arrive within {seconds} s")))
        }
    }
}
