//! Tokens whose signature was verified a moment ago.
//!
//! A client sends the same token with every request, and a signature of ES256 costs as much CPU
//! as accepting a booking. What is remembered is the digest of the whole token, so nothing but
//! that very token is recognised.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Principal;

/// SHA-256 of a token.
pub type Digest = [u8; 32];

/// A token is recognised for so long; a key that was withdrawn counts no longer than that.
const REMEMBERED: Duration = Duration::from_secs(60);
/// More tokens push out all that are remembered, which are verified again: only slower.
const MAX_TOKENS: usize = 16_384;

/// What a token proved.
#[derive(Clone)]
pub struct Verified {
    pub principal: Principal,
    /// Its claim `exp`, in seconds since 1970.
    pub expires: u64,
}

/// A bounded memory of verified tokens.
#[derive(Default)]
pub struct Recent {
    tokens: Mutex<HashMap<Digest, (Instant, Verified)>>,
}

impl Recent {
    /// What the token proved, if that was not long ago. It may have expired since.
    pub fn get(&self, token: &Digest) -> Option<Verified> {
        let tokens = self.lock();
        let (since, verified) = tokens.get(token)?;
        (since.elapsed() < REMEMBERED).then(|| verified.clone())
    }

    pub fn remember(&self, token: Digest, verified: Verified) {
        let mut tokens = self.lock();
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        tokens.insert(token, (Instant::now(), verified));
    }

    /// Forgets all, because the keys have changed.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, (Instant, Verified)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_memory_is_bounded() {
        let recent = Recent::default();
        let token = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        let verified = Verified { principal: Principal::user(Uuid::nil()), expires: 0 };
        for number in 0..=MAX_TOKENS {
            recent.remember(token(number), verified.clone());
        }
        assert_eq!(recent.lock().len(), 1);
        assert!(recent.get(&token(MAX_TOKENS)).is_some() && recent.get(&token(0)).is_none());
        recent.forget();
        assert!(recent.get(&token(MAX_TOKENS)).is_none());
    }
}
