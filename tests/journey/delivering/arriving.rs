//! Who is told of what, and in which bytes.

use booking::queue::EVENTS_EXCHANGE;
use serde_json::json;
use uuid::Uuid;

use super::webhooks;
use crate::listener::Listener;
use crate::receiver::{Receiver, fast};
use crate::stage::{Stage, User, at};

#[tokio::test]
async fn an_event_arrives_signed_with_the_bytes_that_subscribers_see() {
    let stage = Stage::new("webhook-arrives").await;
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["#".to_owned()]).await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let _webhooks = webhooks(&stage, &[]).await;
    let (user, receiver) = (User::new(&gateway).who_waits(), Receiver::start(fast).await);
    let endpoint = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;

    let booking = user.books(0, 30).await.is(201).text("id").to_owned();
    user.reschedules(&booking, 60, 90).await.is(200);
    user.reschedules(&booking, 60, 90).await.is(200); // changes nothing: no event
    user.cancels(&booking).await.is(200);
    user.cancels(&booking).await.is(409);

    let posts = receiver.hears(4).await;
    let heard = events.hears(4).await;
    for event in &heard {
        let post = posts.iter().find(|post| event["id"] == post.id()).expect("each is delivered");
        assert_eq!(post.event(), *event);
        assert!(post.is_signed_with(&endpoint.secret));
        assert_eq!(post.headers["content-type"], "application/json");
    }
    let changes = heard.iter().filter(|event| event["subject"] == booking.as_str());
    let versions: Vec<_> = changes.map(|event| event["sequence"].clone()).collect();
    assert_eq!(versions, [json!("1"), json!("2"), json!("3"), json!(null)]);
    stage.nothing_waits_for(endpoint.id).await;
    assert_eq!(stage.deliveries(endpoint.id).await, (0, 4, 0));
    assert_eq!(receiver.count(), 4, "each once");
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn an_endpoint_hears_its_own_calendar_and_the_types_it_asked_for() {
    let stage = Stage::new("webhook-filter").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let _webhooks = webhooks(&stage, &[]).await;
    let one = User::new(&gateway).who_waits();
    let other = User::new(&gateway).who_waits();
    let receiver = Receiver::start(fast).await;
    let all = stage.endpoint(None, &receiver.url(), &["*"]).await;
    let bookings = stage.endpoint(None, &receiver.url(), &["booking.*"]).await;
    let own = stage.endpoint(Some(one.id), &receiver.url(), &["booking.confirmed"]).await;
    let refusals = stage.endpoint(Some(one.id), &receiver.url(), &["command.*"]).await;
    let silent = stage.endpoint(Some(Uuid::now_v7()), &receiver.url(), &["*"]).await;

    for user in [&one, &other] {
        let booking = user.books(0, 30).await.is(201).text("id").to_owned();
        user.books(0, 30).await.is(409);
        user.cancels(&booking).await.is(200);
    }
    for (endpoint, heard) in [(&all, 6), (&bookings, 4), (&own, 1), (&refusals, 1), (&silent, 0)] {
        stage.nothing_waits_for(endpoint.id).await;
        assert_eq!(stage.deliveries(endpoint.id).await, (0, heard, 0));
    }
    assert_eq!(receiver.count(), 12);
}

#[tokio::test]
async fn a_callback_is_told_of_its_own_command_alone() {
    let stage = Stage::new("callback").await;
    let gateway = stage.start("gateway", &[("WEBHOOK_ALLOW_INSECURE", "true")]).await;
    gateway.is_ready().await;
    let _worker = stage.worker().await;
    let _webhooks = webhooks(&stage, &[]).await;
    let user = User::new(&gateway).who_waits();
    let receiver = Receiver::start(fast).await;
    let told = |path: &str| receiver.url().replace("/hook", path);
    // Another caller's callbacks go to the same origin, under a target of their own.
    let other = User::new(&gateway).who_waits();
    let mut theirs = other.slot(0, 30);
    theirs["callbackUrl"] = json!(told("/others"));
    other.books_with_key("other", theirs).await.is(201);
    receiver.hears(1).await;
    let with = |start: i64, path: &str| {
        let mut body = user.slot(start, start + 30);
        body["callbackUrl"] = json!(told(path));
        body
    };

    let booked = user.books_with_key("a", with(0, "/booked?of=1")).await.is(201);
    let id = booked.text("id").to_owned();
    user.books_with_key("b", with(0, "/refused")).await.is(409);
    user.books(60, 90).await.is(201); // asks for no callback
    let path = format!("/api/bookings/{id}/reschedule");
    let same = json!({ "startTime": at(0), "endTime": at(30), "callbackUrl": told("/same") });
    user.post(&path, &[], same).await.is(200);
    let cancel = format!("/api/bookings/{id}/cancel");
    user.post(&cancel, &[], json!({ "callbackUrl": told("/cancelled") })).await.is(200);

    let mut posts = receiver.hears(5).await;
    posts.retain(|post| post.path != "/others");
    posts.sort_by(|a, b| a.path.cmp(&b.path));
    let seen: Vec<(String, String)> = posts
        .iter()
        .map(|post| (post.path.clone(), post.event()["type"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("/booked?of=1", "booking.confirmed"),
        ("/cancelled", "booking.cancelled"),
        ("/refused", "command.rejected"),
        ("/same", "command.succeeded"),
    ];
    assert_eq!(seen, expected.map(|(path, event)| (path.to_owned(), event.to_owned())));
    assert_eq!(posts[3].event()["data"]["booking"]["id"], id.as_str());
    // One target for the origin, whose secret signs all of them.
    let target: (Uuid, Vec<u8>, String) =
        sqlx::query_as("select id, secret, url from webhook_endpoints where owner = $1")
            .bind(user.id.to_string())
            .fetch_one(&mut stage.database().await)
            .await
            .unwrap();
    let secret = booking::webhooks::signature::Secret::from_bytes(&target.1).unwrap();
    assert!(posts.iter().all(|post| post.is_signed_with(&secret)));
    assert_eq!(target.2, receiver.url().trim_end_matches("/hook"));
    stage.nothing_waits_for(target.0).await;
    assert_eq!(stage.deliveries(target.0).await, (0, 4, 0));
    assert_eq!(receiver.count(), 5);
    // The callback belongs to the content that a key stands for.
    user.books_with_key("a", with(0, "/another")).await.is(422);
}

#[tokio::test]
async fn while_a_secret_is_replaced_both_sign() {
    let stage = Stage::new("webhook-rotates").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let _webhooks = webhooks(&stage, &[]).await;
    let (user, receiver) = (User::new(&gateway).who_waits(), Receiver::start(fast).await);
    let endpoint = stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    let fresh = booking::webhooks::signature::Secret::generate().unwrap();
    for (turn, overlap) in [3600, -1].into_iter().enumerate() {
        sqlx::query(
            "update webhook_endpoints set previous_secret = $2, secret = $3,
               previous_secret_until = now() + make_interval(secs => $4)
             where id = $1",
        )
        .bind(endpoint.id)
        .bind(endpoint.secret.as_bytes())
        .bind(fresh.as_bytes())
        .bind(f64::from(overlap))
        .execute(&mut stage.database().await)
        .await
        .unwrap();
        let start = 60 * i64::try_from(turn).unwrap();
        user.books(start, start + 30).await.is(201);
        receiver.hears(turn + 1).await;
    }
    let posts = receiver.posts();
    assert!(posts.iter().all(|post| post.is_signed_with(&fresh)));
    assert!(posts[0].is_signed_with(&endpoint.secret));
    assert!(!posts[1].is_signed_with(&endpoint.secret));
}
