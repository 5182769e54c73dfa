//! The TCP connection beneath lapin, and the task that watches it.
//!
//! Why lapin is not left alone with it (4.12.3): its async connect ignores `connection_timeout`; a handshake
//! that hangs keeps a thread and a socket for ever, one more at each attempt; a close that cannot be written,
//! to a blocked or silent broker, stops the heartbeat and so hangs for ever too; and its event stream is
//! silent about an orderly close. So we keep a second handle on the socket and cut it when lapin should be
//! done with it, which ends its thread.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_rs::TokioRuntime;
use async_rs::traits::Reactor;
use futures::{Stream, StreamExt};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{ConnectionProperties, ConnectionStatus, Event};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{CLOSE_LIMIT, HEARTBEAT_SECONDS, QueueError, TCP_CONNECT_LIMIT, secured};
use crate::tls;

/// How often the state is looked at without being told; an orderly close is noticed this late at worst.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked at while a close is under way, for [`CLOSE_LIMIT`] at most.
const LOOK_EVERY_CLOSING: Duration = Duration::from_millis(50);

/// The state of the connection, and a way to wait for it. The connection lives while one of these does.
#[derive(Clone)]
pub(super) struct Link {
    status: ConnectionStatus,
    /// Sent each time the state may have changed.
    looks: watch::Receiver<()>,
}

impl Link {
    pub(super) fn is_open(&self) -> bool {
        self.status.connected()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.status.blocked()
    }

    pub(super) async fn closed(&self) {
        self.until(|link| !link.is_open()).await;
    }

    /// Waits while the broker's alarm is on.
    pub(super) async fn unblocked(&self) {
        self.until(|link| !link.is_open() || !link.is_blocked()).await;
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut looks = self.looks.clone();
        // The task that looks ends only with the connection: then there is nothing more to wait for.
        while !holds(self) && looks.changed().await.is_ok() {}
    }
}

/// Reads the URL and puts in our heartbeat where it says none.
pub(super) fn parse(url: &str) -> Result<AMQPUri, QueueError> {
    if url.contains("://[") || url.contains("@[") {
        // lapin would silently connect to localhost instead.
        return Err(QueueError::Url("an IPv6 address is not understood; use a host name".into()));
    }
    let mut uri: AMQPUri = url.parse().map_err(|reason: String| {
        // The reason may quote the URL, password and all.
        QueueError::Url(reason.replace(url, "(hidden)"))
    })?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

/// Connects and shakes hands. Unbounded but for its TCP part: the caller holds the clock.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    socket: Socket,
    authorities: Option<PathBuf>,
) -> lapin::Result<lapin::Connection> {
    if uri.scheme == AMQPScheme::AMQPS {
        let runtime = secured::runtime();
        let connect = async move |uri: AMQPUri, _| {
            // Here, for this thread is lapin's own: the authorities are files to be read.
            let config = tls::client(authorities.as_deref())?;
            let keep = |tcp: &_| socket.keep_second(tcp);
            let stream = secured::connect(&uri, config, tcp_limit(&uri), keep).await?;
            Ok(AsyncTcpStream::Plain(stream)) // as far as lapin is concerned
        };
        return lapin::Connection::connector(uri, runtime, connect, properties).await;
    }
    let runtime = lapin::runtime::default_runtime()?;
    let connect = async move |uri: AMQPUri, runtime: TokioRuntime| {
        let stream = plain(&uri, &runtime).await?;
        if let AsyncTcpStream::Plain(tcp) = &stream {
            socket.keep_second(tcp.get_ref())?;
        }
        Ok(stream)
    };
    lapin::Connection::connector(uri, runtime, connect, properties).await
}

/// Without TLS, as lapin makes it.
type Plain = AsyncTcpStream<<TokioRuntime as Reactor>::TcpStream>;

/// Connects without TLS.
pub(super) async fn plain(uri: &AMQPUri, runtime: &TokioRuntime) -> io::Result<Plain> {
    let connecting = uri.connect_with_config_async(TLSConfig::default(), runtime);
    timeout(tcp_limit(uri), connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

pub(super) fn tcp_limit(uri: &AMQPUri) -> Duration {
    uri.query.connection_timeout.map_or(TCP_CONNECT_LIMIT, Duration::from_millis)
}

/// Starts the task that tells when the state may have changed, and cuts the socket in the end.
pub(super) fn watch(
    events: impl Stream<Item = Event> + Send + 'static,
    status: ConnectionStatus,
    socket: Socket,
) -> Link {
    let (tell, looks) = watch::channel(());
    let link = Link { status: status.clone(), looks };
    tokio::spawn(async move {
        follow(events, &status, &tell).await;
        tell.send_replace(());
        // Let the goodbyes be said: those queued reach the broker, and its log stays clean.
        let _ = timeout(CLOSE_LIMIT, ended(&status)).await;
        socket.cut();
    });
    link
}

/// Returns when the connection is gone, or when nobody has a use for it any more.
async fn follow(
    events: impl Stream<Item = Event>,
    status: &ConnectionStatus,
    tell: &watch::Sender<()>,
) {
    let mut events = std::pin::pin!(events);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while status.connected() {
        tokio::select! {
            // What it says does not matter, errors of mere channels are among it: it is time to look.
            _ = events.next() => {}
            _ = look.tick() => {}
            () = tell.closed() => return,
        }
        tell.send_replace(());
    }
}

async fn ended(status: &ConnectionStatus) {
    let mut look = interval(LOOK_EVERY_CLOSING);
    while !status.closed() && !status.errored() {
        look.tick().await;
    }
}

/// A second handle on lapin's socket.
#[derive(Clone, Default)]
pub(super) struct Socket(Arc<Mutex<Held>>);

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Socket(TcpStream),
    Cut,
}

impl Socket {
    /// Ends the connection both ways, now, or as soon as it is made.
    fn cut(&self) {
        if let Held::Socket(socket) = self.replace(Held::Cut) {
            // Fails only where the other side was faster.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn keep_second(&self, socket: &impl AsFd) -> io::Result<()> {
        self.keep(socket.as_fd().try_clone_to_owned()?.into())
    }

    fn keep(&self, socket: TcpStream) -> io::Result<()> {
        if matches!(self.replace(Held::Socket(socket)), Held::Cut) {
            self.cut();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn replace(&self, held: Held) -> Held {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), held)
    }

    pub(super) fn cut_on_drop(&self) -> CutOnDrop {
        CutOnDrop(Some(self.clone()))
    }
}

/// Cuts the socket when dropped, unless disarmed.
pub(super) struct CutOnDrop(Option<Socket>);

impl CutOnDrop {
    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.cut();
        }
    }
}
