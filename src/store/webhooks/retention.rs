//! How long the log of webhooks is kept.
//!
//! Rows are deleted in bounded batches, found by indexes on the order of writing. What still waits
//! when its time is over (its endpoint was disabled by its owner) is given up with it.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

/// Rows of each table that one call deletes at most.
pub const MAX_BATCH: i64 = 1000;

/// Deletes rows from before `limit`, and queue rows whose endpoint or delivery is gone; returns how
/// many.
///
/// # Errors
/// When the server is away.
pub async fn prune(
    connection: &mut PgConnection,
    limit: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let mut pruned = 0;
    let mut transaction = connection.begin().await?;
    // The indexes on time are of a kind that only such a scan can use.
    sqlx::query("set local enable_bitmapscan = on").execute(&mut *transaction).await?;
    for statement in [
        "delete from webhook_attempts where ctid = any(array(
           select ctid from webhook_attempts where at < $1 limit $2))",
        "delete from webhook_deliveries where ctid = any(array(
           select ctid from webhook_deliveries where created_at < $1 limit $2))",
        "delete from webhook_queue q where ctid = any(array(
           select q.ctid from webhook_queue q
           where q.due_at < $1
             or not exists (select from webhook_endpoints e where e.id = q.target_id)
             or not exists (
               select from webhook_deliveries d
               where d.target_id = q.target_id and d.event_id = q.event_id)
           limit $2))",
    ] {
        let deleted = sqlx::query(statement).bind(limit).bind(MAX_BATCH);
        pruned += deleted.execute(&mut *transaction).await?.rows_affected();
    }
    transaction.commit().await?;
    Ok(pruned)
}
