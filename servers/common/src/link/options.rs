//! How links behave, and why a PDU does not get onto one.

use std::time::Duration;

use netlib::{ConnOptions, OutputPolicy};

use super::{Identity, LinkRole};
use crate::cluster::Trust;
use crate::metrics::Metrics;

/// How the links of one server behave. The defaults are the protocol's (spec/wire.md §4).
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Who this server says it is.
    pub identity: Identity,
    /// Where links are counted.
    pub metrics: Metrics,
    /// Which peers are believed.
    pub trust: Trust,
    /// Whether to greet. Only a push server of the recorded system must not be greeted: it hangs up.
    pub hello: bool,
    /// How long to wait for the peer's greeting and proof before taking it for one that has none. 2 s.
    pub hello_wait: Duration,
    /// A heartbeat goes out when nothing was sent for so long. 5 s.
    pub heartbeat: Duration,
    /// A peer that says nothing for so long is dead. 30 s.
    pub silence: Duration,
    /// Calls that may wait for an answer at a time on one link; more fail with [`CallError::TooMany`](super::CallError::TooMany).
    pub max_pending: usize,
    /// First and largest wait between two dials, varied by ±20 %.
    pub redial: (Duration, Duration),
    /// How long one dial may take. 10 s.
    pub connect_timeout: Duration,
    /// Bytes that may wait for a peer that does not read; more ends the link. 64 MiB.
    pub output_limit: usize,
    /// Accepted links that may be open at a time.
    pub max_links: usize,
    /// The roles that may dial this server; empty: any. A greeting with another role ends the link.
    pub accepts: &'static [LinkRole],
}

impl LinkOptions {
    /// The protocol's defaults for the links of `identity` with peers that `trust` admits.
    pub fn new(identity: Identity, metrics: Metrics, trust: Trust) -> Self {
        Self {
            identity,
            metrics,
            trust,
            hello: true,
            hello_wait: Duration::from_secs(2),
            heartbeat: Duration::from_secs(5),
            silence: Duration::from_secs(30),
            max_pending: 16_384,
            redial: (Duration::from_secs(4), Duration::from_secs(64)),
            connect_timeout: Duration::from_secs(10),
            output_limit: 64 << 20,
            max_links: 1_024,
            accepts: &[],
        }
    }

    pub(super) fn conn_options(&self) -> ConnOptions {
        ConnOptions {
            high_water: self.output_limit / 4,
            low_water: self.output_limit / 16,
            policy: OutputPolicy::Notify,
            output_limit: self.output_limit,
            // The link's own timer watches for silence: one timer per link end, not two.
            idle_timeout: None,
            ..ConnOptions::default()
        }
    }
}

/// Why a PDU was not queued on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The link is down.
    #[error("the link is down")]
    Down,
    /// The peer does not read and its queue is full.
    #[error("the peer's queue is full")]
    Full,
    /// The PDU is larger than a link carries ([`MAX_ON_LINK`](tt_proto::pdu::MAX_ON_LINK)); the peer would hang up.
    #[error("the PDU is too large for a link")]
    TooLarge,
}
