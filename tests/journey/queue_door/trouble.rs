//! The queue door while something is away, full, or broken.

use booking::queue::{DEAD_QUEUE, DELIVERY_LIMIT};
use booking::store;
use serde_json::json;
use uuid::Uuid;

use super::open_gateway;
use super::service::{Letter, Service};
use crate::examples::python;
use crate::stage::{PATIENCE, Process, Stage, start_servers, until, until_within};

#[tokio::test]
async fn without_postgres_messages_are_held_and_not_lost() {
    let mut servers = start_servers("held-postgres", true, false, false).await;
    let postgres = servers.postgres.as_mut().unwrap();
    postgres.create_database("booking").await.unwrap();
    let stage =
        Stage { database_url: postgres.url("booking"), ..Stage::new("held-postgres").await };
    store::migrate(&stage.database_url, stage.partitions).await.unwrap();
    let (gateway, mut doomed) = (open_gateway(&stage, &[]).await, open_gateway(&stage, &[]).await);
    let _worker = stage.worker().await;
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    let submits = async |start: i64| {
        service.submits(&Letter::create(user, 30 * start, 30 * start + 30)).await
    };
    let before = submits(0).await;
    service.is_decided(&before).await;

    postgres.kill().await;
    let mut held = Vec::new();
    for start in 1..=10 {
        held.push(submits(start).await);
    }
    until("all are held, some by each", async || {
        let each = [&gateway, &doomed].map(|door| door.metric("booking_submissions_held"));
        let each = futures::future::join_all(each).await;
        each.iter().all(|held| *held > 0.0) && each.iter().sum::<f64>() == held.len() as f64
    })
    .await;
    // A malformed one needs no database, and passes them by.
    let malformed = service.submits(&Letter::create(user, 0, 30).body("{")).await;
    assert_eq!(service.is_refused(&malformed).await["code"], "VALIDATION_FAILED");
    service.finds_dead().await;

    // What was held is not acknowledged: it comes to the other.
    doomed.kill().await;
    until("all are held by the one that is left", async || {
        gateway.metric("booking_submissions_held").await == held.len() as f64
    })
    .await;
    postgres.start().await.unwrap();
    for id in &held {
        assert_eq!(service.is_decided(id).await["status"], "succeeded");
    }
    assert_eq!(gateway.metric("booking_submissions_held").await, 0.0);
    assert!(service.gets(DEAD_QUEUE).await.is_none());
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_calendar_that_is_full_is_waited_for() {
    let stage = Stage::new("held-backlog").await;
    let gateway = open_gateway(&stage, &[("MAX_UNDECIDED_PER_CALENDAR", "2")]).await;
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    let mut ids = Vec::new();
    for start in 0..30 {
        ids.push(service.submits(&Letter::create(user, 30 * start, 30 * start + 30)).await);
    }
    until("some are held", async || gateway.metric("booking_submissions_held").await >= 2.0).await;
    // Another calendar is not.
    let other = service.submits(&Letter::create(Uuid::now_v7(), 0, 30)).await;
    assert_eq!(service.hears(&other, 1).await[0].kind, "command.accepted");
    let _worker = stage.worker().await;
    for id in &ids {
        assert_eq!(service.is_decided(id).await["status"], "succeeded");
    }
    stage.all_promises_hold().await;
}

/// The commit was made, and nobody was told but by its own rows.
#[tokio::test]
async fn a_door_that_dies_before_its_acknowledgement_has_accepted_once() {
    let stage = Stage::new("dies-at-the-door").await;
    let _worker = stage.worker().await;
    let mut doomed = open_gateway(&stage, &[("BOOKING_FAILPOINTS", "accept.committed=kill")]).await;
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    let id = service.submits(&Letter::create(user, 0, 30)).await;
    doomed.ended().await;
    assert_eq!(service.is_decided(&id).await["status"], "succeeded");

    let second = open_gateway(&stage, &[]).await;
    until("the message came again and was known", async || {
        second.metric("booking_commands_replayed_total").await == 1.0
    })
    .await;
    // Its sender is told again, for who knows what was told before.
    let answers = service.hears(&id, 4).await;
    let kinds: Vec<&str> = answers.iter().map(|reply| reply.kind.as_str()).collect();
    let pair = ["command.accepted", "command.decided"];
    assert_eq!(kinds, [pair, pair].concat());
    assert_eq!(answers[1].body, answers[3].body);
    assert_eq!(stage.number("select count(*) from bookings").await, 1);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_hand_and_leaves_the_rest_in_the_queue() {
    let stage = Stage::new("stops-at-the-door").await;
    let (mut first, worker) = (open_gateway(&stage, &[]).await, stage.worker().await);
    let service = Service::at(&stage).await;
    let users: Vec<Uuid> = (0..10).map(|_| Uuid::now_v7()).collect();
    let mut ids = Vec::new();
    for number in 0..300 {
        let (user, start) = (users[number % 10], 30 * (number as i64 / 10));
        ids.push(service.submits(&Letter::create(user, start, start + 30)).await);
        if number == 150 {
            first.signal("-TERM").await;
        }
    }
    assert!(first.ended().await.success(), "{}", first.log_text());
    let _second = open_gateway(&stage, &[]).await;
    for id in &ids {
        let answers = service.hears(id, 2).await;
        assert_eq!(answers[1].body["status"], "succeeded");
    }
    assert_eq!(stage.number("select count(*) from bookings").await, 300);
    drop(worker);
    stage.all_promises_hold().await;
}

/// Its properties are not even text, so that the client library gives up the connection. The
/// broker delivers it again until its limit and parks it; others wait, and are not parked.
#[tokio::test]
async fn a_message_that_breaks_the_connection_takes_no_other_with_it() {
    let stage = Stage::new("breaks").await;
    let (gateway, _worker) = (open_gateway(&stage, &[]).await, stage.worker().await);
    let (service, user) = (Service::at(&stage).await, Uuid::now_v7());
    let mut ids = Vec::new();
    let submits = async |number: i64| {
        service.submits(&Letter::create(user, 30 * number, 30 * number + 30)).await
    };
    for number in 0..10 {
        ids.push(submits(number).await);
    }
    let poison = "
import pika, sys
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()
properties = pika.BasicProperties(message_id=b'\\xff\\xfe', delivery_mode=2)
channel.basic_publish('booking.submit', 'booking.submit', b'{}', properties, mandatory=True)
connection.close()";
    let sent = python(&["-c", poison, &stage.amqp_url]).output().await.unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    for number in 10..30 {
        ids.push(submits(number).await);
    }
    let broker = booking::queue::Connection::open(&stage.amqp_url, "tests").await.unwrap();
    until_within(5 * PATIENCE, "the poison is parked", async || {
        broker.depth(DEAD_QUEUE).await.unwrap().ready > 0
    })
    .await;
    for id in &ids {
        assert_eq!(service.is_decided(id).await["status"], "succeeded");
    }
    assert_eq!(broker.depth(DEAD_QUEUE).await.unwrap().ready, 1);
    assert_eq!(troubles(&gateway), 1, "{DELIVERY_LIMIT} breaks, one line");
    stage.all_promises_hold().await;
}

fn troubles(gateway: &Process) -> usize {
    let said = json!("no messages are taken from the queue; trying again");
    gateway.log_lines().iter().filter(|line| line["message"] == said).count()
}
