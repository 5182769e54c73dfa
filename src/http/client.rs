//! Where a request comes from: the address that its limits are counted by.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::Network;

/// The other end of the connection, in the extensions of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Who sent the request. Proxies append to `X-Forwarded-For` whom they hear, so from the right the
/// first that is none of our proxies is the client; what is left of it anybody may have written.
/// The header of a peer that is no proxy of ours says nothing, and neither does a malformed one.
pub fn address(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let trusted = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
    if !trusted(peer) {
        return peer.to_canonical();
    }
    let mut client = peer;
    for line in headers.get_all(FORWARDED_FOR).iter().rev() {
        for hop in line.to_str().unwrap_or("?").rsplit(',') {
            let hop = hop.trim();
            let Ok(address) = hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|s| s.ip()))
            else {
                return peer.to_canonical();
            };
            client = address;
            if !trusted(client) {
                return client.to_canonical();
            }
        }
    }
    client.to_canonical()
}

/// Whom an address stands for: itself, or for IPv6 its /64, of which every household has one and
/// may take any address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn address_of(peer: &str, lines: &[&'static str]) -> String {
        let proxies: Vec<Network> =
            ["10.0.0.0/8", "2001:db8::/32"].iter().map(|n| n.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
        }
        address(peer.parse().unwrap(), &headers, &proxies).to_string()
    }

    #[test]
    fn only_our_proxies_are_believed_whom_they_heard() {
        for (peer, lines, client) in [
            ("10.0.0.1", &["203.0.113.5"] as &[_], "203.0.113.5"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.5, 10.9.9.9"], "203.0.113.5"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.5", "10.9.9.9"], "203.0.113.5"),
            ("::ffff:10.0.0.1", &["203.0.113.5:4711"], "203.0.113.5"),
            ("2001:db8::1", &["[2001:dead::5]:80"], "2001:dead::5"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("198.51.100.1", &["203.0.113.5"], "198.51.100.1"),
            ("198.51.100.1", &["203.0.113.5, 10.0.0.1"], "198.51.100.1"),
        ] {
            assert_eq!(address_of(peer, lines), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_names_nobody() {
        for line in
            ["", "unknown", "203.0.113.5, nobody", "203.0.113.5,", "203.0.113.5, 10.0.0.256"]
        {
            assert_eq!(address_of("10.0.0.1", &[line]), "10.0.0.1", "{line:?}");
        }
        let unread = "nobody, 203.0.113.5"; // left of the client anybody may write anything
        assert_eq!(address_of("10.0.0.1", &[unread]), "203.0.113.5");
    }

    #[test]
    fn a_network_stands_for_its_ipv6_addresses() {
        let network = |text: &str| super::network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("203.0.113.5"), "203.0.113.5");
        assert_eq!(network("::ffff:203.0.113.5"), "203.0.113.5");
    }
}
