//! The reads of the front door: as many as the pool can serve soon, and no more.

use std::io::ErrorKind;
use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Reads of clients that wait for one of the connections; more are refused at once. At 1 ms a
/// read, a new one waits about 30 ms.
const MAX_WAITING: usize = 256;

/// What a read may be made on.
pub trait Readable {
    fn pool(&self) -> &PgPool;

    /// A turn in the queue.
    ///
    /// # Errors
    /// When the queue is full; see [`is_overload`].
    fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, sqlx::Error>;
}

/// For the process's own reads, which are few.
impl Readable for PgPool {
    fn pool(&self) -> &PgPool {
        self
    }

    fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, sqlx::Error> {
        Ok(None)
    }
}

/// The pool with a queue of limited length, for the reads of clients. Cheap to clone.
#[derive(Clone)]
pub struct ClientReads {
    pool: PgPool,
    turns: Arc<Semaphore>,
}

impl ClientReads {
    pub fn new(pool: PgPool) -> Self {
        let connections = usize::try_from(super::MAX_READ_CONNECTIONS).unwrap_or(0);
        Self { pool, turns: Arc::new(Semaphore::new(connections + MAX_WAITING)) }
    }
}

impl Readable for ClientReads {
    fn pool(&self) -> &PgPool {
        &self.pool
    }

    fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, sqlx::Error> {
        let full = |_| sqlx::Error::Io(ErrorKind::ResourceBusy.into());
        self.turns.try_acquire().map(Some).map_err(full)
    }
}

/// Whether a read was refused because too many wait already.
pub fn is_overload(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(cause) if cause.kind() == ErrorKind::ResourceBusy)
}
