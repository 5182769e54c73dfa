//! `TLS_CA_FILE`: whom to trust in the place of a server, put into the URLs that lead there by TLS.
//! All that speaks to a server has its URL, so nothing else needs to be handed around.

use std::path::{Path, PathBuf};

use url::Url;

use crate::tls;

/// The file, if there is one, with its whole path: a URL is used wherever it is taken.
pub(super) fn check(given: &str, errors: &mut Vec<String>) -> Option<PathBuf> {
    if given.is_empty() {
        return None;
    }
    let file = Path::new(given);
    if let Err(cause) = tls::authorities(file) {
        errors.push(format!(
            "TLS_CA_FILE cannot be used: {cause}; it must be a file of one or more certificates in PEM"
        ));
        return None;
    }
    std::path::absolute(file).ok()
}

/// The URL with the file in its `parameter`, unless it names one itself or its scheme is not one of
/// `schemes`. One that cannot be read stays as it is: that is said elsewhere.
pub(super) fn put_in(
    url: String,
    schemes: &[&str],
    parameter: &str,
    file: Option<&Path>,
) -> String {
    let (Some(file), Ok(mut parsed)) = (file.and_then(Path::to_str), Url::parse(&url)) else {
        return url;
    };
    if !schemes.contains(&parsed.scheme()) || tls::named_in(&url, parameter).is_some() {
        return url;
    }
    parsed.query_pairs_mut().append_pair(parameter, file);
    parsed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_put_into_urls_of_tls_that_name_none() {
        let put = |url: &str| {
            let url = url.to_owned();
            put_in(url, &["amqps"], "cacertfile", Some(Path::new("/etc/our ca.pem")))
        };
        for (given, made) in [
            ("amqps://u:p%2f@h/v", "amqps://u:p%2f@h/v?cacertfile=%2Fetc%2Four+ca.pem"),
            (
                "amqps://h/%2f?heartbeat=9",
                "amqps://h/%2f?heartbeat=9&cacertfile=%2Fetc%2Four+ca.pem",
            ),
            ("amqps://h/v?cacertfile=own.pem", "amqps://h/v?cacertfile=own.pem"),
            ("amqp://h/v", "amqp://h/v"),
            ("", ""),
        ] {
            assert_eq!(put(given), made);
        }
        let made = put("amqps://h/v");
        assert_eq!(tls::named_in(&made, "cacertfile"), Some("/etc/our ca.pem".into()));
    }
}
