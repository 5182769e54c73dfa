//! Who owns which shard of the webhook targets.
//!
//! The right to a shard is an advisory lock of the session that its deliveries are read and
//! recorded on, as in [`crate::store::leadership`]: it ends with the connection, so a process
//! that dies gives its shards back at that moment, and one that is frozen when the server has
//! lost patience. Every process also holds a lock that can be shared, by which the others count
//! it.

use sqlx::PgConnection;

use crate::store::leadership::LOCK_SPACE;

/// How many shards there are; the migration assigns them to targets. More processes than these
/// find nothing to do.
pub const SHARDS: i16 = 32;

/// The lock that every process shares.
const MEMBER: i32 = 99;
/// The lock of shard 0; the others follow.
const FIRST: i32 = 100;

/// Who else is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Census {
    /// Processes, this one included.
    pub members: usize,
    /// Shards that nobody owns.
    pub free: Vec<i16>,
}

/// Joins those who share the shards, until the connection ends.
///
/// # Errors
/// When the server is away.
pub async fn join(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_lock_shared($1, $2)")
        .bind(LOCK_SPACE)
        .bind(MEMBER)
        .execute(connection)
        .await?;
    Ok(())
}

/// Counts the processes and finds the shards without an owner.
///
/// # Errors
/// When the server is away.
pub async fn census(connection: &mut PgConnection) -> Result<Census, sqlx::Error> {
    let locks: Vec<i32> = sqlx::query_scalar(
        "select objid::int from pg_locks
         where locktype = 'advisory' and granted and objsubid = 2 and classid::int = $1
           and database = (select oid from pg_database where datname = current_database())
           and objid::int between $2 and $3",
    )
    .bind(LOCK_SPACE)
    .bind(MEMBER)
    .bind(FIRST + i32::from(SHARDS) - 1)
    .fetch_all(connection)
    .await?;
    let members = locks.iter().filter(|lock| **lock == MEMBER).count();
    let free = (0..SHARDS).filter(|shard| !locks.contains(&(FIRST + i32::from(*shard))));
    Ok(Census { members: members.max(1), free: free.collect() })
}

/// Takes those of `shards` that nobody owns at this moment.
///
/// # Errors
/// When the server is away.
pub async fn take(connection: &mut PgConnection, shards: &[i16]) -> Result<Vec<i16>, sqlx::Error> {
    sqlx::query_scalar(
        "select shard from unnest($1::smallint[]) shard
         where pg_try_advisory_lock($2, $3 + shard)",
    )
    .bind(shards)
    .bind(LOCK_SPACE)
    .bind(FIRST)
    .fetch_all(connection)
    .await
}

/// Gives shards back.
///
/// # Errors
/// When the server is away, which gives back all of them.
pub async fn give_back(connection: &mut PgConnection, shards: &[i16]) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_unlock($2, $3 + shard) from unnest($1::smallint[]) shard")
        .bind(shards)
        .bind(LOCK_SPACE)
        .bind(FIRST)
        .execute(connection)
        .await?;
    Ok(())
}
