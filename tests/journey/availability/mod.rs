//! When calendars take bookings, and which of their times are free, as clients see it.

mod agreement;

use std::collections::BTreeSet;
use std::time::Instant;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::cast::{at_once, winners};
use crate::stage::{Answer, Stage, User, at, until};
use crate::wire::{Request, exchange};

/// No body must never mean "no limits", however it is sent.
#[tokio::test]
async fn an_availability_is_not_taken_away_by_a_request_without_a_body() {
    let stage = Stage::new("no-body").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let path = format!("/api/users/{}/availability", user.id);
    user.put(&path, &[], &json!({ "weekly": [] })).await.is(200);
    let put = Request::new("PUT", &path)
        .with("X-User-ID", user.id.to_string())
        .with("Content-Type", "application/json");
    for nothing in [put.clone(), put.chunked()] {
        let refused = exchange(&gateway, &nothing.bytes()).await.unwrap().is(400);
        assert_eq!(fields_of(&refused), ["body"]);
    }
    assert_eq!(user.get(&path).await.is(200).body, json!({ "weekly": [] }));
}

#[tokio::test]
async fn an_availability_is_replaced_as_a_whole_and_only_at_its_version() {
    let stage = Stage::new("availability").await;
    let gateway = stage.gateway().await;
    let (user, other) = (User::new(&gateway), User::new(&gateway));
    let path = format!("/api/users/{}/availability", user.id);

    let first = user.get(&path).await.is(200);
    assert_eq!((first.header("etag"), &first.body), ("\"1\"", &json!({})));
    let hours = json!({
        "timeZone": "Europe/Berlin",
        "weekly": [{ "day": "MO", "start": "09:00", "end": "24:00" }],
        "overrides": [{ "date": "2027-03-28", "windows": [] }],
        "blackouts": [{ "startTime": "2027-01-01T00:00:00Z", "endTime": "2027-01-02T00:00:00Z" }],
        "bufferBefore": 0, "bufferAfter": 10, "minNotice": 60, "maxAdvance": 129_600,
        "minDuration": 15, "maxDuration": 480, "slotStep": 15
    });
    let asks = (0..8).map(|_| {
        let (user, path, hours) = (user.clone(), path.clone(), hours.clone());
        async move { user.put(&path, &[("If-Match", "\"1\"")], &hours).await }
    });
    let answers = at_once(asks).await;
    let [won] = winners(&answers, "VERSION_MISMATCH")[..] else { panic!("{answers:#?}") };
    let read = user.get(&path).await.is(200);
    for answer in [won, &read] {
        assert_eq!((answer.header("etag"), &answer.body), ("\"2\"", &hours));
    }
    assert_eq!(user.get_unless(&path, "\"2\"").await.is(304).raw, "");
    let stale = user.put(&path, &[("If-Match", "\"3\"")], &json!({})).await.is(412);
    assert_eq!(stale.code(), "VERSION_MISMATCH");

    let replaced = user.put(&path, &[], &json!({ "slotStep": 5 })).await.is(200);
    assert_eq!((replaced.header("etag"), &replaced.body), ("\"3\"", &json!({ "slotStep": 5 })));
    let wrong = json!({ "weekly": [{ "day": "MO", "start": "9", "end": "10:00" }], "extra": 1 });
    assert_eq!(
        fields_of(&user.put(&path, &[], &wrong).await.is(400)),
        ["weekly[0].start", "extra"]
    );
    user.put(&path, &[("If-Match", "3")], &json!({})).await.is(400);
    assert_eq!(user.get(&path).await.is(200).body, json!({ "slotStep": 5 }));

    let slots = format!("/api/users/{}/slots?startDate=2027-03-01&endDate=2027-03-01", user.id);
    assert_eq!(other.get(&path).await.is(403).code(), "FORBIDDEN");
    assert_eq!(other.put(&path, &[], &json!({})).await.is(403).code(), "FORBIDDEN");
    assert_eq!(other.get(&slots).await.is(403).code(), "FORBIDDEN");
}

fn fields_of(answer: &Answer) -> Vec<&str> {
    let errors = answer.body["errors"].as_array().unwrap();
    errors.iter().map(|error| error["field"].as_str().unwrap()).collect()
}

/// The slots of a user; the query must be a good one.
async fn slots(user: &User, query: &str) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let path = format!("/api/users/{}/slots?{query}", user.id);
    let body = user.get(&path).await.is(200).body;
    let time = |slot: &Value, field: &str| slot[field].as_str().unwrap().parse().unwrap();
    let slots = body["slots"].as_array().unwrap();
    slots.iter().map(|slot| (time(slot, "startTime"), time(slot, "endTime"))).collect()
}

/// B21: bookings that began before the search were overlooked, and the last slot ran past it.
#[tokio::test]
async fn slots_lie_within_the_search_and_beside_whatever_reaches_into_it() {
    let stage = Stage::new("slots").await;
    let (gateway, worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();
    let from_to = |from: i64, to: i64| {
        let time = |minute| at(minute).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        format!("startDate={}&endDate={}", time(from), time(to))
    };
    // From one minute of the morning to another, at 09:00 and so on.
    let starts = |query: String| {
        let user = user.clone();
        async move {
            let slots = slots(&user, &query).await;
            slots.iter().map(|(start, _)| (*start - at(0)).num_minutes()).collect::<Vec<_>>()
        }
    };
    assert_eq!(starts(from_to(0, 100)).await, [0, 30, 60]);
    user.books(-300, 10).await.is(201);
    let held = user.books_with_key("hold", {
        let mut body = user.slot(60, 75);
        body["hold"] = json!(600);
        body
    });
    let held = held.await.is(201);
    assert_eq!(starts(from_to(0, 100)).await, [30]);
    assert_eq!(starts(from_to(0, 100) + "&slotDuration=15&step=20").await, [20, 40, 80]);
    user.cancels(held.text("id")).await.is(200);
    assert_eq!(starts(from_to(0, 100)).await, [30, 60]);

    let day = at(0).date_naive();
    let path = format!("/api/users/{}/slots?startDate={day}&endDate={day}", user.id);
    let zoned = user.get(&format!("{path}&timeZone=Asia/Kathmandu&slotDuration=60")).await.is(200);
    assert_eq!(zoned.text("timeZone"), "Asia/Kathmandu");
    let first = zoned.body["slots"][0]["startTime"].as_str().unwrap();
    assert_eq!(first, format!("{}T18:15:00Z", day.pred_opt().unwrap()));
    assert_eq!(user.get(&path).await.is(200).text("timeZone"), "UTC");
    stage.all_promises_hold().await;

    // A hold that has lapsed is free before any sweep has seen it.
    let mut hold = user.slot(60, 75);
    hold["hold"] = json!(30);
    user.books_with_key("lapses", hold).await.is(201);
    assert_eq!(starts(from_to(0, 100)).await, [30]);
    drop(worker);
    let lapse = "update allocations set lapses_at = now() where lapses_at is not null";
    sqlx::raw_sql(lapse).execute(&mut stage.database().await).await.unwrap();
    assert_eq!(starts(from_to(0, 100)).await, [30, 60]);
}

/// A neighbour that is over and completed keeps its distance from what comes after it.
#[tokio::test]
async fn a_buffer_reaches_back_to_what_is_over() {
    let stage = Stage::new("buffer-back").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway).who_waits();
    let soon = Utc::now().trunc_subsecs(6) + TimeDelta::milliseconds(500);
    let end = soon + TimeDelta::milliseconds(200);
    let over = json!({ "userId": user.id, "startTime": soon, "endTime": end });
    let over = user.books_with_key("over", over).await.is(201);
    let path = format!("/api/bookings/{}", over.text("id"));
    until("it is over", async || user.get(&path).await.text("status") == "COMPLETED").await;

    let set = format!("/api/users/{}/availability", user.id);
    user.put(&set, &[], &json!({ "bufferBefore": 30 })).await.is(200);
    let near = |minutes: i64| {
        let start = end + TimeDelta::minutes(minutes);
        json!({ "userId": user.id, "startTime": start, "endTime": start + TimeDelta::minutes(5) })
    };
    let refused = user.books_with_key("near", near(29)).await.is(409);
    assert_eq!(refused.code(), "SLOT_CONFLICT");
    let time = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let (from, to) = (end + TimeDelta::minutes(5), end + TimeDelta::minutes(60));
    let query = format!("startDate={}&endDate={}&slotDuration=5&step=1", time(from), time(to));
    let free = slots(&user, &query).await;
    assert!(
        !free.is_empty() && free.iter().all(|(start, _)| *start >= end + TimeDelta::minutes(30))
    );
    user.books_with_key("far", near(30)).await.is(201);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_search_that_cannot_be_made_is_refused_with_its_mistakes() {
    let stage = Stage::new("searches").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let ask = async |query: &str| user.get(&format!("/api/users/{}/slots?{query}", user.id)).await;
    for (query, fields) in [
        ("", &["startDate", "endDate"][..]),
        ("startDate=2027-03-01&endDate=2027-03-01&limit=3", &["limit"]),
        ("startDate=2027-03-01&endDate=2027-03-01&endDate=2027-03-01", &["endDate"]),
        ("startDate=2027-3-1&endDate=2027-02-29", &["startDate", "endDate"]),
        (
            "startDate=2027-03-01&endDate=2027-03-01&slotDuration=0&step=x",
            &["slotDuration", "step"],
        ),
        // A plus that is not written as %2B is a blank.
        ("startDate=2027-03-01T00:00:00+01:00&endDate=2027-03-01", &["startDate"]),
    ] {
        let refused = ask(query).await.is(400);
        assert_eq!(refused.code(), "VALIDATION_FAILED", "{query}");
        assert_eq!(fields_of(&refused), fields, "{query}");
    }
    for (query, status, code) in [
        ("startDate=2027-03-01T00:00:00&endDate=2027-03-01", 422, "INVALID_TIME"),
        ("startDate=2027-03-02&endDate=2027-03-01", 422, "INVALID_TIME"),
        ("startDate=2027-03-01&endDate=2027-03-01&timeZone=CET5", 422, "INVALID_TIME"),
        ("startDate=2027-03-01&endDate=2027-03-31", 200, ""),
        ("startDate=2027-03-01&endDate=2027-04-01", 422, "RANGE_TOO_LARGE"),
        ("startDate=2027-10-01&endDate=2027-10-31&timeZone=Europe/Berlin", 200, ""), // 745 h
        ("startDate=2027-03-01&endDate=2027-03-07&step=1", 422, "RANGE_TOO_LARGE"),  // 10,051
        ("startDate=2027-03-01&endDate=2027-03-06&step=1", 200, ""),
        ("startDate=2011-12-30&endDate=2011-12-30&timeZone=Pacific/Apia", 422, "INVALID_TIME"),
    ] {
        assert_eq!(ask(query).await.is(status).code(), code, "{query}");
    }
    let path = format!("/api/users/{}/availability", user.id);
    user.put(&path, &[], &json!({ "minDuration": 60 })).await.is(200);
    let day = "startDate=2027-03-01&endDate=2027-03-01";
    assert_eq!(ask(day).await.is(200).body["slots"].as_array().unwrap().len(), 24); // an hour each
    let refused = ask(&format!("{day}&slotDuration=45")).await.is(422);
    assert_eq!(refused.code(), "DURATION_OUT_OF_RANGE");
}

/// Prints how long it takes, which depends on the machine and is not asserted.
#[tokio::test]
async fn the_slots_between_a_thousand_bookings_are_found() {
    let stage = Stage::new("thousand").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway);
    let asks = (0..1_000).map(|number| {
        let user = user.clone();
        async move { user.books(40 * number, 40 * number + 20).await } // 27.8 days
    });
    assert!(at_once(asks).await.iter().all(|answer| answer.status == 202));
    stage.everything_is_decided().await;

    let month = format!("startDate={}&endDate={}", at(0).date_naive(), at(30 * 1440).date_naive());
    let query = format!("{month}&slotDuration=20&step=5");
    let found = slots(&user, &query).await; // the first also plans its statements
    let found: BTreeSet<_> =
        found.iter().map(|(start, _)| (*start - at(0)).num_minutes()).collect();
    let free = |start: &i64| (0..1_000).all(|n| start + 20 <= 40 * n || 40 * n + 20 <= *start);
    let month = -540..=(31 * 1440 - 540 - 20);
    let expected: BTreeSet<_> = month.step_by(5).filter(free).collect();
    assert_eq!(found, expected);

    let begun = Instant::now();
    for _ in 0..20 {
        slots(&user, &query).await;
    }
    eprintln!("31 days, 1,000 bookings, {} slots: {:?}", found.len(), begun.elapsed() / 20);
}
