//! API keys: `bk_<id>_<secret>`, of a user or of a service.
//!
//! The secret has 256 bits of chance; only its SHA-256 is stored. What the database says of an id
//! is remembered for some seconds, so that a request costs no query: a revoked key counts for
//! [`KNOWN_FOR`] at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tracing::warn;
use uuid::Uuid;

use super::{Principal, unknown};
use crate::booking::problem::{Code, Problem};
use crate::store;
use crate::store::api_keys::{self, ApiKeyRow};
use crate::store::reads::{ClientReads, is_overload};
use crate::telemetry::Seldom;

/// How all our keys begin, so that they are recognised where they do not belong.
const PREFIX: &str = "bk_";
/// Bytes of the public part of a key, and of its secret.
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// How long a key is taken without another look: until then a revoked one still counts.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// How long an id counts as unknown: so soon a new key is taken everywhere.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// How long nobody asks again after a look that failed.
const FAILED_FOR: Duration = Duration::from_millis(500);
/// More ids push out what is remembered of those that are no keys: who makes ids up must not make
/// real keys wait for a look. With so many real keys all are looked up again.
const MAX_IDS: usize = 16_384;

/// Whether it is one of our keys, and not a token.
pub fn looks_like_one(proof: &str) -> bool {
    proof.starts_with(PREFIX)
}

/// Whose key it is.
#[derive(Clone, Debug)]
pub enum Holder {
    User(Uuid),
    Service { name: String, scopes: Vec<String> },
}

/// A new key. The text is shown once and never again.
pub struct IssuedKey {
    pub text: String,
    pub row: ApiKeyRow,
}

impl IssuedKey {
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(
        holder: Holder,
        description: Option<String>,
        now: DateTime<Utc>,
        expires_at: Option<DateTime<Utc>>,
    ) -> anyhow::Result<Self> {
        let id = random_hex::<ID_BYTES>()?;
        let secret = random_hex::<SECRET_BYTES>()?;
        let (user_id, service, scopes) = match holder {
            Holder::User(user) => (Some(user), None, Vec::new()),
            Holder::Service { name, scopes } => (None, Some(name), scopes),
        };
        let text = format!("{PREFIX}{id}_{secret}");
        let secret_hash = Sha256::digest(&secret).to_vec();
        let row = ApiKeyRow {
            id,
            secret_hash,
            user_id,
            service,
            scopes,
            description,
            created_at: now,
            expires_at,
            revoked_at: None,
        };
        Ok(Self { text, row })
    }
}

fn random_hex<const BYTES: usize>() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The parts of a key that has the right shape: its id and its secret.
fn parts(key: &str) -> Option<(&str, &str)> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let hex = |text: &str, bytes: usize| {
        text.len() == 2 * bytes && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    (hex(id, ID_BYTES) && hex(secret, SECRET_BYTES)).then_some((id, secret))
}

/// Verifies keys.
pub struct ApiKeys {
    reads: ClientReads,
    looks: Mutex<HashMap<String, Arc<Look>>>,
}

/// What was last found under an id. Locked while someone looks, so that one looks for all.
type Look = tokio::sync::Mutex<Option<(Instant, Found)>>;

#[derive(Clone)]
enum Found {
    Key(Arc<ApiKeyRow>),
    Nothing,
    /// The database did not answer.
    Failed,
    /// Too many reads wait already; the next request asks again.
    Overloaded,
}

impl Found {
    fn counts_for(&self) -> Duration {
        match self {
            Self::Key(_) => KNOWN_FOR,
            Self::Nothing => UNKNOWN_FOR,
            Self::Failed => FAILED_FOR,
            Self::Overloaded => Duration::ZERO,
        }
    }
}

impl ApiKeys {
    pub fn new(reads: ClientReads) -> Self {
        Self { reads, looks: Mutex::default() }
    }

    /// Whom the key proves.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with the reason; `DEPENDENCY_UNAVAILABLE` while the database is away,
    /// `OVERLOADED` while too many wait for it.
    pub async fn verify(&self, key: &str) -> Result<Principal, Problem> {
        let Some((id, secret)) = parts(key) else {
            return Err(unknown("This is not an API key of this service: bk_<id>_<secret>."));
        };
        let row = match self.find(id).await {
            Found::Key(row) => row,
            Found::Nothing => return Err(not_valid()),
            Found::Failed => {
                let detail = "The API key cannot be looked up now; retry.";
                return Err(Problem::new(Code::DependencyUnavailable, detail));
            }
            Found::Overloaded => {
                let detail = "Too many API keys are being looked up; retry.";
                return Err(Problem::new(Code::Overloaded, detail));
            }
        };
        let hash = Sha256::digest(secret);
        if !bool::from(hash.as_slice().ct_eq(&row.secret_hash)) {
            return Err(not_valid());
        }
        if row.expires_at.is_some_and(|expires| expires <= Utc::now()) {
            return Err(unknown("The API key has expired; use a new one."));
        }
        Ok(principal(&row))
    }

    async fn find(&self, id: &str) -> Found {
        let look = self.look(id);
        let mut look = look.lock().await;
        if let Some((since, found)) = &*look
            && since.elapsed() < found.counts_for()
        {
            return found.clone();
        }
        let row = store::read(&self.reads, async |c| api_keys::valid_by_id(c, id).await).await;
        let found = match row {
            Ok(Some(row)) => Found::Key(Arc::new(row)),
            Ok(None) => Found::Nothing,
            Err(cause) if is_overload(&cause) => Found::Overloaded,
            Err(cause) => {
                static TOLD: Seldom = Seldom::new();
                if let Some(times) = TOLD.times() {
                    warn!(server = "postgres", %cause, times, "API keys cannot be looked up");
                }
                Found::Failed
            }
        };
        *look = Some((Instant::now(), found.clone()));
        found
    }

    fn look(&self, id: &str) -> Arc<Look> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = looks.get(id) {
            return look.clone();
        }
        if looks.len() >= MAX_IDS {
            looks.retain(|_, look| look.try_lock().is_ok_and(|look| is_key(look.as_ref())));
            if looks.len() >= MAX_IDS {
                looks.clear();
            }
        }
        looks.entry(id.to_owned()).or_default().clone()
    }
}

fn is_key(look: Option<&(Instant, Found)>) -> bool {
    matches!(look, Some((_, Found::Key(_))))
}

/// The same for an unknown id, a wrong secret and a revoked key: who holds none learns nothing.
fn not_valid() -> Problem {
    unknown("The API key is unknown or was revoked.")
}

fn principal(row: &ApiKeyRow) -> Principal {
    match (row.user_id, &row.service) {
        (Some(user), _) => Principal::user(user),
        (None, service) => {
            let name = service.as_deref().unwrap_or_default(); // there is one: a check of the table
            Principal::service(name, row.scopes.iter().map(String::as_str))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_key() -> IssuedKey {
        IssuedKey::new(Holder::User(Uuid::nil()), None, Utc::now(), None).unwrap()
    }

    #[test]
    fn a_key_has_two_parts_and_is_stored_as_a_hash() {
        let key = new_key();
        let (id, secret) = parts(&key.text).unwrap();
        assert_eq!((id, id.len(), secret.len()), (key.row.id.as_str(), 16, 64));
        assert_eq!(key.row.secret_hash, Sha256::digest(secret).to_vec());
        assert!(!format!("{:?}", key.row).contains(secret));
        let other = new_key();
        assert_ne!((other.text, other.row.id), (key.text, key.row.id));
    }

    #[tokio::test]
    async fn made_up_ids_do_not_push_out_real_keys() {
        let pool = sqlx::PgPool::connect_lazy("postgres://nowhere/").unwrap();
        let keys = ApiKeys::new(ClientReads::new(pool));
        let real = new_key().row;
        let found = Found::Key(Arc::new(real.clone()));
        *keys.look(&real.id).lock().await = Some((Instant::now(), found));
        for id in 0..2 * MAX_IDS {
            *keys.look(&id.to_string()).lock().await = Some((Instant::now(), Found::Nothing));
        }
        assert!(is_key(keys.look(&real.id).lock().await.as_ref()));
        assert!(keys.looks.lock().unwrap().len() <= MAX_IDS);
    }

    #[test]
    fn what_is_no_key_is_not_looked_up() {
        let key = new_key().text;
        for wrong in [
            "",
            "bk_",
            "bk__",
            &key[3..],
            &key[..key.len() - 1],
            &format!("{key}0"),
            &key.to_uppercase(),
            &key.replace("bk_", "bk_x"),
            &format!("{}\u{e9}", &key[..key.len() - 2]),
        ] {
            assert!(parts(wrong).is_none(), "{wrong}");
        }
    }
}
