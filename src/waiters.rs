//! Clients that wait for a decision, at either door.
//!
//! In: ids to wait for, and hints that ids are decided. Out: the decided command to whoever
//! waits. All waiters of a process share one loop, which asks the database about many ids at
//! once: those that a hint names, and all of them at every poll, because hints may be lost.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::booking::command::CommandRecord;
use crate::store::{self, commands};
use crate::telemetry::Seldom;
use crate::wake::Wake;

/// More clients that want to wait are answered 202 at once.
const MAX_WAITERS: usize = 4096;
/// How long a lost hint delays an answer at most.
const POLL_PERIOD: Duration = Duration::from_millis(250);

type Waiting = HashMap<Uuid, Vec<oneshot::Sender<CommandRecord>>>;

/// Who waits for what.
#[derive(Default)]
pub struct Waiters {
    waiting: Mutex<Waiting>,
    look: Notify,
}

/// One wait; given up when dropped.
pub struct Decision {
    id: Uuid,
    decided: oneshot::Receiver<CommandRecord>,
    waiters: Arc<Waiters>,
}

impl Waiters {
    /// Begins to wait for a command, or nothing when too many wait already.
    pub fn register(self: &Arc<Self>, id: Uuid) -> Option<Decision> {
        let (sender, decided) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITERS {
            return None;
        }
        waiting.entry(id).or_default().push(sender);
        let waiters = self.clone();
        Some(Decision { id, decided, waiters })
    }

    /// Asks the database about all waiters soon.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the waiters of one command.
    fn answer(&self, record: &CommandRecord) {
        let senders = self.lock().remove(&record.command_id);
        for sender in senders.into_iter().flatten() {
            let _ = sender.send(record.clone()); // the client may have left
        }
    }
}

impl Decision {
    /// The decided command, unless it takes longer than `limit` or the process stops.
    pub async fn within(
        mut self,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Option<CommandRecord> {
        tokio::select! {
            decided = &mut self.decided => decided.ok(),
            () = tokio::time::sleep(limit) => None,
            () = stop.cancelled() => None,
        }
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        self.decided.close();
        if let Entry::Occupied(mut waiters) = self.waiters.lock().entry(self.id) {
            waiters.get_mut().retain(|sender| !sender.is_closed());
            if waiters.get().is_empty() {
                waiters.remove();
            }
        }
    }
}

/// Answers waiters until `stop`.
pub async fn run(waiters: Arc<Waiters>, reads: PgPool, wake: Arc<Wake>, stop: CancellationToken) {
    let mut hints = wake.listen();
    loop {
        let hinted = tokio::select! {
            hint = hints.recv() => match hint {
                Ok(ids) => Some(ids),
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            },
            () = waiters.look.notified() => None,
            () = tokio::time::sleep(POLL_PERIOD) => None,
            () = stop.cancelled() => return,
        };
        let ids: Vec<Uuid> = {
            let waiting = waiters.lock();
            match hinted {
                Some(ids) => ids.iter().copied().filter(|id| waiting.contains_key(id)).collect(),
                None => waiting.keys().copied().collect(),
            }
        };
        if ids.is_empty() {
            continue;
        }
        match store::read(&reads, async |c| commands::decided(c, &ids).await).await {
            Ok(decided) => {
                decided.iter().for_each(|command| waiters.answer(&command.record));
            }
            Err(cause) => {
                static TOLD: Seldom = Seldom::new();
                if let Some(times) = TOLD.times() {
                    tracing::warn!(server = "postgres", %cause, times, "waiters could not be answered");
                }
            }
        }
    }
}
