//! What operators can measure: every metric of every stage, with its unit, in one table.
//!
//! Labels are few and closed (kinds, states, streams, partitions), never users or ids. Handles
//! are made once and kept by the stages, so that counting on a hot path is one atomic addition.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub type FloatGauge = Gauge<f64, AtomicU64>;
pub type FloatCounter = Counter<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The route's template, never the path itself.
    pub route: String,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    pub state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Action {
    pub action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Stream {
    pub stream: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Partition {
    pub partition: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Server {
    pub server: &'static str,
}

/// Where an exemplar leads: to the trace of one that took so long.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Trace {
    pub trace_id: String,
}

/// Times that show, in each bucket, the last trace that was sent of one that fell into it.
pub type TracedHistogram = HistogramWithExemplars<Trace>;

/// Counts a time, and keeps the trace that it belongs to, if there is one.
pub fn observe(times: &TracedHistogram, seconds: f64, trace_id: Option<String>) {
    let at = trace_id.is_some().then(SystemTime::now);
    times.observe(seconds, trace_id.map(|trace_id| Trace { trace_id }), at);
}

fn seconds() -> Histogram {
    Histogram::new(in_seconds())
}

fn traced_seconds() -> TracedHistogram {
    TracedHistogram::new(in_seconds())
}

fn in_seconds() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_5, 2.0, 18) // 0.5 ms to 65 s
}

fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11)) // 1 to 1024
}

macro_rules! metrics {
    ($($field:ident: $kind:ty = $make:expr, $name:literal, $help:literal;)*) => {
        /// The process's metrics.
        pub struct Metrics {
            registry: Registry,
            $(pub $field: $kind,)*
        }

        impl Metrics {
            /// Every metric's name, without the suffixes that the exposition format adds.
            pub const NAMES: &[&str] = &[$(concat!("booking_", $name),)*];

            pub fn new() -> Arc<Self> {
                let mut registry = Registry::with_prefix("booking");
                $(let $field: $kind = $make; registry.register($name, $help, $field.clone());)*
                Arc::new(Self { registry, $($field,)* })
            }
        }
    };
}

metrics! {
    http_requests: Family<Request, Counter> = Family::default(), "http_requests", "HTTP requests answered";
    http_seconds: TracedHistogram = traced_seconds(), "http_request_seconds", "Time from a request's head to its answer, without the waits that Prefer asks for";
    refused: Family<Reason, Counter> = Family::default(), "requests_refused", "Requests that were over a limit of the door, by reason";
    gateways: Gauge = Gauge::default(), "gateways", "Gateways that share the rate limits, when Redis was last heard";
    limits_alone: Counter = Counter::default(), "limits_alone", "Requests that were granted or refused by the gateway's share of a rate limit, because Redis was late or away";
    accepted: Family<Kind, Counter> = Family::default(), "commands_accepted", "Commands accepted";
    replayed: Counter = Counter::default(), "commands_replayed", "Requests answered as a replay of an accepted command";
    accept_seconds: TracedHistogram = traced_seconds(), "accept_seconds", "Time from a checked request to its commit";
    accept_batch: Histogram = sizes(), "accept_batch_size", "Commands per accepting commit";
    submissions: Family<Outcome, Counter> = Family::default(), "submissions", "Messages of other services that are done with, by outcome";
    submissions_held: Gauge = Gauge::default(), "submissions_held", "Messages that wait because they cannot be accepted now";
    decided: Family<State, Counter> = Family::default(), "commands_decided", "Commands that reached a final state, by state";
    duplicates: Counter = Counter::default(), "commands_duplicate", "Delivered commands that had a final state already";
    decision_seconds: TracedHistogram = traced_seconds(), "decision_seconds", "Time from acceptance to decision";
    decide_batch: Histogram = sizes(), "decide_batch_size", "Commands per deciding commit";
    decide_retries: Family<Reason, Counter> = Family::default(), "decide_retries", "Batches decided again, by reason";
    swept: Family<Action, Counter> = Family::default(), "bookings_swept", "Bookings that time has changed, by action";
    parked: Family<Reason, Counter> = Family::default(), "messages_parked", "Messages and commands given up, by reason";
    relayed: Family<Stream, Counter> = Family::default(), "outbox_relayed", "Outbox rows confirmed by the broker";
    relay_messages: Family<Stream, Counter> = Family::default(), "relay_messages", "Messages that carried relayed rows";
    relay_refusals: Family<Reason, Counter> = Family::default(), "relay_refusals", "Publishes that were not confirmed, by reason";
    relay_leader: Family<Stream, Gauge> = Family::default(), "relay_leader", "1 where this process relays the stream";
    outbox_rows: Family<Stream, Gauge> = Family::default(), "outbox_rows", "Rows that wait for the broker";
    outbox_oldest: Family<Stream, FloatGauge> = Family::default(), "outbox_oldest_seconds", "Age of the oldest waiting row";
    undecided: Family<Partition, Gauge> = Family::default(), "commands_undecided", "Accepted commands without a final state";
    undecided_oldest: Family<Partition, FloatGauge> = Family::default(), "commands_undecided_oldest_seconds", "Age of the oldest such command";
    queue_ready: Family<Partition, Gauge> = Family::default(), "queue_ready_messages", "Messages in the partition's queue that no worker holds";
    queue_consumers: Family<Partition, Gauge> = Family::default(), "queue_consumers", "Consumers of the partition's queue";
    partitions_owned: Gauge = Gauge::default(), "partitions_owned", "Partitions that this worker owns";
    worker_busy: FloatCounter = FloatCounter::default(), "worker_busy_seconds", "Time that this worker was at work on batches, waits for a server included";
    worker_capacity: FloatGauge = FloatGauge::default(), "worker_capacity", "Commands a second that this worker could decide; 0 while it owns no partition";
    drain_seconds: FloatGauge = FloatGauge::default(), "drain_seconds", "Time until what waits in this worker's partitions is decided, if nothing more comes";
    lease_events: Family<Reason, Counter> = Family::default(), "lease_events", "Partitions taken, released, lost, kept without Redis";
    fence_refusals: Counter = Counter::default(), "fence_refusals", "Commits refused because a partition had a new owner";
    webhook_attempts: Family<Outcome, Counter> = Family::default(), "webhook_attempts", "Attempts to deliver a webhook, by outcome";
    webhook_seconds: Histogram = seconds(), "webhook_attempt_seconds", "Time from the start of an attempt to the receiver's answer, or to its failure";
    webhook_lag: TracedHistogram = traced_seconds(), "webhook_lag_seconds", "Time from a decision to the attempt that delivered it";
    webhook_waiting: Gauge = Gauge::default(), "webhook_waiting", "Deliveries that wait for an attempt, counted up to 100,000";
    webhook_overdue: FloatGauge = FloatGauge::default(), "webhook_overdue_seconds", "How late the latest of them is";
    webhook_held: Gauge = Gauge::default(), "webhook_held", "Deliveries that this process holds";
    webhook_shards: Gauge = Gauge::default(), "webhook_shards_owned", "Shards of webhook targets that this process owns";
    webhook_circuits: Gauge = Gauge::default(), "webhook_circuits_open", "Targets of this process that are left alone because they fail";
    webhook_disabled: Counter = Counter::default(), "webhook_endpoints_disabled", "Endpoints disabled because they failed too long or answered 410";
    server_up: Family<Server, Gauge> = Family::default(), "server_up", "1 while the server answers this process";
    hints_dropped: Counter = Counter::default(), "hints_dropped", "Wake-up hints not sent because Redis is slow or away";
}

impl Metrics {
    /// The OpenMetrics text of all metrics.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Notes whether a server answers.
    pub fn note_server(&self, server: &'static str, up: bool) {
        self.server_up.get_or_create(&Server { server }).set(i64::from(up));
    }
}
