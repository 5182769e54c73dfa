//! Webhooks: an event, as a signed POST to whoever asked for it.
//!
//! In: deliveries, written by the commit of what they tell and queued until they have arrived. Out:
//! signed POSTs, a row of the log for each of them, and the next try or the end. Many processes
//! share the work: each owns some shards of the targets ([`shards`]), so that what one receiver
//! gets at a time, and whether it is worth an attempt, is known in one place ([`lanes`],
//! [`mod@health`]), and nothing has to be claimed row by row. Receivers are strangers: [`address`]
//! says where an attempt may go, [`resolver`] holds every address that a name has against it,
//! [`sender`] makes one attempt and says what came of it, [`schedule`] when the next one is due.
//!
//! If it dies, its shards are free at once, and what it had under way is tried again by the next
//! owner: a receiver may get an event twice, and knows it by its id. A result that could not be
//! recorded is recorded when the database is back, by the same process, or the attempt is made
//! again by another.

pub mod address;
pub mod health;
pub mod lanes;
pub mod networks;
pub mod recording;
pub mod resolver;
pub mod schedule;
pub mod sender;
pub mod shards;
pub mod signature;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info, warn};
use url::Url;
use uuid::Uuid;

use crate::booking::{Stream, event};
use crate::config::Webhooks as Settings;
use crate::failpoint;
use crate::metrics::{self, Metrics};
use crate::process::stopped_within;
use crate::retry::Backoff;
use crate::store::webhooks::queue::{self, Due, Notice};
use crate::store::webhooks::{retention, shards as store_shards};
use crate::store::{self, Purpose};
use crate::telemetry::{self, Seldom};
use crate::wake::Wake;
use address::Policy;
use lanes::{FIRST_READ, Lanes, MAX_HELD};
use recording::{Attempt, health, span_of};
use schedule::Schedule;
use sender::{Outcome, Outgoing, Reply, Sender};
use shards::Shards;
use signature::Secret;

/// While there is work, steps begin so far apart: results that come meanwhile are recorded
/// together, and deliveries that are written meanwhile are read together.
const PACE: Duration = Duration::from_millis(20);
/// Without work, the queue is looked at this often.
const IDLE_POLL: Duration = Duration::from_millis(50);
/// A look at the queue that takes long, because very many targets wait in it, is followed by a
/// wait of so many times its length.
const REST: u32 = 3;
/// How often shards are counted and shared anew.
const BALANCE_PERIOD: Duration = Duration::from_secs(1);
/// How often the queue is counted.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);
/// How often the log is pruned.
const PRUNE_PERIOD: Duration = Duration::from_secs(60);
/// Batches that are pruned at a time; with more, the log is pruned by and by.
const MAX_PRUNES: usize = 10;
/// At the stop, attempts that are under way may take so long; the others are made again.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// A step that takes longer has lost Postgres without being told.
const STEP_LIMIT: Duration = Duration::from_secs(15);

/// The webhooks stage of a process.
pub struct Webhooks {
    database_url: String,
    sender: Arc<Sender>,
    schedule: Schedule,
    disable_after: Duration,
    retention: Duration,
    wake: Arc<Wake>,
    metrics: Arc<Metrics>,
    lanes: Lanes,
    shards: Shards,
    /// Attempts that are over and not recorded yet.
    over: Vec<Attempt>,
    ended: mpsc::UnboundedReceiver<Attempt>,
    /// At most [`MAX_HELD`] attempts are under way, so the channel needs no bound.
    ending: mpsc::UnboundedSender<Attempt>,
    turn: usize,
    /// How long the last look at the queue took.
    looked: Duration,
    pruned: Option<Instant>,
}

/// What one step did.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing was due, and nothing to be recorded.
    Idle,
    /// So many attempts were recorded, and so many begun.
    Worked { recorded: usize, begun: usize },
}

impl Webhooks {
    /// # Errors
    /// When the machine has no CA certificates to check receivers with.
    pub fn new(
        database_url: &str,
        settings: &Settings,
        wake: Arc<Wake>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let policy = Policy::new(&settings.ports, settings.allow_insecure);
        let (ending, ended) = mpsc::unbounded_channel();
        Ok(Self {
            database_url: database_url.to_owned(),
            sender: Arc::new(Sender::new(policy)?),
            schedule: Schedule::new(&settings.retry_waits),
            disable_after: settings.disable_after,
            retention: settings.retention,
            wake,
            metrics,
            lanes: Lanes::default(),
            shards: Shards::default(),
            over: Vec::new(),
            ended,
            ending,
            turn: 0,
            looked: Duration::ZERO,
            pruned: None,
        })
    }

    /// Delivers until `stop`, then ends what is under way.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut backoff, told) = (Backoff::server_away(), Seldom::new());
        while !stop.is_cancelled() {
            let Err(cause) = self.work(&mut backoff, &stop).await else { break };
            self.shards.lose();
            self.lanes.keep(|_| false, Instant::now());
            if let Some(times) = told.times() {
                warn!(server = "postgres", %cause, times, "webhooks wait for the server");
            }
            stopped_within(&stop, backoff.next_wait()).await;
        }
        self.note();
    }

    /// Works on one connection until it is lost or `stop` is asked for.
    async fn work(
        &mut self,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), sqlx::Error> {
        let mut connection = store::connect(&self.database_url, Purpose::Webhooks).await?;
        store::limited(store_shards::join(&mut connection)).await?;
        let (mut balanced, mut kept_up) = (None::<Instant>, None::<Instant>);
        let is_due = |last: Option<Instant>, period| last.is_none_or(|at| at.elapsed() >= period);
        while !stop.is_cancelled() {
            let begun = Instant::now();
            if is_due(balanced, BALANCE_PERIOD) {
                let lanes = &self.lanes;
                let balancing = self.shards.balance(&mut connection, |shard| lanes.held_in(shard));
                store::limited(balancing).await?;
                self.lanes.keep(|shard| self.shards.keeps(shard), begun);
                balanced = Some(begun);
            }
            if is_due(kept_up, UPKEEP_PERIOD) {
                store::limited(self.keep_up(&mut connection)).await?;
                kept_up = Some(begun);
            }
            let step = tokio::time::timeout(STEP_LIMIT, self.step(&mut connection)).await;
            let step = step.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
            backoff.reset();
            self.note();
            let pace = if step == Step::Idle { IDLE_POLL } else { PACE };
            self.pause(begun + pace.max(self.looked * REST), stop).await;
        }
        self.finish(&mut connection).await
    }

    /// Records what is over, and begins what is due.
    ///
    /// # Errors
    /// When the server is away; what is over is kept.
    pub async fn step(&mut self, connection: &mut PgConnection) -> Result<Step, sqlx::Error> {
        let recorded = self.record(connection).await?;
        let now = Instant::now();
        let free = self.lanes.free();
        if free > 0 {
            self.turn += 1;
            let shards = self.shards.in_turn(self.turn);
            let rows = self.lanes.rows(now);
            let due = queue::due(connection, &shards, &rows, FIRST_READ, free).await?;
            self.looked = now.elapsed();
            self.lanes.hold(due, now);
        }
        let begun = self.lanes.begin(now);
        let count = begun.len();
        begun.into_iter().for_each(|due| self.begin(due));
        if recorded + count == 0 {
            return Ok(Step::Idle);
        }
        Ok(Step::Worked { recorded, begun: count })
    }

    /// Waits until `until`; an attempt that ends meanwhile makes room for the next of its lane.
    async fn pause(&mut self, until: Instant, stop: &CancellationToken) {
        loop {
            tokio::select! {
                Some(attempt) = self.ended.recv() => self.end(attempt, true),
                () = tokio::time::sleep_until(until) => return,
                () = stop.cancelled() => return,
            }
            while let Ok(attempt) = self.ended.try_recv() {
                self.end(attempt, true);
            }
        }
    }

    fn begin(&self, due: Due) {
        let span = span_of(&due);
        let (sender, ending) = (self.sender.clone(), self.ending.clone());
        let attempt = async move {
            let at = Utc::now();
            // A defect of ours must cost one attempt, not the place of its delivery.
            let sending = AssertUnwindSafe(attempt(&sender, &due, at)).catch_unwind();
            let reply = sending.await.unwrap_or_else(|_| unsent("the attempt panicked"));
            let attempt = Attempt { due, at, reply };
            Span::current().record("webhook.outcome", attempt.outcome());
            failpoint::reach(failpoint::WEBHOOK_SENT);
            let _ = ending.send(attempt); // the stage has ended: it is made again
        };
        tokio::spawn(attempt.instrument(span));
    }

    fn end(&mut self, mut attempt: Attempt, go_on: bool) {
        let (target, now) = (attempt.due.target_id, Instant::now());
        self.lanes.ended(target, attempt.arrived(), attempt.reply.took, now);
        let arrived = attempt.arrived().then_some(attempt.at);
        attempt.due.failing_since =
            self.lanes.failing_since(target, attempt.due.failing_since, arrived);
        if attempt.disables(self.disable_after).is_some() {
            self.lanes.halt(target);
        }
        self.count(&attempt);
        self.over.push(attempt);
        if go_on {
            self.lanes.begin_of(target, now).into_iter().for_each(|due| self.begin(due));
        }
    }

    fn count(&self, attempt: &Attempt) {
        let outcome = metrics::Outcome { outcome: attempt.outcome() };
        self.metrics.webhook_attempts.get_or_create(&outcome).inc();
        self.metrics.webhook_seconds.observe(attempt.reply.took.as_secs_f64());
        if attempt.arrived() {
            let lag = (attempt.at - attempt.due.created_at).to_std().unwrap_or_default();
            let trace = telemetry::sampled(attempt.due.traceparent.as_deref());
            let trace = trace.map(|trace| trace.trace_id().to_string());
            metrics::observe(&self.metrics.webhook_lag, lag.as_secs_f64(), trace);
        }
    }

    /// Records what is over, disables whom that says, and makes room.
    async fn record(&mut self, connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
        while let Ok(attempt) = self.ended.try_recv() {
            self.end(attempt, true);
        }
        if self.over.is_empty() {
            return Ok(0);
        }
        let rows: Vec<_> = self.over.iter().map(|attempt| attempt.row(&self.schedule)).collect();
        queue::record(connection, &rows, &health(&self.over)).await?;
        let mut disabled = Vec::new();
        for attempt in &self.over {
            if !disabled.contains(&attempt.due.target_id)
                && let Some(reason) = attempt.disables(self.disable_after)
            {
                self.disable(connection, attempt.due.target_id, &reason).await?;
                disabled.push(attempt.due.target_id);
            }
        }
        let recorded = std::mem::take(&mut self.over);
        for Attempt { due, .. } in &recorded {
            self.lanes.let_go(due.target_id, due.event_id);
        }
        disabled.into_iter().for_each(|target| self.lanes.go_on(target));
        Ok(recorded.len())
    }

    async fn disable(
        &self,
        connection: &mut PgConnection,
        id: Uuid,
        reason: &str,
    ) -> Result<(), sqlx::Error> {
        let Some(endpoint) = queue::enabled(connection, id).await? else { return Ok(()) };
        let shown = event::Endpoint { id, url: &endpoint.url, event_types: &endpoint.event_types };
        let event_id = Uuid::now_v7();
        let body = event::of_webhook_disabled(event_id, shown, reason, Utc::now());
        let notice = Notice { event_id, event_type: event::WEBHOOK_DISABLED, body: &body };
        queue::disable(connection, id, reason, &notice).await?;
        warn!(endpoint_id = %id, reason, "a webhook endpoint was disabled");
        self.metrics.webhook_disabled.inc();
        self.wake.outbox_appended(Stream::Events);
        Ok(())
    }

    /// What nobody waits for: the log's pruning, and the count of what waits.
    async fn keep_up(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let waiting = queue::waiting(connection).await?;
        self.metrics.webhook_waiting.set(waiting.rows);
        self.metrics.webhook_overdue.set(waiting.overdue_seconds);
        if !self.shards.keeps(0) {
            return Ok(()); // the rest is done by one process: the owner of the first shard
        }
        queue::give_up_disabled(connection).await?;
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNE_PERIOD) {
            return Ok(());
        }
        self.pruned = Some(Instant::now());
        let limit = Utc::now() - self.retention;
        for _ in 0..MAX_PRUNES {
            if retention::prune(connection, limit).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn note(&self) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.webhook_held.set(gauge(self.lanes.held()));
        self.metrics.webhook_shards.set(gauge(self.shards.owned()));
        self.metrics.webhook_circuits.set(gauge(self.lanes.circuits_open(Instant::now())));
    }

    /// At the stop: waits for what is under way, and records it.
    async fn finish(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.lanes.drop_ready(Instant::now());
        let limit = Instant::now() + STOP_LIMIT;
        while self.lanes.held() > self.over.len() {
            tokio::select! {
                Some(attempt) = self.ended.recv() => self.end(attempt, false),
                () = tokio::time::sleep_until(limit) => break,
            }
        }
        store::limited(self.record(connection)).await?;
        info!(left = self.lanes.held(), "webhooks end; what is left is tried again by others");
        self.shards.lose();
        Ok(())
    }
}

async fn attempt(sender: &Sender, due: &Due, at: DateTime<Utc>) -> Reply {
    let Ok(url) = Url::parse(&due.url) else { return unsent("the URL cannot be read") };
    let stored = [Some(due.secret.as_slice()), due.previous_secret.as_deref()];
    let secrets: Vec<Secret> =
        stored.into_iter().flatten().filter_map(Secret::from_bytes).collect();
    let outgoing = Outgoing {
        url: &url,
        id: due.event_id,
        timestamp: at,
        secrets: &secrets,
        traceparent: telemetry::traceparent(&Span::current(), due.traceparent.as_deref()),
        body: &due.body,
    };
    sender.send(&outgoing).await
}

fn unsent(reason: &str) -> Reply {
    let outcome = Outcome::Forbidden { reason: reason.to_owned() };
    Reply { outcome, took: Duration::ZERO, answer: String::new() }
}

// What is held is bounded, or the channel of attempts would not be.
const _: () = assert!(MAX_HELD <= 4096);
