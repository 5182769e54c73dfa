//! The connections below the routes: how many, how slow they may be, how they end.
//!
//! In: a listener and a router. Out: served connections. On stop the server first says so
//! (readiness 503, `Connection: close` on every answer) while it still takes connections, so
//! that balancers and keep-alive clients can move on; then it takes in who already waits at the
//! door, closes it, hears whoever came in last, lets every request that is inside finish, cuts
//! whoever is silent, and returns.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;
use tracing::{debug, warn};

use super::client::Peer;
use super::room::{Guest, Room};
use super::stream::Stream;
use crate::vitals::Vitals;

/// The next request on a connection begins within this time, or the connection is closed. For the
/// head itself see [`super::stream`].
const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// Larger request heads are answered 431. They may be noticed only at twice the size: hyper looks
/// between two reads.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Between the announcement of the stop and the closing of the door.
const LAME_DUCK: Duration = Duration::from_millis(500);
/// Between the closing of the door and that of idle connections: the first request of whoever came
/// in last is on its way, and to close its connection would reset it.
const LAST_CALL: Duration = Duration::from_millis(250);
/// Requests that are inside finish within this time after the door has closed, or are cut: a client
/// that never sends the rest of its request must not keep the process from ending.
const FINISH_LIMIT: Duration = Duration::from_secs(5);
/// After an error of the listener itself, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`, then until every request that is inside has been answered.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    room: Arc<Room>,
    vitals: Arc<Vitals>,
    stop: CancellationToken,
) {
    let (graceful, cut) = (GracefulShutdown::new(), CancellationToken::new());
    let door_closes = async {
        stop.cancelled().await;
        vitals.drain();
        tokio::time::sleep(LAME_DUCK).await; // the announcement needs time to be seen
    };
    tokio::pin!(door_closes);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut door_closes => break,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &routes, &room, &graceful, &cut),
            Err(cause) => {
                warn!(%cause, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever has connected may have sent a request already; closing would reset it.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        admit(stream, peer, &routes, &room, &graceful, &cut);
    }
    drop(listener);
    tokio::time::sleep(LAST_CALL).await;
    if tokio::time::timeout(FINISH_LIMIT, graceful.shutdown()).await.is_err() {
        warn!(seconds = FINISH_LIMIT.as_secs(), "connections that did not finish are cut");
        cut.cancel();
    }
}

/// Serves a connection in a task of its own until it ends, is cut or has to leave. One that there
/// is no room for is closed.
fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    routes: &Router,
    room: &Arc<Room>,
    graceful: &GracefulShutdown,
    cut: &CancellationToken,
) {
    let leave = cut.child_token();
    let Some(place) = room.enter(peer.ip(), leave.clone()) else { return };
    let connection = graceful.watch(connection(stream, peer, place.guest.clone(), routes.clone()));
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = connection => ended,
            () = leave.cancelled() => Ok(()),
        };
        if let Err(cause) = ended {
            debug!(%cause, "a connection ended early");
        }
        drop(place);
    });
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    guest: Arc<Guest>,
    routes: Router,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    let _ = stream.set_nodelay(true); // only a matter of speed
    let stream = Stream::new(stream, guest.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        guest.asks();
        let (mut routes, guest) = (routes.clone(), guest.clone());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        async move {
            let answer = routes.call(request).await.map_err(|e: Infallible| e);
            guest.is_answered();
            answer
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::super::room::tests::room;
    use super::super::stream::{HEAD_LIMIT, WRITE_LIMIT};
    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
    const LARGE_BODY: &str = "/large";
    const LARGE: usize = 32 << 20;

    /// Serves in a room for so many; where it listens, and what ends it.
    async fn serving(most: usize) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, vitals) = (CancellationToken::new(), Arc::new(Vitals::default()));
        let large = get(async || vec![b'x'; LARGE]);
        let routes = Router::new().route(LARGE_BODY, large).fallback(async || "here");
        let served = tokio::spawn(serve(listener, routes, room(most, 0), vitals, stop.clone()));
        (address, stop, served)
    }

    async fn is_answered(stream: &mut TcpStream) {
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = vec![0; 512];
        let length = stream.read(&mut answer).await.unwrap();
        assert!(
            answer[..length].starts_with(b"HTTP/1.1 200") && answer[..length].ends_with(b"here")
        );
    }

    /// Reads until the other end closes; how long that took.
    async fn is_closed(stream: &mut TcpStream) -> Duration {
        let begun = Instant::now();
        let _ = stream.read_to_end(&mut Vec::new()).await; // a reset is an end too
        begun.elapsed()
    }

    #[tokio::test]
    async fn the_request_of_whoever_came_in_last_is_answered() {
        let (address, stop, served) = serving(9).await;
        stop.cancel();
        let mut last = TcpStream::connect(address).await.unwrap();
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        is_answered(&mut last).await;
        served.await.unwrap();
    }

    #[tokio::test]
    async fn in_a_full_room_whoever_comes_is_heard() {
        let (address, ..) = serving(2).await;
        let mut silent = [(); 2].map(|()| std::net::TcpStream::connect(address).unwrap());
        for _ in 0..5 {
            is_answered(&mut TcpStream::connect(address).await.unwrap()).await;
        }
        silent[0].set_nonblocking(false).unwrap();
        let closed = std::io::Read::read(&mut silent[0], &mut [0]);
        assert!(matches!(closed, Ok(0) | Err(_)), "the silent one has left");
    }

    // Time stands still in these, except that it jumps to whatever is waited for.

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_by_the_byte_is_cut_and_a_silent_connection_kept_for_longer() {
        let (address, ..) = serving(9).await;
        let mut nothing = TcpStream::connect(address).await.unwrap();
        assert_eq!(is_closed(&mut nothing).await.as_secs(), HEAD_LIMIT.as_secs());
        let mut silent = TcpStream::connect(address).await.unwrap();
        is_answered(&mut silent).await;
        tokio::time::sleep(IDLE_LIMIT / 2).await;
        is_answered(&mut silent).await;
        assert_eq!(is_closed(&mut silent).await.as_secs(), IDLE_LIMIT.as_secs());
        for first in [true, false] {
            let mut slow = TcpStream::connect(address).await.unwrap();
            if !first {
                is_answered(&mut slow).await;
                tokio::time::sleep(HEAD_LIMIT * 2).await;
            }
            let begun = Instant::now();
            for byte in REQUEST {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if slow.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            let cut = begun.elapsed().as_secs();
            assert!((10..=13).contains(&cut), "cut after {cut} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_given_up() {
        let (address, ..) = serving(9).await;
        let mut deaf = TcpStream::connect(address).await.unwrap();
        deaf.write_all(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
        tokio::time::sleep(WRITE_LIMIT * 2).await;
        let mut read = Vec::new();
        let _ = deaf.read_to_end(&mut read).await;
        assert!(read.len() < LARGE, "read {} bytes", read.len());
    }
}
