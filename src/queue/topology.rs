//! The exchanges and queues of the system, as one table, and how they are declared.
//!
//! The broker compares arguments at every declaration and closes the channel when they differ, so a change
//! here needs each such queue drained and deleted: keep the table stable, and leave what may change (lengths,
//! ages) to broker policies, which can be set and lifted on a running system. What can go wrong: a queue that
//! exists otherwise (`Mismatch`), and a dead-letter target that is missing, which would hold the letters in
//! their queue for ever; therefore the order of the table is the order of declaration, dead letters first.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};

use super::Channel;
use super::error::{QueueError, bounded, refusal, short};

/// Where other services submit commands, with [`SUBMIT_KEY`].
pub const SUBMIT_EXCHANGE: &str = "booking.submit";
/// Where the relay sends commands, with [`partition_key`]; published mandatory. Ours alone.
pub const COMMANDS_EXCHANGE: &str = "booking.commands";
/// Where events go out, keyed by event type; no subscriber is normal, so never mandatory.
pub const EVENTS_EXCHANGE: &str = "booking.events";
/// Where parked messages go.
pub const DEAD_EXCHANGE: &str = "booking.dead";

/// The broker's own exchange, which sends straight to the queue that the routing key names.
pub const DEFAULT_EXCHANGE: &str = "";

/// The queue behind [`SUBMIT_EXCHANGE`].
pub const SUBMIT_QUEUE: &str = "booking.submit";
/// The queue of parked messages: what was rejected, or delivered [`DELIVERY_LIMIT`] times in vain.
pub const DEAD_QUEUE: &str = "booking.dead";

/// Routing key for [`SUBMIT_EXCHANGE`].
pub const SUBMIT_KEY: &str = "booking.submit";
/// Routing key for [`DEAD_EXCHANGE`].
pub const DEAD_KEY: &str = "dead";

/// Queue and key names have two digits for the partition.
pub const MAX_PARTITIONS: u16 = 99;

/// Deliveries in vain after which the broker parks a message. A crash counts for every message held at that
/// moment, not only for the one at fault: low enough to end a loop, high enough to spare its neighbours.
/// Positive, because without a limit RabbitMQ 3.10 puts what comes back at the end of the queue.
pub const DELIVERY_LIMIT: i32 = 100;

/// For the dead queue: never, in effect. RabbitMQ 4 has a limit of 20 where none is given, and what exceeds
/// it here would be lost, for nothing lies behind.
const DELIVERY_LIMIT_OF_DEAD: i32 = 1_000_000;

/// The queue of a partition (0 to [`MAX_PARTITIONS`] - 1).
pub fn partition_queue(partition: u16) -> String {
    format!("booking.commands.{}", partition_key(partition))
}

/// The routing key of a partition (0 to [`MAX_PARTITIONS`] - 1) in [`COMMANDS_EXCHANGE`].
pub fn partition_key(partition: u16) -> String {
    format!("p.{partition:02}")
}

pub(super) const EXCHANGES: [(&str, ExchangeKind); 4] = [
    (DEAD_EXCHANGE, ExchangeKind::Direct),
    (SUBMIT_EXCHANGE, ExchangeKind::Direct),
    (COMMANDS_EXCHANGE, ExchangeKind::Direct),
    (EVENTS_EXCHANGE, ExchangeKind::Topic),
];

pub(super) struct Queue {
    pub(super) name: String,
    /// Exchange and routing key.
    binding: (&'static str, String),
    arguments: &'static [(&'static str, Argument)],
}

enum Argument {
    Text(&'static str),
    Number(i32),
    Flag(bool),
}

use Argument::{Flag, Number, Text};

/// No `x-max-length`: a full dead queue must either drop its oldest, which is an accepted command, or refuse,
/// which leaves the letters where they block. A policy can bound it at any time; an argument could not be
/// raised again.
const DEAD_ARGUMENTS: &[(&str, Argument)] =
    &[("x-queue-type", Text("quorum")), ("x-delivery-limit", Number(DELIVERY_LIMIT_OF_DEAD))];

const SUBMIT_ARGUMENTS: &[(&str, Argument)] = &[
    ("x-queue-type", Text("quorum")),
    ("x-delivery-limit", Number(DELIVERY_LIMIT)),
    ("x-dead-letter-exchange", Text(DEAD_EXCHANGE)),
    ("x-dead-letter-routing-key", Text(DEAD_KEY)),
    // The letter leaves the queue when the dead queue has it, not before. Needs reject-publish: with the
    // default overflow RabbitMQ falls back to at-most-once, silently.
    ("x-dead-letter-strategy", Text("at-least-once")),
    ("x-overflow", Text("reject-publish")),
];

const PARTITION_ARGUMENTS: &[(&str, Argument)] = &[
    ("x-queue-type", Text("quorum")),
    ("x-delivery-limit", Number(DELIVERY_LIMIT)),
    // One consumer at a time, the others stand by. Only a guard: who owns a partition is decided elsewhere.
    ("x-single-active-consumer", Flag(true)),
    ("x-dead-letter-exchange", Text(DEAD_EXCHANGE)),
    ("x-dead-letter-routing-key", Text(DEAD_KEY)),
    ("x-dead-letter-strategy", Text("at-least-once")),
    ("x-overflow", Text("reject-publish")),
];

pub(super) fn queues(partitions: u16) -> impl Iterator<Item = Queue> {
    let dead = Queue {
        name: DEAD_QUEUE.into(),
        binding: (DEAD_EXCHANGE, DEAD_KEY.into()),
        arguments: DEAD_ARGUMENTS,
    };
    let submit = Queue {
        name: SUBMIT_QUEUE.into(),
        binding: (SUBMIT_EXCHANGE, SUBMIT_KEY.into()),
        arguments: SUBMIT_ARGUMENTS,
    };
    let partitions = (0..partitions).map(|partition| Queue {
        name: partition_queue(partition),
        binding: (COMMANDS_EXCHANGE, partition_key(partition)),
        arguments: PARTITION_ARGUMENTS,
    });
    [dead, submit].into_iter().chain(partitions)
}

/// How a message gets into a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub exchange: &'static str,
    pub key: String,
    pub queue: String,
}

/// Every exchange with its type.
pub fn exchanges() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXCHANGES.iter().map(|(name, kind)| {
        let kind = match kind {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Headers | ExchangeKind::Custom(_) => "headers",
        };
        (*name, kind)
    })
}

/// Every queue with what it is bound to.
pub fn routes(partitions: u16) -> impl Iterator<Item = Route> {
    queues(partitions).map(|queue| {
        let (exchange, key) = queue.binding;
        Route { exchange, key, queue: queue.name }
    })
}

/// Declares everything, on a channel that is spent when this fails.
pub(super) async fn declare(channel: &Channel, partitions: u16) -> Result<(), QueueError> {
    if !(1..=MAX_PARTITIONS).contains(&partitions) {
        return Err(QueueError::Partitions(partitions));
    }
    for (name, kind) in EXCHANGES {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declared = channel.exchange_declare(short(name)?, kind, durable, FieldTable::default());
        bounded("exchange.declare", declared).await.map_err(|error| mismatch(error, name))?;
    }
    for queue in queues(partitions) {
        declare_queue(channel, &queue).await?;
    }
    Ok(())
}

/// Declares a queue as the table has it, without its binding. What exists and is equal stays as it is.
pub(super) async fn declare_queue_only(channel: &Channel, queue: &Queue) -> Result<(), QueueError> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(short(&queue.name)?, durable, table(queue.arguments)?);
    let declared = bounded("queue.declare", declared).await;
    declared.map(|_| ()).map_err(|error| mismatch(error, &queue.name))
}

async fn declare_queue(channel: &Channel, queue: &Queue) -> Result<(), QueueError> {
    declare_queue_only(channel, queue).await?;
    let (exchange, key) = &queue.binding;
    let bound = channel.queue_bind(
        short(&queue.name)?,
        short(exchange)?,
        short(key)?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bounded("queue.bind", bound).await
}

fn table(arguments: &[(&str, Argument)]) -> Result<FieldTable, QueueError> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Text(text) => AMQPValue::LongString((*text).into()),
            Number(number) => AMQPValue::LongInt(*number),
            Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert(short(name)?, value);
    }
    Ok(table)
}

fn mismatch(error: QueueError, name: &str) -> QueueError {
    match refusal(&error, &AMQPSoftError::PRECONDITIONFAILED) {
        Some(reason) => QueueError::Mismatch { name: name.into(), reason },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_names_have_two_digits() {
        assert_eq!(partition_queue(7), "booking.commands.p.07");
        assert_eq!(partition_key(MAX_PARTITIONS - 1), "p.98");
    }

    #[test]
    fn the_dead_queue_is_declared_first_and_every_queue_says_its_delivery_limit() {
        let queues: Vec<Queue> = queues(MAX_PARTITIONS).collect();
        assert_eq!(queues.len(), 101);
        assert_eq!(queues[0].name, DEAD_QUEUE);
        for queue in &queues {
            let limit = queue.arguments.iter().find(|(name, _)| *name == "x-delivery-limit");
            assert!(matches!(limit, Some((_, Number(limit))) if *limit > 0), "{}", queue.name);
        }
    }
}
