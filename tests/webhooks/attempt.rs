//! What the tests send, and with which limits.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use booking::webhooks::address::Policy;
use booking::webhooks::resolver::{self, LookUp};
use booking::webhooks::sender::{Limits, Outcome, Outgoing, Reply, Sender};
use booking::webhooks::signature::Secret;
use uuid::Uuid;

pub const ID: Uuid = Uuid::from_u128(0x018f_3c1e_7c1a_7000_8000_0123_4567_89ab);
/// The 27th of November 2026.
pub const TIMESTAMP: i64 = 1_795_795_200;
pub const BODY: &str = r#"{"type":"booking.confirmed","data":{"title":"Zoë"}}"#;

/// Limits that no test reaches.
pub const AMPLE: Limits = Limits { connect: HOUR, total: HOUR, rest: HOUR };
const HOUR: Duration = Duration::from_secs(3600);
/// An attempt that takes longer is one that does not end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One for receivers on this machine.
pub fn sender() -> Sender {
    with_limits(AMPLE)
}

pub fn with_limits(limits: Limits) -> Sender {
    Sender::with(Policy::new(&[443], true), limits, resolver::system()).unwrap()
}

pub fn secret() -> Secret {
    Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()
}

pub async fn send(sender: &Sender, url: &str) -> Reply {
    let (url, secrets) = (url.parse().unwrap(), [secret()]);
    let timestamp = chrono::DateTime::from_timestamp(TIMESTAMP, 0).unwrap();
    let delivery =
        Outgoing { url: &url, id: ID, timestamp, secrets: &secrets, traceparent: None, body: BODY };
    tokio::time::timeout(PATIENCE, sender.send(&delivery)).await.expect("an attempt ends")
}

pub async fn outcome(sender: &Sender, url: &str) -> Outcome {
    send(sender, url).await.outcome
}

/// Answers the given lists in turn, the last one for ever.
pub fn names(answers: &[&[&str]]) -> LookUp {
    let parse = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    let answers: Vec<Vec<IpAddr>> = answers.iter().map(parse).collect();
    let rest = Arc::new(Mutex::new(answers));
    Arc::new(move |_| {
        let mut rest = rest.lock().unwrap();
        let answer = if rest.len() > 1 { rest.remove(0) } else { rest[0].clone() };
        Box::pin(async { Ok(answer) })
    })
}
