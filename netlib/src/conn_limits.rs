//! The limits of a connection that time enforces: lifetime and rates, and the handler's own
//! timers. Idleness is in `idle.rs`.

use crate::conn::{Conn, flag};
use crate::conn_options::CloseReason;
use crate::context::{Context, TimerTask};
use crate::slot::Limit;
use crate::token::Token;

impl<S: 'static> Context<S> {
    pub(crate) fn conn_timer_due(&mut self, state: &mut S, token: Token, timer: crate::TimerId) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        if conn.is_open() {
            self.notify(state, token, &conn, |handler, state, cx, conn| handler.on_timer(state, cx, conn, timer));
        }
    }

    /// Sets what is limited from the opening on.
    pub(crate) fn arm_limits(&mut self, token: Token, conn: &Conn) {
        let options = conn.options();
        if options.lifetime.is_none() && options.read_rate.is_none() && options.write_rate.is_none() {
            return;
        }
        let now = self.now();
        let lifetime =
            options.lifetime.map(|lifetime| self.timers.insert(self.due(lifetime), TimerTask::Lifetime(token)));
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let rare = slot.rare_mut();
        rare.lifetime = lifetime;
        rare.read_limit = options.read_rate.map(|rate| Limit::new(rate, now));
        rare.write_limit = options.write_rate.map(|rate| Limit::new(rate, now));
    }

    pub(crate) fn lifetime_over(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        slot.rare_mut().lifetime = None;
        slot.conn.close_with(CloseReason::Lifetime);
    }

    /// How many bytes may be read in this turn; None: reading rests.
    #[inline(always)]
    pub(crate) fn read_allowance(&mut self, token: Token, conn: &Conn) -> Option<usize> {
        let budget = conn.options().read_budget.max(1);
        if !conn.has(flag::METERED) || conn.options().read_rate.is_none() {
            Some(budget)
        } else {
            self.rated_read_allowance(token, conn, budget)
        }
    }

    #[cold]
    fn rated_read_allowance(&mut self, token: Token, conn: &Conn, budget: usize) -> Option<usize> {
        let now = self.now();
        let limit = self.slots.conn_mut(token)?.rare_mut().read_limit.as_mut()?;
        let available = usize::try_from(limit.bucket.available(now)).unwrap_or(usize::MAX);
        if available > 0 {
            return Some(budget.min(available));
        }
        conn.set(flag::PAUSED_BY_RATE);
        conn.mark();
        self.rest(token, true);
        None
    }

    pub(crate) fn spend_read(&mut self, token: Token, count: u64) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if let Some(limit) = &mut slot.rare_mut().read_limit {
            limit.bucket.take(count);
        }
    }

    /// How many bytes may be written in this turn; 0: writing rests.
    pub(crate) fn write_allowance(&mut self, token: Token, conn: &Conn) -> u64 {
        // What is left when the connection is closed has its linger limit, and rests no more.
        if !conn.is_open() {
            conn.clear(flag::WRITE_RESTS);
            return u64::MAX;
        }
        let now = self.now();
        let Some(slot) = self.slots.conn_mut(token) else { return 0 };
        let Some(limit) = &mut slot.rare_mut().write_limit else { return u64::MAX };
        let available = limit.bucket.available(now);
        if available == 0 {
            conn.set(flag::WRITE_RESTS);
            self.rest(token, false);
        }
        available
    }

    pub(crate) fn spend_write(&mut self, token: Token, count: u64) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if let Some(limit) = &mut slot.rare_mut().write_limit {
            limit.bucket.take(count);
        }
    }

    /// Comes back when the rate allows more.
    fn rest(&mut self, token: Token, read: bool) {
        let now = self.now();
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let rare = slot.rare_mut();
        let limit = if read { &mut rare.read_limit } else { &mut rare.write_limit };
        let Some(limit) = limit else { return };
        if limit.rest.is_none() {
            limit.rest = Some(self.timers.insert(now + limit.bucket.rest(), TimerTask::Rate { token, read }));
        }
    }

    pub(crate) fn rest_over(&mut self, token: Token, read: bool) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        let rare = slot.rare_mut();
        let limit = if read { &mut rare.read_limit } else { &mut rare.write_limit };
        if let Some(limit) = limit {
            limit.rest = None;
        }
        if !read {
            conn.clear(flag::WRITE_RESTS);
            conn.mark();
        } else if conn.take(flag::PAUSED_BY_RATE) {
            conn.set(flag::RESUMED);
            conn.mark();
        }
    }
}
