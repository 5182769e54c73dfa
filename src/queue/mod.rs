//! Everything that knows `RabbitMQ` and its client, lapin: nothing outside this folder names a lapin type.
//!
//! A [`Connection`] is opened, used and, once it is gone, thrown away: it never heals by itself, because
//! after a reconnect nobody can say which publishes were confirmed. Its owner selects on
//! [`Connection::closed`] and opens another one, from which publishers and consumers are made anew.
//!
//! What can go wrong, and where it shows:
//! - The broker or the network stops answering: every wait here is bounded, and the heartbeat declares the
//!   connection dead after 8 to 10 seconds of silence.
//! - The broker raises its memory or disk alarm: it stops reading from connections that publish, and lapin
//!   stops writing *anything*, acknowledgements too. Publish and consume on two connections.
//! - The server's queues differ from ours: [`QueueError::Mismatch`] names the one to look at.

mod consume;
mod error;
pub mod inspect;
mod link;
mod publish;
mod secured;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use lapin::ConnectionProperties;
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::uri::AMQPScheme;
use tokio::sync::Mutex;
use tokio::time::timeout;

pub use consume::{Acker, Consumer, Delivery};
pub use error::QueueError;
pub use publish::{Message, Publisher, Verdict};
pub use topology::*;

use crate::tls;
use error::{bounded, missing, short};
use link::{Link, Socket};

/// Connecting, with the handshake, takes no longer; then `open` fails and nothing is left behind.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// The TCP part of it, unless the URL says `connection_timeout` (milliseconds).
const TCP_CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Seconds between heartbeats, unless the URL says `heartbeat`. Twice this without a byte: the link is dead.
const HEARTBEAT_SECONDS: u16 = 4;
/// A polite goodbye that takes longer is cut short; the broker then takes back what we held.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

const REPLY_SUCCESS: u16 = 200;

/// How full a queue is. The broker's own count, exact when nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Messages waiting for delivery; those delivered and not yet acknowledged are not among them.
    pub ready: u32,
    /// Consumers, standbys of a single-active-consumer queue included.
    pub consumers: u32,
}

/// One AMQP connection. Cheap to clone; it ends with [`Connection::close`], or when the last clone, publisher
/// and consumer of it is dropped. Costs one thread and up to 8 MiB of buffers: open two per process, not more.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    lapin: lapin::Connection,
    link: Link,
    /// Kept for `depth`, which is asked often; `None` until first used and after an error closed it.
    depth_channel: Mutex<Option<Channel>>,
}

impl Connection {
    /// Connects to `url` (`amqp://user:password@host:port/vhost`, or `amqps://` by TLS), showing `name` in the
    /// broker's console.
    ///
    /// A heartbeat of 4 s and a TCP connect limit of 2 s are put in where the URL says nothing. Takes at most
    /// 5 s. Fails with [`QueueError::Url`], [`QueueError::Connect`], [`QueueError::Tls`] or
    /// [`QueueError::Timeout`].
    pub async fn open(url: &str, name: &str) -> Result<Self, QueueError> {
        let uri = link::parse(url)?;
        let address = format!("{}:{}", uri.authority.host, uri.authority.port);
        let socket = Socket::default();
        // Dropped before the handshake is over, by the time limit or by the caller, it cuts the socket; else
        // lapin's thread would wait for the broker's greeting for ever.
        let unfinished = socket.cut_on_drop();
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let authorities = tls::named_in(url, tls::RABBITMQ_AUTHORITIES);
        let by_tls = uri.scheme == AMQPScheme::AMQPS;
        let lapin =
            timeout(OPEN_LIMIT, link::connect(uri, properties, socket.clone(), authorities))
                .await
                .map_err(|_| QueueError::Timeout {
                    operation: format!("connecting to {address}"),
                    limit: OPEN_LIMIT,
                })?
                .map_err(|error| QueueError::connect(address, error, by_tls))?;
        unfinished.disarm();
        let link = link::watch(lapin.events_listener(), lapin.status().clone(), socket);
        Ok(Self(Arc::new(Inner { lapin, link, depth_channel: Mutex::new(None) })))
    }

    /// Whether the connection can be used, as far as known now.
    pub fn is_open(&self) -> bool {
        self.0.link.is_open()
    }

    /// Whether the broker's memory or disk alarm holds back what we write. It says so only to connections
    /// that publish, and only at their first publish after the alarm.
    pub fn is_blocked(&self) -> bool {
        self.0.link.is_blocked()
    }

    /// Resolves when the connection is gone, whoever ended it. At once if it already is.
    pub async fn closed(&self) {
        self.0.link.closed().await;
    }

    /// Declares all exchanges, queues and bindings for `partitions` (1 to [`MAX_PARTITIONS`]) partitions.
    /// Idempotent, and never deletes: partitions beyond the number stay as they are. A queue or exchange
    /// that exists otherwise is [`QueueError::Mismatch`].
    pub async fn declare_topology(&self, partitions: u16) -> Result<(), QueueError> {
        let channel = self.channel().await?;
        topology::declare(&channel, partitions).await
    }

    /// A publisher on a channel of its own, in confirm mode.
    pub async fn publisher(&self) -> Result<Publisher, QueueError> {
        let channel = self.channel().await?;
        // Without this every publish is "confirmed" at once, and nothing is.
        bounded("confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Publisher::new(channel, self.0.link.clone()))
    }

    /// A consumer of `queue` on a channel of its own, holding at most `prefetch` (1 to 2,000; what lies
    /// outside is brought inside, for 0 would mean no bound) unacknowledged deliveries. `consumer_tag` is
    /// shown in the broker's console. A queue that does not exist is [`QueueError::MissingQueue`].
    pub async fn consume(
        &self,
        queue: &str,
        consumer_tag: &str,
        prefetch: u16,
    ) -> Result<Consumer, QueueError> {
        let channel = self.channel().await?;
        consume::start(channel, self.0.link.clone(), queue, consumer_tag, prefetch).await
    }

    /// How many messages and consumers `queue` has. A queue that does not exist is
    /// [`QueueError::MissingQueue`].
    pub async fn depth(&self, queue: &str) -> Result<Depth, QueueError> {
        let mut kept = self.0.depth_channel.lock().await;
        let channel = match kept.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.channel().await?,
        };
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = channel.queue_declare(short(queue)?, passive, FieldTable::default());
        let found = bounded("queue.declare", asked).await.map_err(|error| missing(error, queue))?;
        *kept = Some(channel);
        Ok(Depth { ready: found.message_count(), consumers: found.consumer_count() })
    }

    /// Ends the connection; deliveries not acknowledged go back to their queues. Takes at most 2 s, after
    /// which the socket is cut.
    pub async fn close(&self) {
        // A failure means that it was gone already, or that the watching task will cut it.
        let _ = timeout(CLOSE_LIMIT, self.0.lapin.close(REPLY_SUCCESS, "OK".into())).await;
    }

    async fn channel(&self) -> Result<Channel, QueueError> {
        if self.is_blocked() {
            return Err(QueueError::Blocked);
        }
        Ok(Channel(bounded("channel.open", self.0.lapin.create_channel()).await?))
    }
}

/// A channel that closes when dropped, whatever clones and consumers of it lapin still holds: its own close
/// waits for the last of them, and a consumer whose creation was abandoned would hold its queue until then.
struct Channel(lapin::Channel);

impl std::ops::Deref for Channel {
    type Target = lapin::Channel;

    fn deref(&self) -> &lapin::Channel {
        &self.0
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The first poll queues the frame; nobody needs the answer. It also tells lapin's consumers not to
        // send a basic.cancel, which would wake a standby before our unacknowledged deliveries are back.
        let _ = self.0.close(REPLY_SUCCESS, "OK".into()).now_or_never();
    }
}
