//! The six promises that the first version of this system was tested for, kept by a whole
//! system: two gateways and three workers, each a process of its own.

use std::time::Duration;

use booking::lease::{Leases, Renewal};
use serde_json::json;
use uuid::Uuid;

use crate::cast::{Cast, at_once, winners};
use crate::stage::{Stage, User, at, until};

#[tokio::test]
async fn of_ten_who_want_a_slot_at_once_one_gets_it() {
    let stage = Stage::new("one-slot").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    let asks = (0..10).map(|turn| {
        let user = cast.in_turn(&user, turn);
        async move { user.books(0, 30).await }
    });
    let answers = at_once(asks).await;
    let won = winners(&answers, "SLOT_CONFLICT");
    assert_eq!((answers.len(), won.len(), won[0].status), (10, 1, 201));
    assert_eq!(stage.number("select count(*) from bookings").await, 1);
    assert_eq!(stage.number("select count(*) from commands where status = 'rejected'").await, 9);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_key_that_comes_twice_books_once() {
    let stage = Stage::new("key-twice").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user();
    let (here, there) = (cast.in_turn(&user, 0), cast.in_turn(&user, 1));

    let first = here.books_with_key("twice", user.slot(0, 30)).await.is(202);
    assert_eq!(first.header("idempotency-replayed"), "");
    user.polls(&first).await;
    for again in [&here, &there] {
        let again = again.books_with_key("twice", user.slot(0, 30)).await.is(202);
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!((again.location(), &again.raw), (first.location(), &first.raw));
    }
    let other_name = [("X-Idempotency-Key", "\"twice\"")];
    let again = there.post("/api/bookings", &other_name, user.slot(0, 30)).await.is(202);
    assert_eq!(again.raw, first.raw);
    assert_eq!(stage.number("select count(*) from bookings").await, 1);
    assert_eq!(stage.number("select count(*) from commands").await, 1);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn overlaps_are_refused_and_neighbours_are_welcome() {
    let stage = Stage::new("overlaps").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    user.books(0, 30).await.is(201);
    let overlaps = [(0, 30), (-15, 15), (15, 45), (10, 20), (-15, 45)]; // the last contains it
    for (turn, (start, end)) in overlaps.into_iter().enumerate() {
        let refused = cast.in_turn(&user, turn).books(start, end).await.is(409);
        assert_eq!(refused.code(), "SLOT_CONFLICT", "{start} to {end}");
        let taken = json!({ "startTime": at(0), "endTime": at(30) });
        assert_eq!(refused.body["conflictsWith"], taken);
    }
    for (turn, (start, end)) in [(-30, 0), (30, 60)].into_iter().enumerate() {
        cast.in_turn(&user, turn).books(start, end).await.is(201);
    }
    stage.all_promises_hold().await;
}

/// Within a batch the rules see what the database does not hold yet.
#[tokio::test]
async fn overlaps_and_neighbours_are_told_apart_within_a_batch_too() {
    let stage = Stage::new("one-batch").await;
    let gateways = [stage.gateway().await, stage.gateway().await];
    let user = User::new(&gateways[0]);

    let mut asked = Vec::new();
    for (start, end) in [(0, 30), (30, 60), (-30, 0), (15, 45), (-60, 90), (60, 90), (-31, 1)] {
        asked.push(user.books(start, end).await.is(202)); // nobody decides yet
    }
    stage.everything_is_relayed().await;
    let _worker = stage.worker().await;
    let mut codes = Vec::new();
    for (turn, answer) in asked.iter().enumerate() {
        codes.push(user.at(&gateways[turn % 2]).polls(answer).await.code().to_owned());
    }
    let no = "SLOT_CONFLICT";
    assert_eq!(codes, ["", "", "", no, no, "", no]);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn cancel_and_reschedule_happen_wholly_or_not_at_all() {
    let stage = Stage::new("wholly").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let mine = user.books(0, 30).await.is(201).text("id").to_owned();
    user.books(60, 90).await.is(201);

    let before = stage.record(&mine).await;
    assert_eq!(user.reschedules(&mine, 70, 100).await.is(409).code(), "SLOT_CONFLICT");
    assert_eq!(stage.record(&mine).await, before);

    user.reschedules(&mine, 100, 130).await.is(200);
    assert_eq!(user.books(129, 140).await.is(409).code(), "SLOT_CONFLICT");
    user.books(0, 30).await.is(201); // what it held before is free

    user.cancels(&mine).await.is(200);
    let cancelled = stage.record(&mine).await;
    assert_eq!(
        (&cancelled["booking"]["status"], &cancelled["allocation"]),
        (&json!("CANCELLED"), &json!(null))
    );
    assert_eq!(cancelled["audit"].as_array().unwrap().len(), 3);
    assert_eq!(user.cancels(&mine).await.is(409).code(), "ALREADY_CANCELLED");
    assert_eq!(stage.record(&mine).await, cancelled);
    user.books(100, 130).await.is(201);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_lease_has_one_holder() {
    let stage = Stage::new("lease").await;
    let leases = |worker: &str, validity| {
        Leases::new(&stage.redis_url, &stage.redis_prefix, worker, validity).unwrap()
    };
    let long = Duration::from_secs(600);
    let (one, other) = (leases("one", long), leases("other", long));
    let brief = leases("brief", Duration::from_millis(100));
    for leases in [&one, &other, &brief] {
        until("redis is connected", async || leases.join().await.is_ok()).await;
    }

    assert_eq!(one.take(&[3]).await.unwrap(), [3]);
    assert_eq!(other.take(&[2, 3, 4]).await.unwrap(), [2, 4], "those that are free");
    assert_eq!(other.renew(&[3, 4]).await.unwrap(), [Renewal::Lost, Renewal::Kept]);
    other.release(3).await.unwrap(); // not its own: nothing happens
    assert_eq!(other.take(&[3]).await.unwrap(), [0_u16; 0]);
    assert_eq!(one.renew(&[3]).await.unwrap(), [Renewal::Kept]);

    one.release(3).await.unwrap();
    assert_eq!(brief.take(&[3]).await.unwrap(), [3]);
    until("the lease runs out", async || one.take(&[3]).await.unwrap() == [3]).await;
    assert_eq!(brief.renew(&[3]).await.unwrap(), [Renewal::Lost]);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn fifty_slots_of_one_user_are_booked_at_once() {
    let stage = Stage::new("fifty").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    let asks = (0..50).map(|turn| {
        let user = cast.in_turn(&user, turn);
        let start = 30 * i64::try_from(turn).unwrap();
        async move { user.books(start, start + 30).await }
    });
    let answers = at_once(asks).await;
    assert_eq!(winners(&answers, "none is refused").len(), 50);
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.body["version"] == 1));
    let ids: std::collections::HashSet<Uuid> =
        answers.iter().map(|answer| answer.text("id").parse().unwrap()).collect();
    assert_eq!(ids.len(), 50);
    assert_eq!(stage.number("select count(*) from allocations").await, 50);
    stage.all_promises_hold().await;
}
