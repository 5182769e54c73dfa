//! What is sent and answered about webhooks, as JSON Schema with examples.

use serde_json::{Value, json};

use super::status;
use crate::booking::endpoint::{MAX_DESCRIPTION_CHARS, MAX_EVENT_TYPES, event_types};
use crate::booking::event;
use crate::http::contract::examples::{BOOKING, DECIDED, ENDPOINT, EVENT};
use crate::http::contract::schemas::next_cursor;
use crate::http::webhooks::{MAX_OVERLAP_SECONDS, OVERLAP_SECONDS};
use crate::messages::shapes::{about, closed, date_time, named, nullable, open, text, utc, uuid};
use crate::webhooks::address::MAX_URL_BYTES;

const URL: &str = "https://hooks.example.org/booking";

/// Every named schema of webhooks.
pub fn all() -> impl Iterator<Item = (String, Value)> {
    let named = [
        ("NewWebhook", new_webhook()),
        ("WebhookChange", webhook_change()),
        ("SecretRotation", secret_rotation()),
        ("Recovery", recovery()),
        ("Nothing", closed(json!({}), &[], &json!({}))),
        ("Webhook", webhook(json!({}), &[])),
        ("WebhookWithSecret", with_secret()),
        ("Webhooks", list("endpoints", "Webhook")),
        ("Delivery", delivery(json!({}), &[])),
        ("DeliveryWithPayload", with_payload()),
        ("Deliveries", list("deliveries", "Delivery")),
        ("Attempt", attempt()),
        ("Attempts", attempts()),
        ("QueuedDelivery", queued()),
        ("Recovered", recovered()),
    ];
    named.into_iter().map(|(name, schema)| (name.to_owned(), schema))
}

fn url() -> Value {
    about(
        "Where to: https, a port that is allowed here (443), a public host; no user, no fragment. \
         `booking dev` takes plain http and this machine too.",
        json!({
            "type": "string", "format": "uri", "maxLength": MAX_URL_BYTES,
            "pattern": "^https?://[^/?#]"
        }),
    )
}

fn asked() -> Value {
    let types: Vec<_> = event_types().collect();
    let one = json!({ "type": "string", "enum": types });
    json!({
        "type": "array", "minItems": 1, "maxItems": MAX_EVENT_TYPES, "items": one,
        "description": "What of: event types, all of a kind, or `*`."
    })
}

fn description() -> Value {
    about("For people.", nullable(text(MAX_DESCRIPTION_CHARS)))
}

fn new_webhook() -> Value {
    let properties = json!({ "url": url(), "eventTypes": asked(), "description": description() });
    let example = json!({
        "url": URL, "eventTypes": ["booking.*"], "description": "The desk in hall 2"
    });
    closed(properties, &["url", "eventTypes"], &example)
}

fn webhook_change() -> Value {
    let properties = json!({
        "url": nullable(url()),
        "eventTypes": nullable(asked()),
        "description": about("Empty takes it away.", nullable(text(MAX_DESCRIPTION_CHARS))),
        "enabled": { "type": ["boolean", "null"] },
    });
    closed(properties, &[], &json!({ "enabled": true }))
}

fn secret_rotation() -> Value {
    let overlap = json!({
        "type": ["integer", "null"], "minimum": 0, "maximum": MAX_OVERLAP_SECONDS,
        "default": OVERLAP_SECONDS, "description": "How long the secret before signs too."
    });
    let example = json!({ "overlapSeconds": OVERLAP_SECONDS });
    closed(json!({ "overlapSeconds": overlap }), &[], &example)
}

fn recovery() -> Value {
    let properties = json!({
        "since": about("In the past, by 30 days (or as long as deliveries are kept) at most.", date_time()),
        "cursor": about("The `nextCursor` of the recovery before.", nullable(uuid())),
    });
    closed(properties, &["since"], &json!({ "since": "2031-03-03T09:00:00Z" }))
}

fn webhook(more: Value, required_too: &[&str]) -> Value {
    let mut properties = json!({
        "id": uuid(),
        "kind": about(
            "`callback` is the target of the callbacks of one origin, which commands make.",
            json!({ "type": "string", "enum": ["endpoint", "callback"] }),
        ),
        "url": about("Of callbacks the origin.", json!({ "type": "string" })),
        "eventTypes": { "type": "array", "items": { "type": "string" } },
        "description": { "type": "string" },
        "userId": about(
            "Whose events; absent where it is everybody's, and of callbacks.",
            uuid(),
        ),
        "enabled": { "type": "boolean" },
        "disabledReason": about("There when it was not its owner who disabled it.", json!({ "type": "string" })),
        "failingSince": about("Since when no attempt has succeeded.", utc()),
        "previousSecretUntil": about("Until then the secret before signs too.", utc()),
        "createdAt": utc(),
        "updatedAt": utc(),
    });
    let mut example = json!({
        "id": ENDPOINT, "kind": "endpoint", "url": URL, "eventTypes": ["booking.*"],
        "description": "The desk in hall 2", "enabled": true, "createdAt": DECIDED,
        "updatedAt": DECIDED
    });
    for (name, schema) in more.as_object().into_iter().flatten() {
        example[name] = schema["examples"][0].clone();
        properties[name] = schema.clone();
    }
    let mut required = vec!["id", "kind", "url", "eventTypes", "enabled", "createdAt", "updatedAt"];
    required.extend(required_too);
    open(properties, &required, &example)
}

fn with_secret() -> Value {
    let secret = json!({
        "type": "string", "pattern": "^whsec_[A-Za-z0-9+/]{43}=$",
        "description": "What signs; shown this once. Base64 of 32 bytes after `whsec_`.",
        "examples": ["whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
    });
    webhook(json!({ "secret": secret }), &["secret"])
}

fn list(field: &str, of: &str) -> Value {
    let items = json!({ "type": "array", "items": named(of) });
    let example = match of {
        "Webhook" => webhook(json!({}), &[]),
        _ => delivery(json!({}), &[]),
    };
    let properties = json!({ field: items, "nextCursor": next_cursor() });
    open(properties, &[field], &json!({ field: [example["examples"][0]] }))
}

fn delivery(more: Value, required_too: &[&str]) -> Value {
    let mut properties = json!({
        "id": about("The id of the event, and the header `webhook-id`.", uuid()),
        "eventType": { "type": "string", "enum": event::TYPES },
        "subject": about("The booking; of a test or a disabling the endpoint.", uuid()),
        "status": about("`exhausted` was given up; it can be redelivered.", status()),
        "attempts": about("How many there were.", count()),
        "lastAttempt": named("Attempt"),
        "nextAttemptAt": about("There while it is pending.", utc()),
        "createdAt": utc(),
        "url": about("Of a callback: where to.", json!({ "type": "string" })),
    });
    let mut example = json!({
        "id": EVENT, "eventType": event::BOOKING_CONFIRMED, "subject": BOOKING,
        "status": "delivered", "attempts": 1, "lastAttempt": attempted(), "createdAt": DECIDED
    });
    for (name, schema) in more.as_object().into_iter().flatten() {
        example[name] = schema["examples"][0].clone();
        properties[name] = schema.clone();
    }
    let mut required = vec!["id", "eventType", "subject", "status", "attempts", "createdAt"];
    required.extend(required_too);
    open(properties, &required, &example)
}

fn with_payload() -> Value {
    let payload = json!({
        "type": "object", "description": "The event, as the receiver gets it.",
        "examples": [{ "specversion": "1.0", "id": EVENT, "type": event::BOOKING_CONFIRMED }]
    });
    delivery(json!({ "payload": payload }), &["payload"])
}

fn attempted() -> Value {
    json!({ "at": DECIDED, "outcome": "delivered", "status": 204, "durationMs": 87 })
}

fn attempt() -> Value {
    let outcomes = ["delivered", "refused", "gone", "unreachable", "forbidden"];
    let properties = json!({
        "at": utc(),
        "outcome": about(
            "`gone` is an answer of 410, `refused` any other that is not 2xx; `unreachable` is no \
             answer; `forbidden` is an address that may not be posted to.",
            json!({ "type": "string", "enum": outcomes }),
        ),
        "status": about("Of the answer.", json!({ "type": "integer" })),
        "durationMs": count(),
        "detail": about("Why it failed, or how the answer begins.", json!({ "type": "string" })),
    });
    open(properties, &["at", "outcome", "durationMs"], &attempted())
}

fn attempts() -> Value {
    let properties = json!({ "attempts": { "type": "array", "items": named("Attempt") } });
    open(properties, &["attempts"], &json!({ "attempts": [attempted()] }))
}

fn queued() -> Value {
    open(json!({ "deliveryId": uuid() }), &["deliveryId"], &json!({ "deliveryId": EVENT }))
}

fn recovered() -> Value {
    let properties = json!({ "queued": count(), "nextCursor": next_cursor() });
    open(properties, &["queued"], &json!({ "queued": 12 }))
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}
