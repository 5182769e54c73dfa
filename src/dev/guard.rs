//! The guard: nothing that we start outlives us, however we end.
//!
//! A small `sh` in a session of its own reads from a pipe whose only writer is this process. Every
//! server is made known to it before the server runs (see `server.rs`). When the pipe ends because
//! we stopped, panicked or were killed, the guard stops whatever still runs, politely first. An
//! orderly stop takes the same path, so the path of a crash is walked every day.
//!
//! A process is known by its number and its start time, so that a number that was handed on to a
//! stranger is never signalled. The guard also holds our lock on the folder: the folder is free
//! again when the last server is gone, not when we are.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

const SCRIPT: &str = include_str!("guard.sh");

/// How finely the guard measures patience; the script sleeps this long between two looks.
const TICK: Duration = Duration::from_millis(50);

pub(super) struct Guard {
    process: Child,
    orders: Mutex<Option<ChildStdin>>,
}

impl Guard {
    /// Starts the guard of `dir`, which shares `lock` until it ends.
    pub(super) fn start(dir: &Path, lock: &File) -> anyhow::Result<Guard> {
        let mut command = Command::new("setsid");
        command
            .args(["sh", "-c", SCRIPT, "booking-dev-guard"])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(lock.try_clone().context("sharing the lock")?)
            .stderr(Stdio::null());
        let mut process = command.spawn().context("starting the guard (setsid sh)")?;
        let orders = Mutex::new(process.stdin.take());
        Ok(Guard { process, orders })
    }

    /// From now on the guard stops this process when we end.
    pub(super) fn watch(&self, entry: &Entry) -> anyhow::Result<()> {
        self.order("watch", entry)
    }

    /// Has the guard stop the process now; the caller waits for its end.
    pub(super) fn stop(&self, entry: &Entry) -> anyhow::Result<()> {
        self.order("stop", entry)
    }

    /// Ends a process that is not our child.
    pub(super) async fn end(&self, entry: &Entry) -> anyhow::Result<()> {
        self.watch(entry)?;
        self.stop(entry)?;
        while entry.runs() {
            sleep(TICK).await;
        }
        Ok(())
    }

    fn order(&self, verb: &str, entry: &Entry) -> anyhow::Result<()> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = orders.as_mut().context("the guard was dismissed")?;
        // One write, shorter than PIPE_BUF: the guard never sees half an order.
        pipe.write_all(format!("{verb} {}\n", entry.0).as_bytes())
            .context("the guard process is gone")
    }
}

impl Drop for Guard {
    /// Blocks until everything has stopped; the script's own limits bound it.
    fn drop(&mut self) {
        let orders = self.orders.get_mut();
        drop(orders.unwrap_or_else(PoisonError::into_inner).take());
        if let Err(error) = self.process.wait() {
            tracing::warn!("waiting for the guard: {error}");
        }
    }
}

/// One process and how to stop it, as the guard reads it.
#[derive(Clone, Debug)]
pub(super) struct Entry(String);

impl Entry {
    pub(super) fn new(pid: u32, signal: &str, patience: Duration) -> anyhow::Result<Entry> {
        let started = started(pid).with_context(|| format!("process {pid} is gone"))?;
        let ticks = patience.as_millis() / TICK.as_millis();
        Ok(Entry(format!("{pid}:{started}:{signal}:{ticks}")))
    }

    /// An entry that an earlier run has kept in a file and whose process still runs.
    pub(super) fn left_over(file: &Path) -> Option<Entry> {
        let entry = Entry(fs::read_to_string(file).ok()?);
        entry.runs().then_some(entry)
    }

    pub(super) fn keep(&self, file: &Path) -> anyhow::Result<()> {
        fs::write(file, &self.0).with_context(|| format!("writing {}", file.display()))
    }

    pub(super) fn runs(&self) -> bool {
        let mut fields = self.0.split(':');
        let pid = fields.next().and_then(|pid| pid.parse().ok());
        pid.and_then(started).as_deref() == fields.next() && pid.is_some()
    }
}

/// When a process started, in ticks since boot; nothing if it has ended or is a zombie.
pub(super) fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; what follows it are the fields from the third.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let entry = Entry::new(child.id(), "TERM", Duration::from_secs(1)).unwrap();
        assert!(entry.runs());
        let stranger = Entry(format!("{}:1:TERM:20", child.id()));
        assert!(!stranger.runs());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!entry.runs());
    }
}
