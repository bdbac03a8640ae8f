//! How the loop ends a connection: `on_close`, then the flush of what is left, our FIN
//! and the wait for the peer's, then the slot is free.

use std::os::fd::AsFd;
use std::rc::Rc;

use crate::conn::{Conn, State, flag};
use crate::conn_options::CloseReason;
use crate::context::{Context, TimerTask};
use crate::slot::{Origin, Slot};
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
                State::Connecting | State::Open | State::Lingering => {}
            }
        }
        // Nothing is closed into the list while it is gone: what callbacks close is
        // marked, and *Flush* fills the list.
        self.closed = batch;
    }

    fn close_now(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let reason = conn.0.reason.borrow().clone().unwrap_or(CloseReason::Local);
        let keeper = match self.slots.conn_mut(token).map(|slot| &slot.origin) {
            Some(Origin::Kept(keeper)) => Some(Rc::clone(keeper)),
            _ => None,
        };
        if let Some(keeper) = keeper {
            keeper.closed(self);
        }
        self.call(state, token, |handler, state, cx, conn| handler.on_close(state, cx, conn, &reason));
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
        let timer = self.timers.insert(self.due(conn.0.options.linger), TimerTask::Linger(linger));
        if let Some(slot) = self.slots.conn_mut(linger.token) {
            slot.deadline = Some(timer);
        }
    }

    /// One step of an orderly close: our FIN once everything is out, then the peer's.
    /// True when there is nothing left to wait for.
    pub(crate) fn linger(&mut self, token: Token, conn: &Conn) -> bool {
        let flushed = conn.queued() == 0;
        if flushed && !conn.has(flag::ABORT | flag::FIN_SENT) {
            conn.set(flag::FIN_SENT);
            let sent = match conn.0.stream.borrow().as_ref() {
                Some(stream) => stream.shutdown_write().is_ok(),
                None => false,
            };
            if !sent {
                conn.set(flag::ABORT);
            }
        }
        if conn.has(flag::ABORT) || (flushed && conn.has(flag::EOF)) {
            return true;
        }
        self.update_interest(token);
        false
    }

    /// A linger time has passed. A peer that still takes its bytes gets another.
    pub(crate) fn linger_due(&mut self, linger: Linger) {
        let Some(slot) = self.slots.conn_mut(linger.token) else { return };
        slot.deadline = None;
        let conn = slot.conn.clone();
        if conn.queued() > 0 && conn.bytes_out() > linger.bytes_out && linger.turns < MOST_LINGERS {
            let next = Linger { bytes_out: conn.bytes_out(), turns: linger.turns + 1, ..linger };
            self.set_linger(next, &conn);
        } else {
            conn.0.state.set(State::Dead);
            self.closed.push(linger.token);
        }
    }

    fn drop_timers(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let mut timers = std::mem::take(&mut slot.timers);
        timers.extend(slot.deadline.take());
        for timer in timers {
            self.timers.remove(timer);
        }
        self.disarm_idle(token);
    }

    fn free(&mut self, token: Token) {
        self.drop_timers(token);
        let Some(Slot::Conn(slot)) = self.slots.remove(token) else { return };
        let conn = slot.conn;
        conn.0.state.set(State::Dead);
        if let Some(stream) = conn.0.stream.take()
            && slot.registered.is_some()
        {
            // The descriptor is closed right after, which forgets it in any case.
            let _ = self.backend.remove(stream.as_fd());
        }
        conn.0.output.borrow_mut().clear();
        if conn.take(flag::MARKED) {
            // A mark on nothing would cost a tick.
            self.shared.marked.borrow_mut().retain(|marked| *marked != token);
        }
        if let Origin::Accepted(live) = slot.origin {
            live.set(live.get() - 1);
        }
        self.stats.connections -= 1;
    }
}
