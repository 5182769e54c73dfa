//! What is declared, and what is known of a queue.

use booking::queue::{QueueError, partition_queue};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::broker::{PARTITIONS, bare_channel, connect, messages, publish, purge, until};

#[tokio::test]
async fn the_topology_can_be_declared_twice() {
    let connection = connect().await;
    connection.declare_topology(PARTITIONS).await.unwrap();
    for partitions in [0, 100] {
        let refused = connection.declare_topology(partitions).await;
        assert!(matches!(refused, Err(QueueError::Partitions(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named() {
    let queue = partition_queue(PARTITIONS);
    let (_bare, channel) = bare_channel().await;
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();

    let connection = connect().await;
    let error = connection.declare_topology(PARTITIONS + 1).await.unwrap_err();
    let QueueError::Mismatch { name, reason } = &error else { panic!("{error:?}") };
    assert_eq!(*name, queue);
    assert!(reason.contains("inequivalent arg"), "{reason}");
    assert!(connection.is_open(), "only the channel was lost");

    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test]
async fn the_depth_of_a_queue_is_known() {
    let connection = connect().await;
    let queue = partition_queue(6);
    purge(&queue).await;
    publish(&connection, &messages(6, 5)).await;
    let depth = connection.depth(&queue).await.unwrap();
    assert_eq!((depth.ready, depth.consumers), (5, 0));

    for _ in 0..2 {
        let missing = connection.depth("booking.none").await;
        assert!(
            matches!(&missing, Err(QueueError::MissingQueue(name)) if name == "booking.none"),
            "{missing:?}"
        );
    }
    let missing = connection.consume("booking.none", "none", 1).await.err();
    assert!(matches!(missing, Some(QueueError::MissingQueue(_))), "{missing:?}");

    let consumer = connection.consume(&queue, "one", 2).await.unwrap();
    until("two are held", async || connection.depth(&queue).await.unwrap().ready == 3).await;
    assert_eq!(connection.depth(&queue).await.unwrap().consumers, 1);
    drop(consumer);
}
