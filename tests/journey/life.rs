//! A booking's life with holds, versions and time, through the whole system.
//!
//! Holds last half a minute at least, which is too long to wait for: time is let pass by moving
//! what the database knows of the holds into the past ([`Stage::time_passes`]). The sweep comes
//! only when a test lets it ([`Sweeps`]), so that what happens without it can be seen.

use std::collections::BTreeMap;

use booking::booking::problem::Code;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::cast::Cast;
use crate::stage::{Answer, Stage, User, at, until};
use minutes::{Ask, Model, State, To, Verdict};

#[path = "../model/minutes.rs"]
mod minutes;

#[tokio::test]
async fn a_hold_blocks_its_time_until_it_is_confirmed() {
    let stage = Stage::new("hold").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    let held = user.holds(0, 30, 600).await.is(201);
    let expires: DateTime<Utc> = held.text("holdExpiresAt").parse().unwrap();
    let created: DateTime<Utc> = held.text("createdAt").parse().unwrap();
    assert_eq!((held.text("status"), (expires - created).num_seconds()), ("PENDING", 600));
    assert_eq!(user.books(10, 40).await.is(409).code(), "SLOT_CONFLICT");

    let booking = held.text("id");
    let confirmed = user.confirms(booking).await.is(200);
    assert_eq!((confirmed.text("status"), &confirmed.body["version"]), ("CONFIRMED", &json!(2)));
    assert_eq!(confirmed.body.get("holdExpiresAt"), None);
    assert_eq!(user.books(10, 40).await.is(409).code(), "SLOT_CONFLICT");
    assert_eq!(user.confirms(booking).await.is(409).code(), "INVALID_STATE");
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_lapsed_hold_gives_way_at_once_and_is_gone_for_its_owner() {
    let stage = Stage::new("lapse").await;
    let cast = Cast::of(&stage).await;
    let _sweeps = Sweeps::none(&stage).await;
    let user = cast.user().who_waits();

    let [displaced, also, left] = join_all([(0, 30), (30, 60), (90, 120)].map(|(start, end)| {
        let user = user.clone();
        async move { user.holds(start, end, 30).await.is(201).text("id").to_owned() }
    }))
    .await
    .try_into()
    .unwrap();
    stage.time_passes(TimeDelta::seconds(30)).await;

    for booking in [&displaced, &left] {
        assert_eq!(user.confirms(booking).await.is(410).code(), "HOLD_EXPIRED");
        assert_eq!(user.cancels(booking).await.is(409).code(), "INVALID_STATE");
        assert_eq!(user.reschedules(booking, 200, 230).await.is(409).code(), "INVALID_STATE");
    }
    user.books(15, 45).await.is(201);
    for booking in [&displaced, &also] {
        let expired = user.get(&format!("/api/bookings/{booking}")).await;
        assert_eq!((expired.text("status"), &expired.body["version"]), ("EXPIRED", &json!(2)));
        assert_eq!(stage.events_of(booking).await, ["booking.held", "booking.expired"]);
        // The sweep, or whoever takes the time, makes no difference to the answers.
        assert_eq!(user.confirms(booking).await.is(410).code(), "HOLD_EXPIRED");
        assert_eq!(user.cancels(booking).await.is(409).code(), "INVALID_STATE");
    }
    let untouched = user.get(&format!("/api/bookings/{left}")).await;
    assert_eq!(untouched.text("status"), "PENDING");
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn the_sweep_expires_holds_and_completes_what_is_over() {
    let stage = Stage::new("sweep").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    let held = user.holds(0, 30, 30).await.is(201).text("id").to_owned();
    stage.time_passes(TimeDelta::seconds(30)).await;
    let soon = Utc::now() + TimeDelta::seconds(6);
    let end = soon + TimeDelta::milliseconds(500);
    let body = json!({ "userId": user.id, "startTime": soon, "endTime": end });
    let short = user.books_with_key("short", body).await.is(201).text("id").to_owned();

    for (booking, state) in [(&held, "EXPIRED"), (&short, "COMPLETED")] {
        until("the sweep has come", async || {
            user.get(&format!("/api/bookings/{booking}")).await.text("status") == state
        })
        .await;
        assert_eq!(user.cancels(booking).await.is(409).code(), "INVALID_STATE");
    }
    assert_eq!(stage.number("select count(*) from allocations").await, 0);
    assert_eq!(stage.events_of(&short).await, ["booking.confirmed", "booking.completed"]);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_change_is_made_to_the_version_that_it_names_or_not_at_all() {
    let stage = Stage::new("if-match").await;
    let cast = Cast::of(&stage).await;
    let user = cast.user().who_waits();

    let booked = user.books(0, 30).await.is(201);
    assert_eq!(booked.header("ETag"), "\"1\"");
    let reschedule = format!("/api/bookings/{}/reschedule", booked.text("id"));
    let to = |start: i64| json!({ "startTime": at(start), "endTime": at(start + 30) });
    let if_match = |tag: &'static str| [("If-Match", tag)];
    assert_eq!(user.post(&reschedule, &if_match("\"1\""), to(60)).await.is(200).body["version"], 2);
    let stale = user.post(&reschedule, &if_match("\"1\""), to(120)).await.is(412);
    assert_eq!(stale.code(), "VERSION_MISMATCH");
    user.post(&reschedule, &if_match("*"), to(180)).await.is(200);
    user.post(&reschedule, &if_match("three"), to(240)).await.is(400);
    let booking = user.get(&format!("/api/bookings/{}", booked.text("id"))).await;
    assert_eq!((&booking.body["version"], booking.header("ETag")), (&json!(3), "\"3\""));

    // The version belongs to the content: the same key with another is another request.
    let key = [("Idempotency-Key", "moved"), ("If-Match", "\"3\"")];
    user.post(&reschedule, &key, to(300)).await.is(200);
    let replayed = user.post(&reschedule, &key, to(300)).await.is(200);
    assert_eq!(replayed.header("Idempotency-Replayed"), "true");
    let other = [("Idempotency-Key", "moved"), ("If-Match", "\"4\"")];
    let other = user.post(&reschedule, &other, to(300)).await.is(422);
    assert_eq!(other.code(), "IDEMPOTENCY_KEY_REUSED");
    stage.all_promises_hold().await;
}

/// Sequences that are played side by side, one ask of each a round.
const PLAYS: usize = 80;
const ROUNDS: usize = 30;

#[tokio::test]
async fn any_sequence_agrees_with_a_simple_model() {
    let stage = Stage::new("life-model").await;
    let cast = Cast::of(&stage).await;
    let sweeps = Sweeps::none(&stage).await;
    let mut runner = TestRunner::deterministic();
    let mut plays: Vec<Play> = (0..PLAYS).map(|_| Play::of(&cast)).collect();
    let mut now = 0;
    let mut sweeps = Some(sweeps);
    for round in 0..ROUNDS {
        if round % 3 == 2 {
            stage.time_passes(TimeDelta::seconds(60)).await;
            now += 1;
        }
        if round % 10 == 9 {
            sweeps.take().unwrap().one(&stage).await;
            sweeps = Some(Sweeps::none(&stage).await);
            for play in &mut plays {
                play.model.judge(0, &Ask::Sweep, 0, now);
            }
        }
        let turns = plays.iter_mut().map(|play| {
            let ask = minutes::ask(1000).new_tree(&mut runner).unwrap().current();
            play.turn(round, ask, now)
        });
        join_all(turns).await;
    }
    join_all(plays.iter().map(Play::agrees)).await;
    stage.everything_is_relayed().await;
    stage.all_promises_hold().await;
}

/// Two users, and what the model thinks of their calendars.
struct Play {
    users: [User; 2],
    model: Model,
    /// The bookings' ids by the model's numbers; of refused creations, ids that never were.
    ids: BTreeMap<usize, String>,
}

impl Play {
    fn of(cast: &Cast) -> Self {
        let users = [0, 1].map(|turn| cast.in_turn(&cast.user(), turn).who_waits());
        Self { users, model: Model::default(), ids: BTreeMap::new() }
    }

    async fn turn(&mut self, round: usize, ask: Ask, now: i64) {
        let calendar = round % 2;
        let user = &self.users[calendar];
        let number = match ask {
            Ask::Create { .. } => self.ids.len(),
            Ask::Change { booking, .. } => booking,
            Ask::Sweep => return, // the sweep comes for all plays at once
        };
        let verdict = self.model.judge(calendar, &ask, number, now);
        let nobody = Uuid::now_v7().to_string();
        let id = self.ids.get(&number).unwrap_or(&nobody);
        let answer = match &ask {
            Ask::Sweep => unreachable!("returned above"),
            Ask::Create { start, minutes, hold: None } => user.books(*start, start + minutes).await,
            Ask::Create { start, minutes, hold: Some(hold) } => {
                user.holds(*start, start + minutes, 60 * hold).await
            }
            Ask::Change { expects, to, .. } => changes(user, id, *expects, to).await,
        };
        match &verdict {
            Verdict::Changed | Verdict::Unchanged => assert!(answer.status < 300, "{answer:?}"),
            Verdict::Refused(code) => {
                assert_eq!(answer.code(), code.as_str(), "{ask:?} {:?}", self.model);
                assert_eq!(answer.status, code.status());
                let wanted = match &ask {
                    Ask::Create { start, minutes, .. }
                    | Ask::Change { to: To::Rescheduled { start, minutes }, .. } => {
                        (*start, start + minutes)
                    }
                    _ => (0, 0),
                };
                let taken = self.model.in_the_way(calendar, number, wanted, now);
                let shown = taken
                    .filter(|_| *code == Code::SlotConflict)
                    .map(|(start, end)| json!({ "startTime": at(start), "endTime": at(end) }));
                assert_eq!(answer.body.get("conflictsWith"), shown.as_ref(), "{ask:?}");
            }
        }
        if matches!(ask, Ask::Create { .. }) {
            let made = answer.body["id"].as_str().map(str::to_owned);
            self.ids.insert(number, made.unwrap_or(nobody));
        }
    }

    /// Every booking is as the model says.
    async fn agrees(&self) {
        for (number, noted) in &self.model.bookings {
            let path = format!("/api/bookings/{}", self.ids[number]);
            let booking = self.users[noted.calendar].get(&path).await.is(200).body;
            let state = match noted.state {
                State::Held { .. } => "PENDING",
                State::Confirmed => "CONFIRMED",
                State::Cancelled => "CANCELLED",
                State::Expired => "EXPIRED",
                State::Completed => "COMPLETED",
            };
            assert_eq!(booking["status"], state, "{booking:#}");
            assert_eq!(booking["version"], noted.version, "{booking:#}");
            assert_eq!(booking["startTime"], json!(at(noted.start)), "{booking:#}");
            assert_eq!(booking["endTime"], json!(at(noted.end)), "{booking:#}");
            assert_eq!(booking["cancelReason"].as_str(), noted.reason.as_deref(), "{booking:#}");
        }
    }
}

async fn changes(user: &User, booking: &str, expects: Option<i32>, to: &To) -> Answer {
    let tag = expects.map(|version| format!("\"{version}\""));
    let headers: Vec<(&str, &str)> = tag.iter().map(|tag| ("If-Match", tag.as_str())).collect();
    let (verb, body) = match to {
        To::Confirmed => ("confirm", json!({})),
        To::Cancelled { reason } => ("cancel", json!({ "reason": reason })),
        To::Rescheduled { start, minutes } => {
            ("reschedule", json!({ "startTime": at(*start), "endTime": at(start + minutes) }))
        }
    };
    user.post(&format!("/api/bookings/{booking}/{verb}"), &headers, body).await
}

/// Keeps the sweep from a stage by leading in its place.
struct Sweeps {
    leader: PgConnection,
}

impl Sweeps {
    /// From now on nothing is swept.
    async fn none(stage: &Stage) -> Self {
        let (mut leader, mut other) = (stage.database().await, stage.database().await);
        let lead = tokio::spawn(async move {
            let lock = sqlx::query("select pg_advisory_lock(x'626f6f6b'::int, 3)");
            lock.execute(&mut leader).await.unwrap();
            leader
        });
        // Whoever leads now is ended only when ours is the next turn.
        until("the test leads", async || {
            let leaders = "select pg_terminate_backend(l.pid) from pg_locks l where granted
                             and locktype = 'advisory' and objid = 3 and database =
                               (select oid from pg_database where datname = current_database())
                             and exists (select from pg_locks where not granted
                                           and locktype = 'advisory' and objid = 3
                                           and database = l.database)";
            sqlx::query(leaders).execute(&mut other).await.unwrap();
            lead.is_finished()
        })
        .await;
        Self { leader: lead.await.unwrap() }
    }

    /// Lets the sweep come until nothing is due.
    async fn one(self, stage: &Stage) {
        drop(self.leader);
        until("all that is due is swept", async || {
            let due = "select count(*) from allocations
                       where least(lapses_at, upper(during)) <= now()";
            stage.number(due).await == 0
        })
        .await;
    }
}

impl Stage {
    /// Lets holds be older by `passed`, in whole seconds, in everything that is known of them.
    async fn time_passes(&self, passed: TimeDelta) {
        let mut database = self.database().await;
        // The audit refuses changes by a trigger, which must not fire for this.
        let quiet = "set session_replication_role = replica";
        sqlx::query(quiet).execute(&mut database).await.unwrap();
        for older in [
            "update bookings set hold_expires_at = hold_expires_at - make_interval(secs => $1)",
            "update allocations set lapses_at = lapses_at - make_interval(secs => $1)",
        ] {
            let seconds = passed.num_seconds() as f64;
            sqlx::query(older).bind(seconds).execute(&mut database).await.unwrap();
        }
        let held = "select distinct on (booking_id) booking_id, version, after::text
                    from audit order by booking_id, version desc";
        let newest: Vec<(Uuid, i32, String)> =
            sqlx::query_as(held).fetch_all(&mut database).await.unwrap();
        for (id, version, after) in newest {
            let booking: Value = serde_json::from_str(&after).unwrap();
            let Some(lapses) = booking["holdExpiresAt"].as_str() else { continue };
            let earlier = json!(lapses.parse::<DateTime<Utc>>().unwrap() - passed);
            let member = |time: &str| format!(r#""holdExpiresAt":"{time}""#);
            let after = after.replace(&member(lapses), &member(earlier.as_str().unwrap()));
            let older = "update audit set after = $3::json where booking_id = $1 and version = $2";
            let older = sqlx::query(older).bind(id).bind(version).bind(after);
            older.execute(&mut database).await.unwrap();
        }
    }

    /// The actions of a booking's audit, as event types.
    async fn events_of(&self, booking: &str) -> Vec<String> {
        let types = "select case action when 'CREATED' then 'booking.confirmed'
                            else 'booking.' || lower(action) end
                     from audit where booking_id = $1 order by version";
        let id: Uuid = booking.parse().unwrap();
        sqlx::query_scalar(types).bind(id).fetch_all(&mut self.database().await).await.unwrap()
    }
}
