//! `booking api-keys`: gives out API keys, lists them and takes them back.
//!
//! In: Postgres. Out: what to print. A key's text exists in the answer to `create` alone.

use std::fmt::Write as _;

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::identity::{Holder, IssuedKey, READ_SCOPE, WRITE_SCOPE, names_a_service};
use crate::store::api_keys::ApiKeyRow;
use crate::store::{self, Purpose, api_keys};

/// What to do with API keys.
#[derive(Subcommand)]
pub enum Action {
    /// Make a key and print it, this once: only its hash is stored
    Create(Create),
    /// Print whose keys there are, without the keys
    List,
    /// Take a key back, for good. Running gateways take it for 10 more seconds at most
    Revoke {
        /// The id of the key: the part between the two underscores
        id: String,
    },
}

/// Whose key to make.
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    holder: HolderArgs,

    /// What a service may do for every user: bookings.read, bookings.write (which includes
    /// reading). Give it twice for both
    #[arg(long, value_parser = [READ_SCOPE, WRITE_SCOPE])]
    scope: Vec<String>,

    /// Days after which the key counts no more. Without it: never
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
    expires_days: Option<u32>,

    /// What the key is for, in words for people; shown by list
    #[arg(long, value_parser = description)]
    description: Option<String>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct HolderArgs {
    /// A key of this user, who reaches what is theirs
    #[arg(long, conflicts_with = "scope")]
    user: Option<Uuid>,

    /// A key of a service, who acts for every user as far as its scopes go
    #[arg(long, requires = "scope", value_parser = service)]
    service: Option<String>,
}

fn service(text: &str) -> Result<String, &'static str> {
    names_a_service(text)
        .then(|| text.to_owned())
        .ok_or("a service's name has 1 to 128 visible ASCII characters")
}

fn description(text: &str) -> Result<String, &'static str> {
    let fine = text.len() <= 200 && !text.chars().any(char::is_control);
    fine.then(|| text.to_owned()).ok_or("a description has at most 200 bytes, on one line")
}

/// Does it, and returns what to print.
///
/// # Errors
/// When Postgres is away, or there is no such key.
pub async fn run(database_url: &str, action: Action) -> anyhow::Result<String> {
    let mut connection = store::connect(database_url, Purpose::Operate)
        .await
        .context("PostgreSQL cannot be reached; is DATABASE_URL right?")?;
    match action {
        Action::Create(wanted) => {
            let key = issue(wanted)?;
            api_keys::insert(&mut connection, &key.row).await.context(
                "the key could not be stored; is the database at this release's schema?",
            )?;
            Ok(created(&key))
        }
        Action::List => Ok(listed(&api_keys::all(&mut connection).await?, Utc::now())),
        Action::Revoke { id } => {
            let found = api_keys::revoke(&mut connection, &id).await?;
            anyhow::ensure!(found, "there is no API key with the id {id}; see `api-keys list`");
            Ok(format!("{id} is revoked; within 10 s no gateway takes it any more\n"))
        }
    }
}

fn issue(wanted: Create) -> anyhow::Result<IssuedKey> {
    let holder = match (wanted.holder.user, wanted.holder.service) {
        (Some(user), _) => Holder::User(user),
        (None, name) => Holder::Service { name: name.context("whose key?")?, scopes: wanted.scope },
    };
    let now = Utc::now();
    let expires_at = wanted.expires_days.map(|days| now + TimeDelta::days(days.into()));
    IssuedKey::new(holder, wanted.description, now, expires_at)
}

fn created(key: &IssuedKey) -> String {
    format!(
        "{}\nThis is the key of {}. It is shown this once; only its hash is stored.\n\
         Send it as `Authorization: Bearer …` or `X-API-Key: …`; revoke it with \
         `booking api-keys revoke {}`.\n",
        key.text,
        holder(&key.row),
        key.row.id
    )
}

fn listed(keys: &[ApiKeyRow], now: DateTime<Utc>) -> String {
    let day = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut text = String::new();
    for key in keys {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(revoked), _) => format!("revoked {}", day(revoked)),
            (None, Some(expires)) if expires <= now => format!("expired {}", day(expires)),
            (None, Some(expires)) => format!("valid until {}", day(expires)),
            (None, None) => "valid".to_owned(),
        };
        let (id, created) = (&key.id, day(key.created_at));
        let (holder, what) = (holder(key), key.description.as_deref().unwrap_or_default());
        let _ = writeln!(text, "{id}  {holder}  created {created}  {state}  {what}");
    }
    if keys.is_empty() { "there are no API keys\n".to_owned() } else { text }
}

fn holder(key: &ApiKeyRow) -> String {
    match (key.user_id, &key.service) {
        (Some(user), _) => format!("user {user}"),
        (None, service) => {
            let name = service.as_deref().unwrap_or_default(); // a check of the table: there is one
            format!("service {name} ({})", key.scopes.join(" "))
        }
    }
}
