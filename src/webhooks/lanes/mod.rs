//! A lane for each target: what is held for it, and how much it may be given.
//!
//! Receivers are strangers, and one of them must not delay another. So each has a lane of its own
//! with a bound on what is under way, which grows while it answers and shrinks while it does not;
//! and all lanes that are slow, or not known yet, together get at most half of what this process
//! can hold. What a lane holds is in the queue until its result is recorded, so a lane can be
//! dropped at any moment.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::webhooks::queue::Due;
use crate::webhooks::health::{Breaker, Circuit};

/// Deliveries that this process holds, with their bodies; more wait in the queue.
pub const MAX_HELD: usize = 2048;
/// Of them, deliveries to receivers that are slow or not known.
const MAX_HELD_SLOW: usize = MAX_HELD / 2;
/// Attempts under way to one receiver at first, and at least.
const FIRST_LIMIT: usize = 4;
/// Attempts under way to one receiver; more wait.
pub const MOST_AT_ONCE: usize = 64;
/// Deliveries that are held for one receiver, so that the next attempt can follow at once.
const READ_AHEAD: usize = 512;
/// What is read for a receiver that is not known yet.
pub const FIRST_READ: usize = 16;
/// A receiver that takes longer to answer is slow.
const SLOW: Duration = Duration::from_secs(1);
/// A lane that is not full is filled up at least so often, and not for every single gap.
const REFILL: Duration = Duration::from_millis(250);
/// A lane that was not used for so long is forgotten, once its circuit may be closed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// What a process knows of its targets.
#[derive(Default)]
pub struct Lanes {
    lanes: HashMap<Uuid, Lane>,
    held: usize,
    held_slow: usize,
}

struct Lane {
    shard: i16,
    /// What is held, by event.
    held: HashSet<Uuid>,
    /// Of it, what no attempt was begun for.
    ready: VecDeque<Due>,
    under_way: usize,
    limit: usize,
    /// Not known to be fast.
    slow: bool,
    /// It is about to be disabled.
    halted: bool,
    /// When the latest attempt that arrived was begun.
    arrived_at: Option<DateTime<Utc>>,
    breaker: Breaker,
    filled: Instant,
    used: Instant,
}

impl Lane {
    fn new(shard: i16, now: Instant) -> Self {
        Self {
            shard,
            held: HashSet::new(),
            ready: VecDeque::new(),
            under_way: 0,
            limit: FIRST_LIMIT,
            slow: true,
            halted: false,
            arrived_at: None,
            breaker: Breaker::default(),
            filled: now,
            used: now,
        }
    }

    /// How many attempts may be begun now.
    fn room(&self, now: Instant) -> usize {
        let most = match self.breaker.circuit(now) {
            _ if self.halted => 0,
            Circuit::Closed => self.limit,
            Circuit::HalfOpen => 1,
            Circuit::Open => 0,
        };
        most.saturating_sub(self.under_way)
    }

    /// How many rows to ask for; those that are held are among them.
    fn rows(&self, now: Instant) -> usize {
        let most = match self.breaker.circuit(now) {
            _ if self.halted => 0,
            Circuit::Closed if self.slow => (2 * self.limit).min(READ_AHEAD),
            Circuit::Closed => READ_AHEAD,
            Circuit::HalfOpen => 1,
            Circuit::Open => 0,
        };
        let few = self.held.len() <= most / 2;
        let due = now.duration_since(self.filled) >= REFILL;
        if self.held.len() < most && (few || due) { most } else { 0 }
    }
}

impl Lanes {
    /// For how many rows each known target asks; a target that is not named is not known.
    pub fn rows(&self, now: Instant) -> HashMap<Uuid, usize> {
        let slow_is_full = self.held_slow >= MAX_HELD_SLOW;
        let rows = |lane: &Lane| if lane.slow && slow_is_full { 0 } else { lane.rows(now) };
        self.lanes.iter().map(|(target, lane)| (*target, rows(lane))).collect()
    }

    /// How many more can be held.
    pub fn free(&self) -> usize {
        MAX_HELD.saturating_sub(self.held)
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many are held in a shard.
    pub fn held_in(&self, shard: i16) -> usize {
        self.lanes.values().filter(|lane| lane.shard == shard).map(|lane| lane.held.len()).sum()
    }

    /// How many circuits are not closed.
    pub fn circuits_open(&self, now: Instant) -> usize {
        let open = |lane: &&Lane| lane.breaker.circuit(now) != Circuit::Closed;
        self.lanes.values().filter(open).count()
    }

    /// Holds what was read and is not held yet.
    pub fn hold(&mut self, read: Vec<Due>, now: Instant) {
        for due in read {
            let lane = self.lanes.entry(due.target_id).or_insert_with(|| Lane::new(due.shard, now));
            lane.filled = now;
            lane.used = now;
            if (lane.slow && self.held_slow >= MAX_HELD_SLOW) || !lane.held.insert(due.event_id) {
                continue;
            }
            self.held += 1;
            self.held_slow += usize::from(lane.slow);
            lane.ready.push_back(due);
        }
    }

    /// Takes out what may be tried now; [`Self::ended`] is to be told of each.
    pub fn begin(&mut self, now: Instant) -> Vec<Due> {
        let mut begun = Vec::new();
        for lane in self.lanes.values_mut() {
            begun.extend(lane.begin(now));
        }
        begun
    }

    /// What one target may be given now, after one of its attempts has ended.
    pub fn begin_of(&mut self, target: Uuid, now: Instant) -> Vec<Due> {
        self.lanes.get_mut(&target).map(|lane| lane.begin(now)).unwrap_or_default()
    }

    /// An attempt has ended after `took`. What it was for stays held until it is recorded.
    pub fn ended(&mut self, target: Uuid, arrived: bool, took: Duration, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&target) else { return };
        lane.under_way = lane.under_way.saturating_sub(1);
        lane.used = now;
        if arrived {
            lane.breaker.succeeded();
            lane.limit = (lane.limit + 1).min(MOST_AT_ONCE);
        } else {
            lane.breaker.failed(now);
            lane.limit = (lane.limit - 1).max(FIRST_LIMIT);
        }
        let slow = took >= SLOW || (lane.slow && !arrived);
        if slow != lane.slow {
            lane.slow = slow;
            let held = lane.held.len();
            self.held_slow =
                if slow { self.held_slow + held } else { self.held_slow.saturating_sub(held) };
        }
        if lane.breaker.circuit(now) == Circuit::Open {
            self.give_back(target);
        }
    }

    /// Corrects what was read with a delivery, perhaps before another one has arrived: since when
    /// its target fails.
    pub fn failing_since(
        &mut self,
        target: Uuid,
        read: Option<DateTime<Utc>>,
        arrived: Option<DateTime<Utc>>,
    ) -> Option<DateTime<Utc>> {
        let Some(lane) = self.lanes.get_mut(&target) else { return read };
        let latest = lane.arrived_at;
        lane.arrived_at = latest.max(arrived);
        read.filter(|since| latest.is_none_or(|at| at < *since))
    }

    /// Begins nothing more for a target that is about to be disabled.
    pub fn halt(&mut self, target: Uuid) {
        if let Some(lane) = self.lanes.get_mut(&target) {
            lane.halted = true;
            self.give_back(target);
        }
    }

    /// It is disabled: what is read of it from now on was queued after it was enabled again.
    pub fn go_on(&mut self, target: Uuid) {
        if let Some(lane) = self.lanes.get_mut(&target) {
            lane.halted = false;
        }
    }

    /// Leaves what was not begun in the queue.
    fn give_back(&mut self, target: Uuid) {
        let ready = self.lanes.get_mut(&target).map(|lane| std::mem::take(&mut lane.ready));
        for due in ready.into_iter().flatten() {
            self.let_go(due.target_id, due.event_id);
        }
    }

    /// No longer holds a delivery: its result is recorded, or it is left to another.
    pub fn let_go(&mut self, target: Uuid, event: Uuid) {
        let Some(lane) = self.lanes.get_mut(&target) else { return };
        if lane.held.remove(&event) {
            self.held -= 1;
            self.held_slow -= usize::from(lane.slow);
        }
    }

    /// Gives back what no attempt was begun for in shards that are not `kept`, and forgets lanes
    /// that are not used.
    pub fn keep(&mut self, kept: impl Fn(i16) -> bool, now: Instant) {
        let lost = self.lanes.iter().filter(|(_, lane)| !kept(lane.shard));
        let lost: Vec<Uuid> = lost.map(|(target, _)| *target).collect();
        lost.into_iter().for_each(|target| self.give_back(target));
        self.lanes.retain(|_, lane| {
            let idle = now.duration_since(lane.used) >= FORGOTTEN_AFTER;
            !lane.held.is_empty()
                || (kept(lane.shard) && !(idle && lane.breaker.circuit(now) != Circuit::Open))
        });
    }

    /// No longer holds anything that was not begun: at the stop.
    pub fn drop_ready(&mut self, now: Instant) {
        self.keep(|_| false, now);
    }
}

impl Lane {
    fn begin(&mut self, now: Instant) -> Vec<Due> {
        let begun: Vec<Due> = (0..self.room(now)).map_while(|_| self.ready.pop_front()).collect();
        self.under_way += begun.len();
        begun
    }
}

#[cfg(test)]
mod tests;
