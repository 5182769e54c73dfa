//! A private PostgreSQL, with the durability of a real one.
//!
//! `fsync` and `synchronous_commit` stay on, as they are unless somebody changes them: the promises of
//! this program rest on them, and what is measured here should hold elsewhere. Everybody on this machine may connect as `postgres` without
//! a password, over loopback only.
//!
//! PostgreSQL refuses to run as root. Started by root, it runs as the user `postgres`; if that user
//! cannot reach our folder (`/root`, say), the data lives under `/var/lib` and the folder holds a
//! link to it. A cluster is made beside its place and then renamed into it: it is there complete or
//! not at all.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Tls;
use super::guard::{Entry, Guard};
use super::ports::Tries;
use super::server::{Program, Server, User};
use crate::tls::POSTGRES_AUTHORITIES;

/// A start that takes longer, recovery after a crash included, has failed.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A fast shutdown writes a checkpoint; one that takes longer is cut short, and recovered later.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Where the data of a cluster started by root goes if `postgres` cannot reach the folder.
const ELSEWHERE: &str = "/var/lib";

const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=256MB",
    "max_wal_size=4GB",
    "wal_compression=on",
    "jit=off",
];

pub struct Postgres {
    server: Server,
    port: u16,
    data: PathBuf,
    psql: PathBuf,
    tls: Option<Tls>,
}

impl Postgres {
    pub(super) async fn start_in(
        dir: &Path,
        id: &str,
        tls: Option<&Tls>,
        guard: &Arc<Guard>,
    ) -> anyhow::Result<Postgres> {
        tracing::info!("starting PostgreSQL");
        let began = Instant::now();
        let user = postgres_if_root()?;
        let home = home(dir, id, user)?;
        let data = home.join("data");
        let bin = binaries(&data)?;
        if !data.exists() {
            initialize(dir, &home, &bin, user, guard).await?;
        }
        end_left_over(&data, guard).await?;
        if let Some(tls) = tls {
            take_over(tls, &data, user)?;
        }
        let mut tries = Tries::new(dir.join("postgres.port"))?;
        let postgres = loop {
            let [port] = tries.ports();
            let program = program(dir, &data, &bin, port, user, tls.is_some());
            let server = Server::start(program, Arc::clone(guard)).await?;
            let psql = bin.join("psql");
            let mut postgres =
                Postgres { server, port, data: data.clone(), psql, tls: tls.cloned() };
            match postgres.ready().await {
                Ok(()) => break postgres,
                Err(failure) => tries.again(failure)?,
            }
        };
        super::report("PostgreSQL", postgres.port, began);
        Ok(postgres)
    }

    pub fn url(&self, database: &str) -> String {
        match &self.tls {
            None => format!("postgres://postgres@127.0.0.1:{}/{database}", self.port),
            Some(tls) => format!(
                "postgres://postgres@localhost:{}/{database}?sslmode=verify-full&{POSTGRES_AUTHORITIES}={}",
                self.port,
                tls.authority_in_url()
            ),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates the database unless it is there.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        let known =
            format!("SELECT 1 FROM pg_database WHERE datname = '{}'", name.replace('\'', "''"));
        if self.sql("postgres", &known).await?.is_empty() {
            let create = format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""));
            self.sql("postgres", &create).await?;
        }
        Ok(())
    }

    /// Runs one statement by `psql` and returns its bare output.
    pub async fn sql(&self, database: &str, statement: &str) -> anyhow::Result<String> {
        let output: Output = tokio::process::Command::new(&self.psql)
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .arg(self.url(database))
            .env_clear()
            .envs(super::base_environment())
            .output()
            .await
            .with_context(|| format!("running {}", self.psql.display()))?;
        if !output.status.success() {
            bail!("{statement}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A fast shutdown: clients are disconnected, all that was committed is on disk.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// SIGKILL to the postmaster: the next start recovers from the log.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }

    /// Again on the same port, with the same data.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.server.start_again().await?;
            match self.ready().await {
                // After a kill, orphaned backends hold the shared memory for a moment.
                Err(error) if began.elapsed() < STOP_PATIENCE => {
                    tracing::debug!("PostgreSQL is started again: {error:#}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while !says_ready(&self.data, self.server.pid()) {
            self.server.still_starting(began, START_LIMIT).await?;
        }
        self.server.started()
    }
}

/// The postmaster keeps its number in the first line of its file and its state in the eighth.
fn says_ready(data: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines().map(str::trim);
    lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
}

/// The server takes a key only from its own user, so it gets a copy, where it looks for one.
fn take_over(tls: &Tls, data: &Path, user: Option<User>) -> anyhow::Result<()> {
    for (from, name) in [(&tls.certificate, "server.crt"), (&tls.key, "server.key")] {
        let to = data.join(name);
        let owner = user.map(|user| (user.uid, user.gid)).unzip();
        fs::copy(from, &to)
            .and_then(|_| fs::set_permissions(&to, fs::Permissions::from_mode(0o600)))
            .and_then(|()| chown(&to, owner.0, owner.1))
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn program(
    dir: &Path,
    data: &Path,
    bin: &Path,
    port: u16,
    user: Option<User>,
    tls: bool,
) -> Program {
    let mut args: Vec<OsString> =
        vec!["-D".into(), data.into(), "-p".into(), port.to_string().into()];
    args.extend(SETTINGS.iter().flat_map(|setting| ["-c".into(), OsString::from(setting)]));
    if tls {
        args.extend(["-c", "ssl=on"].map(Into::into));
    }
    Program {
        name: "PostgreSQL",
        path: bin.join("postgres"),
        args,
        env: Vec::new(),
        user,
        work_dir: data.into(),
        log: dir.join("postgres.log"),
        pid_file: dir.join("postgres.pid"),
        stop_signal: "INT",
        patience: STOP_PATIENCE,
    }
}

async fn initialize(
    dir: &Path,
    home: &Path,
    bin: &Path,
    user: Option<User>,
    guard: &Arc<Guard>,
) -> anyhow::Result<()> {
    let unfinished = home.join("data.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("removing {}", unfinished.display()))?;
    }
    let args = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-D"];
    let mut args: Vec<OsString> = args.map(Into::into).into();
    args.push(unfinished.clone().into());
    let program = Program {
        name: "initdb",
        path: bin.join("initdb"),
        args,
        env: Vec::new(),
        user,
        work_dir: home.into(),
        log: dir.join("initdb.log"),
        pid_file: dir.join("initdb.pid"),
        stop_signal: "TERM",
        patience: Duration::ZERO,
    };
    Server::start(program, Arc::clone(guard)).await?.finish().await?;
    fs::rename(&unfinished, home.join("data")).context("moving the new cluster to its place")
}

/// Ends a postmaster on this data that no run of ours has kept in a file; forgets one that is gone.
async fn end_left_over(data: &Path, guard: &Guard) -> anyhow::Result<()> {
    let file = data.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&file) else {
        return Ok(());
    };
    let pid = text.lines().next().and_then(|pid| pid.trim().parse::<u32>().ok());
    if let Some(pid) = pid
        && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir == data)
    {
        tracing::info!("stopping the PostgreSQL of an earlier run, process {pid}");
        guard.end(&Entry::new(pid, "INT", STOP_PATIENCE)?).await?;
    }
    // Its number may belong to another PostgreSQL by now, and ours would refuse to start.
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The installed version that the cluster was made by, or the newest.
fn binaries(data: &Path) -> anyhow::Result<PathBuf> {
    if let Some(bin) = std::env::var_os("POSTGRES_BIN") {
        return Ok(bin.into());
    }
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<u32> = installed
        .filter(|version| version.path().join("bin/postgres").exists())
        .filter_map(|version| version.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    let made_by = fs::read_to_string(data.join("PG_VERSION")).ok();
    let version = match made_by.as_deref().map(str::trim) {
        Some(made_by) => versions.iter().find(|version| version.to_string() == made_by),
        None => versions.last(),
    };
    let version = version.with_context(|| match &made_by {
        Some(made_by) => format!("{} needs PostgreSQL {}", data.display(), made_by.trim()),
        None => "PostgreSQL is not installed; deploy/install-servers installs it".to_owned(),
    })?;
    Ok(format!("/usr/lib/postgresql/{version}/bin").into())
}

/// The folder of the cluster, usable by whoever runs PostgreSQL, with all links resolved.
fn home(dir: &Path, id: &str, user: Option<User>) -> anyhow::Result<PathBuf> {
    let home = dir.join("postgres");
    if !home.exists() {
        if user.is_some_and(|user| !reaches(user, dir)) {
            let elsewhere = Path::new(ELSEWHERE).join(format!("booking-dev-{id}"));
            tracing::info!("PostgreSQL's data is kept in {}", elsewhere.display());
            create(&elsewhere, user)?;
            // A link to a folder that somebody has removed is there, but leads nowhere.
            if home.is_symlink() {
                fs::remove_file(&home)?;
            }
            symlink(&elsewhere, &home).with_context(|| format!("linking {}", home.display()))?;
        } else {
            create(&home, user)?;
        }
    }
    fs::canonicalize(&home).with_context(|| format!("resolving {}", home.display()))
}

fn create(home: &Path, user: Option<User>) -> anyhow::Result<()> {
    let created = fs::create_dir_all(home)
        .and_then(|()| fs::set_permissions(home, fs::Permissions::from_mode(0o700)))
        .and_then(|()| match user {
            Some(user) => chown(home, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        });
    created.with_context(|| format!("creating {}", home.display()))
}

fn reaches(user: User, dir: &Path) -> bool {
    let mut look = Command::new("test");
    look.arg("-x").arg(dir).uid(user.uid).gid(user.gid).current_dir("/");
    look.status().is_ok_and(|status| status.success())
}

/// Nobody for an ordinary user: PostgreSQL then runs as that user.
fn postgres_if_root() -> anyhow::Result<Option<User>> {
    if fs::metadata("/proc/self").context("looking who we are")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let line = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let mut ids = line.into_iter().flat_map(|line| line.split(':').skip(1));
    let mut id = || ids.next().and_then(|id| id.parse().ok());
    match (id(), id()) {
        (Some(uid), Some(gid)) => Ok(Some(User { uid, gid })),
        _ => bail!("PostgreSQL does not run as root, and there is no user postgres to run it as"),
    }
}
