//! The table of paths, methods, headers and sizes that must be refused.

use super::{BOOKING, Case, INVALID, USER, base_body, cancel, case, create, get, reschedule};
use crate::wire::Request;

/// Every case of a wrong head, and of too much body.
pub fn cases() -> impl Iterator<Item = Case> {
    let groups = [
        wrong_paths(),
        wrong_methods(),
        wrong_callers(),
        wrong_keys(),
        wrong_correlations(),
        wrong_types_and_sizes(),
    ];
    groups.into_iter().flatten()
}

fn wrong_paths() -> Vec<Case> {
    let bare = BOOKING.replace('-', "");
    let ids = [
        ("a word", "first"),
        ("a number", "1"),
        ("in braces", "%7B018f3c1e-7c1a-7000-8000-0000000000b1%7D"),
        ("as a urn", "urn:uuid:018f3c1e-7c1a-7000-8000-0000000000b1"),
        ("without hyphens", &bare),
        ("with a NUL", "018f3c1e-7c1a-7000-8000-0000000000b%00"),
        ("not UTF-8", "%ff%fe"),
        ("too long", &format!("{BOOKING}0")),
        ("climbing", "..%2f..%2fetc%2fpasswd"),
        ("a query in disguise", "1%27%20or%20%271%27=%271"),
    ];
    let mut cases = Vec::new();
    for (name, id) in ids {
        for (verb, request) in [
            ("read", get(&format!("/api/bookings/{id}"))),
            ("poll", get(&format!("/api/commands/{id}"))),
            ("cancel", cancel("{}").path(&format!("/api/bookings/{id}/cancel"))),
            ("move", create().path(&format!("/api/bookings/{id}/reschedule"))),
        ] {
            cases.push(case(&format!("{verb}: id {name}"), request, 400, INVALID, "id"));
        }
    }
    for path in [
        "/",
        "/api",
        "/api/bookings/",
        "/API/bookings",
        "/api//bookings",
        "/api/bookings/a/b/c",
        "/api/%ff",
        "/favicon.ico",
        "/api/bookings/018f3c1e-7c1a-7000-8000-0000000000b1",
        "/api/commands/018f3c1e-7c1a-7000-8000-0000000000b1",
    ] {
        cases.push(case(&format!("nothing at {path}"), get(path), 404, "NOT_FOUND", ""));
    }
    cases
}

fn wrong_methods() -> Vec<Case> {
    let cancelling = format!("/api/bookings/{BOOKING}/cancel");
    let booking = format!("/api/bookings/{BOOKING}");
    let command = format!("/api/commands/{BOOKING}");
    let webhook = format!("/api/webhooks/{BOOKING}");
    [
        ("GET", "/api/bookings", "POST"),
        ("PUT", "/api/bookings", "POST"),
        ("DELETE", "/api/bookings", "POST"),
        ("TRACE", "/api/bookings", "POST"),
        ("BREW", "/api/bookings", "POST"),
        ("post", "/api/bookings", "POST"),
        ("GET", &cancelling, "POST"),
        ("PATCH", &booking, "GET,HEAD"),
        ("DELETE", &booking, "GET,HEAD"),
        ("POST", &command, "GET,HEAD"),
        ("POST", "/health", "GET,HEAD"),
        ("DELETE", "/health/ready", "GET,HEAD"),
        ("PUT", "/metrics", "GET,HEAD"),
        ("DELETE", "/api/webhooks", "POST,GET,HEAD"),
        ("PUT", &webhook, "GET,HEAD,PATCH,DELETE"),
    ]
    .into_iter()
    .map(|(method, path, allow)| {
        let request = create().path(path).method(method);
        let name = format!("{method} {path}");
        Case { allow, ..case(&name, request, 405, "METHOD_NOT_ALLOWED", "") }
    })
    .collect()
}

fn wrong_callers() -> Vec<Case> {
    let named = |name: &str, request: Request| {
        case(&format!("X-User-ID: {name}"), request, 401, "UNAUTHENTICATED", "")
    };
    let user = |value: &str| create().with("X-User-ID", value);
    vec![
        named("missing", create().without("X-User-ID")),
        named("missing on a read", get("/api/bookings/1").without("X-User-ID")),
        named("empty", user("")),
        named("a name", user("alice")),
        named("in braces", user(&format!("{{{USER}}}"))),
        named("as a urn", user(&format!("urn:uuid:{USER}"))),
        named("without hyphens", user(&USER.replace('-', ""))),
        named("not ASCII", user(&format!("{}\u{e9}", &USER[..34]))),
        named("two in one", user(&format!("{USER}, {USER}"))),
        named("twice", create().also("X-User-ID", USER)),
        named("twice, differing", create().also("X-User-ID", BOOKING)),
    ]
}

fn wrong_keys() -> Vec<Case> {
    const KEY: &str = "Idempotency-Key";
    let named =
        |name: &str, request: Request| case(&format!("{KEY}: {name}"), request, 400, INVALID, KEY);
    let key = |value: &str| create().with(KEY, value);
    let none = create().without(KEY);
    let moved = reschedule(&base_body().to_string()).with(KEY, "two words");
    vec![
        case("no idempotency key", none.clone(), 400, "IDEMPOTENCY_KEY_MISSING", ""),
        named("empty", key("")),
        named("256 characters", key(&"k".repeat(256))),
        named("256 characters, quoted", key(&format!("\"{}\"", "k".repeat(256)))),
        named("256 under the other name", none.with("X-Idempotency-Key", "k".repeat(256))),
        named("not ASCII", key("k\u{e9}y")),
        named("a blank", key("two words")),
        named("a tab", key("two\twords")),
        named("an open quote", key("\"key")),
        named("nothing between quotes", key("\"\"")),
        named("an unknown escape", key(r#""k\ey""#)),
        named("a quote in quotes", key(r#""k"ey""#)),
        named("twice, differing", create().also(KEY, "another")),
        named("two names, differing", create().with("X-Idempotency-Key", "another")),
        named("one of two is empty", create().with("X-Idempotency-Key", "")),
        named("a blank, on a reschedule", moved),
    ]
}

fn wrong_correlations() -> Vec<Case> {
    let long = "c".repeat(129);
    [("empty", ""), ("129 characters", &long), ("a blank", "a b"), ("not ASCII", "caf\u{e9}")]
        .into_iter()
        .map(|(name, value)| {
            let request = create().with("X-Correlation-ID", value);
            let name = format!("X-Correlation-ID: {name}");
            case(&name, request, 400, INVALID, "X-Correlation-ID")
        })
        .collect()
}

fn wrong_types_and_sizes() -> Vec<Case> {
    let typed = |name: &str, request: Request| {
        case(&format!("Content-Type: {name}"), request, 415, "UNSUPPORTED_MEDIA_TYPE", "")
    };
    let kind = |value: &str| create().with("Content-Type", value);
    let large = |name: &str, request: Request| {
        case(&format!("size: {name}"), request, 413, "PAYLOAD_TOO_LARGE", "")
    };
    let over = format!("{}{}", base_body(), " ".repeat(256 * 1024));
    let over = &over[..256 * 1024 + 1];
    vec![
        typed("missing", create().without("Content-Type")),
        typed("empty", kind("")),
        typed("text/plain", kind("text/plain")),
        typed("a form", kind("application/x-www-form-urlencoded").body("userId=1&hold=30")),
        typed("application/jsonp", kind("application/jsonp")),
        typed("a JSON patch", kind("application/json-patch+json")),
        typed("not ASCII", kind("application/json; \u{e9}")),
        typed("text/plain on a cancel", cancel("{}").with("Content-Type", "text/plain")),
        large("256 KiB and a byte", create().body(over)),
        large("256 KiB and a byte, chunked", create().body(over).chunked()),
        large("4 MiB", create().body("x".repeat(4 << 20))),
        large("4 MiB, chunked", create().body("x".repeat(4 << 20)).chunked()),
    ]
}
