//! How long to wait before trying again: one policy per kind of failure.
//!
//! Waits grow exponentially and are spread by chance, so that many processes that lost the same
//! server do not come back in step. No policy gives up: what waits is committed or held, and a
//! fault that heals must drain without a human.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// The state of one series of retries.
pub struct Backoff {
    waits: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// For a server that is away: 0.1 s at first, 2 s at most, so that a server that comes back
    /// is noticed soon. Reached limit: goes on every 2 s.
    pub fn server_away() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// For a loop that ended where it should not: 0.2 s at first, 10 s at most.
    pub fn crashed_loop() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(10))
    }

    /// For rows that changed between reading and writing: 5 ms at first, 100 ms at most.
    pub fn stale_rows() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_millis(100))
    }

    fn new(first: Duration, longest: Duration) -> Self {
        let waits = ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            max_interval: longest,
            multiplier: 2.0,
            randomization_factor: 0.3,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { waits, longest }
    }

    /// The next wait of the series.
    pub fn next_wait(&mut self) -> Duration {
        self.waits.next_backoff().unwrap_or(self.longest)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.waits.reset();
    }
}

/// A wait that a schedule gives, spread by a fifth to either side.
pub fn spread(wait: Duration) -> Duration {
    let mut waits = ExponentialBackoff {
        current_interval: wait,
        initial_interval: wait,
        max_interval: wait,
        randomization_factor: 0.2,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    waits.next_backoff().unwrap_or(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_never_end() {
        let mut backoff = Backoff::server_away();
        let waits: Vec<_> = (0..50).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= Duration::from_millis(130), "{waits:?}");
        assert!(waits[20..].iter().all(|wait| *wait >= Duration::from_millis(1400)));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(2600)));
    }
}
