//! The files under `schemas/` are those that the code makes, and their examples are examples.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use booking::booking::event;
use booking::messages::{self, events::EVENTS};
use jsonschema::Validator;
use serde_json::Value;
use uuid::Uuid;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

/// A file of `schemas/`.
#[track_caller]
pub fn kept(file: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(file));
    serde_json::from_str(&text.unwrap_or_else(|cause| panic!("{file}: {cause}"))).unwrap()
}

/// What a message is held against.
#[track_caller]
pub fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).unwrap()
}

/// The JSON files of a folder of `schemas/`, and of the folders in it.
pub fn names_under(name: &str) -> BTreeSet<String> {
    let root = folder().join(name);
    let mut names = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                    names.insert(name.to_owned());
                }
            }
        }
    }
    names
}

#[test]
fn the_schemas_are_those_that_are_checked_in() {
    let files = messages::files();
    for (name, text) in &files {
        let kept = std::fs::read_to_string(folder().join(name)).unwrap_or_default();
        let differs = kept.lines().zip(text.lines()).find(|(kept, made)| kept != made);
        assert!(
            kept == *text,
            "{name}: run `cargo run -- schemas schemas` and look at what changes, first:\n{differs:?}"
        );
    }
    let made: BTreeSet<_> = files.into_iter().map(|(name, _)| name).collect();
    let mut kept = names_under("");
    kept.retain(|name| !name.starts_with("released/") && name != "openapi.json");
    assert_eq!(kept, made, "a file that the code does not make, or the other way round");
}

#[test]
fn the_command_line_writes_them() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(Uuid::now_v7().to_string());
    let booking = env!("CARGO_BIN_EXE_booking");
    let status = Command::new(booking).arg("schemas").arg(&folder).status().unwrap();
    assert!(status.success());
    for (name, text) in messages::files() {
        assert_eq!(std::fs::read_to_string(folder.join(&name)).unwrap(), text, "{name}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_event_type_has_a_schema_that_bears_its_name() {
    assert_eq!(EVENTS.map(|event| event.name), event::TYPES);
    for name in event::TYPES {
        let schema = kept(&format!("events/{name}.v1.json"));
        assert_eq!(schema["$id"], event::schema_of(name));
        assert_eq!(schema["properties"]["type"]["const"], name);
    }
}

#[test]
fn the_readme_names_every_event() {
    let readme = std::fs::read_to_string(folder().join("../README.md")).unwrap();
    for name in event::TYPES {
        assert!(readme.contains(&format!("\n| `{name}` |")), "the README has no row for {name}");
    }
}

/// Also those of the objects inside: whoever generates code or a page shows them.
#[test]
fn every_example_of_a_message_is_one() {
    for message in messages::all() {
        let (file, schema) = (&message.file, &message.schema);
        assert!(jsonschema::meta::is_valid(schema), "{file} is no JSON Schema");
        let examples = schema["examples"].as_array().unwrap_or_else(|| panic!("{file} has none"));
        assert!(!examples.is_empty(), "{file} has none");
        are_valid(file, schema, examples);
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            let mut alone = definition.clone();
            alone["$defs"] = schema["$defs"].clone();
            let examples = definition["examples"].as_array();
            are_valid(&format!("{file}, {name}"), &alone, examples.map_or(&[], Vec::as_slice));
        }
    }
}

#[track_caller]
fn are_valid(place: &str, schema: &Value, examples: &[Value]) {
    let validator = validator(schema);
    for example in examples {
        let mistakes: Vec<_> = validator.iter_errors(example).map(|e| e.to_string()).collect();
        assert!(mistakes.is_empty(), "{place}: {mistakes:?}\n{example:#}");
    }
}
