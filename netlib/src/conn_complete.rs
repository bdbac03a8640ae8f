//! What the loop does for connections whose bytes the back end moves itself
//! ([`Completions`](crate::backend::Completions)): plain ones without rates. They begin and end
//! like all others; only reading and writing is different. Input comes whether or not the handler
//! is ready for it, and waits in the tail if not; it counts when the handler is shown it. Output is handed over in
//! *Flush*, and what came of it is known after the next wait: at once in the connection's accounts, and in *Ready* to
//! its handler.

use std::io;
use std::os::fd::AsFd;

use crate::backend::{Interest, Moved};
use crate::conn::{Conn, State, flag};
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::handler::Handler;
use crate::reactor::EVENTS_PER_FLUSH;
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

    /// Hands over what the back end was asked for, without a wait.
    pub(crate) fn flush_backend(&mut self) -> io::Result<()> {
        let outcome = self.backend.flush();
        self.take_moved();
        outcome
    }

    /// Takes what the back end has moved; false if that is nothing. The accounts of all that was sent are right before
    /// anybody can look at them again; whoever has to hear of it does so in *Ready*.
    pub(crate) fn take_moved(&mut self) -> bool {
        let Some(completions) = self.backend.completions() else { return false };
        completions.take(&mut self.moved);
        if self.moved.is_empty() {
            return !self.sent.is_empty();
        }
        let mut moved = std::mem::take(&mut self.moved);
        let sent = moved.partition_point(|moved| matches!(moved, Moved::Out { .. }));
        for moved in moved.drain(..sent) {
            if let Moved::Out { token, result, payload } = moved {
                self.moved_out(token, result, payload);
            }
        }
        self.stats.events += sent as u64;
        self.moved = moved;
        true
    }

    /// *Ready* of what the back end has moved.
    pub(crate) fn moved_ready(&mut self, state: &mut S) {
        let mut sent = std::mem::take(&mut self.sent);
        for (index, token) in sent.drain(..).enumerate() {
            if index > 0 && index % EVENTS_PER_FLUSH == 0 {
                self.flush_marked(state);
            }
            let Some(slot) = self.slots.conn_mut(token) else { continue };
            let conn = slot.conn.clone();
            self.written(state, token, &conn);
            conn.mark();
        }
        self.sent = sent;
        let mut moved = std::mem::take(&mut self.moved);
        for (index, moved) in moved.drain(..).enumerate() {
            if index > 0 && index % EVENTS_PER_FLUSH == 0 {
                self.flush_marked(state);
            }
            match moved {
                Moved::In { token, result } => self.moved_in(state, token, result),
                Moved::Out { token, result, payload } => self.moved_out(token, result, payload),
            }
        }
        self.moved = moved;
    }

    fn moved_in(&mut self, state: &mut S, token: Token, result: io::Result<Option<Buffer>>) {
        // Else it is gone.
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        match conn.0.state.get() {
            State::Open => self.moved_in_open(state, token, &conn, result),
            State::Closing | State::Lingering => Self::moved_in_late(&conn, &result),
            State::Connecting | State::Handshaking | State::Dead => {}
        }
    }

    fn moved_in_open(&mut self, state: &mut S, token: Token, conn: &Conn, result: io::Result<Option<Buffer>>) {
        match result {
            Ok(Some(bytes)) => {
                let tick = self.stats.ticks;
                let shown = match self.slots.conn_mut(token) {
                    // What came before it and was not shown yet comes first.
                    Some(slot) if conn.wants_input() && !conn.has(flag::READY) && slot.tail.unseen() == 0 => {
                        slot.allow_turn(tick, bytes.len())
                    }
                    _ => 0,
                };
                if shown > 0 && self.received(token, conn, shown) {
                    self.deliver(state, token, conn, &bytes[..shown]);
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
                    let unseen = self.unseen(token);
                    self.show(state, token, conn, unseen);
                }
                conn.end(CloseReason::from_io(&error), true);
            }
        }
    }

    fn unseen(&mut self, token: Token) -> usize {
        self.slots.conn_mut(token).map_or(0, |slot| slot.tail.unseen())
    }

    /// Input for which it is not the time. It counts as received when the handler is shown it.
    fn keep(&mut self, token: Token, conn: &Conn, bytes: &[u8]) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        conn.received_now();
        slot.tail.extend_unseen(bytes);
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

    fn moved_out(&mut self, token: Token, result: io::Result<usize>, payload: Payload) {
        // Else it is gone.
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = &slot.conn;
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
        let watched = slot.watches_flushes;
        if watched || !conn.is_at_rest() {
            self.sent.push(token);
        }
    }

    /// A visit from the local ready list: what waits in the tail.
    pub(crate) fn revisit_completing(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let tick = self.stats.ticks;
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let allowed = slot.allow_turn(tick, slot.tail.unseen());
        self.show(state, token, conn, allowed);
        if conn.wants_input() && self.unseen(token) > 0 {
            self.make_ready(token);
        }
        if conn.0.state.get() == State::Open {
            self.tell_end(state, token, conn);
            self.update_interest(token);
        }
    }

    /// Shows the tail to the handler, with `more` bytes of it that it has not seen.
    fn show(&mut self, state: &mut S, token: Token, conn: &Conn, more: usize) {
        if more > 0 && !self.received(token, conn, more) {
            return;
        }
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.tail.see(more);
        self.redeliver(state, token, conn);
        self.check_unused(token, conn);
    }

    /// The end comes behind everything else.
    fn tell_end(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let is_due = conn.has(flag::ENDED) && !conn.has(flag::EOF | flag::READY) && conn.wants_input();
        if is_due && self.unseen(token) == 0 {
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
            let _ = self.flush_backend();
        }
        if let Some(stream) = transport.stream()
            && registered.is_some_and(Interest::is_writable)
        {
            let _ = self.backend.remove(stream.as_fd());
        }
    }
}
