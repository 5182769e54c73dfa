//! Parking: how what cannot be processed is set aside, so that it stops nothing but itself.
//!
//! In: a command that keeps failing alone, or a message that no command can be read from. Out: a
//! final state with an event and a dead letter, in one transaction; or the message in the queue
//! `booking.dead`. If it dies half way nothing has happened, and the delivery comes again.

use chrono::Utc;
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

use super::{Item, Worker};
use crate::booking::problem::{Code, Problem};
use crate::metrics::Reason;
use crate::ownership::Tenure;
use crate::process::stopped_within;
use crate::retry::Backoff;
use crate::store::commands::{self, DeadLetter};
use crate::store::decisions::{self, Decided, Verdict};
use crate::store::partitions::Fence;
use crate::store::{self, Failure};

impl Worker {
    /// Ends a command that cannot be processed: a final state, an event, and a dead letter.
    pub(super) async fn park(
        &mut self,
        item: &Item,
        cause: &str,
        stop: &CancellationToken,
    ) -> bool {
        let command = &item.command;
        error!(command_id = %command.command_id, cause, "a command is given up; see dead_letters");
        let detail = "The command could not be processed and was set aside; nothing was changed.";
        let mut away = Backoff::server_away();
        let mut with_letter = true;
        loop {
            let failed = Decided {
                command,
                verdict: Verdict::Failed(Problem::new(Code::InternalError, detail)),
            };
            let (fences, letter) = ([item.tenure.fence], with_letter.then_some(cause));
            let trying = store::limited(self.try_park(&fences, &failed, letter));
            let Err(error) = trying.await else {
                self.metrics.parked.get_or_create(&Reason { reason: "command" }).inc();
                return true;
            };
            match Failure::of(&error) {
                Failure::Stale => {
                    let mut only =
                        vec![Item { tenure: item.tenure.clone(), command: command.clone() }];
                    self.drop_decided(&mut only).await;
                    if only.is_empty() || stopped_within(stop, away.next_wait()).await {
                        return only.is_empty();
                    }
                }
                Failure::Fenced => {
                    // Not ours to end, and so not ours to acknowledge.
                    self.give_up_lost(std::slice::from_ref(item)).await;
                    if item.tenure.over.is_cancelled() {
                        self.left.insert(item.tenure.fence.partition());
                        return true;
                    }
                }
                Failure::Content if with_letter => with_letter = false,
                Failure::Content | Failure::Away => {
                    self.database = None;
                    if stopped_within(stop, away.next_wait()).await {
                        return false;
                    }
                }
            }
        }
    }

    /// Commits the failure, and in the same transaction the dead letter that says why.
    async fn try_park(
        &mut self,
        fences: &[Fence],
        failed: &Decided<'_>,
        cause: Option<&str>,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = self.database().await?.begin().await?;
        let now = Utc::now();
        decisions::commit(&mut transaction, fences, std::slice::from_ref(failed), now).await?;
        if let Some(reason) = cause {
            let body = serde_json::to_string(failed.command).unwrap_or_default();
            let letter = DeadLetter {
                id: Uuid::now_v7(),
                command_id: Some(failed.command.command_id),
                source: "worker",
                reason,
                body: &body,
            };
            commands::keep_dead_letter(&mut transaction, &letter).await?;
        }
        transaction.commit().await?;
        self.note(std::slice::from_ref(failed), now);
        Ok(())
    }

    /// Sets a message aside that is not a list of commands: it stops nothing.
    pub(super) async fn park_message(&self, tenure: &Tenure, tag: u64, cause: &str) {
        let partition = tenure.fence.partition();
        error!(partition, cause, "a message is not a list of commands; it goes to booking.dead");
        self.metrics.parked.get_or_create(&Reason { reason: "malformed" }).inc();
        if let Err(cause) = tenure.acker.park(tag).await {
            warn!(partition, %cause, "could not park; the message comes again");
        }
    }
}
