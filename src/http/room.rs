//! Who is connected: how many, how many from one address, and who goes when there is no room.
//!
//! An open connection costs its client nothing, so nobody may fill the room with them: when it is
//! full, those who have been silent for the longest leave, and whoever comes is heard.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client;
use crate::config;

/// Connections at most, where the process may open so many files.
const MAX_CONNECTIONS: u64 = 16_384;
/// Files that are not connections of clients: those to the servers, logs, and some to spare.
const OTHER_FILES: u64 = 256;
/// So many silent ones leave together, so that not every newcomer has to search for one.
const LEAVE_TOGETHER: usize = 64;
/// In place of the time since when a guest is silent: a request of theirs is under way.
const BUSY: u64 = u64::MAX;

/// The connections of a process.
pub struct Room {
    most: usize,
    most_of_address: u32,
    proxies: Vec<config::Network>,
    opened: Instant,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    guests: HashMap<u64, Arc<Guest>>,
    of_address: HashMap<IpAddr, u32>,
}

/// A connection, as its stream and its requests see it.
pub struct Guest {
    opened: Instant,
    /// Milliseconds since the room was opened, or [`BUSY`].
    silent_since: AtomicU64,
    requests: AtomicU32,
    /// Cancelled when the guest has to leave.
    pub leave: CancellationToken,
}

/// A place in the room; free again when dropped.
pub struct Place {
    pub guest: Arc<Guest>,
    number: u64,
    counted: Option<IpAddr>,
    room: Arc<Room>,
}

impl Room {
    /// A room for a process that may open so many files.
    pub fn new(files: u64, door: &config::Door) -> Arc<Self> {
        let most = MAX_CONNECTIONS.min(files.saturating_sub(OTHER_FILES)).max(1);
        if most < MAX_CONNECTIONS {
            let needed = MAX_CONNECTIONS + OTHER_FILES;
            warn!(files, needed, connections = most, "too few open files are allowed (ulimit -n)");
        }
        Arc::new(Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            most_of_address: door.connections_per_address,
            proxies: door.proxies.clone(),
            opened: Instant::now(),
            inside: Mutex::default(),
        })
    }

    /// A place for a new connection, unless its address has its share already or nobody who is
    /// inside is silent.
    pub fn enter(self: &Arc<Self>, address: IpAddr, leave: CancellationToken) -> Option<Place> {
        let limited = self.most_of_address > 0
            && !self.proxies.iter().any(|network| network.contains(address));
        let counted = limited.then(|| client::network(address));
        let mut inside = self.inside();
        if counted.is_some_and(|address| {
            inside.of_address.get(&address).is_some_and(|count| *count >= self.most_of_address)
        }) {
            return None;
        }
        if inside.guests.len() >= self.most && !inside.send_silent_away() {
            return None;
        }
        if let Some(address) = counted {
            *inside.of_address.entry(address).or_default() += 1;
        }
        let silent_since = AtomicU64::new(milliseconds(self.opened));
        let requests = AtomicU32::new(0);
        let guest = Arc::new(Guest { opened: self.opened, silent_since, requests, leave });
        let number = inside.next;
        inside.next += 1;
        inside.guests.insert(number, guest.clone());
        drop(inside);
        Some(Place { guest, number, counted, room: self.clone() })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Makes room; false when nobody is silent.
    fn send_silent_away(&mut self) -> bool {
        let since = |guest: &Guest| guest.silent_since.load(Ordering::Relaxed);
        let silent = self.guests.iter().map(|(number, guest)| (since(guest), *number));
        let mut silent: Vec<_> = silent.filter(|(since, _)| *since != BUSY).collect();
        if silent.len() > LEAVE_TOGETHER {
            silent.select_nth_unstable(LEAVE_TOGETHER);
            silent.truncate(LEAVE_TOGETHER);
        }
        for (_, number) in &silent {
            if let Some(guest) = self.guests.remove(number) {
                guest.leave.cancel();
            }
        }
        !silent.is_empty()
    }
}

impl Guest {
    /// A request of theirs has arrived.
    pub fn asks(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.silent_since.store(BUSY, Ordering::Relaxed);
    }

    /// It is answered.
    pub fn is_answered(&self) {
        self.silent_since.store(milliseconds(self.opened), Ordering::Relaxed);
    }

    /// Whether the next that comes from them is the head of a request.
    pub fn may_ask(&self) -> bool {
        self.silent_since.load(Ordering::Relaxed) != BUSY
    }

    /// How many requests of theirs have arrived.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.room.inside();
        inside.guests.remove(&self.number);
        if let Some(address) = self.counted
            && let Some(count) = inside.of_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                inside.of_address.remove(&address);
            }
        }
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(BUSY - 1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A room for so many guests, and so many of one address; 10.0.0.0/8 are proxies.
    pub fn room(most: usize, most_of_address: u32) -> Arc<Room> {
        Arc::new(Room {
            most,
            most_of_address,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            opened: Instant::now(),
            inside: Mutex::default(),
        })
    }

    fn enter(room: &Arc<Room>, address: &str) -> Option<Place> {
        room.enter(address.parse().unwrap(), CancellationToken::new())
    }

    #[test]
    fn who_is_silent_for_the_longest_leaves_a_full_room() {
        let room = room(200, 0);
        let places: Vec<Place> = (0..200).map(|_| enter(&room, "192.0.2.1").unwrap()).collect();
        for (number, place) in places.iter().enumerate() {
            let since = if number % 2 == 0 { BUSY } else { number as u64 };
            place.guest.silent_since.store(since, Ordering::Relaxed);
        }
        let newcomer = enter(&room, "192.0.2.1").unwrap();
        for (number, place) in places.iter().enumerate() {
            let leaves = number % 2 == 1 && number < 2 * LEAVE_TOGETHER;
            assert_eq!(place.guest.leave.is_cancelled(), leaves, "{number}");
        }
        assert!(!newcomer.guest.leave.is_cancelled());
        drop(places);
        assert_eq!(room.inside().guests.len(), 1);
    }

    #[test]
    fn a_room_full_of_requests_takes_nobody() {
        let room = room(2, 0);
        let places = [(); 2].map(|()| enter(&room, "192.0.2.1").unwrap());
        places.iter().for_each(|place| place.guest.asks());
        assert!(enter(&room, "192.0.2.1").is_none());
        places[0].guest.is_answered();
        assert!(enter(&room, "192.0.2.1").is_some());
    }

    #[test]
    fn an_address_has_its_share_and_a_proxy_any_number() {
        let room = room(100, 2);
        let (first, _second) = (enter(&room, "192.0.2.1"), enter(&room, "192.0.2.1"));
        assert!(enter(&room, "192.0.2.1").is_none());
        assert!(enter(&room, "192.0.2.2").is_some());
        let _household = [enter(&room, "2001:db8::1"), enter(&room, "2001:db8::2")];
        assert!(enter(&room, "2001:db8::3").is_none(), "of the same /64");
        let proxied: Vec<_> = (0..5).map(|_| enter(&room, "10.0.0.1")).collect();
        assert!(proxied.iter().all(Option::is_some));
        drop(first);
        assert!(enter(&room, "192.0.2.1").is_some());
    }
}
