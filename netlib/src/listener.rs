//! Accepting connections: within a budget per tick, within limits of connections, and through a
//! shortage of descriptors. The sockets themselves are opened in `socket/listening.rs`.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Interest;
use crate::conn::{Conn, State, flag};
use crate::conn_options::ConnOptions;
use crate::context::{Context, TimerTask};
use crate::group::Group;
use crate::hand_off::{Intake, Turns};
use crate::handler::Handler;
use crate::layer::LayerFactory;
use crate::slot::{ConnSlot, Slot};
use crate::socket::{self, Address, BindOptions, ListeningSocket, SocketOptions, Stream};
use crate::timer::TimerId;
use crate::token::Token;
use crate::transport::Transport;

/// The callback that decides about an accepted connection: Some serves it, None
/// closes it.
pub(crate) type Acceptor<S> = Box<dyn FnMut(&mut S, &mut Context<S>, &Conn) -> Option<Box<dyn Handler<S>>>>;

/// How long accepting rests when the process has run out of descriptors.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);

/// How a listener accepts.
///
/// ```
/// use netlib::ListenOptions;
///
/// // Nobody takes more than 20 of the 10,000 places.
/// let options = ListenOptions { max_connections: 10_000, max_per_address: 20, ..ListenOptions::default() };
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Length of the kernel's queue of connections not yet accepted.
    pub backlog: i32,
    /// Let other listeners, of this process or another, share the port; see
    /// [`BindOptions::reuse_port`].
    pub reuse_port: bool,
    /// See [`BindOptions::ipv6_only`].
    pub ipv6_only: bool,
    /// See [`BindOptions::unix_mode`].
    pub unix_mode: Option<u32>,
    /// Of several reactors that watch one socket, wake as few as the kernel can
    /// ([`Backend::add_exclusive`](crate::backend::Backend::add_exclusive)). `Unsupported` on a back end
    /// without [`exclusive_wakeup`](crate::backend::Caps::exclusive_wakeup).
    pub exclusive: bool,
    /// For each accepted socket.
    pub socket: SocketOptions,
    /// Connections accepted in one tick before others get their turn.
    pub accept_budget: usize,
    /// Connections that may live at once; more are accepted and closed at once, so
    /// that the peer learns it.
    pub max_connections: usize,
    /// Connections of one address that may live at once; more are closed at once, too. IPv6
    /// addresses count by their first 64 bits, since everybody has that many of his own. Unix peers
    /// have no address and are not counted.
    pub max_per_address: usize,
    /// Makes the [layer](crate::layer) of each accepted connection, such as TLS.
    pub layer: Option<Arc<dyn LayerFactory>>,
    /// How long the layer's handshake may take.
    pub handshake_timeout: Duration,
    /// For each accepted connection.
    pub conn: ConnOptions,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 1024,
            reuse_port: false,
            ipv6_only: false,
            unix_mode: None,
            exclusive: false,
            socket: SocketOptions::default(),
            accept_budget: 64,
            max_connections: 100_000,
            max_per_address: usize::MAX,
            layer: None,
            handshake_timeout: Duration::from_secs(10),
            conn: ConnOptions::default(),
        }
    }
}

impl ListenOptions {
    pub(crate) fn bind_options(&self) -> BindOptions {
        BindOptions {
            backlog: self.backlog,
            reuse_port: self.reuse_port,
            ipv6_only: self.ipv6_only,
            unix_mode: self.unix_mode,
            socket: self.socket,
        }
    }
}

/// What a listener has counted, and how many of its connections live now.
///
/// ```
/// use netlib::{ListenOptions, ListenerStats, Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let listener = reactor.context().listen(address, ListenOptions::default(), |_, _, _| None)?;
/// assert_eq!(listener.stats(), ListenerStats { accepted: 0, refused: 0, live: 0 });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once over a limit.
    pub refused: u64,
    /// Connections alive, those that still linger included.
    pub live: usize,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: Cell<u64>,
    refused: Cell<u64>,
}

/// The handle of a listener. Thread rule: it belongs to its reactor's thread. Dropping it does not close the listener.
///
/// ```
/// use netlib::{ListenOptions, Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let cx = reactor.context();
/// let listener = cx.listen(address, ListenOptions::default(), |(), _, _| None)?;
/// println!("port {}", listener.local_addr());
/// listener.pause(cx)?; // who connects waits in the kernel
/// listener.resume(cx)?;
/// listener.close(cx);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Listener {
    pub(crate) token: Token,
    local: Address,
    group: Rc<Group>,
    counts: Rc<Counts>,
}

impl Listener {
    /// Where it listens; with the port that the system chose if 0 was asked for.
    pub fn local_addr(&self) -> Address {
        self.local.clone()
    }

    /// Connections from it that are alive, those that still linger included.
    pub fn connections(&self) -> usize {
        self.group.live.get()
    }

    /// What it has counted.
    pub fn stats(&self) -> ListenerStats {
        stats(&self.counts, &self.group)
    }

    /// Accepts nothing until [`resume`](Self::resume). Who connects waits in the kernel's queue, as
    /// long as that has room. Nothing happens if the listener is closed or paused already.
    ///
    /// # Errors
    ///
    /// If the back end refuses the change.
    pub fn pause<S: 'static>(&self, cx: &mut Context<S>) -> io::Result<()> {
        cx.pause_listener(self.token, true)
    }

    /// Accepts again, those that wait first.
    ///
    /// # Errors
    ///
    /// If the back end refuses the change.
    pub fn resume<S: 'static>(&self, cx: &mut Context<S>) -> io::Result<()> {
        cx.pause_listener(self.token, false)
    }

    /// Stops listening. Connections stay; the file of a Unix socket goes.
    pub fn close<S: 'static>(&self, cx: &mut Context<S>) {
        cx.remove_listener(self.token);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("local", &self.local).finish_non_exhaustive()
    }
}

fn stats(counts: &Counts, group: &Group) -> ListenerStats {
    ListenerStats { accepted: counts.accepted.get(), refused: counts.refused.get(), live: group.live.get() }
}

pub(crate) struct ListenerSlot<S: 'static> {
    intake: Intake,
    /// Other loops that get their share of what is accepted here.
    turns: Option<Turns<S>>,
    /// Taken out while it runs.
    acceptor: Option<Acceptor<S>>,
    options: Rc<ListenOptions>,
    group: Rc<Group>,
    counts: Rc<Counts>,
    paused: bool,
    /// Given up when descriptors run out, to answer one more peer by a close.
    reserve: Option<File>,
    /// Set while accepting rests for want of descriptors.
    resting: Option<TimerId>,
    /// Stands in the loop's local ready list.
    pub(crate) ready: bool,
}

impl<S: 'static> ListenerSlot<S> {
    /// None for a door, which is not watched.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.intake.as_fd()
    }

    /// Whether it is registered for [exclusive wake-up](ListenOptions::exclusive).
    pub(crate) fn exclusive(&self) -> bool {
        self.options.exclusive
    }

    /// What the back end watches it for now.
    pub(crate) fn interest(&self) -> Interest {
        Interest::new(self.resting.is_none() && !self.paused, false)
    }
}

impl<S: 'static> fmt::Debug for ListenerSlot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSlot").field("intake", &self.intake).finish_non_exhaustive()
    }
}

impl<S: 'static> Context<S> {
    /// Binds `address`, of TCP or a Unix socket, and serves what connects there. A Unix socket's
    /// dead file is replaced, see [`ListeningSocket::bind`].
    ///
    /// `acceptor` is called for each connection and returns its handler, or None to
    /// close it; the handler's `on_open` is called next.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound, or an option or the back end refuses.
    pub fn listen(
        &mut self,
        address: impl Into<Address>,
        options: ListenOptions,
        acceptor: impl FnMut(&mut S, &mut Context<S>, &Conn) -> Option<Box<dyn Handler<S>>> + 'static,
    ) -> io::Result<Listener> {
        let socket = ListeningSocket::bind(&address.into(), &options.bind_options())?;
        self.listen_on(socket, options, acceptor)
    }

    /// [`listen`](Self::listen) on a socket that is bound and listening already,
    /// such as one of the standard library or of [`socket::bind_tcp`]. What the options say about
    /// binding is not looked at.
    ///
    /// # Errors
    ///
    /// If the socket cannot be prepared, or an option or the back end refuses.
    pub fn listen_on(
        &mut self,
        socket: impl Into<ListeningSocket>,
        options: ListenOptions,
        acceptor: impl FnMut(&mut S, &mut Context<S>, &Conn) -> Option<Box<dyn Handler<S>>> + 'static,
    ) -> io::Result<Listener> {
        self.add_listener(Intake::Socket(socket.into()), None, options, Box::new(acceptor))
    }

    pub(crate) fn add_listener(
        &mut self,
        intake: Intake,
        turns: Option<Turns<S>>,
        options: ListenOptions,
        acceptor: Acceptor<S>,
    ) -> io::Result<Listener> {
        intake.prepare()?;
        let local = intake.local_addr()?;
        // A door accepts nothing, so it has no need of a reserve.
        let reserve = intake.as_fd().and_then(|_| File::open("/dev/null").ok());
        let group = Group::new(&self.shared, options.conn.clone());
        let counts = Rc::new(Counts::default());
        let slot = ListenerSlot {
            intake,
            turns,
            acceptor: Some(acceptor),
            options: Rc::new(options),
            group: Rc::clone(&group),
            counts: Rc::clone(&counts),
            paused: false,
            reserve,
            resting: None,
            ready: false,
        };
        let token = self.slots.insert_with(|_| Slot::Listener(Box::new(slot)));
        let trigger = self.trigger;
        let Some(slot) = self.slots.listener_mut(token) else { unreachable!("inserted above") };
        let added = match slot.as_fd() {
            Some(fd) if slot.exclusive() => self.backend.add_exclusive(fd, token, Interest::READABLE, trigger),
            Some(fd) => self.backend.add(fd, token, Interest::READABLE, trigger),
            None => Ok(()),
        };
        if let Err(error) = added {
            self.slots.remove(token);
            return Err(error);
        }
        Ok(Listener { token, local, group, counts })
    }

    pub(crate) fn remove_listener(&mut self, token: Token) {
        if let Some(slot) = self.slots.listener_mut(token) {
            if let Some(rest) = slot.resting.take() {
                self.timers.remove(rest);
            }
            if let Some(fd) = slot.as_fd() {
                // The descriptor is closed right after, which forgets it in any case.
                let _ = self.backend.remove(fd);
            }
            self.slots.remove(token);
        }
    }

    pub(crate) fn listener_stats(&mut self, token: Token) -> Option<ListenerStats> {
        self.slots.listener_mut(token).map(|slot| stats(&slot.counts, &slot.group))
    }

    /// Accepts until the queue is empty or the budget is used up.
    pub(crate) fn accept_ready(&mut self, state: &mut S, token: Token) {
        let Some(slot) = self.slots.listener_mut(token) else { return };
        if slot.resting.is_some() || slot.paused {
            return;
        }
        for _ in 0..slot.options.accept_budget.max(1) {
            // Looked up anew: the acceptor may have closed or paused its listener.
            let Some(slot) = self.slots.listener_mut(token).filter(|slot| !slot.paused) else { return };
            match slot.intake.accept(&slot.options.socket) {
                Ok((stream, peer)) => self.accepted(state, token, stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // This peer gave up while it was queued; the next one may be fine.
                Err(error) if concerns_one_peer(&error) => log::debug!("accept: {error}"),
                Err(error) => return self.rest_from_accepting(token, &error),
            }
        }
        self.make_ready(token);
    }

    fn accepted(&mut self, state: &mut S, token: Token, stream: Stream, peer: Address) {
        let Some(slot) = self.slots.listener_mut(token) else { return };
        let kept = match &mut slot.turns {
            Some(turns) => turns.pass((stream, peer)),
            None => Some((stream, peer)),
        };
        let Some((stream, peer)) = kept else { return };
        let most = slot.options.max_per_address;
        if slot.group.live.get() >= slot.options.max_connections || !slot.group.per_address.admits(&peer, most) {
            self.stats.refused += 1;
            slot.counts.refused.set(slot.counts.refused.get() + 1);
            return; // dropping the stream closes it
        }
        let layer = match slot.options.layer.as_ref().map(|factory| factory.layer()).transpose() {
            Ok(layer) => layer,
            Err(error) => return log::error!("a connection from {peer} is refused: no layer for it: {error}"),
        };
        let handshake_timeout = layer.is_some().then_some(slot.options.handshake_timeout);
        let Some(mut acceptor) = slot.acceptor.take() else { return };
        slot.counts.accepted.set(slot.counts.accepted.get() + 1);
        let group = Rc::clone(&slot.group);
        group.per_address.enter(&peer, most);
        let initial = if layer.is_some() { State::Handshaking } else { State::Open };
        let transport = Transport::new(stream, layer);
        let mut made = None;
        let conn_token = self.slots.insert_with(|token| {
            let conn = Conn::new(token, group, transport, Some(peer), initial);
            made = Some(conn.clone());
            Slot::Conn(ConnSlot::new(conn, None))
        });
        let Some(conn) = made else { unreachable!("made above") };
        self.stats.accepted += 1;
        self.stats.connections += 1;
        let handler = self.caught("an acceptor", |cx| acceptor(state, cx, &conn)).flatten();
        conn.clear(flag::REPLACED);
        if let Some(slot) = self.slots.listener_mut(token) {
            slot.acceptor = Some(acceptor);
        }
        let (Some(slot), Some(handler)) = (self.slots.conn_mut(conn_token), handler) else {
            return conn.abort();
        };
        slot.replace_handler(handler);
        if let Some(timeout) = handshake_timeout {
            self.set_deadline(conn_token, timeout);
        }
        if conn.is_open() {
            self.connected(state, conn_token, &conn);
        }
    }

    /// Without descriptors every accept fails and the queue stays ready, which
    /// would spin. So one waiting peer is told by a close, on the reserve
    /// descriptor, and accepting rests for a moment.
    fn rest_from_accepting(&mut self, token: Token, error: &io::Error) {
        let Some(slot) = self.slots.listener_mut(token) else { return };
        // What comes through a door has its descriptor, so that never gets here.
        let Intake::Socket(socket) = &slot.intake else { return };
        if slot.reserve.take().is_some() {
            drop(socket::accept(socket));
            slot.reserve = File::open("/dev/null").ok();
        }
        self.stats.accept_rests += 1;
        if self.stats.accept_rests.is_power_of_two() {
            log::warn!("accept: {error}; resting for {EXHAUSTED_REST:?} (too many open files: raise the limit)");
        }
        let trigger = self.trigger;
        // If it fails the listener merely stays ready, and `resting` ignores that.
        let _ = self.backend.modify(socket.as_fd(), token, Interest::NONE, trigger);
        let rest = self.timers.insert(self.shared.now() + EXHAUSTED_REST, TimerTask::Accept(token));
        slot.resting = Some(rest);
    }

    pub(crate) fn accept_again(&mut self, token: Token) {
        let Some(slot) = self.slots.listener_mut(token) else { return };
        slot.resting = None;
        if slot.reserve.is_none() {
            slot.reserve = File::open("/dev/null").ok();
        }
        if let Err(error) = self.watch_listener(token) {
            log::error!("listener cannot be registered again: {error}");
        }
    }

    pub(crate) fn pause_listener(&mut self, token: Token, pause: bool) -> io::Result<()> {
        let Some(slot) = self.slots.listener_mut(token) else { return Ok(()) };
        if std::mem::replace(&mut slot.paused, pause) == pause {
            return Ok(());
        }
        self.watch_listener(token)
    }

    /// Tells the back end what the listener waits for now; what waits already is reported.
    fn watch_listener(&mut self, token: Token) -> io::Result<()> {
        let trigger = self.trigger;
        let Some(slot) = self.slots.listener_mut(token) else { return Ok(()) };
        if let Some(fd) = slot.as_fd() {
            return self.backend.modify(fd, token, slot.interest(), trigger);
        }
        // Somebody may wait at the door since, and is not announced again.
        self.make_ready(token);
        Ok(())
    }
}

/// Whether an error of accept(2) is about the connection at the head of the queue and
/// not about this process or the listener: the list of the manual page.
fn concerns_one_peer(error: &io::Error) -> bool {
    const PEERS: [i32; 10] = [
        libc::ECONNABORTED,
        libc::EPROTO,
        libc::EPERM,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
    ];
    error.raw_os_error().is_some_and(|code| PEERS.contains(&code))
}
