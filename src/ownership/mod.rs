//! Ownership: which worker decides which partitions, and how a partition changes hands.
//!
//! In: the leases in Redis, the fences in Postgres, the queues' consumers. Out: arrivals from the
//! partitions this worker owns, each with the [`Tenure`] it came under. The partitions are spread
//! evenly over the live workers by leases. While Redis is away owners keep what they hold, and a
//! partition whose queue has no consumer is taken by its fence alone.
//!
//! A partition is handed over by draining it first: its arrivals are ignored from then on, the
//! batch that is under way ends, and only then is the channel closed (the queue gets back what
//! was not acknowledged, in order) and the lease released. If a worker dies or freezes, its
//! leases run out, others take the partitions, and the fence refuses what it may still write.

mod tenure;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::lease::{Leases, Renewal};
use crate::metrics::{Metrics, Reason};
use crate::pace::Pace;
use crate::process::stopped_within;
use crate::queue::{Connection, Consumer, QueueError, partition_queue};
use crate::store::partitions::{self, Fence};
use crate::store::{self, KeptConnection, Purpose};
use tenure::forward;
pub use tenure::{Arrival, AtWork, Tenure};

/// Messages of one partition that a worker holds unacknowledged; more stay in the queue. No batch
/// has more of one partition: with half as many, a worker far from the database decided the busiest
/// partitions more slowly than they filled.
pub const PREFETCH: u16 = 64;
/// Looks at a partition without consumer before it is taken without Redis: its owner may only be
/// consuming anew.
const LOOKS_WITHOUT_OWNER: u32 = 2;
/// Renewals per validity of a lease: two may fail without losing it.
const RENEWALS: u32 = 4;

struct Owned {
    tenure: Arc<Tenure>,
    forwarder: JoinHandle<Consumer>,
}

/// This worker's share of the partitions.
pub struct Ownership {
    worker: String,
    config: Config,
    leases: Leases,
    arrivals: mpsc::Sender<Arrival>,
    at_work: AtWork,
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
    broker: Option<Connection>,
    database: KeptConnection,
    owned: BTreeMap<u16, Owned>,
    /// Looks in a row at which a partition had no consumer.
    without_owner: BTreeMap<u16, u32>,
    redis_is_away: bool,
    /// The last round came to nothing: a server but Redis is out of this worker's reach.
    troubled: bool,
}

/// Why this round of ownership came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
    #[error("rabbitmq: {0}")]
    Broker(#[from] QueueError),
}

impl Ownership {
    /// # Errors
    /// When the Redis URL is malformed.
    pub fn new(
        worker: String,
        config: Config,
        arrivals: mpsc::Sender<Arrival>,
        at_work: AtWork,
        pace: Arc<Pace>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            leases: Leases::new(&config.redis_url, &config.redis_prefix, &worker, config.lease)?,
            worker,
            database: KeptConnection::new(&config.database_url, Purpose::Decide),
            config,
            arrivals,
            at_work,
            pace,
            metrics,
            broker: None,
            owned: BTreeMap::new(),
            without_owner: BTreeMap::new(),
            redis_is_away: false,
            troubled: false,
        })
    }

    /// Takes and gives back partitions until `stop`, then gives back all.
    pub async fn run(mut self, stop: CancellationToken) {
        let period = self.config.lease / RENEWALS;
        loop {
            match self.step(&stop).await {
                Ok(()) => self.troubled = false,
                Err(cause) => {
                    self.database.drop_it();
                    if !std::mem::replace(&mut self.troubled, true) {
                        warn!(%cause, "partitions cannot be taken now; trying again");
                    }
                    // A member that can take nothing would keep its share from the others.
                    let _ = self.leases.leave().await;
                }
            }
            self.metrics.partitions_owned.set(i64::try_from(self.owned.len()).unwrap_or(i64::MAX));
            self.pace.owns(self.owned.keys().copied());
            if stopped_within(&stop, period).await {
                break;
            }
        }
        // First, so that the others' shares have grown when the leases come free.
        let _ = self.leases.leave().await; // otherwise the membership runs out by itself
        let all: Vec<u16> = self.owned.keys().copied().collect();
        self.release(&all).await;
        if let Some(broker) = self.broker.take() {
            broker.close().await;
        }
        info!("all partitions are given back");
    }

    /// One round: forget what is over, renew, then give back what is too much or take what is
    /// too little. `stop` ends the waits for servers; giving back goes to its end.
    ///
    /// # Errors
    /// When Postgres or RabbitMQ is away. What is owned stays owned.
    pub async fn step(&mut self, stop: &CancellationToken) -> Result<(), OwnershipError> {
        let ended = self.forget_ended().await;
        if self.troubled {
            self.renew().await;
            unless_stopped(stop, self.reach()).await?;
        }
        match self.leases.join().await {
            Ok(members) => {
                let came_back = self.redis_is_away;
                self.note_redis(None);
                self.renew().await;
                unless_stopped(stop, self.consume_again(&ended)).await?;
                if came_back {
                    return Ok(()); // the others need a round to renew theirs, too
                }
                let share = share(&self.worker, members, self.config.partitions);
                let surplus: Vec<u16> = self.owned.keys().skip(share).copied().collect();
                self.release(&surplus).await;
                unless_stopped(stop, self.take_up_to(share)).await
            }
            Err(cause) => {
                self.note_redis(Some(cause.to_string()));
                unless_stopped(stop, self.consume_again(&ended)).await?;
                unless_stopped(stop, self.take_abandoned()).await
            }
        }
    }

    /// Removes tenures that ended without us: given up by the worker, or the channel died.
    /// Returns the fences of those that only need a new channel.
    async fn forget_ended(&mut self) -> Vec<Fence> {
        let ended =
            |owned: &Owned| owned.tenure.over.is_cancelled() || owned.forwarder.is_finished();
        let partitions: Vec<u16> = self
            .owned
            .iter()
            .filter(|(_, owned)| ended(owned))
            .map(|(partition, _)| *partition)
            .collect();
        let mut again = Vec::new();
        for partition in &partitions {
            if let Some(owned) = self.owned.get(partition)
                && !owned.tenure.over.is_cancelled()
            {
                again.push(owned.tenure.fence);
            } else {
                self.count("ended");
                info!(partition, "the tenure ended before its time");
                let _ = self.leases.release(*partition).await; // otherwise it runs out by itself
            }
        }
        self.end_tenures(&partitions).await;
        again
    }

    async fn renew(&mut self) {
        let partitions: Vec<u16> = self.owned.keys().copied().collect();
        let Ok(renewals) = self.leases.renew(&partitions).await else {
            return; // the next round sees whether Redis is away
        };
        let lost: Vec<u16> = std::iter::zip(partitions, renewals)
            .filter(|(_, renewal)| *renewal == Renewal::Lost)
            .map(|(partition, _)| partition)
            .collect();
        for partition in &lost {
            self.count("lost");
            info!(partition, "the lease is another's; giving the partition up");
        }
        self.end_tenures(&lost).await;
    }

    /// Sees to it that Postgres and RabbitMQ can be used.
    async fn reach(&mut self) -> Result<(), OwnershipError> {
        self.broker().await?;
        self.database.get().await?;
        Ok(())
    }

    async fn take_up_to(&mut self, share: usize) -> Result<(), OwnershipError> {
        let mut others: Vec<u16> = self.not_owned().collect();
        while self.owned.len() < share && !others.is_empty() {
            self.broker().await?; // a lease without a way to consume would keep others out
            let missing = (share - self.owned.len()).min(others.len());
            let asked: Vec<u16> = others.drain(..missing).collect();
            let Ok(free) = self.leases.take(&asked).await else { continue };
            self.take(&free, "taken").await?;
        }
        Ok(())
    }

    fn not_owned(&self) -> impl Iterator<Item = u16> {
        (0..self.config.partitions).filter(|partition| !self.owned.contains_key(partition))
    }

    /// Without Redis: takes partitions whose queue has had no consumer for some looks.
    async fn take_abandoned(&mut self) -> Result<(), OwnershipError> {
        let mut abandoned = Vec::new();
        for partition in self.not_owned().collect::<Vec<_>>() {
            let depth = self.broker().await?.depth(&partition_queue(partition)).await?;
            let looks = self.without_owner.entry(partition).or_default();
            *looks = if depth.consumers == 0 { *looks + 1 } else { 0 };
            if *looks >= LOOKS_WITHOUT_OWNER {
                *looks = 0;
                abandoned.push(partition);
            }
        }
        self.take(&abandoned, "taken_without_redis").await
    }

    async fn take(&mut self, partitions: &[u16], how: &'static str) -> Result<(), OwnershipError> {
        let taken = self.try_take(partitions, how).await;
        if taken.is_err() {
            // Another may reach what we cannot.
            let not_ours = partitions.iter().filter(|id| !self.owned.contains_key(id));
            join_all(not_ours.map(|partition| self.leases.release(*partition))).await;
        }
        taken
    }

    async fn try_take(
        &mut self,
        partitions: &[u16],
        how: &'static str,
    ) -> Result<(), OwnershipError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let database = self.database.get().await?;
        let fences = store::limited(partitions::take(database, partitions, &self.worker)).await?;
        for fence in fences {
            self.begin_tenure(fence).await?;
            info!(partition = fence.partition(), fence = fence.number(), "the partition is ours");
            self.count(how);
        }
        Ok(())
    }

    /// New channels for partitions that are still ours.
    async fn consume_again(&mut self, fences: &[Fence]) -> Result<(), OwnershipError> {
        for fence in fences {
            self.begin_tenure(*fence).await?;
        }
        Ok(())
    }

    async fn begin_tenure(&mut self, fence: Fence) -> Result<(), OwnershipError> {
        let queue = partition_queue(fence.partition());
        let tag = format!("{}/{}", self.worker, fence.number());
        let consumer = self.broker().await?.consume(&queue, &tag, PREFETCH).await?;
        let tenure =
            Arc::new(Tenure { fence, acker: consumer.acker(), over: CancellationToken::new() });
        let forwarder = tokio::spawn(forward(consumer, tenure.clone(), self.arrivals.clone()));
        self.owned.insert(fence.partition(), Owned { tenure, forwarder });
        Ok(())
    }

    /// Gives partitions back: drains, closes, then lets others have the leases.
    async fn release(&mut self, partitions: &[u16]) {
        self.end_tenures(partitions).await;
        // A lease that cannot be released runs out by itself.
        join_all(partitions.iter().map(|partition| self.leases.release(*partition))).await;
        for partition in partitions {
            self.count("released");
            info!(partition, "the partition is given back");
        }
    }

    /// Ends tenures in order: nothing new is begun, what is under way ends, the channels close.
    /// All at once, so that a broker that is silent costs one wait and not one for each.
    async fn end_tenures(&mut self, partitions: &[u16]) {
        let ending: Vec<Owned> = partitions.iter().filter_map(|p| self.owned.remove(p)).collect();
        if ending.is_empty() {
            return;
        }
        ending.iter().for_each(|owned| owned.tenure.over.cancel());
        drop(self.at_work.lock().await);
        join_all(ending.into_iter().map(async |owned| {
            if let Ok(consumer) = owned.forwarder.await {
                consumer.close().await;
            }
        }))
        .await;
    }

    async fn broker(&mut self) -> Result<&Connection, QueueError> {
        match &mut self.broker {
            Some(broker) if broker.is_open() => {}
            gone => {
                let opened = Connection::open(&self.config.amqp_url, "booking worker").await?;
                opened.declare_topology(self.config.partitions).await?;
                *gone = Some(opened);
            }
        }
        self.broker.as_ref().ok_or(QueueError::Blocked) // not reached: it was just put there
    }

    fn note_redis(&mut self, away: Option<String>) {
        match (away, self.redis_is_away) {
            (Some(cause), false) => {
                self.count("redis_away");
                warn!(server = "redis", cause, "no leases; keeping what is held");
            }
            (None, true) => info!(server = "redis", "leases again"),
            (Some(_), true) => return,
            (None, false) => return,
        }
        self.redis_is_away = !self.redis_is_away;
    }

    fn count(&self, reason: &'static str) {
        self.metrics.lease_events.get_or_create(&Reason { reason }).inc();
    }
}

/// What begins ownership may be given up half way: what was begun runs out by itself.
async fn unless_stopped(
    stop: &CancellationToken,
    beginning: impl Future<Output = Result<(), OwnershipError>>,
) -> Result<(), OwnershipError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        begun = beginning => begun,
    }
}

/// The even share of `worker`: the partitions divided by the members; what is left over goes to
/// the first of them, by name, one each.
fn share(worker: &str, mut members: Vec<String>, partitions: u16) -> usize {
    members.sort_unstable();
    let place = members.iter().position(|member| member == worker).unwrap_or(members.len());
    let (partitions, count) = (usize::from(partitions), members.len().max(1));
    partitions / count + usize::from(place < partitions % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_differ_by_one_at_most_and_add_up() {
        for workers in 1..20_usize {
            let members: Vec<String> =
                (0..workers).rev().map(|n| format!("worker {n:02}")).collect();
            let shares: Vec<usize> =
                members.iter().map(|m| share(m, members.clone(), 16)).collect();
            assert_eq!(shares.iter().sum::<usize>(), 16, "{shares:?}");
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
    }
}
