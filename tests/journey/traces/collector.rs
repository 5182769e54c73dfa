//! An OpenTelemetry collector, as operators run one: processes send it their traces by OTLP.
//!
//! It is the agent of the package rotel. It takes and checks what it is sent, and passes it on by
//! OTLP too, to a server of the test's own; only this last one is made here, with the protocol's
//! own definition (`opentelemetry-proto`), so that a test can look at the spans.

use std::io::Read as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::process::Child;

use super::python;
use crate::stage::{PATIENCE, until, until_within};

/// Starts the agent in place of Python.
const AGENT: &str = "import os, pathlib, sys, rotel
agent = pathlib.Path(rotel.__file__).with_name('rotel-agent')
os.execv(agent, [agent, 'start', *sys.argv[1:]])";

/// A span as the collector has it.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub kind: otlp::span::SpanKind,
    pub failed: bool,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
    attributes: Vec<KeyValue>,
}

impl Span {
    /// An attribute as text; empty where there is none.
    pub fn text(&self, name: &str) -> String {
        text(&self.attributes, name)
    }

    pub fn place(&self) -> (String, String) {
        (self.trace.clone(), self.id.clone())
    }
}

type Seen = Arc<Mutex<Vec<Span>>>;

pub struct Collector {
    _agent: Child,
    pub endpoint: String,
    seen: Seen,
}

impl Collector {
    pub async fn start() -> Self {
        let seen = Seen::default();
        let end = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let passed_on_to = format!("http://{}", end.local_addr().unwrap());
        let routes = Router::new().route("/v1/traces", post(note)).with_state(seen.clone());
        tokio::spawn(async move { axum::serve(end, routes).await });
        let [http, grpc] = [free_address().await, free_address().await];
        let agent = python(&["-c", AGENT])
            .args(["--otlp-http-endpoint", &http, "--otlp-grpc-endpoint", &grpc])
            .args(["--exporter", "otlp", "--otlp-exporter-endpoint", &passed_on_to])
            .args(["--otlp-exporter-protocol", "http", "--batch-timeout", "50ms"])
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let endpoint = format!("http://{http}");
        let traces = format!("{endpoint}/v1/traces");
        // The package may have to be installed first.
        until_within(4 * PATIENCE, "the collector takes traces", async || {
            let empty = reqwest::Client::new().post(&traces);
            let sent = empty.header("Content-Type", "application/x-protobuf").send().await;
            sent.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        Self { _agent: agent, endpoint, seen }
    }

    /// The settings of a process that sends its traces here, soon.
    pub fn settings(&self) -> [(&str, &str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_off"), // only what the test asks for
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ]
    }

    pub fn spans(&self) -> Vec<Span> {
        self.seen.lock().unwrap().clone()
    }

    pub fn trace(&self, id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace == id).collect()
    }

    /// Waits until a trace has spans of these names, and returns all that it has.
    pub async fn has(&self, trace: &str, names: &[&str]) -> Vec<Span> {
        until(&format!("the trace has {names:?}"), async || {
            let mut found: Vec<String> = self.trace(trace).into_iter().map(|s| s.name).collect();
            names.iter().all(|name| {
                let place = found.iter().position(|found| found == name);
                place.map(|place| found.swap_remove(place)).is_some()
            })
        })
        .await;
        self.trace(trace)
    }
}

async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

async fn note(State(seen): State<Seen>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut bytes = Vec::new();
    match headers.get("Content-Encoding").map(|encoding| encoding.to_str().unwrap()) {
        None => bytes.extend(body),
        Some("gzip") => drop(GzDecoder::new(&body[..]).read_to_end(&mut bytes).unwrap()),
        Some(other) => panic!("the collector sends {other}"),
    }
    let request = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
    for of_service in request.resource_spans {
        let resource = of_service.resource.unwrap_or_default();
        let service = text(&resource.attributes, "service.name");
        let spans = of_service.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        let spans = spans.map(|span| read(&service, span));
        seen.lock().unwrap().extend(spans);
    }
    StatusCode::OK
}

fn read(service: &str, span: otlp::Span) -> Span {
    assert_eq!(span.dropped_links_count, 0, "a span has more links than are sent");
    Span {
        service: service.to_owned(),
        kind: span.kind(),
        failed: span.status.is_some_and(|status| status.code() == otlp::status::StatusCode::Error),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span.links.iter().map(|l| (hex(&l.trace_id), hex(&l.span_id))).collect(),
        attributes: span.attributes,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()) {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text,
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => number.to_string(),
        other => format!("{other:?}").replace("None", ""),
    }
}
