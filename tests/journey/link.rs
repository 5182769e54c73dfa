//! A way to a server that can fall silent: connections stay open, take everything, and nothing
//! comes of it. That is what a lost network looks like, and a frozen server too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use url::Url;

/// Pieces of up to 16 KiB that are under way at once; more wait at the sender.
const UNDER_WAY: usize = 256;

/// Passes bytes between processes and one server.
pub struct Link {
    address: SocketAddr,
    silent: watch::Sender<bool>,
    /// One for each connection that its client has not closed.
    open: Arc<()>,
}

impl Link {
    /// A link to the server of `url`.
    pub async fn to(url: &str) -> Self {
        Self::of_distance(url, Duration::ZERO).await
    }

    /// A link on which every byte is under way for so long, in both directions.
    pub async fn of_distance(url: &str, distance: Duration) -> Self {
        let url = Url::parse(url).unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, looks) = watch::channel(false);
        let open = Arc::new(());
        let link = Self { address, silent, open: open.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let carried = carry(client, server.clone(), distance, looks.clone());
                let counted = open.clone();
                tokio::spawn(async move {
                    carried.await;
                    drop(counted);
                });
            }
        });
        link
    }

    /// The URL with this link in place of the server.
    pub fn instead_of(&self, url: &str) -> String {
        let mut url = Url::parse(url).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.to_string()
    }

    /// Connections that are under way, silent ones too.
    pub fn open(&self) -> usize {
        Arc::strong_count(&self.open) - 2 // the link's and the listener's
    }

    pub fn falls_silent(&self) {
        self.silent.send_replace(true);
    }

    /// New connections work. Those that were silent stay so for ever: nobody remembers them.
    pub fn heals(&self) {
        self.silent.send_replace(false);
    }
}

async fn carry(
    client: TcpStream,
    server: String,
    distance: Duration,
    mut silent: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    if *silent.borrow_and_update() {
        return swallow(from_client).await;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        () = pump(&mut from_client, &mut to_server, distance) => return,
        () = pump(&mut from_server, &mut to_client, distance) => return,
        _ = silent.wait_for(|silent| *silent) => {}
    }
    // Until both ends give up; neither hears of the other.
    tokio::join!(swallow(from_client), swallow(from_server));
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    distance: Duration,
) {
    let (sender, mut under_way) = mpsc::channel(UNDER_WAY);
    let leave = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let arrives = Instant::now() + distance;
            if sender.send((arrives, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let arrive = async move {
        while let Some((arrives, bytes)) = under_way.recv().await {
            if !distance.is_zero() {
                tokio::time::sleep_until(arrives).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(leave, arrive);
}

async fn swallow(mut from: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(1..) = from.read(&mut buffer).await {}
}
