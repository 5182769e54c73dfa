//! Where the messages go, as an AsyncAPI 3.0 document: the exchanges and queues of the topology,
//! the commands that are taken, the events that are published, the replies and the webhooks.
//!
//! Payloads are references to the schema files beside the document.

use serde_json::{Map, Value, json};

use super::events::{EVENTS, Road};
use super::{Message, commands, events, replies};
use crate::booking::event::MEDIA_TYPE;
use crate::queue::{self, EVENTS_EXCHANGE, Route, SUBMIT_EXCHANGE, partition_key};

/// Of the AMQP 0-9-1 bindings.
const BINDING_VERSION: &str = "0.3.0";
const FORMAT: &str = "application/schema+json;version=draft-2020-12";

const REPLIES: &str = "replies";
const WEBHOOKS: &str = "webhooks";

/// The whole document.
pub fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Booking",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Takes bookings for people's calendars. Services publish commands and \
                            get replies; events tell of every change.",
            "license": { "name": "MIT OR Apache-2.0" }
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "amqp",
                "protocolVersion": "0-9-1",
                "description": "RabbitMQ.",
                "variables": {
                    "host": { "default": "localhost" }, "port": { "default": "5672" }
                }
            },
            "receiver": {
                "host": "{receiver}",
                "protocol": "https",
                "description": "Whoever registered a webhook endpoint or named a callback.",
                "variables": { "receiver": { "default": "hooks.example" } }
            }
        },
        "channels": channels(),
        "operations": operations(),
        "components": { "messages": messages() }
    })
}

/// A schema file, seen from the document.
fn file(message: &Message) -> Value {
    json!({ "schemaFormat": FORMAT, "schema": { "$ref": format!("./{}", message.file) } })
}

fn messages() -> Map<String, Value> {
    let described = |message: &Message| {
        json!({
            "name": message.name,
            "title": message.name,
            "summary": message.schema["description"],
            "contentType": "application/json",
            "payload": file(message),
            "bindings": { "amqp": { "messageType": message.name, "bindingVersion": BINDING_VERSION } }
        })
    };
    let headers = file(&commands::headers());
    let correlation = json!({ "location": "$message.header#/correlation_id" });
    let mut messages = Map::new();
    for command in commands::all() {
        let mut command_described = described(&command);
        command_described["headers"] = headers.clone();
        command_described["correlationId"] = correlation.clone();
        messages.insert(command.name, command_described);
    }
    for reply in replies::all() {
        let mut reply_described = described(&reply);
        reply_described["correlationId"] = correlation.clone();
        messages.insert(reply.name, reply_described);
    }
    for event in events::all() {
        let mut event_described = described(&event);
        event_described["contentType"] = MEDIA_TYPE.into();
        messages.insert(event.name, event_described);
    }
    messages
}

fn channels() -> Map<String, Value> {
    let mut channels = Map::new();
    for route in routes() {
        let (exchange, queue) = exchange_and_queue(&route);
        channels.insert(route.exchange.to_owned(), exchange);
        channels.insert(queue_channel(&route), queue);
    }
    for event in published() {
        let mut channel = to_exchange(EVENTS_EXCHANGE, event, &[event]);
        channel["description"] =
            "Bind a queue of your own to the exchange with this routing key, or \
                                  with a pattern such as `booking.*`."
                .into();
        channels.insert(event.to_owned(), channel);
    }
    let replies: Vec<_> = replies::all().into_iter().map(|reply| reply.name).collect();
    channels.insert(
        REPLIES.to_owned(),
        json!({
            "address": null,
            "description": "The queue that `reply_to` names, by the default exchange.",
            "servers": [server("broker")],
            "messages": referred(&replies)
        }),
    );
    let events: Vec<_> = EVENTS.iter().map(|event| event.name).collect();
    channels.insert(
        WEBHOOKS.to_owned(),
        json!({
            "address": null,
            "description": "The URL of an endpoint or of a callback. The body has the same bytes as \
                            the event that is published; its signature is that of Standard Webhooks.",
            "servers": [server("receiver")],
            "messages": referred(&events)
        }),
    );
    channels
}

/// What is published to an exchange with a routing key.
fn to_exchange(exchange: &str, key: &str, messages: &[impl AsRef<str>]) -> Value {
    let kind = queue::exchanges().find(|(name, _)| *name == exchange).map(|(_, kind)| kind);
    json!({
        "address": key,
        "servers": [server("broker")],
        "messages": referred(messages),
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": exchange, "type": kind, "durable": true, "autoDelete": false, "vhost": "/"
                },
                "bindingVersion": BINDING_VERSION
            }
        }
    })
}

/// The channel of a route's exchange, and the one of its queue.
fn exchange_and_queue(route: &Route) -> (Value, Value) {
    let is_door = route.exchange == SUBMIT_EXCHANGE;
    let taken: Vec<_> = commands::all().into_iter().map(|command| command.name).collect();
    let taken = if is_door { taken.as_slice() } else { &[] };
    let mut exchange = to_exchange(route.exchange, &route.key, taken);
    let mut queue = json!({
        "address": route.queue,
        "servers": [server("broker")],
        "messages": referred(taken),
        "description": "Ours alone: nobody else consumes from it.",
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {
                    "name": route.queue, "durable": true, "exclusive": false, "autoDelete": false,
                    "vhost": "/"
                },
                "bindingVersion": BINDING_VERSION
            }
        }
    });
    exchange["description"] = match is_door {
        true => "Where other services publish commands. Nothing else is theirs to publish to.",
        false => "Ours alone: nobody else publishes to it.",
    }
    .into();
    if route.key.contains(PARTITION) {
        let partition = json!({
            "partition": { "description": "Two digits, from 00 on: which calendars it is for." }
        });
        exchange["parameters"] = partition.clone();
        queue["parameters"] = partition;
    }
    (exchange, queue)
}

const PARTITION: &str = "{partition}";

/// The routes of the topology, with the partitions as one.
pub fn routes() -> Vec<Route> {
    let first = partition_key(0);
    let any = first.replace("00", PARTITION);
    queue::routes(1)
        .map(|route| Route {
            queue: route.queue.replace(&first, &any),
            key: route.key.replace(&first, &any),
            ..route
        })
        .collect()
}

fn queue_channel(route: &Route) -> String {
    format!("{}.queue", route.exchange)
}

fn operations() -> Value {
    let operation = |action: &str, channel: &str, summary: &str| json!({ "action": action, "channel": channel_named(channel), "summary": summary });
    let mut operations = Map::new();
    let mut submit = operation("receive", SUBMIT_EXCHANGE, "Takes a command, once for each key.");
    submit["reply"] = json!({
        "address": {
            "location": "$message.header#/reply_to",
            "description": "`command.accepted` and then `command.decided`, or `command.refused` alone."
        },
        "channel": channel_named(REPLIES)
    });
    operations.insert("submit".to_owned(), submit);
    for event in published() {
        let summary = "Published at least once, a booking's events in the order of their versions.";
        operations.insert(format!("publish.{event}"), operation("send", event, summary));
    }
    let mut post = operation("send", WEBHOOKS, "Posted until the receiver answers 2xx.");
    post["bindings"] = json!({ "http": { "method": "POST", "bindingVersion": "0.3.0" } });
    operations.insert("post".to_owned(), post);
    operations.into()
}

fn published() -> impl Iterator<Item = &'static str> {
    EVENTS.iter().filter(|event| event.road == Road::Published).map(|event| event.name)
}

fn server(name: &str) -> Value {
    json!({ "$ref": format!("#/servers/{name}") })
}

fn channel_named(name: &str) -> Value {
    json!({ "$ref": format!("#/channels/{name}") })
}

fn referred(names: &[impl AsRef<str>]) -> Map<String, Value> {
    let reference = |name: &str| json!({ "$ref": format!("#/components/messages/{name}") });
    names.iter().map(|name| (name.as_ref().to_owned(), reference(name.as_ref()))).collect()
}
