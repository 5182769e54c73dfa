//! Rate limits: how much each caller may ask for, over all gateways together.
//!
//! In: a name and its limit, once for each request. Out: granted or not, and where the name
//! stands. The buckets (`bucket`) are kept in Redis; each gateway keeps what it last heard of
//! them. So most requests wait for nothing: one that the gateway knows to be over its limit is
//! refused, and one far below it is granted and told to Redis afterwards, with others, when there
//! are enough of them to matter. Only what lies between asks, and those who ask at the same time
//! share one call (`shared`).
//!
//! While Redis is away each gateway grants its share of the limit by what it knows. If a gateway
//! dies, what it had not told Redis is granted once more: a 25th of a limit at most.

mod bucket;
mod shared;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::metrics::Metrics;
pub use bucket::{Rate, Standing};
pub use shared::Shared;

/// Names that a gateway keeps in mind. Beyond it those go whose buckets are the fullest; they are
/// asked for again.
const MAX_NAMES: usize = 65_536;
/// Requests that wait for Redis; more are decided by what the gateway knows.
const MAX_ASKING: usize = 8_192;
/// All gateways together may be ahead of Redis by this part of a limit.
const UNTOLD_PART: u32 = 25;

/// What a gateway knows of one bucket.
struct Known {
    rate: Rate,
    /// When it will be full, in microseconds since the start of the process.
    full_at: i64,
    /// Granted here and not yet told to Redis.
    untold: u32,
    /// The same, in the call that is under way.
    being_told: u32,
    /// Granted from while Redis was away: Redis must be told the whole debt.
    alone: bool,
}

#[derive(Default)]
struct Book {
    known: HashMap<String, Known>,
    /// Names with something untold.
    untold: Vec<String>,
}

/// A request that has to ask Redis.
struct Ask {
    name: String,
    rate: Rate,
    answer: oneshot::Sender<Result<Standing, Standing>>,
}

/// The process's limits. Cheap to share.
pub struct Limits {
    begun: Instant,
    book: Mutex<Book>,
    asks: mpsc::Sender<Ask>,
    /// There is something untold.
    news: Notify,
    redis_is_away: AtomicBool,
    /// How many gateways there were when Redis was last heard.
    gateways: AtomicU32,
    metrics: Arc<Metrics>,
}

/// What the gateway can say without asking.
enum Here {
    Granted(Standing),
    Refused(Standing),
    Unsure,
}

impl Limits {
    /// Makes the limits, and the end of theirs that carries them to Redis; see [`Shared::new`].
    pub fn new(metrics: Arc<Metrics>) -> (Arc<Self>, Asks) {
        let (sender, asks) = mpsc::channel(MAX_ASKING);
        let limits = Self {
            begun: Instant::now(),
            book: Mutex::default(),
            asks: sender,
            news: Notify::new(),
            redis_is_away: AtomicBool::new(true), // until it was heard
            gateways: AtomicU32::new(1),
            metrics,
        };
        (Arc::new(limits), Asks(asks))
    }

    /// Takes one from the bucket of `name`. Each of the two answers says where the name stands.
    ///
    /// # Errors
    /// The bucket is empty.
    pub async fn take(&self, name: &str, rate: Rate) -> Result<Standing, Standing> {
        match self.take_here(name, rate) {
            Here::Granted(standing) => return Ok(standing),
            Here::Refused(standing) => return Err(standing),
            Here::Unsure => {}
        }
        let (answer, answered) = oneshot::channel();
        if self.asks.try_send(Ask { name: name.to_owned(), rate, answer }).is_ok()
            && let Ok(answer) = answered.await
        {
            return answer;
        }
        self.take_alone(name, rate)
    }

    /// Whether the bucket of `name` is empty, as far as this gateway knows.
    pub fn is_empty(&self, name: &str, rate: Rate) -> bool {
        let now = self.now();
        let book = self.book();
        book.known.get(name).is_some_and(|known| rate.take((known.full_at - now).max(0)).is_none())
    }

    fn take_here(&self, name: &str, rate: Rate) -> Here {
        if self.redis_is_away.load(Ordering::Relaxed) {
            return match self.take_alone(name, rate) {
                Ok(standing) => Here::Granted(standing),
                Err(standing) => Here::Refused(standing),
            };
        }
        let now = self.now();
        let most_untold = rate.most / UNTOLD_PART / self.gateways();
        let mut book = self.book();
        let known = book.entry(name, rate, now);
        let debt = (known.full_at - now).max(0);
        let Some(after) = rate.take(debt) else {
            return Here::Refused(rate.standing(debt));
        };
        if debt == 0 {
            known.untold = 0; // the bucket is full again: there is nothing to tell
        }
        if known.untold + known.being_told >= most_untold {
            return Here::Unsure;
        }
        known.full_at = now + after;
        known.untold += 1;
        if known.untold == (most_untold / 2).max(1) {
            book.untold.push(name.to_owned());
            self.news.notify_one();
        }
        Here::Granted(rate.standing(after))
    }

    /// This gateway's share of the limit, by what it knows.
    fn take_alone(&self, name: &str, rate: Rate) -> Result<Standing, Standing> {
        self.metrics.limits_alone.inc();
        let now = self.now();
        let share = rate.share(self.gateways());
        let mut book = self.book();
        let known = book.entry(name, rate, now);
        known.alone = true;
        let debt = (known.full_at - now).max(0);
        let standing = |debt| Standing { limit: rate.most, ..share.standing(debt) };
        let after = share.take(debt).ok_or_else(|| standing(debt))?;
        known.full_at = now + after;
        Ok(standing(after))
    }

    /// Microseconds since the start of the process.
    fn now(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed).max(1)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests that ask, for [`Shared`].
pub struct Asks(mpsc::Receiver<Ask>);

impl Book {
    fn entry(&mut self, name: &str, rate: Rate, now: i64) -> &mut Known {
        if self.known.len() >= MAX_NAMES && !self.known.contains_key(name) {
            self.forget_some(now);
        }
        match self.known.entry(name.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                free.insert(Known { rate, full_at: now, untold: 0, being_told: 0, alone: false })
            }
        }
    }

    /// Forgets full buckets, of which there is nothing to know; if that is not enough, the fuller
    /// half of the rest.
    fn forget_some(&mut self, now: i64) {
        self.known.retain(|_, known| known.full_at > now);
        if self.known.len() >= MAX_NAMES / 2 {
            let mut debts: Vec<i64> = self.known.values().map(|known| known.full_at).collect();
            let middle = debts.len() / 2;
            let (_, median, _) = debts.select_nth_unstable(middle);
            let median = *median;
            self.known.retain(|_, known| known.full_at > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hundred() -> Rate {
        Rate::new(100, Duration::from_secs(3600)).unwrap()
    }

    /// As if Redis had been heard and there were so many gateways.
    fn together(gateways: u32) -> (Arc<Limits>, Asks) {
        let (limits, asks) = Limits::new(Metrics::new());
        limits.redis_is_away.store(false, Ordering::Relaxed);
        limits.gateways.store(gateways, Ordering::Relaxed);
        (limits, asks)
    }

    #[tokio::test]
    async fn without_redis_a_gateway_grants_its_share() {
        for (gateways, share) in [(1, 100), (2, 50), (3, 33), (300, 1)] {
            let (limits, _asks) = together(gateways);
            limits.redis_is_away.store(true, Ordering::Relaxed);
            let mut granted = 0;
            while limits.take("a", hundred()).await.is_ok() {
                granted += 1;
            }
            assert_eq!(granted, share, "{gateways} gateways");
            assert!(limits.take("b", hundred()).await.is_ok(), "another's bucket is full");
            assert!(limits.is_empty("a", hundred()) || gateways > 1);
        }
    }

    #[tokio::test]
    async fn only_a_small_part_of_a_limit_is_granted_before_redis_is_told() {
        let (limits, Asks(mut asks)) = together(2);
        for _ in 0..2 {
            assert!(matches!(limits.take_here("a", hundred()), Here::Granted(_)));
        }
        assert!(matches!(limits.take_here("a", hundred()), Here::Unsure));
        assert_eq!(limits.book().untold, ["a"]);
        assert!(asks.try_recv().is_err());
    }

    #[tokio::test]
    async fn who_asks_for_little_is_not_worth_a_word_to_redis() {
        let (limits, _asks) = together(1);
        let rate = Rate::new(1000, Duration::from_secs(3600)).unwrap();
        for _ in 0..19 {
            assert!(matches!(limits.take_here("a", rate), Here::Granted(_)));
        }
        assert!(limits.book().untold.is_empty());
        assert!(matches!(limits.take_here("a", rate), Here::Granted(_)));
        assert_eq!(limits.book().untold, ["a"]);
        // What has leaked is forgotten.
        limits.book().entry("a", rate, 0).full_at = 0;
        assert!(matches!(limits.take_here("a", rate), Here::Granted(_)));
        assert_eq!(limits.book().entry("a", rate, 0).untold, 1);
    }

    #[tokio::test]
    async fn who_is_known_to_be_over_the_limit_is_refused_without_asking() {
        let (limits, Asks(mut asks)) = together(1);
        limits.book().entry("a", hundred(), 0).full_at = limits.now() + hundred().burst();
        let refused = limits.take("a", hundred()).await.unwrap_err();
        assert_eq!(refused.remaining, 0);
        assert!(refused.retry_after > Duration::from_secs(35), "{refused:?}");
        assert!(asks.try_recv().is_err());
    }

    #[test]
    fn the_emptiest_buckets_are_kept_in_mind() {
        let mut book = Book::default();
        for name in 0..MAX_NAMES {
            let full_at = i64::try_from(name).unwrap() + 10;
            book.entry(&name.to_string(), hundred(), 0).full_at = full_at;
        }
        book.entry("one more", hundred(), 5);
        assert!(book.known.len() <= MAX_NAMES / 2 + 1);
        assert!(book.known.contains_key(&(MAX_NAMES - 1).to_string()));
        assert!(!book.known.contains_key("0"));
    }
}
