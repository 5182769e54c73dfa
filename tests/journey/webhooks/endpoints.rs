//! Endpoints: made, shown, changed and deleted, and their secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use uuid::Uuid;

use super::{Fate, URL, each, plant, queue_of, uuid};
use crate::cast::at_once;
use crate::stage::{Answer, Stage, User};

impl Stage {
    /// The secrets of an endpoint, current and previous, and for how many seconds the latter signs.
    async fn secrets(&self, endpoint: &str) -> (Vec<u8>, Option<Vec<u8>>, Option<f64>) {
        sqlx::query_as(
            "select secret, previous_secret,
                    extract(epoch from previous_secret_until - now())::float8
             from webhook_endpoints where id = $1",
        )
        .bind(uuid(endpoint))
        .fetch_one(&mut self.database().await)
        .await
        .unwrap()
    }
}

/// The bytes of the secret that an answer shows.
fn shown(answer: &Answer) -> Vec<u8> {
    BASE64.decode(answer.text("secret").strip_prefix("whsec_").unwrap()).unwrap()
}

#[tokio::test]
async fn an_endpoint_is_made_shown_changed_and_deleted() {
    let stage = Stage::new("hooks-life").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let body = json!({
        "url": "HTTPS://Hooks.Example.org:443/booking", "eventTypes": ["booking.*", "booking.*"],
        "description": "The desk"
    });
    let made = user.post("/api/webhooks", &[], body).await.is(201);
    let path = format!("/api/webhooks/{}", made.text("id"));
    assert_eq!(made.location(), path);
    assert_eq!((made.text("url"), made.text("kind")), (URL, "endpoint"));
    assert_eq!(made.body["eventTypes"], json!(["booking.*"]));
    assert_eq!(made.text("userId"), user.id.to_string());
    assert_eq!(made.body["enabled"], true);

    let mut without_secret = made.body.clone();
    without_secret.as_object_mut().unwrap().remove("secret");
    assert_eq!(user.get(&path).await.is(200).body, without_secret);
    assert_eq!(user.get("/api/webhooks").await.is(200).body["endpoints"], json!([without_secret]));

    let change = json!({ "url": "https://example.org/b", "eventTypes": ["*"], "description": "" });
    let changed = user.patch(&path, change).await.is(200);
    assert_eq!(changed.text("url"), "https://example.org/b");
    assert_eq!(changed.body["eventTypes"], json!(["*"]));
    assert_eq!(changed.body.get("description"), None);
    assert_eq!(changed.body.get("secret"), None);
    assert_eq!(user.patch(&path, json!({})).await.is(200).text("url"), "https://example.org/b");

    plant(&stage, made.text("id"), 1, "booking.confirmed", Fate::Pending).await;
    assert_eq!(user.delete(&path).await.is(204).raw, "");
    for gone in [user.get(&path).await, user.delete(&path).await] {
        assert_eq!(gone.is(404).code(), "NOT_FOUND");
    }
    assert_eq!(user.get("/api/webhooks").await.is(200).body, json!({ "endpoints": [] }));
    assert_eq!(stage.number("select count(*) from webhook_queue").await, 0);
    assert_eq!(stage.number("select count(*) from webhook_deliveries").await, 1);
}

#[tokio::test]
async fn to_enable_an_endpoint_forgets_why_it_was_disabled() {
    let stage = Stage::new("hooks-enable").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    let path = format!("/api/webhooks/{id}");
    sqlx::query(
        "update webhook_endpoints set enabled = false, disabled_reason = 'answered 410',
           failing_since = now() - interval '1 day'",
    )
    .execute(&mut stage.database().await)
    .await
    .unwrap();
    let seen = user.get(&path).await.is(200);
    assert_eq!(
        (&seen.body["enabled"], seen.text("disabledReason")),
        (&json!(false), "answered 410")
    );
    assert!(!seen.text("failingSince").is_empty());
    let still = user.patch(&path, json!({ "enabled": false })).await.is(200);
    assert_eq!(still.text("disabledReason"), "answered 410");

    let enabled = user.patch(&path, json!({ "enabled": true })).await.is(200);
    assert_eq!(enabled.body["enabled"], true);
    for forgotten in ["disabledReason", "failingSince"] {
        assert_eq!(enabled.body.get(forgotten), None);
    }
    let disabled = user.patch(&path, json!({ "enabled": false })).await.is(200);
    assert_eq!(
        (&disabled.body["enabled"], disabled.body.get("disabledReason")),
        (&json!(false), None)
    );
}

#[tokio::test]
async fn a_secret_is_shown_once_and_its_successor_overlaps_with_it() {
    let stage = Stage::new("hooks-secret").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let made = user.registers_for(&["*"]).await.is(201);
    let id = made.text("id").to_owned();
    let (path, first) = (format!("/api/webhooks/{id}"), shown(&made));
    assert_eq!(first.len(), 32);
    assert_eq!(stage.secrets(&id).await, (first.clone(), None, None));

    let rotate = format!("{path}/rotate-secret");
    let rotated = user.post(&rotate, &[], json!({})).await.is(200);
    let second = shown(&rotated);
    assert!(!rotated.text("previousSecretUntil").is_empty());
    let (now, before, seconds) = stage.secrets(&id).await;
    assert_eq!((now, before), (second.clone(), Some(first.clone())));
    assert!((86_000.0..=86_400.0).contains(&seconds.unwrap()), "{seconds:?}");

    let rotated = user.post(&rotate, &[], json!({ "overlapSeconds": 604_800 })).await.is(200);
    let third = shown(&rotated);
    let (now, before, seconds) = stage.secrets(&id).await;
    assert_eq!((now, before), (third.clone(), Some(second.clone())));
    assert!(seconds.unwrap() > 604_000.0, "{seconds:?}");

    let at_once = user.post(&rotate, &[], json!({ "overlapSeconds": 0 })).await.is(200);
    assert_eq!(at_once.body.get("previousSecretUntil"), None);
    let fourth = shown(&at_once);
    assert_eq!(stage.secrets(&id).await, (fourth.clone(), None, None));
    assert!(first != second && second != third && third != fourth);

    let seen = [
        user.get(&path).await.is(200).raw,
        user.get("/api/webhooks").await.is(200).raw,
        user.patch(&path, json!({ "description": "x" })).await.is(200).raw,
        gateway.log_text(),
    ];
    for text in seen {
        assert!(!text.contains("whsec_") && !text.contains("\"secret\""), "{text}");
        assert!([&first, &fourth].iter().all(|secret| !text.contains(&BASE64.encode(secret))));
    }
}

/// The body may be left out.
#[tokio::test]
async fn a_secret_is_rotated_without_a_body_too() {
    let stage = Stage::new("hooks-rotate").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let id = user.registers().await;
    let rotated = user.post_text(&format!("/api/webhooks/{id}/rotate-secret"), &[], "").await;
    assert_eq!(shown(&rotated.is(200)), stage.secrets(&id).await.0);
}

#[tokio::test]
async fn an_owner_has_fifty_endpoints_and_never_one_more() {
    let stage = Stage::new("hooks-limit").await;
    let (a, b) = tokio::join!(stage.gateway(), stage.gateway());
    let user = User::new(&a);
    plant_endpoints(&stage, user.id, 45).await;

    let asks = (0..20).map(|turn| {
        let user = user.at([&a, &b][turn % 2]);
        async move { user.registers_for(&["*"]).await }
    });
    let answers = at_once(asks).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 201);
    assert_eq!(made.len(), 5);
    for answer in refused {
        assert_eq!((answer.status, answer.code()), (422, "LIMIT_REACHED"), "{}", answer.raw);
    }
    let endpoints = "select count(*) from webhook_endpoints where kind = 'endpoint'";
    assert_eq!(stage.number(endpoints).await, 50);

    // The limit is the owner's own, and a place that is given back can be taken.
    User::new(&a).registers().await;
    user.delete(&format!("/api/webhooks/{}", made[0].text("id"))).await.is(204);
    user.registers().await;

    let mut seen = Vec::new();
    let mut path = "/api/webhooks?limit=20".to_owned();
    loop {
        let page = user.get(&path).await.is(200);
        seen.extend(each(&page.body["endpoints"], "id").into_iter().map(str::to_owned));
        match page.text("nextCursor") {
            "" => break,
            cursor => path = format!("/api/webhooks?limit=20&cursor={cursor}"),
        }
    }
    assert_eq!(seen.len(), 52); // with the two targets of callbacks
    assert!(seen.is_sorted_by(|a, b| a < b));
}

/// Endpoints of a user, and two targets of callbacks, which do not count.
async fn plant_endpoints(stage: &Stage, user: Uuid, many: i64) {
    let mut database = stage.database().await;
    for number in 0..many + 2 {
        let is_callback = number >= many;
        sqlx::query(
            "insert into webhook_endpoints (id, kind, owner, calendar_id, url, event_types, secret)
             values ($1, $2, $3, $4, $5, $6, '\\x00')",
        )
        .bind(Uuid::now_v7())
        .bind(if is_callback { "callback" } else { "endpoint" })
        .bind(user.to_string())
        .bind(Some(user).filter(|_| !is_callback))
        .bind(format!("https://example{number}.org"))
        .bind(if is_callback { vec![] } else { vec!["*"] })
        .execute(&mut database)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn the_target_of_a_callback_is_shown_and_mended_but_not_moved() {
    let stage = Stage::new("hooks-callback").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let mut body = user.slot(0, 30);
    body["callbackUrl"] = json!("https://example.org:443/booked?by=me");
    user.books_with_key("one", body).await.is(202);

    let listed = user.get("/api/webhooks").await.is(200).body["endpoints"][0].clone();
    assert_eq!(
        (&listed["kind"], &listed["url"], &listed["eventTypes"]),
        (&json!("callback"), &json!("https://example.org"), &json!([]))
    );
    let id = listed["id"].as_str().unwrap();
    let path = format!("/api/webhooks/{id}");
    assert_eq!(user.get(&path).await.is(200).body, listed);
    let moved = json!({ "url": URL, "eventTypes": ["*"], "description": "x" });
    for moved in [moved, json!({ "url": URL }), json!({ "eventTypes": ["*"] })] {
        assert_eq!(user.patch(&path, moved).await.is(409).code(), "INVALID_STATE");
    }
    assert_eq!(user.get(&path).await.is(200).body, listed);

    let changed = json!({ "enabled": false, "description": "ours" });
    let changed = user.patch(&path, changed).await.is(200);
    assert_eq!((changed.text("description"), &changed.body["enabled"]), ("ours", &json!(false)));
    user.patch(&path, json!({ "enabled": true })).await.is(200);
    let rotated = user.post(&format!("{path}/rotate-secret"), &[], json!({})).await.is(200);
    assert_eq!(shown(&rotated), stage.secrets(id).await.0);
    let untested = user.post(&format!("{path}/test"), &[], json!({})).await.is(409);
    assert_eq!(untested.code(), "INVALID_STATE");

    let delivery = plant(&stage, id, 1, "booking.confirmed", Fate::Exhausted).await;
    user.post(&format!("{path}/deliveries/{delivery}/redeliver"), &[], json!({})).await.is(202);
    assert_eq!(queue_of(&stage, id).await, [(uuid(&delivery), true)]);
    user.delete(&path).await.is(204);
}
