//! The settings, before any server is asked.

use std::net::IpAddr;

use super::{Check, Report, error, warning};
use crate::config::identity::Identity;
use crate::config::{Config, Settings};
use crate::store;

/// The lines that say what is wrong with the settings; none where they can be used.
const USABLE: &[Check<Vec<String>>] = &[Check {
    name: "settings.usable",
    judge: |wrong| {
        (!wrong.is_empty()).then(|| {
            error(
                wrong.join("; "),
                "no process starts with these settings",
                "set them as said; `booking help gateway` lists all settings",
            )
        })
    },
}];

const CHECKS: &[Check<Config>] = &[
    Check {
        name: "settings.open-door",
        judge: |config| {
            let host = config.http.ip();
            let open = matches!(config.identity, Identity::TrustedHeader) && !is_loopback(host);
            open.then(|| {
                warning(
                    format!("AUTH_MODE is trusted-header and HOST is {host}"),
                    "whoever reaches the port can act as any user, by setting X-User-ID",
                    "set AUTH_MODE to jwt or api-key, or let only a proxy that sets the header \
                     reach the port",
                )
            })
        },
    },
    Check {
        name: "settings.webhooks",
        judge: |config| {
            config.webhooks.allow_insecure.then(|| {
                warning(
                    "WEBHOOK_ALLOW_INSECURE is on",
                    "whoever registers a webhook reaches what only this machine can reach, and \
                     bookings travel in the clear",
                    "leave WEBHOOK_ALLOW_INSECURE out; let receivers offer https on a port of \
                     WEBHOOK_PORTS",
                )
            })
        },
    },
    Check {
        name: "settings.database-tls",
        judge: |config| {
            let mode = store::unchecked_tls(&config.database_url).ok().flatten()?;
            Some(warning(
                format!("DATABASE_URL says sslmode={mode}"),
                "whoever is in between can pose as the server, read and change: no certificate is \
                 checked",
                "say sslmode=verify-full; TLS_CA_FILE names the file of an authority of your own",
            ))
        },
    },
    Check {
        name: "settings.rate-limits",
        judge: |config| {
            let door = &config.door;
            let limits = [
                ("RATE_LIMIT_MAX", door.per_address),
                ("RATE_LIMIT_PRINCIPAL_MAX", door.per_principal),
                ("RATE_LIMIT_POLL_MAX", door.polls),
                ("MAX_UNDECIDED_PER_CALENDAR", door.undecided_per_calendar),
            ];
            let off: Vec<_> = limits.iter().filter(|(_, limit)| *limit == 0).collect();
            let off = off.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            (!off.is_empty()).then(|| {
                warning(
                    format!("switched off (0): {off}"),
                    "one caller can take the whole capacity from all others",
                    "give each a number of requests, or leave it out for its default",
                )
            })
        },
    },
];

#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    use super::report::names as names_of;
    [names_of(USABLE), names_of(CHECKS)].concat()
}

/// Judges the settings. Those that cannot be used are a finding, and the reason why nothing else
/// can be looked at.
pub(super) fn judge(settings: &Settings, report: &mut Report) -> Result<Config, String> {
    let checked = settings.check();
    let mut wrong = checked.as_ref().err().cloned().unwrap_or_default();
    wrong.extend(settings.check_log().err().unwrap_or_default());
    report.judge(USABLE, Ok(&wrong));
    let reason = "the settings have to be usable first";
    match checked {
        Ok(config) => {
            report.judge(CHECKS, Ok(&config));
            Ok(config)
        }
        Err(_) => {
            report.judge(CHECKS, Err(reason));
            Err(reason.to_owned())
        }
    }
}

fn is_loopback(host: IpAddr) -> bool {
    host.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn found(flags: &[&str]) -> Vec<&'static str> {
        let urls = [
            "booking",
            "--database-url=postgres://h/d",
            "--amqp-url=amqp://h",
            "--redis-url=redis://h",
        ];
        found_with(&[&urls, flags].concat())
    }

    fn found_with(flags: &[&str]) -> Vec<&'static str> {
        let mut report = Report::default();
        let _ = judge(&Cli::parse_from(flags).settings, &mut report);
        report.findings.iter().map(|finding| finding.check).collect()
    }

    #[test]
    fn each_risk_is_found_by_its_check() {
        assert!(found(&[]).is_empty());
        assert_eq!(found(&["--host=0.0.0.0"]), ["settings.open-door"]);
        assert!(found(&["--host=0.0.0.0", "--auth-mode=api-key"]).is_empty());
        assert_eq!(found(&["--webhook-allow-insecure=true"]), ["settings.webhooks"]);
        assert_eq!(found(&["--rate-limit-poll-max=0"]), ["settings.rate-limits"]);
        for (mode, check) in [
            ("disable", &[][..]),
            ("prefer", &["settings.database-tls"]),
            ("require", &["settings.database-tls"]),
            ("verify-full", &[]),
        ] {
            let url = format!("--database-url=postgres://h/d?sslmode={mode}");
            assert_eq!(
                found_with(&["booking", &url, "--amqp-url=amqp://h", "--redis-url=redis://h"]),
                check
            );
        }
        assert_eq!(found(&["--partitions=0"]), ["settings.usable"]);
        assert_eq!(found(&["--log-format=prose"]), ["settings.usable"]);
    }
}
