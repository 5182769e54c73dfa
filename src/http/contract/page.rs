//! The page for people: one HTML text that needs nothing else, no script either.
//!
//! Made once, when the process starts, from the same table and schemas as the document.

use std::fmt::Write as _;

use axum::http::HeaderName;
use axum::http::header::CONTENT_SECURITY_POLICY;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::operation::{Answer, Content, Group, Operation, Parameter, Place};
use super::table::OPERATIONS;
use super::{examples, guide, schemas};
use crate::booking::problem::Code;

const STYLE: &str = include_str!("page.css");

/// The page, and the policy that lets a browser take nothing but it.
pub struct Page {
    pub html: String,
    pub policy: (HeaderName, String),
}

impl Page {
    pub fn render() -> Self {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>Booking API</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n"
        );
        html.push_str(&navigation());
        html.push_str("<main>\n");
        html.push_str(&head());
        OPERATIONS.iter().for_each(|group| html.push_str(&chapter(group)));
        html.push_str(&objects());
        html.push_str(&codes());
        html.push_str("</main>\n</body>\n</html>\n");
        Self { html, policy: (CONTENT_SECURITY_POLICY, policy) }
    }
}

fn navigation() -> String {
    let mut html = String::from(
        "<nav aria-label=\"Contents\">\n<a class=\"home\" href=\"#top\">Booking API</a>\n",
    );
    let mut entries = vec![("Guide", anchors_of_the_guide())];
    entries.extend(OPERATIONS.iter().map(|group| {
        let line = |o: &Operation| link(o.id, &format!("{} {}", badge(o), escaped(o.summary)));
        (group.name, group.operations.iter().map(line).collect())
    }));
    entries.push(("Reference", link("objects", "Objects") + &link("codes", "Codes")));
    for (title, links) in entries {
        let _ =
            writeln!(html, "<details open><summary>{title}</summary><ul>{links}</ul></details>");
    }
    html + "</nav>\n"
}

fn anchors_of_the_guide() -> String {
    guide::CHAPTERS.iter().map(|(title, _)| link(&anchor(title), title)).collect()
}

fn link(anchor: &str, inside: &str) -> String {
    format!("<li><a href=\"#{anchor}\">{inside}</a></li>")
}

fn head() -> String {
    let mut html = format!(
        "<header id=\"top\"><h1>Booking API</h1><p class=\"lead\">Takes bookings for people's \
         calendars. Nothing accepted is lost, nothing is booked twice, and a client may retry \
         blindly.</p><p>Version {} · for programs: <a href=\"/openapi.json\">openapi.json</a> \
         (OpenAPI 3.1)</p></header>\n",
        env!("CARGO_PKG_VERSION")
    );
    for (title, text) in guide::CHAPTERS {
        let _ = writeln!(
            html,
            "<section id=\"{}\"><h2>{title}</h2>{}</section>",
            anchor(title),
            paragraphs(text)
        );
    }
    html
}

fn chapter(group: &Group) -> String {
    let operations: String = group.operations.iter().map(section).collect();
    format!(
        "<h2 class=\"group\" id=\"{}\">{}</h2><p>{}</p>\n{operations}",
        anchor(group.name),
        group.name,
        inline(group.about)
    )
}

fn section(operation: &Operation) -> String {
    let mut html = format!(
        "<section class=\"operation\" id=\"{}\"><h3>{}</h3><p class=\"call\">{} <code>{}</code></p>",
        operation.id,
        operation.summary,
        badge(operation),
        operation.path
    );
    if !operation.about.is_empty() {
        let _ = write!(html, "<p>{}</p>", inline(operation.about));
    }
    if !operation.parameters.is_empty() {
        let rows = operation.parameters.iter().map(parameter).collect::<String>();
        let _ = write!(html, "<h4>Parameters</h4><table>{rows}</table>");
    }
    if let Some(body) = &operation.body {
        let optional = if body.optional { ", or none" } else { "" };
        let fields = fields(&schemas::all()[body.schema]);
        let _ = write!(html, "<h4>Body: {}{optional}</h4>{fields}", object(body.schema));
    }
    let _ = write!(html, "<h4>Answers</h4><table>{}</table>", answers(operation));
    let _ = write!(html, "<h4>Try</h4><pre><code>{}</code></pre>", escaped(&curl(operation)));
    if let Some(example) = operation.answers.iter().find_map(example) {
        let example = escaped(&format!("{example:#}"));
        let _ = write!(
            html,
            "<details><summary>An answer</summary><pre><code>{example}</code></pre></details>"
        );
    }
    html + "</section>\n"
}

fn parameter(parameter: &Parameter) -> String {
    row(
        parameter.name,
        parameter.required,
        &format!("{}, {}", parameter.place.as_str(), kind(&(parameter.schema)())),
        parameter.about,
    )
}

/// A row of a table of things that a request or an object holds.
fn row(name: &str, required: bool, kind: &str, about: &str) -> String {
    let required = if required { " <em>required</em>" } else { "" };
    format!(
        "<tr><th scope=\"row\"><code>{name}</code>{required}</th><td><span class=\"kind\">{kind}</span> {}</td></tr>",
        inline(about)
    )
}

fn answers(operation: &Operation) -> String {
    let mut rows = String::new();
    for answer in operation.answers {
        let mut headers = Vec::new();
        headers.extend(answer.headers.iter().map(|header| format!("<code>{}</code>", header.name)));
        let with = if headers.is_empty() {
            String::new()
        } else {
            format!(" With {}.", headers.join(", "))
        };
        let what = match answer.content {
            Content::Json(schema) => format!("{}. ", object(schema)),
            Content::None | Content::Text(_) => String::new(),
        };
        let _ = write!(
            rows,
            "<tr><th scope=\"row\" class=\"good\">{}</th><td>{what}{}{with}</td></tr>",
            answer.status,
            inline(answer.about)
        );
    }
    for (status, codes) in operation.refused() {
        let links: Vec<_> = codes
            .iter()
            .map(|code| format!("<a href=\"#{0}\"><code>{0}</code></a>", code.as_str()))
            .collect();
        let _ =
            write!(rows, "<tr><th scope=\"row\">{status}</th><td>{}</td></tr>", links.join(" "));
    }
    rows
}

fn example(answer: &Answer) -> Option<Value> {
    match answer.content {
        Content::Json(schema) => Some(schemas::example(schema)),
        Content::None | Content::Text(_) => None,
    }
}

/// What to paste into a shell.
fn curl(operation: &Operation) -> String {
    let mut path = operation.path.replace(
        "{id}",
        match operation.path {
            path if path.contains("/users/") => examples::USER,
            path if path.contains("/commands/") => examples::COMMAND,
            path if path.contains("/webhooks/") => examples::ENDPOINT,
            _ => examples::BOOKING,
        },
    );
    path = path.replace("{deliveryId}", examples::EVENT);
    let required =
        |place| operation.parameters.iter().filter(move |p| p.required && p.place == place);
    for (index, parameter) in required(Place::Query).enumerate() {
        let joint = if index == 0 { '?' } else { '&' };
        let _ = write!(path, "{joint}{}={}", parameter.name, examples::DATE);
    }
    let mut curl =
        format!("curl -i -X {} 'http://localhost:3000{path}'", operation.method.as_str());
    let mut header = |text: &str| {
        let _ = write!(curl, " \\\n  -H '{text}'");
    };
    if operation.asks_who_calls() {
        header(&format!("X-User-ID: {}", examples::USER));
    }
    if required(Place::Header).count() > 0 {
        header(&format!("Idempotency-Key: {}", examples::KEY));
    }
    if operation.parameters.iter().any(|parameter| parameter.name == "Prefer") {
        header("Prefer: wait=10");
    }
    if let Some(body) = &operation.body {
        header("Content-Type: application/json");
        let _ = write!(curl, " \\\n  -d '{}'", schemas::example(body.schema));
    }
    curl
}

fn objects() -> String {
    let mut html = String::from("<h2 class=\"group\" id=\"objects\">Objects</h2>\n");
    for (name, schema) in
        schemas::all().iter().filter(|(_, schema)| schema["properties"].is_object())
    {
        let about = schema["description"].as_str().unwrap_or_default();
        let _ = writeln!(
            html,
            "<section class=\"operation\" id=\"{name}\"><h3>{name}</h3><p>{}</p>{}<pre><code>{}</code></pre></section>",
            inline(about),
            fields(schema),
            escaped(&format!("{:#}", schema["examples"][0]))
        );
    }
    html
}

/// The fields of an object: the required ones first, in their order.
fn fields(schema: &Value) -> String {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = schema["properties"].as_object().filter(|p| !p.is_empty()) else {
        return "<p>It has no fields.</p>".to_owned();
    };
    let optional = properties.keys().map(String::as_str).filter(|name| !required.contains(name));
    let names = required.iter().copied().chain(optional);
    let rows = names.map(|name| {
        let field = &properties[name];
        let about = field["description"].as_str().unwrap_or_default();
        row(name, required.contains(&name), &kind(field), about)
    });
    format!("<table>{}</table>", rows.collect::<String>())
}

/// What a schema allows, in words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return object(name);
    }
    if let Some(either) = schema["anyOf"].as_array() {
        return either.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words =
            words.iter().filter_map(Value::as_str).map(|word| format!("<code>{word}</code>"));
        return words.collect::<Vec<_>>().join(" ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let named: Vec<_> = types
        .iter()
        .map(|name| match *name {
            "array" => format!("list of {}", kind(&schema["items"])),
            "string" => schema["format"].as_str().unwrap_or("string").to_owned(),
            name => name.to_owned(),
        })
        .collect();
    let bounds = match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
        (Some(least), Some(most)) => format!(" {least} to {most}"),
        (Some(least), None) => format!(" from {least}"),
        _ => {
            schema["maxLength"].as_i64().map_or(String::new(), |most| format!(" of {most} at most"))
        }
    };
    named.join(" or ") + &bounds
}

fn codes() -> String {
    let mut html = String::from(
        "<h2 class=\"group\" id=\"codes\">Codes</h2><p>Codes are added to, never changed.</p><table>",
    );
    for code in Code::ALL {
        let _ = write!(
            html,
            "<tr id=\"{0}\"><th scope=\"row\"><code>{0}</code></th><td>{1} {2}.</td></tr>",
            code.as_str(),
            code.status(),
            code.title()
        );
    }
    html + "</table>\n"
}

fn badge(operation: &Operation) -> String {
    let method = operation.method.as_str();
    format!("<span class=\"method {}\">{method}</span>", method.to_lowercase())
}

fn object(name: &str) -> String {
    format!("<a href=\"#{name}\">{name}</a>")
}

fn anchor(title: &str) -> String {
    title.to_lowercase().replace(' ', "-")
}

/// Paragraphs and lists of the guide.
fn paragraphs(text: &str) -> String {
    let paragraph = |text: &str| {
        if !text.starts_with("- ") {
            return format!("<p>{}</p>", inline(text));
        }
        let items = text.split("\n- ").map(|item| inline(item.trim_start_matches("- ")));
        let items: String = items.map(|item| format!("<li>{item}</li>")).collect();
        format!("<ul>{items}</ul>")
    };
    text.split("\n\n").map(paragraph).collect()
}

/// Text with its code between backticks and its bold words between double stars.
fn inline(text: &str) -> String {
    let in_turn = |text: &str, mark: &str, tag: &str| -> String {
        let parts = text.split(mark).enumerate();
        let wrapped = parts.map(|(index, part)| match index % 2 {
            0 => part.to_owned(),
            _ => format!("<{tag}>{part}</{tag}>"),
        });
        wrapped.collect()
    };
    in_turn(&in_turn(&escaped(text), "`", "code"), "**", "strong")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
