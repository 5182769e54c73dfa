//! What the queue door sends: answers to a message, and copies of what it could not take.
//!
//! In: messages of many deliveries that are worked on at the same time. Out: what the broker said
//! of each. They share a publisher, and what waits together is published together. Answers that
//! are rows of a commit do not come by here: the relay carries them.

use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::accept::reading;
use crate::booking::command::{CommandRecord, ReplyAddress};
use crate::booking::problem::Problem;
use crate::queue::{
    DEAD_EXCHANGE, DEAD_KEY, DEFAULT_EXCHANGE, Delivery, Message, Publisher, Verdict,
};

/// A broker that has not confirmed by then is taken as lost.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// Messages of one publish; more wait for the next.
const MAX_BATCH: usize = 256;
/// Bytes of a dead letter's own headers; those that do not fit any more are left out, because all
/// of them travel in one frame.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Characters of the reason on a dead letter; the rest is cut off.
const MAX_REASON_CHARS: usize = 1000;

/// The broker's answer is not known, or the lane has ended.
#[derive(Debug)]
pub struct Unconfirmed;

struct Outgoing {
    message: Message,
    confirmed: oneshot::Sender<bool>,
}

/// The handle on the lane. The lane ends when all handles are gone.
pub struct Answers(mpsc::Sender<Outgoing>);

/// Publishes.
pub struct Lane {
    outgoing: mpsc::Receiver<Outgoing>,
    publisher: Publisher,
}

pub fn lane(publisher: Publisher) -> (Answers, Lane) {
    let (sender, outgoing) = mpsc::channel(MAX_BATCH);
    (Answers(sender), Lane { outgoing, publisher })
}

impl Answers {
    /// Publishes a message; false when the broker or the queue refused it.
    pub async fn send(&self, message: Message) -> Result<bool, Unconfirmed> {
        let (confirmed, verdict) = oneshot::channel();
        let sent = self.0.send(Outgoing { message, confirmed }).await;
        sent.map_err(|_| Unconfirmed)?;
        verdict.await.map_err(|_| Unconfirmed)
    }
}

impl Lane {
    /// Runs until the broker leaves a message unanswered, or nobody is left to send.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.outgoing.recv_many(&mut batch, MAX_BATCH).await > 0 {
            let (messages, waiting): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|outgoing| (outgoing.message, outgoing.confirmed)).unzip();
            let verdicts = self.publisher.publish_all(&messages, CONFIRM_LIMIT).await;
            for (verdict, confirmed) in verdicts.iter().zip(waiting) {
                // Dropped without an answer, it says that there is none.
                if *verdict != Verdict::Unknown {
                    let _ = confirmed.send(*verdict == Verdict::Confirmed); // may be given up
                }
            }
            if verdicts.contains(&Verdict::Unknown) {
                return;
            }
        }
    }
}

/// The command, as the relay would tell it; `kind` is `command.accepted` or `command.decided`.
pub fn told(kind: &str, address: &ReplyAddress, record: &CommandRecord) -> Message {
    let body = serde_json::to_vec(record).unwrap_or_default(); // plain data: cannot fail
    reply(kind, address, body)
}

/// The refusal of a message.
pub fn refused(address: &ReplyAddress, problem: &Problem, correlation_id: &str) -> Message {
    reply("command.refused", address, problem.document(correlation_id).into_bytes())
}

/// Whether the queue is there to receive it is not our concern.
fn reply(kind: &str, address: &ReplyAddress, body: Vec<u8>) -> Message {
    Message {
        exchange: DEFAULT_EXCHANGE,
        routing_key: address.queue.clone(),
        message_id: Uuid::now_v7().to_string(),
        kind: kind.to_owned(),
        content_type: "application/json",
        correlation_id: address.correlation_id.clone(),
        reply_to: None,
        headers: Vec::new(),
        body,
        mandatory: false,
    }
}

/// A copy of what could not be taken, with the reason. The broker's own way to the dead letters
/// would bring no reason with it.
pub fn dead_letter(delivery: &Delivery, problem: &Problem, correlation_id: &str) -> Message {
    let reason = format!("{}: {}", problem.code.as_str(), problem.detail);
    let ours = [
        ("x-reason", reason.chars().take(MAX_REASON_CHARS).collect()),
        ("x-correlation-id", correlation_id.to_owned()),
    ];
    let mut bytes = 0;
    let theirs = delivery.headers.iter().filter(|(name, value)| {
        bytes += name.len() + value.len();
        bytes <= MAX_HEADER_BYTES && ours.iter().all(|(own, _)| own != name)
    });
    let mut headers: Vec<(String, String)> = theirs.cloned().collect();
    headers.extend(ours.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let is_json = delivery.content_type.as_deref().is_none_or(reading::is_json);
    Message {
        exchange: DEAD_EXCHANGE,
        routing_key: DEAD_KEY.to_owned(),
        message_id: delivery.message_id.clone().unwrap_or_default(),
        kind: delivery.kind.clone().unwrap_or_default(),
        content_type: if is_json { "application/json" } else { "application/octet-stream" },
        correlation_id: delivery.correlation_id.clone(),
        reply_to: delivery.reply_to.clone(),
        headers,
        body: delivery.body.clone(),
        mandatory: true,
    }
}
