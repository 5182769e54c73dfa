//! A tenure: the ownership of one partition through one channel, and what arrives under it.
//!
//! In: deliveries from the partition's queue. Out: arrivals, each with its tenure. When the
//! tenure is over nothing of it may be begun; what was not acknowledged goes back to the queue,
//! in order, when its channel closes.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::queue::{self, Acker, Consumer, Delivery};
use crate::store::partitions::Fence;
use crate::telemetry::Seldom;

/// The ownership of one partition through one channel. Arrivals carry it, so that what came
/// through a channel that is gone can never be acknowledged through another.
pub struct Tenure {
    pub fence: Fence,
    pub acker: Acker,
    /// Nothing that arrived under it may be begun any more.
    pub over: CancellationToken,
}

impl Tenure {
    /// The queue that its messages come from.
    pub fn queue(&self) -> String {
        queue::partition_queue(self.fence.partition())
    }
}

/// A message that arrived from a partition.
pub struct Arrival {
    pub tenure: Arc<Tenure>,
    pub delivery: Delivery,
}

/// Held by the worker while it works on a batch. Whoever gets it after ending a tenure knows
/// that no batch with that tenure's arrivals is under way.
pub type AtWork = Arc<Mutex<()>>;

/// Hands deliveries to the worker until the tenure is over or the channel is gone.
pub(super) async fn forward(
    mut consumer: Consumer,
    tenure: Arc<Tenure>,
    arrivals: mpsc::Sender<Arrival>,
) -> Consumer {
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            () = tenure.over.cancelled() => return consumer,
        };
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            Some(Err(cause)) => {
                static TOLD: Seldom = Seldom::new();
                if let Some(times) = TOLD.times() {
                    let partition = tenure.fence.partition();
                    warn!(partition, %cause, times, "channels broke; this was the last");
                }
                return consumer;
            }
            None => return consumer,
        };
        let arrival = Arrival { tenure: tenure.clone(), delivery };
        tokio::select! {
            sent = arrivals.send(arrival) => if sent.is_err() { return consumer },
            () = tenure.over.cancelled() => return consumer,
        }
    }
}
