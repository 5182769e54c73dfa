//! Consuming: deliveries from one queue, acknowledged when what they ask for is committed, not before.
//!
//! What is delivered and not acknowledged belongs to us until the channel closes; then it goes back to the
//! queue, in its old order, marked as redelivered. What can go wrong:
//! - The broker ends the consumer (queue deleted, half an hour without an acknowledgement), or channel or
//!   connection break: [`Consumer::next`] says `None`, and the owner closes this one and makes another.
//! - An acknowledgement that fails: the message will come again, and must be recognised.
//! - Ending by `basic.cancel` would let the standby of a single-active-consumer queue start while we still
//!   hold earlier messages. So a consumer ends by closing its channel, also when it is merely dropped.

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::timeout;

use super::error::{QueueError, bounded, missing, short};
use super::link::Link;
use super::{CLOSE_LIMIT, Channel, REPLY_SUCCESS};

/// The prefetch is the only bound on what lapin holds in memory, and 0 would mean none.
const PREFETCH: std::ops::RangeInclusive<u16> = 1..=2_000;

/// A message in our hands, until it is acknowledged or parked by its `tag`.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its number among the deliveries of this consumer, counted from 1.
    pub tag: u64,
    /// It was delivered before, to us or another, and not acknowledged.
    pub redelivered: bool,
    /// As the sender gave it.
    pub message_id: Option<String>,
    /// The AMQP property `type`.
    pub kind: Option<String>,
    /// Those headers whose value is a UTF-8 string.
    pub headers: Vec<(String, String)>,
    /// The names of the other headers.
    pub odd_headers: Vec<String>,
    /// What the sender sent, whatever it is.
    pub body: Vec<u8>,
    /// The queue that an answer should go to, through the exchange `""`.
    pub reply_to: Option<String>,
    /// What an answer should carry.
    pub correlation_id: Option<String>,
    pub content_type: Option<String>,
    /// Who sent it. The broker takes a message only if this is empty or the name of its sender.
    pub user_id: Option<String>,
}

/// Receives from one queue. Dropped, it gives back what is not acknowledged, as with [`Consumer::close`].
pub struct Consumer {
    // Before `deliveries`, because fields are dropped in this order and the channel must close first.
    channel: Channel,
    deliveries: lapin::Consumer,
    over: bool,
    /// Keeps the connection while the consumer lives.
    _link: Link,
}

pub(super) async fn start(
    channel: Channel,
    link: Link,
    queue: &str,
    consumer_tag: &str,
    prefetch: u16,
) -> Result<Consumer, QueueError> {
    let prefetch = prefetch.clamp(*PREFETCH.start(), *PREFETCH.end());
    bounded("basic.qos", channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let started = channel.basic_consume(
        short(queue)?,
        short(consumer_tag)?,
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let deliveries =
        bounded("basic.consume", started).await.map_err(|error| missing(error, queue))?;
    Ok(Consumer { channel, deliveries, over: false, _link: link })
}

impl Consumer {
    /// The next delivery. An error is followed by `None`, and `None` is the end: deliveries already received
    /// come first, and cannot be acknowledged any more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, QueueError>> {
        // lapin's stream would be pending for ever after its end.
        if self.over {
            return None;
        }
        match self.deliveries.next().await {
            Some(Ok(delivery)) => Some(Ok(delivery.into())),
            Some(Err(error)) => {
                self.over = true;
                Some(Err(QueueError::broker("consuming", error)))
            }
            None => {
                self.over = true;
                None
            }
        }
    }

    /// A handle to acknowledge with, from any task.
    pub fn acker(&self) -> Acker {
        Acker(self.channel.0.clone())
    }

    /// Ends it: deliveries not acknowledged are back in the queue, in order, when this returns. Takes at
    /// most 2 s; then the broker does the same as soon as it hears of it.
    ///
    /// Acknowledgements sent just before may be lost with the channel: a quorum queue that is busy with more
    /// than 32 of them keeps the others in the channel's memory. Acknowledge many at a time and this is rare.
    pub async fn close(self) {
        // An error means that the channel is gone already.
        let _ = timeout(CLOSE_LIMIT, self.channel.close(REPLY_SUCCESS, "OK".into())).await;
    }
}

/// Acknowledges the deliveries of one consumer. When one of these fails, what it was for will be delivered
/// again, or already has been.
///
/// It speaks to the channel and not through lapin's own acker, which answers `Ok(false)` where it does nothing.
#[derive(Clone)]
pub struct Acker(lapin::Channel);

impl Acker {
    /// Tells the broker that `tag` and every delivery before it is done with. Done when it has been written
    /// to the socket; the broker does not answer. A tag it does not expect closes the channel.
    pub async fn ack_through(&self, tag: u64) -> Result<(), QueueError> {
        let acked = self.0.basic_ack(known(tag)?, BasicAckOptions { multiple: true });
        bounded("basic.ack", acked).await
    }

    /// Tells the broker that this delivery, and no other, is done with. Otherwise like
    /// [`Acker::ack_through`].
    pub async fn ack(&self, tag: u64) -> Result<(), QueueError> {
        let acked = self.0.basic_ack(known(tag)?, BasicAckOptions { multiple: false });
        bounded("basic.ack", acked).await
    }

    /// Sends this delivery, and no other, to the dead-letter exchange of its queue. Done when it has been
    /// written to the socket.
    pub async fn park(&self, tag: u64) -> Result<(), QueueError> {
        let nacked =
            self.0.basic_nack(known(tag)?, BasicNackOptions { multiple: false, requeue: false });
        bounded("basic.nack", nacked).await
    }
}

/// For the broker 0 is not a tag but "all that are open".
fn known(tag: u64) -> Result<u64, QueueError> {
    if tag == 0 {
        return Err(QueueError::Broker {
            operation: "acknowledging".into(),
            source: "no delivery has tag 0".into(),
        });
    }
    Ok(tag)
}

impl From<lapin::message::Delivery> for Delivery {
    fn from(delivery: lapin::message::Delivery) -> Self {
        let properties = delivery.properties;
        let text =
            |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
        let (headers, odd_headers) =
            properties.headers().as_ref().map(texts_and_others).unwrap_or_default();
        Self {
            tag: delivery.delivery_tag,
            redelivered: delivery.redelivered,
            message_id: text(properties.message_id()),
            kind: text(properties.kind()),
            headers,
            odd_headers,
            body: delivery.data,
            reply_to: text(properties.reply_to()),
            correlation_id: text(properties.correlation_id()),
            content_type: text(properties.content_type()),
            user_id: text(properties.user_id()),
        }
    }
}

type Headers = (Vec<(String, String)>, Vec<String>);

fn texts_and_others(headers: &FieldTable) -> Headers {
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    };
    let (mut texts, mut others) = Headers::default();
    for (name, value) in headers.inner() {
        let name = name.as_str().to_owned();
        match text(value) {
            Some(text) => texts.push((name, text)),
            None => others.push(name),
        }
    }
    (texts, others)
}
