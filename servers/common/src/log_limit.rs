//! A brake for log lines that a peer can cause: one in an interval, and how many were left out.

use std::fmt;
use std::time::{Duration, Instant};

/// Lets one event through per interval and counts the rest.
///
/// ```
/// use std::time::{Duration, Instant};
/// use tt_common::log_limit::LogLimit;
///
/// let mut limit = LogLimit::new(Duration::from_secs(10));
/// let start = Instant::now();
/// assert_eq!(limit.allow(start).map(|unsaid| unsaid.to_string()), Some(String::new()));
/// assert!(limit.allow(start + Duration::from_secs(1)).is_none());
/// let later = limit.allow(start + Duration::from_secs(11)).map(|unsaid| unsaid.to_string());
/// assert_eq!(later.as_deref(), Some(" (and 1 more since the last line)"));
/// ```
#[derive(Debug)]
pub struct LogLimit {
    interval: Duration,
    last: Option<Instant>,
    unsaid: u64,
}

/// How many lines were left out before this one; prints as nothing if none was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsaid(pub u64);

impl LogLimit {
    /// At most one line per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None, unsaid: 0 }
    }

    /// Whether to write a line now. Append the answer to it.
    pub fn allow(&mut self, now: Instant) -> Option<Unsaid> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(Unsaid(std::mem::take(&mut self.unsaid)))
    }
}

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} more since the last line)"),
        }
    }
}
