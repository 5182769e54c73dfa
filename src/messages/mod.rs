//! What other services are promised: the JSON Schema of every message that they send us or get from
//! us, and the AsyncAPI document that says where it goes.
//!
//! Everything is made from here: commands and replies ([`commands`], [`replies`]), events
//! ([`events`]) and the document ([`asyncapi`]). The objects inside them are those of the HTTP
//! contract ([`shapes`]), bounds are the constants that the doors check with, exchanges and queues
//! come from the topology, and the examples of events are written by the code that writes the real
//! ones. `booking schemas` writes the files, they are checked in under `schemas/`, and the tests hold
//! real messages against them, and them against what is released.
//!
//! A file has all that it refers to in its `$defs`, so it can be used alone.

pub mod asyncapi;
pub mod commands;
pub mod events;
pub mod examples;
pub mod replies;
pub mod shapes;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// JSON Schema 2020-12.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// One message, or part of one, that has a schema of its own.
pub struct Message {
    /// Its AMQP type: of a command `booking.create`, of an event `booking.held`.
    pub name: String,
    /// Where its schema is, from the folder of the schemas.
    pub file: String,
    pub schema: Value,
}

impl Message {
    /// The first version of a message. `schema` names shared objects by [`shapes::named`].
    fn new(folder: &str, file: &str, name: impl Into<String>, about: &str, schema: Value) -> Self {
        let name = name.into();
        let file = format!("{folder}/{file}.v1.json");
        let schema = bundled(&name, about, schema);
        Self { name, file, schema }
    }
}

/// Every message there is.
pub fn all() -> Vec<Message> {
    let mut all = commands::all();
    all.push(commands::headers());
    all.extend(events::all());
    all.extend(replies::all());
    all
}

/// Every file of the contract, with its text; the names are from the folder of the schemas.
pub fn files() -> Vec<(String, String)> {
    let document = ("asyncapi.json".to_owned(), asyncapi::document());
    let schemas = all().into_iter().map(|message| (message.file, message.schema));
    schemas.chain([document]).map(|(file, json)| (file, format!("{json:#}\n"))).collect()
}

/// The schema with its name, its dialect and the objects that it refers to.
fn bundled(name: &str, about: &str, mut schema: Value) -> Value {
    let shared = shapes::shared();
    let mut needed = BTreeSet::new();
    let mut definitions = Map::new();
    refer_inside(&mut schema, &mut needed);
    while let Some(name) = needed.pop_first() {
        if definitions.contains_key(&name) {
            continue;
        }
        let mut definition = shared.get(&name).cloned().unwrap_or_default();
        if name == "Code" {
            definition = shapes::extensible(&definition);
        }
        refer_inside(&mut definition, &mut needed);
        definitions.insert(name, definition);
    }
    schema["$schema"] = DIALECT.into();
    schema["$id"] = crate::booking::event::schema_of(name).into();
    schema["title"] = name.into();
    schema["description"] = about.into();
    if !definitions.is_empty() {
        schema["$defs"] = definitions.into();
    }
    schema
}

/// Lets references to named objects lead into the file, and notes their names.
fn refer_inside(value: &mut Value, needed: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(shapes::NAMED)
            {
                let name = name.to_owned();
                *reference = format!("#/$defs/{name}");
                needed.insert(name);
            }
            members.values_mut().for_each(|member| refer_inside(member, needed));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer_inside(item, needed)),
        _ => {}
    }
}
