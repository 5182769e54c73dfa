//! The outbox: messages that are committed but not yet confirmed by the broker.
//!
//! Rows are written by the statements of [`super::commands`] and [`super::decisions`], in the
//! commit of what they tell. Here the relay reads and deletes them.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::booking::Stream;

/// How the table names a stream.
pub(super) fn number(stream: Stream) -> i16 {
    match stream {
        Stream::Commands => 1,
        Stream::Events => 2,
        Stream::Replies => 3,
    }
}

/// A command that waits to be relayed.
#[derive(Debug, sqlx::FromRow)]
pub struct WaitingCommand {
    pub id: i64,
    pub partition: i16,
    pub content: String,
    pub traceparent: Option<String>,
}

/// The oldest waiting commands, in the order they were appended.
///
/// # Errors
/// When the server is away.
pub async fn waiting_commands(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<WaitingCommand>, sqlx::Error> {
    sqlx::query_as(
        "select o.id, o.partition, o.traceparent, c.content
         from (select id, partition, message_id, traceparent from outbox
               where stream = 1 order by id limit $1) o
         join commands c on c.id = o.message_id
         order by o.id",
    )
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// An event or a reply that waits to be relayed.
#[derive(Debug, sqlx::FromRow)]
pub struct WaitingMessage {
    pub id: i64,
    pub message_id: Uuid,
    pub subject: Uuid,
    pub routing_key: String,
    pub kind: Option<String>,
    pub body: String,
    pub correlation_id: Option<String>,
    pub traceparent: Option<String>,
}

/// The oldest waiting events or replies, in the order they were appended.
///
/// # Errors
/// When the server is away.
pub async fn waiting_messages(
    connection: &mut PgConnection,
    stream: Stream,
    limit: i64,
) -> Result<Vec<WaitingMessage>, sqlx::Error> {
    sqlx::query_as(
        "select id, message_id, subject, routing_key, kind, body, correlation_id, traceparent
         from outbox where stream = $1 order by id limit $2",
    )
    .bind(number(stream))
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// Deletes messages that the broker has confirmed.
///
/// # Errors
/// When the server is away; the messages are then published again.
pub async fn delete(
    connection: &mut PgConnection,
    stream: Stream,
    ids: &[i64],
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from outbox where stream = $1 and id = any($2)")
        .bind(number(stream))
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}

/// How much of a stream waits: rows, and the age of the oldest in seconds (0 when none waits).
#[derive(Clone, Copy, Debug, Default, PartialEq, sqlx::FromRow)]
pub struct Backlog {
    pub rows: i64,
    pub oldest_seconds: f64,
}

/// The backlog of a stream.
///
/// # Errors
/// When the server is away.
pub async fn backlog(
    executor: impl sqlx::PgExecutor<'_>,
    stream: Stream,
) -> Result<Backlog, sqlx::Error> {
    sqlx::query_as(
        "select count(*) as rows,
                coalesce(extract(epoch from greatest(now() - min(appended_at), '0')), 0)::float8
                  as oldest_seconds
         from outbox where stream = $1",
    )
    .bind(number(stream))
    .fetch_one(executor)
    .await
}
