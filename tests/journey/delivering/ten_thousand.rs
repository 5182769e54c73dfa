//! Ten thousand bookings, five receivers of every kind, a kill and a restart of the broker.

use std::collections::HashSet;
use std::time::Duration;

use booking::booking::calendar::partition_of;
use booking::booking::command::{Change, Command};
use booking::store::commands::{self, NewCommand};
use chrono::Utc;
use serde_json::json;
use uuid::Uuid;

use super::webhooks;
use crate::receiver::{Receiver, Reply, at_once, fast};
use crate::stage::{Stage, at, start_servers, until};

const BOOKINGS: i64 = 10_000;
/// Commands that are accepted in one commit.
const BATCH: i64 = 250;
/// For one that fails every other time: enough tries that none is exhausted.
const SCHEDULE: (&str, &str) =
    ("WEBHOOK_RETRY_SCHEDULE", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1");

#[tokio::test]
async fn ten_thousand_bookings_reach_whoever_listens_whatever_the_others_do() {
    let mut servers = start_servers("ten-thousand", false, true, false).await;
    let rabbitmq = servers.rabbitmq.as_mut().unwrap();
    let stage = Stage { amqp_url: rabbitmq.url("t1"), ..Stage::new("ten-thousand").await };
    let _worker = stage.worker().await;
    let mut first = webhooks(&stage, &[SCHEDULE]).await;
    let moody: fn(usize) -> Reply =
        |turn| at_once(if turn % 2 == 0 { "500 Internal Server Error" } else { "204 No Content" });
    let slow: fn(usize) -> Reply =
        |_| Reply { after: Duration::from_secs(10), head: "204 No Content" };
    let live = Receiver::start(fast).await;
    let slow = Receiver::start(slow).await;
    let moody = Receiver::start(moody).await;
    let gone = Receiver::start(|_| at_once("410 Gone")).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to_live = stage.endpoint(None, &live.url(), &["booking.*"]).await;
    let to_slow = stage.endpoint(None, &slow.url(), &["booking.*"]).await;
    let to_moody = stage.endpoint(None, &moody.url(), &["booking.*"]).await;
    let to_gone = stage.endpoint(None, &gone.url(), &["booking.*"]).await;
    let to_closed = stage.endpoint(None, &format!("http://{closed}/"), &["booking.*"]).await;

    let half = BOOKINGS / 2;
    accept(&stage, 0..half).await;
    live.hears(usize::try_from(half / 4).unwrap()).await;
    first.kill().await;
    rabbitmq.stop().await;
    let _second = webhooks(&stage, &[SCHEDULE]).await;
    accept(&stage, half..BOOKINGS).await;
    rabbitmq.start().await.unwrap();

    stage.everything_is_decided().await;
    let all = usize::try_from(BOOKINGS).unwrap();
    let distinct = |receiver: &Receiver| -> usize {
        receiver.posts().iter().map(|post| post.id().to_owned()).collect::<HashSet<_>>().len()
    };
    until("the fast one has all", async || distinct(&live) == all).await;
    stage.nothing_waits_for(to_live.id).await;
    assert_eq!(stage.deliveries(to_live.id).await, (0, BOOKINGS, 0));
    println!("the fast one: {}", lag(&stage, to_live.id).await);

    until("the moody one has all", async || distinct(&moody) == all).await;
    stage.nothing_waits_for(to_moody.id).await;
    assert_eq!(stage.deliveries(to_moody.id).await, (0, BOOKINGS, 0));
    println!("the moody one: {}", lag(&stage, to_moody.id).await);

    let (waiting, arrived, given_up) = stage.deliveries(to_slow.id).await;
    assert!(waiting > 0 && arrived > 0 && given_up == 0, "{waiting} {arrived} {given_up}");
    // At most 64 of one process, and what the killed one had under way.
    assert!(slow.busiest() <= 128, "{} at once", slow.busiest());
    assert!(stage.state_of(to_slow.id).await.0);

    let (enabled, reason, _) = stage.state_of(to_gone.id).await;
    assert!(!enabled && reason.unwrap().contains("410"));
    stage.nothing_waits_for(to_gone.id).await;
    let (waiting, arrived, _) = stage.deliveries(to_gone.id).await;
    assert_eq!((waiting, arrived), (0, 0));
    assert!(gone.count() <= 16, "{} after 410", gone.count());

    assert_eq!(stage.deliveries(to_closed.id).await, (BOOKINGS, 0, 0));
    let tried = stage.outcomes(to_closed.id).await.len();
    assert!(tried <= 200, "{tried} attempts at a dead receiver");
    assert_eq!(stage.state_of(to_closed.id).await, (true, None, true));
    stage.all_promises_hold().await;
}

/// Accepts bookings as a gateway does, many a commit: fifty a calendar.
async fn accept(stage: &Stage, numbers: std::ops::Range<i64>) {
    let mut database = stage.database().await;
    let calendar =
        |number: i64| Uuid::from_u128(0x0180_0000 + u128::try_from(number / 50).unwrap());
    let new = |number: i64| {
        let start = number % 50 * 30;
        let user = calendar(number);
        let body = json!({ "userId": user, "startTime": at(start), "endTime": at(start + 30) });
        let (calendar_id, asked) = Change::parse_create(body.as_object().unwrap()).unwrap();
        let fingerprint = asked.fingerprint(calendar_id, None, None);
        let command = Command {
            command_id: Uuid::now_v7(),
            booking_id: Uuid::now_v7(),
            calendar_id,
            caller: calendar_id.to_string(),
            correlation_id: "ten-thousand".into(),
            traceparent: None,
            accepted_at: Utc::now(),
            expected_version: None,
            callback: None,
            reply_to: None,
            change: asked.change,
        };
        let partition = partition_of(calendar_id, stage.partitions);
        NewCommand { command, partition, idempotency_key: None, fingerprint }
    };
    let mut next = numbers.start;
    while next < numbers.end {
        let batch: Vec<NewCommand> = (next..next + BATCH).map(new).collect();
        commands::accept(&mut database, &batch.iter().collect::<Vec<_>>()).await.unwrap();
        next += BATCH;
    }
}

/// From the decision to the attempt that arrived.
async fn lag(stage: &Stage, target: Uuid) -> String {
    let (p50, p99, most): (f64, f64, f64) = sqlx::query_as(
        "select percentile_cont(0.5) within group (order by lag),
                percentile_cont(0.99) within group (order by lag), max(lag)
         from (select extract(epoch from a.at - d.created_at)::float8 as lag
               from webhook_attempts a
               join webhook_deliveries d on d.target_id = a.target_id and d.event_id = a.event_id
               where a.target_id = $1 and a.outcome = 'delivered') l",
    )
    .bind(target)
    .fetch_one(&mut stage.database().await)
    .await
    .unwrap();
    format!("lag p50 {p50:.3} s, p99 {p99:.3} s, most {most:.3} s")
}
