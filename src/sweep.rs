//! The sweep: what time alone does to bookings.
//!
//! In: bookings whose claim is over by itself: holds that have lapsed, confirmed bookings that are
//! past. Out: the same bookings EXPIRED or COMPLETED, their time given back, audit and events, one
//! commit a batch. Nothing waits for the sweep: the rules judge a booking by the clock whether it
//! was here or not, so it only has to be soon.
//!
//! If it dies before the commit, nothing happened; after it, the bookings are no longer due. A
//! worker may change the same booking at the same time: the versions let one of them win, and the
//! other reads again. One process sweeps at a time, by an advisory lock on its connection; the
//! others stand by.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::booking::Stream;
use crate::booking::decide::{Effect, by_time};
use crate::metrics::{Action, Metrics};
use crate::process::stopped_within;
use crate::retry::Backoff;
use crate::store::bookings::{self, Due};
use crate::store::leadership::{self, Work};
use crate::store::{Failure, KeptConnection, Purpose, decisions, limited};
use crate::telemetry::Seldom;
use crate::wake::Wake;

/// Bookings of one commit; more are swept in the next one, at once.
const MAX_BATCH: usize = 256;
/// How late the sweep may be when nothing is wrong.
const PERIOD: Duration = Duration::from_secs(1);
/// Bookings that could not be read or written and are passed over until the process ends; with more, the
/// oldest is tried again.
const MAX_PASSED_OVER: usize = 64;

/// Sweeps, when no other process does.
pub struct Sweep {
    database: KeptConnection,
    leads: bool,
    /// Bookings whose rows cannot be read or written as they are: they must not stop the others.
    passed_over: Vec<Uuid>,
    wake: Arc<Wake>,
    metrics: Arc<Metrics>,
}

/// What one step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many bookings were swept; a full batch may have left more.
    Swept(usize),
    /// Another process sweeps.
    StandsBy,
    /// A worker changed one of the bookings; they are read again.
    Stale,
    /// A booking of several cannot be written as it is.
    Refused(String),
    /// That booking was found and is left out from now on.
    PassedOver,
}

impl Sweep {
    pub fn new(database_url: &str, wake: Arc<Wake>, metrics: Arc<Metrics>) -> Self {
        Self {
            database: KeptConnection::new(database_url, Purpose::Sweep),
            leads: false,
            passed_over: Vec::new(),
            wake,
            metrics,
        }
    }

    /// Sweeps until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut away, told) = (Backoff::server_away(), Seldom::new());
        let mut batch = MAX_BATCH;
        loop {
            let step = tokio::select! {
                step = limited(self.step(batch)) => step,
                () = stop.cancelled() => return, // what was sent may be committed, as after a crash
            };
            let wait = match step {
                Ok(outcome) => {
                    away.reset();
                    self.next(&mut batch, outcome)
                }
                Err(cause) => {
                    self.database.drop_it();
                    self.leads = false;
                    if let Some(times) = told.times() {
                        warn!(server = "postgres", %cause, times, "could not sweep; trying again");
                    }
                    away.next_wait()
                }
            };
            if stopped_within(&stop, wait).await {
                return;
            }
        }
    }

    /// How long to wait, and how many bookings to take then: one at a time while one of them
    /// cannot be written, so that it is found.
    fn next(&self, batch: &mut usize, outcome: Outcome) -> Duration {
        let tried = *batch;
        *batch = if matches!(outcome, Outcome::Refused(_)) { 1 } else { MAX_BATCH };
        match outcome {
            Outcome::Swept(swept) if swept == tried => Duration::ZERO,
            Outcome::PassedOver if self.passed_over.len() == MAX_PASSED_OVER => PERIOD,
            Outcome::Stale | Outcome::Refused(_) | Outcome::PassedOver => Duration::ZERO,
            Outcome::Swept(_) | Outcome::StandsBy => PERIOD,
        }
    }

    /// One batch of at most `most` bookings.
    ///
    /// # Errors
    /// When the server is away.
    async fn step(&mut self, most: usize) -> Result<Outcome, sqlx::Error> {
        let connection = self.database.get().await?;
        if !self.leads {
            self.leads = leadership::try_lead(connection, Work::Sweep).await?;
            if !self.leads {
                return Ok(Outcome::StandsBy);
            }
            info!("this process sweeps");
        }
        let (due, now) = bookings::due(connection, most, &self.passed_over).await?;
        let mut effects = Vec::with_capacity(due.len());
        for Due { id, booking } in due {
            match booking {
                Ok(booking) => effects.extend(by_time(&booking, now)),
                Err(cause) => return Ok(self.pass_over(id, &cause)), // the others come next
            }
        }
        if effects.is_empty() {
            return Ok(Outcome::Swept(0));
        }
        let cause = format!("sweep-{}", Uuid::now_v7());
        match decisions::commit_by_time(connection, &effects, &cause, now).await {
            Ok(()) => Ok(self.note(&effects)),
            Err(error) => match Failure::of(&error) {
                Failure::Stale | Failure::Fenced => Ok(Outcome::Stale),
                Failure::Content => match effects.as_slice() {
                    [only] => Ok(self.pass_over(only.after.id, &error)),
                    _ => Ok(Outcome::Refused(error.to_string())),
                },
                Failure::Away => Err(error),
            },
        }
    }

    fn note(&self, effects: &[Effect]) -> Outcome {
        for effect in effects {
            let action = Action { action: effect.action.as_str() };
            self.metrics.swept.get_or_create(&action).inc();
        }
        self.wake.outbox_appended(Stream::Events);
        Outcome::Swept(effects.len())
    }

    /// Leaves a booking that cannot be read or written to people.
    fn pass_over(&mut self, id: Uuid, cause: &sqlx::Error) -> Outcome {
        warn!(booking_id = %id, %cause, "a booking that is over is passed over");
        if self.passed_over.len() == MAX_PASSED_OVER {
            self.passed_over.remove(0);
        }
        self.passed_over.push(id);
        Outcome::PassedOver
    }
}
