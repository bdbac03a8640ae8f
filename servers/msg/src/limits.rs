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

    /// Takes one token. When that was the last one, returns how long to wait before
    /// asking again: until a twentieth of a second's tokens is there (or the whole
    /// bucket, if that is less), so that a limited client costs twenty wake-ups a
    /// second and not one for each message.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Duration> {
        self.full_at = self.full_at.max(now) + self.interval;
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
            assert_eq!(bucket.take(start), None, "token {n}");
        }
        assert_eq!(bucket.take(start), Some(Duration::from_millis(50)), "the last token empties it");
    }

    #[test]
    fn after_the_wait_there_are_as_many_tokens_as_the_wait_was_long() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(500, 1_000, start);
        while bucket.take(start).is_none() {}
        let later = start + Duration::from_millis(50);
        let taken = (1..1_000).take_while(|_| bucket.take(later).is_none()).count() + 1;
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
            now += bucket.take(now).unwrap_or_default();
        }
        assert!((5_900..=6_030).contains(&taken), "{taken} tokens in 10 s: 1,000 at once and 500 a second");
    }

    #[test]
    fn a_rate_below_one_wake_up_is_kept_too() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1, 1, start);
        assert_eq!(bucket.take(start), Some(Duration::from_secs(1)));
    }
}
