//! What the clock changes of 2027 do to hours, slots and notice, zone by zone.

use booking::booking::Interval;
use booking::booking::availability::Availability;
use booking::booking::problem::Code;
use booking::booking::slots::{Search, slots};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

fn availability(body: Value) -> Availability {
    Availability::parse(body.as_object().unwrap()).unwrap()
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The windows around noon (UTC) of a date that is open from `start` to `end` and alone so.
fn windows(zone: &str, date: &str, start: &str, end: &str) -> Vec<Interval> {
    let day = json!({ "date": date, "windows": [{ "start": start, "end": end }] });
    let noon = time(&format!("{date}T12:00:00Z"));
    availability(json!({ "timeZone": zone, "weekly": [], "overrides": [day] }))
        .windows(Interval { start: noon, end: noon })
}

#[test]
fn hours_on_the_days_when_clocks_change() {
    for (zone, date, hours, start, end) in [
        // The hour from 02:00 is skipped in spring and repeated (from 01:00) in autumn.
        ("America/New_York", "2027-03-14", "00:00-06:00", "05:00", "10:00"), // 5 h
        ("America/New_York", "2027-03-14", "02:30-04:00", "07:00", "08:00"), // from 03:00
        ("America/New_York", "2027-03-14", "01:00-02:30", "06:00", "07:00"), // to 03:00
        ("America/New_York", "2027-03-14", "02:15-03:15", "07:00", "07:15"),
        ("America/New_York", "2027-11-07", "00:00-06:00", "04:00", "11:00"), // 7 h
        ("America/New_York", "2027-11-07", "01:30-03:00", "05:30", "08:00"), // from the first 01:30
        ("America/New_York", "2027-11-07", "00:00-01:30", "04:00", "06:30"), // to the second
        ("America/New_York", "2027-11-08", "00:00-06:00", "05:00", "11:00"), // 6 h again
        ("Europe/Berlin", "2027-03-28", "00:00-06:00", "-23:00", "04:00"),
        ("Europe/Berlin", "2027-03-28", "02:30-02:45", "", ""), // skipped
        ("Europe/Berlin", "2027-03-28", "09:00-17:00", "07:00", "15:00"),
        ("Europe/Berlin", "2027-10-31", "00:00-06:00", "-22:00", "05:00"),
        ("Europe/Berlin", "2027-10-31", "02:00-02:30", "00:00", "01:30"), // 1.5 h
        // Half an hour, from 02:00 in spring and to 01:30 in autumn.
        ("Australia/Lord_Howe", "2027-10-03", "00:00-06:00", "-13:30", "-19:00"), // 5.5 h
        ("Australia/Lord_Howe", "2027-10-03", "02:15-02:25", "", ""),
        ("Australia/Lord_Howe", "2027-04-04", "00:00-06:00", "-13:00", "-19:30"), // 6.5 h
        ("Australia/Lord_Howe", "2027-04-04", "01:30-01:45", "-14:30", "-15:15"),
        // No changes.
        ("America/Phoenix", "2027-03-14", "00:00-06:00", "07:00", "13:00"),
        ("Asia/Kathmandu", "2027-03-28", "00:00-06:00", "-18:15", "00:15"),
        ("Asia/Kathmandu", "2027-03-28", "18:00-24:00", "12:15", "18:15"),
    ] {
        let (from, to) = hours.split_once('-').unwrap();
        let expected =
            (!start.is_empty()).then(|| Interval { start: on(date, start), end: on(date, end) });
        let found = windows(zone, date, from, to);
        assert_eq!(found, Vec::from_iter(expected), "{zone} {date} {hours}");
    }
}

/// A time of day in UTC; with a minus sign, of the day before.
fn on(date: &str, time_of_day: &str) -> DateTime<Utc> {
    match time_of_day.strip_prefix('-') {
        Some(before) => time(&format!("{date}T{before}:00Z")) - TimeDelta::days(1),
        None => time(&format!("{date}T{time_of_day}:00Z")),
    }
}

#[test]
fn slots_step_over_the_change_in_elapsed_time() {
    for (date, starts) in [
        ("2027-03-28", vec!["00:30+01:00", "01:15+01:00", "03:00+02:00"]),
        (
            "2027-10-31",
            vec!["00:30+02:00", "01:15+02:00", "02:00+02:00", "02:45+02:00", "02:30+01:00"],
        ),
    ] {
        let availability = availability(json!({
            "timeZone": "Europe/Berlin", "slotStep": 45, "weekly": [],
            "overrides": [{ "date": date, "windows": [{ "start": "00:30", "end": "03:45" }] }]
        }));
        let window = Interval {
            start: time(&format!("{date}T00:00:00Z")) - TimeDelta::hours(6),
            end: time(&format!("{date}T12:00:00Z")),
        };
        let search = Search { window, duration: 45, step: 45 };
        let found = slots(&availability, &[], &search, time("2027-01-01T00:00:00Z"));
        let starts = starts.iter().map(|start| {
            let (clock, offset) = start.split_at(5);
            time(&format!("{date}T{clock}:00{offset}"))
        });
        assert_eq!(found.iter().map(|slot| slot.start).collect::<Vec<_>>(), Vec::from_iter(starts));
    }
}

/// Notice is elapsed time: a day before 10:00 on the day of the change is 09:00 in spring.
#[test]
fn notice_that_lands_on_the_day_of_the_change_is_elapsed_time() {
    let day = availability(json!({ "timeZone": "America/New_York", "minNotice": 24 * 60 }));
    let week = availability(json!({ "timeZone": "America/New_York", "maxAdvance": 7 * 24 * 60 }));
    let half_hour = |start: &str| {
        let start = time(start);
        Interval { start, end: start + TimeDelta::minutes(30) }
    };
    for (asked_at, start, soon) in [
        ("2027-03-13T09:00:00-05:00", "2027-03-14T09:59:00-04:00", true),
        ("2027-03-13T09:00:00-05:00", "2027-03-14T10:00:00-04:00", false),
        ("2027-11-06T09:00:00-04:00", "2027-11-07T07:59:00-05:00", true),
        ("2027-11-06T09:00:00-04:00", "2027-11-07T08:00:00-05:00", false),
    ] {
        let refused = day.check(half_hour(start), time(asked_at)).err();
        assert_eq!(refused.as_ref().map(|p| p.code), soon.then_some(Code::TooSoon), "{start}");
        if let Some(problem) = refused {
            let earliest = time(asked_at) + TimeDelta::days(1);
            let local = earliest.with_timezone(&chrono_tz::America::New_York).to_rfc3339();
            assert!(problem.detail.contains(&local), "{}", problem.detail);
        }
    }
    let asked_at = time("2027-03-07T09:00:00-05:00");
    assert!(week.check(half_hour("2027-03-14T10:00:00-04:00"), asked_at).is_ok());
    let refused = week.check(half_hour("2027-03-14T10:01:00-04:00"), asked_at).unwrap_err();
    assert_eq!(refused.code, Code::TooFarAhead);
    assert!(refused.detail.contains("2027-03-14T10:00:00-04:00"), "{}", refused.detail);
}

#[test]
fn hours_that_touch_are_one_and_hours_that_do_not_are_two() {
    let night = availability(json!({
        "timeZone": "Europe/Berlin",
        "weekly": [{ "day": "SA", "start": "22:00", "end": "24:00" },
                   { "day": "SU", "start": "00:00", "end": "04:00" },
                   { "day": "SU", "start": "04:01", "end": "08:00" }]
    }));
    let asked_at = time("2027-01-01T00:00:00Z");
    let check = |start: &str, end: &str| {
        night.check(Interval { start: time(start), end: time(end) }, asked_at)
    };
    assert!(check("2027-03-27T22:00:00+01:00", "2027-03-28T04:00:00+02:00").is_ok());
    let refused = check("2027-03-28T03:30:00+02:00", "2027-03-28T04:01:00+02:00").unwrap_err();
    assert_eq!(refused.code, Code::OutsideWorkingHours);
    let open = "2027-03-27T22:00:00+01:00 to 2027-03-28T04:00:00+02:00";
    assert!(refused.detail.contains(open), "{}", refused.detail);
    let closed = check("2027-03-24T10:00:00+01:00", "2027-03-24T11:00:00+01:00").unwrap_err();
    assert!(closed.detail.contains("closed on that day"), "{}", closed.detail);

    let always = availability(json!({ "timeZone": "Europe/Berlin", "slotStep": 45 }));
    let over_midnight = |clock: &str| Interval {
        start: time(&format!("2027-03-28T{clock}:00+02:00")),
        end: time("2027-03-29T01:00:00+02:00"),
    };
    // On the day of the change, 22:00 is 21 h after midnight: 28 steps of 45 minutes.
    assert!(always.check(over_midnight("22:00"), asked_at).is_ok());
    let refused = always.check(over_midnight("22:01"), asked_at).unwrap_err();
    assert_eq!(refused.code, Code::NotAligned);
    for nearest in ["2027-03-28T22:00:00+02:00", "2027-03-28T22:45:00+02:00"] {
        assert!(refused.detail.contains(nearest), "{}", refused.detail);
    }
}
