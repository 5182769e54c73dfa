//! Whether a target is worth an attempt: the breaker of one target.
//!
//! A target that fails again and again is left alone for a while, so that its deliveries keep
//! their attempts for when it is back. After the wait one attempt probes; its success closes the
//! circuit, its failure opens it for longer. What a receiver cannot take at all costs it one
//! attempt a wait, whatever waits for it.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the circuit. Of a receiver that fails every other time, one series
/// in 65,000 is that long.
pub const OPENS_AFTER: u32 = 16;
/// The first wait of an open circuit; each probe that fails doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait: a receiver that is back is noticed after this time.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How many attempts may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    Closed,
    /// One attempt may find out.
    HalfOpen,
    Open,
}

#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    /// Since it opened: its wait, and when that is over.
    open: Option<(Duration, Instant)>,
}

impl Breaker {
    pub fn circuit(&self, now: Instant) -> Circuit {
        match self.open {
            None => Circuit::Closed,
            Some((_, until)) if now >= until => Circuit::HalfOpen,
            Some(_) => Circuit::Open,
        }
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Failures of attempts that began before the circuit opened count for nothing more.
    pub fn failed(&mut self, now: Instant) {
        match self.open {
            None => {
                self.failures += 1;
                if self.failures >= OPENS_AFTER {
                    self.open = Some((FIRST_WAIT, now + FIRST_WAIT));
                }
            }
            Some((wait, until)) if now >= until => {
                let wait = (wait * 2).min(LONGEST_WAIT);
                self.open = Some((wait, now + wait));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..OPENS_AFTER {
            assert_eq!(breaker.circuit(now), Circuit::Closed);
            breaker.failed(now);
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_of_failures_opens_the_circuit_and_a_success_closes_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.circuit(now), Circuit::Open);
        assert_eq!(breaker.circuit(now + FIRST_WAIT), Circuit::HalfOpen);
        breaker.succeeded();
        assert_eq!(breaker.circuit(now), Circuit::Closed);
        // A success between failures begins the count anew.
        for _ in 0..5 * OPENS_AFTER {
            breaker.failed(now);
            breaker.succeeded();
        }
        assert_eq!(breaker.circuit(now), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn each_probe_that_fails_doubles_the_wait_up_to_the_longest() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut wait = FIRST_WAIT;
        for _ in 0..10 {
            breaker.failed(now); // one that had begun before
            assert_eq!(breaker.circuit(now + wait - Duration::from_millis(1)), Circuit::Open);
            now += wait;
            assert_eq!(breaker.circuit(now), Circuit::HalfOpen);
            breaker.failed(now);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        assert_eq!(wait, LONGEST_WAIT);
    }
}
