//! The log of an endpoint: what was to be delivered, and every try of it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{DeliveryPath, no_delivery, no_endpoint, reach};
use crate::booking::event;
use crate::booking::fields::{Fields, parse_time, parse_uuid};
use crate::booking::problem::{FieldError, Problem};
use crate::http::Gateway;
use crate::http::caller::Principal;
use crate::http::listing::limit;
use crate::http::page;
use crate::http::problem::PathId;
use crate::http::query;
use crate::http::status::{json, read_failed};
use crate::store;
use crate::store::webhooks::endpoints;
use crate::store::webhooks::log::{self, Attempt, Delivery, Filter, Status};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    deliveries: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<Uuid>,
}

/// `GET /api/webhooks/{id}/deliveries`
pub async fn list(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    RawQuery(asked): RawQuery,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let id = id.uuid()?;
    let (filter, limit) = parse(&query::object(asked.as_deref())?).map_err(Problem::of_fields)?;
    let found =
        store::read(&gateway.reads, async |c| match endpoints::find(&mut *c, &whose, id).await? {
            Some(endpoint) => log::deliveries(c, &endpoint, &filter, limit + 1).await.map(Some),
            None => Ok(None),
        });
    let part = found.await.map_err(read_failed)?.ok_or_else(|| no_endpoint(id))?;
    let (deliveries, last) = page::cut(&part.deliveries, limit);
    let next_cursor = last.map(|delivery| delivery.id).or(part.looked_until);
    Ok(json(StatusCode::OK, &Page { deliveries, next_cursor }))
}

fn parse(query: &Map<String, Value>) -> Result<(Filter, usize), Vec<FieldError>> {
    let mut fields = Fields::of(query);
    let status = fields.notation("status", "pending, delivered or exhausted", |text| {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    });
    let shape = format!("one of {}", event::TYPES.join(", "));
    let event_type = fields.notation("eventType", &shape, |text| {
        event::TYPES.contains(&text).then(|| text.to_owned())
    });
    let shape = "an RFC 3339 time with an offset, such as 2027-03-01T09:00:00Z (a + in it is \
                 written %2B)";
    let from = fields.notation("from", shape, |text| parse_time(text).ok());
    let to = fields.notation("to", shape, |text| parse_time(text).ok());
    let limit = limit(&mut fields);
    let before = fields.notation("cursor", "the nextCursor of a page", parse_uuid);
    fields.finish()?;
    Ok((Filter { status, event_type, from, to, before }, limit))
}

#[derive(Serialize)]
struct WithPayload {
    #[serde(flatten)]
    delivery: Delivery,
    payload: Box<RawValue>,
}

/// `GET /api/webhooks/{id}/deliveries/{deliveryId}`
pub async fn delivery(
    State(gateway): State<Arc<Gateway>>,
    path: DeliveryPath,
    Extension(principal): Extension<Principal>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let (id, delivery_id) = path.uuids()?;
    let found =
        store::read(&gateway.reads, async |c| match endpoints::find(&mut *c, &whose, id).await? {
            Some(endpoint) => log::delivery(c, &endpoint, delivery_id).await.map(Some),
            None => Ok(None),
        });
    let found = found.await.map_err(read_failed)?.ok_or_else(|| no_endpoint(id))?;
    let (delivery, payload) = found.ok_or_else(|| no_delivery(delivery_id))?;
    Ok(json(StatusCode::OK, &WithPayload { delivery, payload }))
}

#[derive(Serialize)]
struct Attempts {
    attempts: Vec<Attempt>,
}

/// `GET /api/webhooks/{id}/deliveries/{deliveryId}/attempts`
pub async fn attempts(
    State(gateway): State<Arc<Gateway>>,
    path: DeliveryPath,
    Extension(principal): Extension<Principal>,
) -> Result<Response, Problem> {
    let (whose, _) = reach(&principal)?;
    let (id, delivery_id) = path.uuids()?;
    let found =
        store::read(&gateway.reads, async |c| match endpoints::find(&mut *c, &whose, id).await? {
            Some(endpoint) => log::attempts(c, endpoint.id, delivery_id).await.map(Some),
            None => Ok(None),
        });
    let found = found.await.map_err(read_failed)?.ok_or_else(|| no_endpoint(id))?;
    let attempts = found.ok_or_else(|| no_delivery(delivery_id))?;
    Ok(json(StatusCode::OK, &Attempts { attempts }))
}
