//! GET: what became of a command; and the answers that a command's life gives rise to.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Gateway;
use super::caller::{self, Principal};
use super::conditions::tagged;
use super::problem::{PROBLEM_JSON, PathId, status_of};
use crate::booking::command::{CommandRecord, CommandStatus};
use crate::booking::problem::{Code, Problem};
use crate::store;
use crate::store::commands::{self, StoredCommand};
use crate::telemetry::Seldom;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// A decision usually takes milliseconds, so the next second is soon enough to ask again.
const POLL_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// `GET /api/commands/{id}`
pub async fn command(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let of = principal.reads_of()?;
    let id = id.uuid()?;
    let wait = caller::wait(&headers);
    // Before reading, so that no decision can come between.
    let decision = wait.and_then(|_| gateway.waiters.register(id));
    let found = store::read(&gateway.reads, async |c| commands::by_ids(c, &[id]).await).await;
    let stored = found.map_err(read_failed)?.pop();
    let mine = |stored: &StoredCommand| of.is_none_or(|user| stored.calendar_id == user);
    let mut record = stored.filter(mine).ok_or_else(|| no_command(id))?.record;
    if record.status == CommandStatus::Accepted
        && let (Some(wait), Some(decision)) = (wait, decision)
        && let Some(decided) = decision.within(wait, &gateway.stop).await
    {
        record = decided;
    }
    let mut response = tagged(&headers, record.status.as_str(), &record);
    if record.status == CommandStatus::Accepted {
        response.headers_mut().insert(RETRY_AFTER, POLL_SECONDS);
    }
    Ok(response)
}

/// The answer to a command that is accepted and not decided (or not waited for). A replay gives
/// the first answer again, whatever has become of the command since.
pub fn accepted(record: &CommandRecord, replayed: bool, wait: Option<Duration>) -> Response {
    let first = record.when_accepted();
    let mut response = json(StatusCode::ACCEPTED, &first);
    let headers = response.headers_mut();
    insert(headers, LOCATION, format!("/api/commands/{}", first.command_id));
    headers.insert(RETRY_AFTER, POLL_SECONDS);
    note_replay(headers, replayed);
    if let Some(wait) = wait {
        insert(headers, PREFERENCE_APPLIED, format!("wait={}", wait.as_secs()));
    }
    response
}

/// The answer to a command that was waited for: the booking, or why not.
pub fn decided(record: CommandRecord, replayed: bool) -> Response {
    let mut response = match (record.booking, record.error) {
        (Some(booking), _) => {
            let created = record.kind == "create";
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            let mut response = json(status, &booking);
            let headers = response.headers_mut();
            insert(headers, ETAG, format!("\"{}\"", version_of(&booking)));
            if created {
                insert(headers, LOCATION, format!("/api/bookings/{}", record.booking_id));
            }
            response
        }
        (None, Some(error)) => {
            let mut response = json(status_of(status_in(&error)), &error);
            response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
            response
        }
        // Not reached: a decided command has one of them.
        (None, None) => json(StatusCode::INTERNAL_SERVER_ERROR, &()),
    };
    note_replay(response.headers_mut(), replayed);
    response
}

fn note_replay(headers: &mut HeaderMap, replayed: bool) {
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

fn version_of(booking: &RawValue) -> i32 {
    #[derive(Deserialize)]
    struct Version {
        version: i32,
    }
    serde_json::from_str(booking.get()).map_or(0, |Version { version }| version)
}

fn status_in(problem: &RawValue) -> u16 {
    #[derive(Deserialize)]
    struct Status {
        status: u16,
    }
    serde_json::from_str(problem.get()).map_or(500, |Status { status }| status)
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_vec(body).unwrap_or_default(); // our own plain types: cannot fail
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Sets a header whose value we made of ASCII.
pub fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn no_command(id: uuid::Uuid) -> Problem {
    Problem::new(Code::NotFound, format!("You have no command with the id {id}."))
}

/// A read that Postgres did not answer, or was not asked for because too many wait.
pub fn read_failed(cause: sqlx::Error) -> Problem {
    if store::reads::is_overload(&cause) {
        return Problem::new(Code::Overloaded, "Too many requests wait to be read; retry later.");
    }
    static TOLD: Seldom = Seldom::new();
    if let Some(times) = TOLD.times() {
        tracing::warn!(server = "postgres", %cause, times, "reads fail");
    }
    Problem::new(Code::DependencyUnavailable, "The database cannot be read now; retry.")
}
