//! How working with the broker fails, and the few places where lapin's answers become that.
//!
//! The broker closes the channel for nearly everything it refuses, with a code and a sentence. Those that
//! mean something to an operator get a variant naming the thing; the rest keep lapin's error as their source,
//! boxed, so that no lapin type shows.

use std::io;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::AMQPSoftError;
use lapin::types::ShortString;
use tokio::time::timeout;

use super::MAX_PARTITIONS;
use crate::tls;

/// One question to the broker (open a channel, declare, acknowledge) that takes longer has failed.
const OPERATION_LIMIT: Duration = Duration::from_secs(5);

/// How a connection ends that the other side ends.
const HANGS_UP: [io::ErrorKind; 3] = [
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::UnexpectedEof,
];
const NO_GREETING: &str =
    "it does not greet in AMQP; if this is its TLS port, AMQP_URL must begin with amqps://";

/// Whether that is what a port that speaks TLS does to somebody who does not: an alert, and the end.
fn is_no_greeting(error: &(dyn std::error::Error + 'static)) -> bool {
    let lapins = error.downcast_ref::<lapin::Error>().map(lapin::Error::kind);
    if matches!(lapins, Some(ErrorKind::ParsingError(_))) {
        return true;
    }
    let io = error.downcast_ref().or_else(|| error.source()?.downcast_ref::<io::Error>());
    io.is_some_and(|cause| HANGS_UP.contains(&cause.kind()))
}

/// Why the broker could not be used. Unless said otherwise, opening a new connection and trying again is right.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The URL cannot be used; retrying does not help. The text holds no password.
    #[error("AMQP URL: {0}")]
    Url(String),
    /// No connection: refused, wrong credentials, unknown virtual host.
    #[error("cannot connect to the broker at {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the client or the broker said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No connection, for TLS failed or is missing. The reason says what mends it.
    #[error("cannot connect to the broker at {address}: {reason}")]
    Tls {
        /// Host and port.
        address: String,
        /// What is wrong with the broker's TLS, or with ours.
        reason: String,
    },
    /// No answer in time. Whether the broker did it is unknown.
    #[error("{operation}: no answer from the broker within {limit:?}")]
    Timeout {
        /// What was asked for.
        operation: String,
        /// How long we waited.
        limit: Duration,
    },
    /// The broker's memory or disk alarm is on and it reads nothing from us: wait until it is over.
    #[error("the broker takes nothing while its memory or disk alarm is on")]
    Blocked,
    /// A queue or exchange of this name exists with other arguments; retrying does not help.
    #[error(
        "`{name}` exists with other arguments than this release declares: drain and delete it, or run the release that made it ({reason})"
    )]
    Mismatch {
        /// The queue or exchange.
        name: String,
        /// The broker's own words, naming the argument.
        reason: String,
    },
    /// There is no queue of this name; declare the topology first.
    #[error("the broker has no queue `{0}`")]
    MissingQueue(String),
    /// The number of partitions must be between 1 and [`MAX_PARTITIONS`].
    #[error("{0} partitions: must be 1 to {MAX_PARTITIONS}")]
    Partitions(u16),
    /// The broker refused, or the channel or connection broke.
    #[error("{operation} failed")]
    Broker {
        /// What was asked for.
        operation: String,
        /// What the client or the broker said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl QueueError {
    /// Of a connection that was not made.
    pub(super) fn connect(
        address: String,
        source: impl std::error::Error + Send + Sync + 'static,
        by_tls: bool,
    ) -> Self {
        if let Some(refused) = tls::explain(&source) {
            return Self::Tls { address, reason: refused.0 };
        }
        let source: Box<dyn std::error::Error + Send + Sync> = source.into();
        if !by_tls && is_no_greeting(source.as_ref()) {
            return Self::Tls { address, reason: NO_GREETING.to_owned() };
        }
        Self::Connect { address, source }
    }

    pub(super) fn broker(operation: &str, source: lapin::Error) -> Self {
        Self::Broker { operation: operation.into(), source: source.into() }
    }
}

/// Waits for the broker's answer, [`OPERATION_LIMIT`] at most.
pub(super) async fn bounded<T>(
    operation: &str,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match timeout(OPERATION_LIMIT, answer).await {
        Ok(answer) => answer.map_err(|error| QueueError::broker(operation, error)),
        Err(_) => Err(QueueError::Timeout { operation: operation.into(), limit: OPERATION_LIMIT }),
    }
}

/// An AMQP short string, of 255 bytes at most: lapin's own conversion panics beyond.
pub(super) fn short(text: &str) -> Result<ShortString, QueueError> {
    ShortString::try_new(text).map_err(|error| QueueError::Broker {
        operation: format!("naming `{text}`"),
        source: error.into(),
    })
}

/// What the broker said when it refused an operation and closed the channel for it.
pub(super) fn refusal(error: &QueueError, code: &AMQPSoftError) -> Option<String> {
    let QueueError::Broker { source, .. } = error else {
        return None;
    };
    match source.downcast_ref::<lapin::Error>()?.kind() {
        ErrorKind::ProtocolError(said) if said.get_id() == code.get_id() => {
            Some(said.get_message().to_string())
        }
        _ => None,
    }
}

/// Turns the broker's `NOT_FOUND` into an error naming the queue.
pub(super) fn missing(error: QueueError, queue: &str) -> QueueError {
    match refusal(&error, &AMQPSoftError::NOTFOUND) {
        Some(_) => QueueError::MissingQueue(queue.into()),
        None => error,
    }
}
