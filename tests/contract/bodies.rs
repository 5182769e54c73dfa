//! A body is taken by its schema when it is taken by the door, and only then; where JSON Schema
//! cannot say it, the last table does.

use booking::booking::command::Change;
use booking::booking::fields::parse_uuid;
use booking::booking::problem::FieldError;
use serde_json::{Map, Value, json};

use crate::files::{kept, validator};

const ID: &str = "018f3c1e-7c1a-7000-8000-0123456789ab";
const START: &str = "2031-03-03T09:00:00Z";
const END: &str = "2031-03-03T10:30:00+01:00";

/// A kind, and what is changed of a good body of it.
struct Case {
    kind: &'static str,
    fields: Value,
}

fn with(kind: &'static str, fields: Value) -> Case {
    Case { kind, fields }
}

impl Case {
    /// The string "absent" takes a field away.
    fn body(&self) -> Map<String, Value> {
        let body = match self.kind {
            "create" => json!({ "userId": ID, "startTime": START, "endTime": END }),
            "reschedule" => json!({ "bookingId": ID, "startTime": START, "endTime": END }),
            _ => json!({ "bookingId": ID }),
        };
        let mut body = body.as_object().unwrap().clone();
        for (field, value) in self.fields.as_object().unwrap() {
            match value.as_str() {
                Some("absent") => drop(body.remove(field)),
                _ => drop(body.insert(field.clone(), value.clone())),
            }
        }
        body
    }

    fn fits_its_schema(&self) -> bool {
        let schema = kept(&format!("commands/{}.v1.json", self.kind));
        validator(&schema).is_valid(&self.body().into())
    }

    fn is_parsed(&self) -> bool {
        let mut body = self.body();
        fn is_ok<T>(parsed: Result<T, Vec<FieldError>>) -> bool {
            parsed.is_ok()
        }
        if self.kind == "create" {
            return is_ok(Change::parse_create(&body));
        }
        let booking = body.remove("bookingId");
        let names_one = booking.is_some_and(|id| id.as_str().and_then(parse_uuid).is_some());
        names_one
            && match self.kind {
                "confirm" => is_ok(Change::parse_confirm(&body)),
                "cancel" => is_ok(Change::parse_cancel(&body)),
                "reschedule" => is_ok(Change::parse_reschedule(&body)),
                other => panic!("{other} is no kind"),
            }
    }
}

fn keys(count: usize) -> Value {
    (0..count).map(|number| (format!("k{number}"), number.into())).collect::<Map<_, _>>().into()
}

const KINDS: [&str; 4] = ["create", "confirm", "cancel", "reschedule"];

fn good() -> Vec<Case> {
    let a = |count: usize| "a".repeat(count);
    let urls = [
        json!(null),
        json!("https://hooks.example/booked"),
        json!("http://127.0.0.1:8080/?a=b"),
        json!(format!("https://hooks.example/{}", a(2026))),
    ];
    let callback = |kind| urls.clone().map(|url| with(kind, json!({ "callbackUrl": url })));
    let mut good = vec![
        with("create", json!({})),
        with("create", json!({ "userId": ID.to_uppercase() })),
        with(
            "create",
            json!({ "startTime": "1970-01-01T00:00:00Z" , "endTime": "1970-01-02T00:00:00Z" }),
        ),
        with("create", json!({ "startTime": "2031-03-03T09:00:00.123456789+11:30" })),
        with("create", json!({ "metadata": null, "hold": null })),
        with("create", json!({ "metadata": {} })),
        with("create", json!({ "metadata": { "a": "b", "c": 1.5, "d": true, "e": null } })),
        with("create", json!({ "metadata": keys(50) })),
        with("create", json!({ "metadata": { a(40): "ü".repeat(500) } })),
        with("create", json!({ "hold": 30 })),
        with("create", json!({ "hold": 1800 })),
        with("create", json!({ "hold": 60.0 })),
        with("confirm", json!({})),
        with("cancel", json!({})),
        with("cancel", json!({ "reason": null })),
        with("cancel", json!({ "reason": "" })),
        with("cancel", json!({ "reason": "ü".repeat(500) })),
        with("reschedule", json!({})),
    ];
    good.extend(KINDS.into_iter().flat_map(callback));
    good
}

fn bad() -> Vec<Case> {
    let a = |count: usize| "a".repeat(count);
    let mut bad = vec![
        with("create", json!({ "userId": null })),
        with("create", json!({ "userId": 1 })),
        with("create", json!({ "userId": "" })),
        with("create", json!({ "userId": ID.replace('-', "") })),
        with("create", json!({ "userId": format!("{{{ID}}}") })),
        with("create", json!({ "bookingId": ID })),
        with("create", json!({ "metadata": [] })),
        with("create", json!({ "metadata": "a" })),
        with("create", json!({ "metadata": { "a": {} } })),
        with("create", json!({ "metadata": { "a": [1] } })),
        with("create", json!({ "metadata": { "": 1 } })),
        with("create", json!({ "metadata": { a(41): 1 } })),
        with("create", json!({ "metadata": { "a": a(501) } })),
        with("create", json!({ "metadata": { "a": "\0" } })),
        with("create", json!({ "metadata": { "\0": "a" } })),
        with("create", json!({ "metadata": keys(51) })),
        with("create", json!({ "hold": 29 })),
        with("create", json!({ "hold": 1801 })),
        with("create", json!({ "hold": 60.5 })),
        with("create", json!({ "hold": "60" })),
        with("create", json!({ "hold": true })),
        with("confirm", json!({ "reason": "none" })),
        with("cancel", json!({ "reason": a(501) })),
        with("cancel", json!({ "reason": 5 })),
        with("cancel", json!({ "reason": "\0" })),
        with("cancel", json!({ "reasons": "a" })),
        with("reschedule", json!({ "hold": 60 })),
        with("reschedule", json!({ "metadata": {} })),
    ];
    for kind in ["create", "reschedule"] {
        for field in ["startTime", "endTime"] {
            for time in [
                json!("absent"),
                json!(null),
                json!(1_930_000_000),
                json!(""),
                json!("2031-03-03"),
                json!("2031-03-03T09:00:00"),
                json!("2031-03-03T09:00Z"),
                json!("2031-02-30T09:00:00Z"),
                json!("1969-12-31T23:00:00Z"),
            ] {
                bad.push(with(kind, json!({ field: time })));
            }
        }
    }
    bad.push(with("create", json!({ "userId": "absent" })));
    bad.extend(bad_callbacks());
    for kind in ["confirm", "cancel", "reschedule"] {
        for id in [json!("absent"), json!(null), json!(7), json!("B-7")] {
            bad.push(with(kind, json!({ "bookingId": id })));
        }
    }
    bad
}

fn bad_callbacks() -> Vec<Case> {
    let mut bad = Vec::new();
    for kind in KINDS {
        for url in [
            json!(7),
            json!(""),
            json!("/booked"),
            json!("hooks.example/booked"),
            json!("mailto:a@hooks.example"),
            json!("https://"),
            json!("urn:booking"),
            json!(format!("https://hooks.example/{}", "a".repeat(2027))),
        ] {
            bad.push(with(kind, json!({ "callbackUrl": url })));
        }
        bad.push(with(kind, json!({ "callbackURL": "https://hooks.example/booked" })));
    }
    bad
}

#[test]
fn a_good_body_is_taken_by_both() {
    for case in good() {
        assert!(case.is_parsed(), "{}: the door refuses {:?}", case.kind, case.fields);
        assert!(case.fits_its_schema(), "{}: the schema refuses {:?}", case.kind, case.fields);
    }
}

#[test]
fn a_bad_body_is_refused_by_both() {
    for case in bad() {
        assert!(!case.is_parsed(), "{}: the door takes {:?}", case.kind, case.fields);
        assert!(!case.fits_its_schema(), "{}: the schema takes {:?}", case.kind, case.fields);
    }
}

#[test]
fn only_the_door_knows_how_two_times_compare_and_how_large_all_is() {
    let large: Map<_, _> = (0..50).map(|n| (format!("k{n}"), "ü".repeat(500).into())).collect();
    for case in [
        with("create", json!({ "endTime": START })),
        with("create", json!({ "endTime": "2031-04-04T09:00:01Z" })),
        with("create", json!({ "metadata": large })),
        with("reschedule", json!({ "endTime": START })),
        with("reschedule", json!({ "endTime": "2031-04-04T09:00:01Z" })),
    ] {
        assert!(!case.is_parsed(), "{}: the door takes {:?}", case.kind, case.fields);
        assert!(case.fits_its_schema(), "{}: the schema refuses {:?}", case.kind, case.fields);
    }
}
