//! Clients at a balancer who book, move, cancel, collide and repeat, and note every answer.
//!
//! No request is tried twice: an answer that is not the expected one, or none, is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::fleet::{Balancer, Release};
use crate::stage::{Answer, at, until};

/// Clients, each with a calendar and kept connections of its own.
const CLIENTS: usize = 8;
/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);
/// A request that is not answered by then has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
/// Failures that a report names; the others it counts.
const NAMED: usize = 10;

#[derive(Default)]
struct Progress {
    over: AtomicBool,
    answered: AtomicUsize,
}

/// What came of all requests.
#[derive(Default)]
pub struct Report {
    /// Answers by release, method and route, and status.
    answers: BTreeMap<(Release, &'static str, u16), usize>,
    /// Commands whose acceptance was answered.
    pub accepted: BTreeSet<Uuid>,
    /// Replays at a gateway of another release than the one that accepted the command.
    pub replayed_across: BTreeMap<(Release, Release), usize>,
    pub failures: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((release, what, status), count) in &self.answers {
            writeln!(f, "{count:6} × {status} to {what} at {release:?}")?;
        }
        let answers: usize = self.answers.values().sum();
        let (commands, failures) = (self.accepted.len(), self.failures.len());
        writeln!(f, "{answers} answers, {commands} commands, {failures} failed requests")?;
        for ((accepted, replayed), count) in &self.replayed_across {
            writeln!(f, "{count} replays at {replayed:?} of what {accepted:?} accepted")?;
        }
        self.failures.iter().take(NAMED).try_for_each(|failure| writeln!(f, "  {failure}"))
    }
}

/// The clients at work.
pub struct Load {
    progress: Arc<Progress>,
    clients: Vec<JoinHandle<Report>>,
}

impl Load {
    pub fn start(balancer: Arc<Balancer>) -> Self {
        let progress = Arc::new(Progress::default());
        let client = |number| {
            let client = Client {
                user: Uuid::now_v7(),
                http: reqwest::Client::builder().timeout(ANSWER_LIMIT).build().unwrap(),
                balancer: balancer.clone(),
                progress: progress.clone(),
                turn: number,
                asked: Release::Previous,
                report: Report::default(),
            };
            tokio::spawn(client.run())
        };
        Self { clients: (0..CLIENTS).map(client).collect(), progress }
    }

    /// Waits for so many more answers.
    pub async fn is_answered(&self, more: usize) {
        let goal = self.progress.answered.load(Ordering::Relaxed) + more;
        until("more requests are answered", async || {
            self.progress.answered.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Lets every client finish its round.
    pub async fn end(self) -> Report {
        self.progress.over.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        for client in self.clients {
            let report = client.await.unwrap();
            all.accepted.extend(report.accepted);
            all.failures.extend(report.failures);
            for (what, count) in report.answers {
                *all.answers.entry(what).or_default() += count;
            }
            for (releases, count) in report.replayed_across {
                *all.replayed_across.entry(releases).or_default() += count;
            }
        }
        all
    }
}

struct Client {
    user: Uuid,
    http: reqwest::Client,
    balancer: Arc<Balancer>,
    progress: Arc<Progress>,
    /// Which gateway is next.
    turn: usize,
    /// Whose gateway got the last request.
    asked: Release,
    report: Report,
}

/// A request, and the statuses that are right.
struct Request<'a> {
    what: &'static str,
    method: Method,
    path: &'a str,
    key: Option<&'a str>,
    /// Waits for the decision.
    waits: bool,
    body: Option<&'a Value>,
    right: &'a [u16],
}

const BOOK: &str = "POST /api/bookings";

impl Client {
    async fn run(mut self) -> Report {
        let mut round = 0;
        while !self.progress.over.load(Ordering::Relaxed) {
            // None: a failure, which is noted.
            let _ = self.round(round).await;
            round += 1;
        }
        self.report
    }

    /// The life of one booking. A waiting client may be sent away with 202 by a gateway that stops.
    async fn round(&mut self, round: i64) -> Option<()> {
        let start = round * 60;
        let key = Uuid::now_v7().to_string();
        let slot = self.slot(start, start + 20);
        let first = self.books(&key, false, &slot, &[202]).await?;
        let accepted_by = self.asked;
        // At another gateway, which may be of the other release.
        let again = self.books(&key, false, &slot, &[202]).await?;
        if self.asked != accepted_by {
            *self.report.replayed_across.entry((accepted_by, self.asked)).or_default() += 1;
        }
        self.agree("a replay", first.text("commandId"), again.text("commandId"));
        let other = self.slot(start + 5, start + 25);
        self.books(&key, false, &other, &[422]).await?;
        self.is_decided(&first, "succeeded").await?;
        self.books(&Uuid::now_v7().to_string(), true, &other, &[409, 202]).await?;

        let booking = first.text("bookingId");
        let moved = json!({ "startTime": at(start + 25), "endTime": at(start + 45) });
        let moved = self.changes("reschedule", booking, &moved).await?;
        self.is_decided(&moved, "succeeded").await?;
        if round % 2 == 0 {
            let cancelled = self.changes("cancel", booking, &json!({})).await?;
            self.is_decided(&cancelled, "succeeded").await?;
        }
        let path = format!("/api/bookings/{booking}");
        let seen = self.reads("GET /api/bookings/{id}", &path).await?;
        let state = if round % 2 == 0 { "CANCELLED" } else { "CONFIRMED" };
        self.agree("the booking's state", seen.text("status"), state);
        Some(())
    }

    fn slot(&self, start: i64, end: i64) -> Value {
        json!({ "userId": self.user, "startTime": at(start), "endTime": at(end) })
    }

    async fn books(
        &mut self,
        key: &str,
        waits: bool,
        body: &Value,
        right: &[u16],
    ) -> Option<Answer> {
        let (path, key, body) = ("/api/bookings", Some(key), Some(body));
        let method = Method::POST;
        self.sends(Request { what: BOOK, method, path, key, waits, body, right }).await
    }

    /// Without waiting, so that the command's id is told.
    async fn changes(&mut self, verb: &'static str, booking: &str, body: &Value) -> Option<Answer> {
        let what = match verb {
            "cancel" => "POST /api/bookings/{id}/cancel",
            _ => "POST /api/bookings/{id}/reschedule",
        };
        let path = &format!("/api/bookings/{booking}/{verb}");
        let (method, body) = (Method::POST, Some(body));
        let right = &[202];
        self.sends(Request { what, method, path, key: None, waits: false, body, right }).await
    }

    async fn reads(&mut self, what: &'static str, path: &str) -> Option<Answer> {
        let (method, body, right) = (Method::GET, None, &[200]);
        self.sends(Request { what, method, path, key: None, waits: true, body, right }).await
    }

    /// Waits for the decision of an accepted command, which must be the right one.
    async fn is_decided(&mut self, accepted: &Answer, status: &str) -> Option<()> {
        let path = format!("/api/commands/{}", accepted.text("commandId"));
        let mut seen = self.reads("GET /api/commands/{id}", &path).await?;
        while seen.text("status") == "accepted" {
            seen = self.reads("GET /api/commands/{id}", &path).await?;
        }
        self.agree("a command's status", seen.text("status"), status);
        (seen.text("status") == status).then_some(())
    }

    fn agree(&mut self, what: &str, found: &str, right: &str) {
        if found != right {
            self.report.failures.push(format!("{what} is {found}, not {right}"));
        }
    }

    /// Sends it once, to the next gateway.
    async fn sends(&mut self, request: Request<'_>) -> Option<Answer> {
        tokio::time::sleep(PAUSE).await; // this client's pace
        self.turn += 1;
        let (release, base) = self.balancer.pick(self.turn);
        self.asked = release;
        let Request { what, method, path, key, waits, body, right } = request;
        let mut sent = self
            .http
            .request(method, format!("{base}{path}"))
            .header("X-User-ID", self.user.to_string());
        if let Some(key) = key {
            sent = sent.header("Idempotency-Key", key);
        }
        if waits {
            sent = sent.header("Prefer", "wait=20");
        }
        if let Some(body) = body {
            sent = sent.json(body);
        }
        let answer = match sent.send().await {
            Ok(response) => Answer::of(response).await,
            Err(cause) => {
                self.report.failures.push(format!("{what} at {release:?}: {cause:?}"));
                return None;
            }
        };
        self.progress.answered.fetch_add(1, Ordering::Relaxed);
        *self.report.answers.entry((release, what, answer.status)).or_default() += 1;
        if !right.contains(&answer.status) {
            let (status, body) = (answer.status, &answer.body);
            self.report.failures.push(format!("{what} at {release:?}: {status} {body}"));
            return None;
        }
        if answer.status == 202 {
            self.report.accepted.extend(Uuid::parse_str(answer.text("commandId")));
        }
        Some(answer)
    }
}
