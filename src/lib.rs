//! Bookings that a calendar can be trusted with.

pub mod booking;
pub mod store;
pub mod queue;
