//! A wire to the broker that can be told to misbehave.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Forward,
    /// Keeps the sockets and forwards nothing, as a network that drops every packet.
    Swallow,
    Cut,
}

type Injector = Arc<Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>>;

pub struct Wire {
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    to_client: Injector,
    to_broker: Injector,
}

impl Wire {
    /// In front of `broker` (host:port). Bytes can be injected into its latest connection.
    pub async fn start(broker: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, watched) = watch::channel(Mode::Forward);
        let (to_client, to_broker) = (Injector::default(), Injector::default());
        let (inject_client, inject_broker) = (to_client.clone(), to_broker.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (client_in, client_out) = client.into_split();
                let (broker_in, broker_out) =
                    TcpStream::connect(&broker).await.unwrap().into_split();
                tokio::spawn(pump(client_in, broker_out, watched.clone(), channel(&inject_broker)));
                tokio::spawn(pump(broker_in, client_out, watched.clone(), channel(&inject_client)));
            }
        });
        Self { address, mode, to_client, to_broker }
    }

    pub fn swallow(&self) {
        self.mode.send_replace(Mode::Swallow);
    }

    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// As if the broker had sent it; only while nothing else is on its way.
    pub fn to_client(&self, bytes: &[u8]) {
        self.to_client.lock().unwrap().as_ref().unwrap().send(bytes.to_vec()).unwrap();
    }

    /// As if our client had sent it.
    pub fn to_broker(&self, bytes: &[u8]) {
        self.to_broker.lock().unwrap().as_ref().unwrap().send(bytes.to_vec()).unwrap();
    }
}

fn channel(injector: &Injector) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    *injector.lock().unwrap() = Some(sender);
    receiver
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    mut injected: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let now = *mode.borrow_and_update();
        if now == Mode::Cut {
            return;
        }
        tokio::select! {
            read = from.read(&mut buffer), if now == Mode::Forward => match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => if to.write_all(&buffer[..bytes]).await.is_err() { return },
            },
            Some(bytes) = injected.recv() => if to.write_all(&bytes).await.is_err() { return },
            _ = mode.changed() => {}
        }
    }
}
