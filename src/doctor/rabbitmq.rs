//! `RabbitMQ`: its version, our login, and whether our exchanges and queues are as declared.

use super::report::names as names_of;
use super::{
    Check, Fault, LOOK_LIMIT, Report, address, count, error, limited, list, mends_tls, warning,
};
use crate::config::Config;
use crate::queue::inspect::{Greeting, Inspection, Refusal, State, greeting, refusal};
use crate::queue::{Connection, DEAD_QUEUE, QueueError};

/// The first release whose quorum queues hand dead letters over without loss.
const OLDEST_VERSION: (u32, u32) = (3, 10);
/// The first major release that nobody has tried with this program.
const UNKNOWN_MAJOR: u32 = 5;
/// In these a queue with a single active consumer stands still for good once each of its
/// consumers has timed out (rabbitmq-server issue 17317).
const STUCK_CONSUMERS: std::ops::RangeInclusive<(u32, u32, u32)> = (4, 3, 0)..=(4, 3, 5);

/// As far as we came.
pub(super) struct Seen {
    address: String,
    greeting: Greeting,
    /// Of a login that was refused.
    refused: Option<Refusal>,
    inspection: Result<Inspection, String>,
}

const CONNECTION: &[Check<Option<(String, String)>>] = &[Check {
    name: "rabbitmq.reachable",
    judge: |away| {
        let (address, cause) = away.as_ref()?;
        Some(error(
            format!("{address}: {cause}"),
            "commands are accepted until the outbox is too old, and not decided",
            mends_tls(cause).unwrap_or(
                "start RabbitMQ, or mend host, port and scheme in AMQP_URL (amqps:// at its TLS port); \
                 `rabbitmq-diagnostics check_port_listener 5672` asks it too",
            ),
        ))
    },
}];

const GREETING: &[Check<Seen>] = &[
    Check { name: "rabbitmq.product", judge: |seen| product(&seen.greeting) },
    Check { name: "rabbitmq.version", judge: |seen| version(&seen.greeting.version) },
    Check {
        name: "rabbitmq.single-active-consumer",
        judge: |seen| stuck_consumers(&seen.greeting.version),
    },
    Check { name: "rabbitmq.login", judge: login },
];

const TOPOLOGY: &[Check<Inspection>] = &[
    Check { name: "rabbitmq.alarm", judge: alarm },
    Check { name: "rabbitmq.missing", judge: missing },
    Check { name: "rabbitmq.drift", judge: drift },
    Check { name: "rabbitmq.dead-letters", judge: dead_letters },
    Check {
        name: "rabbitmq.may-declare",
        judge: |seen| forbidden(&seen.may_not_declare, "declare", "CONFIGURE"),
    },
    Check {
        name: "rabbitmq.may-publish",
        judge: |seen| forbidden(&seen.may_not_publish, "publish", "WRITE"),
    },
    Check {
        name: "rabbitmq.may-consume",
        judge: |seen| forbidden(&seen.may_not_consume, "consume", "READ"),
    },
];

pub(super) fn names() -> Vec<&'static str> {
    [names_of(CONNECTION), names_of(GREETING), names_of(TOPOLOGY)].concat()
}

/// The address and the cause, where nobody greets.
pub(super) async fn look(config: &Config) -> Result<Seen, (String, String)> {
    let url = &config.amqp_url;
    let address = address(url, if url.starts_with("amqps:") { 5671 } else { 5672 });
    let greeted = greeting(url).await.map_err(|cause| (address.clone(), said(&cause)))?;
    let mut seen =
        Seen { address, greeting: greeted, refused: None, inspection: Err(String::new()) };
    let inspected = async {
        let connection = Connection::open(url, "booking doctor").await?;
        let inspected = connection.inspect(config.partitions).await;
        connection.close().await;
        inspected
    };
    let silent = || QueueError::Timeout { operation: "inspecting".to_owned(), limit: LOOK_LIMIT };
    seen.inspection = limited(inspected, silent).await.map_err(|cause| {
        seen.refused = refusal(&cause);
        said(&cause)
    });
    Ok(seen)
}

pub(super) fn judge(looked: &Result<Seen, (String, String)>, report: &mut Report) {
    let away = looked.as_ref().err().cloned();
    report.judge(CONNECTION, Ok(&away));
    let reason = "RabbitMQ cannot be reached";
    let Ok(seen) = looked else {
        report.judge(GREETING, Err(reason));
        return report.judge(TOPOLOGY, Err(reason));
    };
    report.judge(GREETING, Ok(seen));
    let why = |cause: &String| format!("RabbitMQ cannot be used: {cause}");
    match &seen.inspection {
        Ok(inspection) => report.judge(TOPOLOGY, Ok(inspection)),
        Err(cause) => report.judge(TOPOLOGY, Err(&why(cause))),
    }
}

/// Whether we are let in, so that more can be asked.
pub(super) fn lets_us_in(looked: &Result<Seen, (String, String)>) -> bool {
    looked.as_ref().is_ok_and(|seen| seen.inspection.is_ok())
}

/// The error with what lies beneath it.
pub(super) fn said(cause: &QueueError) -> String {
    match std::error::Error::source(cause) {
        Some(source) => format!("{cause}: {source}"),
        None => cause.to_string(),
    }
}

fn product(greeting: &Greeting) -> Option<Fault> {
    (greeting.product != "RabbitMQ").then(|| {
        warning(
            format!("the broker calls itself {:?}", greeting.product),
            "quorum queues and single active consumers are RabbitMQ's own",
            "let AMQP_URL lead to RabbitMQ 3.10 to 4.x",
        )
    })
}

/// The three numbers of a version such as `4.3.1-rc.2`; what is missing counts as 0.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

fn version(version: &str) -> Option<Fault> {
    let Some((major, minor, _)) = numbers(version) else {
        return Some(warning(
            format!("the version {version:?} cannot be read"),
            "nobody knows whether this broker fits",
            "let AMQP_URL lead to RabbitMQ 3.10 to 4.x",
        ));
    };
    if (major, minor) < OLDEST_VERSION {
        return Some(error(
            format!("RabbitMQ {version}"),
            "dead letters can be lost on their way: at-least-once came with 3.10",
            "upgrade RabbitMQ to 3.10 or later",
        ));
    }
    (major >= UNKNOWN_MAJOR).then(|| {
        warning(
            format!("RabbitMQ {version}"),
            "this release was made for 3.10 to 4.x",
            "look for a newer release of this program, or go back to RabbitMQ 4.x",
        )
    })
}

fn stuck_consumers(version: &str) -> Option<Fault> {
    numbers(version).is_some_and(|numbers| STUCK_CONSUMERS.contains(&numbers)).then(|| {
        error(
            format!("RabbitMQ {version}"),
            "a partition stands still for good once each of its consumers has timed out: in 4.3.0 \
             to 4.3.5 no consumer becomes active again (rabbitmq-server issue 17317)",
            "upgrade RabbitMQ to 4.3.6 or later, or stay with 4.2",
        )
    })
}

fn login(seen: &Seen) -> Option<Fault> {
    let Seen { address, refused, inspection, .. } = seen;
    let cause = inspection.as_ref().err()?;
    let means = "commands are accepted until the outbox is too old, and not decided";
    let mend = match refused {
        Some(Refusal { code: 403, .. }) => {
            "put the right user and password in AMQP_URL (guest is let in from the broker's own \
             machine only); `rabbitmqctl authenticate_user USER PASSWORD` tries them"
        }
        Some(Refusal { code: 530, text }) if text.contains("not found") => {
            "rabbitmqctl add_vhost VHOST; rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'; \
             or name another one in AMQP_URL (%2f is /)"
        }
        Some(Refusal { code: 530, .. }) => {
            "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'; or look at the limits of the \
             vhost and the user"
        }
        _ => "look at the broker's log; it says why it ended the connection",
    };
    let refused = refused.as_ref().map_or(cause, |refused| &refused.text);
    Some(error(format!("{address}: {refused}"), means, mend))
}

fn alarm(seen: &Inspection) -> Option<Fault> {
    seen.alarm.then(|| {
        error(
            "the broker's memory or disk alarm is on: it takes no messages",
            "commands wait in the outbox until it is over",
            "rabbitmq-diagnostics alarms; free memory or disk, or raise vm_memory_high_watermark or \
             disk_free_limit",
        )
    })
}

fn missing(seen: &Inspection) -> Option<Fault> {
    let all = seen.exchanges.iter().chain(&seen.queues);
    let missing = all.filter(|(_, state)| *state == State::Missing);
    let missing: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
    (!missing.is_empty()).then(|| {
        error(
            format!("exchanges or queues are missing: {}", list(&missing)),
            "what is published there goes nowhere, and waits in the outbox",
            "start `booking worker` or `booking gateway`, or restart one: each declares what is \
             missing when it connects",
        )
    })
}

fn drift(seen: &Inspection) -> Option<Fault> {
    let all = seen.exchanges.iter().chain(&seen.queues);
    let differing = all.filter_map(|(name, state)| match state {
        State::Differs(how) => Some((name, how)),
        _ => None,
    });
    let differing: Vec<_> = differing.collect();
    let (first, how) = differing.first()?;
    let names: Vec<String> = differing.iter().map(|(name, _)| (*name).clone()).collect();
    let delete = if seen.exchanges.iter().any(|(name, _)| name == *first) {
        format!(
            "delete the exchange in the broker's console, or: rabbitmqadmin delete exchange \
             name={first}"
        )
    } else {
        format!(
            "let the queue run empty (its messages are accepted commands; `rabbitmqctl list_queues` \
             counts them) and delete it: rabbitmqctl delete_queue {first} --if-empty"
        )
    };
    Some(error(
        format!("not as this release declares them: {} ({how})", list(&names)),
        "no process can use the broker: its declaration is refused",
        format!("{delete}; then start a worker or a gateway anew, which declares it"),
    ))
}

fn dead_letters(seen: &Inspection) -> Option<Fault> {
    let (_, depth) = seen.depths.iter().find(|(name, _)| name == DEAD_QUEUE)?;
    (depth.ready > 0).then(|| {
        let messages = count(usize::try_from(depth.ready).unwrap_or(usize::MAX), "message");
        warning(
            format!("{DEAD_QUEUE} holds {messages}"),
            "they were no lists of commands, or were delivered 100 times in vain; a command among \
             them is not decided",
            "look at them in the broker's console (Get messages), mend the reason, then move them \
             back (shovel) or purge the queue: `rabbitmqctl purge_queue booking.dead`",
        )
    })
}

fn forbidden(refusals: &[String], verb: &str, permission: &str) -> Option<Fault> {
    let first = refusals.first()?;
    Some(error(
        format!("the user may not {verb} in {}: {first}", count(refusals.len(), "place")),
        "no process can do its work on this broker",
        format!(
            "rabbitmqctl set_permissions -p VHOST USER '^booking\\.' '^(booking\\.|amq\\.default$)' \
             '^booking\\.' (CONFIGURE WRITE READ; {permission} is what is missing)"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_3_10_to_4_fit() {
        let severity = |text| version(text).map(|fault| fault.is_error());
        for fine in ["3.10.8", "3.13.7", "4.0.1", "4.2", "4.3.6", "4.1.0-rc.1"] {
            assert_eq!(severity(fine), None, "{fine}");
        }
        for old in ["3.9.29", "2.8.7"] {
            assert_eq!(severity(old), Some(true), "{old}");
        }
        for unknown in ["5.0.0", "", "newest", "4"] {
            assert_eq!(severity(unknown), Some(false), "{unknown}");
        }
    }

    #[test]
    fn the_releases_whose_consumers_get_stuck_are_forbidden() {
        for stuck in ["4.3.0", "4.3.2", "4.3.5", "4.3.1-rc.2", "4.3"] {
            assert!(stuck_consumers(stuck).is_some_and(|fault| fault.is_error()), "{stuck}");
        }
        for fine in ["4.2.9", "4.3.6", "4.4.0", "3.10.8", "newest"] {
            assert!(stuck_consumers(fine).is_none(), "{fine}");
        }
    }

    #[test]
    fn an_alarm_and_another_product_are_findings() {
        assert!(alarm(&Inspection { alarm: true, ..Inspection::default() }).is_some());
        let named =
            |product: &str| Greeting { product: product.to_owned(), version: String::new() };
        assert!(product(&named("LavinMQ")).is_some());
        assert!(product(&named("RabbitMQ")).is_none());
    }
}
