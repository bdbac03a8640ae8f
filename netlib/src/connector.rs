//! Connecting, and staying connected.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use crate::backend::Interest;
use crate::conn::{Conn, State};
use crate::conn_options::{CloseReason, ConnOptions};
use crate::context::{Context, TimerTask};
use crate::group::Group;
use crate::handler::Handler;
use crate::layer::LayerFactory;
use crate::slot::{ConnSlot, Slot};
use crate::socket::{Address, SocketOptions, Stream, UnixAddress};
use crate::timer::TimerId;
use crate::token::Token;
use crate::transport::Transport;

/// What a connection is made to: an address, or a host whose addresses are looked up when the
/// connect begins and then tried until one connects.
///
/// In text: an [`Address`], or `name:port`.
///
/// ```
/// use netlib::Target;
///
/// let host: Target = "im.example.com:8000".parse()?;
/// assert_eq!(host, Target::from(("im.example.com", 8000)));
/// let address: Target = "[::1]:8000".parse()?;
/// assert!(matches!(address, Target::Address(_)));
/// assert!(matches!(Target::from(("127.0.0.1", 80)), Target::Address(_))); // numbers are no name
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One address.
    Address(Address),
    /// A host by its name.
    Host {
        /// As the [resolver](crate::Resolve) knows it.
        name: Arc<str>,
        /// The TCP port.
        port: u16,
    },
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address.into())
    }
}

impl From<UnixAddress> for Target {
    fn from(address: UnixAddress) -> Self {
        Self::Address(address.into())
    }
}

impl From<(&str, u16)> for Target {
    fn from((name, port): (&str, u16)) -> Self {
        match name.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).into(),
            Err(_) => Self::Host { name: name.into(), port },
        }
    }
}

/// Fails with `InvalidInput`.
impl FromStr for Target {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let no_address = match text.parse::<Address>() {
            Ok(address) => return Ok(address.into()),
            Err(error) => error,
        };
        match text.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>())) {
            Some((name, Ok(port))) if !name.is_empty() && !name.contains([':', '/', '[', ']']) => {
                Ok((name, port).into())
            }
            _ => Err(no_address),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// How a connection is made.
///
/// ```
/// use netlib::ConnectOptions;
/// use std::time::Duration;
///
/// let hasty = ConnectOptions { timeout: Duration::from_secs(2), ..ConnectOptions::default() };
/// # let _ = hasty;
/// ```
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The connect fails with [`CloseReason::ConnectTimeout`] after that long: the look-up of the
    /// name, all attempts, and the layer's handshake ([`CloseReason::HandshakeTimeout`]) together.
    pub timeout: Duration,
    /// For the socket.
    pub socket: SocketOptions,
    /// Makes the connection's [layer](crate::layer), such as TLS. Its handshake is part of the
    /// connect and of its `timeout`.
    pub layer: Option<Arc<dyn LayerFactory>>,
    /// For the connection.
    pub conn: ConnOptions,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            socket: SocketOptions::default(),
            layer: None,
            conn: ConnOptions::default(),
        }
    }
}

impl<S: 'static> Context<S> {
    /// Starts to connect, to an address or to a host by its name ([`Target`]). The outcome is
    /// always reported later and on one path: `on_open`, or `on_close` with
    /// [`CloseReason::ConnectFailed`] or [`CloseReason::ConnectTimeout`], also when it fails at once.
    /// Of several failures the last one is reported; a name that has no address is `NotFound`.
    ///
    /// ```
    /// use netlib::{CloseReason, Conn, ConnectOptions, Context, Handler, Reactor, ReactorConfig};
    ///
    /// struct Client;
    /// impl Handler<()> for Client {
    ///     fn on_data(&mut self, _: &mut (), _: &mut Context<()>, _: &Conn, input: &[u8]) -> usize {
    ///         input.len()
    ///     }
    ///     fn on_close(&mut self, _: &mut (), cx: &mut Context<()>, _: &Conn, reason: &CloseReason) {
    ///         assert_eq!(*reason, CloseReason::ConnectFailed(std::io::ErrorKind::NotFound));
    ///         cx.stop();
    ///     }
    /// }
    ///
    /// let mut reactor = Reactor::new(ReactorConfig::default())?;
    /// let cx = reactor.context();
    /// cx.set_resolver(|_: &str, _: u16| Ok(vec![])); // knows nobody
    /// let conn = cx.connect(("im.test", 8000), ConnectOptions::default(), Box::new(Client));
    /// conn.send_slice(b"waits for the connection").unwrap();
    /// reactor.run(&mut ())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect(
        &mut self,
        target: impl Into<Target>,
        options: ConnectOptions,
        handler: Box<dyn Handler<S>>,
    ) -> Conn {
        self.connect_as(target.into(), options, handler, None)
    }

    fn connect_as(
        &mut self,
        target: Target,
        options: ConnectOptions,
        handler: Box<dyn Handler<S>>,
        keeper: Option<Rc<Keeper<S>>>,
    ) -> Conn {
        let opened = match &target {
            Target::Address(address) => open(address, &options),
            Target::Host { .. } => Ok(Transport::None),
        };
        let (transport, failure) = match opened {
            Ok(transport) => (transport, None),
            Err(error) => {
                // The reason that the handler gets has no room for the error's number.
                log::debug!("connect to {target}: {error}");
                (Transport::None, Some(error.kind()))
            }
        };
        let group = Group::new(&self.shared, options.conn.clone());
        let peer = match &target {
            Target::Address(address) => Some(address.clone()),
            Target::Host { .. } => None,
        };
        let mut made = None;
        let token = self.slots.insert_with(|token| {
            let conn = Conn::new(token, group, transport, peer, State::Connecting);
            made = Some(conn.clone());
            Slot::Conn(ConnSlot::new(conn, Some(handler)))
        });
        let Some(conn) = made else { unreachable!("made above") };
        self.stats.connections += 1;
        if let Some(slot) = self.slots.conn_mut(token)
            && keeper.is_some()
        {
            slot.rare_mut().keeper = keeper;
        }
        if let Some(kind) = failure {
            conn.end(CloseReason::ConnectFailed(kind), true);
            return conn;
        }
        self.set_deadline(token, options.timeout);
        let begun = match target {
            Target::Address(_) => self.register(token, Interest::WRITABLE).map(drop),
            Target::Host { name, port } => self.dial_host(token, name, port, &options),
        };
        if let Err(error) = begun {
            conn.end(CloseReason::ConnectFailed(error.kind()), true);
        }
        conn
    }

    /// The limit of connecting and of agreeing upon a layer.
    pub(crate) fn set_deadline(&mut self, token: Token, timeout: Duration) {
        let deadline = self.timers.insert(self.due(timeout), TimerTask::Connect(token));
        if let Some(slot) = self.slots.conn_mut(token) {
            slot.rare_mut().deadline = Some(deadline);
        }
    }

    /// Keeps one connection to `target`: connects now, and again after each end with
    /// the delays of `backoff`, which starts over at every success. A host's name is looked up each
    /// time. `factory` makes the handler of each attempt.
    pub fn keep_connected(
        &mut self,
        target: impl Into<Target>,
        options: ConnectOptions,
        backoff: Backoff,
        factory: impl FnMut(&mut S, &mut Context<S>) -> Box<dyn Handler<S>> + 'static,
    ) -> Connector {
        let shared = Rc::new(Shared {
            target: RefCell::new(target.into()),
            options,
            backoff: RefCell::new(backoff),
            conn: RefCell::new(None),
            retry: Cell::new(None),
            stopped: Cell::new(false),
        });
        let keeper = Rc::new(Keeper { shared: Rc::clone(&shared), factory: RefCell::new(Box::new(factory)) });
        self.post(move |state, cx| keeper.dial(state, cx));
        Connector(shared)
    }
}

/// A connect to one address, begun.
fn open(address: &Address, options: &ConnectOptions) -> io::Result<Transport> {
    let stream = Stream::connect_with(address, &options.socket)?;
    let layer = options.layer.as_ref().map(|factory| factory.layer()).transpose()?;
    Ok(Transport::new(stream, layer))
}

struct Shared {
    target: RefCell<Target>,
    options: ConnectOptions,
    backoff: RefCell<Backoff>,
    conn: RefCell<Option<Conn>>,
    retry: Cell<Option<TimerId>>,
    stopped: Cell<bool>,
}

/// The handle of a kept connection, see [`Context::keep_connected`]. Dropping it
/// does not stop the reconnecting.
///
/// Thread rule: it belongs to its reactor's thread (it is not `Send`).
///
/// ```
/// use netlib::{Backoff, Conn, ConnectOptions, Context, Handler, Reactor, ReactorConfig};
///
/// struct Link;
/// impl Handler<()> for Link {
///     fn on_data(&mut self, _: &mut (), _: &mut Context<()>, _: &Conn, input: &[u8]) -> usize {
///         input.len()
///     }
/// }
///
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let address: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap(); // nobody there
/// let cx = reactor.context();
/// let link = cx.keep_connected(address, ConnectOptions::default(), Backoff::default(), |(), _| Box::new(Link));
/// cx.post(move |(), cx| {
///     link.stop(cx);
///     cx.stop();
/// });
/// reactor.run(&mut ())?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Connector(Rc<Shared>);

impl Connector {
    /// The connection as it is now: connecting, connected, or None between tries.
    pub fn conn(&self) -> Option<Conn> {
        self.0.conn.borrow().clone()
    }

    /// Connects to `target` from the next attempt on. The connection that there is stays: close it
    /// to move at once.
    pub fn set_target(&self, target: impl Into<Target>) {
        *self.0.target.borrow_mut() = target.into();
    }

    /// Closes the connection, if any, and connects no more.
    pub fn stop<S: 'static>(&self, cx: &mut Context<S>) {
        self.0.stopped.set(true);
        if let Some(retry) = self.0.retry.take() {
            cx.cancel(retry);
        }
        if let Some(conn) = self.conn() {
            conn.close();
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("target", &self.0.target.borrow()).finish_non_exhaustive()
    }
}

/// Makes the handler of an attempt.
type Factory<S> = Box<dyn FnMut(&mut S, &mut Context<S>) -> Box<dyn Handler<S>>>;

/// What stands behind a kept connection and makes the next one.
pub(crate) struct Keeper<S: 'static> {
    shared: Rc<Shared>,
    factory: RefCell<Factory<S>>,
}

impl<S: 'static> Keeper<S> {
    fn dial(self: Rc<Self>, state: &mut S, cx: &mut Context<S>) {
        if self.shared.stopped.get() {
            return;
        }
        // The factory runs here only, and nothing that it can call leads back here.
        let made = cx.contained("a connector's factory", |cx| (self.factory.borrow_mut())(state, cx));
        let Some(handler) = made else { return self.closed(cx) };
        // It may have stopped the connector.
        if !self.shared.stopped.get() {
            let (target, options) = (self.shared.target.borrow().clone(), self.shared.options.clone());
            let conn = cx.connect_as(target, options, handler, Some(Rc::clone(&self)));
            *self.shared.conn.borrow_mut() = Some(conn);
        }
    }

    /// The connection is up.
    pub(crate) fn opened(&self) {
        self.shared.backoff.borrow_mut().reset();
    }

    /// It has ended. Called before its handler's `on_close`, which may stop the
    /// connector.
    pub(crate) fn closed(self: Rc<Self>, cx: &mut Context<S>) {
        self.shared.conn.borrow_mut().take();
        if self.shared.stopped.get() {
            return;
        }
        let delay = self.shared.backoff.borrow_mut().next(cx.random());
        let keeper = Rc::clone(&self);
        let retry = cx.after(delay, move |state, cx| {
            keeper.shared.retry.set(None);
            keeper.dial(state, cx);
        });
        self.shared.retry.set(Some(retry));
    }
}

/// Growing delays between attempts: each twice the one before up to a cap, moved at
/// random by some percent so that many peers of one server do not come back at the
/// same instant.
///
/// ```
/// use netlib::Backoff;
/// use std::time::Duration;
///
/// let mut backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(64), 0);
/// assert_eq!(backoff.next(0), Duration::from_secs(4));
/// assert_eq!(backoff.next(0), Duration::from_secs(8));
/// backoff.reset();
/// assert_eq!(backoff.next(0), Duration::from_secs(4));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    jitter_percent: u32,
    next: Duration,
}

impl Backoff {
    /// Delays from `first` to `cap`, each ± `jitter_percent` (at most 100).
    pub fn new(first: Duration, cap: Duration, jitter_percent: u32) -> Self {
        Self { first, cap, jitter_percent: jitter_percent.min(100), next: first }
    }

    /// The next delay; `random` is any uniformly distributed number.
    pub fn next(&mut self, random: u64) -> Duration {
        let base = self.next.min(self.cap);
        self.next = base.saturating_mul(2).min(self.cap);
        let spread = u64::from(self.jitter_percent) * 2 + 1;
        let percent = 100 - self.jitter_percent + (random % spread) as u32;
        base.saturating_mul(percent) / 100
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// 4, 8, 16, 32, 64, 64 … seconds, ± 20 %.
    fn default() -> Self {
        Self::new(Duration::from_secs(4), Duration::from_secs(64), 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g7_1_delays_double_to_the_cap_within_the_jitter() {
        let mut backoff = Backoff::default();
        let mut random = 0;
        for nominal in [4, 8, 16, 32, 64, 64] {
            random += 7919;
            let delay = backoff.next(random).as_millis();
            assert!((nominal * 800..=nominal * 1200).contains(&delay), "{delay} ms for {nominal} s");
        }
    }
}
