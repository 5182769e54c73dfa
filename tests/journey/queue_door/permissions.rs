//! What the broker allows a service's user that `deploy/rabbitmq/add-service` has made.

use std::process::Stdio;

use booking::queue::{
    COMMANDS_EXCHANGE, DEAD_QUEUE, EVENTS_EXCHANGE, SUBMIT_QUEUE, partition_queue,
};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use uuid::Uuid;

use super::open_gateway;
use super::service::{Letter, Service};
use crate::stage::{Stage, rabbitmq_control};

const PASSWORD: &str = "a password of the tests";

/// Runs the script, and returns the service's address.
async fn add_service(stage: &Stage, name: &str) -> String {
    let control = tokio::task::spawn_blocking(rabbitmq_control).await.unwrap();
    let vhost = stage.amqp_url.rsplit('/').next().unwrap();
    let mut script = Command::new("deploy/rabbitmq/add-service")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([name, vhost])
        .env("RABBITMQCTL", &control.program)
        .envs(control.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut password = script.stdin.take().unwrap();
    password.write_all(format!("{PASSWORD}\n").as_bytes()).await.unwrap();
    drop(password);
    let said = script.wait_with_output().await.unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(!String::from_utf8_lossy(&said.stdout).contains(PASSWORD));
    let password = PASSWORD.replace(' ', "%20");
    stage.amqp_url.replace("guest:guest@", &format!("{name}:{password}@"))
}

/// Tries something on a channel of its own, which the broker closes when it refuses.
async fn refused<T>(
    connection: &Connection,
    what: &str,
    tries: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
) {
    let channel = connection.create_channel().await.unwrap();
    let error = tries(channel).await.err().unwrap_or_else(|| panic!("{what} is allowed"));
    let text = error.to_string();
    assert!(text.contains("ACCESS") && text.contains("refused"), "{what}: {text}");
}

async fn publishes(channel: Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"[]", properties);
    sent.await?.await.map(drop)
}

#[tokio::test]
async fn a_service_submits_and_hears_and_can_do_nothing_else() {
    let stage = Stage::new("permissions").await;
    let (gateway, _worker) = (open_gateway(&stage, &[]).await, stage.worker().await);
    let url = add_service(&stage, "front-desk").await;
    add_service(&stage, "front-desk").await; // safe to repeat

    let service = Service::with(&url, "front-desk").await;
    let letter = Letter::create(Uuid::now_v7(), 0, 30);
    let letter = Letter { sender: Some("front-desk".into()), ..letter };
    let booked = service.is_decided(&service.submits(&letter).await).await;
    assert_eq!(booked["status"], "succeeded");
    let caller = "select count(*) from commands where caller = 'service:front-desk'";
    assert_eq!(stage.number(caller).await, 1);

    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    hears_events(&connection).await;
    for (exchange, key) in [
        (COMMANDS_EXCHANGE, "p.00"),
        ("", &*partition_queue(0)),
        ("", SUBMIT_QUEUE),
        ("", "service.other.replies"),
        (EVENTS_EXCHANGE, "booking.confirmed"),
        ("booking.dead", "dead"),
        ("amq.topic", "x"),
    ] {
        let what = format!("publishing to {exchange:?} with {key}");
        refused(&connection, &what, async |channel| publishes(channel, exchange, key).await).await;
    }
    for queue in [SUBMIT_QUEUE, DEAD_QUEUE, &partition_queue(0), "service.other.replies"] {
        refused(&connection, &format!("consuming {queue}"), async |channel| {
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            channel.basic_consume(queue.into(), "test".into(), options, none).await
        })
        .await;
    }
    no_way_around(&connection).await;
    let impostor = Letter { sender: Some("guest".into()), ..letter };
    let sent = tokio::spawn(async move { service.submits(&impostor).await }).await;
    assert!(sent.is_err(), "the broker does not let it be another");
    assert_eq!(stage.number("select count(*) from commands").await, 1);
    drop(gateway);
}

async fn hears_events(connection: &Connection) {
    let channel = connection.create_channel().await.unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let name = "service.front-desk.events";
    let none = FieldTable::default;
    channel.queue_declare(name.into(), exclusive, none()).await.unwrap();
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(
        name.into(),
        EVENTS_EXCHANGE.into(),
        "booking.#".into(),
        options,
        none(),
    );
    bound.await.unwrap();
}

/// Ways to a partition, or to what goes there, by a queue or an exchange of its own.
async fn no_way_around(connection: &Connection) {
    let table = |name: &str, value: &str| {
        let mut table = FieldTable::default();
        table.insert(name.into(), AMQPValue::LongString(value.into()));
        table
    };
    let own = "service.front-desk.way";
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    refused(connection, "dead letters to a partition", async |channel| {
        let dead = table("x-dead-letter-exchange", COMMANDS_EXCHANGE);
        channel.queue_declare(own.into(), exclusive, dead).await
    })
    .await;
    refused(connection, "an alternate to a partition", async |channel| {
        let alternate = table("alternate-exchange", COMMANDS_EXCHANGE);
        let options = ExchangeDeclareOptions::default();
        channel.exchange_declare(own.into(), ExchangeKind::Fanout, options, alternate).await
    })
    .await;
    refused(connection, "overhearing commands", async |channel| {
        let none = FieldTable::default;
        channel.queue_declare(own.into(), exclusive, none()).await?;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(own.into(), COMMANDS_EXCHANGE.into(), "p.00".into(), options, none())
            .await
    })
    .await;
    refused(connection, "deleting the queue of commands", async |channel| {
        channel.queue_delete(partition_queue(0).as_str().into(), Default::default()).await
    })
    .await;
    refused(connection, "a queue of another's name", async |channel| {
        channel.queue_declare("service.front-desk".into(), exclusive, FieldTable::default()).await
    })
    .await;
}
