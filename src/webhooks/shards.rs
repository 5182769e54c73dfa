//! Which shards this process owns, and how many it should.
//!
//! Shards are spread evenly over the processes that share them: whoever has more than its part
//! gives some back, once nothing of them is under way, and whoever has less takes what is free.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use tracing::info;

use crate::store::webhooks::shards::{self, Census, SHARDS};

#[derive(Debug, Default)]
pub struct Shards {
    owned: BTreeSet<i16>,
    /// Owned, but nothing more is read of them.
    leaving: BTreeSet<i16>,
}

impl Shards {
    /// Nothing is owned any more: the connection is lost.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    pub fn owned(&self) -> usize {
        self.owned.len()
    }

    /// Whether deliveries of this shard are still to be begun.
    pub fn keeps(&self, shard: i16) -> bool {
        self.owned.contains(&shard) && !self.leaving.contains(&shard)
    }

    /// The shards to read, beginning with another one at each `turn`.
    pub fn in_turn(&self, turn: usize) -> Vec<i16> {
        let mut kept: Vec<i16> = self.owned.difference(&self.leaving).copied().collect();
        if !kept.is_empty() {
            let first = turn % kept.len();
            kept.rotate_left(first);
        }
        kept
    }

    /// Takes and gives back, so that this process has its part; `held` tells what it holds of a
    /// shard.
    ///
    /// # Errors
    /// When the server is away.
    pub async fn balance(
        &mut self,
        connection: &mut PgConnection,
        held: impl Fn(i16) -> usize,
    ) -> Result<(), sqlx::Error> {
        let census = shards::census(connection).await?;
        let wanted = self.plan(&census);
        let idle: Vec<i16> = self.leaving.iter().copied().filter(|s| held(*s) == 0).collect();
        if !idle.is_empty() {
            shards::give_back(connection, &idle).await?;
            for shard in &idle {
                self.owned.remove(shard);
                self.leaving.remove(shard);
            }
        }
        let taken =
            if wanted.is_empty() { wanted } else { shards::take(connection, &wanted).await? };
        if !(idle.is_empty() && taken.is_empty()) {
            self.owned.extend(&taken);
            info!(
                taken = taken.len(),
                given_back = idle.len(),
                owned = self.owned.len(),
                processes = census.members,
                "shards of webhook targets changed hands"
            );
        }
        Ok(())
    }

    /// Marks what is to be given back, and names what is to be taken.
    fn plan(&mut self, census: &Census) -> Vec<i16> {
        let part = usize::try_from(SHARDS).unwrap_or_default().div_ceil(census.members);
        let kept = self.owned.len() - self.leaving.len();
        if kept > part {
            let surplus = self.owned.difference(&self.leaving).skip(part);
            let surplus: Vec<i16> = surplus.copied().collect();
            self.leaving.extend(surplus);
        }
        let mut missing = part.saturating_sub(kept);
        // What was not given back yet is simply kept.
        while missing > 0 && self.leaving.pop_first().is_some() {
            missing -= 1;
        }
        census.free.iter().copied().take(missing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(members: usize, free: std::ops::Range<i16>) -> Census {
        Census { members, free: free.collect() }
    }

    #[test]
    fn a_process_alone_takes_all_and_two_share_them() {
        let mut first = Shards::default();
        let all = first.plan(&census(1, 0..SHARDS));
        assert_eq!(all.len(), 32);
        first.owned.extend(&all);
        assert!(first.plan(&census(2, 0..0)).is_empty());
        assert_eq!((first.leaving.len(), first.in_turn(0).len()), (16, 16));
        assert!(!first.keeps(31) && first.keeps(0));
        // The other one has gone again before they were given back.
        assert!(first.plan(&census(1, 0..0)).is_empty());
        assert_eq!(first.leaving.len(), 0);
    }

    #[test]
    fn parts_add_up_to_all_shards() {
        for members in 1..=40 {
            let part = Shards::default().plan(&census(members, 0..SHARDS)).len();
            assert!(part * members >= 32, "{members} processes take {part} each");
        }
    }

    #[test]
    fn each_turn_begins_with_another_shard() {
        let shards = Shards { owned: [1, 2, 3].into(), leaving: [2].into() };
        assert_eq!((shards.in_turn(0), shards.in_turn(1)), (vec![1, 3], vec![3, 1]));
        assert!(Shards::default().in_turn(7).is_empty());
    }
}
