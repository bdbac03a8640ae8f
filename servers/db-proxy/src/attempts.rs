//! How often a name may fail to sign in (spec/flows.md §3.3): after eleven failures within half an
//! hour the next attempts are refused without a look at the password, until the oldest of them are
//! half an hour old.
//!
//! Memory is bounded whatever names are tried. Names live in two generations; when the young one is
//! half an hour old, or full, it becomes the old one and the old one is forgotten. So a name is
//! forgotten too early only after tens of thousands of other names have failed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Failures older than this do not count.
const WINDOW: Duration = Duration::from_mins(30);
/// More failures than this within the window lock the name.
const ALLOWED: usize = 10;
/// Names in one generation.
const GENERATION: usize = 32_768;
/// Longer names belong to nobody and are not kept. In bytes.
pub(crate) const MAX_NAME: usize = 128;

#[derive(Debug)]
pub(crate) struct Attempts {
    young: HashMap<String, VecDeque<Instant>>,
    old: HashMap<String, VecDeque<Instant>>,
    turned: Instant,
}

impl Attempts {
    pub(crate) fn new(now: Instant) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), turned: now }
    }

    /// Whether the name may not try now.
    pub(crate) fn is_locked(&mut self, name: &str, now: Instant) -> bool {
        let failures = self.young.get(name).or_else(|| self.old.get(name));
        failures.is_some_and(|failures| failures.iter().filter(|at| counts(**at, now)).count() > ALLOWED)
    }

    /// A wrong password.
    pub(crate) fn failed(&mut self, name: &str, now: Instant) {
        if name.len() > MAX_NAME {
            return;
        }
        if self.young.len() >= GENERATION || now.saturating_duration_since(self.turned) > WINDOW {
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
        }
        let mut failures = match self.young.remove(name) {
            Some(failures) => failures,
            None => self.old.remove(name).unwrap_or_default(),
        };
        failures.retain(|at| counts(*at, now));
        failures.push_back(now);
        if failures.len() > ALLOWED + 1 {
            failures.pop_front();
        }
        self.young.insert(name.to_owned(), failures);
    }

    /// The right password.
    pub(crate) fn succeeded(&mut self, name: &str) {
        self.young.remove(name);
        self.old.remove(name);
    }
}

fn counts(failure: Instant, now: Instant) -> bool {
    now.saturating_duration_since(failure) <= WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twelfth_attempt_is_refused_until_failures_grow_old() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start);
        for second in 0..11 {
            let now = start + Duration::from_secs(second);
            assert!(!attempts.is_locked("alice", now), "attempt {second}");
            attempts.failed("alice", now);
        }
        assert!(attempts.is_locked("alice", start + Duration::from_secs(12)));
        assert!(!attempts.is_locked("bob", start + Duration::from_secs(12)));
        assert!(!attempts.is_locked("alice", start + WINDOW + Duration::from_secs(1)));
    }

    #[test]
    fn a_success_clears_the_failures() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        for _ in 0..11 {
            attempts.failed("alice", now);
        }
        attempts.succeeded("alice");
        assert!(!attempts.is_locked("alice", now));
    }

    #[test]
    fn a_lock_survives_a_change_of_generation() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start);
        let late = start + Duration::from_mins(29);
        for _ in 0..11 {
            attempts.failed("alice", late);
        }
        attempts.failed("bob", start + WINDOW + Duration::from_secs(1));
        assert!(attempts.is_locked("alice", start + WINDOW + Duration::from_secs(2)));
    }

    #[test]
    fn memory_is_bounded_by_the_generations() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now);
        for number in 0..3 * GENERATION {
            attempts.failed(&format!("name{number}"), now);
        }
        assert!(attempts.young.len() + attempts.old.len() <= 2 * GENERATION);
        attempts.failed(&"x".repeat(MAX_NAME + 1), now);
        assert!(!attempts.young.keys().any(|name| name.len() > MAX_NAME));
    }
}
