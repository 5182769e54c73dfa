//! The AsyncAPI document says what the topology says, and what it refers to is there.

use std::collections::BTreeSet;

use booking::booking::decide::Action;
use booking::booking::event;
use booking::messages::{self, commands, events::EVENTS, events::Road, replies};
use booking::queue;
use serde_json::{Map, Value};

use crate::files::kept;

const PARTITIONS: u16 = 16;

fn document() -> Value {
    kept("asyncapi.json")
}

fn channels(document: &Value) -> &Map<String, Value> {
    document["channels"].as_object().unwrap()
}

/// The AMQP bindings of the channels, with their addresses.
fn bindings<'a>(document: &'a Value, is: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let amqp = |channel: &'a Value| (channel["address"].as_str(), &channel["bindings"]["amqp"]);
    let bound = channels(document).values().map(amqp);
    bound.filter(move |(_, amqp)| amqp["is"] == is).map(|(address, amqp)| (address.unwrap(), amqp))
}

/// One text for each partition, where the text names one.
fn of_each_partition(text: &str) -> Vec<String> {
    let partitions = if text.contains("{partition}") { PARTITIONS } else { 1 };
    (0..partitions).map(|n| text.replace("{partition}", &format!("{n:02}"))).collect()
}

#[test]
fn its_exchanges_are_those_of_the_topology() {
    let document = document();
    let described: BTreeSet<_> = bindings(&document, "routingKey")
        .map(|(_, amqp)| &amqp["exchange"])
        .map(|exchange| (exchange["name"].as_str().unwrap(), exchange["type"].as_str().unwrap()))
        .collect();
    assert_eq!(described, queue::exchanges().collect());
}

#[test]
fn its_queues_are_those_of_the_topology() {
    let document = document();
    let described: BTreeSet<_> = bindings(&document, "queue")
        .flat_map(|(address, amqp)| {
            assert_eq!(amqp["queue"]["name"], address);
            of_each_partition(address)
        })
        .collect();
    assert_eq!(described, queue::routes(PARTITIONS).map(|route| route.queue).collect());
}

#[test]
fn its_routing_keys_lead_to_the_queues_of_the_topology() {
    let document = document();
    let described: BTreeSet<_> = bindings(&document, "routingKey")
        .filter(|(_, amqp)| amqp["exchange"]["name"] != queue::EVENTS_EXCHANGE)
        .flat_map(|(address, amqp)| {
            let exchange = amqp["exchange"]["name"].as_str().unwrap().to_owned();
            of_each_partition(address).into_iter().map(move |key| (exchange.clone(), key))
        })
        .collect();
    let routes = queue::routes(PARTITIONS).map(|route| (route.exchange.to_owned(), route.key));
    assert_eq!(described, routes.collect());
}

#[test]
fn commands_are_taken_at_the_submit_exchange_and_nothing_else_is() {
    let document = document();
    let kinds: BTreeSet<_> = commands::all().into_iter().map(|command| command.name).collect();
    let received: Vec<_> = operations(&document, "receive").collect();
    let [submit] = received.as_slice() else { panic!("{received:?}") };
    let channel = resolved(&document, &submit["channel"]);
    assert_eq!(channel["address"], queue::SUBMIT_KEY);
    assert_eq!(channel["bindings"]["amqp"]["exchange"]["name"], queue::SUBMIT_EXCHANGE);
    assert_eq!(names(&document, channel), kinds);
    let answers: BTreeSet<_> = replies::all().into_iter().map(|reply| reply.name).collect();
    assert_eq!(names(&document, resolved(&document, &submit["reply"]["channel"])), answers);
    for kind in kinds {
        let message = &document["components"]["messages"][&kind];
        assert_eq!(message["headers"]["schema"]["$ref"], "./commands/headers.v1.json");
    }
}

#[test]
fn every_published_event_has_its_type_as_its_routing_key() {
    let document = document();
    let mut published = BTreeSet::new();
    for send in operations(&document, "send") {
        let channel = resolved(&document, &send["channel"]);
        let Some(key) = channel["address"].as_str() else { continue };
        assert_eq!(channel["bindings"]["amqp"]["exchange"]["name"], queue::EVENTS_EXCHANGE);
        assert_eq!(names(&document, channel), BTreeSet::from([key.to_owned()]));
        published.insert(key);
    }
    let actions = [
        Action::Created,
        Action::Held,
        Action::Confirmed,
        Action::Rescheduled,
        Action::Cancelled,
        Action::Expired,
        Action::Completed,
    ];
    let mut told: BTreeSet<_> = actions.map(event::type_of).into();
    told.extend([event::COMMAND_REJECTED, event::COMMAND_FAILED, event::WEBHOOK_DISABLED]);
    assert_eq!(published, told);
    let posted = EVENTS.iter().filter(|event| event.road == Road::Posted);
    assert_eq!(told.len() + posted.count(), event::TYPES.len());
    let webhooks = names(&document, &document["channels"]["webhooks"]);
    assert_eq!(webhooks, event::TYPES.map(str::to_owned).into());
}

#[test]
fn whatever_it_refers_to_is_there() {
    let document = document();
    let files: BTreeSet<_> = messages::files().into_iter().map(|(name, _)| name).collect();
    let mut used = BTreeSet::new();
    let mut todo = vec![&document];
    while let Some(value) = todo.pop() {
        match value.get("$ref").and_then(Value::as_str) {
            Some(reference) if reference.starts_with("#/") => {
                resolved(&document, value);
            }
            Some(reference) => drop(used.insert(reference.trim_start_matches("./").to_owned())),
            None => {}
        }
        match value {
            Value::Object(members) => todo.extend(members.values()),
            Value::Array(items) => todo.extend(items),
            _ => {}
        }
    }
    used.insert("asyncapi.json".to_owned());
    assert_eq!(used, files);
}

#[test]
fn every_message_refers_to_the_schema_of_its_name() {
    let document = document();
    let described = document["components"]["messages"].as_object().unwrap();
    for message in messages::all() {
        let Some(entry) = described.get(&message.name) else {
            assert_eq!(message.file, "commands/headers.v1.json");
            continue;
        };
        let payload = &entry["payload"]["schema"]["$ref"];
        assert_eq!(payload, &format!("./{}", message.file));
        assert_eq!(entry["name"], message.name);
        let is_event = message.file.starts_with("events/");
        let media_type = if is_event { event::MEDIA_TYPE } else { "application/json" };
        assert_eq!(entry["contentType"], media_type);
        assert_eq!(entry["bindings"]["amqp"]["messageType"], message.name);
    }
    assert_eq!(described.len() + 1, messages::all().len());
}

fn operations<'a>(document: &'a Value, action: &'a str) -> impl Iterator<Item = &'a Value> {
    let all = document["operations"].as_object().unwrap().values();
    all.filter(move |operation| operation["action"] == action)
}

/// The names of a channel's messages, which must be those of the messages that it refers to.
fn names(document: &Value, channel: &Value) -> BTreeSet<String> {
    let messages = channel["messages"].as_object().unwrap().iter();
    let name = |(name, reference): (&String, &Value)| {
        assert_eq!(resolved(document, reference)["name"], **name);
        name.clone()
    };
    messages.map(name).collect()
}

#[track_caller]
fn resolved<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference["$ref"].as_str().unwrap().trim_start_matches('#');
    document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"))
}
