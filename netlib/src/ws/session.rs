//! What a connection does once the handshake is over: frames in, callbacks out, keep-alive, and
//! the closing handshake. The same for both sides.

use std::rc::Rc;
use std::time::Duration;

use super::frame::{Event, Reader, Role, Violation};
use super::handshake::head_end;
use super::socket::{State, WebSocket};
use super::{CloseCode, CloseFrame, Closed, Message, Options, WsHandler};
use crate::{CloseReason, Conn, Context, FrameError, Handler, TimerId};

/// Messages and control frames handed over before others get their turn.
const EVENTS_PER_TURN: usize = 1024;
/// Pings that are answered one by one in a turn; of more only the last.
const PONGS_PER_TURN: usize = 64;
/// A pong waits while more than this is queued before it, and a later one takes its place.
const PONG_BEHIND: u64 = 64 * 1024;

/// A WebSocket that is open or closing, and its handler.
pub(super) struct Session<S: 'static> {
    ws: WebSocket,
    reader: Reader,
    handler: Box<dyn WsHandler<S>>,
    options: Rc<Options>,
    received: Option<CloseFrame>,
    /// Of a ping that is to be answered later.
    pong: Option<Vec<u8>>,
    keep_alive: Option<TimerId>,
    /// The peer was pinged for its silence; what had been received from it by then.
    asked: Option<u64>,
}

impl<S: 'static> Session<S> {
    pub(super) fn new(ws: WebSocket, options: Rc<Options>, handler: Box<dyn WsHandler<S>>) -> Self {
        let reader = Reader::new(ws.role(), &options);
        Self { ws, reader, handler, options, received: None, pong: None, keep_alive: None, asked: None }
    }

    /// The handshake is complete.
    pub(super) fn open(&mut self, state: &mut S, cx: &mut Context<S>) {
        self.ws.set_state(State::Open);
        if let Some(interval) = self.options.ping_interval {
            self.keep_alive = Some(cx.conn_timer(self.ws.conn(), interval));
        }
        self.handler.on_open(state, cx, &self.ws);
    }

    pub(super) fn is_opening(&self) -> bool {
        self.ws.state() == State::Opening
    }

    fn is_open(&self) -> bool {
        self.ws.is_open()
    }

    pub(super) fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        let (mut used, mut events, mut pongs) = (0, 0, 0);
        while conn.wants_input() && self.ws.state() != State::Closed {
            if events == EVENTS_PER_TURN {
                cx.make_ready(conn.id());
                break;
            }
            if self.ws.state() == State::Closing {
                self.reader.discard();
            }
            let rest = &input[used..];
            match self.reader.advance(rest) {
                Ok((taken, found)) => {
                    used += taken;
                    let Some(found) = found else { break };
                    events += 1;
                    match self.reader.event(rest, found) {
                        Ok(Event::Text(text)) => {
                            let message = Message::Text(text);
                            self.handler.on_message(state, cx, &self.ws, message);
                        }
                        Ok(Event::Binary(bytes)) => {
                            self.handler.on_message(state, cx, &self.ws, Message::Binary(bytes));
                        }
                        Ok(Event::Ping(payload)) if self.ws.is_open() => {
                            pongs += 1;
                            if pongs <= PONGS_PER_TURN && conn.queued() <= PONG_BEHIND {
                                self.ws.pong(payload);
                                self.pong = None;
                            } else {
                                self.pong = Some(payload.to_vec());
                            }
                            self.handler.on_ping(state, cx, &self.ws, payload);
                        }
                        Ok(Event::Pong(payload)) if self.ws.is_open() => {
                            self.handler.on_pong(state, cx, &self.ws, payload);
                        }
                        Ok(Event::Ping(_) | Event::Pong(_)) => {}
                        Ok(Event::Close(frame)) => self.peer_closes(cx, frame),
                        Err(violation) => self.fail(violation),
                    }
                }
                Err(violation) => self.fail(violation),
            }
        }
        self.answer_last_ping();
        self.reader.rest();
        if self.ws.state() == State::Closed { input.len() } else { used }
    }

    fn answer_last_ping(&mut self) {
        if self.is_open()
            && self.ws.conn().queued() <= PONG_BEHIND
            && let Some(payload) = self.pong.take()
        {
            self.ws.pong(&payload);
        }
    }

    /// The peer's close frame: answered if it is the first of the two.
    fn peer_closes(&mut self, cx: &mut Context<S>, frame: CloseFrame) {
        if self.ws.state() == State::Open {
            self.ws.send_close(frame.code, &frame.reason);
        }
        self.received = Some(frame);
        self.ws.set_state(State::Closed);
        match self.ws.role() {
            Role::Server => self.ws.conn().close_with(self.ended_by()),
            // The server closes the connection, so that its end of it holds the TIME_WAIT.
            Role::Client => self.ws.arm_close(cx),
        }
    }

    /// Who began a closing handshake that is complete or given up.
    fn ended_by(&self) -> CloseReason {
        if self.ws.close_began_here() { CloseReason::Local } else { CloseReason::PeerClosed }
    }

    /// The peer broke a rule: it is told so and disconnected.
    fn fail(&mut self, violation: Violation) {
        if self.ws.state() == State::Open {
            self.ws.send_close(violation.code, violation.what);
        }
        self.ws.set_state(State::Closed);
        let error = match violation.code {
            CloseCode::TOO_BIG => FrameError::TooLong,
            _ => FrameError::Malformed(violation.what),
        };
        self.ws.conn().close_with(CloseReason::BadFrame(error));
    }

    pub(super) fn on_eof(&mut self, conn: &Conn) {
        let complete = self.received.is_some();
        conn.close_with(if complete { self.ended_by() } else { CloseReason::PeerClosed });
    }

    pub(super) fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, timer: TimerId) {
        if self.ws.close_timer() == Some(timer) {
            self.ws.conn().close_with(self.ended_by());
        } else if self.keep_alive == Some(timer) {
            self.keep_alive(cx);
        } else if self.is_open() {
            self.handler.on_timer(state, cx, &self.ws, timer);
        }
    }

    /// Whatever the peer sends shows that it lives, so only silence is asked about.
    fn keep_alive(&mut self, cx: &mut Context<S>) {
        self.keep_alive = None;
        let Some(interval) = self.options.ping_interval else { return };
        if !self.is_open() {
            return;
        }
        let conn = self.ws.conn();
        let silence = cx.now().saturating_duration_since(conn.last_recv());
        let next = if !conn.wants_input() {
            // While this side does not read, silence is no fault of the peer's.
            self.asked = None;
            interval
        } else if self.asked == Some(conn.bytes_in()) {
            conn.close_with(CloseReason::Idle);
            return;
        } else if silence >= interval {
            self.asked = Some(conn.bytes_in());
            // Refused only by a connection that is full or closed, which will show.
            let _ = self.ws.ping(b"");
            self.options.pong_timeout
        } else {
            self.asked = None;
            interval.saturating_sub(silence)
        };
        self.keep_alive = Some(cx.conn_timer(self.ws.conn(), next));
    }

    pub(super) fn on_high_water(&mut self, state: &mut S, cx: &mut Context<S>) {
        if self.is_open() {
            self.handler.on_high_water(state, cx, &self.ws);
        }
    }

    pub(super) fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>) {
        if self.is_open() {
            self.handler.on_low_water(state, cx, &self.ws);
        }
    }

    pub(super) fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>) {
        self.answer_last_ping();
        if self.is_open() {
            self.handler.on_flushed(state, cx, &self.ws);
        }
    }

    pub(super) fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, cause: &CloseReason) {
        self.ws.set_state(State::Closed);
        let closed = Closed { sent: self.ws.sent(), received: self.received.take(), cause: cause.clone() };
        self.handler.on_close(state, cx, &self.ws, &closed);
    }
}

/// How a connection becomes a session: the two sides of the handshake.
pub(super) trait Opening<S: 'static>: 'static {
    /// The connection is up.
    fn begin(&mut self, conn: &Conn);

    /// The other side's head is complete. None: it was refused, and the connection closed.
    fn head(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, head: &[u8]) -> Option<Session<S>>;

    /// The head is longer than allowed.
    fn too_long(&mut self, conn: &Conn);

    /// The head did not come in time.
    fn too_late(&mut self, conn: &Conn);

    /// The connection ended before the session began.
    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, cause: &CloseReason);
}

// A connection is an opening for a moment and a session for its life.
#[allow(clippy::large_enum_variant)]
enum Stage<S: 'static> {
    Opening(Box<dyn Opening<S>>),
    Session(Session<S>),
}

/// The handler of the connection: first the handshake, then the session.
pub(super) struct Endpoint<S: 'static> {
    stage: Stage<S>,
    options: Rc<Options>,
    /// So many bytes of the head are known to hold no end of it.
    scanned: usize,
    /// Of the handshake, or the one that opens a session made elsewhere.
    timer: Option<TimerId>,
}

impl<S: 'static> Endpoint<S> {
    pub(super) fn opening(opening: Box<dyn Opening<S>>, options: Rc<Options>) -> Self {
        Self { stage: Stage::Opening(opening), options, scanned: 0, timer: None }
    }

    /// A session whose handshake was done elsewhere. It opens with its first callback, for which
    /// a timer sees.
    pub(super) fn upgraded(cx: &mut Context<S>, conn: &Conn, session: Session<S>, options: Rc<Options>) -> Self {
        let timer = Some(cx.conn_timer(conn, Duration::ZERO));
        Self { stage: Stage::Session(session), options, scanned: 0, timer }
    }

    /// The session, open; None while the handshake is not complete.
    fn session(&mut self, state: &mut S, cx: &mut Context<S>) -> Option<&mut Session<S>> {
        let Stage::Session(session) = &mut self.stage else { return None };
        if session.is_opening() {
            if let Some(timer) = self.timer.take() {
                cx.cancel(timer);
            }
            session.open(state, cx);
        }
        Some(session)
    }

    /// Looks for the end of the head; the bytes used.
    fn handshake(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        let Stage::Opening(opening) = &mut self.stage else { return 0 };
        let end = head_end(input, &mut self.scanned);
        if end.unwrap_or(input.len()) > self.options.max_head {
            opening.too_long(conn);
            return input.len();
        }
        let Some(end) = end else { return 0 };
        if let Some(timer) = self.timer.take() {
            cx.cancel(timer);
        }
        match opening.head(state, cx, conn, &input[..end]) {
            Some(session) => self.stage = Stage::Session(session),
            None => return input.len(),
        }
        end
    }
}

impl<S: 'static> Handler<S> for Endpoint<S> {
    fn on_open(&mut self, _: &mut S, cx: &mut Context<S>, conn: &Conn) {
        if let Stage::Opening(opening) = &mut self.stage {
            self.timer = Some(cx.conn_timer(conn, self.options.handshake_timeout));
            opening.begin(conn);
        }
    }

    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        let used = self.handshake(state, cx, conn, input);
        match self.session(state, cx) {
            Some(session) => used + session.on_data(state, cx, conn, &input[used..]),
            None => used,
        }
    }

    fn on_eof(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        match self.session(state, cx) {
            Some(session) => session.on_eof(conn),
            None => conn.close_with(CloseReason::PeerClosed),
        }
    }

    fn on_high_water(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn) {
        if let Some(session) = self.session(state, cx) {
            session.on_high_water(state, cx);
        }
    }

    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn) {
        if let Some(session) = self.session(state, cx) {
            session.on_low_water(state, cx);
        }
    }

    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn) {
        if let Some(session) = self.session(state, cx) {
            session.on_flushed(state, cx);
        }
    }

    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, timer: TimerId) {
        let own = self.timer == Some(timer);
        match self.session(state, cx) {
            Some(session) if !own => session.on_timer(state, cx, timer),
            Some(_) => {}
            None => {
                if let Stage::Opening(opening) = &mut self.stage {
                    opening.too_late(conn);
                }
            }
        }
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {
        match &mut self.stage {
            Stage::Opening(opening) => opening.on_close(state, cx, conn, reason),
            Stage::Session(session) => session.on_close(state, cx, reason),
        }
    }
}
