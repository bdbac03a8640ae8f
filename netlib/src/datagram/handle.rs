//! `Datagram`: the refcounted handle of a datagram socket on a loop, and the callbacks that serve
//! it. As with [`Conn`](crate::Conn), a handle only queues and marks; `serve.rs` does the work.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::serve::Shared;
use super::{
    Address, DatagramError, DatagramSocket, Flushed, Outgoing, Packet, Packets, QueuePolicy, SendCounters, SendQueue,
};
use crate::context::Context;
use crate::token::Token;
use crate::{CloseReason, SendError};

/// The callbacks of one datagram socket. The value lives in the socket's slot and is the place
/// for its state.
///
/// ```
/// use netlib::datagram::{DatagramError, Packets};
/// use netlib::{Context, Datagram, DatagramHandler};
///
/// /// Counts what arrives, by sender's mark, and what did not leave.
/// #[derive(Default)]
/// struct Meter {
///     congested: u64,
///     unsent: u64,
/// }
///
/// impl<S: 'static> DatagramHandler<S> for Meter {
///     fn on_packets(&mut self, _: &mut S, _: &mut Context<S>, _: &Datagram, packets: Packets<'_>) {
///         let congested = |packet: &netlib::datagram::Packet<'_>| packet.ecn == netlib::datagram::Ecn::Congestion;
///         self.congested += packets.iter().filter(congested).count() as u64;
///     }
///
///     fn on_error(&mut self, _: &mut S, _: &mut Context<S>, _: &Datagram, error: &DatagramError) {
///         if let DatagramError::Send { packets, .. } = error {
///             self.unsent += *packets as u64;
///         }
///     }
/// }
/// # let _: Box<dyn DatagramHandler<()>> = Box::new(Meter::default());
/// ```
///
/// All of them run on the reactor's thread, never nested. After [`Datagram::close`] only
/// [`on_close`](Self::on_close) still comes. A panic ends this socket with
/// [`CloseReason::HandlerPanic`].
#[allow(unused_variables)]
pub trait DatagramHandler<S: 'static>: 'static {
    /// Packets arrived, at least one. They lie in memory that all sockets of the reactor share:
    /// what is to be kept must be copied.
    fn on_packets(&mut self, state: &mut S, cx: &mut Context<S>, socket: &Datagram, packets: Packets<'_>);

    /// A packet could not be sent, or the network reports about one that was. The socket goes
    /// on. At most 32 are told in one tick, and all are counted.
    fn on_error(&mut self, state: &mut S, cx: &mut Context<S>, socket: &Datagram, error: &DatagramError) {}

    /// The queue, which had to wait for the socket, is empty again.
    fn on_drained(&mut self, state: &mut S, cx: &mut Context<S>, socket: &Datagram) {}

    /// The end, exactly once. Only sockets that are alive when the reactor itself is dropped get
    /// none.
    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, socket: &Datagram, reason: &CloseReason) {}
}

/// Limits of a datagram socket on a loop.
///
/// ```
/// use netlib::DatagramOptions;
/// use netlib::datagram::QueuePolicy;
///
/// // Live media: at most a tenth of a second of it waits, and the newest is kept.
/// let media = DatagramOptions { queue_packets: 500, policy: QueuePolicy::DropOldest, ..DatagramOptions::default() };
/// assert!(media.queue_bytes >= 500 * 1200);
/// ```
#[derive(Clone, Debug)]
pub struct DatagramOptions {
    /// Bytes of the longest packet that is received whole; of longer ones the beginning is, and
    /// says so. A GRO socket receives all of them whole.
    pub max_packet: usize,
    /// Messages handed over by one system call, each way: 1 to 64.
    pub batch: usize,
    /// Packets received in one tick before others get their turn. The last system call may
    /// overshoot it.
    pub receive_budget: usize,
    /// Packets sent in one tick before others get their turn.
    pub send_budget: usize,
    /// Packets that may wait to be sent.
    pub queue_packets: usize,
    /// Bytes that may wait to be sent.
    pub queue_bytes: usize,
    /// What happens to more.
    pub policy: QueuePolicy,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self {
            max_packet: 65_535,
            batch: 64,
            receive_budget: 512,
            send_budget: 2048,
            queue_packets: 4096,
            queue_bytes: 4 << 20,
            policy: QueuePolicy::DropNewest,
        }
    }
}

/// What a [`Datagram`] has done so far.
///
/// ```
/// use netlib::datagram::DatagramCounters;
///
/// /// What a handler's [`Datagram::counters`](netlib::Datagram::counters) tell an operator.
/// fn packets_per_call(counters: DatagramCounters) -> f64 {
///     counters.packets_in as f64 / counters.calls_in.max(1) as f64
/// }
/// assert_eq!(packets_per_call(DatagramCounters { packets_in: 640, calls_in: 10, ..Default::default() }), 64.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramCounters {
    /// Packets received.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Messages that they came in; fewer than packets where GRO works.
    pub messages_in: u64,
    /// System calls made to receive, those that found nothing included.
    pub calls_in: u64,
    /// Packets that were longer than [`DatagramOptions::max_packet`].
    pub truncated: u64,
    /// Packets that the kernel dropped because the socket's receive buffer was full, as far as
    /// it has told: it does so along with the next packet.
    pub overflowed: u64,
    /// Errors that the network reported.
    pub network_errors: u64,
    /// The other direction.
    pub sent: SendCounters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// `on_close` comes in this tick's *Reap*.
    Closing,
    Dead,
}

pub(super) struct Inner {
    pub(super) token: Token,
    pub(super) shared: Rc<Shared>,
    pub(super) options: DatagramOptions,
    pub(super) local: Address,
    pub(super) socket: RefCell<Option<DatagramSocket>>,
    pub(super) queue: RefCell<SendQueue>,
    /// Found while sending, for `on_error` in *Flush*.
    pub(super) errors: RefCell<Vec<DatagramError>>,
    pub(super) reason: RefCell<CloseReason>,
    pub(super) state: Cell<State>,
    /// Stands in the loop's list of sockets to look at in *Flush*.
    pub(super) marked: Cell<bool>,
    /// The socket takes no more until it is writable.
    pub(super) blocked: Cell<bool>,
    /// A timer runs to try Unix peers that were full again.
    pub(super) retrying: Cell<bool>,
    /// Something had to wait since the queue was last empty.
    pub(super) waited: Cell<bool>,
    /// Packets per message in the last receive call.
    pub(super) packets_per_message: Cell<usize>,
    pub(super) counters: Cell<DatagramCounters>,
}

/// The handle of a datagram socket on a loop. Cloning shares it; dropping neither opens nor
/// closes anything.
///
/// ```
/// use netlib::datagram::{BindOptions, Outgoing, Packets};
/// use netlib::{Context, Datagram, DatagramHandler, DatagramOptions, DatagramSocket, Reactor, ReactorConfig};
///
/// struct Deaf;
/// impl<S: 'static> DatagramHandler<S> for Deaf {
///     fn on_packets(&mut self, _: &mut S, _: &mut Context<S>, _: &Datagram, _: Packets<'_>) {}
/// }
///
/// let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let receiver = std::net::UdpSocket::bind(any)?;
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let socket = DatagramSocket::bind(any, &BindOptions::default())?;
/// let socket = reactor.context().datagram(socket, DatagramOptions::default(), Box::new(Deaf))?;
///
/// // Ten packets of a hundred bytes.
/// let packets = Outgoing { segment: Some(100), ..Outgoing::new(vec![0; 1000], receiver.local_addr()?) };
/// socket.send(packets).expect("room in the queue");
/// assert_eq!(socket.queued(), 10);
/// reactor.run_once(&mut (), None)?;
/// assert_eq!((socket.queued(), socket.counters().sent.packets), (0, 10));
/// assert_eq!(receiver.recv(&mut [0; 2000])?, 100);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Thread rule: it belongs to its reactor's thread (it is not `Send`).
#[derive(Clone)]
pub struct Datagram(pub(super) Rc<Inner>);

impl Datagram {
    pub(super) fn new(token: Token, shared: Rc<Shared>, options: DatagramOptions, socket: DatagramSocket) -> Self {
        let mut queue = SendQueue::new(options.queue_packets, options.queue_bytes, options.policy);
        queue.set_batch(options.batch);
        Self(Rc::new(Inner {
            token,
            shared,
            local: socket.local_addr().unwrap_or(Address::Unix(super::UnixAddress::Unnamed)),
            options,
            socket: RefCell::new(Some(socket)),
            queue: RefCell::new(queue),
            errors: RefCell::default(),
            reason: RefCell::new(CloseReason::Local),
            state: Cell::new(State::Open),
            marked: Cell::new(false),
            blocked: Cell::new(false),
            retrying: Cell::new(false),
            waited: Cell::new(false),
            packets_per_message: Cell::new(1),
            counters: Cell::default(),
        }))
    }

    /// Identifies the socket within its reactor, for as long as that lives.
    pub fn id(&self) -> Token {
        self.0.token
    }

    /// Its own address.
    pub fn local_addr(&self) -> &Address {
        &self.0.local
    }

    /// Queues a copy of `payload` for this tick's *Flush*, which sends everything queued by as few
    /// system calls as it takes.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub fn send_to(&self, payload: &[u8], to: impl Into<Address>) -> Result<(), SendError> {
        let payload = self.0.queue.borrow_mut().copy(payload);
        self.send(Outgoing { payload, to: Some(to.into()), ..Outgoing::default() })
    }

    /// [`send_to`](Self::send_to) where `packet` came from, leaving from the address that it was
    /// sent to.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send).
    pub fn reply(&self, packet: &Packet<'_>, payload: &[u8]) -> Result<(), SendError> {
        let payload = self.0.queue.borrow_mut().copy(payload);
        self.send(Outgoing { payload, to: Some(packet.from.clone()), from: packet.local, ..Outgoing::default() })
    }

    /// Queues a packet, or several of one size, with all that can be said about it.
    ///
    /// If the queue is full, what the socket takes is sent at once; if it is full then, the
    /// [policy](DatagramOptions::policy) says what is dropped.
    ///
    /// # Errors
    ///
    /// `Full` if the policy drops it, `Closed` if the socket is closed.
    pub fn send(&self, packet: Outgoing) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        if self.0.queue.borrow().is_full_for(packet.payload.len(), packet.segment) {
            self.write_now(usize::MAX);
        }
        self.0.queue.borrow_mut().push(packet)?;
        self.mark();
        Ok(())
    }

    /// Closes the socket in this tick. What is queued is sent as far as the kernel takes it at
    /// once, the rest is dropped.
    pub fn close(&self) {
        self.close_with(CloseReason::Local);
    }

    /// [`close`](Self::close) with another reason.
    pub fn close_with(&self, reason: CloseReason) {
        if self.is_open() {
            *self.0.reason.borrow_mut() = reason;
            self.0.state.set(State::Closing);
            self.mark();
        }
    }

    /// Whether it was not closed.
    pub fn is_open(&self) -> bool {
        self.0.state.get() == State::Open
    }

    /// Packets waiting to be sent.
    pub fn queued(&self) -> usize {
        self.0.queue.borrow().len()
    }

    /// Bytes waiting to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.0.queue.borrow().bytes()
    }

    /// What it has done so far.
    pub fn counters(&self) -> DatagramCounters {
        DatagramCounters { sent: self.0.queue.borrow().counters(), ..self.0.counters.get() }
    }

    /// Sends about `budget` packets, unless the socket is known to take none.
    pub(super) fn write_now(&self, budget: usize) {
        let inner = &self.0;
        let waiting = inner.blocked.get() || inner.retrying.get();
        let socket = inner.socket.borrow();
        let (false, Some(socket)) = (waiting, socket.as_ref()) else { return };
        let mut batch = inner.shared.send_batch.borrow_mut();
        let ended = inner.queue.borrow_mut().flush(socket, &mut batch, budget, &mut inner.errors.borrow_mut());
        match ended {
            Flushed::Blocked => inner.blocked.set(true),
            Flushed::PeersFull => inner.retrying.set(true),
            Flushed::Empty | Flushed::Budget => {}
        }
        if matches!(ended, Flushed::Blocked | Flushed::PeersFull) {
            inner.waited.set(true);
            self.mark();
        }
    }

    /// Asks the loop to look at this socket in the next *Flush*.
    pub(super) fn mark(&self) {
        if !self.0.marked.get() && self.0.state.get() != State::Dead {
            self.0.marked.set(true);
            self.0.shared.marked.borrow_mut().push(self.0.token);
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut DatagramCounters)) {
        let mut counters = self.0.counters.get();
        change(&mut counters);
        self.0.counters.set(counters);
    }

    /// The end: the descriptor is closed and what waits is dropped.
    pub(crate) fn discard(&self) {
        self.0.state.set(State::Dead);
        drop(self.0.socket.take());
        self.0.queue.borrow_mut().clear();
    }
}

impl fmt::Debug for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagram")
            .field("id", &self.0.token)
            .field("local", &self.0.local)
            .field("state", &self.0.state.get())
            .finish_non_exhaustive()
    }
}
