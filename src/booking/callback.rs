//! Where a caller wants the outcome of one command posted to.
//!
//! Here only its shape is judged; whether the address may be posted to depends on this
//! installation and is judged at the door, and again at every attempt.

use serde::{Deserialize, Serialize};
use url::Url;

/// Longer URLs are refused.
pub const MAX_URL_CHARS: usize = 2048;

/// An absolute URL with a host, in its normal form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallbackUrl(Url);

impl CallbackUrl {
    pub const SHAPE: &str = "an absolute URL of at most 2048 characters, such as \
                             https://example.org/booked";

    /// Nothing where it has not that shape.
    pub fn parse(text: &str) -> Option<Self> {
        let url = (text.chars().count() <= MAX_URL_CHARS).then(|| Url::parse(text).ok())??;
        (url.has_host() && url.as_str().len() <= MAX_URL_CHARS).then_some(Self(url))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Scheme, host and port: those of a caller's callbacks that share it share a target, and with
    /// it a secret and its health.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

impl TryFrom<String> for CallbackUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("must be {}", Self::SHAPE))
    }
}

impl From<CallbackUrl> for String {
    fn from(callback: CallbackUrl) -> Self {
        callback.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_brought_to_their_normal_form() {
        let url = CallbackUrl::parse("HTTPS://Example.org:443/a b?c=1").unwrap();
        assert_eq!(url.as_str(), "https://example.org/a%20b?c=1");
        assert_eq!(url.origin(), "https://example.org");
        assert_eq!(
            CallbackUrl::parse("http://example.org:81/").unwrap().origin(),
            "http://example.org:81"
        );
    }

    #[test]
    fn what_names_no_host_is_no_callback() {
        let long = format!("https://example.org/{}", "a".repeat(MAX_URL_CHARS));
        for text in
            ["", "/booked", "example.org", "mailto:a@example.org", "https://", "urn:booking", &long]
        {
            assert_eq!(CallbackUrl::parse(text), None, "{text}");
        }
    }
}
