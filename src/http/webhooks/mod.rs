//! Webhooks: whom their owners have told of what, and what became of it.
//!
//! In: requests of whoever owns an endpoint. Out: rows that decisions, and the stage that
//! delivers, read; nothing is sent from here. An endpoint belongs to the principal that registered
//! it, and is told of the calendars that the principal could read then. Callbacks' targets, which
//! commands bring along, are shown and mended here too. If the process dies, a change was made or
//! was not; the same request may be sent again, except that registering twice makes two endpoints.

mod again;
mod deliveries;
mod endpoints;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{get, post};
use uuid::Uuid;

pub use endpoints::{MAX_OVERLAP_SECONDS, OVERLAP_SECONDS};

use crate::booking::fields::parse_uuid;
use crate::booking::problem::{Code, Problem};
use crate::http::Gateway;
use crate::http::caller::Principal;
use crate::http::problem::mistake;
use crate::identity::Reach;
use crate::store::webhooks::endpoints::Whose;
use crate::webhooks::address::{Policy, check_url};

/// The routes below `/api/webhooks`.
pub fn routes() -> Router<Arc<Gateway>> {
    Router::new()
        .route("/api/webhooks", post(endpoints::register).get(endpoints::list))
        .route(
            "/api/webhooks/{id}",
            get(endpoints::endpoint).patch(endpoints::change).delete(endpoints::remove),
        )
        .route("/api/webhooks/{id}/rotate-secret", post(endpoints::rotate_secret))
        .route("/api/webhooks/{id}/test", post(again::test))
        .route("/api/webhooks/{id}/recover", post(again::recover))
        .route("/api/webhooks/{id}/deliveries", get(deliveries::list))
        .route("/api/webhooks/{id}/deliveries/{deliveryId}", get(deliveries::delivery))
        .route("/api/webhooks/{id}/deliveries/{deliveryId}/attempts", get(deliveries::attempts))
        .route("/api/webhooks/{id}/deliveries/{deliveryId}/redeliver", post(again::redeliver))
}

/// Whose endpoints the caller reaches, and of whose calendar a new one is told: of everybody's
/// where a service names nobody.
///
/// # Errors
/// `FORBIDDEN` for a service that may not read.
fn reach(principal: &Principal) -> Result<(Whose, Option<Uuid>), Problem> {
    let calendar = principal.reads_of()?;
    // A user's callbacks have no calendar, and are the user's nevertheless.
    let only = calendar.filter(|_| matches!(principal.reach, Reach::Any { .. }));
    Ok((Whose { owner: principal.name.clone(), only }, calendar))
}

/// Judges the URL of an endpoint, as acceptance judges that of a callback.
///
/// # Errors
/// What it must be.
fn judged(policy: &Policy, url: &str) -> Result<String, String> {
    check_url(url, policy).map(String::from)
}

fn no_endpoint(id: Uuid) -> Problem {
    // Another's endpoint is answered the same way as one that never was.
    Problem::new(Code::NotFound, format!("You have no webhook endpoint with the id {id}."))
}

fn no_delivery(id: Uuid) -> Problem {
    Problem::new(Code::NotFound, format!("This endpoint has no delivery with the id {id}."))
}

/// The `{id}` and `{deliveryId}` of a path, each of which must be a UUID.
pub struct DeliveryPath(Option<Uuid>, Option<Uuid>);

impl<S: Send + Sync> FromRequestParts<S> for DeliveryPath {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let ids = Path::<(String, String)>::from_request_parts(parts, state).await.ok();
        let (id, delivery) = ids.map(|Path(ids)| ids).unzip();
        Ok(Self(id.and_then(|id| parse_uuid(&id)), delivery.and_then(|id| parse_uuid(&id))))
    }
}

impl DeliveryPath {
    /// Asked for after the caller is known.
    ///
    /// # Errors
    /// When one is not a UUID.
    fn uuids(&self) -> Result<(Uuid, Uuid), Problem> {
        let uuid =
            |id: Option<Uuid>, name| id.ok_or_else(|| mistake(name, "must be a UUID in the path"));
        Ok((uuid(self.0, "id")?, uuid(self.1, "deliveryId")?))
    }
}
