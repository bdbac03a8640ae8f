//! What one client may cost: token buckets that say for how long to stop reading
//! it. Pure time arithmetic; the callers own the clocks and the connections.

use std::time::{Duration, Instant};

/// A token bucket. It stores only the moment at which it will be full again, so
/// it needs no timer and 48 bytes.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    /// The time one token takes to come back.
    interval: Duration,
    /// How long an empty bucket takes to fill.
    depth: Duration,
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket. Zero is read as one: a limit that lets nothing through would
    /// stop the connection for ever.
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, depth: interval * burst.max(1), full_at: now }
    }

    /// A full bucket of so many tokens, one of which comes back in `interval`.
    pub(crate) fn slow(interval: Duration, burst: u32, now: Instant) -> Self {
        Self { interval, depth: interval * burst.max(1), full_at: now }
    }

    /// Takes one token if there is one.
    pub(crate) fn try_take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let there = full_at - now <= self.depth;
        if there {
            self.full_at = full_at;
        }
        there
    }

    /// Takes tokens, one for most things. When the last one goes, returns how long to wait
    /// before asking again: until a twentieth of a second's tokens is there (or the whole
    /// bucket, if that is less), so that a limited client costs twenty wake-ups a second and
    /// not one for each message. What costs more than there is waits as much longer.
    pub(crate) fn take(&mut self, now: Instant, tokens: u32) -> Option<Duration> {
        self.full_at = self.full_at.max(now) + self.interval * tokens;
        let debt = self.full_at - now;
        let left = self.depth.checked_sub(debt);
        match left {
            Some(left) if left >= self.interval => None,
            _ => {
                let refill = Duration::from_millis(50).max(self.interval).min(self.depth);
                Some((debt + refill).saturating_sub(self.depth))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_token_after_it_waits() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(500, 1_000, start);
        for n in 1..1_000 {
            assert_eq!(bucket.take(start, 1), None, "token {n}");
        }
        assert_eq!(bucket.take(start, 1), Some(Duration::from_millis(50)), "the last token empties it");
    }

    #[test]
    fn after_the_wait_there_are_as_many_tokens_as_the_wait_was_long() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(500, 1_000, start);
        while bucket.take(start, 1).is_none() {}
        let later = start + Duration::from_millis(50);
        let taken = (1..1_000).take_while(|_| bucket.take(later, 1).is_none()).count() + 1;
        assert_eq!(taken, 25);
    }

    #[test]
    fn over_a_long_time_the_rate_is_the_configured_one() {
        let start = Instant::now();
        let mut now = start;
        let mut bucket = TokenBucket::new(500, 1_000, start);
        let mut taken = 0;
        while now < start + Duration::from_secs(10) {
            taken += 1;
            now += bucket.take(now, 1).unwrap_or_default();
        }
        assert!((5_900..=6_030).contains(&taken), "{taken} tokens in 10 s: 1,000 at once and 500 a second");
    }

    #[test]
    fn a_token_that_is_not_there_costs_nothing() {
        let start = Instant::now();
        let mut bucket = TokenBucket::slow(Duration::from_secs(6), 3, start);
        let mut taken = |at: Duration| bucket.try_take(start + at);
        assert_eq!([(); 5].map(|()| taken(Duration::ZERO)), [true, true, true, false, false]);
        assert!(!taken(Duration::from_millis(5_999)));
        assert!(taken(Duration::from_secs(6)));
        assert!(!taken(Duration::from_secs(6)));
    }

    #[test]
    fn what_costs_more_than_the_bucket_holds_waits_for_all_of_it() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 5, start);
        assert_eq!(bucket.take(start, 4), None, "one is left");
        let wait = bucket.take(start, 33).expect("far over");
        assert_eq!(wait, Duration::from_millis(3_300), "32 that are owed, and one to go on with");
        assert_eq!(bucket.take(start + Duration::from_mins(1), 1), None, "full again");
    }

    #[test]
    fn a_rate_below_one_wake_up_is_kept_too() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1, 1, start);
        assert_eq!(bucket.take(start, 1), Some(Duration::from_secs(1)));
    }
}
