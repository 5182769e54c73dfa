//! Free ports for the private servers.
//!
//! Ports are taken from below the range that the kernel hands out to outgoing connections: a
//! client that retries against a stopped server could otherwise be given the server's port as its
//! own, and the server could not come back. A folder keeps its ports in a file and uses them again
//! while they are free. Between our look and the server's bind somebody else may take a port: a
//! failed start is tried again on other ports if ours turn out to be taken.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// How often a server is started; after that its last failure is reported.
const TRIES: u32 = 3;

/// Below this live the well-known servers.
const LOWEST: u16 = 10_000;

/// The attempts to start one server that needs `N` ports.
pub(super) struct Tries<const N: usize> {
    file: PathBuf,
    ports: [u16; N],
    left: u32,
}

impl<const N: usize> Tries<N> {
    /// The ports are remembered in `file`.
    pub(super) fn new(file: PathBuf) -> anyhow::Result<Tries<N>> {
        let left = TRIES;
        let ports = remembered(&file).filter(|ports| all_free(ports)).map_or_else(choose, Ok)?;
        remember(&file, ports)?;
        Ok(Tries { file, ports, left })
    }

    pub(super) fn ports(&self) -> [u16; N] {
        self.ports
    }

    /// After a failed start: chooses other ports if ours were taken, or gives the failure back.
    pub(super) fn again(&mut self, failure: anyhow::Error) -> anyhow::Result<()> {
        self.left -= 1;
        if self.left == 0 || all_free(&self.ports) {
            return Err(failure);
        }
        tracing::warn!("one of the ports {:?} was taken, trying others", self.ports);
        self.ports = choose()?;
        remember(&self.file, self.ports)
    }
}

fn remembered<const N: usize>(file: &Path) -> Option<[u16; N]> {
    let text = fs::read_to_string(file).ok()?;
    let ports: Vec<u16> =
        text.split_whitespace().map(|port| port.parse().ok()).collect::<Option<_>>()?;
    ports.try_into().ok()
}

fn remember<const N: usize>(file: &Path, ports: [u16; N]) -> anyhow::Result<()> {
    let text = ports.map(|port| port.to_string()).join(" ");
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn choose<const N: usize>() -> anyhow::Result<[u16; N]> {
    let range = LOWEST..first_outgoing();
    let first = RandomState::new().hash_one("port");
    let candidates = (0..u64::from(range.end - range.start)).map(|step| nth(&range, first, step));
    let free: Vec<u16> = candidates.filter(|port| free(*port)).take(N).collect();
    <[u16; N]>::try_from(free)
        .ok()
        .with_context(|| format!("no {N} free ports in {range:?} on 127.0.0.1"))
}

fn nth(range: &Range<u16>, first: u64, step: u64) -> u16 {
    let width = u64::from(range.end - range.start);
    let offset = (first % width + step) % width;
    range.start + u16::try_from(offset).unwrap_or_default()
}

/// The first port that the kernel may give to an outgoing connection.
fn first_outgoing() -> u16 {
    const USUAL: u16 = 32_768;
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > LOWEST + 1000)
        .unwrap_or(USUAL)
}

fn all_free(ports: &[u16]) -> bool {
    ports.iter().all(|port| free(*port))
}

fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_are_free_and_differ() {
        let [one, two, three] = choose::<3>().unwrap();
        assert!(one != two && two != three && one != three);
        assert!(free(one) && free(two) && free(three));
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, one)).unwrap();
        assert!(!free(one));
        drop(taken);
    }
}
