//! Event queues: many threads post events, one consumer takes them in order.
//!
//! An event is a piece of data and what is to be done with it, in one closure. There are two
//! consumers, and one queue under both:
//!
//! * a thread of the queue's own, [`EventQueue`]: asynchronous work without a reactor;
//! * a reactor: [`Remote`](crate::Remote), which [`Context::remote`](crate::Context::remote)
//!   hands out, posts to its loop. All answers of [worker threads](crate::worker_pool) come back
//!   that way.
//!
//! Who wants to consume events in a loop of his own has the same queue as a [`channel`] whose
//! consumer blocks, or as a [`pollable`] one whose consumer waits for a descriptor.
//!
//! # What is promised
//!
//! * Events of one producer are taken in the order in which they were posted (delayed ones in
//!   the order in which they fall due). An event runs once, or is cancelled, dropped or refused,
//!   and each of these is counted in [`QueueStats`].
//! * A queue holds at most [`QueueConfig::capacity`] events, delayed ones included;
//!   [`Overflow`] says what becomes of one more.
//! * A panic in an event is contained and counted, the consumer goes on.
//! * A consumer that sleeps is woken by one notification (one write to an eventfd) for a whole
//!   burst; see `core.rs` for the protocol. It is checked under every interleaving by loom.
//!
//! # Delayed events
//!
//! A delay is counted on the consumer's clock: for a reactor from the tick that takes notice of
//! the post, so that a test which owns the time owns this too. Never early. Until it is due a
//! delayed event can be cancelled in O(log n).
//!
//! Thread rule: senders are for any thread and are cloned freely; a receiver is for one thread.

mod backlog;
mod channel;
mod core;
#[cfg(all(loom, test))]
mod loom;
mod thread;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

pub use self::channel::{Receiver, Sender, channel, pollable};
pub use self::core::{Parked, Wake};
pub use self::thread::{EventQueue, EventSender};

use crate::timer::TimerId;

/// By what several events can be [cancelled](Sender::cancel_named) together.
pub type Name = Cow<'static, str>;

/// Names one event of one queue, for ever: an id is never given twice.
///
/// Thread rule: a value that any thread may hold.
///
/// ```
/// use netlib::event_queue::{self, EventId, QueueConfig};
///
/// let (sender, receiver) = event_queue::channel(QueueConfig::default());
/// let id: EventId = sender.push("hello").unwrap();
/// assert!(sender.cancel(id));
/// assert!(!sender.cancel(id), "only once");
/// # drop(receiver);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub(self) Id);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Id {
    /// By the order of posting.
    Queued(u64),
    Delayed(TimerId),
}

/// How a queue is made.
///
/// ```
/// use netlib::event_queue::{Overflow, QueueConfig};
///
/// let config = QueueConfig { capacity: Some(1000), overflow: Overflow::DropOldest, ..QueueConfig::default() };
/// assert!(config.measure);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Most events that may wait, delayed ones included; at least one. None is no limit, which
    /// is only right where the producers are limited by something else.
    pub capacity: Option<usize>,
    /// What becomes of an event that finds the queue full.
    pub overflow: Overflow,
    /// Whether to take the time that events wait and run: two to four looks at the clock each.
    pub measure: bool,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { capacity: None, overflow: Overflow::Reject, measure: true }
    }
}

/// What becomes of an event that finds the queue full.
///
/// ```
/// use netlib::event_queue::{self, Overflow, QueueConfig};
///
/// let config = QueueConfig { capacity: Some(1), overflow: Overflow::DropOldest, ..QueueConfig::default() };
/// let (sender, mut receiver) = event_queue::channel(config);
/// sender.push("old").unwrap();
/// sender.push("new").unwrap();
/// assert_eq!(receiver.pop(), Some("new"));
/// assert_eq!(sender.stats().dropped, 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// It is refused, with [`PushError::Full`].
    #[default]
    Reject,
    /// The producer waits for room. The consumer's own thread would wait for itself: there it is
    /// refused, with [`PushError::OwnThread`].
    Block,
    /// The oldest event that is ready to be taken gives way; if there is none, the delayed one
    /// that falls due first.
    DropOldest,
}

/// What becomes of the events that still wait when a queue is stopped.
///
/// ```
/// use netlib::event_queue::{self, QueueConfig, Stop};
///
/// let (sender, mut receiver) = event_queue::channel(QueueConfig::default());
/// sender.push("too late").unwrap();
/// sender.close(Stop::Discard);
/// assert_eq!(receiver.pop(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// Those ready to be taken still run; delayed ones that are not due are dropped.
    Drain,
    /// All are dropped.
    Discard,
}

/// What a queue has seen so far. Times are zero unless [`QueueConfig::measure`] is set.
///
/// ```
/// use netlib::event_queue::{self, QueueConfig};
///
/// let (sender, mut receiver) = event_queue::channel(QueueConfig::default());
/// sender.push(1).unwrap();
/// sender.push(2).unwrap();
/// receiver.pop();
/// let stats = sender.stats();
/// assert_eq!((stats.depth, stats.max_depth, stats.posted, stats.taken), (1, 2, 2, 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Events ready to be taken now.
    pub depth: usize,
    /// Delayed events that are not due yet.
    pub delayed: usize,
    /// The most that were ready at one time.
    pub max_depth: usize,
    /// Events accepted.
    pub posted: u64,
    /// Events taken by the consumer.
    pub taken: u64,
    /// Events refused because the queue was full.
    pub rejected: u64,
    /// Events that gave way to newer ones, or were dropped when the queue was stopped.
    pub dropped: u64,
    /// Events cancelled.
    pub cancelled: u64,
    /// Events that panicked.
    pub panics: u64,
    /// How long the events taken had been ready, together.
    pub wait_total: Duration,
    /// The longest that one of them had been ready.
    pub wait_max: Duration,
    /// How long they ran, together.
    pub run_total: Duration,
    /// The longest that one of them ran.
    pub run_max: Duration,
}

/// Why an event was not accepted; gives it back.
///
/// ```
/// use netlib::event_queue::{self, PushError, QueueConfig};
///
/// let config = QueueConfig { capacity: Some(1), ..QueueConfig::default() };
/// let (sender, receiver) = event_queue::channel(config);
/// sender.push("first").unwrap();
/// let refused = sender.push("second").unwrap_err();
/// assert_eq!(refused, PushError::Full("second"));
/// assert_eq!(refused.into_inner(), "second");
/// # drop(receiver);
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PushError<T> {
    /// The queue holds as many events as it may.
    Full(T),
    /// The queue is stopped or its consumer is gone.
    Closed(T),
    /// The queue is full, its policy is [`Overflow::Block`], and this is the consumer's thread,
    /// which would wait for itself.
    OwnThread(T),
}

impl<T> PushError<T> {
    /// The event.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(event) | Self::Closed(event) | Self::OwnThread(event) => event,
        }
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PostError::of(self).fmt(f)
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(..)", PostError::of(self))
    }
}

impl<T> std::error::Error for PushError<T> {}

/// Why a posted closure was not accepted; it is dropped. [`PushError`] without the event.
///
/// ```
/// use netlib::{PostError, Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let remote = reactor.context().remote();
/// drop(reactor);
/// assert_eq!(remote.post(|(), _| ()), Err(PostError::Closed));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The queue is at its capacity.
    Full,
    /// The reactor or the queue's thread is gone or was told to stop.
    Closed,
    /// The queue is full, and waiting for room on its consumer's own thread would never end.
    OwnThread,
}

impl PostError {
    fn of<T>(error: &PushError<T>) -> Self {
        match error {
            PushError::Full(_) => Self::Full,
            PushError::Closed(_) => Self::Closed,
            PushError::OwnThread(_) => Self::OwnThread,
        }
    }
}

impl<T> From<PushError<T>> for PostError {
    fn from(error: PushError<T>) -> Self {
        Self::of(&error)
    }
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the event queue is full",
            Self::Closed => "the event queue is closed",
            Self::OwnThread => "the event queue is full, and its consumer may not wait for itself",
        })
    }
}

impl std::error::Error for PostError {}
