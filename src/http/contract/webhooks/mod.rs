//! The operations on webhooks. Bodies, answers and their examples are in [`schemas`].

pub mod schemas;

use serde_json::{Value, json};

use crate::booking::event;
use crate::booking::problem::Code::*;
use crate::http::contract::operation::Method::{Delete, Patch, Post};
use crate::http::contract::operation::{Answer, Body, Content, Group, Link, Operation, Parameter};
use crate::http::contract::parameters::{LIMIT, LOCATION, path, query};
use crate::http::contract::table::{READ, found};
use crate::messages::shapes::{date_time, uuid};
use crate::store::webhooks::log::Status;

const ENDPOINT: Parameter = path("The endpoint, or the target of callbacks.");
const DELIVERY: Parameter = Parameter {
    name: "deliveryId",
    ..path("The delivery, which is the id of its event and the header `webhook-id`.")
};
const CURSOR: Parameter = query(
    "cursor",
    "The `nextCursor` of the page before, with the same other parameters. What is inside may change.",
    uuid,
);
const STATUS: Parameter = query("status", "Only deliveries in this state.", status);
const EVENT_TYPE: Parameter = query(
    "eventType",
    "Only deliveries of this event type.",
    || json!({ "type": "string", "enum": event::TYPES }),
);
const FROM: Parameter = query("from", "Only deliveries made at this time or later.", date_time);
const TO: Parameter = query("to", "Only deliveries made before this time.", date_time);

/// The states of a delivery.
fn status() -> Value {
    json!({ "type": "string", "enum": Status::ALL.map(Status::as_str) })
}

pub const WEBHOOKS: Group = Group {
    name: "Webhooks",
    about: "Who is told of what, and what became of it.",
    operations: &[
        REGISTER,
        LIST,
        GET,
        CHANGE,
        REMOVE,
        ROTATE,
        TEST,
        DELIVERIES,
        DELIVERY_OF,
        ATTEMPTS,
        REDELIVER,
        RECOVER,
    ],
};

const REGISTER: Operation = Operation {
    method: Post,
    path: "/api/webhooks",
    id: "registerWebhook",
    summary: "Register a webhook endpoint",
    about: "The answer shows the secret, this once. It takes no idempotency key: sent twice, it \
            makes two endpoints.",
    body: Some(Body { schema: "NewWebhook", optional: false }),
    answers: &[Answer {
        status: 201,
        about: "The endpoint, with its secret.",
        headers: &[LOCATION],
        content: Content::Json("WebhookWithSecret"),
        links: OF_AN_ENDPOINT,
    }],
    refusals: &[PayloadTooLarge, UnsupportedMediaType, LimitReached],
    ..READ
};

const LIST: Operation = Operation {
    path: "/api/webhooks",
    id: "listWebhooks",
    summary: "List webhook endpoints",
    about: "Yours, in the order in which they were made, with the targets of your callbacks.",
    parameters: &[LIMIT, CURSOR],
    answers: &[found("A page of endpoints.", &[], "Webhooks")],
    ..READ
};

const GET: Operation = Operation {
    path: "/api/webhooks/{id}",
    id: "getWebhook",
    summary: "Read a webhook endpoint",
    about: "As it is now, and since when it has been failing.",
    parameters: &[ENDPOINT],
    answers: &[Answer { links: OF_AN_ENDPOINT, ..found("The endpoint.", &[], "Webhook") }],
    refusals: &[NotFound],
    ..READ
};

const CHANGE: Operation = Operation {
    method: Patch,
    path: "/api/webhooks/{id}",
    id: "changeWebhook",
    summary: "Change, disable or enable a webhook endpoint",
    about: "What is absent stays as it is. To enable it forgets why it was disabled, and its \
            failures. The target of callbacks keeps its URL, and has no event types.",
    parameters: &[ENDPOINT],
    body: Some(Body { schema: "WebhookChange", optional: true }),
    answers: &[found("The endpoint as it is now.", &[], "Webhook")],
    refusals: &[NotFound, InvalidState, PayloadTooLarge, UnsupportedMediaType],
    ..READ
};

const REMOVE: Operation = Operation {
    method: Delete,
    path: "/api/webhooks/{id}",
    id: "deleteWebhook",
    summary: "Delete a webhook endpoint",
    about: "What waits for it is not delivered any more. Its log can no longer be read.",
    parameters: &[ENDPOINT],
    answers: &[Answer {
        status: 204,
        about: "It is gone.",
        headers: &[],
        content: Content::None,
        links: &[],
    }],
    refusals: &[NotFound],
    ..READ
};

const ROTATE: Operation = Operation {
    method: Post,
    path: "/api/webhooks/{id}/rotate-secret",
    id: "rotateWebhookSecret",
    summary: "Get a new secret",
    about: "Shown this once. Until the overlap is over the secret before it signs too, so that the \
            receiver can be given the new one meanwhile. This is also how the secret of a callback's \
            target is had.",
    parameters: &[ENDPOINT],
    body: Some(Body { schema: "SecretRotation", optional: true }),
    answers: &[found("The endpoint, with its new secret.", &[], "WebhookWithSecret")],
    refusals: &[NotFound, PayloadTooLarge, UnsupportedMediaType],
    ..READ
};

const TEST: Operation = Operation {
    method: Post,
    path: "/api/webhooks/{id}/test",
    id: "testWebhook",
    summary: "Send a test",
    about: "Delivers a `webhook.test` event, as any other: look for it in the log. It takes no \
            idempotency key: sent twice, it makes two deliveries.",
    parameters: &[ENDPOINT],
    body: Some(Body { schema: "Nothing", optional: true }),
    answers: &[QUEUED],
    refusals: &[NotFound, InvalidState, PayloadTooLarge, UnsupportedMediaType],
    ..READ
};

const DELIVERIES: Operation = Operation {
    path: "/api/webhooks/{id}/deliveries",
    id: "listDeliveries",
    summary: "List the deliveries of an endpoint",
    about: "The newest first, as long as they are kept. A page that is filtered may have few rows, or \
            none, and a `nextCursor`: it looks at 10,000 deliveries at most.",
    parameters: &[ENDPOINT, STATUS, EVENT_TYPE, FROM, TO, LIMIT, CURSOR],
    answers: &[found("A page of deliveries.", &[], "Deliveries")],
    refusals: &[NotFound],
    ..READ
};

const DELIVERY_OF: Operation = Operation {
    path: "/api/webhooks/{id}/deliveries/{deliveryId}",
    id: "getDelivery",
    summary: "Read a delivery, with its payload",
    about: "The payload is the event that the receiver gets.",
    parameters: &[ENDPOINT, DELIVERY],
    answers: &[found("The delivery.", &[], "DeliveryWithPayload")],
    refusals: &[NotFound],
    ..READ
};

const ATTEMPTS: Operation = Operation {
    path: "/api/webhooks/{id}/deliveries/{deliveryId}/attempts",
    id: "listAttempts",
    summary: "Read how a delivery was tried",
    about: "The latest 100 attempts, the latest first.",
    parameters: &[ENDPOINT, DELIVERY],
    answers: &[found("The attempts.", &[], "Attempts")],
    refusals: &[NotFound],
    ..READ
};

const REDELIVER: Operation = Operation {
    method: Post,
    path: "/api/webhooks/{id}/deliveries/{deliveryId}/redeliver",
    id: "redeliver",
    summary: "Deliver something again",
    about: "Whatever became of it. One that waits already is tried now.",
    parameters: &[ENDPOINT, DELIVERY],
    body: Some(Body { schema: "Nothing", optional: true }),
    answers: &[QUEUED],
    refusals: &[NotFound, InvalidState, PayloadTooLarge, UnsupportedMediaType],
    ..READ
};

const RECOVER: Operation = Operation {
    method: Post,
    path: "/api/webhooks/{id}/recover",
    id: "recoverWebhook",
    summary: "Deliver again what was given up",
    about: "Everything since a time that was not delivered and does not wait, the oldest first. It \
            looks at 10,000 deliveries; where more follow, send the `nextCursor` with the same `since`.",
    parameters: &[ENDPOINT],
    body: Some(Body { schema: "Recovery", optional: false }),
    answers: &[Answer { status: 202, ..found("How many are queued.", &[], "Recovered") }],
    refusals: &[NotFound, InvalidState, PayloadTooLarge, UnsupportedMediaType, InvalidTime],
    ..READ
};

const QUEUED: Answer = Answer { status: 202, ..found("It is queued.", &[], "QueuedDelivery") };

const OF_AN_ENDPOINT: &[Link] = &[
    Link { operation: "getWebhook", id: "/id" },
    Link { operation: "changeWebhook", id: "/id" },
    Link { operation: "rotateWebhookSecret", id: "/id" },
    Link { operation: "testWebhook", id: "/id" },
    Link { operation: "listDeliveries", id: "/id" },
    Link { operation: "recoverWebhook", id: "/id" },
    Link { operation: "deleteWebhook", id: "/id" },
];
