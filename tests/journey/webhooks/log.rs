//! The log: states, filters, pages, payloads and attempts.

use serde_json::json;

use super::{Fate, each, plant, plant_many, uuid};
use crate::stage::{Stage, User};

#[tokio::test]
async fn a_delivery_is_pending_delivered_or_exhausted() {
    let stage = Stage::new("hooks-states").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    let path = format!("/api/webhooks/{id}/deliveries");
    for (fate, status, attempts, last) in [
        (Fate::Pending, "pending", 0, None),
        (Fate::Retried, "pending", 2, Some("unreachable")),
        (Fate::Redelivered, "pending", 2, Some("delivered")),
        (Fate::Delivered, "delivered", 2, Some("delivered")),
        (Fate::Exhausted, "exhausted", 2, Some("unreachable")),
    ] {
        let delivery = plant(&stage, &id, 5, "booking.held", fate).await;
        let one = user.get(&format!("{path}/{delivery}")).await.is(200);
        assert_eq!((one.text("id"), one.text("status")), (delivery.as_str(), status));
        assert_eq!((one.text("eventType"), one.text("subject")), ("booking.held", &*delivery));
        assert_eq!(one.body["attempts"], attempts);
        assert_eq!(one.body["lastAttempt"]["outcome"].as_str(), last);
        assert_eq!(one.text("nextAttemptAt").is_empty(), status != "pending");
        assert_eq!(one.body["payload"]["data"], json!({ "n": 5 }));

        let tried = user.get(&format!("{path}/{delivery}/attempts")).await.is(200);
        let outcomes = each(&tried.body["attempts"], "outcome");
        assert_eq!((outcomes.len(), outcomes.first().copied()), (attempts, last));

        let mut listed = one.body.clone();
        listed.as_object_mut().unwrap().remove("payload");
        let page = user.get(&path).await.is(200);
        assert_eq!(page.body, json!({ "deliveries": [listed] }));
        forget(&stage).await;
    }
}

async fn forget(stage: &Stage) {
    for statement in [
        "delete from webhook_deliveries",
        "delete from webhook_queue",
        "delete from webhook_attempts",
    ] {
        sqlx::query(statement).execute(&mut stage.database().await).await.unwrap();
    }
}

#[tokio::test]
async fn a_log_has_what_was_asked_for_and_the_newest_first() {
    let stage = Stage::new("hooks-log").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let (id, other) = (user.registers().await, user.registers().await);
    let path = format!("/api/webhooks/{id}/deliveries");
    plant(&stage, &other, 25, "booking.held", Fate::Delivered).await;
    let mut ids = Vec::new();
    for (minutes, kind, fate) in [
        (50, "booking.held", Fate::Exhausted),
        (40, "booking.confirmed", Fate::Delivered),
        (30, "booking.confirmed", Fate::Exhausted),
        (20, "webhook.test", Fate::Retried),
        (10, "command.rejected", Fate::Delivered),
    ] {
        ids.push(plant(&stage, &id, minutes, kind, fate).await);
    }
    let ago = |minutes: i64| {
        let time = chrono::Utc::now() - chrono::TimeDelta::minutes(minutes);
        time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    for (query, expected) in [
        (String::new(), &[4, 3, 2, 1, 0][..]),
        ("status=pending".into(), &[3]),
        ("status=delivered".into(), &[4, 1]),
        ("status=exhausted".into(), &[2, 0]),
        ("eventType=booking.confirmed".into(), &[2, 1]),
        ("eventType=booking.confirmed&status=exhausted".into(), &[2]),
        ("eventType=webhook.disabled".into(), &[]),
        (format!("from={}", ago(35)), &[4, 3, 2]),
        (format!("to={}", ago(35)), &[1, 0]),
        (format!("from={}&to={}", ago(45), ago(15)), &[3, 2, 1]),
        (format!("from={}", ago(-60)), &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|index| ids[*index].as_str()).collect();
        let page = user.get(&format!("{path}?{query}")).await.is(200);
        assert_eq!(each(&page.body["deliveries"], "id"), expected, "{query}");
        assert_eq!(page.text("nextCursor"), "", "{query}");
        // The same in pages of one.
        let mut paged = Vec::new();
        let mut cursor = String::new();
        for _ in 0..=expected.len() {
            let page = user.get(&format!("{path}?{query}&limit=1{cursor}")).await.is(200);
            paged.extend(each(&page.body["deliveries"], "id").into_iter().map(str::to_owned));
            match page.text("nextCursor") {
                "" => break,
                next => cursor = format!("&cursor={next}"),
            }
        }
        assert_eq!(paged, expected, "{query}");
    }
}

/// However long the log is, a page is answered soon: it says how far it looked.
#[tokio::test]
async fn a_filtered_page_of_a_long_log_ends_and_says_where_to_go_on() {
    let stage = Stage::new("hooks-long-log").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    let path = format!("/api/webhooks/{id}/deliveries");
    let oldest = plant(&stage, &id, 60, "booking.held", Fate::Delivered).await;
    plant_many(&stage, &id, 10_050).await;

    for filter in ["status=delivered", "eventType=booking.held"] {
        let first = user.get(&format!("{path}?{filter}")).await.is(200);
        assert_eq!(first.body["deliveries"], json!([]), "{filter}");
        let cursor = first.text("nextCursor");
        let second = user.get(&format!("{path}?{filter}&cursor={cursor}")).await.is(200);
        assert_eq!(each(&second.body["deliveries"], "id"), [oldest.as_str()], "{filter}");
        assert_eq!(second.text("nextCursor"), "", "{filter}");
    }
    let full = user.get(&format!("{path}?status=exhausted&limit=100")).await.is(200);
    let ids = each(&full.body["deliveries"], "id");
    assert_eq!(ids.len(), 100);
    assert!(ids.is_sorted_by(|a, b| a > b));
    assert_eq!(full.text("nextCursor"), ids[99]);
}

#[tokio::test]
async fn the_latest_hundred_attempts_of_a_delivery_are_shown() {
    let stage = Stage::new("hooks-attempts").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    let delivery = plant(&stage, &id, 60, "booking.held", Fate::Exhausted).await;
    sqlx::query(
        "insert into webhook_attempts (target_id, event_id, at, outcome, status, duration_ms, detail)
         select $1, $2, now() + n * interval '1 second', 'refused', 400 + n, n, 'no ' || n
         from generate_series(1, 120) as g(n)",
    )
    .bind(uuid(&id))
    .bind(uuid(&delivery))
    .execute(&mut stage.database().await)
    .await
    .unwrap();
    let path = format!("/api/webhooks/{id}/deliveries/{delivery}");
    let tried = user.get(&format!("{path}/attempts")).await.is(200);
    let details = each(&tried.body["attempts"], "detail");
    assert_eq!((details.len(), details[0], details[99]), (100, "no 120", "no 21"));
    let latest = &tried.body["attempts"][0];
    assert_eq!((&latest["status"], &latest["durationMs"]), (&json!(520), &json!(120)));
    assert_eq!(user.get(&path).await.is(200).body["attempts"], 122);
}
