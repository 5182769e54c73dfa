//! Deliveries come in order, and what is given back comes again in order.

use std::time::Duration;

use booking::queue::{
    Consumer, DEAD_QUEUE, Message, SUBMIT_EXCHANGE, SUBMIT_KEY, SUBMIT_QUEUE, partition_queue,
};
use tokio::time::timeout;

use crate::broker::{connect, message, messages, next, number, publish, purge, until};

#[tokio::test]
async fn a_thousand_messages_arrive_in_order() {
    let connection = connect().await;
    purge(&partition_queue(0)).await;
    publish(&connection, &messages(0, 1_000)).await;

    let mut consumer = connection.consume(&partition_queue(0), "thousand", 100).await.unwrap();
    let acker = consumer.acker();
    for expected in 0..1_000 {
        let delivery = next(&mut consumer).await;
        assert_eq!(number(&delivery), expected);
        assert_eq!(delivery.tag, expected as u64 + 1);
        if delivery.tag % 50 == 0 {
            acker.ack_through(delivery.tag).await.unwrap();
        }
        if expected == 7 {
            assert_eq!(delivery.message_id.as_deref(), Some("m-0-7"));
            assert_eq!(delivery.kind.as_deref(), Some("test"));
            assert_eq!(delivery.headers, [("traceparent".into(), "trace-7".into())]);
            assert!(!delivery.redelivered);
        }
    }
    consumer.close().await;
    assert_eq!(
        connection.depth(&partition_queue(0)).await.unwrap().ready,
        0,
        "all were acknowledged"
    );
}

#[tokio::test]
async fn parked_messages_end_in_the_dead_queue() {
    let connection = connect().await;
    purge(&partition_queue(3)).await;
    purge(SUBMIT_QUEUE).await;
    purge(DEAD_QUEUE).await;
    publish(&connection, &messages(3, 3)).await;
    let submitted =
        Message { exchange: SUBMIT_EXCHANGE, routing_key: SUBMIT_KEY.into(), ..message(3, 9) };
    publish(&connection, &[submitted]).await;

    let mut consumer = connection.consume(&partition_queue(3), "parking", 10).await.unwrap();
    let mut submits = connection.consume(SUBMIT_QUEUE, "parking", 10).await.unwrap();
    let acker = consumer.acker();
    for expected in 0..3 {
        assert_eq!(number(&next(&mut consumer).await), expected);
    }
    acker.park(2).await.unwrap();
    acker.ack_through(3).await.unwrap();
    assert!(acker.ack_through(0).await.is_err());
    let delivery = next(&mut submits).await;
    submits.acker().park(delivery.tag).await.unwrap();

    let mut dead = connection.consume(DEAD_QUEUE, "reading", 10).await.unwrap();
    let mut parked = [number(&next(&mut dead).await), number(&next(&mut dead).await)];
    parked.sort();
    assert_eq!(parked, [1, 9]);
    dead.acker().ack_through(2).await.unwrap();
    consumer.close().await;
    until("the queue is empty", async || {
        connection.depth(&partition_queue(3)).await.unwrap().ready == 0
    })
    .await;
}

/// The second consumer of the queue starts where the first did not acknowledge.
async fn hands_over(partition: u16, end: impl AsyncFnOnce(Consumer)) {
    let connection = connect().await;
    let queue = partition_queue(partition);
    purge(&queue).await;
    publish(&connection, &messages(partition, 100)).await;
    let mut first = connection.consume(&queue, "first", 30).await.unwrap();
    let mut second = connection.consume(&queue, "second", 200).await.unwrap();
    for expected in 0..20 {
        assert_eq!(number(&next(&mut first).await), expected);
    }
    first.acker().ack_through(10).await.unwrap();
    assert!(
        timeout(Duration::from_millis(200), second.next()).await.is_err(),
        "one consumer at a time"
    );

    end(first).await;
    for expected in 10..100 {
        assert_eq!(number(&next(&mut second).await), expected, "in order");
    }
}

#[tokio::test]
async fn a_closed_consumer_gives_back_in_order() {
    hands_over(4, Consumer::close).await;
}

#[tokio::test]
async fn a_dropped_consumer_gives_back_in_order() {
    hands_over(5, async |consumer| drop(consumer)).await;
}
