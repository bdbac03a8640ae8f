//! Counts the connections of each address, for a listener that limits them. An address is forgotten
//! with its last connection, so there are never more entries than connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::socket::Address;

/// Empty, and without memory of its own, where nothing is limited.
#[derive(Debug, Default)]
pub(crate) struct PerAddress(RefCell<HashMap<IpAddr, usize>>);

impl PerAddress {
    pub(crate) fn admits(&self, peer: &Address, most: usize) -> bool {
        most == usize::MAX || key(peer).is_none_or(|key| self.0.borrow().get(&key).copied().unwrap_or(0) < most)
    }

    pub(crate) fn enter(&self, peer: &Address, most: usize) {
        if most < usize::MAX
            && let Some(key) = key(peer)
        {
            *self.0.borrow_mut().entry(key).or_default() += 1;
        }
    }

    pub(crate) fn leave(&self, peer: &Address) {
        let mut counts = self.0.borrow_mut();
        if counts.is_empty() {
            return;
        }
        let Some(key) = key(peer) else { return };
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }
}

/// What counts as one address: an IPv4 address, also one that came in over IPv6, and 64 bits of an
/// IPv6 address, which is what one customer is given at least.
fn key(peer: &Address) -> Option<IpAddr> {
    Some(match peer.ip()?.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_mapped_ipv4_as_ipv4() {
        let counts = PerAddress::default();
        counts.enter(&peer("[2001:db8::1]:1"), 1);
        assert!(!counts.admits(&peer("[2001:db8::ffff:1]:9"), 1));
        assert!(counts.admits(&peer("[2001:db8:0:1::1]:1"), 1));
        counts.enter(&peer("[::ffff:192.0.2.1]:1"), 1);
        assert!(!counts.admits(&peer("192.0.2.1:2"), 1));
        assert!(counts.admits(&peer("192.0.2.2:2"), 1));
        assert!(counts.admits(&peer("unix:/tmp/x"), 1));
    }

    #[test]
    fn an_address_is_forgotten_with_its_last_connection() {
        let counts = PerAddress::default();
        for port in ["1", "2"] {
            counts.enter(&peer(&format!("192.0.2.1:{port}")), 2);
        }
        assert!(!counts.admits(&peer("192.0.2.1:3"), 2));
        counts.leave(&peer("192.0.2.1:1"));
        assert!(counts.admits(&peer("192.0.2.1:3"), 2));
        counts.leave(&peer("192.0.2.1:2"));
        assert!(counts.0.borrow().is_empty());
    }
}
