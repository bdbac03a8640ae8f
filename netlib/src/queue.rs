//! The event queue: other threads hand work to a reactor. Many producers, one consumer, first in
//! first out per producer, bounded or unbounded by construction, and a wake-up that costs one
//! system call for a whole burst.
//!
//! # The wake-up
//!
//! The consumer waits for the descriptor of an eventfd. One invariant, kept under the mutex that
//! also guards the items, is the whole protocol: *the eventfd is readable exactly while the
//! queue is not empty.*
//!
//! * The producer whose item makes the queue non-empty writes the eventfd; the others find the
//!   queue non-empty and know that somebody has.
//! * The consumer that takes the last item reads the eventfd.
//!
//! No wake-up is lost: a push either is the one that writes, or sees an item that the consumer
//! has not taken yet, and then the eventfd is still readable. None is wasted: a wait cannot
//! return for a queue that was emptied before it, since emptying and reading are one step.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use crate::sys::WakeFd;

/// Opens a queue of at most `capacity` items; `None` is no limit, which is only right where the
/// producers are limited by something else.
///
/// ```
/// use netlib::queue;
///
/// let (sender, mut receiver) = queue::channel(None)?;
/// std::thread::spawn(move || sender.push("done")).join().unwrap().unwrap();
///
/// let mut items = Vec::new();
/// assert_eq!(receiver.take(1024, &mut items), 0);
/// assert_eq!(items, ["done"]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn channel<T>(capacity: Option<usize>) -> io::Result<(Sender<T>, Receiver<T>)> {
    let shared = Arc::new(Shared {
        state: Mutex::new(State { items: VecDeque::new(), closed: false }),
        capacity: capacity.unwrap_or(usize::MAX),
        wake: WakeFd::new()?,
    });
    Ok((Sender { shared: Arc::clone(&shared) }, Receiver { shared }))
}

struct Shared<T> {
    state: Mutex<State<T>>,
    capacity: usize,
    wake: WakeFd,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that can panic half-way runs under the lock, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The producers' end. Any thread may have a clone.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Appends an item and wakes the consumer if the queue was empty. Never waits for room.
    pub fn push(&self, item: T) -> Result<(), PushError<T>> {
        self.push_within(self.shared.capacity, item)
    }

    /// [`push`](Self::push) beyond the capacity: for what another limit has let in already,
    /// such as the result of a job.
    pub fn push_regardless(&self, item: T) -> Result<(), PushError<T>> {
        self.push_within(usize::MAX, item)
    }

    fn push_within(&self, capacity: usize, item: T) -> Result<(), PushError<T>> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(PushError::Closed(item));
        }
        if state.items.len() >= capacity {
            return Err(PushError::Full(item));
        }
        state.items.push_back(item);
        if state.items.len() == 1 {
            self.shared.wake.signal().expect("writing to an open eventfd does not fail");
        }
        Ok(())
    }

    /// How many items wait.
    pub fn depth(&self) -> usize {
        self.shared.lock().items.len()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

/// The consumer's end. Dropping it closes the queue: what waits is dropped, later pushes fail.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Moves up to `max` items to the end of `into`, oldest first; returns how many are left.
    /// While some are left the descriptor stays readable, but an edge trigger does not report it
    /// again.
    pub fn take(&mut self, max: usize, into: &mut Vec<T>) -> usize {
        let mut state = self.shared.lock();
        let count = state.items.len().min(max);
        into.extend(state.items.drain(..count));
        if count > 0 && state.items.is_empty() {
            self.shared.wake.acknowledge().expect("reading an open eventfd does not fail");
        }
        state.items.len()
    }

    /// How many items wait.
    pub fn depth(&self) -> usize {
        self.shared.lock().items.len()
    }
}

/// Readable exactly while items wait.
impl<T> AsFd for Receiver<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let orphans = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.items)
        };
        // Outside the lock: what an item does when it is dropped may well be to push another.
        drop(orphans);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

/// Why an item was not accepted; gives it back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PushError<T> {
    /// The queue holds as many items as it may.
    Full(T),
    /// The consumer is gone.
    Closed(T),
}

impl<T> PushError<T> {
    /// The item.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) => item,
        }
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the event queue is full",
            Self::Closed(_) => "the event queue is closed",
        })
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> std::error::Error for PushError<T> {}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::backend::{BackendKind, Interest};
    use crate::token::Token;

    impl<T> Receiver<T> {
        /// Signals since the last time; resets the descriptor.
        fn edges(&self) -> u64 {
            self.shared.wake.acknowledge().unwrap()
        }
    }

    #[test]
    fn a_burst_wakes_once_and_an_emptied_queue_not_at_all() {
        let (sender, mut receiver) = channel(None).unwrap();
        for n in 0..1000 {
            sender.push(n).unwrap();
        }
        assert_eq!(receiver.edges(), 1);
        let mut items = Vec::new();
        assert_eq!(receiver.take(600, &mut items), 400);
        sender.push(1000).unwrap();
        assert_eq!(receiver.edges(), 0, "the queue was never empty");

        sender.shared.wake.signal().unwrap(); // as it was before this test looked
        assert_eq!(receiver.take(usize::MAX, &mut items), 0);
        assert_eq!(receiver.edges(), 0, "taking the last item clears the wake-up");
        assert_eq!(items, (0..=1000).collect::<Vec<_>>());
    }

    /// spec/netlib.md G4.2, G11.2, §14 item 7.
    #[test]
    fn sixteen_producers_each_in_order_and_no_wait_is_for_nothing() {
        const PRODUCERS: usize = 16;
        const ITEMS: usize = 10_000;
        for kind in BackendKind::ALL {
            let (sender, mut receiver) = channel(None).unwrap();
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|producer| {
                    let sender = sender.clone();
                    thread::spawn(move || {
                        for n in 0..ITEMS {
                            sender.push((producer, n)).unwrap();
                        }
                    })
                })
                .collect();

            let mut backend = kind.open().unwrap();
            backend.add(receiver.as_fd(), Token::new(0, 0), Interest::READABLE, kind.default_trigger()).unwrap();
            let mut next = [0; PRODUCERS];
            let (mut events, mut items) = (Vec::new(), Vec::new());
            while next.iter().sum::<usize>() < PRODUCERS * ITEMS {
                backend.wait(&mut events, Some(Duration::from_secs(30))).unwrap();
                assert_eq!(events.len(), 1, "{kind}: a wake-up was lost");
                assert!(receiver.depth() > 0, "{kind}: a wait ended for nothing");
                while receiver.take(64, &mut items) > 0 {}
                for (producer, n) in items.drain(..) {
                    assert_eq!(n, next[producer], "{kind}: producer {producer} out of order");
                    next[producer] += 1;
                }
            }
            for producer in producers {
                producer.join().unwrap();
            }
            backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
            assert_eq!(events, [], "{kind}: nothing is left to be woken for");
        }
    }

    #[test]
    fn a_full_queue_gives_the_item_back() {
        let (sender, mut receiver) = channel(Some(2)).unwrap();
        sender.push('a').unwrap();
        sender.push('b').unwrap();
        assert_eq!(sender.push('c'), Err(PushError::Full('c')));
        receiver.take(1, &mut Vec::new());
        assert_eq!(sender.push('c'), Ok(()));
        assert_eq!(sender.depth(), 2);
    }

    #[test]
    fn a_queue_without_a_consumer_refuses_and_drops_what_waits() {
        let (sender, receiver) = channel(None).unwrap();
        let item = Arc::new(());
        sender.push(Arc::clone(&item)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(matches!(sender.push(item), Err(PushError::Closed(_))));
    }

    #[test]
    fn an_item_may_push_while_it_is_dropped_with_the_queue() {
        struct Pushes(Sender<Pushes>);
        impl Drop for Pushes {
            fn drop(&mut self) {
                // The refused item would recurse: forget it.
                if let Err(refused) = self.0.push(Pushes(self.0.clone())) {
                    std::mem::forget(refused);
                }
            }
        }
        let (sender, receiver) = channel(None).unwrap();
        sender.push(Pushes(sender.clone())).unwrap();
        drop(receiver);
        assert_eq!(sender.depth(), 0);
    }
}
