//! GET: the bookings of a calendar, and the history of one, page by page.
//!
//! Pages are cut by a key and not by a number of rows, so bookings that come and go between two
//! requests neither repeat nor hide others.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Gateway;
use super::bookings::find;
use super::caller::Principal;
use super::page;
use super::problem::PathId;
use super::query;
use super::status::{json, read_failed};
use crate::booking::fields::{Fields, LATEST, parse_time};
use crate::booking::problem::{FieldError, Problem};
use crate::booking::{Interval, Status};
use crate::store::listing::{self, Filter, Key, Sort};
use crate::store::{self, audit};

/// A page has so many rows at most; more are `VALIDATION_FAILED`.
pub const MAX_PAGE: i32 = 100;
/// Rows of a page when the client does not say.
pub const PAGE: i32 = 50;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    bookings: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// `GET /api/users/{id}/bookings`
pub async fn bookings(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    RawQuery(asked): RawQuery,
) -> Result<Response, Problem> {
    let calendar = id.uuid()?;
    principal.may_read(calendar)?;
    let (filter, limit) = parse(&query::object(asked.as_deref())?).map_err(Problem::of_fields)?;
    let found = store::read(&gateway.reads, async |c| {
        listing::of_calendar(c, calendar, &filter, limit + 1).await
    });
    let found = found.await.map_err(read_failed)?;
    let (bookings, last) = page::cut(&found, limit);
    let next_cursor = last.map(|booking| cursor_of(&filter.sort.key_of(booking)));
    Ok(json(StatusCode::OK, &Page { bookings, next_cursor }))
}

fn parse(query: &Map<String, Value>) -> Result<(Filter, usize), Vec<FieldError>> {
    let mut fields = Fields::of(query);
    let shape = "a comma-separated list of PENDING, CONFIRMED, CANCELLED, EXPIRED and COMPLETED";
    let statuses = fields.notation("status", shape, |list| {
        list.split(',').map(Status::parse).collect::<Option<Vec<_>>>()
    });
    let shape = "an RFC 3339 time with an offset, such as 2027-03-01T09:00:00Z (a + in it is \
                 written %2B)";
    let from = fields.notation("from", shape, |text| parse_time(text).ok());
    let to = fields.notation("to", shape, |text| parse_time(text).ok());
    let updated_since = fields.notation("updatedSince", shape, |text| parse_time(text).ok());
    let shape = "startTime, createdAt or updatedAt, with a - before it for the latest first";
    let sort = fields.notation("sort", shape, Sort::parse).unwrap_or_default();
    let limit = limit(&mut fields);
    let after = fields.notation("cursor", "the nextCursor of a page", read_cursor);
    fields.finish()?;
    let window = Interval { start: from.unwrap_or_default(), end: to.unwrap_or(LATEST) };
    Ok((Filter { statuses, window, updated_since, sort, after }, limit))
}

/// The optional `limit` of a page.
pub fn limit(fields: &mut Fields<'_>) -> usize {
    let shape = format!("a whole number from 1 to {MAX_PAGE}");
    let within = |text: &str| text.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n));
    let limit = fields.notation("limit", &shape, within).unwrap_or(PAGE);
    usize::try_from(limit).unwrap_or_default() // positive
}

/// Opaque to clients: the last row's place in the order.
fn cursor_of(key: &Key) -> String {
    format!("{:x}-{}", key.at.timestamp_micros(), key.id.simple())
}

fn read_cursor(text: &str) -> Option<Key> {
    let (micros, id) = text.split_once('-')?;
    let micros = i64::from_str_radix(micros, 16).ok()?;
    let at = chrono::DateTime::from_timestamp_micros(micros)?;
    let fine = (chrono::DateTime::default()..=LATEST).contains(&at) && id.len() == 32;
    Some(Key { at, id: id.parse().ok().filter(|_| fine)? })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct History {
    entries: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// `GET /api/bookings/{id}/history`
pub async fn history(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    RawQuery(asked): RawQuery,
) -> Result<Response, Problem> {
    let (of, id) = (principal.reads_of()?, id.uuid()?);
    let query = query::object(asked.as_deref())?;
    let mut fields = Fields::of(&query);
    let limit = limit(&mut fields);
    let after = fields.notation("cursor", "the nextCursor of a page", |text| {
        text.parse().ok().filter(|version: &i32| *version >= 1)
    });
    fields.finish().map_err(Problem::of_fields)?;
    find(&gateway, id, of).await?;
    let found = store::read(&gateway.reads, async |c| {
        audit::of_booking(c, id, after.unwrap_or_default(), limit + 1).await
    });
    let found = found.await.map_err(read_failed)?;
    let (entries, last) = page::cut(&found, limit);
    let next_cursor = last.map(|last| last.version.to_string());
    Ok(json(StatusCode::OK, &History { entries, next_cursor }))
}
