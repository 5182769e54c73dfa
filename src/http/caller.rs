//! Who asks, and how they want to be answered: everything that is read from the headers.
//!
//! Handlers get the caller as an `Extension<Principal>`, put there by [`super::identify`].

use std::time::Duration;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::problem::mistake;
use crate::accept::reading::is_visible_ascii;
use crate::booking::fields::{MAX_CORRELATION_CHARS, MAX_KEY_CHARS, parse_uuid};
use crate::booking::problem::{Code, Problem};
pub use crate::identity::Principal;
use crate::identity::Proof;
use crate::telemetry::TRACEPARENT;

pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const USER_ID: &str = "x-user-id";
const X_API_KEY: &str = "x-api-key";
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The seed's name for the same.
const X_IDEMPOTENCY_KEY: &str = "x-idempotency-key";
pub const PREFER: &str = "prefer";

/// A longer `Prefer: wait` waits this long.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// The correlation id of a request, given or made.
#[derive(Clone, Debug)]
pub struct CorrelationId(pub String);

impl CorrelationId {
    /// The caller's, if it is 1 to 128 visible ASCII characters, or a new one.
    ///
    /// # Errors
    /// When the caller's is not acceptable.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(given) = headers.get(&CORRELATION_ID) else {
            return Ok(Self::new());
        };
        let text = visible_ascii(given, MAX_CORRELATION_CHARS).ok_or_else(|| {
            let bounds = format!("must be 1 to {MAX_CORRELATION_CHARS} visible ASCII characters");
            mistake("X-Correlation-ID", bounds)
        })?;
        Ok(Self(text.to_owned()))
    }

    pub fn new() -> Self {
        Self(Uuid::now_v7().to_string())
    }
}

/// The user whom the header `X-User-ID` names, if it is there.
///
/// # Errors
/// When it is not one UUID.
pub fn user_id(headers: &HeaderMap) -> Result<Option<Uuid>, NotOneUuid> {
    let mut given = headers.get_all(USER_ID).iter();
    match (given.next().map(|id| id.to_str().ok().and_then(parse_uuid)), given.next()) {
        (Some(Some(id)), None) => Ok(Some(id)),
        (None, _) => Ok(None),
        _ => Err(NotOneUuid),
    }
}

/// The header `X-User-ID` is malformed, or was sent twice.
pub struct NotOneUuid;

/// What the request shows to prove who sent it, if anything.
///
/// # Errors
/// `UNAUTHENTICATED` when that is not one bearer token or one API key: of two, which would count?
pub fn proof(headers: &HeaderMap) -> Result<Option<Proof<'_>>, Problem> {
    let refuse = |detail: &str| Err(Problem::new(Code::Unauthenticated, detail));
    let mut proofs = headers.get_all(AUTHORIZATION).iter().map(bearer);
    let mut keys = headers.get_all(X_API_KEY).iter().map(|key| key.to_str().ok().map(str::trim));
    match (proofs.next(), proofs.next(), keys.next(), keys.next()) {
        (None, None, None, None) => Ok(None),
        (Some(Some(token)), None, None, None) => Ok(Some(Proof::Bearer(token))),
        (None, None, Some(Some(key)), None) => Ok(Some(Proof::ApiKey(key))),
        (Some(None), None, None, None) => {
            refuse("The header Authorization must be Bearer, a space, and a token or an API key.")
        }
        (None, None, Some(None), None) => refuse("The header X-API-Key must hold an API key."),
        _ => refuse("Send one proof of who calls: Authorization or X-API-Key, once."),
    }
}

/// Whether there is anything that looks like a proof.
pub fn shows_a_proof(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || headers.contains_key(X_API_KEY)
}

/// What follows the scheme `Bearer`.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The idempotency key, under either name, bare or quoted.
///
/// # Errors
/// When it is malformed, or the two names carry different keys.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = Vec::new();
    for name in [IDEMPOTENCY_KEY, X_IDEMPOTENCY_KEY] {
        for value in headers.get_all(name) {
            let key = parse_key(value).ok_or_else(|| {
                let bounds = format!("must be 1 to {MAX_KEY_CHARS} visible ASCII characters");
                mistake("Idempotency-Key", bounds)
            })?;
            keys.push(key);
        }
    }
    keys.dedup();
    match keys.len() {
        0 | 1 => Ok(keys.pop()),
        _ => Err(mistake("Idempotency-Key", "was sent more than once with different values")),
    }
}

fn parse_key(value: &HeaderValue) -> Option<String> {
    let text = visible_ascii(value, 2 * MAX_KEY_CHARS + 2)?;
    let key = match text.strip_prefix('"') {
        // A quoted string of RFC 8941: only \" and \\ are escaped.
        Some(quoted) => unescape(quoted.strip_suffix('"')?)?,
        None => text.to_owned(),
    };
    (1..=MAX_KEY_CHARS).contains(&key.len()).then_some(key)
}

fn unescape(quoted: &str) -> Option<String> {
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| "\"\\".contains(*c))?),
            '"' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

/// The value when it is 1 to `most` characters of ASCII between `!` and `~`.
fn visible_ascii(value: &HeaderValue, most: usize) -> Option<&str> {
    is_visible_ascii(value.as_bytes(), most).then(|| value.to_str().ok()).flatten()
}

/// How long the caller wants to wait for the decision (`Prefer: wait=N`, seconds), at most
/// [`MAX_WAIT`]. As RFC 7240 asks, a preference that cannot be understood is ignored.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    preferences
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT))
        .filter(|wait| !wait.is_zero())
}

/// The request's W3C trace context, unchecked.
pub fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn keys_are_taken_bare_quoted_and_under_the_seeds_name() {
        for (name, value, key) in [
            ("idempotency-key", "abc-1", Some("abc-1")),
            ("idempotency-key", "\"abc-1\"", Some("abc-1")),
            ("x-idempotency-key", "abc-1", Some("abc-1")),
            ("idempotency-key", r#""a\"b\\c""#, Some(r#"a"b\c"#)),
        ] {
            assert_eq!(idempotency_key(&headers(&[(name, value)])).unwrap().as_deref(), key);
        }
        assert_eq!(idempotency_key(&headers(&[])).unwrap(), None);
        for bad in ["\"", "\"\"", "\"a", r#""a\x""#, "two words", ""] {
            assert!(idempotency_key(&headers(&[("idempotency-key", bad)])).is_err(), "{bad}");
        }
        let same = [("idempotency-key", "a"), ("x-idempotency-key", "\"a\"")];
        assert_eq!(idempotency_key(&headers(&same)).unwrap().as_deref(), Some("a"));
        let differing = [("idempotency-key", "a"), ("x-idempotency-key", "b")];
        assert!(idempotency_key(&headers(&differing)).is_err());
    }

    #[test]
    fn a_wait_is_bounded_and_an_unknown_preference_ignored() {
        let seconds = |value| wait(&headers(&[("prefer", value)])).map(|wait| wait.as_secs());
        assert_eq!(seconds("wait=5"), Some(5));
        assert_eq!(seconds("respond-async, wait=5"), Some(5));
        assert_eq!(seconds("Wait = \"7\"; strict"), Some(7));
        assert_eq!(seconds("wait=900"), Some(30));
        for ignored in ["wait=0", "wait=-1", "wait=soon", "wait", "return=minimal"] {
            assert_eq!(seconds(ignored), None, "{ignored}");
        }
    }

    #[test]
    fn a_proof_is_one_token_or_one_key() {
        let text = |pairs: &[(&'static str, &'static str)]| match proof(&headers(pairs)) {
            Ok(None) => "none".to_owned(),
            Ok(Some(Proof::Bearer(token))) => format!("bearer {token}"),
            Ok(Some(Proof::ApiKey(key))) => format!("key {key}"),
            Err(problem) => problem.code.as_str().to_owned(),
        };
        assert_eq!(text(&[("x-user-id", "someone")]), "none");
        assert_eq!(text(&[("authorization", "Bearer a.b.c")]), "bearer a.b.c");
        assert_eq!(text(&[("authorization", "bearer  a.b.c ")]), "bearer a.b.c");
        assert_eq!(text(&[("x-api-key", "bk_1_2")]), "key bk_1_2");
        for pairs in [
            &[("authorization", "Bearer")][..],
            &[("authorization", "Bearer ")],
            &[("authorization", "Basic YTpi")],
            &[("authorization", "a.b.c")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            &[("authorization", "Bearer a"), ("x-api-key", "a")],
            &[("x-api-key", "a"), ("x-api-key", "b")],
        ] {
            assert_eq!(text(pairs), "UNAUTHENTICATED", "{pairs:?}");
        }
    }
}
