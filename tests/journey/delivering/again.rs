//! Processes that deliver and die, freeze, come and go: repeated perhaps, never lost.

use std::collections::HashSet;

use super::webhooks;
use crate::receiver::{Receiver, fast};
use crate::stage::{Process, Stage, User, until};

const OWNED: &str = "booking_webhook_shards_owned";

#[tokio::test]
async fn what_was_sent_and_not_recorded_is_sent_again_by_the_next() {
    let stage = Stage::new("webhook-dies").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let mut doomed = webhooks(&stage, &[("BOOKING_FAILPOINTS", "webhook.sent=kill@3")]).await;
    let (user, receiver) = (User::new(&gateway).who_waits(), Receiver::start(fast).await);
    let endpoint = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    for start in 0..10 {
        user.books(start * 30, start * 30 + 30).await.is(201);
    }
    doomed.ended().await;
    let (sent, before) = (receiver.count(), stage.deliveries(endpoint.id).await);
    assert!(sent >= 3 && before.0 > 0, "{sent} sent, {before:?}");

    let _next = webhooks(&stage, &[]).await;
    stage.nothing_waits_for(endpoint.id).await;
    assert_eq!(stage.deliveries(endpoint.id).await, (0, 10, 0));
    let posts = receiver.posts();
    let ids: HashSet<&str> = posts.iter().map(|post| post.id()).collect();
    assert_eq!(ids.len(), 10);
    assert!(posts.len() > 10, "some came twice, and are known by their id");
}

#[tokio::test]
async fn processes_share_the_targets_and_take_over_from_each_other() {
    let stage = Stage::new("webhook-shards").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();
    let receiver = Receiver::start(fast).await;
    let mut endpoints = Vec::new();
    for _ in 0..40 {
        endpoints.push(stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await);
    }
    let mut first = webhooks(&stage, &[]).await;
    own(&[&first], &[32]).await;
    let second = webhooks(&stage, &[]).await;
    own(&[&first, &second], &[16, 16]).await;
    user.books(0, 30).await.is(201);
    receiver.hears(40).await;
    for process in [&first, &second] {
        let tried = "booking_webhook_attempts_total";
        until("both deliver", async || process.metric(tried).await > 0.0).await;
    }
    // What is heard and not yet recorded would be delivered again.
    for endpoint in &endpoints {
        stage.nothing_waits_for(endpoint.id).await;
    }
    // One that stands still loses its shards, and its connection with them.
    second.freeze().await;
    own(&[&first], &[32]).await;
    user.books(60, 90).await.is(201);
    receiver.hears(80).await;
    second.thaw().await;
    own(&[&first, &second], &[16, 16]).await;
    // One that leaves gives them back at once, and ends well.
    assert!(first.terminate().await.success());
    own(&[&second], &[32]).await;
    user.books(120, 150).await.is(201);
    receiver.hears(120).await;
    for endpoint in &endpoints {
        stage.nothing_waits_for(endpoint.id).await;
        assert_eq!(stage.deliveries(endpoint.id).await, (0, 3, 0));
    }
    assert_eq!(receiver.count(), 120, "each once: nobody died with something under way");
}

/// Waits until each of the processes owns so many shards.
async fn own(processes: &[&Process], shards: &[u32]) {
    until("the shards are shared", async || {
        for (process, shards) in std::iter::zip(processes, shards) {
            if process.metric(OWNED).await != f64::from(*shards) {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test]
async fn a_stop_waits_for_what_is_under_way() {
    let stage = Stage::new("webhook-stops").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let slow: crate::receiver::Manner = |_| crate::receiver::Reply {
        after: std::time::Duration::from_secs(1),
        head: "204 No Content",
    };
    let receiver = Receiver::start(slow).await;
    let user = User::new(&gateway).who_waits();
    let mut leaving = webhooks(&stage, &[]).await;
    let endpoint = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    for start in 0..20 {
        user.books(start * 30, start * 30 + 30).await.is(201);
    }
    until("some are under way", async || receiver.busiest() > 0).await;
    assert!(leaving.terminate().await.success());
    let (waiting, arrived, given_up) = stage.deliveries(endpoint.id).await;
    assert!(arrived > 0 && waiting > 0 && given_up == 0, "{waiting} {arrived} {given_up}");
    assert_eq!(
        usize::try_from(arrived).unwrap(),
        receiver.count(),
        "all that was sent is recorded"
    );
    let _next = webhooks(&stage, &[]).await;
    stage.nothing_waits_for(endpoint.id).await;
    assert_eq!(receiver.count(), 20, "each once");
}
