//! What the loop does with a living connection: connecting and reading. Writing is in
//! `conn_flush.rs`, both by completion in `conn_complete.rs`, limits of time and rate are in `conn_limits.rs`, and how it ends is in
//! `conn_close.rs`. Its states:
//!
//! ```text
//!   Connecting ──► Handshaking ──► Open ──► Closing ──► Lingering ──► (freed)
//!        └──────────────┴────────────────────┘  │ on_close   ▲ flush, FIN, await the peer's FIN
//!       (Handshaking only with a layer)         └────────────┘ skipped when aborted
//! ```

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::backend::Event;
use crate::buffer::OutputBuffer;
use crate::codec::FrameError;
use crate::conn::{Conn, State, flag};
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::handler::Handler;
use crate::socket::Stream;
use crate::token::Token;

/// Bytes that a closed connection may still throw at us in one tick.
const DISCARD_BUDGET: usize = 1 << 20;

impl<S: 'static> Context<S> {
    /// Runs one callback with the handler taken out of its slot. A panic ends the
    /// connection, not the loop.
    pub(crate) fn call<R>(
        &mut self,
        state: &mut S,
        token: Token,
        conn: &Conn,
        f: impl FnOnce(&mut dyn Handler<S>, &mut S, &mut Context<S>, &Conn) -> R,
    ) -> Option<R> {
        let handler = self.slots.conn_mut(token)?.handler.take()?;
        self.call_taken(handler, state, token, conn, f)
    }

    #[inline(always)]
    fn call_taken<R>(
        &mut self,
        mut handler: Box<dyn Handler<S>>,
        state: &mut S,
        token: Token,
        conn: &Conn,
        f: impl FnOnce(&mut dyn Handler<S>, &mut S, &mut Context<S>, &Conn) -> R,
    ) -> Option<R> {
        let begun = self.begin_callback();
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *handler, state, self, conn)));
        self.end_callback(begun, "a handler", Some(token));
        if let Some(slot) = self.slots.conn_mut(token) {
            // Unless it was replaced while it ran.
            if slot.handler.is_none() {
                slot.handler = Some(handler);
            }
        }
        if outcome.is_err() {
            self.handler_panicked(token, conn);
        }
        outcome.ok()
    }

    #[cold]
    fn handler_panicked(&mut self, token: Token, conn: &Conn) {
        log::error!("connection {token} to {}: its handler panicked", conn.peer_addr());
        self.after_panic();
        conn.end(CloseReason::HandlerPanic, true);
    }

    /// [`call`](Self::call) of a callback that takes no input. If it replaced the
    /// handler, the new one is shown what the old one has not used.
    pub(crate) fn notify(
        &mut self,
        state: &mut S,
        token: Token,
        conn: &Conn,
        f: impl FnOnce(&mut dyn Handler<S>, &mut S, &mut Context<S>, &Conn),
    ) {
        self.call(state, token, conn, f);
        if conn.take(flag::REPLACED) && self.has_tail(token) {
            self.make_ready(token);
        }
    }

    pub(crate) fn conn_event(&mut self, state: &mut S, event: &Event, conn: Conn) {
        let token = event.token;
        let to_end = event.read_closed || event.error || event.urgent;
        let readable = event.readable || to_end;
        if event.writable || event.write_closed || event.error {
            conn.clear(flag::BLOCKED);
            conn.mark();
        }
        match conn.0.state.get() {
            State::Connecting => self.finish_connect(state, token, &conn),
            State::Handshaking => self.handshake(state, token, &conn),
            _ => {}
        }
        match conn.0.state.get() {
            State::Open if readable && conn.may_be_read() => self.read(state, token, &conn, to_end),
            // It has had its turn in this tick and is listed for the next.
            State::Open if conn.has(flag::READY | flag::VISITED) => {}
            // Only room to write is watched.
            State::Open if conn.has(flag::COMPLETES) && event.error => Self::check_error(&conn),
            State::Open | State::Lingering if conn.has(flag::COMPLETES) => {}
            State::Open if event.error => Self::check_error(&conn),
            State::Lingering if readable => self.discard(token, &conn),
            _ => {}
        }
    }

    /// A visit from the local ready list.
    pub(crate) fn conn_revisit(&mut self, state: &mut S, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        conn.clear(flag::READY);
        conn.set(flag::VISITED);
        match conn.0.state.get() {
            State::Open if !conn.wants_input() => {}
            State::Open if conn.has(flag::COMPLETES) => self.revisit_completing(state, token, &conn),
            State::Open => {
                self.redeliver(state, token, &conn);
                // Whether the socket has more is not known: ask it, once the handler has taken what
                // there is. Else a flood of tiny frames would be kept faster than it is used, and
                // the end would come before the frames ahead of it.
                if conn.wants_input() && !conn.has(flag::READY | flag::EOF) {
                    self.read(state, token, &conn, true);
                }
            }
            State::Lingering if !conn.has(flag::COMPLETES) => self.discard(token, &conn),
            _ => {}
        }
    }

    /// *Ready* is over.
    pub(crate) fn end_visit(&mut self, token: Token) {
        if let Some(slot) = self.slots.conn_mut(token) {
            slot.conn.clear(flag::VISITED);
        }
    }

    /// An error on a connection that is not being read would go unseen.
    #[cold]
    fn check_error(conn: &Conn) {
        let error = conn.0.transport.borrow().stream().and_then(|stream| stream.take_error().ok().flatten());
        if let Some(error) = error {
            conn.end(CloseReason::from_io(&error), true);
        }
    }

    // --- connecting

    #[cold]
    fn finish_connect(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let outcome = conn.0.transport.borrow().stream().and_then(Stream::connect_outcome);
        match outcome {
            None => {}
            Some(Err(error)) => conn.end(CloseReason::ConnectFailed(error.kind()), true),
            Some(Ok(())) => self.connected(state, token, conn),
        }
    }

    /// The socket is connected, or was accepted: what is left is to agree upon the layer.
    pub(crate) fn connected(&mut self, state: &mut S, token: Token, conn: &Conn) {
        conn.received_now();
        if conn.has(flag::LAYERED) {
            conn.0.state.set(State::Handshaking);
            self.handshake(state, token, conn);
        } else {
            self.conn_opened(state, token, conn);
        }
    }

    #[cold]
    fn handshake(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let outcome = conn.0.transport.borrow_mut().handshake();
        match outcome {
            Ok(true) => self.conn_opened(state, token, conn),
            Ok(false) => {
                self.update_interest(token);
            }
            Err(error) => Self::broken(conn, &error),
        }
    }

    /// Registers an open connection and tells its handler.
    fn conn_opened(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let was_layered = conn.0.state.replace(State::Open) == State::Handshaking;
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if let Some(deadline) = slot.take_deadline() {
            self.timers.remove(deadline);
        }
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if let Some(keeper) = slot.rare().and_then(|rare| rare.keeper.as_ref()) {
            keeper.opened();
        }
        self.begin_completing(token, conn);
        self.arm_limits(token, conn);
        if conn.has_output() || conn.has(flag::FINISHED) || conn.idle_timeout().is_some() {
            conn.set(flag::IDLE_CHANGED);
            conn.mark();
        }
        self.update_interest(token);
        if was_layered {
            // The layer may have read more than its handshake.
            self.make_ready(token);
        }
        if conn.is_open() {
            self.notify(state, token, conn, Handler::on_open);
        }
    }

    /// The layer or the socket failed. The peer is offered what the layer has to say about it.
    #[cold]
    fn broken(conn: &Conn, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            let mut nothing = OutputBuffer::new();
            // It is lost anyway if this fails.
            let _ = conn.0.transport.borrow_mut().write(&mut nothing);
        }
        conn.end(CloseReason::from_io(error), true);
    }

    pub(crate) fn connect_deadline(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.take_deadline();
        let reason = match slot.conn.0.state.get() {
            State::Connecting => CloseReason::ConnectTimeout,
            State::Handshaking => CloseReason::HandshakeTimeout,
            _ => return,
        };
        slot.conn.end(reason, true);
    }

    // --- reading

    /// Reads into the shared buffer and delivers. Stops at a short read, since the
    /// socket is empty then, unless the event said that more than data is there.
    #[inline(always)]
    fn read(&mut self, state: &mut S, token: Token, conn: &Conn, to_end: bool) {
        let layered = conn.has(flag::LAYERED);
        let to_end = to_end || self.reads_to_end || layered;
        let Some(mut budget) = self.read_allowance(token, conn) else { return };
        let Some(mut buffer) = self.read_buffer.take() else { return };
        let mut eof = false;
        loop {
            let room = budget.min(buffer.len());
            let outcome = conn.0.transport.borrow_mut().read(&mut buffer[..room]);
            match outcome {
                Ok(0) => {
                    eof = true;
                    break;
                }
                Ok(count) => {
                    if !self.received(token, conn, count) {
                        break;
                    }
                    self.deliver(state, token, conn, &buffer[..count]);
                    if (count < room && !to_end) || conn.has(flag::READY) || !conn.wants_input() {
                        break;
                    }
                    budget -= count;
                    if budget == 0 {
                        self.make_ready(token);
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    Self::broken(conn, &error);
                    break;
                }
            }
        }
        self.read_buffer = Some(buffer);
        if layered && conn.0.transport.borrow().pending() > 0 {
            conn.mark(); // it answers by itself
        }
        if eof {
            self.ended(state, token, conn);
        }
    }

    #[cold]
    fn ended(&mut self, state: &mut S, token: Token, conn: &Conn) {
        conn.set(flag::EOF);
        conn.mark();
        self.notify(state, token, conn, Handler::on_eof);
    }

    /// Counts input; false if it is more than may come.
    #[inline(always)]
    pub(crate) fn received(&mut self, token: Token, conn: &Conn, count: usize) -> bool {
        conn.received_now();
        let total = conn.bytes_in() + count as u64;
        conn.0.bytes_in.set(total);
        self.stats.bytes_in += count as u64;
        !conn.has(flag::METERED) || self.within_limits(token, conn, count, total)
    }

    #[cold]
    fn within_limits(&mut self, token: Token, conn: &Conn, count: usize, total: u64) -> bool {
        let options = conn.options();
        if options.read_rate.is_some() {
            self.spend_read(token, count as u64);
        }
        if options.max_bytes_in.is_some_and(|most| total > most) {
            conn.end(CloseReason::InputLimit, false);
            return false;
        }
        true
    }

    /// Shows new input to the handler; what it does not use becomes the tail.
    #[inline(always)]
    pub(crate) fn deliver(&mut self, state: &mut S, token: Token, conn: &Conn, input: &[u8]) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if !slot.tail.is_empty() {
            return self.deliver_behind_tail(state, token, conn, input);
        }
        let Some(handler) = slot.handler.take() else { return };
        let used = self.offer_to(handler, state, token, conn, input);
        if used < input.len()
            && conn.is_open()
            && let Some(slot) = self.slots.conn_mut(token)
        {
            slot.tail.extend(&input[used..]);
        }
    }

    #[cold]
    fn deliver_behind_tail(&mut self, state: &mut S, token: Token, conn: &Conn, input: &[u8]) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.tail.extend(input);
        self.redeliver(state, token, conn);
        self.check_unused(token, conn);
    }

    /// Ends the connection of a handler that does not use what it was shown, though nothing keeps it from that.
    pub(crate) fn check_unused(&mut self, token: Token, conn: &Conn) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.tail.seen().len() > conn.options().input_limit && conn.wants_input() && !conn.has(flag::READY) {
            conn.end(CloseReason::BadFrame(FrameError::TooLong), true);
        }
    }

    /// Shows the tail to the handler again.
    pub(crate) fn redeliver(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.tail.seen().is_empty() {
            return;
        }
        let mut tail = std::mem::take(&mut slot.tail);
        let used = self.offer(state, token, conn, tail.seen());
        tail.consume(used);
        if conn.is_open()
            && let Some(slot) = self.slots.conn_mut(token)
        {
            slot.tail = tail;
        }
    }

    /// Offers input to the handler. Returns how much was used.
    pub(crate) fn offer(&mut self, state: &mut S, token: Token, conn: &Conn, input: &[u8]) -> usize {
        let handler = self.slots.conn_mut(token).and_then(|slot| slot.handler.take());
        handler.map_or(0, |handler| self.offer_to(handler, state, token, conn, input))
    }

    /// The same to this one, and what is left to the one that replaced it.
    #[inline(always)]
    fn offer_to(
        &mut self,
        mut handler: Box<dyn Handler<S>>,
        state: &mut S,
        token: Token,
        conn: &Conn,
        input: &[u8],
    ) -> usize {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let taken = self.call_taken(handler, state, token, conn, |handler, state, cx, conn| {
                handler.on_data(state, cx, conn, rest)
            });
            used += taken.unwrap_or(0).min(rest.len());
            let replaced = conn.take(flag::REPLACED);
            if !replaced || used == input.len() || !conn.wants_input() {
                return used;
            }
            match self.slots.conn_mut(token).and_then(|slot| slot.handler.take()) {
                Some(next) => handler = next,
                None => return used,
            }
        }
    }

    /// Throws away what still comes in on a closed connection: unread input would
    /// turn our FIN into a reset that destroys the last answer on its way.
    #[cold]
    fn discard(&mut self, token: Token, conn: &Conn) {
        let Some(mut buffer) = self.read_buffer.take() else { return };
        let mut budget = DISCARD_BUDGET;
        loop {
            // From the socket itself: what a layer would make of it interests nobody.
            let outcome = match conn.0.transport.borrow().stream() {
                Some(stream) => stream.read(&mut *buffer),
                None => break,
            };
            match outcome {
                Ok(0) => {
                    conn.set(flag::EOF);
                    break;
                }
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    if budget == 0 {
                        self.make_ready(token);
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    conn.set(flag::ABORT);
                    break;
                }
            }
        }
        self.read_buffer = Some(buffer);
        conn.mark();
    }
}
