//! Bookings and allocations: what is, and whose time is taken. Written by [`super::decisions`].

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::booking::availability::Availability;
use crate::booking::calendar::Calendar;
use crate::booking::command::{Command, Kind};
use crate::booking::{Booking, Buffers, Interval, Metadata, Status};

/// The calendars that a batch of commands touches, and the time of the reading.
pub struct Snapshot {
    pub calendars: HashMap<Uuid, Calendar>,
    /// The database's clock: one for all workers.
    pub now: DateTime<Utc>,
}

/// Loads what deciding `commands` needs: the calendars' rules, the allocations that their intervals meet, the holds
/// among those that have lapsed, and the bookings that the commands name.
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
    let changed = commands.clone().filter(|command| command.change.kind() != Kind::Create);
    let (of, ids): (Vec<Uuid>, Vec<Uuid>) =
        changed.map(|command| (command.calendar_id, command.booking_id)).unzip();
    know(connection, &mut calendars, of, ids).await?;
    let (now, lapsed) = load_taken(connection, commands, &mut calendars).await?;
    let (of, ids) = lapsed.into_iter().unzip();
    know(connection, &mut calendars, of, ids).await?;
    Ok(Snapshot { calendars, now })
}

/// Notes the bookings `ids`, each only in the calendar at its place in `of`.
async fn know(
    connection: &mut PgConnection,
    calendars: &mut HashMap<Uuid, Calendar>,
    of: Vec<Uuid>,
    ids: Vec<Uuid>,
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows: Vec<Row> =
        sqlx::query_as(OF_CALENDARS).bind(of).bind(ids).fetch_all(connection).await?;
    for row in rows {
        let booking = row.into_booking()?;
        if let Some(calendar) = calendars.get_mut(&booking.calendar_id) {
            calendar.know(booking);
        }
    }
    Ok(())
}

/// The clock, the calendars' rules, and the allocations that are met: all in one round trip. Only
/// a claim that reaches back before now can meet what is over, and only then is it looked for.
const TAKEN: &str = "
with wanted as (
  select w.calendar_id, w.start_time - make_interval(mins => coalesce(c.buffer_before, 0)) as since,
         w.end_time + make_interval(mins => coalesce(c.buffer_after, 0)) as until
  from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[])
    as w(calendar_id, start_time, end_time)
  left join calendars c on c.id = w.calendar_id
)
select now() as now, null::uuid as calendar_id, null::json as availability,
       null::uuid as booking_id, null::timestamptz as start_time, null::timestamptz as end_time,
       null::bool as lapsed
union all
select now(), id, availability, null, null, null, null from calendars where id = any($1)
union all
select now(), w.calendar_id, null, a.booking_id, lower(a.during), upper(a.during),
       a.lapses_at <= now()
from wanted w
join allocations a
  on a.calendar_id = w.calendar_id and a.during && tstzrange(w.since, w.until)
union all
select now(), w.calendar_id, null, b.id, b.since, b.until, false
from wanted w
cross join lateral completed_in(w.calendar_id, w.since, w.until) as b
where w.since < now()";

#[derive(sqlx::FromRow)]
struct Taken {
    now: DateTime<Utc>,
    calendar_id: Option<Uuid>,
    availability: Option<Json<Availability>>,
    booking_id: Option<Uuid>,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    lapsed: Option<bool>,
}

/// Notes the calendars' rules and the allocations that the commands' intervals meet. Returns the time of the reading, and
/// calendar and booking of each hold among them that has lapsed.
async fn load_taken<'a>(
    connection: &mut PgConnection,
    commands: impl Iterator<Item = &'a Command>,
    calendars: &mut HashMap<Uuid, Calendar>,
) -> Result<(DateTime<Utc>, Vec<(Uuid, Uuid)>), sqlx::Error> {
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
    let mut lapsed = Vec::new();
    for row in rows {
        let Some(calendar_id) = row.calendar_id else { continue };
        let Some(calendar) = calendars.get_mut(&calendar_id) else { continue };
        if let Some(Json(availability)) = row.availability {
            calendar.opens(availability);
        }
        if let (Some(booking_id), Some(start), Some(end)) =
            (row.booking_id, row.start_time, row.end_time)
        {
            calendar.take(booking_id, Interval { start, end });
            if row.lapsed == Some(true) {
                lapsed.push((calendar_id, booking_id));
            }
        }
    }
    Ok((now, lapsed))
}

/// Selects the rows of bookings from `$source`, where they are named b.
macro_rules! booking_of {
    ($source:expr) => {
        concat!(
            "select b.id, b.calendar_id, b.start_time, b.end_time, b.status, b.version, ",
            "b.metadata::text as metadata, b.hold_expires_at, b.cancel_reason, b.created_at, ",
            "b.updated_at, b.buffer_before, b.buffer_after from ",
            $source
        )
    };
}
pub(super) use booking_of;

const OF_CALENDARS: &str = booking_of!(
    "(select distinct * from unnest($1::uuid[], $2::uuid[])) as w(calendar_id, id)
     join bookings b on b.id = w.id and b.calendar_id = w.calendar_id"
);
const BY_ID: &str =
    booking_of!("bookings b where b.id = $1 and ($2::uuid is null or b.calendar_id = $2)");

/// The booking `id`, if there is one; with a calendar, only if it is there.
///
/// # Errors
/// When the server is away.
pub async fn by_id(
    executor: impl PgExecutor<'_>,
    id: Uuid,
    calendar_id: Option<Uuid>,
) -> Result<Option<Booking>, sqlx::Error> {
    let row: Option<Row> =
        sqlx::query_as(BY_ID).bind(id).bind(calendar_id).fetch_optional(executor).await?;
    row.map(Row::into_booking).transpose()
}

const DUE: &str = booking_of!(
    "(select booking_id, least(lapses_at, upper(during)) as due_at from allocations
      where least(lapses_at, upper(during)) <= $1 and booking_id <> all($3)
      order by least(lapses_at, upper(during)) limit $2) as d
     join bookings b on b.id = d.booking_id order by d.due_at"
);

/// A booking whose claim is over by itself, or why its row cannot be read.
pub struct Due {
    pub id: Uuid,
    pub booking: Result<Booking, sqlx::Error>,
}

/// What is due, at most `most`, longest ago first, without `except`; and the time of the reading.
///
/// # Errors
/// When the server is away.
pub async fn due(
    connection: &mut PgConnection,
    most: usize,
    except: &[Uuid],
) -> Result<(Vec<Due>, DateTime<Utc>), sqlx::Error> {
    let now = sqlx::query_scalar("select now()").fetch_one(&mut *connection).await?;
    let rows: Vec<Row> = sqlx::query_as(DUE)
        .bind(now)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .bind(except)
        .fetch_all(connection)
        .await?;
    let due = |row: Row| Due { id: row.id, booking: row.into_booking() };
    Ok((rows.into_iter().map(due).collect(), now))
}

/// A booking's row.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    id: Uuid,
    calendar_id: Uuid,
    start_time: DateTime<Utc>,
    end_time: DateTime<Utc>,
    status: String,
    version: i32,
    metadata: String,
    hold_expires_at: Option<DateTime<Utc>>,
    cancel_reason: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    buffer_before: i16,
    buffer_after: i16,
}

impl Row {
    pub(super) fn into_booking(self) -> Result<Booking, sqlx::Error> {
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
            hold_expires_at: self.hold_expires_at,
            cancel_reason: self.cancel_reason,
            created_at: self.created_at,
            updated_at: self.updated_at,
            buffers: Buffers { before: self.buffer_before, after: self.buffer_after },
        })
    }
}
