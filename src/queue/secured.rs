//! TLS beneath lapin.
//!
//! lapin's own TLS would connect and shake hands in one go, with no way to the socket in between, and
//! it brings readers of client certificates that nobody asked for. So we connect, show the socket to
//! whoever must be able to cut it, and shake hands over it; lapin gets a connection that is secured
//! already. It takes connections of its runtime's kind only, so it gets a runtime of which ours are.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::uri::AMQPUri;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::tls::{self, Refused};

/// A connection whose handshake is over.
pub(super) type Secured = Compat<TlsStream<TcpStream>>;

/// Connects, lets `keep` have the socket, and shakes hands; only the first is bounded, by `limit`.
pub(super) async fn connect(
    uri: &AMQPUri,
    config: Arc<ClientConfig>,
    limit: Duration,
    keep: impl FnOnce(&TcpStream) -> io::Result<()>,
) -> io::Result<Secured> {
    let host = &uri.authority.host;
    let name = ServerName::try_from(host.clone()).map_err(|_| {
        io::Error::other(Refused(format!("{host:?} is no name that a certificate can have")))
    })?;
    let connecting = TcpStream::connect((host.as_str(), uri.authority.port));
    let tcp = timeout(limit, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tcp.set_nodelay(true)?;
    keep(&tcp)?;
    let secured = TlsConnector::from(config).connect(name, tcp).await;
    secured
        .map(TokioAsyncReadCompatExt::compat)
        .map_err(|cause| tls::explain(&cause).map_or(cause, io::Error::other))
}

/// tokio's runtime, with our connections.
pub(super) fn runtime() -> Runtime<RuntimeParts<Tokio, SecuredReactor>> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), SecuredReactor(tokio)))
}

/// tokio's reactor, but for the kind of its connections. It makes none: [`connect`] does.
#[derive(Clone, Debug)]
pub(super) struct SecuredReactor(Tokio);

impl Reactor for SecuredReactor {
    type TcpStream = Secured;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, wait: Duration) -> Self::Sleep {
        self.0.sleep(wait)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    /// A handshake needs a name, which an address has lost.
    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Secured>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
