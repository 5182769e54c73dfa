//! All SQL: one table family a file, plain functions on a connection.
//!
//! Postgres is the truth of this system: what is committed here has happened, whatever the
//! broker and Redis say. Each stage that writes holds a connection of its own ([`connect`]) and
//! writes a batch as one statement, which is its own transaction: one round trip, and no open
//! transaction that a cancelled future could leave behind. Reads of the front door share a pool.
//!
//! A statement that was sent but not answered may have committed. Every caller therefore writes
//! what can be written again, or reads before it repeats.

pub mod api_keys;
pub mod audit;
pub mod backlog;
pub mod bookings;
pub mod calendars;
pub mod commands;
pub mod decisions;
pub mod doctor;
pub mod leadership;
pub mod listing;
pub mod outbox;
pub mod partitions;
pub mod reads;
mod schema;
pub mod verify;
pub mod webhooks;

use std::str::FromStr;
use std::time::Duration;

use reads::Readable;
use schema::MIGRATION_LOCK_LIMIT;
pub use schema::{check, migrate};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::tls;

/// Reaching the server takes this long at most, then it counts as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A statement that is not answered by then is given up; above the server's own limit of 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);
/// A read that finds no free connection within this time answers 503.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A read that is not answered by then answers 503.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// Connections for reads; more requests wait for one of them.
const MAX_READ_CONNECTIONS: u32 = 8;
/// What one process opens at most: its reads, and one connection for each stage that keeps one
/// (accepting, deciding, taking fences, sweeping, a relay for each stream, webhooks) or is short-lived.
pub const CONNECTIONS_OF_A_PROCESS: i32 = MAX_READ_CONNECTIONS.cast_signed() + 10;

/// The settings of a connection, by what it is used for. Every wait on the server is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The front door's reads.
    Read,
    /// Accepting: set-based inserts.
    Accept,
    /// Deciding: joins of a batch with large tables, always by their keys.
    Decide,
    /// Sweeping: as deciding, and its session lock must fall when the owner is frozen.
    Sweep,
    /// Relaying: its session lock must fall when the owner is frozen.
    Relay,
    /// Delivering webhooks: its session locks must fall when the owner is frozen.
    Webhooks,
    /// Verifying and other work of operators: long statements.
    Operate,
    /// Migrating: long statements, but no long waits for tables.
    Migrate,
    /// Looking for what is wrong: as a read, and never in anybody's way.
    Examine,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "booking read",
            Self::Accept => "booking accept",
            Self::Decide => "booking worker",
            Self::Sweep => "booking sweep",
            Self::Relay => "booking relay",
            Self::Webhooks => "booking webhooks",
            Self::Operate => "booking operator",
            Self::Migrate => "booking migrate",
            Self::Examine => "booking doctor",
        }
    }

    fn session_settings(self) -> Vec<(&'static str, &'static str)> {
        let mut settings = vec![("jit", "off"), ("idle_in_transaction_session_timeout", "5s")];
        if !matches!(self, Self::Operate | Self::Migrate) {
            settings.extend([("statement_timeout", "10s"), ("lock_timeout", "5s")]);
        }
        match self {
            // A prepared plan made while the tables were empty must not turn into a scan of
            // full ones: a batch is joined by index, whatever the statistics say.
            Self::Decide => settings.extend([
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_seqscan", "off"),
                ("plan_cache_mode", "force_generic_plan"),
            ]),
            Self::Sweep => settings.extend([
                ("idle_session_timeout", SWEEP_IDLE_LIMIT),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_seqscan", "off"),
            ]),
            Self::Accept => settings.push(("plan_cache_mode", "force_generic_plan")),
            // Found empty by the last ANALYZE, a queue of many rows must still be read from its
            // head by its key, and not be gathered and sorted as a whole.
            Self::Webhooks => settings.extend([
                ("idle_session_timeout", RELAY_IDLE_LIMIT),
                ("synchronous_commit", "off"),
                ("enable_bitmapscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_seqscan", "off"),
            ]),
            // A lost delete only means that a message is published again, which changes nothing.
            Self::Relay => settings.extend([
                ("idle_session_timeout", RELAY_IDLE_LIMIT),
                ("synchronous_commit", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_seqscan", "off"),
            ]),
            Self::Migrate => settings.push(("lock_timeout", MIGRATION_LOCK_LIMIT)),
            Self::Read | Self::Operate | Self::Examine => {}
        }
        settings
    }
}

/// A sweep that has been silent for so long loses its connection, and with it the lock.
const SWEEP_IDLE_LIMIT: &str = "10s";
/// A relay, or a sender of webhooks, that has been silent for so long loses its connection, and with it the lock.
const RELAY_IDLE_LIMIT: &str = "5s";

fn options(url: &str, purpose: Purpose) -> Result<PgConnectOptions, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name(purpose.name())
        .options(purpose.session_settings());
    Ok(if is_plain(url, options.get_ssl_mode()) {
        options.ssl_mode(PgSslMode::Disable)
    } else {
        options
    })
}

/// Whether neither the URL nor `PGSSLMODE` says anything of TLS. Plain it is then, as with the other
/// servers' URLs: TLS by chance, unchecked, would cost its time and promise nothing.
fn is_plain(url: &str, mode: PgSslMode) -> bool {
    matches!(mode, PgSslMode::Prefer) && !url.contains("sslmode=") && !url.contains("ssl-mode=")
}

/// The `sslmode` of a URL that encrypts, if it does, and takes any certificate.
///
/// # Errors
/// When the URL is malformed.
pub fn unchecked_tls(url: &str) -> Result<Option<&'static str>, sqlx::Error> {
    Ok(match options(url, Purpose::Examine)?.get_ssl_mode() {
        PgSslMode::Prefer => Some("prefer"),
        PgSslMode::Require => Some("require"),
        _ => None,
    })
}

/// Opens a connection that one stage keeps for itself.
///
/// # Errors
/// When the server cannot be reached within 3 s, or refuses.
pub async fn connect(url: &str, purpose: Purpose) -> Result<PgConnection, sqlx::Error> {
    let options = options(url, purpose)?;
    tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options))
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))
        .map_err(told)
}

/// The same error, saying what to do where it is TLS that failed or is missing.
pub fn told(error: sqlx::Error) -> sqlx::Error {
    if let Some(refused) = tls::explain(&error) {
        return sqlx::Error::Tls(refused.into());
    }
    match &error {
        sqlx::Error::Tls(cause) if cause.to_string().ends_with(NO_TLS) => {
            let text = "PostgreSQL does not speak TLS; set ssl = on there, or leave sslmode out of \
                        DATABASE_URL";
            sqlx::Error::Tls(text.into())
        }
        sqlx::Error::Database(answer) if answer.message().ends_with(NO_ENCRYPTION) => {
            let text = format!("{}; DATABASE_URL may need sslmode=verify-full", answer.message());
            sqlx::Error::Configuration(text.into())
        }
        _ => error,
    }
}

/// How sqlx says that the server answered no to the question for TLS.
const NO_TLS: &str = "server does not support TLS";
/// How the server ends a refusal of somebody who came without TLS.
const NO_ENCRYPTION: &str = ", no encryption";

/// The connection that a stage keeps: made when first asked for, and again after it was dropped.
pub struct KeptConnection {
    url: String,
    purpose: Purpose,
    open: Option<PgConnection>,
}

impl KeptConnection {
    /// Does not connect yet.
    pub fn new(url: &str, purpose: Purpose) -> Self {
        Self { url: url.to_owned(), purpose, open: None }
    }

    /// # Errors
    /// As [`connect`].
    pub async fn get(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        match &mut self.open {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(connect(&self.url, self.purpose).await?)),
        }
    }

    /// Drops it, after an error or a statement whose answer is not waited for any more.
    pub fn drop_it(&mut self) {
        self.open = None;
    }
}

/// Waits for the server's answer, but not longer than a server that is there would take: over a
/// network that swallows everything no answer would ever come. What was asked may have happened.
///
/// # Errors
/// Those of `asked`, or that it took longer than 12 s.
pub async fn limited<T>(
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(ANSWER_LIMIT, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// The pool for the front door's reads; connects when first used.
///
/// # Errors
/// When the URL is malformed.
pub fn read_pool(url: &str) -> Result<PgPool, sqlx::Error> {
    Ok(PgPoolOptions::new()
        .max_connections(MAX_READ_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(options(url, Purpose::Read)?))
}

/// Runs one read on a connection of the pool, for 3 s at most.
///
/// # Errors
/// When the server is away, or silent, or too many clients read already.
pub async fn read<T>(
    on: &impl Readable,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, sqlx::Error> {
    let _turn = on.turn()?;
    let mut connection = on.pool().acquire().await?;
    if let Ok(found) = tokio::time::timeout(READ_LIMIT, read(&mut connection)).await {
        return found;
    }
    // The pool would first ask it whether it is well, and keep its place until it answers.
    drop(connection.detach());
    Err(sqlx::Error::PoolTimedOut)
}

/// Lets a transaction come to its end in a task of its own, also when whoever waits for it leaves:
/// one whose beginning is cancelled would leave its connection to the next user inside of it.
///
/// # Errors
/// Those of `work`.
pub async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
) -> Result<T, sqlx::Error> {
    tokio::spawn(work).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// The SQLSTATE of an error that the server answered.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|answer| answer.code()).map(|code| code.into_owned())
}

/// Why a write did not happen, as far as its caller must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server is away, overloaded or was interrupted: the same write may succeed later. It
    /// may also have happened already.
    Away,
    /// A partition of the batch has a new owner: nothing was written.
    Fenced,
    /// The rows are not what the writer had read: nothing was written; read again.
    Stale,
    /// The server refuses this very content: nothing was written.
    Content,
}

impl Failure {
    pub fn of(error: &sqlx::Error) -> Self {
        let Some(code) = sqlstate(error) else {
            return match error {
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::Encode(_) => Self::Content,
                _ => Self::Away,
            };
        };
        match code.as_str() {
            "BK001" => Self::Fenced,
            // A broken version or overlap guard, a serialisation failure or a deadlock.
            "BK002" | "BK003" | "23P01" | "23505" | "40001" | "40P01" => Self::Stale,
            code => match code.get(..2) {
                // Data exceptions, broken constraints and limits of the program (54).
                Some("22" | "23" | "54") => Self::Content,
                _ => Self::Away,
            },
        }
    }
}
