//! WebSocket (RFC 6455), server and client, on ordinary connections of the loop.
//!
//! ```
//! use std::rc::Rc;
//! use netlib::ws::{self, Accept, Message, Refuse, ServerOptions, WebSocket, WsHandler};
//! use netlib::{Context, ListenOptions, Reactor, ReactorConfig};
//!
//! /// Sends every message back.
//! struct Echo;
//!
//! impl<S: 'static> WsHandler<S> for Echo {
//!     fn on_message(&mut self, _: &mut S, _: &mut Context<S>, ws: &WebSocket, message: Message<'_>) {
//!         // Closed or over its limit: the reactor ends it, nothing to do here.
//!         let _ = match message {
//!             Message::Text(text) => ws.send_text(text),
//!             Message::Binary(bytes) => ws.send_binary(bytes),
//!         };
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
//! let options = Rc::new(ServerOptions::default());
//! let address: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
//! reactor.context().listen(address, ListenOptions::default(), move |(), _, _| {
//!     Some(ws::accept(&options, |(), _, request| match request.path() {
//!         "/echo" => Ok(Accept::new(Echo)),
//!         _ => Err(Refuse::new(404)),
//!     }))
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! `handshake` and `frame` know the protocol and neither sockets nor time; `session` is what a
//! connection is once it is open, `server` and `client` are how it gets there. There are no
//! extensions: permessage-deflate is neither offered nor accepted.
//!
//! # Limits
//!
//! Everything that a peer feeds has one, see [`Options`]: the size of a frame, of a message and
//! of the handshake's head, the fragments of a message, the time of the handshake and of the
//! closing, and how long a peer may be silent when it is asked. What a slow peer does not take is
//! the [`ConnOptions`](crate::ConnOptions)' matter, as on every connection. Pings beyond 64 in one
//! turn are answered by one pong for the last of them, which the protocol allows.
//!
//! # Closing
//!
//! [`WebSocket::close`] sends a close frame and waits for the peer's, at most
//! [`Options::close_timeout`]; no message is delivered meanwhile. A peer's close frame is
//! answered and everything that was sent before is flushed. Who breaks the protocol is told by
//! a close frame with the code that fits, and disconnected. Whatever happened, the end is one
//! [`WsHandler::on_close`].

mod client;
#[cfg(feature = "http")]
mod exchange;
mod frame;
mod handshake;
mod server;
mod session;
mod socket;

use std::time::Duration;

use bytes::Bytes;

use crate::{CloseReason, Context, TimerId};

pub use client::{ClientOptions, client, connect};
#[cfg(feature = "http")]
pub use exchange::upgrade_exchange;
pub use handshake::{Refuse, UpgradeRequest, Url, UrlError};
pub use server::{Accept, ServerOptions, Upgrade, accept, upgrade};
pub use socket::{Prepared, WebSocket};

/// Limits and times that both sides have.
///
/// ```
/// let options = netlib::ws::Options { max_message: 64 << 10, ..Default::default() };
/// assert_eq!(options.max_frame, 1 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one message; over it the peer is told 1009.
    pub max_message: usize,
    /// Bytes of one frame's payload; over it the peer is told 1009.
    pub max_frame: usize,
    /// Frames of one message; over it the peer is told 1008.
    pub max_fragments: u32,
    /// Bytes of the handshake's head.
    pub max_head: usize,
    /// From the connection to the last byte of the handshake's head. What takes a connection to
    /// keep it open pays with this (slow loris).
    pub handshake_timeout: Duration,
    /// A peer that was silent for so long is pinged. None: never.
    pub ping_interval: Option<Duration>,
    /// A peer that was pinged for its silence and sends nothing for so long is dropped with
    /// [`CloseReason::Idle`].
    pub pong_timeout: Duration,
    /// How long a close frame waits for its answer; a client also waits so long for the server
    /// to close the connection.
    pub close_timeout: Duration,
}

impl Default for Options {
    /// 1 MiB, 1 MiB, 131,072 fragments, 16 KiB, 10 s, 30 s, 10 s, 5 s.
    fn default() -> Self {
        Self {
            max_message: 1 << 20,
            max_frame: 1 << 20,
            max_fragments: 128 << 10,
            max_head: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            ping_interval: Some(Duration::from_secs(30)),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// A whole message.
///
/// ```
/// use netlib::ws::Message;
///
/// let length = |message: &Message<'_>| match message {
///     Message::Text(text) => text.chars().count(),
///     Message::Binary(bytes) => bytes.len(),
/// };
/// assert_eq!(length(&Message::Text("héllo")), 5);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text, which is UTF-8: anything else has been refused with 1007.
    Text(&'a str),
    /// Bytes; sending them on does not copy them.
    Binary(Bytes),
}

/// The callbacks of a WebSocket. The value is the place for its own state.
///
/// As with [`Handler`](crate::Handler): on the reactor's thread, in order of arrival, never
/// nested. After [`WebSocket::close`], or the peer's close frame, only
/// [`on_close`](WsHandler::on_close) still comes. A panic ends the connection.
///
/// ```
/// use netlib::Context;
/// use netlib::ws::{Closed, Message, WebSocket, WsHandler};
///
/// struct Count(u64);
/// impl WsHandler<()> for Count {
///     fn on_message(&mut self, (): &mut (), _: &mut Context<()>, ws: &WebSocket, _: Message<'_>) {
///         self.0 += 1;
///         let _ = ws.send_text(&format!("{} so far", self.0));
///     }
///     fn on_close(&mut self, (): &mut (), _: &mut Context<()>, _: &WebSocket, closed: &Closed) {
///         println!("{} messages, then {closed}", self.0);
///     }
/// }
/// # let _: Box<dyn WsHandler<()>> = Box::new(Count(0));
/// ```
#[allow(unused_variables)]
pub trait WsHandler<S: 'static>: 'static {
    /// The handshake is complete.
    fn on_open(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket) {}

    /// A whole message arrived.
    fn on_message(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket, message: Message<'_>);

    /// A ping arrived. It is answered without this callback's help.
    fn on_ping(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket, payload: &[u8]) {}

    /// A pong arrived, asked for or not.
    fn on_pong(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket, payload: &[u8]) {}

    /// See [`Handler::on_high_water`](crate::Handler::on_high_water).
    fn on_high_water(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket) {}

    /// See [`Handler::on_low_water`](crate::Handler::on_low_water).
    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket) {}

    /// Everything that was queued has been handed to the kernel.
    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket) {}

    /// A timer made with [`Context::conn_timer`] on [`WebSocket::conn`] is due.
    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket, timer: TimerId) {}

    /// The end, exactly once; for a client also if it never opened.
    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, ws: &WebSocket, closed: &Closed) {}
}

/// A close code that may stand in a close frame, or the absence of one.
///
/// ```
/// use netlib::ws::CloseCode;
///
/// assert_eq!(CloseCode::new(1000), Some(CloseCode::NORMAL));
/// assert_eq!(CloseCode::new(4000).map(CloseCode::value), Some(4000));
/// assert_eq!(CloseCode::new(1006), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: this side goes away: a server that stops, a page that is left.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a kind of data that this side does not take.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1005: a close frame without a code. Sent as that.
    pub const NO_STATUS: Self = Self(1005);
    /// 1007: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: against the rules of this side.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message too big to be processed.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: something unexpected happened here.
    pub const INTERNAL: Self = Self(1011);
    /// 1013: overloaded, try later.
    pub const TRY_LATER: Self = Self(1013);

    /// The code, if it may be sent: 1000–1003, 1007–1013 and 3000–4999.
    pub fn new(code: u16) -> Option<Self> {
        tungstenite::protocol::frame::coding::CloseCode::from(code).is_allowed().then_some(Self(code))
    }

    /// As a number.
    pub const fn value(self) -> u16 {
        self.0
    }
}

/// What a close frame says.
///
/// ```
/// use netlib::ws::{CloseCode, CloseFrame};
///
/// let frame = CloseFrame { code: CloseCode::TRY_LATER, reason: "restarting".into() };
/// assert_eq!(frame.code.value(), 1013);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// Why; [`CloseCode::NO_STATUS`] if the frame says nothing.
    pub code: CloseCode,
    /// For people who read logs.
    pub reason: String,
}

/// How a WebSocket ended.
///
/// ```
/// use netlib::CloseReason;
/// use netlib::ws::{CloseCode, CloseFrame, Closed};
///
/// let frame = CloseFrame { code: CloseCode::NORMAL, reason: String::new() };
/// let closed = Closed { sent: Some(frame.clone()), received: Some(frame), cause: CloseReason::Local };
/// assert!(closed.is_clean());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The close frame that this side sent.
    pub sent: Option<CloseFrame>,
    /// The close frame that the peer sent.
    pub received: Option<CloseFrame>,
    /// Why the connection ended: [`CloseReason::Local`] or [`CloseReason::PeerClosed`] by who
    /// began a closing handshake, [`CloseReason::BadFrame`] for a peer that broke the protocol,
    /// [`CloseReason::Protocol`] for a server that did not upgrade as asked.
    pub cause: CloseReason,
}

impl Closed {
    /// Both sides have said that they close.
    pub fn is_clean(&self) -> bool {
        self.sent.is_some() && self.received.is_some()
    }
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.cause.fmt(f)?;
        match &self.received {
            Some(frame) => write!(f, " ({} {:?})", frame.code.value(), frame.reason),
            None => Ok(()),
        }
    }
}

/// What the fuzz targets may call: the protocol without sockets.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::Options;
    use super::frame::Role;
    use super::frame::by_pieces::read;
    use super::handshake::{UpgradeRequest, Url, check_answer, head_end};

    /// A stream of frames means the same however it is cut, to either side.
    pub fn frames(input: &[u8], step: usize) {
        let options = Options { max_message: 300, max_frame: 200, max_fragments: 8, ..Options::default() };
        for role in [Role::Server, Role::Client] {
            let whole = read(role, &options, input, input.len().max(1));
            assert_eq!(read(role, &options, input, step.max(1)), whole);
        }
    }

    /// No head, of a request or of an answer, makes either side panic, and where it ends does not
    /// depend on how it arrives.
    pub fn head(input: &[u8], split: usize) {
        let mut scanned = 0;
        let early = head_end(&input[..split.min(input.len())], &mut scanned);
        let end = early.or_else(|| head_end(input, &mut scanned));
        assert_eq!(end, head_end(input, &mut 0));
        let Some(end) = end else { return };
        if let Ok(request) = UpgradeRequest::parse(&input[..end]) {
            let _ = request.check();
            let _ = request.protocols().count();
            let _ = format!("ws://{}{}", request.header("Host").unwrap_or_default(), request.target()).parse::<Url>();
        }
        let _ = check_answer(&input[..end], "dGhlIHNhbXBsZSBub25jZQ==", &["chat".to_owned()]);
    }
}
