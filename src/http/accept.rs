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
use serde_json::{Map, Value};
use tracing::Span;
use uuid::Uuid;

use super::Gateway;
use super::bookings;
use super::caller::{self, CorrelationId, Principal};
use super::conditions;
use super::problem::{PathId, mistake};
use super::status::{accepted, decided};
use crate::accept::reading::{self, MAX_BODY_BYTES};
use crate::accept::{Acceptance, request};
use crate::booking::command::{CommandRecord, CommandStatus, Kind};
use crate::booking::problem::{Code, Problem};
use crate::store::commands::NewCommand;
use crate::telemetry;

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
    submit(&gateway, ask, Kind::Create, None, body).await
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
    change_of(&gateway, ask, id, request, Kind::Confirm).await
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
    change_of(&gateway, ask, id, request, Kind::Cancel).await
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
    change_of(&gateway, ask, id, request, Kind::Reschedule).await
}

async fn change_of(
    gateway: &Gateway,
    ask: Ask,
    id: PathId,
    request: Request<Body>,
    kind: Kind,
) -> Result<Response, Problem> {
    let booking_id = id.uuid()?;
    let body = json_object(request).await?.unwrap_or_default();
    submit(gateway, ask, kind, Some(booking_id), body).await
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

async fn submit(
    gateway: &Gateway,
    ask: Ask,
    kind: Kind,
    booking_id: Option<Uuid>,
    body: Map<String, Value>,
) -> Result<Response, Problem> {
    let checked = gateway.acceptor.check(request::Request {
        principal: ask.principal,
        kind,
        booking_id,
        idempotency_key: ask.idempotency_key,
        expected_version: ask.expected_version,
        correlation_id: ask.correlation.0,
        traceparent: ask.traceparent,
        reply_to: None,
        body,
        mistakes: Vec::new(),
    })?;
    let calendar_id = match (checked.calendar_id, booking_id) {
        (None, Some(id)) => bookings::find(gateway, id, None).await?.calendar_id,
        (named, _) => named.unwrap_or_default(), // who books always names the calendar
    };
    let new = gateway.acceptor.command(&checked, calendar_id)?;
    accept(gateway, new, ask.wait).await
}

/// Accepts the command and answers 202, or the decision when the caller waits for it.
async fn accept(
    gateway: &Gateway,
    new: NewCommand,
    wait: Option<Duration>,
) -> Result<Response, Problem> {
    let mut record = CommandRecord::accepted(&new.command);
    // Before accepting, so that no decision can come between.
    let mut decision = wait.and_then(|_| gateway.waiters.register(record.command_id));
    let mut replayed = false;
    if let Acceptance::Replayed(stored) = gateway.acceptor.accept(new).await? {
        replayed = true;
        record = stored.record;
        if wait.is_some() && record.status != CommandStatus::Accepted {
            return Ok(decided(record, replayed));
        }
        decision = wait.and_then(|_| gateway.waiters.register(record.command_id));
        gateway.waiters.look_again(); // it may have been decided before we registered
    }
    if let (Some(wait), Some(decision)) = (wait, decision)
        && let Some(record) = decision.within(wait, &gateway.stop).await
    {
        return Ok(decided(record, replayed));
    }
    Ok(accepted(&record, replayed, wait))
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
    reading::object(&body).map(Some)
}

/// The media type of the body without its parameters; empty when there is none.
fn media_type(headers: &HeaderMap) -> String {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

async fn read(request: Request<Body>) -> Result<Bytes, Problem> {
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > MAX_BODY_BYTES) {
        return Err(reading::too_large());
    }
    let reading = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
    match tokio::time::timeout(BODY_LIMIT, reading).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error))
            if std::error::Error::source(&error)
                .is_some_and(|e| e.is::<http_body_util::LengthLimitError>()) =>
        {
            Err(reading::too_large())
        }
        Ok(Err(_)) => Err(mistake("body", "broke off")),
        Err(_) => {
            let seconds = BODY_LIMIT.as_secs();
            Err(mistake("body", format!("did not arrive within {seconds} s")))
        }
    }
}
