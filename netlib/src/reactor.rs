//! The loop. [`Reactor::run`] runs ticks; one tick is one function of six phases.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use crate::backend::{BackendKind, Event, Interest};
use crate::clock::{Clock, SplitMix64, SystemClock};
use crate::conn::State;
use crate::context::{Context, Missed, Task, TimerTask};
use crate::datagram::Datagrams;
use crate::event_queue::{self, Overflow, QueueConfig};
use crate::group::Shared;
use crate::hooks::Moment;
use crate::race::Dialling;
use crate::slot::{Slot, Slots};
use crate::stats::{Meter, Stats};
use crate::timer::{Timers, Wheel};
use crate::token::Token;

/// The token of the event queue's own descriptor.
pub(crate) const WAKE: Token = Token::new(u32::MAX, u32::MAX);
/// Events handled before what they wrote is flushed.
pub(crate) const EVENTS_PER_FLUSH: usize = 256;
/// Posted items taken in one tick.
const POSTED_PER_TICK: usize = 1024;
/// Size of the buffer that all connections of a reactor read into.
pub(crate) const READ_BUFFER: usize = 64 << 10;

/// The parts of a tick, in their order.
///
/// ```
/// use netlib::{Phase, Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<Vec<Phase>>::new(ReactorConfig::default())?;
/// let cx = reactor.context();
/// cx.after(std::time::Duration::ZERO, |seen, cx| seen.push(cx.phase()));
/// cx.post(|seen, cx| seen.push(cx.phase()));
/// let mut seen = Vec::new();
/// while seen.len() < 2 {
///     reactor.run_once(&mut seen, None)?;
/// }
/// assert_eq!(seen, [Phase::Posted, Phase::Timers]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Asleep in the back end until something is ready or due.
    Wait,
    /// Callbacks of descriptors that are ready.
    Ready,
    /// Work that was posted.
    Posted,
    /// Timers that are due.
    Timers,
    /// One write per connection that has output; a back end that moves bytes itself does it with the next wait.
    Flush,
    /// Closed connections are told so and leave.
    Reap,
}

/// How a reactor is made.
///
/// ```
/// use netlib::clock::ManualClock;
/// use netlib::{BackendKind, Reactor, ReactorConfig};
///
/// // For a test: the time is the test's, and chance repeats itself.
/// let config = ReactorConfig {
///     backend: Some(BackendKind::Poll),
///     clock: Box::new(ManualClock::new()),
///     seed: Some(1),
///     queue_capacity: Some(10_000),
///     ..ReactorConfig::default()
/// };
/// let mut reactor = Reactor::<()>::new(config)?;
/// assert_eq!(reactor.context().backend_name(), "poll");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReactorConfig {
    /// The mechanism; None takes `NETLIB_BACKEND`, or else mio.
    pub backend: Option<BackendKind>,
    /// Whether epoll takes the place of a mechanism that the kernel refuses, with a warning in the log;
    /// see [`BackendKind::open_or_fall_back`]. Otherwise that is an error.
    pub fallback: bool,
    /// The time; see [`crate::clock`].
    pub clock: Box<dyn Clock>,
    /// Seed of [`Context::random`]; None is a random one.
    pub seed: Option<u64>,
    /// Most posts of other threads that may wait, delayed ones included; None is no
    /// limit.
    pub queue_capacity: Option<usize>,
    /// What becomes of a post that finds the queue full.
    pub queue_overflow: Overflow,
    /// What becomes of a panic in a callback.
    pub panics: PanicPolicy,
    /// Whether to take the time of every phase, callback and post, for
    /// [`Context::stats`]. It costs some looks at the clock per tick and two per
    /// callback; without it nothing.
    pub measure: bool,
}

/// What becomes of a panic in a callback. It is logged and counted in any case.
///
/// ```
/// use netlib::{PanicPolicy, Reactor, ReactorConfig};
///
/// let config = ReactorConfig { panics: PanicPolicy::Contain, ..ReactorConfig::default() };
/// let mut reactor = Reactor::<()>::new(config)?;
/// reactor.context().post(|(), _| panic!("a bug"));
/// reactor.run_once(&mut (), None)?;
/// assert_eq!(reactor.context().stats().panics, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PanicPolicy {
    /// It ends what it happened in: in a handler that connection, in posted work, a timer
    /// or a source that one call. The loop goes on.
    #[default]
    Contain,
    /// In a handler it ends that connection; any other leaves [`Reactor::run`]: shared
    /// state may be half changed.
    Propagate,
    /// Any one ends the process at once ([`std::process::abort`]), for whoever wants the
    /// core dump.
    Abort,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            backend: None,
            fallback: true,
            clock: Box::new(SystemClock),
            seed: None,
            queue_capacity: None,
            queue_overflow: Overflow::default(),
            panics: PanicPolicy::default(),
            measure: false,
        }
    }
}

impl fmt::Debug for ReactorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactorConfig").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// A single-threaded event loop over connections, listeners, timers and posted
/// work, whose callbacks all receive the application's state `S`.
///
/// Thread rule: made, run and dropped on one thread.
///
/// ```
/// use netlib::{Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<String>::new(ReactorConfig::default())?;
/// reactor.context().post(|state, cx| {
///     state.push_str("it ran");
///     cx.stop();
/// });
/// let mut state = String::new();
/// reactor.run(&mut state)?;
/// assert_eq!(state, "it ran");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Reactor<S: 'static> {
    pub(crate) cx: Context<S>,
    /// Reused from tick to tick, as is the next.
    events: Vec<Event>,
    tasks: Vec<Task<S>>,
    /// The last wait found something, so there may be more.
    pub(crate) found_events: bool,
}

impl<S: 'static> Reactor<S> {
    /// Opens the back end and the event queue.
    ///
    /// Fails if the kernel refuses them, or if `NETLIB_BACKEND` names no back end.
    ///
    /// # Errors
    ///
    /// If the kernel refuses them, or `NETLIB_BACKEND` names no back end.
    pub fn new(config: ReactorConfig) -> io::Result<Self> {
        let kind = match config.backend {
            Some(kind) => kind,
            None => BackendKind::from_env()?.unwrap_or_default(),
        };
        let (kind, mut backend) = if config.fallback { kind.open_or_fall_back()? } else { (kind, kind.open()?) };
        let trigger = kind.default_trigger();
        let queue =
            QueueConfig { capacity: config.queue_capacity, overflow: config.queue_overflow, measure: config.measure };
        let (outbox, mut inbox) = event_queue::pollable(queue)?;
        inbox.consume_here();
        backend.add(inbox.as_fd(), WAKE, Interest::READABLE, trigger)?;
        let now = config.clock.now();
        let cx = Context {
            reads_to_end: !backend.caps().reports_read_closed,
            completes: backend.caps().completions,
            moved: Vec::new(),
            sent: Vec::new(),
            sends_awaited: false,
            backend,
            next_backend: None,
            trigger,
            slots: Slots::new(),
            shared: Rc::new(Shared::new(now)),
            timers: Timers::new(),
            idle: Wheel::new(now),
            hooks: None,
            local: VecDeque::new(),
            inbox,
            outbox,
            inbox_pending: false,
            ready: VecDeque::new(),
            revisited: Vec::new(),
            flushing: Vec::new(),
            closed: Vec::new(),
            read_buffer: vec![0; READ_BUFFER].into_boxed_slice().try_into().ok(),
            datagrams: Datagrams::default(),
            dialling: Dialling::default(),
            clock: config.clock,
            random: config.seed.map_or_else(SplitMix64::from_entropy, SplitMix64::new),
            phase: Phase::Wait,
            panics: config.panics,
            stopping: false,
            draining: false,
            stats: Stats::default(),
            meter: Meter::new(config.measure),
        };
        Ok(Self { cx, events: Vec::with_capacity(EVENTS_PER_FLUSH), tasks: Vec::new(), found_events: false })
    }

    /// The services, to listen, connect and arm timers before running. Between ticks
    /// time goes on, so this reads the clock.
    pub fn context(&mut self) -> &mut Context<S> {
        self.cx.shared.set_now(self.cx.clock.now());
        &mut self.cx
    }

    /// Runs until [`Context::stop`]. Fails only if waiting fails.
    ///
    /// # Errors
    ///
    /// If waiting fails.
    pub fn run(&mut self, state: &mut S) -> io::Result<()> {
        loop {
            self.tick(state, None)?;
            if std::mem::take(&mut self.cx.stopping) {
                // What was sent last is not to wait for a tick that may never come.
                return self.cx.flush_backend();
            }
        }
    }

    /// Runs one tick that waits at most `limit`; None waits for the next event. False
    /// once after [`Context::stop`].
    ///
    /// # Errors
    ///
    /// If waiting fails.
    pub fn run_once(&mut self, state: &mut S, limit: Option<Duration>) -> io::Result<bool> {
        self.tick(state, limit)?;
        // For a loop around this one, which waits in our stead.
        self.cx.flush_backend()?;
        Ok(!std::mem::take(&mut self.cx.stopping))
    }

    /// One tick:
    ///
    /// 1. *Wait* until the next timer is due, or not at all if work is pending.
    /// 2. *Ready*: callbacks of what is ready, with a flush after every 256 events. On a back end that moves bytes itself
    ///    what it has sent comes first, then what it has received.
    /// 3. *Posted*: what stood in the queues when the phase began, at most 1,024.
    /// 4. *Timers* that are due.
    /// 5. *Flush*: every connection written to sends once, or hands its output to such a back end, which sends it with the
    ///    next wait.
    /// 6. *Reap*: connections that ended are told so and leave the slab.
    fn tick(&mut self, state: &mut S, limit: Option<Duration>) -> io::Result<()> {
        self.cx.enter(Phase::Wait);
        if let Err(error) = self.swap_if_asked() {
            log::error!("the back end stays {}: {error}", self.cx.backend.name());
        }
        if self.cx.hooks.is_some() {
            self.cx.run_hook(state, Moment::BeforeWait);
        }
        let timeout = self.timeout(limit);
        self.cx.backend.wait(&mut self.events, timeout)?;
        self.cx.sends_awaited = false;
        self.found_events = self.cx.take_moved() || !self.events.is_empty();
        self.cx.shared.set_now(self.cx.clock.now());
        self.cx.stats.ticks += 1;
        if self.cx.hooks.is_some() {
            self.cx.run_hook(state, Moment::AfterWait);
        }

        self.cx.enter(Phase::Ready);
        self.ready(state);
        self.cx.enter(Phase::Posted);
        self.posted(state);
        self.cx.enter(Phase::Timers);
        self.timers(state);
        self.cx.enter(Phase::Flush);
        self.cx.flush_marked(state);
        self.cx.flush_datagrams(state);
        self.cx.enter(Phase::Reap);
        self.cx.reap(state);
        self.cx.reap_datagrams(state);
        self.cx.leave();
        Ok(())
    }

    pub(crate) fn timeout(&self, limit: Option<Duration>) -> Option<Duration> {
        if self.cx.has_pending_work() || self.cx.stopping {
            return Some(Duration::ZERO);
        }
        let timers = self.cx.timers.next_deadline();
        let due = timers.into_iter().chain(self.cx.idle.next_wake()).chain(self.cx.inbox.next_due()).min();
        let Some(due) = due else { return limit };
        let until_due = due.saturating_duration_since(self.cx.clock.now());
        Some(limit.map_or(until_due, |limit| limit.min(until_due)))
    }

    fn ready(&mut self, state: &mut S) {
        let cx = &mut self.cx;
        cx.stats.events += (self.events.len() + cx.moved.len()) as u64;
        let revisits = cx.ready.len();
        if cx.completes {
            cx.moved_ready(state);
        }
        // What was left over from the last tick comes before what the back end announces: it has
        // waited longest. Slots made ready meanwhile belong to the next tick.
        let mut revisited = std::mem::take(&mut cx.revisited);
        revisited.extend(cx.ready.drain(..revisits));
        for token in &revisited {
            cx.revisit(state, *token);
        }
        for (index, batch) in self.events.chunks(EVENTS_PER_FLUSH).enumerate() {
            if index > 0 {
                cx.flush_marked(state);
            }
            for event in batch {
                cx.dispatch(state, event);
            }
        }
        self.events.clear();
        for token in revisited.drain(..) {
            cx.end_visit(token);
        }
        cx.revisited = revisited;
    }

    fn posted(&mut self, state: &mut S) {
        let cx = &mut self.cx;
        for _ in 0..cx.local.len() {
            if let Some(task) = cx.local.pop_front() {
                cx.contained("posted work", |cx| task(state, cx));
            }
        }
        let mut tasks = std::mem::take(&mut self.tasks);
        cx.inbox_pending = cx.inbox.take(cx.now(), POSTED_PER_TICK, &mut tasks) > 0;
        let (mut panics, mut total, mut longest) = (0, Duration::ZERO, Duration::ZERO);
        for task in tasks.drain(..) {
            let outcome = cx.contained("posted work", |cx| task(state, cx));
            panics += u64::from(outcome.is_none());
            total += cx.meter.last;
            longest = longest.max(cx.meter.last);
        }
        if panics > 0 || total > Duration::ZERO {
            cx.inbox.ran(panics, total, longest);
        }
        self.tasks = tasks;
        if cx.draining && !cx.inbox_pending && cx.local.is_empty() {
            cx.stopping = true;
        }
    }

    fn timers(&mut self, state: &mut S) {
        let cx = &mut self.cx;
        let now = cx.now();
        // A timer that arms another for at once cannot keep the loop here.
        let mark = cx.timers.mark();
        while let Some(id) = cx.timers.next_due_before(now, mark) {
            cx.fire(state, id);
        }
        cx.expire_idle();
    }
}

impl<S: 'static> Context<S> {
    fn dispatch(&mut self, state: &mut S, event: &Event) {
        if event.token == WAKE {
            return; // *Posted* looks into the queue in every tick
        }
        match self.slots.get_mut(event.token) {
            Some(Slot::Conn(slot)) => {
                let conn = slot.conn.clone();
                self.conn_event(state, event, conn);
            }
            Some(_) => self.dispatch_to_others(state, event),
            // Removed earlier in this very batch.
            None => {}
        }
    }

    #[inline(never)]
    fn dispatch_to_others(&mut self, state: &mut S, event: &Event) {
        match self.slots.get_mut(event.token) {
            // It has had its turn in this tick and is listed for the next.
            Some(Slot::Listener(slot)) if slot.ready => {}
            Some(Slot::Listener(_)) => self.accept_ready(state, event.token),
            Some(Slot::Source(_)) => self.source_event(state, event),
            Some(Slot::Datagram(_)) => self.datagram_event(state, event),
            Some(Slot::Conn(_)) | None => {}
        }
    }

    #[inline(never)]
    fn revisit(&mut self, state: &mut S, token: Token) {
        match self.slots.get_mut(token) {
            Some(Slot::Conn(_)) => self.conn_revisit(state, token),
            Some(Slot::Listener(slot)) => {
                slot.ready = false;
                self.accept_ready(state, token);
            }
            Some(Slot::Datagram(_)) => self.datagram_revisit(state, token),
            Some(Slot::Source(_)) | None => {}
        }
    }

    fn fire(&mut self, state: &mut S, id: crate::TimerId) {
        if matches!(self.timers.get_mut(id), Some(TimerTask::Every(_))) {
            self.fire_periodic(state, id);
            return;
        }
        match self.timers.remove(id) {
            Some(TimerTask::Once(task)) => drop(self.contained("a timer", |cx| task(state, cx))),
            Some(TimerTask::Conn(token)) => {
                self.forget_conn_timer(token, id);
                self.conn_timer_due(state, token, id);
            }
            Some(TimerTask::Connect(token)) => self.connect_deadline(token),
            Some(TimerTask::Lifetime(token)) => self.lifetime_over(token),
            Some(TimerTask::Rate { token, read }) => self.rest_over(token, read),
            Some(TimerTask::Linger(linger)) => self.linger_due(linger),
            Some(TimerTask::Accept(token)) => self.accept_again(token),
            Some(TimerTask::Every(_)) | None => {}
        }
    }

    /// The next beat is set before the callback, so that the callback may cancel or
    /// move it.
    fn fire_periodic(&mut self, state: &mut S, id: crate::TimerId) {
        let now = self.now();
        let never = self.due(Duration::MAX);
        let Some(TimerTask::Every(periodic)) = self.timers.get_mut(id) else { return };
        let missed = match periodic.missed {
            Missed::Skip => {
                let late = now.saturating_duration_since(periodic.next);
                u32::try_from(late.as_nanos() / periodic.period.as_nanos().max(1)).unwrap_or(u32::MAX)
            }
            Missed::CatchUp => 0,
        };
        let beats = periodic.period.saturating_mul(missed.saturating_add(1));
        periodic.next = periodic.next.checked_add(beats).unwrap_or(never);
        let next = periodic.next;
        let callback = periodic.callback.take();
        // One that has to catch up comes after all that are due in this tick, so in the next.
        self.timers.rearm(id, next.max(now));
        let Some(mut callback) = callback else { return };
        self.contained("a timer", |cx| callback(state, cx));
        if let Some(TimerTask::Every(periodic)) = self.timers.get_mut(id) {
            periodic.callback = Some(callback);
        }
    }
}

impl<S: 'static> Drop for Reactor<S> {
    /// Handles that outlive the loop find their connections closed.
    fn drop(&mut self) {
        // What it still has to do names descriptors that are closed next.
        let _ = self.cx.backend.flush();
        for slot in self.cx.slots.iter() {
            if let Slot::Conn(slot) = slot {
                slot.conn.0.state.set(State::Dead);
                drop(slot.conn.0.transport.take());
            }
            if let Slot::Datagram(slot) = slot {
                slot.datagram.discard();
            }
        }
    }
}

impl<S: 'static> fmt::Debug for Reactor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("context", &self.cx).finish_non_exhaustive()
    }
}
