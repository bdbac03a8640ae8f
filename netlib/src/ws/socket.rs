//! `WebSocket`: the refcounted handle of an open WebSocket. Like the [`Conn`] under it, it only
//! queues and marks; what arrives is the session's matter.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::frame::{self, MAX_CONTROL, Masks, Role};
use super::{CloseCode, CloseFrame};
use crate::{Conn, Context, SendError, TimerId};

/// Payloads up to this size are copied behind their header, larger ones are queued beside it.
const COPY_UP_TO: usize = 16 * 1024;

/// Where a WebSocket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The handshake is under way.
    Opening,
    Open,
    /// A close frame was sent, the peer's is awaited.
    Closing,
    /// No frame will be sent or looked at any more.
    Closed,
}

struct Inner {
    conn: Conn,
    role: Role,
    state: Cell<State>,
    /// `close` was called before the peer's close frame came.
    began: Cell<bool>,
    protocol: OnceCell<String>,
    masks: RefCell<Masks>,
    sent: RefCell<Option<CloseFrame>>,
    close_timeout: Duration,
    close_timer: Cell<Option<TimerId>>,
}

/// The handle of a WebSocket. Cloning shares it, dropping gives it back; neither opens nor
/// closes anything. Calls on a closed one return [`SendError::Closed`].
///
/// Thread rule: it belongs to its reactor's thread. To reach it from another, post through a
/// [`Remote`](crate::Remote).
///
/// ```
/// use netlib::ws::{CloseCode, WebSocket};
/// use netlib::{Context, SendError};
///
/// fn dismiss<S: 'static>(cx: &mut Context<S>, ws: &WebSocket) -> Result<(), SendError> {
///     ws.send_text("that was all")?;
///     ws.close(cx, CloseCode::GOING_AWAY, "the server stops");
///     Ok(())
/// }
/// # let _ = dismiss::<()>;
/// ```
#[derive(Clone)]
pub struct WebSocket(Rc<Inner>);

impl WebSocket {
    pub(super) fn new(conn: &Conn, role: Role, close_timeout: Duration) -> Self {
        Self(Rc::new(Inner {
            conn: conn.clone(),
            role,
            state: Cell::new(State::Opening),
            began: Cell::new(false),
            protocol: OnceCell::new(),
            masks: RefCell::default(),
            sent: RefCell::default(),
            close_timeout,
            close_timer: Cell::new(None),
        }))
    }

    /// The connection under it: its addresses, byte counts, [`pause`](Conn::pause) and
    /// [`resume`](Conn::resume), and [`abort`](Conn::abort) for an end without good-bye. Bytes
    /// sent on it directly would break the protocol.
    pub fn conn(&self) -> &Conn {
        &self.0.conn
    }

    /// The sub-protocol that was agreed on.
    pub fn protocol(&self) -> Option<&str> {
        self.0.protocol.get().map(String::as_str)
    }

    /// Open, and not being closed by either side.
    pub fn is_open(&self) -> bool {
        self.0.state.get() == State::Open && self.0.conn.is_open()
    }

    /// Queues a text message.
    ///
    /// # Errors
    ///
    /// Those of [`Conn::send`].
    pub fn send_text(&self, text: &str) -> Result<(), SendError> {
        self.check_open()?;
        self.frame(OpCode::Data(Data::Text), text.as_bytes())
    }

    /// Queues a binary message. Large ones are not copied, except to be masked, as clients must.
    ///
    /// # Errors
    ///
    /// Those of [`Conn::send`].
    pub fn send_binary(&self, bytes: impl Into<Bytes>) -> Result<(), SendError> {
        self.check_open()?;
        let bytes = bytes.into();
        let opcode = OpCode::Data(Data::Binary);
        if self.0.role == Role::Client || bytes.len() <= COPY_UP_TO {
            return self.frame(opcode, &bytes);
        }
        // Both or none: a header without its payload would put the peer out of step.
        self.0.conn.send_parts(&[frame::header(opcode, bytes.len(), None, 0).into(), bytes])
    }

    /// Queues a message that goes to many. A server's WebSockets share its bytes.
    ///
    /// # Errors
    ///
    /// Those of [`Conn::send`].
    pub fn send(&self, message: &Prepared) -> Result<(), SendError> {
        self.check_open()?;
        match self.0.role {
            Role::Server => self.0.conn.send(message.frame.clone()),
            Role::Client => self.frame(message.opcode, &message.frame[message.header..]),
        }
    }

    /// Queues a ping. Its payload is cut at 125 bytes, the most that one carries.
    ///
    /// # Errors
    ///
    /// Those of [`Conn::send`].
    pub fn ping(&self, payload: &[u8]) -> Result<(), SendError> {
        self.check_open()?;
        self.frame(OpCode::Control(Control::Ping), &payload[..payload.len().min(MAX_CONTROL)])
    }

    /// Begins to close: queues a close frame behind what was sent, and waits for the peer's.
    /// The reason is cut at 123 bytes. Closing twice does nothing.
    pub fn close<S: 'static>(&self, cx: &mut Context<S>, code: CloseCode, reason: &str) {
        if !self.is_open() {
            return;
        }
        self.send_close(code, reason);
        self.0.state.set(State::Closing);
        self.0.began.set(true);
        self.arm_close(cx);
        // The answer is to be seen even if the application wanted no messages.
        self.0.conn.resume();
    }

    fn check_open(&self) -> Result<(), SendError> {
        if self.is_open() { Ok(()) } else { Err(SendError::Closed) }
    }

    fn frame(&self, opcode: OpCode, payload: &[u8]) -> Result<(), SendError> {
        let mask = (self.0.role == Role::Client).then(|| self.0.masks.borrow_mut().next());
        self.0.conn.send(frame::encode(opcode, payload, mask))
    }

    // --- for the session

    pub(super) fn role(&self) -> Role {
        self.0.role
    }

    pub(super) fn state(&self) -> State {
        self.0.state.get()
    }

    pub(super) fn set_state(&self, state: State) {
        self.0.state.set(state);
    }

    pub(super) fn close_began_here(&self) -> bool {
        self.0.began.get()
    }

    pub(super) fn set_protocol(&self, protocol: Option<String>) {
        if let Some(protocol) = protocol {
            // Set once, by the handshake.
            let _ = self.0.protocol.set(protocol);
        }
    }

    pub(super) fn pong(&self, payload: &[u8]) {
        // A connection that takes no more gets none.
        let _ = self.frame(OpCode::Control(Control::Pong), payload);
    }

    pub(super) fn send_close(&self, code: CloseCode, reason: &str) {
        let close = CloseFrame { code, reason: reason.to_owned() };
        let sent = self.frame(OpCode::Control(Control::Close), &frame::close_payload(&close));
        if sent.is_ok() {
            *self.0.sent.borrow_mut() = Some(close);
        }
    }

    pub(super) fn sent(&self) -> Option<CloseFrame> {
        self.0.sent.borrow().clone()
    }

    /// Limits what is left of closing.
    pub(super) fn arm_close<S: 'static>(&self, cx: &mut Context<S>) {
        if self.0.close_timer.get().is_none() {
            let timer = cx.conn_timer(&self.0.conn, self.0.close_timeout);
            self.0.close_timer.set(Some(timer));
        }
    }

    pub(super) fn close_timer(&self) -> Option<TimerId> {
        self.0.close_timer.get()
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("conn", &self.0.conn)
            .field("state", &self.0.state.get())
            .finish_non_exhaustive()
    }
}

/// A message encoded once for many WebSockets.
///
/// ```
/// use netlib::ws::{Prepared, WebSocket};
///
/// fn tell(everyone: &[WebSocket], news: &str) {
///     let message = Prepared::text(news);
///     for ws in everyone {
///         let _ = ws.send(&message); // a closed one is reported elsewhere
///     }
/// }
/// # tell(&[], "nothing");
/// ```
#[derive(Clone, Debug)]
pub struct Prepared {
    opcode: OpCode,
    header: usize,
    frame: Bytes,
}

impl Prepared {
    /// A text message.
    pub fn text(text: &str) -> Self {
        Self::new(OpCode::Data(Data::Text), text.as_bytes())
    }

    /// A binary message.
    pub fn binary(bytes: &[u8]) -> Self {
        Self::new(OpCode::Data(Data::Binary), bytes)
    }

    fn new(opcode: OpCode, payload: &[u8]) -> Self {
        let frame = frame::encode(opcode, payload, None);
        Self { opcode, header: frame.len() - payload.len(), frame: frame.into() }
    }
}
