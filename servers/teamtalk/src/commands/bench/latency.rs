//! Latencies: how often each was seen, in bounded memory, and the percentiles that are told of them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// A histogram of times, from a microsecond to ten minutes, to three digits.
#[derive(Debug)]
pub(super) struct Latency(Histogram<u64>);

const LONGEST: Duration = Duration::from_mins(10);

impl Latency {
    pub(super) fn new() -> Self {
        let bounds = Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, 3);
        Self(bounds.expect("the bounds are constants that the histogram takes"))
    }

    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// A percentile in milliseconds.
    pub(super) fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_quantile(percentile / 100.0) as f64 / 1e3
    }

    pub(super) fn report(&self) -> Value {
        if self.count() == 0 {
            return json!({ "count": 0 });
        }
        json!({
            "count": self.count(),
            "mean_ms": rounded(self.0.mean() / 1e3),
            "p50_ms": rounded(self.percentile_ms(50.0)),
            "p90_ms": rounded(self.percentile_ms(90.0)),
            "p99_ms": rounded(self.percentile_ms(99.0)),
            "p99_9_ms": rounded(self.percentile_ms(99.9)),
            "max_ms": rounded(self.0.max() as f64 / 1e3),
        })
    }
}

/// To three places: nobody reads more.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latency = Latency::new();
        for milliseconds in 1..=1_000 {
            latency.record(Duration::from_millis(milliseconds));
        }
        assert_eq!(latency.count(), 1_000);
        for (percentile, expected) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1_000.0)] {
            let found = latency.percentile_ms(percentile);
            assert!((found - expected).abs() <= expected / 500.0, "p{percentile} is {found}");
        }
    }

    #[test]
    fn what_took_longer_than_is_counted_is_counted_as_the_longest() {
        let mut latency = Latency::new();
        latency.record(Duration::from_hours(9));
        latency.record(Duration::ZERO);
        assert_eq!(latency.count(), 2);
        assert!(latency.percentile_ms(100.0) >= 599_000.0);
    }
}
