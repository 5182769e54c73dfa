//! Private PostgreSQL, RabbitMQ and Redis for `booking dev` and for the tests.
//!
//! They live in one folder, listen on free ports of 127.0.0.1 and mind nobody else's servers. A
//! second start on a folder continues with its data. A folder serves one of us at a time; whoever
//! comes while the servers of a killed run are still being stopped waits for that.
//!
//! `POSTGRES_BIN` (a folder), `RABBITMQ_SERVER` and `REDIS_SERVER` (programs) name an installation
//! in an unusual place.
//!
//! However this process ends, its servers end with it: see `guard.rs`. Dropping [`Servers`], or the
//! future that starts them, stops them too, but blocks the thread; [`Servers::stop`] does not.

mod guard;
mod ports;
mod postgres;
mod rabbitmq;
mod redis;
mod server;
pub mod session;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::time::sleep;

use guard::{Entry, Guard};
pub use postgres::Postgres;
pub use rabbitmq::{Control, RabbitMq};
pub use redis::Redis;

/// How long the guard of an ended run may take to stop its servers; then the start is refused.
const HANDOVER_LIMIT: Duration = Duration::from_secs(40);

/// How often the folder is tried while its guard works.
const HANDOVER_POLL: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the data is; created if need be.
    pub dir: PathBuf,
    /// Which servers to start: false for one that is given by its URL.
    pub postgres: bool,
    pub rabbitmq: bool,
    pub redis: bool,
    /// How many virtual hosts `t1`, `t2`, … RabbitMQ has besides `/`.
    pub vhosts: u16,
    /// If set, all speak TLS and nothing else.
    pub tls: Option<Tls>,
}

/// Files in PEM: what the servers show, a certificate for `localhost`, and whose it is.
#[derive(Clone, Debug)]
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    /// The authority as the value of a URL's parameter.
    fn authority_in_url(&self) -> String {
        let path = self.authority.to_string_lossy();
        url::form_urlencoded::byte_serialize(path.as_bytes()).collect()
    }
}

pub struct Servers {
    pub postgres: Option<Postgres>,
    pub rabbitmq: Option<RabbitMq>,
    pub redis: Option<Redis>,
    // The guard is dropped after the servers it guards, the lock last.
    guard: Arc<Guard>,
    lock: File,
}

impl Servers {
    /// All at once. If one fails, the others are stopped.
    pub async fn start(settings: &Settings) -> anyhow::Result<Servers> {
        let dir = &settings.dir;
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let dir = fs::canonicalize(dir).with_context(|| format!("resolving {}", dir.display()))?;
        let lock = lock(&dir).await?;
        let guard = Arc::new(Guard::start(&dir, &lock)?);
        let started = start_all(&dir, settings, &guard).await;
        match started {
            Ok((postgres, rabbitmq, redis)) => {
                Ok(Servers { postgres, rabbitmq, redis, guard, lock })
            }
            Err(error) => {
                release(guard, lock).await;
                Err(error)
            }
        }
    }

    /// Stops all, each within its limit.
    pub async fn stop(self) {
        let Servers { postgres, rabbitmq, redis, guard, lock } = self;
        if let Some(rabbitmq) = rabbitmq {
            rabbitmq.stop_all().await;
        }
        if let Some(mut redis) = redis {
            redis.stop().await;
        }
        if let Some(mut postgres) = postgres {
            postgres.stop().await;
        }
        release(guard, lock).await;
        tracing::info!("the private servers have stopped");
    }
}

type Started = (Option<Postgres>, Option<RabbitMq>, Option<Redis>);

async fn start_all(dir: &Path, settings: &Settings, guard: &Arc<Guard>) -> anyhow::Result<Started> {
    end_left_over(dir, guard).await?;
    let id = id(dir)?;
    let tls = settings.tls.as_ref();
    tokio::try_join!(
        only_if(settings.postgres, Postgres::start_in(dir, &id, tls, guard)),
        only_if(settings.rabbitmq, RabbitMq::start_in(dir, &id, settings, guard)),
        only_if(settings.redis, Redis::start_in(dir, tls, guard)),
    )
}

async fn only_if<T>(
    wanted: bool,
    start: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    if wanted { start.await.map(Some) } else { Ok(None) }
}

/// Deletes a folder with all its data, wherever that is.
pub fn remove(dir: &Path) -> anyhow::Result<()> {
    if let Ok(elsewhere) = fs::read_link(dir.join("postgres")) {
        fs::remove_dir_all(&elsewhere)
            .with_context(|| format!("removing {}", elsewhere.display()))?;
    }
    fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

/// The folder is ours until this file is closed, here and in the guard. It names us for as long as
/// we run: a lock that is still held after that is in the hands of a guard at work.
async fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).context("locking the folder"),
        }
        if let Some(owner) = owner(&path) {
            bail!(
                "{} is in use by process {owner}; stop it or choose another folder",
                dir.display()
            );
        }
        if began.elapsed() > HANDOVER_LIMIT {
            bail!("the servers of an earlier run on {} do not end", dir.display());
        }
        sleep(HANDOVER_POLL).await;
    }
    let us = std::process::id();
    let started = guard::started(us).unwrap_or_default();
    file.set_len(0)?;
    writeln!(file, "{us} {started}").with_context(|| format!("writing {}", path.display()))?;
    Ok(file)
}

/// The process that holds the lock, if it still runs.
fn owner(lock: &Path) -> Option<u32> {
    let text = fs::read_to_string(lock).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (guard::started(pid)? == started).then_some(pid)
}

/// Dismisses the guard, which stops what still runs, and gives the folder back.
async fn release(guard: Arc<Guard>, lock: File) {
    let freed = tokio::task::spawn_blocking(move || {
        drop(guard);
        // From here on nobody is named: who comes now waits for the close instead of giving up.
        lock.set_len(0)
    });
    if let Ok(Err(error)) = freed.await {
        tracing::warn!("giving the folder back: {error}");
    }
}

/// Servers of a run that was killed together with its guard.
async fn end_left_over(dir: &Path, guard: &Guard) -> anyhow::Result<()> {
    for name in ["rabbitmq", "epmd", "redis", "initdb", "postgres"] {
        if let Some(entry) = Entry::left_over(&dir.join(format!("{name}.pid"))) {
            tracing::info!("stopping the {name} of an earlier run");
            guard.end(&entry).await?;
        }
    }
    Ok(())
}

/// Tells this folder from all others, wherever it is moved.
fn id(dir: &Path) -> anyhow::Result<String> {
    let file = dir.join("id");
    match fs::read_to_string(&file) {
        Ok(id) if !id.is_empty() => Ok(id),
        _ => {
            let id = format!("{:08x}", RandomState::new().hash_one(dir) & 0xffff_ffff);
            fs::write(&file, &id).with_context(|| format!("writing {}", file.display()))?;
            Ok(id)
        }
    }
}

/// A program by its variable or its usual name.
fn program(variable: &str, usual: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from)
}

/// All that a server gets to see of our environment.
fn base_environment() -> [(&'static str, OsString); 2] {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    [("PATH", path), ("LANG", "C.UTF-8".into())]
}

fn report(server: &str, port: u16, began: Instant) {
    let seconds = began.elapsed().as_secs_f32();
    tracing::info!("{server} is ready on port {port} after {seconds:.1} s");
}
