//! From a request, as a door has read it, to the command that is accepted.
//!
//! Everything that can be checked without a calendar is checked here, for both doors alike, so
//! that the same request gets the same answer at each. What is refused leaves no trace.

use std::sync::Arc;
use std::time::Duration;

use chrono::{SubsecRound as _, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Acceptor;
use crate::booking::calendar::partition_of;
use crate::booking::callback::CallbackUrl;
use crate::booking::command::{Asked, Change, Command, Kind, ReplyAddress};
use crate::booking::problem::{Code, FieldError, Problem};
use crate::identity::Principal;
use crate::store::commands::NewCommand;
use crate::vitals::Vitals;
use crate::webhooks::address::{Policy, check_url};

/// What this installation makes of requests.
pub struct Rules {
    pub partitions: u16,
    /// Where a callback may go.
    pub callbacks: Policy,
    pub vitals: Arc<Vitals>,
    /// When accepted commands have waited longer for the broker, no new ones are accepted.
    pub outbox_max_age: Duration,
}

/// What a caller asks for. The body is not looked into yet.
pub struct Request {
    pub principal: Principal,
    pub kind: Kind,
    /// The booking that is to be changed.
    pub booking_id: Option<Uuid>,
    pub idempotency_key: Option<String>,
    pub expected_version: Option<i32>,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub reply_to: Option<ReplyAddress>,
    pub body: Map<String, Value>,
    /// What the door has found wrong already, to be told with what is wrong in the body.
    pub mistakes: Vec<FieldError>,
}

/// A request that can become a command.
pub struct Checked {
    request: Request,
    asked: Asked,
    /// Whose calendar it is about, as far as the request tells: a service that names no user
    /// changes a booking of which only the booking tells whose it is.
    pub calendar_id: Option<Uuid>,
}

impl Acceptor {
    /// Checks a request.
    ///
    /// # Errors
    /// Everything that is wrong with it; sending it again does not help.
    pub fn check(&self, mut request: Request) -> Result<Checked, Problem> {
        let own = request.principal.writes_of()?;
        let mistakes = std::mem::take(&mut request.mistakes);
        let (named, mut asked) = match (parse(&request), mistakes.is_empty()) {
            (Ok(parsed), true) => parsed,
            (Ok(_), false) => return Err(Problem::of_fields(mistakes)),
            (Err(more), _) => return Err(Problem::of_fields([mistakes, more].concat())),
        };
        if let Some(callback) = &asked.callback {
            asked.callback = Some(self.callback(callback).map_err(Problem::of_fields)?);
        }
        if let Some(calendar_id) = named {
            request.principal.may_write(calendar_id)?;
        }
        if request.kind == Kind::Create && request.idempotency_key.is_none() {
            let detail = "Send the header Idempotency-Key with a value that is new for each \
                          booking and kept for its retries.";
            return Err(Problem::new(Code::IdempotencyKeyMissing, detail));
        }
        Ok(Checked { request, asked, calendar_id: named.or(own) })
    }

    /// A new command of a checked request.
    ///
    /// # Errors
    /// When the accepted commands cannot be passed on; trying again later helps.
    pub fn command(&self, checked: &Checked, calendar_id: Uuid) -> Result<NewCommand, Problem> {
        if self.rules.vitals.outbox_age() > self.rules.outbox_max_age {
            let detail = "Accepted commands cannot be passed on at the moment; retry later.";
            return Err(Problem::new(Code::Overloaded, detail));
        }
        let Checked { request, asked, .. } = checked;
        let booking_id = request.booking_id;
        // A booking that is to be made has no version yet.
        let expected_version = booking_id.and(request.expected_version);
        let command = Command {
            command_id: Uuid::now_v7(),
            booking_id: booking_id.unwrap_or_else(Uuid::now_v7),
            calendar_id,
            caller: request.principal.name.clone(),
            correlation_id: request.correlation_id.clone(),
            traceparent: request.traceparent.clone(),
            accepted_at: Utc::now().trunc_subsecs(6), // as Postgres keeps it: a replay shows the same
            expected_version,
            callback: asked.callback.clone(),
            reply_to: request.reply_to.clone(),
            change: asked.change.clone(),
        };
        Ok(NewCommand {
            partition: partition_of(calendar_id, self.rules.partitions),
            command,
            idempotency_key: request.idempotency_key.clone(),
            fingerprint: asked.fingerprint(calendar_id, booking_id, expected_version),
        })
    }

    /// The callback as it is used, if it may be used at all.
    fn callback(&self, given: &CallbackUrl) -> Result<CallbackUrl, Vec<FieldError>> {
        let refused = |message| vec![FieldError::new("callbackUrl", message)];
        let url = check_url(given.as_str(), &self.rules.callbacks).map_err(refused)?;
        CallbackUrl::parse(url.as_str())
            .ok_or_else(|| refused(format!("must be {}", CallbackUrl::SHAPE)))
    }
}

/// What the body asks for, and the calendar where it names one.
fn parse(request: &Request) -> Result<(Option<Uuid>, Asked), Vec<FieldError>> {
    let body = &request.body;
    match request.kind {
        Kind::Create => Change::parse_create(body).map(|(calendar, asked)| (Some(calendar), asked)),
        Kind::Confirm => Change::parse_confirm(body).map(|asked| (None, asked)),
        Kind::Cancel => Change::parse_cancel(body).map(|asked| (None, asked)),
        Kind::Reschedule => Change::parse_reschedule(body).map(|asked| (None, asked)),
    }
}
