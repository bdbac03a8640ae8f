//! Connecting, and staying connected.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Interest;
use crate::conn::{Conn, Group, Handler, State};
use crate::conn_options::{CloseReason, ConnOptions};
use crate::context::{Context, TimerTask};
use crate::layer::LayerFactory;
use crate::slot::{ConnSlot, Slot};
use crate::socket::Stream;
use crate::timer::TimerId;
use crate::token::Token;
use crate::transport::Transport;

/// How a connection is made.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The connect fails with [`CloseReason::ConnectTimeout`] after that long.
    pub timeout: Duration,
    /// Makes the connection's [layer](crate::layer), such as TLS. Its handshake is part of the
    /// connect and of its `timeout`.
    pub layer: Option<Arc<dyn LayerFactory>>,
    /// For the connection.
    pub conn: ConnOptions,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), layer: None, conn: ConnOptions::default() }
    }
}

impl<S: 'static> Context<S> {
    /// Starts to connect. The outcome is always reported later and on one path:
    /// `on_open`, or `on_close` with [`CloseReason::ConnectFailed`] or
    /// [`CloseReason::ConnectTimeout`], also when it fails at once.
    pub fn connect(&mut self, addr: SocketAddr, options: ConnectOptions, handler: Box<dyn Handler<S>>) -> Conn {
        self.connect_as(addr, options, handler, None)
    }

    fn connect_as(
        &mut self,
        addr: SocketAddr,
        options: ConnectOptions,
        handler: Box<dyn Handler<S>>,
        keeper: Option<Rc<Keeper<S>>>,
    ) -> Conn {
        let opened = Stream::connect(addr).and_then(|stream| {
            let layer = options.layer.as_ref().map(|factory| factory.layer()).transpose()?;
            Ok(Transport::new(stream, layer))
        });
        let (transport, failure) = match opened {
            Ok(transport) => (transport, None),
            Err(error) => {
                // The reason that the handler gets has no room for the error's number.
                log::debug!("connect to {addr}: {error}");
                (Transport::None, Some(error.kind()))
            }
        };
        let group = Group::new(&self.shared, options.conn);
        let mut made = None;
        let token = self.slots.insert_with(|token| {
            let conn = Conn::new(token, group, transport, addr, State::Connecting);
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
        if let Err(error) = self.register(token, Interest::WRITABLE) {
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

    /// Keeps one connection to `addr`: connects now, and again after each end with
    /// the delays of `backoff`, which starts over at every success. `factory` makes
    /// the handler of each attempt.
    pub fn keep_connected(
        &mut self,
        addr: SocketAddr,
        options: ConnectOptions,
        backoff: Backoff,
        factory: impl FnMut(&mut S, &mut Context<S>) -> Box<dyn Handler<S>> + 'static,
    ) -> Connector {
        let shared = Rc::new(Shared {
            addr,
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

struct Shared {
    addr: SocketAddr,
    options: ConnectOptions,
    backoff: RefCell<Backoff>,
    conn: RefCell<Option<Conn>>,
    retry: Cell<Option<TimerId>>,
    stopped: Cell<bool>,
}

/// The handle of a kept connection, see [`Context::keep_connected`]. Dropping it
/// does not stop the reconnecting.
#[derive(Clone)]
pub struct Connector(Rc<Shared>);

impl Connector {
    /// The connection as it is now: connecting, connected, or None between tries.
    pub fn conn(&self) -> Option<Conn> {
        self.0.conn.borrow().clone()
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
        f.debug_struct("Connector").field("addr", &self.0.addr).finish_non_exhaustive()
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
        let handler = (self.factory.borrow_mut())(state, cx);
        // It may have stopped the connector.
        if !self.shared.stopped.get() {
            let (addr, options) = (self.shared.addr, self.shared.options.clone());
            let conn = cx.connect_as(addr, options, handler, Some(Rc::clone(&self)));
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
