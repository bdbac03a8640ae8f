//! What the loop does for connections whose bytes the back end moves itself
//! ([`Completions`](crate::backend::Completions)): plain ones without rates. They begin and end
//! like all others; only reading and writing is different. Input comes whether or not the handler
//! is ready for it, and waits in the tail if not. Output is handed over in *Flush*, and what came of
//! it is known after the next wait.

use std::io;
use std::os::fd::AsFd;

use crate::backend::{Interest, Moved};
use crate::conn::{Conn, State, flag};
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::handler::Handler;
use crate::sys::{Buffer, Payload};
use crate::token::Token;
use crate::transport::Transport;

impl<S: 'static> Context<S> {
    /// An open connection: from now on its bytes go this way, if they can.
    pub(crate) fn begin_completing(&mut self, token: Token, conn: &Conn) {
        let options = conn.options();
        let limited = options.read_rate.is_some() || options.write_rate.is_some();
        if !self.completes || limited || conn.has(flag::LAYERED) {
            return;
        }
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.registered.take().is_some()
            && let Some(stream) = conn.0.transport.borrow().stream()
        {
            // It was watched while it connected. A failure shows in what follows.
            let _ = self.backend.remove(stream.as_fd());
        }
        conn.set(flag::COMPLETES);
    }

    /// Gives the back end what is to be written. False if that is for us to write, or is
    /// nothing. `watched`: its handler waits for the end of it.
    pub(crate) fn send(&mut self, token: Token, conn: &Conn, watched: bool) -> bool {
        if conn.has(flag::SENDING) {
            self.sends_awaited = true; // what has come since goes on when that is over
            return true;
        }
        // Our FIN goes behind the last write at once, so that one is not put off.
        if conn.0.state.get() != State::Open || conn.has(flag::BLOCKED | flag::FINISHED) {
            return false;
        }
        let Some(payload) = conn.take_output() else { return false };
        let outcome = match (self.backend.completions(), conn.0.transport.borrow().stream()) {
            (Some(completions), Some(stream)) => completions.send(stream.as_fd(), token, payload),
            _ => Err(io::ErrorKind::NotConnected.into()),
        };
        if let Err(error) = outcome {
            conn.end(CloseReason::from_io(&error), true);
            return true;
        }
        // Somebody waits for what comes of it, so the next tick must not wait for anything else.
        self.sends_awaited |= !conn.only_sends() || conn.has_more_output() || watched;
        true
    }

    /// What the back end says after a wait.
    pub(crate) fn moved(&mut self, state: &mut S, moved: Moved) {
        match moved {
            Moved::In { token, result } => {
                // Gone already, like the next.
                let Some(slot) = self.slots.conn_mut(token) else { return };
                let conn = slot.conn.clone();
                match conn.0.state.get() {
                    State::Open => self.moved_in(state, token, &conn, result),
                    State::Closing | State::Lingering => Self::moved_in_late(&conn, &result),
                    State::Connecting | State::Handshaking | State::Dead => {}
                }
            }
            Moved::Out { token, result, payload } => {
                let Some(slot) = self.slots.conn_mut(token) else { return };
                let conn = slot.conn.clone();
                let watched = slot.watches_flushes;
                Self::moved_out(&conn, result, payload);
                if watched || !conn.is_at_rest() {
                    self.written(state, token, &conn);
                    conn.mark();
                }
            }
        }
    }

    fn moved_in(&mut self, state: &mut S, token: Token, conn: &Conn, result: io::Result<Option<Buffer>>) {
        match result {
            Ok(Some(bytes)) => {
                if !self.received(token, conn, bytes.len()) {
                    return;
                }
                let mut shown = 0;
                if conn.wants_input() && !conn.has(flag::READY) {
                    shown = self.allow_turn(token, conn, bytes.len());
                    if shown > 0 {
                        self.deliver(state, token, conn, &bytes[..shown]);
                    }
                }
                if shown < bytes.len() && conn.0.state.get() == State::Open {
                    self.keep(token, conn, &bytes[shown..]);
                }
            }
            Ok(None) => {
                conn.set(flag::ENDED);
                self.tell_end(state, token, conn);
            }
            Err(error) => {
                // What came before it and waits for its turn comes first.
                if conn.wants_input() {
                    self.redeliver(state, token, conn);
                }
                conn.end(CloseReason::from_io(&error), true);
            }
        }
    }

    /// How many of so many bytes the handler may be shown in this tick, which counts them as shown.
    fn allow_turn(&mut self, token: Token, conn: &Conn, bytes: usize) -> usize {
        let slot = token.slot() as usize;
        if slot >= self.turns.len() {
            self.turns.resize(slot + 1, (0, 0));
        }
        let tick = self.stats.ticks;
        let (when, shown) = &mut self.turns[slot];
        if *when != tick {
            (*when, *shown) = (tick, 0);
        }
        let allowed = bytes.min(conn.options().read_budget.max(1).saturating_sub(*shown));
        *shown += allowed;
        allowed
    }

    /// Input for which it is not the time.
    fn keep(&mut self, token: Token, conn: &Conn, bytes: &[u8]) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.tail.extend(bytes);
        if conn.wants_input() {
            self.make_ready(token);
        }
        self.update_interest(token);
    }

    /// Only the end of it is of interest any more.
    fn moved_in_late(conn: &Conn, result: &io::Result<Option<Buffer>>) {
        match result {
            Ok(Some(_)) => return,
            Ok(None) => conn.set(flag::EOF),
            Err(_) => conn.set(flag::ABORT),
        }
        conn.mark();
    }

    fn moved_out(conn: &Conn, result: io::Result<usize>, payload: Payload) {
        let offered = payload.len();
        match result {
            Ok(sent) => {
                conn.output_sent(sent, payload);
                if sent < offered {
                    conn.set(flag::BLOCKED);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.output_sent(0, payload);
                conn.set(flag::BLOCKED);
            }
            Err(error) => {
                conn.clear(flag::SENDING);
                conn.end(CloseReason::from_io(&error), true);
            }
        }
    }

    /// A visit from the local ready list: what waits in the tail.
    pub(crate) fn revisit_completing(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let kept = self.slots.conn_mut(token).map_or(0, |slot| slot.tail.len());
        let allowed = self.allow_turn(token, conn, kept);
        if allowed == kept {
            self.redeliver(state, token, conn);
        } else if allowed == 0 {
            self.make_ready(token);
        } else {
            self.redeliver_some(state, token, conn, allowed);
        }
        if conn.0.state.get() == State::Open {
            self.tell_end(state, token, conn);
            self.update_interest(token);
        }
    }

    /// Shows the first `count` bytes of the tail, or all of it if so few are no use.
    fn redeliver_some(&mut self, state: &mut S, token: Token, conn: &Conn, count: usize) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let mut tail = std::mem::take(&mut slot.tail);
        let mut used = self.offer(state, token, conn, &tail.as_slice()[..count]);
        if used == 0 && conn.wants_input() {
            used = self.offer(state, token, conn, tail.as_slice());
        }
        tail.consume(used);
        if !conn.is_open() {
            return;
        }
        if let Some(slot) = self.slots.conn_mut(token) {
            slot.tail = tail;
        }
        if used > 0 && conn.wants_input() {
            self.make_ready(token);
        }
    }

    /// The end comes behind everything else.
    fn tell_end(&mut self, state: &mut S, token: Token, conn: &Conn) {
        if conn.has(flag::ENDED) && !conn.has(flag::EOF | flag::READY) && conn.wants_input() {
            conn.set(flag::EOF);
            conn.mark();
            self.notify(state, token, conn, Handler::on_eof);
        }
    }

    /// The stream is closed next.
    pub(crate) fn stop_completing(&mut self, token: Token, transport: &Transport, registered: Option<Interest>) {
        if let Some(completions) = self.backend.completions() {
            // What is left undone by a failure of these the kernel undoes when the loop ends.
            let _ = completions.stop_receiving(token);
            let _ = self.backend.flush();
        }
        if let Some(stream) = transport.stream()
            && registered.is_some_and(Interest::is_writable)
        {
            let _ = self.backend.remove(stream.as_fd());
        }
    }
}
