//! The two ends of a queue. Producers have the same one in every variant; the consumer's end
//! blocks ([`channel`]) or has a descriptor to wait for ([`pollable`]).

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::core::{Core, How, Parked, Popped, Wake};
use super::{EventId, Name, PushError, QueueConfig, QueueStats, Stop};
use crate::sync::{Arc, Condvar};
use crate::sys::WakeFd;

/// Opens a queue whose consumer blocks in [`Receiver::pop`].
///
/// ```
/// use netlib::event_queue::{self, QueueConfig};
///
/// let (sender, mut receiver) = event_queue::channel(QueueConfig::default());
/// let producer = std::thread::spawn(move || sender.push("done").map(|_| ()));
/// assert_eq!(receiver.pop(), Some("done"));
/// assert_eq!(receiver.pop(), None, "the only sender is gone");
/// # producer.join().unwrap().unwrap();
/// ```
pub fn channel<T>(config: QueueConfig) -> (Sender<T, Parked>, Receiver<T, Parked>) {
    ends(Core::new(config, Parked { changed: Condvar::new() }))
}

/// Opens a queue whose consumer waits for a descriptor along with others. Fails if the kernel
/// has no eventfd to give.
///
/// ```
/// use std::time::Instant;
/// use netlib::event_queue::{self, QueueConfig};
///
/// let (sender, mut receiver) = event_queue::pollable(QueueConfig::default())?;
/// sender.push("done").unwrap();
///
/// let mut events = Vec::new();
/// assert_eq!(receiver.take(Instant::now(), 1024, &mut events), 0);
/// assert_eq!(events, ["done"]);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// If the kernel has no eventfd to give.
pub fn pollable<T>(config: QueueConfig) -> io::Result<(Sender<T, WakeFd>, Receiver<T, WakeFd>)> {
    Ok(ends(Core::new(config, WakeFd::new()?)))
}

pub(super) fn ends<T, W: Wake>(core: Core<T, W>) -> (Sender<T, W>, Receiver<T, W>) {
    let core = Arc::new(core);
    (Sender { core: Arc::clone(&core) }, Receiver { core, next_due: None })
}

/// The producers' end; see [`channel`] and [`pollable`]. Any thread may have a clone.
///
/// Thread rule: it may be sent, shared and cloned freely.
///
/// ```
/// use std::time::Duration;
/// use netlib::event_queue::{self, QueueConfig};
///
/// let (sender, mut receiver) = event_queue::channel(QueueConfig::default());
/// let alarm = sender.push_delayed(Duration::from_secs(60), "alarm").unwrap();
/// sender.push("hello").unwrap();
/// assert!(sender.cancel(alarm));
/// assert_eq!(receiver.pop(), Some("hello"));
/// assert_eq!(sender.stats().cancelled, 1);
/// ```
pub struct Sender<T, W: Wake> {
    core: Arc<Core<T, W>>,
}

impl<T, W: Wake> Sender<T, W> {
    /// Appends an event and wakes the consumer if it may sleep. Waits for room only under
    /// [`Overflow::Block`](super::Overflow::Block).
    ///
    /// # Errors
    ///
    /// [`PushError`] says why and gives the event back.
    pub fn push(&self, event: T) -> Result<EventId, PushError<T>> {
        self.core.push(event, How::default())
    }

    /// [`push`](Self::push) beyond the capacity: for what another limit has let in already,
    /// such as the result of a job.
    ///
    /// # Errors
    ///
    /// `Closed`, with the event.
    pub fn push_regardless(&self, event: T) -> Result<EventId, PushError<T>> {
        self.core.push(event, How { regardless: true, ..How::default() })
    }

    /// An event that is not taken before `delay` is over.
    ///
    /// # Errors
    ///
    /// Those of [`push`](Self::push).
    pub fn push_delayed(&self, delay: Duration, event: T) -> Result<EventId, PushError<T>> {
        self.core.push(event, How { delay: Some(delay), ..How::default() })
    }

    /// An event, delayed or not, that [`cancel_named`](Self::cancel_named) finds.
    ///
    /// # Errors
    ///
    /// Those of [`push`](Self::push).
    pub fn push_named(
        &self,
        name: impl Into<Cow<'static, str>>,
        delay: Option<Duration>,
        event: T,
    ) -> Result<EventId, PushError<T>> {
        let name: Name = name.into();
        self.core.push(event, How { name: Some(name), delay, ..How::default() })
    }

    /// Takes an event back. False if it was taken, dropped or cancelled before.
    pub fn cancel(&self, id: EventId) -> bool {
        self.core.cancel(id)
    }

    /// Takes all events of that name back; returns how many there were. Looks at every event
    /// that waits.
    pub fn cancel_named(&self, name: &str) -> usize {
        self.core.cancel_named(name)
    }

    /// Refuses events from now on; the consumer still takes those that `stop` leaves.
    pub fn close(&self, stop: Stop) {
        self.core.close(stop);
    }

    /// What the queue has seen so far.
    pub fn stats(&self) -> QueueStats {
        self.core.stats()
    }
}

impl<T, W: Wake> Clone for Sender<T, W> {
    fn clone(&self) -> Self {
        self.core.add_sender();
        Self { core: Arc::clone(&self.core) }
    }
}

impl<T, W: Wake> Drop for Sender<T, W> {
    fn drop(&mut self) {
        self.core.remove_sender();
    }
}

impl<T, W: Wake> fmt::Debug for Sender<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// The consumer's end; see [`channel`] and [`pollable`]. Dropping it closes the queue: what
/// waits is dropped, later pushes fail.
///
/// Thread rule: it may be sent to the thread that consumes; only one does.
///
/// ```
/// use std::time::Duration;
/// use netlib::event_queue::{self, QueueConfig, Stop};
///
/// let (sender, mut receiver) = event_queue::channel(QueueConfig::default());
/// sender.push(1).unwrap();
/// receiver.close(Stop::Drain);
/// assert!(sender.push(2).is_err());
/// assert_eq!(receiver.pop_within(Duration::from_secs(1)), Some(1));
/// assert_eq!(receiver.pop(), None);
/// ```
pub struct Receiver<T, W: Wake> {
    core: Arc<Core<T, W>>,
    /// As of the last look; only ever too early, never too late, since a push that makes it
    /// earlier raises the wake-up.
    next_due: Option<Instant>,
}

impl<T, W: Wake> Receiver<T, W> {
    /// From now on the calling thread is the consumer, which may not wait for itself under
    /// [`Overflow::Block`](super::Overflow::Block).
    pub fn consume_here(&mut self) {
        self.core.consume_here();
    }

    /// What the queue has seen so far.
    pub fn stats(&self) -> QueueStats {
        self.core.stats()
    }

    /// Refuses events from now on; those that `stop` leaves can still be taken.
    pub fn close(&mut self, stop: Stop) {
        self.core.close(stop);
    }

    /// Tells the queue how events that were taken have run.
    pub(crate) fn ran(&self, panics: u64, total: Duration, longest: Duration) {
        self.core.ran(panics, total, longest);
    }
}

impl<T> Receiver<T, Parked> {
    /// Waits for the next event. None once the queue is closed, or its last sender is gone, and
    /// nothing waits.
    pub fn pop(&mut self) -> Option<T> {
        match self.core.pop(None) {
            Popped::Event(event) => Some(event),
            Popped::Ended | Popped::TimedOut => None,
        }
    }

    /// [`pop`](Self::pop) that gives up after `limit`: then, too, the answer is None.
    pub fn pop_within(&mut self, limit: Duration) -> Option<T> {
        match self.core.pop(Some(limit)) {
            Popped::Event(event) => Some(event),
            Popped::Ended | Popped::TimedOut => None,
        }
    }

    pub(super) fn measures(&self) -> bool {
        self.core.measures()
    }
}

impl<T, W: Wake> Receiver<T, W> {
    /// Moves up to `max` events to the end of `into`, oldest first, and returns how many are
    /// left that are ready. `now` is the consumer's time, by which delayed events fall due.
    ///
    /// While some are left the descriptor stays readable, but an edge trigger does not report it
    /// again. Without anything to take this costs one load of an atomic.
    pub fn take(&mut self, now: Instant, max: usize, into: &mut Vec<T>) -> usize {
        if !self.core.is_raised() && self.next_due.is_none_or(|due| due > now) {
            return 0;
        }
        let (left, next_due) = self.core.take(now, max, into);
        self.next_due = next_due;
        left
    }

    /// When the next delayed event is due at the earliest, as of the last
    /// [`take`](Self::take). A later push that is due before ends the wait by itself.
    pub fn next_due(&self) -> Option<Instant> {
        self.next_due
    }
}

/// Readable exactly while something is to be taken.
impl<T> AsFd for Receiver<T, WakeFd> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.wake.as_fd()
    }
}

impl<T, W: Wake> Drop for Receiver<T, W> {
    fn drop(&mut self) {
        self.core.close(Stop::Discard);
    }
}

impl<T, W: Wake> fmt::Debug for Receiver<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    impl<T> Receiver<T, WakeFd> {
        /// Writes to the eventfd since the last time; resets the descriptor.
        fn edges(&self) -> u64 {
            self.core.wake.acknowledge().unwrap()
        }
    }

    #[test]
    fn a_burst_wakes_once_and_an_emptied_queue_not_at_all() {
        let now = Instant::now();
        let (sender, mut receiver) = pollable(QueueConfig::default()).unwrap();
        for n in 0..1000 {
            sender.push(n).unwrap();
        }
        assert_eq!(receiver.edges(), 1);
        let mut items = Vec::new();
        assert_eq!(receiver.take(now, 600, &mut items), 400);
        sender.push(1000).unwrap();
        assert_eq!(receiver.edges(), 0, "the queue was never empty");

        sender.core.wake.signal().unwrap(); // as it was before this test looked
        assert_eq!(receiver.take(now, usize::MAX, &mut items), 0);
        assert_eq!(receiver.edges(), 0, "taking the last event clears the wake-up");
        assert_eq!(items, (0..=1000).collect::<Vec<_>>());

        let id = sender.push(0).unwrap();
        assert!(sender.cancel(id));
        assert_eq!(receiver.edges(), 0, "so does cancelling it");
    }

    #[test]
    fn a_delayed_event_wakes_to_be_put_on_the_clock_and_not_again() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let (sender, mut receiver) = pollable(QueueConfig::default()).unwrap();
        sender.push_delayed(Duration::from_secs(5), 'a').unwrap();
        sender.push_delayed(Duration::from_secs(7), 'b').unwrap();
        assert_eq!(receiver.edges(), 1);
        sender.core.wake.signal().unwrap();
        let mut items = Vec::new();
        assert_eq!(receiver.take(now, 9, &mut items), 0);
        assert_eq!((receiver.edges(), receiver.next_due()), (0, Some(later)));
        assert!(!receiver.core.is_raised());
        receiver.take(later, 9, &mut items);
        assert_eq!(items, ['a']);
        assert_eq!(receiver.next_due(), Some(now + Duration::from_secs(7)));
    }

    #[test]
    fn only_an_earlier_deadline_wakes_a_consumer_that_sleeps_until_a_later_one() {
        let (sender, mut receiver) = channel(QueueConfig::default());
        sender.push_delayed(Duration::from_hours(2), 'a').unwrap();
        assert_eq!(receiver.pop_within(Duration::ZERO), None);
        assert!(!receiver.core.is_raised(), "it has been looked at");
        sender.push_delayed(Duration::from_hours(3), 'b').unwrap();
        assert!(!receiver.core.is_raised(), "the sleep is short enough");
        sender.push_delayed(Duration::from_hours(1), 'c').unwrap();
        assert!(receiver.core.is_raised(), "it would sleep too long");
    }
}
