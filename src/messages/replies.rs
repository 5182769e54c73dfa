//! What a service that named `reply_to` gets back: that its command was accepted, and then what
//! became of it; or why it was refused.

use serde_json::{Value, json};

use super::shapes::named;
use super::{Message, examples};
use crate::booking::problem::Code;

/// The AMQP type of the first reply.
pub const ACCEPTED: &str = "command.accepted";
/// The AMQP type of the last one.
pub const DECIDED: &str = "command.decided";
/// The AMQP type of the only one to a message that is no command, or is not acceptable.
pub const REFUSED: &str = "command.refused";

pub fn all() -> Vec<Message> {
    let accepted = in_state(&["accepted"], &[], &[examples::accepted()]);
    let decided = in_state(
        &["succeeded", "rejected", "failed"],
        &["decidedAt"],
        &[examples::succeeded(), examples::rejected()],
    );
    let mut refused = named("Problem");
    refused["examples"] = json!([examples::refusal(Code::ValidationFailed)]);
    [
        (ACCEPTED, "The command is recorded and not lost; not decided yet.", accepted),
        (DECIDED, "What became of the command.", decided),
        (REFUSED, "Why the message is no command. It left no trace, and its key is free.", refused),
    ]
    .map(|(name, about, schema)| Message::new("replies", name, name, about, schema))
    .into()
}

/// A Command object in one of these states.
pub fn in_state(states: &[&str], required: &[&str], examples: &[Value]) -> Value {
    let mut schema = named("Command");
    schema["properties"] = json!({ "status": { "enum": states } });
    schema["required"] = json!(required);
    schema["examples"] = json!(examples);
    schema
}
