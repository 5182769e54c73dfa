//! What every role's process needs once: supervised loops and the two-step stop.
//!
//! A stop has two steps. SIGTERM (or Ctrl-C) asks: stages stop taking, finish what they hold and
//! give back what they own. A second signal, or the end of the grace period, cuts: the process
//! ends at once, which is as safe as the first step and only slower for whoever takes over.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::retry::Backoff;

/// Runs a loop until it ends after `stop`. A loop that panics or ends before is started again,
/// after a growing wait, so that no stage dies silently while the others go on.
pub async fn supervise<F>(name: &'static str, stop: CancellationToken, mut start: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut backoff = Backoff::crashed_loop();
    loop {
        let ended = tokio::spawn(start()).await;
        if stop.is_cancelled() && ended.is_ok() {
            return;
        }
        let wait = backoff.next_wait();
        let cause = ended.err().map_or("it ended".to_owned(), |panic| panic.to_string());
        error!(
            stage = name,
            cause,
            wait_seconds = wait.as_secs_f64(),
            "a stage died; it is started again"
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Waits as long as `wait`, or until `stop`; true when it is time to stop.
pub async fn stopped_within(stop: &CancellationToken, wait: Duration) -> bool {
    tokio::time::timeout(wait, stop.cancelled()).await.is_ok()
}

/// Returns `limit` after `stop`: for work that is tried to its end, but may be given up.
pub async fn cut_after(stop: &CancellationToken, limit: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(limit).await;
}

/// Cancels `stop` at the first SIGTERM or SIGINT. At the second, or when the process has not
/// ended `grace` after the first, the process is cut.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn stop_on_signals(stop: &CancellationToken, grace: Duration) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let first = next().await;
        info!(signal = first, grace_seconds = grace.as_secs(), "stopping: finishing what is held");
        stop.cancel();
        tokio::select! {
            second = next() => warn!(signal = second, "a second signal: cutting"),
            () = tokio::time::sleep(grace) => warn!("the grace period is over: cutting"),
        }
        std::process::exit(1);
    });
    Ok(())
}

/// Raises the number of files that this process may have open, connections among them, as far as
/// it is allowed to, and returns it.
pub fn most_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // What is already at its most, or may not be raised, stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The exit code of a role that ended by itself.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            error!(cause = format!("{cause:#}"), "ended by an error");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_started_again_until_the_stop() {
        let (stop, starts) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let (inner, counted) = (stop.clone(), starts.clone());
        supervise("test", stop, move || {
            let (stop, starts) = (inner.clone(), counted.clone());
            async move {
                assert!(starts.fetch_add(1, Ordering::Relaxed) >= 2, "panics twice");
                stop.cancel();
            }
        })
        .await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }
}
