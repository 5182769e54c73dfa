//! Parking: how what cannot be processed is set aside, so that it stops nothing but itself.
//!
//! In: a command that keeps failing alone, a command that cannot be read, or a message that no
//! command can be read from. Out: a final state with an event and a dead letter, in one
//! transaction; or the message in the queue `booking.dead`. If it dies half way nothing has
//! happened, and the delivery comes again.
//!
//! Many commands share a message. One that this release cannot read (a newer one accepted it,
//! during an upgrade) must not take its neighbours along: they would never be decided.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

use super::{Item, Worker};
use crate::booking::callback::CallbackUrl;
use crate::booking::command::{Change, Command, ReplyAddress};
use crate::booking::problem::{Code, Problem};
use crate::metrics::Reason;
use crate::ownership::Tenure;
use crate::process::stopped_within;
use crate::retry::Backoff;
use crate::store::commands::{self, DeadLetter};
use crate::store::decisions::{self, Decided, Verdict};
use crate::store::partitions::Fence;
use crate::store::{self, Failure};

/// The commands of one message.
pub(super) struct Opened {
    pub commands: Vec<Command>,
    pub illegible: Vec<Illegible>,
}

/// A command whose change cannot be read.
pub(super) struct Illegible {
    command: Command,
    content: String,
    cause: String,
}

/// Reads a message; an error when it is no list of commands at all.
pub(super) fn open(body: &[u8]) -> Result<Opened, serde_json::Error> {
    if let Ok(commands) = serde_json::from_slice(body) {
        return Ok(Opened { commands, illegible: Vec::new() });
    }
    let mut opened = Opened { commands: Vec::new(), illegible: Vec::new() };
    for part in serde_json::from_slice::<Vec<&RawValue>>(body)? {
        match serde_json::from_str(part.get()) {
            Ok(command) => opened.commands.push(command),
            Err(cause) => opened.illegible.push(Illegible {
                command: without_change(part)?,
                content: part.get().to_owned(),
                cause: cause.to_string(),
            }),
        }
    }
    Ok(opened)
}

/// As much of a command as its end needs. Its row knows the kind of change, its event cannot.
fn without_change(part: &RawValue) -> Result<Command, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope {
        command_id: Uuid,
        booking_id: Uuid,
        calendar_id: Uuid,
        caller: String,
        correlation_id: String,
        #[serde(default)]
        traceparent: Option<String>,
        accepted_at: DateTime<Utc>,
        #[serde(default)]
        callback: Option<CallbackUrl>,
        #[serde(default)]
        reply_to: Option<ReplyAddress>,
    }
    let envelope: Envelope = serde_json::from_str(part.get())?;
    Ok(Command {
        command_id: envelope.command_id,
        booking_id: envelope.booking_id,
        calendar_id: envelope.calendar_id,
        caller: envelope.caller,
        correlation_id: envelope.correlation_id,
        traceparent: envelope.traceparent,
        accepted_at: envelope.accepted_at,
        expected_version: None,
        callback: envelope.callback,
        reply_to: envelope.reply_to,
        change: Change::Cancel { reason: None },
    })
}

impl Worker {
    /// Parks commands that cannot be read; false when that has to wait, as in [`Worker::settle`].
    pub(super) async fn park_unreadable(
        &mut self,
        unreadable: Vec<(Arc<Tenure>, Illegible)>,
        stop: &CancellationToken,
    ) -> bool {
        for (tenure, Illegible { command, content, cause }) in unreadable {
            if !self.park(&Item { tenure, command }, &cause, &content, stop).await {
                return false;
            }
        }
        true
    }

    /// Ends a command that cannot be processed: a final state, an event, and a dead letter with
    /// its content.
    pub(super) async fn park(
        &mut self,
        item: &Item,
        cause: &str,
        content: &str,
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
            let fences = [item.tenure.fence];
            let letter = with_letter.then(|| DeadLetter {
                id: Uuid::now_v7(),
                command_id: Some(command.command_id),
                source: "worker",
                reason: cause,
                body: content,
            });
            let trying = store::limited(self.try_park(&fences, &failed, letter.as_ref()));
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
                    self.database.drop_it();
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
        letter: Option<&DeadLetter<'_>>,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = self.database.get().await?.begin().await?;
        let now = Utc::now();
        decisions::commit(&mut transaction, fences, std::slice::from_ref(failed), now).await?;
        if let Some(letter) = letter {
            commands::keep_dead_letter(&mut transaction, letter).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_of_commands_is_refused_as_a_whole() {
        for body in ["", "{}", "[1]", "[{}]", "\u{feff}[]", r#"[{"commandId": 7}]"#] {
            assert!(open(body.as_bytes()).is_err(), "{body}");
        }
        assert!(open(b"\xff").is_err());
        assert!(open(b"[]").is_ok());
    }
}
