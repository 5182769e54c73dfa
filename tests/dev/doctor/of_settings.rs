//! Faults of the settings.

use std::net::TcpListener;
use std::time::Instant;

use super::installation::Installation;
use crate::run::{DEADLINE, output};

pub fn are_found(installation: &Installation) {
    for (name, value, check, remedy) in [
        ("HOST", "0.0.0.0", "settings.open-door", "set AUTH_MODE to jwt or api-key"),
        ("WEBHOOK_ALLOW_INSECURE", "true", "settings.webhooks", "leave WEBHOOK_ALLOW_INSECURE out"),
        ("RATE_LIMIT_MAX", "0", "settings.rate-limits", "leave it out for its default"),
    ] {
        let found = installation.examine(&[], &[(name, value)]);
        found.is(name, "warning", &[check], remedy);
    }
    let (code, _) = installation.text(&["--strict"], &[("HOST", "0.0.0.0")]);
    assert_eq!(code, Some(1));

    let unusable = [("PARTITIONS", "many"), ("AMQP_URL", "http://broker:very-secret@h")];
    let (code, text) = installation.text(&[], &unusable);
    assert_eq!(code, Some(2), "{text}");
    for said in ["settings.usable", "PARTITIONS is \"many\"", "AMQP_URL is not usable", "not made"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("very-secret"), "{text}");

    let away = [
        ("DATABASE_URL", "postgres://me:very-secret@127.0.0.1:1/d"),
        ("AMQP_URL", "amqp://me:very-secret@127.0.0.1:1"),
        ("REDIS_URL", "redis://:very-secret@127.0.0.1:1"),
    ];
    let found = installation.examine(&[], &away);
    assert_eq!(found.code, Some(2), "{:#}", found.report);
    let all = ["postgres.reachable", "rabbitmq.reachable", "redis.reachable"];
    assert_eq!(found.checks(), all, "{:#}", found.report);
    assert!(!found.report.to_string().contains("very-secret"), "{:#}", found.report);
}

/// Whatever takes the connections and says nothing costs a bounded time, and is named.
#[test]
fn servers_that_are_silent_are_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let began = Instant::now();
    let (code, text) = output(
        &["doctor"],
        &[
            ("DATABASE_URL", &format!("postgres://me@{address}/d")),
            ("AMQP_URL", &format!("amqp://{address}")),
            ("REDIS_URL", &format!("redis://{address}")),
        ],
    );
    assert_eq!(code, Some(2), "{text}");
    for check in ["postgres.reachable", "rabbitmq.reachable", "redis.reachable"] {
        assert!(text.contains(&format!("ERROR   {check}: {address}")), "{check}: {text}");
    }
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
}
