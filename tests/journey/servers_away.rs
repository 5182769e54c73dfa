//! A server goes away under load and comes back: what clients see meanwhile, and what is left.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use booking::queue::{self, Connection, Message, Verdict};
use booking::store;
use serde_json::json;
use uuid::Uuid;

use crate::load::{Load, Try};
use crate::stage::{Answer, Process, Stage, User, at, start_servers, until};

const PAUSE: Duration = Duration::from_millis(20);

#[tokio::test]
async fn without_redis_partitions_change_hands_by_the_fence_and_no_client_notices() {
    let mut servers = start_servers("redis-away", false, false, true).await;
    let redis = servers.redis.as_mut().unwrap();
    let stage = Stage { redis_url: redis.url(), ..Stage::new("redis-away").await };
    let gateway = stage.gateway().await;
    let (mut doomed, heir) = (stage.worker().await, stage.worker().await);
    both_own(&doomed, 2, &heir, 2).await;

    let load = Load::start(6, PAUSE, &[&gateway]);
    load.is_accepted(50).await;
    redis.stop().await;
    load.is_accepted(50).await;
    doomed.kill().await;
    owns(&heir, 4).await;
    let waiting = User::new(&gateway).who_waits();
    let asked = Instant::now();
    waiting.books(0, 30).await.is(201);
    assert!(asked.elapsed() < Duration::from_secs(20), "answered by polling, not by the limit");
    redis.start().await.unwrap();
    let third = stage.worker().await;
    both_own(&heir, 2, &third, 2).await;
    load.is_accepted(50).await;

    let tries = load.end().await;
    assert!(tries.iter().all(Try::is_accepted), "{:?}", first_refused(&tries));
    for process in [&gateway, &heir] {
        process.tells_of_loss_and_return("redis").await;
        process.log_is_calm();
    }
    stage.all_promises_hold().await;
    each_slot_is_booked_once(&stage, &tries, 1).await;
}

#[tokio::test]
async fn without_rabbitmq_commands_are_accepted_up_to_a_limit_and_drain_by_themselves() {
    let mut servers = start_servers("rabbitmq-away", false, true, false).await;
    let rabbitmq = servers.rabbitmq.as_mut().unwrap();
    let stage = Stage { amqp_url: rabbitmq.url("t1"), ..Stage::new("rabbitmq-away").await };
    // However long the broker takes to start: how much one calendar may ask for is not the point,
    // and how long commands may wait is that of the strict gateway alone.
    let unlimited = ("MAX_UNDECIDED_PER_CALENDAR", "0");
    let gateway = stage.start("gateway", &[unlimited, ("OUTBOX_MAX_AGE", "600")]).await;
    gateway.is_ready().await;
    let worker = stage.worker().await;
    let strict = stage.start("gateway", &[unlimited, ("OUTBOX_MAX_AGE", "1")]).await;
    strict.is_ready().await;

    let load = Load::start(4, PAUSE, &[&gateway]);
    load.is_accepted(50).await;
    rabbitmq.stop().await;
    load.is_accepted(50).await;
    let user = User::new(&strict);
    let overloaded = first_with(503, async || user.books(0, 30).await).await;
    assert_eq!(overloaded.code(), "OVERLOADED");
    assert_eq!(overloaded.header("retry-after"), "1");
    says(&gateway, 200, "degraded", "rabbitmq").await;
    says(&worker, 503, "unavailable", "rabbitmq").await;

    rabbitmq.start().await.unwrap();
    let late = User::new(&strict);
    first_with(202, async || late.books(0, 30).await).await;
    gateway.is_ready().await;
    worker.is_ready().await;
    load.is_accepted(50).await;
    let tries = load.end().await;
    assert!(tries.iter().all(Try::is_accepted), "{:?}", first_refused(&tries));
    for process in [&gateway, &strict, &worker] {
        process.tells_of_loss_and_return("rabbitmq").await;
        process.log_is_calm();
    }
    stage.all_promises_hold().await;
    stage.everything_is_relayed().await;
    let failed = "select count(*) from commands where status = 'failed'";
    assert_eq!(stage.number(failed).await, 0);
}

#[tokio::test]
async fn without_postgres_clients_are_told_to_retry_and_nothing_is_lost_or_doubled() {
    let mut servers = start_servers("postgres-away", true, false, false).await;
    let postgres = servers.postgres.as_mut().unwrap();
    postgres.create_database("booking").await.unwrap();
    let stage =
        Stage { database_url: postgres.url("booking"), ..Stage::new("postgres-away").await };
    store::migrate(&stage.database_url, stage.partitions).await.unwrap();
    let (gateway, worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway);
    let accepted = user.books(0, 30).await.is(202);
    user.polls(&accepted).await;

    let load = Load::start(6, PAUSE, &[&gateway]);
    load.is_accepted(50).await;
    postgres.kill().await;
    load.is_refused(10).await;
    let read = user.get(accepted.location()).await.is(503);
    assert_eq!(read.code(), "DEPENDENCY_UNAVAILABLE");
    says(&gateway, 503, "unavailable", "postgres").await;
    says(&worker, 503, "unavailable", "postgres").await;
    postgres.start().await.unwrap();
    load.is_accepted(50).await;

    let tries = load.end().await;
    let refused: Vec<&Try> = tries.iter().filter(|tried| !tried.is_accepted()).collect();
    for Try { took, answer, .. } in &refused {
        let answer = answer.as_ref().expect("every request is answered");
        assert_eq!((answer.status, answer.code()), (503, "DEPENDENCY_UNAVAILABLE"));
        assert_eq!(answer.header("retry-after"), "1");
        assert!(*took < Duration::from_secs(9), "answered only after {took:?}");
    }
    for process in [&gateway, &worker] {
        process.tells_of_loss_and_return("postgres").await;
        process.log_is_calm();
    }
    stage.all_promises_hold().await;
    stage.everything_is_relayed().await;
    each_slot_is_booked_once(&stage, &tries, 1).await;
}

#[tokio::test]
async fn a_poisoned_message_ends_in_the_dead_queue_and_stops_nothing_else() {
    let stage = Stage::new("poisoned-message").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let broker = Connection::open(&stage.amqp_url, "test").await.unwrap();
    let garbage = |partition| Message {
        exchange: queue::COMMANDS_EXCHANGE,
        routing_key: queue::partition_key(partition),
        message_id: format!("garbage-{partition}"),
        kind: String::new(),
        content_type: "application/json",
        correlation_id: None,
        reply_to: None,
        headers: Vec::new(),
        body: b"\xffnot commands".to_vec(),
        mandatory: true,
    };
    let garbage: Vec<Message> = (0..stage.partitions).map(garbage).collect();
    let load = Load::start(6, PAUSE, &[&gateway]);
    load.is_accepted(20).await;
    let limit = Duration::from_secs(5);
    let verdicts = broker.publisher().await.unwrap().publish_all(&garbage, limit).await;
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Confirmed), "{verdicts:?}");
    until("the garbage is in the dead queue", async || {
        let dead = broker.depth(queue::DEAD_QUEUE).await.unwrap();
        dead.ready == u32::from(stage.partitions)
    })
    .await;
    load.is_accepted(20).await;
    let tries = load.end().await;
    assert!(tries.iter().all(Try::is_accepted), "{:?}", first_refused(&tries));
    stage.all_promises_hold().await;
    each_slot_is_booked_once(&stage, &tries, 0).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_written_fails_alone_and_leaves_a_dead_letter() {
    let stage = Stage::new("poisoned-command").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway);
    let model = user.books(0, 30).await.is(202);
    user.polls(&model).await;
    let load = Load::start(6, PAUSE, &[&gateway]);
    load.is_accepted(20).await;
    let poison = plant_a_backward_interval(&stage, model.text("commandId")).await;
    let next = user.books(60, 90).await.is(202);
    assert_eq!(user.polls(&next).await.text("status"), "succeeded");
    until("the poison is given up", async || {
        let answer = user.get(&format!("/api/commands/{poison}")).await.is(200);
        answer.text("status") == "failed"
    })
    .await;
    let letter: String = sqlx::query_scalar(
        "select source || ': ' || reason from dead_letters where command_id = $1",
    )
    .bind(poison)
    .fetch_one(&mut stage.database().await)
    .await
    .unwrap();
    assert!(letter.starts_with("worker: "), "{letter}");
    load.is_accepted(20).await;
    let tries = load.end().await;
    assert!(tries.iter().all(Try::is_accepted), "{:?}", first_refused(&tries));
    stage.all_promises_hold().await;
    each_slot_is_booked_once(&stage, &tries, 2).await;
}

/// Plants a copy of a command whose interval ends before it starts, as no door would accept it.
async fn plant_a_backward_interval(stage: &Stage, model: &str) -> Uuid {
    let (id, booking) = (Uuid::now_v7(), Uuid::now_v7());
    let text = |minute| json!(at(minute)).as_str().unwrap().to_owned();
    let planted = sqlx::query(
        "with planted as (
           insert into commands (id, booking_id, calendar_id, partition, kind, caller, fingerprint,
                                 content, accepted_at)
           select $1, $2, calendar_id, partition, kind, caller, fingerprint,
                  replace(replace(replace(content, id::text, $1::text),
                                  booking_id::text, $2::text), $4, $5), now()
           from commands where id = $3
           returning *)
         insert into outbox (stream, message_id, subject, partition, appended_at)
         select 1, id, calendar_id, partition, now() from planted",
    )
    .bind(id)
    .bind(booking)
    .bind(Uuid::parse_str(model).unwrap())
    .bind(text(30))
    .bind(text(-30))
    .execute(&mut stage.database().await)
    .await
    .unwrap();
    assert_eq!(planted.rows_affected(), 1);
    id
}

async fn owns(worker: &Process, partitions: u32) {
    until("the worker owns its partitions", async || {
        worker.metric("booking_partitions_owned").await == f64::from(partitions)
    })
    .await;
}

async fn both_own(one: &Process, first: u32, other: &Process, second: u32) {
    until("the partitions are spread", async || {
        one.metric("booking_partitions_owned").await == f64::from(first)
            && other.metric("booking_partitions_owned").await == f64::from(second)
    })
    .await;
}

/// Waits until readiness answers so and names the server that is down.
async fn says(process: &Process, status: u16, word: &str, down: &str) {
    let ready = process.url("/health/ready");
    until("readiness says so", async || {
        let answer = Answer::of(reqwest::get(&ready).await.unwrap()).await;
        answer.status == status
            && answer.text("status") == word
            && answer.body["checks"][down] == "down"
    })
    .await;
}

/// Asks until an answer has this status.
async fn first_with(status: u16, mut ask: impl AsyncFnMut() -> Answer) -> Answer {
    let mut last = ask().await;
    until("the answer has the status", async || {
        if last.status != status {
            last = ask().await;
        }
        last.status == status
    })
    .await;
    last
}

fn first_refused(tries: &[Try]) -> Option<&Result<Answer, String>> {
    tries.iter().find(|tried| !tried.is_accepted()).map(|tried| &tried.answer)
}

/// Every key of the load has led to one booking; `others` are not the load's.
async fn each_slot_is_booked_once(stage: &Stage, tries: &[Try], others: usize) {
    let keys: HashSet<&str> = tries.iter().map(|tried| tried.key.as_str()).collect();
    let bookings = stage.number("select count(*) from bookings where status = 'CONFIRMED'").await;
    assert_eq!(usize::try_from(bookings).unwrap(), keys.len() + others);
}
