//! The configuration of a msg server and its listeners.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use serde::Deserialize;
use tt_common::bind::{self, BindError};
use tt_common::cluster::ClusterConfig;
use tt_common::config::RoleConfig;

use crate::Class;

/// The configuration of a msg server.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names the server in logs and to its peers.
    pub server_id: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What clients are told to connect to.
    pub advertise: Advertise,
    /// Clients that may be signed in at a time.
    pub max_connections: usize,
    /// The login servers' ports for msg servers.
    pub login_servers: Vec<SocketAddr>,
    /// The route servers.
    pub route_servers: Vec<SocketAddr>,
    /// The db-proxies.
    pub db_proxies: Vec<SocketAddr>,
    /// Connections to each db-proxy.
    pub db_links: usize,
    /// Where /metrics and /healthz are served.
    pub metrics_listen: SocketAddr,
    /// What one client may cost.
    pub limits: Limits,
    /// Times, in milliseconds.
    pub timeouts: Timeouts,
    /// Which servers are believed on the links.
    pub cluster: ClusterConfig,
}

/// The address that login servers hand to clients.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Advertise {
    /// First address.
    pub ip1: String,
    /// Second address; empty: the first.
    pub ip2: String,
    /// Port; 0: the one that is listened on.
    pub port: u16,
}

impl Advertise {
    pub(crate) fn second(&self) -> &str {
        if self.ip2.is_empty() { &self.ip1 } else { &self.ip2 }
    }
}

/// What one client may cost.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Chat messages a second; over it the connection is not read for a while. What is longer than a
    /// text may be counts as one for each 8 KiB begun.
    pub messages_per_second: u32,
    /// Chat messages at once.
    pub messages_burst: u32,
    /// Other requests a second; receipts of messages are free.
    pub requests_per_second: u32,
    /// Other requests at once.
    pub requests_burst: u32,
    /// Signals to other clients a second, such as "is typing".
    pub signals_per_second: u32,
    /// Such signals at once.
    pub signals_burst: u32,
    /// Connections of one address, signed in or not; more are closed at once.
    pub address_connections: usize,
    /// Sign-ins from one address a second; more are refused before the password is looked at.
    pub address_sign_ins_per_second: u32,
    /// Sign-ins from one address at once.
    pub address_sign_ins_burst: u32,
    /// Sign-ins of one user in a minute, with the right password; more are refused.
    pub user_sign_ins_per_minute: u32,
    /// New signature lines and pictures of one user in a minute, of which everybody is told; more are refused.
    pub card_changes_per_minute: u32,
    /// Bytes that may wait for a client that does not read; more closes it.
    pub output_bytes: usize,
    /// Users of whose presence one client may be told at a time (capability 11).
    pub watched_users: usize,
}

/// Times, in milliseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From the connect to the finished sign-in.
    pub login_ms: u64,
    /// A PC client that says nothing for so long is gone.
    pub idle_pc_ms: u64,
    /// The same for a phone.
    pub idle_mobile_ms: u64,
    /// How long a kicked client may stay.
    pub kick_grace_ms: u64,
    /// How long another server may take to answer.
    pub call_ms: u64,
    /// How long changes of presence are gathered into one write to a client.
    pub presence_ms: u64,
    /// How long stopping may take.
    pub drain_ms: u64,
}

impl Timeouts {
    pub(crate) fn login(&self) -> Duration {
        Duration::from_millis(self.login_ms)
    }

    pub(crate) fn idle(&self, class: Class) -> Duration {
        Duration::from_millis(match class {
            Class::Pc => self.idle_pc_ms,
            Class::Mobile => self.idle_mobile_ms,
        })
    }

    pub(crate) fn kick_grace(&self) -> Duration {
        Duration::from_millis(self.kick_grace_ms)
    }

    pub(crate) fn call(&self) -> Duration {
        Duration::from_millis(self.call_ms)
    }

    pub(crate) fn presence(&self) -> Duration {
        Duration::from_millis(self.presence_ms)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server_id: "msg-1".to_owned(),
            listen: loopback(8000),
            advertise: Advertise::default(),
            max_connections: 100_000,
            login_servers: vec![loopback(8100)],
            route_servers: vec![loopback(8200)],
            db_proxies: vec![loopback(10600)],
            db_links: 2,
            metrics_listen: loopback(9101),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            cluster: ClusterConfig::default(),
        }
    }
}

impl Default for Advertise {
    fn default() -> Self {
        Self { ip1: "127.0.0.1".to_owned(), ip2: String::new(), port: 0 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_second: 500,
            messages_burst: 1_000,
            requests_per_second: 500,
            requests_burst: 1_000,
            signals_per_second: 10,
            signals_burst: 20,
            address_connections: 10_000,
            address_sign_ins_per_second: 200,
            address_sign_ins_burst: 2_000,
            user_sign_ins_per_minute: 120,
            card_changes_per_minute: 10,
            output_bytes: 4 << 20,
            watched_users: 5_000,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            login_ms: 15_000,
            idle_pc_ms: 120_000,
            idle_mobile_ms: 300_000,
            kick_grace_ms: 3_000,
            call_ms: 10_000,
            presence_ms: 1_000,
            drain_ms: 10_000,
        }
    }
}

/// No time here is meant to be longer than a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl RoleConfig for Config {
    const ROLE: &'static str = "msg";

    const TEMPLATE: &'static str = include_str!("../msg.toml");

    fn check(&self) -> Result<(), String> {
        for (key, address) in [("advertise.ip1", &*self.advertise.ip1), ("advertise.ip2", self.advertise.second())] {
            let nowhere = address.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
            if nowhere || address.trim().is_empty() {
                return Err(format!("`{key}` is {address:?}: clients need an address they can connect to"));
            }
        }
        for (key, empty) in [
            ("login_servers", self.login_servers.is_empty()),
            ("route_servers", self.route_servers.is_empty()),
            ("db_proxies", self.db_proxies.is_empty()),
        ] {
            if empty {
                return Err(format!("`{key}` is empty: nobody could sign in"));
            }
        }
        let limits = &self.limits;
        for (key, zero) in [
            ("db_links", self.db_links == 0),
            ("max_connections", self.max_connections == 0),
            ("limits.messages_per_second", limits.messages_per_second == 0),
            ("limits.messages_burst", limits.messages_burst == 0),
            ("limits.requests_per_second", limits.requests_per_second == 0),
            ("limits.requests_burst", limits.requests_burst == 0),
            ("limits.signals_per_second", limits.signals_per_second == 0),
            ("limits.signals_burst", limits.signals_burst == 0),
            ("limits.address_connections", limits.address_connections == 0),
            ("limits.address_sign_ins_per_second", limits.address_sign_ins_per_second == 0),
            ("limits.address_sign_ins_burst", limits.address_sign_ins_burst == 0),
            ("limits.user_sign_ins_per_minute", limits.user_sign_ins_per_minute == 0),
            ("limits.card_changes_per_minute", limits.card_changes_per_minute == 0),
            ("limits.output_bytes", limits.output_bytes == 0),
            ("limits.watched_users", limits.watched_users == 0),
        ] {
            if zero {
                return Err(format!("`{key}` must not be 0"));
            }
        }
        let timeouts = &self.timeouts;
        for (key, value) in [
            ("login_ms", timeouts.login_ms),
            ("idle_pc_ms", timeouts.idle_pc_ms),
            ("idle_mobile_ms", timeouts.idle_mobile_ms),
            ("kick_grace_ms", timeouts.kick_grace_ms),
            ("call_ms", timeouts.call_ms),
            ("presence_ms", timeouts.presence_ms),
            ("drain_ms", timeouts.drain_ms),
        ] {
            if !(1..=DAY_MS).contains(&value) {
                return Err(format!("`timeouts.{key}` is {value}: 1 to {DAY_MS} make sense"));
            }
        }
        self.cluster.check()
    }
}

/// The bound sockets of a msg server.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub clients: TcpListener,
    /// For /metrics and /healthz.
    pub metrics: TcpListener,
}

impl Config {
    /// Binds the listeners.
    pub fn bind(&self) -> Result<Listeners, BindError> {
        Ok(Listeners {
            clients: bind::listen("msg", "listen", self.listen)?,
            metrics: bind::listen("msg", "metrics_listen", self.metrics_listen)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use tt_common::config::parse;

    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        parse("msg.toml", text, []).map_err(|error| error.to_string())
    }

    #[test]
    fn the_template_is_the_default() {
        assert_eq!(read(Config::TEMPLATE), Ok(Config::default()));
    }

    #[test]
    fn an_address_that_clients_cannot_use_is_refused() {
        for ip in ["0.0.0.0", "::", ""] {
            let error = read(&format!("[advertise]\nip1 = {ip:?}")).expect_err(ip);
            assert!(error.contains("advertise.ip1"), "{error}");
        }
        assert!(read("[advertise]\nip2 = '0.0.0.0'").is_err());
        assert!(read("[advertise]\nip1 = 'chat.example.org'").is_ok());
    }

    #[test]
    fn what_would_stop_the_server_from_serving_is_refused() {
        for (text, key) in [
            ("db_proxies = []", "db_proxies"),
            ("db_links = 0", "db_links"),
            ("[limits]\nmessages_per_second = 0", "limits.messages_per_second"),
            ("[timeouts]\nlogin_ms = 0", "timeouts.login_ms"),
            ("[timeouts]\ncall_ms = 9223372036854775807", "timeouts.call_ms"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(key), "{error}");
        }
    }
}
