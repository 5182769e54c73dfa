//! The worker: from arrived commands to one commit that holds all that follows from them.
//!
//! In: arrivals from the partitions that [`crate::ownership`] holds. Out: one commit a batch with
//! outcomes, bookings, allocations, audit and events; then the acknowledgement, and hints to
//! whoever waits. A batch is whatever has arrived, so it grows with the load.
//!
//! If it dies before the commit, nothing happened and the queue delivers again; after it, the
//! redelivered commands are found decided and only acknowledged. If Postgres is away the
//! deliveries are held and tried again. A command that fails for its own sake is tried alone,
//! and parked when it keeps failing, so that it stops nothing but itself.

mod batch;
mod parking;
mod spans;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, warn};
use uuid::Uuid;

use crate::booking::Stream;
use crate::failpoint;
use crate::metrics::{self, Metrics, Reason, State};
use crate::ownership::{Arrival, AtWork, Tenure};
use crate::pace::Pace;
use crate::process::{cut_after, stopped_within};
use crate::retry::Backoff;
use crate::store::commands;
use crate::store::decisions::{self, Decided};
use crate::store::partitions::{self};
use crate::store::{self, Failure, KeptConnection, Purpose, bookings};
use crate::telemetry::{self, Seldom};
use crate::wake::Wake;
use batch::{Item, drop_repeated, fences, judge, state_of};
use parking::{Opened, open};
use spans::Spans;

/// Commands of one commit; a batch takes no further message once it has as many.
pub const MAX_BATCH: usize = 256;
/// Messages taken from the channel at once.
const MAX_MESSAGES: usize = 256;
/// A batch whose rows keep changing under it is split after so many tries.
const MAX_STALE_TRIES: u32 = 4;
/// A command that has failed for its own sake so often is parked.
const MAX_ATTEMPTS: i16 = 3;
/// A batch that Postgres has not answered so long after the stop is left to the next owner.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Decides what arrives.
pub struct Worker {
    arrivals: mpsc::Receiver<Arrival>,
    waiting: VecDeque<Arrival>,
    at_work: AtWork,
    database: KeptConnection,
    /// Partitions of which the batch under way has left commands undecided.
    left: BTreeSet<u16>,
    pace: Arc<Pace>,
    wake: Arc<Wake>,
    metrics: Arc<Metrics>,
}

/// What became of one try to decide and commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    /// One of the partitions has another owner.
    Fenced,
    /// Something changed between reading and writing, or was decided before.
    Stale,
    /// The database is away; the commit may have happened.
    Away,
    /// A command of the batch cannot be decided or written as it is.
    Refused(String),
}

impl Worker {
    pub fn new(
        arrivals: mpsc::Receiver<Arrival>,
        at_work: AtWork,
        database_url: &str,
        pace: Arc<Pace>,
        wake: Arc<Wake>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            arrivals,
            waiting: VecDeque::new(),
            at_work,
            database: KeptConnection::new(database_url, Purpose::Decide),
            left: BTreeSet::new(),
            pace,
            wake,
            metrics,
        }
    }

    /// Decides until ownership has ended and closed the channel. `stop` ends only the waits for
    /// a server that is away.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut taken = Vec::with_capacity(MAX_MESSAGES);
        loop {
            if self.waiting.is_empty() {
                if self.arrivals.recv_many(&mut taken, MAX_MESSAGES).await == 0 {
                    return;
                }
            } else {
                while taken.len() < MAX_MESSAGES
                    && let Ok(arrival) = self.arrivals.try_recv()
                {
                    taken.push(arrival);
                }
            }
            self.waiting.extend(taken.drain(..));
            let at_work = self.at_work.clone();
            let _at_work = at_work.lock().await;
            let begun = Instant::now();
            self.work(&stop).await;
            self.metrics.worker_busy.inc_by(begun.elapsed().as_secs_f64());
        }
    }

    /// One batch, from what waits to its acknowledgement.
    async fn work(&mut self, stop: &CancellationToken) {
        let mut acknowledge: BTreeMap<u16, (Arc<Tenure>, u64)> = BTreeMap::new();
        let (mut items, mut unreadable, mut messages) = (Vec::new(), Vec::new(), 0);
        while items.len() < MAX_BATCH
            && let Some(Arrival { tenure, delivery }) = self.waiting.pop_front()
        {
            if tenure.over.is_cancelled() {
                continue; // goes back to the queue when its channel closes
            }
            match open(&delivery.body) {
                Ok(Opened { commands, illegible }) => {
                    for illegible in illegible {
                        unreadable.push((tenure.clone(), illegible));
                    }
                    let item = |command| Item { tenure: tenure.clone(), command };
                    items.extend(commands.into_iter().map(item));
                    messages += 1;
                    acknowledge.insert(tenure.fence.partition(), (tenure, delivery.tag));
                }
                Err(cause) => self.park_message(&tenure, delivery.tag, &cause.to_string()).await,
            }
        }
        self.pace.took(messages, items.len());
        drop_repeated(&mut items);
        self.left.clear();
        if !(self.settle(items, stop).await && self.park_unreadable(unreadable, stop).await) {
            // Nothing of it is acknowledged, and nothing later may be: an acknowledgement counts
            // for all that came before. It is delivered again, to us or to the next owner.
            acknowledge.into_values().for_each(|(tenure, _)| tenure.over.cancel());
            return;
        }
        for (tenure, tag) in acknowledge.into_values() {
            // A tenure that ended meanwhile waits for this batch before its channel closes; what
            // is settled is acknowledged, or the next owner would get it all again.
            if self.left.contains(&tenure.fence.partition()) {
                continue;
            }
            if let Err(cause) = tenure.acker.ack_through(tag).await {
                // The messages come again and are found decided.
                warn!(partition = tenure.fence.partition(), %cause, "could not acknowledge");
            }
        }
    }

    /// Brings every command to its final state; false when that has to wait for another process
    /// or another time. Commands of lost partitions are left to their new owners.
    async fn settle(&mut self, mut items: Vec<Item>, stop: &CancellationToken) -> bool {
        let (mut away, mut stale) = (Backoff::server_away(), Backoff::stale_rows());
        let mut stale_tries = 0;
        loop {
            self.leave_ended(&mut items);
            if items.is_empty() {
                return true;
            }
            match self.step(&items, stop).await {
                Outcome::Committed => return true,
                Outcome::Fenced => self.give_up_lost(&items).await,
                Outcome::Stale if stale_tries < MAX_STALE_TRIES => {
                    stale_tries += 1;
                    self.count_retry("stale");
                    self.drop_decided(&mut items).await;
                    stopped_within(stop, stale.next_wait()).await;
                }
                Outcome::Away => {
                    self.count_retry("away");
                    self.database.drop_it();
                    if stopped_within(stop, away.next_wait()).await {
                        return false;
                    }
                }
                Outcome::Stale => return self.alone(items, "its rows keep changing", stop).await,
                Outcome::Refused(cause) => return self.alone(items, &cause, stop).await,
            }
        }
    }

    /// Drops the commands whose tenure is over, for the next owner to decide.
    fn leave_ended(&mut self, items: &mut Vec<Item>) {
        items.retain(|Item { tenure, .. }| {
            let over = tenure.over.is_cancelled();
            if over {
                self.left.insert(tenure.fence.partition());
            }
            !over
        });
    }

    /// Tries the commands one by one, so that only the one at fault suffers; alone, it is parked
    /// when it keeps failing.
    async fn alone(&mut self, mut items: Vec<Item>, cause: &str, stop: &CancellationToken) -> bool {
        if items.len() > 1 {
            self.count_retry("one_by_one");
            for item in items {
                if !Box::pin(self.settle(vec![item], stop)).await {
                    return false;
                }
            }
            return true;
        }
        let Some(item) = items.pop() else { return true };
        let id = item.command.command_id;
        let attempts = match self.database.get().await {
            Ok(connection) => store::limited(commands::count_attempt(connection, id)).await,
            Err(error) => Err(error),
        };
        match attempts {
            Ok(attempts) if attempts >= MAX_ATTEMPTS => {
                let content = serde_json::to_string(&item.command).unwrap_or_default();
                self.park(&item, cause, &content, stop).await
            }
            Err(sqlx::Error::RowNotFound) => {
                // No such undecided command: a message about one that was decided, or never was.
                self.metrics.duplicates.inc();
                true
            }
            Ok(attempts) => {
                warn!(command_id = %id, attempts, cause, "a command failed for its own sake; trying again");
                Box::pin(self.settle(vec![item], stop)).await
            }
            Err(_) => {
                self.database.drop_it();
                stopped_within(stop, Backoff::server_away().next_wait()).await;
                Box::pin(self.settle(vec![item], stop)).await
            }
        }
    }

    /// Decides the commands against the database as it is and commits, once.
    async fn step(&mut self, items: &[Item], stop: &CancellationToken) -> Outcome {
        let spans = Spans::of(items);
        let begun = Instant::now();
        let trying = self.try_step(items, &spans).instrument(spans.batch.clone());
        let tried = tokio::select! {
            tried = store::limited(trying) => tried,
            () = cut_after(stop, STOP_LIMIT) => Err(sqlx::Error::PoolTimedOut),
        };
        let error = match tried {
            Ok(outcome) => {
                if outcome == Outcome::Committed {
                    self.pace.note(items.len(), begun.elapsed().as_secs_f64());
                }
                return outcome;
            }
            Err(error) => error,
        };
        spans.failed(&error);
        match Failure::of(&error) {
            Failure::Fenced => Outcome::Fenced,
            Failure::Stale => Outcome::Stale,
            Failure::Content => Outcome::Refused(error.to_string()),
            Failure::Away => {
                static TOLD: Seldom = Seldom::new();
                if let Some(times) = TOLD.times() {
                    warn!(server = "postgres", cause = %error, commands = items.len(), times, "could not decide; holding the commands");
                }
                Outcome::Away
            }
        }
    }

    async fn try_step(&mut self, items: &[Item], spans: &Spans) -> Result<Outcome, sqlx::Error> {
        let connection = self.database.get().await?;
        let asked = items.iter().map(|item| &item.command);
        let snapshot = bookings::load(connection, asked).await?;
        let now = snapshot.now;
        // A rule that panics is a defect of ours; it must cost one command, not the worker.
        let judged = catch_unwind(AssertUnwindSafe(|| judge(items, snapshot)));
        let Ok(decided) = judged else {
            return Ok(Outcome::Refused("the rules panicked".to_owned()));
        };
        failpoint::reach(failpoint::WORKER_DECIDED);
        decisions::commit(connection, &fences(items), &decided, now).await?;
        spans.decided(&decided);
        failpoint::reach(failpoint::WORKER_COMMITTED);
        self.note(&decided, now);
        Ok(Outcome::Committed)
    }

    /// Counts, and wakes those who wait.
    fn note(&self, decided: &[Decided<'_>], now: DateTime<Utc>) {
        self.metrics.decide_batch.observe(decided.len() as f64);
        let traced = telemetry::is_on();
        for decided in decided {
            let state = state_of(decided);
            self.metrics.decided.get_or_create(&State { state: state.as_str() }).inc();
            let waited = (now - decided.command.accepted_at).to_std().unwrap_or_default();
            let trace = decided.command.traceparent.as_deref().filter(|_| traced);
            let trace = telemetry::sampled(trace).map(|trace| trace.trace_id().to_string());
            metrics::observe(&self.metrics.decision_seconds, waited.as_secs_f64(), trace);
        }
        self.wake.outbox_appended(Stream::Events);
        if decided.iter().any(|d| d.command.reply_to.is_some()) {
            self.wake.outbox_appended(Stream::Replies);
        }
        self.wake.decided(decided.iter().map(|d| d.command.command_id).collect());
    }

    /// Ends the tenures whose fence is not the newest any more.
    async fn give_up_lost(&mut self, items: &[Item]) {
        self.metrics.fence_refusals.inc();
        let fences = fences(items);
        let held = match self.database.get().await {
            Ok(connection) => store::limited(partitions::still_held(connection, &fences)).await,
            Err(error) => Err(error),
        };
        let Ok(held) = held else {
            self.database.drop_it(); // the next try meets the fence again
            return;
        };
        for item in items {
            let fence = item.tenure.fence;
            if !held.contains(&fence) && !item.tenure.over.is_cancelled() {
                let partition = fence.partition();
                warn!(
                    partition,
                    fence = fence.number(),
                    cause = "the partition has a new owner",
                    "a commit was refused by the fence"
                );
                item.tenure.over.cancel();
            }
        }
    }

    /// Leaves only commands without a final state. When that cannot be read, all stay.
    async fn drop_decided(&mut self, items: &mut Vec<Item>) {
        let ids: Vec<Uuid> = items.iter().map(|item| item.command.command_id).collect();
        let undecided = match self.database.get().await {
            Ok(connection) => store::limited(commands::undecided(connection, &ids)).await,
            Err(error) => Err(error),
        };
        if let Ok(undecided) = undecided {
            let undecided: HashSet<Uuid> = undecided.into_iter().collect();
            let before = items.len();
            items.retain(|item| undecided.contains(&item.command.command_id));
            let dropped = u64::try_from(before - items.len()).unwrap_or_default();
            self.metrics.duplicates.inc_by(dropped);
        }
    }

    fn count_retry(&self, reason: &'static str) {
        self.metrics.decide_retries.get_or_create(&Reason { reason }).inc();
    }
}
