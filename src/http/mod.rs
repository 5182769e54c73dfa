//! The front door and the window: what HTTP clients submit and see.
//!
//! In: requests. Out: accepted commands through [`crate::accept`], and reads. The module knows
//! nothing of the broker or the workers; a decision reaches a waiting client through the
//! database. If it dies, accepted commands go on without it, and its clients retry at another
//! gateway with the same keys.

pub mod contract;
pub mod ops;
pub mod room;
pub mod serve;

mod accept;
mod bookings;
mod browser;
mod calendars;
mod caller;
mod client;
mod conditions;
pub mod door;
mod identify;
mod listing;
mod page;
mod problem;
mod query;
mod status;
mod stream;
mod webhooks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, error, info_span, warn};

use crate::accept::Acceptor;
use crate::config;
use crate::identity::Identities;
use crate::metrics::{self, Metrics};
use crate::store::reads::ClientReads;
use crate::telemetry::{self, Seldom};
use crate::vitals::Vitals;
use crate::waiters::Waiters;
use crate::webhooks::address::Policy;
use caller::{CORRELATION_ID, CorrelationId};
use door::Door;

/// What the handlers need.
pub struct Gateway {
    pub acceptor: Acceptor,
    pub waiters: Arc<Waiters>,
    pub door: Arc<Door>,
    pub identities: Arc<Identities>,
    pub reads: ClientReads,
    pub vitals: Arc<Vitals>,
    pub metrics: Arc<Metrics>,
    pub webhooks: WebhookRules,
    /// Sends waiting clients away with 202 when the process stops.
    pub stop: CancellationToken,
}

/// What the settings say of webhooks, as far as the door must know.
pub struct WebhookRules {
    /// Where they may go.
    pub policy: Policy,
    /// How long their deliveries are kept.
    pub retention: Duration,
}

impl WebhookRules {
    pub fn new(settings: &config::Webhooks) -> Self {
        let policy = Policy::new(&settings.ports, settings.allow_insecure);
        Self { policy, retention: settings.retention }
    }
}

/// The routes of a gateway.
pub fn routes(gateway: Arc<Gateway>) -> Router {
    let ops = ops::Ops {
        vitals: gateway.vitals.clone(),
        metrics: gateway.metrics.clone(),
        needs_broker: false,
    };
    Router::new()
        .route("/api/bookings", post(accept::create))
        .route("/api/bookings/{id}", get(bookings::booking))
        .route("/api/bookings/{id}/history", get(listing::history))
        .route("/api/bookings/{id}/confirm", post(accept::confirm))
        .route("/api/bookings/{id}/cancel", post(accept::cancel))
        .route("/api/bookings/{id}/reschedule", post(accept::reschedule))
        .route("/api/commands/{id}", get(status::command))
        .route("/api/users/{id}/bookings", get(listing::bookings))
        .route(
            "/api/users/{id}/availability",
            get(calendars::availability).put(calendars::set_availability),
        )
        .route("/api/users/{id}/slots", get(calendars::free_slots))
        .merge(webhooks::routes())
        .with_state(gateway.clone())
        .route_layer(from_fn_with_state(gateway.door.clone(), door::known_callers))
        .route_layer(from_fn_with_state(gateway.identities.clone(), identify::identify))
        .merge(ops::routes(ops))
        .merge(contract::routes())
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::unknown_method) // of the routes above it
        .layer(from_fn_with_state(gateway.door.clone(), door::unknown_callers))
        .layer(from_fn_with_state(gateway.clone(), observe))
        .layer(from_fn_with_state(gateway.door.origins(), browser::share))
        .layer(from_fn(browser::secure))
}

/// Around every request: its correlation id, its span, its count, its log line when it failed.
async fn observe(
    State(gateway): State<Arc<Gateway>>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    let asked_to_wait = caller::wait(request.headers()).is_some();
    let has_body = !request.body().is_end_stream();
    let span = span_of(&request, route);
    let (correlation, refused) = match CorrelationId::of(request.headers()) {
        Ok(correlation) => (correlation, None),
        Err(problem) => (CorrelationId::new(), Some(problem)),
    };
    let mut response = match refused {
        Some(problem) => problem.into_response(),
        None => {
            request.extensions_mut().insert(correlation.clone());
            next.run(request).instrument(span.clone()).await
        }
    };
    problem::render(&mut response, &correlation.0);
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
    let label = metrics::Request { route: route.to_owned(), status };
    gateway.metrics.http_requests.get_or_create(&label).inc();
    if !asked_to_wait {
        let took = begun.elapsed().as_secs_f64();
        metrics::observe(&gateway.metrics.http_seconds, took, telemetry::trace_of(&span));
    }
    if status >= 500 {
        tell_of_failure(route, status, &correlation.0);
    }
    let headers = response.headers_mut();
    status::insert(headers, CORRELATION_ID, correlation.0);
    // A body that was refused unread ends the connection; a client that was not told so would
    // send its next request into the closed door.
    let unread = has_body && matches!(status, 400..=408 | 413 | 415 | 429);
    if gateway.vitals.is_draining() || unread {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Each defect of ours; but what a server that is away or the load does hits many at once.
fn tell_of_failure(route: &str, status: u16, correlation_id: &str) {
    static TOLD: Seldom = Seldom::new();
    if status == 500 {
        error!(route, status, correlation_id, "a request failed");
    } else if let Some(times) = TOLD.times() {
        warn!(route, status, correlation_id, times, "requests fail; this was the last");
    }
}

/// Exists only while traces are sent.
fn span_of(request: &Request<Body>, route: &str) -> Span {
    let span = info_span!(
        target: telemetry::JOURNEY, "http request",
        otel.kind = "server", http.request.method = %request.method(), http.route = route,
        http.response.status_code = Empty, otel.status_code = Empty
    );
    if !span.is_disabled() {
        telemetry::continue_trace(&span, caller::traceparent(request.headers()));
    }
    span
}
