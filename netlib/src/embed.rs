//! Running a reactor inside another event loop.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::reactor::Reactor;

impl<S: 'static> Reactor<S> {
    /// A descriptor that is readable while the reactor has events to handle, for embedding the
    /// reactor in a loop of another kind. `Unsupported` for `poll` and `select`, which keep
    /// their sets in user space: give such a reactor a thread of its own.
    ///
    /// The other loop does this, for ever:
    ///
    /// 1. [`run_once`](Self::run_once) with a limit of zero; it ends when that returns false;
    /// 2. wait until this descriptor is readable, at most for
    ///    [`next_timeout`](Self::next_timeout).
    ///
    /// Level-triggered or edge-triggered makes no difference: the reactor asks for another turn
    /// as long as the last look at the back end has found something. Whoever uses the reactor
    /// between two turns (sends, arms timers, listens through [`context`](Self::context)) does
    /// so before step 2 asks for the timeout.
    ///
    /// ```
    /// use std::time::Duration;
    /// use netlib::{BackendKind, Reactor, ReactorConfig};
    /// use rustix::event::{PollFd, PollFlags, Timespec, poll};
    ///
    /// let config = ReactorConfig { backend: Some(BackendKind::EpollLt), ..ReactorConfig::default() };
    /// let mut reactor = Reactor::<u32>::new(config)?;
    /// reactor.context().after(Duration::from_millis(5), |fired, cx| {
    ///     *fired += 1;
    ///     cx.stop();
    /// });
    /// let mut fired = 0;
    /// while reactor.run_once(&mut fired, Some(Duration::ZERO))? {
    ///     // The other loop; here a plain poll(2) of nothing but the reactor.
    ///     let timeout = reactor.next_timeout().map(|timeout| Timespec::try_from(timeout).expect("small"));
    ///     poll(&mut [PollFd::from_borrowed_fd(reactor.as_fd()?, PollFlags::IN)], timeout.as_ref())?;
    /// }
    /// assert_eq!(fired, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Unsupported` for `poll` and `select`.
    pub fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.cx.backend.as_fd().ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, format!("{} has no descriptor to watch", self.cx.backend.name()))
        })
    }

    /// How long another loop may wait before it calls [`run_once`](Self::run_once) although
    /// [`as_fd`](Self::as_fd) is not readable: until the next timer is due, not at all if work
    /// is pending; None if nothing is.
    ///
    /// It is the last question before the wait, since it also hands to the kernel what has been
    /// asked of the back end since the last turn.
    pub fn next_timeout(&mut self) -> Option<Duration> {
        // If the kernel refuses, the next turn's wait says so to whoever can deal with it.
        if self.found_events || self.cx.flush_backend().is_err() {
            return Some(Duration::ZERO);
        }
        self.timeout(None)
    }
}
