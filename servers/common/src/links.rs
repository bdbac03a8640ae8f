//! Several links to one kind of server, and which of them a request takes.
//!
//! Requests that must stay in order share a key (a conversation) and so share a link: each link draws a number
//! from the key and its own place, and the highest draw among the usable links wins (rendezvous hashing). When
//! a link is lost only its own keys move; when it returns only they come back.

use crate::link::Link;

/// The links to one kind of server, in the order of the configuration.
#[derive(Debug)]
pub struct Links<S: 'static> {
    links: Vec<Link<S>>,
}

impl<S: 'static> Links<S> {
    /// No links yet.
    pub fn new() -> Self {
        Self { links: Vec::new() }
    }

    /// Adds a link. Its place decides which keys it gets.
    pub fn push(&mut self, link: Link<S>) {
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
        let usable = self.links.iter().enumerate().filter(|(_, link)| link.accepts_requests());
        usable.max_by_key(|(place, _)| draw(key, *place as u64)).map(|(_, link)| link)
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

/// What the link at `place` draws for `key`: the finaliser of SplitMix64 over both.
fn draw(key: u64, place: u64) -> u64 {
    let mut x = key ^ (place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::draw;

    fn choose(key: u64, places: &[u64]) -> u64 {
        places.iter().copied().max_by_key(|place| draw(key, *place)).expect("at least one place")
    }

    #[test]
    fn losing_a_link_moves_only_its_own_keys() {
        for key in 0..1_000 {
            let before = choose(key, &[0, 1, 2, 3]);
            let after = choose(key, &[0, 1, 3]);
            assert!(before == after || before == 2, "key {key} moved from {before} to {after}");
        }
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0u32; 4];
        for key in 0..4_000 {
            counts[choose(key, &[0, 1, 2, 3]) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
