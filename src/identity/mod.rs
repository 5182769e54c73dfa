//! Who calls, and whose calendars they reach.
//!
//! In: what a request shows of its caller. Out: a [`Principal`], which every handler is given and
//! without which none can look anything up.

use uuid::Uuid;

use crate::booking::problem::{Code, Problem};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user's UUID, or `service:<name>`: owner of idempotency keys and limits, actor in the
    /// audit.
    pub name: String,
    pub reach: Reach,
    /// The one user whom a service names in a request; narrows what it reaches.
    on_behalf_of: Option<Uuid>,
}

/// Whose bookings a principal may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A user's own.
    Own(Uuid),
    /// Everybody's, as far as the service's scopes go.
    Any { read: bool, write: bool },
}

impl Principal {
    pub fn user(id: Uuid) -> Self {
        Self { name: id.to_string(), reach: Reach::Own(id), on_behalf_of: None }
    }

    /// Whose bookings a read may find; `None`: anybody's.
    ///
    /// # Errors
    /// `FORBIDDEN` for a service without the scope.
    pub fn reads_of(&self) -> Result<Option<Uuid>, Problem> {
        match self.reach {
            Reach::Own(user) => Ok(Some(user)),
            Reach::Any { read: true, .. } | Reach::Any { write: true, .. } => Ok(self.on_behalf_of),
            Reach::Any { .. } => Err(without("bookings.read")),
        }
    }

    /// Whose bookings a change may find; `None`: anybody's.
    ///
    /// # Errors
    /// `FORBIDDEN` for a service without the scope.
    pub fn writes_of(&self) -> Result<Option<Uuid>, Problem> {
        match self.reach {
            Reach::Own(user) => Ok(Some(user)),
            Reach::Any { write: true, .. } => Ok(self.on_behalf_of),
            Reach::Any { .. } => Err(without("bookings.write")),
        }
    }

    /// Whether `user`'s calendar may be looked at, whether or not there is such a user.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub fn may_read(&self, user: Uuid) -> Result<(), Problem> {
        only(self.reads_of()?, user)
    }

    /// Whether `user`'s calendar may be changed, whether or not there is such a user.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub fn may_write(&self, user: Uuid) -> Result<(), Problem> {
        only(self.writes_of()?, user)
    }
}

fn only(own: Option<Uuid>, user: Uuid) -> Result<(), Problem> {
    if own.is_some_and(|own| own != user) {
        let detail = "That is another user's calendar; only your own, or that of the user you \
                      name, can be used.";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    Ok(())
}

fn without(scope: &str) -> Problem {
    Problem::new(Code::Forbidden, format!("This service has not been given the scope {scope}."))
}
