//! What an attempt comes to: a row of the log, the next try or none, and how the target does; and a
//! span, while traces are sent.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tracing::field::Empty;
use tracing::{Span, info_span};
use uuid::Uuid;

use super::schedule::Schedule;
use super::sender::{Outcome, Reply};
use crate::store::webhooks::queue::{Due, Health, Tried};
use crate::telemetry::{self, JOURNEY};

/// Longer reasons and answers are cut in the log.
const MAX_DETAIL_CHARS: usize = 500;

/// An attempt that is over.
#[derive(Debug)]
pub struct Attempt {
    pub due: Due,
    pub at: DateTime<Utc>,
    pub reply: Reply,
}

impl Attempt {
    pub fn arrived(&self) -> bool {
        matches!(self.reply.outcome, Outcome::Delivered { .. })
    }

    /// The word for it in the log and in the metrics.
    pub fn outcome(&self) -> &'static str {
        match self.reply.outcome {
            Outcome::Delivered { .. } => "delivered",
            Outcome::Refused { .. } => "refused",
            Outcome::Gone => "gone",
            Outcome::Unreachable { .. } => "unreachable",
            Outcome::Forbidden { .. } => "forbidden",
        }
    }

    fn status(&self) -> Option<i16> {
        let status = match self.reply.outcome {
            Outcome::Delivered { status } | Outcome::Refused { status, .. } => status,
            Outcome::Gone => 410,
            Outcome::Unreachable { .. } | Outcome::Forbidden { .. } => return None,
        };
        i16::try_from(status).ok()
    }

    fn detail(&self) -> Option<String> {
        let detail = match &self.reply.outcome {
            Outcome::Unreachable { reason } => reason,
            Outcome::Forbidden { reason } => reason.as_str(),
            _ => self.reply.answer.as_str(),
        };
        let cut: String = detail.chars().take(MAX_DETAIL_CHARS).collect();
        (!cut.is_empty()).then_some(cut)
    }

    /// When it is tried again. A callback is told 410 for itself; an endpoint for all it gets.
    fn next_at(&self, schedule: &Schedule) -> Option<DateTime<Utc>> {
        let retry_after = match self.reply.outcome {
            Outcome::Delivered { .. } | Outcome::Gone => return None,
            Outcome::Refused { retry_after, .. } => retry_after,
            Outcome::Unreachable { .. } | Outcome::Forbidden { .. } => None,
        };
        let tried = usize::try_from(self.due.tried).unwrap_or_default();
        let wait = schedule.next_wait(tried, retry_after)?;
        Some(self.at + self.reply.took + TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX))
    }

    /// Its row, and when it is tried again.
    pub fn row(&self, schedule: &Schedule) -> Tried {
        Tried {
            shard: self.due.shard,
            target_id: self.due.target_id,
            due_at: self.due.due_at,
            event_id: self.due.event_id,
            at: self.at,
            outcome: self.outcome(),
            status: self.status(),
            duration_ms: i32::try_from(self.reply.took.as_millis()).unwrap_or(i32::MAX),
            detail: self.detail(),
            next_at: self.next_at(schedule),
        }
    }

    /// Why the endpoint is to be disabled after this.
    pub fn disables(&self, disable_after: Duration) -> Option<String> {
        if self.due.is_callback || self.arrived() {
            return None;
        }
        if self.reply.outcome == Outcome::Gone {
            return Some("The receiver answered 410 Gone.".to_owned());
        }
        let since = self.due.failing_since?;
        let failing = (self.at - since).to_std().unwrap_or_default();
        (failing >= disable_after)
            .then(|| format!("No delivery has arrived since {}.", since.format("%FT%TZ")))
    }
}

/// The span of an attempt, if it tells of a command whose trace is sent.
pub fn span_of(due: &Due) -> Span {
    let Some(parent) = telemetry::sampled(due.traceparent.as_deref()) else { return Span::none() };
    let span = info_span!(
        target: JOURNEY, parent: None, "webhook", otel.kind = "client",
        http.request.method = "POST", webhook.event_id = %due.event_id,
        webhook.target_id = %due.target_id, webhook.tried = due.tried, webhook.outcome = Empty
    );
    telemetry::follow(&span, parent);
    span
}

/// How targets do after these attempts, where that is another than was known: since their first
/// failure after the last success, or no more.
pub fn health(attempts: &[Attempt]) -> Vec<Health> {
    let mut known = HashMap::new();
    let mut now: HashMap<Uuid, Option<DateTime<Utc>>> = HashMap::new();
    for attempt in attempts {
        let before = attempt.due.failing_since;
        known.entry(attempt.due.target_id).or_insert(before);
        let since = now.entry(attempt.due.target_id).or_insert(before);
        *since = if attempt.arrived() { None } else { since.or(Some(attempt.at)) };
    }
    now.into_iter().filter(|(target, since)| known.get(target) != Some(since)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn attempt(outcome: Outcome) -> Attempt {
        let due = Due {
            shard: 3,
            target_id: Uuid::from_u128(1),
            due_at: at(0),
            event_id: Uuid::from_u128(2),
            tried: 0,
            body: String::new(),
            traceparent: None,
            created_at: at(0),
            url: String::new(),
            is_callback: false,
            secret: Vec::new(),
            previous_secret: None,
            failing_since: None,
        };
        let reply = Reply { outcome, took: Duration::from_millis(5), answer: "so\u{e9}".into() };
        Attempt { due, at: at(10), reply }
    }

    fn refused(retry_after: Option<Duration>) -> Outcome {
        Outcome::Refused { status: 503, retry_after }
    }

    #[test]
    fn only_2xx_ends_a_delivery_and_the_last_try_gives_it_up() {
        let schedule = Schedule::new(&[HOUR]);
        let done = attempt(Outcome::Delivered { status: 204 }).row(&schedule);
        assert_eq!((done.outcome, done.status, done.next_at), ("delivered", Some(204), None));
        let mut failed = attempt(refused(None));
        let next = failed.row(&schedule).next_at.unwrap() - at(10);
        assert!(next >= TimeDelta::minutes(48) && next <= TimeDelta::minutes(73), "{next}");
        failed.due.tried = 1;
        assert_eq!(failed.row(&schedule).next_at, None);
    }

    #[test]
    fn a_receiver_that_asks_for_a_wait_is_given_it() {
        let schedule = Schedule::new(&[Duration::from_secs(5)]);
        let row = attempt(refused(Some(HOUR))).row(&schedule);
        assert!(row.next_at.unwrap() - at(10) >= TimeDelta::hours(1));
    }

    #[test]
    fn an_endpoint_is_disabled_by_410_or_by_a_span_of_failing_and_a_callback_never() {
        let gone = attempt(Outcome::Gone);
        assert!(gone.disables(HOUR).unwrap().contains("410"));
        assert_eq!(gone.row(&Schedule::new(&[HOUR])).next_at, None);
        let mut failing = attempt(Outcome::Unreachable { reason: "timeout" });
        assert_eq!(failing.disables(HOUR), None, "its first failure");
        failing.due.failing_since = Some(at(10 - 3600));
        assert!(failing.disables(HOUR).unwrap().contains("1969-12-31T23:00:10Z"));
        failing.due.failing_since = Some(at(11 - 3600));
        assert_eq!(failing.disables(HOUR), None);
        let mut callback = attempt(Outcome::Gone);
        callback.due.is_callback = true;
        assert_eq!(callback.disables(HOUR), None);
        assert_eq!(callback.row(&Schedule::new(&[HOUR])).next_at, None);
    }

    #[test]
    fn a_target_fails_since_its_first_failure_after_a_success() {
        let target = Uuid::from_u128(1);
        let failed = |time| Attempt { at: at(time), ..attempt(refused(None)) };
        let arrived = || attempt(Outcome::Delivered { status: 200 });
        assert_eq!(health(&[failed(1), failed(2)]), [(target, Some(at(1)))]);
        assert_eq!(health(&[failed(1), arrived(), failed(3)]), [(target, Some(at(3)))]);
        assert!(health(&[failed(1), arrived()]).is_empty(), "as it was known");
        let mut known = failed(5);
        known.due.failing_since = Some(at(0));
        assert!(health(&[known]).is_empty(), "as it was known");
        let mut back = arrived();
        back.due.failing_since = Some(at(0));
        assert_eq!(health(&[back]), [(target, None)]);
    }

    #[test]
    fn the_log_keeps_the_beginning_of_an_answer_or_the_reason() {
        let schedule = Schedule::new(&[HOUR]);
        assert_eq!(attempt(refused(None)).row(&schedule).detail.unwrap(), "so\u{e9}");
        let reason = attempt(Outcome::Unreachable { reason: "timeout" }).row(&schedule);
        assert_eq!((reason.detail.as_deref(), reason.status), (Some("timeout"), None));
        let mut long = attempt(refused(None));
        long.reply.answer = "\u{e9}".repeat(2000);
        assert_eq!(long.row(&schedule).detail.unwrap().chars().count(), MAX_DETAIL_CHARS);
    }
}
