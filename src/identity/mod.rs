//! Who calls: what a request proves, and the [`Principal`] that it is.
//!
//! In: a token or an API key, as the front door read it from a request. Out: a principal, which
//! every handler is given and without which none can look anything up, or the reason why not.
//! What was verified is remembered for some seconds, because this is asked before every request:
//! a signature of HS256 costs 2 µs, but one of RS256 17 µs and of ES256 50 µs, and a key would
//! cost a query. If the process dies, nothing is lost.

mod api_keys;
mod principal;
mod published;
mod recent;
mod tokens;

use tokio_util::sync::CancellationToken;

use crate::booking::problem::{Code, Problem};
use crate::config::identity::Identity;
use crate::store::reads::ClientReads;
use api_keys::ApiKeys;
pub use api_keys::{Holder, IssuedKey};
pub use principal::{
    MAX_SERVICE_CHARS, Principal, READ_SCOPE, Reach, WRITE_SCOPE, names_a_service,
};
use tokens::Tokens;

/// What a request shows to prove who sent it.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// After `Authorization: Bearer`: a token or an API key.
    Bearer(&'a str),
    /// In `X-API-Key`.
    ApiKey(&'a str),
}

/// What a gateway takes as a proof.
pub enum Identities {
    /// None is asked for: the header `X-User-ID` is believed.
    TrustedHeader,
    Proof {
        tokens: Option<Box<Tokens>>,
        api_keys: Option<ApiKeys>,
    },
}

impl Identities {
    /// `reads` is where API keys are looked up.
    ///
    /// # Errors
    /// When the file of public keys cannot be read.
    pub async fn new(config: &Identity, reads: ClientReads) -> anyhow::Result<Self> {
        let Identity::Proof { tokens, api_keys } = config else {
            return Ok(Self::TrustedHeader);
        };
        let tokens = match tokens {
            Some(config) => Some(Box::new(Tokens::new(config).await?)),
            None => None,
        };
        let api_keys = api_keys.then(|| ApiKeys::new(reads));
        Ok(Self::Proof { tokens, api_keys })
    }

    /// Keeps the public keys of tokens fresh until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        match self {
            Self::Proof { tokens: Some(tokens), .. } => tokens.run(stop).await,
            _ => stop.cancelled().await,
        }
    }

    /// Who proves to be whom.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with the reason; `DEPENDENCY_UNAVAILABLE` when what the proof would have
    /// to be compared with cannot be read.
    pub async fn of(&self, proof: Proof<'_>) -> Result<Principal, Problem> {
        let Self::Proof { tokens, api_keys } = self else {
            return Err(unknown("This service takes no proof; callers are named by X-User-ID."));
        };
        match (proof, tokens, api_keys) {
            (Proof::ApiKey(key), _, Some(keys)) => keys.verify(key).await,
            (Proof::Bearer(key), _, Some(keys)) if api_keys::looks_like_one(key) => {
                keys.verify(key).await
            }
            (Proof::Bearer(token), Some(tokens), _) => tokens.verify(token).await,
            (Proof::ApiKey(_), _, None) => Err(unknown("This service takes no API keys.")),
            (Proof::Bearer(_), None, _) => {
                Err(unknown("This is not an API key, and this service takes no tokens."))
            }
        }
    }
}

/// A proof that proves nothing.
fn unknown(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}
