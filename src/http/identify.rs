//! Before every handler of the API: who calls.
//!
//! In: a request. Out: the same with its [`Principal`] for the handler, or 401. How a caller is
//! known is a setting: by the trusted header `X-User-ID`, or by what the request proves; then the
//! header only says on whose behalf a service acts, and a user may name nobody else.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::caller::{self, Principal};
use super::problem::mistake;
use crate::booking::problem::{Code, Problem};
use crate::identity::Identities;

/// What may be looked at without a name where names are believed.
const SLOTS: &str = "/api/users/{id}/slots";
/// To a request that proves nothing: what would prove something.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");
/// To a request whose proof is not good. Why not is in the problem document.
const INVALID: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// The middleware.
pub async fn identify(
    State(identities): State<Arc<Identities>>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    match principal(&identities, request.headers(), route.as_ref()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(problem) => refusal(problem, request.headers()),
    }
}

async fn principal(
    identities: &Identities,
    headers: &HeaderMap,
    route: Option<&MatchedPath>,
) -> Result<Principal, Problem> {
    if matches!(identities, Identities::TrustedHeader) {
        return by_trusted_header(headers, route);
    }
    let Some(proof) = caller::proof(headers)? else {
        let detail = "Send the header Authorization: Bearer with a token or an API key.";
        return Err(Problem::new(Code::Unauthenticated, detail));
    };
    let principal = identities.of(proof).await?;
    match caller::user_id(headers) {
        Ok(None) => Ok(principal),
        Ok(Some(user)) => principal.on_behalf_of(user),
        Err(_) => Err(mistake("X-User-ID", "must be one UUID")),
    }
}

/// Whom whatever authenticates in front of this service says it is. Where it names nobody, free
/// slots may still be looked at, as the seed's clients do: who could be refused here could as
/// well name somebody.
fn by_trusted_header(
    headers: &HeaderMap,
    route: Option<&MatchedPath>,
) -> Result<Principal, Problem> {
    let detail = match caller::user_id(headers) {
        Ok(Some(user)) => return Ok(Principal::user(user)),
        Ok(None) if route.is_some_and(|route| route.as_str() == SLOTS) => {
            return Ok(Principal::nobody());
        }
        Ok(None) => "Send the header X-User-ID with the caller's UUID.",
        Err(_) => "The header X-User-ID must be one UUID.",
    };
    Err(Problem::new(Code::Unauthenticated, detail))
}

fn refusal(problem: Problem, headers: &HeaderMap) -> Response {
    let unauthenticated = problem.code == Code::Unauthenticated;
    let mut response = problem.into_response();
    if unauthenticated {
        let challenge = if caller::shows_a_proof(headers) { INVALID } else { CHALLENGE };
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
