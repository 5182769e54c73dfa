//! What went wrong with bookings in the first version of this system, and must not again. The
//! names B5 and so on are those of the README's table.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::cast::{Cast, at_once, winners};
use crate::stage::{Answer, Stage, User, at, until};

/// B5: locks by start time let bookings through that overlap without starting together.
#[tokio::test]
async fn staggered_bookings_at_once_do_not_overlap() {
    let stage = Stage::new("staggered").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    for round in 0..10 {
        let starts = [0, 10, 20, 30, 40, 50].map(|minute| 200 * round + minute);
        let asks = starts.into_iter().enumerate().map(|(turn, start)| {
            let user = cast.in_turn(&user, turn);
            async move { user.books(start, start + 60).await } // each meets each
        });
        let answers = at_once(asks).await;
        assert_eq!(winners(&answers, "SLOT_CONFLICT").len(), 1, "round {round}");
    }
    assert_eq!(stage.number("select count(*) from allocations").await, 10);
    stage.all_promises_hold().await;
}

/// B6: create and reschedule had locks of their own and could both take a slot.
#[tokio::test]
async fn a_create_and_a_reschedule_do_not_take_the_same_slot() {
    let stage = Stage::new("create-against-reschedule").await;
    let cast = Cast::of(&stage).await;
    let (user, elsewhere) = (cast.user().who_waits(), 1);

    for round in 0..20 {
        let slot = 400 * round;
        let booking = user.books(slot, slot + 30).await.is(201).text("id").to_owned();
        let creator = cast.in_turn(&user, elsewhere);
        let create = tokio::spawn(async move { creator.books(slot + 100, slot + 130).await });
        let moved = user.reschedules(&booking, slot + 115, slot + 145).await;
        let answers = [create.await.unwrap(), moved];
        assert_eq!(winners(&answers, "SLOT_CONFLICT").len(), 1, "round {round}");
    }
    stage.all_promises_hold().await;
}

/// B8: the unique index counted cancelled bookings, so their times were lost for ever.
#[tokio::test]
async fn the_time_of_a_cancelled_booking_is_booked_again() {
    let stage = Stage::new("rebook").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    let mut cancelled = Vec::new();
    for turn in 0..3 {
        let user = cast.in_turn(&user, turn);
        let booked = user.books(0, 30).await.is(201);
        assert_eq!(user.books(0, 30).await.is(409).code(), "SLOT_CONFLICT");
        user.cancels(booked.text("id")).await.is(200);
        cancelled.push(booked.text("id").to_owned());
    }
    let last = user.books(0, 30).await.is(201);
    assert!(!cancelled.contains(&last.text("id").to_owned()));
    for id in cancelled {
        assert_eq!(reads(&user, &id).await.text("status"), "CANCELLED");
    }
    assert_eq!(reads(&user, last.text("id")).await.text("status"), "CONFIRMED");
    stage.all_promises_hold().await;
}

/// B11: the reschedule's overlap check missed what lies strictly inside the new time.
#[tokio::test]
async fn a_booking_does_not_move_around_another() {
    let stage = Stage::new("contains").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    user.books(20, 30).await.is(201);
    let booking = user.books(100, 160).await.is(201).text("id").to_owned();
    let before = stage.record(&booking).await;

    for (start, end) in [(0, 60), (0, 30), (20, 80), (25, 85), (22, 28), (20, 30)] {
        let refused = user.reschedules(&booking, start, end).await.is(409);
        assert_eq!(refused.code(), "SLOT_CONFLICT", "{start} to {end}");
        let taken = json!({ "startTime": at(20), "endTime": at(30) });
        assert_eq!(refused.body["conflictsWith"], taken);
    }
    assert_eq!(stage.record(&booking).await, before);
    user.reschedules(&booking, 110, 170).await.is(200); // its own time does not hinder it
    user.reschedules(&booking, 30, 90).await.is(200); // nor does a neighbour
    stage.all_promises_hold().await;
}

/// B12: versions were never counted.
#[tokio::test]
async fn each_change_counts_the_version_up_by_one() {
    let stage = Stage::new("versions").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let booked = user.books(0, 30).await.is(201);
    let id = booked.text("id").to_owned();

    is_version(&user, &booked, 1).await;
    is_version(&user, &user.reschedules(&id, 60, 90).await.is(200), 2).await;
    is_version(&user, &user.reschedules(&id, 60, 90).await.is(200), 2).await; // nothing to change
    is_version(&user, &user.reschedules(&id, 0, 30).await.is(200), 3).await;
    user.books(60, 90).await.is(201);
    user.reschedules(&id, 70, 80).await.is(409);
    is_version(&user, &user.cancels(&id).await.is(200), 4).await;
    user.cancels(&id).await.is(409);

    let audit = stage.record(&id).await["audit"].clone();
    let told = |field: &str| audit.as_array().unwrap().iter().map(|r| r[field].clone()).collect();
    let versions: Vec<Value> = told("version");
    let actions: Vec<Value> = told("action");
    assert_eq!(versions, [1, 2, 3, 4]);
    assert_eq!(actions, ["CREATED", "RESCHEDULED", "RESCHEDULED", "CANCELLED"]);
    stage.all_promises_hold().await;
}

/// The answer, and the booking when it is read, show this version in body and `ETag`.
async fn is_version(user: &User, answer: &Answer, version: i32) {
    let read = reads(user, answer.text("id")).await;
    for shown in [answer, &read] {
        assert_eq!(shown.body["version"], version);
        assert_eq!(shown.header("etag"), format!("\"{version}\""));
    }
    assert_eq!(read.body, answer.body);
}

async fn reads(user: &User, booking: &str) -> Answer {
    user.get(&format!("/api/bookings/{booking}")).await.is(200)
}

/// B13: the audit was written after the commit, and could be missing.
#[tokio::test]
async fn without_its_audit_row_a_booking_does_not_exist() {
    let stage = Stage::new("audit").await;
    let cast = Cast::of(&stage).await;
    let (unlucky, lucky) = (cast.user(), cast.user().who_waits());
    refuse_audit_of(&stage, &unlucky).await;
    let whole = lucky.books(0, 30).await.is(201).text("id").to_owned();

    let accepted = unlucky.books(0, 30).await.is(202);
    let asks = (1..10).map(|turn| {
        let (user, start) = (cast.in_turn(&lucky, turn), 30 * i64::try_from(turn).unwrap());
        async move { user.books(start, start + 30).await }
    });
    assert_eq!(winners(&at_once(asks).await, "none is refused").len(), 9); // others go on

    let failed = unlucky.polls(&accepted).await;
    assert_eq!((failed.text("status"), failed.code()), ("failed", "INTERNAL_ERROR"));
    let booking = accepted.text("bookingId");
    unlucky.get(&format!("/api/bookings/{booking}")).await.is(404);
    let nothing = json!({ "booking": null, "allocation": null, "audit": [] });
    assert_eq!(stage.record(booking).await, nothing);
    let letter = "select count(*) from dead_letters d join commands c on c.id = d.command_id
        where c.status = 'failed'";
    until("it is among the dead letters", async || stage.number(letter).await == 1).await;
    assert_eq!(events_of(&stage, booking).await, ["command.failed"]);
    assert_eq!(events_of(&stage, &whole).await, ["booking.confirmed"]);
    stage.all_promises_hold().await;
}

/// From now on the database refuses audit rows of the user's calendar. Events that are appended
/// are copied to `told`, because the outbox forgets them.
async fn refuse_audit_of(stage: &Stage, user: &User) {
    let sql = format!(
        "create table told as select subject, routing_key, body from outbox where stream = 2;
         create function keep_told() returns trigger language plpgsql as $$ begin
           insert into told values (new.subject, new.routing_key, new.body); return null; end $$;
         create trigger keep_told after insert on outbox for each row when (new.stream = 2)
           execute function keep_told();
         create function break_audit() returns trigger language plpgsql as $$ begin
           raise exception 'no audit for you' using errcode = '23514'; end $$;
         create trigger break_audit before insert on audit for each row
           when (new.calendar_id = '{}') execute function break_audit();",
        user.id
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut stage.database().await).await.unwrap();
}

/// The types of the events about a booking.
async fn events_of(stage: &Stage, booking: &str) -> Vec<String> {
    let query = "select routing_key from told where subject = $1::uuid";
    let told = sqlx::query_scalar(query).bind(booking);
    told.fetch_all(&mut stage.database().await).await.unwrap()
}

/// A command that is given up leaves its final state and its dead letter together: when the
/// letter cannot be kept at first, the state waits for it.
#[tokio::test]
async fn a_failed_command_is_never_without_its_dead_letter() {
    let stage = Stage::new("dead-letter").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user();
    refuse_audit_of(&stage, &user).await;
    let mut database = stage.database().await;
    let full = "create sequence refused;
        create function refuse_letter() returns trigger language plpgsql as $$ begin
          perform nextval('refused'); raise exception 'disk full' using errcode = '53100'; end $$;
        create trigger refuse_letter before insert on dead_letters
          for each row execute function refuse_letter();";
    sqlx::raw_sql(full).execute(&mut database).await.unwrap();

    let accepted = user.books(0, 30).await.is(202);
    let refused = "select count(*) from refused where is_called"; // a sequence never rolls back
    until("a letter is refused", async || stage.number(refused).await == 1).await;
    let path = format!("/api/commands/{}", accepted.text("commandId"));
    assert_eq!(user.get(&path).await.text("status"), "accepted");
    let free = "drop trigger refuse_letter on dead_letters";
    sqlx::raw_sql(free).execute(&mut database).await.unwrap();
    assert_eq!(user.polls(&accepted).await.text("status"), "failed");
    assert_eq!(stage.number("select count(*) from dead_letters").await, 1);
    stage.all_promises_hold().await;
}

/// B13: an audit that can be rewritten proves nothing.
#[tokio::test]
async fn the_database_refuses_to_change_the_audit() {
    let stage = Stage::new("append-only").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let booking = user.books(0, 30).await.is(201).text("id").to_owned();
    user.reschedules(&booking, 60, 90).await.is(200);
    let before = stage.record(&booking).await;

    let mut database = stage.database().await;
    for change in [
        "update audit set actor = 'someone else'",
        "update audit set version = version + 10",
        "delete from audit where version = 2",
        "truncate audit",
        "truncate bookings, audit cascade",
    ] {
        let refused = sqlx::raw_sql(change).execute(&mut database).await.unwrap_err();
        assert_eq!(booking::store::sqlstate(&refused).as_deref(), Some("23000"), "{change}");
    }
    assert_eq!(stage.record(&booking).await, before);
    stage.all_promises_hold().await;
}

/// B19: a cancelled booking could be rescheduled, and so come back to life.
#[tokio::test]
async fn a_cancelled_booking_stays_cancelled() {
    let stage = Stage::new("cancelled").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let booking = user.books(0, 30).await.is(201).text("id").to_owned();
    user.cancels(&booking).await.is(200);
    let before = stage.record(&booking).await;

    for (start, end) in [(60, 90), (0, 30)] {
        let refused = user.reschedules(&booking, start, end).await.is(409);
        assert_eq!(refused.code(), "INVALID_STATE");
    }
    assert_eq!(user.cancels(&booking).await.is(409).code(), "ALREADY_CANCELLED");
    assert_eq!(stage.record(&booking).await, before);
    stage.all_promises_hold().await;
}

/// B19: a booking that is over could be cancelled and moved.
#[tokio::test]
async fn a_booking_that_is_over_stays_as_it_was() {
    let stage = Stage::new("over").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();
    let (booking, end) = books_soon(&user).await;

    until("the booking is over", async || chrono::Utc::now() > end).await;
    assert_eq!(user.cancels(&booking).await.is(409).code(), "INVALID_STATE");
    assert_eq!(user.reschedules(&booking, 0, 30).await.is(409).code(), "INVALID_STATE");
    // Whether the sweep was here before those two or comes after them, it is all that happens.
    let path = format!("/api/bookings/{booking}");
    until("it is completed", async || user.get(&path).await.text("status") == "COMPLETED").await;
    let completed = stage.record(&booking).await;
    assert_eq!(completed["booking"]["version"], 2);
    assert_eq!(completed["audit"][1]["action"], "COMPLETED");
    assert_eq!(user.cancels(&booking).await.is(409).code(), "INVALID_STATE");
    assert_eq!(user.reschedules(&booking, 0, 30).await.is(409).code(), "INVALID_STATE");
    assert_eq!(stage.record(&booking).await, completed);
    stage.all_promises_hold().await;
}

/// Books from 6 seconds from now for half a second; the booking, and when it ends.
async fn books_soon(user: &User) -> (String, chrono::DateTime<chrono::Utc>) {
    let start = chrono::Utc::now() + chrono::TimeDelta::seconds(6);
    let end = start + chrono::TimeDelta::milliseconds(500);
    let body = json!({ "userId": user.id, "startTime": start, "endTime": end });
    let booked = user.books_with_key("soon", body).await.is(201);
    (booked.text("id").to_owned(), end)
}
