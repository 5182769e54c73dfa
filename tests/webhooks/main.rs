//! Attempts to deliver webhooks, over real sockets to receivers that behave and that do not.
//!
//! Receivers listen on loopback, so most tests allow what only trying things out allows; those of
//! the guard do not, and count what reaches a receiver all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod attempt;
mod receiver;

mod answers;
mod guard;
mod tls;
mod trouble;
