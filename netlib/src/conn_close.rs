//! How the loop ends a connection: `on_close`, then the flush of what is left, our FIN
//! and the wait for the peer's, then the slot is free.

use std::os::fd::AsFd;
use std::rc::Rc;

use crate::conn::{Conn, State, flag};
use crate::conn_options::CloseReason;
use crate::context::{Context, TimerTask};
use crate::slot::Slot;
use crate::token::Token;

/// An orderly close that makes progress is given up after so many linger times.
const MOST_LINGERS: u32 = 60;

/// The timer of an orderly close: what had been sent when it was set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linger {
    token: Token,
    bytes_out: u64,
    turns: u32,
}

impl<S: 'static> Context<S> {
    /// Tells closed connections so, and frees those that have nothing left to do.
    pub(crate) fn reap(&mut self, state: &mut S) {
        let mut batch = std::mem::take(&mut self.closed);
        for token in batch.drain(..) {
            let Some(slot) = self.slots.conn_mut(token) else { continue };
            let conn = slot.conn.clone();
            match conn.0.state.get() {
                State::Closing => self.close_now(state, token, &conn),
                State::Dead => self.free(token),
                State::Connecting | State::Handshaking | State::Open | State::Lingering => {}
            }
        }
        // Nothing is closed into the list while it is gone: what callbacks close is
        // marked, and *Flush* fills the list.
        self.closed = batch;
    }

    fn close_now(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let reason = self.shared.reasons.borrow_mut().remove(&token).unwrap_or(CloseReason::Local);
        let slot = self.slots.conn_mut(token);
        let keeper = slot.and_then(|slot| slot.rare()?.keeper.as_ref().map(Rc::clone));
        if let Some(keeper) = keeper {
            keeper.closed(self);
        }
        self.call(state, token, conn, |handler, state, cx, conn| handler.on_close(state, cx, conn, &reason));
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.handler = None;
        slot.tail = crate::buffer::InputTail::default();
        self.drop_timers(token);
        conn.0.state.set(State::Lingering);
        if self.linger(token, conn) {
            self.free(token);
        } else {
            self.set_linger(Linger { token, bytes_out: conn.bytes_out(), turns: 0 }, conn);
        }
    }

    fn set_linger(&mut self, linger: Linger, conn: &Conn) {
        let timer = self.timers.insert(self.due(conn.options().linger), TimerTask::Linger(linger));
        if let Some(slot) = self.slots.conn_mut(linger.token) {
            slot.rare_mut().deadline = Some(timer);
        }
    }

    /// One step of an orderly close: our FIN once everything is out, then the peer's.
    /// True when there is nothing left to wait for.
    pub(crate) fn linger(&mut self, token: Token, conn: &Conn) -> bool {
        let flushed = conn.queued() == 0;
        if flushed && !conn.has(flag::ABORT | flag::FIN_SENT) {
            Self::send_fin(conn);
        }
        if conn.has(flag::ABORT) || (conn.has(flag::EOF | flag::ENDED) && conn.has(flag::FIN_SENT)) {
            return true;
        }
        self.update_interest(token);
        false
    }

    /// A linger time has passed. A peer that still takes its bytes gets another.
    pub(crate) fn linger_due(&mut self, linger: Linger) {
        let Some(slot) = self.slots.conn_mut(linger.token) else { return };
        slot.take_deadline();
        let conn = slot.conn.clone();
        if conn.has_output() && conn.bytes_out() > linger.bytes_out && linger.turns < MOST_LINGERS {
            let next = Linger { bytes_out: conn.bytes_out(), turns: linger.turns + 1, ..linger };
            self.set_linger(next, &conn);
        } else {
            conn.0.state.set(State::Dead);
            self.closed.push(linger.token);
        }
    }

    fn drop_timers(&mut self, token: Token) {
        self.end_race(token);
        let Some(slot) = self.slots.conn_mut(token) else { return };
        for timer in slot.take_timers() {
            self.timers.remove(timer);
        }
        self.disarm_idle(token);
    }

    fn free(&mut self, token: Token) {
        self.drop_timers(token);
        let Some(Slot::Conn(slot)) = self.slots.remove(token) else { return };
        let conn = slot.conn;
        conn.0.state.set(State::Dead);
        let transport = conn.0.transport.take();
        if conn.has(flag::COMPLETES) {
            self.stop_completing(token, &transport, slot.registered);
        } else if let Some(stream) = transport.stream()
            && slot.registered.is_some()
        {
            // The descriptor is closed right after, which forgets it in any case.
            let _ = self.backend.remove(stream.as_fd());
        }
        drop(transport);
        conn.clear_output();
        if conn.take(flag::MARKED) {
            // A mark on nothing would cost a tick.
            self.shared.marked.borrow_mut().retain(|marked| *marked != token);
        }
        if let Some(peer) = conn.0.peer.get() {
            conn.0.group.per_address.leave(peer);
        }
        let live = &conn.0.group.live;
        live.set(live.get() - 1);
        self.stats.connections -= 1;
    }
}
