//! How fast this worker decides, and so how long that which waits for it will take.
//!
//! In: how long each deciding commit took, and which partitions are owned. Out: the commands a
//! second that this worker could decide, and the seconds until what waits in its partitions is
//! decided. The vitals show both, and whatever adds and removes workers goes by them.
//!
//! How many commands were decided lately says little about how many could be: a commit takes some
//! time whatever its size, so a worker that seems busy with batches of two may have room for a
//! hundred times as many. A line through the latest batches (time against size) tells the fixed
//! part from that of each command. It is followed to batches a few times as large as those seen,
//! and no further: growing load then corrects it step by step. Nor is it followed to batches
//! larger than what a worker can have at hand of the partitions that it owns: far from the
//! database, that is what bounds one with few of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an older batch still counts when a new one is noted: the latest fifty or so matter.
const MEMORY: f64 = 0.98;
/// How many times as large as the usual batch one may be for its time to be foretold.
const FARTHEST: f64 = 4.0;
/// What is assumed until it is measured: 8 commands in 16 ms, so 500 a second.
const ASSUMED: (f64, f64) = (8.0, 0.016);

/// The pace of a process's worker. One that decides nothing owns nothing, and has none.
pub struct Pace {
    largest: f64,
    messages: f64,
    seen: Mutex<Seen>,
    taken: Mutex<Taken>,
    owned: Mutex<BTreeSet<u16>>,
}

/// Sums over the batches, each with what it still counts.
#[derive(Clone, Copy)]
struct Seen {
    batches: f64,
    commands: f64,
    squares: f64,
    seconds: f64,
    products: f64,
}

/// What the latest batches were made of, each with what it still counts.
#[derive(Clone, Copy)]
struct Taken {
    messages: f64,
    commands: f64,
}

/// A batch as it could be.
struct Batch {
    commands: f64,
    /// The most of them that can be of one partition.
    of_one: f64,
    seconds: f64,
}

impl Pace {
    /// The pace of a worker whose batches hold `largest` commands at most, of `messages` of each
    /// partition at most.
    pub fn new(largest: usize, messages: u16) -> Self {
        let (commands, seconds) = ASSUMED;
        let seen = Seen {
            batches: 1.0,
            commands,
            squares: commands * commands,
            seconds,
            products: commands * seconds,
        };
        Self {
            largest: largest as f64,
            messages: f64::from(messages),
            seen: Mutex::new(seen),
            taken: Mutex::new(Taken { messages: 1.0, commands: 1.0 }),
            owned: Mutex::default(),
        }
    }

    /// Notes of how many messages a batch was made.
    pub fn took(&self, messages: usize, commands: usize) {
        if messages == 0 {
            return; // none of them could be read
        }
        let mut taken = locked(&self.taken);
        *taken = Taken {
            messages: taken.messages * MEMORY + messages as f64,
            commands: taken.commands * MEMORY + commands as f64,
        };
    }

    /// Notes a batch that was decided at the first try.
    pub fn note(&self, commands: usize, seconds: f64) {
        let commands = commands as f64;
        let mut seen = locked(&self.seen);
        *seen = Seen {
            batches: seen.batches * MEMORY + 1.0,
            commands: seen.commands * MEMORY + commands,
            squares: seen.squares * MEMORY + commands * commands,
            seconds: seen.seconds * MEMORY + seconds,
            products: seen.products * MEMORY + commands * seconds,
        };
    }

    /// Notes which partitions are owned now.
    pub fn owns(&self, partitions: impl IntoIterator<Item = u16>) {
        *locked(&self.owned) = partitions.into_iter().collect();
    }

    /// Commands a second that could be decided; 0 where no partition is owned.
    pub fn capacity(&self) -> f64 {
        self.largest_batch().map_or(0.0, |batch| batch.commands / batch.seconds)
    }

    /// Seconds until what waits in the owned partitions is decided, if nothing more comes. No batch
    /// takes more of one partition than is at hand of it.
    pub fn drain_seconds(&self, undecided: impl Fn(u16) -> i64) -> f64 {
        let Some(batch) = self.largest_batch() else { return 0.0 };
        let waiting: Vec<i64> =
            locked(&self.owned).iter().map(|partition| undecided(*partition)).collect();
        let (all, most) = (waiting.iter().sum::<i64>(), waiting.into_iter().max().unwrap_or(0));
        let batches = (all as f64 / batch.commands).max(most as f64 / batch.of_one);
        batches * batch.seconds
    }

    /// The largest batch that can be foretold; none where no partition is owned.
    fn largest_batch(&self) -> Option<Batch> {
        let owned = locked(&self.owned).len() as f64;
        if owned == 0.0 {
            return None;
        }
        let (seen, taken) = (*locked(&self.seen), *locked(&self.taken));
        let of_one = self.messages * (taken.commands / taken.messages).max(1.0);
        let (size, seconds) = (seen.commands / seen.batches, seen.seconds / seen.batches);
        let (variance, covariance) = (
            seen.squares / seen.batches - size * size,
            seen.products / seen.batches - size * seconds,
        );
        // Batches of one size tell nothing apart: then all of the time counts as the commands'.
        let of_all = seconds / size;
        let of_each =
            if variance > 0.01 { (covariance / variance).clamp(0.0, of_all) } else { of_all };
        let commands = (size * FARTHEST).min(self.largest).min(owned * of_one).max(size);
        Some(Batch { commands, of_one, seconds: seconds + of_each * (commands - size) })
    }
}

/// Numbers are right after a panic elsewhere too.
fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: usize = 256;
    const MESSAGES: u16 = 32;

    /// A worker that owns partitions 1 and 2 and decided batches of these sizes, of messages with
    /// four commands each, in 4 ms and 0.1 ms a command.
    fn decided(sizes: impl IntoIterator<Item = usize>) -> Pace {
        let pace = Pace::new(LARGEST, MESSAGES);
        pace.owns([1, 2]);
        for size in sizes {
            pace.took(size.div_ceil(4), size);
            pace.note(size, 0.004 + 0.000_1 * size as f64);
        }
        pace
    }

    #[track_caller]
    fn near(figure: f64, expected: f64) {
        assert!((figure - expected).abs() < expected * 0.02, "{figure}, not {expected}");
    }

    #[test]
    fn full_batches_show_what_can_be_decided() {
        near(decided([LARGEST; 500]).capacity(), 256.0 / 0.0296);
    }

    #[test]
    fn the_fixed_part_of_a_batch_is_told_from_that_of_each_command() {
        let sizes = (0..500).map(|i| 20 + i % 40);
        near(decided(sizes).capacity(), 39.5 * 4.0 / (0.004 + 0.000_1 * 39.5 * 4.0));
    }

    #[test]
    fn nothing_is_foretold_of_batches_much_larger_than_those_seen() {
        let pace = decided((0..500).map(|i| 1 + i % 2));
        near(pace.capacity(), 6.0 / 0.0046);
    }

    #[test]
    fn batches_of_one_size_foretell_no_more_than_they_show() {
        near(decided([1; 500]).capacity(), 1.0 / 0.0041);
    }

    #[test]
    fn times_that_fall_with_the_size_foretell_no_more_than_a_few_batches_in_one() {
        let pace = Pace::new(LARGEST, MESSAGES);
        pace.owns([0]);
        (0..500).for_each(|i| pace.note(1 + i % 2, if i % 2 == 0 { 0.006 } else { 0.004 }));
        near(pace.capacity(), 6.0 / 0.005);
    }

    #[test]
    fn nothing_is_foretold_of_batches_larger_than_what_can_be_at_hand() {
        let pace = decided((0..500).map(|i| 20 + i % 40));
        pace.owns([1]);
        near(pace.capacity(), 128.0 / (0.004 + 0.000_1 * 128.0)); // 32 messages of four
        (0..500).for_each(|_| pace.took(40, 40));
        near(pace.capacity(), 39.5 / (0.004 + 0.000_1 * 39.5)); // now 32 of one: no more than seen
    }

    #[test]
    fn a_slower_database_is_noticed_within_fifty_batches() {
        let pace = decided((0..500).map(|i| 100 + i % 100));
        let before = pace.capacity();
        (0..100)
            .for_each(|i| pace.note(100 + i % 100, 0.1 + 0.001 * f64::from(100 + i as u32 % 100)));
        assert!(pace.capacity() < before / 5.0);
    }

    #[test]
    fn only_what_waits_in_the_own_partitions_is_to_be_drained() {
        let pace = decided([LARGEST; 500]);
        near(pace.drain_seconds(|partition| [9_999, 1_280, 1_280][usize::from(partition)]), 0.296);
        assert_eq!(pace.drain_seconds(|_| 0), 0.0);
        pace.owns([]);
        assert_eq!((pace.capacity(), pace.drain_seconds(|_| 5)), (0.0, 0.0));
    }

    #[test]
    fn one_partition_fills_only_a_part_of_each_batch() {
        let pace = decided([LARGEST; 500]);
        near(pace.drain_seconds(|partition| [0, 0, 1_280][usize::from(partition)]), 0.296);
    }

    #[test]
    fn until_something_is_decided_a_pace_is_assumed() {
        near(decided([]).drain_seconds(|_| 500), 2.0);
    }
}
