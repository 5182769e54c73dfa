//! GET: a booking as it is now.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use uuid::Uuid;

use super::Gateway;
use super::caller::Principal;
use super::conditions::tagged;
use super::problem::PathId;
use super::status::read_failed;
use crate::booking::Booking;
use crate::booking::problem::{Code, Problem};
use crate::store::{self, bookings};

/// `GET /api/bookings/{id}`
pub async fn booking(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let of = principal.reads_of()?;
    let booking = find(&gateway, id.uuid()?, of).await?;
    Ok(tagged(&headers, &booking.version.to_string(), &booking))
}

/// The booking, if it is of the user, or of anybody where none is given.
pub async fn find(gateway: &Gateway, id: Uuid, of: Option<Uuid>) -> Result<Booking, Problem> {
    let found = store::read(&gateway.reads, async |c| bookings::by_id(c, id, of).await).await;
    found.map_err(read_failed)?.ok_or_else(|| {
        // Another's booking is answered the same way as one that never was.
        Problem::new(Code::NotFound, format!("You have no booking with the id {id}."))
    })
}
