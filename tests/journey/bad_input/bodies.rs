//! The table of bodies that must be refused: what is wrong, and how the answer names it.
//!
//! Bodies are texts where JSON itself is broken, and edits of the base body elsewhere.

use serde_json::{Map, Value, json};

use super::{
    BOOKING, Case, INVALID, USER, base_body, cancel, case, create, full, keys, reschedule,
};
use crate::webhooks::refusals::FORBIDDEN_URLS;

/// Every case of a wrong body.
pub fn cases() -> impl Iterator<Item = Case> {
    let groups = [
        broken_bodies(),
        wrong_users(),
        wrong_shapes(),
        malformed_times(),
        impossible_times(),
        wrong_metadata(),
        wrong_changes(),
        wrong_callbacks(),
    ];
    groups.into_iter().flatten()
}

fn broken_bodies() -> Vec<Case> {
    let base = base_body().to_string();
    let with_note = |text: &str| base.replacen('{', &format!(r#"{{"metadata":{{{text}}},"#), 1);
    let not_utf8 = {
        let mut bytes = with_note(r#""a":"?""#).into_bytes();
        let place = bytes.iter().position(|byte| *byte == b'?').unwrap();
        bytes[place] = 0xff;
        bytes
    };
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("half an object", "{".into()),
        ("cut off in a text", base[..base.len() - 5].into()),
        ("plain words", "a table at nine".into()),
        ("null", "null".into()),
        ("a number", "17".into()),
        ("a text", r#""text""#.into()),
        ("an array", format!("[{base}]").into()),
        ("a key twice", base.replacen('{', &format!(r#"{{"userId":"{USER}","#), 1).into()),
        ("a key twice within", with_note(r#""a":1,"\u0061":2"#).into()),
        ("two objects", format!("{base}{base}").into()),
        ("something after the object", format!("{base};").into()),
        ("a trailing comma", base.replace('}', ",}").into()),
        ("single quotes", base.replace('"', "'").into()),
        ("a comment", format!("/* new */ {base}").into()),
        ("a byte order mark", format!("\u{feff}{base}").into()),
        ("UTF-16", base.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("a byte that is not UTF-8", not_utf8),
        ("a form", "userId=1&startTime=2".into()),
        ("only blanks", "   ".into()),
        ("a lone high surrogate", with_note(r#""a":"\ud800""#).into()),
        ("a lone low surrogate", with_note(r#""a":"\udc00""#).into()),
        ("surrogates in the wrong order", with_note(r#""a":"\udc00\ud800""#).into()),
        ("a lone surrogate in a key", with_note(r#""\ud800":"a""#).into()),
        ("half an escape", with_note(r#""a":"\u00""#).into()),
        ("a raw NUL", with_note("\"a\":\"\0\"").into()),
        ("a raw line break in a text", with_note("\"a\":\"\n\"").into()),
        ("1e400", with_note(r#""a":1e400"#).into()),
        ("NaN", with_note(r#""a":NaN"#).into()),
        ("a leading zero", with_note(r#""a":007"#).into()),
        ("arrays 200 deep", with_note(&format!(r#""a":{}"#, nested(200))).into()),
        ("arrays 100000 deep", nested(100_000).into()),
    ];
    let refused = |(name, body): (&str, Vec<u8>)| {
        case(&format!("body: {name}"), create().body(body), 400, INVALID, "body")
    };
    bodies.into_iter().map(refused).collect()
}

fn wrong_users() -> Vec<Case> {
    let bare = USER.replace('-', "");
    let values = [
        ("null", Value::Null),
        ("a number", json!(1)),
        ("an array", json!([USER])),
        ("an object", json!({ "id": USER })),
        ("empty", json!("")),
        ("a name", json!("alice")),
        ("in braces", json!(format!("{{{USER}}}"))),
        ("as a urn", json!(format!("urn:uuid:{USER}"))),
        ("without hyphens", json!(bare)),
        ("hyphens moved", json!(format!("{}-{}-{}-----", &bare[..8], &bare[8..20], &bare[20..31]))),
        ("a digit that is none", json!(USER.replace('f', "g"))),
        ("with blanks", json!(format!(" {USER} "))),
        ("with a NUL", json!(format!("{}\0", &USER[..35]))),
    ];
    let mut cases: Vec<_> = values
        .into_iter()
        .map(|(name, value)| {
            let name = format!("userId: {name}");
            case(&name, create().set("userId", value), 400, INVALID, "userId")
        })
        .collect();
    cases.push(case("userId: missing", create().lacking("userId"), 400, INVALID, "userId"));
    let another = create().set("userId", BOOKING);
    cases.push(case("userId: another's", another, 403, "FORBIDDEN", ""));
    cases
}

fn wrong_shapes() -> Vec<Case> {
    let two = create().set("userId", 1).set("startTime", "2032-12-21T09:00:00");
    vec![
        case("no body at all", create().body(""), 400, INVALID, "startTime"),
        case("an empty object", create().body("{}"), 400, INVALID, "endTime"),
        case("startTime missing", create().lacking("startTime"), 400, INVALID, "startTime"),
        case("endTime missing", create().lacking("endTime"), 400, INVALID, "endTime"),
        case("startTime null", create().set("startTime", Value::Null), 400, INVALID, "startTime"),
        case("a field in other letters", create().set("starttime", 1), 400, INVALID, "starttime"),
        case("a field of the server's", create().set("status", "X"), 400, INVALID, "status"),
        case("a field named __proto__", create().set("__proto__", 1), 400, INVALID, "__proto__"),
        case("malformed outranks unacceptable", two.clone(), 400, INVALID, "userId"),
        case("both mistakes are named", two, 400, INVALID, "startTime"),
    ]
}

fn malformed_times() -> Vec<Case> {
    let texts = [
        ("a day alone", "2032-12-21"),
        ("a time alone", "09:00:00Z"),
        ("words", "tomorrow at nine"),
        ("empty", ""),
        ("the 30th of February", "2032-02-30T09:00:00Z"),
        ("the 29th of February of no leap year", "2033-02-29T09:00:00Z"),
        ("month 13", "2032-13-01T09:00:00Z"),
        ("month 0", "2032-00-10T09:00:00Z"),
        ("hour 24", "2032-12-20T24:00:00Z"),
        ("minute 60", "2032-12-21T08:60:00Z"),
        ("second 61", "2032-12-21T08:59:61Z"),
        ("year 10000", "10000-01-01T00:00:00Z"),
        ("year +10000", "+10000-01-01T00:00:00Z"),
        ("a year of two digits", "32-12-21T09:00:00Z"),
        ("a negative year", "-2032-12-21T09:00:00Z"),
        ("an offset of a day", "2032-12-21T09:00:00+24:00"),
        ("the name of a zone", "2032-12-21T09:00:00 Europe/Berlin"),
        ("a zone in brackets", "2032-12-21T09:00:00Z[UTC]"),
        ("the form of e-mail", "Tue, 21 Dec 2032 09:00:00 +0000"),
        ("a comma for the point", "2032-12-21T09:00:00,5Z"),
        ("other digits", "\u{662}\u{660}\u{663}\u{662}-12-21T09:00:00Z"),
        ("a NUL", "2032-12-21T09:00:00Z\0"),
        ("blanks around", " 2032-12-21T09:00:00Z "),
        ("seconds since 1970", "1987236000"),
    ];
    let others = [
        ("a number", json!(1_987_236_000)),
        ("true", json!(true)),
        ("an array", json!(["2032-12-21T09:00:00Z"])),
        ("an object", json!({ "date": "2032-12-21T09:00:00Z" })),
    ];
    let texts = texts.into_iter().map(|(name, text)| (name, json!(text)));
    texts
        .chain(others)
        .map(|(name, value)| {
            let name = format!("startTime: {name}");
            case(&name, create().set("startTime", value), 400, INVALID, "startTime")
        })
        .collect()
}

fn impossible_times() -> Vec<Case> {
    const TIME: &str = "INVALID_TIME";
    const LONG: &str = "DURATION_OUT_OF_RANGE";
    let (nine, ten) = ("2032-12-21T09:00:00Z", "2032-12-21T10:00:00Z");
    let rows = [
        ("no zone", "2032-12-21T09:00:00", ten, TIME, "startTime"),
        ("no zone, no seconds", "2032-12-21T09:00", ten, TIME, "startTime"),
        ("no zone at the end", nine, "2032-12-21T10:00:00.5", TIME, "endTime"),
        ("end is start", nine, nine, TIME, "endTime"),
        ("end is start in another zone", nine, "2032-12-21T10:00:00+01:00", TIME, "endTime"),
        ("end before start", ten, nine, TIME, "endTime"),
        ("end before start by its zone", nine, "2032-12-21T09:30:00+01:00", TIME, "endTime"),
        (
            "less than a microsecond",
            "2032-12-21T09:00:00.0000001Z",
            "2032-12-21T09:00:00.0000009Z",
            TIME,
            "endTime",
        ),
        ("no more than a leap second", "2032-12-21T08:59:60Z", nine, TIME, "endTime"),
        ("31 days and a second", nine, "2033-01-21T09:00:01Z", LONG, "endTime"),
        ("a thousand years", nine, "3032-12-21T09:00:00Z", LONG, "endTime"),
        ("past", "2020-01-01T09:00:00Z", "2020-01-01T10:00:00Z", TIME, "startTime"),
        ("begun", "2020-01-01T09:00:00Z", "2020-01-31T10:00:00Z", TIME, "startTime"),
        ("before 1970", "1969-12-31T23:59:59Z", "1970-01-01T00:30:00Z", TIME, "startTime"),
        ("year 0", "0000-01-01T00:00:00Z", ten, TIME, "startTime"),
        ("the last day of 9999", "9999-12-31T23:00:00Z", ten, TIME, "startTime"),
        ("year 10000 by its zone", nine, "9999-12-31T23:59:59-23:59", TIME, "endTime"),
    ];
    rows.into_iter()
        .map(|(name, start, end, code, field)| {
            let request = create().set("startTime", start).set("endTime", end);
            case(&format!("times: {name}"), request, 422, code, field)
        })
        .collect()
}

fn wrong_metadata() -> Vec<Case> {
    let of = |key: &str, value: Value| Value::Object(Map::from_iter([(key.to_owned(), value)]));
    let long_key = "k".repeat(41);
    let rows = [
        ("an array", json!([]), "metadata"),
        ("a text", json!("{}"), "metadata"),
        ("a number", json!(0), "metadata"),
        ("false", json!(false), "metadata"),
        ("an object in it", json!({ "a": { "b": 1 } }), "metadata.a"),
        ("an array in it", json!({ "a": [1] }), "metadata.a"),
        ("an empty object in it", json!({ "a": {} }), "metadata.a"),
        ("the second of two values", json!({ "a": 1, "b": [] }), "metadata.b"),
        ("a NUL in a value", json!({ "a": "b\0c" }), "metadata.a"),
        ("a NUL in a key", json!({ "a\0": "b" }), "metadata.a\0"),
        ("an empty key", of("", json!(1)), "metadata."),
        ("a key of 41 characters", of(&long_key, json!(1)), K40),
        ("a key of 41 characters of 4 bytes", of(&"\u{1f600}".repeat(41), json!(1)), SMILES40),
        ("a value of 501 characters", of("a", json!("v".repeat(501))), "metadata.a"),
        ("a value of 501 wide characters", of("a", json!("\u{e9}".repeat(501))), "metadata.a"),
        ("51 keys", keys(51), "metadata"),
        ("more than 32 KiB", full("\u{e9}"), "metadata"),
        ("10000 keys", keys(10_000), "metadata"),
    ];
    rows.into_iter()
        .map(|(name, value, field)| {
            let name = format!("metadata: {name}");
            case(&name, create().set("metadata", value), 400, INVALID, field)
        })
        .collect()
}

/// A key that is too long is shown cut.
const K40: &str = "metadata.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
const SMILES40: &str =
    "metadata.😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀";

fn wrong_changes() -> Vec<Case> {
    let move_to = |start: &str, end: &str| {
        reschedule(&json!({ "startTime": start, "endTime": end }).to_string())
    };
    let (nine, ten) = ("2032-12-21T09:00:00Z", "2032-12-21T10:00:00Z");
    let with_more = json!({ "startTime": nine, "endTime": ten, "metadata": {} }).to_string();
    let reason = |reason: Value| cancel(&json!({ "reason": reason }).to_string());
    vec![
        case("cancel: an array", cancel("[]"), 400, INVALID, "body"),
        case("cancel: broken JSON", cancel("{"), 400, INVALID, "body"),
        case("cancel: a reason of 501", reason(json!("r".repeat(501))), 400, INVALID, "reason"),
        case("cancel: a NUL in the reason", reason(json!("a\0")), 400, INVALID, "reason"),
        case("cancel: a number as reason", reason(json!(1)), 400, INVALID, "reason"),
        case("cancel: an object as reason", reason(json!({})), 400, INVALID, "reason"),
        case("cancel: unknown", cancel(r#"{"why":"x"}"#), 400, INVALID, "why"),
        case("reschedule: nothing", reschedule("{}"), 400, INVALID, "startTime"),
        case("reschedule: unknown", reschedule(&with_more), 400, INVALID, "metadata"),
        case("reschedule: end is start", move_to(nine, nine), 422, "INVALID_TIME", "endTime"),
        case("reschedule: no zone", move_to(&nine[..19], ten), 422, "INVALID_TIME", "startTime"),
        case(
            "reschedule: past",
            move_to("2020-01-01T09:00:00Z", "2020-01-01T10:00:00Z"),
            422,
            "INVALID_TIME",
            "startTime",
        ),
        case(
            "reschedule: too long",
            move_to(nine, "2033-12-21T09:00:00Z"),
            422,
            "DURATION_OUT_OF_RANGE",
            "endTime",
        ),
    ]
}

fn wrong_callbacks() -> Vec<Case> {
    const FIELD: &str = "callbackUrl";
    let long = format!("https://hooks.example.org/{}", "a".repeat(2048));
    let values = [
        ("a number", json!(1)),
        ("an object", json!({ "url": "https://hooks.example.org" })),
        ("empty", json!("")),
        ("a path", json!("/booked")),
        ("no scheme", json!("hooks.example.org")),
        ("a mail address", json!("mailto:me@example.org")),
        ("more than 2048 characters", json!(long)),
    ];
    let forbidden = FORBIDDEN_URLS.map(|url| (url, json!(url)));
    let mut cases: Vec<_> = values
        .into_iter()
        .chain(forbidden)
        .map(|(name, value)| {
            let name = format!("callbackUrl: {name}");
            case(&name, create().set(FIELD, value), 400, INVALID, FIELD)
        })
        .collect();
    let local = json!({ FIELD: "https://127.0.0.1/" }).to_string();
    let confirm = create().path(&format!("/api/bookings/{BOOKING}/confirm")).body(&*local);
    let moved =
        base_body().to_string().replacen('{', &format!("{},", &local[..local.len() - 1]), 1);
    let moved = reschedule(&moved).lacking("userId");
    cases.push(case("callbackUrl: of a cancel", cancel(&local), 400, INVALID, FIELD));
    cases.push(case("callbackUrl: of a confirm", confirm, 400, INVALID, FIELD));
    cases.push(case("callbackUrl: of a move", moved, 400, INVALID, FIELD));
    cases
}
