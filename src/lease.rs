//! Leases on partitions and the membership of workers, in Redis.
//!
//! They spread the work evenly and move it without waste. They guard nothing: who may write is
//! decided by the fences in Postgres, so everything here may be lost, stale or gone. Every call
//! is bounded by [`ANSWER_LIMIT`]; an error means "Redis cannot help now".

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, Script, TlsCertificates, cmd};

use crate::tls;

/// Redis answers within this time, or it counts as away.
pub const ANSWER_LIMIT: Duration = Duration::from_millis(250);

/// What became of a lease that its holder wanted to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It was ours, or was free and is ours again.
    Kept,
    /// Another worker has it.
    Lost,
}

/// This worker's view of the leases.
pub struct Leases {
    connection: Link,
    prefix: String,
    /// Fresh for each process start, so that a restarted worker is never taken for its past self.
    worker: String,
    validity: Duration,
}

/// Adds or renews a member by the server's clock and returns all that are alive.
const JOIN: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)";

/// For each key: 1 when it is ours now (renewed, or free and taken), 0 when it is another's.
const RENEW: &str = "
local kept = {}
for i, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if not holder or holder == ARGV[1] then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    kept[i] = 1
  else
    kept[i] = 0
  end
end
return kept";

/// The members that live, and who holds each of the other keys.
const HOLDERS: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holders = {}
for i = 2, #KEYS do holders[i - 1] = redis.call('GET', KEYS[i]) end
return { redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf'), holders }";

const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

impl Leases {
    /// Does not connect yet.
    ///
    /// # Errors
    /// When the URL is malformed.
    pub fn new(
        url: &str,
        prefix: &str,
        worker: &str,
        validity: Duration,
    ) -> Result<Self, RedisError> {
        Ok(Self {
            connection: link(url)?,
            prefix: prefix.to_owned(),
            worker: worker.to_owned(),
            validity,
        })
    }

    /// Says that this worker lives, and returns the ids of all that do.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn join(&self) -> Result<Vec<String>, RedisError> {
        join(&self.connection, &self.workers(), &self.worker, self.validity).await
    }

    /// Takes the leases that are free, or still ours from a try that came to nothing, and returns
    /// their partitions.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn take(&self, partitions: &[u16]) -> Result<Vec<u16>, RedisError> {
        let taken = std::iter::zip(partitions, self.renew(partitions).await?);
        let ours = taken.filter(|(_, renewal)| *renewal == Renewal::Kept);
        Ok(ours.map(|(partition, _)| *partition).collect())
    }

    /// Renews the leases of `partitions`, in their order.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn renew(&self, partitions: &[u16]) -> Result<Vec<Renewal>, RedisError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let script = Script::new(RENEW);
        let mut call = script.prepare_invoke();
        for partition in partitions {
            call.key(self.key(*partition));
        }
        call.arg(&self.worker).arg(self.validity_ms());
        let kept: Vec<u8> = bounded(call.invoke_async(&mut self.connection.clone())).await?;
        Ok(kept
            .into_iter()
            .map(|kept| if kept == 1 { Renewal::Kept } else { Renewal::Lost })
            .collect())
    }

    /// Gives a lease back, if it is still ours.
    ///
    /// # Errors
    /// When Redis is away; the lease then runs out by itself.
    pub async fn release(&self, partition: u16) -> Result<(), RedisError> {
        let script = Script::new(RELEASE);
        let mut call = script.key(self.key(partition));
        call.arg(&self.worker);
        bounded(call.invoke_async(&mut self.connection.clone())).await
    }

    /// Leaves the membership, so that the others take over at once.
    ///
    /// # Errors
    /// When Redis is away; the membership then runs out by itself.
    pub async fn leave(&self) -> Result<(), RedisError> {
        leave(&self.connection, &self.workers(), &self.worker).await
    }

    fn workers(&self) -> String {
        workers_key(&self.prefix)
    }

    fn key(&self, partition: u16) -> String {
        lease_key(&self.prefix, partition)
    }

    fn validity_ms(&self) -> u64 {
        milliseconds(self.validity)
    }
}

/// Adds or renews `member` of the membership under `key`, and returns all members that are alive.
///
/// # Errors
/// When Redis is away.
pub async fn join(
    link: &Link,
    key: &str,
    member: &str,
    validity: Duration,
) -> Result<Vec<String>, RedisError> {
    let script = Script::new(JOIN);
    let mut call = script.key(key);
    call.arg(member).arg(milliseconds(validity));
    bounded(call.invoke_async(&mut link.clone())).await
}

/// Removes `member` from the membership under `key`.
///
/// # Errors
/// When Redis is away; the membership then runs out by itself.
pub async fn leave(link: &Link, key: &str, member: &str) -> Result<(), RedisError> {
    let mut remove = cmd("ZREM");
    remove.arg(key).arg(member);
    bounded(remove.query_async(&mut link.clone())).await
}

/// Who lives, and who holds which lease: for those who only look.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    pub workers: Vec<String>,
    /// By partition; none where nobody holds it.
    pub holders: Vec<Option<String>>,
}

/// Looks, and changes nothing.
///
/// # Errors
/// When the URL is malformed, or Redis is away.
pub async fn holders(url: &str, prefix: &str, partitions: u16) -> Result<Holders, RedisError> {
    let link = link(url)?;
    let script = Script::new(HOLDERS);
    let mut call = script.key(workers_key(prefix));
    for partition in 0..partitions {
        call.key(lease_key(prefix, partition));
    }
    let (workers, holders) = bounded(call.invoke_async(&mut link.clone())).await?;
    Ok(Holders { workers, holders })
}

fn workers_key(prefix: &str) -> String {
    format!("{prefix}:workers")
}

fn lease_key(prefix: &str, partition: u16) -> String {
    format!("{prefix}:lease:p.{partition:02}")
}

fn milliseconds(validity: Duration) -> u64 {
    u64::try_from(validity.as_millis()).unwrap_or(u64::MAX)
}

/// A connection that is made when first used and made again when lost. Cheap to clone.
pub type Link = ConnectionManager;

/// What an error of a first connection means to an operator. Neither Redis says so: one with TLS drops
/// who speaks without, and one without waits for the rest of what it takes for a command.
pub fn said(url: &str, error: RedisError) -> String {
    let by_tls = url.starts_with("rediss:");
    let hint = if by_tls && error.is_timeout() {
        "; one that speaks no TLS here never answers: then REDIS_URL must begin with redis://"
    } else if !by_tls && error.is_connection_dropped() && !error.is_connection_refusal() {
        "; if this is its TLS port, REDIS_URL must begin with rediss://"
    } else {
        ""
    };
    format!("{}{hint}", told(error))
}

/// Makes a [`Link`].
///
/// # Errors
/// When the URL is malformed.
pub fn link(url: &str) -> Result<Link, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(ANSWER_LIMIT))
        .set_response_timeout(Some(ANSWER_LIMIT))
        .set_number_of_retries(1);
    ConnectionManager::new_lazy_with_config(client(url)?, config)
}

/// What makes connections to the Redis of a URL. The authorities that a `rediss://` URL trusts are
/// read here, once.
///
/// # Errors
/// When the URL is malformed, or its file of authorities cannot be used.
pub fn client(url: &str) -> Result<Client, RedisError> {
    if !url.starts_with("rediss:") {
        return Client::open(url);
    }
    let file = tls::named_in(url, tls::REDIS_AUTHORITIES);
    let root_cert = Some(tls::trusted_pem(file.as_deref())?);
    Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert })
}

/// The same error, saying what to do where it is TLS that failed.
pub fn told(error: RedisError) -> RedisError {
    match tls::explain(&error) {
        Some(refused) => (ErrorKind::Io, "no connection to Redis", refused.0).into(),
        None => error,
    }
}

/// Asks Redis whether it is there.
///
/// # Errors
/// When it is away.
pub async fn ping(link: &Link) -> Result<(), RedisError> {
    bounded(cmd("PING").query_async(&mut link.clone())).await
}

/// While a connection is lost every command waits for the one reconnect; callers must not.
pub(crate) async fn bounded<T>(
    call: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    tokio::time::timeout(ANSWER_LIMIT, call)
        .await
        .unwrap_or_else(|_| Err((ErrorKind::Io, "no answer in time").into()))
        .map_err(told)
}
