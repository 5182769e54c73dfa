//! Faults of RabbitMQ and of our exchanges and queues in it.

use std::process::Command;

use booking::queue::{
    COMMANDS_EXCHANGE, Connection, DEAD_EXCHANGE, DEAD_KEY, DEAD_QUEUE, EVENTS_EXCHANGE,
    partition_key, partition_queue,
};
use futures::StreamExt as _;
use lapin::options::{
    BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use super::fake_broker;
use super::installation::{Installation, until};

pub async fn are_found(installation: &Installation) {
    let broker =
        lapin::Connection::connect(&installation.broker, Default::default()).await.unwrap();
    let channel = broker.create_channel().await.unwrap();
    drift_is_found(installation, &channel).await;
    missing_ones_are_found(installation, &channel).await;
    a_dead_letter_is_found(installation, &channel).await;
    nothing_is_published_or_consumed_while_it_tries(installation, &channel).await;
    partitions_without_a_consumer_are_found(installation).await;
    broker.close(200, "OK".into()).await.unwrap();
    those_that_keep_us_out_are_found(installation);
}

async fn drift_is_found(installation: &Installation, channel: &lapin::Channel) {
    let queue = partition_queue(2);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
    let found = installation.examine(&[], &[]);
    found.is(
        "another queue",
        "error",
        &["rabbitmq.drift"],
        "rabbitmqctl delete_queue booking.commands.p.02 --if-empty",
    );
    assert!(found.report.to_string().contains("inequivalent arg"), "{:#}", found.report);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();

    let (events, keep) = (EVENTS_EXCHANGE, ExchangeDeleteOptions::default());
    channel.exchange_delete(events.into(), keep).await.unwrap();
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let other = FieldTable::default();
    channel.exchange_declare(events.into(), ExchangeKind::Direct, durable, other).await.unwrap();
    let found = installation.examine(&[], &[]);
    let checks = ["rabbitmq.drift", "rabbitmq.missing"];
    found.is("another exchange, and no queue", "error", &checks, "delete the exchange");
    channel.exchange_delete(events.into(), keep).await.unwrap();
    heal(installation).await;
}

async fn missing_ones_are_found(installation: &Installation, channel: &lapin::Channel) {
    channel.exchange_delete(EVENTS_EXCHANGE.into(), Default::default()).await.unwrap();
    let found = installation.examine(&[], &[]);
    found.is("no exchange", "error", &["rabbitmq.missing"], "each declares what is missing");
    let again = installation.examine(&[], &[]);
    again.is(
        "it was not made by looking",
        "error",
        &["rabbitmq.missing"],
        "start `booking worker`",
    );
    let more = installation.examine(&[], &[("PARTITIONS", "5")]);
    let checks = ["rabbitmq.missing", "postgres.partitions"];
    more.is("a queue too few", "error", &checks, "start `booking worker`");
    assert!(more.report.to_string().contains("booking.commands.p.04"), "{:#}", more.report);
    heal(installation).await;
}

async fn heal(installation: &Installation) {
    let connection = Connection::open(&installation.broker, "tests").await.unwrap();
    connection.declare_topology(4).await.unwrap();
    connection.close().await;
    installation.is_as_before("declaring anew");
}

async fn a_dead_letter_is_found(installation: &Installation, channel: &lapin::Channel) {
    publish(channel, DEAD_EXCHANGE, DEAD_KEY, b"no command").await;
    until("the letter is there", async || depth(channel, DEAD_QUEUE).await == 1).await;
    let found = installation.examine(&[], &[]);
    found.is(
        "a letter",
        "warning",
        &["rabbitmq.dead-letters"],
        "rabbitmqctl purge_queue booking.dead",
    );
    channel.queue_purge(DEAD_QUEUE.into(), QueuePurgeOptions::default()).await.unwrap();
    until("it is gone", async || depth(channel, DEAD_QUEUE).await == 0).await;
    installation.is_as_before("the letter");
}

async fn depth(channel: &lapin::Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
    found.message_count()
}

/// A subscriber of everything hears nothing of it, and a command that waits was given to nobody.
async fn nothing_is_published_or_consumed_while_it_tries(
    installation: &Installation,
    channel: &lapin::Channel,
) {
    let queue = "a subscriber";
    let none = FieldTable::default;
    channel.queue_declare(queue.into(), Default::default(), none()).await.unwrap();
    for exchange in [EVENTS_EXCHANGE, COMMANDS_EXCHANGE] {
        for key in ["#", "booking.doctor"] {
            let options = QueueBindOptions::default();
            let bound =
                channel.queue_bind(queue.into(), exchange.into(), key.into(), options, none());
            bound.await.unwrap();
        }
    }
    publish(channel, COMMANDS_EXCHANGE, &partition_key(0), b"a command").await;
    let waiting = partition_queue(0);
    until("the command waits", async || depth(channel, &waiting).await == 1).await;

    installation.is_as_before("a subscriber of everything, and a command");

    assert_eq!(depth(channel, queue).await, 0);
    let (tag, options) = ("tests".into(), Default::default());
    let consumer = channel.basic_consume(waiting.as_str().into(), tag, options, none());
    let got = consumer.await.unwrap().next().await.unwrap().unwrap();
    assert!(!got.redelivered, "somebody had it");
    got.ack(Default::default()).await.unwrap();
    channel.basic_cancel("tests".into(), Default::default()).await.unwrap();
    for partition in 0..4 {
        assert_eq!(depth(channel, &partition_queue(partition)).await, 0);
    }
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
}

async fn publish(channel: &lapin::Channel, exchange: &str, key: &str, body: &[u8]) {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    sent.await.unwrap().await.unwrap();
}

async fn partitions_without_a_consumer_are_found(installation: &Installation) {
    let connection = Connection::open(&installation.broker, "tests").await.unwrap();
    let consumer = connection.consume(&partition_queue(1), "alone", 1).await.unwrap();
    let found = installation.examine(&[], &[]);
    found.is("one consumer", "error", &["workers.consumers"], "look at the workers' logs");
    assert!(found.report.to_string().contains("p.00, p.02, p.03"), "{:#}", found.report);
    consumer.close().await;
    connection.close().await;
    installation.is_as_before("the consumer");
}

fn those_that_keep_us_out_are_found(installation: &Installation) {
    let wrong = installation.broker.replace("guest:guest@", "guest:very-secret@");
    let found = installation.examine(&[], &[("AMQP_URL", &wrong)]);
    found.is("a wrong password", "error", &["rabbitmq.login"], "the right user and password");
    assert!(!found.report.to_string().contains("very-secret"), "{:#}", found.report);

    let nowhere = installation.broker.replace("%2f", "nowhere");
    let found = installation.examine(&[], &[("AMQP_URL", &nowhere)]);
    found.is("no vhost", "error", &["rabbitmq.login"], "rabbitmqctl add_vhost");

    let nobody = [("AMQP_URL", "amqp://me:very-secret@127.0.0.1:1")];
    let found = installation.examine(&[], &nobody);
    found.is("nobody there", "error", &["rabbitmq.reachable"], "start RabbitMQ, or mend host");

    let forbidden = fake_broker::greet_as("4.3.2");
    let found = installation.examine(&[], &[("AMQP_URL", &forbidden)]);
    let checks = ["rabbitmq.single-active-consumer", "rabbitmq.login"];
    found.is("a forbidden release", "error", &checks, "upgrade RabbitMQ to 4.3.6 or later");
    let old = fake_broker::greet_as("3.9.29");
    let found = installation.examine(&[], &[("AMQP_URL", &old)]);
    let checks = ["rabbitmq.version", "rabbitmq.login"];
    found.is("an old release", "error", &checks, "upgrade RabbitMQ to 3.10");
    assert!(!found.report.to_string().contains("very-secret"), "{:#}", found.report);
}

/// On a vhost of its own, where everything was declared before the user lost a permission.
pub async fn of_permissions_are_found(installation: &Installation) {
    let elsewhere = installation.broker.replace("%2f", "t1");
    let connection = Connection::open(&elsewhere, "tests").await.unwrap();
    connection.declare_topology(4).await.unwrap();
    connection.close().await;
    let settings = [("AMQP_URL", elsewhere.as_str())];
    installation.examine(&[], &settings).is_idle("declaring elsewhere");
    for (configure, write, read, check, remedy) in [
        ("^$", ".*", ".*", "rabbitmq.may-declare", "CONFIGURE is what is missing"),
        (".*", "^booking.dead$", ".*", "rabbitmq.may-publish", "WRITE is what is missing"),
        // Enough for all but replies.
        (".*", "^booking\\.", ".*", "rabbitmq.may-publish", "amq\\.default"),
        (".*", ".*", "^booking.dead$", "rabbitmq.may-consume", "READ is what is missing"),
    ] {
        rabbitmqctl(
            installation,
            &["set_permissions", "-p", "t1", "guest", configure, write, read],
        );
        let found = installation.examine(&[], &settings);
        found.is(check, "error", &[check], remedy);
    }
    rabbitmqctl(installation, &["clear_permissions", "-p", "t1", "guest"]);
    let found = installation.examine(&[], &settings);
    found.is(
        "no permissions",
        "error",
        &["rabbitmq.login"],
        "rabbitmqctl set_permissions -p VHOST",
    );
}

fn rabbitmqctl(installation: &Installation, arguments: &[&str]) {
    let home = installation.dir.0.join("rabbitmq");
    let read = |name: &str| std::fs::read_to_string(installation.dir.0.join(name)).unwrap();
    let ports = read("rabbitmq.port");
    let names = ports.split_whitespace().last().unwrap();
    let output = Command::new("/usr/lib/rabbitmq/bin/rabbitmqctl")
        .args(["-n", &format!("booking-{}@localhost", read("id"))])
        .args(arguments)
        .env("HOME", &home)
        .env("ERL_EPMD_PORT", names)
        .env("RABBITMQ_CONF_ENV_FILE", home.join("rabbitmq-env.conf"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
}
