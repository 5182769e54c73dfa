//! The private servers: all answer, restart in place, and end with whoever started them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use booking::dev::{Servers, Settings};

use crate::run::{DEADLINE, Dir};

#[tokio::test]
async fn all_three_answer_restart_in_place_and_leave_nothing() {
    let dir = Dir::new();
    let mut servers = Servers::start(&dir.settings()).await.unwrap();
    let postgres = servers.postgres.as_ref().unwrap();
    assert_eq!(postgres.sql("postgres", "select 1").await.unwrap(), "1");
    for _ in 0..2 {
        postgres.create_database("booking").await.unwrap();
    }
    let fsync = postgres.sql("booking", "show fsync").await.unwrap();
    assert_eq!(fsync, "on");

    let redis = servers.redis.as_ref().unwrap();
    assert_eq!(ask(redis.port(), b"PING\r\n", 7), b"+PONG\r\n");
    let rabbitmq = servers.rabbitmq.as_ref().unwrap();
    assert_eq!(ask(rabbitmq.port(), b"AMQP\x00\x00\x09\x01", 1), [1]);
    assert!(rabbitmq.url("t2").ends_with("/t2"));

    let redis = servers.redis.as_mut().unwrap();
    assert_eq!(ask(redis.port(), b"SET key value\r\n", 5), b"+OK\r\n");
    redis.stop().await;
    assert!(TcpStream::connect(("127.0.0.1", redis.port())).is_err());
    redis.start().await.unwrap();
    assert_eq!(ask(redis.port(), b"GET key\r\n", 5), b"$-1\r\n");
    redis.kill().await;
    redis.start().await.unwrap();

    let postgres = servers.postgres.as_mut().unwrap();
    postgres.sql("postgres", "create table kept as select 42 as answer").await.unwrap();
    for _ in 0..3 {
        postgres.kill().await;
        postgres.start().await.unwrap();
    }
    postgres.stop().await;
    postgres.start().await.unwrap();
    let answer = postgres.sql("postgres", "select answer from kept").await;
    assert_eq!(answer.unwrap(), "42");

    let rabbitmq = servers.rabbitmq.as_mut().unwrap();
    rabbitmq.stop().await;
    assert!(TcpStream::connect(("127.0.0.1", rabbitmq.port())).is_err());
    rabbitmq.start().await.unwrap();
    rabbitmq.kill().await;
    rabbitmq.start().await.unwrap();
    assert_eq!(ask(rabbitmq.port(), b"AMQP\x00\x00\x09\x01", 1), [1]);

    servers.stop().await;
    dir.has_no_process();
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let dir = Dir::new();
    let settings = Settings { postgres: false, ..dir.without_rabbitmq() };
    let first = Servers::start(&settings).await.unwrap();
    let refusal = Servers::start(&settings).await.err().unwrap().to_string();
    let owner = format!("in use by process {}", std::process::id());
    assert!(refusal.contains(&owner), "{refusal}");
    let redis = first.redis.as_ref().unwrap();
    assert_eq!(ask(redis.port(), b"PING\r\n", 7), b"+PONG\r\n");
    first.stop().await;
    Servers::start(&settings).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_failed_start_says_what_failed_and_stops_the_others() {
    let dir = Dir::new();
    let settings = Settings { rabbitmq: false, ..dir.settings() };
    Servers::start(&settings).await.unwrap().stop().await;
    fs::write(dir.0.join("postgres/data/pg_hba.conf"), "nonsense\n").unwrap();
    let failure = Servers::start(&settings).await.err().unwrap();
    let failure = format!("{failure:#}");
    for part in ["PostgreSQL failed", "bin/postgres -D", "could not load"] {
        assert!(failure.contains(part), "{failure}");
    }
    dir.has_no_process();
}

#[tokio::test]
async fn a_dropped_start_or_stack_is_stopped() {
    let dir = Dir::new();
    let settings = dir.settings();
    let start = tokio::time::timeout(Duration::from_millis(300), Servers::start(&settings));
    assert!(start.await.is_err(), "no RabbitMQ starts that fast");
    // What the server's own script has just begun may not be seen, and ends by itself.
    dir.wait_until_no_process_runs();
    drop(Servers::start(&dir.without_rabbitmq()).await.unwrap());
    dir.has_no_process();
}

/// The start may be awaited in any task.
#[allow(dead_code)]
fn a_start_can_be_spawned(settings: &'static Settings) {
    drop(tokio::spawn(Servers::start(settings)));
}

/// Sends a request and reads the first bytes of the answer.
fn ask(port: u16, request: &[u8], length: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).unwrap();
    answer
}
