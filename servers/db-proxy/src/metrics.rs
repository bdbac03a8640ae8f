//! What a db-proxy counts beside what every server counts.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tt_common::metrics::{Counter, Label, Labelled};

use crate::store::{Stats, Store};

/// The counts of one db-proxy. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    batch: Histogram,
    commit: Histogram,
    /// Writes that have arrived and are not on disk or refused yet.
    pub(crate) writes_waiting: Gauge,
    /// Bytes of messages among them.
    pub(crate) write_bytes_waiting: Gauge,
    /// Queries without an answer yet.
    pub(crate) reads_waiting: Gauge,
    /// Requests answered as overload because they had waited too long.
    pub(crate) given_up: Counter,
    refused: Labelled,
    not_changed: Labelled,
    group_refused: Labelled,
    unanswered: Labelled,
    sign_ins: Labelled,
}

impl Metrics {
    /// All zero, shown by `common`.
    pub(crate) fn new(common: &tt_common::Metrics, store: &Arc<dyn Store>) -> Self {
        let all = Self {
            batch: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]),
            commit: Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0]),
            writes_waiting: Gauge::default(),
            write_bytes_waiting: Gauge::default(),
            reads_waiting: Gauge::default(),
            given_up: Counter::default(),
            refused: Labelled::default(),
            not_changed: Labelled::default(),
            group_refused: Labelled::default(),
            unanswered: Labelled::default(),
            sign_ins: Labelled::default(),
        };
        common.register("store_batch_size", "Writes that shared a transaction", all.batch.clone());
        common.register("store_commit_seconds", "Time from a batch to its sync", all.commit.clone());
        common.register("store_writes_waiting", "Writes not on disk yet", all.writes_waiting.clone());
        common.register(
            "store_write_bytes_waiting",
            "Bytes of messages not on disk yet",
            all.write_bytes_waiting.clone(),
        );
        common.register("store_reads_waiting", "Queries without an answer yet", all.reads_waiting.clone());
        common.register("requests_given_up", "Requests that waited too long", all.given_up.clone());
        common.register("messages_refused", "Messages not stored, by reason", all.refused.clone());
        common.register("settings_refused", "Changes of accounts not made, by reason", all.not_changed.clone());
        common.register("group_changes_refused", "Groups not made or changed, by reason", all.group_refused.clone());
        common.register("unanswered", "Requests without an answer, by reason", all.unanswered.clone());
        common.register("sign_ins", "Sign-ins checked, by result", all.sign_ins.clone());
        for (name, help, pick) in STORE {
            common.register(name, help, FromStore { store: Arc::downgrade(store), pick: *pick });
        }
        all
    }

    pub(crate) fn committed(&self, members: usize, time: Duration) {
        self.batch.observe(members as f64);
        self.commit.observe(time.as_secs_f64());
    }

    pub(crate) fn refused(&self, kind: &'static str) {
        self.refused.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn not_changed(&self, kind: &'static str) {
        self.not_changed.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn group_refused(&self, kind: &'static str) {
        self.group_refused.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn unanswered(&self, kind: &'static str) {
        self.unanswered.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn sign_in(&self, kind: &'static str) {
        self.sign_ins.get_or_create(&Label { kind }).inc();
    }
}

type Pick = fn(&Stats) -> u64;

/// The store's own counters.
const STORE: &[(&str, &str, Pick)] = &[
    ("store_commits", "Transactions on disk", |stats| stats.commits),
    ("store_failed_batches", "Transactions that failed", |stats| stats.failed_batches),
    ("store_reopened", "Times the store was opened anew after a failure", |stats| stats.reopened),
    ("store_damaged_rows", "Reads that met a damaged message", |stats| stats.damaged_rows),
    ("store_lost_messages", "Messages found lost at start", |stats| stats.lost_messages),
    ("store_damaged_marks", "High-water marks that could not be read", |stats| stats.damaged_marks),
    ("store_damaged_records", "Damage outside of messages, put right at start", |stats| stats.damaged_records),
];

/// A counter that is read from the store when somebody looks.
struct FromStore {
    store: Weak<dyn Store>,
    pick: Pick,
}

impl fmt::Debug for FromStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromStore").finish_non_exhaustive()
    }
}

impl EncodeMetric for FromStore {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let count = self.store.upgrade().map_or(0, |store| (self.pick)(&store.stats()));
        encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
