//! The settings of the front door: how much each may ask for, and who may ask from where.

use std::time::Duration;

use clap::Args;

use super::check::{listed, number};
use super::network::Network;

/// The settings as given. The comments are the `--help` text.
#[derive(Args, Clone, Debug)]
pub struct DoorSettings {
    /// Requests without a known caller that one address may send in a window. 0: no limit
    #[arg(long, env = "RATE_LIMIT_MAX", default_value = "100")]
    pub rate_limit_max: String,

    /// Milliseconds in which a used-up limit is granted again, 100 to 3600000
    #[arg(long, env = "RATE_LIMIT_WINDOW", default_value = "60000")]
    pub rate_limit_window: String,

    /// Requests that one caller may send in a window, polling not counted. 0: no limit
    #[arg(long, env = "RATE_LIMIT_PRINCIPAL_MAX", default_value = "6000")]
    pub rate_limit_principal_max: String,

    /// Times that one caller may ask for commands in a window. 0: no limit
    #[arg(long, env = "RATE_LIMIT_POLL_MAX", default_value = "12000")]
    pub rate_limit_poll_max: String,

    /// Proxies in front of this service, as addresses or networks with commas between, such as
    /// 10.0.0.0/8. Only they are believed whom X-Forwarded-For names. Empty: none is
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", hide_default_value = true)]
    pub trusted_proxies: String,

    /// Undecided commands of one calendar; further ones get 429. 0: no limit
    #[arg(long, env = "MAX_UNDECIDED_PER_CALENDAR", default_value = "1000")]
    pub max_undecided_per_calendar: String,

    /// Origins whose pages may call the API from a browser, with commas between, such as
    /// `https://app.example.org`; or * for all. Empty: none
    #[arg(long, env = "CORS_ORIGINS", default_value = "", hide_default_value = true)]
    pub cors_origins: String,

    /// Connections that one address may hold open; further ones are closed. Trusted proxies may
    /// hold any number. 0: no limit
    #[arg(long, env = "MAX_CONNECTIONS_PER_IP", default_value = "0")]
    pub max_connections_per_ip: String,
}

/// The settings, checked. A limit of 0 is none.
#[derive(Clone, Debug)]
pub struct Door {
    pub window: Duration,
    pub per_address: u32,
    pub per_principal: u32,
    pub polls: u32,
    pub proxies: Vec<Network>,
    pub undecided_per_calendar: u32,
    pub origins: Origins,
    pub connections_per_address: u32,
}

/// Whose pages may call the API from a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    All,
    /// Only these; none when empty.
    Listed(Vec<String>),
}

/// Higher rates are not told apart by the microseconds that limits are kept in.
const MAX_PER_MILLISECOND: u32 = 10;

impl DoorSettings {
    /// Checks the settings, and notes what is wrong.
    pub fn check(&self, errors: &mut Vec<String>) -> Door {
        let window = &self.rate_limit_window;
        let window: u32 = number("RATE_LIMIT_WINDOW", window, 100, 3_600_000, errors);
        let most = window.saturating_mul(MAX_PER_MILLISECOND);
        let principal = &self.rate_limit_principal_max;
        let connections = &self.max_connections_per_ip;
        let undecided = &self.max_undecided_per_calendar;
        Door {
            window: Duration::from_millis(window.into()),
            per_address: number("RATE_LIMIT_MAX", &self.rate_limit_max, 0, most, errors),
            per_principal: number("RATE_LIMIT_PRINCIPAL_MAX", principal, 0, most, errors),
            polls: number("RATE_LIMIT_POLL_MAX", &self.rate_limit_poll_max, 0, most, errors),
            proxies: self.proxies(errors),
            undecided_per_calendar: number(
                "MAX_UNDECIDED_PER_CALENDAR",
                undecided,
                0,
                1_000_000,
                errors,
            ),
            origins: self.origins(errors),
            connections_per_address: number(
                "MAX_CONNECTIONS_PER_IP",
                connections,
                0,
                100_000,
                errors,
            ),
        }
    }

    fn proxies(&self, errors: &mut Vec<String>) -> Vec<Network> {
        let mut proxies = Vec::new();
        for given in listed(&self.trusted_proxies) {
            match given.parse() {
                Ok(network) => proxies.push(network),
                Err(()) => errors.push(format!(
                    "TRUSTED_PROXIES holds {given:?}; each must be an address or a network such \
                     as 10.0.0.0/8"
                )),
            }
        }
        proxies
    }

    fn origins(&self, errors: &mut Vec<String>) -> Origins {
        if self.cors_origins.trim() == "*" {
            return Origins::All;
        }
        let mut origins = Vec::new();
        for given in listed(&self.cors_origins) {
            if is_origin(given) {
                origins.push(given.to_ascii_lowercase());
            } else {
                errors.push(format!(
                    "CORS_ORIGINS holds {given:?}; each must be an origin such as \
                     https://app.example.org, or * alone"
                ));
            }
        }
        Origins::Listed(origins)
    }
}

/// Scheme, host and port as browsers send them, and nothing after them.
fn is_origin(text: &str) -> bool {
    let parsed = url::Url::parse(text);
    parsed.is_ok_and(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.origin().ascii_serialization() == text.to_ascii_lowercase()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        door: DoorSettings,
    }

    fn check(flags: &[&str]) -> Result<Door, Vec<String>> {
        let mut errors = Vec::new();
        let door = Cli::parse_from([&["booking"], flags].concat()).door.check(&mut errors);
        if errors.is_empty() { Ok(door) } else { Err(errors) }
    }

    #[test]
    fn lists_are_read_with_blanks_between() {
        let door = check(&[
            "--trusted-proxies=10.0.0.0/8, ::1",
            "--cors-origins=https://a.example, http://localhost:5173",
        ]);
        let door = door.unwrap();
        assert_eq!(door.proxies.len(), 2);
        let origins = ["https://a.example".to_owned(), "http://localhost:5173".to_owned()];
        assert_eq!(door.origins, Origins::Listed(origins.to_vec()));
        assert_eq!(check(&["--cors-origins=*"]).unwrap().origins, Origins::All);
        assert_eq!(check(&[]).unwrap().origins, Origins::Listed(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_said_by_its_name() {
        for (flag, name) in [
            ("--rate-limit-max=many", "RATE_LIMIT_MAX"),
            ("--rate-limit-principal-max=600001", "RATE_LIMIT_PRINCIPAL_MAX"),
            ("--rate-limit-window=0", "RATE_LIMIT_WINDOW"),
            ("--trusted-proxies=10.0.0.0/40", "TRUSTED_PROXIES"),
            ("--cors-origins=https://a.example/", "CORS_ORIGINS"),
            ("--cors-origins=*,https://a.example", "CORS_ORIGINS"),
        ] {
            let errors = check(&[flag]).unwrap_err();
            assert!(errors[0].starts_with(name), "{flag}: {errors:?}");
        }
    }
}
