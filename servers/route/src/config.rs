//! The configuration of a route server and the listeners that it asks for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use serde::Deserialize;
use tt_common::bind::{self, BindError};
use tt_common::cluster::ClusterConfig;
use tt_common::config::RoleConfig;

/// All keys of a route server. [`Default`] is the published port, on this machine only.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where msg servers connect.
    pub listen: SocketAddr,
    /// `/metrics` and `/healthz`.
    pub metrics_listen: SocketAddr,
    /// Names this server to its peers, across restarts.
    pub server_id: String,
    /// Users in the presence table at a time; more are not entered.
    pub max_users: usize,
    /// Which servers are believed on the links.
    pub cluster: ClusterConfig,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            listen: local(8200),
            metrics_listen: local(9102),
            server_id: "route-1".to_owned(),
            max_users: 1_000_000,
            cluster: ClusterConfig::default(),
        }
    }
}

impl RoleConfig for Config {
    const ROLE: &'static str = "route";
    const TEMPLATE: &'static str = include_str!("../route.toml");

    fn check(&self) -> Result<(), String> {
        if self.max_users == 0 {
            return Err("max_users must be at least 1".to_owned());
        }
        self.cluster.check()
    }
}

/// The bound listeners of a route server.
#[derive(Debug)]
pub struct Listeners {
    /// See [`Config::listen`].
    pub links: TcpListener,
    /// See [`Config::metrics_listen`].
    pub metrics: TcpListener,
}

impl Config {
    /// Binds both of them, or says which one cannot be.
    pub fn bind(&self) -> Result<Listeners, BindError> {
        Ok(Listeners {
            links: bind::listen(Self::ROLE, "listen", self.listen)?,
            metrics: bind::listen(Self::ROLE, "metrics_listen", self.metrics_listen)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_the_default() {
        let config: Config = tt_common::config::parse("route.toml", Config::TEMPLATE, []).expect("a valid template");
        assert_eq!(config, Config::default());
    }
}
