//! The buckets in Redis, where all gateways find them.
//!
//! One loop carries everything: whatever asks or has to be told at the moment goes in one call of
//! one script. When Redis does not answer in time, everyone is decided by what the gateway knows,
//! nobody waits for Redis again, and the loop looks for it in the background.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{RedisError, Script};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Ask, Asks, Limits, Rate, Standing};
use crate::lease::{self, Link};
use crate::process::stopped_within;
use crate::retry::Backoff;

/// A request waits so long for Redis at most; then Redis counts as away.
const ANSWER_LIMIT: Duration = Duration::from_millis(50);
/// Requests that ask in one call; more wait for the next.
const MAX_BATCH: usize = 512;
/// What is only to be told waits so long for company.
const TELL_PAUSE: Duration = Duration::from_millis(5);
/// How often a gateway says that it is there, and hears how many are.
const JOIN_PERIOD: Duration = Duration::from_secs(1);
/// After a loss the others are waited for at most so long: a little more than the longest wait
/// between two of their tries.
const RETURN_LIMIT: Duration = Duration::from_secs(3);
/// A gateway that said nothing for so long is none.
const MEMBERSHIP: Duration = Duration::from_secs(5);

/// For each bucket: takes what was granted already and of what is asked for as much as is there.
/// Answers what was granted and the debt. Numbers for each: the microseconds of one, of all, of what
/// was granted already, of the least debt; and how many are asked for. A debt is never believed to be more than two
/// buckets, so that neither a clock that was set back nor a shorter window locks anyone out.
const TAKE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answers = {}
for i, key in ipairs(KEYS) do
  local a = (i - 1) * 5
  local interval, burst = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local kept = math.max(0, math.min((tonumber(redis.call('GET', key)) or 0) - now, 2 * burst))
  local debt = math.max(kept + ARGV[a + 3], tonumber(ARGV[a + 4]))
  local granted = math.floor((burst - debt) / interval)
  granted = math.max(0, math.min(granted, tonumber(ARGV[a + 5])))
  debt = debt + granted * interval
  if debt > 0 then
    redis.call('SET', key, string.format('%.0f', now + debt), 'PX', math.ceil(debt / 1000))
  end
  answers[2 * i - 1] = granted
  answers[2 * i] = debt
end
return answers";

/// The carrier between the process's limits and Redis.
pub struct Shared {
    limits: Arc<Limits>,
    asks: mpsc::Receiver<Ask>,
    link: Link,
    prefix: String,
    gateway: String,
    script: Script,
}

/// What one bucket needs of a call.
struct Need {
    rate: Rate,
    /// Microseconds of what was granted already.
    granted: i64,
    /// The least debt, in microseconds.
    least: i64,
    asking: Vec<oneshot::Sender<Result<Standing, Standing>>>,
}

impl Shared {
    /// Does not connect yet.
    ///
    /// # Errors
    /// When the URL is malformed.
    pub fn new(
        limits: Arc<Limits>,
        Asks(asks): Asks,
        redis_url: &str,
        prefix: &str,
    ) -> Result<Self, RedisError> {
        Ok(Self {
            limits,
            asks,
            link: lease::link(redis_url)?,
            prefix: prefix.to_owned(),
            gateway: Uuid::now_v7().to_string(),
            script: Script::new(TAKE),
        })
    }

    /// Runs until `stop`; from then on requests are decided by what the gateway knows.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::server_away();
        let (mut told_of_loss, mut returned) = (false, None);
        loop {
            match self.join().await {
                Ok(seen) => {
                    backoff.reset();
                    // What this gateway may grant from Redis is more than its share, which the
                    // others grant until they are back as well.
                    let back = returned.get_or_insert_with(Instant::now);
                    if seen >= self.limits.gateways() || back.elapsed() > RETURN_LIMIT {
                        returned = None;
                        if std::mem::take(&mut told_of_loss) {
                            info!(server = "redis", "rate limits are shared by the gateways again");
                        }
                        self.note_gateways(seen);
                        self.limits.redis_is_away.store(false, Ordering::Relaxed);
                        let begun = Instant::now();
                        tokio::select! {
                            lost = self.carry() => debug!(cause = %lost, "Redis was late"),
                            () = stop.cancelled() => return self.leave().await,
                        }
                        if begun.elapsed() > JOIN_PERIOD {
                            continue; // it was only late, most likely
                        }
                    }
                }
                // Not the first time that an answer was late, which the next look mends.
                Err(cause) if !std::mem::replace(&mut told_of_loss, true) => {
                    let gateways = self.limits.gateways();
                    warn!(server = "redis", %cause, gateways, "each gateway grants its share of the rate limits");
                }
                Err(_) => returned = None,
            }
            if stopped_within(&stop, backoff.next_wait()).await {
                return;
            }
        }
    }

    /// Carries until Redis does not answer; returns why.
    async fn carry(&mut self) -> RedisError {
        let mut join_again = tokio::time::interval(JOIN_PERIOD);
        join_again.reset();
        let mut asking = Vec::with_capacity(MAX_BATCH);
        let limits = self.limits.clone();
        loop {
            let news = async {
                limits.news.notified().await;
                tokio::time::sleep(TELL_PAUSE).await;
            };
            let carried = tokio::select! {
                _ = join_again.tick() => {
                    in_time(self.join()).await.map(|count| self.note_gateways(count))
                }
                _ = self.asks.recv_many(&mut asking, MAX_BATCH) => self.call(&mut asking).await,
                () = news => self.call(&mut asking).await,
            };
            if let Err(lost) = carried {
                self.limits.redis_is_away.store(true, Ordering::Relaxed);
                // Nobody asks from now on; who asked before must not wait any longer.
                while let Ok(Ask { name, rate, answer }) = self.asks.try_recv() {
                    let _ = answer.send(self.limits.take_alone(&name, rate));
                }
                return lost;
            }
        }
    }

    /// One call for all who ask and all that is untold.
    async fn call(&mut self, asking: &mut Vec<Ask>) -> Result<(), RedisError> {
        let mut needs: HashMap<String, Need> = HashMap::new();
        for Ask { name, rate, answer } in asking.drain(..) {
            needs.entry(name).or_insert_with(|| Need::of(rate)).asking.push(answer);
        }
        let sent = self.limits.now();
        self.limits.tell(&mut needs, sent);
        if needs.is_empty() {
            return Ok(());
        }
        let mut call = self.script.prepare_invoke();
        for (name, need) in &needs {
            call.key(format!("{}:rate:{name}", self.prefix))
                .arg(need.rate.interval)
                .arg(need.rate.burst())
                .arg(need.granted)
                .arg(need.least)
                .arg(need.asking.len());
        }
        let answered: Result<Vec<i64>, _> =
            in_time(call.invoke_async(&mut self.link.clone())).await;
        match answered {
            Ok(answers) => {
                for ((name, need), answer) in needs.into_iter().zip(answers.chunks_exact(2)) {
                    self.limits.note(&name, need.rate, sent + answer[1]);
                    need.answer(answer[0], answer[1]);
                }
                Ok(())
            }
            Err(cause) => {
                for (name, need) in needs {
                    self.limits.not_told(&name);
                    for answer in need.asking {
                        let _ = answer.send(self.limits.take_alone(&name, need.rate));
                    }
                }
                Err(cause)
            }
        }
    }

    /// Says that this gateway is there, and returns how many are.
    async fn join(&self) -> Result<u32, RedisError> {
        let members = lease::join(&self.link, &self.members(), &self.gateway, MEMBERSHIP).await?;
        Ok(u32::try_from(members.len()).unwrap_or(u32::MAX))
    }

    fn note_gateways(&self, count: u32) {
        self.limits.gateways.store(count, Ordering::Relaxed);
        self.limits.metrics.gateways.set(i64::from(count));
    }

    async fn leave(&self) {
        // Without Redis the membership runs out by itself.
        let _ = lease::leave(&self.link, &self.members(), &self.gateway).await;
    }

    fn members(&self) -> String {
        format!("{}:gateways", self.prefix)
    }
}

impl Need {
    fn of(rate: Rate) -> Self {
        Self { rate, granted: 0, least: 0, asking: Vec::new() }
    }

    /// The first who asked are granted what was there; `debt` is what it is after the last.
    fn answer(self, granted: i64, debt: i64) {
        let mut before_last = granted;
        for answer in self.asking {
            before_last -= 1;
            let result = if before_last >= 0 {
                Ok(self.rate.standing(debt - before_last * self.rate.interval))
            } else {
                Err(self.rate.standing(debt))
            };
            let _ = answer.send(result); // the client may have left
        }
    }
}

impl Limits {
    /// Adds to `needs` what Redis has not been told.
    fn tell(&self, needs: &mut HashMap<String, Need>, now: i64) {
        let mut book = self.book();
        let keep = book.untold.len().saturating_sub(MAX_BATCH);
        for name in book.untold.split_off(keep) {
            if let Some(known) = book.known.get(&name)
                && (known.untold > 0 || known.alone)
            {
                needs.entry(name).or_insert_with(|| Need::of(known.rate));
            }
        }
        for (name, need) in needs {
            if let Some(known) = book.known.get_mut(name) {
                known.being_told = std::mem::take(&mut known.untold);
                let debt = (known.full_at - now).max(0);
                // Of what was granted a part may have been filled in again.
                need.granted = (i64::from(known.being_told) * need.rate.interval).min(debt);
                if std::mem::take(&mut known.alone) {
                    // What was granted alone is in this debt, and in what others say of theirs.
                    need.least = debt;
                    need.granted = 0;
                }
            }
        }
        if keep > 0 {
            self.news.notify_one();
        }
    }

    /// What Redis was to be told may be lost; it is told the whole debt at the next chance.
    fn not_told(&self, name: &str) {
        if let Some(known) = self.book().known.get_mut(name) {
            known.being_told = 0;
            known.alone = true;
        }
    }

    /// Notes what Redis said of a bucket, and adds what was granted here meanwhile.
    fn note(&self, name: &str, rate: Rate, full_at: i64) {
        let mut book = self.book();
        let known = book.entry(name, rate, full_at);
        known.being_told = 0;
        known.full_at = full_at + i64::from(known.untold) * rate.interval;
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    tokio::time::timeout(ANSWER_LIMIT, call)
        .await
        .unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer within 50 ms").into()))
}
