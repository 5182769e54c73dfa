//! What clients are promised: the OpenAPI document of the whole HTTP API, and the page for people.
//!
//! One table ([`OPERATIONS`]) says of every operation what it takes and what it can answer; the
//! document and the page are made from it when the process starts. Bounds are the constants that
//! the handlers check with, refusals are named by their [`Code`], and the examples of refusals are
//! written by the code that writes the real ones. That the table tells the truth is tested from
//! both sides: routes against the table (`tests/contract`), and a running gateway against the
//! document (`make contract`).
//!
//! [`Code`]: crate::booking::problem::Code

mod availability;
mod document;
mod examples;
mod guide;
mod operation;
mod page;
mod parameters;
mod schemas;
mod table;
mod webhooks;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use axum::routing::get;

pub use document::document;
pub use operation::Operation;
pub use table::OPERATIONS;

/// The document as it is served, and checked in as `schemas/openapi.json`.
pub fn document_text() -> String {
    format!("{:#}\n", document())
}

/// The routes of the document and the page.
pub fn routes() -> Router {
    let document = Bytes::from(document_text());
    let page = page::Page::render();
    let (html, policy) = (Bytes::from(page.html), page.policy);
    let json = [(CONTENT_TYPE, "application/json")];
    let open = async move || (json, document.clone()).into_response();
    let read = async move || {
        let head = [(CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), policy.clone()];
        (head, html.clone()).into_response()
    };
    Router::new().route("/openapi.json", get(open)).route("/docs", get(read))
}
