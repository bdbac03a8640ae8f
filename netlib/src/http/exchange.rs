//! `Exchange`: the handle by which a service answers one request, now or later.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;

use super::core::{Core, Framing, Reading, Reply};
use super::message::{RequestHead, Response};
use super::outgoing::Piece;
use crate::{CloseReason, Conn, Context, Handler, SendError};

/// Below it a chunk is copied together with its frame: one piece instead of three.
const SMALL_CHUNK: usize = 2 * 1024;

/// Whether a writer should go on.
///
/// ```
/// use netlib::Context;
/// use netlib::http::{Exchange, Flow};
///
/// /// Writes what there is room for; `on_drain` calls it again. True once all is written.
/// fn write_some(cx: &mut Context<()>, exchange: &Exchange, lines: &mut std::vec::IntoIter<String>) -> bool {
///     for line in lines {
///         match exchange.write(cx, line) {
///             Ok(Flow::Go) => {}
///             Ok(Flow::Wait) => return false,
///             Err(_) => return true, // the client has gone
///         }
///     }
///     true
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// There is room.
    Go,
    /// The client does not keep up. What was written is kept, but the next write should wait
    /// for [`RequestHandler::on_drain`](super::RequestHandler::on_drain); a writer that goes on
    /// regardless ends at the connection's output limit.
    Wait,
}

/// One request and its answer. Cloning shares it; the last handle that goes without an answer
/// leaves the client with 500.
///
/// After the answer, and when the client has gone, all of its calls do nothing, and those that
/// return something say [`SendError::Closed`].
///
/// Thread rule: it belongs to its reactor's thread. A worker's result comes back to it by the
/// loop.
///
/// ```
/// # use netlib::http::{Exchange, RequestHandler, Response};
/// # use netlib::Context;
/// use std::time::Duration;
///
/// fn on_request(_: &mut (), cx: &mut Context<()>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<()>>> {
///     let exchange = exchange.clone();
///     cx.after(Duration::from_secs(1), move |_, cx| exchange.send(cx, Response::new(200).body("late\n")));
///     None
/// }
/// ```
#[derive(Clone)]
pub struct Exchange(Rc<Inner>);

struct Inner {
    core: Rc<RefCell<Core>>,
    conn: Conn,
    turn: u32,
    head: RequestHead,
}

impl Exchange {
    pub(super) fn new(core: &Rc<RefCell<Core>>, head: RequestHead) -> Self {
        let (conn, turn) = (core.borrow().conn.clone(), core.borrow().turn);
        Self(Rc::new(Inner { core: Rc::clone(core), conn, turn, head }))
    }

    /// The request line and headers.
    pub fn head(&self) -> &RequestHead {
        &self.0.head
    }

    /// The connection, to look at. What is sent on it by other ways than this one breaks the
    /// protocol.
    pub fn conn(&self) -> &Conn {
        &self.0.conn
    }

    /// Whether an answer is still wanted.
    pub fn is_open(&self) -> bool {
        self.0.core.borrow().is_current(self.0.turn)
    }

    /// Answers with all of `response`.
    pub fn send<S: 'static>(&self, cx: &mut Context<S>, response: Response) {
        let body = response.body.clone();
        self.send_pieces(cx, &response, body.len() as u64, [Piece::Bytes(body)]);
    }

    /// Answers with a body that is put together from `pieces`.
    pub(super) fn send_pieces<S: 'static>(
        &self,
        cx: &mut Context<S>,
        response: &Response,
        length: u64,
        pieces: impl IntoIterator<Item = Piece>,
    ) {
        let mut core = self.0.core.borrow_mut();
        if !core.is_current(self.0.turn) || core.reply != Reply::Due {
            return;
        }
        core.give_up_body();
        let (head, framing) = core.answer_head(cx, response, Some(length));
        core.outgoing.push(Piece::Bytes(head.into()));
        match framing {
            Framing::Nothing => {}
            Framing::Length(stated) if stated != length => {
                // What the response says of itself is wrong, and the next answer would be taken
                // for a part of this one.
                log::warn!("an answer to {} states a length that it does not have", self.0.head.target());
                core.close_after = true;
                pieces.into_iter().for_each(|piece| core.outgoing.push(piece));
            }
            _ => pieces.into_iter().for_each(|piece| core.outgoing.push(piece)),
        }
        core.answered(cx);
    }

    /// Begins an answer whose body is written bit by bit; what `response` has of a body comes
    /// first. With a header `Content-Length` the body must get exactly that long; without one
    /// it is sent in chunks, or up to the end of the connection if the client speaks HTTP/1.0.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`]: the client has gone, or the answer was begun before.
    pub fn start<S: 'static>(&self, cx: &mut Context<S>, response: Response) -> Result<Flow, SendError> {
        let mut core = self.0.core.borrow_mut();
        if !core.is_current(self.0.turn) || core.reply != Reply::Due {
            return Err(SendError::Closed);
        }
        if response.status >= 400 {
            core.give_up_body();
        } else {
            // Behind the head of an answer it would come too late.
            core.say_continue();
        }
        let (head, framing) = core.answer_head(cx, &response, None);
        core.outgoing.push(Piece::Bytes(head.into()));
        core.reply = Reply::Streaming(framing);
        drop(core);
        self.write(cx, response.body)
    }

    /// Appends to the body of the answer, which is started with status 200 if it was not.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`]: the client has gone, or the answer is complete.
    pub fn write<S: 'static>(&self, cx: &mut Context<S>, bytes: impl Into<Bytes>) -> Result<Flow, SendError> {
        let bytes = bytes.into();
        if self.0.core.borrow().reply == Reply::Due {
            self.start(cx, Response::new(200))?;
        }
        let mut core = self.0.core.borrow_mut();
        let core = &mut *core;
        if !core.is_current(self.0.turn) {
            return Err(SendError::Closed);
        }
        let Reply::Streaming(framing) = &mut core.reply else { return Err(SendError::Closed) };
        if core.outgoing.is_over_limit(&core.conn) {
            core.conn.end(CloseReason::OutputLimit, true);
            return Err(SendError::Closed);
        }
        match framing {
            Framing::Nothing => {}
            _ if bytes.is_empty() => {} // an empty chunk would be the end
            Framing::Length(left) => {
                let Some(rest) = left.checked_sub(bytes.len() as u64) else {
                    log::warn!("the answer to {} got longer than it stated", self.0.head.target());
                    core.conn.abort();
                    return Err(SendError::Closed);
                };
                *left = rest;
                core.outgoing.push(Piece::Bytes(bytes));
            }
            Framing::Close => core.outgoing.push(Piece::Bytes(bytes)),
            Framing::Chunked => {
                for piece in chunk(bytes) {
                    core.outgoing.push(Piece::Bytes(piece));
                }
            }
        }
        core.pump(cx);
        core.wants_drain = core.outgoing.is_full(&core.conn);
        Ok(if core.wants_drain { Flow::Wait } else { Flow::Go })
    }

    /// The answer is complete.
    pub fn finish<S: 'static>(&self, cx: &mut Context<S>) {
        if self.0.core.borrow().reply == Reply::Due {
            self.send(cx, Response::new(200));
            return;
        }
        let mut core = self.0.core.borrow_mut();
        if !core.is_current(self.0.turn) {
            return;
        }
        match core.reply {
            Reply::Streaming(Framing::Length(1..)) => {
                log::warn!("the answer to {} stayed shorter than it stated", self.0.head.target());
                core.conn.abort();
                return;
            }
            Reply::Streaming(Framing::Chunked) => {
                core.outgoing.push(Piece::Bytes(Bytes::from_static(b"0\r\n\r\n")));
            }
            _ => {}
        }
        core.give_up_body();
        core.answered(cx);
    }

    /// Breaks the connection off: an answer that cannot be completed is seen to be incomplete.
    pub fn abort(&self) {
        if self.is_open() {
            self.0.conn.abort();
        }
    }

    /// Stops the body: no [`on_body`](super::RequestHandler::on_body) until
    /// [`resume_body`](Self::resume_body), and after a little the client cannot send more.
    pub fn pause_body<S: 'static>(&self, cx: &mut Context<S>) {
        let mut core = self.0.core.borrow_mut();
        if core.is_current(self.0.turn) && matches!(core.reading, Reading::Body(_)) {
            core.body_paused = true;
            core.hold(cx.now());
        }
    }

    /// Lets the body come again, from the next tick on.
    pub fn resume_body<S: 'static>(&self, cx: &mut Context<S>) {
        let mut core = self.0.core.borrow_mut();
        if core.is_current(self.0.turn) && core.body_paused {
            core.body_paused = false;
            core.say_continue();
            core.release(cx.now());
        }
    }

    /// Answers with the head of `response` (101, with its headers `Connection` and `Upgrade`)
    /// and gives the connection to `handler`, together with what the client has sent since.
    /// [`Handler::on_open`] is not called. Refused as [`SendError::Closed`] also if the request
    /// has a body that has not been read, or the client will send nothing more.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`]: nothing can be handed over, and `handler` is dropped.
    pub fn upgrade<S: 'static>(
        &self,
        cx: &mut Context<S>,
        response: &Response,
        handler: Box<dyn Handler<S>>,
    ) -> Result<(), SendError> {
        let mut core = self.0.core.borrow_mut();
        let ready = core.is_current(self.0.turn) && core.reply == Reply::Due && !core.eof;
        if !ready || !matches!(core.reading, Reading::Done) {
            return Err(SendError::Closed);
        }
        let head = response.head_lines() + "\r\n";
        self.0.conn.send(head)?;
        core.upgraded = true;
        core.cancel_timers(cx);
        core.release(cx.now());
        // The replaced handler may be dropped at once, and its exchange with it.
        drop(core);
        cx.replace_handler(&self.0.conn, handler);
        Ok(())
    }

    /// Nobody but the caller has a handle.
    pub(super) fn is_last(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Never borrowed while a service's values are dropped; if it were, a client would wait.
        if let Ok(mut core) = self.core.try_borrow_mut()
            && core.is_current(self.turn)
        {
            log::warn!("the request for {} was never answered", self.head.target());
            core.refuse(500);
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("conn", &self.0.conn).field("head", &self.0.head).finish_non_exhaustive()
    }
}

/// A chunk with its frame.
pub(super) fn chunk(data: Bytes) -> [Bytes; 3] {
    let size = format!("{:x}\r\n", data.len());
    if data.len() > SMALL_CHUNK {
        return [size.into(), data, Bytes::from_static(b"\r\n")];
    }
    let mut framed = size.into_bytes();
    framed.extend_from_slice(&data);
    framed.extend_from_slice(b"\r\n");
    [framed.into(), Bytes::new(), Bytes::new()]
}
