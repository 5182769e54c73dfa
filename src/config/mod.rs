//! Every setting: its name, its default and what it does, checked once at the start.
//!
//! A setting is an environment variable or the flag of the same name. All that is wrong with
//! them is reported together, each by its name, before anything is started.

mod authorities;
mod check;
mod door;
pub mod identity;
mod network;
mod traces;
mod webhooks;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::tls;
use check::{number, prefix, seconds, url};
pub use door::{Door, DoorSettings, Origins};
use identity::{Identity, IdentitySettings};
pub use network::Network;
pub use traces::{Sampling, TraceSettings, Traces};
pub use webhooks::{WebhookSettings, Webhooks};

/// The seed's port.
pub const DEFAULT_PORT: &str = "3000";

/// The settings as given, before they are checked. The comments are the `--help` text.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// PostgreSQL, the truth: postgres://user:password@host:port/database, by TLS with
    /// ?sslmode=verify-full
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub database_url: String,

    /// RabbitMQ, which carries commands and events: amqp://user:password@host:port/vhost, by TLS
    /// amqps://
    #[arg(
        long,
        env = "AMQP_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub amqp_url: String,

    /// Redis, which only coordinates and wakes: redis://user:password@host:port/db, by
    /// TLS rediss://. May be away
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub redis_url: String,

    /// File of certificates (PEM) of authorities that the three servers' certificates may be of,
    /// besides the system's. Read when connecting: restart after changing it. Default: none
    #[arg(long, env = "TLS_CA_FILE", default_value = "", hide_default_value = true)]
    pub tls_ca_file: String,

    /// What our Redis keys and channels begin with; give each installation its own
    #[arg(long, env = "REDIS_PREFIX", default_value = "booking")]
    pub redis_prefix: String,

    /// Number of command queues, 1 to 99: the most workers that can share the work. Fixed when
    /// the database is first migrated
    #[arg(long, env = "PARTITIONS", default_value = "16")]
    pub partitions: String,

    /// Address to listen on. 127.0.0.1 is reached from this machine only; 0.0.0.0 from anywhere
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Port of the HTTP API (gateway, serve, dev). 0 takes a free one and logs it. Default: 3000;
    /// for dev a free one where 3000 is taken
    #[arg(long, env = "PORT", default_value = "", hide_default_value = true)]
    pub port: String,

    /// Port for health and metrics of a worker or webhooks. 0 takes a free one and logs it
    #[arg(long, env = "OPS_PORT", default_value = "0")]
    pub ops_port: String,

    /// Seconds that accepted commands may wait for the broker before new ones get 503
    #[arg(long, env = "OUTBOX_MAX_AGE", default_value = "60")]
    pub outbox_max_age: String,

    /// Seconds a worker's lease on a partition lasts without renewal, 2 to 60: how long a frozen
    /// worker's partitions stand still
    #[arg(long, env = "LEASE_SECONDS", default_value = "5")]
    pub lease_seconds: String,

    /// Seconds from SIGTERM to the cut, 1 to 600; keep it below the supervisor's grace period
    #[arg(long, env = "SHUTDOWN_SECONDS", default_value = "8")]
    pub shutdown_seconds: String,

    /// json: one object a line; text: for people. Default: json; for dev text
    #[arg(long, env = "LOG_FORMAT", default_value = "", hide_default_value = true)]
    pub log_format: String,

    /// error, warn, info, debug or a filter such as info,booking::worker=debug
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    #[command(flatten)]
    pub traces: TraceSettings,

    #[command(flatten)]
    pub identity: IdentitySettings,

    #[command(flatten)]
    pub door: DoorSettings,

    #[command(flatten)]
    pub webhooks: WebhookSettings,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// The settings, checked. The URLs may hold passwords: never log them.
#[derive(Clone)]
pub struct Config {
    pub database_url: String,
    pub amqp_url: String,
    pub redis_url: String,
    pub redis_prefix: String,
    pub partitions: u16,
    pub http: SocketAddr,
    pub ops: SocketAddr,
    pub outbox_max_age: Duration,
    pub lease: Duration,
    pub shutdown: Duration,
    pub identity: Identity,
    pub door: Door,
    pub webhooks: Webhooks,
}

/// What telemetry needs; checked apart, because it is set up before anything can be logged.
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: String,
    pub traces: Option<Traces>,
}

impl Settings {
    /// Checks all settings.
    ///
    /// # Errors
    /// One line for each setting that is wrong: its name, what it was, what it must be.
    pub fn check(&self) -> Result<Config, Vec<String>> {
        let mut errors = Vec::new();
        let (database_url, amqp_url, redis_url) = self.servers(&mut errors);
        let config = Config {
            database_url,
            amqp_url,
            redis_url,
            redis_prefix: prefix(&self.redis_prefix, &mut errors),
            partitions: number("PARTITIONS", &self.partitions, 1, 99, &mut errors),
            http: self.address(
                "PORT",
                if self.port.is_empty() { DEFAULT_PORT } else { &self.port },
                &mut errors,
            ),
            ops: self.address("OPS_PORT", &self.ops_port, &mut Vec::new()),
            outbox_max_age: seconds("OUTBOX_MAX_AGE", &self.outbox_max_age, 1, 86_400, &mut errors),
            lease: seconds("LEASE_SECONDS", &self.lease_seconds, 2, 60, &mut errors),
            shutdown: seconds("SHUTDOWN_SECONDS", &self.shutdown_seconds, 1, 600, &mut errors),
            identity: self.identity.check(&mut errors),
            door: self.door.check(&mut errors),
            webhooks: self.webhooks.check(&mut errors),
        };
        number::<u16>("OPS_PORT", &self.ops_port, 0, u16::MAX, &mut errors);
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// The three URLs, with the file of authorities in those that need one.
    fn servers(&self, errors: &mut Vec<String>) -> (String, String, String) {
        let authorities = authorities::check(&self.tls_ca_file, errors);
        let trusting = |url, schemes, parameter| {
            authorities::put_in(url, schemes, parameter, authorities.as_deref())
        };
        let postgres = &["postgres", "postgresql"];
        let database = url("DATABASE_URL", &self.database_url, postgres, errors);
        let amqp = url("AMQP_URL", &self.amqp_url, &["amqp", "amqps"], errors);
        let redis = url("REDIS_URL", &self.redis_url, &["redis", "rediss"], errors);
        (
            trusting(database, postgres, tls::POSTGRES_AUTHORITIES),
            trusting(amqp, &["amqps"], tls::RABBITMQ_AUTHORITIES),
            trusting(redis, &["rediss"], tls::REDIS_AUTHORITIES),
        )
    }

    /// Checks the settings of logs and traces.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_log(&self) -> Result<LogConfig, Vec<String>> {
        let mut errors = Vec::new();
        let format = match self.log_format.as_str() {
            "json" | "" => LogFormat::Json,
            "text" => LogFormat::Text,
            other => {
                errors.push(format!("LOG_FORMAT is {other:?}; it must be json or text"));
                LogFormat::Json
            }
        };
        if tracing_subscriber::EnvFilter::try_new(&self.log_level).is_err() {
            let given = &self.log_level;
            errors.push(format!("LOG_LEVEL is {given:?}; it must be a level such as info"));
        }
        let traces = self.traces.check(&mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(LogConfig { format, filter: self.log_level.clone(), traces })
    }

    /// The same for a command that needs only the database: the other servers need not be set.
    pub fn with_database_only(&self) -> Self {
        let or = |url: &str, unused: &str| {
            if url.is_empty() { unused.to_owned() } else { url.to_owned() }
        };
        Self {
            amqp_url: or(&self.amqp_url, "amqp://unused"),
            redis_url: or(&self.redis_url, "redis://unused"),
            ..self.clone()
        }
    }

    /// Fills what is not set from a file of `NAME='value'` lines, such as `booking dev` writes.
    /// A missing file fills nothing.
    pub fn fill_from(&mut self, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim_matches('\'').to_owned();
            let setting = match name {
                "DATABASE_URL" => &mut self.database_url,
                "AMQP_URL" => &mut self.amqp_url,
                "REDIS_URL" => &mut self.redis_url,
                _ => continue,
            };
            if setting.is_empty() {
                *setting = value;
            }
        }
    }

    fn address(&self, name: &str, port: &str, errors: &mut Vec<String>) -> SocketAddr {
        let host = self.host.parse::<IpAddr>().unwrap_or_else(|_| {
            let given = &self.host;
            errors.push(format!("HOST is {given:?}; it must be an IP address such as 127.0.0.1"));
            IpAddr::from([127, 0, 0, 1])
        });
        SocketAddr::new(host, number(name, port, 0, u16::MAX, errors))
    }
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

    fn settings(flags: &[&str]) -> Settings {
        let urls = [
            "booking",
            "--database-url=postgres://u:secret@h/d",
            "--amqp-url=amqp://h",
            "--redis-url=redis://h",
        ];
        Cli::parse_from(urls.iter().chain(flags)).settings
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_by_name_and_without_secrets() {
        let wrong =
            settings(&["--partitions=0", "--port=seventy", "--host=here", "--lease-seconds=1"]);
        let wrong = Settings { database_url: "mysql://u:secret@h/d".into(), ..wrong };
        let errors = wrong.check().err().unwrap();
        for name in ["DATABASE_URL", "PARTITIONS", "PORT", "HOST", "LEASE_SECONDS"] {
            assert!(errors.iter().any(|e| e.starts_with(name)), "{name} in {errors:?}");
        }
        assert_eq!(errors.len(), 5);
        assert!(!errors.concat().contains("secret"));
    }

    #[test]
    fn a_file_of_authorities_has_to_be_one() {
        let nowhere = "--tls-ca-file=/nowhere/ca.pem";
        let errors = settings(&[nowhere]).check().err().unwrap();
        assert!(
            errors[0].starts_with("TLS_CA_FILE cannot be used: /nowhere/ca.pem: "),
            "{errors:?}"
        );
        let other = concat!("--tls-ca-file=", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let errors = settings(&[other]).check().err().unwrap();
        assert!(errors[0].contains("holds no certificate"), "{errors:?}");
    }

    #[test]
    fn the_defaults_are_fine() {
        assert!(settings(&[]).check().is_ok());
        assert!(settings(&[]).check_log().is_ok());
    }
}
