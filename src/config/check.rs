//! What a setting may be. Each check notes what is wrong, by the setting's name, and goes on, so
//! that all mistakes are reported together.

use std::str::FromStr;
use std::time::Duration;

use url::Url;

pub(super) fn url(name: &str, given: &str, schemes: &[&str], errors: &mut Vec<String>) -> String {
    let expected = || format!("it must be a URL that begins with {}://", schemes.join(":// or "));
    if given.is_empty() {
        errors.push(format!("{name} is not set; {}", expected()));
    } else {
        // The value may hold a password, so it is not repeated.
        match Url::parse(given) {
            Ok(url) if schemes.contains(&url.scheme()) && url.has_host() => {}
            _ => errors.push(format!("{name} is not usable; {}", expected())),
        }
    }
    given.to_owned()
}

pub(super) fn prefix(given: &str, errors: &mut Vec<String>) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if given.is_empty() || given.len() > 64 || !given.chars().all(fine) {
        errors.push(format!(
            "REDIS_PREFIX is {given:?}; it must be 1 to 64 letters, digits, dots, - or _"
        ));
    }
    given.to_owned()
}

pub(super) fn number<N: FromStr + PartialOrd + std::fmt::Display + Copy>(
    name: &str,
    given: &str,
    least: N,
    most: N,
    errors: &mut Vec<String>,
) -> N {
    match given.parse::<N>() {
        Ok(number) if number >= least && number <= most => number,
        _ => {
            errors.push(format!(
                "{name} is {given:?}; it must be a whole number from {least} to {most}"
            ));
            least
        }
    }
}

pub(super) fn seconds(
    name: &str,
    given: &str,
    least: u64,
    most: u64,
    errors: &mut Vec<String>,
) -> Duration {
    Duration::from_secs(number(name, given, least, most, errors))
}

/// The entries of a list with commas between.
pub(super) fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}
