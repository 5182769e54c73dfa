//! What went wrong with retries and with callers in the first version of this system, and must
//! not again: idempotency keys, other people's bookings, correlation.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cast::{Cast, at_once};
use crate::stage::{Answer, Stage, User, at, until};

const REPLAYED: &str = "idempotency-replayed";

/// B10: of two requests with one key at the same time, the second was told of a conflict.
#[tokio::test]
async fn twenty_requests_with_one_key_at_once_are_one_command() {
    let stage = Stage::new("one-key").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user();

    for round in 0..5 {
        let key = format!("key-{round}");
        let asks = (0..20).map(|turn| {
            let (user, key) = (cast.in_turn(&user, turn), key.clone());
            async move { user.books_with_key(&key, user.slot(60 * round, 60 * round + 30)).await }
        });
        let answers = at_once(asks).await;
        assert!(answers.iter().all(|answer| answer.status == 202 && answer.raw == answers[0].raw));
        let firsts = answers.iter().filter(|answer| answer.header(REPLAYED).is_empty());
        assert_eq!(firsts.count(), 1);
        assert_eq!(user.polls(&answers[0]).await.text("status"), "succeeded");
    }
    assert_eq!(stage.number("select count(*) from commands").await, 5);
    stage.all_promises_hold().await;
}

/// B15: keys were global, so that a second caller got the first one's booking.
#[tokio::test]
async fn a_key_belongs_to_its_caller() {
    let stage = Stage::new("scope").await;
    let cast = Cast::of(&stage).await;
    let (one, other) = (cast.user().who_waits(), cast.user().who_waits());

    let mut ids = Vec::new();
    for user in [&one, &other] {
        let booked = user.books_with_key("same", user.slot(0, 30)).await.is(201);
        assert_eq!(booked.header(REPLAYED), "");
        assert_eq!(booked.text("userId"), user.id.to_string());
        ids.push(booked.text("id").to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    for (user, id) in [(&one, &ids[0]), (&other, &ids[1])] {
        let again = user.books_with_key("same", user.slot(0, 30)).await.is(201);
        assert_eq!((again.text("id"), again.header(REPLAYED)), (id.as_str(), "true"));
    }
    stage.all_promises_hold().await;
}

/// B16: the same key with another body was answered as if it were the first.
#[tokio::test]
async fn other_content_under_a_used_key_is_refused() {
    let stage = Stage::new("fingerprint").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let key = [("Idempotency-Key", "used")];
    let with = |metadata: Value| json!({ "userId": user.id, "startTime": at(0), "endTime": at(30), "metadata": metadata });
    let booked = user.post("/api/bookings", &key, with(json!({ "room": "A" }))).await.is(201);
    let path = |change: &str| format!("/api/bookings/{}/{change}", booked.text("id"));
    let before = stage.record(booked.text("id")).await;

    let new_time = json!({ "startTime": at(60), "endTime": at(90) });
    let elsewhere = cast.in_turn(&user, 1);
    let refused = [
        user.post("/api/bookings", &key, user.slot(60, 90)).await,
        elsewhere.post("/api/bookings", &key, user.slot(0, 31)).await,
        elsewhere.post("/api/bookings", &key, with(json!({ "room": "B" }))).await,
        user.post("/api/bookings", &key, with(json!({}))).await,
        user.post(&path("cancel"), &key, json!({})).await,
        elsewhere.post(&path("reschedule"), &key, new_time).await,
    ];
    for answer in refused {
        assert_eq!(answer.is(422).code(), "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(stage.number("select count(*) from commands").await, 1);
    assert_eq!(stage.record(booked.text("id")).await, before);
    stage.all_promises_hold().await;
}

/// B16: what counts is what was asked, not how it was written.
#[tokio::test]
async fn equal_content_in_another_form_is_a_replay() {
    let stage = Stage::new("form").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user();
    let (id, key) = (user.id, [("Idempotency-Key", "form")]);
    let forms = [
        format!(
            r#"{{"userId":"{id}","startTime":"2033-01-01T10:00:00Z","endTime":"2033-01-01T11:00:00Z","metadata":{{"b":1,"a":"x"}}}}"#
        ),
        format!(
            r#"{{ "metadata": {{"a":"\u0078", "b":1}}, "endTime": "2033-01-01T12:00:00.000+01:00",
                 "startTime": "2033-01-01T11:00:00+01:00", "userId": "{id}" }}"#
        ),
        format!(
            r#"{{"endTime":"2033-01-01T05:30:00-05:30","userId":"{id}","metadata":{{"a":"x","b":1}},"startTime":"2033-01-01T10:00:00.000000Z"}}"#
        ),
    ];
    let first = user.post_text("/api/bookings", &key, &forms[0]).await.is(202);
    user.polls(&first).await;
    for (turn, form) in forms.iter().enumerate() {
        let again = cast.in_turn(&user, turn).post_text("/api/bookings", &key, form).await.is(202);
        assert_eq!((again.header(REPLAYED), &again.raw), ("true", &first.raw), "{form}");
    }
    assert_eq!(stage.number("select count(*) from commands").await, 1);
    stage.all_promises_hold().await;
}

/// B17: whoever retried after the booking had begun was told that it lies in the past.
#[tokio::test]
async fn a_late_retry_gets_the_first_answer() {
    let stage = Stage::new("late").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user();
    let start = Utc::now() + TimeDelta::seconds(6);
    let slot =
        |end: DateTime<Utc>| json!({ "userId": user.id, "startTime": start, "endTime": end });
    let body = slot(start + TimeDelta::minutes(30));

    let first = user.books_with_key("late", body.clone()).await.is(202);
    assert_eq!(user.polls(&first).await.text("status"), "succeeded");
    until("the booking has begun", async || Utc::now() > start).await;
    for turn in 0..2 {
        let user = cast.in_turn(&user, turn);
        let again = user.books_with_key("late", body.clone()).await.is(202);
        assert_eq!((again.header(REPLAYED), &again.raw), ("true", &first.raw));
        let fresh = user.books_with_key("fresh", body.clone()).await.is(422);
        assert_eq!(
            (fresh.code(), fresh.body["errors"][0]["field"].clone()),
            ("INVALID_TIME", "startTime".into())
        );
        let other = user.books_with_key("late", slot(start + TimeDelta::minutes(31))).await.is(422);
        assert_eq!(other.code(), "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(stage.number("select count(*) from commands").await, 1);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_replay_that_waits_gets_the_decision() {
    let stage = Stage::new("replay-waits").await;
    let gateways = [stage.gateway().await, stage.gateway().await];
    let user = User::new(&gateways[0]);
    let waiting = user.at(&gateways[1]).who_waits();
    let books = async |user: &User, key: &str| user.books_with_key(key, user.slot(0, 30)).await;

    let first = books(&user, "won").await.is(202); // nobody decides yet
    let asked = tokio::spawn({
        let user = waiting.clone();
        async move { user.books_with_key("won", user.slot(0, 30)).await }
    });
    let _worker = stage.worker().await;
    let decided = asked.await.unwrap().is(201);
    assert_eq!((decided.header(REPLAYED), decided.text("id")), ("true", first.text("bookingId")));

    user.polls(&books(&user, "lost").await.is(202)).await;
    for user in [&waiting, &user.who_waits()] {
        let won = books(user, "won").await.is(201);
        assert_eq!(
            (won.header(REPLAYED), won.header("etag"), &won.raw),
            ("true", "\"1\"", &decided.raw)
        );
        let lost = books(user, "lost").await.is(409);
        assert_eq!((lost.header(REPLAYED), lost.code()), ("true", "SLOT_CONFLICT"));
        assert_eq!(lost.header("content-type"), "application/problem+json");
    }
    assert_eq!(books(&user, "won").await.is(202).raw, first.raw); // who does not wait is not told
    stage.all_promises_hold().await;
}

/// B15 and B20: another's booking looks like one that never was.
#[tokio::test]
async fn the_bookings_of_others_are_out_of_reach() {
    let stage = Stage::new("strangers").await;
    let cast = Cast::of(&stage).await;
    let (owner, stranger) = (cast.user(), cast.user());
    let command = owner.books(0, 30).await.is(202);
    owner.polls(&command).await;
    let booking = command.text("bookingId");
    let before = stage.record(booking).await;

    let never = Uuid::now_v7().to_string();
    for id in [booking, never.as_str()] {
        let unknown = stranger.get(&format!("/api/bookings/{id}")).await.is(404);
        let cancelled = stranger.polls(&stranger.cancels(id).await.is(202)).await;
        let moved = stranger.polls(&stranger.reschedules(id, 60, 90).await.is(202)).await;
        for decided in [&cancelled, &moved] {
            assert_eq!((decided.text("status"), decided.code()), ("rejected", "NOT_FOUND"));
            assert!(decided.body["booking"].is_null());
            assert_eq!(decided.body["error"]["detail"], unknown.body["detail"]);
        }
        assert_eq!(stranger.who_waits().cancels(id).await.is(404).code(), "NOT_FOUND");
    }
    let path = format!("/api/commands/{}", command.text("commandId"));
    assert_eq!(stranger.get(&path).await.is(404).code(), "NOT_FOUND");
    assert_eq!(stranger.who_waits().get(&path).await.is(404).code(), "NOT_FOUND");
    assert_eq!(stage.record(booking).await, before);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn the_correlation_id_is_found_wherever_the_request_went() {
    let stage = Stage::new("correlation").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user();
    let asks = async |name: &str, start: i64, end: i64| {
        let headers = [("X-Correlation-ID", name), ("Idempotency-Key", name)];
        user.post("/api/bookings", &headers, user.slot(start, end)).await
    };
    let shown = |answer: &Answer| answer.header("x-correlation-id").to_owned();

    let booked = asks("booked", 0, 30).await.is(202);
    assert_eq!(shown(&booked), "booked");
    user.polls(&booked).await;
    let record = stage.record(booked.text("bookingId")).await;
    assert_eq!(record["audit"][0]["correlation_id"], "booked");

    let taken = user.polls(&asks("taken", 0, 30).await.is(202)).await;
    assert_eq!(taken.body["error"]["correlationId"], "taken");
    let refused = asks("refused", 30, 0).await.is(422);
    assert_eq!((shown(&refused), refused.text("correlationId")), ("refused".into(), "refused"));
    let made = user.books(60, 60).await.is(422); // who brings none is given one
    assert!(!shown(&made).is_empty());
    assert_eq!(shown(&made), made.text("correlationId"));
    stage.all_promises_hold().await;
}
