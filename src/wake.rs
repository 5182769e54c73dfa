//! Hints that something is there to be fetched, within the process and over Redis pub/sub.
//!
//! Two kinds: "the outbox has new rows" for the relay, and "these commands are decided" for the
//! gateways whose clients wait. A hint may be lost, late or doubled. Whoever is woken by one also
//! polls, so a missing hint costs time and never truth. Sending one never waits: hints that
//! Redis does not take in time are dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use redis::cmd;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::booking::Stream;
use crate::lease::{self, Link, bounded};
use crate::metrics::Metrics;
use crate::retry::Backoff;

/// Hints that wait for Redis; more are dropped.
const MAX_WAITING_HINTS: usize = 256;
/// Batches of decided ids that a slow listener may lag behind; older ones are lost to it.
const MAX_DECIDED_LAG: usize = 1024;

enum Hint {
    Outbox(Stream),
    Decided(Vec<Uuid>),
}

/// The process's hints. Cheap to share.
pub struct Wake {
    hints: mpsc::Sender<Hint>,
    outbox: [Notify; 3],
    /// Whether this process relays the stream, so that no other needs to be told.
    relayed_here: [AtomicBool; 3],
    decided: broadcast::Sender<Arc<[Uuid]>>,
    metrics: Arc<Metrics>,
}

/// The sending and receiving end towards Redis; see [`run`].
pub struct Outbound(mpsc::Receiver<Hint>);

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Commands => 0,
        Stream::Events => 1,
        Stream::Replies => 2,
    }
}

impl Wake {
    pub fn new(metrics: Arc<Metrics>) -> (Arc<Self>, Outbound) {
        let (hints, outbound) = mpsc::channel(MAX_WAITING_HINTS);
        let wake = Self {
            hints,
            outbox: Default::default(),
            relayed_here: Default::default(),
            decided: broadcast::channel(MAX_DECIDED_LAG).0,
            metrics,
        };
        (Arc::new(wake), Outbound(outbound))
    }

    /// Says that rows were appended to the outbox.
    pub fn outbox_appended(&self, stream: Stream) {
        self.outbox[index(stream)].notify_one();
        if !self.relayed_here[index(stream)].load(Ordering::Relaxed) {
            self.send(Hint::Outbox(stream));
        }
    }

    /// Returns when rows may have been appended since the last return.
    pub async fn outbox_appended_to(&self, stream: Stream) {
        self.outbox[index(stream)].notified().await;
    }

    /// Notes whether this process relays `stream`.
    pub fn relayed_here(&self, stream: Stream, here: bool) {
        self.relayed_here[index(stream)].store(here, Ordering::Relaxed);
    }

    /// Says that commands have reached their final state.
    pub fn decided(&self, ids: Vec<Uuid>) {
        let _ = self.decided.send(ids.as_slice().into()); // no one listens here: fine
        self.send(Hint::Decided(ids));
    }

    /// Hints of decided commands, from this process and others.
    pub fn listen(&self) -> broadcast::Receiver<Arc<[Uuid]>> {
        self.decided.subscribe()
    }

    fn send(&self, hint: Hint) {
        if self.hints.try_send(hint).is_err() {
            self.metrics.hints_dropped.inc();
        }
    }
}

/// The way to and from Redis.
pub struct Carrier {
    client: redis::Client,
    link: Link,
    channels: Channels,
}

impl Carrier {
    /// Does not connect yet.
    ///
    /// # Errors
    /// When the URL is malformed.
    pub fn new(url: &str, prefix: &str) -> Result<Self, redis::RedisError> {
        Ok(Self {
            client: lease::client(url)?,
            link: lease::link(url)?,
            channels: Channels {
                outbox: format!("{prefix}:wake:outbox"),
                decided: format!("{prefix}:wake:decided"),
            },
        })
    }
}

/// Carries hints to Redis and from Redis until `stop`.
pub async fn run(wake: Arc<Wake>, outbound: Outbound, carrier: Carrier, stop: CancellationToken) {
    tokio::join!(send_all(&wake, outbound, &carrier, &stop), receive_all(&wake, &carrier, &stop),);
}

struct Channels {
    outbox: String,
    decided: String,
}

async fn send_all(
    wake: &Wake,
    Outbound(mut hints): Outbound,
    carrier: &Carrier,
    stop: &CancellationToken,
) {
    loop {
        let hint = tokio::select! {
            hint = hints.recv() => hint,
            () = stop.cancelled() => None,
        };
        let Some(hint) = hint else { return };
        let mut publish = cmd("PUBLISH");
        match hint {
            Hint::Outbox(stream) => publish.arg(&carrier.channels.outbox).arg(stream.name()),
            Hint::Decided(ids) => publish.arg(&carrier.channels.decided).arg(pack(&ids)),
        };
        let sent: Result<i64, _> = bounded(publish.query_async(&mut carrier.link.clone())).await;
        if sent.is_err() {
            wake.metrics.hints_dropped.inc();
            // What piled up meanwhile is late already; the pollers have seen it.
            while hints.try_recv().is_ok() {
                wake.metrics.hints_dropped.inc();
            }
        }
    }
}

async fn receive_all(wake: &Wake, carrier: &Carrier, stop: &CancellationToken) {
    let mut backoff = Backoff::server_away();
    let mut away = false;
    loop {
        let listening = tokio::select! {
            listening = receive(wake, carrier, &mut backoff, &mut away) => listening,
            () = stop.cancelled() => return,
        };
        if !away {
            away = true;
            let cause = listening.err().map_or("the connection ended".into(), |e| e.to_string());
            warn!(server = "redis", cause, "no hints from Redis; polling instead");
        }
        if crate::process::stopped_within(stop, backoff.next_wait()).await {
            return;
        }
    }
}

async fn receive(
    wake: &Wake,
    carrier: &Carrier,
    backoff: &mut Backoff,
    away: &mut bool,
) -> Result<(), redis::RedisError> {
    let mut subscription = bounded(carrier.client.get_async_pubsub()).await?;
    bounded(subscription.subscribe(&[&carrier.channels.outbox, &carrier.channels.decided])).await?;
    backoff.reset();
    if std::mem::take(away) {
        info!(server = "redis", "hints from Redis again");
    }
    let mut messages = subscription.into_on_message();
    while let Some(message) = messages.next().await {
        let payload = message.get_payload_bytes();
        if message.get_channel_name() == carrier.channels.decided {
            let _ = wake.decided.send(unpack(payload).into());
        } else if let Some(stream) =
            Stream::ALL.into_iter().find(|s| s.name().as_bytes() == payload)
        {
            wake.outbox[index(stream)].notify_one();
        }
    }
    Ok(())
}

/// Ids as their 16 bytes, one after the other.
fn pack(ids: &[Uuid]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> Vec<Uuid> {
    bytes.chunks_exact(16).filter_map(|chunk| Uuid::from_slice(chunk).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_way_through_a_hint() {
        let ids = vec![Uuid::now_v7(), Uuid::now_v7()];
        assert_eq!(unpack(&pack(&ids)), ids);
        assert_eq!(unpack(b"short"), Vec::<Uuid>::new());
    }
}
