//! io_uring by completions: the bytes of plain stream connections are received into buffers that the kernel picks,
//! and sent together with the wait, so that a turn of the loop is one system call however many connections it
//! serves. Everything else (listeners, datagrams, connections under a layer or with a rate) is watched by an epoll
//! that the ring watches in turn; fetching its events is one call more.
//!
//! Received bytes come in a pool of 512 buffers of 4 KiB, which is the most that one turn brings. A connection that
//! finds the pool used up is received from again in the next.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{fmt, io};

use slab::Slab;

use super::epoll::EpollBackend;
use super::uring::bell;
use super::{Backend, Caps, Completions, Event, Interest, Moved, Trigger, not_registered};
use crate::sys::{Completion, CompletionRing, Payload, WakeFd};
use crate::token::Token;

/// Operations that wait for the next system call; more make one of their own.
const ENTRIES: u32 = 1024;
const BUFFERS: u16 = 512;
const BUFFER_SIZE: usize = 4 << 10;
/// Longer timeouts overflow the kernel's arithmetic; nobody waits for that long.
const ENDLESS: Duration = Duration::from_secs(1 << 30);

pub(super) struct UringIoBackend {
    ring: CompletionRing,
    readiness: EpollBackend,
    /// The ring is watching `readiness`.
    watched: bool,
    /// What another loop watches, once one has asked: the ring completes during our waits, and until then wakes
    /// nobody who polls it.
    bell: OnceCell<WakeFd>,
    /// Receives that have not ended; the keys are their tags.
    receives: Slab<Receive>,
    /// Which of them is a stream's present one, by the slot of its token.
    current: Vec<Option<usize>>,
    /// Those that the kernel has ended and we have not.
    rearm: Vec<usize>,
    /// Whose the sends since the last wait are; the places are their tags.
    sends: Vec<Token>,
    completed: Vec<Completion>,
    /// Sends come first: their owners may send more when they hear what has come.
    moved: Vec<Moved>,
    received: Vec<Moved>,
}

struct Receive {
    token: Token,
    stream: RawFd,
    /// Until `stop_receiving`.
    wanted: bool,
    /// The kernel has it.
    armed: bool,
}

impl UringIoBackend {
    /// Fails where the kernel, a sandbox or a limit refuses any part of what is needed.
    pub(super) fn new() -> io::Result<Self> {
        let mut backend = Self {
            ring: CompletionRing::new(ENTRIES, BUFFERS, BUFFER_SIZE)?,
            readiness: EpollBackend::new("uring")?,
            watched: false,
            bell: OnceCell::new(),
            receives: Slab::new(),
            current: Vec::new(),
            rearm: Vec::new(),
            sends: Vec::new(),
            completed: Vec::new(),
            moved: Vec::new(),
            received: Vec::new(),
        };
        backend.rehearse()?;
        Ok(backend)
    }

    /// A sandbox may refuse single operations, which shows when they are used.
    fn rehearse(&mut self) -> io::Result<()> {
        let (near, far) = UnixStream::pair()?;
        let token = Token::new(0, 0);
        self.receive(far.as_fd(), token)?;
        self.send(near.as_fd(), token, Payload::Owned(vec![0]))?;
        self.wait(&mut Vec::new(), Some(Duration::from_secs(1)))?;
        let received = self.moved.iter().any(|moved| matches!(moved, Moved::In { result: Ok(Some(_)), .. }));
        let goes_on = self.receives.iter().all(|(_, receive)| receive.armed);
        self.stop_receiving(token)?;
        self.flush()?;
        self.wait(&mut Vec::new(), Some(Duration::ZERO))?;
        self.moved.clear();
        if received && goes_on && self.receives.is_empty() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "this io_uring does not do multishot receives"))
    }

    /// Starts what has to be under way during a wait.
    fn arm(&mut self) -> io::Result<()> {
        if !self.watched {
            let Some(epoll) = self.readiness.as_fd() else { return Err(not_registered()) };
            self.ring.poll(&epoll, false, 0)?;
            self.watched = true;
        }
        while let Some(&key) = self.rearm.last() {
            if let Some(receive) = self.receives.get_mut(key) {
                // SAFETY: a stream stays open until `stop_receiving`, which takes its receive out.
                let stream = unsafe { BorrowedFd::borrow_raw(receive.stream) };
                self.ring.receive_multishot(&stream, key as u32)?;
                receive.armed = true;
            }
            self.rearm.pop();
        }
        Ok(())
    }

    /// Turns completions into what they mean. True if `readiness` has events.
    fn sort(&mut self) -> bool {
        let mut ready = false;
        let mut completed = std::mem::take(&mut self.completed);
        for completion in completed.drain(..) {
            match completion {
                Completion::Received { tag, result, more } => {
                    let Some(receive) = self.receives.get_mut(tag as usize) else { continue };
                    let token = receive.token;
                    let spurious = result.as_ref().is_err_and(is_spurious);
                    if !more {
                        receive.armed = false;
                        if receive.wanted && (spurious || matches!(result, Ok(Some(_)))) {
                            self.rearm.push(tag as usize);
                        } else {
                            self.end(tag as usize);
                        }
                    }
                    if !spurious {
                        self.received.push(Moved::In { token, result });
                    }
                }
                Completion::Sent { tag, result, payload } => {
                    self.moved.push(Moved::Out { token: self.sends[tag as usize], result, payload });
                }
                Completion::Ready { .. } => {
                    self.watched = false;
                    ready = true;
                }
                Completion::Accepted { .. } => {} // listeners are watched
            }
        }
        self.moved.append(&mut self.received);
        self.completed = completed;
        self.sends.clear();
        ready
    }

    fn end(&mut self, key: usize) {
        let receive = self.receives.remove(key);
        let current = &mut self.current[receive.token.slot() as usize];
        if *current == Some(key) {
            *current = None;
        }
    }
}

/// Says nothing about the stream: no buffer was left, or it was cancelled.
fn is_spurious(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN))
}

impl Completions for UringIoBackend {
    fn receive(&mut self, stream: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        let slot = token.slot() as usize;
        if slot >= self.current.len() {
            self.current.resize(slot + 1, None);
        }
        let receive = Receive { token, stream: stream.as_raw_fd(), wanted: true, armed: true };
        let key = self.receives.insert(receive);
        if let Err(error) = self.ring.receive_multishot(&stream, key as u32) {
            self.receives.remove(key);
            return Err(error);
        }
        self.current[slot] = Some(key);
        Ok(())
    }

    fn stop_receiving(&mut self, token: Token) -> io::Result<()> {
        let current = self.current.get_mut(token.slot() as usize);
        let Some(key) = current.and_then(Option::take) else { return Ok(()) };
        let receive = &mut self.receives[key];
        receive.wanted = false;
        if receive.armed {
            self.ring.cancel_receive(key as u32)
        } else {
            self.rearm.retain(|other| *other != key);
            self.receives.remove(key);
            Ok(())
        }
    }

    fn send(&mut self, stream: BorrowedFd<'_>, token: Token, payload: Payload) -> io::Result<()> {
        self.ring.send(&stream, payload, self.sends.len() as u32)?;
        self.sends.push(token);
        Ok(())
    }

    fn take(&mut self, moved: &mut Vec<Moved>) {
        moved.append(&mut self.moved);
    }
}

impl Backend for UringIoBackend {
    fn name(&self) -> &'static str {
        self.readiness.name()
    }

    fn caps(&self) -> Caps {
        let timeout_grain = Duration::from_nanos(1);
        // Who polls the epoll in turn is woken with all the others.
        Caps { completions: true, exclusive_wakeup: false, timeout_grain, ..self.readiness.caps() }
    }

    fn add(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        self.readiness.add(fd, token, interest, trigger)
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        self.readiness.modify(fd, token, interest, trigger)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.readiness.remove(fd)
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let mut left = timeout.filter(|timeout| *timeout < ENDLESS);
        let deadline = left.map(|left| Instant::now() + left);
        // Before the look at the queue: what comes behind it rings again.
        if let Some(bell) = self.bell.get() {
            bell.acknowledge()?;
        }
        loop {
            self.arm()?;
            self.ring.wait(&mut self.completed, left)?;
            // Then the time is over, or a signal came.
            let ended = self.completed.is_empty() || left == Some(Duration::ZERO);
            if self.sort() {
                self.readiness.wait(events, Some(Duration::ZERO))?;
            }
            if ended || !events.is_empty() || !self.moved.is_empty() {
                return Ok(());
            }
            left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let armed = self.arm();
        self.ring.submit()?;
        armed
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        bell(&self.bell, |bell| self.ring.ring_bell(bell))
    }

    fn completions(&mut self) -> Option<&mut dyn Completions> {
        Some(self)
    }
}

impl fmt::Debug for UringIoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringIoBackend").field("ring", &self.ring).finish_non_exhaustive()
    }
}
