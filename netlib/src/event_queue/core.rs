//! The queue under all variants: a [`Backlog`] behind a lock, producers that may wait for room,
//! and a consumer that is woken. How it is woken is a type, [`Wake`]: a condition variable for a
//! consumer that does nothing else, an eventfd for one that waits for descriptors too.
//!
//! # The wake-up
//!
//! One invariant, kept under the lock, is the whole protocol: *the wake-up is raised exactly
//! while there is something that the consumer must look at.*
//!
//! * The producer whose event makes that true raises it; the others find it raised and know that
//!   somebody has.
//! * The consumer that leaves nothing behind lowers it.
//!
//! No wake-up is lost: a push either is the one that raises, or sees something that the consumer
//! has not taken yet, and then it is still raised. None is wasted: a wait cannot return for a
//! queue that was emptied before it, since emptying and lowering are one step.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::backlog::{Backlog, Due};
use super::{EventId, Name, Overflow, PushError, QueueConfig, QueueStats, Stop};
use crate::clock::{CENTURY, Clock, SystemClock};
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, thread};
use crate::sys::WakeFd;

/// How the consumer of a queue is woken. Sealed: there are [`Parked`] and
/// [`WakeFd`].
///
/// ```
/// use netlib::event_queue::{PushError, Sender, Wake};
///
/// /// Works for a queue of either kind.
/// fn say<W: Wake>(sender: &Sender<String, W>, text: &str) -> Result<(), PushError<String>> {
///     sender.push(text.to_owned()).map(drop)
/// }
/// ```
pub trait Wake: sealed::Wake + Send + Sync {}

pub(super) mod sealed {
    pub trait Wake {
        /// Producers read the clock that the consumer goes by, so they can compute a deadline.
        const SHARES_CLOCK: bool;

        /// Makes the consumer's wait return. Called under the lock, when nothing was raised.
        fn raise(&self);

        /// Undoes [`raise`](Self::raise). Called under the lock, when something was raised.
        fn lower(&self);
    }
}

/// The consumer sleeps in [`Receiver::pop`](super::Receiver::pop).
///
/// ```
/// use netlib::event_queue::{self, Parked, QueueConfig, Receiver};
///
/// let (sender, receiver) = event_queue::channel(QueueConfig::default());
/// let mut receiver: Receiver<&str, Parked> = receiver;
/// sender.push("done").unwrap();
/// assert_eq!(receiver.pop(), Some("done"));
/// ```
#[derive(Debug)]
pub struct Parked {
    pub(super) changed: Condvar,
}

impl Wake for Parked {}
impl sealed::Wake for Parked {
    const SHARES_CLOCK: bool = true;

    fn raise(&self) {
        self.changed.notify_one();
    }

    fn lower(&self) {}
}

/// The consumer waits for a descriptor, readable exactly while the wake-up is raised.
impl Wake for WakeFd {}
impl sealed::Wake for WakeFd {
    const SHARES_CLOCK: bool = false;

    fn raise(&self) {
        self.signal().expect("writing to an open eventfd does not fail");
    }

    fn lower(&self) {
        self.acknowledge().expect("reading an open eventfd does not fail");
    }
}

pub(super) struct Core<T, W> {
    state: Mutex<State<T>>,
    /// A copy of [`State::raised`] that can be read without the lock.
    raised: AtomicBool,
    /// Producers that wait for room.
    room: Condvar,
    pub(super) wake: W,
    config: QueueConfig,
}

struct State<T> {
    backlog: Backlog<T>,
    raised: bool,
    closed: bool,
    /// Producers in the wait for room.
    blocked: usize,
    senders: usize,
    consumer: Option<thread::ThreadId>,
}

/// What is to be done with an event besides queueing it.
#[derive(Default)]
pub(super) struct How {
    pub(super) name: Option<Name>,
    pub(super) delay: Option<Duration>,
    /// Let in beyond the capacity.
    pub(super) regardless: bool,
}

/// What a blocking pop ended with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Popped<T> {
    Event(T),
    /// Closed, or nobody is left who could post; and nothing waits.
    Ended,
    TimedOut,
}

impl<T, W: Wake> Core<T, W> {
    /// With one sender.
    pub(super) fn new(config: QueueConfig, wake: W) -> Self {
        let state =
            State { backlog: Backlog::new(), raised: false, closed: false, blocked: 0, senders: 1, consumer: None };
        Self { state: Mutex::new(state), raised: AtomicBool::new(false), room: Condvar::new(), wake, config }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that can panic half-way runs under the lock, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measured_now(&self) -> Option<Instant> {
        self.config.measure.then(|| SystemClock.now())
    }

    /// From now on this thread is the consumer.
    pub(super) fn consume_here(&self) {
        self.lock().consumer = Some(thread::current().id());
    }

    pub(super) fn add_sender(&self) {
        self.lock().senders += 1;
    }

    pub(super) fn remove_sender(&self) {
        let mut state = self.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.raise(&mut state);
        }
    }

    pub(super) fn push(&self, event: T, how: How) -> Result<EventId, PushError<T>> {
        let capacity = if how.regardless { usize::MAX } else { self.config.capacity.unwrap_or(usize::MAX).max(1) };
        let mut state = self.lock();
        let mut victims = Vec::new();
        while !state.closed && state.backlog.len() >= capacity {
            match self.config.overflow {
                Overflow::Reject => {
                    state.backlog.stats.rejected += 1;
                    return Err(PushError::Full(event));
                }
                Overflow::DropOldest => {
                    let oldest = state.backlog.drop_oldest();
                    let none = oldest.is_none();
                    victims.extend(oldest);
                    if none {
                        break; // all that waits was let in regardless: this one is the only other
                    }
                }
                Overflow::Block if state.consumer == Some(thread::current().id()) => {
                    state.backlog.stats.rejected += 1;
                    return Err(PushError::OwnThread(event));
                }
                Overflow::Block => {
                    state.blocked += 1;
                    state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.blocked -= 1;
                }
            }
        }
        if state.closed {
            return Err(PushError::Closed(event));
        }
        let id = self.insert(&mut state, event, how);
        drop(state);
        // Outside the lock: what an event does when it is dropped may well be to push another.
        drop(victims);
        Ok(id)
    }

    fn insert(&self, state: &mut State<T>, event: T, how: How) -> EventId {
        let Some(delay) = how.delay else {
            let id = state.backlog.push(event, how.name, how.regardless, self.measured_now());
            self.raise(state);
            return id;
        };
        let now = SystemClock.now();
        let due =
            if W::SHARES_CLOCK { Due::At(now.checked_add(delay).unwrap_or(now + CENTURY)) } else { Due::After(delay) };
        let next_due = state.backlog.next_due();
        let id = state.backlog.push_delayed(event, how.name, due, now);
        // A consumer that sleeps until a later deadline must sleep less.
        if state.backlog.has_work() || state.backlog.next_due() < next_due || next_due.is_none() {
            self.raise(state);
        }
        id
    }

    fn raise(&self, state: &mut State<T>) {
        if !state.raised {
            state.raised = true;
            self.raised.store(true, Ordering::Release);
            self.wake.raise();
        }
    }

    /// Lowers the wake-up if nothing is left to look at.
    fn lower(&self, state: &mut State<T>) {
        if state.raised && !state.backlog.has_work() {
            state.raised = false;
            self.raised.store(false, Ordering::Release);
            self.wake.lower();
        }
    }

    /// Whether the consumer has something to look at. A `false` may be outdated at once, but
    /// then the wake-up is raised and ends the next wait.
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Lets producers in that wait for room, after `freed` events have gone.
    fn freed(&self, state: &State<T>, freed: usize) {
        for _ in 0..freed.min(state.blocked) {
            self.room.notify_one();
        }
    }

    /// Moves up to `max` events to the end of `into`; returns how many are left that are ready,
    /// and when the next delayed one is due.
    pub(super) fn take(&self, now: Instant, max: usize, into: &mut Vec<T>) -> (usize, Option<Instant>) {
        let measured = self.measured_now();
        let mut state = self.lock();
        state.backlog.settle(now, measured);
        let before = into.len();
        while into.len() - before < max
            && let Some(event) = state.backlog.pop(measured)
        {
            into.push(event);
        }
        self.freed(&state, into.len() - before);
        self.lower(&mut state);
        (state.backlog.counted().depth, state.backlog.next_due())
    }

    /// True if the event had not been taken yet; it is dropped.
    pub(super) fn cancel(&self, id: EventId) -> bool {
        let mut state = self.lock();
        let event = state.backlog.cancel(id);
        self.after_cancel(state, event.iter().len());
        event.is_some() // and dropped now, outside the lock
    }

    pub(super) fn cancel_named(&self, name: &str) -> usize {
        let mut state = self.lock();
        let events = state.backlog.cancel_named(name);
        self.after_cancel(state, events.len());
        events.len()
    }

    fn after_cancel(&self, mut state: MutexGuard<'_, State<T>>, cancelled: usize) {
        if cancelled > 0 {
            self.freed(&state, cancelled);
            self.lower(&mut state);
        }
    }

    /// Refuses events from now on.
    pub(super) fn close(&self, stop: Stop) {
        let mut state = self.lock();
        state.closed = true;
        let orphans = state.backlog.clear(stop == Stop::Discard);
        self.room.notify_all();
        self.raise(&mut state);
        drop(state);
        drop(orphans);
    }

    pub(super) fn stats(&self) -> QueueStats {
        self.lock().backlog.counted()
    }

    /// Events that were taken have run.
    pub(super) fn ran(&self, panics: u64, total: Duration, longest: Duration) {
        let stats = &mut self.lock().backlog.stats;
        stats.panics += panics;
        stats.run_total += total;
        stats.run_max = stats.run_max.max(longest);
    }
}

impl<T> Core<T, Parked> {
    /// Waits for an event, at most for `limit`.
    pub(super) fn pop(&self, limit: Option<Duration>) -> Popped<T> {
        let mut now = SystemClock.now();
        let end = limit.map(|limit| now.checked_add(limit).unwrap_or(now + CENTURY));
        let mut state = self.lock();
        loop {
            let measured = self.config.measure.then_some(now);
            state.backlog.settle(now, measured);
            if let Some(event) = state.backlog.pop(measured) {
                self.freed(&state, 1);
                return Popped::Event(event);
            }
            self.lower(&mut state);
            let next_due = state.backlog.next_due();
            if state.closed || (state.senders == 0 && next_due.is_none()) {
                return Popped::Ended;
            }
            if end.is_some_and(|end| end <= now) {
                return Popped::TimedOut;
            }
            let until = next_due.into_iter().chain(end).min();
            state = match until {
                None => self.wake.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    self.wake.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            now = SystemClock.now();
        }
    }

    pub(super) fn measures(&self) -> bool {
        self.config.measure
    }
}
