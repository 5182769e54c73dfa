//! The controller: how many workers there should be, by their metrics and by nothing else.
//!
//! It goes by the figures, and in the way, of `deploy/kubernetes/keda/worker-scaling.yaml`: the
//! larger of two wishes counts; more workers come at once, though at most as many as there are;
//! fewer one at a time, after nothing has asked for more for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::stage::{Process, Stage};

/// The most workers.
pub const MOST: usize = 6;
/// Seconds that what waits may take to be decided.
const DRAIN: f64 = 2.0;
/// What is decided, of what could be.
const LOAD: f64 = 0.7;
/// A figure that is off by less changes nothing.
const TOLERANCE: f64 = 0.1;
/// The time over which a rate is taken.
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer workers only when no wish of this time was for more.
const STEADY: Duration = Duration::from_secs(15);

/// What the metrics say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Commands that are accepted and not decided.
    pub undecided: f64,
    /// Seconds that the oldest of them has waited.
    pub oldest: f64,
    /// The longest of the workers' drain times.
    pub drain: f64,
    /// Commands that are decided in a second.
    pub decided: f64,
    /// That, of what could be.
    pub load: f64,
    /// The share of their time that the workers are at work.
    pub busy: f64,
}

/// Starts and stops workers.
pub struct Controller {
    workers: Vec<Worker>,
    wishes: VecDeque<(Instant, usize)>,
    most: usize,
}

/// A worker, and how far its counters were at the latest looks.
struct Worker {
    process: Process,
    looks: VecDeque<(Instant, Counters)>,
}

#[derive(Clone, Copy)]
struct Counters {
    decided: f64,
    busy: f64,
}

impl Controller {
    /// With one worker of the stage.
    pub async fn start(stage: &Stage) -> Self {
        let mut controller = Self { workers: Vec::new(), wishes: VecDeque::new(), most: 0 };
        controller.add(stage, 1).await;
        controller
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The most workers that there were.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Looks once, and starts or stops workers.
    pub async fn step(&mut self, stage: &Stage) -> Seen {
        let seen = self.look().await;
        let now = Instant::now();
        self.wishes.push_back((now, wish(self.workers(), seen.drain, seen.load)));
        self.wishes.retain(|(at, _)| now - *at <= STEADY);
        let wanted = self.wishes.back().map_or(1, |(_, wish)| *wish);
        let lately = self.wishes.iter().map(|(_, wish)| *wish).max().unwrap_or(wanted);
        if wanted > self.workers() {
            self.add(stage, (wanted - self.workers()).min(self.workers())).await;
        } else if lately < self.workers() && now - self.wishes[0].0 > STEADY / 2 {
            let mut last = self.workers.pop().expect("there is one more than is wanted");
            assert!(last.process.terminate().await.success(), "{}", last.process.log_text());
            self.wishes.clear(); // what was wished of more workers says nothing of these
        }
        seen
    }

    /// Starts so many more, side by side.
    async fn add(&mut self, stage: &Stage, more: usize) {
        let starting = (0..more).map(|_| stage.worker());
        let started = futures::future::join_all(starting).await;
        self.workers
            .extend(started.into_iter().map(|process| Worker { process, looks: VecDeque::new() }));
        self.most = self.most.max(self.workers());
        self.wishes.clear();
    }

    async fn look(&mut self) -> Seen {
        let (mut seen, mut capacity) = (Seen::default(), 0.0);
        let count = self.workers() as f64;
        for worker in &mut self.workers {
            let text = worker.process.metrics().await;
            let sum = |name| samples(&text, name).sum::<f64>();
            let most = |name| samples(&text, name).fold(0.0, f64::max);
            // Of the whole system, as each of them sees it.
            seen.undecided = seen.undecided.max(sum("booking_commands_undecided"));
            seen.oldest = seen.oldest.max(most("booking_commands_undecided_oldest_seconds"));
            // Of each its own.
            seen.drain = seen.drain.max(sum("booking_drain_seconds"));
            capacity += sum("booking_worker_capacity");
            let rates = worker.rates(Counters {
                decided: sum("booking_commands_decided_total"),
                busy: sum("booking_worker_busy_seconds_total"),
            });
            seen.decided += rates.decided;
            seen.busy += rates.busy / count;
        }
        seen.load = if capacity > 0.0 { seen.decided / capacity } else { 0.0 };
        seen
    }
}

impl Worker {
    /// What its counters grow by in a second.
    fn rates(&mut self, now: Counters) -> Counters {
        let at = Instant::now();
        self.looks.push_back((at, now));
        self.looks.retain(|(then, _)| at - *then <= WINDOW);
        let (then, before) = self.looks[0];
        let seconds = (at - then).as_secs_f64().max(1.0);
        Counters {
            decided: (now.decided - before.decided) / seconds,
            busy: (now.busy - before.busy) / seconds,
        }
    }
}

/// How many workers the figures of so many ask for.
fn wish(workers: usize, drain: f64, load: f64) -> usize {
    let now = workers as f64;
    let by = |ratio: f64| if (ratio - 1.0).abs() <= TOLERANCE { now } else { (now * ratio).ceil() };
    (by(drain / DRAIN).max(by(load / LOAD)) as usize).clamp(1, MOST)
}

/// The values of a metric, of all its labels.
fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    text.lines().filter_map(move |line| {
        let (sample, value) = line.rsplit_once(' ')?;
        (sample.split('{').next()? == name).then(|| value.parse().expect("a number"))
    })
}
