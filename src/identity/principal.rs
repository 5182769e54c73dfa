//! Who calls, and whose calendars they reach.

use uuid::Uuid;

use crate::booking::problem::{Code, Problem};

/// The scope of a service that looks at anybody's bookings.
pub const READ_SCOPE: &str = "bookings.read";
/// The scope of a service that changes anybody's bookings, and looks at them.
pub const WRITE_SCOPE: &str = "bookings.write";
/// Names of services are 1 to this many visible ASCII characters.
pub const MAX_SERVICE_CHARS: usize = 128;

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

    /// Someone without a name, who may only look.
    pub fn nobody() -> Self {
        let reach = Reach::Any { read: true, write: false };
        Self { name: String::new(), reach, on_behalf_of: None }
    }

    /// A service with these scopes; others than ours mean nothing here.
    pub fn service<'a>(name: &str, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut read, mut write) = (false, false);
        for scope in scopes {
            read |= scope == READ_SCOPE;
            write |= scope == WRITE_SCOPE;
        }
        let reach = Reach::Any { read: read || write, write };
        Self { name: format!("service:{name}"), reach, on_behalf_of: None }
    }

    /// The same for a request that names a user.
    ///
    /// # Errors
    /// `FORBIDDEN` when a user names another.
    pub fn on_behalf_of(self, user: Uuid) -> Result<Self, Problem> {
        match self.reach {
            Reach::Own(own) => only(Some(own), user).map(|()| self),
            Reach::Any { .. } => Ok(Self { on_behalf_of: Some(user), ..self }),
        }
    }

    /// Whose bookings a read may find; `None`: anybody's.
    ///
    /// # Errors
    /// `FORBIDDEN` for a service without the scope.
    pub fn reads_of(&self) -> Result<Option<Uuid>, Problem> {
        match self.reach {
            Reach::Own(user) => Ok(Some(user)),
            Reach::Any { read: true, .. } => Ok(self.on_behalf_of),
            Reach::Any { .. } => Err(without(READ_SCOPE)),
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
            Reach::Any { .. } => Err(without(WRITE_SCOPE)),
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

/// Whether a text can name a service.
pub fn names_a_service(text: &str) -> bool {
    (1..=MAX_SERVICE_CHARS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn only(own: Option<Uuid>, user: Uuid) -> Result<(), Problem> {
    if own.is_some_and(|own| own != user) {
        let detail = "That is another user's calendar; a user reaches only their own, and a \
                      service that names a user in X-User-ID only that user's.";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    Ok(())
}

fn without(scope: &str) -> Problem {
    let detail = format!("The caller is a service that has not been given the scope {scope}.");
    Problem::new(Code::Forbidden, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    /// May read one, may read another, may write one, may write another.
    fn may(principal: &Principal) -> [bool; 4] {
        [
            principal.may_read(ONE).is_ok(),
            principal.may_read(OTHER).is_ok(),
            principal.may_write(ONE).is_ok(),
            principal.may_write(OTHER).is_ok(),
        ]
    }

    #[test]
    fn users_reach_their_own_and_services_what_their_scopes_say() {
        assert_eq!(may(&Principal::user(ONE)), [true, false, true, false]);
        let service = |scopes: &[&str]| Principal::service("desk", scopes.iter().copied());
        assert_eq!(may(&service(&[])), [false; 4]);
        assert_eq!(may(&service(&["openid", "bookings", "BOOKINGS.WRITE"])), [false; 4]);
        assert_eq!(may(&service(&[READ_SCOPE])), [true, true, false, false]);
        assert_eq!(may(&service(&[WRITE_SCOPE])), [true; 4]);
        assert_eq!(service(&[]).name, "service:desk");
    }

    #[test]
    fn who_names_a_user_reaches_no_other() {
        let service = Principal::service("desk", [WRITE_SCOPE]);
        let named = service.clone().on_behalf_of(ONE).unwrap();
        assert_eq!(may(&named), [true, false, true, false]);
        assert_eq!(named.name, service.name);
        let user = Principal::user(ONE);
        assert_eq!(user.clone().on_behalf_of(ONE), Ok(user));
        assert!(Principal::user(ONE).on_behalf_of(OTHER).is_err());
    }
}
