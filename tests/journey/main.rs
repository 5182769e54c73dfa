//! The journey of commands through real processes and real servers.
//!
//! One binary, so that its PostgreSQL, RabbitMQ and Redis are started once. Each test has a
//! [`stage::Stage`] of its own: a database, a virtual host, a Redis prefix, and the processes it
//! starts. The servers end with this process, however it ends (`booking::dev`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

/// Virtual hosts of the shared RabbitMQ; each stage takes one.
const VHOSTS: u16 = 200;

mod calm;
mod cast;
mod examples;
mod issuer;
mod link;
mod listener;
mod load;
mod receiver;
mod secured;
mod servers;
mod stage;
mod user;
mod wire;

mod attack;
mod availability;
mod bad_input;
mod bugs;
mod callers;
mod contract;
mod crash;
mod delivering;
mod door;
mod first_readme;
mod fleet;
mod keys;
mod late;
mod life;
mod limits;
mod looking;
mod main_road;
mod older_workers;
mod pace;
mod proofs;
mod queue_door;
mod seed;
mod servers_away;
mod silence;
mod stopping;
mod tls;
mod traces;
mod unreadable;
mod webhooks;
