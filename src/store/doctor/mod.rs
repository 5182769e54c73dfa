//! What PostgreSQL can tell the doctor: read here, judged in `src/doctor/`.
//!
//! Everything is read on one connection with the limits of [`Purpose::Examine`], and nothing is
//! changed. What a role may not read is `None` or an error in its place, so that one missing
//! privilege does not hide the rest.

mod expected;
mod schema;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

pub use expected::Made;
pub use schema::{Access, Presence, Schema, Version};

use crate::store::{Purpose, connect, limited};

/// All that is known of the server and of our tables in it.
#[derive(Debug)]
pub struct Facts {
    pub server: Server,
    pub clock: Clock,
    pub holders: Holders,
    pub version: Version,
    /// Session settings that do not hold on a connection that asked for them: which, wanted, got.
    pub session: Result<Vec<(String, String, String)>, String>,
    /// Not looked at where the schema is older than this binary, or could not be read.
    pub schema: Result<Schema, String>,
    /// Not looked at where the role may not read them.
    pub rows: Result<Rows, String>,
}

/// The settings of the server, and of the role we are there.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Server {
    pub version_num: i32,
    pub version: String,
    pub in_recovery: bool,
    pub read_only: bool,
    pub encoding: String,
    pub time_zone: String,
    pub fsync: bool,
    pub synchronous_commit: String,
    pub full_page_writes: bool,
    pub autovacuum: bool,
    pub track_counts: bool,
    /// Connections that an ordinary role may open in all: the least of the limits of the server,
    /// the database and the role.
    pub most_connections: i32,
    /// Connections that the server lets all ordinary roles open, and how many are open.
    pub server_connections: i32,
    pub open_connections: i32,
    pub role: String,
    pub superuser: bool,
    pub database: String,
    /// The database that is nearest to the end of its transaction ids, and how many it has used.
    pub oldest_database: String,
    pub used_transaction_ids: i32,
}

/// The server's clock, and ours before and after it was asked.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub asked: DateTime<Utc>,
    pub server: DateTime<Utc>,
    pub answered: DateTime<Utc>,
}

/// What keeps old rows from being cleaned away, the oldest of each kind.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub struct Holders {
    /// An open transaction that we may see: whose, for how many seconds.
    pub transaction: Option<String>,
    pub transaction_seconds: Option<f64>,
    pub prepared: Option<String>,
    pub prepared_seconds: Option<f64>,
    /// Replication slots that nobody reads, by name.
    pub idle_slots: Vec<String>,
    /// Transactions since the oldest snapshot that anything holds.
    pub xmin_age: i32,
}

/// What our tables hold.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Rows {
    pub partitions: i64,
    pub dead_letters: i64,
    pub newest_dead_letter: Option<String>,
    pub waiting_messages: i64,
    pub oldest_message_seconds: f64,
    pub undecided_commands: i64,
    pub oldest_command_seconds: f64,
    pub waiting_webhooks: i64,
    /// Since the first try of those that wait was due.
    pub oldest_webhook_seconds: f64,
}

/// Reads everything. Takes as long as the server does, up to its statements' limit of 10 s each.
///
/// # Errors
/// When the server cannot be reached, refuses the login, or goes away meanwhile.
pub async fn look(url: &str) -> Result<Facts, sqlx::Error> {
    let mut connection = connect(url, Purpose::Examine).await?;
    let server = limited(server(&mut connection)).await?;
    let clock = limited(clock(&mut connection)).await?;
    let holders = limited(holders(&mut connection)).await?;
    let version = limited(schema::version(&mut connection)).await?;
    let (schema, rows) = if version.migrated() {
        let schema = limited(schema::look(&mut connection)).await;
        let rows = limited(rows(&mut connection)).await;
        (schema.map_err(|error| error.to_string()), rows.map_err(|error| error.to_string()))
    } else {
        let reason = "the database is not at this release's schema".to_owned();
        (Err(reason.clone()), Err(reason))
    };
    let session = session(url).await.map_err(|error| error.to_string());
    // A goodbye that is not heard changes nothing.
    let _ = tokio::time::timeout(GOODBYE_LIMIT, connection.close()).await;
    Ok(Facts { server, clock, holders, version, session, schema, rows })
}

/// A polite end of a connection; then it is simply dropped.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

async fn server(connection: &mut PgConnection) -> Result<Server, sqlx::Error> {
    sqlx::query_as(
        "select current_setting('server_version_num')::int as version_num,
           current_setting('server_version') as version,
           pg_is_in_recovery() as in_recovery,
           current_setting('default_transaction_read_only')::bool as read_only,
           current_setting('server_encoding') as encoding,
           current_setting('TimeZone') as time_zone,
           current_setting('fsync')::bool as fsync,
           current_setting('synchronous_commit') as synchronous_commit,
           current_setting('full_page_writes')::bool as full_page_writes,
           current_setting('autovacuum')::bool as autovacuum,
           current_setting('track_counts')::bool as track_counts,
           least(m.connections, nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1))
             as most_connections,
           m.connections as server_connections,
           (select count(*)::int from pg_stat_activity where backend_type = 'client backend')
             as open_connections,
           current_user::text as role, r.rolsuper as superuser, d.datname::text as database,
           o.datname::text as oldest_database, age(o.datfrozenxid) as used_transaction_ids
         from pg_roles r
         join pg_database d on d.datname = current_database()
         cross join (select current_setting('max_connections')::int
                            - current_setting('superuser_reserved_connections')::int
                            - coalesce(current_setting('reserved_connections', true), '0')::int
                       as connections) m
         cross join (select datname, datfrozenxid from pg_database
                     order by age(datfrozenxid) desc limit 1) o
         where r.rolname = current_user",
    )
    .fetch_one(connection)
    .await
}

async fn clock(connection: &mut PgConnection) -> Result<Clock, sqlx::Error> {
    // Asked twice: the first time the statement is prepared, and the answer is late.
    let ask = "select clock_timestamp()";
    sqlx::query_scalar::<_, DateTime<Utc>>(ask).fetch_one(&mut *connection).await?;
    let asked = Utc::now();
    let server = sqlx::query_scalar(ask).fetch_one(connection).await?;
    Ok(Clock { asked, server, answered: Utc::now() })
}

async fn holders(connection: &mut PgConnection) -> Result<Holders, sqlx::Error> {
    sqlx::query_as(
        "with others as (
           select * from pg_stat_activity
           where pid <> pg_backend_pid() and backend_type <> 'autovacuum worker'
         ), longest as (
           select format('process %s of role %s (%s, %s)', pid, usename,
                    coalesce(nullif(application_name, ''), 'no application name'), state) as name,
             extract(epoch from clock_timestamp() - xact_start)::float8 as seconds
           from others
           where datname = current_database() and backend_type = 'client backend'
             and (backend_xmin is not null or backend_xid is not null
                  or state like 'idle in transaction%')
           order by xact_start limit 1
         ), prepared as (
           select format('%s of role %s', gid, owner) as name,
             extract(epoch from clock_timestamp() - prepared)::float8 as seconds
           from pg_prepared_xacts order by prepared limit 1
         )
         select
           (select name from longest) as transaction,
           (select seconds from longest) as transaction_seconds,
           (select name from prepared) as prepared,
           (select seconds from prepared) as prepared_seconds,
           array(select slot_name::text from pg_replication_slots where not active order by 1)
             as idle_slots,
           greatest(0, (select max(age(backend_xmin)) from others),
                    (select max(age(transaction)) from pg_prepared_xacts),
                    (select max(greatest(age(xmin), age(catalog_xmin)))
                     from pg_replication_slots)) as xmin_age",
    )
    .fetch_one(connection)
    .await
}

async fn rows(connection: &mut PgConnection) -> Result<Rows, sqlx::Error> {
    sqlx::query_as(
        "select (select count(*) from partitions) as partitions,
           d.count as dead_letters, d.newest as newest_dead_letter,
           o.count as waiting_messages, coalesce(o.seconds, 0) as oldest_message_seconds,
           c.count as undecided_commands, coalesce(c.seconds, 0) as oldest_command_seconds,
           w.count as waiting_webhooks, coalesce(w.seconds, 0) as oldest_webhook_seconds
         from (select count(*),
                 (select left(reason, 200) from dead_letters order by parked_at desc limit 1)
                   as newest
               from dead_letters) d,
              (select count(*), extract(epoch from now() - min(appended_at))::float8 as seconds
               from outbox) o,
              (select count(*), extract(epoch from now() - min(accepted_at))::float8 as seconds
               from commands where status = 'accepted') c,
              (select count(*), extract(epoch from now() - min(due_at))::float8 as seconds
               from webhook_queue) w",
    )
    .fetch_one(connection)
    .await
}

/// Whether the stages get the session settings that they rely on. A pooler in between may refuse
/// them, or forget them.
async fn session(url: &str) -> Result<Vec<(String, String, String)>, sqlx::Error> {
    let mut lost = Vec::new();
    for purpose in [Purpose::Decide, Purpose::Sweep, Purpose::Relay] {
        let mut connection = connect(url, purpose).await?;
        for (name, wanted) in purpose.session_settings() {
            let asked = sqlx::query_scalar("select current_setting($1)").bind(name);
            let got: String = limited(asked.fetch_one(&mut connection)).await?;
            if got != wanted {
                lost.push((name.to_owned(), wanted.to_owned(), got));
            }
        }
        let _ = tokio::time::timeout(GOODBYE_LIMIT, connection.close()).await;
    }
    Ok(lost)
}

/// The worker that last took each partition, in their order.
///
/// # Errors
/// When the server is away, or the role may not read the table.
pub async fn owners(url: &str) -> Result<Vec<Option<String>>, sqlx::Error> {
    let mut connection = connect(url, Purpose::Examine).await?;
    let asked = sqlx::query_scalar("select owner from partitions order by id");
    let owners = limited(asked.fetch_all(&mut connection)).await?;
    let _ = tokio::time::timeout(GOODBYE_LIMIT, connection.close()).await;
    Ok(owners)
}
