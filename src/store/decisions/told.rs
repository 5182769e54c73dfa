//! What others are told of a batch, as rows: events, replies, and what only a callback hears.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use super::rows::Cause;
use crate::booking::Stream;
use crate::booking::callback::CallbackUrl;
use crate::booking::command::{Command, CommandRecord};
use crate::store::outbox;

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// The AMQP message type of a reply that tells the decision.
const DECIDED: &str = "command.decided";

#[derive(Default)]
pub struct ToldColumns {
    pub ids: Vec<Uuid>,
    /// The outbox's number of the stream; 0 where only the callback is told.
    pub streams: Vec<i16>,
    pub subjects: Vec<Uuid>,
    pub calendar_ids: Vec<Uuid>,
    pub routing_keys: Vec<String>,
    pub kinds: Vec<Option<&'static str>>,
    pub bodies: Vec<String>,
    pub traceparents: Vec<Option<String>>,
    pub correlation_ids: Vec<Option<String>>,
    pub callers: Vec<Option<String>>,
    pub callback_origins: Vec<Option<String>>,
    pub callback_urls: Vec<Option<String>>,
}

/// One event.
pub struct Told {
    pub id: Uuid,
    pub subject: Uuid,
    pub calendar_id: Uuid,
    pub event_type: &'static str,
    pub body: String,
}

impl ToldColumns {
    /// The parameters, in the order in which the statement takes them.
    pub fn bind_to<'q>(&'q self, statement: Statement<'q>) -> Statement<'q> {
        statement
            .bind(&self.ids)
            .bind(&self.streams)
            .bind(&self.subjects)
            .bind(&self.calendar_ids)
            .bind(&self.routing_keys)
            .bind(&self.kinds)
            .bind(&self.bodies)
            .bind(&self.traceparents)
            .bind(&self.correlation_ids)
            .bind(&self.callers)
            .bind(&self.callback_origins)
            .bind(&self.callback_urls)
    }

    /// Adds an event: for subscribers, or without a stream only for the callback of its cause.
    pub fn tell(&mut self, cause: Cause<'_>, stream: Option<Stream>, told: Told) {
        let callback = cause.callback;
        self.ids.push(told.id);
        self.streams.push(stream.map_or(0, outbox::number));
        self.subjects.push(told.subject);
        self.calendar_ids.push(told.calendar_id);
        self.routing_keys.push(told.event_type.to_owned());
        self.kinds.push(None);
        self.bodies.push(told.body);
        self.traceparents.push(cause.traceparent.map(str::to_owned));
        self.correlation_ids.push(None);
        self.callers.push(callback.map(|_| cause.actor.to_owned()));
        self.callback_origins.push(callback.map(CallbackUrl::origin));
        self.callback_urls.push(callback.map(|url| url.as_str().to_owned()));
    }

    /// Adds the decision for the sender of a message, where it wants one.
    pub fn reply(
        &mut self,
        command: &Command,
        record: &CommandRecord,
    ) -> Result<(), serde_json::Error> {
        let Some(address) = &command.reply_to else { return Ok(()) };
        self.ids.push(Uuid::now_v7());
        self.streams.push(outbox::number(Stream::Replies));
        self.subjects.push(command.command_id);
        self.calendar_ids.push(command.calendar_id);
        self.routing_keys.push(address.queue.clone());
        self.kinds.push(Some(DECIDED));
        self.bodies.push(serde_json::to_string(record)?);
        self.traceparents.push(command.traceparent.clone());
        self.correlation_ids.push(address.correlation_id.clone());
        self.callers.push(None);
        self.callback_origins.push(None);
        self.callback_urls.push(None);
        Ok(())
    }
}
