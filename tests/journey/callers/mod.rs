//! Who may do what: every route of the API, asked by every kind of caller.
//!
//! Exactly the allowed cells succeed, a refused one changes nothing, and none tells whether
//! another's booking or command exists.

mod everybody;
mod routes;

use booking::http::contract::OPERATIONS;
use chrono::Utc;
use everybody::{Caller, everybody};
use reqwest::Method;
use routes::Standing::Writer;
use routes::{About, ROUTES, Route};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::issuer::{Address, SECRET, Signer, key_set};
use crate::stage::{Answer, Process, Stage, User, at};

/// The owner's things that a request is about.
struct Things {
    owner: Uuid,
    booking: String,
    command: String,
    endpoint: String,
    delivery: String,
    /// A time that is free.
    free: i64,
}

/// A system whose callers prove who they are, and a gateway at which the owner needs no proof.
struct Door {
    stage: Stage,
    gateway: Process,
    _worker: Process,
    owner: User,
    _plain: Process,
    client: reqwest::Client,
    next: std::cell::Cell<i64>,
}

impl Things {
    fn of(owner: Uuid, id: impl Fn() -> String, free: i64) -> Self {
        Self { owner, booking: id(), command: id(), endpoint: id(), delivery: id(), free }
    }
}

impl Door {
    async fn new(name: &str, settings: &[(&str, &str)]) -> Self {
        let stage = Stage::new(name).await;
        let (gateway, plain, worker) =
            tokio::join!(stage.start("gateway", settings), stage.gateway(), stage.worker());
        gateway.is_ready().await;
        let owner = User::new(&plain).who_waits();
        let (client, next) = (reqwest::Client::new(), std::cell::Cell::new(0));
        Self { stage, gateway, _worker: worker, owner, _plain: plain, client, next }
    }

    /// What the owner has for a request to be about.
    async fn things(&self, about: About) -> Things {
        let minute = self.next.get();
        self.next.set(minute + 60);
        let owner = self.owner.id;
        let mut things = Things::of(owner, String::new, minute + 30);
        let booked = match about {
            About::User | About::Endpoints => return things,
            About::Endpoint | About::Delivery => {
                (things.endpoint, things.delivery) = self.plant_delivery().await;
                return things;
            }
            About::Hold => self.owner.holds(minute, minute + 30, 600).await.is(201),
            About::Booking | About::Command => self.owner.books(minute, minute + 30).await.is(201),
        };
        things.booking = booked.text("id").to_owned();
        let history = self.stage.record(&things.booking).await;
        things.command = history["audit"][0]["command_id"].as_str().unwrap().to_owned();
        things
    }

    /// The one endpoint of the owner, with a delivery that was given up.
    async fn plant_delivery(&self) -> (String, String) {
        let (endpoint, delivery) = (Uuid::now_v7(), Uuid::now_v7());
        let mut database = self.stage.database().await;
        sqlx::query("delete from webhook_endpoints").execute(&mut database).await.unwrap();
        sqlx::query(
            "with made as (
               insert into webhook_endpoints (id, owner, calendar_id, url, event_types, secret)
               values ($1, $2::text, $2::uuid, 'https://example.org/', '{*}', '\\x00')
             )
             insert into webhook_deliveries
               (target_id, event_id, event_type, subject, body, created_at)
             values ($1, $3, 'booking.held', $1, '{}', now())",
        )
        .bind(endpoint)
        .bind(self.owner.id.to_string())
        .bind(delivery)
        .execute(&mut database)
        .await
        .unwrap();
        (endpoint.to_string(), delivery.to_string())
    }

    /// What the database holds of endpoints.
    async fn endpoints(&self) -> Value {
        let all = "select coalesce(json_agg(w order by id), '[]') from webhook_endpoints w";
        sqlx::query_scalar(all).fetch_one(&mut self.stage.database().await).await.unwrap()
    }

    async fn asks(&self, caller: &Caller, route: &Route, things: &Things) -> Answer {
        let id = match route.about {
            About::User => things.owner.to_string(),
            About::Booking | About::Hold => things.booking.clone(),
            About::Command => things.command.clone(),
            About::Endpoints => String::new(),
            About::Endpoint | About::Delivery => things.endpoint.clone(),
        };
        let interval = (at(things.free), at(things.free + 30));
        let body = match route.path {
            "/api/bookings" => {
                json!({ "userId": things.owner, "startTime": interval.0, "endTime": interval.1 })
            }
            path if path.ends_with("/reschedule") => {
                json!({ "startTime": interval.0, "endTime": interval.1 })
            }
            "/api/webhooks" => json!({ "url": "https://example.org/", "eventTypes": ["*"] }),
            path if path.ends_with("/recover") => json!({ "since": Utc::now() }),
            _ => json!({}),
        };
        let path = route.path.replace("{id}", &id).replace("{deliveryId}", &things.delivery);
        let url = self.gateway.url(&path);
        let mut request = self.client.request(route.method.clone(), url);
        for (name, value) in &caller.headers {
            request = request.header(*name, value);
        }
        if route.writes {
            request = request.header("Idempotency-Key", Uuid::now_v7().to_string());
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let request = request.header("Prefer", "wait=30").header("X-Correlation-ID", "asked");
        Answer::of(request.send().await.unwrap()).await
    }
}

#[test]
fn every_route_is_asked() {
    let of_api = OPERATIONS.iter().flat_map(|group| group.operations);
    let of_api = of_api.filter(|operation| operation.asks_who_calls());
    let mut routes: Vec<_> = of_api
        .map(|operation| format!("{} {}", operation.method.as_str(), operation.path))
        .collect();
    let mut asked: Vec<_> = ROUTES
        .iter()
        .map(|r| format!("{} {}", r.method, r.path.split('?').next().unwrap()))
        .collect();
    asked.sort();
    routes.sort();
    assert_eq!(asked, routes);
}

#[tokio::test]
async fn exactly_the_allowed_cells_succeed() {
    let ((rsa, public), ec) = (Signer::rsa("one"), Signer::ec("two"));
    let address = Address::new("200 OK", &key_set(&[&rsa, &ec])).await;
    let settings =
        [("AUTH_MODE", "jwt,api-key"), ("JWT_SECRET", SECRET), ("JWKS_URL", &address.url)];
    let door = Door::new("callers", &settings).await;
    let callers = everybody(&door, &rsa, &public, &ec).await;

    for route in ROUTES {
        let (allowed, refused): (Vec<_>, Vec<_>) =
            callers.iter().partition(|caller| route.answer(caller.standing).0 < 400);
        let things = door.things(route.about).await;
        let before = door.traces(&things).await;
        for caller in refused {
            door.refuses(caller, route, &things).await;
        }
        assert_eq!(door.traces(&things).await, before, "{}", route.path);
        for caller in allowed {
            door.allows(caller, route).await;
        }
    }
    door.stage.all_promises_hold().await;
}

impl Door {
    /// What a change would leave behind.
    async fn traces(&self, things: &Things) -> (i64, Value) {
        let changes = self
            .stage
            .number(
                "select (select count(*) from audit) + (select count(*) from calendars)
                   + (select count(*) from webhook_queue)",
            )
            .await;
        if things.booking.is_empty() {
            return (changes, self.endpoints().await);
        }
        (changes, self.stage.record(&things.booking).await)
    }

    async fn allows(&self, caller: &Caller, route: &Route) {
        let things = self.things(route.about).await;
        let answer = self.asks(caller, route, &things).await;
        let cell = format!("{} {}: {}: {}", route.method, route.path, caller.what, answer.raw);
        assert_eq!(answer.status, route.status, "{cell}");
        if route.method == Method::POST && !route.is_of_webhooks() {
            let record = self.stage.record(answer.text("id")).await;
            let actor = record["audit"].as_array().unwrap().last().unwrap()["actor"].clone();
            let owner = things.owner.to_string();
            let expected = if caller.standing == Writer { "service:desk" } else { &owner };
            assert_eq!((actor, answer.text("userId")), (json!(expected), owner.as_str()), "{cell}");
        }
    }

    /// The refusal is the same for what is there and for what never was.
    async fn refuses(&self, caller: &Caller, route: &Route, things: &Things) {
        let never = || Uuid::now_v7().to_string();
        let nothing = Things::of(Uuid::now_v7(), never, things.free);
        let mut seen = Vec::new();
        for things in [things, &nothing] {
            let answer = self.asks(caller, route, things).await;
            let cell = format!("{} {}: {}: {}", route.method, route.path, caller.what, answer.raw);
            assert_eq!((answer.status, answer.code()), route.answer(caller.standing), "{cell}");
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge.starts_with("Bearer"), answer.status == 401, "{cell}");
            seen.push((cell, masked(&answer, things)));
        }
        assert_eq!(seen[0].1, seen[1].1, "{}\n{}", seen[0].0, seen[1].0);
    }
}

/// The whole answer, without what differs between any two requests: the time, and how many more
/// the caller may send.
fn masked(answer: &Answer, things: &Things) -> String {
    const DIFFERS: [&str; 3] = ["date", "ratelimit-remaining", "ratelimit-reset"];
    let mut headers = answer.headers.clone();
    for name in DIFFERS {
        headers.remove(name);
    }
    let text = format!("{} {headers:?} {}", answer.status, answer.raw);
    let ids = [&things.booking, &things.command, &things.endpoint, &things.delivery];
    let ids = ids.into_iter().filter(|id| !id.is_empty());
    ids.fold(text, |text, id| text.replace(id, "…"))
}
