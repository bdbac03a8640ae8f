//! Idle timeouts of connections. A connection that receives something does not touch its timer:
//! when that is due, the loop looks when something last came in and waits for the rest. So the
//! timeout costs nothing per read, and O(1) per timeout in the [wheel](crate::wheel).

use crate::conn::{Conn, flag};
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::token::Token;

impl<S: 'static> Context<S> {
    /// Sets the timer as the connection's idle timeout says.
    pub(crate) fn arm_idle(&mut self, token: Token, conn: &Conn) {
        match conn.idle_timeout() {
            Some(timeout) if conn.is_open() => {
                // While this side does not read, silence is no fault of the peer's.
                let since = if conn.wants_input() { conn.last_recv() } else { self.now() };
                let due = since.checked_add(timeout).unwrap_or_else(|| self.due(timeout));
                self.idle.arm(token, due);
            }
            _ => self.disarm_idle(token),
        }
    }

    /// Reading goes on after a rest, whose silence was no fault of the peer's.
    pub(crate) fn restart_idle(&mut self, token: Token, conn: &Conn) {
        if let Some(timeout) = conn.idle_timeout() {
            self.idle.arm(token, self.due(timeout));
        }
    }

    /// The connection ends.
    pub(crate) fn disarm_idle(&mut self, token: Token) {
        self.idle.disarm(token);
    }

    /// Looks at the connections whose timers are due.
    pub(crate) fn expire_idle(&mut self) {
        let now = self.now();
        // Bounded, since those that are not idle are armed anew.
        for _ in 0..self.idle.len() {
            let Some(token) = self.idle.pop_due(now) else { break };
            self.idle_due(token);
        }
    }

    fn idle_due(&mut self, token: Token) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        let conn = slot.conn.clone();
        let Some(timeout) = conn.idle_timeout() else { return };
        if conn.has(flag::RESUMED) {
            self.restart_idle(token, &conn);
        } else if conn.wants_input() && self.now().saturating_duration_since(conn.last_recv()) >= timeout {
            conn.close_with(CloseReason::Idle);
        } else {
            self.arm_idle(token, &conn);
        }
    }
}
