#![doc = include_str!("../README.md")]

// In the order a command travels.
pub mod booking;
pub mod messages;

pub mod accept;
pub mod backlog;
pub mod http;
pub mod identity;
pub mod intake;
pub mod ownership;
pub mod relay;
pub mod sweep;
pub mod waiters;
pub mod webhooks;
pub mod worker;

pub mod lease;
pub mod limits;
pub mod queue;
pub mod store;
pub mod wake;

pub mod api_keys;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod failpoint;
pub mod health;
pub mod metrics;
pub mod pace;
pub mod process;
pub mod retry;
pub mod roles;
pub mod telemetry;
pub mod tls;
pub mod verify;
pub mod vitals;
