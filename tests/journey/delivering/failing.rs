//! Receivers that do not take what they get: retries, an end to them, and nobody else who waits.

use std::time::Duration;

use booking::queue::EVENTS_EXCHANGE;

use super::webhooks;
use crate::listener::Listener;
use crate::receiver::{Receiver, Reply, at_once, fast};
use crate::stage::{Stage, User, until};

#[tokio::test]
async fn a_delivery_is_tried_until_it_arrives() {
    let stage = Stage::new("webhook-retries").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let _webhooks = webhooks(&stage, &[]).await;
    let user = User::new(&gateway).who_waits();
    let answers: fn(usize) -> Reply = |turn| match turn {
        0 => at_once("500 Internal Server Error"),
        1 => at_once("302 Found\r\nLocation: http://127.0.0.1:1/"),
        _ => at_once("201 Created"),
    };
    let receiver = Receiver::start(answers).await;
    let endpoint = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    user.books(0, 30).await.is(201);

    let posts = receiver.hears(3).await;
    assert!(posts.iter().all(|post| post.id() == posts[0].id() && post.body == posts[0].body));
    stage.nothing_waits_for(endpoint.id).await;
    let outcomes = stage.outcomes(endpoint.id).await;
    let seen: Vec<_> = outcomes.iter().map(|(what, status, _)| (what.as_str(), *status)).collect();
    assert_eq!(seen, [("refused", Some(500)), ("refused", Some(302)), ("delivered", Some(201))]);
    assert_eq!(stage.state_of(endpoint.id).await, (true, None, false));
}

#[tokio::test]
async fn a_delivery_that_never_arrives_is_exhausted_and_its_endpoint_is_known_to_fail() {
    let stage = Stage::new("webhook-exhausted").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let _webhooks = webhooks(&stage, &[("WEBHOOK_RETRY_SCHEDULE", "1,1")]).await;
    let user = User::new(&gateway).who_waits();
    let receiver = Receiver::start(|_| at_once("503 Service Unavailable")).await;
    let endpoint = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    user.books(0, 30).await.is(201);

    receiver.hears(1).await;
    until("it fails", async || stage.state_of(endpoint.id).await.2).await;
    until("it is given up", async || stage.deliveries(endpoint.id).await == (0, 0, 1)).await;
    assert_eq!(receiver.count(), 3, "tried once and twice again");
    assert!(stage.state_of(endpoint.id).await.0, "three failures disable nothing");
}

/// Another receiver's schedule has run out by then.
#[tokio::test]
async fn a_receiver_that_asks_for_a_wait_is_given_it() {
    let stage = Stage::new("webhook-retry-after").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let _webhooks = webhooks(&stage, &[]).await;
    let user = User::new(&gateway).who_waits();
    let patient = Receiver::start(|_| at_once("429 Too Many\r\nRetry-After: 3600")).await;
    let plain = Receiver::start(|_| at_once("429 Too Many")).await;
    let waits = stage.endpoint(Some(user.id), &patient.url(), &["*"]).await;
    let ends = stage.endpoint(Some(user.id), &plain.url(), &["*"]).await;
    user.books(0, 30).await.is(201);
    until("the other is exhausted", async || stage.deliveries(ends.id).await == (0, 0, 1)).await;
    assert_eq!((plain.count(), patient.count()), (4, 1));
    assert_eq!(stage.deliveries(waits.id).await, (1, 0, 0));
    let wait: f64 = sqlx::query_scalar(
        "select extract(epoch from due_at - now())::float8 from webhook_queue where target_id = $1",
    )
    .bind(waits.id)
    .fetch_one(&mut stage.database().await)
    .await
    .unwrap();
    assert!((3000.0..3700.0).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_told_nothing_more_and_subscribers_hear_of_it() {
    let stage = Stage::new("webhook-gone").await;
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["webhook.*".to_owned()]).await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();
    let receiver = Receiver::start(|_| at_once("410 Gone")).await;
    let endpoint = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    for start in 0..40 {
        user.books(start * 30, start * 30 + 30).await.is(201);
    }
    let webhooks = webhooks(&stage, &[]).await; // all of them wait

    until("it is disabled", async || !stage.state_of(endpoint.id).await.0).await;
    let (_, reason, _) = stage.state_of(endpoint.id).await;
    assert!(reason.unwrap().contains("410"));
    stage.nothing_waits_for(endpoint.id).await;
    assert_eq!(stage.deliveries(endpoint.id).await, (0, 0, 40));
    assert!(receiver.count() <= 8, "only what was under way: {}", receiver.count());
    let told = &events.hears(1).await[0];
    assert_eq!(told["type"], "webhook.disabled");
    assert_eq!(told["data"]["endpoint"]["id"], endpoint.id.to_string());
    assert!(webhooks.metric("booking_webhook_endpoints_disabled_total").await >= 1.0);
    // What is decided from now on is no delivery of its any more.
    user.books(3000, 3030).await.is(201);
    assert_eq!(stage.deliveries(endpoint.id).await, (0, 0, 40));
}

#[tokio::test]
async fn an_endpoint_that_fails_too_long_is_disabled_and_one_that_is_back_in_time_is_not() {
    let stage = Stage::new("webhook-span").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let settings =
        [("WEBHOOK_DISABLE_AFTER", "3"), ("WEBHOOK_RETRY_SCHEDULE", "1,1,1,1,1,1,1,1,1,1,1,1,1")];
    let _webhooks = webhooks(&stage, &settings).await;
    let user = User::new(&gateway).who_waits();
    let dead = Receiver::start(|_| at_once("500 Internal Server Error")).await;
    // Refuses every other request, for longer than the span.
    let moody: fn(usize) -> Reply =
        |turn| at_once(if turn % 2 == 0 { "500 Internal Server Error" } else { "204 No Content" });
    let moody = Receiver::start(moody).await;
    let fails = stage.endpoint(Some(user.id), &dead.url(), &["*"]).await;
    let recovers = stage.endpoint(Some(user.id), &moody.url(), &["*"]).await;
    let mut start = 0;
    until("it is disabled", async || {
        user.books(start, start + 10).await.is(201);
        start += 10;
        !stage.state_of(fails.id).await.0
    })
    .await;
    let (_, reason, _) = stage.state_of(fails.id).await;
    assert!(reason.unwrap().starts_with("No delivery has arrived since 2"));
    stage.nothing_waits_for(recovers.id).await;
    assert_eq!(stage.state_of(recovers.id).await, (true, None, false));
}

/// The circuit of a dead receiver opens, and its deliveries keep their attempts.
#[tokio::test]
async fn a_dead_receiver_delays_nobody_and_uses_up_no_attempts() {
    let stage = Stage::new("webhook-circuit").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();
    let hangs: fn(usize) -> Reply =
        |_| Reply { after: Duration::from_secs(60), head: "204 No Content" };
    let (hangs, live) = (Receiver::start(hangs).await, Receiver::start(fast).await);
    // Nobody listens on the port of a socket that was closed.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = stage.endpoint(Some(user.id), &format!("http://{closed}/"), &["*"]).await;
    let hanging = stage.endpoint(Some(user.id), &hangs.url(), &["*"]).await;
    let alive = stage.endpoint(Some(user.id), &live.url(), &["*"]).await;
    for start in 0..100 {
        user.books(start * 30, start * 30 + 30).await.is(201);
    }
    let webhooks = webhooks(&stage, &[]).await;

    live.hears(100).await;
    stage.nothing_waits_for(alive.id).await;
    assert_eq!(stage.deliveries(alive.id).await, (0, 100, 0));
    until("the circuit opens", async || {
        webhooks.metric("booking_webhook_circuits_open").await > 0.0
    })
    .await;
    assert_eq!(stage.deliveries(dead.id).await, (100, 0, 0));
    let tried = stage.outcomes(dead.id).await;
    assert!(tried.len() < 60, "{} attempts", tried.len());
    assert!(tried.iter().all(|(_, _, why)| why.as_deref() == Some("connection refused")));
    assert_eq!(stage.deliveries(hanging.id).await.0, 100);
    assert!(hangs.busiest() <= 4, "it has not answered once: {}", hangs.busiest());
}

#[tokio::test]
async fn addresses_of_this_machine_are_refused_at_the_attempt_unless_the_setting_allows_them() {
    let stage = Stage::new("webhook-forbidden").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let mut strict = stage.start("webhooks", &[("WEBHOOK_RETRY_SCHEDULE", "1")]).await;
    let (user, receiver) = (User::new(&gateway).who_waits(), Receiver::start(fast).await);
    let port = receiver.url();
    let secret = port.replace("http:", "https:").replace("127.0.0.1", "localhost");
    let plain = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    let named = stage.endpoint(Some(user.id), &secret, &["*"]).await;
    user.books(0, 30).await.is(201);
    for endpoint in [&plain, &named] {
        until("it is given up", async || stage.deliveries(endpoint.id).await == (0, 0, 1)).await;
        let tried = stage.outcomes(endpoint.id).await;
        assert!(tried.iter().all(|(what, status, why)| {
            what == "forbidden" && status.is_none() && why.as_ref().is_some_and(|w| !w.is_empty())
        }));
        assert_eq!(tried.len(), 2);
    }
    assert_eq!(receiver.count(), 0);
    assert!(strict.terminate().await.success());
    let open = webhooks(&stage, &[]).await;
    let warned = open.log_lines().into_iter().any(|line| {
        line["level"] == "WARN"
            && line["message"].as_str().is_some_and(|m| m.contains("WEBHOOK_ALLOW_INSECURE"))
    });
    assert!(warned, "the setting is named in the log");
    user.books(60, 90).await.is(201);
    receiver.hears(1).await;
}
