//! Confirmed publishing: many messages at once, and for each of them what the broker said.
//!
//! Why not simply publish and await, one after the other: each confirm stands for a write to the broker's
//! disk, so up to [`WINDOW`] messages are under way at a time. What can go wrong:
//! - A mandatory message that no queue takes is *returned and then confirmed*. lapin hangs the returned
//!   message on whichever confirm comes next, so returns are matched by message id, after the last confirm.
//! - Whatever was not answered when the time is up or the channel dies may have arrived or not. It is
//!   [`Verdict::Unknown`], must be published again, and consumers must recognise it as the same message.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, PublisherConfirm};
use tokio::time::timeout;

use super::Channel;
use super::error::{QueueError, short};
use super::link::Link;

/// Messages under way, unconfirmed, at a time: when as many are, publishing waits. The broker often confirms
/// many with one answer, for which lapin searches all of them.
const WINDOW: usize = 512;
/// Bytes (of bodies) under way at a time, but for a single message that is larger: lapin holds them in memory.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

const PERSISTENT: u8 = 2;

/// What is to be published. Always persistent.
#[derive(Clone, Debug)]
pub struct Message {
    /// One of the exchanges of the topology, or [`super::DEFAULT_EXCHANGE`].
    pub exchange: &'static str,
    /// At most 255 bytes.
    pub routing_key: String,
    /// At most 255 bytes, and not twice in one call: a returned message is recognised by it.
    pub message_id: String,
    /// The AMQP property `type`; at most 255 bytes.
    pub kind: String,
    /// At most 255 bytes.
    pub content_type: &'static str,
    /// What a reply answers; at most 255 bytes.
    pub correlation_id: Option<String>,
    /// Where an answer should go; at most 255 bytes.
    pub reply_to: Option<String>,
    /// Names at most 255 bytes each; all of them together well under 100 KiB, for they travel in one frame.
    pub headers: Vec<(String, String)>,
    /// The broker refuses more than 128 MiB (16 MiB from RabbitMQ 4 on) and closes the channel.
    pub body: Vec<u8>,
    /// Whether it must reach a queue. Otherwise one that no queue wants is confirmed, and gone.
    pub mandatory: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// In a queue, on disk, or wanted by none and not mandatory.
    Confirmed,
    /// Mandatory, and no queue took it.
    Returned,
    /// Refused: by the broker (queue full, or broken), or by us because a field is too long to be sent.
    Nacked,
    /// No answer. It may have arrived; publish it again.
    Unknown,
}

/// Publishes on a channel of its own. One owner at a time (`&mut`), because lapin numbers and sends messages
/// under two separate locks: shared between tasks, a channel would mix up their confirms.
pub struct Publisher {
    channel: Channel,
    link: Link,
    /// Some message is without an answer. A late one would be taken for that of a later call.
    spent: bool,
}

impl Publisher {
    pub(super) fn new(channel: Channel, link: Link) -> Self {
        Self { channel, link, spent: false }
    }

    /// Publishes `messages` in their order and waits for every answer, `limit` at most. The verdicts come in
    /// the order of the messages.
    ///
    /// While the broker's alarm is on, this waits and sends nothing. After an [`Verdict::Unknown`], or when
    /// the call was abandoned half way, the publisher is spent: drop it and make another one. All it would
    /// say is `Unknown`.
    pub async fn publish_all(&mut self, messages: &[Message], limit: Duration) -> Vec<Verdict> {
        let mut answers = Answers::none(messages.len());
        // Set until the end, so that it stays set when this future is dropped before.
        let spent = std::mem::replace(&mut self.spent, true);
        if !spent {
            // What has no answer when the time is up keeps `Unknown`.
            let _ = timeout(limit, self.publish_each(messages, &mut answers)).await;
        }
        let verdicts = answers.verdicts(messages);
        self.spent = spent || verdicts.contains(&Verdict::Unknown);
        verdicts
    }

    async fn publish_each(&mut self, messages: &[Message], answers: &mut Answers) {
        self.link.unblocked().await;
        if !self.link.is_open() {
            return;
        }
        // Two halves of the window: while one is waited for, the broker works on the other.
        let mut earlier = Vec::new();
        let mut rest = messages;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(half_window(rest));
            let sent = join_all(now.iter().map(|message| send(&self.channel, message))).await;
            answers.collect(std::mem::replace(&mut earlier, sent)).await;
            rest = later;
        }
        answers.collect(earlier).await;
    }
}

/// How many of the first messages make half a window.
fn half_window(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let fitting = messages.iter().take(WINDOW / 2).take_while(|message| {
        bytes += message.body.len();
        bytes <= WINDOW_BYTES / 2
    });
    fitting.count().max(1)
}

/// The confirm to wait for, or the verdict if there is nothing to wait for.
type Sent = Result<PublisherConfirm, Verdict>;

/// Queues the message at the first poll (so that many of these, polled in turn, keep their order) and is done
/// when it has been written to the socket.
async fn send(channel: &Channel, message: &Message) -> Sent {
    let (exchange, key, properties) = envelope(message).map_err(|_| Verdict::Nacked)?;
    let options =
        BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
    channel
        .basic_publish(exchange, key, options, &message.body, properties)
        .await
        .map_err(|_| Verdict::Unknown)
}

fn envelope(message: &Message) -> Result<(ShortString, ShortString, BasicProperties), QueueError> {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        headers.insert(short(name)?, AMQPValue::LongString(value.as_str().into()));
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(short(message.content_type)?)
        .with_message_id(short(&message.message_id)?)
        .with_type(short(&message.kind)?)
        .with_headers(headers);
    if let Some(correlation_id) = &message.correlation_id {
        properties = properties.with_correlation_id(short(correlation_id)?);
    }
    if let Some(reply_to) = &message.reply_to {
        properties = properties.with_reply_to(short(reply_to)?);
    }
    Ok((short(message.exchange)?, short(&message.routing_key)?, properties))
}

/// The answers so far, in the order of the messages.
struct Answers {
    /// The first `known` are the broker's; the others are `Unknown`.
    verdicts: Vec<Verdict>,
    known: usize,
    /// Message ids of the returned ones.
    returned: HashSet<String>,
}

impl Answers {
    fn none(messages: usize) -> Self {
        Self { verdicts: vec![Verdict::Unknown; messages], known: 0, returned: HashSet::new() }
    }

    /// Waits for the answers to the next of the messages.
    async fn collect(&mut self, sent: Vec<Sent>) {
        for sent in sent {
            let verdict = match sent {
                Ok(confirm) => self.answer(confirm).await,
                Err(verdict) => verdict,
            };
            self.verdicts[self.known] = verdict;
            self.known += 1;
        }
    }

    async fn answer(&mut self, confirm: PublisherConfirm) -> Verdict {
        let (verdict, returned) = match confirm.await {
            Ok(Confirmation::Ack(returned)) => (Verdict::Confirmed, returned),
            Ok(Confirmation::Nack(returned)) => (Verdict::Nacked, returned),
            Ok(Confirmation::NotRequested) | Err(_) => (Verdict::Unknown, None),
        };
        // Some message of this call came back, hardly ever the one this confirm is for.
        self.returned.extend(returned.and_then(|message| {
            message.delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned())
        }));
        verdict
    }

    /// The final verdicts, now that all returns are known: each comes before the confirm of its message.
    fn verdicts(self, messages: &[Message]) -> Vec<Verdict> {
        let returned = |message: &Message| self.returned.contains(&message.message_id);
        self.verdicts
            .into_iter()
            .zip(messages)
            .map(|(verdict, message)| match verdict {
                Verdict::Confirmed if returned(message) => Verdict::Returned,
                verdict => verdict,
            })
            .collect()
    }
}
