//! Clients that keep booking while something happens to the system.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::CONNECTION;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::stage::{Answer, PATIENCE, Process, User, until};

/// Between two tries of a request that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// One try to book, and what came back.
pub struct Try {
    pub key: String,
    pub took: Duration,
    pub answer: Result<Answer, String>,
}

impl Try {
    pub fn is_accepted(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| answer.status == 202)
    }
}

#[derive(Default)]
struct Progress {
    over: AtomicBool,
    accepted: AtomicUsize,
    refused: AtomicUsize,
}

/// Clients with a calendar and a kept connection each, booking one slot after the other. A slot
/// that was refused is tried again with its key; a gateway that closes is left for the next.
pub struct Load {
    progress: Arc<Progress>,
    clients: Vec<JoinHandle<Vec<Try>>>,
}

impl Load {
    /// Starts clients that pause so long between two bookings, all at the first gateway.
    pub fn start(clients: usize, pause: Duration, gateways: &[&Process]) -> Self {
        let bases: Vec<String> = gateways.iter().map(|gateway| gateway.url("")).collect();
        let progress = Arc::new(Progress::default());
        let client = |_| {
            let user = User::new(gateways[0]);
            tokio::spawn(keep_booking(user, bases.clone(), pause, progress.clone()))
        };
        Self { clients: (0..clients).map(client).collect(), progress }
    }

    /// Waits until so many more bookings are accepted.
    pub async fn is_accepted(&self, more: usize) {
        let goal = self.progress.accepted.load(Ordering::Relaxed) + more;
        until("more bookings are accepted", async || {
            self.progress.accepted.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Waits until so many more tries are refused.
    pub async fn is_refused(&self, more: usize) {
        let goal = self.progress.refused.load(Ordering::Relaxed) + more;
        until("more bookings are refused", async || {
            self.progress.refused.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Lets every client finish its slot, and returns all tries.
    pub async fn end(self) -> Vec<Try> {
        self.progress.over.store(true, Ordering::Relaxed);
        let mut tries = Vec::new();
        for client in self.clients {
            tries.extend(client.await.unwrap());
        }
        tries
    }
}

async fn keep_booking(
    user: User,
    bases: Vec<String>,
    pause: Duration,
    progress: Arc<Progress>,
) -> Vec<Try> {
    let client = reqwest::Client::builder().pool_max_idle_per_host(1).build().unwrap();
    let (mut tries, mut base, mut slot) = (Vec::new(), 0, 0);
    while !progress.over.load(Ordering::Relaxed) {
        let key = Uuid::now_v7().to_string();
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "a slot was refused for too long");
            let tried = book(&client, &bases[base % bases.len()], &user, &key, slot).await;
            let moves_on = match &tried.answer {
                Ok(answer) => answer.header(CONNECTION.as_str()) == "close",
                Err(_) => true,
            };
            base += usize::from(moves_on);
            let accepted = tried.is_accepted();
            tries.push(tried);
            if accepted {
                progress.accepted.fetch_add(1, Ordering::Relaxed);
                break;
            }
            progress.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        slot += 1;
        tokio::time::sleep(pause).await;
    }
    tries
}

async fn book(client: &reqwest::Client, base: &str, user: &User, key: &str, slot: i64) -> Try {
    let begun = Instant::now();
    let sent = client
        .post(format!("{base}/api/bookings"))
        .header("X-User-ID", user.id.to_string())
        .header("Idempotency-Key", key)
        .json(&user.slot(slot * 10, slot * 10 + 10))
        .timeout(Duration::from_secs(30))
        .send()
        .await;
    let answer = match sent {
        Ok(response) => Ok(Answer::of(response).await),
        Err(cause) => Err(format!("{cause:?}")),
    };
    Try { key: key.to_owned(), took: begun.elapsed(), answer }
}
