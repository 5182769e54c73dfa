//! Named points at which a test can end or freeze the process, to prove what a crash there does.
//!
//! Only builds with the feature `failpoints` (the tests' own) contain them; in every other build
//! [`reach`] is empty. `BOOKING_FAILPOINTS=worker.committed=kill@3` ends the process with SIGKILL
//! when it reaches that point for the third time; `stop` instead of `kill` freezes it (SIGSTOP).

/// Reached: accept has committed, no one has been answered.
pub const ACCEPT_COMMITTED: &str = "accept.committed";
/// Reached: the broker has confirmed, the outbox rows are not deleted.
pub const RELAY_PUBLISHED: &str = "relay.published";
/// Reached: a batch is decided, not committed.
pub const WORKER_DECIDED: &str = "worker.decided";
/// Reached: a batch is committed, not acknowledged.
pub const WORKER_COMMITTED: &str = "worker.committed";

/// Reached: a webhook was answered, nothing of it is recorded.
pub const WEBHOOK_SENT: &str = "webhook.sent";

#[cfg(not(feature = "failpoints"))]
pub fn reach(_point: &str) {}

#[cfg(feature = "failpoints")]
pub fn reach(point: &str) {
    armed::reach(point);
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::HashMap;
    use std::process::Command;
    use std::sync::{LazyLock, Mutex, PoisonError};

    struct Failpoint {
        signal: &'static str,
        reaches_left: u32,
    }

    static ARMED: LazyLock<Mutex<HashMap<String, Failpoint>>> = LazyLock::new(|| {
        let given = std::env::var("BOOKING_FAILPOINTS").unwrap_or_default();
        let points = given.split(',').filter_map(|point| {
            let (name, action) = point.split_once('=')?;
            let (action, nth) = action.split_once('@').unwrap_or((action, "1"));
            let signal = match action {
                "kill" => "-KILL",
                "stop" => "-STOP",
                _ => return None,
            };
            let reaches_left = nth.parse().ok()?;
            Some((name.to_owned(), Failpoint { signal, reaches_left }))
        });
        Mutex::new(points.collect())
    });

    pub fn reach(point: &str) {
        let signal = {
            let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(failpoint) = armed.get_mut(point) else {
                return;
            };
            failpoint.reaches_left = failpoint.reaches_left.saturating_sub(1);
            if failpoint.reaches_left > 0 {
                return;
            }
            let signal = failpoint.signal;
            armed.remove(point);
            signal
        };
        let pid = std::process::id().to_string();
        // The signal reaches us while we wait for `kill` to end.
        let _ = Command::new("kill").args([signal, &pid]).status();
    }
}
