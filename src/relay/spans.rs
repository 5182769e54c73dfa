//! The spans of what is published together: of the batch, and of each row whose trace is sent.
//!
//! In: messages with the traces of what they carry. Out: spans that end with the publishing, and say
//! what was not confirmed; events and replies with the context that their subscribers go on from.
//! Where no traces are sent nothing is made.

use tracing::field::Empty;
use tracing::{Span, info_span};

use super::Parcel;
use crate::booking::Stream;
use crate::queue::{Message, Verdict};
use crate::telemetry::{self, JOURNEY, TRACEPARENT};

pub struct Spans {
    pub batch: Span,
    /// With the place of the message that carries it.
    each: Vec<(usize, Span)>,
}

impl Spans {
    pub fn of(stream: Stream, parcels: &mut [Parcel]) -> Self {
        let each = if telemetry::is_on() { of_each(stream, parcels) } else { Vec::new() };
        if each.is_empty() {
            return Self { batch: Span::none(), each };
        }
        let batch = info_span!(
            target: JOURNEY, parent: None, "relay", otel.kind = "producer",
            messaging.system = "rabbitmq", messaging.operation.type = "send",
            messaging.batch.message_count = parcels.len(), booking.stream = stream.name()
        );
        telemetry::tie(&batch, each.iter().map(|(_, span)| span));
        Self { batch, each }
    }

    pub fn end(self, verdicts: &[Verdict]) {
        for (place, span) in self.each {
            if let Some(reason) = verdicts.get(place).copied().and_then(reason) {
                span.record("otel.status_code", "ERROR").record("error.type", reason);
            }
        }
    }
}

/// A subscriber that traces too continues the trace of its event where it was published.
fn of_each(stream: Stream, parcels: &mut [Parcel]) -> Vec<(usize, Span)> {
    let mut each = Vec::new();
    for (place, Parcel { message, traces, .. }) in parcels.iter_mut().enumerate() {
        for trace in traces {
            let Some(parent) = telemetry::sampled(Some(trace)) else { continue };
            let span = span_of(stream, message);
            telemetry::follow(&span, parent);
            if stream != Stream::Commands {
                message.headers = trace_header(telemetry::traceparent(&span, None));
            }
            each.push((place, span));
        }
    }
    each
}

fn span_of(stream: Stream, message: &Message) -> Span {
    let name = match stream {
        Stream::Commands => "relay command",
        Stream::Events => "relay event",
        Stream::Replies => "relay reply",
    };
    info_span!(
        target: JOURNEY, parent: None, "relay message", otel.name = name, otel.kind = "producer",
        messaging.system = "rabbitmq", messaging.operation.type = "send",
        messaging.destination.name = format!("{}:{}", message.exchange, message.routing_key),
        messaging.rabbitmq.destination.routing_key = message.routing_key,
        messaging.message.id = message.message_id, otel.status_code = Empty, error.type = Empty
    )
}

/// Why a message was not confirmed.
pub fn reason(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Confirmed => None,
        Verdict::Returned => Some("unroutable"),
        Verdict::Nacked => Some("refused"),
        Verdict::Unknown => Some("unknown"),
    }
}

pub fn trace_header(traceparent: Option<String>) -> Vec<(String, String)> {
    traceparent.map(|value| (TRACEPARENT.to_owned(), value)).into_iter().collect()
}
