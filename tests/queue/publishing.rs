//! Every message published gets its own true verdict.

use booking::queue::{EVENTS_EXCHANGE, Verdict, partition_queue};
use tokio::time::timeout;

use crate::broker::{LIMIT, connect, messages, publish, purge, until};

#[tokio::test]
async fn exactly_the_unroutable_mandatory_messages_are_returned() {
    let connection = connect().await;
    purge(&partition_queue(1)).await;
    let mut messages = messages(1, 2_000);
    let lost = [0, 1, 255, 256, 700, 701, 702, 1_303, 1_999];
    for number in lost {
        messages[number].routing_key = "p.nowhere".into();
    }
    // Nobody listens to events, and nobody needs to.
    messages[5].exchange = EVENTS_EXCHANGE;
    messages[5].mandatory = false;

    let mut publisher = connection.publisher().await.unwrap();
    for round in 0..3 {
        let verdicts = publisher.publish_all(&messages, LIMIT).await;
        for (number, verdict) in verdicts.iter().enumerate() {
            let expected =
                if lost.contains(&number) { Verdict::Returned } else { Verdict::Confirmed };
            assert_eq!(*verdict, expected, "message {number} in round {round}");
        }
    }
    // Events that nobody wants are confirmed at once, many with one answer: then lapin hangs the returned
    // message on any of them.
    let mut events = messages[..300].to_vec();
    for (number, event) in events.iter_mut().enumerate() {
        event.exchange = EVENTS_EXCHANGE;
        event.mandatory = number % 100 == 42;
    }
    let verdicts = publisher.publish_all(&events, LIMIT).await;
    for (number, verdict) in verdicts.iter().enumerate() {
        let expected = if number % 100 == 42 { Verdict::Returned } else { Verdict::Confirmed };
        assert_eq!(*verdict, expected, "event {number}");
    }
    let expected = 3 * (2_000 - lost.len() - 1);
    until("all others are there", async || {
        connection.depth(&partition_queue(1)).await.unwrap().ready as usize == expected
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_nacked_and_harms_nothing() {
    let connection = connect().await;
    purge(&partition_queue(2)).await;
    let mut messages = messages(2, 3);
    messages[1].message_id = "x".repeat(256);
    let mut publisher = connection.publisher().await.unwrap();
    let verdicts = publisher.publish_all(&messages, LIMIT).await;
    assert_eq!(verdicts, [Verdict::Confirmed, Verdict::Nacked, Verdict::Confirmed]);
    assert_eq!(publisher.publish_all(&[], LIMIT).await, []);

    // An exchange that does not exist closes the channel; what follows on it is unknown.
    messages[0].exchange = "no.such.exchange";
    messages[1].message_id = "short".into();
    let verdicts = timeout(LIMIT, publisher.publish_all(&messages, LIMIT * 2)).await.unwrap();
    assert_eq!(verdicts[0], Verdict::Unknown);
    assert!(connection.is_open());
    publish(&connection, &messages[2..]).await;
}
