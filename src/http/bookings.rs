//! GET: a booking as it is now.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::Gateway;
use super::caller;
use super::conditions::tagged;
use super::problem::PathId;
use super::status::read_failed;
use crate::booking::problem::{Code, Problem};
use crate::store::{self, bookings};

/// `GET /api/bookings/{id}`
pub async fn booking(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = caller::caller(&headers)?;
    let id = id.uuid()?;
    let found = store::read(&gateway.reads, async |c| bookings::by_id(c, id, caller).await).await;
    let booking = found.map_err(read_failed)?.ok_or_else(|| {
        // Another's booking is answered the same way as one that never was.
        Problem::new(Code::NotFound, format!("You have no booking with the id {id}."))
    })?;
    Ok(tagged(&headers, &booking.version.to_string(), &booking))
}
