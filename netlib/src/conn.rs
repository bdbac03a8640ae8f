//! `Conn`: the refcounted handle of a stream connection, and the callbacks that serve
//! it.
//!
//! A handle only queues and marks. The work is done by the reactor in *Flush* and
//! *Reap* (`conn_io.rs`, `conn_close.rs`), so no call here can run another callback.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::buffer::OutputBuffer;
use crate::conn_options::{CloseReason, ConnOptions, OutputPolicy, SendError};
use crate::context::Context;
use crate::socket::Stream;
use crate::timer::TimerId;
use crate::token::Token;

/// The callbacks of one stream connection. The value lives in the connection's
/// slot and is the place for the connection's own state.
///
/// All of them run on the reactor's thread, in arrival order, never nested. After
/// [`Conn::close`] or [`Conn::abort`] only [`on_close`](Handler::on_close) still
/// comes. A panic ends this connection with [`CloseReason::HandlerPanic`].
#[allow(unused_variables)]
pub trait Handler<S: 'static>: 'static {
    /// The connection is up: accepted, or the connect succeeded.
    fn on_open(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// Bytes arrived. Returns how many of `input` were used; the rest is kept and
    /// shown again: in front of what comes later, and alone after
    /// [`Conn::resume`] or when the connection's turn comes again.
    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize;

    /// The peer will send no more. Everything before it has been delivered.
    /// Unless overridden the connection is closed.
    fn on_eof(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        conn.close_with(CloseReason::PeerClosed);
    }

    /// The output buffer grew over [`ConnOptions::high_water`].
    fn on_high_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// The output buffer, once over the high mark, fell to [`ConnOptions::low_water`].
    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// Everything that was queued has been handed to the kernel.
    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// A timer made with [`Context::conn_timer`] is due.
    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, timer: TimerId) {}

    /// The end, exactly once for every connection, also for a connect that failed.
    /// Only connections that are alive when the reactor itself is dropped get none.
    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {}
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The connect is under way; sends are queued.
    Connecting,
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
    pub(crate) const MARKED: u16 = 1;
    /// Paused by [`super::Conn::pause`].
    pub(crate) const PAUSED: u16 = 1 << 1;
    /// Paused by the output policy.
    pub(crate) const PAUSED_BY_OUTPUT: u16 = 1 << 2;
    /// The output is over the high mark and that was reported.
    pub(crate) const ABOVE_HIGH: u16 = 1 << 3;
    /// A write came back short: wait for writability before the next.
    pub(crate) const BLOCKED: u16 = 1 << 4;
    /// The peer's FIN was read.
    pub(crate) const EOF: u16 = 1 << 5;
    /// Unsent output is to be dropped.
    pub(crate) const ABORT: u16 = 1 << 6;
    /// The handler was replaced while it ran: it gets no more input.
    pub(crate) const REPLACED: u16 = 1 << 7;
    /// Reading was resumed: look for input although no event says so.
    pub(crate) const RESUMED: u16 = 1 << 8;
    /// Stands in the loop's local ready list.
    pub(crate) const READY: u16 = 1 << 9;
    /// Our FIN has been sent.
    pub(crate) const FIN_SENT: u16 = 1 << 10;
    /// The idle timeout was changed: the timer is to be set anew.
    pub(crate) const IDLE_CHANGED: u16 = 1 << 11;
}

/// What all handles of one loop share with it.
pub(crate) struct Shared {
    /// Connections to look at in the next *Flush*.
    pub(crate) marked: RefCell<Vec<Token>>,
    /// The time of this tick.
    pub(crate) now: Cell<Instant>,
    /// Bytes sent on all connections.
    pub(crate) bytes_out: Cell<u64>,
}

pub(crate) struct Inner {
    pub(crate) token: Token,
    pub(crate) shared: Rc<Shared>,
    pub(crate) options: Rc<ConnOptions>,
    pub(crate) stream: RefCell<Option<Stream>>,
    pub(crate) output: RefCell<OutputBuffer>,
    pub(crate) reason: RefCell<Option<CloseReason>>,
    pub(crate) state: Cell<State>,
    pub(crate) flags: Cell<u16>,
    pub(crate) peer: SocketAddr,
    pub(crate) idle_timeout: Cell<Option<Duration>>,
    pub(crate) last_recv: Cell<Instant>,
    pub(crate) last_send: Cell<Instant>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
}

/// The handle of a stream connection. Cloning shares it (the C++ `AddRef`),
/// dropping gives it back; neither opens nor closes anything.
///
/// Thread rule: it belongs to its reactor's thread (it is not `Send`). To reach a
/// connection from another thread, post through a [`Remote`](crate::Remote).
#[derive(Clone)]
pub struct Conn(pub(crate) Rc<Inner>);

impl Conn {
    pub(crate) fn new(
        token: Token,
        shared: Rc<Shared>,
        options: Rc<ConnOptions>,
        stream: Option<Stream>,
        peer: SocketAddr,
        state: State,
    ) -> Self {
        let now = shared.now.get();
        let idle_timeout = Cell::new(options.idle_timeout);
        Self(Rc::new(Inner {
            token,
            shared,
            options,
            stream: RefCell::new(stream),
            output: RefCell::default(),
            reason: RefCell::new(None),
            state: Cell::new(state),
            flags: Cell::new(0),
            peer,
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
    /// once. While a connect is under way the bytes wait for it.
    pub fn send(&self, bytes: impl Into<Bytes>) -> Result<(), SendError> {
        let inner = &self.0;
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(());
        }
        if self.queued() > 0 && self.queued() + bytes.len() > self.most_queued() {
            // One tick's input can ask for more output than may wait. That alone does
            // not make the peer a slow one: see what it takes now.
            self.write_now(usize::MAX);
            if self.queued() > 0 && self.queued() + bytes.len() > self.most_queued() {
                if inner.options.policy == OutputPolicy::Drop {
                    return Err(SendError::Full);
                }
                self.end(CloseReason::OutputLimit, true);
                return Err(SendError::Closed);
            }
        }
        inner.output.borrow_mut().push(bytes);
        inner.last_send.set(inner.shared.now.get());
        if inner.options.policy == OutputPolicy::Pause && self.queued() >= inner.options.high_water {
            // Now, not in *Flush*: what is left of this tick's input would go on.
            self.set(flag::PAUSED_BY_OUTPUT);
        }
        self.mark();
        Ok(())
    }

    /// Bytes that may wait before a send is refused.
    fn most_queued(&self) -> usize {
        let options = &self.0.options;
        match options.policy {
            OutputPolicy::Notify | OutputPolicy::Pause => options.output_limit,
            OutputPolicy::Drop | OutputPolicy::Close => options.high_water.min(options.output_limit),
        }
    }

    /// Writes what is queued, about `budget` bytes of it, until the socket takes no
    /// more. An error ends the connection.
    pub(crate) fn write_now(&self, mut budget: usize) {
        let inner = &self.0;
        while inner.state.get() != State::Connecting && !self.has(flag::BLOCKED) && self.queued() > 0 && budget > 0 {
            let outcome = match inner.stream.borrow().as_ref() {
                Some(stream) => inner.output.borrow_mut().write_to(stream),
                None => return,
            };
            match outcome {
                Ok(progress) => {
                    let written = progress.written as u64;
                    inner.bytes_out.set(inner.bytes_out.get() + written);
                    inner.shared.bytes_out.set(inner.shared.bytes_out.get() + written);
                    if progress.blocked {
                        self.set(flag::BLOCKED);
                    }
                    budget = budget.saturating_sub(progress.written);
                }
                Err(error) => self.end(CloseReason::from_io(&error), true),
            }
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
        if abort || self.0.state.get() == State::Connecting {
            self.0.output.borrow_mut().clear();
            if !self.take(flag::ABORT) {
                self.mark();
            }
            self.set(flag::ABORT);
        }
        if was_open {
            *self.0.reason.borrow_mut() = Some(reason);
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
        matches!(self.0.state.get(), State::Connecting | State::Open)
    }

    /// Whether a handler should go on taking input: open, not paused, and not
    /// replaced by another handler. Framing loops ask it after every frame.
    pub fn wants_input(&self) -> bool {
        self.0.state.get() == State::Open && !self.has(flag::PAUSED | flag::PAUSED_BY_OUTPUT | flag::REPLACED)
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.peer
    }

    /// This end; the unspecified address once the socket is gone.
    pub fn local_addr(&self) -> SocketAddr {
        let stream = self.0.stream.borrow();
        let address = stream.as_ref().and_then(|stream| stream.local_addr().ok());
        address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    /// Bytes received so far.
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in.get()
    }

    /// Bytes handed to the kernel so far.
    pub fn bytes_out(&self) -> u64 {
        self.0.bytes_out.get()
    }

    /// Bytes waiting to be sent.
    pub fn queued(&self) -> usize {
        self.0.output.borrow().len()
    }

    /// When something was last received; at first, when the connection was made.
    pub fn last_recv(&self) -> Instant {
        self.0.last_recv.get()
    }

    /// When something was last queued; at first, when the connection was made.
    pub fn last_send(&self) -> Instant {
        self.0.last_send.get()
    }

    /// Closes the connection with [`CloseReason::Idle`] once nothing has been
    /// received for that long; None takes the limit away. Time in which this side has
    /// paused reading does not count.
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.0.idle_timeout.set(timeout);
        if self.is_open() {
            self.set(flag::IDLE_CHANGED);
            self.mark();
        }
    }

    /// Asks the loop to look at this connection in the next *Flush*.
    pub(crate) fn mark(&self) {
        if !self.has(flag::MARKED) && self.0.state.get() != State::Dead {
            self.set(flag::MARKED);
            self.0.shared.marked.borrow_mut().push(self.0.token);
        }
    }

    pub(crate) fn has(&self, bits: u16) -> bool {
        self.0.flags.get() & bits != 0
    }

    pub(crate) fn set(&self, bits: u16) {
        self.0.flags.set(self.0.flags.get() | bits);
    }

    pub(crate) fn clear(&self, bits: u16) {
        self.0.flags.set(self.0.flags.get() & !bits);
    }

    /// Clears the bits and says whether any was set.
    pub(crate) fn take(&self, bits: u16) -> bool {
        let had = self.has(bits);
        self.clear(bits);
        had
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.0.token)
            .field("peer", &self.0.peer)
            .field("state", &self.0.state.get())
            .finish_non_exhaustive()
    }
}
