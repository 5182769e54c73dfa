//! The command line and the private servers: a first try works, and nothing outlives it.
//!
//! Each test has a folder of its own. RabbitMQ takes its time to start, so a test that does not
//! need it names one that is away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod run;

mod doctor;
mod first_try;
mod killed;
mod servers;
mod settings;
mod verifying;
