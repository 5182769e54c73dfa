//! The spans of a batch that is decided: its own, and one for each command whose trace is sent.
//!
//! In: the commands of a batch. Out: spans that end with the try, and say what it came to. Where no
//! traces are sent nothing is made.

use tracing::field::Empty;
use tracing::{Span, info_span};

use super::batch::{Item, state_of};
use crate::store::decisions::Decided;
use crate::telemetry::{self, JOURNEY};

pub struct Spans {
    pub batch: Span,
    /// With the place of the command in its batch.
    each: Vec<(usize, Span)>,
}

impl Spans {
    pub fn of(items: &[Item]) -> Self {
        let mut each = Vec::new();
        if telemetry::is_on() {
            let spans = items.iter().enumerate();
            each.extend(spans.filter_map(|(place, item)| Some((place, span_of(item)?))));
        }
        if each.is_empty() {
            return Self { batch: Span::none(), each };
        }
        let batch = info_span!(
            target: JOURNEY, parent: None, "decide", otel.kind = "consumer",
            messaging.system = "rabbitmq", messaging.operation.type = "process",
            messaging.batch.message_count = items.len(), otel.status_code = Empty,
            otel.status_description = Empty
        );
        telemetry::tie(&batch, each.iter().map(|(_, span)| span));
        Self { batch, each }
    }

    /// Notes what became of each command.
    pub fn decided(&self, decided: &[Decided<'_>]) {
        for (place, span) in &self.each {
            if let Some(decided) = decided.get(*place) {
                span.record("booking.state", state_of(decided).as_str());
            }
        }
    }

    /// Notes that nothing was decided.
    pub fn failed(&self, cause: &sqlx::Error) {
        if self.each.is_empty() {
            return;
        }
        let cause = cause.to_string();
        for span in self.each.iter().map(|(_, span)| span).chain([&self.batch]) {
            span.record("otel.status_code", "ERROR").record("otel.status_description", &cause);
        }
    }
}

/// The span of one command, if its trace is sent.
fn span_of(Item { tenure, command }: &Item) -> Option<Span> {
    let parent = telemetry::sampled(command.traceparent.as_deref())?;
    let span = info_span!(
        target: JOURNEY, parent: None, "decide command", otel.kind = "consumer",
        messaging.system = "rabbitmq", messaging.operation.type = "process",
        messaging.destination.name = tenure.queue(), booking.command_id = %command.command_id,
        booking.kind = command.change.kind().as_str(), booking.state = Empty,
        otel.status_code = Empty, otel.status_description = Empty
    );
    telemetry::follow(&span, parent);
    Some(span)
}
