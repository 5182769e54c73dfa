//! Tests, and what is delivered again.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use super::{Fate, plant, plant_many, queue_of, uuid};
use crate::cast::at_once;
use crate::stage::{Answer, Stage, User};

/// The body of a recovery since so many minutes ago.
fn since(minutes: i64) -> Value {
    json!({ "since": Utc::now() - TimeDelta::minutes(minutes) })
}

impl User {
    async fn recovers(&self, endpoint: &str, body: Value) -> Answer {
        self.post(&format!("/api/webhooks/{endpoint}/recover"), &[], body).await
    }

    async fn redelivers(&self, endpoint: &str, delivery: &str) -> Answer {
        let path = format!("/api/webhooks/{endpoint}/deliveries/{delivery}/redeliver");
        self.post(&path, &[], json!({})).await
    }

    async fn disables(&self, endpoint: &str) {
        self.patch(&format!("/api/webhooks/{endpoint}"), json!({ "enabled": false })).await.is(200);
    }
}

#[tokio::test]
async fn a_test_is_a_delivery_that_is_due() {
    let stage = Stage::new("hooks-test").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers_for(&["command.failed"]).await.is(201).text("id").to_owned();
    let path = format!("/api/webhooks/{id}");
    let tested = user.post_text(&format!("{path}/test"), &[], "").await.is(202);
    let delivery = tested.text("deliveryId");
    assert_eq!(queue_of(&stage, &id).await, [(uuid(delivery), true)]);
    let seen = user.get(&format!("{path}/deliveries/{delivery}")).await.is(200);
    assert_eq!((seen.text("eventType"), seen.text("status")), ("webhook.test", "pending"));
    assert_eq!(seen.text("subject"), id);
    let payload = &seen.body["payload"];
    assert_eq!((&payload["id"], &payload["type"]), (&json!(delivery), &json!("webhook.test")));
    assert_eq!(payload["data"], json!({ "endpointId": id }));

    user.disables(&id).await;
    let refused = user.post(&format!("{path}/test"), &[], json!({})).await.is(409);
    assert_eq!(refused.code(), "INVALID_STATE");
    assert_eq!(queue_of(&stage, &id).await.len(), 1);
}

#[tokio::test]
async fn whatever_became_of_a_delivery_it_is_delivered_again() {
    let stage = Stage::new("hooks-redeliver").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    let mut all = BTreeSet::new();
    for fate in [Fate::Pending, Fate::Retried, Fate::Delivered, Fate::Exhausted] {
        let delivery = plant(&stage, &id, 5, "booking.held", fate).await;
        let again = user.redelivers(&id, &delivery).await.is(202);
        assert_eq!(again.text("deliveryId"), delivery);
        all.insert((uuid(&delivery), true));
        let queued = queue_of(&stage, &id).await;
        assert_eq!(queued, all.iter().copied().collect::<Vec<_>>());
    }
    let exhausted = plant(&stage, &id, 5, "booking.held", Fate::Exhausted).await;
    user.disables(&id).await;
    assert_eq!(user.redelivers(&id, &exhausted).await.is(409).code(), "INVALID_STATE");
    assert_eq!(queue_of(&stage, &id).await.len(), 4);
}

#[tokio::test]
async fn what_many_ask_for_at_once_is_queued_once() {
    let stage = Stage::new("hooks-at-once").await;
    let (a, b) = tokio::join!(stage.gateway(), stage.gateway());
    let user = User::new(&a);
    for round in 0..3 {
        let id = user.registers().await;
        let delivery = plant(&stage, &id, 5, "booking.held", Fate::Exhausted).await;
        plant_many(&stage, &id, 50).await;
        let asks = (0..16).map(|turn| {
            let (user, id, delivery) = (user.at([&a, &b][turn % 2]), id.clone(), delivery.clone());
            async move {
                match turn % 4 < 2 {
                    true => user.redelivers(&id, &delivery).await,
                    false => user.recovers(&id, since(60)).await,
                }
            }
        });
        let answers = at_once(asks).await;
        assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
        let queued = queue_of(&stage, &id).await;
        let distinct: BTreeSet<_> = queued.iter().collect();
        assert_eq!((queued.len(), distinct.len()), (51, 51), "round {round}");
    }
}

#[tokio::test]
async fn a_recovery_queues_what_was_given_up_since_then() {
    let stage = Stage::new("hooks-recover").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let (id, other) = (user.registers().await, user.registers().await);
    plant(&stage, &other, 5, "booking.held", Fate::Exhausted).await;
    plant(&stage, &id, 50, "booking.held", Fate::Exhausted).await;
    plant(&stage, &id, 30, "booking.held", Fate::Delivered).await;
    let pending = plant(&stage, &id, 20, "booking.held", Fate::Retried).await;
    let (early, late) = (
        plant(&stage, &id, 40, "booking.held", Fate::Exhausted).await,
        plant(&stage, &id, 10, "webhook.test", Fate::Exhausted).await,
    );
    let recovered = user.recovers(&id, since(45)).await.is(202);
    assert_eq!(recovered.body, json!({ "queued": 2 }));
    let expected = [(uuid(&early), true), (uuid(&pending), false), (uuid(&late), true)];
    assert_eq!(queue_of(&stage, &id).await, expected);
    assert_eq!(user.recovers(&id, since(45)).await.is(202).body, json!({ "queued": 0 }));
    assert_eq!(queue_of(&stage, &other).await, []);

    user.disables(&id).await;
    assert_eq!(user.recovers(&id, since(60)).await.is(409).code(), "INVALID_STATE");
    assert_eq!(queue_of(&stage, &id).await, expected);
}

#[tokio::test]
async fn a_long_recovery_goes_on_where_it_ended() {
    let stage = Stage::new("hooks-long-recovery").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    plant_many(&stage, &id, 10_050).await;
    let mut body = since(60);
    let first = user.recovers(&id, body.clone()).await.is(202);
    assert_eq!(first.body["queued"], 10_000);
    body["cursor"] = json!(first.text("nextCursor"));
    let second = user.recovers(&id, body).await.is(202);
    assert_eq!(second.body, json!({ "queued": 50 }));
    assert_eq!(stage.number("select count(distinct event_id) from webhook_queue").await, 10_050);
    assert_eq!(stage.number("select count(*) from webhook_queue").await, 10_050);
}
