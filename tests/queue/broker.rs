//! The broker of the tests, and what they do with it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use booking::dev::{self, Servers, Settings};
use booking::queue::{
    COMMANDS_EXCHANGE, Connection, Consumer, Delivery, Message, Verdict, partition_key,
};
use lapin::options::QueuePurgeOptions;
use tokio::time::timeout;

pub const PARTITIONS: u16 = 12;
pub const LIMIT: Duration = Duration::from_secs(20);

/// The broker of all tests of this process, started when the first asks for it. A thread of its
/// own keeps it; it ends with the process, however that ends.
pub fn url() -> String {
    static URL: OnceLock<String> = OnceLock::new();
    let start = || {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let settings = Settings {
                    dir: scratch(),
                    postgres: false,
                    rabbitmq: true,
                    redis: false,
                    vhosts: 0,
                    tls: None,
                };
                let servers = Servers::start(&settings).await.unwrap();
                sender.send(servers.rabbitmq.as_ref().unwrap().url("/")).unwrap();
                std::future::pending::<()>().await;
            });
        });
        receiver.recv().expect("the broker starts")
    };
    URL.get_or_init(start).clone()
}

/// This run's folder. Folders of runs that are over are removed.
fn scratch() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for old in std::fs::read_dir(root).unwrap().flatten() {
        let name = old.file_name().into_string().unwrap_or_default();
        let over = |pid: &str| !Path::new("/proc").join(pid).exists();
        if name.strip_prefix("queue-").is_some_and(over) {
            let _ = dev::remove(&old.path());
        }
    }
    root.join(format!("queue-{}", std::process::id()))
}

pub async fn connect() -> Connection {
    let connection = Connection::open(&url(), "tests").await.unwrap();
    connection.declare_topology(PARTITIONS).await.unwrap();
    connection
}

/// lapin itself, for what the module does not offer.
pub async fn bare_channel() -> (lapin::Connection, lapin::Channel) {
    let connection =
        lapin::Connection::connect(&url(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

pub async fn purge(queue: &str) {
    let (_connection, channel) = bare_channel().await;
    channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
}

pub fn message(partition: u16, number: usize) -> Message {
    Message {
        exchange: COMMANDS_EXCHANGE,
        routing_key: partition_key(partition),
        message_id: format!("m-{partition}-{number}"),
        kind: "test".into(),
        content_type: "application/json",
        correlation_id: None,
        reply_to: None,
        headers: vec![("traceparent".into(), format!("trace-{number}"))],
        body: format!("{number}").into_bytes(),
        mandatory: true,
    }
}

pub fn messages(partition: u16, count: usize) -> Vec<Message> {
    (0..count).map(|number| message(partition, number)).collect()
}

pub async fn publish(connection: &Connection, messages: &[Message]) {
    let mut publisher = connection.publisher().await.unwrap();
    let verdicts = publisher.publish_all(messages, LIMIT).await;
    assert_eq!(verdicts, vec![Verdict::Confirmed; messages.len()]);
}

pub async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(LIMIT, consumer.next())
        .await
        .expect("a delivery in time")
        .expect("the consumer lives")
        .unwrap()
}

pub fn number(delivery: &Delivery) -> usize {
    String::from_utf8(delivery.body.clone()).unwrap().parse().unwrap()
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    timeout(LIMIT, async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            look.tick().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never came true: {what}"));
}
