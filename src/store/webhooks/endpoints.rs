//! Whom we post to, as their owner sees and changes them.
//!
//! Every statement names the owner, so another's endpoint is found no more than one that never
//! was. Secrets are written here and never read back.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Connection as _, FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

use crate::booking::endpoint::{EndpointChange, NewEndpoint};

/// Endpoints of one owner; one more is not made.
pub const MAX_ENDPOINTS: i64 = 50;
/// Rows of the queue that one statement deletes.
const MAX_DELETED: i64 = 10_000;
/// The space of the advisory locks under which an owner's endpoints are counted: "ownr" in ASCII.
const OWNERS: i32 = 0x6f77_6e72;

/// Whose endpoints a caller reaches.
#[derive(Clone, Debug)]
pub struct Whose {
    /// The principal that registered them, or that named the callback.
    pub owner: String,
    /// Only those of this calendar: a service that names a user reaches nothing else.
    pub only: Option<Uuid>,
}

/// An endpoint, or the target of callbacks, as the API shows it.
#[derive(Clone, Debug, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub id: Uuid,
    pub kind: String,
    pub url: String,
    pub event_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whose events; nothing where it is everybody's, or a callback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Uuid>,
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<DateTime<Utc>>,
    /// Until then the secret before this one signs too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_secret_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Where its deliveries are queued.
    #[serde(skip)]
    pub shard: i16,
}

impl Endpoint {
    pub fn is_callback(&self) -> bool {
        self.kind == "callback"
    }
}

macro_rules! columns {
    () => {
        "id, kind, url, event_types, description,
         nullif(calendar_id, '00000000-0000-0000-0000-000000000000') as user_id, enabled,
         disabled_reason, failing_since,
         case when previous_secret_until > now() then previous_secret_until end
           as previous_secret_until,
         created_at, updated_at, shard"
    };
}

/// The one with this id, if the caller reaches it.
macro_rules! reached {
    () => {
        "id = $1 and owner = $2 and ($3::uuid is null or calendar_id = $3)"
    };
}

/// Registers an endpoint that is told of this calendar's events, or of everybody's. Nothing where
/// the owner has [`MAX_ENDPOINTS`] already: they are counted under a lock, so that two requests at
/// once do not both find room for one.
///
/// # Errors
/// When the server is away; the endpoint may have been made.
pub async fn register(
    connection: &mut PgConnection,
    owner: &str,
    calendar: Option<Uuid>,
    new: &NewEndpoint,
    secret: &[u8],
) -> Result<Option<Endpoint>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1, hashtext($2))")
        .bind(OWNERS)
        .bind(owner)
        .execute(&mut *transaction)
        .await?;
    let made = sqlx::query_as(REGISTER)
        .bind(Uuid::now_v7())
        .bind(owner)
        .bind(calendar.unwrap_or_default())
        .bind(&new.url)
        .bind(&new.event_types)
        .bind(&new.description)
        .bind(secret)
        .bind(MAX_ENDPOINTS)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(made)
}

const REGISTER: &str = concat!(
    "insert into webhook_endpoints (id, owner, calendar_id, url, event_types, description, secret)
     select $1, $2, $3, $4, $5, nullif($6, ''), $7
     where (select count(*) from webhook_endpoints where owner = $2 and kind = 'endpoint') < $8
     returning ",
    columns!()
);

/// The endpoints behind `after` in the order in which they were made, callbacks' targets too.
///
/// # Errors
/// When the server is away.
pub async fn list(
    executor: impl PgExecutor<'_>,
    whose: &Whose,
    after: Uuid,
    most: i64,
) -> Result<Vec<Endpoint>, sqlx::Error> {
    const LIST: &str = concat!(
        "select ",
        columns!(),
        " from webhook_endpoints
         where owner = $1 and ($2::uuid is null or calendar_id = $2) and id > $3
         order by id limit $4"
    );
    sqlx::query_as(LIST)
        .bind(&whose.owner)
        .bind(whose.only)
        .bind(after)
        .bind(most)
        .fetch_all(executor)
        .await
}

/// # Errors
/// When the server is away.
pub async fn find(
    executor: impl PgExecutor<'_>,
    whose: &Whose,
    id: Uuid,
) -> Result<Option<Endpoint>, sqlx::Error> {
    const FIND: &str = concat!("select ", columns!(), " from webhook_endpoints where ", reached!());
    sqlx::query_as(FIND).bind(id).bind(&whose.owner).bind(whose.only).fetch_optional(executor).await
}

/// The endpoint that this transaction alone queues deliveries for, until it ends.
///
/// # Errors
/// When the server is away.
pub async fn lock(
    executor: impl PgExecutor<'_>,
    whose: &Whose,
    id: Uuid,
) -> Result<Option<Endpoint>, sqlx::Error> {
    const LOCK: &str = concat!(
        "select ",
        columns!(),
        " from webhook_endpoints where ",
        reached!(),
        " for no key update"
    );
    sqlx::query_as(LOCK).bind(id).bind(&whose.owner).bind(whose.only).fetch_optional(executor).await
}

/// Changes an endpoint; to enable it forgets its failures. Nothing where there is none, or where
/// it is a callback's target that would get another URL or event types.
///
/// # Errors
/// When the server is away.
pub async fn change(
    executor: impl PgExecutor<'_>,
    whose: &Whose,
    id: Uuid,
    change: &EndpointChange,
) -> Result<Option<Endpoint>, sqlx::Error> {
    const CHANGE: &str = concat!(
        "update webhook_endpoints
         set url = coalesce($4, url), event_types = coalesce($5, event_types),
             description = nullif(coalesce($6, description), ''), enabled = coalesce($7, enabled),
             disabled_reason = case when $7 then null else disabled_reason end,
             failing_since = case when $7 then null else failing_since end, updated_at = now()
         where ",
        reached!(),
        " and (kind = 'endpoint' or $4 is null and $5 is null)
         returning ",
        columns!()
    );
    sqlx::query_as(CHANGE)
        .bind(id)
        .bind(&whose.owner)
        .bind(whose.only)
        .bind(&change.url)
        .bind(&change.event_types)
        .bind(&change.description)
        .bind(change.enabled)
        .fetch_optional(executor)
        .await
}

/// Gives an endpoint another secret; the one that it had signs too for so many seconds.
///
/// # Errors
/// When the server is away; the secret may be another already.
pub async fn rotate(
    executor: impl PgExecutor<'_>,
    whose: &Whose,
    id: Uuid,
    secret: &[u8],
    overlap: i32,
) -> Result<Option<Endpoint>, sqlx::Error> {
    const ROTATE: &str = concat!(
        "update webhook_endpoints
         set secret = $4, updated_at = now(),
             previous_secret = case when $5 > 0 then secret end,
             previous_secret_until = case when $5 > 0 then now() + $5 * interval '1 second' end
         where ",
        reached!(),
        " returning ",
        columns!()
    );
    sqlx::query_as(ROTATE)
        .bind(id)
        .bind(&whose.owner)
        .bind(whose.only)
        .bind(secret)
        .bind(overlap)
        .fetch_optional(executor)
        .await
}

/// Deletes an endpoint, and says in which shard it was. Nothing more is queued for it, except by
/// a decision that is being committed just now.
///
/// # Errors
/// When the server is away; it may have been deleted.
pub async fn delete(
    executor: impl PgExecutor<'_>,
    whose: &Whose,
    id: Uuid,
) -> Result<Option<i16>, sqlx::Error> {
    const DELETE: &str =
        concat!("delete from webhook_endpoints where ", reached!(), " returning shard");
    sqlx::query_scalar(DELETE)
        .bind(id)
        .bind(&whose.owner)
        .bind(whose.only)
        .fetch_optional(executor)
        .await
}

/// Takes some of what waits for a target from the queue, and says whether more may be there.
///
/// # Errors
/// When the server is away.
pub async fn unqueue(
    executor: impl PgExecutor<'_>,
    shard: i16,
    target: Uuid,
) -> Result<bool, sqlx::Error> {
    let deleted = sqlx::query(
        "delete from webhook_queue where ctid = any(array(
           select ctid from webhook_queue where shard = $1 and target_id = $2 limit $3))",
    )
    .bind(shard)
    .bind(target)
    .bind(MAX_DELETED)
    .execute(executor)
    .await?;
    Ok(i64::try_from(deleted.rows_affected()).is_ok_and(|rows| rows >= MAX_DELETED))
}
