//! Webhooks: an event, as a signed POST to whoever asked for it.
//!
//! What is sent is a row with the bytes of the event. [`sender`] makes one attempt and says what
//! came of it; [`schedule`] says when the next one is due. Receivers are strangers: [`address`]
//! says where an attempt may go, and [`resolver`] holds every address that a name has against
//! it, so that nobody reaches through us what only we can reach.

pub mod address;
pub mod networks;
pub mod resolver;
pub mod schedule;
pub mod sender;
pub mod signature;
