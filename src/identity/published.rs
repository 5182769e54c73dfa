//! The public keys of token issuers: a JSON Web Key Set in a file or at an address.
//!
//! In: the set. Out: the key that a token names. Keys are read again every five minutes, and
//! sooner when a token names one that is not there. While the source is away, or holds nonsense,
//! the keys that were read last go on to count: an issuer's outage is not ours.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::recent::Recent;
use super::tokens::Key;
use super::unknown;
use crate::booking::problem::{Code, Problem};
use crate::config::identity::{KeySource, Tokens as Config, is_this_machine};
use crate::process::stopped_within;
use crate::retry::Backoff;

/// A key that was added or withdrawn counts as such after this time at most.
const READ_PERIOD: Duration = Duration::from_secs(300);
/// A token that names an unknown key has them read again, but not sooner after the last reading:
/// tokens that are made up must not become a load on the issuer.
const MIN_PAUSE: Duration = Duration::from_secs(30);
/// An answer that has not arrived by then counts as none.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A larger set is not read.
const MAX_SET_BYTES: usize = 256 * 1024;

/// The keys as they were last read, and how to read them again.
pub struct Published {
    source: KeySource,
    client: reqwest::Client,
    config: Config,
    /// None until the first reading.
    keys: RwLock<Option<Arc<[Arc<Key>]>>>,
    /// When a reading was last tried. Locked while one is under way, so that there is one.
    tried: Mutex<Option<Instant>>,
    pub recent: Recent,
}

impl Published {
    /// # Errors
    /// When a file cannot be used; an address may be away for now.
    pub async fn new(source: &KeySource, config: &Config) -> anyhow::Result<Self> {
        let published = Self {
            client: client_for(source)?,
            source: source.clone(),
            config: config.clone(),
            keys: RwLock::default(),
            tried: Mutex::default(),
            recent: Recent::default(),
        };
        if let KeySource::File(_) = source {
            published.read().await?;
        }
        Ok(published)
    }

    /// Reads the keys now and then, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut backoff = Backoff::server_away();
        loop {
            self.read_after(Duration::ZERO).await;
            let wait = match self.known() {
                Some(_) => READ_PERIOD,
                None => backoff.next_wait(),
            };
            if stopped_within(&stop, wait).await {
                return;
            }
        }
    }

    /// The key that may have signed a token with this header.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when there is none; `DEPENDENCY_UNAVAILABLE` before the first reading.
    pub async fn find(self: &Arc<Self>, header: &Header) -> Result<Arc<Key>, Problem> {
        if let Some(key) = self.known().and_then(|keys| fitting(&keys, header)) {
            return Ok(key);
        }
        // In a task of its own: a client that hangs up must not spend the one try for all.
        let published = self.clone();
        let reading = tokio::spawn(async move { published.read_after(MIN_PAUSE).await });
        let _ = reading.await; // what was read shows
        let keys = self.known().ok_or_else(|| {
            let detail = "The keys of tokens could not be fetched yet; retry.";
            Problem::new(Code::DependencyUnavailable, detail)
        })?;
        fitting(&keys, header).ok_or_else(|| {
            unknown("The token names no key (kid) that this service knows for its algorithm.")
        })
    }

    fn known(&self) -> Option<Arc<[Arc<Key>]>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the keys, unless that was tried within the last `pause`.
    async fn read_after(&self, pause: Duration) {
        let mut tried = self.tried.lock().await;
        if tried.is_some_and(|tried| tried.elapsed() < pause) {
            return;
        }
        *tried = Some(Instant::now());
        if let Err(cause) = self.read().await {
            warn!(cause = format!("{cause:#}"), "the keys of tokens could not be read");
        }
    }

    async fn read(&self) -> anyhow::Result<()> {
        let text = match &self.source {
            KeySource::File(path) => read_file(path).await?,
            KeySource::Url(url) => self.fetch(url.clone()).await?,
        };
        let keys = parse(&text, &self.config)?;
        info!(keys = keys.len(), "read the keys of tokens");
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        self.recent.forget();
        Ok(())
    }

    async fn fetch(&self, url: url::Url) -> anyhow::Result<Vec<u8>> {
        let mut answer = self.client.get(url).send().await.map_err(reqwest::Error::without_url)?;
        anyhow::ensure!(answer.status().is_success(), "the answer is {}", answer.status());
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
            text.extend_from_slice(&chunk);
            anyhow::ensure!(text.len() <= MAX_SET_BYTES, "more than {MAX_SET_BYTES} bytes");
        }
        Ok(text)
    }
}

fn client_for(source: &KeySource) -> anyhow::Result<reqwest::Client> {
    let mut client = reqwest::Client::builder()
        .timeout(ANSWER_LIMIT)
        .redirect(reqwest::redirect::Policy::none());
    // Only what goes out of this machine needs the machine's certificates.
    let stays_here = match source {
        KeySource::Url(url) => url.scheme() == "http" && is_this_machine(url),
        KeySource::File(_) => true,
    };
    client = match stays_here {
        true => client.no_proxy().tls_certs_only([]),
        false => client.https_only(true),
    };
    client.build().context("the system's CA certificates are needed for https")
}

async fn read_file(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    let at = || format!("reading JWKS_FILE {}", path.display());
    let bytes = tokio::fs::metadata(path).await.with_context(at)?.len();
    anyhow::ensure!(bytes <= MAX_SET_BYTES as u64, "{}: over {MAX_SET_BYTES} bytes", at());
    tokio::fs::read(path).await.with_context(at)
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The usable keys of a set. Others may be there for other purposes.
fn parse(text: &[u8], config: &Config) -> anyhow::Result<Arc<[Arc<Key>]>> {
    let set: Set = serde_json::from_slice(text).context("this is not a JSON Web Key Set")?;
    let keys =
        set.keys.into_iter().filter_map(|key| usable(&serde_json::from_value(key).ok()?, config));
    let keys: Arc<[Arc<Key>]> = keys.map(Arc::new).collect();
    anyhow::ensure!(!keys.is_empty(), "there is no key for signatures of RS256 or ES256");
    Ok(keys)
}

fn usable(jwk: &Jwk, config: &Config) -> Option<Key> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match (&jwk.algorithm, jwk.common.key_algorithm) {
        (AlgorithmParameters::RSA(_), None | Some(KeyAlgorithm::RS256)) => Algorithm::RS256,
        (AlgorithmParameters::EllipticCurve(key), None | Some(KeyAlgorithm::ES256))
            if key.curve == EllipticCurve::P256 =>
        {
            Algorithm::ES256
        }
        _ => return None, // a secret has no place among public keys
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key::new(jwk.common.key_id.clone(), algorithm, key, config))
}

/// The key that the header names; where it names none, the only one of its algorithm.
fn fitting(keys: &[Arc<Key>], header: &Header) -> Option<Arc<Key>> {
    let mut fitting = keys.iter().filter(|key| key.algorithm == header.alg);
    match &header.kid {
        Some(kid) => fitting.find(|key| key.id.as_ref() == Some(kid)).cloned(),
        None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use jsonwebtoken::EncodingKey;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn jwk(kid: &str) -> Value {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let key = EncodingKey::from_ec_der(pkcs8.unwrap().as_ref());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap());
        jwk.as_mut().unwrap()["kid"] = json!(kid);
        jwk.unwrap()
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn ids(keys: &[Value]) -> Vec<String> {
        let text = json!({ "keys": keys }).to_string();
        let parsed = parse(text.as_bytes(), &Config::default());
        parsed
            .map_or_else(|_| Vec::new(), |keys| keys.iter().filter_map(|k| k.id.clone()).collect())
    }

    #[test]
    fn only_public_keys_for_signatures_are_used() {
        let secret = json!({ "kty": "oct", "kid": "secret", "alg": "HS256", "k": "c2VjcmV0" });
        let keys = [
            jwk("fine"),
            secret,
            with(jwk("encryption"), "use", json!("enc")),
            with(jwk("other algorithm"), "alg", json!("ES384")),
            with(jwk("as a secret"), "alg", json!("HS256")),
            with(jwk("other curve"), "crv", json!("P-384")),
            with(jwk("other type"), "kty", json!("new")),
            with(jwk("unsaid"), "alg", Value::Null),
            json!("nonsense"),
        ];
        assert_eq!(ids(&keys), ["fine", "unsaid"]);
        assert!(ids(&keys[1..7]).is_empty());
        assert!(parse(b"{}", &Config::default()).is_err());
    }

    #[test]
    fn a_token_that_names_no_key_fits_only_the_only_one() {
        let set = |keys: &[Value]| {
            parse(json!({ "keys": keys }).to_string().as_bytes(), &Config::default()).unwrap()
        };
        let header = |kid: Option<&str>| Header {
            kid: kid.map(str::to_owned),
            ..Header::new(Algorithm::ES256)
        };
        let (one, two) = (set(&[jwk("a")]), set(&[jwk("a"), jwk("b")]));
        assert!(fitting(&one, &header(None)).is_some());
        assert!(fitting(&two, &header(None)).is_none());
        assert_eq!(fitting(&two, &header(Some("b"))).unwrap().id.as_deref(), Some("b"));
        assert!(fitting(&two, &header(Some("c"))).is_none());
        assert!(fitting(&one, &Header::new(Algorithm::RS256)).is_none());
    }

    /// A file of keys, gone after the test.
    struct KeyFile(PathBuf);

    impl KeyFile {
        fn write(&self, text: &str) {
            std::fs::write(&self.0, text).unwrap();
        }
    }

    impl Drop for KeyFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_found_and_made_up_ones_are_no_load() {
        let name = format!("booking-jwks-{}.json", std::process::id());
        let file = KeyFile(std::env::temp_dir().join(name));
        file.write(&json!({ "keys": [jwk("old")] }).to_string());
        let source = KeySource::File(file.0.clone());
        let published = Arc::new(Published::new(&source, &Config::default()).await.unwrap());
        let find = async |kid: &str| {
            let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
            published.find(&header).await.is_ok()
        };

        assert!(!find("made up").await); // reads
        file.write(&json!({ "keys": [jwk("new")] }).to_string());
        assert!(!find("new").await, "read again too soon");
        tokio::time::advance(MIN_PAUSE).await;
        assert!(find("new").await && !find("old").await);

        file.write("nonsense");
        tokio::time::advance(MIN_PAUSE).await;
        assert!(!find("made up").await);
        assert!(find("new").await, "the last good keys are lost");
    }

    #[tokio::test]
    async fn what_is_no_key_set_leaves_the_last_keys() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let source = KeySource::Url(url);
        let published = Published::new(&source, &Config::default()).await.unwrap();
        let reads = async |head: &str, body: String| {
            let length = body.len();
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}");
            let answering = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await; // one small request arrives at once
                let _ = stream.write_all(answer.as_bytes()).await; // it may hang up before the end
            };
            tokio::join!(published.read(), answering).0.is_ok()
        };
        let set = |kid: &str| json!({ "keys": [jwk(kid)] }).to_string();

        assert!(reads("200 OK", set("one")).await);
        let large = json!({ "keys": [jwk("two")], "more": "x".repeat(MAX_SET_BYTES) }).to_string();
        for (head, body) in [
            ("404 Not Found", set("two")),
            ("302 Found\r\nLocation: /elsewhere", set("two")),
            ("200 OK", large),
            ("200 OK", json!({ "keys": [] }).to_string()),
            ("200 OK", "<html>".into()),
        ] {
            assert!(!reads(head, body).await, "{head}");
            assert_eq!(published.known().unwrap()[0].id.as_deref(), Some("one"), "{head}");
        }
        assert!(reads("200 OK", set("two")).await);
        assert_eq!(published.known().unwrap()[0].id.as_deref(), Some("two"));
    }
}
