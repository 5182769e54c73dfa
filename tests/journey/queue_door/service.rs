//! Another service: it submits messages, reads its answers, and looks among the dead letters.

use booking::queue::{self, DEAD_QUEUE, SUBMIT_EXCHANGE, SUBMIT_KEY};
use lapin::message::Delivery;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::stage::{Stage, at, until};

/// A message before it is sent. Each method gives a changed copy.
#[derive(Clone)]
pub struct Letter {
    pub kind: Option<String>,
    pub key: Option<String>,
    pub user: Option<AMQPValue>,
    pub sender: Option<String>,
    pub headers: Vec<(String, String)>,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
    /// None: no answers are wanted.
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
}

impl Letter {
    /// On behalf of a user, with a key of its own.
    pub fn new(kind: &str, user: Uuid, body: &Value) -> Self {
        Self {
            kind: Some(kind.to_owned()),
            key: Some(Uuid::now_v7().to_string()),
            user: Some(AMQPValue::LongString(user.to_string().into())),
            sender: Some("guest".to_owned()),
            headers: Vec::new(),
            content_type: Some("application/json".to_owned()),
            body: body.to_string().into_bytes(),
            reply_to: None,
            correlation_id: Some(Uuid::now_v7().to_string()),
        }
    }

    /// A booking of the user's calendar, from one minute of [`at`] to another.
    pub fn create(user: Uuid, start: i64, end: i64) -> Self {
        let body = json!({ "userId": user, "startTime": at(start), "endTime": at(end) });
        Self::new("booking.create", user, &body)
    }

    pub fn key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in &self.headers {
            headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
        }
        if let Some(user) = &self.user {
            headers.insert("user-id".into(), user.clone());
        }
        let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let short = |text: &String| text.as_str().into();
        if let Some(kind) = &self.kind {
            properties = properties.with_type(short(kind));
        }
        if let Some(key) = &self.key {
            properties = properties.with_message_id(short(key));
        }
        if let Some(sender) = &self.sender {
            properties = properties.with_user_id(short(sender));
        }
        if let Some(content_type) = &self.content_type {
            properties = properties.with_content_type(short(content_type));
        }
        if let Some(reply_to) = &self.reply_to {
            properties = properties.with_reply_to(short(reply_to));
        }
        if let Some(correlation_id) = &self.correlation_id {
            properties = properties.with_correlation_id(short(correlation_id));
        }
        properties
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub kind: String,
    pub correlation_id: String,
    pub body: Value,
}

/// A service with a reply queue.
pub struct Service {
    _connection: Connection,
    channel: Channel,
    pub replies: String,
    heard: Mutex<Vec<Reply>>,
}

impl Service {
    pub async fn at(stage: &Stage) -> Self {
        let ours = queue::Connection::open(&stage.amqp_url, "tests").await.unwrap();
        ours.declare_topology(stage.partitions).await.unwrap();
        Self::with(&stage.amqp_url, "guest").await
    }

    /// With an address of its own; `name` is its user.
    pub async fn with(url: &str, name: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let replies = format!("service.{name}.{}", Uuid::now_v7());
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let none = FieldTable::default();
        channel.queue_declare(replies.as_str().into(), exclusive, none).await.unwrap();
        Self { _connection: connection, channel, replies, heard: Mutex::default() }
    }

    /// A queue that takes nothing: it is full.
    pub async fn full_queue(&self) -> String {
        let queue = format!("service.full.{}", Uuid::now_v7());
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        self.channel.queue_declare(queue.as_str().into(), exclusive, arguments).await.unwrap();
        let publish = async || {
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default();
            let confirm = self.channel.basic_publish(
                "".into(),
                queue.as_str().into(),
                options,
                b"",
                properties,
            );
            confirm.await.unwrap().await.unwrap().is_ack()
        };
        until("the queue is full", async || !publish().await).await;
        queue
    }

    /// Sends it as it is, and returns what an answer would carry.
    pub async fn sends(&self, letter: &Letter) -> String {
        let confirm = self.channel.basic_publish(
            SUBMIT_EXCHANGE.into(),
            SUBMIT_KEY.into(),
            BasicPublishOptions { mandatory: true, ..Default::default() },
            &letter.body,
            letter.properties(),
        );
        assert!(confirm.await.unwrap().await.unwrap().is_ack());
        letter.correlation_id.clone().unwrap_or_default()
    }

    /// Sends it, and wants to hear of it.
    pub async fn submits(&self, letter: &Letter) -> String {
        let id = Uuid::now_v7().to_string();
        let (reply_to, correlation_id) = (Some(self.replies.clone()), Some(id));
        self.sends(&Letter { reply_to, correlation_id, ..letter.clone() }).await
    }

    /// Waits for that many answers to one message.
    pub async fn hears(&self, id: &str, answers: usize) -> Vec<Reply> {
        let mut heard = self.heard.lock().await;
        let of = |heard: &[Reply]| -> Vec<Reply> {
            heard.iter().filter(|reply| reply.correlation_id == id).cloned().collect()
        };
        until("the answers are heard", async || {
            while let Some(got) = self.gets(&self.replies).await {
                let properties = &got.properties;
                let text = |value: &Option<lapin::types::ShortString>| {
                    value.as_ref().map(|v| v.to_string()).unwrap_or_default()
                };
                heard.push(Reply {
                    kind: text(properties.kind()),
                    correlation_id: text(properties.correlation_id()),
                    body: serde_json::from_slice(&got.data).unwrap(),
                });
            }
            of(&heard).len() >= answers
        })
        .await;
        of(&heard)
    }

    /// Waits for the decision of a message: the last of two answers.
    pub async fn is_decided(&self, id: &str) -> Value {
        let answers = self.hears(id, 2).await;
        let kinds: Vec<&str> = answers.iter().map(|reply| reply.kind.as_str()).collect();
        assert_eq!(kinds, ["command.accepted", "command.decided"], "{answers:?}");
        assert_eq!(answers[0].body["commandId"], answers[1].body["commandId"]);
        assert_eq!(answers[0].body["status"], "accepted");
        answers[1].body.clone()
    }

    /// Waits for the refusal of a message: its only answer.
    pub async fn is_refused(&self, id: &str) -> Value {
        let answers = self.hears(id, 1).await;
        assert_eq!(answers[0].kind, "command.refused", "{answers:?}");
        answers[0].body.clone()
    }

    /// The next message of a queue, taken out of it.
    pub async fn gets(&self, queue: &str) -> Option<Delivery> {
        let at_once = BasicGetOptions { no_ack: true };
        let got = self.channel.basic_get(queue.into(), at_once).await.unwrap();
        got.map(|message| message.delivery)
    }

    /// Waits for the next dead letter.
    pub async fn finds_dead(&self) -> Delivery {
        let mut found = None;
        until("there is a dead letter", async || {
            found = self.gets(DEAD_QUEUE).await;
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

/// A header of a message; empty when there is none.
pub fn header(delivery: &Delivery, name: &str) -> String {
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    }
}
