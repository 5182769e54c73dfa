//! Endpoints: register, look, change, delete, and another secret.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::LOCATION;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{judged, no_endpoint, reach};
use crate::accept::upgrading;
use crate::booking::endpoint::{EndpointChange, NewEndpoint};
use crate::booking::fields::{Fields, parse_uuid};
use crate::booking::problem::{Code, Problem};
use crate::http::Gateway;
use crate::http::accept::json_object;
use crate::http::caller::Principal;
use crate::http::listing::limit;
use crate::http::page;
use crate::http::problem::PathId;
use crate::http::query;
use crate::http::status::{insert, json, read_failed};
use crate::store;
use crate::store::webhooks::endpoints::{self, Endpoint, MAX_ENDPOINTS};
use crate::webhooks::signature::Secret;

/// For so long the secret before signs too, when the client does not say.
pub const OVERLAP_SECONDS: i32 = 86_400;
/// A longer overlap is refused.
pub const MAX_OVERLAP_SECONDS: i32 = 7 * 86_400;
const OVERLAP: RangeInclusive<i32> = 0..=MAX_OVERLAP_SECONDS;

/// Workers write deliveries since this format of commands.
const DELIVERIES_SINCE: u16 = 2;

/// An endpoint with the secret that is shown this once.
#[derive(Serialize)]
struct WithSecret {
    #[serde(flatten)]
    endpoint: Endpoint,
    secret: String,
}

/// `POST /api/webhooks`
pub async fn register(
    State(gateway): State<Arc<Gateway>>,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (whose, calendar) = reach(&principal)?;
    let body = json_object(request).await?.unwrap_or_default();
    let check = |url: &str| judged(&gateway.webhooks.policy, url);
    let new = NewEndpoint::parse(&body, &check).map_err(Problem::of_fields)?;
    // What an older worker decides, it tells no endpoint.
    if !gateway.vitals.workers_read(DELIVERIES_SINCE) {
        return Err(upgrading("a new endpoint"));
    }
    let secret = new_secret()?;
    let (reads, key) = (gateway.reads.clone(), secret.clone());
    let made = store::to_its_end(async move {
        store::read(&reads, async |c| {
            endpoints::register(c, &whose.owner, calendar, &new, key.as_bytes()).await
        })
        .await
    });
    let endpoint = made.await.map_err(read_failed)?.ok_or_else(|| {
        let detail = format!(
            "There may be {MAX_ENDPOINTS} webhook endpoints of one owner; delete one, or change it."
        );
        Problem::new(Code::LimitReached, detail)
    })?;
    let location = format!("/api/webhooks/{}", endpoint.id);
    let shown = WithSecret { endpoint, secret: secret.reveal() };
    let mut response = json(StatusCode::CREATED, &shown);
    insert(response.headers_mut(), LOCATION, location);
    Ok(response)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    endpoints: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<Uuid>,
}

/// `GET /api/webhooks`
pub async fn list(
    State(gateway): State<Arc<Gateway>>,
    Extension(principal): Extension<Principal>,
    RawQuery(asked): RawQuery,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let query = query::object(asked.as_deref())?;
    let mut fields = Fields::of(&query);
    let limit = limit(&mut fields);
    let after = fields.notation("cursor", "the nextCursor of a page", parse_uuid);
    fields.finish().map_err(Problem::of_fields)?;
    let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let found = store::read(&gateway.reads, async |c| {
        endpoints::list(c, &whose, after.unwrap_or_default(), most).await
    });
    let found = found.await.map_err(read_failed)?;
    let (endpoints, last) = page::cut(&found, limit);
    let next_cursor = last.map(|endpoint| endpoint.id);
    Ok(json(StatusCode::OK, &Page { endpoints, next_cursor }))
}

/// `GET /api/webhooks/{id}`
pub async fn endpoint(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let id = id.uuid()?;
    let found = store::read(&gateway.reads, async |c| endpoints::find(c, &whose, id).await).await;
    let endpoint = found.map_err(read_failed)?.ok_or_else(|| no_endpoint(id))?;
    Ok(json(StatusCode::OK, &endpoint))
}

const FIXED: &str = "This is the target of callbacks: its url and eventTypes cannot be changed, since \
                     the commands that name it say where it leads and what it gets. Leave them out.";

/// `PATCH /api/webhooks/{id}`
pub async fn change(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let id = id.uuid()?;
    let body = json_object(request).await?.unwrap_or_default();
    let check = |url: &str| judged(&gateway.webhooks.policy, url);
    let change = EndpointChange::parse(&body, &check).map_err(Problem::of_fields)?;
    let changed = store::read(&gateway.reads, async |c| {
        match endpoints::change(&mut *c, &whose, id, &change).await? {
            Some(endpoint) => Ok(Ok(endpoint)),
            None => Ok(Err(endpoints::find(c, &whose, id).await?)),
        }
    });
    match changed.await.map_err(read_failed)? {
        Ok(endpoint) => Ok(json(StatusCode::OK, &endpoint)),
        Err(None) => Err(no_endpoint(id)),
        Err(Some(_)) => Err(Problem::new(Code::InvalidState, FIXED)),
    }
}

/// `DELETE /api/webhooks/{id}`
pub async fn remove(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let id = id.uuid()?;
    let reads = gateway.reads.clone();
    // To its end, so that nothing stays in the queue for a target that is no more.
    let deleted = store::to_its_end(async move {
        let shard = store::read(&reads, async |c| endpoints::delete(c, &whose, id).await).await?;
        let Some(shard) = shard else { return Ok(false) };
        while store::read(&reads, async |c| endpoints::unqueue(c, shard, id).await).await? {}
        Ok(true)
    });
    match deleted.await.map_err(read_failed)? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(no_endpoint(id)),
    }
}

/// `POST /api/webhooks/{id}/rotate-secret`
pub async fn rotate_secret(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let id = id.uuid()?;
    let body = json_object(request).await?.unwrap_or_default();
    let mut fields = Fields::of(&body);
    let overlap = fields.whole("overlapSeconds", OVERLAP).unwrap_or(OVERLAP_SECONDS);
    fields.finish().map_err(Problem::of_fields)?;
    let secret = new_secret()?;
    let rotated = store::read(&gateway.reads, async |c| {
        endpoints::rotate(c, &whose, id, secret.as_bytes(), overlap).await
    });
    let endpoint = rotated.await.map_err(read_failed)?.ok_or_else(|| no_endpoint(id))?;
    Ok(json(StatusCode::OK, &WithSecret { endpoint, secret: secret.reveal() }))
}

fn new_secret() -> Result<Secret, Problem> {
    Secret::generate().map_err(|cause| {
        tracing::error!(%cause, "no secret could be made");
        Problem::new(Code::DependencyUnavailable, "No secret can be made now; retry.")
    })
}
