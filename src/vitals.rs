//! What no stage sees while it works: whether each server answers, how much waits, how long.
//!
//! Each server is looked at by a loop of its own, so that one that hangs hides nothing about the
//! others. Readiness, load shedding and the gauges at `/metrics` read what is noted here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::booking::Stream;
use crate::lease;
use crate::metrics::{self, Metrics};
use crate::pace::Pace;
use crate::queue::{self, Connection};
use crate::store::{commands, outbox, partitions, read, told};

/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// A look that takes longer means that the server is away.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// The servers, by their places in [`Vitals::up`].
const SERVERS: [&str; 3] = ["postgres", "rabbitmq", "redis"];

/// The latest findings.
#[derive(Default)]
pub struct Vitals {
    up: [AtomicBool; 3],
    /// Age of the oldest command that the broker has not got, in milliseconds.
    outbox_age_ms: AtomicU64,
    /// Of those who decide, the oldest reads commands up to this format.
    format_of_workers: AtomicU16,
    draining: AtomicBool,
}

impl Vitals {
    /// Whether each server answered at the last look.
    pub fn servers(&self) -> [(&'static str, bool); 3] {
        std::array::from_fn(|i| (SERVERS[i], self.up[i].load(Ordering::Relaxed)))
    }

    pub fn postgres_is_up(&self) -> bool {
        self.up[0].load(Ordering::Relaxed)
    }

    pub fn rabbitmq_is_up(&self) -> bool {
        self.up[1].load(Ordering::Relaxed)
    }

    /// How long the oldest accepted command has waited for the broker.
    pub fn outbox_age(&self) -> Duration {
        Duration::from_millis(self.outbox_age_ms.load(Ordering::Relaxed))
    }

    /// Whether all who decide read commands of this format: of the first, in any case; of others,
    /// not before the first look.
    pub fn workers_read(&self, format: u16) -> bool {
        format == 1 || self.format_of_workers.load(Ordering::Relaxed) >= format
    }

    /// Looks who decides.
    ///
    /// # Errors
    /// When Postgres is away.
    pub async fn look_at_workers(&self, reads: &PgPool) -> Result<(), sqlx::Error> {
        let format = read(reads, async |c| partitions::format_of_owners(c).await).await?;
        self.format_of_workers.store(format, Ordering::Relaxed);
        Ok(())
    }

    /// Says that this process is about to stop; it is not ready any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn note(&self, server: usize, metrics: &Metrics, found: Result<(), String>) {
        let up = found.is_ok();
        metrics.note_server(SERVERS[server], up);
        if self.up[server].swap(up, Ordering::Relaxed) == up {
            return;
        }
        match found {
            Ok(()) => info!(server = SERVERS[server], "the server answers"),
            Err(cause) => warn!(server = SERVERS[server], cause, "the server does not answer"),
        }
    }
}

/// How the servers are looked at.
#[derive(Clone)]
pub struct Views {
    pub reads: PgPool,
    pub amqp_url: String,
    pub partitions: u16,
    pub redis: lease::Link,
    pub pace: Arc<Pace>,
}

/// Looks at all three servers until `stop`.
pub async fn run(
    vitals: Arc<Vitals>,
    views: Views,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let watching = async {
        tokio::join!(
            watch_postgres(&vitals, &views, &metrics),
            watch_rabbitmq(&vitals, &views, &metrics),
            watch_redis(&vitals, &views, &metrics),
        );
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {} // also while a server lets us wait
    }
}

async fn watch_postgres(vitals: &Vitals, views: &Views, metrics: &Metrics) {
    loop {
        // Its reads have limits of their own; cut short, one would keep a connection of the pool.
        let found = look_at_postgres(views, metrics, vitals).await;
        vitals.note(0, metrics, found.map_err(|error| told(error).to_string()));
        tokio::time::sleep(PERIOD).await;
    }
}

async fn watch_rabbitmq(vitals: &Vitals, views: &Views, metrics: &Metrics) {
    let mut broker = None;
    loop {
        let found = limited(look_at_rabbitmq(&mut broker, views, metrics)).await;
        if found.is_err() {
            broker = None;
        }
        vitals.note(1, metrics, found);
        tokio::time::sleep(PERIOD).await;
    }
}

async fn watch_redis(vitals: &Vitals, views: &Views, metrics: &Metrics) {
    loop {
        vitals.note(2, metrics, limited(lease::ping(&views.redis)).await);
        tokio::time::sleep(PERIOD).await;
    }
}

async fn limited<E: std::fmt::Display>(
    look: impl Future<Output = Result<(), E>>,
) -> Result<(), String> {
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOK_LIMIT.as_secs())),
    }
}

async fn look_at_postgres(
    views: &Views,
    metrics: &Metrics,
    vitals: &Vitals,
) -> Result<(), sqlx::Error> {
    for stream in Stream::ALL {
        let backlog = read(&views.reads, async |c| outbox::backlog(c, stream).await).await?;
        let label = metrics::Stream { stream: stream.name() };
        metrics.outbox_rows.get_or_create(&label).set(backlog.rows);
        metrics.outbox_oldest.get_or_create(&label).set(backlog.oldest_seconds);
        if stream == Stream::Commands {
            let age = Duration::try_from_secs_f64(backlog.oldest_seconds).unwrap_or_default();
            let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            vitals.outbox_age_ms.store(ms, Ordering::Relaxed);
        }
    }
    vitals.look_at_workers(&views.reads).await?;
    let waiting = read(&views.reads, async |c| commands::undecided_by_partition(c).await).await?;
    let counted = |partition| waiting.iter().find(|w| u16::try_from(w.partition) == Ok(partition));
    for partition in 0..views.partitions {
        let here = counted(partition);
        let label = metrics::Partition { partition };
        let (commands, oldest) = here.map_or((0, 0.0), |w| (w.commands, w.oldest_seconds));
        metrics.undecided.get_or_create(&label).set(commands);
        metrics.undecided_oldest.get_or_create(&label).set(oldest);
    }
    let undecided = |partition| counted(partition).map_or(0, |w| w.commands);
    metrics.drain_seconds.set(views.pace.drain_seconds(undecided));
    metrics.worker_capacity.set(views.pace.capacity());
    Ok(())
}

async fn look_at_rabbitmq(
    broker: &mut Option<Connection>,
    views: &Views,
    metrics: &Metrics,
) -> Result<(), queue::QueueError> {
    let connection = match broker {
        Some(connection) if connection.is_open() => connection,
        none => {
            let opened = Connection::open(&views.amqp_url, "booking vitals").await?;
            opened.declare_topology(views.partitions).await?;
            none.insert(opened)
        }
    };
    for partition in 0..views.partitions {
        let depth = connection.depth(&queue::partition_queue(partition)).await?;
        let label = metrics::Partition { partition };
        metrics.queue_ready.get_or_create(&label).set(i64::from(depth.ready));
        metrics.queue_consumers.get_or_create(&label).set(i64::from(depth.consumers));
    }
    Ok(())
}
