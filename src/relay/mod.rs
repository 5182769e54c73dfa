//! The relay: outbox to broker, once a row is committed.
//!
//! In: rows of one outbox stream, oldest first. Out: confirmed messages, then the rows' deletion.
//! Commands of one partition that wait together travel as one message; events and replies go one
//! by one.
//! Many processes run a relay for each stream, one of them leads: it holds an advisory lock on
//! the connection that it reads and deletes with, so a relay that lost the lock can do neither.
//!
//! If it dies between publishing and deleting, its successor publishes the same rows again, in
//! the same order; whoever decides or subscribes knows them by their ids. Order holds because a
//! partition (or a booking, among events) has one message under way at a time: the next is
//! published when the one before is confirmed.

mod spans;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, warn};

use crate::booking::{Stream, event};
use crate::failpoint;
use crate::metrics::{self, Metrics, Reason};
use crate::process::{cut_after, stopped_within};
use crate::queue::{self, Connection, Message, Publisher, QueueError, Verdict};
use crate::retry::Backoff;
use crate::store::leadership::{Work, try_lead};
use crate::store::{self, Purpose, outbox};
use crate::telemetry::Seldom;
use crate::wake::Wake;
use spans::{Spans, reason, trace_header};

/// Rows read in one step; more wait for the next.
const MAX_ROWS: i64 = 1024;
/// Commands of one message; more go into the partition's next one.
const MAX_PACKED: usize = 64;
/// Bytes of one message of several commands; more go into the partition's next one.
const MAX_PACKED_BYTES: usize = 256 * 1024;
/// A broker that has not confirmed by then is taken as lost. Below the time after which Postgres
/// takes the lock from a silent relay (`store::RELAY_IDLE_LIMIT`, 5 s).
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// A step that is under way at the stop is given up after this.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// A step that takes longer has lost Postgres without being told.
const STEP_LIMIT: Duration = Duration::from_secs(15);
/// While there is work, steps begin so far apart: what arrives meanwhile travels together, which
/// costs a command a few milliseconds and saves the broker most of its work.
const PACE: Duration = Duration::from_millis(10);
/// Without work and without hints, the outbox is looked at this often.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// A relay that does not lead looks this often whether it can.
const STANDBY_POLL: Duration = Duration::from_millis(500);

/// The relay of one stream.
pub struct Relay {
    pub stream: Stream,
    pub database_url: String,
    pub amqp_url: String,
    pub partitions: u16,
    pub wake: Arc<Wake>,
    pub metrics: Arc<Metrics>,
}

/// What one step did.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing waited.
    Idle,
    /// So many rows were confirmed and deleted.
    Relayed(usize),
    /// The broker refused some messages; their rows stay.
    Refused,
    /// The broker's answer to some messages is not known; a new channel is needed.
    Unknown,
}

/// Why a relay must begin anew.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
    #[error("rabbitmq: {0}")]
    Broker(#[from] QueueError),
    #[error("rabbitmq did not confirm in time")]
    Unconfirmed,
}

impl Relay {
    /// Relays, or stands by, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut backoff, told) = (Backoff::server_away(), Seldom::new());
        while !stop.is_cancelled() {
            let led = tokio::select! {
                led = self.lead(&mut backoff, &stop) => led,
                // A server does not answer. What is left half done, the next leader does again.
                () = cut_after(&stop, STOP_LIMIT) => Ok(()),
            };
            self.note_leading(false);
            if let Err(cause) = led {
                if let Some(times) = told.times() {
                    warn!(stream = self.stream.name(), %cause, times, "the relay begins anew");
                }
                stopped_within(&stop, backoff.next_wait()).await;
            }
        }
    }

    /// Reaches the broker, becomes the leader, and relays. A relay without a broker must not
    /// lead: another process may well reach it.
    async fn lead(
        &self,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Result<(), RelayError> {
        let name = format!("booking relay {}", self.stream.name());
        let broker = Connection::open(&self.amqp_url, &name).await?;
        broker.declare_topology(self.partitions).await?;
        let mut publisher = broker.publisher().await?;
        let mut connection = store::connect(&self.database_url, Purpose::Relay).await?;
        // Bounded: over a link that fell silent no answer would come, and no one would lead.
        while !store::limited(try_lead(&mut connection, Work::Relay(self.stream))).await? {
            if stopped_within(stop, STANDBY_POLL).await {
                return Ok(());
            }
            if !broker.is_open() {
                return Err(RelayError::Unconfirmed);
            }
        }
        info!(stream = self.stream.name(), "this process relays the stream");
        self.note_leading(true);
        let mut refusals = Backoff::server_away();
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let step = tokio::time::timeout(STEP_LIMIT, self.step(&mut connection, &mut publisher));
            match step.await.unwrap_or(Ok(Outcome::Unknown))? {
                Outcome::Idle => {
                    tokio::select! {
                        () = self.wake.outbox_appended_to(self.stream) => {}
                        () = tokio::time::sleep(IDLE_POLL) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Outcome::Relayed(_) => {
                    backoff.reset();
                    refusals.reset();
                    tokio::time::sleep(PACE.saturating_sub(begun.elapsed())).await;
                }
                Outcome::Refused => {
                    broker.declare_topology(self.partitions).await?; // perhaps a queue was deleted
                    stopped_within(stop, refusals.next_wait()).await;
                }
                Outcome::Unknown => return Err(RelayError::Unconfirmed),
            }
        }
        broker.close().await;
        Ok(())
    }

    /// Relays the oldest rows once.
    ///
    /// # Errors
    /// When Postgres is away, which it also is for a relay that was frozen and lost its lock.
    pub async fn step(
        &self,
        connection: &mut PgConnection,
        publisher: &mut Publisher,
    ) -> Result<Outcome, RelayError> {
        let mut parcels = match self.stream {
            Stream::Commands => pack(outbox::waiting_commands(connection, MAX_ROWS).await?),
            stream => {
                address(stream, outbox::waiting_messages(connection, stream, MAX_ROWS).await?)
            }
        };
        if parcels.is_empty() {
            return Ok(Outcome::Idle);
        }
        let spans = Spans::of(self.stream, &mut parcels);
        let (messages, rows): (Vec<Message>, Vec<Vec<i64>>) =
            parcels.into_iter().map(|parcel| (parcel.message, parcel.rows)).unzip();
        let publishing = publisher.publish_all(&messages, CONFIRM_LIMIT);
        let publishing = publishing.instrument(spans.batch.clone());
        let verdicts = publishing.await;
        spans.end(&verdicts);
        failpoint::reach(failpoint::RELAY_PUBLISHED);
        let settled: Vec<i64> = std::iter::zip(&verdicts, rows)
            .filter(|(verdict, _)| self.settles(**verdict))
            .flat_map(|(_, rows)| rows)
            .collect();
        if !settled.is_empty() {
            outbox::delete(connection, self.stream, &settled).await?;
        }
        self.count(&verdicts, settled.len());
        Ok(if verdicts.contains(&Verdict::Unknown) {
            Outcome::Unknown
        } else if !verdicts.iter().all(|verdict| self.settles(*verdict)) {
            Outcome::Refused
        } else {
            Outcome::Relayed(settled.len())
        })
    }

    /// Whether a message is done with. A reply that its queue does not take is its owner's concern:
    /// kept, the replies to one service would in the end hold up those to all others.
    fn settles(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Confirmed => true,
            Verdict::Nacked => self.stream == Stream::Replies,
            Verdict::Returned | Verdict::Unknown => false,
        }
    }

    fn count(&self, verdicts: &[Verdict], rows: usize) {
        let label = metrics::Stream { stream: self.stream.name() };
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.metrics.relayed.get_or_create(&label).inc_by(count(rows));
        self.metrics.relay_messages.get_or_create(&label).inc_by(count(verdicts.len()));
        for verdict in [Verdict::Returned, Verdict::Nacked, Verdict::Unknown] {
            let Some(reason) = reason(verdict) else { continue };
            let messages = verdicts.iter().filter(|seen| **seen == verdict).count();
            if messages > 0 {
                self.metrics
                    .relay_refusals
                    .get_or_create(&Reason { reason })
                    .inc_by(count(messages));
                self.tell(verdict, reason, messages);
            }
        }
        debug!(stream = self.stream.name(), rows, messages = verdicts.len(), "relayed");
    }

    /// One line for each stream and reason, and then seldom.
    fn tell(&self, verdict: Verdict, reason: &str, messages: usize) {
        static TOLD: Mutex<BTreeMap<(Stream, Verdict), Seldom>> = Mutex::new(BTreeMap::new());
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(times) = told.entry((self.stream, verdict)).or_default().times() else { return };
        let stream = self.stream.name();
        if self.settles(verdict) {
            warn!(stream, reason, messages, times, "not confirmed; they are dropped");
        } else {
            warn!(stream, reason, messages, times, "not confirmed; they will be published again");
        }
    }

    fn note_leading(&self, leading: bool) {
        self.wake.relayed_here(self.stream, leading);
        let label = metrics::Stream { stream: self.stream.name() };
        self.metrics.relay_leader.get_or_create(&label).set(i64::from(leading));
    }
}

/// A message, the rows it carries, and the traces that these belong to.
struct Parcel {
    message: Message,
    rows: Vec<i64>,
    traces: Vec<String>,
}

/// One message a partition, of its oldest commands.
fn pack(rows: Vec<outbox::WaitingCommand>) -> Vec<Parcel> {
    struct Packing {
        ids: Vec<i64>,
        body: String,
        traces: Vec<String>,
        full: bool,
    }
    let mut partitions: BTreeMap<i16, Packing> = BTreeMap::new();
    for row in rows {
        let packing = partitions.entry(row.partition).or_insert_with(|| Packing {
            ids: Vec::new(),
            body: String::from("["),
            traces: Vec::new(),
            full: false,
        });
        let alone = packing.ids.is_empty();
        let too_much = packing.ids.len() >= MAX_PACKED
            || packing.body.len() + row.content.len() + 2 > MAX_PACKED_BYTES;
        // Once one command did not fit, no later one may pass it.
        packing.full |= too_much && !alone;
        if packing.full {
            continue;
        }
        if !alone {
            packing.body.push(',');
        }
        packing.body.push_str(&row.content);
        packing.ids.push(row.id);
        packing.traces.extend(row.traceparent);
    }
    let parcel = |(partition, mut packing): (i16, Packing)| {
        packing.body.push(']');
        let message = Message {
            exchange: queue::COMMANDS_EXCHANGE,
            routing_key: queue::partition_key(u16::try_from(partition).unwrap_or_default()),
            message_id: format!("outbox-{}", packing.ids[0]),
            kind: "booking.commands".to_owned(),
            content_type: "application/json",
            correlation_id: None,
            reply_to: None,
            headers: trace_header(packing.traces.first().cloned()),
            body: packing.body.into_bytes(),
            mandatory: true,
        };
        Parcel { message, rows: packing.ids, traces: packing.traces }
    };
    partitions.into_iter().map(parcel).collect()
}

/// One message an event or reply, of each booking (each command, among replies) only the oldest:
/// the next waits for its confirm. Whether anyone is there to receive it is not our concern.
fn address(stream: Stream, rows: Vec<outbox::WaitingMessage>) -> Vec<Parcel> {
    let mut subjects = HashSet::new();
    let (exchange, content_type) = match stream {
        Stream::Replies => (queue::DEFAULT_EXCHANGE, "application/json"),
        _ => (queue::EVENTS_EXCHANGE, event::MEDIA_TYPE),
    };
    let parcel = |row: outbox::WaitingMessage| {
        let message = Message {
            exchange,
            message_id: row.message_id.to_string(),
            kind: row.kind.unwrap_or_else(|| row.routing_key.clone()),
            routing_key: row.routing_key,
            content_type,
            correlation_id: row.correlation_id,
            reply_to: None,
            headers: trace_header(row.traceparent.clone()),
            body: row.body.into_bytes(),
            mandatory: false,
        };
        Parcel { message, rows: vec![row.id], traces: Vec::from_iter(row.traceparent) }
    };
    let oldest = rows.into_iter().filter(|row| subjects.insert(row.subject));
    oldest.map(parcel).collect()
}
