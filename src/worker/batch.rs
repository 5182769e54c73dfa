//! A batch: the commands that are decided together, before and beside the database.
//!
//! In: commands with the tenures they arrived under. Out: what the deciding commit needs to know
//! of them: each command once, their verdicts, the fences of their partitions. Nothing here waits
//! or fails; [`crate::worker`] does the rest.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::booking::command::{Command, CommandStatus};
use crate::booking::decide::{Decision, decide};
use crate::ownership::Tenure;
use crate::store::bookings::Snapshot;
use crate::store::decisions::{Decided, Verdict};
use crate::store::partitions::Fence;

/// A command and the tenure that it arrived under.
pub struct Item {
    pub tenure: Arc<Tenure>,
    pub command: Command,
}

/// Judges the commands in their order, each against what the ones before it have left.
pub fn judge<'a>(items: &'a [Item], snapshot: Snapshot) -> Vec<Decided<'a>> {
    let Snapshot { mut calendars, now } = snapshot;
    let decide_one = |item: &'a Item| {
        let command = &item.command;
        let calendar = calendars.entry(command.calendar_id).or_default();
        let decision = decide(calendar, command, now);
        if let Decision::Changed(changed) = &decision {
            changed.effects().for_each(|effect| calendar.apply(effect));
        }
        Decided { command, verdict: Verdict::Decided(decision) }
    };
    items.iter().map(decide_one).collect()
}

/// The final state that a verdict brings.
pub fn state_of(decided: &Decided<'_>) -> CommandStatus {
    match decided.verdict {
        Verdict::Decided(Decision::Rejected(_)) => CommandStatus::Rejected,
        Verdict::Decided(_) => CommandStatus::Succeeded,
        Verdict::Failed(_) => CommandStatus::Failed,
    }
}

/// The fences of all partitions in the batch.
pub fn fences(items: &[Item]) -> Vec<Fence> {
    let by_partition: BTreeMap<u16, Fence> =
        items.iter().map(|item| (item.tenure.fence.partition(), item.tenure.fence)).collect();
    by_partition.into_values().collect()
}

/// A relay that died between publishing and deleting has published again.
pub fn drop_repeated(items: &mut Vec<Item>) {
    let mut seen = HashSet::new();
    items.retain(|item| seen.insert(item.command.command_id));
}
