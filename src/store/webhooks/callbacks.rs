//! Targets of callbacks: one for each origin that a caller's callback URLs name.
//!
//! They are made in the commit before the first command that names them, so that every decision
//! finds them.

use std::collections::{BTreeSet, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::store::commands::NewCommand;

/// Origins of one caller; a command that names one more is refused.
pub const MAX_ORIGINS: i64 = 100;
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// Those of `batch` whose callback has no target and can get none. Makes the targets that are
/// missing.
///
/// # Errors
/// When the server is away; targets may have been made.
pub async fn without_target(
    connection: &mut PgConnection,
    batch: &[&NewCommand],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let named: Vec<(&str, String, Uuid)> = batch
        .iter()
        .filter_map(|new| {
            let callback = new.command.callback.as_ref()?;
            Some((new.command.caller.as_str(), callback.origin(), new.command.command_id))
        })
        .collect();
    if named.is_empty() {
        return Ok(HashSet::new());
    }
    // In their order, so that two gateways wait for each other instead of deadlocking.
    let asked: BTreeSet<(&str, &str)> = named.iter().map(|(c, o, _)| (*c, o.as_str())).collect();
    let secrets: Vec<Vec<u8>> = asked.iter().map(|_| secret()).collect::<Result<_, _>>()?;
    let found: Vec<(String, String)> = sqlx::query_as(ENSURE)
        .bind(asked.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(asked.iter().map(|(caller, _)| *caller).collect::<Vec<_>>())
        .bind(asked.iter().map(|(_, origin)| *origin).collect::<Vec<_>>())
        .bind(secrets)
        .bind(MAX_ORIGINS)
        .fetch_all(connection)
        .await?;
    let found: HashSet<(&str, &str)> =
        found.iter().map(|(caller, origin)| (caller.as_str(), origin.as_str())).collect();
    let homeless = named.iter().filter(|(c, o, _)| !found.contains(&(*c, o.as_str())));
    Ok(homeless.map(|(_, _, id)| *id).collect())
}

/// A target that another gateway makes at this moment is not to be seen yet; the conflict waits
/// for it and returns it.
const ENSURE: &str = "
with asked as (
  select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[])
    as a(id, owner, origin, secret)
), known as (
  select w.owner, w.url from asked a
  join webhook_endpoints w on w.owner = a.owner and w.url = a.origin and w.kind = 'callback'
), made as (
  insert into webhook_endpoints (id, kind, owner, url, secret)
  select a.id, 'callback', a.owner, a.origin, a.secret from asked a
  where not exists (select from known k where k.owner = a.owner and k.url = a.origin)
    and (select count(*) from webhook_endpoints w
         where w.owner = a.owner and w.kind = 'callback') < $5
  on conflict (owner, url) where kind = 'callback' do update set updated_at = now()
  returning owner, url
)
select owner, url from known union all select owner, url from made";

fn secret() -> Result<Vec<u8>, sqlx::Error> {
    let mut bytes = vec![0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|cause| sqlx::Error::Encode(cause.to_string().into()))?;
    Ok(bytes)
}
