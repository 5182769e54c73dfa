//! The only place where a problem becomes an HTTP answer.
//!
//! Handlers return a [`Problem`]; it travels in the response's extensions until [`render`],
//! called once for every request, writes the document with the request's correlation id. What
//! went wrong inside is logged where it happened and never sent.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::booking::fields::parse_uuid;
use crate::booking::problem::{Code, Problem};

/// The content type of every problem document.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// How soon a client may try again what was refused for the service's own state, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status_of(self.code.status());
        if matches!(
            self.code,
            Code::Overloaded | Code::DependencyUnavailable | Code::CalendarBacklogFull
        ) {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the document of a problem that is on its way out.
pub fn render(response: &mut Response, correlation_id: &str) {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        *response.body_mut() = Body::from(problem.document(correlation_id));
    }
}

/// The status as hyper's type; our codes only hold valid ones.
pub fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A mistake in one field, parameter or header.
pub fn mistake(field: &str, message: impl Into<String>) -> Problem {
    Problem::of_field(field, message)
}

/// The `{id}` of a path, which must be a UUID. Its rejection is ours, not the framework's, also
/// where it is not even UTF-8.
pub struct PathId(Option<Uuid>);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let id = Path::<String>::from_request_parts(parts, state).await.ok();
        Ok(Self(id.and_then(|Path(id)| parse_uuid(&id))))
    }
}

impl PathId {
    /// Asked for after the caller is known.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn uuid(&self) -> Result<Uuid, Problem> {
        self.0.ok_or_else(|| mistake("id", "must be a UUID in the path"))
    }
}

/// No route has this path.
pub async fn unknown_path() -> Problem {
    Problem::new(Code::NotFound, "There is nothing at this path; see the API in the README.")
}

/// A route has this path, but not this method.
pub async fn unknown_method() -> Problem {
    let detail = "This path does not take this method; the Allow header lists those it takes.";
    Problem::new(Code::MethodNotAllowed, detail)
}
