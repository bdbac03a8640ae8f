//! What is left of the time that a wait may last, for waits of several rounds.

use std::time::{Duration, Instant};

/// Longer timeouts overflow the kernel's arithmetic; nobody waits for that long.
const ENDLESS: Duration = Duration::from_secs(1 << 30);

#[derive(Debug)]
pub(crate) struct TimeLeft {
    /// None: the wait has no limit, or is a look only.
    deadline: Option<Instant>,
    left: Option<Duration>,
}

impl TimeLeft {
    /// It begins now. None is no limit.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        let left = timeout.filter(|timeout| *timeout < ENDLESS);
        let deadline = left.filter(|left| !left.is_zero()).map(|left| Instant::now() + left);
        Self { deadline, left }
    }

    /// What the next round may take; None is no limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.left
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left == Some(Duration::ZERO)
    }

    /// A round is over and there will be another.
    pub(crate) fn go_on(&mut self) {
        if let Some(deadline) = self.deadline {
            self.left = Some(deadline.saturating_duration_since(Instant::now()));
        }
    }
}
