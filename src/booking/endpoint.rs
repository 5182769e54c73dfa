//! What the owner of a webhook endpoint asks for: where to, what of, and whether at all.
//!
//! Here the shape is judged; whether a URL may be posted to depends on the installation, so the
//! door brings the judge along.

use serde_json::{Map, Value};

use super::event;
use super::fields::Fields;
use super::problem::{Code, FieldError};

/// An endpoint that asks for more is refused; `*` is all there is.
pub const MAX_EVENT_TYPES: usize = 20;
/// A description of more characters is refused.
pub const MAX_DESCRIPTION_CHARS: usize = 500;
/// Everything, and everything of a kind. The statement that writes deliveries knows them too.
pub const PATTERNS: [&str; 3] = ["*", "booking.*", "command.*"];

/// An endpoint that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEndpoint {
    pub url: String,
    pub event_types: Vec<String>,
    pub description: Option<String>,
}

/// What is to be different; nothing where it stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointChange {
    pub url: Option<String>,
    pub event_types: Option<Vec<String>>,
    /// Empty takes it away.
    pub description: Option<String>,
    pub enabled: Option<bool>,
}

/// Gives a URL in its normal form, or says what it must be.
pub type CheckUrl<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// What an endpoint may ask for. Left out is what only a callback or a test is told of.
pub fn event_types() -> impl Iterator<Item = &'static str> {
    let asked = |name: &&str| ![event::COMMAND_SUCCEEDED, event::WEBHOOK_TEST].contains(name);
    PATTERNS.into_iter().chain(event::TYPES.into_iter().filter(asked))
}

impl NewEndpoint {
    /// Reads the body of a registration.
    ///
    /// # Errors
    /// Every field that is missing, malformed, out of bounds or unknown.
    pub fn parse(body: &Map<String, Value>, check: CheckUrl<'_>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(body);
        fields.required("url");
        let url = fields.url(check);
        fields.required("eventTypes");
        let event_types = fields.event_types();
        let description = fields.text("description", MAX_DESCRIPTION_CHARS);
        fields.finish()?;
        match (url, event_types) {
            (Some(url), Some(event_types)) => Ok(Self { url, event_types, description }),
            _ => Err(Vec::new()), // not reached: a missing part has left its mistake behind
        }
    }
}

impl EndpointChange {
    /// Reads the body of a change.
    ///
    /// # Errors
    /// Every field that is malformed, out of bounds or unknown.
    pub fn parse(body: &Map<String, Value>, check: CheckUrl<'_>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(body);
        let change = Self {
            url: fields.url(check),
            event_types: fields.event_types(),
            description: fields.text("description", MAX_DESCRIPTION_CHARS),
            enabled: fields.flag("enabled"),
        };
        fields.finish().map(|()| change)
    }
}

impl Fields<'_> {
    fn url(&mut self, check: CheckUrl<'_>) -> Option<String> {
        let value = self.take("url")?;
        match value.as_str().map_or(Err("must be a string".into()), check) {
            Ok(url) => Some(url),
            Err(message) => {
                self.refuse("url", Code::ValidationFailed, message);
                None
            }
        }
    }

    /// Each once, in their order.
    fn event_types(&mut self) -> Option<Vec<String>> {
        const FIELD: &str = "eventTypes";
        let value = self.take(FIELD)?;
        let named = value.as_array().filter(|all| (1..=MAX_EVENT_TYPES).contains(&all.len()));
        let Some(named) = named else {
            let message = format!("must be an array of 1 to {MAX_EVENT_TYPES} event types");
            self.refuse(FIELD, Code::ValidationFailed, message);
            return None;
        };
        let mut types = Vec::with_capacity(named.len());
        let mut all_known = true;
        for (index, name) in named.iter().enumerate() {
            match event_types().find(|known| name == known) {
                Some(known) if types.iter().any(|name| name == known) => {}
                Some(known) => types.push(known.to_owned()),
                None => {
                    all_known = false;
                    let known: Vec<_> = event_types().collect();
                    let message = format!("must be one of {}", known.join(", "));
                    self.refuse(format!("{FIELD}[{index}]"), Code::ValidationFailed, message);
                }
            }
        }
        all_known.then_some(types)
    }

    fn flag(&mut self, field: &'static str) -> Option<bool> {
        let value = self.take(field)?;
        if !value.is_boolean() {
            self.refuse(field, Code::ValidationFailed, "must be true or false");
        }
        value.as_bool()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(url: &str) -> Result<String, String> {
        match url.strip_prefix("https://") {
            Some(rest) => Ok(format!("https://{}", rest.to_lowercase())),
            None => Err("must begin with https://".into()),
        }
    }

    fn new(body: &Value) -> Result<NewEndpoint, Vec<FieldError>> {
        NewEndpoint::parse(body.as_object().unwrap(), &check)
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(parsed: Result<T, Vec<FieldError>>, fields: &[&str]) {
        let errors = parsed.unwrap_err();
        assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), fields);
    }

    #[test]
    fn a_new_endpoint_asks_for_each_type_once() {
        let body = json!({
            "url": "https://Example.org", "eventTypes": ["booking.*", "command.failed", "booking.*"]
        });
        let endpoint = new(&body).unwrap();
        assert_eq!(endpoint.url, "https://example.org");
        assert_eq!(endpoint.event_types, ["booking.*", "command.failed"]);
        assert_eq!(endpoint.description, None);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        refused(new(&json!({})), &["url", "eventTypes"]);
        refused(
            new(&json!({ "url": "http://a", "eventTypes": ["*", "booking", 1], "secret": "x" })),
            &["url", "eventTypes[1]", "eventTypes[2]", "secret"],
        );
        let many = vec!["*"; MAX_EVENT_TYPES + 1];
        for wrong in [json!([]), json!("*"), json!({}), json!(many)] {
            refused(new(&json!({ "url": "https://a", "eventTypes": wrong })), &["eventTypes"]);
        }
        for only_told_elsewhere in ["command.succeeded", "webhook.test"] {
            let body = json!({ "url": "https://a", "eventTypes": [only_told_elsewhere] });
            refused(new(&body), &["eventTypes[0]"]);
        }
    }

    #[test]
    fn a_change_says_only_what_is_to_be_different() {
        let change = |body: &Value| EndpointChange::parse(body.as_object().unwrap(), &check);
        assert_eq!(change(&json!({ "url": null })), Ok(EndpointChange::default()));
        let off = EndpointChange { enabled: Some(false), ..EndpointChange::default() };
        assert_eq!(change(&json!({ "enabled": false })), Ok(off));
        refused(
            change(&json!({ "url": 1, "enabled": "yes", "kind": "callback" })),
            &["url", "enabled", "kind"],
        );
    }
}
