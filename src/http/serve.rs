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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::room::tests::room;
    use super::*;

    #[tokio::test]
    async fn the_request_of_whoever_came_in_last_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, vitals) = (CancellationToken::new(), Arc::new(Vitals::default()));
        let routes = Router::new().fallback(async || "here");
        let serving =
            tokio::spawn(serve(listener, routes, room(9, 0), vitals.clone(), stop.clone()));
        stop.cancel();
        let mut last = TcpStream::connect(address).await.unwrap();
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        last.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 12];
        last.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
        serving.await.unwrap();
    }
}
