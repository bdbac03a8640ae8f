//! Timers: a 4-ary heap of deadlines over a slab of values. Each value knows its place in the
//! heap, so cancelling removes for real (no dead entries pile up) and re-arming moves in place;
//! both cost O(log n). Nothing here reads a clock.

use std::fmt;
use std::time::Instant;

use crate::token::Token;
pub use crate::wheel::Wheel;

/// Children per heap node. Four keeps siblings in two cache lines and halves the depth of a
/// binary heap.
const ARITY: usize = 4;

/// Names one timer, for as long as it is armed. An id that has fired or been removed names
/// nothing, for ever, even when its slot is used again.
///
/// Thread rule: a value that any thread may hold; only its own reactor knows what it means.
///
/// ```
/// use std::time::Duration;
/// use netlib::{Reactor, ReactorConfig, TimerId};
///
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let cx = reactor.context();
/// let timer: TimerId = cx.after(Duration::from_secs(60), |(), _| ());
/// assert!(cx.rearm(timer, Duration::from_secs(90)));
/// assert!(cx.cancel(timer));
/// assert!(!cx.cancel(timer), "the id names nothing any more");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(Token);

impl fmt::Debug for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimerId({})", self.0)
    }
}

/// Values waiting for their deadlines.
///
/// ```
/// use std::time::{Duration, Instant};
/// use netlib::timer::Timers;
///
/// let start = Instant::now();
/// let mut timers = Timers::new();
/// let tea = timers.insert(start + Duration::from_secs(180), "tea");
/// let egg = timers.insert(start + Duration::from_secs(240), "egg");
/// timers.rearm(egg, start + Duration::from_secs(60));
///
/// assert_eq!(timers.next_due(start), None);
/// assert_eq!(timers.next_due(start + Duration::from_secs(60)), Some(egg));
/// assert_eq!(timers.remove(egg), Some("egg"));
/// assert_eq!(timers.next_deadline(), timers.deadline(tea));
/// ```
#[derive(Debug)]
pub struct Timers<T> {
    slots: Vec<Slot<T>>,
    /// Slots without a value, to be used again.
    free: Vec<u32>,
    /// `heap[0]` is the earliest; the children of `i` are `ARITY * i + 1` onwards.
    heap: Vec<Entry>,
    /// Counts arming, so that equal deadlines fire in the order in which they were armed.
    next_sequence: u64,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// Where in the heap; meaningful while there is a value.
    position: usize,
    value: Option<T>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: Instant,
    sequence: u64,
    slot: u32,
}

impl Entry {
    fn is_before(&self, other: &Self) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

impl<T> Timers<T> {
    /// None yet.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), heap: Vec::new(), next_sequence: 0 }
    }

    /// How many are armed.
    pub const fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is armed.
    pub const fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Arms a timer.
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, position: 0, value: None });
            u32::try_from(self.slots.len() - 1).expect("memory ends before 2^32 timers do")
        });
        let position = self.heap.len();
        let entry = Entry { deadline, sequence: self.sequence(), slot };
        self.heap.push(entry);
        let room = &mut self.slots[slot as usize];
        room.position = position;
        room.value = Some(value);
        let id = TimerId(Token::new(slot, room.generation));
        self.move_up(position);
        id
    }

    /// Disarms a timer and returns its value; `None` if it is not armed.
    pub fn remove(&mut self, id: TimerId) -> Option<T> {
        let position = self.position(id)?;
        let slot = &mut self.slots[id.0.slot() as usize];
        let value = slot.value.take();
        // A slot whose generations are used up is left alone: an id must never come back.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(id.0.slot());
        }
        self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.restore(position);
        }
        value
    }

    /// Moves the deadline, as if the timer were new; `false` if it is not armed.
    pub fn rearm(&mut self, id: TimerId, deadline: Instant) -> bool {
        let Some(position) = self.position(id) else {
            return false;
        };
        let sequence = self.sequence();
        let entry = &mut self.heap[position];
        entry.deadline = deadline;
        entry.sequence = sequence;
        self.restore(position);
        true
    }

    /// The value of an armed timer.
    pub fn get_mut(&mut self, id: TimerId) -> Option<&mut T> {
        self.position(id)?;
        self.slots[id.0.slot() as usize].value.as_mut()
    }

    /// When an armed timer is due.
    pub fn deadline(&self, id: TimerId) -> Option<Instant> {
        Some(self.heap[self.position(id)?].deadline)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// The earliest timer.
    pub fn first(&self) -> Option<TimerId> {
        let first = self.heap.first()?;
        Some(TimerId(Token::new(first.slot, self.slots[first.slot as usize].generation)))
    }

    /// The armed timers whose values the predicate likes. Looks at every one.
    pub fn ids_where(&self, mut likes: impl FnMut(&T) -> bool) -> Vec<TimerId> {
        let armed = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.as_ref().is_some_and(&mut likes));
        armed.map(|(index, slot)| TimerId(Token::new(index as u32, slot.generation))).collect()
    }

    /// The earliest timer, if it is due at `now`; among equals, the one armed first. It stays
    /// armed.
    pub fn next_due(&self, now: Instant) -> Option<TimerId> {
        self.first().filter(|_| self.heap[0].deadline <= now)
    }

    /// A moment in the order of arming: now. For [`next_due_before`](Self::next_due_before).
    pub const fn mark(&self) -> u64 {
        self.next_sequence
    }

    /// [`next_due`](Self::next_due), unless that was armed after `mark` was taken: a round of
    /// firing ends although timers arm others for at once.
    pub fn next_due_before(&self, now: Instant, mark: u64) -> Option<TimerId> {
        self.next_due(now).filter(|_| self.heap[0].sequence <= mark)
    }

    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }

    fn position(&self, id: TimerId) -> Option<usize> {
        let slot = self.slots.get(id.0.slot() as usize)?;
        (slot.generation == id.0.generation() && slot.value.is_some()).then_some(slot.position)
    }

    /// Puts an entry whose key has changed where it belongs.
    fn restore(&mut self, position: usize) {
        let position = self.move_up(position);
        self.move_down(position);
    }

    fn move_up(&mut self, mut position: usize) -> usize {
        let entry = self.heap[position];
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if !entry.is_before(&self.heap[parent]) {
                break;
            }
            self.place(position, self.heap[parent]);
            position = parent;
        }
        self.place(position, entry);
        position
    }

    fn move_down(&mut self, mut position: usize) {
        let entry = self.heap[position];
        loop {
            let first = ARITY * position + 1;
            let children = first..(first + ARITY).min(self.heap.len());
            let earliest = children.reduce(|a, b| if self.heap[b].is_before(&self.heap[a]) { b } else { a });
            match earliest {
                Some(child) if self.heap[child].is_before(&entry) => {
                    self.place(position, self.heap[child]);
                    position = child;
                }
                _ => break,
            }
        }
        self.place(position, entry);
    }

    fn place(&mut self, position: usize, entry: Entry) {
        self.heap[position] = entry;
        self.slots[entry.slot as usize].position = position;
    }
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::clock::SplitMix64;

    #[test]
    fn equal_deadlines_fire_in_the_order_of_arming() {
        let start = Instant::now();
        let mut timers = Timers::new();
        let ids: Vec<_> = (0..1000).map(|n| timers.insert(start, n)).collect();
        timers.rearm(ids[0], start); // armed anew, so now the last
        let mut fired = Vec::new();
        while let Some(id) = timers.next_due(start) {
            fired.extend(timers.remove(id));
        }
        assert_eq!(fired, (1..1000).chain([0]).collect::<Vec<_>>());
    }

    #[test]
    fn an_id_dies_with_its_timer_even_when_the_slot_is_reused() {
        let start = Instant::now();
        let mut timers = Timers::new();
        let old = timers.insert(start, "old");
        assert_eq!(timers.remove(old), Some("old"));
        let new = timers.insert(start, "new");
        assert_eq!(new.0.slot(), old.0.slot());

        assert_eq!(timers.remove(old), None);
        assert!(!timers.rearm(old, start));
        assert_eq!(timers.get_mut(old), None);
        assert_eq!(timers.deadline(old), None);
        assert_eq!(timers.get_mut(new), Some(&mut "new"));
    }

    #[test]
    fn cancelling_leaves_nothing_behind() {
        let start = Instant::now();
        let mut timers = Timers::new();
        for n in 0..10_000 {
            let id = timers.insert(start + Duration::from_secs(n), n);
            timers.remove(id);
        }
        assert_eq!((timers.len(), timers.heap.len(), timers.slots.len()), (0, 0, 1));
    }

    /// spec/netlib.md G4.1, §14 item 6.
    #[test]
    fn a_hundred_thousand_random_operations_agree_with_a_sorted_map() {
        let start = Instant::now();
        let mut random = SplitMix64::new(0x7e57);
        let mut timers = Timers::new();
        // The model: what is armed, by deadline and order of arming.
        let mut model = BTreeMap::new();
        let mut live: Vec<(TimerId, (Instant, u64))> = Vec::new();
        let mut now = start;

        for step in 0..100_000_u64 {
            // Few different deadlines, so that ties are common.
            let deadline = now + Duration::from_millis(random.next() % 64);
            let chosen = (!live.is_empty()).then(|| random.next() as usize % live.len().max(1));
            match (random.next() % 8, chosen) {
                (0..=3, _) | (_, None) => {
                    let id = timers.insert(deadline, step);
                    live.push((id, (deadline, step)));
                    model.insert((deadline, step), step);
                }
                (4, Some(index)) => {
                    let (id, key) = live.swap_remove(index);
                    assert_eq!(timers.remove(id), model.remove(&key));
                }
                (5 | 6, Some(index)) => {
                    let (id, key) = &mut live[index];
                    assert!(timers.rearm(*id, deadline));
                    let value = model.remove(key).unwrap();
                    *key = (deadline, step);
                    model.insert(*key, value);
                }
                (_, Some(_)) => {
                    now += Duration::from_millis(random.next() % 8);
                    while let Some(id) = timers.next_due(now) {
                        let ((due, _), value) = model.pop_first().unwrap();
                        assert_eq!(timers.deadline(id), Some(due));
                        assert_eq!(timers.remove(id), Some(value));
                        live.retain(|(other, _)| *other != id);
                    }
                    assert!(model.first_key_value().is_none_or(|((due, _), _)| *due > now));
                }
            }
            assert_eq!(timers.len(), model.len());
            assert_eq!(timers.next_deadline(), model.first_key_value().map(|((due, _), _)| *due));
        }
    }

    /// architecture.md §3: 10^6 armed at once.
    #[test]
    fn a_million_timers_are_armed_moved_cancelled_and_fired_in_order() {
        const MANY: u32 = 1_000_000;
        let start = Instant::now();
        let mut random = SplitMix64::new(6);
        let mut timers = Timers::new();
        let mut any = || start + Duration::from_micros(random.next() % 1_000_000_000);
        let ids: Vec<_> = (0..MANY).map(|n| timers.insert(any(), n)).collect();
        assert_eq!(timers.len(), MANY as usize);
        for (n, id) in ids.iter().enumerate() {
            match n % 4 {
                0 => assert_eq!(timers.remove(*id), Some(n as u32)),
                1 => assert!(timers.rearm(*id, any())),
                _ => {}
            }
        }
        let end = start + Duration::from_secs(1000);
        let (mut fired, mut last) = (0, start);
        while let Some(id) = timers.next_due(end) {
            let due = timers.deadline(id).unwrap();
            assert!(due >= last);
            last = due;
            assert_ne!(timers.remove(id).unwrap() % 4, 0, "it was cancelled");
            fired += 1;
        }
        assert_eq!((fired, timers.len()), (MANY / 4 * 3, 0));
    }
}
