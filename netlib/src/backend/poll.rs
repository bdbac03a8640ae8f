//! poll(2), raw. The kernel keeps nothing between calls: every wait hands it the whole array
//! and is told the answer in it. So registering costs no system call, and a wait costs O(n) in
//! the descriptors that are watched, however few of them are ready.
//!
//! The array is dense, with an index by descriptor beside it: add, modify and remove are O(1),
//! the last entry filling the gap. The mechanism is level-triggered; one-shot is made from it by
//! leaving out what has been reported. An edge cannot be made from it and is refused.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags};

use super::{Backend, Caps, Event, Interest, Trigger, already_registered, not_registered, once, timespec};
use crate::token::Token;

#[derive(Default)]
pub(super) struct PollBackend {
    /// What the kernel is asked.
    watched: Vec<PollFd<'static>>,
    /// Whose it is: one entry for each of `watched`.
    owners: Vec<Owner>,
    /// Indexed by descriptor.
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Owner {
    token: Token,
    once: bool,
}

/// Where a descriptor stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Unregistered,
    /// Registered with no interest, or a one-shot that has fired. Not in the array, because
    /// poll reports errors and hang-ups even when asked for nothing.
    Silent,
    Watched(usize),
}

impl PollBackend {
    fn place(&self, raw: RawFd) -> Place {
        self.places.get(raw as usize).copied().unwrap_or(Place::Unregistered)
    }

    fn set_place(&mut self, raw: RawFd, place: Place) {
        let index = raw as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, Place::Unregistered);
        }
        self.places[index] = place;
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, owner: Owner, interest: Interest) {
        let raw = fd.as_raw_fd();
        // SAFETY: The caller of `add` keeps the descriptor open until `remove`, which takes this
        // entry out. If that rule is broken the kernel is asked about a number that is closed
        // (it answers POLLNVAL, see `wait`) or another's: nothing is read, written or closed.
        let fd: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(raw) };
        let entry = PollFd::from_borrowed_fd(fd, flags(interest));
        if let Place::Watched(index) = self.place(raw) {
            self.watched[index] = entry;
            self.owners[index] = owner;
        } else {
            self.set_place(raw, Place::Watched(self.watched.len()));
            self.watched.push(entry);
            self.owners.push(owner);
        }
    }

    /// Takes an entry out of the array; the last one moves into its place.
    fn unwatch(&mut self, index: usize, left: Place) {
        let gone = self.watched.swap_remove(index).as_fd().as_raw_fd();
        self.owners.swap_remove(index);
        if let Some(moved) = self.watched.get(index) {
            self.set_place(moved.as_fd().as_raw_fd(), Place::Watched(index));
        }
        self.set_place(gone, left);
    }

    fn set(&mut self, fd: BorrowedFd<'_>, owner: Owner, interest: Interest) {
        match (self.place(fd.as_raw_fd()), interest.is_none()) {
            (_, false) => self.watch(fd, owner, interest),
            (Place::Watched(index), true) => self.unwatch(index, Place::Silent),
            (Place::Unregistered | Place::Silent, true) => self.set_place(fd.as_raw_fd(), Place::Silent),
        }
    }
}

impl fmt::Debug for PollBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollBackend").field("watched", &self.watched.len()).finish_non_exhaustive()
    }
}

impl Backend for PollBackend {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn caps(&self) -> Caps {
        Caps {
            level: true,
            edge: false,
            one_shot: true,
            o1_wait: false,
            exclusive_wakeup: false,
            reports_read_closed: true,
            reports_error: true,
            refuses_unpollable: false,
            lets_go_of_closed: true,
            completions: false,
            max_fd: None,
            timeout_grain: Duration::from_nanos(1),
        }
    }

    fn add(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        let owner = Owner { token, once: once(trigger)? };
        if self.place(fd.as_raw_fd()) != Place::Unregistered {
            return Err(already_registered());
        }
        self.set(fd, owner, interest);
        Ok(())
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        let owner = Owner { token, once: once(trigger)? };
        if self.place(fd.as_raw_fd()) == Place::Unregistered {
            return Err(not_registered());
        }
        self.set(fd, owner, interest);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self.place(fd.as_raw_fd()) {
            Place::Unregistered => return Err(not_registered()),
            Place::Silent => self.set_place(fd.as_raw_fd(), Place::Unregistered),
            Place::Watched(index) => self.unwatch(index, Place::Unregistered),
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let mut left = match rustix::event::poll(&mut self.watched, timespec(timeout).as_ref()) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let mut index = 0;
        while left > 0 && index < self.watched.len() {
            let flags = self.watched[index].revents();
            let Owner { token, once } = self.owners[index];
            left -= usize::from(!flags.is_empty());
            if flags.contains(PollFlags::NVAL) {
                // Closed without `remove`: forgotten, as epoll forgets it.
                self.unwatch(index, Place::Unregistered);
                continue;
            }
            if !flags.is_empty() {
                events.push(event(token, flags));
                if once {
                    self.unwatch(index, Place::Silent);
                    continue;
                }
            }
            index += 1;
        }
        Ok(())
    }
}

pub(super) fn flags(interest: Interest) -> PollFlags {
    let mut flags = PollFlags::empty();
    if interest.is_readable() {
        flags |= PollFlags::IN | PollFlags::RDHUP | PollFlags::PRI;
    }
    if interest.is_writable() {
        flags |= PollFlags::OUT;
    }
    flags
}

pub(super) fn event(token: Token, flags: PollFlags) -> Event {
    let has = |flag| flags.contains(flag);
    let error = has(PollFlags::ERR);
    let hung_up = has(PollFlags::HUP);
    let read_closed = hung_up || has(PollFlags::RDHUP);
    let urgent = has(PollFlags::PRI);
    Event {
        token,
        readable: has(PollFlags::IN) || read_closed || urgent || error,
        writable: has(PollFlags::OUT) || hung_up || error,
        read_closed,
        write_closed: hung_up || error,
        error,
        urgent,
    }
}
