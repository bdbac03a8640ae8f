//! A token bucket: so many bytes a second on average, so many at once. Nothing here reads a
//! clock.

use std::time::{Duration, Instant};

/// A limit on a flow of bytes.
///
/// ```
/// use netlib::Rate;
///
/// let limit = Rate { bytes_per_second: 64 << 10, burst: 256 << 10 };
/// # assert!(limit.burst > limit.bytes_per_second);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// On average; at least 1.
    pub bytes_per_second: u64,
    /// At once, after a silence; at least 1.
    pub burst: u64,
}

/// What is left of a [`Rate`] at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    tokens: u64,
    /// The tokens are those of this moment.
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        let rate = Rate { bytes_per_second: rate.bytes_per_second.max(1), burst: rate.burst.max(1) };
        Self { rate, tokens: rate.burst, at: now }
    }

    /// Bytes that may pass now.
    pub(crate) fn available(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let earned = elapsed * u128::from(self.rate.bytes_per_second) / 1_000_000_000;
        if let Ok(earned @ 1..) = u64::try_from(earned) {
            self.tokens = self.tokens.saturating_add(earned).min(self.rate.burst);
            self.at = now;
        }
        self.tokens
    }

    pub(crate) fn take(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// How long until it is worth going on: until a quarter of the burst has come together, so
    /// that a slow rate is not paid for with a system call per byte.
    pub(crate) fn rest(&self) -> Duration {
        let wanted = (self.rate.burst / 4).max(1).saturating_sub(self.tokens).max(1);
        Duration::from_nanos(wanted.saturating_mul(1_000_000_000).div_ceil(self.rate.bytes_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_passes_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(Rate { bytes_per_second: 1000, burst: 4000 }, start);
        assert_eq!(bucket.available(start), 4000);
        bucket.take(4000);
        assert_eq!(bucket.available(start), 0);
        assert_eq!(bucket.rest(), Duration::from_secs(1));
        assert_eq!(bucket.available(start + Duration::from_secs(1)), 1000);
        assert_eq!(bucket.available(start + Duration::from_secs(100)), 4000, "no more than the burst");
    }

    #[test]
    fn fractions_of_a_token_are_not_lost_to_frequent_looks() {
        let start = Instant::now();
        let mut bucket = Bucket::full(Rate { bytes_per_second: 10, burst: 100 }, start);
        bucket.take(100);
        for tick in 1..=1000_u64 {
            bucket.available(start + Duration::from_millis(tick));
        }
        assert!(bucket.tokens >= 9, "{}", bucket.tokens);
    }
}
