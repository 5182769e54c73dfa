//! Slots and bookings agree, through gateway, worker and database: what a search returns is
//! booked, and what lies beside it is refused for the reason that the rules give.

use std::collections::BTreeMap;
use std::sync::Mutex;

use booking::booking::Interval;
use booking::booking::availability::Availability;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use uuid::Uuid;

use super::slots;
use crate::stage::{Answer, Stage, User};

const CALENDARS: usize = 40;

/// Zones, and an instant at which each changes its clock.
const CHANGES: [(&str, &str); 6] = [
    ("America/New_York", "2027-03-14T07:00:00Z"),
    ("America/New_York", "2027-11-07T06:00:00Z"),
    ("Europe/Berlin", "2027-03-28T01:00:00Z"),
    ("Europe/Berlin", "2027-10-31T01:00:00Z"),
    ("Australia/Lord_Howe", "2027-10-02T15:30:00Z"),
    ("America/Havana", "2027-11-07T05:00:00Z"),
];

/// A calendar's rules, what is looked for in it, and times to ask for besides.
#[derive(Clone, Debug)]
struct Case {
    availability: Value,
    near: DateTime<Utc>,
    duration: i64,
    step: i64,
    /// Start, in minutes from the change, and length.
    besides: Vec<(i64, i64)>,
}

fn case() -> impl Strategy<Value = Case> {
    let window = || (0..40_u32, 4..24_u32).prop_map(|(start, length)| wall_window(start, length));
    let hours = prop::option::weighted(0.7, prop::collection::vec(window(), 1..3));
    let day = prop::option::of(prop::collection::vec(window(), 0..3));
    let blackouts = prop::collection::vec((-1_000..1_000_i64, 30..300_i64), 0..3);
    let numbers = (
        prop::option::of(0..40),
        prop::option::of(0..40),
        prop::option::of(prop::sample::select(&[5, 10, 15, 20][..])),
        prop::option::weighted(0.3, 20..60),
        prop::option::weighted(0.3, 60..90),
    );
    // Five minutes each from the change until which it is too soon, and after which it is too far ahead.
    let limits =
        (prop::option::weighted(0.4, -200..0_i64), prop::option::weighted(0.4, 0..200_i64));
    let fives = (1..12_i64).prop_map(|fives| 5 * fives);
    let asks = (15..70_i64, fives, prop::collection::vec((-1_500..1_500_i64, 10..100_i64), 12));
    let change = prop::sample::select(&CHANGES[..]);
    (change, hours, day, blackouts, numbers, limits, asks).prop_map(
        |((zone, near), hours, day, blackouts, numbers, limits, (duration, step, besides))| {
            let near: DateTime<Utc> = near.parse().unwrap();
            let at = |minutes| near + TimeDelta::minutes(minutes);
            let weekly = hours.map(|hours| {
                let days = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"].into_iter();
                days.flat_map(|day| hours.iter().map(move |window| on(day, window))).collect::<Vec<_>>()
            });
            // Two minutes beside all grids, so that no slot comes or goes while the test asks.
            let until = |limit: Option<i64>| {
                limit.map(|fives| (at(5 * fives + 2) - Utc::now()).num_minutes())
            };
            let blackout = |(start, length): &(i64, i64)| {
                json!({ "startTime": at(*start), "endTime": at(start + length) })
            };
            let availability = json!({
                "timeZone": zone,
                "weekly": weekly,
                "overrides": day.map(|windows| [json!({ "date": near.date_naive(), "windows": windows })]),
                "blackouts": blackouts.iter().map(blackout).collect::<Vec<_>>(),
                "bufferBefore": numbers.0, "bufferAfter": numbers.1, "slotStep": numbers.2,
                "minDuration": numbers.3, "maxDuration": numbers.4,
                "minNotice": until(limits.0), "maxAdvance": until(limits.1)
            });
            Case { availability, near, duration, step, besides }
        },
    )
}

/// In half hours.
fn wall_window(start: u32, length: u32) -> Value {
    let time = |half_hours: u32| format!("{:02}:{:02}", half_hours / 2, half_hours % 2 * 30);
    json!({ "start": time(start), "end": time((start + length).min(48)) })
}

fn on(day: &str, window: &Value) -> Value {
    json!({ "day": day, "start": window["start"], "end": window["end"] })
}

/// One calendar under test, and what is known to be booked in it.
struct Play<'a> {
    user: User,
    availability: Availability,
    query: String,
    booked: Vec<(String, Interval)>,
    /// How often which answer was given, in all calendars.
    seen: &'a Mutex<BTreeMap<String, u32>>,
}

impl Play<'_> {
    async fn slots(&self) -> Vec<Interval> {
        let slots = slots(&self.user, &self.query).await;
        slots.into_iter().map(|(start, end)| Interval { start, end }).collect()
    }

    /// Whether `wanted` meets the time of a booking other than `own`, with the buffers of both.
    fn is_taken(&self, wanted: Interval, own: &str) -> bool {
        let blocked = self.availability.blocked(wanted);
        let mut others = self.booked.iter().filter(|(id, _)| id != own);
        others.any(|(_, booked)| self.availability.blocked(*booked).overlaps(&blocked))
    }

    /// The code of the no that the rules give; empty when there is none.
    fn fate(&self, wanted: Interval, own: &str) -> &'static str {
        match self.availability.check(wanted, Utc::now()) {
            Err(problem) => problem.code.as_str(),
            Ok(()) if self.is_taken(wanted, own) => "SLOT_CONFLICT",
            Ok(()) => "",
        }
    }

    async fn books(&mut self, wanted: Interval) {
        let (before, answer) = (self.fate(wanted, ""), self.user.asks_for(wanted).await);
        if before == self.fate(wanted, "") {
            // unless it became too late just now
            self.expect(&answer, before, wanted);
        }
        if answer.status == 201 {
            self.booked.push((answer.text("id").to_owned(), wanted));
        }
    }

    /// The same for the latest booking, which is in nobody's way but the others'.
    async fn moves(&mut self, wanted: Interval) {
        let (id, _) = self.booked.last().unwrap().clone();
        let body = json!({ "startTime": wanted.start, "endTime": wanted.end });
        let before = self.fate(wanted, &id);
        let answer = self.user.post(&format!("/api/bookings/{id}/reschedule"), &[], body).await;
        if before == self.fate(wanted, &id) {
            self.expect(&answer, before, wanted);
        }
        if answer.status == 200 {
            self.booked.last_mut().unwrap().1 = wanted;
        }
    }

    fn expect(&self, answer: &Answer, fate: &str, wanted: Interval) {
        assert_eq!(answer.code(), fate, "{wanted:?} {:#?} {:#}", self.availability, answer.body);
        *self.seen.lock().unwrap().entry(fate.to_owned()).or_default() += 1;
    }
}

impl User {
    async fn asks_for(&self, wanted: Interval) -> Answer {
        let body = json!({ "userId": self.id, "startTime": wanted.start, "endTime": wanted.end });
        self.books_with_key(&Uuid::now_v7().to_string(), body).await
    }
}

/// Books the first, the last and a middle slot of what is left, and asks for times beside them.
async fn plays(case: Case, user: User, seen: &Mutex<BTreeMap<String, u32>>) {
    let path = format!("/api/users/{}/availability", user.id);
    let set = user.put(&path, &[], &case.availability).await.is(200);
    let availability = Availability::parse(set.body.as_object().unwrap()).unwrap();
    let at = |minutes| case.near + TimeDelta::minutes(minutes);
    let lasting = |start, length| Interval { start, end: start + TimeDelta::minutes(length) };
    let least = availability.min_duration.unwrap_or(0).into();
    let most = availability.max_duration.unwrap_or(i32::MAX).into();
    let text = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let query = format!(
        "startDate={}&endDate={}&slotDuration={}&step={}",
        text(at(-1_440)),
        text(at(1_440)),
        case.duration.clamp(least, most),
        case.step
    );
    let mut play = Play { user, availability, query, booked: Vec::new(), seen };
    for (turn, besides) in case.besides.chunks(4).enumerate() {
        let free = play.slots().await;
        if let Some(slot) = [free.first(), free.last(), free.get(free.len() / 2)][turn].copied() {
            let booked = play.user.asks_for(slot).await.is(201);
            play.booked.push((booked.text("id").to_owned(), slot));
            *seen.lock().unwrap().entry("a slot".into()).or_default() += 1;
            let left = free.into_iter().filter(|slot| !play.is_taken(*slot, ""));
            assert_eq!(play.slots().await, left.collect::<Vec<_>>()); // the others do not move
            for minutes in [0, -1, 1] {
                let shift = |time| time + TimeDelta::minutes(minutes);
                play.books(Interval { start: shift(slot.start), end: shift(slot.end) }).await;
            }
        }
        for (start, length) in besides {
            play.books(lasting(at(*start), *length)).await;
        }
        if let [(start, length), ..] = *besides
            && !play.booked.is_empty()
        {
            play.moves(lasting(at(start + 37), length)).await;
        }
    }
}

#[tokio::test]
async fn slots_are_booked_and_what_lies_beside_them_is_refused_for_its_reason() {
    let stage = Stage::new("agreement").await;
    let (gateway, _worker) = (stage.gateway().await, stage.worker().await);
    let seen = Mutex::default();
    let mut random = TestRunner::deterministic();
    let plays = (0..CALENDARS).map(|_| {
        let case = case().new_tree(&mut random).unwrap().current();
        plays(case, User::new(&gateway).who_waits(), &seen)
    });
    join_all(plays).await;
    let seen = seen.into_inner().unwrap();
    eprintln!("{seen:?}");
    assert!(seen["a slot"] > 60, "{seen:?}");
    for answer in [
        "", // neither a slot nor refused: off the grid of the search, not of the calendar
        "SLOT_CONFLICT",
        "DURATION_OUT_OF_RANGE",
        "TOO_SOON",
        "TOO_FAR_AHEAD",
        "OUTSIDE_WORKING_HOURS",
        "BLACKED_OUT",
        "NOT_ALIGNED",
    ] {
        assert!(seen.contains_key(answer), "no {answer:?} in {seen:?}");
    }
    stage.all_promises_hold().await;
}
