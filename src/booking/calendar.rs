//! What a worker knows of one calendar while it decides a batch.
//!
//! The worker loads what the batch's commands touch (the bookings they name, the allocations
//! that their intervals meet, the holds among those that have lapsed), decides the commands in
//! order and applies each decision here, so that the next command of the batch is judged by
//! its outcome.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::availability::Availability;
use super::decide::Effect;
use super::problem::Problem;
use super::{Booking, Buffers, Interval};

/// The queue partition of a calendar: XXH3-64 of its id's 16 bytes, modulo the number of
/// partitions. Commands of a calendar keep their order because they share a partition, so this
/// function must never change while commands are under way.
pub fn partition_of(calendar_id: Uuid, partitions: u16) -> u16 {
    let hash = xxh3_64(calendar_id.as_bytes());
    u16::try_from(hash % u64::from(partitions.max(1))).unwrap_or_default() // below u16::MAX by the modulus
}

/// The known part of a calendar: its rules, time that is taken, and bookings by id.
#[derive(Clone, Debug, Default)]
pub struct Calendar {
    availability: Option<Availability>,
    taken: Vec<(Uuid, Interval)>,
    bookings: HashMap<Uuid, Booking>,
}

impl Calendar {
    /// Notes when the calendar takes bookings; one that was never told takes them at any time.
    pub fn opens(&mut self, availability: Availability) {
        self.availability = Some(availability);
    }

    /// The buffers of a booking of `interval`, if the calendar takes one that was asked for at
    /// `asked_at`. Other bookings are not looked at.
    ///
    /// # Errors
    /// The rule of the calendar that is against it.
    pub fn admits(&self, interval: Interval, asked_at: DateTime<Utc>) -> Result<Buffers, Problem> {
        let Some(availability) = &self.availability else { return Ok(Buffers::default()) };
        availability.check(interval, asked_at)?;
        Ok(availability.buffers())
    }

    /// Notes time that a booking uses. Noting it twice is harmless.
    pub fn take(&mut self, booking_id: Uuid, interval: Interval) {
        if !self.taken.contains(&(booking_id, interval)) {
            self.taken.push((booking_id, interval));
        }
    }

    /// Notes a booking as it is now, and the time that it uses or does not use.
    pub fn know(&mut self, booking: Booking) {
        self.taken.retain(|(id, _)| *id != booking.id);
        if booking.status.uses_time() {
            self.taken.push((booking.id, booking.blocked()));
        }
        self.bookings.insert(booking.id, booking);
    }

    pub fn booking(&self, id: Uuid) -> Option<&Booking> {
        self.bookings.get(&id)
    }

    /// The taken intervals that `wanted` meets, by start, and the bookings that hold them; the
    /// time of the booking `own` is free to itself.
    pub fn taken_in(&self, wanted: Interval, own: Uuid) -> Vec<(Uuid, Interval)> {
        let meets = |(id, taken): &&(Uuid, Interval)| *id != own && taken.overlaps(&wanted);
        let mut met: Vec<_> = self.taken.iter().filter(meets).copied().collect();
        met.sort_by_key(|(_, taken)| taken.start);
        met
    }

    /// Makes the calendar what it is after the decision.
    pub fn apply(&mut self, effect: &Effect) {
        self.know(effect.after.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are part of the contract between versions: a change reorders commands.
    #[test]
    fn partitions_of_known_calendars_never_change() {
        let partition = |text: &str| partition_of(text.parse().unwrap(), 16);
        let seen = [
            partition("00000000-0000-4000-8000-000000000001"),
            partition("00000000-0000-4000-8000-000000000002"),
            partition("018f3c1e-7c1a-7000-8000-0123456789ab"),
        ];
        assert_eq!(seen, [0, 13, 3]);
    }
}
