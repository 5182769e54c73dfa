//! Logs and traces: set up once a process, and the trace context that travels with a command.
//!
//! Logs are one JSON object a line on standard error. Spans exist only while traces are sent
//! somewhere, so that an untraced process pays nothing for them. A command's trace context (W3C
//! `traceparent`) is kept in its row and carried in the AMQP headers; it is passed on even by a
//! process that sends no traces itself.

use std::io::IsTerminal as _;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::config::{LogConfig, LogFormat};

/// The target of every span of a command's journey.
pub const JOURNEY: &str = "journey";
/// The header, row and field name of the W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

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
    let journey = if config.otlp_endpoint.is_some() { "info" } else { "off" };
    let filter = EnvFilter::try_new(&config.filter)?
        .add_directive(format!("{JOURNEY}={journey}").parse()?)
        .add_directive("lapin=off".parse()?); // it logs what we log, and whole message bodies
    let provider = match &config.otlp_endpoint {
        Some(endpoint) => Some(provider(endpoint, role)?),
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

fn provider(endpoint: &str, role: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()?;
    let resource = Resource::builder().with_service_name(format!("booking-{role}")).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
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

/// Makes `span` a child of the request that came with `traceparent`.
pub fn continue_trace(span: &Span, traceparent: Option<&str>) {
    if let Some(parent) = context_of(traceparent) {
        let context = opentelemetry::Context::new().with_remote_span_context(parent);
        let _ = span.set_parent(context); // fails only where no traces are sent
    }
}

/// Links `span` to the trace of one of the many commands that it works on.
pub fn link(span: &Span, traceparent: Option<&str>) {
    if let Some(other) = context_of(traceparent) {
        span.add_link(other);
    }
}

/// The `traceparent` to keep with a command: of `span` where traces are sent, otherwise what the
/// request came with, if that is valid.
pub fn traceparent(span: &Span, given: Option<&str>) -> Option<String> {
    let mut carrier = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove(TRACEPARENT).or_else(|| context_of(given).and(given).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
