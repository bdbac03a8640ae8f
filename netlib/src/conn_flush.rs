//! What the loop does with what a connection has to say: the one write of *Flush*, the marks
//! of its output, and what the back end watches for on its behalf.

use std::io;
use std::os::fd::AsFd;

use crate::backend::Interest;
use crate::conn::{Conn, State, flag};
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::handler::Handler;
use crate::reactor::Phase;
use crate::token::Token;

/// Bytes written to one connection in one *Flush* before others get their turn.
const FLUSH_BUDGET: u64 = 1 << 20;

impl<S: 'static> Context<S> {
    /// Visits every connection that was written to, closed or changed.
    pub(crate) fn flush_marked(&mut self, state: &mut S) {
        let mut batch = std::mem::take(&mut self.flushing);
        std::mem::swap(&mut *self.shared.marked.borrow_mut(), &mut batch);
        for token in batch.drain(..) {
            self.flush(state, token);
        }
        self.flushing = batch;
    }

    fn flush(&mut self, state: &mut S, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let rests = slot.registered == Some(Interest::READABLE);
        let answers = rests && !slot.watches_flushes && slot.conn.only_answers();
        if answers {
            slot.conn.write_now(FLUSH_BUDGET);
            if slot.conn.is_at_rest() {
                // It has answered and waits for the next request, as most do.
                return slot.conn.clear(flag::MARKED);
            }
        }
        self.attend(state, token, answers);
    }

    /// Whatever else it was marked for. `written`: its output has been offered to the socket.
    #[inline(never)]
    fn attend(&mut self, state: &mut S, token: Token, written: bool) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let watches = slot.watches_flushes;
        let rests = slot.registered == Some(Interest::READABLE);
        let conn = slot.conn.clone();
        if conn.has(flag::COMPLETES) && self.phase == Phase::Ready {
            // In the middle of a batch: the back end sends with the next wait, so the last flush will do.
            return self.shared.marked.borrow_mut().push(token);
        }
        if conn.has(flag::COMPLETES) && self.send(token, &conn, watches) {
            if rests && conn.only_sends() && !conn.has_more_output() {
                return conn.clear(flag::MARKED);
            }
        } else if conn.has_output() {
            let was_queued = conn.queued() > 0;
            if !written {
                self.write(token, &conn);
            }
            if was_queued {
                self.written(state, token, &conn);
            }
        }
        // Only now: what the callbacks above have changed is dealt with below, and
        // would cost a tick of its own if it were marked again.
        conn.clear(flag::MARKED);
        if conn.is_at_rest()
            && self.slots.conn_mut(token).is_some_and(|slot| slot.registered == Some(Interest::READABLE))
        {
            return;
        }
        if conn.take(flag::IDLE_CHANGED) {
            self.arm_idle(token, &conn);
        }
        match conn.0.state.get() {
            State::Open => self.settle(token, &conn),
            State::Closing => {
                // Closed by one of the callbacks above, behind what it sent: the mark is gone.
                Self::write_on(&conn);
                self.closed.push(token);
            }
            State::Lingering if self.linger(token, &conn) => {
                conn.0.state.set(State::Dead);
                self.closed.push(token);
            }
            // The budget ended before the socket's room did.
            State::Lingering => Self::write_on(&conn),
            State::Connecting | State::Handshaking | State::Dead => {}
        }
    }

    /// Something was written, or could not be: the marks, and the end of the queue.
    pub(crate) fn written(&mut self, state: &mut S, token: Token, conn: &Conn) {
        if conn.0.state.get() != State::Open {
            return;
        }
        let drained = conn.queued() == 0;
        if !drained || conn.has(flag::ABOVE_HIGH | flag::PAUSED_BY_OUTPUT) {
            self.watermarks(state, token, conn);
        }
        if drained && self.watches_flushes(token) && conn.0.state.get() == State::Open && conn.queued() == 0 {
            self.notify(state, token, conn, Handler::on_flushed);
        }
    }

    fn watches_flushes(&mut self, token: Token) -> bool {
        self.slots.conn_mut(token).is_some_and(|slot| slot.watches_flushes)
    }

    #[inline]
    fn write(&mut self, token: Token, conn: &Conn) {
        let mut budget = FLUSH_BUDGET;
        let has_rate = conn.options().write_rate.is_some();
        if has_rate {
            let allowance = self.write_allowance(token, conn);
            conn.allow_output(allowance);
            budget = budget.min(allowance);
        }
        let written = conn.write_now(budget);
        if has_rate {
            self.spend_write(token, written);
        }
    }

    /// An open connection goes back to waiting, for whatever it waits for now.
    fn settle(&mut self, token: Token, conn: &Conn) {
        if conn.has(flag::FINISHED) && !conn.has(flag::FIN_SENT) && conn.queued() == 0 {
            Self::send_fin(conn);
            if conn.has(flag::ABORT) {
                return conn.end(CloseReason::Reset, true);
            }
        }
        // Resumed: kept input is due, and so is what an edge announced meanwhile, unless the
        // back end has just been asked anew. What a layer holds it does not know of.
        let asked = self.update_interest(token);
        if conn.take(flag::RESUMED) && conn.wants_input() {
            self.restart_idle(token, conn);
            if !asked || self.has_tail(token) || conn.has(flag::LAYERED) {
                self.make_ready(token);
            }
        }
        Self::write_on(conn);
    }

    /// What could be written at once is written in the next tick.
    fn write_on(conn: &Conn) {
        if !conn.has(flag::BLOCKED | flag::WRITE_RESTS | flag::SENDING) && conn.has_output() {
            conn.mark();
        }
    }

    /// Our end, behind the layer's good-bye. Marks what cannot be sent as lost.
    pub(crate) fn send_fin(conn: &Conn) {
        let mut transport = conn.0.transport.borrow_mut();
        if !conn.has(flag::LAYER_CLOSED) {
            conn.set(flag::LAYER_CLOSED);
            transport.close_layer();
        }
        if transport.pending() > 0 && !conn.has(flag::BLOCKED | flag::ABORT) {
            drop(transport);
            conn.write_now(FLUSH_BUDGET);
            transport = conn.0.transport.borrow_mut();
        }
        if transport.pending() > 0 {
            return; // it goes on when the socket is writable
        }
        conn.set(flag::FIN_SENT);
        let sent = transport.stream().is_some_and(|stream| stream.shutdown_write().is_ok());
        if !sent {
            conn.set(flag::ABORT);
        }
    }

    /// Reports crossings of the marks. The pause of [`OutputPolicy::Pause`] was set by
    /// the send that crossed the high one; it ends at the low mark, or here and now if
    /// the socket took enough.
    fn watermarks(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let options = conn.options();
        let queued = conn.in_memory();
        if queued >= options.high_water {
            if !conn.has(flag::ABOVE_HIGH) {
                conn.set(flag::ABOVE_HIGH);
                self.notify(state, token, conn, Handler::on_high_water);
            }
        } else if conn.has(flag::ABOVE_HIGH) {
            if queued <= options.low_water {
                conn.clear(flag::ABOVE_HIGH);
                if conn.take(flag::PAUSED_BY_OUTPUT) {
                    conn.set(flag::RESUMED);
                }
                self.notify(state, token, conn, Handler::on_low_water);
            }
        } else if conn.take(flag::PAUSED_BY_OUTPUT) {
            conn.set(flag::RESUMED);
        }
    }

    pub(crate) fn has_tail(&mut self, token: Token) -> bool {
        self.slots.conn_mut(token).is_some_and(|slot| !slot.tail.is_empty())
    }

    /// Makes the back end watch for what the connection waits for now. True if that
    /// was a change and input is among it: input that is there already is reported.
    pub(crate) fn update_interest(&mut self, token: Token) -> bool {
        let Some(slot) = self.slots.conn_mut(token) else { return false };
        let conn = slot.conn.clone();
        let reads = match conn.0.state.get() {
            State::Open => !conn.has(flag::EOF | flag::ENDED | flag::NO_READING) && !slot.is_full(),
            State::Handshaking => true,
            State::Lingering => !conn.has(flag::EOF | flag::ENDED),
            State::Connecting | State::Closing | State::Dead => false,
        };
        let writes = match conn.0.state.get() {
            State::Handshaking => conn.0.transport.borrow().pending() > 0,
            _ => conn.has(flag::BLOCKED),
        };
        match self.register(token, Interest::new(reads, writes)) {
            Ok(changed) => changed && reads,
            Err(error) => {
                conn.end(CloseReason::from_io(&error), true);
                false
            }
        }
    }

    /// True if the back end had to be asked.
    pub(crate) fn register(&mut self, token: Token, interest: Interest) -> io::Result<bool> {
        let trigger = self.trigger;
        let Some(slot) = self.slots.conn_mut(token) else { return Ok(false) };
        if slot.registered == Some(interest) {
            return Ok(false);
        }
        let transport = slot.conn.0.transport.borrow();
        let Some(stream) = transport.stream() else { return Ok(false) };
        if slot.conn.has(flag::COMPLETES) {
            let before = slot.registered.unwrap_or(Interest::NONE);
            let Some(completions) = self.backend.completions() else { return Ok(false) };
            match (before.is_readable(), interest.is_readable()) {
                (false, true) => completions.receive(stream.as_fd(), token)?,
                (true, false) => completions.stop_receiving(token)?,
                _ => {}
            }
            match (before.is_writable(), interest.is_writable()) {
                (false, true) => self.backend.add(stream.as_fd(), token, Interest::WRITABLE, trigger)?,
                (true, false) => self.backend.remove(stream.as_fd())?,
                _ => {}
            }
        } else if slot.registered.is_none() {
            self.backend.add(stream.as_fd(), token, interest, trigger)?;
        } else {
            self.backend.modify(stream.as_fd(), token, interest, trigger)?;
        }
        slot.registered = Some(interest);
        Ok(true)
    }
}
