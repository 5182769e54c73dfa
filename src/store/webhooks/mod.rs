//! Webhooks: whom we post to, what is to be posted, and what became of it.
//!
//! Deliveries are written by the statement of [`super::decisions`], in the commit of what they
//! tell. A delivery waits as long as it is in `webhook_queue`; it was delivered if one of its
//! attempts says so, and is exhausted otherwise.

pub mod again;
pub mod callbacks;
pub mod endpoints;
pub mod log;
pub mod queue;
pub mod retention;
pub mod shards;
