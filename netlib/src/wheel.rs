//! A hierarchical timing wheel: one deadline per slot of a table, armed, moved and removed in
//! O(1). It is for the idle timeouts of very many connections, most of which never fire; what
//! fires in order and to the moment belongs in [`Timers`](crate::timer::Timers).

use std::fmt;
use std::time::{Duration, Instant};

use crate::token::Token;

/// Six bits of the deadline choose the slot in each level.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Six levels of 64 slots: two years, to the millisecond.
const LEVELS: usize = 6;
const LISTS: usize = LEVELS * SLOTS;
/// The list of what is due, after those of the slots.
const DUE: u16 = LISTS as u16;
const UNARMED: u16 = u16::MAX;
/// No node.
const NONE: u32 = u32::MAX;
/// The furthest that a deadline is placed ahead. What is later is placed again when that time
/// has come. Less than a full turn of the last level, so that its slots are unambiguous.
const FURTHEST: u64 = (1 << (BITS * LEVELS as u32)) - (1 << (BITS * (LEVELS as u32 - 1))) - 1;

/// One deadline for each of many [`Token`]s, to the millisecond: never early, late by less than
/// a millisecond. 24 bytes for each slot of the tokens' table, no allocation of its own per
/// deadline.
///
/// ```
/// use std::time::{Duration, Instant};
/// use netlib::Token;
/// use netlib::timer::Wheel;
///
/// let start = Instant::now();
/// let mut wheel = Wheel::new(start);
/// let (quiet, busy) = (Token::new(0, 0), Token::new(1, 0));
/// wheel.arm(quiet, start + Duration::from_secs(60));
/// wheel.arm(busy, start + Duration::from_secs(60));
/// wheel.arm(busy, start + Duration::from_secs(90)); // moved
///
/// assert_eq!(wheel.pop_due(start + Duration::from_secs(60)), Some(quiet));
/// assert_eq!(wheel.pop_due(start + Duration::from_secs(60)), None);
/// assert!(wheel.next_wake().unwrap() <= start + Duration::from_secs(90));
/// ```
pub struct Wheel {
    origin: Instant,
    /// Milliseconds since the origin up to which everything has been handed out or is in `DUE`.
    elapsed: u64,
    /// By the slot of the token.
    nodes: Vec<Node>,
    /// The first node of each list; lists are circular.
    heads: Box<[u32; LISTS + 1]>,
    /// One bit for each slot that has nodes.
    occupied: [u64; LEVELS],
    len: usize,
    /// How often a node was put into a list, for the tests that hold the wheel to O(1).
    placed: u64,
}

#[derive(Clone, Copy)]
struct Node {
    due: u64,
    prev: u32,
    next: u32,
    generation: u32,
    list: u16,
}

impl Wheel {
    /// Without deadlines. `origin` is now; deadlines are rounded up to whole milliseconds since.
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            elapsed: 0,
            nodes: Vec::new(),
            heads: Box::new([NONE; LISTS + 1]),
            occupied: [0; LEVELS],
            len: 0,
            placed: 0,
        }
    }

    /// How many deadlines are armed.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none is armed.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the deadline of `token`, or moves it. One that has passed counts as the next
    /// millisecond. It replaces the deadline of an older token with the same slot.
    pub fn arm(&mut self, token: Token, due: Instant) {
        let index = token.slot() as usize;
        if index >= self.nodes.len() {
            if index >= self.nodes.capacity() {
                // An eighth and not, as a vector would, all of it again: each connection pays for this.
                self.nodes.reserve_exact(index + 1 + index / 8 - self.nodes.len());
            }
            let unarmed = Node { due: 0, prev: NONE, next: NONE, generation: 0, list: UNARMED };
            self.nodes.resize(index + 1, unarmed);
        }
        if self.nodes[index].list == UNARMED {
            self.len += 1;
        } else {
            self.unlink(token.slot());
        }
        let since_origin = due.saturating_duration_since(self.origin);
        let millis = u64::try_from(since_origin.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let node = &mut self.nodes[index];
        node.due = millis.max(self.elapsed + 1);
        node.generation = token.generation();
        self.place(token.slot());
    }

    /// Takes the deadline of `token` away. False if it has none.
    pub fn disarm(&mut self, token: Token) -> bool {
        match self.nodes.get(token.slot() as usize) {
            Some(node) if node.list != UNARMED && node.generation == token.generation() => {
                self.unlink(token.slot());
                self.len -= 1;
                true
            }
            _ => false,
        }
    }

    /// When [`pop_due`](Self::pop_due) is to be called next: at the earliest deadline or, with
    /// that still far away, a few times before it, when nothing may come of it.
    pub fn next_wake(&self) -> Option<Instant> {
        if self.len == 0 {
            return None;
        }
        let millis = if self.heads[usize::from(DUE)] == NONE { self.next_slot()?.0 } else { self.elapsed };
        self.origin.checked_add(Duration::from_millis(millis))
    }

    /// Takes out one token whose deadline is not after `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<Token> {
        if self.len == 0 {
            return None; // and the wheel catches up when it is used again
        }
        let now = now.saturating_duration_since(self.origin).as_millis() as u64;
        loop {
            let first = self.heads[usize::from(DUE)];
            if first != NONE {
                self.unlink(first);
                self.len -= 1;
                return Some(Token::new(first, self.nodes[first as usize].generation));
            }
            match self.next_slot() {
                Some((start, list)) if start <= now => {
                    self.elapsed = start;
                    // Each goes to a lower level, or is due.
                    while self.heads[list] != NONE {
                        let node = self.heads[list];
                        self.unlink(node);
                        self.place(node);
                    }
                }
                _ => {
                    self.elapsed = self.elapsed.max(now);
                    return None;
                }
            }
        }
    }

    /// The start of the first slot that has nodes, and its list. The lowest level that has any
    /// comes first: a node is in the level of the highest digit in which it differs from now.
    fn next_slot(&self) -> Option<(u64, usize)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let shift = BITS * level as u32;
        let current = (self.elapsed >> shift) as u32 % SLOTS as u32;
        let ahead = self.occupied[level].rotate_right(current).trailing_zeros();
        let start = ((self.elapsed >> shift) + u64::from(ahead)) << shift;
        Some((start, level * SLOTS + ((current + ahead) as usize % SLOTS)))
    }

    fn place(&mut self, index: u32) {
        self.placed += 1;
        let due = self.nodes[index as usize].due;
        let list = if due <= self.elapsed {
            usize::from(DUE)
        } else {
            let when = self.elapsed + (due - self.elapsed).min(FURTHEST);
            let highest = u64::BITS - 1 - ((self.elapsed ^ when) | 1).leading_zeros();
            let level = ((highest / BITS) as usize).min(LEVELS - 1);
            let slot = (when >> (BITS * level as u32)) as usize % SLOTS;
            self.occupied[level] |= 1 << slot;
            level * SLOTS + slot
        };
        self.link(index, list);
    }

    /// Appends to a list.
    fn link(&mut self, index: u32, list: usize) {
        let first = self.heads[list];
        let (prev, next) = if first == NONE {
            self.heads[list] = index;
            (index, index)
        } else {
            (self.nodes[first as usize].prev, first)
        };
        let node = &mut self.nodes[index as usize];
        node.list = list as u16;
        (node.prev, node.next) = (prev, next);
        self.nodes[prev as usize].next = index;
        self.nodes[next as usize].prev = index;
    }

    fn unlink(&mut self, index: u32) {
        let Node { prev, next, list, .. } = self.nodes[index as usize];
        self.nodes[prev as usize].next = next;
        self.nodes[next as usize].prev = prev;
        self.nodes[index as usize].list = UNARMED;
        let list = usize::from(list);
        if self.heads[list] == index {
            self.heads[list] = if next == index { NONE } else { next };
        }
        if self.heads[list] == NONE && list < LISTS {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel").field("len", &self.len).field("placed", &self.placed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::clock::SplitMix64;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// architecture.md §3: equal idle timeouts of 10^6 connections cost O(1) each. Operations are
    /// counted, time is not.
    #[test]
    fn a_million_equal_timeouts_cost_a_few_steps_each() {
        const MANY: u32 = 1_000_000;
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let timeout = Duration::from_mins(1);
        for slot in 0..MANY {
            // They connect over ten seconds.
            wheel.arm(Token::new(slot, 0), start + timeout + millis(u64::from(slot) / 100));
        }
        assert_eq!((wheel.len(), wheel.placed), (MANY as usize, u64::from(MANY)));
        // Each has received something and waits for the rest of its time, once; then it is idle.
        let mut looks = 0_u64;
        let mut idle = 0;
        let mut now = start;
        let mut extended = vec![false; MANY as usize];
        while let Some(wake) = wheel.next_wake() {
            assert!(wake > now, "a wake-up for nothing");
            now = wake;
            while let Some(token) = wheel.pop_due(now) {
                looks += 1;
                if std::mem::replace(&mut extended[token.slot() as usize], true) {
                    idle += 1;
                } else {
                    wheel.arm(token, now + timeout);
                }
            }
        }
        assert_eq!((idle, looks), (MANY, 2 * u64::from(MANY)));
        assert!(wheel.placed <= u64::from(MANY) * 2 * (LEVELS as u64 + 1), "{}", wheel.placed);
        assert!(size_of::<Node>() == 24 && wheel.nodes.len() == MANY as usize);
    }

    #[test]
    fn random_deadlines_agree_with_a_sorted_set_and_are_never_early() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let mut random = SplitMix64::new(0x3ee1);
        let mut due_of = HashMap::new();
        let mut model = BTreeSet::new();
        let mut now = 0_u64; // ms
        for step in 0..200_000_u32 {
            let slot = (random.next() % 500) as u32;
            match random.next() % 8 {
                0..=4 => {
                    // From a millisecond to beyond the last level.
                    let ahead = 1 + (random.next() >> (24 + random.next() % 39));
                    let token = Token::new(slot, step);
                    wheel.arm(token, start + millis(now + ahead));
                    if let Some((old, due)) = due_of.insert(slot, (token, now + ahead)) {
                        model.remove(&(due, old));
                    }
                    model.insert((now + ahead, token));
                }
                5 => {
                    let old = due_of.remove(&slot);
                    let Some((token, due)) = old else { continue };
                    assert!(!wheel.disarm(Token::new(slot, token.generation() ^ 1)), "another generation");
                    assert!(wheel.disarm(token));
                    model.remove(&(due, token));
                }
                _ => {
                    now += random.next() >> (28 + random.next() % 35);
                    let mut popped = BTreeSet::new();
                    while let Some(token) = wheel.pop_due(start + millis(now)) {
                        popped.insert(token);
                        due_of.remove(&token.slot());
                    }
                    let later = model.split_off(&(now + 1, Token::new(0, 0)));
                    let expected: BTreeSet<_> = model.iter().map(|(_, token)| *token).collect();
                    assert_eq!(popped, expected);
                    model = later;
                }
            }
            assert_eq!(wheel.len(), model.len());
            let first = model.first().map(|(due, _)| start + millis(*due));
            assert!(wheel.next_wake() <= first, "it would sleep through a deadline");
            assert_eq!(wheel.next_wake().is_some(), first.is_some());
        }
    }

    #[test]
    fn a_fraction_of_a_millisecond_is_rounded_up() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let token = Token::new(0, 0);
        wheel.arm(token, start + Duration::from_micros(1500));
        assert_eq!(wheel.pop_due(start + Duration::from_micros(1999)), None);
        assert_eq!(wheel.next_wake(), Some(start + millis(2)));
        assert_eq!(wheel.pop_due(start + millis(2)), Some(token));
        // In the past: soon, but not in the same breath, or the loop that asks would not end.
        wheel.arm(token, start);
        assert_eq!(wheel.pop_due(start + millis(2)), None);
        assert_eq!(wheel.pop_due(start + millis(3)), Some(token));
    }
}
