//! How much waits to be decided, by calendar.

use sqlx::PgExecutor;
use uuid::Uuid;

/// What waits for a decision in one calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Waiting {
    pub calendar_id: Uuid,
    pub commands: i64,
}

/// The calendars in which at least `least` commands wait for a decision. Reads what waits, which
/// is little while the workers keep up, and never what is decided.
///
/// # Errors
/// When the server is away.
pub async fn calendars_with(
    executor: impl PgExecutor<'_>,
    least: u32,
) -> Result<Vec<Waiting>, sqlx::Error> {
    sqlx::query_as(
        "select calendar_id, count(*) as commands from commands where status = 'accepted'
         group by calendar_id having count(*) >= $1",
    )
    .bind(i64::from(least))
    .fetch_all(executor)
    .await
}
