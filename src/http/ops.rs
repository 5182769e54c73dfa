//! What operators and their tools read: health and metrics. Also all that a worker serves.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use chrono::Utc;
use serde_json::{Map, Value, json};

use super::{browser, status};
use crate::metrics::{self, Metrics};
use crate::vitals::Vitals;

/// What the routes here need.
#[derive(Clone)]
pub struct Ops {
    pub vitals: Arc<Vitals>,
    pub metrics: Arc<Metrics>,
    /// Whether the process can do its work without the broker. A gateway can: what it accepts
    /// waits in the outbox.
    pub needs_broker: bool,
}

/// The routes of health and metrics.
pub fn routes(ops: Ops) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(ops)
        .layer(from_fn(browser::secure))
}

/// The seed's health route: 200 while Postgres, the one indispensable server, answers.
async fn health(State(ops): State<Ops>) -> Response {
    let up = ops.vitals.postgres_is_up();
    let (code, word) = match up {
        true => (StatusCode::OK, "healthy"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    };
    status::json(code, &json!({ "status": word, "timestamp": Utc::now() }))
}

/// 200 while the process runs at all; a failing answer means that it should be restarted.
async fn live() -> Response {
    status::json(StatusCode::OK, &json!({ "status": "live" }))
}

/// 200 while the process can do its work; otherwise send it none.
async fn ready(State(ops): State<Ops>) -> Response {
    let vitals = &ops.vitals;
    let servers = vitals.servers();
    let checks: Map<String, Value> = servers
        .iter()
        .map(|(name, up)| ((*name).to_owned(), json!(if *up { "up" } else { "down" })))
        .collect();
    let able = vitals.postgres_is_up() && (vitals.rabbitmq_is_up() || !ops.needs_broker);
    let word = match able {
        _ if vitals.is_draining() => "stopping",
        false => "unavailable",
        true if servers.iter().all(|(_, up)| *up) => "ready",
        true => "degraded",
    };
    let code = match word {
        "ready" | "degraded" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    status::json(code, &json!({ "status": word, "checks": checks }))
}

async fn metrics(State(ops): State<Ops>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], ops.metrics.render()).into_response()
}
