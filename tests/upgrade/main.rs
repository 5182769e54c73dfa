//! Two releases at work together: an upgrade, and the way back, without a failed request.
//!
//! The binary of the previous release (`BOOKING_PREVIOUS`, see `build`) and that of this one share
//! PostgreSQL, RabbitMQ and Redis, while clients book, move, cancel, collide and repeat without a
//! pause ([`load`]). `make upgrade` runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

/// Virtual hosts of RabbitMQ; the stage takes one.
const VHOSTS: u16 = 1;

// The journey's stage; not everything of it has a part here.
#[allow(dead_code)]
#[path = "../journey/receiver.rs"]
mod receiver;
#[allow(dead_code)]
#[path = "../journey/secured.rs"]
mod secured;
#[allow(dead_code)]
#[path = "../journey/servers.rs"]
mod servers;
#[allow(dead_code)]
#[path = "../journey/queue_door/service.rs"]
mod service;
#[allow(dead_code, unused_imports)]
#[path = "../journey/stage.rs"]
mod stage;
#[allow(dead_code)]
#[path = "../journey/user.rs"]
mod user;

mod fleet;
mod load;

use std::time::Instant;

use serde_json::json;
use sqlx::Connection as _;

use fleet::{Fleet, Release};
use load::Load;
use receiver::{Receiver, fast};
use service::{Letter, Service};
use stage::{User, until};

/// Answers that a phase waits for, so that each part of the system has had its share.
const A_WHILE: usize = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_and_the_way_back_fail_no_request() {
    let begun = Instant::now();
    let phase = |name: &str| println!("{:6.1} s  {name}", begun.elapsed().as_secs_f64());
    let mut fleet = Fleet::new().await;
    phase("the previous release starts");
    fleet.migrates(Release::Previous).await;
    fleet.add_workers(Release::Previous, 2).await;
    fleet.add_gateways(Release::Previous, 2).await;
    let load = Load::start(fleet.balancer.clone());
    load.is_answered(A_WHILE).await;

    phase("this release migrates, and joins");
    migrates_beside_a_backup(&mut fleet, &load).await;
    fleet.add_workers(Release::This, 2).await;
    fleet.add_gateways(Release::This, 2).await;
    phase("both releases serve and decide");
    load.is_answered(2 * A_WHILE).await;
    let held = what_older_workers_cannot_keep_is_not_promised(&fleet).await;

    phase("the previous release alone again");
    // The way back: doors first, so that nothing new is accepted when older workers decide alone.
    fleet.stop_gateways(Release::This).await;
    fleet.add_workers(Release::Previous, 1).await; // starts on the newer schema
    fleet.stop_workers(Release::This).await;
    fleet.add_gateways(Release::Previous, 1).await;
    load.is_answered(A_WHILE).await;

    phase("new workers, then new gateways");
    // And there again, in the order that makes everything new usable at once.
    fleet.add_workers(Release::This, 2).await;
    load.is_answered(A_WHILE).await;
    fleet.stop_workers(Release::Previous).await;
    fleet.add_gateways(Release::This, 2).await;
    fleet.add_webhooks().await;
    load.is_answered(2 * A_WHILE).await;
    phase("what is new is used");
    everything_new_works(&fleet, held).await;
    fleet.stop_gateways(Release::Previous).await;
    load.is_answered(A_WHILE).await;

    phase("this release alone");
    let report = load.end().await;
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert_eq!(report.replayed_across.len(), 2, "both ways: {report}");
    nothing_is_lost(&fleet, &report).await;
    fleet.ends_well().await;
    phase("done");
}

/// Migrates while a transaction has read every table and goes on, as a backup's does. Everybody
/// works meanwhile.
async fn migrates_beside_a_backup(fleet: &mut Fleet, load: &Load) {
    let mut database = fleet.stage.database().await;
    let mut backup = database.begin().await.unwrap();
    sqlx::raw_sql("select from commands, outbox limit 1").execute(&mut *backup).await.unwrap();
    let mut migrating = fleet.spawn(Release::This, "migrate");
    until("the migration waits for a table", async || {
        let waiting = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
                       where c.relname = 'outbox' and l.mode = 'AccessExclusiveLock'";
        fleet.stage.number(waiting).await > 0
    })
    .await;
    load.is_answered(A_WHILE).await;
    backup.rollback().await.unwrap();
    assert!(migrating.ended().await.success(), "{}", migrating.log_text());
    load.is_answered(A_WHILE).await;
}

/// A message that was held because an older worker would have given its command up.
struct Held {
    service: Service,
    id: String,
}

/// While an older worker decides, what only a newer one knows of is refused for the time being.
async fn what_older_workers_cannot_keep_is_not_promised(fleet: &Fleet) -> Held {
    let gateway = fleet.gateway(Release::This);
    let user = User::new(gateway);
    let receiver = Receiver::start(fast).await;
    let mut body = user.slot(0, 30);
    body["callbackUrl"] = json!(receiver.url());
    let refused = user.books_with_key("callback", body).await.is(503);
    assert!(refused.text("detail").contains("being upgraded"), "{:#}", refused.body);
    let endpoint = json!({ "url": receiver.url(), "eventTypes": ["*"] });
    user.post("/api/webhooks", &[], endpoint).await.is(503);

    let service = Service::at(&fleet.stage).await;
    let id = service.submits(&Letter::create(user.id, 0, 30)).await;
    until("the message is held", async || {
        fleet.metric(Release::This, "booking_submissions_held").await == 1.0
    })
    .await;
    Held { service, id }
}

/// Callbacks, endpoints and the queue door, while older gateways still serve.
async fn everything_new_works(fleet: &Fleet, held: Held) {
    let gateway = fleet.gateway(Release::This);
    let (user, receiver) = (User::new(gateway), Receiver::start(fast).await);
    let callback = Receiver::start(fast).await;
    let endpoint = json!({ "url": receiver.url(), "eventTypes": ["booking.*"] });
    until("an endpoint can be registered", async || {
        user.post("/api/webhooks", &[], endpoint.clone()).await.status == 201
    })
    .await;
    let mut body = user.slot(0, 30);
    body["callbackUrl"] = json!(callback.url());
    let accepted = user.books_with_key("callback", body).await.is(202);
    assert_eq!(user.polls(&accepted).await.text("status"), "succeeded");
    // What is accepted at an older door is told to the endpoint as well.
    let older = user.at(fleet.gateway(Release::Previous));
    older.books(30, 60).await.is(202);
    for posts in [receiver.hears(2).await, callback.hears(1).await] {
        assert!(posts.iter().all(|post| post.event()["type"] == "booking.confirmed"), "{posts:?}");
    }
    let decided = held.service.is_decided(&held.id).await;
    assert_eq!(decided["status"], "succeeded", "{decided:#}");
}

/// Each command that was answered 202 has its row and its final state, and nothing was given up.
async fn nothing_is_lost(fleet: &Fleet, report: &load::Report) {
    fleet.stage.everything_is_decided().await;
    fleet.stage.everything_is_relayed().await;
    let accepted: Vec<_> = report.accepted.iter().copied().collect();
    let found: i64 = sqlx::query_scalar(
        "select count(*) from commands where id = any($1) and status in ('succeeded', 'rejected')",
    )
    .bind(&accepted)
    .fetch_one(&mut fleet.stage.database().await)
    .await
    .unwrap();
    assert_eq!(usize::try_from(found).unwrap(), accepted.len(), "each accepted command is decided");
    assert_eq!(fleet.stage.number("select count(*) from dead_letters").await, 0);
    assert_eq!(
        fleet.stage.number("select count(*) from commands where status = 'failed'").await,
        0
    );
    fleet.stage.all_promises_hold().await;
}
