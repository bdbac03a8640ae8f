//! What a reactor counts, and what it measures if it is asked to. Counting costs an addition;
//! reading the clock around every callback and phase costs more, so it is off by default.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::event_queue::QueueStats;
use crate::reactor::Phase;
use crate::token::Token;

/// Counts since the reactor was made, and some numbers of now.
///
/// ```
/// use netlib::{Reactor, ReactorConfig};
///
/// let config = ReactorConfig { measure: true, ..ReactorConfig::default() };
/// let mut reactor = Reactor::<()>::new(config)?;
/// reactor.context().post(|(), cx| cx.stop());
/// reactor.run(&mut ())?;
/// let stats = reactor.context().stats();
/// assert_eq!((stats.ticks, stats.callbacks), (1, 1));
/// assert_eq!(stats.longest_callback.expect("measured").what, "posted work");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ticks run.
    pub ticks: u64,
    /// Events that the back end reported.
    pub events: u64,
    /// Callbacks called.
    pub callbacks: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused over [`max_connections`](crate::ListenOptions::max_connections).
    pub refused: u64,
    /// Times that accepting rested for want of descriptors.
    pub accept_rests: u64,
    /// Connections alive: connecting, open, or lingering.
    pub connections: usize,
    /// Callbacks that panicked.
    pub panics: u64,
    /// Timers armed, those of idle connections not counted.
    pub timers: usize,
    /// Idle timeouts armed.
    pub idle_timers: usize,
    /// What other threads have posted: depth, waiting times and more.
    pub queue: QueueStats,
    /// Bytes received on connections.
    pub bytes_in: u64,
    /// Bytes sent on connections.
    pub bytes_out: u64,
    /// Time spent in each phase; zero unless [`measure`](crate::ReactorConfig::measure) is set.
    pub phases: PhaseTimes,
    /// The callback that took longest; None unless [`measure`](crate::ReactorConfig::measure) is
    /// set.
    pub longest_callback: Option<LongestCallback>,
}

/// How long the loop was in each [`Phase`], see [`Stats::phases`].
///
/// ```
/// use netlib::{Phase, Stats};
///
/// /// How much of its time a loop that measures is busy.
/// fn load(stats: &Stats) -> f64 {
///     let all = [Phase::Wait, Phase::Ready, Phase::Posted, Phase::Timers, Phase::Flush, Phase::Reap];
///     let total: f64 = all.iter().map(|&phase| stats.phases.of(phase).as_secs_f64()).sum();
///     if total == 0.0 { 0.0 } else { 1.0 - stats.phases.of(Phase::Wait).as_secs_f64() / total }
/// }
/// assert_eq!(load(&Stats::default()), 0.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseTimes([Duration; 6]);

impl PhaseTimes {
    /// The time spent in `phase`.
    pub const fn of(&self, phase: Phase) -> Duration {
        self.0[phase as usize]
    }
}

/// One callback, see [`Stats::longest_callback`].
///
/// ```
/// use netlib::{Reactor, ReactorConfig};
///
/// let config = ReactorConfig { measure: true, ..ReactorConfig::default() };
/// let mut reactor = Reactor::<()>::new(config)?;
/// reactor.context().post(|(), _| ());
/// reactor.run_once(&mut (), None)?;
/// let longest = reactor.context().stats().longest_callback.expect("measured");
/// println!("{} took {:?} in {:?}", longest.what, longest.took, longest.phase);
/// assert_eq!(longest.conn, None);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongestCallback {
    /// Whose it was: `"a handler"`, `"a timer"`, `"posted work"`, `"a source"` and so on.
    pub what: &'static str,
    /// The phase in which it was called.
    pub phase: Phase,
    /// The connection that it served, if it was a handler's.
    pub conn: Option<Token>,
    /// How long it took.
    pub took: Duration,
}

/// The measurements, if they are on.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) on: bool,
    /// When the present phase began.
    since: Option<Instant>,
    pub(crate) phases: PhaseTimes,
    pub(crate) longest: Option<LongestCallback>,
    /// How long the callback took that ended last.
    pub(crate) last: Duration,
}

impl Meter {
    pub(crate) fn new(on: bool) -> Self {
        Self { on, since: None, phases: PhaseTimes::default(), longest: None, last: Duration::ZERO }
    }

    /// The time up to `now` belongs to `phase`. None: what follows belongs to no phase.
    fn lap(&mut self, phase: Phase, now: Instant, goes_on: bool) {
        if let Some(since) = self.since {
            self.phases.0[phase as usize] += now.saturating_duration_since(since);
        }
        self.since = goes_on.then_some(now);
    }
}

impl<S: 'static> Context<S> {
    /// What has been counted so far.
    pub fn stats(&self) -> Stats {
        Stats {
            bytes_out: self.shared.bytes_out.get(),
            timers: self.timers.len(),
            idle_timers: self.idle.len(),
            queue: self.inbox.stats(),
            phases: self.meter.phases,
            longest_callback: self.meter.longest,
            ..self.stats
        }
    }

    /// The tick goes on to another phase.
    pub(crate) fn enter(&mut self, phase: Phase) {
        if self.meter.on {
            self.meter.lap(self.phase, self.clock.now(), true);
        }
        self.phase = phase;
    }

    /// The tick has ended; time passes outside the loop.
    pub(crate) fn leave(&mut self) {
        if self.meter.on {
            self.meter.lap(self.phase, self.clock.now(), false);
        }
    }

    /// Before every callback. What it returns is for [`end_callback`](Self::end_callback).
    pub(crate) fn begin_callback(&mut self) -> Option<Instant> {
        self.stats.callbacks += 1;
        self.meter.on.then(|| self.clock.now())
    }

    /// After it.
    #[inline(always)]
    pub(crate) fn end_callback(&mut self, begun: Option<Instant>, what: &'static str, conn: Option<Token>) {
        if let Some(begun) = begun {
            self.measure_callback(begun, what, conn);
        }
    }

    #[cold]
    fn measure_callback(&mut self, begun: Instant, what: &'static str, conn: Option<Token>) {
        let took = self.clock.now().saturating_duration_since(begun);
        self.meter.last = took;
        if self.meter.longest.is_none_or(|longest| longest.took < took) {
            self.meter.longest = Some(LongestCallback { what, phase: self.phase, conn, took });
        }
    }
}
