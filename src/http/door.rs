//! How much each caller may ask for, before anything is done for them.
//!
//! In: requests. Out: the same, or 429 with the limit and when to come back. Requests whose caller
//! is not known are counted by address, all others by their principal: polling apart from the
//! rest, so that who polls too much can still book.
//!
//! Limits are told in the header fields `RateLimit-Limit`, `RateLimit-Remaining` and
//! `RateLimit-Reset` of draft-ietf-httpapi-ratelimit-headers-06, times in seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::caller::{self, Principal};
use super::client::{self, Peer};
use crate::booking::problem::{Code, Problem};
use crate::config;
use crate::limits::{Limits, Rate, Standing};
use crate::metrics::{Metrics, Reason};

pub const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
pub const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
pub const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What shows that a request may have a caller.
const CREDENTIALS: [HeaderName; 3] =
    [AUTHORIZATION, HeaderName::from_static("x-api-key"), HeaderName::from_static("x-user-id")];
/// Where commands are polled for.
const POLL_ROUTE: &str = "/api/commands/{id}";
/// Requests of one principal that wait for decisions; more are answered without waiting.
const MAX_WAITS: u32 = 64;

/// What the middlewares need.
pub struct Door {
    settings: config::Door,
    per_address: Option<Rate>,
    per_principal: Option<Rate>,
    polls: Option<Rate>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    waits: Mutex<HashMap<String, u32>>,
}

/// In the extensions of an answer: its caller was known, and is not counted by address.
#[derive(Clone)]
struct Known;

impl Door {
    pub fn new(settings: &config::Door, limits: Arc<Limits>, metrics: Arc<Metrics>) -> Arc<Self> {
        let rate = |most| Rate::new(most, settings.window);
        Arc::new(Self {
            per_address: rate(settings.per_address),
            per_principal: rate(settings.per_principal),
            polls: rate(settings.polls),
            settings: settings.clone(),
            limits,
            metrics,
            waits: Mutex::default(),
        })
    }

    /// Whose pages may call the API.
    pub fn origins(&self) -> Arc<config::Origins> {
        Arc::new(self.settings.origins.clone())
    }

    /// The network that the request comes from, as a name.
    fn client(&self, request: &Request) -> String {
        let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip());
        let client = peer
            .map(|peer| client::address(peer, request.headers(), &self.settings.proxies))
            .map(client::network);
        client.map_or("unknown".to_owned(), |client| client.to_string())
    }

    fn refuse(&self, reason: &'static str, what: &str, standing: Standing) -> Response {
        self.metrics.refused.get_or_create(&Reason { reason }).inc();
        let seconds = seconds(standing.retry_after).max(1);
        let detail = format!(
            "At most {} {what} are granted in {} s; try again in {seconds} s.",
            standing.limit,
            self.settings.window.as_secs_f64(),
        );
        let mut response = Problem::new(Code::RateLimited, detail).into_response();
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        tell(&mut response, standing);
        response
    }

    /// Takes a place among the principal's waits, if there is one.
    fn wait_of(self: &Arc<Self>, principal: &str) -> Option<Wait> {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waits.entry(principal.to_owned()).or_default();
        if *count >= MAX_WAITS {
            return None;
        }
        *count += 1;
        Some(Wait { door: self.clone(), principal: principal.to_owned() })
    }
}

/// A place among a principal's waits; given back when dropped.
struct Wait {
    door: Arc<Door>,
    principal: String,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waits = self.door.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waits.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                waits.remove(&self.principal);
            }
        }
    }
}

/// Around all routes: counts the requests whose caller does not become known. Those that show no
/// credentials are counted before, the others once their answer shows that it did not; and while
/// their address is over its limit, looking at credentials at all has the limit of a principal.
pub async fn unknown_callers(
    State(door): State<Arc<Door>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(rate) = door.per_address.filter(|_| !is_operators(route)) else {
        return next.run(request).await;
    };
    let name = format!("address:{}", door.client(&request));
    let may_be_known = route.starts_with("/api/")
        && CREDENTIALS.iter().any(|header| request.headers().contains_key(header));
    let what = "requests without a known caller from one address";
    if !may_be_known {
        return match door.limits.take(&name, rate).await {
            Ok(standing) => told(next.run(request).await, standing),
            Err(standing) => door.refuse("address", what, standing),
        };
    }
    if let Some(many) = door.per_principal
        && door.limits.is_empty(&name, rate)
        && let Err(standing) = door.limits.take(&format!("doubtful:{name}"), many).await
    {
        return door.refuse(
            "doubtful",
            "requests from an address whose callers are not known",
            standing,
        );
    }
    let response = next.run(request).await;
    if response.extensions().get::<Known>().is_some() {
        return response;
    }
    match door.limits.take(&name, rate).await {
        Ok(standing) => told(response, standing),
        Err(standing) => door.refuse("address", what, standing),
    }
}

/// Inside identification: counts the requests of known callers.
pub async fn known_callers(
    State(door): State<Arc<Door>>,
    mut request: Request,
    next: Next,
) -> Response {
    let principal = request.extensions().get::<Principal>().map(|p| p.name.clone());
    let Some(principal) = principal.filter(|name| !name.is_empty()) else {
        return next.run(request).await;
    };
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let polls = route == POLL_ROUTE && request.method() == Method::GET;
    let (rate, reason, what) = match polls {
        true => (door.polls, "poll", "polls of one caller"),
        false => (door.per_principal, "principal", "requests of one caller"),
    };
    let mut standing = None;
    if let Some(rate) = rate {
        match door.limits.take(&format!("{reason}:{principal}"), rate).await {
            Ok(granted) => standing = Some(granted),
            Err(over) => {
                let mut refused = door.refuse(reason, what, over);
                refused.extensions_mut().insert(Known);
                return refused;
            }
        }
    }
    let mut place = None;
    if caller::wait(request.headers()).is_some() {
        place = door.wait_of(&principal);
        if place.is_none() {
            door.metrics.refused.get_or_create(&Reason { reason: "wait" }).inc();
            request.headers_mut().remove(caller::PREFER);
        }
    }
    let mut response = next.run(request).await;
    drop(place);
    response.extensions_mut().insert(Known);
    if let Some(standing) = standing {
        tell(&mut response, standing);
    }
    response
}

/// What watches this process must not be kept from it.
fn is_operators(route: &str) -> bool {
    route.starts_with("/health") || route == "/metrics"
}

fn told(mut response: Response, standing: Standing) -> Response {
    tell(&mut response, standing);
    response
}

fn tell(response: &mut Response, standing: Standing) {
    let headers = response.headers_mut();
    headers.insert(LIMIT, HeaderValue::from(standing.limit));
    headers.insert(REMAINING, HeaderValue::from(standing.remaining));
    headers.insert(RESET, HeaderValue::from(seconds(standing.reset)));
}

/// Whole seconds, rounded up: who comes back then is not early.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
