//! One attempt to deliver: a signed POST, and what came of it.
//!
//! In: where to, which bytes, and with which secrets. Out: a [`Reply`], always, within
//! [`Limits::total`]. The body is signed and sent as it was stored. Only 2xx is a success: a
//! redirect is not followed, because where it leads was not checked, and the receiver's own list
//! of URLs is the place for it. Proxies of the environment are not used, because a proxy would
//! connect to addresses that only it has checked. What the receiver says is read to its end only
//! as far as it is short: for the log, and so that the connection serves the next attempt. If it
//! dies half way, the receiver may have the event without us knowing, and gets it once more.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, redirect};
use tokio::time::{Instant, timeout};
use tracing::warn;
use url::Url;
use uuid::Uuid;

use super::address::{Policy, check_url};
use super::resolver::{self, LookUp, Resolver, Unresolved};
use super::schedule::parse_retry_after;
use super::signature::{Secret, sign};

/// As much of an answer's body is kept for the log of attempts.
pub const MAX_KEPT_BYTES: usize = 1024;
/// As much of it is read; a longer one costs the connection.
const MAX_READ_BYTES: usize = 64 * 1024;
/// A connection that nobody used for so long is closed. Below the 5 s after which common servers
/// close theirs, so that a POST does not cross their farewell.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// More connections to one receiver are closed after their use. As many as may be under way to it
/// at once ([`super::lanes`]): with fewer, a busy receiver would be connected anew all the time.
const MAX_IDLE_PER_RECEIVER: usize = super::lanes::MOST_AT_ONCE;

/// How long an attempt may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the name to a connection that is ready. Reached: unreachable.
    pub connect: Duration,
    /// From the start to the head of the answer. Reached: unreachable.
    pub total: Duration,
    /// From the head of the answer to its end, within the total. Reached: the connection is
    /// closed; the answer counts as it is.
    pub rest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(15),
            rest: Duration::from_secs(2),
        }
    }
}

/// What is to be delivered.
pub struct Outgoing<'a> {
    pub url: &'a Url,
    /// The same at every attempt, so that a receiver knows what it has.
    pub id: Uuid,
    /// Of this attempt.
    pub timestamp: DateTime<Utc>,
    /// The current secret; while it is being replaced, then the former one.
    pub secrets: &'a [Secret],
    /// The trace that the attempt belongs to, for a receiver that traces too.
    pub traceparent: Option<String>,
    /// The event, as it was stored.
    pub body: &'a str,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Reply {
    pub outcome: Outcome,
    /// Until the head of the answer, or until the attempt failed.
    pub took: Duration,
    /// The beginning of the answer's body, at most [`MAX_KEPT_BYTES`].
    pub answer: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Delivered { status: u16 },
    /// The receiver answered otherwise, and may have asked for a wait.
    Refused { status: u16, retry_after: Option<Duration> },
    /// 410: the receiver wants no more of it.
    Gone,
    /// No answer; the reason is a short, stable text.
    Unreachable { reason: &'static str },
    /// Nothing was sent, because it may not go there.
    Forbidden { reason: String },
}

/// Makes attempts. One serves a whole process: it holds the connections.
pub struct Sender {
    policy: Policy,
    limits: Limits,
    client: Client,
}

impl Sender {
    /// # Errors
    /// When the machine has no CA certificates to check receivers with.
    pub fn new(policy: Policy) -> anyhow::Result<Self> {
        Self::with(policy, Limits::default(), resolver::system())
    }

    /// With limits and a look-up of names of one's own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(policy: Policy, limits: Limits, look_up: LookUp) -> anyhow::Result<Self> {
        let resolver = Resolver::new(policy.clone(), look_up);
        let insecure = policy.allows_insecure();
        let builder = || {
            Client::builder()
                .http1_only()
                .https_only(!insecure)
                .no_proxy()
                .redirect(redirect::Policy::none())
                .dns_resolver(resolver.clone())
                .connect_timeout(limits.connect)
                .timeout(limits.total)
                .pool_idle_timeout(IDLE_LIMIT)
                .pool_max_idle_per_host(MAX_IDLE_PER_RECEIVER)
                .user_agent(concat!("booking/", env!("CARGO_PKG_VERSION")))
        };
        let client = match builder().build() {
            // Plain http can be tried out without certificates.
            Err(_) if insecure => {
                warn!("there are no CA certificates; webhooks reach no receiver over https");
                builder().tls_certs_only([]).build()
            }
            built => built,
        };
        let client = client.context("webhooks need the system's CA certificates")?;
        Ok(Self { policy, limits, client })
    }

    pub async fn send(&self, delivery: &Outgoing<'_>) -> Reply {
        let began = Instant::now();
        let answered = match check_url(delivery.url.as_str(), &self.policy) {
            Ok(url) => self.post(url, delivery).await.map_err(|cause| failure(&cause)),
            Err(must) => Err(Outcome::Forbidden { reason: format!("the URL {must}") }),
        };
        let took = began.elapsed();
        match answered {
            Err(outcome) => Reply { outcome, took, answer: String::new() },
            Ok(answer) => {
                let outcome = judge(&answer, delivery.timestamp + took);
                Reply { outcome, took, answer: self.read(answer).await }
            }
        }
    }

    async fn post(&self, url: Url, delivery: &Outgoing<'_>) -> reqwest::Result<Response> {
        let (id, timestamp) = (delivery.id.to_string(), delivery.timestamp.timestamp());
        let signature = sign(&id, timestamp, delivery.body.as_bytes(), delivery.secrets);
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json");
        let mut request = request
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature);
        if let Some(traceparent) = &delivery.traceparent {
            request = request.header("traceparent", traceparent);
        }
        request.body(delivery.body.to_owned()).send().await
    }

    /// The beginning of the body. Whatever happens to the rest, the answer has been given.
    async fn read(&self, mut answer: Response) -> String {
        let mut kept = Vec::new();
        let reading = async {
            let mut read = 0;
            while let Ok(Some(chunk)) = answer.chunk().await {
                kept.extend_from_slice(&chunk[..chunk.len().min(MAX_KEPT_BYTES - kept.len())]);
                read += chunk.len();
                if read > MAX_READ_BYTES {
                    return;
                }
            }
        };
        let _ = timeout(self.limits.rest, reading).await; // what was read until then is kept
        as_text(&kept)
    }
}

fn judge(answer: &Response, now: DateTime<Utc>) -> Outcome {
    let retry_after = || {
        let asked = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
        parse_retry_after(asked, now)
    };
    match answer.status().as_u16() {
        status @ 200..=299 => Outcome::Delivered { status },
        410 => Outcome::Gone,
        status => Outcome::Refused { status, retry_after: retry_after() },
    }
}

/// Why there is no answer. Our own refusal to connect is not the receiver's failure.
fn failure(cause: &reqwest::Error) -> Outcome {
    let reason = match find::<Unresolved>(cause) {
        Some(refusal @ Unresolved::NotPublic) => {
            return Outcome::Forbidden { reason: refusal.to_string() };
        }
        Some(Unresolved::NotFound) => "name not found",
        Some(Unresolved::TimedOut) => "name look-up timed out",
        None if cause.is_timeout() => "timeout",
        None if cause.is_connect() => not_connected(cause),
        None if cause.is_builder() => "URL not usable",
        None => match find::<hyper::Error>(cause) {
            Some(cause) if cause.is_parse_too_large() => "answer headers too large",
            Some(cause) if cause.is_parse() => "answer is not HTTP",
            _ => "broke off",
        },
    };
    Outcome::Unreachable { reason }
}

fn not_connected(cause: &reqwest::Error) -> &'static str {
    match find::<io::Error>(cause).map(innermost_kind) {
        Some(ErrorKind::ConnectionRefused) => "connection refused",
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => "host unreachable",
        Some(ErrorKind::InvalidData) => "tls", // a certificate or a message that does not fit
        Some(ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => "broke off",
        _ => "not connected",
    }
}

/// Of an error of TLS the outer kinds say nothing.
fn innermost_kind(error: &io::Error) -> ErrorKind {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or(error.kind(), innermost_kind)
}

/// The cause of this kind, however deep it is.
fn find<E: Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    let mut cause = error.source();
    while let Some(at) = cause {
        if let Some(found) = at.downcast_ref() {
            return Some(found);
        }
        cause = at.source();
    }
    None
}

/// As the log can store it: valid text without U+0000 and no longer than what was kept.
fn as_text(kept: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(kept).replace('\0', "");
    text.truncate(text.floor_char_boundary(MAX_KEPT_BYTES));
    text
}
