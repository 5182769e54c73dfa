//! What an owner has delivered again: one delivery, all that are exhausted, or a test.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use chrono::{DateTime, SubsecRound as _, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{DeliveryPath, no_delivery, no_endpoint, reach};
use crate::booking::event;
use crate::booking::fields::{Fields, parse_uuid};
use crate::booking::problem::{Code, FieldError, Problem};
use crate::http::Gateway;
use crate::http::accept::json_object;
use crate::http::caller::Principal;
use crate::http::problem::PathId;
use crate::http::status::{json, read_failed};
use crate::store;
use crate::store::webhooks::again::{self, Again};

/// What is delivered soon.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queued {
    delivery_id: Uuid,
}

/// `POST /api/webhooks/{id}/test`
pub async fn test(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let id = id.uuid()?;
    asks_nothing(request).await?;
    let (delivery_id, now) = (Uuid::now_v7(), Utc::now().trunc_subsecs(6));
    let body = event::of_webhook_test(delivery_id, id, now);
    let queued = store::read(&gateway.reads, async |c| {
        again::test(c, &whose, id, (delivery_id, &body, now)).await
    });
    queued_or_not(queued.await.map_err(read_failed)?, id, delivery_id)?;
    Ok(json(StatusCode::ACCEPTED, &Queued { delivery_id }))
}

/// `POST /api/webhooks/{id}/deliveries/{deliveryId}/redeliver`
pub async fn redeliver(
    State(gateway): State<Arc<Gateway>>,
    path: DeliveryPath,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let (id, delivery_id) = path.uuids()?;
    asks_nothing(request).await?;
    let reads = gateway.reads.clone();
    let queued = store::to_its_end(async move {
        store::read(&reads, async |c| again::redeliver(c, &whose, id, delivery_id).await).await
    });
    queued_or_not(queued.await.map_err(read_failed)?, id, delivery_id)?;
    Ok(json(StatusCode::ACCEPTED, &Queued { delivery_id }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Recovered {
    queued: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<Uuid>,
}

/// `POST /api/webhooks/{id}/recover`
pub async fn recover(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let id = id.uuid()?;
    let body = json_object(request).await?.unwrap_or_default();
    let from = parse(&body, &gateway).map_err(Problem::of_fields)?;
    let reads = gateway.reads.clone();
    let recovered = store::to_its_end(async move {
        store::read(&reads, async |c| again::recover(c, &whose, id, from).await).await
    });
    let recovered = queued_or_not(recovered.await.map_err(read_failed)?, id, Uuid::nil())?;
    let (queued, next_cursor) = (recovered.queued, recovered.looked_until);
    Ok(json(StatusCode::ACCEPTED, &Recovered { queued, next_cursor }))
}

/// From when on, and where the recovery before ended.
fn parse(
    body: &Map<String, Value>,
    gateway: &Gateway,
) -> Result<(DateTime<Utc>, Option<Uuid>), Vec<FieldError>> {
    let mut fields = Fields::of(body);
    let since = fields.time("since");
    let after = fields.notation("cursor", "the nextCursor of a recovery", parse_uuid);
    fields.finish()?;
    let since = since.ok_or_else(Vec::new)?; // not reached: it has left its mistake behind
    let (now, retention) = (Utc::now(), gateway.webhooks.retention);
    let days = retention.as_secs() / 86_400;
    let message = if since > now {
        "must not be in the future".to_owned()
    } else if now - retention > since {
        format!("must be at most {days} days ago; deliveries are kept that long")
    } else {
        return Ok((since, after));
    };
    Err(vec![FieldError { field: "since".into(), code: Code::InvalidTime, message }])
}

/// Refuses a body with anything in it.
async fn asks_nothing(request: Request<Body>) -> Result<(), Problem> {
    let body = json_object(request).await?.unwrap_or_default();
    Fields::of(&body).finish().map_err(Problem::of_fields)
}

fn queued_or_not<T>(again: Again<T>, id: Uuid, delivery_id: Uuid) -> Result<T, Problem> {
    let not_now = |detail| Err(Problem::new(Code::InvalidState, detail));
    match again {
        Again::Queued(queued) => Ok(queued),
        Again::NoEndpoint => Err(no_endpoint(id)),
        Again::NoDelivery => Err(no_delivery(delivery_id)),
        Again::Disabled => {
            not_now("The endpoint is disabled; enable it first, with PATCH {\"enabled\":true}.")
        }
        Again::NoUrl => not_now(
            "This is the target of callbacks, which has no URL of its own to test; send a command \
             with a callbackUrl instead.",
        ),
    }
}
