//! `booking doctor`: what is wrong with an installation, what that means, and what mends it.
//!
//! In: the settings, and whatever of `PostgreSQL`, `RabbitMQ` and Redis answers. Out: a [`Report`],
//! silent where all is well. Each server has a file: it *looks* once, which gives facts, and a table
//! of checks *judges* the facts, pure functions that a test can hand any facts to.
//!
//! It changes nothing, but for one key in Redis that it deletes again. A server that does not answer
//! is one finding, and what could not be looked at for that is said to be so. Every wait is bounded:
//! a server that is silent costs [`LOOK_LIMIT`]. It may run beside a system at work, and die at any
//! moment. No finding holds a password: addresses are shown without their users.

mod owners;
mod postgres;
mod rabbitmq;
mod redis;
mod report;
mod settings;

use std::time::Duration;

use url::Url;

use crate::config::Settings;
use report::{Check, Fault, error, warning};
pub use report::{Finding, Report, Severity};

/// All that is asked of one server takes no longer; then it counts as silent.
pub const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// Names in one finding; the others are only counted, and their remedies are all there.
const MAX_NAMED: usize = 8;

/// Looks at everything and judges it. What is under way for longer than `patience` counts as stuck.
pub async fn run(settings: &Settings, patience: Duration) -> Report {
    let mut report = Report::default();
    let config = match settings::judge(settings, &mut report) {
        Ok(config) => config,
        Err(reason) => {
            let servers = [postgres::names(), rabbitmq::names(), redis::names(), owners::names()];
            report.not_made.extend(servers.concat().into_iter().map(|name| (name, reason.clone())));
            return report;
        }
    };
    let (postgres, rabbitmq, redis) =
        tokio::join!(postgres::look(&config), rabbitmq::look(&config), redis::look(&config));
    let owners =
        owners::look(&config, postgres.is_ok(), rabbitmq::lets_us_in(&rabbitmq), redis.is_ok())
            .await;
    report.looked = postgres.is_ok() || rabbitmq.is_ok() || redis.is_ok();
    postgres::judge(postgres, &config, patience, &mut report);
    rabbitmq::judge(&rabbitmq, &mut report);
    redis::judge(&redis, &mut report);
    owners::judge(&owners, &mut report);
    report
}

/// A server's look, cut off when the server falls silent.
async fn limited<T, E>(
    look: impl Future<Output = Result<T, E>>,
    silent: impl FnOnce() -> E,
) -> Result<T, E> {
    tokio::time::timeout(LOOK_LIMIT, look).await.unwrap_or_else(|_| Err(silent()))
}

/// Host, port and path of a URL: where it leads, without who goes there.
fn address(url: &str, usual_port: u16) -> String {
    Url::parse(url).map_or_else(
        |_| "an address that is no URL".to_owned(),
        |url| {
            let port = url.port().unwrap_or(usual_port);
            format!("{}:{port}{}", url.host_str().unwrap_or_default(), url.path())
        },
    )
}

/// What mends a server's TLS, if that is what keeps us out.
fn mends_tls(text: &str) -> Option<&'static str> {
    let ours = ["TLS fails: ", "TLS_CA_FILE"];
    ours.iter().any(|words| text.contains(words)).then_some(
        "name the certificate of the server's authority in TLS_CA_FILE, and in the URL a name that is \
         in the server's certificate; `openssl s_client -connect HOST:PORT` shows that one (PostgreSQL: \
         with `-starttls postgres`)",
    )
}

/// `1 row`, `2 rows`.
fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// As many names as a person reads; the others are only counted.
fn list(names: &[String]) -> String {
    let text = names.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => text,
        others => format!("{text} and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_nobody() {
        let shown = address("postgres://me:secret@db.example:6543/booking?sslmode=require", 5432);
        assert_eq!(shown, "db.example:6543/booking");
        assert_eq!(address("redis://:secret@cache", 6379), "cache:6379");
        assert!(!address("secret", 1).contains("secret"));
    }

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (1..=10).map(|number| number.to_string()).collect();
        assert_eq!(list(&names), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
        assert_eq!(list(&names[..2]), "1, 2");
    }

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let all = [
            settings::names(),
            postgres::names(),
            rabbitmq::names(),
            redis::names(),
            owners::names(),
        ]
        .concat();
        assert!(all.len() >= 25, "{}", all.len());
        let mut names = all.clone();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "{all:?}");
    }
}
