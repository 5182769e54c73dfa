//! The audit: how each booking came to be as it is. Written by [`super::decisions`].

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgExecutor;
use uuid::Uuid;

/// One change of a booking, as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub version: i32,
    pub action: String,
    /// Who asked: a user's id, `service:` and a name, or `time`.
    pub actor: String,
    pub at: DateTime<Utc>,
    /// None at the creation.
    pub before: Option<Box<RawValue>>,
    pub after: Box<RawValue>,
    /// None where time did it.
    pub command_id: Option<Uuid>,
}

/// The changes of a booking after the one to `version`, at most `most`, in their order.
///
/// # Errors
/// When the server is away.
pub async fn of_booking(
    executor: impl PgExecutor<'_>,
    booking_id: Uuid,
    version: i32,
    most: usize,
) -> Result<Vec<Entry>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select version, action, actor, at, before::text as before, after::text as after, command_id
         from audit where booking_id = $1 and version > $2 order by version limit $3",
    )
    .bind(booking_id)
    .bind(version)
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(Row::into_entry).collect()
}

#[derive(sqlx::FromRow)]
struct Row {
    version: i32,
    action: String,
    actor: String,
    at: DateTime<Utc>,
    before: Option<String>,
    after: String,
    command_id: Option<Uuid>,
}

impl Row {
    fn into_entry(self) -> Result<Entry, sqlx::Error> {
        let raw = |text: String| {
            RawValue::from_string(text).map_err(|error| sqlx::Error::Decode(error.into()))
        };
        Ok(Entry {
            version: self.version,
            action: self.action,
            actor: self.actor,
            at: self.at,
            before: self.before.map(raw).transpose()?,
            after: raw(self.after)?,
            command_id: self.command_id,
        })
    }
}
