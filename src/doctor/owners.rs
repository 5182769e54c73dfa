//! Who decides: whether every partition has a worker, and all servers agree on which.
//!
//! RabbitMQ knows the consumers, Redis the leases, PostgreSQL who took each partition last. While
//! partitions change hands these differ for a moment, so what is wrong is looked at again, for as
//! long as a change takes.

use std::time::Duration;

use tokio::time::Instant;

use super::report::names as names_of;
use super::{Check, Fault, Report, error, list, warning};
use crate::config::Config;
use crate::lease::{self, Holders};
use crate::queue::{Connection, QueueError, partition_queue};
use crate::store;

/// A lease that has run out is taken within this time after it.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked again meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Consumers by partition.
type Consumers = Vec<u32>;

/// The leases, and who took each partition last.
struct Agreement {
    leases: Holders,
    owners: Vec<Option<String>>,
}

/// What could be seen, and else why not.
pub(super) struct Seen {
    consumers: Result<Consumers, String>,
    agreement: Result<Agreement, String>,
}

const CONSUMERS: &[Check<Consumers>] = &[Check { name: "workers.consumers", judge: consumers }];

const AGREEMENT: &[Check<Agreement>] = &[
    Check { name: "workers.leases", judge: leases },
    Check { name: "workers.owners", judge: owners },
];

pub(super) fn names() -> Vec<&'static str> {
    [names_of(CONSUMERS), names_of(AGREEMENT)].concat()
}

/// Looks until all is well, or has been wrong for longer than a change of hands takes.
pub(super) async fn look(config: &Config, postgres: bool, rabbitmq: bool, redis: bool) -> Seen {
    let end = Instant::now() + config.lease + TAKEN_WITHIN;
    loop {
        let seen = Seen {
            consumers: if rabbitmq {
                look_at_consumers(config).await.map_err(|cause| super::rabbitmq::said(&cause))
            } else {
                Err("RabbitMQ cannot be used".to_owned())
            },
            agreement: if postgres && redis {
                look_at_agreement(config).await
            } else {
                Err("PostgreSQL and Redis have to answer for that".to_owned())
            },
        };
        let mut report = Report::default();
        judge(&seen, &mut report);
        // A server that answered before may only be late.
        let late =
            (rabbitmq && seen.consumers.is_err()) || (postgres && redis && seen.agreement.is_err());
        let idle = seen.consumers.as_ref().is_ok_and(|all| nobody_works(all));
        let settled = report.findings.is_empty() || idle;
        if (settled && !late) || Instant::now() > end {
            return seen;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) fn judge(seen: &Seen, report: &mut Report) {
    report.judge(CONSUMERS, seen.consumers.as_ref().map_err(String::as_str));
    report.judge(AGREEMENT, seen.agreement.as_ref().map_err(String::as_str));
}

async fn look_at_consumers(config: &Config) -> Result<Consumers, QueueError> {
    let connection = Connection::open(&config.amqp_url, "booking doctor").await?;
    let mut consumers = Vec::new();
    for partition in 0..config.partitions {
        match connection.depth(&partition_queue(partition)).await {
            Ok(depth) => consumers.push(depth.consumers),
            Err(QueueError::MissingQueue(_)) => consumers.push(0),
            Err(error) => return Err(error),
        }
    }
    connection.close().await;
    Ok(consumers)
}

async fn look_at_agreement(config: &Config) -> Result<Agreement, String> {
    let owners = store::doctor::owners(&config.database_url).await;
    let leases = lease::holders(&config.redis_url, &config.redis_prefix, config.partitions).await;
    Ok(Agreement {
        leases: leases.map_err(|error| error.to_string())?,
        owners: owners.map_err(|error| error.to_string())?,
    })
}

fn nobody_works(consumers: &[u32]) -> bool {
    consumers.iter().all(|number| *number == 0)
}

fn consumers(consumers: &Consumers) -> Option<Fault> {
    if nobody_works(consumers) {
        return Some(warning(
            "no partition has a consumer: no worker runs",
            "commands are accepted and not decided",
            "start `booking worker` (up to PARTITIONS) or `booking serve`",
        ));
    }
    let without = (0..).zip(consumers).filter(|(_, number)| **number == 0);
    let without: Vec<u16> = without.map(|(partition, _)| partition).collect();
    (!without.is_empty()).then(|| {
        error(
            format!("nobody consumes from {}", named(&without)),
            "the commands of their calendars wait, while others are decided",
            "look at the workers' logs for what keeps them from it; a worker that is started anew \
             takes what nobody has",
        )
    })
}

fn leases(Agreement { leases, .. }: &Agreement) -> Option<Fault> {
    if leases.workers.is_empty() {
        return None; // told by the consumers
    }
    let alive = |holder: &Option<String>| {
        holder.as_ref().is_some_and(|holder| leases.workers.contains(holder))
    };
    let without = (0..).zip(&leases.holders).filter(|(_, holder)| !alive(holder));
    let without: Vec<u16> = without.map(|(partition, _)| partition).collect();
    (!without.is_empty()).then(|| {
        error(
            format!("no living worker holds the lease of {}", named(&without)),
            "these partitions stand still, or change hands for nothing",
            "look at the workers' logs; a worker that cannot reach RabbitMQ or PostgreSQL gives its \
             leases back",
        )
    })
}

fn owners(Agreement { leases, owners }: &Agreement) -> Option<Fault> {
    let pairs = (0..).zip(leases.holders.iter().zip(owners));
    let foreign = pairs.filter(|(_, (holder, owner))| holder.is_some() && holder != owner);
    let foreign: Vec<u16> = foreign.map(|(partition, _)| partition).collect();
    (!foreign.is_empty()).then(|| {
        error(
            format!("in Redis another worker holds {} than took it in PostgreSQL", named(&foreign)),
            "another installation uses the same Redis and the same REDIS_PREFIX: the workers of \
             each keep the other's from their partitions",
            "give each installation a REDIS_PREFIX of its own, in all its processes",
        )
    })
}

fn named(partitions: &[u16]) -> String {
    let names: Vec<String> = partitions.iter().map(|p| format!("p.{p:02}")).collect();
    list(&names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement(workers: &[&str], holders: &[Option<&str>], owners: &[Option<&str>]) -> Agreement {
        let owned = |all: &[Option<&str>]| all.iter().map(|one| one.map(str::to_owned)).collect();
        Agreement {
            leases: Holders {
                workers: workers.iter().map(|worker| (*worker).to_owned()).collect(),
                holders: owned(holders),
            },
            owners: owned(owners),
        }
    }

    #[test]
    fn some_partitions_without_a_consumer_are_worse_than_all() {
        assert!(consumers(&vec![1, 2]).is_none());
        assert!(consumers(&vec![0, 0]).is_some_and(|fault| !fault.is_error()));
        assert!(consumers(&vec![1, 0]).is_some_and(|fault| fault.is_error()));
    }

    #[test]
    fn the_servers_have_to_agree_on_who_is_alive_and_holds_what() {
        let (a, b) = (Some("a"), Some("b"));
        let sound = agreement(&["a", "b"], &[a, b], &[a, b]);
        assert!(leases(&sound).is_none() && owners(&sound).is_none());
        let dead = agreement(&["a"], &[a, b], &[a, b]);
        assert!(leases(&dead).is_some() && owners(&dead).is_none());
        let nobody = agreement(&["a"], &[a, None], &[a, a]);
        assert!(leases(&nobody).is_some() && owners(&nobody).is_none());
        let foreign = agreement(&["a", "b"], &[a, b], &[a, a]);
        assert!(leases(&foreign).is_none() && owners(&foreign).is_some());
        let stopped = agreement(&[], &[None, None], &[a, b]);
        assert!(leases(&stopped).is_none() && owners(&stopped).is_none());
    }
}
