//! What lanes promise: nothing twice, nobody delayed by another, nothing kept that is not owned.

use super::*;
use crate::webhooks::health::OPENS_AFTER;

const FAST: Duration = Duration::from_millis(5);

fn due(target: u128, event: u128) -> Due {
    let time = chrono::DateTime::UNIX_EPOCH;
    Due {
        shard: 0,
        target_id: Uuid::from_u128(target),
        due_at: time,
        event_id: Uuid::from_u128(event),
        tried: 0,
        body: String::new(),
        traceparent: None,
        created_at: time,
        url: String::new(),
        is_callback: false,
        secret: Vec::new(),
        previous_secret: None,
        failing_since: None,
    }
}

fn many(target: u128, events: std::ops::Range<u128>) -> Vec<Due> {
    events.map(|event| due(target, event)).collect()
}

/// Ends an attempt and records it.
fn end(lanes: &mut Lanes, due: &Due, arrived: bool, took: Duration, now: Instant) {
    lanes.ended(due.target_id, arrived, took, now);
    lanes.let_go(due.target_id, due.event_id);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_gets_more_at_once_the_more_it_has_answered() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    lanes.hold(many(1, 0..100), now);
    let first = lanes.begin(now);
    assert_eq!(first.len(), FIRST_LIMIT);
    assert!(lanes.begin(now).is_empty(), "its lane is full");
    for due in &first {
        end(&mut lanes, due, true, FAST, now);
    }
    assert_eq!(lanes.begin(now).len(), 2 * FIRST_LIMIT);
    assert_eq!(lanes.held(), 100 - FIRST_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_not_held_twice() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    lanes.hold(many(1, 0..10), now);
    lanes.hold(many(1, 5..15), now);
    assert_eq!(lanes.held(), 15);
    let begun = lanes.begin(now);
    lanes.hold(many(1, 0..15), now);
    assert_eq!(lanes.held(), 15, "what is under way is still held: {}", begun.len());
}

#[tokio::test(start_paused = true)]
async fn slow_receivers_leave_half_to_the_others() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    for target in 0..100 {
        lanes.hold(many(target, 0..16), now);
    }
    assert_eq!(lanes.held(), MAX_HELD_SLOW, "nobody is known yet");
    assert!(lanes.rows(now).values().all(|rows| *rows == 0));
    // One of them turns out to be fast: it is asked for, whatever the others hold.
    let begun = lanes.begin_of(Uuid::from_u128(0), now);
    for due in &begun {
        end(&mut lanes, due, true, FAST, now);
    }
    let rows = lanes.rows(now + REFILL);
    assert_eq!(rows[&Uuid::from_u128(0)], READ_AHEAD);
    lanes.hold(many(0, 100..300), now);
    assert!(lanes.held() > MAX_HELD_SLOW);
    // And slow again: its share counts with theirs.
    lanes.ended(Uuid::from_u128(0), true, SLOW, now);
    assert_eq!(lanes.rows(now + REFILL)[&Uuid::from_u128(0)], 0);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_gives_back_what_it_held_and_is_probed_with_one() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    lanes.hold(many(1, 0..60), now);
    let mut failures = 0;
    while failures < OPENS_AFTER {
        for due in lanes.begin(now) {
            end(&mut lanes, &due, false, FAST, now);
            failures += 1;
        }
    }
    assert_eq!((lanes.held(), lanes.circuits_open(now)), (0, 1));
    assert_eq!(lanes.rows(now)[&Uuid::from_u128(1)], 0);
    let later = now + Duration::from_secs(60);
    assert_eq!(lanes.rows(later)[&Uuid::from_u128(1)], 1);
    lanes.hold(many(1, 0..5), later);
    assert_eq!(lanes.begin(later).len(), 1);
    assert!(lanes.begin(later).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_about_to_be_disabled_gets_nothing_more() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    lanes.hold(many(1, 0..60), now);
    let begun = lanes.begin(now);
    lanes.halt(Uuid::from_u128(1));
    assert_eq!(lanes.held(), begun.len());
    lanes.hold(many(1, 60..70), now); // read before it was known
    assert!(lanes.begin(now).is_empty());
    assert_eq!(lanes.rows(now + REFILL)[&Uuid::from_u128(1)], 0);
    lanes.go_on(Uuid::from_u128(1));
    lanes.ended(Uuid::from_u128(1), true, FAST, now);
    assert!(!lanes.begin(now).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_delivery_arrived_says_nothing_of_failing_since() {
    let now = Instant::now();
    let at = |seconds| DateTime::from_timestamp(seconds, 0);
    let target = Uuid::from_u128(1);
    let mut lanes = Lanes::default();
    lanes.hold(many(1, 0..3), now);
    assert_eq!(lanes.failing_since(target, at(5), None), at(5));
    // The one that arrives is recorded against what was known.
    assert_eq!(lanes.failing_since(target, at(5), at(9)), at(5));
    assert_eq!(lanes.failing_since(target, at(5), None), None);
    assert_eq!(lanes.failing_since(target, at(10), None), at(10), "failing anew");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_lost_takes_what_was_not_begun() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    lanes.hold(many(1, 0..10), now);
    let begun = lanes.begin(now);
    lanes.keep(|_| false, now);
    assert_eq!(lanes.held(), begun.len());
    for due in &begun {
        end(&mut lanes, due, true, FAST, now);
    }
    lanes.keep(|_| false, now);
    assert!(lanes.rows(now).is_empty(), "forgotten");
    assert_eq!(lanes.free(), MAX_HELD);
}
