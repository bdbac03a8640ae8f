//! mio: one mechanism per operating system behind one interface, chosen when it is compiled
//! (epoll here, kqueue on the BSDs). Always edge-triggered. Descriptors are registered through
//! its `SourceFd`, so that sockets are the same objects under every back end.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use ::mio::unix::SourceFd;

use super::{Backend, Caps, Event, FIRST_BATCH, Interest, MAX_BATCH, Trigger};
use crate::token::Token;

#[derive(Debug)]
pub(super) struct MioBackend {
    poll: ::mio::Poll,
    batch: ::mio::Events,
    /// Registered with no interest, which mio cannot express, and therefore not with mio.
    silent: HashSet<RawFd>,
}

impl MioBackend {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { poll: ::mio::Poll::new()?, batch: ::mio::Events::with_capacity(FIRST_BATCH), silent: HashSet::new() })
    }
}

impl Backend for MioBackend {
    fn name(&self) -> &'static str {
        "mio"
    }

    fn caps(&self) -> Caps {
        Caps {
            level: false,
            edge: true,
            one_shot: false,
            o1_wait: true,
            exclusive_wakeup: false,
            reports_read_closed: true,
            reports_error: true,
            refuses_unpollable: true,
            lets_go_of_closed: true,
            completions: false,
            max_fd: None,
            timeout_grain: Duration::from_millis(1),
        }
    }

    fn add(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        edge_only(trigger)?;
        let raw = fd.as_raw_fd();
        if self.silent.contains(&raw) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Even a silent one passes through mio: the kernel refuses what is registered already
        // and what cannot be polled at all.
        let asked = mio_interest(interest).unwrap_or(::mio::Interest::READABLE);
        self.poll.registry().register(&mut SourceFd(&raw), mio_token(token)?, asked)?;
        if interest.is_none() {
            self.poll.registry().deregister(&mut SourceFd(&raw))?;
            self.silent.insert(raw);
        }
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        edge_only(trigger)?;
        let raw = fd.as_raw_fd();
        let registry = self.poll.registry();
        match (self.silent.contains(&raw), mio_interest(interest)) {
            (true, None) => {}
            (true, Some(asked)) => {
                registry.register(&mut SourceFd(&raw), mio_token(token)?, asked)?;
                self.silent.remove(&raw);
            }
            (false, None) => {
                registry.deregister(&mut SourceFd(&raw))?;
                self.silent.insert(raw);
            }
            (false, Some(asked)) => {
                registry.reregister(&mut SourceFd(&raw), mio_token(token)?, asked)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let raw = fd.as_raw_fd();
        if self.silent.remove(&raw) {
            return Ok(());
        }
        self.poll.registry().deregister(&mut SourceFd(&raw))
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        match self.poll.poll(&mut self.batch, timeout) {
            Ok(()) => {}
            // mio keeps the previous batch when the wait fails.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        events.extend(self.batch.iter().map(event));
        let capacity = self.batch.capacity();
        if events.len() == capacity && capacity < MAX_BATCH {
            self.batch = ::mio::Events::with_capacity(2 * capacity);
        }
        Ok(())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: The selector's descriptor is open for as long as `self.poll`, which the result borrows.
        Some(unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) })
    }
}

fn edge_only(trigger: Trigger) -> io::Result<()> {
    match trigger {
        Trigger::Edge => Ok(()),
        Trigger::Level | Trigger::OneShot => Err(io::Error::new(io::ErrorKind::Unsupported, "mio is edge-triggered")),
    }
}

fn mio_token(token: Token) -> io::Result<::mio::Token> {
    usize::try_from(token.as_u64())
        .map(::mio::Token)
        .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "mio's tokens are too small for a generation here"))
}

/// `None` for no interest.
fn mio_interest(interest: Interest) -> Option<::mio::Interest> {
    let readable = interest.is_readable().then(|| {
        // Only these know urgent data as an interest of its own.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return ::mio::Interest::READABLE | ::mio::Interest::PRIORITY;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        return ::mio::Interest::READABLE;
    });
    let writable = interest.is_writable().then_some(::mio::Interest::WRITABLE);
    match (readable, writable) {
        (Some(readable), Some(writable)) => Some(readable | writable),
        (readable, writable) => readable.or(writable),
    }
}

fn event(raw: &::mio::event::Event) -> Event {
    let error = raw.is_error();
    let read_closed = raw.is_read_closed();
    let write_closed = raw.is_write_closed() || error;
    let urgent = raw.is_priority();
    Event {
        token: Token::from_u64(raw.token().0 as u64),
        readable: raw.is_readable() || read_closed || urgent || error,
        writable: raw.is_writable() || write_closed,
        read_closed,
        write_closed,
        error,
        urgent,
    }
}
