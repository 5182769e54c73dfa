//! The schema: the migrations that make it, and whether a database has it.
//!
//! A migration is done while releases work, this one and the one before. It only adds, and it waits
//! for nobody's table for long.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::migrate::{MigrateError, Migrator};

use super::{Purpose, connect, partitions, sqlstate};

pub(super) static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    // A release that is gone back to finds migrations that it does not know, and lets them be.
    migrator.set_ignore_missing(true);
    migrator
});

/// A migration that waits for a table makes everybody else wait for it too, behind itself. So it
/// gives up soon, lets them through, and tries again.
pub(super) const MIGRATION_LOCK_LIMIT: &str = "1s";
/// Between two tries of a migration the tables are free.
const MIGRATION_PAUSE: Duration = Duration::from_secs(1);
/// After so many tries, about five minutes, `migrate` fails and says how to find who keeps the table.
const MIGRATION_TRIES: u32 = 150;

/// Brings the schema to this binary's version and lays out `partitions` partitions. A schema of a
/// newer release stays as it is.
///
/// # Errors
/// When a migration fails, or finds a table in use for five minutes, or when the database was laid
/// out with another number of partitions.
pub async fn migrate(url: &str, partitions: u16) -> anyhow::Result<()> {
    let mut tries = 1;
    let mut connection = loop {
        let mut connection = connect(url, Purpose::Migrate)
            .await
            .context("PostgreSQL cannot be reached; is DATABASE_URL right?")?;
        match MIGRATOR.run(&mut connection).await {
            Ok(()) => break connection,
            Err(error) if waited_for_a_lock(&error) => anyhow::ensure!(
                tries < MIGRATION_TRIES,
                "{error}; a transaction keeps a table for itself (a backup, perhaps): `select * from \
                 pg_stat_activity where xact_start < now() - interval '1 minute'` names it. Wait for \
                 its end, or end it, and run `booking migrate` again",
            ),
            Err(error) => return Err(error.into()),
        }
        tries += 1;
        tokio::time::sleep(MIGRATION_PAUSE).await;
    };
    partitions::lay_out(&mut connection, partitions).await?;
    partitions::check_count(&mut connection, partitions).await
}

fn waited_for_a_lock(error: &MigrateError) -> bool {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else {
        return false;
    };
    sqlstate(cause).as_deref() == Some("55P03")
}

/// Checks that the schema is at this binary's version and has `partitions` partitions.
///
/// # Errors
/// What is not so, and how to mend it.
pub async fn check(url: &str, partitions: u16) -> anyhow::Result<()> {
    let mut connection = connect(url, Purpose::Operate).await?;
    let wanted = MIGRATOR.iter().map(|migration| migration.version).max();
    let present: Option<i64> =
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
            .fetch_one(&mut connection)
            .await
            .or_else(|error| match sqlstate(&error).as_deref() {
                Some("42P01") => Ok(None), // no such table: never migrated
                _ => Err(error),
            })?;
    anyhow::ensure!(
        present >= wanted,
        "the database is at schema version {}, this binary needs {}; run `booking migrate`",
        present.unwrap_or(0),
        wanted.unwrap_or(0),
    );
    partitions::check_count(&mut connection, partitions).await
}
