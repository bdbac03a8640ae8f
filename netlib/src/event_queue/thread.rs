//! The queue with a consumer thread of its own.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use super::{EventId, Parked, PostError, QueueConfig, QueueStats, Receiver, Sender, Stop, channel};
use crate::clock::{Clock, SystemClock};

type Event<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that runs the events posted to it, one after the other. Its state `S` lives on that
/// thread alone and is handed to every event.
///
/// ```
/// use std::time::Duration;
/// use netlib::event_queue::{EventQueue, QueueConfig, Stop};
///
/// let (results, log) = std::sync::mpsc::channel();
/// let queue = EventQueue::start("audit", QueueConfig::default(), || 0)?;
/// let events = queue.sender();
/// for n in 1..=3 {
///     let results = results.clone();
///     events.post(move |sum: &mut i32| {
///         *sum += n;
///         results.send(*sum).unwrap();
///     })?;
/// }
/// let alarm = events.post_delayed(Duration::from_secs(3600), |_| unreachable!())?;
/// assert!(events.cancel(alarm));
///
/// let stats = queue.stop(Stop::Drain);
/// assert_eq!(log.try_iter().collect::<Vec<_>>(), [1, 3, 6]);
/// assert_eq!((stats.taken, stats.cancelled), (3, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Thread rule: may be sent to and stopped on any thread; [`EventSender`]s are for all threads.
pub struct EventQueue<S: 'static> {
    sender: EventSender<S>,
    thread: Option<JoinHandle<()>>,
}

impl<S: 'static> EventQueue<S> {
    /// Starts the thread, called `name`. `make` makes its state there.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub fn start(name: &str, config: QueueConfig, make: impl FnOnce() -> S + Send + 'static) -> io::Result<Self> {
        let (sender, mut receiver) = channel(config);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            receiver.consume_here();
            consume(&mut receiver, &mut make());
        })?;
        Ok(Self { sender: EventSender { sender }, thread: Some(thread) })
    }

    /// A handle by which any thread posts.
    pub fn sender(&self) -> EventSender<S> {
        self.sender.clone()
    }

    /// Refuses further events, deals with those that wait as `stop` says, and waits for the
    /// thread to end. Dropping the queue is the same with [`Stop::Drain`]. An event that stops
    /// its own queue does not wait.
    pub fn stop(mut self, stop: Stop) -> QueueStats {
        self.end(stop);
        self.sender.stats()
    }

    fn end(&mut self, stop: Stop) {
        self.sender.sender.close(stop);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic while the state was made or dropped was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl<S: 'static> Drop for EventQueue<S> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(Stop::Drain);
        }
    }
}

impl<S: 'static> fmt::Debug for EventQueue<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue").field("stats", &self.sender.stats()).finish_non_exhaustive()
    }
}

/// Posts to an [`EventQueue`] from any thread, its own events included.
///
/// Thread rule: it may be sent, shared and cloned freely.
///
/// ```
/// use netlib::event_queue::{EventQueue, PostError, QueueConfig, Stop};
///
/// let queue = EventQueue::start("audit", QueueConfig::default(), || ())?;
/// let events = queue.sender();
/// let again = events.clone();
/// events.post(move |()| drop(again.post(|()| println!("later"))))?;
/// queue.stop(Stop::Discard);
/// assert_eq!(events.post(|()| ()), Err(PostError::Closed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct EventSender<S: 'static> {
    sender: Sender<Event<S>, Parked>,
}

impl<S: 'static> EventSender<S> {
    /// Appends an event; the queue's thread runs it after all that were posted before. A panic
    /// in it is contained and counted.
    ///
    /// # Errors
    ///
    /// [`PostError`] says why; the event is dropped.
    pub fn post(&self, event: impl FnOnce(&mut S) + Send + 'static) -> Result<EventId, PostError> {
        Ok(self.sender.push(Box::new(event))?)
    }

    /// An event that runs `delay` from now: never early, late by what is running then.
    ///
    /// # Errors
    ///
    /// Those of [`post`](Self::post).
    pub fn post_delayed(
        &self,
        delay: Duration,
        event: impl FnOnce(&mut S) + Send + 'static,
    ) -> Result<EventId, PostError> {
        Ok(self.sender.push_delayed(delay, Box::new(event))?)
    }

    /// An event, delayed or not, that [`cancel_named`](Self::cancel_named) finds.
    ///
    /// # Errors
    ///
    /// Those of [`post`](Self::post).
    pub fn post_named(
        &self,
        name: impl Into<Cow<'static, str>>,
        delay: Option<Duration>,
        event: impl FnOnce(&mut S) + Send + 'static,
    ) -> Result<EventId, PostError> {
        Ok(self.sender.push_named(name, delay, Box::new(event))?)
    }

    /// Takes an event back. False if it has begun, was dropped or cancelled before.
    pub fn cancel(&self, id: EventId) -> bool {
        self.sender.cancel(id)
    }

    /// Takes all events of that name back; returns how many there were. Looks at every event
    /// that waits.
    pub fn cancel_named(&self, name: &str) -> usize {
        self.sender.cancel_named(name)
    }

    /// What the queue has seen so far.
    pub fn stats(&self) -> QueueStats {
        self.sender.stats()
    }
}

impl<S: 'static> Clone for EventSender<S> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<S: 'static> fmt::Debug for EventSender<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSender").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn consume<S>(receiver: &mut Receiver<Event<S>, Parked>, state: &mut S) {
    let measure = receiver.measures();
    let now = || if measure { Some(SystemClock.now()) } else { None };
    while let Some(event) = receiver.pop() {
        let begun = now();
        let panicked = catch_unwind(AssertUnwindSafe(|| event(state))).is_err();
        if panicked {
            log::error!("an event of the queue panicked");
        }
        let took = begun.zip(now()).map(|(begun, ended)| ended.saturating_duration_since(begun)).unwrap_or_default();
        if measure || panicked {
            receiver.ran(u64::from(panicked), took, took);
        }
    }
}
