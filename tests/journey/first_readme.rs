//! B4: none of the examples in the first version's README worked. Here they are, word for word but
//! for the names that a reader fills in, the dates, which are in the future again, and `Prefer:
//! wait`, which makes the answers the ones that the first version gave.

use std::process::Command;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::cast::Cast;
use crate::stage::Stage;

const CREATE: &str = r#"curl -X POST http://localhost:3000/api/bookings \
  -H "Content-Type: application/json" \
  -H "X-Idempotency-Key: unique-request-123" \
  -H "X-User-ID: user-uuid" \
  -d '{
    "userId": "user-uuid",
    "startTime": "2024-01-15T14:00:00Z",
    "endTime": "2024-01-15T14:30:00Z",
    "metadata": {
      "title": "Team Meeting",
      "location": "Conference Room A"
    }
  }'"#;

const SLOTS: &str = r#"curl "http://localhost:3000/api/users/user-uuid/slots?startDate=2024-01-15T00:00:00Z&endDate=2024-01-16T00:00:00Z&slotDuration=30""#;

const CANCEL: &str = r#"curl -X POST http://localhost:3000/api/bookings/{bookingId}/cancel \
  -H "X-User-ID: user-uuid" \
  -d '{"reason": "Schedule conflict"}'"#;

const RESCHEDULE: &str = r#"curl -X POST http://localhost:3000/api/bookings/{bookingId}/reschedule \
  -H "Content-Type: application/json" \
  -H "X-User-ID: user-uuid" \
  -d '{
    "startTime": "2024-01-15T15:00:00Z",
    "endTime": "2024-01-15T15:30:00Z"
  }'"#;

const HEALTH: &str = "curl http://localhost:3000/health";

const METRICS: &str = "curl http://localhost:3000/metrics";

#[tokio::test]
async fn the_examples_of_the_first_readme_work() {
    let stage = Stage::new("first-readme").await;
    let cast = Cast::of(&stage).await;
    let reader = Reader { user: Uuid::now_v7().to_string(), base: cast.gateways[0].url("") };

    let created = reader.pastes(CREATE, "").await;
    assert_eq!(created.status, 201, "{}", created.body);
    let created = created.json();
    assert_eq!((&created["status"], &created["version"]), (&json!("CONFIRMED"), &json!(1)));
    let title = json!({ "location": "Conference Room A", "title": "Team Meeting" });
    assert_eq!(created["metadata"], title);
    let booking = created["id"].as_str().unwrap();
    let again = reader.pastes(CREATE, "").await;
    assert_eq!((again.status, again.json()["id"].as_str()), (201, Some(booking)));

    let slots = reader.pastes(SLOTS, "").await;
    assert_eq!(slots.status, 200, "{}", slots.body);
    let slots = slots.json()["slots"].as_array().unwrap().clone();
    assert_eq!(slots.len(), 47, "a day of half hours but the one that is booked");
    assert!(slots.iter().all(|slot| slot["startTime"] != "2032-01-15T14:00:00Z"));

    let moved = reader.pastes(RESCHEDULE, booking).await;
    assert_eq!((moved.status, &moved.json()["version"]), (200, &json!(2)), "{}", moved.body);
    let cancelled = reader.pastes(CANCEL, booking).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.body);
    assert_eq!(cancelled.json()["cancelReason"], "Schedule conflict");
    let again = reader.pastes(CANCEL, booking).await;
    assert_eq!((again.status, again.json()["code"].as_str()), (409, Some("ALREADY_CANCELLED")));

    assert_eq!(reader.pastes(HEALTH, "").await.status, 200);
    let metrics = reader.pastes(METRICS, "").await;
    assert!(metrics.status == 200 && metrics.body.contains("booking_commands_accepted"));
    stage.all_promises_hold().await;
}

/// Who pastes the examples into a shell.
struct Reader {
    user: String,
    base: String,
}

struct Shown {
    status: u16,
    body: String,
}

impl Reader {
    async fn pastes(&self, example: &str, booking: &str) -> Shown {
        let line = example
            .replace("http://localhost:3000", &self.base)
            .replace("user-uuid", &self.user)
            .replace("{bookingId}", booking)
            .replace("2024-01-1", "2032-01-1");
        let line = format!("{line} -s -H 'Prefer: wait=30' -w '\\n%{{http_code}}'");
        let shell = move || Command::new("sh").args(["-c", &line]).output().unwrap();
        let pasted = tokio::task::spawn_blocking(shell).await.unwrap();
        let text = String::from_utf8(pasted.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        Shown { status: status.parse().unwrap(), body: body.to_owned() }
    }
}

impl Shown {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }
}
