//! A link: the named, supervised PDU connection between two servers.
//!
//! [`Link::dial`] keeps a connection to a peer alive for as long as the link exists; [`accept_links`] is the
//! other end. Both greet (`hello.rs`), prove that they belong to the cluster (`proof.rs`), keep the connection warm and notice a dead peer (`conn.rs`), and answer
//! [`Link::call`]s (`call.rs`), so a server only writes a [`LinkHandler`]: what to do when the peer is there,
//! when it says something, and when it is gone.

mod call;
mod conn;
mod cookie;
mod framing;
mod hello;
mod options;
mod proof;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use netlib::{
    Backoff, CloseReason, Conn, ConnectOptions, Connector, Context, Framed, ListenOptions, Listener, SendError,
};
use tt_proto::pdu::{self, MAX_ON_LINK, PduRef};
use tt_proto::{Attach, Body};

pub use self::call::CallError;
pub use self::cookie::{HANDLE_COOKIE_LEN, attach_of};
pub use self::framing::PduFraming;
pub use self::hello::{CAPABILITY_PRESENCE, Identity, LinkRole, MAX_SERVER_ID, PeerInfo};
pub use self::options::{LinkError, LinkOptions};

use self::call::Calls;
use self::conn::LinkConn;
use self::framing::LinkFraming;
use crate::log_limit::LogLimit;

/// What a server does with one link. Replies to [`Link::call`], heartbeats and the greeting never show here.
#[allow(unused_variables)]
pub trait LinkHandler<S: 'static>: 'static {
    /// The peer is known, or known to be one that does not greet: requests may go out from here on. Comes at
    /// every (re)connect, so it is the place to send what the peer must know first.
    fn on_up(&mut self, state: &mut S, cx: &mut Context<S>, link: &Link<S>) {}

    /// A PDU that answers no call. Commands a server does not know go to [`Link::ignore`].
    fn on_pdu(&mut self, state: &mut S, cx: &mut Context<S>, link: &Link<S>, pdu: PduRef<'_>);

    /// The connection of an `on_up` is gone. Its pending calls have been failed, oldest first. A dialled link
    /// comes up again by itself, an accepted one never does.
    fn on_down(&mut self, state: &mut S, cx: &mut Context<S>, link: &Link<S>, reason: &CloseReason) {}
}

/// The handle of a link. Cloning shares it. It belongs to its reactor's thread.
pub struct Link<S: 'static> {
    inner: Rc<Inner<S>>,
}

struct Inner<S: 'static> {
    id: u64,
    /// The role that was dialled; None for an accepted link.
    dialled: Option<LinkRole>,
    addr: SocketAddr,
    options: Rc<LinkOptions>,
    conn: RefCell<Option<Conn>>,
    connector: RefCell<Option<Connector>>,
    /// When the current connection became usable; None while it is not.
    up_since: Cell<Option<Instant>>,
    /// The peer asked for no new requests (0x0702).
    stopped: Cell<bool>,
    peer: RefCell<Option<Rc<PeerInfo>>>,
    /// The peer of the current connection knows the cluster's secret.
    proven: Cell<bool>,
    calls: RefCell<Calls<S>>,
    /// Taken out while it runs.
    handler: RefCell<Option<Box<dyn LinkHandler<S>>>>,
    /// Keeps what a confused peer does from filling the log.
    noise: RefCell<LogLimit>,
    /// The same for peers that are not admitted; the links of one listener share it.
    refusals: Rc<RefCell<LogLimit>>,
}

/// Tells links apart within the process. An id is never given twice.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Accepts links on a bound listener. `factory` makes the handler of each; None refuses the connection.
pub fn accept_links<S: 'static>(
    cx: &mut Context<S>,
    socket: TcpListener,
    options: LinkOptions,
    mut factory: impl FnMut(&mut S, &mut Context<S>, SocketAddr) -> Option<Box<dyn LinkHandler<S>>> + 'static,
) -> io::Result<Listener> {
    let options = Rc::new(options);
    let refusals = Rc::new(RefCell::new(LogLimit::new(NOISE_INTERVAL)));
    let listen =
        ListenOptions { conn: options.conn_options(), max_connections: options.max_links, ..ListenOptions::default() };
    cx.listen_on(socket, listen, move |state, cx, conn| {
        // A link comes over TCP.
        let peer = conn.peer_addr().inet()?;
        let handler = factory(state, cx, peer)?;
        let link = Link::new(None, peer, Rc::clone(&options), handler, Rc::clone(&refusals));
        Some(Box::new(link.connection()))
    })
}

impl<S: 'static> Link<S> {
    /// Dials `peer` at `addr` at once and again after every loss, until [`close`](Self::close).
    pub fn dial(
        cx: &mut Context<S>,
        peer: LinkRole,
        addr: SocketAddr,
        options: LinkOptions,
        handler: Box<dyn LinkHandler<S>>,
    ) -> Self {
        let connect = ConnectOptions {
            conn: options.conn_options(),
            timeout: options.connect_timeout,
            ..ConnectOptions::default()
        };
        let backoff = Backoff::new(options.redial.0, options.redial.1, REDIAL_JITTER);
        let refusals = Rc::new(RefCell::new(LogLimit::new(NOISE_INTERVAL)));
        let link = Self::new(Some(peer), addr, Rc::new(options), handler, refusals);
        let dialled = link.clone();
        let connector = cx.keep_connected(addr, connect, backoff, move |_, _| Box::new(dialled.connection()));
        *link.inner.connector.borrow_mut() = Some(connector);
        link
    }

    fn new(
        dialled: Option<LinkRole>,
        addr: SocketAddr,
        options: Rc<LinkOptions>,
        handler: Box<dyn LinkHandler<S>>,
        refusals: Rc<RefCell<LogLimit>>,
    ) -> Self {
        let calls = Calls::new(options.max_pending);
        Self {
            inner: Rc::new(Inner {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                dialled,
                addr,
                options,
                conn: RefCell::new(None),
                connector: RefCell::new(None),
                up_since: Cell::new(None),
                stopped: Cell::new(false),
                peer: RefCell::new(None),
                proven: Cell::new(false),
                calls: RefCell::new(calls),
                handler: RefCell::new(Some(handler)),
                noise: RefCell::new(LogLimit::new(NOISE_INTERVAL)),
                refusals,
            }),
        }
    }

    fn connection(&self) -> Framed<LinkFraming, LinkConn<S>> {
        let conn = LinkConn::new(self.clone());
        Framed::new(LinkFraming::new(conn.admitted()), conn)
    }

    /// Identifies the link within the process, also across the reconnects of a dialled one.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// The peer's address: the dialled one, or where the peer dialled from.
    pub fn addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Whether PDUs can be sent.
    pub fn is_up(&self) -> bool {
        self.inner.up_since.get().is_some()
    }

    /// Up, and the peer has not asked for no new requests (0x0702).
    pub fn accepts_requests(&self) -> bool {
        self.is_up() && !self.inner.stopped.get()
    }

    /// Since when the link is up without a break.
    pub fn up_since(&self) -> Option<Instant> {
        self.inner.up_since.get()
    }

    /// What the peer said of itself; None while down and for a peer that does not greet.
    pub fn peer(&self) -> Option<Rc<PeerInfo>> {
        self.inner.peer.borrow().clone()
    }

    /// The peer's role: what it says it is, else what was dialled.
    pub fn peer_role(&self) -> Option<LinkRole> {
        self.peer().and_then(|peer| peer.role).or(self.inner.dialled)
    }

    /// Whether the peer has proven to know the cluster's secret. One that is believed for its address may still
    /// do so after the link is up.
    pub fn is_proven(&self) -> bool {
        self.inner.proven.get()
    }

    /// Calls that wait for their answer.
    pub fn pending_calls(&self) -> usize {
        self.inner.calls.borrow().len()
    }

    /// Bytes that wait for the peer to read; a server that produces for it faster than it reads looks here.
    pub fn queued(&self) -> usize {
        self.inner.conn.borrow().as_ref().map_or(0, |conn| conn.queued() as usize)
    }

    /// Queues a message.
    pub fn send<M: Body>(&self, seq: u16, message: &M) -> Result<(), LinkError> {
        self.send_frame(pdu::encode(seq, message))
    }

    /// Queues a whole PDU. One `Bytes` may go to many links without being copied.
    pub fn send_frame(&self, frame: Bytes) -> Result<(), LinkError> {
        if !self.is_up() {
            return Err(LinkError::Down);
        }
        if frame.len() > MAX_ON_LINK {
            return Err(LinkError::TooLarge);
        }
        let conn = self.inner.conn.borrow();
        let conn = conn.as_ref().ok_or(LinkError::Down)?;
        let (command, len) = (command_of(&frame), frame.len());
        conn.send(frame).map_err(|error| match error {
            SendError::Closed => LinkError::Down,
            SendError::Full => LinkError::Full,
        })?;
        self.inner.options.metrics.sent(command, len);
        Ok(())
    }

    /// Sends a request and runs `then` once: with the reply, or with the reason why there is none. `then`
    /// never runs inside this call, also when the link is down.
    ///
    /// The request's routing cookie is overwritten: it carries the call across the link. From the first call
    /// on, every PDU of type `R` on this link is taken for a reply to a call, and one without a known cookie
    /// is dropped, counted and logged.
    pub fn call<Q: Body + Attach, R: Body>(
        &self,
        cx: &mut Context<S>,
        seq: u16,
        mut request: Q,
        timeout: Duration,
        then: impl FnOnce(&mut S, &mut Context<S>, Result<R, CallError>) + 'static,
    ) {
        let then: call::Then<S> = Box::new(move |state, cx, reply| {
            let reply = reply.and_then(|pdu| pdu.decode::<R>().map_err(|_| CallError::Decode));
            then(state, cx, reply);
        });
        let sent = self.inner.calls.borrow_mut().reserve().ok_or(CallError::TooMany).and_then(|id| {
            if !self.accepts_requests() {
                return Err(CallError::LinkDown);
            }
            request.set_attach(Some(cookie::encode(id)));
            match self.send(seq, &request) {
                Ok(()) => Ok(id),
                Err(LinkError::Down) => Err(CallError::LinkDown),
                Err(LinkError::Full | LinkError::TooLarge) => Err(CallError::TooMany),
            }
        });
        let metrics = &self.inner.options.metrics;
        match sent {
            Ok(id) => {
                let link = self.clone();
                let timer = cx.after(timeout, move |state, cx| link.call_timed_out(state, cx, id));
                self.inner.calls.borrow_mut().insert(id, R::COMMAND.id(), timer, then);
                metrics.calls_pending.inc();
            }
            Err(error) => {
                metrics.call_ended(error.label());
                cx.post(move |state, cx| then(state, cx, Err(error)));
            }
        }
    }

    /// Counts and logs, at most once in a while, a PDU that this server does not handle on this link.
    pub fn ignore(&self, cx: &Context<S>, pdu: PduRef<'_>) {
        self.inner.options.metrics.unknown_commands.inc();
        let command = pdu.header.command;
        self.log_noise(cx, format_args!("ignored command {command:#06x}"));
    }

    /// Counts and logs, at most once in a while, a PDU whose body does not parse.
    pub fn malformed(&self, cx: &Context<S>, pdu: PduRef<'_>) {
        self.inner.options.metrics.malformed.inc();
        let command = pdu.header.command;
        self.log_noise(cx, format_args!("malformed body of command {command:#06x}"));
    }

    /// Closes the link for good: what is queued is flushed, and a dialled link does not come back.
    pub fn close(&self, cx: &mut Context<S>) {
        if let Some(connector) = self.inner.connector.borrow_mut().take() {
            connector.stop(cx);
        }
        if let Some(conn) = self.inner.conn.borrow().as_ref() {
            conn.close();
        }
    }

    /// Runs `f` on the handler. It goes back to its place even if `f` panics, because a dialled link needs it
    /// for the next connection.
    fn with_handler(&self, f: impl FnOnce(&mut dyn LinkHandler<S>)) {
        struct Taken<'a, S: 'static>(&'a RefCell<Option<Box<dyn LinkHandler<S>>>>, Option<Box<dyn LinkHandler<S>>>);
        impl<S: 'static> Drop for Taken<'_, S> {
            fn drop(&mut self) {
                *self.0.borrow_mut() = self.1.take();
            }
        }
        let handler = self.inner.handler.borrow_mut().take();
        let mut taken = Taken(&self.inner.handler, handler);
        if let Some(handler) = &mut taken.1 {
            f(handler.as_mut());
        }
    }

    fn call_timed_out(&self, state: &mut S, cx: &mut Context<S>, id: u32) {
        let pending = self.inner.calls.borrow_mut().remove(id);
        if let Some(pending) = pending {
            self.end_call(state, cx, pending.then, Err(CallError::Timeout));
        }
    }

    fn end_call(&self, state: &mut S, cx: &mut Context<S>, then: call::Then<S>, reply: call::Reply<'_>) {
        let metrics = &self.inner.options.metrics;
        metrics.calls_pending.dec();
        metrics.call_ended(reply.as_ref().err().map_or("ok", |error| error.label()));
        then(state, cx, reply);
    }

    fn log_noise(&self, cx: &Context<S>, what: fmt::Arguments<'_>) {
        if let Some(unsaid) = self.inner.noise.borrow_mut().allow(cx.now()) {
            log::warn!("link with {self}: {what}{unsaid}");
        }
    }
}

/// The spread of the wait between two dials, in percent either way.
const REDIAL_JITTER: u32 = 20;
/// One line of complaint about a peer in so long.
const NOISE_INTERVAL: Duration = Duration::from_secs(10);

/// The command in a whole frame.
fn command_of(frame: &[u8]) -> u16 {
    PduRef::parse(frame).map_or(0, |pdu| pdu.header.command)
}

impl<S: 'static> Clone for Link<S> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<S: 'static> fmt::Display for Link<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer_role() {
            Some(role) => write!(f, "{role} {}", self.inner.addr),
            None => write!(f, "{}", self.inner.addr),
        }
    }
}

impl<S: 'static> fmt::Debug for Link<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.inner.id)
            .field("addr", &self.inner.addr)
            .field("up", &self.is_up())
            .finish_non_exhaustive()
    }
}
