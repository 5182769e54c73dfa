//! The settings of webhooks: where they may go, how long they are tried and kept.

use std::time::Duration;

use clap::Args;

use super::check::{listed, number, seconds};

/// Waits of a schedule, each a week at most: more would only keep what nobody will take.
const MAX_WAITS: usize = 32;
const MAX_WAIT_SECONDS: u64 = 604_800;

/// The settings as given. The comments are the `--help` text.
#[derive(Args, Clone, Debug)]
pub struct WebhookSettings {
    /// Ports that webhooks may go to, with commas between
    #[arg(long, env = "WEBHOOK_PORTS", default_value = "443")]
    pub webhook_ports: String,

    /// true: webhooks may also go to plain http, to any port, and to this machine and private
    /// networks. Only for trying things out: whoever registers a URL then reaches what only this
    /// process can reach
    #[arg(long, env = "WEBHOOK_ALLOW_INSECURE", default_value = "false")]
    pub webhook_allow_insecure: String,

    /// Seconds to wait after each failed try of a webhook, ascending, with commas between, up to
    /// 32 of 604800 at most. After the last one it is exhausted. The default lasts 75 hours
    #[arg(
        long,
        env = "WEBHOOK_RETRY_SCHEDULE",
        default_value = "5,300,1800,7200,18000,36000,50400,72000,86400"
    )]
    pub webhook_retry_schedule: String,

    /// Seconds that an endpoint may fail before it is disabled, 1 to 2592000. Default: 5 days
    #[arg(long, env = "WEBHOOK_DISABLE_AFTER", default_value = "432000")]
    pub webhook_disable_after: String,

    /// Days that deliveries and their attempts are kept, 1 to 3650
    #[arg(long, env = "WEBHOOK_RETENTION_DAYS", default_value = "30")]
    pub webhook_retention_days: String,
}

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Webhooks {
    pub ports: Vec<u16>,
    pub allow_insecure: bool,
    pub retry_waits: Vec<Duration>,
    pub disable_after: Duration,
    pub retention: Duration,
}

impl WebhookSettings {
    /// Checks the settings, and notes what is wrong.
    pub fn check(&self, errors: &mut Vec<String>) -> Webhooks {
        let disable_after = &self.webhook_disable_after;
        let days = &self.webhook_retention_days;
        let days: u64 = number("WEBHOOK_RETENTION_DAYS", days, 1, 3650, errors);
        Webhooks {
            ports: self.ports(errors),
            allow_insecure: self.allow_insecure(errors),
            retry_waits: self.retry_waits(errors),
            disable_after: seconds("WEBHOOK_DISABLE_AFTER", disable_after, 1, 2_592_000, errors),
            retention: Duration::from_secs(days * 86_400),
        }
    }

    fn ports(&self, errors: &mut Vec<String>) -> Vec<u16> {
        let given = &self.webhook_ports;
        let ports = listed(given).map(|port| port.parse().ok().filter(|port| *port > 0));
        let ports: Option<Vec<u16>> = ports.collect();
        ports.filter(|ports| !ports.is_empty()).unwrap_or_else(|| {
            errors.push(format!(
                "WEBHOOK_PORTS is {given:?}; it must be ports from 1 to 65535 with commas between"
            ));
            Vec::new()
        })
    }

    fn allow_insecure(&self, errors: &mut Vec<String>) -> bool {
        self.webhook_allow_insecure.parse().unwrap_or_else(|_| {
            let given = &self.webhook_allow_insecure;
            errors.push(format!("WEBHOOK_ALLOW_INSECURE is {given:?}; it must be true or false"));
            false
        })
    }

    fn retry_waits(&self, errors: &mut Vec<String>) -> Vec<Duration> {
        let given = &self.webhook_retry_schedule;
        let waits: Option<Vec<u64>> = listed(given).map(|wait| wait.parse().ok()).collect();
        let waits = waits.filter(|waits| {
            let fits = |wait| (1..=MAX_WAIT_SECONDS).contains(wait);
            (1..=MAX_WAITS).contains(&waits.len()) && waits.is_sorted() && waits.iter().all(fits)
        });
        let Some(waits) = waits else {
            errors.push(format!(
                "WEBHOOK_RETRY_SCHEDULE is {given:?}; it must be 1 to {MAX_WAITS} ascending whole \
                 numbers from 1 to {MAX_WAIT_SECONDS} with commas between"
            ));
            return Vec::new();
        };
        waits.into_iter().map(Duration::from_secs).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        webhooks: WebhookSettings,
    }

    fn check(flags: &[&str]) -> Result<Webhooks, Vec<String>> {
        let mut errors = Vec::new();
        let cli = Cli::parse_from([&["booking"], flags].concat());
        let webhooks = cli.webhooks.check(&mut errors);
        if errors.is_empty() { Ok(webhooks) } else { Err(errors) }
    }

    #[test]
    fn the_defaults_are_strict_and_try_for_75_hours() {
        let webhooks = check(&[]).unwrap();
        assert_eq!(webhooks.ports, [443]);
        assert!(!webhooks.allow_insecure);
        let hours = webhooks.retry_waits.iter().sum::<Duration>().as_secs() / 3600;
        assert_eq!(hours, 75);
        assert_eq!(webhooks.disable_after, Duration::from_secs(5 * 86_400));
        assert_eq!(webhooks.retention, Duration::from_secs(30 * 86_400));
    }

    #[test]
    fn lists_are_read_with_blanks_between() {
        let webhooks = check(&[
            "--webhook-ports=443, 8443",
            "--webhook-retry-schedule=1, 1,604800",
            "--webhook-allow-insecure=true",
        ]);
        let webhooks = webhooks.unwrap();
        assert_eq!(webhooks.ports, [443, 8443]);
        assert_eq!(webhooks.retry_waits, [1, 1, 604_800].map(Duration::from_secs));
        assert!(webhooks.allow_insecure);
    }

    #[test]
    fn what_is_wrong_is_said_by_its_name() {
        let long = format!("--webhook-retry-schedule={}", ["1"; MAX_WAITS + 1].join(","));
        for (flag, name) in [
            ("--webhook-ports=0", "WEBHOOK_PORTS"),
            ("--webhook-ports=443,https", "WEBHOOK_PORTS"),
            ("--webhook-ports=65536", "WEBHOOK_PORTS"),
            ("--webhook-ports=", "WEBHOOK_PORTS"),
            ("--webhook-allow-insecure=maybe", "WEBHOOK_ALLOW_INSECURE"),
            ("--webhook-retry-schedule=", "WEBHOOK_RETRY_SCHEDULE"),
            ("--webhook-retry-schedule=0", "WEBHOOK_RETRY_SCHEDULE"),
            ("--webhook-retry-schedule=60,5", "WEBHOOK_RETRY_SCHEDULE"),
            ("--webhook-retry-schedule=604801", "WEBHOOK_RETRY_SCHEDULE"),
            ("--webhook-retry-schedule=soon", "WEBHOOK_RETRY_SCHEDULE"),
            (&long, "WEBHOOK_RETRY_SCHEDULE"),
            ("--webhook-disable-after=0", "WEBHOOK_DISABLE_AFTER"),
            ("--webhook-retention-days=0", "WEBHOOK_RETENTION_DAYS"),
        ] {
            let errors = check(&[flag]).unwrap_err();
            assert!(errors[0].starts_with(name), "{flag}: {errors:?}");
            assert_eq!(errors.len(), 1, "{flag}: {errors:?}");
        }
    }
}
