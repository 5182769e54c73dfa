//! Which addresses anyone on the Internet can reach.
//!
//! In: an address. Out: whether it is public. What is not known to be public is not: of IPv6 only
//! the part that is given out counts, and addresses that carry an IPv4 address to somewhere else
//! (NAT64, 6to4, Teredo) are refused whatever they carry. The tables follow IANA's registries of
//! special-purpose addresses, and name the places where clouds keep their metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks of IPv4 that are not reached from everywhere (IANA's special-purpose registry).
const NOT_PUBLIC_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8), // this network; 0.0.0.0 connects to this machine
    (Ipv4Addr::new(10, 0, 0, 0), 8), // private
    (Ipv4Addr::new(100, 64, 0, 0), 10), // behind a carrier's NAT; a cloud's metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8), // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // public by number, and a cloud's metadata inside it
    (Ipv4Addr::new(169, 254, 0, 0), 16), // link-local; the metadata of most clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12), // private
    (Ipv4Addr::new(192, 0, 0, 0), 24), // protocol assignments; a cloud's metadata
    (Ipv4Addr::new(192, 0, 2, 0), 24), // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24), // 6to4 relays, given up
    (Ipv4Addr::new(192, 168, 0, 0), 16), // private
    (Ipv4Addr::new(198, 18, 0, 0), 15), // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24), // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4), // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4), // reserved; broadcast
];

/// The only part of IPv6 that is given out for use on the Internet. Outside it are loopback,
/// NAT64, unique local, link-local, site-local and multicast addresses, discard and segments.
const PUBLIC_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// What of it is not reached from everywhere.
const NOT_PUBLIC_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocols: Teredo, benchmarking, ORCHID
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4, which carries an IPv4 address
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Whether the address is reached from everywhere on the Internet.
pub fn is_public(address: IpAddr) -> bool {
    // An IPv4 address in IPv6's notation is connected as what it is.
    match address.to_canonical() {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|network| within_v4(address, *network)),
        IpAddr::V6(address) => {
            within_v6(address, PUBLIC_V6)
                && !NOT_PUBLIC_V6.iter().any(|network| within_v6(address, *network))
        }
    }
}

/// Whether the address is that of a machine, public or not, and of one only.
pub fn is_one_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_unspecified() && !address.is_multicast() && address != Ipv4Addr::BROADCAST
}

fn within_v4(address: Ipv4Addr, (network, length): (Ipv4Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= length
}

fn within_v6(address: Ipv6Addr, (network, length): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_is_refused_from_its_first_to_its_last_address_and_its_neighbours_are_not() {
        for (network, length) in NOT_PUBLIC_V4 {
            let first = network.to_bits();
            let last = first | u32::MAX.checked_shr(*length).unwrap_or(0);
            for address in [first, last] {
                let address = Ipv4Addr::from_bits(address);
                assert!(!is_public(address.into()), "{address} of {network}/{length}");
                assert!(!is_public(address.to_ipv6_mapped().into()), "{address} mapped");
            }
        }
        for (network, length) in NOT_PUBLIC_V6 {
            let first = network.to_bits();
            let last = first | (u128::MAX >> length);
            for address in [first, last] {
                let address = Ipv6Addr::from_bits(address);
                assert!(!is_public(address.into()), "{address} of {network}/{length}");
            }
        }
        for neighbour in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "::ffff:1.0.0.0",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2003::",
            "2000::",
            "3ffe:ffff::",
            "3fff:1000::",
        ] {
            assert!(is_public(neighbour.parse().unwrap()), "{neighbour}");
        }
    }

    #[test]
    fn addresses_of_several_machines_or_of_none_are_not_of_one() {
        for address in
            ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255"]
        {
            assert!(!is_one_machine(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.0.0.1", "fd00::1", "1.1.1.1"] {
            assert!(is_one_machine(address.parse().unwrap()), "{address}");
        }
    }
}
