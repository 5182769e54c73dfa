//! Bookings and allocations: what is, and whose time is taken. Written by [`super::decisions`].

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::booking::calendar::Calendar;
use crate::booking::command::Command;
use crate::booking::{Booking, Interval, Metadata, Status};

/// The calendars that a batch of commands touches, and the time of the reading.
pub struct Snapshot {
    pub calendars: HashMap<Uuid, Calendar>,
    /// The database's clock: one for all workers.
    pub now: DateTime<Utc>,
}

/// Loads what deciding `commands` needs: the allocations that their intervals meet, and, when
/// there are changes of existing bookings among them, those bookings.
///
/// # Errors
/// When the server is away.
pub async fn load<'a>(
    connection: &mut PgConnection,
    commands: impl Iterator<Item = &'a Command> + Clone,
) -> Result<Snapshot, sqlx::Error> {
    let mut calendars: HashMap<Uuid, Calendar> = HashMap::new();
    for command in commands.clone() {
        calendars.entry(command.calendar_id).or_default();
    }
    let changed: Vec<&Command> = commands
        .clone()
        .filter(|command| !matches!(command.change.kind(), crate::booking::command::Kind::Create))
        .collect();
    if !changed.is_empty() {
        for booking in of_commands(connection, &changed).await? {
            if let Some(calendar) = calendars.get_mut(&booking.calendar_id) {
                if booking.status.is_active() {
                    calendar.take(booking.id, booking.interval);
                }
                calendar.know(booking);
            }
        }
    }
    let now = load_taken(connection, commands, &mut calendars).await?;
    Ok(Snapshot { calendars, now })
}

/// One row carries the clock even when nothing is taken.
const TAKEN: &str = "
select now() as now, w.calendar_id, a.booking_id, lower(a.during) as start_time,
       upper(a.during) as end_time
from (select) clock left join (
  unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) as w(calendar_id, start_time, end_time)
  join allocations a
    on a.calendar_id = w.calendar_id and a.during && tstzrange(w.start_time, w.end_time)
) on true";

#[derive(sqlx::FromRow)]
struct Taken {
    now: DateTime<Utc>,
    calendar_id: Option<Uuid>,
    booking_id: Option<Uuid>,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
}

async fn load_taken<'a>(
    connection: &mut PgConnection,
    commands: impl Iterator<Item = &'a Command>,
    calendars: &mut HashMap<Uuid, Calendar>,
) -> Result<DateTime<Utc>, sqlx::Error> {
    let (mut ids, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for command in commands {
        if let Some(interval) = command.change.claims() {
            ids.push(command.calendar_id);
            starts.push(interval.start);
            ends.push(interval.end);
        }
    }
    let rows: Vec<Taken> =
        sqlx::query_as(TAKEN).bind(ids).bind(starts).bind(ends).fetch_all(connection).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.now;
    for row in rows {
        if let (Some(calendar_id), Some(booking_id), Some(start), Some(end)) =
            (row.calendar_id, row.booking_id, row.start_time, row.end_time)
            && let Some(calendar) = calendars.get_mut(&calendar_id)
        {
            calendar.take(booking_id, Interval { start, end });
        }
    }
    Ok(now)
}

/// The bookings that `commands` name, each only in the calendar of its command.
async fn of_commands(
    connection: &mut PgConnection,
    commands: &[&Command],
) -> Result<Vec<Booking>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(OF_COMMANDS)
        .bind(commands.iter().map(|c| c.calendar_id).collect::<Vec<_>>())
        .bind(commands.iter().map(|c| c.booking_id).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(Row::into_booking).collect()
}

macro_rules! booking_of {
    ($source:literal) => {
        concat!(
            "select b.id, b.calendar_id, b.start_time, b.end_time, b.status, b.version, ",
            "b.metadata::text as metadata, b.cancel_reason, b.created_at, b.updated_at from ",
            $source
        )
    };
}

const OF_COMMANDS: &str = booking_of!(
    "(select distinct * from unnest($1::uuid[], $2::uuid[])) as w(calendar_id, id)
     join bookings b on b.id = w.id and b.calendar_id = w.calendar_id"
);
const BY_ID: &str = booking_of!("bookings b where b.id = $1 and b.calendar_id = $2");

/// The booking `id` of the calendar, if there is one.
///
/// # Errors
/// When the server is away.
pub async fn by_id(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    calendar_id: Uuid,
) -> Result<Option<Booking>, sqlx::Error> {
    let row: Option<Row> =
        sqlx::query_as(BY_ID).bind(id).bind(calendar_id).fetch_optional(executor).await?;
    row.map(Row::into_booking).transpose()
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    calendar_id: Uuid,
    start_time: DateTime<Utc>,
    end_time: DateTime<Utc>,
    status: String,
    version: i32,
    metadata: String,
    cancel_reason: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn into_booking(self) -> Result<Booking, sqlx::Error> {
        Ok(Booking {
            id: self.id,
            calendar_id: self.calendar_id,
            interval: Interval { start: self.start_time, end: self.end_time },
            status: Status::parse(&self.status).ok_or_else(|| {
                sqlx::Error::Decode(format!("booking status {}", self.status).into())
            })?,
            version: self.version,
            metadata: Metadata::from_json(self.metadata)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            cancel_reason: self.cancel_reason,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
