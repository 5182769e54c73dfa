//! An address range such as `10.0.0.0/8`, for telling our own proxies from everyone else.

use std::net::IpAddr;
use std::str::FromStr;

/// The addresses that share the first `bits` bits. IPv4 addresses are looked at as IPv6 ones
/// (`::ffff:a.b.c.d`), which is also how a socket that listens on both shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: u128,
    mask: u128,
}

/// Bits of `::ffff:0:0/96`, in front of an IPv4 address.
const MAPPED_BITS: u32 = 96;

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        as_number(address) & self.mask == self.first
    }
}

fn as_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for Network {
    type Err = ();

    /// An address, or an address and the number of its leading bits that count.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().map_err(|_| ())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let (before, most) = if address.is_ipv4() { (MAPPED_BITS, 32) } else { (0, 128) };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(());
        }
        let mask = u128::MAX.checked_shl(128 - before - bits).unwrap_or(0);
        Ok(Self { first: as_number(address) & mask, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_with_its_leading_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
        let all: Network = "::/0".parse().unwrap();
        assert!(all.contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "10.0.0.0/", "proxy"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
