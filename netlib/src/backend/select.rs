//! select(2), raw: three bitmaps indexed by descriptor go into the kernel and come back with
//! the ready bits left. They are ours and sized at run time, so descriptors above 1023 work:
//! that limit is of libc's `fd_set`, not of the kernel's.
//!
//! A wait costs O(highest registered descriptor), be it alone or one of thousands: three
//! bitmaps copied in and out and walked. Registering sets bits and costs no system call.
//!
//! select says less than poll: "a read would not block" covers data, the end and errors alike,
//! so `read_closed` and `error` are never set and only the read or write tells. The except set
//! means urgent data on a socket. The mechanism is level-triggered; one-shot is made from it by
//! clearing the bits of what has been reported. An edge cannot be made from it and is refused.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;
use std::{fmt, io};

use rustix::event::{FdSetElement, FdSetIter, fd_set_insert, fd_set_num_elements, fd_set_remove};

use super::{Backend, Caps, Event, Interest, Trigger, already_registered, not_registered, once, timespec};
use crate::token::Token;

#[derive(Default)]
pub(super) struct SelectBackend {
    /// Indexed by descriptor; ends with the highest registered one.
    owners: Vec<Option<Owner>>,
    /// What the kernel is asked.
    watched: Sets,
    /// A copy for the kernel to answer in.
    ready: Sets,
}

#[derive(Clone, Copy)]
struct Owner {
    token: Token,
    once: bool,
}

/// Bitmaps of equal length, with room for every registered descriptor.
#[derive(Default)]
struct Sets {
    read: Vec<FdSetElement>,
    write: Vec<FdSetElement>,
    except: Vec<FdSetElement>,
}

impl Sets {
    fn all(&mut self) -> [&mut Vec<FdSetElement>; 3] {
        [&mut self.read, &mut self.write, &mut self.except]
    }

    fn resize(&mut self, len: usize) {
        for set in self.all() {
            set.resize(len, FdSetElement::default());
        }
    }

    fn set(&mut self, raw: RawFd, interest: Interest) {
        let wanted = [interest.is_readable(), interest.is_writable(), interest.is_readable()];
        for (set, wanted) in self.all().into_iter().zip(wanted) {
            if wanted {
                fd_set_insert(set, raw);
            } else {
                fd_set_remove(set, raw);
            }
        }
    }

    fn copy_from(&mut self, other: &mut Self) {
        for (set, from) in self.all().into_iter().zip(other.all()) {
            set.clone_from(from);
        }
    }
}

impl SelectBackend {
    fn owner(&self, raw: RawFd) -> Option<Owner> {
        self.owners.get(raw as usize).copied().flatten()
    }

    /// The sets follow the highest registered descriptor, upwards and downwards.
    fn fit(&mut self) {
        while let Some(None) = self.owners.last() {
            self.owners.pop();
        }
        self.watched.resize(fd_set_num_elements(self.owners.len(), self.bound()));
    }

    /// One more than the highest registered descriptor.
    fn bound(&self) -> RawFd {
        self.owners.len() as RawFd
    }

    fn forget(&mut self, raw: RawFd) {
        self.watched.set(raw, Interest::NONE);
        self.owners[raw as usize] = None;
        self.fit();
    }

    /// Forgets what was closed without `remove`, as epoll does: one such descriptor would fail
    /// every wait from now on.
    fn forget_closed(&mut self) {
        for raw in 0..self.bound() {
            // SAFETY: Only asks for the flags of the number; one that is closed is an error.
            let fd = unsafe { BorrowedFd::borrow_raw(raw) };
            if self.owner(raw).is_some() && rustix::io::fcntl_getfd(fd).is_err() {
                self.forget(raw);
            }
        }
    }
}

impl fmt::Debug for SelectBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectBackend").field("bound", &self.bound()).finish_non_exhaustive()
    }
}

impl Backend for SelectBackend {
    fn name(&self) -> &'static str {
        "select"
    }

    fn caps(&self) -> Caps {
        Caps {
            level: true,
            edge: false,
            one_shot: true,
            o1_wait: false,
            exclusive_wakeup: false,
            reports_read_closed: false,
            reports_error: false,
            refuses_unpollable: false,
            lets_go_of_closed: true,
            completions: false,
            max_fd: None,
            timeout_grain: Duration::from_nanos(1),
        }
    }

    fn add(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        let owner = Owner { token, once: once(trigger)? };
        let raw = fd.as_raw_fd();
        if self.owner(raw).is_some() {
            return Err(already_registered());
        }
        if raw >= self.bound() {
            self.owners.resize(raw as usize + 1, None);
        }
        self.owners[raw as usize] = Some(owner);
        self.fit();
        self.watched.set(raw, interest);
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        let owner = Owner { token, once: once(trigger)? };
        let raw = fd.as_raw_fd();
        if self.owner(raw).is_none() {
            return Err(not_registered());
        }
        self.owners[raw as usize] = Some(owner);
        self.watched.set(raw, interest);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.owner(fd.as_raw_fd()).is_none() {
            return Err(not_registered());
        }
        self.forget(fd.as_raw_fd());
        Ok(())
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        self.ready.copy_from(&mut self.watched);
        let Sets { read, write, except } = &mut self.ready;
        // SAFETY: The callers of `add` keep their descriptors open until `remove`, which clears
        // their bits. If that rule is broken the kernel is asked about a number that is closed
        // (it answers EBADF, see below) or another's: nothing is read, written or closed.
        let outcome = unsafe {
            let bound = self.owners.len() as RawFd;
            rustix::event::select(bound, Some(read), Some(write), Some(except), timespec(timeout).as_ref())
        };
        match outcome {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(rustix::io::Errno::BADF) => {
                self.forget_closed();
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        }

        let mut read = FdSetIter::new(read).peekable();
        let mut write = FdSetIter::new(write).peekable();
        let mut except = FdSetIter::new(except).peekable();
        // Each yields ascending numbers: merge them, one event for a number.
        while let Some(raw) = [read.peek(), write.peek(), except.peek()].into_iter().flatten().copied().min() {
            let readable = read.next_if_eq(&raw).is_some();
            let writable = write.next_if_eq(&raw).is_some();
            let urgent = except.next_if_eq(&raw).is_some();
            let Some(Owner { token, once }) = self.owners[raw as usize] else { continue };
            events.push(Event {
                token,
                readable: readable || urgent,
                writable,
                read_closed: false,
                write_closed: false,
                error: false,
                urgent,
            });
            if once {
                self.watched.set(raw, Interest::NONE);
            }
        }
        Ok(())
    }
}
