//! One connection under a link: greeting and proof, heartbeats, the watch for a silent peer, and the sorting of what
//! arrives into replies and everything else.
//!
//! There is one timer per connection and it is lazy: it is set to the moment at which something will be due if
//! nothing else happens, and looks at the clock again when it fires. An idle link end so wakes for its own
//! heartbeats and the peer's, and for nothing else.

use std::cell::Cell;
use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netlib::{CloseReason, Conn, Context, FrameHandler, TimerId};
use prost::Message;
use tt_proto::Command;
use tt_proto::im::extension::{ImLinkHello, ImLinkProof};
use tt_proto::im::other::ImHeartBeat;
use tt_proto::pdu::{self, PduRef};

use super::proof::{self, Side};
use super::{CallError, Link, PeerInfo, cookie};

/// A heartbeat goes out this much early rather than cause a wait for the remainder: what was sent in the tick
/// that armed the timer may be stamped a moment later.
const SLACK: Duration = Duration::from_millis(50);

/// Why a peer is not admitted that could have been anybody.
const UNPROVEN: &str = "it does not prove to know the cluster secret";

pub(super) struct LinkConn<S: 'static> {
    link: Link<S>,
    /// Our own greeting's body.
    ours: Vec<u8>,
    stage: Stage,
    /// The body of the peer's greeting, when its proof has not come yet.
    theirs: Option<Vec<u8>>,
    /// Whether the peer is; shared with the framing.
    admitted: Rc<Cell<bool>>,
    timer: Option<TimerId>,
}

/// How far the opening of a link has come.
enum Stage {
    /// The peer's greeting is awaited, until then.
    Greeting(Instant),
    /// It has come, and its proof is awaited, until then.
    Proof(Instant, PeerInfo),
    /// The peer is what it is.
    Settled,
}

impl<S: 'static> LinkConn<S> {
    pub(super) fn new(link: Link<S>) -> Self {
        Self {
            link,
            ours: Vec::new(),
            stage: Stage::Settled,
            theirs: None,
            admitted: Rc::new(Cell::new(false)),
            timer: None,
        }
    }

    pub(super) fn admitted(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.admitted)
    }

    /// How long until something is due if nothing happens before.
    fn due_in(&self, now: Instant, conn: &Conn) -> Duration {
        let options = &self.link.inner.options;
        let mut due = (conn.last_send() + options.heartbeat).min(conn.last_recv() + options.silence);
        if let Stage::Greeting(until) | Stage::Proof(until, _) = self.stage {
            due = due.min(until);
        }
        due.saturating_duration_since(now)
    }

    /// Which end of the connection this is.
    fn side(&self) -> Side {
        if self.link.inner.dialled.is_some() { Side::Dialler } else { Side::Listener }
    }

    /// Whether the peer's address is enough (`legacy_peers`).
    fn without_proof(&self) -> bool {
        self.link.inner.options.trust.without_proof(self.link.inner.addr.ip())
    }

    /// Ends a connection whose peer is not admitted.
    fn refuse(&self, cx: &Context<S>, conn: &Conn, why: &'static str) {
        let link = &self.link;
        link.inner.options.metrics.link_refused(why);
        if let Some(unsaid) = link.inner.refusals.borrow_mut().allow(cx.now()) {
            log::warn!("link with {link} refused: {why}{unsaid}");
        }
        conn.close_with(CloseReason::Refused(why));
    }

    /// The peer's greeting: answered with our proof, if there is a secret to prove.
    fn greeted(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, until: Instant, pdu: PduRef<'_>) {
        let hello = pdu.decode::<ImLinkHello>().unwrap_or_default();
        let nonce = hello.nonce.as_ref().map_or(0, Bytes::len);
        let info = PeerInfo::from_hello(hello);
        let options = Rc::clone(&self.link.inner.options);
        let proves = nonce >= proof::MIN_NONCE;
        if let Some(secret) = options.trust.secret()
            && proves
        {
            let proof = pdu::encode(0, &proof::prove(secret, self.side(), &self.ours, pdu.body));
            options.metrics.sent(Command::LinkProof.id(), proof.len());
            // A refused send means a connection that is already on its way to on_close.
            let _ = conn.send(proof);
            self.theirs = Some(pdu.body.to_vec());
        }
        if self.without_proof() {
            self.settle(state, cx, conn, Some(info));
        } else if self.theirs.is_some() {
            self.stage = Stage::Proof(until, info);
        } else {
            self.refuse(cx, conn, UNPROVEN);
        }
    }

    /// The peer's proof. One that is wrong ends the link even where none was needed.
    fn proven(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, pdu: PduRef<'_>) {
        let Some(theirs) = self.theirs.take() else {
            self.link.log_noise(cx, format_args!("a proof that nobody asked for is ignored"));
            return;
        };
        let proof = pdu.decode::<ImLinkProof>().unwrap_or_default();
        let secret = self.link.inner.options.trust.secret();
        let side = self.side().other();
        if !secret.is_some_and(|secret| proof::holds(secret, side, &theirs, &self.ours, &proof)) {
            self.refuse(cx, conn, "its cluster secret is another one");
            return;
        }
        self.link.inner.proven.set(true);
        if let Stage::Proof(_, info) = mem::replace(&mut self.stage, Stage::Settled) {
            self.settle(state, cx, conn, Some(info));
        }
    }

    /// The peer has said something else or nothing in time: an old server, if it may be one.
    fn unproven(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        if self.without_proof() {
            self.settle(state, cx, conn, None);
        } else {
            self.stage = Stage::Settled;
            self.refuse(cx, conn, UNPROVEN);
        }
    }

    /// The peer is `info`, or one that does not greet.
    fn settle(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, info: Option<PeerInfo>) {
        self.stage = Stage::Settled;
        if let Some(timer) = self.timer {
            cx.rearm(timer, self.due_in(cx.now(), conn));
        }
        let link = &self.link;
        if let Some(info) = &info
            && let Err(why) = link.admits(info)
        {
            log::debug!("link with {link}: the peer says it is {}", describe(info));
            self.refuse(cx, conn, why);
            return;
        }
        self.admitted.set(true);
        let inner = &link.inner;
        inner.stopped.set(false);
        inner.up_since.set(Some(cx.now()));
        *inner.peer.borrow_mut() = info.map(Rc::new);
        inner.options.metrics.link_up(link.peer_role());
        match link.peer() {
            Some(info) => log::info!("link with {link} is up: {}", describe(&info)),
            None => log::info!("link with {link} is up: a peer without greeting"),
        }
        link.with_handler(|handler| handler.on_up(state, cx, link));
    }

    /// Whatever is neither the greeting nor a heartbeat.
    fn dispatch(&mut self, state: &mut S, cx: &mut Context<S>, pdu: PduRef<'_>) {
        let link = &self.link;
        let command = pdu.header.command;
        if !link.inner.calls.borrow().expects(command) {
            link.with_handler(|handler| handler.on_pdu(state, cx, link, pdu));
            return;
        }
        let id = cookie::call_id(pdu.body);
        let pending = id.and_then(|id| link.inner.calls.borrow_mut().answered(id, command));
        if let Some(pending) = pending {
            cx.cancel(pending.timer);
            link.end_call(state, cx, pending.then, Ok(pdu));
        } else {
            // An answer that came too late, or a confused peer: neither is worth the link.
            link.inner.options.metrics.unmatched_replies.inc();
            link.log_noise(cx, format_args!("dropped a reply {command:#06x} to no pending call"));
        }
    }
}

impl<S: 'static> FrameHandler<S> for LinkConn<S> {
    fn on_open(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        let options = Rc::clone(&self.link.inner.options);
        *self.link.inner.conn.borrow_mut() = Some(conn.clone());
        self.admitted.set(self.without_proof());
        if options.hello {
            let hello = options.identity.hello();
            self.ours = hello.encode_to_vec();
            let hello = pdu::encode(0, &hello);
            options.metrics.sent(Command::LinkHello.id(), hello.len());
            // A refused send means a connection that is already on its way to on_close.
            let _ = conn.send(hello);
            self.stage = Stage::Greeting(cx.now() + options.hello_wait);
        }
        self.timer = Some(cx.conn_timer(conn, self.due_in(cx.now(), conn)));
        if !options.hello {
            self.unproven(state, cx, conn);
        }
    }

    fn on_frame(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, frame: &[u8]) {
        let Ok(pdu) = PduRef::parse(frame) else {
            // The framing let only whole frames through; said here so that nobody relies on a panic.
            conn.close_with(CloseReason::Refused("not a PDU"));
            return;
        };
        self.link.inner.options.metrics.received(pdu.header.command, frame.len());
        let command = Command::try_from(pdu.header.command).ok();
        match (&self.stage, command) {
            (Stage::Greeting(until), Some(Command::LinkHello)) => {
                return self.greeted(state, cx, conn, *until, pdu);
            }
            (_, Some(Command::LinkProof)) => return self.proven(state, cx, conn, pdu),
            (Stage::Greeting(_) | Stage::Proof(..), _) => self.unproven(state, cx, conn),
            (Stage::Settled, _) => {}
        }
        if !self.link.is_up() {
            return;
        }
        match command {
            // Any input shows that the peer lives; netlib has noted the time.
            Some(Command::HeartBeat) => {}
            Some(Command::LinkHello) => {
                // It came after its time. The link stays what it was taken for.
                self.link.log_noise(cx, format_args!("a greeting in mid-conversation is ignored"));
            }
            Some(Command::StopReceivePacket) => {
                log::info!("link with {}: the peer takes no new requests", self.link);
                self.link.inner.stopped.set(true);
            }
            _ => self.dispatch(state, cx, pdu),
        }
    }

    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, _: TimerId) {
        self.timer = None;
        let now = cx.now();
        let options = Rc::clone(&self.link.inner.options);
        if now >= conn.last_recv() + options.silence {
            conn.close_with(CloseReason::Idle);
            return;
        }
        if let Stage::Greeting(until) | Stage::Proof(until, _) = self.stage
            && now >= until
        {
            self.unproven(state, cx, conn);
        }
        if now + SLACK >= conn.last_send() + options.heartbeat {
            let heartbeat = pdu::encode(0, &ImHeartBeat::default());
            options.metrics.sent(Command::HeartBeat.id(), heartbeat.len());
            // As above: a closed connection needs no heartbeat.
            let _ = conn.send(heartbeat);
        }
        if conn.is_open() {
            self.timer = Some(cx.conn_timer(conn, self.due_in(now, conn)));
        }
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn, reason: &CloseReason) {
        let link = &self.link;
        let inner = &link.inner;
        *inner.conn.borrow_mut() = None;
        inner.proven.set(false);
        let was_up = inner.up_since.take().is_some();
        let pending = inner.calls.borrow_mut().drain();
        for call in pending {
            cx.cancel(call.timer);
            link.end_call(state, cx, call.then, Err(CallError::LinkDown));
        }
        if was_up {
            log::info!("link with {link} is down: {reason}");
            inner.options.metrics.link_down(link.peer_role(), reason.label());
            link.with_handler(|handler| handler.on_down(state, cx, link, reason));
            *inner.peer.borrow_mut() = None;
        } else if inner.dialled.is_some() {
            inner.options.metrics.dial_failed(inner.dialled, reason.label());
            log::warn!("link with {link}: {reason}; it is tried again");
        }
    }
}

impl<S: 'static> Link<S> {
    /// Whether a peer of this kind belongs at the other end.
    fn admits(&self, info: &PeerInfo) -> Result<(), &'static str> {
        match self.inner.dialled {
            Some(dialled) if info.role != Some(dialled) => Err("another kind of server answers at this address"),
            Some(_) => Ok(()),
            None => {
                let accepts = self.inner.options.accepts;
                let welcome = accepts.is_empty() || info.role.is_some_and(|role| accepts.contains(&role));
                if welcome { Ok(()) } else { Err("servers of this kind have no business here") }
            }
        }
    }
}

fn describe(info: &PeerInfo) -> String {
    let role = info.role.map_or("of an unknown kind", super::LinkRole::name);
    format!("{role} {:?}, instance {:016x}", info.server_id, info.instance)
}
