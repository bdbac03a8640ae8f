//! Sockets by completion (`io_uring`): multishot accept, multishot receive into buffers that the kernel picks, and
//! sends that are submitted together with the wait.
//!
//! Traps that shape the code:
//!
//! * A send that waits for room holds its bytes for as long as the peer likes, and a completion per send makes every
//!   wait return at once. So sends do not wait (`MSG_DONTWAIT`): each is over when the call that submits it returns,
//!   and only one that failed or was cut short completes (`IOSQE_CQE_SKIP_SUCCESS`; `MSG_WAITALL` makes a short one
//!   count as failed).
//! * Operations name descriptors, and the kernel looks at them when it is handed the operations. Before a descriptor
//!   is closed they must have been ([`CompletionRing::submit`]), or they reach the next owner of its number.
//! * An operation holds its file open until it has completed, so a receive is cancelled before its socket is closed.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use io_uring::squeue::Flags;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::TimeLeft;
use super::ring_pool::{Buffer, Pool};

/// A ring with a pool of receive buffers. It belongs to the thread that made it.
///
/// Descriptors are borrowed for the call that names them; the kernel keeps the socket itself alive until the
/// operation has completed.
///
/// Thread rule: it belongs to the thread that made it (it is not `Send`).
///
/// ```
/// use netlib::sys::{Completion, CompletionRing};
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> std::io::Result<()> {
/// let Ok(mut ring) = CompletionRing::new(8, 8, 4096) else { return Ok(()) }; // the kernel may refuse
/// let (mut near, far) = UnixStream::pair()?;
/// ring.receive_multishot(&far, 7)?;
/// near.write_all(b"hello")?;
/// let mut done = Vec::new();
/// ring.wait(&mut done, None)?;
/// let Some(Completion::Received { tag: 7, result: Ok(Some(buffer)), .. }) = done.pop() else { panic!() };
/// assert_eq!(&buffer[..], b"hello");
/// # Ok(())
/// # }
/// ```
pub struct CompletionRing {
    /// Dropped by hand: only when nothing is in flight may the memory under it go.
    ring: ManuallyDrop<IoUring>,
    pool: ManuallyDrop<Rc<Pool>>,
    /// Since the last wait.
    sends: Vec<Sending>,
    /// Taken from the kernel's queue, to be handed over by the next wait.
    completed: Vec<Completion>,
    /// Operations of which no last completion has been seen. Sends are not among them.
    in_flight: usize,
}

/// What has happened to an operation; `tag` is what the caller gave it.
///
/// ```
/// use netlib::sys::Completion;
///
/// fn failed(completion: &Completion) -> bool {
///     match completion {
///         Completion::Accepted { result, .. } => result.is_err(),
///         Completion::Received { result, .. } => result.is_err(),
///         Completion::Ready { result, .. } => result.is_err(),
///         Completion::Sent { result, .. } => result.is_err(),
///     }
/// }
/// ```
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted, or accepting failed.
    Accepted {
        /// The caller's tag.
        tag: u32,
        /// The connection, close-on-exec.
        result: io::Result<OwnedFd>,
        /// False: this was the last; ask again for more.
        more: bool,
    },
    /// Bytes arrived, the peer ended its side (`None`), or receiving failed.
    Received {
        /// The caller's tag.
        tag: u64,
        /// The bytes; `ENOBUFS` when every buffer was in use.
        result: io::Result<Option<Buffer>>,
        /// False: this was the last; ask again for more.
        more: bool,
    },
    /// A descriptor is ready for what it was polled for, or broken.
    Ready {
        /// The caller's tag.
        tag: u32,
        /// Whether it could be polled.
        result: io::Result<()>,
    },
    /// A send is over and its bytes are the caller's again.
    Sent {
        /// The caller's tag.
        tag: u32,
        /// Bytes taken by the kernel, fewer than all if the socket had no room for more; `WouldBlock` if for none.
        result: io::Result<usize>,
        /// What was sent from.
        payload: Payload,
    },
}

/// Bytes to send; they stay with the ring until the send is over.
///
/// ```
/// use netlib::sys::{Buffer, CompletionRing, Payload};
/// use std::os::fd::AsFd;
///
/// /// Sends back what came, without a copy.
/// fn echo(ring: &mut CompletionRing, socket: &impl AsFd, received: Buffer) -> std::io::Result<()> {
///     ring.send(socket, Payload::Received(received), 0)
/// }
/// ```
#[derive(Debug)]
pub enum Payload {
    /// Straight from where they were received.
    Received(Buffer),
    /// The caller's own, which come back with the completion.
    Owned(Vec<u8>),
    /// One piece, shared with whoever else sends it.
    Shared(Bytes),
    /// Several pieces, sent as one; at most 1,024.
    Parts(Vec<Bytes>),
}

struct Sending {
    tag: u32,
    payload: Payload,
    /// What `sendmsg` is given, in place until the send is over.
    message: Option<Box<Message>>,
    /// How much of it the kernel was offered.
    offered: usize,
    /// `None` unless it completed: then all that was offered was taken.
    outcome: Option<i32>,
}

/// The kernel's view of several pieces; the first points to the second.
struct Message {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
}

/// What the `user_data` of a receive has beside its tag.
const RECEIVE: u64 = 1 << 63;
/// What another operation is, in the upper half of its `user_data`; its tag, or the index of a send, is in the lower.
const ACCEPT: u32 = 0;
const POLL: u32 = 2;
const SEND: u32 = 3;
/// Nobody waits for its completion.
const NOTE: u32 = 4;
/// The one buffer group of a ring.
const GROUP: u16 = 0;
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
/// The most that the kernel sends in one call; it takes no notice of more.
const MOST_SENT: usize = 0x7fff_f000;
/// Rounds without progress after which what was cancelled is given up when the ring is dropped.
const LAST_ROUNDS: usize = 16;

impl CompletionRing {
    /// Opens a ring with room for `entries` submissions between two waits and `buffers` (a power of two, at most
    /// 32,768) of `buffer_size` bytes each. Fails where the kernel is older than 6.1 or forbids `io_uring`.
    ///
    /// # Errors
    ///
    /// Where the kernel is too old or forbids it.
    pub fn new(entries: u32, buffers: u16, buffer_size: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(entries.saturating_mul(4))
            .build(entries)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this io_uring has no timeouts for waits"));
        }
        let pool = Pool::new(buffers, buffer_size)?;
        // SAFETY: the entries are page-aligned, zeroed, `buffers` long, and live until nothing is in flight (`drop`).
        unsafe { ring.submitter().register_buf_ring_with_flags(pool.entries_address(), buffers, GROUP, 0) }?;
        for id in 0..buffers {
            pool.give(id);
        }
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            pool: ManuallyDrop::new(Rc::new(pool)),
            sends: Vec::new(),
            completed: Vec::new(),
            in_flight: 0,
        })
    }

    /// Accepts until a completion says `more: false`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn accept_multishot(&mut self, listener: &impl AsFd, tag: u32) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.start(&entry.user_data(user_data(ACCEPT, tag)))
    }

    /// Receives until a completion says `more: false`. The highest bit of the tag is not used.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn receive_multishot(&mut self, socket: &impl AsFd, tag: u64) -> io::Result<()> {
        self.start(&opcode::RecvMulti::new(fd(socket), GROUP).build().user_data(RECEIVE | tag))
    }

    /// Ends the receives of this tag. What they have received already is still reported, and their last completion
    /// is an error, `ECANCELED`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn cancel_receive(&mut self, tag: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(RECEIVE | tag).build().flags(Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(user_data(NOTE, 0)))
    }

    /// Says once when the descriptor is readable, or, with `writable`, has room.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn poll(&mut self, descriptor: &impl AsFd, writable: bool, tag: u32) -> io::Result<()> {
        let flags = if writable { libc::POLLOUT } else { libc::POLLIN };
        self.start(&opcode::PollAdd::new(fd(descriptor), flags as u32).build().user_data(user_data(POLL, tag)))
    }

    /// Sends `payload`: as much as the socket has room for when it is submitted, all of it as a rule. The next wait
    /// says how much that was.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn send(&mut self, socket: &impl AsFd, payload: Payload, tag: u32) -> io::Result<()> {
        let index = u32::try_from(self.sends.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let offered = payload.len().min(MOST_SENT);
        let mut sending = Sending { tag, message: None, payload, offered, outcome: None };
        // Moving the payload, as the vector does when it grows, does not move its bytes: they are in the pool or on
        // the heap.
        let entry = match &sending.payload {
            Payload::Received(buffer) => send(fd(socket), buffer),
            Payload::Owned(bytes) => send(fd(socket), bytes),
            Payload::Shared(bytes) => send(fd(socket), bytes),
            Payload::Parts(parts) => {
                let message = sending.message.insert(Message::of(parts));
                opcode::SendMsg::new(fd(socket), &raw const message.header).flags(SEND_FLAGS as u32).build()
            }
        };
        self.sends.push(sending);
        let entry = entry.flags(Flags::SKIP_SUCCESS).user_data(user_data(SEND, index));
        self.push(&entry).inspect_err(|_| drop(self.sends.pop()))
    }

    /// Submits what was asked for, waits until something but a send has completed or a send has failed, at most
    /// until the time is over or a signal has come, and appends all that has completed. All sends are over then.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn wait(&mut self, completions: &mut Vec<Completion>, timeout: Option<Duration>) -> io::Result<()> {
        self.wait_within(completions, &mut TimeLeft::new(timeout))
    }

    /// [`wait`](Self::wait), perhaps one of several that share their time.
    pub(crate) fn wait_within(&mut self, completions: &mut Vec<Completion>, time: &mut TimeLeft) -> io::Result<()> {
        loop {
            let waits = !time.is_over() && self.completed.is_empty();
            let mut woken = self.enter(u32::from(waits), time.left())?;
            woken |= self.collect_all()?;
            let news = !self.completed.is_empty() || self.sends.iter().any(|sending| sending.outcome.is_some());
            // Else it was woken by a cancel that had nothing to cancel.
            if news || !waits || !woken {
                break;
            }
            time.go_on();
        }
        completions.append(&mut self.completed);
        self.end_sends(completions);
        Ok(())
    }

    /// Appends the sends that [`submit`](Self::submit) has handed over; else the next wait says what came of them.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn take_sent(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        if !self.sends.is_empty() {
            self.collect_all()?;
            self.end_sends(completions);
        }
        Ok(())
    }

    /// Hands over what the kernel has not taken yet, and takes all that it has to say. True if that was anything.
    fn collect_all(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            any |= self.collect();
            let (short, overflown) = {
                let queue = self.ring.submission();
                (!queue.is_empty(), queue.cq_overflow())
            };
            if !short && !overflown {
                return Ok(any);
            }
            any |= self.enter(0, None)?;
        }
    }

    fn end_sends(&mut self, completions: &mut Vec<Completion>) {
        completions.extend(self.sends.drain(..).map(|sending| {
            let result = match sending.outcome {
                None => Ok(sending.offered),
                Some(outcome) => outcome_of(outcome),
            };
            Completion::Sent { tag: sending.tag, result, payload: sending.payload }
        }));
    }

    /// Hands over what was asked for, without waiting. Afterwards the descriptors that it named may be closed.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            self.enter(0, None)?;
        }
        Ok(())
    }

    /// Makes the kernel signal an event descriptor with each completion.
    pub(crate) fn ring_bell(&self, bell: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(bell)
    }

    /// Interruptions, the end of the time and a full completion queue, which is emptied, are no errors. True if that
    /// was done.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<bool> {
        match enter(&mut self.ring, want, timeout) {
            Ok(()) => Ok(false),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR) => Ok(false),
                Some(libc::EBUSY | libc::EAGAIN) if self.collect() => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Takes what the completion queue holds. False if that was nothing.
    fn collect(&mut self) -> bool {
        let Self { ring, pool, sends, completed, in_flight } = self;
        let mut any = false;
        for entry in ring.completion() {
            any = true;
            let (kind, tag) = ((entry.user_data() >> 32) as u32, entry.user_data() as u32);
            if kind == NOTE {
                continue;
            }
            if kind == SEND {
                if let Some(sending) = sends.get_mut(tag as usize) {
                    sending.outcome = Some(entry.result());
                }
                continue;
            }
            let more = cqueue::more(entry.flags());
            *in_flight -= usize::from(!more);
            let result = outcome_of(entry.result());
            if entry.user_data() & RECEIVE != 0 {
                let buffer = |len| Some(Buffer::new(pool, cqueue::buffer_select(entry.flags())?, len));
                let tag = entry.user_data() & !RECEIVE;
                completed.push(Completion::Received { tag, result: result.map(buffer), more });
                continue;
            }
            completed.push(match kind {
                ACCEPT => {
                    // SAFETY: a successful accept hands over a descriptor that nobody else knows.
                    let result = result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
                    Completion::Accepted { tag, result, more }
                }
                _ => Completion::Ready { tag, result: result.map(drop) },
            });
        }
        any
    }

    fn start(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        self.push(entry)?;
        self.in_flight += 1;
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: what an entry points to lives until the operation is over: the bytes of a send and its message in
        // `sends` until the wait after it, the buffers of the pool until `drop` has seen everything complete.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.enter(0, None)?;
        }
        Ok(())
    }
}

impl Drop for CompletionRing {
    fn drop(&mut self) {
        let everything = opcode::AsyncCancel2::new(io_uring::types::CancelBuilder::any()).build();
        let cancelled = self.push(&everything.user_data(user_data(NOTE, 0)));
        let mut last = Vec::new();
        let mut rounds = 0;
        while cancelled.is_ok() && self.in_flight > 0 && rounds < LAST_ROUNDS {
            let before = self.in_flight;
            if self.wait(&mut last, Some(Duration::ZERO)).is_err() {
                break;
            }
            // The kernel does some at a time.
            rounds = if self.in_flight < before { 0 } else { rounds + 1 };
        }
        drop(last);
        // SAFETY: the ring is not used after this.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if self.in_flight == 0 {
            // SAFETY: it is not used after this, and the kernel has nothing left that points into it.
            unsafe { ManuallyDrop::drop(&mut self.pool) };
        }
        // Else it is leaked: the kernel may still be writing to it.
    }
}

impl fmt::Debug for CompletionRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionRing").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Payload {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Received(buffer) => buffer.len(),
            Self::Owned(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
            Self::Parts(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Message {
    #[allow(clippy::unnecessary_box_returns)] // it points into itself
    fn of(parts: &[Bytes]) -> Box<Self> {
        let piece = |part: &Bytes| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        let mut message = Box::new(Self {
            header: libc::msghdr {
                msg_name: ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: ptr::null_mut(),
                msg_iovlen: parts.len(),
                msg_control: ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            pieces: parts.iter().map(piece).collect(),
        });
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message
    }
}

/// Hands over what is queued, lets the kernel do what that and events bring about, and waits for `want` completions,
/// at most so long. The ring must have `IORING_FEAT_EXT_ARG`.
pub(crate) fn enter(ring: &mut IoUring, want: u32, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(Timespec::from);
    let mut args = SubmitArgs::new();
    if let Some(timeout) = &timeout {
        args = args.timespec(timeout);
    }
    let queued = ring.submission().len() as u32;
    let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
    // SAFETY: EXT_ARG says that the argument is the structure which it is; it and the time that it points to live
    // through the call.
    unsafe { ring.submitter().enter(queued, want, flags.bits(), Some(&args)) }.map(drop)
}

fn fd(descriptor: &impl AsFd) -> Fd {
    Fd(descriptor.as_fd().as_raw_fd())
}

fn send(socket: Fd, bytes: &[u8]) -> squeue::Entry {
    opcode::Send::new(socket, bytes.as_ptr(), bytes.len().min(MOST_SENT) as u32).flags(SEND_FLAGS).build()
}

fn user_data(kind: u32, tag: u32) -> u64 {
    u64::from(kind) << 32 | u64::from(tag)
}

fn outcome_of(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    fn ring(test: &str, buffers: u16) -> Option<CompletionRing> {
        CompletionRing::new(8, buffers, 64)
            .inspect_err(|error| eprintln!("SKIPPED {test}: the kernel refuses io_uring: {error}"))
            .ok()
    }

    fn next(ring: &mut CompletionRing) -> Completion {
        let mut done = Vec::new();
        ring.wait(&mut done, None).unwrap();
        assert_eq!(done.len(), 1, "{done:?}");
        done.remove(0)
    }

    /// A send that succeeds does not end a wait.
    fn at_once(ring: &mut CompletionRing) -> Completion {
        let mut done = Vec::new();
        ring.wait(&mut done, Some(Duration::ZERO)).unwrap();
        assert_eq!(done.len(), 1, "{done:?}");
        done.remove(0)
    }

    #[test]
    fn a_connection_is_accepted_and_its_bytes_come_back_from_the_buffer_they_came_in() {
        let Some(mut ring) = ring("ring echo", 4) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ring.accept_multishot(&listener, 1).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let Completion::Accepted { tag: 1, result: Ok(server), more: true } = next(&mut ring) else { panic!() };
        ring.receive_multishot(&server, 2).unwrap();
        for pass in 0..20u8 {
            client.write_all(&[pass; 16]).unwrap();
            let Completion::Received { tag: 2, result: Ok(Some(mut buffer)), more: true } = next(&mut ring) else {
                panic!()
            };
            assert_eq!(&buffer[..], [pass; 16]);
            buffer.truncate(12);
            ring.send(&server, Payload::Received(buffer), 3).unwrap();
            let Completion::Sent { tag: 3, result: Ok(12), .. } = at_once(&mut ring) else { panic!() };
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [pass; 12]);
        }
        drop(client);
        let Completion::Received { result: Ok(None), more: false, .. } = next(&mut ring) else { panic!() };
    }

    #[test]
    fn receiving_stops_with_an_error_when_all_buffers_are_held_and_goes_on_when_asked_again() {
        let Some(mut ring) = ring("ring without buffers", 1) else { return };
        let (mut near, far) = UnixStream::pair().unwrap();
        ring.receive_multishot(&far, 1).unwrap();
        near.write_all(b"one").unwrap();
        let Completion::Received { result: Ok(Some(held)), more: true, .. } = next(&mut ring) else { panic!() };
        near.write_all(b"two").unwrap();
        let Completion::Received { result: Err(error), more: false, .. } = next(&mut ring) else { panic!() };
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
        assert_eq!(&held[..], b"one");
        drop(held);
        ring.receive_multishot(&far, 1).unwrap();
        let Completion::Received { result: Ok(Some(buffer)), .. } = next(&mut ring) else { panic!() };
        assert_eq!(&buffer[..], b"two");
    }

    #[test]
    fn a_buffer_outlives_its_ring() {
        let Some(mut ring) = ring("ring dropped first", 2) else { return };
        let (mut near, far) = UnixStream::pair().unwrap();
        ring.receive_multishot(&far, 1).unwrap();
        near.write_all(b"kept").unwrap();
        let Completion::Received { result: Ok(Some(buffer)), .. } = next(&mut ring) else { panic!() };
        drop(ring);
        assert_eq!(&buffer[..], b"kept");
    }

    #[test]
    fn a_send_that_finds_too_little_room_says_how_much_it_took() {
        let Some(mut ring) = ring("ring short send", 2) else { return };
        let (near, mut far) = UnixStream::pair().unwrap();
        let parts = vec![Bytes::from(vec![1; 1 << 20]), Bytes::from(vec![2; 1 << 20])];
        ring.send(&near, Payload::Parts(parts), 1).unwrap();
        let Completion::Sent { result: Ok(taken), payload, .. } = next(&mut ring) else { panic!() };
        assert!(taken > 0 && taken < payload.len(), "{taken}");
        ring.send(&near, payload, 2).unwrap();
        let Completion::Sent { result: Err(error), .. } = next(&mut ring) else { panic!() };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut arrived = vec![0; taken];
        far.read_exact(&mut arrived).unwrap();
        assert!(arrived[..taken.min(1 << 20)].iter().all(|byte| *byte == 1));
        ring.poll(&near, true, 3).unwrap();
        let Completion::Ready { tag: 3, result: Ok(()) } = next(&mut ring) else { panic!() };
    }

    #[test]
    fn a_cancelled_receive_lets_go_of_its_socket() {
        let Some(mut ring) = ring("ring cancel", 2) else { return };
        let (mut near, far) = UnixStream::pair().unwrap();
        ring.receive_multishot(&far, 1).unwrap();
        ring.submit().unwrap();
        ring.cancel_receive(1).unwrap();
        ring.submit().unwrap();
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0); // it would wait for ever otherwise
        let Completion::Received { tag: 1, result: Err(error), more: false } = next(&mut ring) else { panic!() };
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    }

    /// Its completion ended the wait, which had found nothing.
    #[test]
    fn a_cancel_that_finds_nothing_does_not_end_a_wait() {
        const LONG: Duration = Duration::from_millis(50);
        let Some(mut ring) = ring("ring failed cancel", 2) else { return };
        let mut done = Vec::new();
        ring.cancel_receive(1).unwrap();
        let start = Instant::now();
        ring.wait(&mut done, Some(LONG)).unwrap();
        assert!(done.is_empty() && start.elapsed() >= LONG, "{done:?} after {:?}", start.elapsed());
    }

    /// The kernel cancels some at a time; what it had left to do was given up after a number of rounds, and the pool
    /// with it.
    #[test]
    fn a_ring_with_450_receives_under_way_gives_its_pool_back() {
        const RECEIVES: u64 = 450;
        let Some(mut ring) = ring("ring dropped at work", 2) else { return };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for tag in 0..RECEIVES {
            ring.receive_multishot(&socket, tag).unwrap();
        }
        ring.submit().unwrap();
        let pool = Rc::downgrade(&ring.pool);
        drop(ring);
        assert_eq!(pool.strong_count(), 0, "the pool is leaked");
    }

    /// Lengths are 32 bits wide: of 4 GiB and five bytes, five were sent, and all counted as sent.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_send_of_more_than_32_bits_of_bytes_is_cut_and_does_not_overflow() {
        let Some(mut ring) = ring("ring huge send", 2) else { return };
        let huge = vec![0; (4 << 30) + 5]; // zeroes that nobody touches take no memory
        let (near, _far) = UnixStream::pair().unwrap();
        ring.send(&near, Payload::Owned(huge), 1).unwrap();
        assert_eq!(ring.sends[0].offered, MOST_SENT);
        let Completion::Sent { result: Ok(taken), payload, .. } = at_once(&mut ring) else { panic!() };
        assert!(taken > 5 && taken < 1 << 30, "{taken}");
        // As one of several pieces.
        let Payload::Owned(huge) = payload else { panic!() };
        let (near, _far) = UnixStream::pair().unwrap();
        ring.send(&near, Payload::Parts(vec![Bytes::from_static(b"first"), Bytes::from(huge)]), 2).unwrap();
        assert_eq!(ring.sends[0].offered, MOST_SENT);
        let Completion::Sent { result: Ok(taken), .. } = at_once(&mut ring) else { panic!() };
        assert!(taken > 5 && taken < 1 << 30, "{taken}");
    }

    #[test]
    fn a_pool_that_the_kernel_would_refuse_is_refused() {
        for (buffers, size) in [(0, 64), (3, 64), (4, 0)] {
            assert_eq!(CompletionRing::new(8, buffers, size).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
