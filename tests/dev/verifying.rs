//! `booking verify` finds what is broken and names it; on what is sound it says so.

use std::fs::File;
use std::process::{Child, Stdio};

use booking::dev::Servers;
use booking::store;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::run::{Dir, booking, kill, output, sql, wait_until};

/// Harm to a sound database, and the claim that it contradicts. Each names the booking
/// (`BOOKING`) or the command (`COMMAND`) that it harms.
const HARM: [(&str, &str, &str); 6] = [
    (
        "active bookings of a calendar never overlap",
        "booking BOOKING of calendar",
        "alter table allocations drop constraint allocations_no_overlap;
         update bookings set start_time = start_time - interval '30 minutes' where id = 'BOOKING'",
    ),
    (
        "every active booking holds its time",
        "booking BOOKING",
        "delete from allocations where booking_id = 'BOOKING'",
    ),
    (
        "accepted commands reach a final state in time",
        "command COMMAND, accepted",
        "alter table commands disable trigger user;
         update commands set status = 'accepted', decided_at = null, booking_version = null,
           accepted_at = now() - interval '1 hour' where id = 'COMMAND'",
    ),
    (
        "a command that succeeded has its audit row",
        "command COMMAND",
        "alter table audit disable trigger user;
         delete from audit where command_id = 'COMMAND'",
    ),
    (
        "versions count up from 1 without gaps",
        "booking BOOKING",
        "alter table audit disable trigger user;
         update audit set version = 7 where booking_id = 'BOOKING' and version = 2",
    ),
    (
        "each audit row begins where the one before ended",
        "booking BOOKING version 2",
        "alter table audit disable trigger user;
         update audit set before = after where booking_id = 'BOOKING' and version = 2",
    ),
];

#[tokio::test]
async fn every_harm_is_found_and_named() {
    let dir = Dir::new();
    let servers = Servers::start(&dir.settings()).await.unwrap();
    let postgres = servers.postgres.as_ref().unwrap();
    postgres.create_database("sound").await.unwrap();
    let (sound, broker) = (postgres.url("sound"), servers.rabbitmq.as_ref().unwrap().url("/"));
    store::migrate(&sound, 4).await.unwrap();
    let given = [
        ("DATABASE_URL", sound.as_str()),
        ("AMQP_URL", &broker),
        ("REDIS_URL", &servers.redis.as_ref().unwrap().url()),
        ("PARTITIONS", "4"),
    ];
    let (booking_id, command_id) = some_history(&dir, &given).await;
    // Without PARTITIONS: the database knows how many there are.
    let (code, text) = output(&["verify"], &given[..3]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("wait in 4 partitions"), "{text}");

    for (number, (claim, offender, harm)) in HARM.into_iter().enumerate() {
        let named =
            |text: &str| text.replace("BOOKING", &booking_id).replace("COMMAND", &command_id);
        let copy = format!("harmed{number}");
        sql(&postgres.url("postgres"), &format!("create database {copy} template sound")).await;
        sql(&postgres.url(&copy), &named(harm)).await;
        let flags = ["verify", "--database-url", &postgres.url(&copy)];
        let (code, text) = output(&flags, &[]);
        assert_eq!(code, Some(1), "{claim}: {text}");
        let mut lines = text.lines().skip_while(|line| !line.contains(claim));
        assert!(lines.next().is_some_and(|line| line.ends_with("BROKEN 1 times")), "{text}");
        assert!(lines.next().is_some_and(|line| line.contains(&named(offender))), "{text}");
        assert!(text.ends_with("a promise is BROKEN\n"), "{text}");
    }
    servers.stop().await;
}

/// Two bookings side by side, of which the later was moved there. Gives the later one's id, and
/// the id of the command that moved it.
async fn some_history(dir: &Dir, given: &[(&str, &str)]) -> (String, String) {
    let mut serve = Serve::start(dir, given);
    let user = Uuid::now_v7().to_string();
    let slot = |from: &str, to: &str| {
        json!({ "startTime": format!("2099-03-01T{from}:00Z"),
                "endTime": format!("2099-03-01T{to}:00Z") })
    };
    let booked = |from, to| {
        let mut body = slot(from, to);
        body["userId"] = json!(user);
        body
    };
    let first = serve.post(&user, "/api/bookings", booked("09:00", "09:30")).await;
    assert_eq!(first["version"], 1, "{first}");
    let later = serve.post(&user, "/api/bookings", booked("12:00", "12:30")).await;
    let id = later["id"].as_str().unwrap().to_owned();
    let path = format!("/api/bookings/{id}/reschedule");
    let moved = serve.post(&user, &path, slot("09:30", "10:00")).await;
    assert_eq!(moved["version"], 2, "{moved}");

    let database = given[0].1;
    let mut connection = PgConnection::connect(database).await.unwrap();
    let mut left = 1_i64;
    while left > 0 {
        let count = "select count(*) from outbox";
        left = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
    }
    let command = "select command_id::text from audit where version = 2";
    let command: String = sqlx::query_scalar(command).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    serve.stop();
    (id, command)
}

/// `booking serve` in a process of its own.
pub struct Serve {
    process: Child,
    address: String,
}

impl Serve {
    pub fn start(dir: &Dir, given: &[(&str, &str)]) -> Serve {
        let log = dir.0.join("serve.log");
        let process = booking(&["serve"], given)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut address = None;
        wait_until("it has started", || {
            let text = std::fs::read_to_string(&log).unwrap();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut started = lines.filter(|line| line["message"] == "started");
            address = started.next().map(|line| line["address"].as_str().unwrap().to_owned());
            address.is_some()
        });
        Serve { process, address: address.unwrap() }
    }

    /// Asks, and waits for the decision.
    async fn post(&self, user: &str, path: &str, body: Value) -> Value {
        let request = reqwest::Client::new()
            .post(format!("http://{}{path}", self.address))
            .header("X-User-ID", user)
            .header("Idempotency-Key", Uuid::now_v7().to_string())
            .header("Prefer", "wait=30")
            .json(&body);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// All its stages are at work: a booking is decided.
    pub async fn decides_something(&self) {
        let user = Uuid::now_v7().to_string();
        let body = json!({ "userId": user, "startTime": "2099-03-01T09:00:00Z",
                           "endTime": "2099-03-01T09:30:00Z" });
        let booked = self.post(&user, "/api/bookings", body).await;
        assert_eq!(booked["version"], 1, "{booked}");
    }

    pub fn stop(&mut self) {
        kill("TERM", self.process.id());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
