//! `Handler`: the callbacks that serve a stream connection.

use crate::conn::Conn;
use crate::conn_options::CloseReason;
use crate::context::Context;
use crate::timer::TimerId;

/// The callbacks of one stream connection. The value lives in the connection's
/// slot and is the place for the connection's own state.
///
/// All of them run on the reactor's thread, in arrival order, never nested. After
/// [`Conn::close`] or [`Conn::abort`] only [`on_close`](Handler::on_close) still
/// comes. A panic ends this connection with [`CloseReason::HandlerPanic`].
///
/// ```
/// use netlib::{CloseReason, Conn, Context, Handler};
///
/// /// Counts for all connections what each of them received.
/// struct Meter;
///
/// impl Handler<u64> for Meter {
///     fn on_data(&mut self, total: &mut u64, _: &mut Context<u64>, _: &Conn, input: &[u8]) -> usize {
///         *total += input.len() as u64;
///         input.len()
///     }
///
///     fn on_close(&mut self, _: &mut u64, _: &mut Context<u64>, conn: &Conn, reason: &CloseReason) {
///         println!("{} sent {} bytes: {reason}", conn.peer_addr(), conn.bytes_in());
///     }
/// }
/// ```
#[allow(unused_variables)]
pub trait Handler<S: 'static>: 'static {
    /// The connection is up: accepted, or the connect succeeded.
    fn on_open(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// Bytes arrived. Returns how many of `input` were used; the rest is kept and
    /// shown again: in front of what comes later, and alone after
    /// [`Conn::resume`] or when the connection's turn comes again.
    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize;

    /// The peer will send no more. Everything before it has been delivered.
    /// Unless overridden the connection is closed.
    fn on_eof(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        conn.close_with(CloseReason::PeerClosed);
    }

    /// The output buffer grew over [`ConnOptions::high_water`](crate::ConnOptions::high_water).
    fn on_high_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// The output buffer, once over the high mark, fell to [`ConnOptions::low_water`](crate::ConnOptions::low_water).
    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// Everything that was queued has been handed to the kernel. Comes in the *Flush* that did it,
    /// so what is sent here leaves in the next tick. On a back end that moves bytes itself
    /// ([`Caps::completions`](crate::backend::Caps::completions)) *Flush* only hands them over: this comes in the
    /// *Ready* behind the wait that has sent them, and what is sent here goes with that tick's *Flush*. So it is with the
    /// two marks. Parts of files leave in *Flush* everywhere.
    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {}

    /// Whether [`on_flushed`](Handler::on_flushed) is worth calling. A handler that answers very
    /// many small requests and does nothing there says so here: the call that does nothing is
    /// about a hundredth of such a request. It is asked once, when it is given its connection.
    fn watches_flushes(&self) -> bool {
        true
    }

    /// A timer made with [`Context::conn_timer`] is due.
    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, timer: TimerId) {}

    /// The end, exactly once for every connection, also for a connect that failed.
    /// Only connections that are alive when the reactor itself is dropped get none.
    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {}
}
