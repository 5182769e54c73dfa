//! One server process: started behind a gate, watched, awaited, stopped.
//!
//! The gate is a shell that waits for one line and then becomes the server. We tell the guard about
//! it first and open the gate afterwards: a server runs only once the guard knows it, and if we are
//! killed in between, the gate reads the end of its input and leaves. The server keeps the process
//! number of its gate.
//!
//! A server has a process group of its own, so that Ctrl-C in a terminal reaches only us, and an
//! environment of its own, so that nobody's `PGPORT` or `RABBITMQ_NODENAME` leads it astray.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;

use super::Tls;
use super::guard::{Entry, Guard};
use crate::tls::client;

const GATE: &str = "read -r _ || exit; exec \"$@\" </dev/null";

/// How often a starting server is asked whether it is ready.
const POLL: Duration = Duration::from_millis(25);

/// A server that is still starting has promised nothing yet: it gets this long to stop. RabbitMQ
/// may even overlook the signal then.
const STARTING_PATIENCE: Duration = Duration::from_secs(1);

/// How much of a failed server's log is shown.
const LOG_TAIL: u64 = 4096;

/// What the guard may need beyond a server's patience to end it with SIGKILL.
const LAST_RESORT: Duration = Duration::from_secs(10);

/// Everything needed to start a server, again and again.
pub(super) struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(&'static str, OsString)>,
    pub user: Option<User>,
    pub work_dir: PathBuf,
    pub log: PathBuf,
    /// Where the running process is kept, for the next run to find it if even the guard is killed.
    pub pid_file: PathBuf,
    pub stop_signal: &'static str,
    /// After this the guard follows the signal with SIGKILL.
    pub patience: Duration,
}

/// Whom a server runs as, where that is not ourselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
}

pub(super) struct Server {
    program: Program,
    guard: Arc<Guard>,
    child: Child,
    pid: u32,
    entry: Entry,
    log_start: u64,
}

impl Server {
    pub(super) async fn start(program: Program, guard: Arc<Guard>) -> anyhow::Result<Server> {
        let log_start = fs::metadata(&program.log).map_or(0, |log| log.len());
        let (child, pid, entry) =
            launch(&program, &guard).await.with_context(|| format!("starting {program}"))?;
        Ok(Server { program, guard, child, pid, entry, log_start })
    }

    pub(super) async fn start_again(&mut self) -> anyhow::Result<()> {
        self.stop().await;
        self.log_start = fs::metadata(&self.program.log).map_or(0, |log| log.len());
        (self.child, self.pid, self.entry) = launch(&self.program, &self.guard)
            .await
            .with_context(|| format!("starting {} again", self.program))?;
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// For a caller that asks a server again and again whether it is ready: lets a moment pass. An
    /// end of the process or of the time is an error, and then nothing runs any more.
    pub(super) async fn still_starting(
        &mut self,
        began: Instant,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let failure = match self.child.try_wait()? {
            Some(status) => format!("it ended with {status}"),
            None if began.elapsed() > limit => format!("it is not ready after {limit:?}"),
            None => {
                sleep(POLL).await;
                return Ok(());
            }
        };
        self.stop().await;
        bail!("{}", self.failure(&failure))
    }

    /// The server is ready: from now on it is given its full time to stop.
    pub(super) fn started(&mut self) -> anyhow::Result<()> {
        let Program { stop_signal, patience, .. } = self.program;
        self.entry = Entry::new(self.pid, stop_signal, patience)?;
        self.guard.watch(&self.entry)
    }

    /// For a program that does its work and ends.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        let status: ExitStatus = self.child.wait().await?;
        if !status.success() {
            bail!("{}", self.failure(&format!("it ended with {status}")));
        }
        Ok(())
    }

    /// Politely, and after a while otherwise. A server that has ended already is fine.
    pub(super) async fn stop(&mut self) {
        if self.child.id().is_none() {
            return;
        }
        if let Err(error) = self.guard.stop(&self.entry) {
            tracing::warn!("{} is killed, {error:#}", self.program.name);
            return self.kill().await;
        }
        let limit = self.program.patience + LAST_RESORT;
        if timeout(limit, self.child.wait()).await.is_err() {
            tracing::warn!("{} has not ended after {limit:?}", self.program.name);
        }
    }

    /// The way of a power failure.
    pub(super) async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!("killing {}: {error}", self.program.name);
        }
    }

    fn failure(&self, what: &str) -> String {
        let Program { name, log, .. } = &self.program;
        let tail = tail(log, self.log_start).unwrap_or_else(|error| error.to_string());
        let program = &self.program;
        format!("{name} failed, {what}\ncommand: {program}\n{}:\n{tail}", log.display())
    }
}

async fn launch(program: &Program, guard: &Guard) -> anyhow::Result<(Child, u32, Entry)> {
    let log = File::options().create(true).append(true).open(&program.log)?;
    let mut command = Command::new("sh");
    command
        .args(["-c", GATE, program.name])
        .arg(&program.path)
        .args(&program.args)
        .env_clear()
        .envs(super::base_environment())
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&program.work_dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log);
    if let Some(user) = program.user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn()?;
    let pid = child.id().context("it ended at once")?;
    let entry = Entry::new(pid, program.stop_signal, STARTING_PATIENCE)?;
    guard.watch(&entry)?;
    entry.keep(&program.pid_file)?;
    let mut gate = child.stdin.take().context("the gate has no input")?;
    gate.write_all(b"go\n").await?;
    Ok((child, pid, entry))
}

fn tail(log: &PathBuf, start: u64) -> anyhow::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The command line, as a person would type it.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.args.iter().try_for_each(|arg| {
            let arg = arg.to_string_lossy();
            let plain = !arg.is_empty() && !arg.contains(|c: char| c.is_whitespace() || c == '\'');
            if plain { write!(f, " {arg}") } else { write!(f, " {arg:?}") }
        })
    }
}

/// A connection to a private server, by TLS where it speaks that.
pub(super) type Wire = Either<TcpStream, TlsStream<TcpStream>>;

/// A handshake that takes longer counts as refused, and is tried again.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// A connection to a private server, if it accepts one. With TLS it is ours: it has our certificate.
pub(super) async fn connect(port: u16, tls: Option<&Tls>) -> Option<Wire> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let Some(tls) = tls else { return Some(Either::Left(tcp)) };
    let connector = TlsConnector::from(client(Some(&tls.authority)).ok()?);
    let shaken = connector.connect(ServerName::try_from("localhost").ok()?, tcp);
    timeout(HANDSHAKE_LIMIT, shaken).await.ok()?.ok().map(Either::Right)
}
