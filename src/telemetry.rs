//! Logs and traces: set up once a process, and the trace context that travels with a command.
//!
//! Logs are one JSON object a line on standard error. Spans exist only while traces are sent
//! somewhere, so that an untraced process pays nothing for them. A command's trace context (W3C
//! `traceparent`) is kept in its row and carried in the AMQP headers; it is passed on even by a
//! process that sends no traces itself.
//!
//! Work on many commands at once is two kinds of spans: one of the batch, and one for each command
//! whose trace is sampled, which belongs to that trace. They link to each other ([`tie`]).

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Link, SpanContext, SpanKind, TraceContextExt as _, TraceId, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample,
};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::config::{LogConfig, LogFormat, Sampling, Traces};

/// The target of every span of a command's journey.
pub const JOURNEY: &str = "journey";
/// The header, row and field name of the W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Links of one span; a batch with more commands shows the way to the first of them. No batch has
/// more: the relay's are the largest.
const MAX_LINKS: u32 = 1024;

/// How often a failure that goes on is told of.
const LINE_PERIOD: Duration = Duration::from_secs(30);

/// Sends the last spans when it is shut down.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Sets up logs, and traces where an endpoint is configured. `role` names the service.
///
/// # Errors
/// When it was set up before, or the exporter cannot be made.
pub fn start(config: &LogConfig, role: &str) -> anyhow::Result<Telemetry> {
    // One filter for both layers: per-layer filters would cost every disabled span.
    let journey = if config.traces.is_some() { "info" } else { "off" };
    let filter = EnvFilter::try_new(&config.filter)?
        .add_directive(format!("{JOURNEY}={journey}").parse()?)
        .add_directive("lapin=off".parse()?) // it logs what we log, and whole message bodies
        .add_directive("sqlx_core::pool=off".parse()?); // what we log too, for each connection
    let provider = match &config.traces {
        Some(traces) => Some(provider(traces, role)?),
        None => None,
    };
    let traces = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("booking")));
    let output = fmt::layer().with_writer(std::io::stderr);
    let logs = match config.format {
        LogFormat::Json => {
            output.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => output.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(traces).with(logs).try_init()?;
    Ok(Telemetry { provider })
}

fn provider(traces: &Traces, role: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", traces.endpoint.trim_end_matches('/')))
        .build()?;
    let resource = Resource::builder().with_service_name(format!("booking-{role}")).build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .with_sampler(Sampled::new(traces.sampling))
        .with_max_links_per_span(MAX_LINKS)
        .build())
}

/// What the settings say; and a batch is sampled when one of its commands is, or that command's
/// span would link to nothing.
#[derive(Clone, Debug)]
struct Sampled(Sampler);

impl Sampled {
    fn new(sampling: Sampling) -> Self {
        let by_share = Sampler::TraceIdRatioBased(sampling.share);
        Self(match sampling.heeds_caller {
            true => Sampler::ParentBased(Box::new(by_share)),
            false => by_share,
        })
    }
}

impl ShouldSample for Sampled {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        if links.iter().any(|link| link.span_context.is_sampled()) {
            result.decision = SamplingDecision::RecordAndSample;
        }
        result
    }
}

impl Telemetry {
    /// Sends what is left; called after all stages have stopped. Waits 5 s at most (the SDK's limit).
    pub async fn shutdown(self) {
        if let Some(provider) = self.provider {
            // Blocking, and it needs the runtime's other threads to get its requests answered.
            let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::warn!("the last traces could not be sent");
            }
        }
    }
}

/// The trace context in a `traceparent`, if it is a valid one.
pub fn context_of(traceparent: Option<&str>) -> Option<SpanContext> {
    let carrier =
        std::collections::HashMap::from([(TRACEPARENT.to_owned(), traceparent?.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Whether traces are sent. Where nothing else is done for each command, ask once a batch.
pub fn is_on() -> bool {
    tracing::enabled!(target: JOURNEY, Level::INFO)
}

/// The trace context in a `traceparent`, if traces are sent and its trace is among them.
pub fn sampled(traceparent: Option<&str>) -> Option<SpanContext> {
    let traceparent = traceparent.filter(|_| is_on());
    context_of(traceparent).filter(SpanContext::is_sampled)
}

/// The id of the trace that the span belongs to, if it is sent.
pub fn trace_of(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = in_trace(span);
    context.is_sampled().then(|| context.trace_id().to_string())
}

/// Makes `span` a child of the request that came with `traceparent`.
pub fn continue_trace(span: &Span, traceparent: Option<&str>) {
    if let Some(parent) = context_of(traceparent) {
        follow(span, parent);
    }
}

/// Makes `span`, which must be new, a child of `parent`.
pub fn follow(span: &Span, parent: SpanContext) {
    let context = Context::new().with_remote_span_context(parent);
    let _ = span.set_parent(context); // fails only where no traces are sent
}

/// Links the span of a batch, which must be new, and the spans of its commands to each other.
pub fn tie<'a>(batch: &Span, commands: impl Iterator<Item = &'a Span> + Clone) {
    for command in commands.clone() {
        batch.add_link(in_trace(command));
    }
    let batch = in_trace(batch);
    for command in commands {
        command.add_link(batch.clone());
    }
}

/// Where a span is. It cannot get another parent afterwards.
fn in_trace(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

/// The `traceparent` to keep with a command: of `span` where traces are sent, otherwise what the
/// request came with, if that is valid.
pub fn traceparent(span: &Span, given: Option<&str>) -> Option<String> {
    if span.is_disabled() {
        return context_of(given).and(given).map(str::to_owned);
    }
    let mut carrier = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// A line for a failure that hits many, or goes on: it is due when the first happens, and then once
/// in 30 s at most.
#[derive(Default)]
pub struct Seldom(Mutex<Told>);

#[derive(Default)]
struct Told {
    last: Option<Instant>,
    since: u64,
}

impl Seldom {
    pub const fn new() -> Self {
        Self(Mutex::new(Told { last: None, since: 0 }))
    }

    /// Counts a failure. When a line is due: how many it tells of.
    pub fn times(&self) -> Option<u64> {
        self.times_at(Instant::now())
    }

    fn times_at(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.since += 1;
        if told.last.is_some_and(|last| now.duration_since(last) < LINE_PERIOD) {
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_goes_on_is_told_at_once_and_then_seldom_with_its_number() {
        let (seldom, begun) = (Seldom::new(), Instant::now());
        let told = (0..=60).map(|second| seldom.times_at(begun + Duration::from_secs(second)));
        let told: Vec<_> = told.enumerate().filter_map(|(at, times)| Some((at, times?))).collect();
        assert_eq!(told, [(0, 1), (30, 30), (60, 30)]);
    }

    #[test]
    fn a_valid_trace_context_is_passed_on_and_an_invalid_one_dropped() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&Span::none(), Some(valid)).as_deref(), Some(valid));
        for invalid in [
            "",
            "00-zz-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(traceparent(&Span::none(), Some(invalid)), None, "{invalid}");
        }
    }

    #[test]
    fn a_batch_is_sampled_when_one_of_its_commands_is() {
        let sampler = Sampled::new(Sampling { heeds_caller: true, share: 0.0 });
        let link = |flags: &str| {
            let given = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            Link::new(context_of(Some(&given)).unwrap(), Vec::new(), 0)
        };
        let decides = |links: &[Link]| {
            let trace = TraceId::from(7);
            sampler.should_sample(None, trace, "batch", &SpanKind::Internal, &[], links).decision
        };
        assert_eq!(decides(&[]), SamplingDecision::Drop);
        assert_eq!(decides(&[link("00"), link("00")]), SamplingDecision::Drop);
        assert_eq!(decides(&[link("00"), link("01")]), SamplingDecision::RecordAndSample);
    }
}
