//! What the process as a whole takes, read when somebody asks. Roles that share a process show the same.

use std::fs;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;

/// Memory and processor time.
#[derive(Debug, Default)]
pub(crate) struct ProcessGauges {
    memory: Gauge,
    cpu: Gauge<f64, AtomicU64>,
}

impl ProcessGauges {
    pub(crate) fn registered(metrics: &Metrics) -> Self {
        let gauges = Self::default();
        metrics.register("process_memory_bytes", "Resident memory that no file backs", gauges.memory.clone());
        metrics.register("process_cpu_seconds", "Processor time of all threads alive", gauges.cpu.clone());
        gauges
    }

    /// Where the system does not tell, the last figures stay.
    pub(crate) fn show(&self) {
        if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().and_then(|status| anonymous_bytes(&status)) {
            self.memory.set(bytes);
        }
        if let Some(nanoseconds) = cpu_nanoseconds() {
            self.cpu.set(nanoseconds as f64 / 1e9);
        }
    }
}

fn anonymous_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: i64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1_024)
}

/// Over all threads: the first number of `schedstat` is the time on a processor.
fn cpu_nanoseconds() -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).unwrap_or_default();
        sum += text.split_whitespace().next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_lines_are_read() {
        assert_eq!(anonymous_bytes("Name:\tx\nRssAnon:\t     12 kB\nRssFile:\t 3 kB\n"), Some(12 * 1_024));
        assert_eq!(anonymous_bytes("Name:\tx\n"), None);
        assert!(cpu_nanoseconds().is_some_and(|time| time > 0));
    }
}
