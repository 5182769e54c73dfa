//! The contract is the one that is checked in, says of every route what it is, and its examples
//! are examples of it. What a running gateway makes of it is asked by `schemathesis` beside this;
//! the contract of messages is held in the modules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod asyncapi;
mod bodies;
mod compatibility;
mod events;
mod files;
mod life;
mod released;

use std::collections::BTreeSet;
use std::path::Path;

use booking::http::contract::{OPERATIONS, document, document_text};
use serde_json::{Value, json};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Clients are made from the file, so a change of it must be seen in the change of the code.
#[test]
fn the_document_is_the_one_that_is_checked_in() {
    let kept = std::fs::read_to_string(Path::new(ROOT).join("schemas/openapi.json")).unwrap();
    let differs =
        kept.lines().zip(document_text().lines().map(str::to_owned)).find(|(a, b)| a != b);
    assert!(
        kept == document_text(),
        "run `cargo run -- openapi > schemas/openapi.json` and look at what changes, first:\n{differs:?}"
    );
}

#[test]
fn every_route_is_an_operation_and_every_operation_a_route() {
    let mut described = BTreeSet::new();
    for operation in OPERATIONS.iter().flat_map(|group| group.operations) {
        let (method, path) = (operation.method.as_str(), operation.path);
        assert!(described.insert(format!("{method} {path}")), "{method} {path} is there twice");
    }
    let mut routed = BTreeSet::new();
    for file in sources(&Path::new(ROOT).join("src/http")) {
        let source = std::fs::read_to_string(file).unwrap();
        let source: String = source.split_whitespace().collect();
        for route in source.split(".route(\"").skip(1) {
            let (path, handlers) = route.split_once('"').unwrap();
            let handlers = handlers.split(".with_state").next().unwrap();
            for method in ["get", "post", "put", "patch", "delete"] {
                if [",", "."].iter().any(|begin| handlers.contains(&format!("{begin}{method}("))) {
                    routed.insert(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
    }
    assert!(routed.len() > 15, "{routed:?}");
    assert_eq!(described, routed);
}

/// An example that is none misleads whoever writes a client after it.
#[test]
fn every_example_is_one() {
    let document = document();
    let mut seen = 0;
    let mut todo = vec![(String::new(), &document)];
    while let Some((place, value)) = todo.pop() {
        if let (Some(schema), false) = (value.get("schema"), place.is_empty()) {
            let several = value["examples"].as_object().into_iter().flat_map(|all| all.values());
            let several = several.map(|example| &example["value"]);
            for example in value.get("example").into_iter().chain(several) {
                is_valid(&document, schema, example, &place);
                seen += 1;
            }
            for example in schema["examples"].as_array().into_iter().flatten() {
                is_valid(&document, schema, example, &place);
                seen += 1;
            }
        }
        match value {
            Value::Object(members) => {
                todo.extend(members.iter().map(|(name, v)| (format!("{place}/{name}"), v)));
            }
            Value::Array(items) => {
                todo.extend(items.iter().enumerate().map(|(n, v)| (format!("{place}/{n}"), v)));
            }
            _ => {}
        }
    }
    assert!(seen > 60, "only {seen} examples");
}

#[track_caller]
fn is_valid(document: &Value, schema: &Value, example: &Value, place: &str) {
    // The schema with the components that it refers to.
    let whole = json!({ "allOf": [schema], "components": document["components"] });
    let validator = jsonschema::options().should_validate_formats(true).build(&whole).unwrap();
    let mistakes: Vec<_> = validator.iter_errors(example).map(|e| e.to_string()).collect();
    assert!(mistakes.is_empty(), "{place}: {example} is not what its schema says: {mistakes:?}");
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                found.push(path)
            }
            false => {}
        }
    }
    found
}
