//! What an address and a user may do in all their connections together. A connection has buckets of
//! its own (`limits.rs`), and whoever comes back on a new one would have them full again; these stay.
//! Each table forgets who was quiet longest, so no crowd can make them grow.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlib::socket::Address;

use crate::config::Limits;
use crate::limits::TokenBucket;
use crate::recent::Generations;

/// Addresses and users remembered; at most twice as many.
const REMEMBERED: usize = 50_000;

/// The buckets.
#[derive(Debug)]
pub(crate) struct Rates {
    addresses: Generations<IpAddr, TokenBucket>,
    sign_ins: Generations<u32, TokenBucket>,
    card_changes: Generations<u32, TokenBucket>,
}

impl Rates {
    pub(crate) fn new() -> Self {
        Self {
            addresses: Generations::new(REMEMBERED),
            sign_ins: Generations::new(REMEMBERED),
            card_changes: Generations::new(REMEMBERED),
        }
    }

    /// Whether a client of this address may have its name and password checked now.
    pub(crate) fn address_may_sign_in(&mut self, limits: &Limits, peer: &Address, now: Instant) -> bool {
        let Some(key) = key(peer) else { return true };
        let new = || TokenBucket::new(limits.address_sign_ins_per_second, limits.address_sign_ins_burst, now);
        self.addresses.entry(key, new).try_take(now)
    }

    /// Whether a user whose password was right may sign in once more. Only then is it asked: nobody
    /// can lock another one out.
    pub(crate) fn user_may_sign_in(&mut self, limits: &Limits, user: u32, now: Instant) -> bool {
        self.sign_ins.entry(user, || per_minute(limits.user_sign_ins_per_minute, now)).try_take(now)
    }

    /// Whether a user may change the card again so soon.
    pub(crate) fn user_may_change_card(&mut self, limits: &Limits, user: u32, now: Instant) -> bool {
        self.card_changes.entry(user, || per_minute(limits.card_changes_per_minute, now)).try_take(now)
    }
}

fn per_minute(count: u32, now: Instant) -> TokenBucket {
    let count = count.max(1);
    TokenBucket::slow(Duration::from_mins(1) / count, count, now)
}

/// What counts as one address: all of IPv4, 64 bits of IPv6, of which everybody has that many.
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
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_a_burst_and_then_its_rate_and_others_have_their_own() {
        let limits = Limits { address_sign_ins_per_second: 10, address_sign_ins_burst: 3, ..Limits::default() };
        let (mut rates, now) = (Rates::new(), Instant::now());
        let mut may = |address: &str, at: u64| {
            rates.address_may_sign_in(&limits, &peer(address), now + Duration::from_millis(at))
        };
        assert_eq!([(); 4].map(|()| may("192.0.2.1:1000", 0)), [true, true, true, false]);
        assert!(may("192.0.2.2:1000", 0));
        assert!(may("192.0.2.1:2000", 100), "one came back");
        assert!(!may("192.0.2.1:2000", 100));
        assert_eq!([(); 3].map(|()| may("[2001:db8::1]:5", 0)), [true, true, true]);
        assert!(!may("[2001:db8::ffff]:5", 0), "the same 64 bits");
    }

    #[test]
    fn a_user_has_so_many_sign_ins_in_a_minute() {
        let limits = Limits { user_sign_ins_per_minute: 2, ..Limits::default() };
        let (mut rates, now) = (Rates::new(), Instant::now());
        assert_eq!([(); 3].map(|()| rates.user_may_sign_in(&limits, 7, now)), [true, true, false]);
        assert!(rates.user_may_sign_in(&limits, 8, now));
        assert!(rates.user_may_sign_in(&limits, 7, now + Duration::from_secs(30)));
    }
}
