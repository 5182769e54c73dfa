//! A server that says nothing is worse than one that is away: no wait on it ends by itself.

use std::time::{Duration, Instant};

use booking::booking::Stream;
use futures::future::join_all;
use tokio::net::TcpListener;

use crate::link::Link;
use crate::load::{Load, Try};
use crate::stage::{Process, Stage, User, until};

/// The longest that a client waits for a 503, and what a busy machine adds.
const LONGEST_WAIT: Duration = Duration::from_secs(8 + 3);
/// What a supervisor grants, the process itself less.
const IN_TIME: Duration = Duration::from_secs(10);

#[tokio::test]
async fn no_client_hangs_on_a_silent_postgres_and_everyone_finds_back_to_it() {
    let stage = Stage::new("silent-postgres").await;
    let link = Link::to(&stage.database_url).await;
    let through_link = link.instead_of(&stage.database_url);
    let settings = [("DATABASE_URL", through_link.as_str())];
    let gateway = stage.start("gateway", &settings).await;
    gateway.is_ready().await;
    let worker = stage.start("worker", &settings).await;
    worker.is_ready().await;
    let user = User::new(&gateway);
    let known = user.books(0, 30).await.is(202);
    user.polls(&known).await;
    let load = Load::start(4, Duration::from_millis(20), &[&gateway]);
    load.is_accepted(50).await;
    // More than there are connections for reads, so that each of these is in use.
    join_all((0..20).map(|_| user.get(known.location()))).await;

    link.falls_silent();
    let begun = Instant::now();
    let reads = join_all((0..20).map(|_| user.get(known.location()))).await;
    assert!(begun.elapsed() < LONGEST_WAIT, "the last read took {:?}", begun.elapsed());
    assert!(reads.iter().all(|read| read.status == 503), "{reads:?}");
    load.is_refused(4).await;
    link.heals();
    load.is_accepted(50).await;
    for read in join_all((0..20).map(|_| user.get(known.location()))).await {
        read.is(200);
    }

    let tries = load.end().await;
    for Try { took, answer, .. } in tries.iter().filter(|tried| !tried.is_accepted()) {
        let answer = answer.as_ref().expect("every request is answered");
        assert_eq!((answer.status, answer.code()), (503, "DEPENDENCY_UNAVAILABLE"));
        assert!(*took < LONGEST_WAIT, "answered only after {took:?}");
    }
    stage.everything_is_relayed().await;
    stage.all_promises_hold().await;
}

/// It was asking for the lead when Postgres fell silent, and nobody else is left.
#[tokio::test]
async fn a_relay_that_stood_by_in_the_silence_can_lead_afterwards() {
    let stage = Stage::new("silent-standby").await;
    let mut leader = stage.gateway().await;
    leader.logged("this process relays the stream", "stream").await;
    let link = Link::to(&stage.database_url).await;
    let through_link = link.instead_of(&stage.database_url);
    let standby = stage.start("gateway", &[("DATABASE_URL", through_link.as_str())]).await;
    standby.is_ready().await;
    let asking = "select count(*) from pg_stat_activity where datname = current_database()
                  and query like '%pg_try_advisory_lock%' and application_name = 'booking relay'";
    let relays = i64::try_from(Stream::ALL.len()).unwrap();
    until("all its relays stand by", async || stage.number(asking).await == relays).await;
    link.falls_silent();
    until("the silence is noticed", async || {
        reqwest::get(standby.url("/health/ready")).await.unwrap().status() == 503
    })
    .await;
    link.heals();
    standby.is_ready().await;
    leader.kill().await;
    User::new(&standby).books(0, 30).await.is(202);
    stage.everything_is_relayed().await;
}

#[tokio::test]
async fn processes_stop_in_time_while_a_server_is_silent() {
    let stage = Stage::with_partitions("silent-stop", 16).await;
    for (server, url) in [
        ("DATABASE_URL", &stage.database_url),
        ("AMQP_URL", &stage.amqp_url),
        ("REDIS_URL", &stage.redis_url),
    ] {
        let link = Link::to(url).await;
        let through_link = link.instead_of(url);
        let settings = [(server, through_link.as_str())];
        let mut gateway = stage.start("gateway", &settings).await;
        gateway.is_ready().await;
        let mut worker = stage.start("worker", &settings).await;
        let user = User::new(&gateway);
        user.who_waits().books(0, 30).await.is(201);
        link.falls_silent();
        // Something is under way at both when they are told.
        let held = tokio::spawn(async move { user.books(60, 90).await });
        let (one, other) = (worker.signal("-TERM"), gateway.signal("-TERM"));
        tokio::join!(one, other);
        ends_well(server, &mut worker).await;
        ends_well(server, &mut gateway).await;
        let status = held.await.unwrap().status;
        assert!([202, 503].contains(&status), "{server}: {status}");
    }
    let (_gateway, _worker) = (stage.gateway().await, stage.worker().await);
    stage.everything_is_relayed().await;
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_worker_stops_in_time_when_postgres_falls_silent_under_its_batch() {
    let stage = Stage::with_partitions("silent-batch", 1).await;
    let gateway = stage.gateway().await;
    let link = Link::to(&stage.database_url).await;
    let through_link = link.instead_of(&stage.database_url);
    let mut worker = stage.start("worker", &[("DATABASE_URL", through_link.as_str())]).await;
    let user = User::new(&gateway);
    user.who_waits().books(0, 30).await.is(201);
    link.falls_silent();
    let held = user.books(60, 90).await.is(202);
    until("the worker holds the command", async || {
        gateway.metric("booking_queue_ready_messages").await == 0.0
            && stage.number("select count(*) from outbox").await == 0
    })
    .await;
    worker.signal("-TERM").await;
    ends_well("a silent batch", &mut worker).await;
    let _heir = stage.worker().await;
    assert_eq!(user.polls(&held).await.text("status"), "succeeded");
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_stop_during_the_start_is_heard() {
    let stage = Stage::new("stop-start").await;
    // A database that takes the connection and says nothing: the start waits for it.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/nothing", silent.local_addr().unwrap());
    for role in ["gateway", "worker", "serve"] {
        let mut starting = stage.spawn(role, &[("DATABASE_URL", url.as_str())]);
        starting.listens_to_signals().await;
        starting.signal("-TERM").await;
        ends_well(role, &mut starting).await;
    }
}

/// Exit code 0, in time.
async fn ends_well(what: &str, process: &mut Process) {
    let begun = Instant::now();
    let status = process.ended().await;
    let took = begun.elapsed();
    assert!(
        status.success() && took < IN_TIME,
        "{what}: {status} after {took:?}:\n{}",
        process.log_text()
    );
}
