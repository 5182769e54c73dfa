//! How long the pure search for slots takes: 31 days of a calendar with 1,000 bookings, over a
//! change of the clock. `cargo bench --bench slots`.

#![allow(clippy::unwrap_used)] // a benchmark fails by panicking

use booking::booking::Interval;
use booking::booking::availability::Availability;
use booking::booking::slots::{Search, slots};
use chrono::{DateTime, TimeDelta, Utc};
use divan::{Bencher, black_box};
use serde_json::{Value, json};

fn main() {
    divan::main();
}

fn availability(body: Value) -> Availability {
    Availability::parse(body.as_object().unwrap()).unwrap()
}

/// Berlin's March of 2027.
fn search(duration: i32, step: i32) -> Search {
    let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let (start, end) = (time("2027-02-28T23:00:00Z"), time("2027-03-31T22:00:00Z"));
    Search { window: Interval { start, end }, duration, step }
}

/// A thousand bookings of 20 minutes, spread over the search and not in order.
fn taken(search: &Search) -> Vec<Interval> {
    let apart = (search.window.end - search.window.start) / 1_000;
    let nth = |n: i32| search.window.start + apart * n;
    let bookings = (0..1_000).map(|n| nth(n * 7 % 1_000));
    bookings.map(|start| Interval { start, end: start + TimeDelta::minutes(20) }).collect()
}

fn run(bencher: Bencher<'_, '_>, availability: &Availability, search: &Search) {
    let (taken, now) = (taken(search), search.window.start - TimeDelta::days(1));
    assert!(slots(availability, &taken, search, now).len() > 100);
    bencher.bench(|| slots(black_box(availability), black_box(&taken), search, now));
}

#[divan::bench]
fn hours_breaks_buffers_and_a_grid_of_15_minutes(bencher: Bencher<'_, '_>) {
    let days = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];
    let hours = [("08:00", "12:00"), ("13:00", "20:00")];
    let rule = |day| hours.map(|(start, end)| json!({ "day": day, "start": start, "end": end }));
    let availability = availability(json!({
        "timeZone": "Europe/Berlin", "weekly": days.into_iter().flat_map(rule).collect::<Vec<_>>(),
        "bufferAfter": 5, "minNotice": 60, "slotStep": 15
    }));
    run(bencher, &availability, &search(15, 15));
}

#[divan::bench]
fn always_open_every_5_minutes(bencher: Bencher<'_, '_>) {
    run(bencher, &Availability::default(), &search(15, 5));
}

#[divan::bench]
fn check_of_one_booking(bencher: Bencher<'_, '_>) {
    let rule = |day| json!({ "day": day, "start": "08:00", "end": "20:00" });
    let weekly = ["MO", "TU", "WE", "TH", "FR"].map(rule);
    let availability =
        availability(json!({ "timeZone": "Europe/Berlin", "weekly": weekly, "slotStep": 15 }));
    let start: DateTime<Utc> = "2027-03-29T09:00:00Z".parse().unwrap();
    let interval = Interval { start, end: start + TimeDelta::minutes(30) };
    bencher.bench(|| black_box(&availability).check(black_box(interval), DateTime::UNIX_EPOCH));
}
