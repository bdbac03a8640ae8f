//! One connection under a link: greeting, heartbeats, the watch for a silent peer, and the sorting of what
//! arrives into replies and everything else.
//!
//! There is one timer per connection and it is lazy: it is set to the moment at which something will be due if
//! nothing else happens, and looks at the clock again when it fires. An idle link end so wakes for its own
//! heartbeats and the peer's, and for nothing else.

use std::rc::Rc;
use std::time::{Duration, Instant};

use netlib::{CloseReason, Conn, Context, FrameHandler, TimerId};
use tt_proto::Command;
use tt_proto::im::extension::ImLinkHello;
use tt_proto::im::other::ImHeartBeat;
use tt_proto::pdu::{self, PduRef};

use super::{CallError, Link, PeerInfo, cookie};

/// A heartbeat goes out this much early rather than cause a wait for the remainder: what was sent in the tick
/// that armed the timer may be stamped a moment later.
const SLACK: Duration = Duration::from_millis(50);

pub(super) struct LinkConn<S: 'static> {
    link: Link<S>,
    /// Set while the peer's greeting is awaited: until when.
    greeting: Option<Instant>,
    timer: Option<TimerId>,
}

impl<S: 'static> LinkConn<S> {
    pub(super) fn new(link: Link<S>) -> Self {
        Self { link, greeting: None, timer: None }
    }

    /// How long until something is due if nothing happens before.
    fn due_in(&self, now: Instant, conn: &Conn) -> Duration {
        let options = &self.link.inner.options;
        let mut due = (conn.last_send() + options.heartbeat).min(conn.last_recv() + options.silence);
        if let Some(until) = self.greeting {
            due = due.min(until);
        }
        due.saturating_duration_since(now)
    }

    /// The peer is `info`, or one that does not greet.
    fn settle(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, info: Option<PeerInfo>) {
        self.greeting = None;
        if let Some(timer) = self.timer {
            cx.rearm(timer, self.due_in(cx.now(), conn));
        }
        let link = &self.link;
        if let Some(info) = &info
            && let Err(why) = link.admits(info)
        {
            log::warn!("link with {link}: {why}; it says it is {}", describe(info));
            conn.close_with(CloseReason::Refused(why));
            return;
        }
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
        let inner = &self.link.inner;
        *inner.conn.borrow_mut() = Some(conn.clone());
        if inner.options.hello {
            let hello = pdu::encode(0, &inner.options.identity.hello());
            inner.options.metrics.sent(Command::LinkHello.id(), hello.len());
            // A refused send means a connection that is already on its way to on_close.
            let _ = conn.send(hello);
            self.greeting = Some(cx.now() + inner.options.hello_wait);
            self.timer = Some(cx.conn_timer(conn, self.due_in(cx.now(), conn)));
        } else {
            self.timer = Some(cx.conn_timer(conn, self.due_in(cx.now(), conn)));
            self.settle(state, cx, conn, None);
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
        if self.greeting.is_some() {
            let hello = (command == Some(Command::LinkHello)).then(|| pdu.decode::<ImLinkHello>().unwrap_or_default());
            self.settle(state, cx, conn, hello.map(PeerInfo::from_hello));
            if command == Some(Command::LinkHello) || !conn.is_open() {
                return;
            }
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
        if self.greeting.is_some_and(|until| now >= until) {
            self.settle(state, cx, conn, None);
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
