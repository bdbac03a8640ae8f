//! What the loop does with a living connection: connecting, reading, flushing. How it
//! ends is in `conn_close.rs`. Its states:
//!
//! ```text
//!   Connecting ──► Open ──► Closing ──► Lingering ──► (freed)
//!        └───────────────────┘  │ on_close   ▲ flush, FIN, await the peer's FIN
//!                               └────────────┘ skipped when aborted
//! ```

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::backend::{Event, Interest};
use crate::codec::FrameError;
use crate::conn::{Conn, Handler, State, flag};
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::slot::Origin;
use crate::token::Token;

/// Bytes written to one connection in one *Flush* before others get their turn.
const FLUSH_BUDGET: usize = 1 << 20;
/// Bytes that a closed connection may still throw at us in one tick.
const DISCARD_BUDGET: usize = 1 << 20;
impl<S: 'static> Context<S> {
    /// Runs one callback with the handler taken out of its slot. A panic ends the
    /// connection, not the loop.
    pub(crate) fn call<R>(
        &mut self,
        state: &mut S,
        token: Token,
        f: impl FnOnce(&mut dyn Handler<S>, &mut S, &mut Context<S>, &Conn) -> R,
    ) -> Option<R> {
        let slot = self.slots.conn_mut(token)?;
        let mut handler = slot.handler.take()?;
        let conn = slot.conn.clone();
        let begun = self.begin_callback();
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *handler, state, self, &conn)));
        self.end_callback(begun, "a handler", Some(token));
        if let Some(slot) = self.slots.conn_mut(token) {
            // Unless it was replaced while it ran.
            slot.handler.get_or_insert(handler);
        }
        if outcome.is_err() {
            log::error!("connection {token} to {}: its handler panicked", conn.peer_addr());
            self.after_panic();
            conn.end(CloseReason::HandlerPanic, true);
        }
        outcome.ok()
    }

    /// [`call`](Self::call) of a callback that takes no input. If it replaced the
    /// handler, the new one is shown what the old one has not used.
    fn notify(
        &mut self,
        state: &mut S,
        token: Token,
        f: impl FnOnce(&mut dyn Handler<S>, &mut S, &mut Context<S>, &Conn),
    ) {
        self.call(state, token, f);
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.conn.take(flag::REPLACED) && !slot.tail.is_empty() {
            self.make_ready(token);
        }
    }

    pub(crate) fn conn_event(&mut self, state: &mut S, event: &Event) {
        let token = event.token;
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        let to_end = event.read_closed || event.error || event.urgent;
        let readable = event.readable || to_end;
        if event.writable || event.write_closed || event.error {
            conn.clear(flag::BLOCKED);
            conn.mark();
        }
        if conn.0.state.get() == State::Connecting {
            self.finish_connect(state, token, &conn);
        }
        match conn.0.state.get() {
            // It has had its turn in this tick and is listed for the next.
            State::Open if conn.has(flag::READY) => {}
            State::Open if readable && conn.wants_input() => self.read(state, token, &conn, to_end),
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
        match conn.0.state.get() {
            State::Open if conn.wants_input() => {
                self.redeliver(state, token);
                // Whether the socket has more is not known: ask it.
                self.read(state, token, &conn, true);
            }
            State::Lingering => self.discard(token, &conn),
            _ => {}
        }
    }

    /// An error on a connection that is not being read would go unseen.
    fn check_error(conn: &Conn) {
        let error = conn.0.stream.borrow().as_ref().and_then(|stream| stream.take_error().ok().flatten());
        if let Some(error) = error {
            conn.end(CloseReason::from_io(&error), true);
        }
    }

    // --- connecting

    fn finish_connect(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let outcome = match conn.0.stream.borrow().as_ref() {
            None => return,
            Some(stream) => match stream.take_error() {
                Ok(Some(error)) | Err(error) => Err(error.kind()),
                // Writable without an error, and yet not connected: a spurious event.
                Ok(None) if stream.peer_addr().is_err() => return,
                // On loopback a connect to a free ephemeral port can meet itself.
                Ok(None) if stream.is_self_connected() => Err(io::ErrorKind::ConnectionRefused),
                Ok(None) => Ok(()),
            },
        };
        if let Err(kind) = outcome {
            conn.end(CloseReason::ConnectFailed(kind), true);
        } else {
            let deadline = self.slots.conn_mut(token).and_then(|slot| slot.deadline.take());
            if let Some(deadline) = deadline {
                self.timers.remove(deadline);
            }
            conn.0.state.set(State::Open);
            conn.0.last_recv.set(self.now());
            self.conn_opened(state, token);
        }
    }

    /// Registers an open connection and tells its handler.
    pub(crate) fn conn_opened(&mut self, state: &mut S, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        if let Origin::Kept(keeper) = &slot.origin {
            keeper.opened();
        }
        if conn.0.idle_timeout.get().is_some() {
            conn.set(flag::IDLE_CHANGED);
            conn.mark();
        }
        if conn.queued() > 0 {
            conn.mark();
        }
        self.update_interest(token);
        if conn.is_open() {
            self.notify(state, token, Handler::on_open);
        }
    }

    pub(crate) fn connect_deadline(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.deadline = None;
        if slot.conn.0.state.get() == State::Connecting {
            slot.conn.end(CloseReason::ConnectTimeout, true);
        }
    }

    // --- reading

    /// Reads into the shared buffer and delivers. Stops at a short read, since the
    /// socket is empty then, unless the event said that more than data is there.
    fn read(&mut self, state: &mut S, token: Token, conn: &Conn, to_end: bool) {
        let to_end = to_end || !self.backend.caps().reports_read_closed;
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut budget = conn.0.options.read_budget.max(1);
        let mut eof = false;
        while conn.wants_input() && !conn.has(flag::EOF) {
            let room = budget.min(buffer.len());
            let outcome = match conn.0.stream.borrow().as_ref() {
                Some(stream) => stream.read(&mut buffer[..room]),
                None => break,
            };
            match outcome {
                Ok(0) => {
                    eof = true;
                    break;
                }
                Ok(count) => {
                    conn.0.last_recv.set(self.now());
                    conn.0.bytes_in.set(conn.bytes_in() + count as u64);
                    self.stats.bytes_in += count as u64;
                    self.deliver(state, token, &buffer[..count]);
                    if conn.has(flag::READY) || (count < room && !to_end) {
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
                    conn.end(CloseReason::from_io(&error), true);
                    break;
                }
            }
        }
        self.read_buffer = buffer;
        if eof {
            conn.set(flag::EOF);
            conn.mark();
            self.notify(state, token, Handler::on_eof);
        }
    }

    /// Shows new input to the handler; what it does not use becomes the tail.
    fn deliver(&mut self, state: &mut S, token: Token, input: &[u8]) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.tail.is_empty() {
            let used = self.offer(state, token, input);
            if let Some(slot) = self.slots.conn_mut(token)
                && slot.conn.is_open()
            {
                slot.tail.extend(&input[used..]);
            }
        } else {
            slot.tail.extend(input);
            if slot.tail.len() > slot.conn.0.options.input_limit {
                slot.conn.end(CloseReason::BadFrame(FrameError::TooLong), true);
                return;
            }
            self.redeliver(state, token);
        }
    }

    /// Shows the tail to the handler again.
    fn redeliver(&mut self, state: &mut S, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.tail.is_empty() {
            return;
        }
        let mut tail = std::mem::take(&mut slot.tail);
        let used = self.offer(state, token, tail.as_slice());
        tail.consume(used);
        if let Some(slot) = self.slots.conn_mut(token)
            && slot.conn.is_open()
        {
            slot.tail = tail;
        }
    }

    /// Offers input to the handler, and what is left to the one that replaced it.
    fn offer(&mut self, state: &mut S, token: Token, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let taken = self.call(state, token, |handler, state, cx, conn| handler.on_data(state, cx, conn, rest));
            used += taken.unwrap_or(0).min(rest.len());
            let Some(slot) = self.slots.conn_mut(token) else { return used };
            let replaced = slot.conn.take(flag::REPLACED);
            if !replaced || used == input.len() || !slot.conn.wants_input() {
                return used;
            }
        }
    }

    /// Throws away what still comes in on a closed connection: unread input would
    /// turn our FIN into a reset that destroys the last answer on its way.
    fn discard(&mut self, token: Token, conn: &Conn) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut budget = DISCARD_BUDGET;
        loop {
            let outcome = match conn.0.stream.borrow().as_ref() {
                Some(stream) => stream.read(&mut buffer),
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
        self.read_buffer = buffer;
        conn.mark();
    }

    // --- flushing

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
        let conn = slot.conn.clone();
        let had_output = conn.queued() > 0;
        conn.write_now(FLUSH_BUDGET);
        if conn.0.state.get() == State::Open {
            self.watermarks(state, token, &conn);
        }
        if conn.0.state.get() == State::Open && had_output && conn.queued() == 0 {
            self.notify(state, token, Handler::on_flushed);
        }
        // Only now: what the callbacks above have changed is dealt with below, and
        // would cost a tick of its own if it were marked again.
        conn.clear(flag::MARKED);
        if conn.take(flag::IDLE_CHANGED) {
            self.arm_idle(token, &conn);
        }
        match conn.0.state.get() {
            State::Open => {
                // Resumed: kept input is due, and so is what an edge announced meanwhile,
                // unless the back end has just been asked anew.
                let asked = self.update_interest(token);
                if conn.take(flag::RESUMED) && conn.wants_input() && (!asked || self.has_tail(token)) {
                    self.make_ready(token);
                }
                if conn.queued() > 0 && !conn.has(flag::BLOCKED) {
                    conn.mark();
                }
            }
            State::Closing => self.closed.push(token),
            State::Lingering if self.linger(token, &conn) => {
                conn.0.state.set(State::Dead);
                self.closed.push(token);
            }
            State::Lingering | State::Connecting | State::Dead => {}
        }
    }

    /// Reports crossings of the marks. The pause of [`OutputPolicy::Pause`] was set by
    /// the send that crossed the high one; it ends at the low mark, or here and now if
    /// the socket took enough.
    fn watermarks(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let options = &conn.0.options;
        let queued = conn.queued();
        if queued >= options.high_water {
            if !conn.has(flag::ABOVE_HIGH) {
                conn.set(flag::ABOVE_HIGH);
                self.notify(state, token, Handler::on_high_water);
            }
        } else if conn.has(flag::ABOVE_HIGH) {
            if queued <= options.low_water {
                conn.clear(flag::ABOVE_HIGH);
                if conn.take(flag::PAUSED_BY_OUTPUT) {
                    conn.set(flag::RESUMED);
                }
                self.notify(state, token, Handler::on_low_water);
            }
        } else if conn.take(flag::PAUSED_BY_OUTPUT) {
            conn.set(flag::RESUMED);
        }
    }

    fn has_tail(&mut self, token: Token) -> bool {
        self.slots.conn_mut(token).is_some_and(|slot| !slot.tail.is_empty())
    }

    /// Makes the back end watch for what the connection waits for now. True if that
    /// was a change and input is among it: input that is there already is reported.
    pub(crate) fn update_interest(&mut self, token: Token) -> bool {
        let Some(slot) = self.slots.conn_mut(token) else { return false };
        let conn = slot.conn.clone();
        let reads = match conn.0.state.get() {
            State::Open => !conn.has(flag::EOF | flag::PAUSED | flag::PAUSED_BY_OUTPUT),
            State::Lingering => !conn.has(flag::EOF),
            State::Connecting | State::Closing | State::Dead => false,
        };
        match self.register(token, Interest::new(reads, conn.has(flag::BLOCKED))) {
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
        let stream = slot.conn.0.stream.borrow();
        let Some(stream) = stream.as_ref() else { return Ok(false) };
        if slot.registered.is_none() {
            self.backend.add(stream.as_fd(), token, interest, trigger)?;
        } else {
            self.backend.modify(stream.as_fd(), token, interest, trigger)?;
        }
        slot.registered = Some(interest);
        Ok(true)
    }

    // --- timers

    pub(crate) fn conn_timer_due(&mut self, state: &mut S, token: Token, timer: crate::TimerId) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.conn.is_open() {
            self.notify(state, token, |handler, state, cx, conn| handler.on_timer(state, cx, conn, timer));
        }
    }
}
