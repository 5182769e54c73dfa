//! What the front door keeps out, and how it answers.

use futures::future::join_all;
use uuid::Uuid;

use crate::stage::{Answer, Process, Stage, User, until};
use crate::wire::{self, Request};

/// Books slots at the gateways in turn until one is refused; the refusal.
async fn fill(users: &[&User], from: i64) -> Answer {
    for slot in from..200 {
        let user = users[slot.unsigned_abs() as usize % users.len()];
        let answer = user.books(slot * 60, slot * 60 + 30).await;
        if answer.status != 202 {
            return answer;
        }
    }
    panic!("nothing was refused")
}

#[tokio::test]
async fn a_full_calendar_gets_no_more_until_its_commands_are_decided() {
    let stage = Stage::new("backlog").await;
    let settings = [("MAX_UNDECIDED_PER_CALENDAR", "30")];
    let (one, other) =
        tokio::join!(stage.start("gateway", &settings), stage.start("gateway", &settings));
    let (user, neighbour) = (User::new(&one), User::new(&one));
    let at_other = user.at(&other);
    let first = (Uuid::now_v7().to_string(), user.slot(0, 30));
    let accepted = user.books_with_key(&first.0, first.1.clone()).await.is(202);
    let refused = fill(&[&user, &at_other], 1).await.is(429);
    assert_eq!(refused.code(), "CALENDAR_BACKLOG_FULL");
    assert_eq!(refused.header("retry-after"), "1");
    // Each gateway knows what it let in itself, and soon what the other did: at its next look, or the
    // one after, where a busy machine fails one.
    let undecided = "select count(*) from commands where status = 'accepted'";
    for user in [&user, &at_other] {
        until("the calendar is full", async || user.books(3000, 3030).await.status == 429).await;
        user.cancels(accepted.text("bookingId")).await.is(429);
    }
    let waiting = stage.number(undecided).await;
    assert!((30..=4 * 30).contains(&waiting), "{waiting} wait");

    neighbour.books(0, 30).await.is(202);
    let replay = user.books_with_key(&first.0, first.1).await.is(202);
    assert_eq!(replay.header("idempotency-replayed"), "true");
    assert_eq!(replay.text("commandId"), accepted.text("commandId"));

    let _worker = stage.worker().await;
    until("there is room again", async || user.books(6000, 6030).await.status == 202).await;
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_calendar_that_is_decided_in_time_is_never_full() {
    let stage = Stage::new("backlog-flows").await;
    let gateway = stage.start("gateway", &[("MAX_UNDECIDED_PER_CALENDAR", "20")]).await;
    let _worker = stage.worker().await;
    let user = User::new(&gateway).who_waits();
    let bookings = (0..200).collect::<Vec<i64>>();
    // Many times the limit in less than the time between two looks.
    for some in bookings.chunks(4) {
        let answers = join_all(some.iter().map(|slot| user.books(slot * 60, slot * 60 + 30))).await;
        assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    }
}

/// A request of a page of this origin.
async fn from_page(gateway: &Process, method: &str, path: &str, origin: &str) -> Answer {
    let request = Request::new(method, path)
        .with("Origin", origin)
        .with("Access-Control-Request-Method", "POST")
        .with("Access-Control-Request-Headers", "authorization, idempotency-key");
    wire::exchange(gateway, &request.bytes()).await.unwrap()
}

const OURS: &str = "https://app.example.org";
const THEIRS: &str = "https://app.example.org.evil.example";

#[tokio::test]
async fn only_pages_of_listed_origins_may_read_answers() {
    let stage = Stage::new("cors").await;
    let listed = [("CORS_ORIGINS", "https://app.example.org, http://localhost:5173")];
    let (closed, open, for_all) = tokio::join!(
        stage.start("gateway", &[]),
        stage.start("gateway", &listed),
        stage.start("gateway", &[("CORS_ORIGINS", "*")])
    );
    let asked = from_page(&open, "OPTIONS", "/api/bookings", OURS).await.is(204);
    assert_eq!(asked.header("access-control-allow-origin"), OURS);
    assert_eq!(asked.header("vary"), "Origin");
    assert!(asked.header("access-control-allow-methods").contains("PATCH"));
    let lists = |header: &str, names: &[&str]| {
        let listed = asked.header(header).to_ascii_lowercase();
        let listed: Vec<&str> = listed.split(", ").collect();
        names.iter().all(|name| listed.contains(&name.to_ascii_lowercase().as_str()))
    };
    let read = ["Authorization", "Content-Type", "Idempotency-Key", "X-Idempotency-Key"];
    let more = ["If-Match", "If-None-Match", "Prefer", "X-API-Key", "X-Correlation-ID"];
    let last = ["X-User-ID", "traceparent"];
    assert!(lists("access-control-allow-headers", &[&read[..], &more, &last].concat()));

    for status in [("/api/bookings", 405), ("/api/commands/x", 401), ("/nowhere", 404)] {
        let answer = from_page(&open, "GET", status.0, OURS).await.is(status.1);
        assert_eq!(answer.header("access-control-allow-origin"), OURS, "{}", status.0);
        let exposed = answer.header("access-control-expose-headers");
        for name in ["Location", "Retry-After", "ETag", "RateLimit-Remaining", "X-Correlation-ID"] {
            assert!(exposed.contains(name), "{name} in {exposed}");
        }
    }
    for (gateway, origin) in [(&open, THEIRS), (&closed, OURS)] {
        for method in ["OPTIONS", "GET"] {
            let answer = from_page(gateway, method, "/api/bookings", origin).await.is(405);
            assert_eq!(answer.header("access-control-allow-origin"), "", "{origin}");
        }
    }
    assert_eq!(from_page(&open, "GET", "/nowhere", THEIRS).await.header("vary"), "Origin");
    let anyone = from_page(&for_all, "OPTIONS", "/api/bookings", THEIRS).await.is(204);
    assert_eq!(anyone.header("access-control-allow-origin"), "*");
    for answer in [asked, anyone] {
        assert_eq!(answer.header("access-control-allow-credentials"), "");
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_what_to_do_with_it() {
    let stage = Stage::new("security-headers").await;
    let (gateway, worker) = tokio::join!(stage.gateway(), stage.worker());
    let user = User::new(&gateway).who_waits();
    let booked = user.books(0, 30).await.is(201);
    let booking = user.get(booked.location()).await.is(200);
    assert_eq!(booking.header("cache-control"), "private, no-cache");
    assert_eq!(booked.header("cache-control"), "no-store");
    let nobody = Answer::of(reqwest::get(gateway.url("/api/commands/x")).await.unwrap()).await;
    assert_eq!(nobody.is(401).header("cache-control"), "no-store");
    for url in [gateway.url("/health"), gateway.url("/nowhere"), worker.url("/metrics")] {
        let answer = Answer::of(reqwest::get(url).await.unwrap()).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(answer.header(name), value);
        }
    }
}

#[tokio::test]
async fn a_caller_who_waits_too_often_is_answered_at_once() {
    let stage = Stage::new("waits").await;
    let gateway = stage.gateway().await; // and nobody decides
    let (user, other) = (User::new(&gateway).who_waits(), User::new(&gateway).who_waits());
    let mut waits: Vec<_> = (0..70)
        .map(|slot| {
            let user = user.clone();
            tokio::spawn(async move { user.books(slot * 60, slot * 60 + 30).await })
        })
        .collect();
    until("the waits beyond the limit are over", async || {
        waits.iter().filter(|wait| wait.is_finished()).count() >= 6
    })
    .await;
    let patient = tokio::spawn(async move { other.books(0, 30).await });
    let refused = gateway.metric("booking_requests_refused_total").await;
    assert_eq!(refused, 6.0, "all others wait");
    let _worker = stage.worker().await;
    patient.await.unwrap().is(201);
    let mut answers = Vec::new();
    for wait in waits.drain(..) {
        answers.push(wait.await.unwrap().status);
    }
    let waited = answers.iter().filter(|status| **status == 201).count();
    assert_eq!((waited, answers.len()), (64, 70), "{answers:?}");
}

#[tokio::test]
async fn reads_that_nobody_could_serve_soon_are_refused_at_once() {
    let stage = Stage::new("reads").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let booked = user.books(0, 30).await.is(202);
    let mut blocker = stage.database().await;
    let lock = "begin; lock table commands in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut blocker).await.unwrap();
    let reads = (0..300).map(|_| {
        let (user, path) = (user.clone(), booked.location().to_owned());
        tokio::spawn(async move { user.get(&path).await })
    });
    let reads: Vec<_> = reads.collect();
    until("what is too much is refused", async || {
        reads.iter().filter(|read| read.is_finished()).count() >= 300 - 256 - 8
    })
    .await;
    reqwest::get(gateway.url("/health")).await.unwrap().error_for_status().unwrap();
    sqlx::raw_sql("rollback").execute(&mut blocker).await.unwrap();
    let mut refused = 0;
    for read in reads {
        let read = read.await.unwrap();
        if read.code() == "OVERLOADED" {
            assert_eq!((read.status, read.header("retry-after")), (503, "1"));
            refused += 1;
        }
    }
    // Fewer where the first had given up before the last came.
    assert!((1..=300 - 256 - 8).contains(&refused), "{refused}");
    user.get(booked.location()).await.is(200);
}
