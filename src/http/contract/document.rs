//! The table as an OpenAPI 3.1 document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::examples;
use super::guide;
use super::operation::{Answer, Body, Content, Header, Operation, Parameter};
use super::parameters::{
    ANSWERED, CHALLENGE, CORRELATION, CORRELATION_ID, ON_BEHALF_OF, RATE_LIMIT, REPLAYED,
    RETRY_AFTER,
};
use super::schemas;
use super::table::OPERATIONS;
use crate::booking::problem::Code;
use crate::messages::shapes::named;

/// The name of the one answer that is given before there is a request.
const HEAD_TOO_LARGE: &str = "HEAD_TOO_LARGE";

/// The whole document.
pub fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut refusals = Map::new();
    for group in OPERATIONS {
        for operation in group.operations {
            for (status, codes) in operation.refused() {
                refusals.insert(name_of(&codes), refusal(status, &codes));
            }
            let method = operation.method.as_str().to_lowercase();
            let path = paths.entry(operation.path).or_default();
            path.insert(method, described(operation, group.name));
        }
    }
    refusals.insert(
        HEAD_TOO_LARGE.to_owned(),
        json!({
            "description": "The request's head has more than 16 KiB. The connection is closed."
        }),
    );
    let tags: Vec<_> =
        OPERATIONS.iter().map(|g| json!({ "name": g.name, "description": g.about })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Booking",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Takes bookings for people's calendars.",
            "description": guide::markdown(),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "headers": ANSWERED.iter().map(|h| (h.key(), h.described())).collect::<Map<_, _>>(),
            "responses": refusals,
            "securitySchemes": security_schemes()
        }
    })
}

fn security_schemes() -> Value {
    json!({
        "trustedHeader": {
            "type": "apiKey", "in": "header", "name": "X-User-ID",
            "description": "The user's UUID, set by whatever authenticates in front of this \
                            service. `AUTH_MODE=trusted-header`."
        },
        "token": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "A JSON Web Token of a user or a service. `AUTH_MODE=jwt`. An API key is \
                            taken here too."
        },
        "apiKey": {
            "type": "apiKey", "in": "header", "name": "X-API-Key",
            "description": "A key that `booking api-keys create` gave out. `AUTH_MODE=api-key`."
        }
    })
}

fn described(operation: &Operation, group: &str) -> Value {
    let door = match operation.asks_who_calls() {
        true => &[CORRELATION_ID, ON_BEHALF_OF][..],
        false => &[CORRELATION_ID],
    };
    let parameters = operation.parameters.iter().chain(door);
    let mut described = json!({
        "operationId": operation.id,
        "tags": [group],
        "summary": operation.summary,
        "parameters": parameters.map(Parameter::described).collect::<Vec<_>>(),
        "responses": responses(operation),
        "security": []
    });
    if !operation.about.is_empty() {
        described["description"] = operation.about.into();
    }
    if operation.asks_who_calls() {
        let ways =
            [json!({ "trustedHeader": [] }), json!({ "token": [] }), json!({ "apiKey": [] })];
        let none = operation.nameless.then(|| json!({}));
        described["security"] = ways.into_iter().chain(none).collect();
    }
    if let Some(body) = &operation.body {
        described["requestBody"] = body.described();
    }
    described
}

fn responses(operation: &Operation) -> Map<String, Value> {
    let is_limited = operation.at_the_door().contains(&Code::RateLimited);
    let mut responses = Map::new();
    for answer in operation.answers {
        responses.insert(answer.status.to_string(), answer.described(is_limited));
    }
    let reference = |name: &str| json!({ "$ref": format!("#/components/responses/{name}") });
    for (status, codes) in operation.refused() {
        responses.insert(status.to_string(), reference(&name_of(&codes)));
    }
    responses.insert("431".to_owned(), reference(HEAD_TOO_LARGE));
    responses
}

/// Operations that can refuse with the same codes share the description of it.
fn name_of(codes: &[Code]) -> String {
    codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(".")
}

/// A problem document with one of these codes.
fn refusal(status: u16, codes: &[Code]) -> Value {
    let words: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
    let titles: Vec<_> = codes.iter().map(|code| code.title()).collect();
    let examples: Map<_, _> = codes
        .iter()
        .map(|code| (code.as_str().to_owned(), json!({ "value": examples::refusal(*code) })))
        .collect();
    let mut headers = vec![CORRELATION];
    headers.extend(RATE_LIMIT);
    match status {
        401 => headers.push(CHALLENGE),
        429 | 503 => headers.push(RETRY_AFTER),
        404..=422 | 500 => headers.push(REPLAYED),
        _ => {}
    }
    let this = json!({
        "properties": { "status": { "const": status }, "code": { "enum": words } }
    });
    json!({
        "description": format!("{}.", titles.join(", or: ")),
        "headers": listed(&headers),
        "content": {
            "application/problem+json": {
                "schema": { "allOf": [named("Problem"), this] },
                "examples": examples
            }
        }
    })
}

fn listed(headers: &[Header]) -> Map<String, Value> {
    let reference =
        |header: &Header| json!({ "$ref": format!("#/components/headers/{}", header.key()) });
    headers.iter().map(|header| (header.name.to_owned(), reference(header))).collect()
}

impl Operation {
    /// The codes that it can refuse with, by their statuses.
    pub fn refused(&self) -> BTreeMap<u16, Vec<Code>> {
        let mut refused: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in self.at_the_door().iter().chain(self.refusals) {
            refused.entry(code.status()).or_default().push(*code);
        }
        refused
    }
}

impl Parameter {
    fn described(&self) -> Value {
        let schema = (self.schema)();
        let is_list = schema["type"] == "array";
        let mut described = json!({
            "name": self.name,
            "in": self.place.as_str(),
            "required": self.required,
            "description": self.about,
            "schema": schema
        });
        if is_list {
            described["style"] = "form".into();
            described["explode"] = false.into(); // one value with commas
        }
        described
    }
}

impl Body {
    fn described(&self) -> Value {
        json!({
            "required": !self.optional,
            "content": {
                "application/json": {
                    "schema": named(self.schema),
                    "example": schemas::example(self.schema)
                }
            }
        })
    }
}

impl Answer {
    fn described(&self, is_limited: bool) -> Value {
        let mut headers: Vec<Header> = self.headers.iter().copied().chain([CORRELATION]).collect();
        if is_limited {
            headers.extend(RATE_LIMIT);
        }
        let mut described = json!({ "description": self.about, "headers": listed(&headers) });
        match self.content {
            Content::None => {}
            Content::Json(schema) => {
                let content =
                    json!({ "schema": named(schema), "example": schemas::example(schema) });
                described["content"] = json!({ "application/json": content });
            }
            Content::Text(media_type) => {
                let schema = if media_type == "application/json" { "object" } else { "string" };
                described["content"] = json!({ media_type: { "schema": { "type": schema } } });
            }
        }
        let links: Map<_, _> = self
            .links
            .iter()
            .map(|link| {
                (
                    link.operation.to_owned(),
                    json!({
                        "operationId": link.operation,
                        "parameters": { "id": format!("$response.body#{}", link.id) }
                    }),
                )
            })
            .collect();
        if !links.is_empty() {
            described["links"] = links.into();
        }
        described
    }
}

impl Header {
    /// Its name among the headers of the document: a header that is not always there is another.
    fn key(&self) -> String {
        if self.always { self.name.to_owned() } else { format!("{}.sometimes", self.name) }
    }

    fn described(&self) -> Value {
        json!({ "description": self.about, "required": self.always, "schema": (self.schema)() })
    }
}
