//! What browsers are told: which pages may read our answers (CORS), and what to do with them.
//!
//! No answer is ever to be sent with cookies: callers show who they are in headers that a page
//! sets itself, so a page that has no token of its user can do nothing in the user's name.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, ORIGIN, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::config::Origins;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// Every header that we read.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, X-Idempotency-Key, If-Match, If-None-Match, \
     Prefer, X-API-Key, X-Correlation-ID, X-User-ID, traceparent",
);
/// Every header that we answer with and that scripts do not see by themselves.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "Allow, ETag, Idempotency-Replayed, Location, Preference-Applied, RateLimit-Limit, \
     RateLimit-Remaining, RateLimit-Reset, Retry-After, WWW-Authenticate, X-Correlation-ID",
);
/// Seconds for which a browser need not ask again; the most that any of them takes.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const VARIES: HeaderValue = HeaderValue::from_static("Origin");

/// Lets the pages of some origins read our answers.
pub async fn share(State(origins): State<Arc<Origins>>, request: Request, next: Next) -> Response {
    let asks_first = request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let allowed = allowed(&origins, request.headers());
    let mut response = match &allowed {
        Some(_) if asks_first => {
            let answer = [
                (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
                (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
            ];
            (StatusCode::NO_CONTENT, answer).into_response()
        }
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Some(origin) = allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
    }
    if matches!(&*origins, Origins::Listed(listed) if !listed.is_empty()) {
        headers.append(VARY, VARIES); // also where there was no origin: caches must not mix them
    }
    response
}

/// The value that allows the request's origin, if it has one and it is allowed.
fn allowed(origins: &Origins, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    match origins {
        Origins::All => Some(HeaderValue::from_static("*")),
        Origins::Listed(listed) => {
            let asked = origin.to_str().ok()?;
            let known = listed.iter().any(|known| known.eq_ignore_ascii_case(asked));
            known.then(|| origin.clone())
        }
    }
}

/// On every answer: it is what its type says, no page may show it in a frame or run it, and what
/// it says of a caller is kept by no cache that others read.
pub async fn secure(request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut unless_set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    unless_set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    unless_set(CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    unless_set(X_FRAME_OPTIONS, "DENY");
    unless_set(REFERRER_POLICY, "no-referrer");
    if is_api {
        let validated = reads && headers.contains_key(ETAG);
        let value = if validated { "private, no-cache" } else { "no-store" };
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static(value));
    }
    response
}
