//! GET and PUT: when a calendar takes bookings. GET: which of its times are free.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Gateway;
use super::accept::json_object;
use super::caller::Principal;
use super::conditions::{if_match, tagged};
use super::problem::{PathId, mistake};
use super::query;
use super::status::{insert, json, read_failed};
use crate::booking::Interval;
use crate::booking::availability::hours::WallWindow;
use crate::booking::availability::parse::{DATE, MAX_DURATION_MINUTES, parse_date, zone};
use crate::booking::availability::{Availability, minutes};
use crate::booking::fields::Fields;
use crate::booking::problem::{Code, FieldError, Problem};
use crate::booking::slots::{Search, slots};
use crate::store::{self, calendars};

/// A longer search is refused with `RANGE_TOO_LARGE`.
pub const MAX_SEARCH: TimeDelta = TimeDelta::days(31);
/// A search that finds more is refused with `RANGE_TOO_LARGE`.
pub const MAX_SLOTS: usize = 10_000;
/// Minutes of a slot when the client does not say.
pub const DEFAULT_SLOT: i32 = 30;
/// Starts further apart than these minutes are refused.
pub const MAX_STEP: i32 = 24 * 60;

/// `GET /api/users/{id}/availability`
pub async fn availability(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = id.uuid()?;
    principal.may_read(id)?;
    let found = store::read(&gateway.reads, async |c| calendars::availability(c, id).await).await;
    let kept = found.map_err(read_failed)?;
    Ok(tagged(&headers, &kept.version.to_string(), &kept.availability))
}

/// `PUT /api/users/{id}/availability`. It binds what is decided from then on; bookings that are
/// made stay as they are.
pub async fn set_availability(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let id = id.uuid()?;
    principal.may_write(id)?;
    let expected = if_match(request.headers())?;
    let body = json_object(request).await?;
    let body =
        body.ok_or_else(|| mistake("body", "is required; send {} to take all limits away"))?;
    let availability = Availability::parse(&body).map_err(Problem::of_fields)?;
    let set = store::read(&gateway.reads, async |c| {
        calendars::set_availability(c, id, &availability, expected).await
    });
    let version = set.await.map_err(read_failed)?.ok_or_else(|| {
        let detail = "The availability has another version than If-Match names; read it again \
                      before you change it.";
        Problem::new(Code::VersionMismatch, detail)
    })?;
    let mut response = json(StatusCode::OK, &availability);
    insert(response.headers_mut(), ETAG, format!("\"{version}\""));
    Ok(response)
}

/// `GET /api/users/{id}/slots`
pub async fn free_slots(
    State(gateway): State<Arc<Gateway>>,
    id: PathId,
    Extension(principal): Extension<Principal>,
    RawQuery(asked): RawQuery,
) -> Result<Response, Problem> {
    let id = id.uuid()?;
    principal.may_read(id)?;
    let wish = Wish::parse(&query::object(asked.as_deref())?)?;
    let found = store::read(&gateway.reads, async |c| {
        let mut availability = calendars::availability(&mut *c, id).await?.availability;
        let search = wish.search(&mut availability);
        let taken = match &search {
            Ok(search) => calendars::taken(c, id, availability.blocked(search.window)).await?,
            Err(_) => Vec::new(),
        };
        Ok((availability, search, taken))
    });
    let (availability, search, taken) = found.await.map_err(read_failed)?;
    let slots = slots(&availability, &taken, &search?, Utc::now());
    if slots.len() > MAX_SLOTS {
        let detail = format!(
            "There are {} slots, more than {MAX_SLOTS}; ask for fewer days or a longer step.",
            slots.len()
        );
        return Err(Problem::new(Code::RangeTooLarge, detail));
    }
    let time_zone = wish.time_zone.unwrap_or(availability.zone());
    Ok(json(StatusCode::OK, &FreeSlots { slots, time_zone }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FreeSlots {
    slots: Vec<Interval>,
    /// In which dates of the query were read.
    time_zone: Tz,
}

/// The query of a search, before the calendar is known.
struct Wish {
    from: Bound,
    to: Bound,
    duration: Option<i32>,
    step: Option<i32>,
    time_zone: Option<Tz>,
}

/// Where a search begins or ends.
#[derive(Clone, Copy)]
enum Bound {
    /// The whole day is part of the search.
    Date(NaiveDate),
    Time(DateTime<Utc>),
}

impl Wish {
    fn parse(query: &Map<String, Value>) -> Result<Self, Problem> {
        let mut fields = Fields::of(query);
        let from = bound(&mut fields, query, "startDate");
        let to = bound(&mut fields, query, "endDate");
        let duration = minutes_of(&mut fields, "slotDuration", MAX_DURATION_MINUTES);
        let step = minutes_of(&mut fields, "step", MAX_STEP);
        let time_zone = zone(&mut fields);
        fields.finish().map_err(Problem::of_fields)?;
        match (from, to) {
            (Some(from), Some(to)) => Ok(Self { from, to, duration, step, time_zone }),
            _ => Err(Problem::of_fields(Vec::new())), // not reached: a missing part is a mistake
        }
    }

    /// What to look for in a calendar. Where its rules are the same in every zone, its days
    /// become those of the zone that was asked for.
    fn search(&self, availability: &mut Availability) -> Result<Search, Problem> {
        let zone = self.time_zone.unwrap_or(availability.zone());
        if !availability.depends_on_zone() {
            availability.time_zone = availability.time_zone.or(self.time_zone);
        }
        let (least, most) = (availability.min_duration, availability.max_duration);
        let usual = DEFAULT_SLOT.min(most.unwrap_or(DEFAULT_SLOT)).max(least.unwrap_or(1));
        let duration = self.duration.unwrap_or(usual);
        availability.check_length(minutes(duration))?;
        let step = self.step.or(availability.slot_step).unwrap_or(duration.min(MAX_STEP));
        Ok(Search { window: self.window(zone)?, duration, step })
    }

    fn window(&self, zone: Tz) -> Result<Interval, Problem> {
        let start = self.from.instants("startDate", zone)?.start;
        let end = self.to.instants("endDate", zone)?.end;
        if end <= start {
            return Err(wrong_time("endDate", "must not be before startDate".into()));
        }
        // A month in which the clock is set back has an hour more than its days.
        let local = |time: DateTime<Utc>| time.with_timezone(&zone).naive_local();
        if end - start > MAX_SEARCH && local(end) - local(start) > MAX_SEARCH {
            let days = MAX_SEARCH.num_days();
            let detail = format!("A search covers at most {days} days; ask for each part alone.");
            return Err(Problem::new(Code::RangeTooLarge, detail));
        }
        Ok(Interval { start, end })
    }
}

/// A required date, or time with an offset.
fn bound(fields: &mut Fields<'_>, query: &Map<String, Value>, name: &'static str) -> Option<Bound> {
    let is_time = query.get(name).and_then(Value::as_str).is_some_and(|text| text.contains('T'));
    if is_time {
        return fields.time(name).map(Bound::Time);
    }
    let shape = format!("{DATE}, or a time such as 2027-03-28T09:00:00Z, with + written as %2B");
    fields.required_notation(name, &shape, parse_date).map(Bound::Date)
}

fn minutes_of(fields: &mut Fields<'_>, name: &'static str, most: i32) -> Option<i32> {
    let shape = format!("a whole number of minutes from 1 to {most}");
    fields.notation(name, &shape, |text| text.parse().ok().filter(|n| (1..=most).contains(n)))
}

impl Bound {
    /// From its first to its last instant.
    fn instants(self, name: &str, zone: Tz) -> Result<Interval, Problem> {
        match self {
            Self::Time(time) => Ok(Interval { start: time, end: time }),
            Self::Date(date) => WallWindow::WHOLE_DAY
                .on(date, zone)
                .ok_or_else(|| wrong_time(name, format!("is a day that {zone} did not have"))),
        }
    }
}

fn wrong_time(field: &str, message: String) -> Problem {
    let field = field.to_owned();
    Problem::of_fields(vec![FieldError { field, code: Code::InvalidTime, message }])
}
