//! Secrets and signatures of webhooks, as Standard Webhooks 1.0 has them.
//!
//! In: what is sent. Out: the header `webhook-signature`, `v1,` and the HMAC-SHA256 in Base64 of
//! `id.timestamp.body`; while a secret is being replaced, one with each, the current one first. A
//! secret is shown to its owner as `whsec_` and Base64, and nowhere else.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// How a secret begins, so that it is recognised where it does not belong.
const PREFIX: &str = "whsec_";
/// Bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;
/// How many bytes a secret may have.
const MIN_SECRET_BYTES: usize = 24;
const MAX_SECRET_BYTES: usize = 64;

/// What a receiver checks signatures with. Its debug text does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> anyhow::Result<Self> {
        let mut bytes = vec![0; SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The secret that was stored as [`Self::as_bytes`]. None: it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let length = MIN_SECRET_BYTES..=MAX_SECRET_BYTES;
        length.contains(&bytes.len()).then(|| Self(bytes.to_vec()))
    }

    /// The secret that was shown as [`Self::reveal`]. None: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_bytes(&BASE64.decode(text.strip_prefix(PREFIX)?).ok()?)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text for its owner. Never log it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The value of `webhook-signature`. `timestamp` is that of the header, in Unix seconds.
pub fn sign(id: &str, timestamp: i64, body: &[u8], secrets: &[Secret]) -> String {
    let head = format!("{id}.{timestamp}.");
    let signatures = secrets.iter().map(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(head.as_bytes());
        context.update(body);
        format!("v1,{}", BASE64.encode(context.sign()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_published_example_has_its_published_signature() {
        let sign = |secrets: &[Secret]| {
            let body = br#"{"test": 2432232314}"#;
            sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body, secrets)
        };
        let published = Secret::parse(PUBLISHED).unwrap();
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(sign(std::slice::from_ref(&published)), signature);

        let other = Secret::generate().unwrap();
        let both = sign(&[other.clone(), published]);
        assert_eq!(both, format!("{} {signature}", sign(&[other])));
    }

    #[test]
    fn a_secret_is_read_as_it_is_shown_and_stored() {
        let secret = Secret::generate().unwrap();
        assert_eq!(secret.as_bytes().len(), SECRET_BYTES);
        assert_eq!(Secret::parse(&secret.reveal()).unwrap(), secret);
        assert_eq!(Secret::from_bytes(secret.as_bytes()).unwrap(), secret);
        assert_ne!(secret, Secret::generate().unwrap());
        assert_eq!(Secret::parse(PUBLISHED).unwrap().reveal(), PUBLISHED);
    }

    #[test]
    fn what_is_no_secret_is_not_read_and_none_is_in_debug_text() {
        for text in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%"]
        {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
        assert!(Secret::from_bytes(&[0; MAX_SECRET_BYTES + 1]).is_none());
        assert_eq!(format!("{:?}", Secret::parse(PUBLISHED).unwrap()), "Secret(…)");
    }
}
