//! What clients see of bookings and commands: lists, histories, and what has not changed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cast::Cast;
use crate::stage::{Answer, Stage, User, at};

#[tokio::test]
async fn a_list_has_every_booking_once_in_any_order_and_page_size() {
    let stage = Stage::new("pages").await;
    let cast = Cast::of(&stage).await;
    let (user, other) = (cast.user().who_waits(), cast.user().who_waits());
    // Booked in another order than they begin in, and changed in a third.
    let mut ids = Vec::new();
    for start in [300, 0, 600, 900, 100, 500, 200] {
        ids.push(user.books(start, start + 30).await.is(201).text("id").to_owned());
    }
    other.books(0, 30).await.is(201);
    for booking in [&ids[4], &ids[0]] {
        user.cancels(booking).await.is(200);
    }
    for (sort, field) in
        [("startTime", "startTime"), ("createdAt", "createdAt"), ("updatedAt", "updatedAt")]
    {
        let mut ascending = ids.clone();
        let times = list(&user, "limit=100").await;
        let time_of = |id: &String| {
            let booking = times.iter().find(|b| b["id"] == **id).unwrap();
            booking[field].as_str().unwrap().to_owned()
        };
        ascending.sort_by_key(|id| (time_of(id), id.clone()));
        for limit in [1, 2, 3, 7, 100] {
            let paged = |direction: &str| {
                let (user, query) = (user.clone(), format!("sort={direction}{sort}&limit={limit}"));
                async move { id_of_each(&list(&user, &query).await) }
            };
            assert_eq!(paged("").await, ascending, "{sort} {limit}");
            let descending: Vec<_> = ascending.iter().rev().cloned().collect();
            assert_eq!(paged("-").await, descending, "-{sort} {limit}");
        }
    }
}

#[tokio::test]
async fn a_list_holds_what_was_asked_for() {
    let stage = Stage::new("filters").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let mut ids = Vec::new();
    for start in [0, 60, 120, 180] {
        ids.push(user.books(start, start + 30).await.is(201).text("id").to_owned());
    }
    let held = user.holds(240, 270, 600).await.is(201).text("id").to_owned();
    let cancelled = user.cancels(&ids[1]).await.is(200);
    ids.push(held);
    let all = [0, 1, 2, 3, 4];
    let changed = cancelled.text("updatedAt").replace('+', "%2B");
    let time = |minute: i64| at(minute).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    for (query, expected) in [
        (String::new(), &all[..]),
        ("status=CONFIRMED".into(), &[0, 2, 3]),
        ("status=CANCELLED,PENDING".into(), &[1, 4]),
        // A window is overlapped also by what began before it; touching is not overlapping.
        (format!("from={}&to={}", time(75), time(130)), &[1, 2]),
        (format!("from={}&to={}", time(90), time(120)), &[]),
        (format!("from={}", time(190)), &[3, 4]),
        (format!("to={}", time(61)), &[0, 1]),
        (format!("updatedSince={changed}"), &[1]),
        (format!("status=PENDING&from={}", time(0)), &[4]),
    ] {
        let expected: BTreeSet<_> = expected.iter().map(|i: &usize| ids[*i].clone()).collect();
        let seen: BTreeSet<_> = id_of_each(&list(&user, &query).await).into_iter().collect();
        assert_eq!(seen, expected, "{query}");
    }
    for (query, field) in [
        ("status=OPEN", "status"),
        ("from=2027-03-01", "from"),
        ("to=now", "to"),
        ("updatedSince=1", "updatedSince"),
        ("sort=end", "sort"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("cursor=1", "cursor"),
        ("cursor=ffffffffffffffff-00000000000000000000000000000000", "cursor"),
        ("offset=1", "offset"),
        ("limit=1&limit=2", "limit"),
    ] {
        let refused = user.get(&format!("/api/users/{}/bookings?{query}", user.id)).await.is(400);
        assert_eq!(refused.code(), "VALIDATION_FAILED");
        assert_eq!(refused.body["errors"][0]["field"], field, "{query}");
    }
}

#[tokio::test]
async fn a_history_tells_every_change_and_who_asked_for_it() {
    let stage = Stage::new("history").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let booking = user.holds(0, 30, 600).await.is(201).text("id").to_owned();
    let mut states = vec![user.get(&format!("/api/bookings/{booking}")).await.body];
    states.push(user.confirms(&booking).await.is(200).body);
    states.push(user.reschedules(&booking, 60, 90).await.is(200).body);
    states.push(user.cancels(&booking).await.is(200).body);

    let history = user.get(&format!("/api/bookings/{booking}/history")).await.is(200);
    let entries = history.body["entries"].as_array().unwrap();
    let actions = ["HELD", "CONFIRMED", "RESCHEDULED", "CANCELLED"];
    assert_eq!(entries.len(), actions.len());
    for (index, (entry, action)) in entries.iter().zip(actions).enumerate() {
        assert_eq!((&entry["version"], &entry["action"]), (&json!(index + 1), &json!(action)));
        assert_eq!(entry["actor"], json!(user.id));
        assert_eq!(entry["after"], states[index]);
        assert_eq!(
            entry["before"],
            index.checked_sub(1).map_or(Value::Null, |i| states[i].clone())
        );
        let command = entry["commandId"].as_str().unwrap();
        let command = user.get(&format!("/api/commands/{command}")).await.is(200);
        assert_eq!(command.body["booking"], entry["after"]);
    }
    let mut paged = Vec::new();
    let mut path = format!("/api/bookings/{booking}/history?limit=3");
    loop {
        let page = user.get(&path).await.is(200);
        paged.extend(page.body["entries"].as_array().unwrap().clone());
        let Some(cursor) = page.body["nextCursor"].as_str() else { break };
        path = format!("/api/bookings/{booking}/history?limit=3&cursor={cursor}");
    }
    assert_eq!(&paged, entries);
    let other = cast.user();
    other.get(&format!("/api/bookings/{booking}/history")).await.is(404);
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let stage = Stage::new("not-modified").await;
    let gateway = stage.gateway().await;
    let user = User::new(&gateway);
    let accepted = user.books(0, 30).await.is(202);
    let command = format!("/api/commands/{}", accepted.text("commandId"));
    let booking = format!("/api/bookings/{}", accepted.text("bookingId"));

    let waiting = user.get(&command).await.is(200);
    assert_eq!((waiting.header("ETag"), waiting.header("Retry-After")), ("\"accepted\"", "1"));
    is_unchanged(&user.get_unless(&command, "\"accepted\"").await, "\"accepted\"");
    let _worker = stage.worker().await;
    user.polls(&accepted).await;
    let decided = user.get_unless(&command, "\"accepted\"").await.is(200);
    is_unchanged(&user.get_unless(&command, decided.header("ETag")).await, "\"succeeded\"");

    is_unchanged(&user.get_unless(&booking, "\"1\"").await, "\"1\"");
    user.who_waits().cancels(accepted.text("bookingId")).await.is(200);
    let changed = user.get_unless(&booking, "\"1\"").await.is(200);
    assert_eq!((changed.text("status"), changed.header("ETag")), ("CANCELLED", "\"2\""));
}

#[track_caller]
fn is_unchanged(answer: &Answer, tag: &str) {
    assert_eq!((answer.status, answer.raw.as_str(), answer.header("ETag")), (304, "", tag));
}

/// All pages of a list.
async fn list(user: &User, query: &str) -> Vec<Value> {
    let mut bookings = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/users/{}/bookings?{query}{cursor}", user.id);
        let page = user.get(&path).await.is(200);
        bookings.extend(page.body["bookings"].as_array().unwrap().clone());
        let Some(next) = page.body["nextCursor"].as_str() else { return bookings };
        cursor = format!("&cursor={next}");
    }
}

fn id_of_each(bookings: &[Value]) -> Vec<String> {
    bookings.iter().map(|booking| booking["id"].as_str().unwrap().to_owned()).collect()
}
