//! io_uring used for readiness: a poll request per registration instead of an entry in an epoll
//! set. Changes of interest wait in the submission queue for the next wait, which hands them over
//! in its own system call; only `remove` makes one of its own.
//!
//! An edge is a multishot poll, armed once. A level is a single poll, armed again by the wait
//! after the one that reported it. Traps that shape the code:
//!
//! * A request holds its *file* open. If `remove` left the cancelling to the next wait, a closed
//!   socket would send no FIN until then. So it submits.
//! * Completions of a request that was replaced may be queued already, or still come. Each arming
//!   has a sequence number, which is half of the request's `user_data`; others are stale.
//! * A request that was cancelled completes too, and would end a wait that found nothing early.
//!   Every request completes for the last time exactly once (without `F_MORE`), so a wait asks
//!   for one completion more than there are requests that were cancelled and not heard of since.
//! * A multishot poll ends by itself, for example when the completion queue is full. It is armed anew.
//! * The kernel reports RDHUP even if it is not asked for. Where reading is not of interest the
//!   poll is multishot, as a single one would be used up by that.
//! * The wake-up of a TCP socket names urgent data along with any other, and a multishot poll passes
//!   that on unchecked. So every event says `urgent`, and its owner reads until it would block: one
//!   receive more per input than with epoll.
//! * `IORING_OP_POLL_REMOVE` fails while an event is on its way; `IORING_OP_ASYNC_CANCEL` does not.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;
use std::{fmt, io};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, cqueue, opcode};
use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::{Backend, Caps, Event, Interest, Trigger, already_registered, not_registered, poll};
use crate::sys::{TimeLeft, WakeFd, enter};
use crate::token::Token;

/// Changes that wait for the next system call; more make one of their own.
const SUBMISSIONS: u32 = 256;
/// Completions that fit; past these the kernel keeps a list, and ends multishot polls.
const COMPLETIONS: u32 = 4096;
/// The `user_data` of what is not a poll. Those of polls begin with a descriptor, so they are positive.
const NOBODY: u64 = u64::MAX;
const PROBE: u64 = u64::MAX - 1;

pub(super) struct UringBackend {
    ring: IoUring,
    /// What another loop watches, once one has asked. The ring's own descriptor will not do: the
    /// kernel makes completions during our waits, and until then wakes nobody who polls the ring.
    bell: OnceCell<WakeFd>,
    /// Indexed by descriptor.
    registrations: Vec<Option<Registration>>,
    sequence: u32,
    /// Keys of registrations with something to report.
    ready: Vec<u64>,
    /// Keys of registrations to arm before the next wait.
    rearm: Vec<u64>,
    /// Requests that were cancelled and whose last completion has not been seen.
    zombies: u32,
    /// The answer to the last [`PROBE`].
    probed: i32,
}

#[derive(Clone, Copy)]
struct Registration {
    token: Token,
    interest: Interest,
    trigger: Trigger,
    /// Of the request that speaks for it.
    sequence: u32,
    /// The request is under way.
    armed: bool,
    /// What has been heard and not been reported yet.
    heard: PollFlags,
}

impl UringBackend {
    /// Fails where the kernel, a sandbox or a limit refuses any part of what is needed.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer() // the trait object is not Send
            .setup_defer_taskrun() // completions are made during our waits, not by interrupting us
            .build(SUBMISSIONS)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this io_uring has no timeouts for waits"));
        }
        let mut backend = Self {
            ring,
            bell: OnceCell::new(),
            registrations: Vec::new(),
            sequence: 0,
            ready: Vec::new(),
            rearm: Vec::new(),
            zombies: 0,
            probed: 0,
        };
        backend.rehearse()?;
        Ok(backend)
    }

    /// A sandbox may refuse single operations, which shows when they are used.
    fn rehearse(&mut self) -> io::Result<()> {
        let refused = |what| io::Error::new(io::ErrorKind::Unsupported, what);
        let ready = eventfd(1, EventfdFlags::CLOEXEC)?;
        let fd = ready.as_fd();
        self.add(fd, Token::new(0, 0), Interest::READABLE, Trigger::Edge)?;
        let mut events = Vec::new();
        self.wait(&mut events, Some(Duration::ZERO))?;
        let multishot = self.registration(fd.as_raw_fd()).is_some_and(|registration| registration.armed);
        if events.is_empty() || !multishot {
            return Err(refused("this io_uring does not do multishot polls"));
        }
        self.remove(fd)?;
        self.wait(&mut events, Some(Duration::ZERO))?;
        if self.zombies > 0 { Err(refused("this io_uring does not cancel polls")) } else { Ok(()) }
    }

    fn registration(&mut self, raw: RawFd) -> Option<&mut Registration> {
        self.registrations.get_mut(raw as usize)?.as_mut()
    }

    /// The registration for which the request speaks.
    fn current(&mut self, key: u64) -> Option<(RawFd, &mut Registration)> {
        let raw = (key >> 32) as RawFd;
        self.registration(raw).filter(|registration| registration.sequence == key as u32).map(|found| (raw, found))
    }

    fn set(&mut self, raw: RawFd, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        self.disarm(raw)?;
        let sequence = self.sequence;
        let registration = Registration { token, interest, trigger, sequence, armed: false, heard: PollFlags::empty() };
        self.registrations[raw as usize] = Some(registration);
        if interest.is_none() { Ok(()) } else { self.arm(raw) }
    }

    fn arm(&mut self, raw: RawFd) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let Some(registration) = self.registration(raw) else { return Ok(()) };
        registration.sequence = sequence;
        registration.armed = true;
        let Registration { interest, trigger, .. } = *registration;
        let multishot = trigger == Trigger::Edge || !interest.is_readable();
        let asked = u32::from(poll::flags(interest).bits());
        let entry = opcode::PollAdd::new(Fd(raw), asked).multi(multishot).build();
        self.push(&entry.user_data(key(raw, sequence)))
    }

    /// Nothing that the request in flight still says is heard from here on.
    fn disarm(&mut self, raw: RawFd) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let Some(registration) = self.registration(raw) else { return Ok(()) };
        let old = key(raw, registration.sequence);
        registration.sequence = sequence;
        registration.heard = PollFlags::empty();
        if std::mem::take(&mut registration.armed) {
            self.zombies += 1;
            let entry = opcode::AsyncCancel::new(old).build();
            self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(NOBODY))?;
        }
        Ok(())
    }

    fn rearm(&mut self) -> io::Result<()> {
        while let Some(key) = self.rearm.pop() {
            if let Some((raw, _)) = self.current(key) {
                self.disarm(raw)?;
                self.arm(raw)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        // SAFETY: None of the entries made here points to memory. A poll's descriptor is open, by
        // the contract of `add`; if that is broken the kernel says so or polls another's.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit()?;
        }
        Ok(())
    }

    /// Hands over what is queued and does what it brings about, without waiting.
    fn submit(&mut self) -> io::Result<()> {
        loop {
            match enter(&mut self.ring, 0, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel keeps completions for want of room and takes no more until there is.
                Err(error) if is_short_of_room(&error) && self.collect() > 0 => {}
                outcome => return outcome,
            }
        }
    }

    /// Takes what the completion queue holds. Returns how many completions that were.
    fn collect(&mut self) -> u32 {
        let mut seen = 0;
        loop {
            let Some(entry) = self.ring.completion().next() else { return seen };
            seen += 1;
            self.completed(entry.user_data(), entry.result(), cqueue::more(entry.flags()));
        }
    }

    fn completed(&mut self, key: u64, result: i32, more: bool) {
        if key == PROBE {
            self.probed = result;
        }
        if key >= PROBE {
            return;
        }
        let Some((raw, registration)) = self.current(key) else {
            self.zombies -= u32::from(!more);
            return;
        };
        registration.armed = more;
        if result == -libc::EBADF {
            self.registrations[raw as usize] = None; // closed without `remove`: forgotten
            return;
        }
        // Of what failed otherwise (interrupted, no memory) nothing was heard, and it is tried again.
        let said = PollFlags::from_bits_truncate(result.max(0) as u16);
        let wanted = poll::flags(registration.interest) | PollFlags::ERR | PollFlags::HUP;
        let news = said & wanted;
        let is_first = registration.heard.is_empty() && !news.is_empty();
        registration.heard |= news;
        // What never wakes a poll would complete at once for ever.
        let ended = !more && result != -libc::EINVAL && (news.is_empty() || registration.trigger == Trigger::Edge);
        if is_first {
            self.ready.push(key);
        }
        if ended {
            self.rearm.push(key);
        }
    }

    fn report(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        for key in ready.drain(..) {
            let Some((raw, registration)) = self.current(key) else { continue };
            let flags = std::mem::replace(&mut registration.heard, PollFlags::empty());
            events.push(poll::event(registration.token, flags));
            match registration.trigger {
                Trigger::Edge => {}
                Trigger::Level => self.rearm.push(key),
                Trigger::OneShot => self.disarm(raw)?,
            }
        }
        self.ready = ready;
        Ok(())
    }

    /// Whether the request in flight polls the very file that the descriptor names now. Cancels it if so.
    fn polls_same_file(&mut self, raw: RawFd) -> io::Result<bool> {
        let by_file = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(raw))).build();
        self.push(&by_file.user_data(PROBE))?;
        self.submit()?;
        self.collect();
        Ok(self.probed >= 0)
    }
}

/// The descriptor that another loop watches, made when one asks. `register` makes the kernel signal it with each
/// completion.
pub(super) fn bell(bell: &OnceCell<WakeFd>, register: impl FnOnce(RawFd) -> io::Result<()>) -> Option<BorrowedFd<'_>> {
    if bell.get().is_none() {
        let new = WakeFd::new().ok()?;
        register(new.as_fd().as_raw_fd()).ok()?;
        new.signal().ok()?; // for what has completed already
        bell.set(new).ok()?;
    }
    bell.get().map(AsFd::as_fd)
}

/// At the beginning of a wait, before the look at the queue: what comes behind it rings again.
pub(super) fn acknowledge(bell: &OnceCell<WakeFd>) -> io::Result<()> {
    bell.get().map_or(Ok(()), |bell| bell.acknowledge().map(drop))
}

fn key(raw: RawFd, sequence: u32) -> u64 {
    (raw as u64) << 32 | u64::from(sequence)
}

fn is_short_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN))
}

impl Backend for UringBackend {
    fn name(&self) -> &'static str {
        "uring-poll"
    }

    fn caps(&self) -> Caps {
        Caps {
            level: true,
            edge: true,
            one_shot: true,
            o1_wait: true,
            exclusive_wakeup: false,
            reports_read_closed: true,
            reports_error: true,
            refuses_unpollable: false,
            lets_go_of_closed: false,
            completions: false,
            max_fd: None,
            timeout_grain: Duration::from_nanos(1),
        }
    }

    fn add(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        let raw = fd.as_raw_fd();
        if raw as usize >= self.registrations.len() {
            self.registrations.resize(raw as usize + 1, None);
        }
        if let Some(known) = self.registration(raw) {
            // Registered, or closed without `remove` and its number given to another.
            if !known.armed || self.polls_same_file(raw)? {
                return Err(already_registered());
            }
        }
        self.set(raw, token, interest, trigger)
    }

    fn modify(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()> {
        let raw = fd.as_raw_fd();
        self.registration(raw).ok_or_else(not_registered)?;
        self.set(raw, token, interest, trigger)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let raw = fd.as_raw_fd();
        self.registration(raw).ok_or_else(not_registered)?;
        self.disarm(raw)?;
        self.registrations[raw as usize] = None;
        // A request of an earlier `modify` may hold the file as well.
        if self.zombies > 0 { self.submit() } else { Ok(()) }
    }

    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let mut time = TimeLeft::new(timeout);
        acknowledge(&self.bell)?;
        loop {
            self.rearm()?;
            let want = if time.is_over() || !self.ready.is_empty() { 0 } else { 1 + self.zombies };
            let ended = match enter(&mut self.ring, want, time.left()) {
                Ok(()) => false,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => true,
                Err(error) if is_short_of_room(&error) => false,
                Err(error) => return Err(error),
            };
            let seen = self.collect();
            self.report(events)?;
            // Fewer than it was to wait for: the time is over, or a signal came.
            if !events.is_empty() || ended || want == 0 || seen < want {
                return Ok(());
            }
            time.go_on();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.rearm()?;
        if !self.ready.is_empty() {
            // Taken from the queue by a change that ran out of room: make the ring readable again.
            self.push(&opcode::Nop::new().build().user_data(NOBODY))?;
        }
        if self.ring.submission().is_empty() { Ok(()) } else { self.submit() }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        bell(&self.bell, |bell| self.ring.submitter().register_eventfd(bell))
    }
}

impl Drop for UringBackend {
    /// The kernel ends the requests of a ring that is closed some time later. Until then they
    /// would hold their files open.
    fn drop(&mut self) {
        let everything = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        let _ = self.push(&everything.user_data(NOBODY));
        let _ = self.submit();
    }
}

impl fmt::Debug for UringBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringBackend").field("ring", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// The kernel reports it unasked, and a poll that it ends would be armed in a busy loop.
    #[test]
    fn a_half_close_does_not_spin_a_wait_for_room_to_write() {
        for trigger in [Trigger::Level, Trigger::Edge, Trigger::OneShot] {
            let Some(mut backend) = open() else { return };
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            while ours.write(&[0; 4096]).is_ok() {}
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            backend.add(ours.as_fd(), Token::new(1, 1), Interest::WRITABLE, trigger).unwrap();
            let before = backend.sequence;
            let mut events = Vec::new();
            backend.wait(&mut events, Some(Duration::from_millis(20))).unwrap();
            assert_eq!((events.len(), backend.sequence - before), (0, 0));
        }
    }

    /// A count that never went back to zero would make waits wait for what does not come.
    #[test]
    fn every_cancelled_request_is_heard_of_again() {
        let Some(mut backend) = open() else { return };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut events = Vec::new();
        for round in 0..32_u32 {
            let token = Token::new(1, round);
            backend.add(ours.as_fd(), token, Interest::READABLE, Trigger::Edge).unwrap();
            if round & 1 != 0 {
                backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
            }
            if round & 2 != 0 {
                theirs.write_all(b"x").unwrap(); // an event is on its way
            }
            if round & 4 != 0 {
                backend.flush().unwrap();
            }
            if round & 8 != 0 {
                backend.modify(ours.as_fd(), token, Interest::BOTH, Trigger::Edge).unwrap();
            }
            if round & 16 != 0 {
                backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
            }
            backend.remove(ours.as_fd()).unwrap();
            backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
            assert_eq!((events.len(), backend.zombies), (0, 0), "round {round}");
        }
    }

    fn open() -> Option<UringBackend> {
        match UringBackend::new() {
            Ok(backend) => Some(backend),
            Err(error) => {
                let _ = writeln!(io::stderr(), "SKIPPED uring tests: {error}");
                None
            }
        }
    }
}
