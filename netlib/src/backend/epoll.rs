//! epoll(7), with level, edge and one-shot triggering. One file serves both `epoll-lt` and
//! `epoll-et`: the trigger is chosen per registration, the name only says which one the
//! reactor asks for.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use std::{fmt, io};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::{Backend, Caps, Event, FIRST_BATCH, Interest, MAX_BATCH, Trigger};
use crate::token::Token;

/// What may stand beside EPOLLEXCLUSIVE.
const EXCLUSIVE_ALLOWS: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::OUT).union(epoll::EventFlags::ET);

pub(super) struct EpollBackend {
    name: &'static str,
    epoll: OwnedFd,
    /// Registered with no interest, and therefore not in the kernel's set: epoll reports
    /// errors and hang-ups even when asked for nothing.
    silent: HashSet<RawFd>,
    /// Registered for exclusive wake-up.
    exclusive: HashSet<RawFd>,
    /// Where the kernel writes; its capacity is the batch size.
    batch: Vec<epoll::Event>,
}

impl EpollBackend {
    pub(super) fn new(name: &'static str) -> io::Result<Self> {
        Ok(Self {
            name,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            silent: HashSet::new(),
            exclusive: HashSet::new(),
            batch: Vec::with_capacity(FIRST_BATCH),
        })
    }

    fn kernel_add(&self, fd: BorrowedFd<'_>, token: Token, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.as_u64()), flags)?)
    }

    fn flags(&self, fd: RawFd, interest: Interest, trigger: Trigger) -> io::Result<epoll::EventFlags> {
        let flags = flags(interest, trigger);
        if !self.exclusive.contains(&fd) {
            return Ok(flags);
        }
        if trigger == Trigger::OneShot {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an exclusive registration cannot be one-shot"));
        }
        // The kernel takes no other kinds of readiness together with it. A listener knows none of these.
        Ok((flags & EXCLUSIVE_ALLOWS) | epoll::EventFlags::EXCLUSIVE)
    }
}

impl fmt::Debug for EpollBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpollBackend").field("name", &self.name).field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl Backend for EpollBackend {
    fn name(&self) -> &'static str {
        self.name
    }

    fn caps(&self) -> Caps {
        Caps {
            level: true,
            edge: true,
            one_shot: true,
            o1_wait: true,
            exclusive_wakeup: true,
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
        if self.silent.contains(&fd.as_raw_fd()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Even a silent one goes through the kernel: it refuses what is registered already
        // and what cannot be polled at all.
        self.kernel_add(fd, token, flags(interest, trigger))?;
        // What is left of one that was closed unremoved.
        self.exclusive.remove(&fd.as_raw_fd());
        if interest.is_none() {
            epoll::delete(&self.epoll, fd)?;
            self.silent.insert(fd.as_raw_fd());
        }
        Ok(())
    }

    fn add_exclusive(
        &mut self,
        fd: BorrowedFd<'_>,
        token: Token,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        self.add(fd, token, Interest::NONE, trigger)?;
        self.exclusive.insert(fd.as_raw_fd());
        self.modify(fd, token, interest, trigger).inspect_err(|_| {
            self.silent.remove(&fd.as_raw_fd());
            self.exclusive.remove(&fd.as_raw_fd());
        })
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        let raw = fd.as_raw_fd();
        let flags = self.flags(raw, interest, trigger)?;
        match (self.silent.contains(&raw), interest.is_none()) {
            (true, true) => {}
            (true, false) => {
                self.kernel_add(fd, token, flags)?;
                self.silent.remove(&raw);
            }
            (false, true) => {
                epoll::delete(&self.epoll, fd)?;
                self.silent.insert(raw);
            }
            (false, false) if flags.contains(epoll::EventFlags::EXCLUSIVE) => {
                // The kernel refuses to modify these.
                epoll::delete(&self.epoll, fd)?;
                self.silent.insert(raw);
                self.kernel_add(fd, token, flags)?;
                self.silent.remove(&raw);
            }
            (false, false) => {
                epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.as_u64()), flags)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if !self.silent.remove(&fd.as_raw_fd()) {
            epoll::delete(&self.epoll, fd)?;
        }
        self.exclusive.remove(&fd.as_raw_fd());
        Ok(())
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        self.batch.clear();
        let timeout = timeout.map(whole_milliseconds);
        match epoll::wait(&self.epoll, spare_capacity(&mut self.batch), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        events.extend(self.batch.iter().map(event));
        let capacity = self.batch.capacity();
        if self.batch.len() == capacity && capacity < MAX_BATCH {
            self.batch.reserve(capacity); // it is full: this doubles it
        }
        Ok(())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }
}

fn flags(interest: Interest, trigger: Trigger) -> epoll::EventFlags {
    let mut flags = match trigger {
        Trigger::Level => epoll::EventFlags::empty(),
        Trigger::Edge => epoll::EventFlags::ET,
        Trigger::OneShot => epoll::EventFlags::ONESHOT,
    };
    if interest.is_readable() {
        flags |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::PRI;
    }
    if interest.is_writable() {
        flags |= epoll::EventFlags::OUT;
    }
    flags
}

fn event(raw: &epoll::Event) -> Event {
    // The structure is packed: copy the fields, do not borrow them.
    let (data, flags) = (raw.data, raw.flags);
    let has = |flag| flags.contains(flag);
    let error = has(epoll::EventFlags::ERR);
    let hung_up = has(epoll::EventFlags::HUP);
    let read_closed = hung_up || has(epoll::EventFlags::RDHUP);
    let urgent = has(epoll::EventFlags::PRI);
    Event {
        token: Token::from_u64(data.u64()),
        readable: has(epoll::EventFlags::IN) || read_closed || urgent || error,
        writable: has(epoll::EventFlags::OUT) || hung_up || error,
        read_closed,
        write_closed: hung_up || error,
        error,
        urgent,
    }
}

/// Rounds up to what plain epoll_wait(2) takes; its finer successor is newer than some kernels
/// and sandboxes that we run on.
fn whole_milliseconds(timeout: Duration) -> Timespec {
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
    Timespec { tv_sec: milliseconds / 1000, tv_nsec: (milliseconds % 1000) * 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_rounded_up_and_capped() {
        let rounded = |timeout| {
            let spec = whole_milliseconds(timeout);
            (spec.tv_sec, spec.tv_nsec)
        };
        assert_eq!(rounded(Duration::ZERO), (0, 0));
        assert_eq!(rounded(Duration::from_nanos(1)), (0, 1_000_000));
        assert_eq!(rounded(Duration::from_micros(1_999_001)), (2, 0));
        assert_eq!(rounded(Duration::MAX), (2_147_483, 647_000_000));
    }
}
