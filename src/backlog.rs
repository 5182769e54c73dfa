//! How many undecided commands a calendar may have, so that one caller cannot fill a partition.
//!
//! In: calendars that a command is about to be accepted for. Out: whether there is room. No
//! request asks the database: a loop looks every second which calendars have much undecided, and
//! in between each process counts what it lets in itself. When that reaches the limit, one look
//! more tells whether it has been decided meanwhile.
//!
//! So a calendar has at most the limit and a tenth, and what is being accepted or was by the other
//! gateways since the last look. While the database cannot be read, each look that fails begins the
//! count anew: what was let in may long be decided, and nobody is refused for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::process::stopped_within;
use crate::store::{self, backlog};
use crate::telemetry::Seldom;

/// Between two looks while the workers keep up.
const PERIOD: Duration = Duration::from_secs(1);
/// A look may take this part of the time, so that a long backlog is not looked at all day.
const LOOK_PART: u32 = 10;
/// Between two looks that calendars ask for.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// A request waits so long for the next look; with more to wait its calendar counts as full.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Calendars with less than this part of the limit undecided need not be remembered.
const SMALL_PART: u32 = 10;
/// Calendars that are counted between two looks; more are let in uncounted until the next.
const MAX_COUNTED: usize = 100_000;

/// What this process knows of the calendars. Cheap to share.
pub struct Backlog {
    reads: PgPool,
    /// Undecided commands of a calendar; 0: any number.
    limit: u32,
    counts: Mutex<Counts>,
    /// Held by the one look at a time; holds what the last one was like.
    looking: tokio::sync::Mutex<Option<Look>>,
}

struct Look {
    ended: Instant,
    took: Duration,
}

#[derive(Default)]
struct Counts {
    /// As the database said.
    undecided: HashMap<Uuid, u32>,
    /// Let in here since.
    let_in: HashMap<Uuid, u32>,
    /// Let in here before the look that is under way.
    let_in_before: HashMap<Uuid, u32>,
}

impl Counts {
    fn of(&self, calendar: Uuid) -> u32 {
        let count = |counts: &HashMap<Uuid, u32>| counts.get(&calendar).copied().unwrap_or(0);
        [&self.let_in, &self.let_in_before]
            .into_iter()
            .fold(count(&self.undecided), |sum, more| sum.saturating_add(count(more)))
    }
}

impl Backlog {
    pub fn new(reads: PgPool, limit: u32) -> Arc<Self> {
        Arc::new(Self {
            reads,
            limit,
            counts: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        })
    }

    /// Lets one command of the calendar in, unless the calendar is full.
    pub async fn lets_in(&self, calendar: Uuid) -> bool {
        if self.limit == 0 || self.counts_in(calendar) {
            return true;
        }
        let known = self.counts().undecided.get(&calendar).copied().unwrap_or(0);
        if known >= self.limit {
            return false; // until the next look
        }
        let asked = Instant::now();
        let mut last = self.looking.lock().await;
        let pause = |look: &Look| MIN_PAUSE.max(look.took * LOOK_PART);
        // Someone may have looked while this one waited.
        if last.as_ref().is_none_or(|look| look.ended < asked) {
            if let Some(look) = &*last {
                let left = pause(look).saturating_sub(look.ended.elapsed());
                if left > MAX_WAIT {
                    return false;
                }
                tokio::time::sleep(left).await;
            }
            *last = Some(self.look().await);
        }
        drop(last);
        self.counts_in(calendar)
    }

    fn counts_in(&self, calendar: Uuid) -> bool {
        let mut counts = self.counts();
        if counts.of(calendar) >= self.limit {
            return false;
        }
        if counts.let_in.len() < MAX_COUNTED || counts.let_in.contains_key(&calendar) {
            *counts.let_in.entry(calendar).or_default() += 1;
        }
        true
    }

    /// Learns from the database which calendars have how much undecided.
    async fn look(&self) -> Look {
        let begun = Instant::now();
        {
            let counts = &mut *self.counts();
            for (calendar, count) in std::mem::take(&mut counts.let_in) {
                *counts.let_in_before.entry(calendar).or_default() += count;
            }
        }
        let least = (self.limit / SMALL_PART).max(1);
        let found = store::read(&self.reads, async |c| backlog::calendars_with(c, least).await);
        match found.await {
            Ok(waiting) => {
                let count = |commands| u32::try_from(commands).unwrap_or(u32::MAX);
                let mut counts = self.counts();
                counts.undecided =
                    waiting.into_iter().map(|w| (w.calendar_id, count(w.commands))).collect();
                counts.let_in_before.clear();
            }
            Err(cause) => {
                static TOLD: Seldom = Seldom::new();
                if let Some(times) = TOLD.times() {
                    warn!(server = "postgres", %cause, times, "the backlogs of calendars are not known");
                }
                self.counts().let_in_before.clear();
            }
        }
        Look { ended: Instant::now(), took: begun.elapsed() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until `stop`.
pub async fn run(backlog: Arc<Backlog>, stop: CancellationToken) {
    if backlog.limit == 0 {
        return stop.cancelled().await;
    }
    loop {
        let mut last = backlog.looking.lock().await;
        let look = backlog.look().await;
        let pause = PERIOD.max(look.took * LOOK_PART);
        *last = Some(look);
        drop(last);
        if stopped_within(&stop, pause).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_refused_for_what_cannot_be_known() {
        let nowhere = store::read_pool("postgres://127.0.0.1:1/nothing").unwrap();
        let backlog = Backlog::new(nowhere, 2);
        for _ in 0..5 {
            assert!(backlog.lets_in(Uuid::nil()).await);
            *backlog.looking.lock().await = None; // as if the pause between two looks were over
        }
    }
}
