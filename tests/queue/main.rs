//! The queue module against a real RabbitMQ of its own (`booking::dev`).
//!
//! Each test has partitions of its own, so that they can run side by side; what is counted there
//! is purged first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod broker;
mod wire;

mod consuming;
mod losing;
mod publishing;
mod topology;
