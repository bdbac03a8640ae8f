//! Memory with a bound: a map that forgets what was not used for a while, and on
//! it the two things the message path must remember for a short time: which ids of
//! a conversation were handed to devices, and which PDUs a connection has sent. (Who is
//! in a group is remembered in the same way, in `fan_out.rs`.)

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::conversation::Conversation;

/// A map in two generations. When the young one is full it becomes the old one and
/// the old one is dropped; looking at an entry makes it young again. So it holds at
/// most twice `capacity` entries and never walks them.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    capacity: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, young: HashMap::new(), old: HashMap::new() }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn entry(&mut self, key: K, default: impl FnOnce() -> V) -> &mut V {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        match self.young.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let value = old.remove(entry.key()).unwrap_or_else(default);
                entry.insert(value)
            }
        }
    }
}

/// Conversations whose delivered ids are remembered; at most twice as many.
const CONVERSATIONS: usize = 50_000;

/// Which messages of each conversation this server has handed to its devices: the
/// newest id and one bit for each of the 64 below it. A sender that repeats a
/// message (it lost our ack) gets the same id again from the store, and one whose route
/// server died relays its last messages again; receivers must not get a second copy
/// (guarantees G2, G4).
#[derive(Debug)]
pub(crate) struct Delivered(Generations<Conversation, Window>);

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    newest: u32,
    /// Bit n stands for the id `newest - n`.
    seen: u64,
}

impl Delivered {
    pub(crate) fn new() -> Self {
        Self(Generations::new(CONVERSATIONS))
    }

    /// The newest id that has been here; None if nothing is remembered.
    pub(crate) fn newest(&self, conversation: Conversation) -> Option<u32> {
        self.0.get(&conversation).map(|window| window.newest)
    }

    /// The ids before this one that have not been here; none in a conversation of which
    /// nothing is remembered.
    pub(crate) fn gap(&self, conversation: Conversation, id: u32) -> Range<u32> {
        self.newest(conversation).map_or(id..id, |newest| newest.saturating_add(1).min(id)..id)
    }

    /// Notes a delivery. False if the same id was delivered before. An id too old
    /// for the window counts as delivered, and so does one before the first that is noted of a
    /// conversation: holes are filled when they show (G4), so what comes so late is a repetition.
    pub(crate) fn insert(&mut self, conversation: Conversation, id: u32) -> bool {
        let window = self.0.entry(conversation, Window::default);
        if window.newest == 0 {
            *window = Window { newest: id, seen: u64::MAX };
            return true;
        }
        if id > window.newest {
            window.seen = window.seen.checked_shl(id - window.newest).unwrap_or(0) | 1;
            window.newest = id;
            return true;
        }
        let Some(bit) = 1_u64.checked_shl(window.newest - id) else { return false };
        let new = window.seen & bit == 0;
        window.seen |= bit;
        new
    }

    /// These may still come, though a later one was noted first.
    pub(crate) fn expect(&mut self, conversation: Conversation, ids: impl Iterator<Item = u32>) {
        let window = self.0.entry(conversation, Window::default);
        for id in ids {
            if let Some(bit) = window.newest.checked_sub(id).and_then(|below| 1_u64.checked_shl(below)) {
                window.seen &= !bit;
            }
        }
    }
}

/// For how long the same PDU on the same connection is a repetition.
const REPETITION: Duration = Duration::from_mins(1);
/// PDUs of one connection that are remembered; at most twice as many.
const SENT: usize = 4_096;

/// What a connection has sent without an id of its own making. A client that
/// repeats a PDU (same sequence number, target and content) within a minute means
/// the same message, so it gets the same id again and the store keeps one row. Two
/// connections never share this: repeating a short text is legal.
#[derive(Debug)]
pub(crate) struct Sent {
    hasher: RandomState,
    seen: Generations<u64, (Instant, u64)>,
}

impl Sent {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), seen: Generations::new(SENT) }
    }

    /// The number under which this PDU was sent before, else `next()`.
    pub(crate) fn number(
        &mut self,
        now: Instant,
        seq: u16,
        target: u32,
        data: &[u8],
        next: impl FnOnce() -> u64,
    ) -> u64 {
        let key = self.hasher.hash_one((seq, target, data));
        // 0 is no number; it marks the entry as just made.
        let entry = self.seen.entry(key, || (now, 0));
        if entry.1 == 0 || now.duration_since(entry.0) >= REPETITION {
            *entry = (now, next());
        }
        entry.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Conversation = Conversation::single(1, 2);

    #[test]
    fn an_id_is_new_once() {
        let mut delivered = Delivered::new();
        for id in 1..=200 {
            assert!(delivered.insert(PAIR, id));
        }
        for id in 137..=200 {
            assert!(!delivered.insert(PAIR, id), "id {id} again");
        }
        assert!(delivered.insert(Conversation::single(1, 3), 200), "another conversation has its own ids");
    }

    #[test]
    fn an_id_that_was_left_out_is_new_when_it_comes_late() {
        let mut delivered = Delivered::new();
        assert!(delivered.insert(PAIR, 10));
        assert!(delivered.insert(PAIR, 12));
        assert!(delivered.insert(PAIR, 11));
        assert!(!delivered.insert(PAIR, 11));
    }

    #[test]
    fn what_lies_before_the_first_is_a_repetition_unless_it_is_expected() {
        let mut delivered = Delivered::new();
        assert!(delivered.insert(PAIR, 10));
        assert!(!delivered.insert(PAIR, 9));
        delivered.expect(PAIR, 7..9);
        assert!(delivered.insert(PAIR, 8));
        assert!(!delivered.insert(PAIR, 8));
        assert!(!delivered.insert(PAIR, 6));
        assert!(delivered.insert(PAIR, 7));
    }

    #[test]
    fn a_jump_over_the_window_forgets_and_does_not_fail() {
        let mut delivered = Delivered::new();
        assert!(delivered.insert(PAIR, 1));
        assert!(delivered.insert(PAIR, u32::MAX));
        assert!(!delivered.insert(PAIR, u32::MAX));
        assert!(!delivered.insert(PAIR, 1), "a repetition");
    }

    #[test]
    fn a_gap_is_what_lies_between_the_newest_and_this_one() {
        let mut delivered = Delivered::new();
        assert_eq!(delivered.gap(PAIR, 9), 9..9, "nothing is known");
        assert_eq!(delivered.newest(PAIR), None);
        delivered.insert(PAIR, 9);
        assert_eq!(delivered.gap(PAIR, 10), 10..10);
        assert_eq!(delivered.gap(PAIR, 12), 10..12);
        assert!(delivered.gap(PAIR, 3).is_empty(), "late, and no gap");
        delivered.insert(PAIR, u32::MAX);
        assert!(delivered.gap(PAIR, u32::MAX).is_empty());
        assert_eq!(delivered.newest(PAIR), Some(u32::MAX));
    }

    #[test]
    fn generations_stay_below_twice_their_capacity() {
        let mut map = Generations::new(10);
        for key in 0..1_000 {
            *map.entry(key, || 0) += 1;
            assert_eq!(*map.entry(0, || 0), 1, "an entry in use is kept");
            assert!(map.young.len() + map.old.len() <= 20);
        }
    }

    #[test]
    fn the_same_pdu_within_a_minute_keeps_its_number() {
        let now = Instant::now();
        let mut sent = Sent::new();
        let mut counter = 0;
        let mut next = || {
            counter += 1;
            counter
        };
        assert_eq!(sent.number(now, 7, 2, b"hi", &mut next), 1);
        assert_eq!(sent.number(now + Duration::from_secs(59), 7, 2, b"hi", &mut next), 1);
        assert_eq!(sent.number(now, 8, 2, b"hi", &mut next), 2);
        assert_eq!(sent.number(now, 7, 3, b"hi", &mut next), 3);
        assert_eq!(sent.number(now, 7, 2, b"ho", &mut next), 4);
        assert_eq!(sent.number(now + Duration::from_mins(1), 7, 2, b"hi", &mut next), 5);
    }
}
