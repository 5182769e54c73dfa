//! How a limit is counted: a bucket that is full at first, from which each request takes one, and
//! which fills evenly (GCRA). All of a bucket is one number, its **debt**: the microseconds until
//! it is full again.

use std::time::Duration;

/// A limit, which is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What a full bucket holds.
    pub most: u32,
    /// Microseconds in which one is filled in.
    pub interval: i64,
}

/// Where a caller stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub limit: u32,
    /// What may be sent at once.
    pub remaining: u32,
    /// Until the bucket is full.
    pub reset: Duration,
    /// Until the next request is granted; zero while some remain.
    pub retry_after: Duration,
}

impl Rate {
    /// `most` requests in `window`, whole microseconds apart; nothing when there is no limit.
    pub fn new(most: u32, window: Duration) -> Option<Self> {
        let window = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
        let interval = (window + i64::from(most) - 1).checked_div(i64::from(most))?;
        Some(Self { most, interval })
    }

    /// The debt of an empty bucket.
    pub fn burst(self) -> i64 {
        self.interval * i64::from(self.most)
    }

    /// The same limit as one of `gateways` grants it that do not know of each other: at each the
    /// bucket fills so much slower, and holds so much less, but at least one.
    pub fn share(self, gateways: u32) -> Self {
        let gateways = gateways.max(1);
        let most = (self.most / gateways).max(1);
        Self { most, interval: self.interval * i64::from(gateways) }
    }

    /// The debt after one more request; nothing when the bucket is empty.
    pub fn take(self, debt: i64) -> Option<i64> {
        let after = debt + self.interval;
        (after <= self.burst()).then_some(after)
    }

    /// What a debt means to the caller.
    pub fn standing(self, debt: i64) -> Standing {
        let micros = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        let remaining = (self.burst() - debt).max(0) / self.interval;
        Standing {
            limit: self.most,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset: micros(debt),
            retry_after: micros(debt + self.interval - self.burst()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_full_bucket_grants_its_limit_and_then_fills_evenly() {
        let rate = Rate::new(100, MINUTE).unwrap();
        let mut debt = 0;
        for left in (0..100).rev() {
            debt = rate.take(debt).unwrap();
            assert_eq!(rate.standing(debt).remaining, left);
        }
        assert!(rate.take(debt).is_none());
        let standing = rate.standing(debt);
        assert_eq!((standing.reset, standing.retry_after), (MINUTE, MINUTE / 100));
        assert!(rate.take(debt - 600_000).is_some(), "one is filled in after 0.6 s");
        assert!(rate.take(debt - 599_999).is_none());
    }

    #[test]
    fn no_limit_is_no_rate_and_an_odd_one_is_never_exceeded() {
        assert_eq!(Rate::new(0, MINUTE), None);
        let odd = Rate::new(7, Duration::from_millis(100)).unwrap();
        assert!(odd.burst() >= 100_000, "{odd:?}");
        assert_eq!(odd.standing(0).remaining, 7);
    }

    #[test]
    fn the_shares_of_all_gateways_are_the_limit() {
        let rate = Rate::new(100, MINUTE).unwrap();
        assert_eq!(rate.share(0), rate);
        let third = rate.share(3);
        assert_eq!((third.most, third.interval), (33, 3 * rate.interval));
        assert_eq!(rate.share(1000).most, 1, "each caller is heard at last");
    }
}
