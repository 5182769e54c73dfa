//! Redis: whether leases, hints and rate limits can live there. Persistence is not asked for:
//! everything in it may be lost.

use std::time::Duration;

use futures::StreamExt as _;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, Script, cmd};
use uuid::Uuid;

use super::report::names as names_of;
use super::{Check, Fault, Report, address, error, limited, mends_tls, warning};
use crate::config::Config;
use crate::lease;

/// Our scripts read the clock and write, which is safe on replicas from 5 on; 6 brought the ACLs that
/// our remedies speak of, and nobody has tried anything older.
const OLDEST_MAJOR: u32 = 6;
/// Connecting, or one answer, takes no longer; then Redis counts as away.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The key that is written to try it lives no longer, should the doctor die before it deletes it.
const KEY_SECONDS: u32 = 10;
/// Of its memory limit, Redis uses more than so many in a hundred.
const MUCH_MEMORY_PERCENT: u64 = 90;

/// Why Redis cannot be used at all.
pub(super) struct Away {
    address: String,
    text: String,
    /// It answers, but does not let us in.
    refused: bool,
}

/// What Redis says of itself, and lets us do.
#[derive(Debug, Default)]
pub(super) struct Facts {
    version: String,
    role: String,
    cluster: bool,
    /// 0: no limit.
    memory_limit: u64,
    memory_used: u64,
    eviction: String,
    prefix: String,
    /// What kept us from it, if anything did.
    no_keys: Option<String>,
    no_scripts: Option<String>,
    no_hints: Option<String>,
}

const CONNECTION: &[Check<Option<Away>>] = &[Check {
    name: "redis.reachable",
    judge: |away| {
        let Away { address, text, refused } = away.as_ref()?;
        let mend = if *refused {
            "put the right user and password in REDIS_URL: redis://user:password@host:port/0; \
             `redis-cli -u` tries them"
        } else {
            mends_tls(text).unwrap_or(
                "start Redis, or mend host, port and scheme in REDIS_URL (rediss:// at its TLS port); \
                 `redis-cli -h HOST -p PORT ping` asks it too",
            )
        };
        Some(error(
            format!("{address}: {text}"),
            "everything works on and nothing is lost, but slower: waiting clients are found by \
             polling, partitions are not spread evenly, each gateway grants only its share",
            mend,
        ))
    },
}];

const CHECKS: &[Check<Facts>] = &[
    Check { name: "redis.version", judge: |facts| version(&facts.version) },
    Check { name: "redis.role", judge: |facts| role(&facts.role) },
    Check { name: "redis.cluster", judge: cluster },
    Check { name: "redis.eviction", judge: eviction },
    Check { name: "redis.memory", judge: memory },
    Check {
        name: "redis.keys",
        judge: |facts| forbidden(&facts.no_keys, "write keys", &facts.prefix),
    },
    Check {
        name: "redis.scripts",
        judge: |facts| forbidden(&facts.no_scripts, "run scripts", &facts.prefix),
    },
    Check {
        name: "redis.hints",
        judge: |facts| forbidden(&facts.no_hints, "publish and subscribe", &facts.prefix),
    },
];

pub(super) fn names() -> Vec<&'static str> {
    [names_of(CONNECTION), names_of(CHECKS)].concat()
}

pub(super) async fn look(config: &Config) -> Result<Facts, Away> {
    let address = address(&config.redis_url, 6379);
    let away = |error: RedisError| Away {
        address: address.clone(),
        refused: error.kind() == ErrorKind::AuthenticationFailed
            || ["NOAUTH", "WRONGPASS"].iter().any(|code| error.code() == Some(code)),
        text: lease::said(&config.redis_url, error),
    };
    let looked = async {
        let client = lease::client(&config.redis_url).map_err(away)?;
        let connecting = bounded(client.get_multiplexed_async_connection());
        let mut connection = connecting.await.map_err(away)?;
        let mut facts = info(&mut connection).await.map_err(away)?;
        let prefix = &config.redis_prefix;
        let cause = |tried: Result<(), RedisError>| tried.err().map(|error| error.to_string());
        facts.no_keys = cause(write_key(&mut connection, prefix).await);
        facts.no_scripts = cause(run_script(&mut connection, prefix).await);
        facts.no_hints = hear_a_hint(&client, &mut connection, prefix).await.err();
        facts.prefix.clone_from(prefix);
        Ok(facts)
    };
    let silent = || Away {
        address: address.clone(),
        text: format!("not all was answered within {} s", super::LOOK_LIMIT.as_secs()),
        refused: false,
    };
    limited(looked, silent).await
}

async fn bounded<T>(asked: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    tokio::time::timeout(ANSWER_LIMIT, asked)
        .await
        .unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer within 5 s").into()))
        .map_err(lease::told)
}

async fn info(connection: &mut MultiplexedConnection) -> Result<Facts, RedisError> {
    let text: String = bounded(cmd("INFO").query_async(connection)).await?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    Ok(Facts {
        version: value("redis_version"),
        role: value("role"),
        cluster: value("cluster_enabled") == "1",
        memory_limit: value("maxmemory").parse().unwrap_or(0),
        memory_used: value("used_memory").parse().unwrap_or(0),
        eviction: value("maxmemory_policy"),
        ..Facts::default()
    })
}

async fn write_key(connection: &mut MultiplexedConnection, prefix: &str) -> Result<(), RedisError> {
    let key = format!("{prefix}:doctor:{}", Uuid::now_v7());
    let mut set = cmd("SET");
    set.arg(&key).arg("1").arg("EX").arg(KEY_SECONDS);
    bounded(set.query_async::<()>(connection)).await?;
    bounded(cmd("DEL").arg(&key).query_async::<()>(connection)).await
}

/// Leases and limits are scripts that read the clock.
async fn run_script(
    connection: &mut MultiplexedConnection,
    prefix: &str,
) -> Result<(), RedisError> {
    let script = Script::new("return { redis.call('TIME'), redis.call('GET', KEYS[1]) }");
    let call = script.key(format!("{prefix}:doctor"));
    bounded(call.invoke_async::<redis::Value>(connection)).await.map(|_| ())
}

async fn hear_a_hint(
    client: &redis::Client,
    connection: &mut MultiplexedConnection,
    prefix: &str,
) -> Result<(), String> {
    let channel = format!("{prefix}:doctor:{}", Uuid::now_v7());
    let said = |error: RedisError| error.to_string();
    let mut subscription = bounded(client.get_async_pubsub()).await.map_err(said)?;
    bounded(subscription.subscribe(&channel)).await.map_err(said)?;
    let publish = cmd("PUBLISH").arg(&channel).arg("hint").to_owned();
    bounded(publish.query_async::<()>(connection)).await.map_err(said)?;
    let mut hints = subscription.into_on_message();
    let heard = tokio::time::timeout(ANSWER_LIMIT, hints.next()).await;
    heard.ok().flatten().map(|_| ()).ok_or_else(|| "a hint was published and not heard".to_owned())
}

pub(super) fn judge(looked: &Result<Facts, Away>, report: &mut Report) {
    match looked {
        Ok(facts) => {
            report.judge(CONNECTION, Ok(&None));
            report.judge(CHECKS, Ok(facts));
        }
        Err(away) => {
            let away = Some(Away {
                address: away.address.clone(),
                text: away.text.clone(),
                refused: away.refused,
            });
            report.judge(CONNECTION, Ok(&away));
            report.judge(CHECKS, Err("Redis cannot be reached"));
        }
    }
}

fn version(version: &str) -> Option<Fault> {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    (major.unwrap_or(0) < OLDEST_MAJOR).then(|| {
        error(
            format!("Redis {version:?}"),
            "scripts that read the clock and write are refused by older releases",
            "upgrade Redis to 6 or later",
        )
    })
}

fn role(role: &str) -> Option<Fault> {
    (role != "master").then(|| {
        error(
            format!("Redis is a {role:?}, not the master"),
            "it takes no writes, so nobody gets a lease from it",
            "let REDIS_URL lead to the master; or, if it should be one: redis-cli REPLICAOF NO ONE",
        )
    })
}

fn cluster(facts: &Facts) -> Option<Fault> {
    facts.cluster.then(|| {
        error(
            "Redis runs as a cluster",
            "scripts over several leases are refused, for their keys are on several nodes",
            "take one Redis, or one with replicas: it has little to hold",
        )
    })
}

fn eviction(facts: &Facts) -> Option<Fault> {
    (facts.memory_limit > 0 && facts.eviction != "noeviction").then(|| {
        warning(
            format!("maxmemory-policy is {}, and maxmemory is set", facts.eviction),
            "Redis may throw leases away: partitions change hands for nothing, and limits start anew",
            "redis-cli CONFIG SET maxmemory-policy noeviction; and the same in redis.conf",
        )
    })
}

fn memory(facts: &Facts) -> Option<Fault> {
    let (used, limit) = (facts.memory_used, facts.memory_limit);
    (limit > 0 && used.saturating_mul(100) > limit.saturating_mul(MUCH_MEMORY_PERCENT)).then(|| {
        warning(
            format!("Redis uses {used} of {limit} bytes"),
            "it will soon refuse to write, or throw away what others need",
            "redis-cli CONFIG SET maxmemory to more; `redis-cli --bigkeys` tells who uses it",
        )
    })
}

fn forbidden(cause: &Option<String>, verb: &str, prefix: &str) -> Option<Fault> {
    let cause = cause.as_ref()?;
    Some(error(
        format!("we cannot {verb} that begin with {prefix}: {cause}"),
        "as if Redis were away: everything works on, but slower",
        format!(
            "redis-cli ACL SETUSER our user '~{prefix}:*' '&{prefix}:*' +@all -@dangerous +info; or \
             free its memory, if that is what it says"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_6_on_fit() {
        assert!(version("6.0.16").is_none() && version("8.2.1").is_none());
        assert!(version("5.0.14").is_some_and(|fault| fault.is_error()));
        assert!(version("").is_some());
    }

    #[test]
    fn leases_are_in_danger_only_where_memory_is_limited() {
        let facts = |memory_limit, eviction: &str| Facts {
            memory_limit,
            memory_used: 95,
            eviction: eviction.to_owned(),
            ..Facts::default()
        };
        assert!(eviction(&facts(0, "allkeys-lru")).is_none());
        assert!(eviction(&facts(100, "noeviction")).is_none());
        assert!(eviction(&facts(100, "allkeys-lru")).is_some_and(|fault| !fault.is_error()));
        assert!(memory(&facts(100, "noeviction")).is_some());
        assert!(memory(&facts(200, "noeviction")).is_none() && memory(&facts(0, "")).is_none());
    }

    #[test]
    fn only_a_master_that_stands_alone_will_do() {
        assert!(role("master").is_none());
        assert!(role("slave").is_some_and(|fault| fault.is_error()));
        assert!(cluster(&Facts { cluster: true, ..Facts::default() }).is_some());
    }
}
