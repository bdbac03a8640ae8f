//! The loop. [`Reactor::run`] runs ticks; one tick is one function of six phases.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use crate::backend::{BackendKind, Event, Interest};
use crate::clock::{Clock, SplitMix64, SystemClock};
use crate::conn::{Shared, State};
use crate::context::{Beat, Context, Stats, Task, TimerTask};
use crate::queue;
use crate::slot::{Slot, Slots};
use crate::timer::Timers;
use crate::token::Token;

/// The token of the event queue's own descriptor.
const WAKE: Token = Token::new(u32::MAX, u32::MAX);
/// Events handled before what they wrote is flushed.
const EVENTS_PER_FLUSH: usize = 256;
/// Posted items taken in one tick.
const POSTED_PER_TICK: usize = 1024;
/// Size of the buffer that all connections of a reactor read into.
const READ_BUFFER: usize = 64 << 10;

/// The parts of a tick, in their order.
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
    /// One write per connection that has output.
    Flush,
    /// Closed connections are told so and leave.
    Reap,
}

/// How a reactor is made.
pub struct ReactorConfig {
    /// The mechanism; None takes `NETLIB_BACKEND`, or else mio.
    pub backend: Option<BackendKind>,
    /// The time; see [`crate::clock`].
    pub clock: Box<dyn Clock>,
    /// Seed of [`Context::random`]; None is a random one.
    pub seed: Option<u64>,
    /// Most posts of other threads that may wait; None is no limit.
    pub queue_capacity: Option<usize>,
    /// Whether a panic in posted work, a timer or a source is logged, counted and
    /// survived, or leaves [`Reactor::run`]. One in a connection's handler ends that
    /// connection in either case.
    pub contain_panics: bool,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self { backend: None, clock: Box::new(SystemClock), seed: None, queue_capacity: None, contain_panics: true }
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
pub struct Reactor<S: 'static> {
    cx: Context<S>,
    /// Reused from tick to tick, as is the next.
    events: Vec<Event>,
    tasks: Vec<Task<S>>,
}

impl<S: 'static> Reactor<S> {
    /// Opens the back end and the event queue.
    ///
    /// Fails if the kernel refuses them, or if `NETLIB_BACKEND` names no back end.
    pub fn new(config: ReactorConfig) -> io::Result<Self> {
        let kind = match config.backend {
            Some(kind) => kind,
            None => BackendKind::from_env()?.unwrap_or_default(),
        };
        let mut backend = kind.open()?;
        let trigger = kind.default_trigger();
        let (outbox, inbox) = queue::channel(config.queue_capacity)?;
        backend.add(inbox.as_fd(), WAKE, Interest::READABLE, trigger)?;
        let now = config.clock.now();
        let cx = Context {
            reads_to_end: !backend.caps().reports_read_closed,
            backend,
            trigger,
            slots: Slots::new(),
            shared: Rc::new(Shared::new(now)),
            timers: Timers::new(),
            local: VecDeque::new(),
            inbox,
            outbox,
            inbox_pending: false,
            ready: VecDeque::new(),
            flushing: Vec::new(),
            closed: Vec::new(),
            read_buffer: vec![0; READ_BUFFER],
            clock: config.clock,
            random: config.seed.map_or_else(SplitMix64::from_entropy, SplitMix64::new),
            phase: Phase::Wait,
            contain_panics: config.contain_panics,
            stopping: false,
            stats: Stats::default(),
        };
        Ok(Self { cx, events: Vec::with_capacity(EVENTS_PER_FLUSH), tasks: Vec::new() })
    }

    /// The services, to listen, connect and arm timers before running. Between ticks
    /// time goes on, so this reads the clock.
    pub fn context(&mut self) -> &mut Context<S> {
        self.cx.shared.set_now(self.cx.clock.now());
        &mut self.cx
    }

    /// Runs until [`Context::stop`]. Fails only if waiting fails.
    pub fn run(&mut self, state: &mut S) -> io::Result<()> {
        while self.run_once(state, None)? {}
        Ok(())
    }

    /// Runs one tick that waits at most `limit`; None waits for the next event. False
    /// once after [`Context::stop`].
    pub fn run_once(&mut self, state: &mut S, limit: Option<Duration>) -> io::Result<bool> {
        self.tick(state, limit)?;
        Ok(!std::mem::take(&mut self.cx.stopping))
    }

    /// One tick:
    ///
    /// 1. *Wait* until the next timer is due, or not at all if work is pending.
    /// 2. *Ready*: callbacks of what is ready, with a flush after every 256 events.
    /// 3. *Posted*: what stood in the queues when the phase began, at most 1,024.
    /// 4. *Timers* that are due.
    /// 5. *Flush*: every connection written to sends once.
    /// 6. *Reap*: connections that ended are told so and leave the slab.
    fn tick(&mut self, state: &mut S, limit: Option<Duration>) -> io::Result<()> {
        self.enter(Phase::Wait);
        let timeout = self.timeout(limit);
        self.cx.backend.wait(&mut self.events, timeout)?;
        self.cx.shared.set_now(self.cx.clock.now());
        self.cx.stats.ticks += 1;

        self.enter(Phase::Ready);
        self.ready(state);
        self.enter(Phase::Posted);
        self.posted(state);
        self.enter(Phase::Timers);
        self.timers(state);
        self.enter(Phase::Flush);
        self.cx.flush_marked(state);
        self.enter(Phase::Reap);
        self.cx.reap(state);
        Ok(())
    }

    fn enter(&mut self, phase: Phase) {
        self.cx.phase = phase;
    }

    fn timeout(&self, limit: Option<Duration>) -> Option<Duration> {
        if self.cx.has_pending_work() || self.cx.stopping {
            return Some(Duration::ZERO);
        }
        let Some(due) = self.cx.timers.next_deadline() else { return limit };
        let until_due = due.saturating_duration_since(self.cx.clock.now());
        Some(limit.map_or(until_due, |limit| limit.min(until_due)))
    }

    fn ready(&mut self, state: &mut S) {
        let cx = &mut self.cx;
        cx.stats.events += self.events.len() as u64;
        // What was left over from the last tick comes first: it has waited longest.
        // Slots made ready meanwhile belong to the next tick.
        for _ in 0..cx.ready.len() {
            if let Some(token) = cx.ready.pop_front() {
                cx.revisit(state, token);
            }
        }
        let mut events = std::mem::take(&mut self.events);
        for (index, event) in events.drain(..).enumerate() {
            if index > 0 && index % EVENTS_PER_FLUSH == 0 {
                cx.flush_marked(state);
            }
            cx.dispatch(state, &event);
        }
        self.events = events;
    }

    fn posted(&mut self, state: &mut S) {
        let cx = &mut self.cx;
        for _ in 0..cx.local.len() {
            if let Some(task) = cx.local.pop_front() {
                cx.contained("posted work", |cx| task(state, cx));
            }
        }
        let mut tasks = std::mem::take(&mut self.tasks);
        cx.inbox_pending = cx.inbox.take(POSTED_PER_TICK, &mut tasks) > 0;
        for task in tasks.drain(..) {
            cx.contained("posted work", |cx| task(state, cx));
        }
        self.tasks = tasks;
    }

    fn timers(&mut self, state: &mut S) {
        let cx = &mut self.cx;
        let now = cx.now();
        // Bounded, so that a timer that arms another for at once cannot keep the
        // loop here.
        for _ in 0..cx.timers.len() {
            let Some(id) = cx.timers.next_due(now) else { break };
            cx.fire(state, id);
        }
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
            // It has had its turn in this tick and is listed for the next.
            Some(Slot::Listener(slot)) if slot.ready => {}
            Some(Slot::Listener(_)) => self.accept_ready(state, event.token),
            Some(Slot::Source(_)) => self.source_event(state, event),
            // Removed earlier in this very batch.
            None => {}
        }
    }

    fn revisit(&mut self, state: &mut S, token: Token) {
        match self.slots.get_mut(token) {
            Some(Slot::Conn(_)) => self.conn_revisit(state, token),
            Some(Slot::Listener(slot)) => {
                slot.ready = false;
                self.accept_ready(state, token);
            }
            Some(Slot::Source(_)) | None => {}
        }
    }

    fn fire(&mut self, state: &mut S, id: crate::TimerId) {
        if let Some(TimerTask::Every(period, callback)) = self.timers.get_mut(id) {
            let (period, callback) = (*period, callback.take());
            self.fire_periodic(state, id, period, callback);
            return;
        }
        match self.timers.remove(id) {
            Some(TimerTask::Once(task)) => drop(self.contained("a timer", |cx| task(state, cx))),
            Some(TimerTask::Conn(token)) => {
                self.forget_conn_timer(token, id);
                self.conn_timer_due(state, token, id);
            }
            Some(TimerTask::Idle(token)) => self.idle_due(token),
            Some(TimerTask::Connect(token)) => self.connect_deadline(token),
            Some(TimerTask::Lifetime(token)) => self.lifetime_over(token),
            Some(TimerTask::Rate { token, read }) => self.rest_over(token, read),
            Some(TimerTask::Linger(linger)) => self.linger_due(linger),
            Some(TimerTask::Accept(token)) => self.accept_again(token),
            Some(TimerTask::Every(..)) | None => {}
        }
    }

    /// The next beat is set before the callback, so that the callback may cancel or
    /// move it.
    fn fire_periodic(&mut self, state: &mut S, id: crate::TimerId, period: Duration, callback: Option<Beat<S>>) {
        let due = self.timers.deadline(id).unwrap_or_else(|| self.now());
        let late = self.now().saturating_duration_since(due);
        let missed = late.as_nanos() / period.as_nanos().max(1);
        let beats = u32::try_from(missed + 1).unwrap_or(u32::MAX);
        let next = due.checked_add(period.saturating_mul(beats)).unwrap_or_else(|| self.due(Duration::MAX));
        self.timers.rearm(id, next);
        let Some(mut callback) = callback else { return };
        self.contained("a timer", |cx| callback(state, cx));
        if let Some(TimerTask::Every(_, slot)) = self.timers.get_mut(id) {
            *slot = Some(callback);
        }
    }
}

impl<S: 'static> Drop for Reactor<S> {
    /// Handles that outlive the loop find their connections closed.
    fn drop(&mut self) {
        for slot in self.cx.slots.iter() {
            if let Slot::Conn(slot) = slot {
                slot.conn.0.state.set(State::Dead);
                drop(slot.conn.0.transport.take());
            }
        }
    }
}

impl<S: 'static> fmt::Debug for Reactor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("context", &self.cx).finish_non_exhaustive()
    }
}
