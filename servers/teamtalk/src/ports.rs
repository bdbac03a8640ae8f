//! Where every listener of `teamtalk dev` is: one table, which `docs/ports.md` repeats for people
//! (a test holds the two together). An offset, once given out, belongs to its listener for good:
//! scripts and firewalls count on it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Who connects to a listener, and so which address it binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Clients: the address of `--host`.
    Clients,
    /// Other servers, and what reads metrics: always loopback in `teamtalk dev`.
    Servers,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Port {
    /// Its name in the ready file.
    pub(crate) listener: &'static str,
    /// The role that listens.
    pub(crate) role: &'static str,
    /// What for.
    pub(crate) purpose: &'static str,
    pub(crate) audience: Audience,
    /// The port without `--port-base`: the protocol's own where it has one (spec/config.md §11).
    pub(crate) published: u16,
    /// What `--port-base` adds to its number. Never given to another listener.
    pub(crate) offset: u16,
}

use Audience::{Clients, Servers};

pub(crate) const LOGIN_HTTP: Port = port("login_http", "login", "HTTP: which msg server?", Clients, 8080, 0);
pub(crate) const LOGIN_PDU: Port = port("login_pdu", "login", "PDU: which msg server?", Clients, 8008, 1);
pub(crate) const LOGIN_MSG: Port = port("login_msg", "login", "links from msg servers", Servers, 8100, 2);
pub(crate) const MSG: Port = port("msg", "msg", "clients", Clients, 8000, 3);
pub(crate) const ROUTE: Port = port("route", "route", "links from msg servers", Servers, 8200, 4);
pub(crate) const DB_PROXY: Port = port("db_proxy", "db-proxy", "links from msg servers", Servers, 10600, 5);
// The metrics ports keep their own range, so that new roles do not mix with them.
pub(crate) const METRICS_LOGIN: Port = port("metrics_login", "login", "/metrics, /healthz", Servers, 9100, 50);
pub(crate) const METRICS_MSG: Port = port("metrics_msg", "msg", "/metrics, /healthz", Servers, 9101, 51);
pub(crate) const METRICS_ROUTE: Port = port("metrics_route", "route", "/metrics, /healthz", Servers, 9102, 52);
pub(crate) const METRICS_DB_PROXY: Port = port("metrics_db_proxy", "db-proxy", "/metrics, /healthz", Servers, 9103, 53);

/// The whole table, in the order of the offsets.
pub(crate) const PORTS: &[&Port] = &[
    &LOGIN_HTTP,
    &LOGIN_PDU,
    &LOGIN_MSG,
    &MSG,
    &ROUTE,
    &DB_PROXY,
    &METRICS_LOGIN,
    &METRICS_MSG,
    &METRICS_ROUTE,
    &METRICS_DB_PROXY,
];

/// The largest `--port-base` that leaves room for every offset.
pub(crate) const MAX_BASE: u16 = u16::MAX - METRICS_DB_PROXY.offset;

const fn port(
    listener: &'static str,
    role: &'static str,
    purpose: &'static str,
    audience: Audience,
    published: u16,
    offset: u16,
) -> Port {
    Port { listener, role, purpose, audience, published, offset }
}

impl Port {
    /// Where this listener binds, given what `--host` and `--port-base` say.
    pub(crate) fn address(&self, host: IpAddr, base: Option<u16>) -> SocketAddr {
        let ip = match self.audience {
            Clients => host,
            Servers => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let number = match base {
            None => self.published,
            Some(0) => 0, // any free port
            Some(base) => base + self.offset,
        };
        SocketAddr::new(ip, number)
    }
}

/// Where a listener really is, among all that were bound.
pub(crate) fn address_of(listeners: &[(&'static str, SocketAddr)], port: &Port) -> SocketAddr {
    let found = listeners.iter().find(|(name, _)| *name == port.listener);
    found.expect("every listener of the table is bound").1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_listeners_share_an_offset_a_port_or_a_name() {
        let count = |key: fn(&Port) -> String| PORTS.iter().map(|port| key(port)).collect::<HashSet<_>>().len();
        assert_eq!(count(|port| port.offset.to_string()), PORTS.len());
        assert_eq!(count(|port| port.published.to_string()), PORTS.len());
        assert_eq!(count(|port| port.listener.to_owned()), PORTS.len());
    }

    #[test]
    fn the_table_in_the_docs_is_this_table() {
        let page = include_str!("../../../docs/ports.md");
        let rows: Vec<String> = page.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
        let expected: Vec<String> = PORTS
            .iter()
            .map(|port| {
                let address = match port.audience {
                    Clients => "`--host`",
                    Servers => "127.0.0.1",
                };
                format!(
                    "| `{}` | {} | {} | {address} | {} | {} |",
                    port.listener, port.role, port.purpose, port.published, port.offset
                )
            })
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_port_base_moves_every_port_and_the_host_only_the_clients_ports() {
        let host: IpAddr = "192.0.2.7".parse().expect("an address");
        assert_eq!(MSG.address(host, None).to_string(), "192.0.2.7:8000");
        assert_eq!(MSG.address(host, Some(20_000)).to_string(), "192.0.2.7:20003");
        assert_eq!(DB_PROXY.address(host, Some(20_000)).to_string(), "127.0.0.1:20005");
        assert_eq!(METRICS_MSG.address(host, Some(0)).to_string(), "127.0.0.1:0");
        assert_eq!(METRICS_DB_PROXY.address(host, Some(MAX_BASE)).port(), u16::MAX);
    }
}
