//! A client session inside somebody else's reactor: find a message server, connect, sign in, stay
//! signed in, ask, be told. Many sessions share one reactor; nothing here blocks.
//!
//! ```text
//!            ┌───────────── lost, and reconnecting ◄──────────────┐
//!            ▼                                                    │
//! open ─► Discovering ─► Connecting ─► SigningIn ─► Online ───────┤
//!            ▲                                                    │
//!            └── back-off ── Waiting ◄────────────────────────────┘
//!                                 every state ─► Ended (exactly once)
//! ```

mod attempt;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use netlib::{Backoff, Conn, Context, TimerId};
use tt_proto::im::{message, switch_service};
use tt_proto::pdu::{self, PduRef};
use tt_proto::{Body, Command};

use crate::dedup::Seen;
use crate::outbox::{Exchange, Outbox};
use crate::request::{Request, UsersPage};
use crate::{Error, Event, Message, Options, Peer, SendLimit, Signal, User};

/// Clients that lost the same server do not come back in the same instant.
const RETRY_JITTER_PERCENT: u32 = 20;

/// A caller's continuation.
type ThenFn<S, T> = Box<dyn FnOnce(&mut S, &mut Context<S>, Result<T, Error>)>;
type EventFn<S> = Box<dyn FnMut(&mut S, &mut Context<S>, Event)>;
type DoneFn<S> = Box<dyn for<'a> FnOnce(&mut S, &mut Context<S>, Result<PduRef<'a>, Error>)>;

/// What ends a request: the caller's continuation and the timer that would end it instead.
struct Pending<S: 'static> {
    done: DoneFn<S>,
    timer: TimerId,
}

/// A handle to a session; clones share it. The session lives until [`Event::Closed`], whether or
/// not a handle is kept.
pub struct Session<S: 'static> {
    inner: Rc<Inner<S>>,
}

struct Inner<S: 'static> {
    options: Options,
    core: RefCell<Core<S>>,
    /// Taken out while it runs. No method of a session calls it, only the reactor's callbacks do.
    on_event: Cell<Option<EventFn<S>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Discovering,
    Connecting,
    SigningIn,
    Online,
    Waiting,
    Ended,
}

/// Never borrowed across a callback.
struct Core<S: 'static> {
    phase: Phase,
    /// Numbers the attempts, so that what a former one left behind is recognised.
    attempt: u64,
    /// Ends an attempt that takes too long, or a wait between two.
    timer: Option<TimerId>,
    /// Message servers still to be tried in this attempt.
    candidates: VecDeque<SocketAddr>,
    conn: Option<Conn>,
    /// Why this side is closing the connection; after the end, what ended the session.
    verdict: Option<Error>,
    me: Option<User>,
    server_capabilities: u64,
    send_limit: Option<SendLimit>,
    outbox: Outbox<Pending<S>>,
    seen: Seen,
    backoff: Backoff,
}

impl<S: 'static> Clone for Session<S> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<S: 'static> std::fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let core = self.inner.core.borrow();
        f.debug_struct("Session")
            .field("user", &self.inner.options.user)
            .field("phase", &core.phase)
            .finish_non_exhaustive()
    }
}

impl<S: 'static> Session<S> {
    /// Starts a session; it signs in by itself and reports through `on_event`.
    pub fn open(
        cx: &mut Context<S>,
        options: Options,
        on_event: impl FnMut(&mut S, &mut Context<S>, Event) + 'static,
    ) -> Self {
        let core = Core {
            phase: Phase::Waiting,
            attempt: 0,
            timer: None,
            candidates: VecDeque::new(),
            conn: None,
            verdict: None,
            me: None,
            server_capabilities: 0,
            send_limit: None,
            outbox: Outbox::new(),
            seen: Seen::default(),
            backoff: Backoff::new(options.first_retry, options.longest_retry, RETRY_JITTER_PERCENT),
        };
        let on_event: EventFn<S> = Box::new(on_event);
        let inner = Inner { options, core: RefCell::new(core), on_event: Cell::new(Some(on_event)) };
        let session = Self { inner: Rc::new(inner) };
        session.begin_attempt(cx);
        session
    }

    /// Whether the session is signed in at this moment.
    pub fn is_online(&self) -> bool {
        self.inner.core.borrow().phase == Phase::Online
    }

    /// The user's own card, once signed in.
    pub fn me(&self) -> Option<User> {
        self.inner.core.borrow().me.clone()
    }

    /// The message server that the session is connected to now.
    pub fn server(&self) -> Option<SocketAddr> {
        self.inner.core.borrow().conn.as_ref().and_then(|conn| conn.peer_addr().inet())
    }

    /// How fast the server reads messages from this connection; None if it has not said.
    pub fn send_limit(&self) -> Option<SendLimit> {
        self.inner.core.borrow().send_limit
    }

    /// Asks; `then` gets the answer or the error, exactly once and never from within this call.
    ///
    /// While there is no connection the request waits for one, and it is asked again after a
    /// reconnect where [`Request::REPEAT`] allows; `timeout` bounds all of it.
    pub fn ask<R: Request>(
        &self,
        cx: &mut Context<S>,
        request: R,
        timeout: Duration,
        then: impl FnOnce(&mut S, &mut Context<S>, Result<R::Output, Error>) + 'static,
    ) {
        let mut core = self.inner.core.borrow_mut();
        let refusal = match core.phase {
            Phase::Ended => Some(core.verdict.clone().unwrap_or(Error::Closed)),
            _ if core.outbox.is_full() => Some(Error::Invalid(format!(
                "{} requests are waiting already, that is the limit",
                Outbox::<Pending<S>>::LIMIT
            ))),
            _ => None,
        };
        if let Some(error) = refusal {
            cx.post(move |state, cx| then(state, cx, Err(error)));
            return;
        }

        let request = Rc::new(request);
        let encode = {
            let request = Rc::clone(&request);
            Box::new(move |seq, me| pdu::encode(seq, &request.question(me)))
        };
        let this = self.clone();
        let done: DoneFn<S> = Box::new(move |state, cx, answer| {
            let result = answer.and_then(|pdu| {
                let body =
                    pdu.decode().map_err(|error| Error::Protocol(format!("the answer to {}: {error}", R::WHAT)))?;
                request.read(this.my_id(), body)
            });
            then(state, cx, result);
        });
        // The exchange and its timer name each other, so the timer looks the id up when it is due.
        let slot = Rc::new(Cell::new(0));
        let timer = {
            let (this, slot) = (self.clone(), Rc::clone(&slot));
            cx.after(timeout, move |state, cx| {
                let expired = this.inner.core.borrow_mut().outbox.remove(slot.get());
                if let Some(exchange) = expired {
                    (exchange.done.done)(state, cx, Err(Error::Timeout { what: R::WHAT, after: timeout }));
                }
            })
        };
        let exchange = Exchange {
            answer: R::Answer::COMMAND,
            encode,
            repeat: R::REPEAT,
            done: Pending { done, timer },
            seq: None,
        };
        let id = core.outbox.push(exchange);
        slot.set(id);
        if core.phase == Phase::Online {
            let me = core.me_id();
            if let Some(frame) = core.outbox.transmit(id, me) {
                core.send(frame);
            }
        }
    }

    /// The whole address book, all pages of it, without users who have left.
    pub fn users(
        &self,
        cx: &mut Context<S>,
        timeout: Duration,
        then: impl FnOnce(&mut S, &mut Context<S>, Result<Vec<User>, Error>) + 'static,
    ) {
        self.users_from(cx, timeout, Vec::new(), 0, Box::new(then));
    }

    /// A page begins at the time where the last one ended and repeats the users of that second, so
    /// the end is where a page brings nobody new.
    fn users_from(
        &self,
        cx: &mut Context<S>,
        timeout: Duration,
        mut known: Vec<User>,
        since: u32,
        then: ThenFn<S, Vec<User>>,
    ) {
        let this = self.clone();
        self.ask(cx, UsersPage { since }, timeout, move |state, cx, page| match page {
            Err(error) => then(state, cx, Err(error)),
            Ok((users, newest)) => {
                let before = known.len();
                let ids: HashSet<u32> = known.iter().map(|user| user.id).collect();
                known.extend(users.into_iter().filter(|user| !ids.contains(&user.id)));
                if known.len() == before || newest <= since {
                    known.retain(|user| !user.left);
                    then(state, cx, Ok(known));
                } else {
                    this.users_from(cx, timeout, known, newest, then);
                }
            }
        });
    }

    /// Tells the server that `conversation` was read up to `msg_id`. There is no answer; false
    /// means that there is no connection and nothing was told.
    pub fn mark_read(&self, conversation: Peer, msg_id: u32) -> bool {
        let mut core = self.inner.core.borrow_mut();
        let read = message::ImMsgDataReadAck {
            user_id: core.me_id(),
            session_id: conversation.id(),
            msg_id,
            session_type: conversation.session_type() as i32,
            ..Default::default()
        };
        core.phase == Phase::Online && core.tell(&read)
    }

    /// Sends a signal to another user's clients, if they are online. There is no answer; false means
    /// that there is no connection and nothing was sent.
    pub fn signal(&self, to: u32, signal: &Signal) -> bool {
        let mut core = self.inner.core.borrow_mut();
        let body =
            switch_service::Imp2pCmdMsg { from_user_id: core.me_id(), to_user_id: to, cmd_msg_data: signal.to_wire() };
        core.phase == Phase::Online && core.tell(&body)
    }

    /// Ends the session: what was sent still leaves, what waits for an answer fails with
    /// [`Error::Closed`], then [`Event::Closed`] comes.
    pub fn close(&self, cx: &mut Context<S>) {
        self.finish(cx, Error::Closed);
    }

    fn my_id(&self) -> u32 {
        self.inner.core.borrow().me_id()
    }

    // ---- what the connection brings

    fn answered(&self, state: &mut S, cx: &mut Context<S>, command: Command, pdu: PduRef<'_>) -> bool {
        let Some(exchange) = self.inner.core.borrow_mut().outbox.answered(command, pdu.header.seq) else {
            return false;
        };
        cx.cancel(exchange.done.timer);
        (exchange.done.done)(state, cx, Ok(pdu));
        true
    }

    fn arrived(&self, state: &mut S, cx: &mut Context<S>, data: &message::ImMsgData) {
        let message = Message::from_delivery(self.my_id(), data);
        if data.msg_id == 0 {
            log::warn!("{}: ignored a message without a number", self.inner.options.user);
            return;
        }
        let first_time = self.inner.core.borrow_mut().seen.first_time(message.conversation, message.msg_id);
        let conversation = message.conversation;
        if first_time {
            self.emit(state, cx, Event::Message(message));
        }
        // Told also for a repeat: the server repeats because it missed the first telling. Groups
        // have no such receipt (spec/flows.md §5.2).
        if matches!(conversation, Peer::User(_)) {
            let mut core = self.inner.core.borrow_mut();
            let receipt = message::ImMsgDataAck {
                user_id: core.me_id(),
                session_id: data.from_user_id,
                msg_id: data.msg_id,
                session_type: conversation.session_type() as i32,
                ..Default::default()
            };
            core.tell(&receipt);
        }
    }

    fn emit(&self, state: &mut S, cx: &mut Context<S>, event: Event) {
        // Absent only after the end: events come from reactor callbacks, which do not nest.
        if let Some(mut on_event) = self.inner.on_event.take() {
            on_event(state, cx, event);
            self.inner.on_event.set(Some(on_event));
        }
    }

    fn is_current_attempt(&self, attempt: u64) -> bool {
        let core = self.inner.core.borrow();
        core.attempt == attempt && core.phase != Phase::Ended
    }

    fn is_current(&self, attempt: u64, phase: Phase) -> bool {
        let core = self.inner.core.borrow();
        core.attempt == attempt && core.phase == phase
    }

    // ---- the end

    /// Closes the connection because of `error`; the rest follows when it is closed.
    fn hang_up(&self, error: Error) {
        let mut core = self.inner.core.borrow_mut();
        core.verdict.get_or_insert(error);
        if let Some(conn) = &core.conn {
            conn.close();
        }
    }

    /// Ends the session with `error`, with or without a connection.
    fn finish(&self, cx: &mut Context<S>, error: Error) {
        if self.inner.core.borrow().conn.is_some() {
            return self.hang_up(error);
        }
        let this = self.clone();
        cx.post(move |state, cx| this.end(state, cx, error));
    }

    fn end(&self, state: &mut S, cx: &mut Context<S>, error: Error) {
        let pending = {
            let mut core = self.inner.core.borrow_mut();
            if core.phase == Phase::Ended {
                return;
            }
            core.phase = Phase::Ended;
            core.verdict = Some(error.clone());
            if let Some(timer) = core.timer.take() {
                cx.cancel(timer);
            }
            // One may have been made since the decision to end fell.
            if let Some(conn) = core.conn.take() {
                conn.close();
            }
            core.outbox.drain()
        };
        for exchange in pending {
            cx.cancel(exchange.done.timer);
            (exchange.done.done)(state, cx, Err(error.clone()));
        }
        self.emit(state, cx, Event::Closed(error));
        self.inner.on_event.set(None);
    }
}

impl<S: 'static> Core<S> {
    fn me_id(&self) -> u32 {
        self.me.as_ref().map_or(0, |me| me.id)
    }

    /// Sends what has no answer of its own kind; false without an open connection.
    fn tell<M: Body>(&mut self, body: &M) -> bool {
        let frame = pdu::encode(self.outbox.fresh_seq(), body);
        self.send(frame)
    }

    /// Queues a frame. A failure needs no care here: the connection then ends by itself and what
    /// waits for an answer is dealt with there.
    fn send(&self, frame: bytes::Bytes) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.send(frame).is_ok())
    }
}
