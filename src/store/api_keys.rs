//! The API keys: whose they are, never what they are.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// A key as its row tells it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ApiKeyRow {
    pub id: String,
    /// SHA-256 of the secret part.
    pub secret_hash: Vec<u8>,
    /// Either a user or a service holds it.
    pub user_id: Option<Uuid>,
    pub service: Option<String>,
    pub scopes: Vec<String>,
    pub description: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

const ALL: &str = "select id, secret_hash, user_id, service, scopes, description, created_at,
                          expires_at, revoked_at
                   from api_keys order by created_at, id";
const VALID_BY_ID: &str = "select id, secret_hash, user_id, service, scopes, description,
                                  created_at, expires_at, revoked_at
                           from api_keys where id = $1 and revoked_at is null";

/// The key with this id, unless it was revoked.
///
/// # Errors
/// When the server is away.
pub async fn valid_by_id(
    connection: &mut PgConnection,
    id: &str,
) -> Result<Option<ApiKeyRow>, sqlx::Error> {
    sqlx::query_as(VALID_BY_ID).bind(id).fetch_optional(connection).await
}

/// All keys, also those that count no more, the oldest first.
///
/// # Errors
/// When the server is away.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<ApiKeyRow>, sqlx::Error> {
    sqlx::query_as(ALL).fetch_all(connection).await
}

/// Adds a key.
///
/// # Errors
/// When the server is away, or the row breaks a rule of its table.
pub async fn insert(connection: &mut PgConnection, key: &ApiKeyRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into api_keys (id, secret_hash, user_id, service, scopes, description, created_at,
                               expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&key.id)
    .bind(&key.secret_hash)
    .bind(key.user_id)
    .bind(&key.service)
    .bind(&key.scopes)
    .bind(&key.description)
    .bind(key.created_at)
    .bind(key.expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Revokes a key, for good; false when there is none with this id.
///
/// # Errors
/// When the server is away.
pub async fn revoke(connection: &mut PgConnection, id: &str) -> Result<bool, sqlx::Error> {
    let revoked =
        sqlx::query("update api_keys set revoked_at = coalesce(revoked_at, now()) where id = $1")
            .bind(id)
            .execute(connection)
            .await?;
    Ok(revoked.rows_affected() == 1)
}
