//! A subscriber of the tests' own: a queue bound to one of our exchanges, read to the end.

use std::collections::HashSet;

use booking::queue;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::stage::{Stage, until};

/// Hears what is published from its making on.
pub struct Listener {
    /// The queue is exclusive: it ends with the connection.
    _connection: Connection,
    channel: Channel,
    queue: String,
    heard: Mutex<Vec<Value>>,
    traceparents: Mutex<Vec<Option<String>>>,
}

impl Listener {
    /// Listens to an exchange with these binding keys.
    pub async fn on(stage: &Stage, exchange: &str, keys: &[String]) -> Self {
        let ours = queue::Connection::open(&stage.amqp_url, "listener").await.unwrap();
        ours.declare_topology(stage.partitions).await.unwrap();
        let connection =
            Connection::connect(&stage.amqp_url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let declared =
            channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
        let queue = declared.name().as_str().to_owned();
        for key in keys {
            let bound = channel.queue_bind(
                queue.as_str().into(),
                exchange.into(),
                key.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.unwrap();
        }
        let (heard, traceparents) = Default::default();
        Self { _connection: connection, channel, queue, heard, traceparents }
    }

    /// Waits for that many messages in all, and returns what was heard from the beginning.
    pub async fn hears(&self, messages: usize) -> Vec<Value> {
        let mut heard = self.heard.lock().await;
        until("the messages are heard", async || {
            let at_once = BasicGetOptions { no_ack: true };
            while let Some(got) =
                self.channel.basic_get(self.queue.as_str().into(), at_once).await.unwrap()
            {
                heard.push(serde_json::from_slice(&got.delivery.data).unwrap());
                self.traceparents.lock().await.push(traceparent(&got.delivery));
            }
            heard.len() >= messages
        })
        .await;
        heard.clone()
    }

    /// The trace context of each message that was heard.
    pub async fn traceparents(&self) -> Vec<Option<String>> {
        self.traceparents.lock().await.clone()
    }
}

fn traceparent(delivery: &Delivery) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get("traceparent")? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("traceparent is {other:?}"),
    }
}

/// Each event once, where it was seen first.
pub fn first_sight(events: &[Value]) -> Vec<&Value> {
    let mut seen = HashSet::new();
    events.iter().filter(|event| seen.insert(event["id"].as_str().unwrap())).collect()
}
