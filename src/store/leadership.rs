//! Work that one process of all does at a time: who leads.
//!
//! The right to lead is an advisory lock of the session that the work is done on, so a leader
//! that has lost it can no longer do the work either.

use sqlx::PgConnection;

use crate::booking::Stream;

/// Advisory locks live in one space a database; this is ours: "book" in ASCII.
pub(super) const LOCK_SPACE: i32 = 0x626f_6f6b;

/// What is led. The numbers are the locks', the same in all versions that run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Relay(Stream),
    Sweep,
}

impl Work {
    fn lock(self) -> i32 {
        match self {
            Self::Relay(Stream::Commands) => 1,
            Self::Relay(Stream::Events) => 2,
            Self::Sweep => 3,
            Self::Relay(Stream::Replies) => 4,
        }
    }
}

/// Tries to become the one leader of `work`, until the connection ends.
///
/// # Errors
/// When the server is away.
pub async fn try_lead(connection: &mut PgConnection, work: Work) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_try_advisory_lock($1, $2)")
        .bind(LOCK_SPACE)
        .bind(work.lock())
        .fetch_one(connection)
        .await
}
