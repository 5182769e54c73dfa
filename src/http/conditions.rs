//! Conditional requests (RFC 9110, section 13): `If-Match` on a change, `If-None-Match` on a read.
//!
//! A booking's ETag is its version, a command's is its status; both say everything about what
//! is behind them, so a tag that a proxy has made weak means the same.

use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;

use super::problem::mistake;
use super::status::{insert, json};
use crate::booking::problem::Problem;

/// The version that a change expects, if any; `*` expects only that the booking exists, which
/// every change does.
///
/// # Errors
/// When it is not `*` or one ETag of a booking.
pub fn if_match(headers: &HeaderMap) -> Result<Option<i32>, Problem> {
    let mut given = headers.get_all(IF_MATCH).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return match headers.contains_key(IF_MATCH) {
            true => Err(mistake("If-Match", "must be sent once")),
            false => Ok(None),
        };
    };
    if value == "*" {
        return Ok(None);
    }
    let version = value.to_str().ok().and_then(|tag| opaque(tag)?.parse().ok());
    let shape = "must be one ETag as a read gives it, such as \"3\", or *";
    version.filter(|version| *version >= 1).map(Some).ok_or_else(|| mistake("If-Match", shape))
}

/// What is between the quotes.
fn opaque(tag: &str) -> Option<&str> {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')
}

/// The answer to a read of something with an ETag: 304 without a body if the client has it.
pub fn tagged(headers: &HeaderMap, tag: &str, body: &impl Serialize) -> Response {
    let mut known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let has_it = known.any(|value| {
        value.trim() == "*" || value.split(',').any(|known| opaque(known) == Some(tag))
    });
    let mut response = if has_it {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        json(StatusCode::OK, body)
    };
    insert(response.headers_mut(), ETAG, format!("\"{tag}\""));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: axum::http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_change_names_at_most_one_version() {
        for (given, expected) in [("\"3\"", Some(3)), ("W/\"12\"", Some(12)), ("*", None)] {
            assert_eq!(if_match(&headers(IF_MATCH, given)).unwrap(), expected, "{given}");
        }
        for wrong in ["3", "\"0\"", "\"x\"", "\"1\", \"2\"", "\"99999999999\"", ""] {
            assert!(if_match(&headers(IF_MATCH, wrong)).is_err(), "{wrong}");
        }
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        for (given, status) in
            [("\"3\"", 304), ("\"2\", W/\"3\"", 304), ("*", 304), ("\"4\"", 200), ("3", 200)]
        {
            let response = tagged(&headers(IF_NONE_MATCH, given), "3", &"body");
            assert_eq!(response.status(), status, "{given}");
            assert_eq!(response.headers()[ETAG], "\"3\"");
        }
    }
}
