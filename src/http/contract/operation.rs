//! The words in which the table speaks of an operation.

use serde_json::Value;

use crate::booking::problem::Code;

/// Operations that belong together.
pub struct Group {
    pub name: &'static str,
    pub about: &'static str,
    pub operations: &'static [Operation],
}

/// One method of one path.
pub struct Operation {
    pub method: Method,
    pub path: &'static str,
    /// Its name in the document, unique: what a generated client calls it.
    pub id: &'static str,
    pub summary: &'static str,
    pub about: &'static str,
    /// Whether it may be asked without a name where names are believed (`trusted-header`).
    pub nameless: bool,
    /// Besides those of every operation of the API.
    pub parameters: &'static [Parameter],
    pub body: Option<Body>,
    pub answers: &'static [Answer],
    /// Besides those of the door.
    pub refusals: &'static [Code],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl Operation {
    /// Whether it is for callers who have shown who they are, and not for operators and readers.
    pub fn asks_who_calls(&self) -> bool {
        self.path.starts_with("/api/")
    }
}

#[derive(Clone, Copy)]
pub struct Parameter {
    pub place: Place,
    pub name: &'static str,
    pub required: bool,
    pub about: &'static str,
    pub schema: fn() -> Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Path,
    Query,
    Header,
}

impl Place {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
        }
    }
}

/// A JSON body.
pub struct Body {
    /// Its name among the schemas.
    pub schema: &'static str,
    /// Whether it can be left out, as an empty object.
    pub optional: bool,
}

/// An answer that is not a refusal.
pub struct Answer {
    pub status: u16,
    pub about: &'static str,
    /// Besides `X-Correlation-ID`, which every answer has, and the rate limit.
    pub headers: &'static [Header],
    pub content: Content,
    pub links: &'static [Link],
}

pub enum Content {
    /// No body.
    None,
    /// JSON; its name among the schemas.
    Json(&'static str),
    /// Something else; its media type.
    Text(&'static str),
}

#[derive(Clone, Copy)]
pub struct Header {
    pub name: &'static str,
    /// Whether every answer of this status has it.
    pub always: bool,
    pub about: &'static str,
    pub schema: fn() -> Value,
}

/// An operation that an answer leads to.
pub struct Link {
    pub operation: &'static str,
    /// Where in the answer's body its `id` is.
    pub id: &'static str,
}
