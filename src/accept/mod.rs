//! Acceptance: the moment from which a command can no longer be lost.
//!
//! In: requests from the doors (HTTP and the queue), which become commands here and nowhere else
//! ([`request`]). Out: one commit with the command, its idempotency record and its outbox row, and
//! the answer to each door. Concurrent commands share a commit: the lane takes whatever is waiting
//! and never waits when idle.
//!
//! If it dies half way: before the commit nothing happened and no one was told so; after it the
//! command is accepted, the relay finds its row, and a client that got no answer retries with
//! its key and is told what it would have been told. The lane is a task of its own, so a client
//! that hangs up cancels nothing.

pub mod reading;
pub mod request;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::field::Empty;
use tracing::{Instrument as _, Span, info_span, warn};
use uuid::Uuid;

use crate::backlog::Backlog;
use crate::booking::Stream;
use crate::booking::problem::{Code, Problem};
use crate::failpoint;
use crate::metrics::{self, Kind, Metrics, Reason};
use crate::store::commands::{self, KeyOfCaller, NewCommand, StoredCommand};
use crate::store::reads::{ClientReads, is_overload};
use crate::store::webhooks::callbacks::{self, MAX_ORIGINS};
use crate::store::{self, Failure, KeptConnection, Purpose};
use crate::telemetry::{self, JOURNEY, Seldom};
use crate::wake::Wake;
use request::Rules;

/// Commands of one commit; more wait for the next one.
const MAX_BATCH: usize = 256;
/// Commands that wait for the lane; more are answered 503 `OVERLOADED`.
const MAX_WAITING: usize = 4096;
/// An offer that has waited longer for its turn is answered 503 without a try: with
/// [`COMMIT_LIMIT`], no client waits longer than 8 s for an answer while the database is away.
const WAIT_LIMIT: Duration = Duration::from_secs(3);
/// A batch that takes longer counts as unknown; the connection is given up.
const COMMIT_LIMIT: Duration = Duration::from_secs(5);
/// A batch is tried on a fresh connection once more before its callers are answered 503.
const MAX_TRIES: u32 = 2;

/// What became of an offered command.
#[derive(Debug)]
pub enum Acceptance {
    /// It is committed and will reach a final state.
    Accepted,
    /// The same content was accepted under the same key before: this is that command.
    Replayed(Box<StoredCommand>),
}

struct Offer {
    new: NewCommand,
    offered: Instant,
    span: Span,
    answer: oneshot::Sender<Result<Acceptance, Problem>>,
}

/// The doors' handle on the lane. The lane ends when all handles are gone.
#[derive(Clone)]
pub struct Acceptor {
    rules: Arc<Rules>,
    offers: mpsc::Sender<Offer>,
    reads: ClientReads,
    backlog: Arc<Backlog>,
    metrics: Arc<Metrics>,
}

impl Acceptor {
    /// Accepts a command, or finds the one that was accepted under its key.
    ///
    /// # Errors
    /// The problem to answer with: other content under the same key, a time that has passed, too
    /// much to do (of this calendar or of all), workers that cannot read it yet, or the database
    /// away. After the last four the caller may retry.
    pub async fn accept(&self, mut new: NewCommand) -> Result<Acceptance, Problem> {
        let span = span_of(&mut new);
        if let Some(mistake) = new.command.change.too_late(new.command.accepted_at) {
            return self.accepted_before(&new, Problem::of_fields(vec![mistake])).await;
        }
        if !self.backlog.lets_in(new.command.calendar_id).await {
            self.metrics.refused.get_or_create(&Reason { reason: "backlog" }).inc();
            return self.accepted_before(&new, backlog_full()).await;
        }
        if !self.rules.vitals.workers_read(new.command.format()) {
            return self.accepted_before(&new, upgrading("callbackUrl and reply_to")).await;
        }
        let (answer, answered) = oneshot::channel();
        let offered = Instant::now();
        let offer = Offer { new, offered, span, answer };
        self.offers.try_send(offer).map_err(|_| overloaded())?;
        answered.await.unwrap_or_else(|_| Err(database_away()))
    }

    /// A retry of an accepted command must get its first answer, not that it comes too late or
    /// that there is no room for it now.
    async fn accepted_before(&self, new: &NewCommand, no: Problem) -> Result<Acceptance, Problem> {
        if let Some(key) = key_of(new) {
            let found =
                store::read(&self.reads, async |c| commands::by_keys(c, &[key]).await).await;
            if let Some(stored) = found.map_err(unread)?.pop() {
                self.metrics.replayed.inc();
                return replay(new, stored);
            }
        }
        Err(no)
    }
}

/// The lane: batches offers, commits, answers.
pub struct Lane {
    offers: mpsc::Receiver<Offer>,
    database: KeptConnection,
    wake: Arc<Wake>,
    metrics: Arc<Metrics>,
}

/// Makes the lane and the doors' handle on it.
pub fn lane(
    rules: Rules,
    database_url: &str,
    reads: ClientReads,
    backlog: Arc<Backlog>,
    wake: Arc<Wake>,
    metrics: Arc<Metrics>,
) -> (Acceptor, Lane) {
    let (sender, offers) = mpsc::channel(MAX_WAITING);
    let rules = Arc::new(rules);
    let acceptor = Acceptor { rules, offers: sender, reads, backlog, metrics: metrics.clone() };
    let database = KeptConnection::new(database_url, Purpose::Accept);
    let lane = Lane { offers, database, wake, metrics };
    (acceptor, lane)
}

impl Lane {
    /// Runs until all doors are closed and everything offered is answered.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while self.offers.recv_many(&mut batch, MAX_BATCH).await > 0 {
            // Requests that are being read right now may still join: they are ready to run.
            tokio::task::yield_now().await;
            while batch.len() < MAX_BATCH
                && let Ok(offer) = self.offers.try_recv()
            {
                batch.push(offer);
            }
            self.step(std::mem::take(&mut batch)).await;
        }
    }

    /// Commits one batch and answers it.
    async fn step(&mut self, batch: Vec<Offer>) {
        let (batch, late): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|offer| offer.offered.elapsed() < WAIT_LIMIT);
        refuse(late);
        if batch.is_empty() {
            return;
        }
        let commands: Vec<&NewCommand> = batch.iter().map(|offer| &offer.new).collect();
        self.metrics.accept_batch.observe(commands.len() as f64);
        let commit = self.commit(&commands).instrument(span_of_batch(&batch));
        let tried = tokio::time::timeout(COMMIT_LIMIT, commit).await;
        let tried = tried.unwrap_or_else(|_| {
            self.database.drop_it();
            Err(sqlx::Error::PoolTimedOut)
        });
        match tried {
            Ok(outcome) => self.answer(batch, outcome),
            Err(cause) => {
                static TOLD: Seldom = Seldom::new();
                if let Some(times) = TOLD.times() {
                    warn!(server = "postgres", %cause, commands = commands.len(), times, "could not accept");
                }
                refuse(batch);
            }
        }
    }

    fn answer(&self, batch: Vec<Offer>, mut outcome: Outcome) {
        if !outcome.accepted.is_empty() {
            self.wake.outbox_appended(Stream::Commands);
            if batch.iter().any(|offer| offer.new.command.reply_to.is_some()) {
                self.wake.outbox_appended(Stream::Replies);
            }
        }
        for Offer { new, offered, span, answer } in batch {
            let took = offered.elapsed().as_secs_f64();
            metrics::observe(&self.metrics.accept_seconds, took, telemetry::trace_of(&span));
            let result = if outcome.accepted.contains(&new.command.command_id) {
                let kind = new.command.change.kind().as_str();
                self.metrics.accepted.get_or_create(&Kind { kind }).inc();
                Ok(Acceptance::Accepted)
            } else if outcome.untargeted.contains(&new.command.command_id) {
                Err(too_many_callbacks())
            } else if let Some(stored) = key_of(&new).and_then(|key| outcome.before.get_mut(&key)) {
                self.metrics.replayed.inc();
                replay(&new, stored.clone())
            } else {
                Err(database_away()) // not reached: what was not accepted has a key in use
            };
            span.record("booking.outcome", outcome_of(&result));
            let _ = answer.send(result); // the client may have left
        }
    }

    /// Tries the batch, and once more on a fresh connection.
    async fn commit(&mut self, batch: &[&NewCommand]) -> Result<Outcome, sqlx::Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_commit(batch, tries > 1).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => {
                    self.database.drop_it();
                    if tries >= MAX_TRIES || Failure::of(&error) == Failure::Content {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn try_commit(
        &mut self,
        batch: &[&NewCommand],
        again: bool,
    ) -> Result<Outcome, sqlx::Error> {
        let connection = self.database.get().await?;
        let mut accepted: HashSet<Uuid> = HashSet::new();
        if again {
            // The first try may have committed although its answer was lost.
            let ids: Vec<Uuid> = batch.iter().map(|new| new.command.command_id).collect();
            let present = commands::by_ids(&mut *connection, &ids).await?;
            accepted.extend(present.iter().map(|stored| stored.record.command_id));
        }
        let mut fresh = batch.to_vec();
        fresh.retain(|new| !accepted.contains(&new.command.command_id));
        let untargeted = callbacks::without_target(connection, &fresh).await?;
        fresh.retain(|new| !untargeted.contains(&new.command.command_id));
        accepted.extend(commands::accept(connection, &fresh).await?);
        failpoint::reach(failpoint::ACCEPT_COMMITTED);
        let used: Vec<KeyOfCaller> = batch
            .iter()
            .filter(|new| !accepted.contains(&new.command.command_id))
            .filter(|new| !untargeted.contains(&new.command.command_id))
            .filter_map(|new| key_of(new))
            .collect();
        let mut before = HashMap::new();
        if !used.is_empty() {
            for stored in commands::by_keys(connection, &used).await? {
                if let Some(key) = stored.idempotency_key.clone() {
                    let caller = stored.caller.clone();
                    before.insert(KeyOfCaller { caller, key }, stored);
                }
            }
        }
        Ok(Outcome { accepted, before, untargeted })
    }
}

/// The span of one command's acceptance, if its trace is sent. What becomes of the command later
/// belongs to this span.
fn span_of(new: &mut NewCommand) -> Span {
    let command = &mut new.command;
    let Some(parent) = telemetry::sampled(command.traceparent.as_deref()) else {
        return Span::none();
    };
    let span = info_span!(
        target: JOURNEY, parent: None, "accept", booking.command_id = %command.command_id,
        booking.kind = command.change.kind().as_str(), booking.outcome = Empty
    );
    telemetry::follow(&span, parent);
    command.traceparent = telemetry::traceparent(&span, None);
    span
}

/// The span of the commit, if it is one of a command whose trace is sent.
fn span_of_batch(batch: &[Offer]) -> Span {
    let spans = batch.iter().map(|offer| &offer.span).filter(|span| !span.is_disabled());
    if spans.clone().next().is_none() {
        return Span::none();
    }
    let span = info_span!(
        target: JOURNEY, parent: None, "accept batch", otel.kind = "client",
        db.system.name = "postgresql", db.operation.batch.size = batch.len()
    );
    telemetry::tie(&span, spans);
    span
}

fn outcome_of(result: &Result<Acceptance, Problem>) -> &'static str {
    match result {
        Ok(Acceptance::Accepted) => "accepted",
        Ok(Acceptance::Replayed(_)) => "replayed",
        Err(problem) => problem.code.as_str(),
    }
}

struct Outcome {
    accepted: HashSet<Uuid>,
    /// What was accepted earlier under the keys of the rest.
    before: HashMap<KeyOfCaller, StoredCommand>,
    /// Those that name a callback of one origin too many.
    untargeted: HashSet<Uuid>,
}

fn key_of(new: &NewCommand) -> Option<KeyOfCaller> {
    Some(KeyOfCaller { caller: new.command.caller.clone(), key: new.idempotency_key.clone()? })
}

fn replay(new: &NewCommand, stored: StoredCommand) -> Result<Acceptance, Problem> {
    if stored.fingerprint != new.fingerprint {
        let detail = "This idempotency key was used for a request with other content; use a new \
                      key for a new request.";
        return Err(Problem::new(Code::IdempotencyKeyReused, detail));
    }
    Ok(Acceptance::Replayed(Box::new(stored)))
}

fn refuse(offers: Vec<Offer>) {
    for offer in offers {
        let _ = offer.answer.send(Err(database_away())); // the client may have left
    }
}

fn overloaded() -> Problem {
    let detail = "Too many requests wait to be accepted; retry with the same idempotency key.";
    Problem::new(Code::Overloaded, detail)
}

/// What was accepted before could not be read.
fn unread(cause: sqlx::Error) -> Problem {
    if is_overload(&cause) { overloaded() } else { database_away() }
}

fn backlog_full() -> Problem {
    let detail = "Too many commands of this calendar wait to be decided; retry later with the same \
                  idempotency key.";
    Problem::new(Code::CalendarBacklogFull, detail)
}

/// What only the workers of this release know of cannot be promised yet.
pub fn upgrading(what: &str) -> Problem {
    let detail = format!(
        "This installation is being upgraded: {what} can be used as soon as the last worker of the \
         release before has stopped. Retry then, or leave it out."
    );
    Problem::new(Code::DependencyUnavailable, detail)
}

fn too_many_callbacks() -> Problem {
    let detail = format!(
        "callbackUrl names another origin, and this caller has named {MAX_ORIGINS} already; use \
         one of them, or delete one that is used no more under /api/webhooks."
    );
    Problem::new(Code::LimitReached, detail)
}

fn database_away() -> Problem {
    let detail = "The request could not be recorded; retry with the same idempotency key.";
    Problem::new(Code::DependencyUnavailable, detail)
}
