//! Time and chance as inputs. The reactor asks a [`Clock`] once per tick and hands the answer
//! around; nothing else in the library looks at the system's clock, so a test can own time.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Stands for a moment that a clock cannot name.
pub(crate) const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);

/// Where a reactor takes the time from.
///
/// ```
/// use std::time::{Duration, Instant};
/// use netlib::clock::Clock;
/// use netlib::ReactorConfig;
///
/// /// Runs at half speed.
/// struct Slow(Instant);
///
/// impl Clock for Slow {
///     fn now(&self) -> Instant {
///         self.0 + self.0.elapsed() / 2
///     }
///
///     fn unix_time(&self) -> Duration {
///         Duration::ZERO
///     }
/// }
///
/// let config = ReactorConfig { clock: Box::new(Slow(Instant::now())), ..ReactorConfig::default() };
/// # drop(config);
/// ```
pub trait Clock: 'static {
    /// Time for measuring; never goes back.
    fn now(&self) -> Instant;

    /// The time of day, since 1970-01-01 UTC. May jump when the operator sets the clock, so it
    /// is for showing and storing, never for timeouts.
    fn unix_time(&self) -> Duration;
}

/// The clocks of the operating system.
///
/// ```
/// use netlib::clock::{Clock, SystemClock};
///
/// let begin = SystemClock.now();
/// assert!(SystemClock.now() >= begin);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_time(&self) -> Duration {
        // An error means a clock set before 1970.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that moves when it is told to. Clones share the time, so a test keeps one and gives
/// the other to the reactor.
///
/// ```
/// use std::time::Duration;
/// use netlib::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let seen_by_the_reactor = clock.clone();
/// let before = seen_by_the_reactor.now();
/// clock.advance(Duration::from_secs(30));
/// assert_eq!(seen_by_the_reactor.now() - before, Duration::from_secs(30));
/// ```
#[derive(Clone)]
pub struct ManualClock(Rc<Times>);

struct Times {
    now: Cell<Instant>,
    unix: Cell<Duration>,
}

impl ManualClock {
    /// Starts at an arbitrary instant, and in June 2015 by the wall.
    pub fn new() -> Self {
        Self(Rc::new(Times { now: Cell::new(Instant::now()), unix: Cell::new(Duration::from_secs(1_434_567_890)) }))
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        self.0.now.set(self.0.now.get() + by);
        self.0.unix.set(self.0.unix.get() + by);
    }

    /// Sets the time of day, as an operator would; measured time goes on undisturbed.
    pub fn step_wall(&self, to: Duration) {
        self.0.unix.set(to);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock").field("unix_time", &self.unix_time()).finish_non_exhaustive()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.0.now.get()
    }

    fn unix_time(&self) -> Duration {
        self.0.unix.get()
    }
}

/// A small, fast generator (SplitMix64 by Vigna) for jitter and the like. Its output is
/// predictable: never use it for secrets.
///
/// ```
/// use netlib::clock::SplitMix64;
///
/// assert_eq!(SplitMix64::new(0).next(), 0xe220_a839_7b1d_cdaf);
/// ```
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The same seed gives the same sequence.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Differs from process to process and from call to call.
    pub fn from_entropy() -> Self {
        // The keys of the standard hasher come from the operating system.
        Self(RandomState::new().hash_one(0_u8))
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // an endless iterator would want `unwrap` at each use
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stepping_the_wall_clock_leaves_measured_time_alone() {
        let clock = ManualClock::new();
        let before = clock.now();
        clock.step_wall(Duration::ZERO);
        assert_eq!((clock.now(), clock.unix_time()), (before, Duration::ZERO));
    }

    #[test]
    fn entropy_differs_between_calls() {
        assert_ne!(SplitMix64::from_entropy().next(), SplitMix64::from_entropy().next());
    }
}
