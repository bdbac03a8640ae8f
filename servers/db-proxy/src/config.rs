//! The configuration of a db-proxy and its listeners.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tt_common::bind::{self, BindError};
use tt_common::cluster::ClusterConfig;
use tt_common::config::RoleConfig;

use crate::quiet_hours::QuietHours;
use crate::store::GroupLimits;

/// The configuration of a db-proxy.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names the server in logs and to its peers.
    pub server_id: String,
    /// Where msg servers connect.
    pub listen: SocketAddr,
    /// Where /metrics and /healthz are served.
    pub metrics_listen: SocketAddr,
    /// The data directory of the embedded store. It must exist.
    pub data: PathBuf,
    /// Whether to wait while another db-proxy uses the data directory, and to serve when that one ends.
    pub standby: bool,
    /// Threads that read. One more writes.
    pub workers: usize,
    /// When pushes are held back from users who want none at night, in local time.
    pub quiet_hours: QuietHours,
    /// What may wait.
    pub limits: Limits,
    /// Times, in milliseconds.
    pub timeouts: Timeouts,
    /// Which servers are believed on the links.
    pub cluster: ClusterConfig,
}

/// What may wait.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Messages and read marks that are not on disk yet; more are refused as overload.
    pub writes: usize,
    /// Bytes of such messages, which voice may be full of; more are refused as overload.
    pub write_bytes: usize,
    /// Queries without an answer yet; more get none.
    pub reads: usize,
    /// Members of one transaction.
    pub batch: usize,
    /// Members of one group.
    pub group_members: u32,
    /// Groups that one user may make.
    pub groups_per_user: u32,
}

/// Times, in milliseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// A request that has waited for so long is given up before it costs the store anything.
    pub request_ms: u64,
    /// How long stopping may take.
    pub drain_ms: u64,
}

/// A card lists all members, five bytes and a tag for each; a notice lists them twice.
const MAX_GROUP_MEMBERS: u32 = 20_000;

impl Limits {
    pub(crate) fn groups(&self) -> GroupLimits {
        GroupLimits { members: self.group_members, created: self.groups_per_user }
    }
}

impl Timeouts {
    pub(crate) fn request(&self) -> Duration {
        Duration::from_millis(self.request_ms)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_id: "db-proxy-1".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 10600)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 9103)),
            data: PathBuf::from("teamtalk-data"),
            standby: false,
            workers: 4,
            quiet_hours: QuietHours::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            cluster: ClusterConfig::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            writes: 16_384,
            write_bytes: 64 << 20,
            reads: 16_384,
            batch: 1_024,
            group_members: 5_000,
            groups_per_user: 1_000,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request_ms: 3_000, drain_ms: 4_000 }
    }
}

impl RoleConfig for Config {
    const ROLE: &'static str = "db-proxy";

    const TEMPLATE: &'static str = include_str!("../db-proxy.toml");

    fn check(&self) -> Result<(), String> {
        for (key, zero) in [
            ("workers", self.workers == 0),
            ("limits.writes", self.limits.writes == 0),
            ("limits.write_bytes", self.limits.write_bytes == 0),
            ("limits.reads", self.limits.reads == 0),
            ("limits.batch", self.limits.batch == 0),
            ("limits.group_members", self.limits.group_members == 0),
            ("limits.groups_per_user", self.limits.groups_per_user == 0),
            ("timeouts.request_ms", self.timeouts.request_ms == 0),
        ] {
            if zero {
                return Err(format!("`{key}` must not be 0"));
            }
        }
        for (key, hour) in [("from", self.quiet_hours.from), ("to", self.quiet_hours.to)] {
            if hour > 23 {
                return Err(format!("`quiet_hours.{key}` is {hour}: an hour of the day is 0 to 23"));
            }
        }
        if self.limits.group_members > MAX_GROUP_MEMBERS {
            return Err(format!(
                "`limits.group_members` is at most {MAX_GROUP_MEMBERS}, or a group's card does not fit what clients take"
            ));
        }
        self.cluster.check()
    }
}

/// The bound sockets of a db-proxy.
#[derive(Debug)]
pub struct Listeners {
    /// For the links of msg servers.
    pub links: TcpListener,
    /// For /metrics and /healthz.
    pub metrics: TcpListener,
}

impl Config {
    /// Binds the listeners.
    pub fn bind(&self) -> Result<Listeners, BindError> {
        Ok(Listeners {
            links: bind::listen("db-proxy", "listen", self.listen)?,
            metrics: bind::listen("db-proxy", "metrics_listen", self.metrics_listen)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use tt_common::config::parse;

    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        parse("db-proxy.toml", text, []).map_err(|error| error.to_string())
    }

    #[test]
    fn the_template_is_the_default() {
        assert_eq!(read(Config::TEMPLATE), Ok(Config::default()));
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        for (text, key) in [("workers = 0", "workers"), ("[limits]\nbatch = 0", "limits.batch")] {
            let error = read(text).expect_err(text);
            assert!(error.contains(key), "{error}");
        }
    }
}
