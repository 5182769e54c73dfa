//! Before every handler of the API: who calls.
//!
//! In: a request. Out: the same with its [`Principal`] for the handler, or 401.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;

use super::caller::{self, Principal};
use crate::booking::problem::{Code, Problem};

/// The middleware.
pub async fn identify(mut request: Request, next: Next) -> Result<Response, Problem> {
    let principal = by_trusted_header(request.headers())?;
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// Whom whatever authenticates in front of this service says it is.
fn by_trusted_header(headers: &HeaderMap) -> Result<Principal, Problem> {
    caller::user_id(headers)?.map(Principal::user).ok_or_else(|| {
        let detail = "Send the header X-User-ID with the caller's UUID.";
        Problem::new(Code::Unauthenticated, detail)
    })
}
