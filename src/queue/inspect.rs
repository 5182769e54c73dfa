//! What the broker can tell the doctor, without changing anything.
//!
//! AMQP has no question for versions, arguments or permissions, so each is asked in passing:
//! - The version is in the broker's greeting, which comes before any login.
//! - An object that exists (a passive declaration says so) is declared again as `super::topology` has it:
//!   nothing happens if it is equal, and the broker names the difference if not. That needs the permission to
//!   configure, so a refusal tells of it.
//! - The permissions to write and to read are checked before the arguments of a publish and of a consume: both
//!   are sent with an argument that no broker takes. What is permitted is refused for the argument (406), what
//!   is not for the permission (403). Nothing is published and nothing is consumed either way.
//!
//! Bindings cannot be asked for: a bind makes what is missing.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
};
use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPScheme;
use lapin::{BasicProperties, ErrorKind, ExchangeKind};
use tokio::time::timeout;

use super::error::{bounded, short};
use super::topology::{self, EXCHANGES, Queue};
use super::{
    COMMANDS_EXCHANGE, Connection, DEFAULT_EXCHANGE, Depth, EVENTS_EXCHANGE, OPEN_LIMIT,
    QueueError, SUBMIT_QUEUE, link, partition_queue, secured,
};
use crate::tls;

/// A greeting of more bytes is not one of AMQP.
const MAX_GREETING_BYTES: usize = 64 * 1024;

/// What the first byte of TLS is, from a port that was asked without.
const TLS_ALERT: u8 = 21;

/// Reply codes of AMQP 0-9-1.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// Who the broker says it is, before anybody logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub product: String,
    pub version: String,
}

/// The broker's no: a reply code of AMQP 0-9-1 and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub text: String,
}

/// What of ours the broker has, and lets us do.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    pub exchanges: Vec<(String, State)>,
    pub queues: Vec<(String, State)>,
    pub depths: Vec<(String, Depth)>,
    /// What we may not do, one sentence of the broker each.
    pub may_not_declare: Vec<String>,
    pub may_not_publish: Vec<String>,
    pub may_not_consume: Vec<String>,
    /// The broker's memory or disk alarm is on.
    pub alarm: bool,
}

/// How an exchange or a queue compares with ours of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Equal,
    Missing,
    /// In the broker's words.
    Differs(String),
    /// It is there, and we may not declare it, so it was not compared.
    NotCompared,
}

/// Connects without a login, and reads who is there.
///
/// # Errors
/// When nobody is there, or does not greet as AMQP has it, within 5 s.
pub async fn greeting(url: &str) -> Result<Greeting, QueueError> {
    let uri = link::parse(url)?;
    let address = format!("{}:{}", uri.authority.host, uri.authority.port);
    let greeted = async {
        let authorities = tls::named_in(url, tls::RABBITMQ_AUTHORITIES);
        let greeting = if uri.scheme == AMQPScheme::AMQPS {
            let config = tls::client(authorities.as_deref())?;
            let limit = link::tcp_limit(&uri);
            ask(secured::connect(&uri, config, limit, |_| Ok(())).await?).await?
        } else {
            let runtime = lapin::runtime::default_runtime().map_err(io::Error::other)?;
            ask(link::plain(&uri, &runtime).await?).await?
        };
        read_greeting(&greeting).ok_or_else(|| io::Error::other("the greeting is not AMQP's"))
    };
    match timeout(OPEN_LIMIT, greeted).await {
        Ok(greeted) => greeted.map_err(|source| {
            QueueError::connect(address, source, uri.scheme == AMQPScheme::AMQPS)
        }),
        Err(_) => Err(QueueError::Timeout {
            operation: format!("waiting for the greeting of {address}"),
            limit: OPEN_LIMIT,
        }),
    }
}

/// The payload of the first frame that the broker sends.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Vec<u8>> {
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    stream.flush().await?; // TLS keeps what it can until then
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if head[0] == TLS_ALERT {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    if head[0] != 1 || length > MAX_GREETING_BYTES {
        return Err(io::Error::other("this is not AMQP 0-9-1"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

fn read_greeting(payload: &[u8]) -> Option<Greeting> {
    let (_, class) = parse_class(payload).ok()?;
    let AMQPClass::Connection(AMQPMethod::Start(start)) = class else { return None };
    let properties = start.server_properties.inner();
    let text = |name: &str| match properties.iter().find(|(key, _)| key.as_str() == name)?.1 {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    };
    Some(Greeting {
        product: text("product").unwrap_or_default(),
        version: text("version").unwrap_or_default(),
    })
}

/// The broker's no, if that is what the error is.
pub fn refusal(error: &QueueError) -> Option<Refusal> {
    let (QueueError::Broker { source, .. } | QueueError::Connect { source, .. }) = error else {
        return None;
    };
    let ErrorKind::ProtocolError(said) = source.downcast_ref::<lapin::Error>()?.kind() else {
        return None;
    };
    Some(Refusal { code: said.get_id(), text: said.get_message().to_string() })
}

impl Connection {
    /// Compares what the broker has with what `partitions` partitions need, and tries what we may do.
    ///
    /// # Errors
    /// When the broker goes away, or answers what nobody expects.
    pub async fn inspect(&self, partitions: u16) -> Result<Inspection, QueueError> {
        let mut seen = Inspection::default();
        for (name, kind) in EXCHANGES {
            let state = self.compare_exchange(name, kind, &mut seen).await?;
            seen.exchanges.push((name.to_owned(), state));
        }
        for queue in topology::queues(partitions) {
            let state = self.compare_queue(&queue, &mut seen).await?;
            seen.queues.push((queue.name, state));
        }
        let here = |all: &[(String, State)], used: fn(&str) -> bool| {
            let ours = all.iter().filter(|(name, state)| *state != State::Missing && used(name));
            ours.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        // To the others other services publish, or the broker itself. Replies go to the broker's own.
        let mut exchanges =
            here(&seen.exchanges, |name| [COMMANDS_EXCHANGE, EVENTS_EXCHANGE].contains(&name));
        exchanges.push(DEFAULT_EXCHANGE.to_owned());
        for exchange in exchanges {
            self.try_to_publish(&exchange, &mut seen).await?;
        }
        // One of each kind: names of a kind are permitted alike, and each refusal is an error in the broker's log.
        for queue in here(&seen.queues, |name| name == SUBMIT_QUEUE || name == partition_queue(0)) {
            self.try_to_consume(&queue, &mut seen).await?;
        }
        Ok(seen)
    }

    async fn compare_exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        seen: &mut Inspection,
    ) -> Result<State, QueueError> {
        let declare = async |passive| {
            let options = ExchangeDeclareOptions {
                passive,
                durable: true,
                ..ExchangeDeclareOptions::default()
            };
            let channel = self.channel().await?;
            let asked = channel.exchange_declare(
                short(name)?,
                kind.clone(),
                options,
                FieldTable::default(),
            );
            bounded("exchange.declare", asked).await
        };
        if let Err(error) = declare(true).await {
            return missing_or(error, seen);
        }
        state(declare(false).await, seen)
    }

    async fn compare_queue(
        &self,
        queue: &Queue,
        seen: &mut Inspection,
    ) -> Result<State, QueueError> {
        match self.depth(&queue.name).await {
            Ok(depth) => seen.depths.push((queue.name.clone(), depth)),
            Err(QueueError::MissingQueue(_)) => return Ok(State::Missing),
            Err(error) => return missing_or(error, seen),
        }
        let channel = self.channel().await?;
        state(topology::declare_queue_only(&channel, queue).await, seen)
    }

    /// An expiration that is no number is refused by every version, after the permission was checked.
    async fn try_to_publish(
        &self,
        exchange: &str,
        seen: &mut Inspection,
    ) -> Result<(), QueueError> {
        let channel = self.channel().await?;
        bounded("confirm.select", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let properties = BasicProperties::default()
            .with_type(short("booking.doctor")?)
            .with_expiration(short("never")?);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let tried = async {
            let key = short("booking.doctor")?;
            let sent = channel.basic_publish(short(exchange)?, key, options, b"", properties);
            let confirm = bounded("basic.publish", sent).await?;
            bounded("basic.publish", confirm).await
        };
        match tried.await {
            Err(QueueError::Timeout { .. } | QueueError::Blocked) if self.is_blocked() => {
                seen.alarm = true;
                Ok(())
            }
            tried => permitted(tried, &mut seen.may_not_publish),
        }
    }

    /// A priority that is no number is refused by every version, after the permission was checked.
    async fn try_to_consume(&self, queue: &str, seen: &mut Inspection) -> Result<(), QueueError> {
        if seen.alarm {
            return Ok(()); // the broker reads nothing from us any more
        }
        let channel = self.channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert(short("x-priority")?, AMQPValue::LongString("none".into()));
        let tag = short("booking.doctor")?;
        let tried =
            channel.basic_consume(short(queue)?, tag, BasicConsumeOptions::default(), arguments);
        let tried = bounded("basic.consume", tried).await;
        permitted(tried, &mut seen.may_not_consume)
    }
}

/// Of a passive declaration that failed.
fn missing_or(error: QueueError, seen: &mut Inspection) -> Result<State, QueueError> {
    match refusal(&error) {
        Some(no) if no.code == NOT_FOUND => Ok(State::Missing),
        _ => state::<()>(Err(error), seen),
    }
}

/// Of a declaration of what is there.
fn state<T>(declared: Result<T, QueueError>, seen: &mut Inspection) -> Result<State, QueueError> {
    let Err(error) = declared else { return Ok(State::Equal) };
    match (refusal(&error), error) {
        (Some(no), _) if no.code == ACCESS_REFUSED => {
            seen.may_not_declare.push(no.text);
            Ok(State::NotCompared)
        }
        (Some(no), _) => Ok(State::Differs(no.text)),
        (None, QueueError::Mismatch { reason, .. }) => Ok(State::Differs(reason)),
        (None, error) => Err(error),
    }
}

/// Of a question that is refused in any case.
fn permitted<T>(tried: Result<T, QueueError>, no: &mut Vec<String>) -> Result<(), QueueError> {
    let Err(error) = tried else { return Ok(()) };
    match refusal(&error) {
        Some(refused) if refused.code == ACCESS_REFUSED => {
            no.push(refused.text);
            Ok(())
        }
        // Refused for what we sent: permitted. An exchange or queue that went meanwhile is told elsewhere.
        Some(refused) if [PRECONDITION_FAILED, NOT_FOUND].contains(&refused.code) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_read_and_anything_else_is_not() {
        // connection.start, version 0-9, two properties, mechanisms PLAIN, locale en_US.
        let mut table = Vec::new();
        for (name, value) in [("product", "RabbitMQ"), ("version", "3.10.8")] {
            table.push(u8::try_from(name.len()).unwrap());
            table.extend(name.bytes());
            table.push(b'S');
            table.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            table.extend(value.bytes());
        }
        let mut payload = vec![0, 10, 0, 10, 0, 9];
        payload.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
        payload.extend(table);
        for text in ["PLAIN", "en_US"] {
            payload.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            payload.extend(text.bytes());
        }
        let read = read_greeting(&payload).unwrap();
        assert_eq!((read.product.as_str(), read.version.as_str()), ("RabbitMQ", "3.10.8"));
        assert_eq!(read_greeting(&payload[..20]), None);
        assert_eq!(read_greeting(b"HTTP/1.1 400"), None);
    }
}
