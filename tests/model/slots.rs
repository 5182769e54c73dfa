//! Slots and bookings agree: a grid point is a slot exactly when a booking of it would be taken.
//!
//! The random calendars lie around changes of the clock, because that is where the two could
//! differ. What a booking would be told is asked of [`Availability::check`] one by one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use booking::booking::Interval;
use booking::booking::availability::hours::{Day, WallTime, WallWindow};
use booking::booking::availability::{Availability, DateOverride, WeeklyRule};
use booking::booking::slots::{Search, slots};
use chrono::{DateTime, Days, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const CASES: u32 = 2_000;

/// Zones, and an instant near which each changes its clock (or does not). Havana's repeated hour
/// is the one after midnight, Beirut's missing one too; Apia once skipped a whole day.
const PLACES: [(&str, &str); 10] = [
    ("America/New_York", "2027-03-14T07:00:00Z"),
    ("America/New_York", "2027-11-07T06:00:00Z"),
    ("Europe/Berlin", "2027-03-28T01:00:00Z"),
    ("Europe/Berlin", "2027-10-31T01:00:00Z"),
    ("Australia/Lord_Howe", "2027-04-03T15:00:00Z"),
    ("Australia/Lord_Howe", "2027-10-02T15:30:00Z"),
    ("America/Havana", "2027-11-07T05:00:00Z"),
    ("Asia/Beirut", "2027-03-27T22:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("Asia/Kathmandu", "2027-06-01T00:00:00Z"),
];

#[derive(Debug)]
struct Case {
    availability: Availability,
    /// Without buffers, as the bookings have them.
    booked: Vec<Interval>,
    search: Search,
    now: DateTime<Utc>,
}

fn case() -> impl Strategy<Value = Case> {
    let place = prop::sample::select(&PLACES[..]);
    let span = (-2_000..0_i64, 30..2_400_i64);
    let ask = (15..180_i32, prop::sample::select(&[10_i32, 15, 20, 25, 30, 45, 60, 90][..]));
    let booked = prop::collection::vec((-3_000..3_000_i64, 5..200_i64), 0..8);
    let now = -9_000..500_i64;
    (place, availability(), span, ask, booked, now).prop_map(
        |((zone, near), mut availability, (from, length), (duration, step), booked, now)| {
            let near: DateTime<Utc> = near.parse().unwrap();
            let at = |minutes| near + TimeDelta::minutes(minutes);
            let stretch = |(start, length)| Interval { start: at(start), end: at(start + length) };
            place_near(&mut availability, near, zone.parse().unwrap());
            Case {
                availability,
                booked: booked.into_iter().map(stretch).collect(),
                search: Search { window: stretch((from, length)), duration, step },
                now: at(now),
            }
        },
    )
}

/// Rules whose dates and blackouts count from the epoch, until they are placed.
fn availability() -> impl Strategy<Value = Availability> {
    let window = || (0..144_u16, 1..=144_u16).prop_map(wall_window);
    const DAYS: &[Day] = &[Day::Mo, Day::Tu, Day::We, Day::Th, Day::Fr, Day::Sa, Day::Su];
    let rule =
        (prop::sample::select(DAYS), window()).prop_map(|(day, window)| WeeklyRule { day, window });
    let weekly = prop::option::weighted(0.8, prop::collection::vec(rule, 0..30));
    let overrides =
        prop::collection::btree_map(0..6_u64, prop::collection::vec(window(), 0..4), 0..3);
    let overrides = prop::option::of(overrides.prop_map(|days| {
        let day = |(day, windows)| DateOverride {
            date: DateTime::UNIX_EPOCH.date_naive() + Days::new(day),
            windows,
        };
        days.into_iter().map(day).collect()
    }));
    let blackout = (-3_000..3_000_i64, 1..900_i64).prop_map(|(start, length)| {
        let at = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        Interval { start: at(start), end: at(start + length) }
    });
    let blackouts = prop::option::of(prop::collection::vec(blackout, 0..3));
    let buffers = (prop::option::of(0..60_i32), prop::option::of(0..60_i32));
    let limits = (
        prop::option::of(0..9_000_i32),
        prop::option::of(1..12_000_i32),
        prop::option::weighted(0.3, 1..60_i32),
        prop::option::weighted(0.3, 60..240_i32),
        prop::option::of(prop::sample::select(&[5_i32, 10, 15, 20, 60][..])),
    );
    (weekly, overrides, blackouts, buffers, limits).prop_map(
        |(weekly, overrides, blackouts, buffers, limits)| Availability {
            time_zone: None,
            weekly,
            overrides,
            blackouts,
            buffer_before: buffers.0,
            buffer_after: buffers.1,
            min_notice: limits.0,
            max_advance: limits.1,
            min_duration: limits.2,
            max_duration: limits.3,
            slot_step: limits.4,
        },
    )
}

/// Hours in steps of ten minutes.
fn wall_window((start, length): (u16, u16)) -> WallWindow {
    let time = |tens: u16| {
        let minutes = tens.min(144) * 10;
        WallTime::parse(&format!("{:02}:{:02}", minutes / 60, minutes % 60)).unwrap()
    };
    WallWindow { start: time(start), end: time(start + length) }
}

fn place_near(availability: &mut Availability, near: DateTime<Utc>, zone: Tz) {
    availability.time_zone = Some(zone);
    for day in availability.overrides.iter_mut().flatten() {
        let day_number = day.date - DateTime::UNIX_EPOCH.date_naive();
        day.date = near.date_naive() + day_number - TimeDelta::days(2);
    }
    for blackout in availability.blackouts.iter_mut().flatten() {
        blackout.start = near + (blackout.start - DateTime::UNIX_EPOCH);
        blackout.end = near + (blackout.end - DateTime::UNIX_EPOCH);
    }
}

/// What becomes of a booking of `wanted`, told without the search for slots.
fn fate(case: &Case, wanted: Interval) -> &'static str {
    if wanted.start < case.search.window.start || case.search.window.end < wanted.end {
        return "outside the search";
    }
    if wanted.start <= case.now {
        return "past";
    }
    if let Err(problem) = case.availability.check(wanted, case.now) {
        return problem.code.as_str();
    }
    let mut taken = case.booked.iter().map(|booked| case.availability.blocked(*booked));
    let blocked = case.availability.blocked(wanted);
    if taken.any(|taken| taken.overlaps(&blocked)) { "taken" } else { "free" }
}

#[test]
fn a_grid_point_is_a_slot_exactly_when_it_can_be_booked() {
    let fates: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    let with_slots = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let agree = |case: Case| {
        let length = TimeDelta::minutes(case.search.duration.into());
        let step = TimeDelta::minutes(case.search.step.into());
        let mut bookable = Vec::new();
        for window in case.availability.windows(case.search.window) {
            let mut start = window.start;
            while start < window.end {
                let wanted = Interval { start, end: start + length };
                let fate = fate(&case, wanted);
                *fates.borrow_mut().entry(fate).or_default() += 1;
                // On the grid of another window that overlaps this one, perhaps; not on this.
                let own_grid = case.availability.slot_step.is_none_or(|required| {
                    (start - window.start).num_minutes() % i64::from(required) == 0
                });
                if fate == "free" && own_grid {
                    bookable.push(wanted);
                }
                start += step;
            }
        }
        bookable.sort_by_key(|slot| slot.start);
        bookable.dedup();
        let taken: Vec<_> = case.booked.iter().map(|b| case.availability.blocked(*b)).collect();
        let found = slots(&case.availability, &taken, &case.search, case.now);
        with_slots.set(with_slots.get() + u32::from(!found.is_empty()));
        prop_assert_eq!(found, bookable);
        Ok(())
    };
    runner.run(&case(), agree).unwrap();
    let fates = fates.into_inner();
    assert!(with_slots.get() > CASES / 10, "only {} cases had slots", with_slots.get());
    for fate in [
        "free",
        "taken",
        "past",
        "outside the search",
        "DURATION_OUT_OF_RANGE",
        "TOO_SOON",
        "TOO_FAR_AHEAD",
        "OUTSIDE_WORKING_HOURS",
        "BLACKED_OUT",
        "NOT_ALIGNED",
    ] {
        assert!(fates.get(fate).is_some_and(|seen| *seen > 500), "{fate} is rare: {fates:?}");
    }
}
