//! What a role counts. One [`Metrics`] per role; clones share the counts and may cross threads.
//!
//! Names end in their unit, counters in `_total`. Labels take few values whatever peers send: a command that
//! is not in the protocol's table counts as `unknown`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::registry::{Metric, Registry};
use tt_proto::Command;

use crate::link::LinkRole;

// Roles count with the same types and need no dependency of their own for it.
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;

/// A counter with one label.
pub type Labelled = Family<Label, Counter>;

/// The counts of one role.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    links: Family<Peer, Gauge>,
    link_ups: Family<Peer, Counter>,
    link_downs: Family<Ended, Counter>,
    dials_failed: Family<Ended, Counter>,
    links_refused: Labelled,
    frames: Family<Frame, Counter>,
    bytes: Family<Direction, Counter>,
    calls: Labelled,
    /// Calls across links that wait for their answer.
    pub calls_pending: Gauge,
    /// Replies that belong to no pending call.
    pub unmatched_replies: Counter,
    /// PDUs with a command that is not handled where it arrived.
    pub unknown_commands: Counter,
    /// PDUs whose body does not parse.
    pub malformed: Counter,
}

/// One label, named `kind`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Label {
    /// Its value.
    pub kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Peer {
    peer: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    peer: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Frame {
    direction: &'static str,
    command: &'static str,
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("teamtalk"))),
            links: Family::default(),
            link_ups: Family::default(),
            link_downs: Family::default(),
            dials_failed: Family::default(),
            links_refused: Family::default(),
            frames: Family::default(),
            bytes: Family::default(),
            calls: Family::default(),
            calls_pending: Gauge::default(),
            unmatched_replies: Counter::default(),
            unknown_commands: Counter::default(),
            malformed: Counter::default(),
        };
        metrics.register("links", "Server links that are up", metrics.links.clone());
        metrics.register("link_ups", "Server links that came up", metrics.link_ups.clone());
        metrics.register("link_downs", "Server links that went down", metrics.link_downs.clone());
        metrics.register("dials_failed", "Dials to other servers that failed", metrics.dials_failed.clone());
        metrics.register("links_refused", "Peers not admitted, by reason", metrics.links_refused.clone());
        metrics.register("pdus", "PDUs by direction and command", metrics.frames.clone());
        metrics.register("pdu_bytes", "Bytes of PDUs by direction", metrics.bytes.clone());
        metrics.register("calls", "Calls across links by outcome", metrics.calls.clone());
        metrics.register("calls_pending", "Calls across links under way", metrics.calls_pending.clone());
        metrics.register("unmatched_replies", "Replies to no pending call", metrics.unmatched_replies.clone());
        metrics.register("unknown_commands", "PDUs not handled where they arrived", metrics.unknown_commands.clone());
        metrics.register("malformed_bodies", "PDUs whose body does not parse", metrics.malformed.clone());
        metrics
    }

    /// Adds a metric of the role's own. Keep a clone to count on.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        // A poisoned lock means a panic while encoding; the registry itself is whole.
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(name, help, metric);
    }

    /// The text that `/metrics` shows (OpenMetrics).
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String fails only if a metric's own encoding does.
        if text::encode(&mut out, &registry).is_err() {
            log::error!("a metric could not be encoded");
        }
        out
    }

    /// Counts a PDU on its way in, on a link or from a client.
    pub fn received(&self, command: u16, len: usize) {
        self.frame("in", command, len);
    }

    /// Counts a PDU on its way out.
    pub fn sent(&self, command: u16, len: usize) {
        self.frame("out", command, len);
    }

    /// Counts PDUs of one command that go out in one piece of `len` bytes.
    pub fn sent_many(&self, command: u16, count: u64, len: usize) {
        self.frames("out", command, count, len);
    }

    fn frame(&self, direction: &'static str, command: u16, len: usize) {
        self.frames(direction, command, 1, len);
    }

    fn frames(&self, direction: &'static str, command: u16, count: u64, len: usize) {
        let command = Command::try_from(command).map_or("unknown", |command| command.info().name);
        self.frames.get_or_create(&Frame { direction, command }).inc_by(count);
        self.bytes.get_or_create(&Direction { direction }).inc_by(len as u64);
    }

    pub(crate) fn link_up(&self, role: Option<LinkRole>) {
        let peer = Peer { peer: name(role) };
        self.links.get_or_create(&peer).inc();
        self.link_ups.get_or_create(&peer).inc();
    }

    pub(crate) fn link_down(&self, role: Option<LinkRole>, reason: &'static str) {
        let peer = name(role);
        self.links.get_or_create(&Peer { peer }).dec();
        self.link_downs.get_or_create(&Ended { peer, reason }).inc();
    }

    pub(crate) fn dial_failed(&self, role: Option<LinkRole>, reason: &'static str) {
        self.dials_failed.get_or_create(&Ended { peer: name(role), reason }).inc();
    }

    /// Counts a peer that is not admitted; the reasons are constants.
    pub(crate) fn link_refused(&self, why: &'static str) {
        self.links_refused.get_or_create(&Label { kind: why }).inc();
    }

    pub(crate) fn call_ended(&self, outcome: &'static str) {
        self.calls.get_or_create(&Label { kind: outcome }).inc();
    }
}

fn name(role: Option<LinkRole>) -> &'static str {
    role.map_or("unknown", LinkRole::name)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_invent_labels() {
        let metrics = Metrics::new();
        for command in 0..=u16::MAX {
            metrics.received(command, 16);
        }
        let text = metrics.encode();
        let lines = text.lines().filter(|line| line.starts_with("teamtalk_pdus_total")).count();
        assert!(lines <= 120, "{lines} series");
        assert!(text.contains(r#"command="CID_MSG_DATA""#) && text.contains(r#"command="unknown""#), "{text}");
    }
}
