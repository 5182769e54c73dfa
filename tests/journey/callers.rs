//! Who may do what: every route of the API, asked by every kind of caller.
//!
//! Exactly the allowed cells succeed, a refused one changes nothing, and none tells whether
//! another's booking or command exists.

use booking::http::contract::OPERATIONS;
use chrono::Utc;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::issuer::{Address, SECRET, Signer, key_set};
use crate::stage::{Answer, Process, Stage, User, at};

/// What the `{id}` of a path, or the body, is about.
#[derive(Clone, Copy, PartialEq)]
enum About {
    /// The owner's calendar.
    User,
    /// A booking of the owner.
    Booking,
    /// A hold of the owner.
    Hold,
    /// The command that made it.
    Command,
}

struct Route {
    method: Method,
    path: &'static str,
    about: About,
    writes: bool,
    /// The answer to who may.
    status: u16,
}

const fn get(path: &'static str, about: About) -> Route {
    Route { method: Method::GET, path, about, writes: false, status: 200 }
}

const fn post(path: &'static str, about: About, status: u16) -> Route {
    Route { method: Method::POST, path, about, writes: true, status }
}

const fn put(path: &'static str, about: About) -> Route {
    Route { method: Method::PUT, path, about, writes: true, status: 200 }
}

/// Every route below `/api`.
const ROUTES: &[Route] = &[
    post("/api/bookings", About::User, 201),
    get("/api/bookings/{id}", About::Booking),
    get("/api/bookings/{id}/history", About::Booking),
    post("/api/bookings/{id}/confirm", About::Hold, 200),
    post("/api/bookings/{id}/cancel", About::Booking, 200),
    post("/api/bookings/{id}/reschedule", About::Booking, 200),
    get("/api/commands/{id}", About::Command),
    get("/api/users/{id}/bookings", About::User),
    get("/api/users/{id}/availability", About::User),
    put("/api/users/{id}/availability", About::User),
    get("/api/users/{id}/slots?startDate=2033-01-01&endDate=2033-01-02", About::User),
];

/// What a caller is to the owner's calendar.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    /// May all, under this principal's name.
    Owner,
    Writer,
    Reader,
    /// Another user, or a service that names one.
    Stranger,
    /// Known, and refused whatever is asked.
    Forbidden,
    Unknown,
}
use Standing::{Forbidden, Owner, Reader, Stranger, Unknown, Writer};

struct Caller {
    what: &'static str,
    standing: Standing,
    headers: Vec<(&'static str, String)>,
}

impl Route {
    /// The status and the code of the answer to a caller.
    fn answer(&self, standing: Standing) -> (u16, &'static str) {
        match standing {
            Owner | Writer => (self.status, ""),
            Reader if !self.writes => (self.status, ""),
            Reader | Forbidden => (403, "FORBIDDEN"),
            Stranger if self.about == About::User => (403, "FORBIDDEN"),
            Stranger => (404, "NOT_FOUND"),
            Unknown => (401, "UNAUTHENTICATED"),
        }
    }
}

/// The owner's things that a request is about.
struct Things {
    owner: Uuid,
    booking: String,
    command: String,
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
        let mut things =
            Things { owner, booking: String::new(), command: String::new(), free: minute + 30 };
        let booked = match about {
            About::User => return things,
            About::Hold => self.owner.holds(minute, minute + 30, 600).await.is(201),
            About::Booking | About::Command => self.owner.books(minute, minute + 30).await.is(201),
        };
        things.booking = booked.text("id").to_owned();
        let history = self.stage.record(&things.booking).await;
        things.command = history["audit"][0]["command_id"].as_str().unwrap().to_owned();
        things
    }

    async fn asks(&self, caller: &Caller, route: &Route, things: &Things) -> Answer {
        let id = match route.about {
            About::User => things.owner.to_string(),
            About::Booking | About::Hold => things.booking.clone(),
            About::Command => things.command.clone(),
        };
        let interval = (at(things.free), at(things.free + 30));
        let body = match route.path {
            "/api/bookings" => {
                json!({ "userId": things.owner, "startTime": interval.0, "endTime": interval.1 })
            }
            path if path.ends_with("/reschedule") => {
                json!({ "startTime": interval.0, "endTime": interval.1 })
            }
            _ => json!({}),
        };
        let url = self.gateway.url(&route.path.replace("{id}", &id));
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

fn bearer(what: &'static str, standing: Standing, proof: &str) -> Caller {
    Caller { what, standing, headers: vec![("Authorization", format!("Bearer {proof}"))] }
}

/// The same caller, who names a user.
fn naming(what: &'static str, standing: Standing, caller: &Caller, user: Uuid) -> Caller {
    let mut headers = caller.headers.clone();
    headers.push(("X-User-ID", user.to_string()));
    Caller { what, standing, headers }
}

/// One of every kind, whose tokens are signed by the secret or by the published keys.
async fn everybody(door: &Door, rsa: &Signer, public: &[u8], ec: &Signer) -> Vec<Caller> {
    let (owner, stranger) = (door.owner.id, Uuid::now_v7());
    let secret = Signer::secret(SECRET.as_bytes());
    let user = json!({ "sub": owner });
    let service = |scope: &str| secret.token(&json!({ "sub": "desk", "scope": scope }));
    let mut callers = vec![
        bearer("the owner", Owner, &secret.token(&user)),
        bearer("the owner, RS256", Owner, &rsa.token(&user)),
        bearer("the owner, ES256", Owner, &ec.token(&user)),
        bearer("a service that writes", Writer, &service("bookings.write")),
        bearer(
            "a service that reads",
            Reader,
            &rsa.token(&json!({ "sub": "eye", "scp": ["bookings.read"] })),
        ),
        bearer(
            "another user",
            Stranger,
            &ec.token(&json!({ "sub": stranger, "scope": "bookings.write" })),
        ),
        bearer("a service without scopes", Forbidden, &service("openid")),
    ];
    let [by_owner, by_service, by_stranger] = [0, 3, 5].map(|of: usize| &callers[of]);
    let named = [
        naming("the owner, who names themself", Owner, by_owner, owner),
        naming("a service that names the owner", Writer, by_service, owner),
        naming("a service that names another user", Stranger, by_service, stranger),
        naming("another user, who names the owner", Forbidden, by_stranger, owner),
    ];
    callers.extend(named);
    callers.extend(keyholders(door, stranger).await);
    callers.extend(impostors(owner, rsa, public));
    callers
}

/// API keys of all kinds.
async fn keyholders(door: &Door, stranger: Uuid) -> Vec<Caller> {
    let key = async |holder: &[&str]| door.stage.new_api_key(holder).await;
    let owner = door.owner.id.to_string();
    let (id, of_owner) = key(&["--user", &owner]).await;
    let (_, of_stranger) = key(&["--user", &stranger.to_string()]).await;
    let (_, writes) = key(&["--service", "desk", "--scope", "bookings.write"]).await;
    let (_, reads) = key(&["--service", "eye", "--scope", "bookings.read"]).await;
    let (revoked, of_former) = key(&["--user", &owner]).await;
    let (expired, of_late) = key(&["--user", &owner, "--expires-days", "1"]).await;
    assert!(door.stage.api_keys(&["revoke", &revoked]).await.0);
    sqlx::query("update api_keys set expires_at = now() where id = $1")
        .bind(&expired)
        .execute(&mut door.stage.database().await)
        .await
        .unwrap();
    let (_, other_secret) = of_stranger.rsplit_once('_').unwrap();
    vec![
        bearer("the owner's key", Owner, &of_owner),
        Caller {
            headers: vec![("X-API-Key", of_owner.clone())],
            ..bearer("in X-API-Key", Owner, "")
        },
        bearer("a key that writes", Writer, &writes),
        bearer("a key that reads", Reader, &reads),
        bearer("another user's key", Stranger, &of_stranger),
        bearer("a revoked key", Unknown, &of_former),
        bearer("an expired key", Unknown, &of_late),
        bearer("a key with another's secret", Unknown, &format!("bk_{id}_{other_secret}")),
        bearer("a key that never was", Unknown, &of_owner.replace(&id, "0123456789abcdef")),
    ]
}

/// Whoever claims to be the owner and proves nothing.
fn impostors(owner: Uuid, rsa: &Signer, public: &[u8]) -> Vec<Caller> {
    let secret = Signer::secret(SECRET.as_bytes());
    let user = json!({ "sub": owner });
    let good = secret.token(&user);
    let payload = good.split('.').nth(1).unwrap();
    let as_secret = |bytes: &[u8]| Signer::secret(bytes).named(rsa.kid.clone()).token(&user);
    let expired = json!({ "sub": owner, "exp": Utc::now().timestamp() - 60 });
    let early = json!({ "sub": owner, "nbf": Utc::now().timestamp() + 600 });
    let (namesake, _) = Signer::rsa(rsa.kid.as_deref().unwrap());
    let nobody = Caller { headers: Vec::new(), ..bearer("nobody", Unknown, "") };
    vec![
        naming("nobody, who names the owner", Unknown, &nobody, owner),
        nobody,
        bearer("an expired token", Unknown, &secret.token(&expired)),
        bearer("an expired token, RS256", Unknown, &rsa.token(&expired)),
        bearer("a token of tomorrow", Unknown, &secret.token(&early)),
        bearer("a wrong secret", Unknown, &Signer::secret(&[7; 32]).token(&user)),
        bearer("a wrong key of the same name", Unknown, &namesake.token(&user)),
        bearer("an unknown key", Unknown, &Signer::ec("unknown").token(&user)),
        // {"alg":"none"}
        bearer("no algorithm", Unknown, &format!("eyJhbGciOiJub25lIn0.{payload}.")),
        bearer("no signature", Unknown, good.rsplit_once('.').unwrap().0),
        bearer("a public key as the secret", Unknown, &as_secret(public)),
        bearer(
            "the same, as text",
            Unknown,
            &as_secret(rsa.jwk()["n"].as_str().unwrap().as_bytes()),
        ),
        bearer("a user's id as the proof", Unknown, &owner.to_string()),
    ]
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
            .number("select (select count(*) from audit) + (select count(*) from calendars)")
            .await;
        if things.booking.is_empty() {
            return (changes, Value::Null);
        }
        (changes, self.stage.record(&things.booking).await)
    }

    async fn allows(&self, caller: &Caller, route: &Route) {
        let things = self.things(route.about).await;
        let answer = self.asks(caller, route, &things).await;
        let cell = format!("{} {}: {}: {}", route.method, route.path, caller.what, answer.raw);
        assert_eq!(answer.status, route.status, "{cell}");
        if route.method == Method::POST {
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
        let nothing =
            Things { owner: Uuid::now_v7(), booking: never(), command: never(), free: things.free };
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
    let ids = [&things.booking, &things.command].into_iter().filter(|id| !id.is_empty());
    ids.fold(text, |text, id| text.replace(id, "…"))
}
