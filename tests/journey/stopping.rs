//! SIGTERM: a process finishes what it holds, gives back what it owns, and ends in time.

use std::time::{Duration, Instant};

use sqlx::Connection as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::load::{Load, Try};
use crate::stage::{Process, Stage, User, start_servers, until};

/// A process that was asked to stop has ended by then.
const IN_TIME: Duration = Duration::from_secs(10);
/// The process has noted the signal.
const STOPPING: &str = "stopping: finishing what is held";

#[tokio::test]
async fn a_gateway_stops_under_load_and_no_request_is_reset() {
    let stage = Stage::new("gateway-stops").await;
    let (mut leaving, staying) = (stage.gateway().await, stage.gateway().await);
    let _worker = stage.worker().await;
    let load = Load::start(16, Duration::ZERO, &[&leaving, &staying]);
    load.is_accepted(200).await;
    ends_well(&mut leaving).await;
    load.is_accepted(100).await;
    let tries = load.end().await;
    let refused = tries.iter().find(|tried| !tried.is_accepted()).map(|tried| &tried.answer);
    assert!(refused.is_none(), "{refused:?}");
    nothing_is_lost(&stage, &tries).await;
}

#[tokio::test]
async fn a_gateway_says_that_it_stops_while_its_door_is_still_open() {
    let stage = Stage::new("gateway-announces").await;
    let mut gateway = stage.gateway().await;
    let ready = gateway.url("/health/ready");
    gateway.signal("-TERM").await;
    let mut announced: Vec<Instant> = Vec::new();
    until("the door is closed", async || {
        let Ok(answer) = reqwest::get(&ready).await else { return true };
        if answer.status() == 503 {
            assert_eq!(answer.headers()["connection"], "close");
            announced.push(Instant::now());
        }
        false
    })
    .await;
    let (first, last) = (announced.first().unwrap(), announced.last().unwrap());
    let open = last.duration_since(*first);
    assert!(open > Duration::from_millis(200), "balancers saw it for {open:?} only");
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn a_worker_stops_under_load_and_the_other_takes_over_long_before_its_leases_run_out() {
    let stage = Stage::new("worker-stops").await;
    let gateway = stage.gateway().await;
    let lease = [("LEASE_SECONDS", "30")];
    let mut leaving = stage.start("worker", &lease).await;
    let staying = stage.start("worker", &lease).await;
    both_own_two(&leaving, &staying).await;
    let load = Load::start(16, Duration::from_millis(5), &[&gateway]);
    load.is_accepted(100).await;
    let begun = Instant::now();
    ends_well(&mut leaving).await;
    owns_all(&staying).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "taken after {:?}", begun.elapsed());
    load.is_accepted(50).await;
    let tries = load.end().await;
    assert!(tries.iter().all(Try::is_accepted));
    nothing_is_lost(&stage, &tries).await;
}

#[tokio::test]
async fn a_partition_is_handed_over_only_when_its_last_batch_is_acknowledged() {
    let stage = Stage::new("hand-over").await;
    let gateway = stage.gateway().await;
    let (mut leaving, user) = (stage.worker().await, User::new(&gateway));
    owns_all(&leaving).await;
    let first = user.books(0, 30).await.is(202);
    user.polls(&first).await;

    let mut database = stage.database().await;
    let mut transaction = database.begin().await.unwrap();
    let lock = "lock table audit in share mode"; // the commit of the batch waits for it
    sqlx::raw_sql(lock).execute(&mut *transaction).await.unwrap();
    let held = user.books(60, 90).await.is(202);
    until("the batch waits for the lock", async || {
        let waiting = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
                       where c.relname = 'audit' and not l.granted";
        stage.number(waiting).await == 1
    })
    .await;
    leaving.signal("-TERM").await;
    until("the worker has closed its door", async || {
        TcpStream::connect(&leaving.address).await.is_err()
    })
    .await;
    assert!(!leaving.log_text().contains("the partition is given back"), "a batch is under way");
    transaction.rollback().await.unwrap();
    assert!(leaving.ended().await.success(), "{}", leaving.log_text());
    assert_eq!(user.polls(&held).await.text("status"), "succeeded");

    let heir = stage.worker().await;
    owns_all(&heir).await;
    let next = user.books(120, 150).await.is(202);
    user.polls(&next).await;
    assert_eq!(heir.metric("booking_commands_duplicate_total").await, 0.0, "nothing came again");
    assert_eq!(heir.metric("booking_commands_decided_total").await, 1.0);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_client_that_waits_is_sent_away_with_its_202_when_the_gateway_stops() {
    let stage = Stage::new("sent-away").await;
    let mut gateway = stage.gateway().await; // and no worker: nothing is decided
    let user = User::new(&gateway).who_waits();
    let waiting = tokio::spawn(async move { user.books(0, 30).await });
    until("the command is accepted", async || {
        stage.number("select count(*) from commands").await == 1
    })
    .await;
    let begun = Instant::now();
    let (ended, answer) =
        tokio::join!(ends_well(&mut gateway), async { (waiting.await.unwrap(), begun.elapsed()) });
    let ((), (answer, took)) = (ended, answer);
    assert_eq!(answer.is(202).text("status"), "accepted");
    assert!(took < Duration::from_secs(3), "answered after {took:?}");
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_does_not_hold_up_the_end() {
    let stage = Stage::new("silent-clients").await;
    let mut gateway = stage.gateway().await;
    let mut silent = TcpStream::connect(&gateway.address).await.unwrap();
    let mut half = TcpStream::connect(&gateway.address).await.unwrap();
    half.write_all(b"POST /api/bookings HTTP/1.1\r\nHost: here\r\n").await.unwrap();
    let mut body = TcpStream::connect(&gateway.address).await.unwrap();
    let head = "POST /api/bookings HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\
                X-User-ID: 018f3b54-0000-7000-8000-000000000001\r\nIdempotency-Key: k\r\n\
                Content-Type: application/json\r\n\r\n{";
    body.write_all(head.as_bytes()).await.unwrap();
    gateway.is_ready().await; // so these connections were taken before
    ends_well(&mut gateway).await;
    for connection in [&mut silent, &mut half, &mut body] {
        let _ = connection.read_to_end(&mut Vec::new()).await; // closed: it does not hang
    }
}

#[tokio::test]
async fn a_second_signal_cuts() {
    let stage = Stage::new("second-signal").await;
    let mut gateway = stage.gateway().await;
    let mut database = stage.database().await;
    let mut transaction = database.begin().await.unwrap();
    sqlx::raw_sql("lock table commands").execute(&mut *transaction).await.unwrap();
    let held = reqwest::Client::new()
        .get(gateway.url("/api/commands/018f3b54-0000-7000-8000-000000000001"))
        .header("X-User-ID", "018f3b54-0000-7000-8000-000000000001");
    let held = tokio::spawn(held.send());
    until("the request waits for the lock", async || {
        let waiting = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
                       where c.relname = 'commands' and not l.granted";
        stage.number(waiting).await >= 1
    })
    .await;
    gateway.signal("-TERM").await;
    gateway.logged(STOPPING, "signal").await;
    let begun = Instant::now();
    gateway.signal("-TERM").await;
    let status = gateway.ended().await;
    assert_eq!(status.code(), Some(1), "{}", gateway.log_text());
    assert!(begun.elapsed() < Duration::from_secs(2), "cut after {:?}", begun.elapsed());
    let _ = held.await;
    transaction.rollback().await.unwrap();
}

#[tokio::test]
async fn processes_stop_in_time_while_rabbitmq_or_postgres_is_away() {
    let mut servers = start_servers("stop-alone", true, true, false).await;
    let (postgres, rabbitmq) =
        (servers.postgres.as_mut().unwrap(), servers.rabbitmq.as_mut().unwrap());
    postgres.create_database("booking").await.unwrap();
    let stage = Stage {
        database_url: postgres.url("booking"),
        amqp_url: rabbitmq.url("t1"),
        ..Stage::new("stop-alone").await
    };
    booking::store::migrate(&stage.database_url, stage.partitions).await.unwrap();
    let (mut gateway, mut worker) = (stage.gateway().await, stage.worker().await);
    let load = Load::start(4, Duration::from_millis(20), &[&gateway]);
    load.is_accepted(20).await;
    postgres.kill().await;
    load.is_refused(4).await;
    ends_well(&mut worker).await;
    ends_well(&mut gateway).await;

    postgres.start().await.unwrap();
    drop(load);
    let (mut gateway, mut worker) = (stage.gateway().await, stage.worker().await);
    stage.everything_is_decided().await;
    rabbitmq.kill().await;
    User::new(&gateway).books(0, 30).await.is(202);
    ends_well(&mut worker).await;
    ends_well(&mut gateway).await;
}

/// SIGTERM, and exit code 0 in time.
async fn ends_well(process: &mut Process) {
    let begun = Instant::now();
    let status = process.terminate().await;
    assert!(status.success(), "{status}:\n{}", process.log_text());
    assert!(begun.elapsed() < IN_TIME, "ended after {:?}", begun.elapsed());
}

async fn owns_all(worker: &Process) {
    until("the worker owns all partitions", async || {
        worker.metric("booking_partitions_owned").await == 4.0
    })
    .await;
}

async fn both_own_two(one: &Process, other: &Process) {
    until("the partitions are spread", async || {
        one.metric("booking_partitions_owned").await == 2.0
            && other.metric("booking_partitions_owned").await == 2.0
    })
    .await;
}

/// Every 202 that was seen has led to a decision.
async fn nothing_is_lost(stage: &Stage, tries: &[Try]) {
    stage.all_promises_hold().await;
    let accepted = tries.iter().filter(|tried| tried.is_accepted()).count();
    let succeeded = "select count(*) from commands where status = 'succeeded'";
    assert_eq!(stage.number(succeeded).await, i64::try_from(accepted).unwrap());
}
