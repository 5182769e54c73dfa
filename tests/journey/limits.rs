//! How much a caller may ask for, over all gateways together, with Redis and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::header::HeaderMap;
use uuid::Uuid;

use crate::cast::at_once;
use crate::stage::{Answer, Process, Stage, User, start_servers, until};

/// What one caller of these tests is granted: 200 at once, and 100 a second.
const LIMIT: [(&str, &str); 2] =
    [("RATE_LIMIT_PRINCIPAL_MAX", "200"), ("RATE_LIMIT_WINDOW", "2000")];
const AT_ONCE: f64 = 200.0;
const A_SECOND: f64 = 100.0;
/// Between two requests of one client; with four at each of two gateways, many times the limit.
const PAUSE: Duration = Duration::from_millis(10);

/// One caller who asks as much as they can, at several gateways.
struct Greed {
    begun: Instant,
    granted: Arc<AtomicU32>,
    /// Of each gateway.
    refused: Vec<Arc<AtomicU32>>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Greed {
    /// Begins when the first request is granted: a bucket that nobody has taken from is full, and
    /// what a busy machine takes to connect fills it no more.
    async fn at(gateways: &[&Process]) -> Self {
        let granted = Arc::new(AtomicU32::new(1));
        let user = User::new(gateways[0]);
        user.get(&format!("/api/bookings/{}", Uuid::now_v7())).await.is(404);
        let begun = Instant::now();
        let refused: Vec<_> = gateways.iter().map(|_| Arc::new(AtomicU32::new(0))).collect();
        let clients = std::iter::zip(gateways, &refused)
            .flat_map(|(gateway, refused)| vec![(user.at(gateway), refused.clone()); 4]);
        let clients = clients.map(|(user, refused)| {
            let granted = granted.clone();
            tokio::spawn(async move {
                loop {
                    let answer = user.get(&format!("/api/bookings/{}", Uuid::now_v7())).await;
                    match answer.status {
                        429 => assert_eq!(answer.code(), "RATE_LIMITED"),
                        404 => _ = granted.fetch_add(1, Ordering::Relaxed),
                        other => panic!("answered {other}: {}", answer.raw),
                    }
                    refused.fetch_add(u32::from(answer.status == 429), Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        Self { begun, clients: clients.collect(), granted, refused }
    }

    fn granted(&self) -> u32 {
        self.granted.load(Ordering::Relaxed)
    }

    fn refused(&self) -> Vec<u32> {
        self.refused.iter().map(|refused| refused.load(Ordering::Relaxed)).collect()
    }

    /// Goes on for a while; what was granted from the beginning until now, as a part of what the
    /// setting says. Looks when every gateway has just refused: until then, clients on a busy
    /// machine may not have asked for as much as they might.
    async fn goes_on(&self, phase: &str, longer: Duration) -> f64 {
        let goal = self.granted() + (A_SECOND * longer.as_secs_f64()) as u32;
        until("more is granted", async || self.granted() >= goal).await;
        let before = self.refused();
        until("every gateway refuses", async || {
            std::iter::zip(&before, self.refused()).all(|(before, now)| now > *before)
        })
        .await;
        let allowed = AT_ONCE + A_SECOND * self.begun.elapsed().as_secs_f64();
        println!("{phase}: granted {} of {allowed:.0}", self.granted());
        assert!(self.clients.iter().all(|client| !client.is_finished()), "a client failed");
        f64::from(self.granted()) / allowed
    }

    /// The same, within 5 % of the setting.
    async fn is_kept_to_the_limit(&self, phase: &str, longer: Duration) {
        let part = self.goes_on(phase, longer).await;
        assert!((0.95..1.05).contains(&part), "{phase}: {part} of what is allowed");
    }
}

/// How many requests the gateways have decided by their shares. A busy machine may keep Redis from
/// answering in time, and what is granted meanwhile is not what these tests are about.
async fn decided_alone(gateways: &[&Process]) -> f64 {
    let counts = gateways.iter().map(|gateway| gateway.metric("booking_limits_alone_total"));
    join_all(counts).await.into_iter().sum()
}

impl Drop for Greed {
    fn drop(&mut self) {
        self.clients.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn know_of_each_other(gateways: &[&Process]) {
    for gateway in gateways {
        until("the gateways know of each other", async || {
            gateway.metric("booking_gateways").await == gateways.len() as f64
        })
        .await;
    }
}

#[tokio::test]
async fn two_gateways_grant_one_limit_with_redis_without_it_and_with_it_again() {
    let mut servers = start_servers("limits-redis", false, false, true).await;
    let redis = servers.redis.as_mut().unwrap();
    let stage = Stage { redis_url: redis.url(), ..Stage::new("limits").await };
    let (mut one, other) =
        tokio::join!(stage.start("gateway", &LIMIT), stage.start("gateway", &LIMIT));
    know_of_each_other(&[&one, &other]).await;
    let greed = loop {
        let before = decided_alone(&[&one, &other]).await;
        let greed = Greed::at(&[&one, &other]).await;
        let part = greed.goes_on("with Redis", Duration::from_secs(4)).await;
        if decided_alone(&[&one, &other]).await == before {
            assert!((0.95..1.05).contains(&part), "{part} of what is allowed");
            break greed;
        }
    };
    redis.stop().await;
    one.logged("each gateway grants its share of the rate limits", "cause").await;
    greed.is_kept_to_the_limit("without Redis", Duration::from_secs(4)).await;
    redis.start().await.unwrap();
    one.logged("rate limits are shared by the gateways again", "server").await;
    greed.is_kept_to_the_limit("with Redis again", Duration::from_secs(4)).await;
    let lines = one.log_lines();
    let messages = lines.iter().filter_map(|line| line["message"].as_str());
    let turns: Vec<&str> = messages.filter(|text| text.contains("rate limits")).collect();
    assert!(turns.windows(2).all(|two| two[0] != two[1]), "each is said once: {turns:?}");
}

/// Requests from this address, as they come.
struct Passer {
    client: reqwest::Client,
    gateway: String,
}

impl Passer {
    fn at(gateway: &Process) -> Self {
        Self { client: reqwest::Client::new(), gateway: gateway.url("") }
    }

    async fn gets(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.client.get(format!("{}{path}", self.gateway));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// The same from an address that a proxy has heard.
    async fn forwarded(&self, heard: &str) -> u16 {
        self.gets("/nowhere", &[("X-Forwarded-For", heard)]).await.status
    }
}

fn told(headers: &HeaderMap) -> [u32; 3] {
    ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]
        .map(|name| headers[name].to_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn an_address_without_a_known_caller_is_counted_whatever_it_asks_for() {
    let stage = Stage::new("limits-address").await;
    let gateway = stage.start("gateway", &[("RATE_LIMIT_MAX", "5")]).await;
    gateway.is_ready().await;
    let passer = Passer::at(&gateway);
    let path = "/api/commands/018f3c1e-7c1a-7000-8000-0123456789ab";
    let wrong = [("X-User-ID", "not an id")];
    let asks = [
        ("/nowhere", &[] as &[(&str, &str)], 404),
        ("/nowhere", &[("X-Forwarded-For", "203.0.113.5")], 404),
        (path, &[], 401),
        (path, &wrong, 401),
        ("/api/nowhere", &wrong, 404),
    ];
    for (left, (path, headers, status)) in (0..5).rev().zip(asks) {
        let answer = passer.gets(path, headers).await.is(status);
        let [limit, remaining, reset] = told(&answer.headers);
        assert_eq!((limit, remaining), (5, left), "{path}");
        assert!((55 - 12 * left..=60 - 12 * left).contains(&reset), "{reset}");
    }
    for (path, headers, _) in asks {
        let over = passer.gets(path, headers).await.is(429);
        assert_eq!((over.code(), told(&over.headers)[1]), ("RATE_LIMITED", 0));
        let seconds: u32 = over.header("retry-after").parse().unwrap();
        assert!((1..=12).contains(&seconds), "{seconds}");
        let detail = format!(
            "At most 5 requests without a known caller from one address are granted in 60 s; \
             try again in {seconds} s."
        );
        assert_eq!(over.text("detail"), detail);
    }
    for _ in 0..10 {
        passer.gets("/health", &[]).await.is(200);
        passer.gets("/metrics", &[]).await.is(200);
        let user = User::new(&gateway);
        assert_eq!(told(&user.books(0, 30).await.is(202).headers)[..2], [6000, 5999]);
    }
    assert!(gateway.metric("booking_requests_refused_total").await >= 5.0);
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed_whom_it_forwards() {
    let stage = Stage::new("limits-proxy").await;
    let one = [("RATE_LIMIT_MAX", "1")];
    let trusting = [one[0], ("TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1")];
    let (distrustful, trusting) =
        tokio::join!(stage.start("gateway", &one), stage.start("gateway", &trusting));
    let passer = Passer::at(&trusting);
    for heard in ["198.51.100.1", "198.51.100.2", "spoof, 198.51.100.3", "2001:db8:0:1::1"] {
        assert_eq!(passer.forwarded(heard).await, 404, "{heard}");
    }
    for heard in ["198.51.100.1", "9.9.9.9, 198.51.100.2, 10.0.0.7", "2001:db8:0:1::2"] {
        assert_eq!(passer.forwarded(heard).await, 429, "{heard}");
    }
    // This address itself may ask once, and by way of the proxy that it trusts, as anybody.
    for gateway in [&distrustful, &trusting] {
        let passer = Passer::at(gateway);
        passer.gets("/nowhere", &[]).await;
        passer.gets("/nowhere", &[]).await.is(429);
    }
    assert_eq!(passer.forwarded("198.51.100.4").await, 404);
    assert_eq!(passer.forwarded("nobody").await, 429, "malformed: the peer's own address");
    assert_eq!(Passer::at(&distrustful).forwarded("198.51.100.5").await, 429);
}

#[tokio::test]
async fn polls_are_counted_apart_and_retry_after_is_what_it_takes() {
    let stage = Stage::new("limits-polls").await;
    let settings = [
        ("RATE_LIMIT_POLL_MAX", "3"),
        ("RATE_LIMIT_PRINCIPAL_MAX", "2"),
        ("RATE_LIMIT_WINDOW", "6000"),
    ];
    let gateway = stage.start("gateway", &settings).await;
    gateway.is_ready().await;
    let user = User::new(&gateway);
    let booked = user.books(0, 30).await.is(202);
    for _ in 0..3 {
        user.get(booked.location()).await.is(200);
    }
    let over = user.get(booked.location()).await.is(429);
    let begun = Instant::now();
    assert_eq!(over.header("retry-after"), "2");
    assert!(over.text("detail").starts_with("At most 3 polls of one caller"), "{}", over.raw);
    user.books(60, 90).await.is(202);
    user.books(120, 150).await.is(429);
    until("the next poll is granted", async || user.get(booked.location()).await.status == 200)
        .await;
    let took = begun.elapsed();
    assert!((1.0..3.0).contains(&took.as_secs_f64()), "granted after {took:?}");
}

#[tokio::test]
async fn requests_at_the_same_time_are_granted_exactly_the_limit() {
    let stage = Stage::new("limits-burst").await;
    let settings = [("RATE_LIMIT_PRINCIPAL_MAX", "100"), ("RATE_LIMIT_WINDOW", "3600000")];
    let (one, other) =
        tokio::join!(stage.start("gateway", &settings), stage.start("gateway", &settings));
    know_of_each_other(&[&one, &other]).await;
    until("Redis is in time", async || {
        let (before, user) = (decided_alone(&[&one, &other]).await, User::new(&one));
        let users = [user.clone(), user.at(&other)];
        let asks = (0..300).map(|turn| {
            let user = users[turn % 2].clone();
            async move { user.get(&format!("/api/bookings/{}", Uuid::now_v7())).await }
        });
        let answers = at_once(asks).await;
        let later = join_all(users.iter().map(|user| user.books(0, 30))).await;
        if decided_alone(&[&one, &other]).await > before {
            return false;
        }
        let granted = answers.iter().filter(|answer| answer.status == 404).count();
        assert!((100..=104).contains(&granted), "{granted} of 100");
        assert!(later.iter().all(|answer| answer.status == 429), "{later:?}");
        true
    })
    .await;
}
