//! The promises as queries: each returns what contradicts it.

use sqlx::{Connection as _, PgConnection, Postgres, Row as _, Transaction};

/// A promise, how many rows it was checked on, and what contradicts it.
pub struct Check {
    /// Which promise of the README.
    pub promise: &'static str,
    pub claim: &'static str,
    /// Counts the rows that are looked at.
    checked: &'static str,
    /// One text a contradiction. `$1` is the patience in seconds.
    offenders: &'static str,
}

/// What a check found.
pub struct Finding {
    pub checked: i64,
    /// All contradictions; the first of them by name.
    pub offenders: usize,
    pub first: Vec<String>,
}

/// Offenders that are named; the others are only counted.
const MAX_NAMED: usize = 5;

/// All checks, in the order of the promises.
pub const CHECKS: &[Check] = &[
    Check {
        promise: "P1",
        claim: "active bookings of a calendar never overlap",
        checked: "select count(*) from bookings where status in ('PENDING', 'CONFIRMED')",
        offenders: "select 'booking ' || id || ' of calendar ' || calendar_id from (
             select id, calendar_id, start_time, max(end_time) over (
               partition by calendar_id order by start_time, end_time, id
               rows between unbounded preceding and 1 preceding) as taken_until
             from bookings where status in ('PENDING', 'CONFIRMED')) b
           where start_time < taken_until and $1::int is not null",
    },
    Check {
        promise: "P1",
        claim: "every active booking holds its time, and nothing else does",
        checked: "select count(*) from allocations",
        offenders: "select 'booking ' || coalesce(b.id, a.booking_id) from
             (select * from bookings where status in ('PENDING', 'CONFIRMED')) b
             full join allocations a on a.booking_id = b.id
           where (b.id is null or a.booking_id is null or a.calendar_id <> b.calendar_id
              or a.during <> tstzrange(b.start_time - make_interval(mins => b.buffer_before),
                                       b.end_time + make_interval(mins => b.buffer_after))
              or a.lapses_at is distinct from case when b.hold_expires_at is not null
                                              then least(b.hold_expires_at, b.end_time) end)
             and $1::int is not null",
    },
    Check {
        promise: "P2",
        claim: "accepted commands reach a final state in time",
        checked: "select count(*) from commands",
        offenders: "select 'command ' || id || ', accepted ' || accepted_at from commands
           where status = 'accepted' and accepted_at < now() - make_interval(secs => $1::int)
           order by accepted_at",
    },
    Check {
        promise: "P3",
        claim: "a command that succeeded has its audit row",
        checked: "select count(*) from commands where status = 'succeeded'",
        offenders: "select 'command ' || c.id from commands c
           left join audit a on a.booking_id = c.booking_id and a.version = c.booking_version
           where c.status = 'succeeded' and a.booking_id is null and $1::int is not null",
    },
    Check {
        promise: "P3",
        claim: "what a command is said to have changed, it changed",
        checked: "select count(*) from audit where command_id is not null",
        offenders: "select 'booking ' || a.booking_id || ' version ' || a.version from audit a
           left join commands c on c.id = a.command_id
           where a.command_id is not null and c.status is distinct from 'succeeded'
             and $1::int is not null",
    },
    Check {
        promise: "P3",
        claim: "every booking is as its newest audit row says",
        checked: "select count(*) from bookings",
        offenders: "select 'booking ' || b.id from bookings b
           left join audit a on a.booking_id = b.id and a.version = b.version
           where (a.booking_id is null
              or a.after->>'status' <> b.status
              or (a.after->>'startTime')::timestamptz <> b.start_time
              or (a.after->>'endTime')::timestamptz <> b.end_time
              or (a.after->>'version')::int <> b.version) and $1::int is not null",
    },
    Check {
        promise: "P3",
        claim: "versions count up from 1 without gaps",
        checked: "select count(distinct booking_id) from audit",
        offenders: "select 'booking ' || booking_id from audit
           where $1::int is not null group by booking_id
           having min(version) <> 1 or max(version) <> count(*)",
    },
    Check {
        promise: "P3",
        claim: "each audit row begins where the one before ended",
        checked: "select count(*) from audit where version > 1",
        offenders: "select 'booking ' || booking_id || ' version ' || version from (
             select booking_id, version, before::text as before,
               lag(after::text) over (partition by booking_id order by version) as ended
             from audit) a
           where version > 1 and before is distinct from ended and $1::int is not null",
    },
    Check {
        promise: "P9",
        claim: "holds lapse and bookings complete in time",
        checked: "select count(*) from allocations",
        offenders: "select 'booking ' || booking_id from allocations
           where least(lapses_at, upper(during)) < now() - make_interval(secs => $1::int)
           order by least(lapses_at, upper(during))",
    },
    Check {
        promise: "P8",
        claim: "committed messages leave the outbox in time",
        checked: "select count(*) from outbox",
        offenders: "select 'message ' || message_id || ', appended ' || appended_at from outbox
           where appended_at < now() - make_interval(secs => $1::int) order by appended_at",
    },
];

/// One view of all tables for all checks, while the system works on.
///
/// # Errors
/// When the server is away.
pub async fn snapshot(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    connection.begin_with("begin isolation level repeatable read read only").await
}

impl Check {
    /// Runs the check. `patience` is how many seconds a command or message may take.
    ///
    /// # Errors
    /// When the server is away.
    pub async fn run(
        &self,
        connection: &mut PgConnection,
        patience: i32,
    ) -> Result<Finding, sqlx::Error> {
        let checked = sqlx::query_scalar(self.checked).fetch_one(&mut *connection).await?;
        let rows = sqlx::query(self.offenders).bind(patience).fetch_all(connection).await?;
        let named = rows.iter().take(MAX_NAMED);
        Ok(Finding {
            checked,
            offenders: rows.len(),
            first: named.map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
        })
    }
}
