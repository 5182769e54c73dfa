//! Clients of an open load: they book when it is time to, however the system fares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;

use crate::stage::{Process, User};

/// Clients with a calendar and connections of their own, who book in turn.
const USERS: u64 = 2_000;
/// Requests under way at once. What would be one more is not sent, and counted.
const TOGETHER: usize = 512;
/// Answers that are shown, of those that should not have been.
const SHOWN: usize = 3;
/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(10);

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Told {
    pub sent: u64,
    pub accepted: u64,
    /// Not sent, because too many were under way.
    pub held_back: u64,
    /// The first of the other answers.
    pub failed: Vec<String>,
}

/// A load that rises for a third of its time, stays at its peak for another, and falls to nothing.
pub struct Clients {
    peak: f64,
    length: Duration,
    counts: Arc<Counts>,
    sending: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    accepted: AtomicU64,
    held_back: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Clients {
    pub fn start(gateway: &Process, peak: f64, length: Duration) -> Self {
        let counts = Arc::new(Counts::default());
        let users = (0..USERS).map(|_| User::new(gateway)).collect();
        let sending = tokio::spawn(send(users, peak, length, counts.clone()));
        Self { peak, length, counts, sending }
    }

    pub fn is_over(&self) -> bool {
        self.sending.is_finished()
    }

    pub fn rate_at(&self, at: Duration) -> f64 {
        rate(self.peak, self.length, at)
    }

    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Waits for the last answers.
    pub async fn end(self) -> Told {
        self.sending.await.unwrap();
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Told {
            sent: of(&self.counts.sent),
            accepted: of(&self.counts.accepted),
            held_back: of(&self.counts.held_back),
            failed: std::mem::take(&mut *self.counts.failed.lock().await),
        }
    }
}

fn rate(peak: f64, length: Duration, at: Duration) -> f64 {
    let part = 3.0 * at.as_secs_f64() / length.as_secs_f64();
    peak * part.min(3.0 - part).clamp(0.0, 1.0)
}

async fn send(users: Vec<User>, peak: f64, length: Duration, counts: Arc<Counts>) {
    let (begun, places) = (Instant::now(), Arc::new(Semaphore::new(TOGETHER)));
    let (mut due, mut number, mut before) = (0.0, 0_u64, Duration::ZERO);
    while begun.elapsed() < length {
        tokio::time::sleep(TICK).await;
        let now = begun.elapsed();
        due += rate(peak, length, now) * (now - before).as_secs_f64();
        before = now;
        while due >= 1.0 {
            due -= 1.0;
            let Ok(place) = places.clone().try_acquire_owned() else {
                counts.held_back.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let user = users[(number % USERS) as usize].clone();
            let start = i64::try_from(number / USERS).unwrap() * 10;
            let counts = counts.clone();
            number += 1;
            tokio::spawn(async move {
                counts.sent.fetch_add(1, Ordering::Relaxed);
                let answer = user.books(start, start + 10).await;
                match answer.status {
                    202 => drop(counts.accepted.fetch_add(1, Ordering::Relaxed)),
                    _ => {
                        let mut failed = counts.failed.lock().await;
                        if failed.len() < SHOWN {
                            failed.push(answer.raw);
                        }
                    }
                }
                drop(place);
            });
        }
    }
    // All places back: every answer is there.
    drop(places.acquire_many(TOGETHER as u32).await);
}
