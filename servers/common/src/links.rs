//! Several links to one kind of server, and which of them a request takes.
//!
//! Requests that must stay in order share a key (a conversation) and so share a link: each link draws a number
//! from the key and the name of the server it leads to, and the highest draw among the usable links wins
//! (rendezvous hashing). When a link is lost only its own keys move; when it returns only they come back. Servers
//! whose configurations list the same peers in another order choose the same peer for the same key.

use std::hash::{Hash, Hasher};

use crate::link::Link;

/// The links to one kind of server, in the order of the configuration.
#[derive(Debug)]
pub struct Links<S: 'static> {
    links: Vec<Link<S>>,
    /// Of each link, how many before it lead to the same address.
    ordinals: Vec<u64>,
}

impl<S: 'static> Links<S> {
    /// No links yet.
    pub fn new() -> Self {
        Self { links: Vec::new(), ordinals: Vec::new() }
    }

    /// Adds a link.
    pub fn push(&mut self, link: Link<S>) {
        let ordinal = self.links.iter().filter(|before| before.addr() == link.addr()).count();
        self.ordinals.push(ordinal as u64);
        self.links.push(link);
    }

    /// All links, whatever their condition.
    pub fn iter(&self) -> std::slice::Iter<'_, Link<S>> {
        self.links.iter()
    }

    /// Links that take requests now.
    pub fn usable(&self) -> usize {
        self.iter().filter(|link| link.accepts_requests()).count()
    }

    /// The link for `key`: the same one for as long as it takes requests. None if none does.
    pub fn choose(&self, key: u64) -> Option<&Link<S>> {
        self.best(key).map(|(_, link)| link)
    }

    /// The same with what it drew, to be compared with the best of other links.
    pub fn best(&self, key: u64) -> Option<(u64, &Link<S>)> {
        let usable = self.links.iter().zip(&self.ordinals).filter(|(link, _)| link.accepts_requests());
        usable.map(|(link, ordinal)| (draw(key, identity(link), *ordinal), link)).max_by_key(|(drawn, _)| *drawn)
    }

    /// The usable link that has been up longest: how a msg server picks its route server (spec/flows.md §1.4).
    pub fn eldest(&self) -> Option<&Link<S>> {
        self.iter().filter(|link| link.accepts_requests()).min_by_key(|link| link.up_since())
    }
}

impl<S: 'static> Default for Links<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, S: 'static> IntoIterator for &'a Links<S> {
    type Item = &'a Link<S>;
    type IntoIter = std::slice::Iter<'a, Link<S>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A number for the server at the other end that is the same on every server and after every restart: made of
/// the name it gives itself, or of its address if it gives none.
fn identity<S: 'static>(link: &Link<S>) -> u64 {
    let mut hasher = Fnv::default();
    match link.peer() {
        Some(peer) if !peer.server_id.is_empty() => hasher.write(peer.server_id.as_bytes()),
        _ => link.addr().hash(&mut hasher),
    }
    hasher.finish()
}

/// FNV-1a: the standard hasher may change with the compiler, and this one must not.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What the `ordinal`th link to a server draws for `key`: the finaliser of SplitMix64 over all three.
fn draw(key: u64, server: u64, ordinal: u64) -> u64 {
    mix(mix(key ^ server).wrapping_add((ordinal + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use super::{Fnv, draw};

    /// The place of the best of links to these servers, of which each is told by its name.
    fn choose(key: u64, servers: &[&str]) -> usize {
        let drawn = |name: &str| {
            let mut hasher = Fnv::default();
            hasher.write(name.as_bytes());
            draw(key, hasher.finish(), 0)
        };
        (0..servers.len()).max_by_key(|place| drawn(servers[*place])).expect("at least one server")
    }

    #[test]
    fn the_order_of_the_configuration_changes_nothing() {
        for key in 0..1_000 {
            let one = ["db-1", "db-2", "db-3"];
            let other = ["db-3", "db-1", "db-2"];
            assert_eq!(one[choose(key, &one)], other[choose(key, &other)], "key {key}");
        }
    }

    /// Servers of different versions must agree, so the numbers themselves are fixed.
    #[test]
    fn the_draw_is_a_fixed_function() {
        let mut hasher = Fnv::default();
        hasher.write(b"db-proxy-1");
        assert_eq!(hasher.finish(), 0x745a_316c_a4c5_0ac0);
        assert_eq!(draw(1 << 32 | 2, hasher.finish(), 1), 0xc9cf_ad25_0ae5_06cb);
    }

    #[test]
    fn losing_a_link_moves_only_its_own_keys() {
        let all = ["a", "b", "c", "d"];
        let left = ["a", "b", "d"];
        for key in 0..1_000 {
            let (before, after) = (all[choose(key, &all)], left[choose(key, &left)]);
            assert!(before == after || before == "c", "key {key} moved from {before} to {after}");
        }
    }

    #[test]
    fn keys_spread_evenly_over_servers_and_the_links_to_one() {
        let mut servers = [0u32; 4];
        let mut links = [0u32; 4];
        for key in 0..4_000 {
            servers[choose(key, &["db-1", "db-2", "db-3", "db-4"])] += 1;
            links[(0..4).max_by_key(|link| draw(key, 7, *link)).expect("four") as usize] += 1;
        }
        assert!(servers.iter().chain(&links).all(|count| (800..1_200).contains(count)), "{servers:?} {links:?}");
    }
}
