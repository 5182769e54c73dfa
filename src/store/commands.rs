//! The commands table: asked, and what became of it.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::booking::command::{Command, CommandRecord, CommandStatus, Fingerprint};

/// A checked request, ready to be accepted.
#[derive(Clone, Debug)]
pub struct NewCommand {
    pub command: Command,
    pub partition: u16,
    pub idempotency_key: Option<String>,
    pub fingerprint: Fingerprint,
}

/// Accepts what is new of `batch`: command, idempotency record and outbox row in one commit, and
/// the answer to those who want it by message.
/// Returns the ids of the accepted; the others carry an idempotency key that was used before,
/// perhaps earlier in the same batch.
///
/// # Errors
/// When the server is away: all of the batch may or may not have been accepted.
pub async fn accept(
    connection: &mut PgConnection,
    batch: &[&NewCommand],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let column = |of: fn(&NewCommand) -> Uuid| batch.iter().map(|new| of(new)).collect::<Vec<_>>();
    let contents = batch.iter().map(|new| serde_json::to_string(&new.command));
    let contents: Vec<String> =
        contents.collect::<Result<_, _>>().map_err(|error| sqlx::Error::Encode(error.into()))?;
    let replies = batch.iter().map(|new| new.command.reply_to.as_ref());
    let answers = batch.iter().map(|new| {
        new.command.reply_to.as_ref()?;
        serde_json::to_string(&CommandRecord::accepted(&new.command)).ok() // plain data: cannot fail
    });
    let answers: Vec<Option<String>> = answers.collect();
    sqlx::query_scalar(ACCEPT)
        .bind(column(|new| new.command.command_id))
        .bind(column(|new| new.command.booking_id))
        .bind(column(|new| new.command.calendar_id))
        .bind(batch.iter().map(|new| i32::from(new.partition)).collect::<Vec<_>>())
        .bind(batch.iter().map(|new| new.command.change.kind().as_str()).collect::<Vec<_>>())
        .bind(batch.iter().map(|new| new.command.caller.as_str()).collect::<Vec<_>>())
        .bind(batch.iter().map(|new| new.idempotency_key.as_deref()).collect::<Vec<_>>())
        .bind(batch.iter().map(|new| new.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind(contents)
        .bind(batch.iter().map(|new| new.command.accepted_at).collect::<Vec<_>>())
        .bind(batch.iter().map(|new| new.command.traceparent.as_deref()).collect::<Vec<_>>())
        .bind(replies.clone().map(|reply| reply.map(|r| r.queue.as_str())).collect::<Vec<_>>())
        .bind(replies.map(|reply| reply?.correlation_id.as_deref()).collect::<Vec<_>>())
        .bind(answers)
        .fetch_all(connection)
        .await
}

/// Keys are inserted in their order, so that two gateways with the same keys wait for each other
/// instead of deadlocking; outbox rows are appended in the order of arrival.
const ACCEPT: &str = "
with incoming as (
  select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[],
                       $7::text[], $8::bytea[], $9::text[], $10::timestamptz[], $11::text[],
                       $12::text[], $13::text[], $14::text[])
    with ordinality
    as t(id, booking_id, calendar_id, partition, kind, caller, idempotency_key, fingerprint,
         content, accepted_at, traceparent, reply_queue, reply_correlation, reply, place)
), accepted as (
  insert into commands (id, booking_id, calendar_id, partition, kind, caller, idempotency_key,
                        fingerprint, content, accepted_at)
  select id, booking_id, calendar_id, partition, kind, caller, idempotency_key, fingerprint,
         content, accepted_at
  from incoming order by caller, idempotency_key, place
  on conflict on constraint commands_idempotency_key do nothing
  returning id
), appended as (
  insert into outbox (stream, message_id, subject, partition, traceparent, appended_at)
  select 1, i.id, i.calendar_id, i.partition, i.traceparent, i.accepted_at
  from incoming i join accepted a on a.id = i.id
  order by i.place
), replied as (
  insert into outbox (stream, message_id, subject, routing_key, kind, body, correlation_id,
                      traceparent, appended_at)
  select 3, gen_random_uuid(), i.id, i.reply_queue, 'command.accepted', i.reply,
         i.reply_correlation, i.traceparent, i.accepted_at
  from incoming i join accepted a on a.id = i.id
  where i.reply_queue is not null
  order by i.place
)
select id from accepted";

/// A command as its row tells it.
#[derive(Clone, Debug)]
pub struct StoredCommand {
    pub caller: String,
    pub calendar_id: Uuid,
    pub idempotency_key: Option<String>,
    pub fingerprint: Vec<u8>,
    pub record: CommandRecord,
}

/// Whose command, under which key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyOfCaller {
    pub caller: String,
    pub key: String,
}

/// The commands that were accepted under any of `keys`.
///
/// # Errors
/// When the server is away.
pub async fn by_keys(
    executor: impl PgExecutor<'_>,
    keys: &[KeyOfCaller],
) -> Result<Vec<StoredCommand>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(BY_KEYS)
        .bind(keys.iter().map(|k| k.caller.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.key.as_str()).collect::<Vec<_>>())
        .fetch_all(executor)
        .await?;
    rows.into_iter().map(Row::into_stored).collect()
}

/// The commands with any of `ids`.
///
/// # Errors
/// When the server is away.
pub async fn by_ids(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<Vec<StoredCommand>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(BY_IDS).bind(ids).fetch_all(executor).await?;
    rows.into_iter().map(Row::into_stored).collect()
}

/// Those of `ids` that are decided.
///
/// # Errors
/// When the server is away.
pub async fn decided(
    executor: impl PgExecutor<'_>,
    ids: &[Uuid],
) -> Result<Vec<StoredCommand>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(DECIDED).bind(ids).fetch_all(executor).await?;
    rows.into_iter().map(Row::into_stored).collect()
}

macro_rules! stored_command {
    ($source:literal) => {
        concat!(
            "select c.id, c.booking_id, c.calendar_id, c.kind, c.caller, c.idempotency_key, ",
            "c.fingerprint, c.status, c.error::text as error, c.accepted_at, c.decided_at, ",
            "a.after::text as booking from ",
            $source,
            " left join audit a on a.booking_id = c.booking_id and a.version = c.booking_version"
        )
    };
}

const BY_KEYS: &str = stored_command!(
    "unnest($1::text[], $2::text[]) as k(caller, key)
     join commands c on c.caller = k.caller and c.idempotency_key = k.key"
);
const BY_IDS: &str = stored_command!("unnest($1::uuid[]) as k(id) join commands c on c.id = k.id");
const DECIDED: &str = stored_command!(
    "unnest($1::uuid[]) as k(id)
     join commands c on c.id = k.id and c.decided_at is not null"
);

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    booking_id: Uuid,
    calendar_id: Uuid,
    kind: String,
    caller: String,
    idempotency_key: Option<String>,
    fingerprint: Vec<u8>,
    status: String,
    error: Option<String>,
    accepted_at: DateTime<Utc>,
    decided_at: Option<DateTime<Utc>>,
    booking: Option<String>,
}

impl Row {
    fn into_stored(self) -> Result<StoredCommand, sqlx::Error> {
        let raw = |text: Option<String>| text.map(RawValue::from_string).transpose();
        let decode = |error: serde_json::Error| sqlx::Error::Decode(error.into());
        let status = CommandStatus::parse(&self.status)
            .ok_or_else(|| sqlx::Error::Decode(format!("command status {}", self.status).into()))?;
        Ok(StoredCommand {
            caller: self.caller,
            calendar_id: self.calendar_id,
            idempotency_key: self.idempotency_key,
            fingerprint: self.fingerprint,
            record: CommandRecord {
                command_id: self.id,
                booking_id: self.booking_id,
                kind: self.kind,
                status,
                booking: raw(self.booking).map_err(decode)?,
                error: raw(self.error).map_err(decode)?,
                accepted_at: self.accepted_at,
                decided_at: self.decided_at,
            },
        })
    }
}

/// Those of `ids` that have no final state yet.
///
/// # Errors
/// When the server is away.
pub async fn undecided(
    connection: &mut PgConnection,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "select c.id from unnest($1::uuid[]) as k(id) join commands c on c.id = k.id
         where c.decided_at is null",
    )
    .bind(ids)
    .fetch_all(connection)
    .await
}

/// Notes that a command failed for its own sake, and returns how often it now has.
///
/// # Errors
/// When the server is away, or the command has a final state.
pub async fn count_attempt(connection: &mut PgConnection, id: Uuid) -> Result<i16, sqlx::Error> {
    sqlx::query_scalar(
        "update commands set attempts = attempts + 1
         where id = $1 and decided_at is null returning attempts",
    )
    .bind(id)
    .fetch_one(connection)
    .await
}

/// A message that nothing could be made of, or a command that was given up.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    pub id: Uuid,
    pub command_id: Option<Uuid>,
    pub source: &'a str,
    pub reason: &'a str,
    pub body: &'a str,
}

/// Keeps a dead letter for people to look at.
///
/// # Errors
/// When the server is away.
pub async fn keep_dead_letter(
    connection: &mut PgConnection,
    letter: &DeadLetter<'_>,
) -> Result<(), sqlx::Error> {
    // U+0000 is the one character that Postgres cannot keep in a text.
    sqlx::query(
        "insert into dead_letters (id, command_id, source, reason, body) values ($1, $2, $3, $4, $5)",
    )
    .bind(letter.id)
    .bind(letter.command_id)
    .bind(letter.source)
    .bind(letter.reason)
    .bind(letter.body.replace('\0', "\u{fffd}"))
    .execute(connection)
    .await?;
    Ok(())
}

/// What waits for a decision in one partition.
#[derive(Clone, Copy, Debug, PartialEq, sqlx::FromRow)]
pub struct Undecided {
    pub partition: i16,
    pub commands: i64,
    pub oldest_seconds: f64,
}

/// How many commands wait for a decision, and how long the oldest has, by partition.
///
/// # Errors
/// When the server is away.
pub async fn undecided_by_partition(
    executor: impl PgExecutor<'_>,
) -> Result<Vec<Undecided>, sqlx::Error> {
    sqlx::query_as(
        "select partition, count(*) as commands,
                extract(epoch from greatest(now() - min(accepted_at), '0'))::float8 as oldest_seconds
         from commands where status = 'accepted' group by partition order by partition",
    )
    .fetch_all(executor)
    .await
}
