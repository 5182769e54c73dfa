//! A connection that is lost, blocked or never made: everyone notices, nothing is left behind.

use std::time::{Duration, Instant};

use booking::queue::{Connection, Consumer, QueueError, Verdict, partition_queue};
use futures::FutureExt as _;
use tokio::time::timeout;

use crate::broker::{LIMIT, connect, messages, publish, purge, until, url};
use crate::wire::Wire;

/// A connection over a wire of our own, and the partition's queue empty.
async fn over_a_wire(partition: u16) -> (Wire, Connection) {
    connect().await.close().await;
    purge(&partition_queue(partition)).await;
    let uri: lapin::uri::AMQPUri = url().parse().unwrap();
    let wire = Wire::start(format!("{}:{}", uri.authority.host, uri.authority.port)).await;
    let (host, port) = (wire.address.ip(), wire.address.port());
    let connection =
        Connection::open(&format!("amqp://guest:guest@{host}:{port}/%2f"), "over a wire")
            .await
            .unwrap();
    (wire, connection)
}

/// The consumer is over, and says so again and again.
async fn ends(consumer: &mut Consumer) {
    timeout(LIMIT, async {
        while consumer.next().await.is_some() {}
        assert!(consumer.next().await.is_none());
    })
    .await
    .expect("the consumer ends, and stays so");
}

/// Threads of lapin in this process: one for each connection it has not given up.
fn lapin_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.filter_map(name).filter(|name| name.starts_with("lapin-io-loop")).count()
}

/// Publishes without end until the answers stop; the last verdicts, and how long they took.
async fn publish_until_unknown(
    connection: Connection,
    partition: u16,
    limit: Duration,
) -> (Vec<Verdict>, Duration) {
    let mut publisher = connection.publisher().await.unwrap();
    loop {
        let start = Instant::now();
        let verdicts = publisher.publish_all(&messages(partition, 600), limit).await;
        if verdicts.contains(&Verdict::Unknown) {
            return (verdicts, start.elapsed());
        }
    }
}

/// Whatever happens to the connection, everyone who uses it notices, and soon.
async fn everyone_notices(partition: u16, strike: impl FnOnce(&Wire), within: Duration) {
    let (wire, connection) = over_a_wire(partition).await;
    let mut consumer = connection.consume(&partition_queue(11), "waiting", 1).await.unwrap();
    let acker = consumer.acker();
    let publishing = tokio::spawn(publish_until_unknown(connection.clone(), partition, LIMIT));
    let watcher = connect().await;
    until("it publishes", async || {
        watcher.depth(&partition_queue(partition)).await.unwrap().ready > 0
    })
    .await;

    let struck = Instant::now();
    strike(&wire);
    timeout(within, connection.closed()).await.expect("closed() resolves");
    assert!(!connection.is_open());
    let (verdicts, _) = timeout(within, publishing).await.expect("publish_all answers").unwrap();
    assert!(verdicts.contains(&Verdict::Unknown));
    timeout(within, ends(&mut consumer)).await.expect("the consumer ends");
    println!("noticed by all after {:?}", struck.elapsed());
    assert!(struck.elapsed() < within);

    assert!(acker.ack_through(1).await.is_err());
    assert!(connection.publisher().await.is_err());
    assert!(connection.depth(&partition_queue(11)).await.is_err());
    connection.closed().await;
}

#[tokio::test]
async fn a_cut_connection_is_noticed() {
    everyone_notices(7, Wire::cut, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_connection_closed_by_the_broker_is_noticed() {
    // Not a frame of AMQP: the broker says goodbye with an error of its own, and hangs up.
    everyone_notices(8, |wire| wire.to_broker(&[0xFF; 64]), Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_silent_connection_is_noticed() {
    everyone_notices(9, Wire::swallow, Duration::from_secs(15)).await;
}

#[tokio::test]
async fn closing_is_noticed() {
    let connection = connect().await;
    let mut consumer = connection.consume(&partition_queue(11), "waiting", 1).await.unwrap();
    let mut closed = Box::pin(connection.closed());
    assert!(closed.as_mut().now_or_never().is_none(), "not yet");
    connection.close().await;
    timeout(Duration::from_secs(2), closed).await.unwrap();
    assert!(!connection.is_open());
    ends(&mut consumer).await;
}

/// A frame on channel 0 with a method of class `connection`.
fn connection_frame(method: u16, arguments: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 10];
    payload.extend(method.to_be_bytes());
    payload.extend(arguments);
    let mut frame = vec![1, 0, 0];
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}

#[tokio::test]
async fn while_the_alarm_is_on_publishing_waits_and_then_gives_up() {
    let (wire, connection) = over_a_wire(10).await;
    let mut publisher = connection.publisher().await.unwrap();
    wire.to_client(&connection_frame(60, b"\x03low"));
    until("blocked", async || connection.is_blocked()).await;

    let start = Instant::now();
    let verdicts = publisher.publish_all(&messages(10, 2), Duration::from_millis(300)).await;
    assert_eq!(verdicts, [Verdict::Unknown; 2]);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(matches!(connection.publisher().await, Err(QueueError::Blocked)));
    assert!(connection.is_open());

    wire.to_client(&connection_frame(61, b""));
    until("unblocked", async || !connection.is_blocked()).await;
    publisher.publish_all(&[], LIMIT).await;
    let verdicts = publisher.publish_all(&messages(10, 1), LIMIT).await;
    assert_eq!(verdicts, [Verdict::Unknown], "a spent publisher stays spent");
    publish(&connection, &messages(10, 1)).await;
    let watcher = connect().await;
    until("one", async || watcher.depth(&partition_queue(10)).await.unwrap().ready > 0).await;
    assert_eq!(
        watcher.depth(&partition_queue(10)).await.unwrap().ready,
        1,
        "nothing was sent while blocked"
    );

    // Closing a connection that may not write takes its time, but not more.
    wire.to_client(&connection_frame(60, b"\x03low"));
    until("blocked again", async || connection.is_blocked()).await;
    timeout(Duration::from_secs(5), connection.close()).await.unwrap();
    assert!(!connection.is_open());
}

#[tokio::test]
async fn a_broker_that_never_greets_leaves_nothing_behind() {
    // Accepts, and says nothing: as a broker that is stopped or frozen.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:guest@{}/%2f", silent.local_addr().unwrap());
    let start = Instant::now();
    let attempts = (0..4).map(|_| Connection::open(&url, "silent"));
    let refused = timeout(LIMIT, futures::future::join_all(attempts)).await.unwrap();
    assert!(refused.iter().all(|open| matches!(open, Err(QueueError::Timeout { .. }))));
    assert!(start.elapsed() < Duration::from_secs(6));

    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(timeout(LIMIT, silent.accept()).await.unwrap().unwrap().0);
    }
    for mut socket in sockets {
        let mut said = Vec::new();
        let ended =
            timeout(LIMIT, tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut said)).await;
        assert!(ended.is_ok(), "our side hung up");
    }
}

#[tokio::test]
async fn errors_hold_no_password() {
    let refused =
        Connection::open("amqp://guest:secret@127.0.0.1:1/%2f", "nobody").await.err().unwrap();
    assert!(matches!(refused, QueueError::Connect { .. }), "{refused:?}");
    for url in [
        "secret:secret",
        "http://guest:secret@x/",
        "amqp://guest:secret@[::1]:5672/%2f",
        "amqp://a:secret@h:x",
    ] {
        let error = Connection::open(url, "nobody").await.err().unwrap();
        assert!(matches!(error, QueueError::Url(_)), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
    }
}

#[tokio::test]
async fn connections_that_are_gone_hold_no_thread() {
    // Other tests run beside this one and have threads too: their number must come down again in time.
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(connect().await);
    }
    let publisher = held[0].publisher().await.unwrap();
    assert!(lapin_threads() >= 20);
    held.drain(1..);
    until("nineteen threads end", async || lapin_threads() < 20).await;
    drop(held);
    drop(publisher);
}
