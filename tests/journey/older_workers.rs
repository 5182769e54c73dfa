//! In the middle of an upgrade: this release's gateways beside workers, or a schema, of another one.
//! `make upgrade` shows the same with a real build of the previous release.

use booking::store;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::queue_door::{Letter, Service};
use crate::stage::{Stage, User, until};

const WAITS: &str = "booking_submissions_held";

/// A worker of the first release gives up what it cannot read; its name has no format.
async fn an_older_worker_owns_a_partition(stage: &Stage) {
    sqlx::query("update partitions set owner = $1 where id = 0")
        .bind(Uuid::now_v7().to_string())
        .execute(&mut stage.database().await)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_an_older_worker_would_give_up_waits_until_it_has_left() {
    let stage = Stage::new("older").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let with_callback = |start| {
        let mut body = user.slot(start, start + 30);
        body["callbackUrl"] = json!("https://example.org/booked");
        body
    };
    let before = user.books_with_key("before", with_callback(0)).await.is(202);

    an_older_worker_owns_a_partition(&stage).await;
    let mut unseen: i64 = 0; // accepted in the second before the gateway looked again
    until("the gateway has seen it", async || {
        let tried = user.books_with_key(&format!("after-{unseen}"), with_callback(60)).await;
        unseen += 1;
        tried.status == 503
    })
    .await;
    let refused = user.books_with_key("later", with_callback(120)).await.is(503);
    assert_eq!(refused.code(), "DEPENDENCY_UNAVAILABLE");
    assert!(refused.text("detail").contains("the last worker of the release before"));
    assert!(!refused.header("Retry-After").is_empty());
    let endpoint = json!({ "url": "https://example.org/hook", "eventTypes": ["*"] });
    user.post("/api/webhooks", &[], endpoint.clone()).await.is(503);
    let replay = user.books_with_key("before", with_callback(0)).await.is(202);
    assert_eq!(replay.text("commandId"), before.text("commandId"));
    user.books(180, 210).await.is(202);
    let service = Service::at(&stage).await;
    let id = service.submits(&Letter::create(user.id, 240, 270)).await;
    service.sends(&Letter::create(user.id, 300, 330)).await; // wants no answer: an older one reads it
    until("one message is held, the other not", async || {
        let accepted = stage.number("select count(*) from commands").await;
        gateway.metric(WAITS).await == 1.0 && accepted == 3 + unseen - 1
    })
    .await;

    let _worker = stage.worker().await; // takes all partitions
    assert_eq!(service.is_decided(&id).await["status"], "succeeded");
    let later = user.books_with_key("later", with_callback(120)).await.is(202);
    assert_eq!(user.polls(&later).await.text("status"), "succeeded");
    user.post("/api/webhooks", &[], endpoint).await.is(201);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_schema_of_a_newer_release_is_left_as_it_is() {
    let stage = Stage::new("newer").await;
    let newer = "insert into _sqlx_migrations
                   (version, description, success, checksum, execution_time)
                 values (9999, 'of a release to come', true, '\\x00', 0)";
    sqlx::raw_sql(newer).execute(&mut stage.database().await).await.unwrap();
    store::migrate(&stage.database_url, stage.partitions).await.unwrap();
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway);
    let decided: Value = user.polls(&user.books(0, 30).await.is(202)).await.body;
    assert_eq!(decided["status"], "succeeded", "{decided:#}");
}
