//! What the loop does with a connection: connecting, reading, flushing, closing.
//!
//! ```text
//!   Connecting ──► Open ──► Closing ──► Lingering ──► (freed)
//!        └───────────────────┘  │ on_close   ▲ flush, FIN, await the peer's FIN
//!                               └────────────┘ skipped when aborted
//! ```

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::backend::{Event, Interest};
use crate::codec::FrameError;
use crate::conn::{CloseReason, Conn, Handler, OutputPolicy, State, flag};
use crate::context::{Context, TimerTask};
use crate::slot::Slot;
use crate::token::Token;

/// Bytes written to one connection in one *Flush* before others get their turn.
const FLUSH_BUDGET: usize = 1 << 20;
/// Bytes that a closed connection may still throw at us in one tick.
const DISCARD_BUDGET: usize = 1 << 20;
/// Unused input kept for a handler. Codecs have far lower limits; this one guards
/// handlers that use nothing.
const INPUT_LIMIT: usize = 64 << 20;

impl<S: 'static> Context<S> {
    /// Runs one callback with the handler taken out of its slot. A panic ends the
    /// connection, not the loop.
    fn call<R>(
        &mut self,
        state: &mut S,
        token: Token,
        f: impl FnOnce(&mut dyn Handler<S>, &mut S, &mut Context<S>, &Conn) -> R,
    ) -> Option<R> {
        let slot = self.slots.conn_mut(token)?;
        let mut handler = slot.handler.take()?;
        let conn = slot.conn.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *handler, state, self, &conn)));
        if let Some(slot) = self.slots.conn_mut(token) {
            // Unless it was replaced while it ran.
            slot.handler.get_or_insert(handler);
        }
        if outcome.is_err() {
            self.stats.panics += 1;
            log::error!("connection {token} to {}: its handler panicked", conn.peer_addr());
            conn.end(CloseReason::HandlerPanic, true);
        }
        outcome.ok()
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
        if conn.0.idle_timeout.get().is_some() {
            conn.set(flag::IDLE_CHANGED);
            conn.mark();
        }
        if conn.queued() > 0 {
            conn.mark();
        }
        self.update_interest(token);
        if conn.is_open() {
            self.call(state, token, Handler::on_open);
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
        let mut budget = conn.0.options.read_budget;
        let mut eof = false;
        while conn.wants_input() && !conn.has(flag::EOF) {
            let outcome = match conn.0.stream.borrow().as_ref() {
                Some(stream) => stream.read(&mut buffer),
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
                    if count < buffer.len() && !to_end {
                        break;
                    }
                    budget = budget.saturating_sub(count);
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
            self.call(state, token, Handler::on_eof);
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
            if slot.tail.len() > INPUT_LIMIT {
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
        conn.clear(flag::MARKED);
        if conn.take(flag::IDLE_CHANGED) {
            self.arm_idle(token, &conn);
        }
        if !matches!(conn.0.state.get(), State::Connecting | State::Dead) {
            let had_output = conn.queued() > 0;
            self.write(&conn);
            if conn.0.state.get() == State::Open {
                self.watermarks(state, token, &conn);
                if had_output && conn.queued() == 0 {
                    self.call(state, token, Handler::on_flushed);
                }
            }
        }
        if conn.take(flag::RESUMED) && conn.wants_input() {
            self.make_ready(token);
        }
        match conn.0.state.get() {
            State::Open => self.update_interest(token),
            State::Closing => self.closed.push(token),
            State::Lingering if self.linger(token, &conn) => {
                conn.0.state.set(State::Dead);
                self.closed.push(token);
            }
            State::Lingering | State::Connecting | State::Dead => {}
        }
    }

    fn write(&mut self, conn: &Conn) {
        let mut budget = FLUSH_BUDGET;
        while !conn.has(flag::BLOCKED) && conn.queued() > 0 {
            let outcome = match conn.0.stream.borrow().as_ref() {
                Some(stream) => conn.0.output.borrow_mut().write_to(stream),
                None => return,
            };
            match outcome {
                Ok(progress) => {
                    conn.0.bytes_out.set(conn.bytes_out() + progress.written as u64);
                    self.stats.bytes_out += progress.written as u64;
                    if progress.blocked {
                        conn.set(flag::BLOCKED);
                    }
                    budget = budget.saturating_sub(progress.written);
                    if budget == 0 && conn.queued() > 0 {
                        conn.mark();
                        return;
                    }
                }
                Err(error) => {
                    let reason = CloseReason::from_io(&error);
                    conn.end(reason, true);
                    return;
                }
            }
        }
    }

    fn watermarks(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let options = &conn.0.options;
        let queued = conn.queued();
        if queued >= options.high_water && !conn.has(flag::ABOVE_HIGH) {
            conn.set(flag::ABOVE_HIGH);
            if options.policy == OutputPolicy::Pause {
                conn.set(flag::PAUSED_BY_OUTPUT);
            }
            self.call(state, token, Handler::on_high_water);
        } else if queued <= options.low_water && conn.take(flag::ABOVE_HIGH) {
            if conn.take(flag::PAUSED_BY_OUTPUT) {
                conn.set(flag::RESUMED);
            }
            self.call(state, token, Handler::on_low_water);
        }
    }

    /// Makes the back end watch for what the connection waits for now.
    fn update_interest(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = &slot.conn;
        let reads = match conn.0.state.get() {
            State::Open => !conn.has(flag::EOF | flag::PAUSED | flag::PAUSED_BY_OUTPUT),
            State::Lingering => !conn.has(flag::EOF),
            State::Connecting | State::Closing | State::Dead => false,
        };
        let writes = conn.0.state.get() == State::Connecting || conn.has(flag::BLOCKED);
        let interest = match (reads, writes) {
            (true, true) => Interest::BOTH,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => Interest::NONE,
        };
        if let Err(error) = self.register(token, interest)
            && let Some(slot) = self.slots.conn_mut(token)
        {
            slot.conn.end(CloseReason::from_io(&error), true);
        }
    }

    pub(crate) fn register(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        let trigger = self.trigger;
        let Some(Slot::Conn(slot)) = self.slots.get_mut(token) else { return Ok(()) };
        if slot.registered == Some(interest) {
            return Ok(());
        }
        let stream = slot.conn.0.stream.borrow();
        let Some(stream) = stream.as_ref() else { return Ok(()) };
        let fd = std::os::fd::AsFd::as_fd(stream);
        if slot.registered.is_none() {
            self.backend.add(fd, token, interest, trigger)?;
        } else {
            self.backend.modify(fd, token, interest, trigger)?;
        }
        slot.registered = Some(interest);
        Ok(())
    }

    // --- timers

    pub(crate) fn conn_timer_due(&mut self, state: &mut S, token: Token, timer: crate::TimerId) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if slot.conn.is_open() {
            self.call(state, token, |handler, state, cx, conn| handler.on_timer(state, cx, conn, timer));
        }
    }

    fn arm_idle(&mut self, token: Token, conn: &Conn) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let old = slot.idle_timer.take();
        if let Some(old) = old {
            self.timers.remove(old);
        }
        let Some(timeout) = conn.0.idle_timeout.get() else { return };
        if conn.is_open() {
            let timer = self.timers.insert(conn.last_recv() + timeout, TimerTask::Idle(token));
            if let Some(slot) = self.slots.conn_mut(token) {
                slot.idle_timer = Some(timer);
            }
        }
    }

    /// The idle timer is not moved at every read: when it is due it looks whether
    /// something came in meanwhile, and waits for the rest.
    pub(crate) fn idle_due(&mut self, token: Token) {
        let now = self.now();
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.idle_timer = None;
        let conn = slot.conn.clone();
        let Some(timeout) = conn.0.idle_timeout.get() else { return };
        if conn.is_open() && now >= conn.last_recv() + timeout {
            conn.close_with(CloseReason::Idle);
        } else {
            self.arm_idle(token, &conn);
        }
    }

    // --- closing

    /// Tells closed connections so, and frees those that have nothing left to do.
    pub(crate) fn reap(&mut self, state: &mut S) {
        for token in std::mem::take(&mut self.closed) {
            let Some(slot) = self.slots.conn_mut(token) else { continue };
            let conn = slot.conn.clone();
            match conn.0.state.get() {
                State::Closing => self.close_now(state, token, &conn),
                State::Dead => self.free(token),
                State::Connecting | State::Open | State::Lingering => {}
            }
        }
    }

    fn close_now(&mut self, state: &mut S, token: Token, conn: &Conn) {
        let reason = conn.0.reason.borrow().clone().unwrap_or(CloseReason::Local);
        self.call(state, token, |handler, state, cx, conn| handler.on_close(state, cx, conn, &reason));
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.handler = None;
        slot.tail = crate::buffer::InputTail::default();
        self.drop_timers(token);
        conn.0.state.set(State::Lingering);
        let due = self.now() + conn.0.options.linger;
        if self.linger(token, conn) {
            self.free(token);
        } else {
            let timer = self.timers.insert(due, TimerTask::Linger(token));
            if let Some(slot) = self.slots.conn_mut(token) {
                slot.deadline = Some(timer);
            }
        }
    }

    /// One step of an orderly close: our FIN once everything is out, then the peer's.
    /// True when there is nothing left to wait for.
    fn linger(&mut self, token: Token, conn: &Conn) -> bool {
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

    pub(crate) fn linger_deadline(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.deadline = None;
        slot.conn.0.state.set(State::Dead);
        self.closed.push(token);
    }

    fn drop_timers(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let mut timers = std::mem::take(&mut slot.timers);
        timers.extend(slot.idle_timer.take());
        timers.extend(slot.deadline.take());
        for timer in timers {
            self.timers.remove(timer);
        }
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
            let _ = self.backend.remove(std::os::fd::AsFd::as_fd(&stream));
        }
        conn.0.output.borrow_mut().clear();
        if let Some(live) = slot.listener {
            live.set(live.get() - 1);
        }
        self.stats.connections -= 1;
    }
}
