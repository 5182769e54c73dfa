//! Where a test plays: servers and processes, with the verbs of the domain.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use booking::{store, verify};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, Command};

use crate::servers::{Set, scratch};
pub use crate::servers::{rabbitmq_control, start_servers};
pub use crate::user::{Answer, User};

/// What a condition may take before the test fails. Generous: the machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A system of its own within the shared servers.
pub struct Stage {
    pub name: String,
    pub database_url: String,
    pub amqp_url: String,
    pub redis_url: String,
    pub redis_prefix: String,
    pub partitions: u16,
    /// What its processes are told besides, or instead.
    pub settings: Vec<(&'static str, String)>,
}

impl Stage {
    /// A migrated, empty system with 4 partitions.
    pub async fn new(name: &str) -> Self {
        Self::with_partitions(name, 4).await
    }

    pub async fn with_partitions(name: &str, partitions: u16) -> Self {
        Self::within(Set::plain().await, name, partitions).await
    }

    /// The same within servers that speak TLS alone, as a user with a password.
    pub async fn secured(name: &str) -> Self {
        Self::secured_with_partitions(name, 4).await
    }

    pub async fn secured_with_partitions(name: &str, partitions: u16) -> Self {
        Self::within(Set::secured().await, name, partitions).await
    }

    async fn within(set: &Set, name: &str, partitions: u16) -> Self {
        let stage = Self::created(set, name, partitions).await;
        store::migrate(&stage.database_url, partitions).await.unwrap();
        stage
    }

    /// With an empty database.
    pub async fn created(set: &Set, name: &str, partitions: u16) -> Self {
        let place = set.next_place();
        let mut postgres = PgConnection::connect(&set.database("postgres")).await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("create database {place}"));
        sqlx::raw_sql(create).execute(&mut postgres).await.unwrap();
        let mut stage = Self {
            name: name.to_owned(),
            database_url: set.database(&place),
            amqp_url: set.vhost(&place),
            redis_url: set.redis.clone(),
            redis_prefix: place,
            partitions,
            settings: Vec::new(),
        };
        stage.settings = set.settings(&stage);
        stage
    }

    /// Starts a process of this stage; `settings` are further environment variables.
    pub async fn start(&self, role: &str, settings: &[(&str, &str)]) -> Process {
        let mut process = self.spawn(role, settings);
        process.address = process.logged("started", "address").await;
        process
    }

    /// The same, without waiting until it serves.
    pub fn spawn(&self, role: &str, settings: &[(&str, &str)]) -> Process {
        self.spawn_from(Path::new(env!("CARGO_BIN_EXE_booking")), role, settings)
    }

    /// The same of another build.
    pub fn spawn_from(&self, binary: &Path, role: &str, settings: &[(&str, &str)]) -> Process {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = scratch().join(format!("{}-{role}-{number}.log", self.name));
        let mut command = self.command_of(binary, role);
        command
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .kill_on_drop(true);
        let child = command.spawn().unwrap();
        Process { child, log, address: String::new() }
    }

    /// What runs a role, or asks something, with the settings of this stage.
    pub fn command(&self, role: &str) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_booking")), role)
    }

    fn command_of(&self, binary: &Path, role: &str) -> Command {
        let mut command = Command::new(binary);
        command
            .arg(role)
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.amqp_url)
            .env("REDIS_URL", &self.redis_url)
            .env("REDIS_PREFIX", &self.redis_prefix)
            .env("PARTITIONS", self.partitions.to_string())
            .env("PORT", "0")
            .env("OPS_PORT", "0")
            .env("LEASE_SECONDS", "2")
            .env("RATE_LIMIT_MAX", "0") // all tests come from one address
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a gateway whose servers answer.
    pub async fn gateway(&self) -> Process {
        let gateway = self.start("gateway", &[]).await;
        gateway.is_ready().await;
        gateway
    }

    /// Starts a worker whose servers answer.
    pub async fn worker(&self) -> Process {
        let worker = self.start("worker", &[]).await;
        worker.is_ready().await;
        worker
    }

    pub async fn database(&self) -> PgConnection {
        PgConnection::connect(&self.database_url).await.unwrap()
    }

    /// The number that a query gives.
    pub async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.database().await).await.unwrap()
    }

    /// Waits until every accepted command has a final state.
    pub async fn everything_is_decided(&self) {
        let undecided = "select count(*) from commands where status = 'accepted'";
        until("everything is decided", async || self.number(undecided).await == 0).await;
    }

    /// Waits until the outbox is empty too.
    pub async fn everything_is_relayed(&self) {
        until("the outbox is empty", async || {
            self.number("select count(*) from outbox").await == 0
        })
        .await;
    }

    /// Fails with the report unless all promises hold.
    pub async fn all_promises_hold(&self) {
        self.everything_is_decided().await;
        let report = verify::run(&self.database_url, Some(&self.amqp_url), 60).await.unwrap();
        assert!(report.holds, "{}", report.text);
    }
}

/// A process of the system.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where it serves HTTP.
    pub address: String,
}

impl Process {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits for a log line with this message and returns one of its fields.
    pub async fn logged(&mut self, message: &str, field: &str) -> String {
        let begun = Instant::now();
        loop {
            let found = self.log_lines().into_iter().find(|line| line["message"] == message);
            if let Some(line) = found {
                return line[field].as_str().map_or_else(|| line[field].to_string(), str::to_owned);
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the process ended with {ended:?}:\n{}", self.log_text());
            assert!(begun.elapsed() < PATIENCE, "no line {message:?} in:\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn log_lines(&self) -> Vec<Value> {
        let text = self.log_text();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until `/health/ready` answers 200.
    pub async fn is_ready(&self) {
        let ready = self.url("/health/ready");
        until("the process is ready", async || {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    /// What it shows at `/metrics`.
    pub async fn metrics(&self) -> String {
        reqwest::get(self.url("/metrics")).await.unwrap().text().await.unwrap()
    }

    /// The sum of a metric's samples, over all labels; 0 when there is none.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let samples = text.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let sample = sample.split('{').next()?;
            (sample == name).then(|| value.parse::<f64>().unwrap())
        });
        samples.sum()
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGSTOP: it stands still and keeps its connections.
    pub async fn freeze(&self) {
        self.signal("-STOP").await;
    }

    /// SIGCONT.
    pub async fn thaw(&self) {
        self.signal("-CONT").await;
    }

    /// Waits until it would hear a SIGTERM instead of dying of it.
    pub async fn listens_to_signals(&self) {
        let status = format!("/proc/{}/status", self.child.id().expect("the process runs"));
        until("the process handles SIGTERM", async || {
            let text = std::fs::read_to_string(&status).unwrap();
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14) != 0
        })
        .await;
    }

    /// SIGTERM, then waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM").await;
        self.ended().await
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the process ends").unwrap()
    }

    /// Its memory, in MiB.
    pub fn memory(&self) -> u64 {
        let pid = self.child.id().expect("the process runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    }

    /// How many files and connections it has open.
    pub fn open_files(&self) -> usize {
        let pid = self.child.id().expect("the process runs");
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// Whether it stands still after a SIGSTOP.
    pub fn is_frozen(&self) -> bool {
        let pid = self.child.id().expect("the process runs");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    }

    pub async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("the process runs").to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }
}

/// Waits for a condition, and fails after [`PATIENCE`].
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, holds).await;
}

/// The same for what takes its time.
pub async fn until_within(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < limit, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A time that many minutes after a fixed morning in the future.
pub fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
        + TimeDelta::days(23_000)
        + TimeDelta::hours(9)
        + TimeDelta::minutes(minutes)
}
