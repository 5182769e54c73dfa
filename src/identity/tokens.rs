//! JSON Web Tokens: who signed what about whom.
//!
//! The algorithm belongs to the key: a token's header only narrows down which key may have signed
//! it, so neither `alg: none` nor a public key used as a secret gets anywhere. A token without
//! `exp` is no token.

use std::sync::Arc;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header, get_current_timestamp,
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::published::Published;
use super::recent::Verified;
use super::{Principal, names_a_service, unknown};
use crate::booking::problem::Problem;
use crate::config::identity::Tokens as Config;

/// Longer tokens are refused unread.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// How far the clocks of the issuer and ours may differ, in seconds.
const LEEWAY_SECONDS: u64 = 30;

/// Verifies tokens.
pub struct Tokens {
    secret: Option<Key>,
    published: Option<Arc<Published>>,
}

/// A key with all that a token signed by it must say.
pub struct Key {
    pub id: Option<String>,
    pub algorithm: Algorithm,
    key: DecodingKey,
    rules: Validation,
}

impl Key {
    pub fn new(
        id: Option<String>,
        algorithm: Algorithm,
        key: DecodingKey,
        config: &Config,
    ) -> Self {
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &config.issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        // Without an audience of ours, a token that has one is meant for someone else.
        if let Some(audience) = &config.audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        rules.set_required_spec_claims(&required);
        Self { id, algorithm, key, rules }
    }

    fn verify(&self, token: &str) -> Result<Verified, Problem> {
        let claims = decode::<Claims>(token, &self.key, &self.rules).map_err(reason)?.claims;
        let expires = claims.exp.as_f64().unwrap_or_default() as u64; // it has been checked
        Ok(Verified { principal: claims.principal()?, expires })
    }
}

/// What we read of a token; [`Key::rules`] has been over it before. What has another shape than
/// it should counts as not there.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Claims {
    sub: Value,
    exp: Value,
    scope: Value,
    /// Some issuers' name for the same.
    scp: Value,
}

impl Claims {
    /// A UUID is a user, whatever the scopes; any other name is a service.
    fn principal(&self) -> Result<Principal, Problem> {
        let sub = self.sub.as_str().unwrap_or_default();
        if let Ok(user) = Uuid::try_parse(sub) {
            return Ok(Principal::user(user));
        }
        if !names_a_service(sub) {
            return Err(unknown(
                "The token's sub must be a user's UUID, or the name of a service: 1 to 128 \
                 visible ASCII characters.",
            ));
        }
        Ok(Principal::service(sub, words(&self.scope).chain(words(&self.scp))))
    }
}

/// The words of a text, or of an array.
fn words(claim: &Value) -> impl Iterator<Item = &str> {
    let spaced = claim.as_str().into_iter().flat_map(|text| text.split(' '));
    let listed = claim.as_array().into_iter().flatten().filter_map(Value::as_str);
    spaced.chain(listed)
}

impl Tokens {
    /// # Errors
    /// When the file of public keys cannot be used.
    pub async fn new(config: &Config) -> anyhow::Result<Self> {
        let secret = config.secret.as_ref().map(|secret| {
            let key = DecodingKey::from_secret(secret.as_bytes());
            Key::new(None, Algorithm::HS256, key, config)
        });
        let published = match &config.published {
            Some(source) => Some(Arc::new(Published::new(source, config).await?)),
            None => None,
        };
        Ok(Self { secret, published })
    }

    /// Keeps the public keys fresh until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        match &self.published {
            Some(published) => published.run(stop).await,
            None => stop.cancelled().await,
        }
    }

    /// Whom the token proves.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` with the reason; `DEPENDENCY_UNAVAILABLE` while no public key is known
    /// because they could not be fetched yet.
    pub async fn verify(&self, token: &str) -> Result<Principal, Problem> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(unknown(format!("The token has more than {MAX_TOKEN_BYTES} bytes.")));
        }
        let header = decode_header(token).map_err(reason)?;
        if header.crit.is_some() {
            return Err(unknown("The token demands extensions (crit), and none is known here."));
        }
        match (&self.secret, &self.published) {
            (Some(key), _) if header.alg == key.algorithm => Ok(key.verify(token)?.principal),
            (_, Some(published)) if matches!(header.alg, Algorithm::RS256 | Algorithm::ES256) => {
                verify_published(published, token, &header).await
            }
            _ => Err(unknown("The token is signed with an algorithm that is not taken here.")),
        }
    }
}

async fn verify_published(
    published: &Arc<Published>,
    token: &str,
    header: &Header,
) -> Result<Principal, Problem> {
    let digest = Sha256::digest(token).into();
    if let Some(verified) = published.recent.get(&digest)
        && verified.expires.saturating_add(LEEWAY_SECONDS) >= get_current_timestamp()
    {
        return Ok(verified.principal);
    }
    let verified = published.find(header).await?.verify(token)?;
    published.recent.remember(digest, verified.clone());
    Ok(verified.principal)
}

/// Why a token is refused, in words that help its sender and tell nothing of the keys.
fn reason(error: Error) -> Problem {
    unknown(match error.kind() {
        ErrorKind::ExpiredSignature => "The token has expired; get a new one.".to_owned(),
        ErrorKind::ImmatureSignature => "The token is not valid yet (nbf).".to_owned(),
        ErrorKind::InvalidSignature => {
            "The token's signature is wrong: it was changed, or signed with another key.".to_owned()
        }
        ErrorKind::InvalidIssuer => "The token is from another issuer (iss).".to_owned(),
        ErrorKind::InvalidAudience => "The token is meant for another audience (aud).".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("The token lacks a usable {claim}."),
        ErrorKind::InvalidClaimFormat(claim) => format!("The token's {claim} is malformed."),
        _ => "This is not a JSON Web Token signed with HS256, RS256 or ES256.".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, encode};
    use serde_json::json;

    use super::*;
    use crate::booking::problem::Code;
    use crate::identity::Reach;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const USER: &str = "018f3c1e-7c1a-7000-8000-0123456789ab";

    fn signed(claims: &Value) -> String {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
    }

    /// The claims of a user's token with others in their place; null takes one away.
    fn claims(others: Value) -> Value {
        let mut claims = json!({ "sub": USER, "exp": get_current_timestamp() + 60 });
        for (name, value) in others.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    async fn verify(config: Config, token: &str) -> Result<Principal, String> {
        let config = Config { secret: Some(SECRET.to_owned()), ..config };
        let verified = Tokens::new(&config).await.unwrap().verify(token).await;
        verified.map_err(|problem| {
            assert_eq!(problem.code, Code::Unauthenticated);
            assert!(!problem.detail.contains(token) && !problem.detail.contains(SECRET));
            problem.detail
        })
    }

    async fn verified(others: Value) -> Result<Principal, String> {
        verify(Config::default(), &signed(&claims(others))).await
    }

    #[tokio::test]
    async fn a_uuid_is_a_user_and_any_other_name_a_service_with_its_scopes() {
        let user = Principal::user(USER.parse().unwrap());
        assert_eq!(verified(json!({})).await, Ok(user.clone()));
        // Scopes that a user's client was given do not make a service of the user.
        assert_eq!(verified(json!({ "scope": "bookings.write" })).await, Ok(user));
        for (scopes, read, write) in [
            (json!({ "scope": "openid bookings.read" }), true, false),
            (json!({ "scope": "bookings.write" }), true, true),
            (json!({ "scp": ["bookings.read", "bookings.write"] }), true, true),
            (json!({ "scp": "bookings.read" }), true, false),
            (json!({ "scope": "bookings.writer,bookings.read" }), false, false),
            (json!({ "scope": 7, "scp": { "bookings.write": true } }), false, false),
            (json!({}), false, false),
        ] {
            let mut others = scopes.clone();
            others["sub"] = json!("front-desk");
            let principal = verified(others).await.unwrap();
            assert_eq!(principal.name, "service:front-desk");
            assert_eq!(principal.reach, Reach::Any { read, write }, "{scopes}");
        }
    }

    #[tokio::test]
    async fn what_a_token_says_is_checked_and_the_reason_told() {
        let now = get_current_timestamp();
        for (others, reason) in [
            (json!({ "exp": now - 31 }), "has expired"),
            (json!({ "exp": 0 }), "has expired"),
            (json!({ "exp": null }), "lacks a usable exp"),
            (json!({ "exp": "tomorrow" }), "lacks a usable exp"),
            (json!({ "exp": -1 }), "lacks a usable exp"),
            (json!({ "nbf": now + 40 }), "not valid yet"),
            (json!({ "nbf": "now" }), "nbf is malformed"),
            (json!({ "sub": null }), "lacks a usable sub"),
            (json!({ "sub": 7 }), "lacks a usable sub"),
            (json!({ "sub": "" }), "sub must be"),
            (json!({ "sub": "two words" }), "sub must be"),
            (json!({ "sub": "x".repeat(129) }), "sub must be"),
            (json!({ "aud": "someone" }), "another audience"),
            (json!({ "padding": "x".repeat(8192) }), "more than 8192 bytes"),
        ] {
            let refused = verified(others.clone()).await.unwrap_err();
            assert!(refused.contains(reason), "{others}: {refused}");
        }
        assert!(verified(json!({ "exp": now - 25, "nbf": now + 25 })).await.is_ok());
        assert!(verified(json!({ "exp": u64::MAX })).await.is_ok());
    }

    #[tokio::test]
    async fn issuer_and_audience_are_demanded_where_they_are_set() {
        let config = || Config {
            issuer: Some("https://issuer".into()),
            audience: Some("booking".into()),
            ..Config::default()
        };
        let right = json!({ "iss": "https://issuer", "aud": ["other", "booking"] });
        assert!(verify(config(), &signed(&claims(right.clone()))).await.is_ok());
        for (claim, value, reason) in [
            ("iss", json!("https://issuer.evil"), "another issuer"),
            ("iss", json!(null), "lacks a usable iss"),
            ("aud", json!("other"), "another audience"),
            ("aud", json!([]), "another audience"),
            ("aud", json!(null), "lacks a usable aud"),
        ] {
            let mut others = right.clone();
            others[claim] = value;
            let refused = verify(config(), &signed(&claims(others.clone()))).await.unwrap_err();
            assert!(refused.contains(reason), "{others}: {refused}");
        }
    }

    #[tokio::test]
    async fn what_is_not_signed_by_our_secret_is_refused() {
        let token = signed(&claims(json!({})));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let payload = message.split('.').nth(1).unwrap();
        let other = EncodingKey::from_secret(b"fedcba9876543210fedcba9876543210");
        let by_other = encode(&Header::default(), &claims(json!({})), &other).unwrap();
        let critical = Header { crit: Some(vec!["exp".into()]), ..Header::default() };
        let ours = EncodingKey::from_secret(SECRET.as_bytes());
        let critical = encode(&critical, &claims(json!({})), &ours).unwrap();
        let longer = Header::new(Algorithm::HS512);
        let longer = encode(&longer, &claims(json!({})), &ours).unwrap();
        for (forged, reason) in [
            // {"alg":"none"} and {"alg":"None"}
            (format!("eyJhbGciOiJub25lIn0.{payload}."), "not a JSON Web Token"),
            (format!("eyJhbGciOiJOb25lIn0.{payload}.{signature}"), "not a JSON Web Token"),
            (format!("{message}."), "signature is wrong"),
            (message.to_owned(), "not a JSON Web Token"),
            (by_other, "signature is wrong"),
            (critical, "demands extensions"),
            (longer, "algorithm that is not taken"),
            ("nonsense".into(), "not a JSON Web Token"),
            ("..".into(), "not a JSON Web Token"),
        ] {
            let refused = verify(Config::default(), &forged).await.unwrap_err();
            assert!(refused.contains(reason), "{forged}: {refused}");
        }
    }
}
