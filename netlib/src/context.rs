//! `Context`: the loop's services as callbacks see them, and the loop's state.
//!
//! Listening and connecting are in `listener.rs` and `connector.rs`; what the loop
//! does with all this is in `reactor.rs`, `conn_io.rs` and `conn_close.rs`.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backend::{Backend, BackendKind, Event, Interest, Moved, Trigger};
use crate::clock::{CENTURY, Clock, SplitMix64};
use crate::conn::{Conn, flag};
use crate::conn_close::Linger;
use crate::datagram::Datagrams;
use crate::event_queue::{self, EventId, PostError, QueueStats, Stop};
use crate::group::Shared;
use crate::handler::Handler;
use crate::hooks::Hooks;
use crate::race::Dialling;
use crate::reactor::{PanicPolicy, Phase, READ_BUFFER};
use crate::remote_conn::RemoteConn;
use crate::slot::{Slot, Slots};
use crate::source::{FdSource, Ready, Source, SourceId, SourceSlot};
use crate::stats::{Meter, Stats};
use crate::sys::{Signal, SignalFd, WakeFd};
use crate::timer::{TimerId, Timers, Wheel};
use crate::token::Token;

/// Work posted from another thread.
pub(crate) type Task<S> = Box<dyn FnOnce(&mut S, &mut Context<S>) + Send>;
/// Work posted from the loop itself.
pub(crate) type LocalTask<S> = Box<dyn FnOnce(&mut S, &mut Context<S>)>;

/// What a periodic timer calls.
pub(crate) type Beat<S> = Box<dyn FnMut(&mut S, &mut Context<S>)>;

/// What becomes of the beats of a periodic timer that a busy loop has missed.
///
/// ```
/// use std::time::Duration;
/// use netlib::{Context, Missed};
///
/// fn uptime(cx: &mut Context<u64>) {
///     // One count per second, even if the loop was busy for three.
///     cx.every_with(Missed::CatchUp, Duration::from_secs(1), |seconds, _| *seconds += 1);
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Missed {
    /// They are skipped; the next one comes when it would have come anyway.
    #[default]
    Skip,
    /// They are made up for, one in each tick until all are: a fixed rate. The loop does not
    /// wait meanwhile.
    CatchUp,
}

/// A periodic timer.
pub(crate) struct Periodic<S: 'static> {
    pub(crate) period: Duration,
    pub(crate) missed: Missed,
    /// When the next beat is due by the period; the timer may be set later.
    pub(crate) next: Instant,
    /// Taken out while it runs.
    pub(crate) callback: Option<Beat<S>>,
}

/// What a timer does when it is due.
pub(crate) enum TimerTask<S: 'static> {
    Once(LocalTask<S>),
    Every(Box<Periodic<S>>),
    /// A handler's own timer.
    Conn(Token),
    Connect(Token),
    Lifetime(Token),
    /// The end of a rest that a rate has imposed on reading, or on writing.
    Rate {
        token: Token,
        read: bool,
    },
    Linger(Linger),
    Accept(Token),
}

/// The loop's services, handed to every callback: time, timers, sockets, posting,
/// stopping.
///
/// Thread rule: lent to callbacks, on the reactor's thread; nothing keeps it.
///
/// ```
/// use std::time::Duration;
/// use netlib::{Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<Vec<&str>>::new(ReactorConfig::default())?;
/// let mut seen = Vec::new();
/// let cx = reactor.context();
/// cx.post(|seen, _| seen.push("posted"));
/// cx.after(Duration::from_millis(1), |seen, cx| {
///     seen.push("timer");
///     cx.stop();
/// });
/// reactor.run(&mut seen)?;
/// assert_eq!(seen, ["posted", "timer"]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[allow(clippy::struct_excessive_bools)] // independent conditions of one loop
pub struct Context<S: 'static> {
    pub(crate) backend: Box<dyn Backend>,
    /// What the next tick moves to, see `swap.rs`.
    pub(crate) next_backend: Option<(BackendKind, Box<dyn Backend>)>,
    pub(crate) trigger: Trigger,
    /// The back end does not announce the end of a stream: a short read is no sign that there
    /// is nothing more.
    pub(crate) reads_to_end: bool,
    /// The back end moves bytes itself.
    pub(crate) completes: bool,
    /// What it has moved, to be dealt with in *Ready*.
    pub(crate) moved: Vec<Moved>,
    /// Connections that have to hear in *Ready* of what was sent for them.
    pub(crate) sent: Vec<Token>,
    /// Somebody waits to hear what came of a send that the back end was given in this tick.
    pub(crate) sends_awaited: bool,
    pub(crate) slots: Slots<S>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) timers: Timers<TimerTask<S>>,
    /// Idle timeouts of connections.
    pub(crate) idle: Wheel,
    pub(crate) hooks: Option<Box<Hooks<S>>>,
    pub(crate) local: VecDeque<LocalTask<S>>,
    pub(crate) inbox: event_queue::Receiver<Task<S>, WakeFd>,
    pub(crate) outbox: event_queue::Sender<Task<S>, WakeFd>,
    /// The inbox has items that were not taken yet.
    pub(crate) inbox_pending: bool,
    /// Slots to visit in the next *Ready* although no event names them.
    pub(crate) ready: VecDeque<Token>,
    /// Those that *Ready* has visited, kept for its memory.
    pub(crate) revisited: Vec<Token>,
    /// The list that *Flush* works on, kept for its memory.
    pub(crate) flushing: Vec<Token>,
    /// Closed connections for this tick's *Reap*.
    pub(crate) closed: Vec<Token>,
    /// All connections read into this one buffer; taken while a callback uses it.
    pub(crate) read_buffer: Option<Box<[u8; READ_BUFFER]>>,
    pub(crate) datagrams: Datagrams,
    pub(crate) dialling: Dialling,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) random: SplitMix64,
    pub(crate) phase: Phase,
    pub(crate) panics: PanicPolicy,
    pub(crate) stopping: bool,
    /// To be stopped once nothing posted is left.
    pub(crate) draining: bool,
    pub(crate) stats: Stats,
    pub(crate) meter: Meter,
}

impl<S: 'static> Context<S> {
    /// The time of this tick, read once when its wait ended.
    pub fn now(&self) -> Instant {
        self.shared.now()
    }

    /// The wall clock now, as the time since 1970-01-01 UTC.
    pub fn unix_time(&self) -> Duration {
        self.clock.unix_time()
    }

    /// A random number for jitter and choices. Not for secrets.
    pub fn random(&mut self) -> u64 {
        self.random.next()
    }

    /// The phase that the loop is in.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The back end that runs, as [`crate::BackendKind`] names it.
    pub fn backend_name(&self) -> &'static str {
        self.backend.name()
    }

    /// Connections alive: connecting, open, or lingering.
    pub fn connections(&self) -> usize {
        self.stats.connections
    }

    /// The connection of that id, while it is open.
    pub fn conn(&mut self, id: Token) -> Option<Conn> {
        self.slots.conn_mut(id).map(|slot| slot.conn.clone()).filter(Conn::is_open)
    }

    /// A handle to the connection for other threads.
    pub fn remote_conn(&self, conn: &Conn) -> RemoteConn<S> {
        RemoteConn { remote: self.remote(), id: conn.id() }
    }

    /// Ends [`run`](crate::Reactor::run) after this tick.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// [`stop`](Self::stop) that refuses what other threads post from now on, for good. What
    /// waits from before still runs with [`Stop::Drain`], and then the loop ends; it is dropped
    /// with [`Stop::Discard`].
    pub fn stop_posts(&mut self, stop: Stop) {
        self.inbox.close(stop);
        match stop {
            Stop::Drain => {
                self.draining = true;
                // Posts may have come in since the last look.
                self.inbox_pending = true;
            }
            Stop::Discard => self.stop(),
        }
    }

    /// The moment `delay` from now; one beyond all time is put a century away.
    pub(crate) fn due(&self, delay: Duration) -> Instant {
        let now = self.now();
        now.checked_add(delay).unwrap_or_else(|| now + CENTURY)
    }

    /// Calls `f` once, `delay` from now: never early, late by at most a tick.
    pub fn after(&mut self, delay: Duration, f: impl FnOnce(&mut S, &mut Context<S>) + 'static) -> TimerId {
        let due = self.due(delay);
        self.timers.insert(due, TimerTask::Once(Box::new(f)))
    }

    /// Calls `f` every `period`, first one period from now. Beats that were missed
    /// are not made up for, and the beat does not drift. A period of zero counts as
    /// a millisecond.
    pub fn every(&mut self, period: Duration, f: impl FnMut(&mut S, &mut Context<S>) + 'static) -> TimerId {
        self.every_with(Missed::Skip, period, f)
    }

    /// [`every`](Self::every) with a choice of what becomes of missed beats.
    pub fn every_with(
        &mut self,
        missed: Missed,
        period: Duration,
        f: impl FnMut(&mut S, &mut Context<S>) + 'static,
    ) -> TimerId {
        let period = period.max(Duration::from_millis(1));
        let next = self.due(period);
        self.timers
            .insert(next, TimerTask::Every(Box::new(Periodic { period, missed, next, callback: Some(Box::new(f)) })))
    }

    /// Calls the connection's [`Handler::on_timer`] once, `delay` from now. The
    /// timer ends with the connection.
    pub fn conn_timer(&mut self, conn: &Conn, delay: Duration) -> TimerId {
        let due = self.due(delay);
        let timer = self.timers.insert(due, TimerTask::Conn(conn.id()));
        match self.slots.conn_mut(conn.id()) {
            Some(slot) => slot.rare_mut().timers.push(timer),
            // The connection is gone, and so is its timer.
            None => drop(self.timers.remove(timer)),
        }
        timer
    }

    /// Takes a timer back. False if it has fired or was cancelled before.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        match self.timers.remove(timer) {
            Some(TimerTask::Conn(token)) => {
                self.forget_conn_timer(token, timer);
                true
            }
            task => task.is_some(),
        }
    }

    /// Moves a timer to `delay` from now; a periodic one goes on from there. False if it has
    /// fired or was cancelled.
    ///
    /// The [`TimerId`] is the key of the timer: what adding the same key again did elsewhere
    /// (spec/netlib.md G4.1), this does. Nothing is added twice.
    pub fn rearm(&mut self, timer: TimerId, delay: Duration) -> bool {
        let due = self.due(delay);
        if let Some(TimerTask::Every(periodic)) = self.timers.get_mut(timer) {
            periodic.next = due;
        }
        self.timers.rearm(timer, due)
    }

    pub(crate) fn forget_conn_timer(&mut self, token: Token, timer: TimerId) {
        let Some(slot) = self.slots.conn_mut(token) else { return };
        if let Some(rare) = slot.rare_if_any() {
            rare.timers.retain(|other| *other != timer);
        }
        slot.tidy();
    }

    /// Calls `f` in the *Posted* phase: of this tick if it is still to come, else of
    /// the next, which then does not wait.
    pub fn post(&mut self, f: impl FnOnce(&mut S, &mut Context<S>) + 'static) {
        self.local.push_back(Box::new(f));
    }

    /// A handle by which other threads post to this loop.
    pub fn remote(&self) -> Remote<S> {
        Remote { outbox: self.outbox.clone() }
    }

    /// Gives the connection another handler, from the end of the running callback
    /// on. Input that the old one has not used goes to the new one; `on_open` is not
    /// called again. This is how a protocol changes its state by changing its type.
    pub fn replace_handler(&mut self, conn: &Conn, handler: Box<dyn Handler<S>>) {
        if !conn.is_open() {
            return;
        }
        let Some(slot) = self.slots.conn_mut(conn.id()) else { return };
        if !slot.replace_handler(handler) {
            // It runs right now: it must not be given more input.
            conn.set(flag::REPLACED);
        } else if !slot.tail.is_empty() {
            self.make_ready(conn.id());
        }
    }

    /// Watches a descriptor. `f` is called with it whenever it is ready and must use
    /// the readiness up (read until it would block), since back ends may report
    /// edges only.
    ///
    /// # Errors
    ///
    /// If the back end refuses the descriptor.
    pub fn add_source<F: AsFd + 'static>(
        &mut self,
        fd: F,
        interest: Interest,
        f: impl FnMut(&mut S, &mut Context<S>, &mut F, Ready) + 'static,
    ) -> io::Result<SourceId> {
        let source = Box::new(FdSource { fd, callback: f });
        let token =
            self.slots.insert_with(|_| Slot::Source(SourceSlot { source: Some(source), interest, removed: false }));
        let trigger = self.trigger;
        let Some(source) = self.slots.source_mut(token).and_then(|slot| slot.source.as_ref()) else {
            unreachable!("inserted above")
        };
        if let Err(error) = self.backend.add(source.fd(), token, interest, trigger) {
            self.slots.remove(token);
            return Err(error);
        }
        Ok(SourceId(token))
    }

    /// Watches it no more and drops it, if its own callback asks for it when that
    /// ends. False if it was not there.
    pub fn remove_source(&mut self, id: SourceId) -> bool {
        let Some(slot) = self.slots.source_mut(id.0) else { return false };
        if let Some(source) = slot.source.take() {
            self.drop_source(id.0, source);
        } else if slot.removed {
            return false;
        } else {
            slot.removed = true;
        }
        true
    }

    fn drop_source(&mut self, token: Token, source: Box<dyn Source<S>>) {
        // Dropping it closes the descriptor, which forgets it in any case.
        let _ = self.backend.remove(source.fd());
        self.slots.remove(token);
    }

    /// Turns signals into callbacks on the loop.
    ///
    /// # Errors
    ///
    /// If the back end refuses the descriptor.
    pub fn on_signals(
        &mut self,
        signals: SignalFd,
        mut f: impl FnMut(&mut S, &mut Context<S>, Signal) + 'static,
    ) -> io::Result<SourceId> {
        self.add_source(signals, Interest::READABLE, move |state, cx, signals, _| {
            loop {
                match signals.read() {
                    Ok(Some(signal)) => f(state, cx, signal),
                    Ok(None) => break,
                    Err(error) => {
                        log::error!("signalfd: {error}");
                        break;
                    }
                }
            }
        })
    }

    /// Visits the slot in the next *Ready* even without an event.
    pub(crate) fn make_ready(&mut self, token: Token) {
        let listed = match self.slots.get_mut(token) {
            Some(Slot::Conn(slot)) => {
                let listed = slot.conn.has(flag::READY);
                slot.conn.set(flag::READY);
                listed
            }
            Some(Slot::Listener(slot)) => std::mem::replace(&mut slot.ready, true),
            Some(Slot::Datagram(slot)) => std::mem::replace(&mut slot.ready, true),
            Some(Slot::Source(_)) | None => true,
        };
        if !listed {
            self.ready.push_back(token);
        }
    }

    /// Runs a callback that belongs to no connection, as the [`PanicPolicy`] says.
    pub(crate) fn contained<R>(&mut self, what: &'static str, f: impl FnOnce(&mut Self) -> R) -> Option<R> {
        if self.panics != PanicPolicy::Propagate {
            return self.caught(what, f);
        }
        let begun = self.begin_callback();
        let value = f(self);
        self.end_callback(begun, what, None);
        Some(value)
    }

    /// Runs a callback. A panic in it is logged and counted, and the loop goes on.
    pub(crate) fn caught<R>(&mut self, what: &'static str, f: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let begun = self.begin_callback();
        let outcome = catch_unwind(AssertUnwindSafe(|| f(self)));
        self.end_callback(begun, what, None);
        if outcome.is_err() {
            log::error!("{what} panicked");
            self.after_panic();
        }
        outcome.ok()
    }

    /// A callback has panicked and that was reported.
    pub(crate) fn after_panic(&mut self) {
        self.stats.panics += 1;
        if self.panics == PanicPolicy::Abort {
            log::error!("a panic is to end the process: it aborts");
            std::process::abort();
        }
    }

    /// Something is to be done without waiting.
    pub(crate) fn has_pending_work(&self) -> bool {
        self.inbox_pending
            || self.sends_awaited
            || !self.sent.is_empty()
            || !self.ready.is_empty()
            || !self.local.is_empty()
            || !self.closed.is_empty()
            || !self.shared.marked.borrow().is_empty()
            || self.datagrams.has_work()
    }

    pub(crate) fn source_event(&mut self, state: &mut S, event: &Event) {
        let Some(mut source) = self.slots.source_mut(event.token).and_then(|slot| slot.source.take()) else { return };
        let ready = Ready {
            readable: event.readable || event.read_closed || event.error || event.urgent,
            writable: event.writable || event.write_closed || event.error,
        };
        self.contained("a source", |cx| source.ready(state, cx, ready));
        match self.slots.source_mut(event.token) {
            Some(slot) if slot.removed => self.drop_source(event.token, source),
            Some(slot) => slot.source = Some(source),
            None => {}
        }
    }
}

impl<S: 'static> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("backend", &self.backend.name())
            .field("phase", &self.phase)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// Posts to a reactor from any thread. The only part of a reactor that crosses
/// threads.
///
/// Thread rule: it may be sent, shared and cloned freely; posts run on the reactor's thread.
///
/// ```
/// use netlib::{Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<u32>::new(ReactorConfig::default())?;
/// let remote = reactor.context().remote();
/// let thread = std::thread::spawn(move || {
///     remote.post(|total, cx| {
///         *total += 1;
///         cx.stop();
///     })
/// });
/// let mut total = 0;
/// reactor.run(&mut total)?;
/// assert_eq!(total, 1);
/// # thread.join().unwrap().unwrap();
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Remote<S: 'static> {
    outbox: event_queue::Sender<Task<S>, WakeFd>,
}

impl<S: 'static> Remote<S> {
    /// Hands `f` to the loop, which calls it in a *Posted* phase; posts of one
    /// thread keep their order. The loop is woken only if it may sleep. A panic in `f`
    /// is dealt with by the [`PanicPolicy`].
    ///
    /// When the queue is full, [`ReactorConfig::queue_overflow`](crate::ReactorConfig::queue_overflow)
    /// decides.
    ///
    /// # Errors
    ///
    /// [`PostError`] says why; `f` is dropped.
    pub fn post(&self, f: impl FnOnce(&mut S, &mut Context<S>) + Send + 'static) -> Result<EventId, PostError> {
        Ok(self.outbox.push(Box::new(f))?)
    }

    /// [`post`](Self::post) of something that is not to run before `delay` is over, counted from
    /// the tick that takes notice (the loop is woken for it). Until then it counts towards the
    /// queue's capacity.
    ///
    /// # Errors
    ///
    /// Those of [`post`](Self::post).
    pub fn post_delayed(
        &self,
        delay: Duration,
        f: impl FnOnce(&mut S, &mut Context<S>) + Send + 'static,
    ) -> Result<EventId, PostError> {
        Ok(self.outbox.push_delayed(delay, Box::new(f))?)
    }

    /// A post, delayed or not, that [`cancel_named`](Self::cancel_named) finds.
    ///
    /// # Errors
    ///
    /// Those of [`post`](Self::post).
    pub fn post_named(
        &self,
        name: impl Into<Cow<'static, str>>,
        delay: Option<Duration>,
        f: impl FnOnce(&mut S, &mut Context<S>) + Send + 'static,
    ) -> Result<EventId, PostError> {
        Ok(self.outbox.push_named(name, delay, Box::new(f))?)
    }

    /// Takes a post back. False if the loop has taken it, it was dropped or cancelled before.
    pub fn cancel(&self, id: EventId) -> bool {
        self.outbox.cancel(id)
    }

    /// Takes all posts of that name back; returns how many there were. Looks at every post that
    /// waits.
    pub fn cancel_named(&self, name: &str) -> usize {
        self.outbox.cancel_named(name)
    }

    /// What the queue has seen so far.
    pub fn stats(&self) -> QueueStats {
        self.outbox.stats()
    }

    /// Asks the loop to [stop](Context::stop), beyond the queue's capacity if need be. False if it
    /// takes no posts any more.
    pub fn stop(&self) -> bool {
        self.post_result(|_, cx| cx.stop())
    }

    /// [`post`](Self::post) of something that was let in already, beyond the queue's
    /// capacity if need be. False if the reactor is gone.
    pub(crate) fn post_result(&self, f: impl FnOnce(&mut S, &mut Context<S>) + Send + 'static) -> bool {
        self.outbox.push_regardless(Box::new(f)).is_ok()
    }
}

impl<S: 'static> Clone for Remote<S> {
    fn clone(&self) -> Self {
        Self { outbox: self.outbox.clone() }
    }
}

impl<S: 'static> fmt::Debug for Remote<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}
