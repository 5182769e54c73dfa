//! An installation with servers of its own, and the doctor's word on it.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use booking::dev::Servers;
use booking::store;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::run::{DEADLINE, Dir, booking};
use crate::verifying::Serve;

/// As which role it works: not the superuser that owns the server.
const ROLE: &str = "front_desk";
const DATABASE: &str = "booked";
/// What each finding says of an installation where nothing runs.
const NO_WORKER: &str = "workers.consumers";

pub struct Installation {
    pub dir: Dir,
    pub servers: Servers,
    /// As the role of the installation; as the superuser.
    pub database: String,
    pub admin: String,
    pub broker: String,
    pub redis: String,
}

/// What the doctor found.
pub struct Found {
    pub code: Option<i32>,
    pub report: Value,
}

impl Installation {
    pub async fn start() -> Installation {
        let dir = Dir::new();
        let servers = Servers::start(&dir.settings()).await.unwrap();
        let postgres = servers.postgres.as_ref().unwrap();
        postgres.sql("postgres", &format!("create role {ROLE} login")).await.unwrap();
        let create = format!("create database {DATABASE} owner {ROLE}");
        postgres.sql("postgres", &create).await.unwrap();
        let admin = postgres.url(DATABASE);
        let database = admin.replace("//postgres@", &format!("//{ROLE}@"));
        store::migrate(&database, 4).await.unwrap();
        let broker = servers.rabbitmq.as_ref().unwrap().url("/");
        let redis = servers.redis.as_ref().unwrap().url();
        Installation { dir, servers, database, admin, broker, redis }
    }

    pub async fn stop(self) {
        self.servers.stop().await;
    }

    /// The settings of all its processes.
    pub fn settings(&self) -> [(&'static str, &str); 5] {
        [
            ("DATABASE_URL", &self.database),
            ("AMQP_URL", &self.broker),
            ("REDIS_URL", &self.redis),
            ("PARTITIONS", "4"),
            ("LEASE_SECONDS", "2"),
        ]
    }

    /// Runs it, which declares the exchanges and queues, and asks the doctor while it works.
    pub async fn is_silent_while_it_serves(&self) {
        let mut serve = Serve::start(&self.dir, &self.settings());
        serve.decides_something().await;
        let (code, text) = self.text(&["--strict"], &[]);
        let (first, rest) = text.split_once('\n').unwrap_or((&text, "none"));
        assert!(first.starts_with("healthy: ") && first.ends_with(" checks"), "{text}");
        let checks = first.split(' ').nth(1).and_then(|number| number.parse::<u32>().ok());
        assert!(checks.is_some_and(|checks| checks > 45), "{text}");
        assert_eq!((code, rest), (Some(0), ""), "{text}");
        serve.stop();
    }

    /// What it prints for people.
    pub fn text(&self, flags: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.run(flags, settings);
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// The doctor's report, with these flags, and with these settings instead of its own.
    pub fn examine(&self, flags: &[&str], settings: &[(&str, &str)]) -> Found {
        let Output { status, stdout, stderr } = self.run(&[flags, &["--json"]].concat(), settings);
        let report = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
            let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            panic!("{error}: {out}{err}")
        });
        Found { code: status.code(), report }
    }

    fn run(&self, flags: &[&str], settings: &[(&str, &str)]) -> Output {
        let nowhere: PathBuf = self.dir.0.join("nowhere");
        let mut command = booking(&[&["doctor"], flags].concat(), &self.settings());
        command.envs(settings.iter().copied()).env("BOOKING_DATA_DIR", nowhere);
        command.output().unwrap()
    }

    /// Nothing is found but that nothing runs.
    #[track_caller]
    pub fn is_as_before(&self, after: &str) {
        self.examine(&[], &[]).is_idle(after);
    }

    /// Runs each statement by itself: some refuse to share a transaction.
    pub async fn admin_sql(&self, statements: &str) {
        let mut connection = PgConnection::connect(&self.admin).await.unwrap();
        let text = statements.lines().map(|line| line.split("--").next().unwrap());
        let text = text.collect::<Vec<_>>().join("\n");
        for statement in text.split(';').filter(|statement| !statement.trim().is_empty()) {
            let safe = sqlx::AssertSqlSafe(statement.to_owned());
            let done = sqlx::raw_sql(safe).execute(&mut connection).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        connection.close().await.unwrap();
    }

    /// Whether a fresh session of ours sees this.
    pub async fn sees(&self, condition: &str) -> bool {
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        let query = sqlx::AssertSqlSafe(format!("select {condition}"));
        let seen = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        seen
    }
}

impl Found {
    /// The checks that found something, in the order of the report.
    pub fn checks(&self) -> Vec<&str> {
        self.findings().iter().map(|finding| finding["check"].as_str().unwrap()).collect()
    }

    /// Nothing was found but that nothing runs.
    #[track_caller]
    pub fn is_idle(&self, after: &str) {
        assert_eq!(self.checks(), [NO_WORKER], "after {after}: {:#}", self.report);
        assert_eq!((self.code, self.left_out()), (Some(0), 0), "after {after}: {:#}", self.report);
    }

    /// How many checks could not be made.
    pub fn left_out(&self) -> usize {
        self.report["notMade"].as_array().unwrap().len()
    }

    fn findings(&self) -> &[Value] {
        self.report["findings"].as_array().unwrap()
    }

    fn finding(&self, check: &str) -> &Value {
        let found = self.findings().iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {:#}", self.report))
    }

    /// What mends it.
    #[track_caller]
    pub fn mend(&self, check: &str) -> &str {
        self.finding(check)["mend"].as_str().unwrap()
    }

    /// Exactly these checks found something, besides that nothing runs; the first one is about the
    /// fault, as bad as this, and its remedy says so.
    #[track_caller]
    pub fn is(&self, what: &str, severity: &str, checks: &[&str], remedy: &str) {
        let mut found = self.checks();
        found.retain(|check| *check != NO_WORKER || checks.contains(check));
        let (mut found, mut wanted) = (found, checks.to_vec());
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{what}: {:#}", self.report);
        let finding = self.finding(checks[0]);
        assert_eq!(finding["severity"], severity, "{what}: {finding:#}");
        let mend = finding["mend"].as_str().unwrap();
        assert!(mend.contains(remedy), "{what}: {remedy:?} is not in {finding:#}");
        assert!(!finding["means"].as_str().unwrap().is_empty(), "{finding:#}");
        assert_eq!(self.code, Some(i32::from(severity == "error")), "{what}: {:#}", self.report);
    }
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while !holds().await {
            look.tick().await;
        }
    };
    let came = tokio::time::timeout(DEADLINE, waiting).await;
    came.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
