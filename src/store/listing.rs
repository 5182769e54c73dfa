//! Lists of a calendar's bookings, in one of three orders, either way.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::bookings::{Row, booking_of};
use crate::booking::fields::{LATEST, MAX_DURATION};
use crate::booking::{Booking, Interval, Status};

/// Which bookings, in which order, from where.
#[derive(Clone, Debug)]
pub struct Filter {
    /// None: all.
    pub statuses: Option<Vec<Status>>,
    /// Only bookings that overlap it.
    pub window: Interval,
    /// Only bookings that were changed then or later.
    pub updated_since: Option<DateTime<Utc>>,
    pub sort: Sort,
    /// Only bookings behind this place in the order.
    pub after: Option<Key>,
}

/// The order of a list; equal times are ordered by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    by: By,
    descending: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum By {
    #[default]
    Start,
    Created,
    Updated,
}

/// A place in the order.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub at: DateTime<Utc>,
    pub id: Uuid,
}

impl Sort {
    /// `startTime`, `createdAt` or `updatedAt`, after a `-` the latest first.
    pub fn parse(text: &str) -> Option<Self> {
        let (descending, name) = match text.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, text),
        };
        let by = match name {
            "startTime" => By::Start,
            "createdAt" => By::Created,
            "updatedAt" => By::Updated,
            _ => return None,
        };
        Some(Self { by, descending })
    }

    /// The booking's place in this order.
    pub fn key_of(self, booking: &Booking) -> Key {
        let at = match self.by {
            By::Start => booking.interval.start,
            By::Created => booking.created_at,
            By::Updated => booking.updated_at,
        };
        Key { at, id: booking.id }
    }

    /// Before everything in this order.
    fn beginning(self) -> Key {
        match self.descending {
            false => Key { at: DateTime::default() - TimeDelta::days(1), id: Uuid::nil() },
            true => Key { at: LATEST, id: Uuid::max() },
        }
    }

    fn query(self) -> &'static str {
        match (self.by, self.descending) {
            (By::Start, false) => in_order!("start_time", ">", "asc"),
            (By::Start, true) => in_order!("start_time", "<", "desc"),
            (By::Created, false) => in_order!("created_at", ">", "asc"),
            (By::Created, true) => in_order!("created_at", "<", "desc"),
            (By::Updated, false) => in_order!("updated_at", ">", "asc"),
            (By::Updated, true) => in_order!("updated_at", "<", "desc"),
        }
    }
}

/// The index leads through the calendar by start; a booking that overlaps the window begins at
/// most the longest duration before it.
macro_rules! in_order {
    ($column:literal, $beyond:literal, $direction:literal) => {
        booking_of!(concat!(
            "bookings b where b.calendar_id = $1 and ($2::text[] is null or b.status = any($2))
             and b.start_time > $3 and b.start_time < $5 and b.end_time > $4
             and b.updated_at >= $6 and (b.",
            $column,
            ", b.id) ",
            $beyond,
            " ($7, $8) order by b.",
            $column,
            " ",
            $direction,
            ", b.id ",
            $direction,
            " limit $9"
        ))
    };
}
use in_order;

/// The bookings of a calendar that pass the filter, at most `most`.
///
/// # Errors
/// When the server is away.
pub async fn of_calendar(
    executor: impl PgExecutor<'_>,
    calendar_id: Uuid,
    filter: &Filter,
    most: usize,
) -> Result<Vec<Booking>, sqlx::Error> {
    let statuses = filter.statuses.as_ref();
    let after = filter.after.unwrap_or(filter.sort.beginning());
    let rows: Vec<Row> = sqlx::query_as(filter.sort.query())
        .bind(calendar_id)
        .bind(statuses.map(|list| list.iter().map(|s| s.as_str()).collect::<Vec<_>>()))
        .bind(filter.window.start - MAX_DURATION)
        .bind(filter.window.start)
        .bind(filter.window.end)
        .bind(filter.updated_since.unwrap_or_default())
        .bind(after.at)
        .bind(after.id)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(executor)
        .await?;
    rows.into_iter().map(Row::into_booking).collect()
}
