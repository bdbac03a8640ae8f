//! The configuration of a login server and the listeners that it asks for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use serde::Deserialize;
use tt_common::bind::{self, BindError};
use tt_common::cluster::ClusterConfig;
use tt_common::config::RoleConfig;

/// All keys of a login server. [`Default`] is the published set of ports, on this machine only.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients ask over HTTP.
    pub http_listen: SocketAddr,
    /// Where clients ask with a PDU.
    pub client_listen: SocketAddr,
    /// Where msg servers register.
    pub msg_listen: SocketAddr,
    /// `/metrics` and `/healthz`.
    pub metrics_listen: SocketAddr,
    /// Names this server to its peers, across restarts.
    pub server_id: String,
    /// Handed to clients as the place of pictures and voice; with its trailing slash.
    pub msfs: String,
    /// Handed to clients as the place of the discovery list.
    pub discovery: String,
    /// Client connections at a time on each of the two client ports; more are closed at once.
    pub max_clients: usize,
    /// Of those, connections of one address; more are closed at once.
    pub max_clients_per_address: usize,
    /// Which servers are believed on the links.
    pub cluster: ClusterConfig,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            http_listen: local(8080),
            client_listen: local(8008),
            msg_listen: local(8100),
            metrics_listen: local(9100),
            server_id: "login-1".to_owned(),
            msfs: "http://127.0.0.1:8700/".to_owned(),
            discovery: "http://127.0.0.1/api/discovery".to_owned(),
            max_clients: 10_000,
            max_clients_per_address: 2_000,
            cluster: ClusterConfig::default(),
        }
    }
}

impl RoleConfig for Config {
    const ROLE: &'static str = "login";
    const TEMPLATE: &'static str = include_str!("../login.toml");

    fn check(&self) -> Result<(), String> {
        if self.max_clients == 0 {
            return Err("max_clients must be at least 1".to_owned());
        }
        if self.max_clients_per_address == 0 {
            return Err("max_clients_per_address must be at least 1".to_owned());
        }
        self.cluster.check()
    }
}

/// The bound listeners of a login server.
#[derive(Debug)]
pub struct Listeners {
    /// See [`Config::http_listen`].
    pub http: TcpListener,
    /// See [`Config::client_listen`].
    pub clients: TcpListener,
    /// See [`Config::msg_listen`].
    pub msg: TcpListener,
    /// See [`Config::metrics_listen`].
    pub metrics: TcpListener,
}

impl Config {
    /// Binds all of them, or says which one cannot be.
    pub fn bind(&self) -> Result<Listeners, BindError> {
        Ok(Listeners {
            http: bind::listen(Self::ROLE, "http_listen", self.http_listen)?,
            clients: bind::listen(Self::ROLE, "client_listen", self.client_listen)?,
            msg: bind::listen(Self::ROLE, "msg_listen", self.msg_listen)?,
            metrics: bind::listen(Self::ROLE, "metrics_listen", self.metrics_listen)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_the_default() {
        let config: Config = tt_common::config::parse("login.toml", Config::TEMPLATE, []).expect("a valid template");
        assert_eq!(config, Config::default());
    }
}
