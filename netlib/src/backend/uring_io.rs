//! io_uring by completions: the bytes of plain stream connections are received into buffers that the kernel picks,
//! and sent together with the wait, so that a turn of the loop is one system call however many connections it
//! serves. Everything else (listeners, datagrams, connections under a layer or with a rate) is watched by an epoll
//! that the ring watches in turn; fetching its events is one call more.
//!
//! Received bytes come in a pool of 512 buffers of 4 KiB, which is the most that one turn brings. A connection that
//! finds the pool used up is received from again in the next.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{fmt, io};

use super::epoll::EpollBackend;
use super::uring::{acknowledge, bell};
use super::{Backend, Caps, Completions, Event, Interest, Moved, Trigger, already_registered, not_registered};
use crate::sys::{Completion, CompletionRing, Payload, TimeLeft, WakeFd};
use crate::token::Token;

/// Operations that wait for the next system call; more make one of their own.
const ENTRIES: u32 = 1024;
const BUFFERS: u16 = 512;
const BUFFER_SIZE: usize = 4 << 10;

pub(super) struct UringIoBackend {
    ring: CompletionRing,
    readiness: EpollBackend,
    /// The ring is watching `readiness`.
    watched: bool,
    /// What another loop watches, once one has asked: the ring completes during our waits, and until then wakes
    /// nobody who polls it.
    bell: OnceCell<WakeFd>,
    /// By the slots of tokens.
    receives: Vec<Receive>,
    /// Those that wait, and some that no longer do. Who has waited longest for a buffer is the first to ask for one
    /// again; a stream that the kernel is receiving from anyway may be faster.
    rearm: VecDeque<Token>,
    /// Whose the sends since the last wait are; the places are their tags.
    sends: Vec<Token>,
    completed: Vec<Completion>,
    /// Sends come first: their owners may send more when they hear what has come.
    moved: Vec<Moved>,
    received: Vec<Moved>,
}

/// A receive; its token is its tag. The kernel has at most one for each token, so that it is clear which has ended.
/// Every idle connection pays for this (`tests/memory.rs`), hence no padding.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Receive {
    generation: u32,
    stream: RawFd,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is received.
    Idle,
    /// The kernel has it, or will say that it has ended, whereupon it is begun anew.
    Armed,
    /// The kernel has ended it, or it was not its turn yet; the next wait begins it.
    Waits,
    /// It was cancelled, and the kernel has not said yet that it has ended.
    Ending,
}

impl UringIoBackend {
    /// Fails where the kernel, a sandbox or a limit refuses any part of what is needed.
    pub(super) fn new() -> io::Result<Self> {
        let mut backend = Self {
            ring: CompletionRing::new(ENTRIES, BUFFERS, BUFFER_SIZE)?,
            readiness: EpollBackend::new("uring")?,
            watched: false,
            bell: OnceCell::new(),
            receives: Vec::new(),
            rearm: VecDeque::new(),
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
        let goes_on = self.state(token) == State::Armed;
        self.stop_receiving(token)?;
        self.flush()?;
        self.wait(&mut Vec::new(), Some(Duration::ZERO))?;
        self.moved.clear();
        if received && goes_on && self.state(token) == State::Idle {
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
        while let Some(&token) = self.rearm.front() {
            if let Some(receive) = find(&mut self.receives, token)
                && receive.state == State::Waits
            {
                // SAFETY: a stream stays open until `stop_receiving`, after which it does not wait.
                let stream = unsafe { BorrowedFd::borrow_raw(receive.stream) };
                // If that fails it is still the first in line.
                self.ring.receive_multishot(&stream, tag(token))?;
                receive.state = State::Armed;
            }
            self.rearm.pop_front();
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
                    let token = Token::from_u64(tag.rotate_left(32));
                    let spurious = result.as_ref().is_err_and(is_spurious);
                    if !more {
                        self.ended(token, spurious || matches!(result, Ok(Some(_))));
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

    /// The kernel has ended the receive, though `more` may come.
    fn ended(&mut self, token: Token, more: bool) {
        let Some(receive) = find(&mut self.receives, token) else { return };
        if more && receive.state == State::Armed {
            receive.state = State::Waits;
            self.rearm.push_back(token);
        } else {
            receive.state = State::Idle;
        }
    }

    fn state(&mut self, token: Token) -> State {
        find(&mut self.receives, token).map_or(State::Idle, |receive| receive.state)
    }
}

/// Looked up apart from the rest of the back end, which goes on being used.
fn find(receives: &mut [Receive], token: Token) -> Option<&mut Receive> {
    receives.get_mut(token.slot() as usize).filter(|receive| receive.generation == token.generation())
}

/// The slot comes first: there are as many as descriptors, so its highest bit is not used.
fn tag(token: Token) -> u64 {
    token.as_u64().rotate_left(32)
}

/// Says nothing about the stream: no buffer was left, or it was cancelled.
fn is_spurious(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN))
}

impl Completions for UringIoBackend {
    fn receive(&mut self, stream: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        let (slot, generation) = (token.slot() as usize, token.generation());
        if slot >= self.receives.len() {
            if slot >= self.receives.capacity() {
                // An eighth and not, as a vector would, all of it again: each connection pays for this.
                self.receives.reserve_exact(slot + 1 + slot / 8 - self.receives.len());
            }
            self.receives.resize(slot + 1, Receive { generation: 0, stream: -1, state: State::Idle });
        }
        let state = match self.state(token) {
            State::Idle if self.rearm.is_empty() => {
                self.ring.receive_multishot(&stream, tag(token))?;
                State::Armed
            }
            State::Idle => {
                self.rearm.push_back(token); // others have waited longer
                State::Waits
            }
            State::Ending => State::Armed,
            State::Armed | State::Waits => return Err(already_registered()),
        };
        self.receives[slot] = Receive { generation, stream: stream.as_raw_fd(), state };
        Ok(())
    }

    fn stop_receiving(&mut self, token: Token) -> io::Result<()> {
        let Some(receive) = find(&mut self.receives, token) else { return Ok(()) };
        match receive.state {
            State::Armed => {
                // Also if that fails: it must not be begun anew for a stream that is closed by then.
                receive.state = State::Ending;
                self.ring.cancel_receive(tag(token))
            }
            State::Waits => {
                receive.state = State::Idle;
                Ok(())
            }
            State::Idle | State::Ending => Ok(()),
        }
    }

    fn send(&mut self, stream: BorrowedFd<'_>, token: Token, payload: Payload) -> io::Result<()> {
        self.ring.send(&stream, payload, self.sends.len() as u32)?;
        self.sends.push(token);
        Ok(())
    }

    fn take(&mut self, moved: &mut Vec<Moved>) {
        // If that fails the next wait says what came of them, and why.
        if self.ring.take_sent(&mut self.completed).is_ok() && !self.completed.is_empty() {
            self.sort();
        }
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
        let mut time = TimeLeft::new(timeout);
        acknowledge(&self.bell)?;
        loop {
            self.arm()?;
            self.ring.wait_within(&mut self.completed, &mut time)?;
            // Then the time is over, or a signal came.
            let ended = self.completed.is_empty() || time.is_over();
            if self.sort() {
                self.readiness.wait(events, Some(Duration::ZERO))?;
            }
            if ended || !events.is_empty() || !self.moved.is_empty() {
                return Ok(());
            }
            time.go_on();
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const FLOOD: Token = Token::new(0, 7);

    fn open(test: &str) -> Option<UringIoBackend> {
        UringIoBackend::new()
            .inspect_err(|error| drop(writeln!(io::stderr(), "SKIPPED {test}: the kernel refuses io_uring: {error}")))
            .ok()
    }

    fn look(backend: &mut UringIoBackend) -> Vec<Moved> {
        let mut moved = Vec::new();
        backend.wait(&mut Vec::new(), Some(Duration::ZERO)).unwrap();
        backend.take(&mut moved);
        moved
    }

    fn received(moved: &[Moved]) -> Vec<Token> {
        let token = |moved: &Moved| match moved {
            Moved::In { token, result: Ok(Some(_)) } => *token,
            other => panic!("{other:?}"),
        };
        moved.iter().map(token).collect()
    }

    /// All the buffers of the pool, full.
    fn use_the_pool_up(backend: &mut UringIoBackend) -> Vec<Moved> {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        backend.receive(far.as_fd(), FLOOD).unwrap();
        let mut held = Vec::new();
        while backend.state(FLOOD) != State::Waits {
            while near.write(&[0; BUFFER_SIZE]).is_ok() {}
            held.append(&mut look(backend));
        }
        backend.stop_receiving(FLOOD).unwrap();
        assert_eq!(held.len(), usize::from(BUFFERS));
        held
    }

    /// The last that had found none was the first to get one.
    #[test]
    fn whoever_has_waited_longest_for_a_buffer_gets_one_first() {
        let Some(mut backend) = open("turns at the pool") else { return };
        let mut held = use_the_pool_up(&mut backend);
        let mut streams: Vec<_> = (0..6).map(|_| UnixStream::pair().unwrap()).collect();
        let tokens: Vec<_> = (1..=6).map(|slot| Token::new(slot, slot)).collect();
        for ((near, far), token) in streams.iter_mut().zip(&tokens) {
            near.write_all(b"x").unwrap();
            backend.receive(far.as_fd(), *token).unwrap();
            assert!(look(&mut backend).is_empty());
        }
        for pair in tokens.chunks(2) {
            held.truncate(held.len() - 2);
            let mut moved = look(&mut backend);
            assert_eq!(received(&moved), pair);
            held.append(&mut moved);
            held.rotate_right(2); // goes on being held
        }
    }

    /// For the one place below where a ring is used on a thread that is not its own.
    struct Elsewhere<'a>(&'a mut UringIoBackend);

    // SAFETY: the thread that it is lent to is joined before anybody else uses the back end.
    unsafe impl Send for Elsewhere<'_> {}

    impl Elsewhere<'_> {
        fn wait(&mut self) -> io::Result<()> {
            self.0.wait(&mut Vec::new(), Some(Duration::ZERO))
        }
    }

    /// It was forgotten, and with it its connection.
    #[test]
    fn a_receive_that_could_not_be_begun_anew_is_reported_and_tried_again() {
        let Some(mut backend) = open("a failed re-arm") else { return };
        let held = use_the_pool_up(&mut backend);
        let (mut near, far) = UnixStream::pair().unwrap();
        let token = Token::new(1, 1);
        backend.receive(far.as_fd(), token).unwrap();
        near.write_all(b"x").unwrap();
        assert!(look(&mut backend).is_empty());
        assert_eq!(backend.state(token), State::Waits);
        drop(held);
        // What is asked for first makes room in the full queue, which the kernel refuses to any other thread.
        for _ in 0..ENTRIES {
            backend.ring.cancel_receive(u64::MAX >> 1).unwrap();
        }
        let mut elsewhere = Elsewhere(&mut backend);
        let refused = std::thread::scope(|scope| scope.spawn(move || elsewhere.wait()).join().unwrap());
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert_eq!(backend.state(token), State::Waits);
        assert_eq!(received(&look(&mut backend)), [token]);
    }

    /// In every order in which the kernel may hear of it.
    #[test]
    fn a_stream_that_is_let_go_and_wanted_again_at_once_loses_nothing() {
        let Some(mut backend) = open("wanted again") else { return };
        let (mut near, far) = UnixStream::pair().unwrap();
        let token = Token::new(3, 5);
        let (mut come, mut sent) = (Vec::new(), Vec::new());
        for round in 0..32u8 {
            backend.receive(far.as_fd(), token).unwrap();
            let mut step = |bit: u8, backend: &mut UringIoBackend| {
                if round & bit != 0 {
                    near.write_all(&[sent.len() as u8]).unwrap();
                    sent.push(sent.len() as u8);
                }
                if round & 8 != 0 {
                    backend.flush().unwrap();
                }
                if round & 16 != 0 {
                    come.append(&mut bytes(look(backend)));
                }
            };
            step(1, &mut backend);
            backend.stop_receiving(token).unwrap();
            step(2, &mut backend);
            backend.receive(far.as_fd(), token).unwrap();
            assert_eq!(backend.receive(far.as_fd(), token).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            step(4, &mut backend);
            near.write_all(&[sent.len() as u8]).unwrap();
            sent.push(sent.len() as u8);
            // Until it is armed again and has nothing left to say.
            for _ in 0..3 {
                come.append(&mut bytes(look(&mut backend)));
            }
            assert_eq!(come, sent, "round {round}");
            assert_eq!(backend.state(token), State::Armed);
            backend.stop_receiving(token).unwrap();
            assert!(look(&mut backend).is_empty());
            assert_eq!(backend.state(token), State::Idle);
        }
        // No receive is left that would hold it open.
        drop(far);
        near.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }

    fn bytes(moved: Vec<Moved>) -> Vec<u8> {
        let bytes = |moved| match moved {
            Moved::In { result: Ok(Some(bytes)), .. } => bytes.to_vec(),
            other => panic!("{other:?}"),
        };
        moved.into_iter().flat_map(bytes).collect()
    }
}
