//! `Conn`: the refcounted handle of a stream connection. The callbacks that serve it are in
//! `handler.rs`.
//!
//! A handle only queues and marks. The work is done by the reactor in *Flush* and
//! *Reap* (`conn_io.rs`, `conn_close.rs`), so no call here can run another callback.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::buffer::OutputBuffer;
use crate::conn_options::{CloseReason, ConnOptions, OutputPolicy, SendError};
use crate::group::Group;
use crate::socket::Address;
use crate::sys::Payload;
use crate::token::Token;
use crate::transport::Transport;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The connect is under way; sends are queued.
    Connecting,
    /// The socket is connected, its layer is not agreed upon yet; sends are queued.
    Handshaking,
    Open,
    /// Closed by either side; `on_close` comes in this tick's *Reap*.
    Closing,
    /// `on_close` is done; the rest of the output and the peer's FIN are awaited.
    Lingering,
    /// To be freed, or freed.
    Dead,
}

/// One bit each in [`Inner::flags`].
pub(crate) mod flag {
    /// Stands in the loop's list of connections to look at in *Flush*.
    pub(crate) const MARKED: u32 = 1;
    /// Paused by [`super::Conn::pause`].
    pub(crate) const PAUSED: u32 = 1 << 1;
    /// Paused by the output policy.
    pub(crate) const PAUSED_BY_OUTPUT: u32 = 1 << 2;
    /// The output is over the high mark and that was reported.
    pub(crate) const ABOVE_HIGH: u32 = 1 << 3;
    /// A write came back short: wait for writability before the next.
    pub(crate) const BLOCKED: u32 = 1 << 4;
    /// The peer's FIN was read.
    pub(crate) const EOF: u32 = 1 << 5;
    /// Unsent output is to be dropped.
    pub(crate) const ABORT: u32 = 1 << 6;
    /// The handler was replaced while it ran: it gets no more input.
    pub(crate) const REPLACED: u32 = 1 << 7;
    /// Reading was resumed: look for input although no event says so.
    pub(crate) const RESUMED: u32 = 1 << 8;
    /// Stands in the loop's local ready list.
    pub(crate) const READY: u32 = 1 << 9;
    /// Our FIN has been sent.
    pub(crate) const FIN_SENT: u32 = 1 << 10;
    /// The idle timeout was changed: the timer is to be set anew.
    pub(crate) const IDLE_CHANGED: u32 = 1 << 11;
    /// Our FIN follows what is queued; no more may be sent.
    pub(crate) const FINISHED: u32 = 1 << 12;
    /// The layer was told to say good-bye.
    pub(crate) const LAYER_CLOSED: u32 = 1 << 13;
    /// Reading rests until the rate allows more.
    pub(crate) const PAUSED_BY_RATE: u32 = 1 << 14;
    /// Writing rests until the rate allows more.
    pub(crate) const WRITE_RESTS: u32 = 1 << 15;
    /// It has been read in this *Ready* already, and after its events were reported: they bring
    /// nothing new.
    pub(crate) const VISITED: u32 = 1 << 17;
    /// There is a layer over the socket.
    pub(crate) const LAYERED: u32 = 1 << 16;

    /// The back end moves its bytes (`conn_complete.rs`).
    pub(crate) const COMPLETES: u32 = 1 << 18;
    /// The back end is sending for it; nothing else may be written.
    pub(crate) const SENDING: u32 = 1 << 19;
    /// The back end has seen the end of the input; what comes before it may wait in the tail.
    pub(crate) const ENDED: u32 = 1 << 20;

    /// It has a rate or a limit of input: bytes are accounted for.
    pub(crate) const METERED: u32 = 1 << 21;

    /// Any of these, and nothing is read.
    pub(crate) const NO_READING: u32 = PAUSED | PAUSED_BY_OUTPUT | PAUSED_BY_RATE;
}

/// Every byte here is paid for by each idle connection: `tests/memory.rs` counts them. What each request touches comes
/// first, side by side, since the kernel has the caches to itself between one call and the next.
#[repr(C)]
pub(crate) struct Inner {
    pub(crate) token: Token,
    pub(crate) flags: Cell<u32>,
    pub(crate) state: Cell<State>,
    pub(crate) group: Rc<Group>,
    pub(crate) transport: RefCell<Transport>,
    /// Taken from the loop's spare ones while something is queued.
    output: RefCell<Option<Box<OutputBuffer>>>,
    /// In nanoseconds since the loop's epoch, as is the next.
    last_recv: Cell<u64>,
    last_send: Cell<u64>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    /// In nanoseconds; 0 is none.
    idle_timeout: Cell<u64>,
    /// Not known until a connect by name has found the address that answers.
    pub(crate) peer: OnceCell<Address>,
}

/// The handle of a stream connection. Cloning shares it (the C++ `AddRef`),
/// dropping gives it back; neither opens nor closes anything.
///
/// Thread rule: it belongs to its reactor's thread (it is not `Send`). To reach a
/// connection from another thread, take a [`RemoteConn`](crate::RemoteConn), which posts.
///
/// ```
/// use bytes::Bytes;
/// use netlib::{Conn, SendError};
///
/// /// One announcement to everybody: the bytes are shared, not copied.
/// fn announce(text: &Bytes, conns: &[Conn]) {
///     for conn in conns {
///         if conn.send(text.clone()) == Err(SendError::Full) {
///             conn.abort(); // it does not keep up
///         }
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Conn(pub(crate) Rc<Inner>);

impl Conn {
    pub(crate) fn new(
        token: Token,
        group: Rc<Group>,
        transport: Transport,
        peer: Option<Address>,
        state: State,
    ) -> Self {
        let now = group.shared.nanos.get();
        let idle_timeout = Cell::new(in_nanos(group.options.idle_timeout));
        let mut flags = if transport.is_layered() { flag::LAYERED } else { 0 };
        if group.options.meters() {
            flags |= flag::METERED;
        }
        group.live.set(group.live.get() + 1);
        Self(Rc::new(Inner {
            token,
            group,
            transport: RefCell::new(transport),
            output: RefCell::new(None),
            state: Cell::new(state),
            flags: Cell::new(flags),
            peer: peer.map_or_else(OnceCell::new, OnceCell::from),
            idle_timeout,
            last_recv: Cell::new(now),
            last_send: Cell::new(now),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
        }))
    }

    /// Identifies the connection within its reactor, for as long as that lives.
    pub fn id(&self) -> Token {
        self.0.token
    }

    /// Queues `bytes` for this tick's *Flush*, which writes everything queued at
    /// once. The bytes are shared and not copied, so one message may go to many
    /// connections. While a connect or handshake is under way they wait for it.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], also when this very send reached the output limit;
    /// [`SendError::Full`] under [`OutputPolicy::Drop`].
    pub fn send(&self, bytes: impl Into<Bytes>) -> Result<(), SendError> {
        let bytes = bytes.into();
        self.queue(bytes.len(), |output| output.push(bytes))
    }

    /// [`send`](Self::send) of a copy: for small answers that are made in place. Copies
    /// that follow each other leave as one piece, and allocate nothing when the
    /// socket takes them at once.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub fn send_slice(&self, bytes: &[u8]) -> Result<(), SendError> {
        self.queue(bytes.len(), |output| output.push_slice(bytes))
    }

    /// [`send`](Self::send) of several parts, all of them or none. They leave in one
    /// vectored write.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub fn send_parts(&self, parts: &[Bytes]) -> Result<(), SendError> {
        let len = parts.iter().map(Bytes::len).sum();
        self.queue(len, |output| parts.iter().for_each(|part| output.push(part.clone())))
    }

    /// Queues `len` bytes of a file from `offset` on. The kernel sends them from its
    /// cache when their turn comes (sendfile); under a [layer](crate::layer) they
    /// are read piece by piece. Either way a slow disk holds up the loop. They count
    /// for [`queued`](Self::queued) but not for the marks and limits, since they take
    /// no memory. A file that has become shorter by then ends the connection.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`]; and `Full` under [`OutputPolicy::Drop`](crate::OutputPolicy::Drop).
    pub fn send_file(&self, file: &Rc<OwnedFd>, offset: u64, len: u64) -> Result<(), SendError> {
        self.queue(0, |output| output.push_file(Rc::clone(file), offset, len))
    }

    /// `len` is what `push` adds to memory.
    fn queue(&self, len: usize, push: impl FnOnce(&mut OutputBuffer)) -> Result<(), SendError> {
        let inner = &self.0;
        let group = &*inner.group;
        if !self.is_open() || self.has(flag::FINISHED) {
            return Err(SendError::Closed);
        }
        let mut output = inner.output.borrow_mut();
        if let Some(waiting) = &*output {
            // What the back end has is out of its way by the next tick, unless the peer is slow: then it comes back.
            let queued = waiting.in_memory() - waiting.in_flight();
            if queued > 0 && queued + len > group.most_queued {
                drop(output);
                self.make_room(len)?;
                output = inner.output.borrow_mut();
            }
        }
        if output.is_none() {
            *output = Some(group.shared.take_buffer());
        }
        let Some(buffer) = &mut *output else { return Ok(()) };
        push(buffer);
        if buffer.is_empty() {
            // Nothing was sent, and *Flush* would not see to it.
            drop(output);
            self.clear_output();
            return Ok(());
        }
        inner.last_send.set(group.shared.nanos.get());
        if group.options.policy == OutputPolicy::Pause && buffer.in_memory() >= group.options.high_water {
            // Now, not in *Flush*: what is left of this tick's input would go on.
            self.set(flag::PAUSED_BY_OUTPUT);
        }
        self.mark();
        Ok(())
    }

    /// One tick's input can ask for more output than may wait. That alone does not make the
    /// peer a slow one: see what it takes now.
    #[cold]
    fn make_room(&self, len: usize) -> Result<(), SendError> {
        // Not past a rate, which the loop keeps account of.
        if self.options().write_rate.is_none() {
            self.write_now(u64::MAX);
        }
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        let in_flight = self.0.output.borrow().as_ref().map_or(0, |output| output.in_flight());
        let queued = self.in_memory() - in_flight;
        if queued == 0 || queued + len <= self.0.group.most_queued {
            return Ok(());
        }
        if self.options().policy == OutputPolicy::Drop {
            return Err(SendError::Full);
        }
        self.end(CloseReason::OutputLimit, true);
        Err(SendError::Closed)
    }

    /// Writes what is queued, about `budget` bytes of it, until the socket takes no
    /// more; returns how much. An error ends the connection.
    #[inline(always)]
    pub(crate) fn write_now(&self, budget: u64) -> u64 {
        let inner = &self.0;
        if matches!(inner.state.get(), State::Connecting | State::Handshaking) {
            return 0;
        }
        let mut written = 0;
        let outcome = if self.has(flag::LAYERED) {
            self.write_layered(budget, &mut written)
        } else {
            self.write_plain(budget, &mut written)
        };
        inner.bytes_out.set(inner.bytes_out.get() + written);
        inner.group.shared.bytes_out.set(inner.group.shared.bytes_out.get() + written);
        if let Err(error) = outcome {
            self.write_failed(&error);
        }
        written
    }

    #[inline(always)]
    fn write_plain(&self, budget: u64, written: &mut u64) -> io::Result<()> {
        let mut slot = self.0.output.borrow_mut();
        let Some(output) = &mut *slot else { return Ok(()) };
        let transport = self.0.transport.borrow();
        let Some(stream) = transport.stream() else { return Err(io::ErrorKind::NotConnected.into()) };
        while *written < budget && !self.has(flag::BLOCKED | flag::SENDING) {
            let progress = output.write_to(stream)?;
            *written += progress.written as u64;
            if output.is_empty() {
                if let Some(output) = slot.take() {
                    self.0.group.shared.give_back(output);
                }
                break;
            }
            if progress.blocked {
                self.set(flag::BLOCKED);
            } else if progress.written == 0 {
                break; // it may not go on for now
            }
        }
        Ok(())
    }

    /// The layer's own bytes as well.
    #[inline(never)]
    fn write_layered(&self, budget: u64, written: &mut u64) -> io::Result<()> {
        let mut slot = self.0.output.borrow_mut();
        let mut transport = self.0.transport.borrow_mut();
        while *written < budget && !self.has(flag::BLOCKED | flag::SENDING) {
            let progress = match &mut *slot {
                Some(output) if !output.is_empty() => transport.write(output)?,
                _ if transport.pending() > 0 => transport.write(&mut OutputBuffer::new())?,
                _ => break,
            };
            *written += progress.written as u64;
            if progress.blocked {
                self.set(flag::BLOCKED);
            } else if progress.written == 0 && transport.pending() == 0 {
                break; // it may not go on for now
            }
        }
        if let Some(output) = slot.take_if(|output| output.is_empty()) {
            self.0.group.shared.give_back(output);
        }
        Ok(())
    }

    #[cold]
    fn write_failed(&self, error: &io::Error) {
        let reason = match error.kind() {
            // Of a file that is shorter than was said: no fault of the peer's.
            io::ErrorKind::UnexpectedEof => CloseReason::Io(error.kind()),
            _ => CloseReason::from_io(error),
        };
        self.end(reason, true);
    }

    /// Lets only so much of the output leave for now.
    pub(crate) fn allow_output(&self, bytes: u64) {
        if let Some(output) = &mut *self.0.output.borrow_mut() {
            output.allow(bytes);
        }
    }

    /// Something is to be written, be it the layer's own.
    #[inline(always)]
    pub(crate) fn has_output(&self) -> bool {
        self.queued() > 0 || (self.has(flag::LAYERED) && self.0.transport.borrow().pending() > 0)
    }

    pub(crate) fn clear_output(&self) {
        if let Some(mut output) = self.0.output.take() {
            output.clear();
            self.0.group.shared.give_back(output);
        }
    }

    /// Ends our side in order and leaves the peer's open: what is queued is flushed,
    /// then FIN. Further sends are refused; input goes on to arrive, until the peer's own
    /// end. A second call does nothing.
    pub fn finish(&self) {
        if self.is_open() && !self.has(flag::FINISHED) {
            self.set(flag::FINISHED);
            self.mark();
        }
    }

    /// Closes in order: what is queued is flushed, then FIN, then the peer's FIN is
    /// awaited, all within [`ConnOptions::linger`]. No callback but `on_close` (in
    /// this tick's *Reap*) comes any more. Closing twice does nothing.
    pub fn close(&self) {
        self.close_with(CloseReason::Local);
    }

    /// [`close`](Self::close) with another reason.
    pub fn close_with(&self, reason: CloseReason) {
        self.end(reason, false);
    }

    /// Drops the connection; queued output is lost.
    pub fn abort(&self) {
        self.end(CloseReason::Aborted, true);
    }

    pub(crate) fn end(&self, reason: CloseReason, abort: bool) {
        let was_open = self.is_open();
        // A connect that is given up has nothing to flush to.
        if abort || matches!(self.0.state.get(), State::Connecting | State::Handshaking) {
            self.clear_output();
            if !self.take(flag::ABORT) {
                self.mark();
            }
            self.set(flag::ABORT);
        }
        if was_open {
            self.0.group.shared.reasons.borrow_mut().insert(self.0.token, reason);
            self.0.state.set(State::Closing);
            self.mark();
        }
    }

    /// Stops reading. What is already buffered is not delivered either.
    pub fn pause(&self) {
        if self.is_open() && !self.has(flag::PAUSED) {
            self.set(flag::PAUSED);
            self.mark();
        }
    }

    /// Reads again, from the next tick on.
    pub fn resume(&self) {
        if self.is_open() && self.take(flag::PAUSED) {
            self.set(flag::RESUMED);
            self.mark();
        }
    }

    /// Connecting or connected, and not closed by either side.
    pub fn is_open(&self) -> bool {
        matches!(self.0.state.get(), State::Connecting | State::Handshaking | State::Open)
    }

    /// Open, and nothing but to write is to be done about it, as fast as the socket takes it.
    #[inline]
    pub(crate) fn only_answers(&self) -> bool {
        self.0.state.get() == State::Open && self.0.flags.get() == flag::MARKED
    }

    /// Open, with nothing to write and nothing to be done about it.
    #[inline(always)]
    pub(crate) fn is_at_rest(&self) -> bool {
        let kind = flag::LAYERED | flag::COMPLETES | flag::METERED | flag::MARKED;
        self.0.state.get() == State::Open && self.0.flags.get() & !kind == 0 && !self.has_output()
    }

    /// Open, and all it has to write is with the back end.
    pub(crate) fn only_sends(&self) -> bool {
        let usual = flag::COMPLETES | flag::SENDING;
        self.0.state.get() == State::Open && self.0.flags.get() & !(flag::MARKED | flag::METERED) == usual
    }

    /// Takes out output for the back end to send.
    pub(crate) fn take_output(&self) -> Option<Payload> {
        let payload = self.0.output.borrow_mut().as_mut()?.take()?;
        self.set(flag::SENDING);
        Some(payload)
    }

    /// Something waits behind what the back end sends.
    pub(crate) fn has_more_output(&self) -> bool {
        self.0.output.borrow().as_ref().is_some_and(|output| output.len() > output.in_flight() as u64)
    }

    /// The back end has sent `count` bytes of what it was given.
    pub(crate) fn output_sent(&self, count: usize, payload: Payload) {
        self.clear(flag::SENDING);
        let inner = &self.0;
        {
            let mut slot = inner.output.borrow_mut();
            // Else it was given up meanwhile.
            let Some(output) = slot.as_mut().filter(|output| output.in_flight() > 0) else { return };
            output.sent(count, payload);
            if output.is_empty()
                && let Some(output) = slot.take()
            {
                inner.group.shared.give_back(output);
            }
        }
        inner.bytes_out.set(inner.bytes_out.get() + count as u64);
        inner.group.shared.bytes_out.set(inner.group.shared.bytes_out.get() + count as u64);
    }

    /// Whether a handler should go on taking input: open, not paused, and not
    /// replaced by another handler. Framing loops ask it after every frame.
    pub fn wants_input(&self) -> bool {
        self.0.state.get() == State::Open && !self.has(flag::NO_READING | flag::REPLACED)
    }

    /// Its turn to be read, by us, has come: it wants input and has had no turn in this *Ready*.
    #[inline]
    pub(crate) fn may_be_read(&self) -> bool {
        let not = flag::READY | flag::VISITED | flag::COMPLETES | flag::EOF | flag::NO_READING | flag::REPLACED;
        !self.has(not)
    }

    /// The other end; [`Address::UNSPECIFIED`] until a connect by name has found it.
    pub fn peer_addr(&self) -> Address {
        self.0.peer.get().cloned().unwrap_or(Address::UNSPECIFIED)
    }

    /// This end; [`Address::UNSPECIFIED`] while there is no socket.
    pub fn local_addr(&self) -> Address {
        let transport = self.0.transport.borrow();
        let address = transport.stream().and_then(|stream| stream.local_addr().ok());
        address.unwrap_or(Address::UNSPECIFIED)
    }

    /// Asks the connection's [layer](crate::layer), if it has one of that type.
    pub fn with_layer<L: crate::layer::Layer, R>(&self, f: impl FnOnce(&L) -> R) -> Option<R> {
        self.0.transport.borrow().layer::<L>().map(f)
    }

    /// Bytes received so far, on every back end those that the handler was given; under a [layer](crate::layer), what
    /// it made of them.
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in.get()
    }

    /// Bytes that the kernel, or the [layer](crate::layer), has taken so far.
    pub fn bytes_out(&self) -> u64 {
        self.0.bytes_out.get()
    }

    /// Bytes waiting to be sent, those of files included. A back end that moves bytes itself sends with the wait behind
    /// *Flush*; until then they wait.
    #[inline(always)]
    pub fn queued(&self) -> u64 {
        self.0.output.borrow().as_ref().map_or(0, |output| output.len())
    }

    /// Bytes of the output that are in memory: what the marks and limits count.
    pub(crate) fn in_memory(&self) -> usize {
        self.0.output.borrow().as_ref().map_or(0, |output| output.in_memory())
    }

    /// Bytes of a file are among what waits.
    #[cfg(feature = "http")]
    pub(crate) fn sends_file(&self) -> bool {
        self.queued() > self.in_memory() as u64
    }

    /// When something was last received; at first, when the connection was made.
    pub fn last_recv(&self) -> Instant {
        self.0.group.shared.epoch + Duration::from_nanos(self.0.last_recv.get())
    }

    /// When something was last queued; at first, when the connection was made.
    pub fn last_send(&self) -> Instant {
        self.0.group.shared.epoch + Duration::from_nanos(self.0.last_send.get())
    }

    pub(crate) fn received_now(&self) {
        self.0.last_recv.set(self.0.group.shared.nanos.get());
    }

    pub(crate) fn options(&self) -> &ConnOptions {
        &self.0.group.options
    }

    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        let nanos = self.0.idle_timeout.get();
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Closes the connection with [`CloseReason::Idle`] once nothing has been
    /// received for that long; None takes the limit away. Time in which this side has
    /// paused reading does not count.
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.0.idle_timeout.set(in_nanos(timeout));
        if self.is_open() {
            self.set(flag::IDLE_CHANGED);
            self.mark();
        }
    }

    /// Asks the loop to look at this connection in the next *Flush*.
    pub(crate) fn mark(&self) {
        if !self.has(flag::MARKED) && self.0.state.get() != State::Dead {
            self.set(flag::MARKED);
            self.0.group.shared.marked.borrow_mut().push(self.0.token);
        }
    }

    pub(crate) fn has(&self, bits: u32) -> bool {
        self.0.flags.get() & bits != 0
    }

    pub(crate) fn set(&self, bits: u32) {
        self.0.flags.set(self.0.flags.get() | bits);
    }

    pub(crate) fn clear(&self, bits: u32) {
        self.0.flags.set(self.0.flags.get() & !bits);
    }

    /// Clears the bits and says whether any was set.
    pub(crate) fn take(&self, bits: u32) -> bool {
        let had = self.has(bits);
        self.clear(bits);
        had
    }
}

/// 0 for none; longer than 584 years is that long.
fn in_nanos(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1))
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.0.token)
            .field("peer", &self.0.peer.get())
            .field("state", &self.0.state.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Shared;

    /// An idle connection owns no buffer, also after it has sent nothing at all.
    #[test]
    fn a_send_of_no_bytes_takes_no_buffer() {
        let shared = Rc::new(Shared::new(Instant::now()));
        let group = Group::new(&shared, ConnOptions::default());
        let conn = Conn::new(Token::new(0, 0), group, Transport::None, None, State::Open);
        conn.send_slice(b"").unwrap();
        conn.send(Bytes::new()).unwrap();
        assert!(conn.0.output.borrow().is_none() && shared.marked.borrow().is_empty());
        conn.send_slice(b"x").unwrap();
        conn.send_parts(&[]).unwrap();
        assert_eq!((conn.queued(), shared.marked.borrow().len()), (1, 1));
    }
}
