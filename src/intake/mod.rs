//! The queue door: commands that other services submit by message.
//!
//! In: messages of the queue `booking.submit`, up to `WINDOW` at a time, so that they share
//! commits. Out: accepted commands, whose answers are rows of the same commit; or a refusal, and a
//! copy with the reason among the dead letters. A message is acknowledged when its command is
//! committed or its refusal is with the broker, not before. What cannot be accepted now (database
//! away, too much to do) is held and tried again; while the window is full, the rest waits in the
//! queue, so this door takes only what the database takes.
//!
//! If it dies half way, what is not acknowledged is delivered again, here or to another gateway,
//! and known by its idempotency key: its sender gets its answers again. Messages that are under
//! way together may be accepted in any order.

mod answer;
mod reading;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, debug, error, info, info_span, warn};

use crate::accept::request::Request;
use crate::accept::{Acceptance, Acceptor};
use crate::booking::command::{CommandRecord, CommandStatus, ReplyAddress};
use crate::booking::problem::Problem;
use crate::metrics::{self, Metrics};
use crate::process::stopped_within;
use crate::queue::{Acker, Connection, Consumer, Delivery, QueueError, SUBMIT_QUEUE};
use crate::retry::Backoff;
use crate::telemetry::{self, JOURNEY, TRACEPARENT};
use crate::waiters::Waiters;
use answer::{Answers, Unconfirmed};
use reading::Submission;

/// Messages in hand; more wait in the queue, or go to another gateway.
const WINDOW: u16 = 256;
/// Messages in hand after the broker has ended a consumer: one that breaks the connection is
/// delivered again up to the delivery limit of the queue, and must not take its neighbours along.
const CAREFUL_WINDOW: u16 = 1;
/// After so long without a break the window is as wide as ever.
const CAREFUL_TIME: Duration = Duration::from_secs(5);
/// Replays that wait for a decision; the sender of one more is told only that it was accepted.
const MAX_WAITING_REPLAYS: usize = 192;
/// A replay that is not decided by then is told only that it was accepted.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

/// The stage.
pub struct Intake {
    amqp_url: String,
    partitions: u16,
    acceptor: Acceptor,
    waiters: Arc<Waiters>,
    replays: Semaphore,
    metrics: Arc<Metrics>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its command is committed.
    Accepted,
    /// Its command was accepted before, and its sender has been told.
    Replayed,
    /// It will never be accepted, and its sender or the dead letters have been told.
    Refused,
    /// The stop came first; it is for whoever comes after us.
    GivenBack,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Replayed => "replayed",
            Self::Refused => "refused",
            Self::GivenBack => "given_back",
        }
    }
}

/// Why the door must be opened anew.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("rabbitmq: {0}")]
    Broker(#[from] QueueError),
    #[error("rabbitmq: the consumer was ended")]
    Ended,
    #[error("rabbitmq: an answer was not confirmed")]
    Unconfirmed,
}

/// The open door. Dropped, it gives back what is not acknowledged.
struct Door {
    consumer: Consumer,
    answers: Answers,
    /// Publishes what the door answers, until the door is dropped.
    _publishing: JoinSet<()>,
    /// Messages that are done with.
    settled: u64,
}

impl Intake {
    pub fn new(
        amqp_url: &str,
        partitions: u16,
        acceptor: Acceptor,
        waiters: Arc<Waiters>,
        metrics: Arc<Metrics>,
    ) -> Self {
        // From the start, so that a door at which nobody has been is told from none.
        for outcome in ["accepted", "replayed", "refused", "parked"] {
            drop(metrics.submissions.get_or_create(&metrics::Outcome { outcome }));
        }
        let replays = Semaphore::new(MAX_WAITING_REPLAYS);
        Self { amqp_url: amqp_url.to_owned(), partitions, acceptor, waiters, replays, metrics }
    }

    /// Takes messages until `stop`, and finishes those in hand.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::server_away();
        let (mut careful, mut troubled) = (false, false);
        while !stop.is_cancelled() {
            let opened = tokio::select! {
                opened = self.open(careful) => opened,
                () = stop.cancelled() => return, // nothing is in hand yet
            };
            let served = match opened {
                Ok(mut door) => {
                    backoff.reset();
                    let served = self.serve(&mut door, careful, &stop).await;
                    careful = served.is_err();
                    if troubled && (served.is_ok() || door.settled > 0) {
                        troubled = false;
                        info!("messages are taken from the queue again");
                    }
                    if served.is_ok() {
                        door.consumer.close().await;
                    }
                    served
                }
                Err(cause) => Err(cause.into()),
            };
            if let Err(cause) = served {
                if !std::mem::replace(&mut troubled, true) {
                    warn!(%cause, "no messages are taken from the queue; trying again");
                }
                stopped_within(&stop, backoff.next_wait()).await;
            }
        }
    }

    /// Answers are published on a connection of their own: while the broker's alarm is on, nothing
    /// is written to a connection that publishes, acknowledgements neither.
    async fn open(&self, careful: bool) -> Result<Door, QueueError> {
        let publishing = Connection::open(&self.amqp_url, "booking intake answers").await?;
        publishing.declare_topology(self.partitions).await?;
        let (answers, lane) = answer::lane(publishing.publisher().await?);
        let consuming = Connection::open(&self.amqp_url, "booking intake").await?;
        let window = if careful { CAREFUL_WINDOW } else { WINDOW };
        let consumer = consuming.consume(SUBMIT_QUEUE, "intake", window).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(lane.run());
        Ok(Door { consumer, answers, _publishing: tasks, settled: 0 })
    }

    /// Works on what is delivered, until `stop`, or for a while when `careful`.
    async fn serve(
        &self,
        door: &mut Door,
        careful: bool,
        stop: &CancellationToken,
    ) -> Result<(), Broken> {
        let acker = door.consumer.acker();
        let widen_at = Instant::now() + CAREFUL_TIME;
        let mut in_hand = FuturesUnordered::new();
        loop {
            tokio::select! {
                delivered = door.consumer.next() => {
                    let delivery = delivered.ok_or(Broken::Ended)??;
                    in_hand.push(self.handle(delivery, &door.answers, stop));
                }
                Some((tag, done)) = in_hand.next() => {
                    self.settle(&acker, tag, done).await?;
                    door.settled += 1;
                }
                () = tokio::time::sleep_until(widen_at), if careful && in_hand.is_empty() => break,
                () = stop.cancelled() => break,
            }
        }
        while let Some((tag, done)) = in_hand.next().await {
            self.settle(&acker, tag, done).await?;
        }
        Ok(())
    }

    async fn settle(&self, acker: &Acker, tag: u64, done: Done) -> Result<(), Broken> {
        let outcome = match done {
            Some(Ok(Outcome::GivenBack)) => return Ok(()),
            Some(Ok(outcome)) => {
                acker.ack(tag).await?;
                outcome.name()
            }
            Some(Err(Unconfirmed)) => return Err(Broken::Unconfirmed),
            None => {
                acker.park(tag).await?;
                "parked"
            }
        };
        self.metrics.submissions.get_or_create(&metrics::Outcome { outcome }).inc();
        Ok(())
    }

    /// One message from its delivery to its outcome. A bug that one message brings to light must
    /// not end the work on the others.
    async fn handle(
        &self,
        delivery: Delivery,
        answers: &Answers,
        stop: &CancellationToken,
    ) -> (u64, Done) {
        let span = info_span!(
            target: JOURNEY, "submission", otel.kind = "consumer", messaging.system = "rabbitmq",
            messaging.operation.type = "process", messaging.destination.name = SUBMIT_QUEUE
        );
        if !span.is_disabled() {
            telemetry::continue_trace(&span, reading::header(&delivery, TRACEPARENT));
        }
        let step = self.step(&delivery, answers, stop).instrument(span);
        let done = AssertUnwindSafe(step).catch_unwind().await;
        if done.is_err() {
            error!(
                cause = "panicked",
                "a message could not be worked on; it is parked among the dead letters"
            );
        }
        (delivery.tag, done.ok())
    }

    async fn step(
        &self,
        delivery: &Delivery,
        answers: &Answers,
        stop: &CancellationToken,
    ) -> Result<Outcome, Unconfirmed> {
        let Submission { reply_to, correlation_id, request } =
            reading::read(delivery, &Span::current());
        let accepted = match request {
            Ok(request) => self.accept(request, stop).await,
            Err(problem) => Err(problem),
        };
        match accepted {
            Ok(None) => Ok(Outcome::GivenBack),
            Ok(Some(Acceptance::Accepted)) => Ok(Outcome::Accepted),
            Ok(Some(Acceptance::Replayed(stored))) => match reply_to {
                Some(address) => self.tell_again(stored.record, &address, answers, stop).await,
                None => Ok(Outcome::Replayed),
            },
            Err(problem) => {
                debug!(correlation_id, code = problem.code.as_str(), "a message is refused");
                let refusal = Refusal { delivery, problem, correlation_id };
                refuse(refusal, reply_to.as_ref(), answers, stop).await
            }
        }
    }

    /// Accepts the command of a message, however long that takes; nothing when the stop comes
    /// first.
    async fn accept(
        &self,
        request: Request,
        stop: &CancellationToken,
    ) -> Result<Option<Acceptance>, Problem> {
        let checked = self.acceptor.check(request)?;
        let Some(calendar_id) = checked.calendar_id else {
            return Err(reading::nobody_named());
        };
        let mut backoff = Backoff::server_away();
        let mut held = None;
        loop {
            // A new one for each try: the time of acceptance is that of the commit, and a commit
            // whose answer was lost is found again by its key.
            let tried = match self.acceptor.command(&checked, calendar_id) {
                Ok(new) => self.acceptor.accept(new).await,
                Err(problem) => Err(problem),
            };
            match tried {
                Ok(acceptance) => return Ok(Some(acceptance)),
                Err(problem) if problem.may_pass() => {
                    held.get_or_insert_with(|| Held::because_of(&problem, &self.metrics));
                    if stopped_within(stop, backoff.next_wait()).await {
                        return Ok(None);
                    }
                }
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Tells the sender of a replay what it would have been told, and the decision when there is
    /// one.
    async fn tell_again(
        &self,
        record: CommandRecord,
        address: &ReplyAddress,
        answers: &Answers,
        stop: &CancellationToken,
    ) -> Result<Outcome, Unconfirmed> {
        // Before looking, so that no decision can come between.
        let turn = self.replays.try_acquire().ok();
        let decision = turn.as_ref().and_then(|_| self.waiters.register(record.command_id));
        self.waiters.look_again(); // it may have been decided before we registered
        let first = record.when_accepted();
        answers.send(answer::told("command.accepted", address, &first)).await?;
        let decided = match (record.status, decision) {
            (CommandStatus::Accepted, Some(decision)) => decision.within(REPLAY_LIMIT, stop).await,
            (CommandStatus::Accepted, None) => None,
            _ => Some(record),
        };
        if let Some(decided) = decided {
            answers.send(answer::told("command.decided", address, &decided)).await?;
        } else if stop.is_cancelled() {
            return Ok(Outcome::GivenBack);
        }
        Ok(Outcome::Replayed)
    }
}

/// What a message came to; nothing if a bug kept us from finding out.
type Done = Option<Result<Outcome, Unconfirmed>>;

/// A message that will never be accepted.
struct Refusal<'a> {
    delivery: &'a Delivery,
    problem: Problem,
    correlation_id: String,
}

/// Tells the sender, if it wants to be told. What is malformed, and what nobody would be told of,
/// is kept among the dead letters.
async fn refuse(
    refusal: Refusal<'_>,
    reply_to: Option<&ReplyAddress>,
    answers: &Answers,
    stop: &CancellationToken,
) -> Result<Outcome, Unconfirmed> {
    let Refusal { delivery, problem, correlation_id } = refusal;
    let malformed = matches!(problem.code.status(), 400 | 413 | 415);
    if malformed || reply_to.is_none() {
        let mut backoff = Backoff::server_away();
        while !answers.send(answer::dead_letter(delivery, &problem, &correlation_id)).await? {
            // The dead letters are full or gone, which an operator has to mend.
            if stopped_within(stop, backoff.next_wait()).await {
                return Ok(Outcome::GivenBack);
            }
        }
    }
    if let Some(address) = reply_to {
        // A queue that takes no more is its owner's concern.
        answers.send(answer::refused(address, &problem, &correlation_id)).await?;
    }
    Ok(Outcome::Refused)
}

/// Counts a message that waits.
struct Held(Arc<Metrics>);

impl Held {
    fn because_of(problem: &Problem, metrics: &Arc<Metrics>) -> Self {
        if metrics.submissions_held.inc() == 0 {
            warn!(code = problem.code.as_str(), "messages are held: they cannot be accepted now");
        }
        Self(metrics.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.submissions_held.dec() == 1 {
            info!("no message is held any more");
        }
    }
}
