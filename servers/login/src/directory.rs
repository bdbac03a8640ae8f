//! Which msg servers there are, how loaded each is, and which one the next client should use.

use std::collections::BTreeMap;

use tt_proto::im::server::ImMsgServInfo;

/// A registered msg server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MsgServer {
    /// The address for clients.
    pub(crate) ip1: String,
    /// A second one; the same where there is only one.
    pub(crate) ip2: String,
    /// The port for clients.
    pub(crate) port: u16,
    /// Connections it takes.
    pub(crate) max: u32,
    /// Connections it has.
    pub(crate) current: u32,
}

/// Where a client should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    /// There.
    Server(&'a MsgServer),
    /// Nowhere: no msg server is registered.
    NoServer,
    /// Nowhere: all are full.
    AllFull,
}

/// The registered msg servers by their link.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// Ordered, so that among equally loaded servers the eldest link wins every time.
    servers: BTreeMap<u64, MsgServer>,
}

/// The longest address taken from a msg server: the longest host name.
const MAX_ADDRESS: usize = 253;

impl MsgServer {
    /// None if what was announced is of no use to a client.
    pub(crate) fn from_info(info: ImMsgServInfo) -> Option<Self> {
        let usable = |ip: &str| !ip.is_empty() && ip.len() <= MAX_ADDRESS && !ip.contains(char::is_control);
        let port = u16::try_from(info.port).ok().filter(|port| *port != 0)?;
        let ip2 = if info.ip2.is_empty() { info.ip1.clone() } else { info.ip2 };
        if !usable(&info.ip1) || !usable(&ip2) {
            return None;
        }
        Some(Self { ip1: info.ip1, ip2, port, max: info.max_conn_cnt, current: info.cur_conn_cnt })
    }
}

impl Directory {
    /// Enters the server behind `link`, in the place of what it had announced before.
    pub(crate) fn register(&mut self, link: u64, server: MsgServer) {
        self.servers.insert(link, server);
    }

    /// One connection more or less on the server behind `link`. A count below zero stays zero. False if none
    /// is registered.
    pub(crate) fn count(&mut self, link: u64, up: bool) -> bool {
        let Some(server) = self.servers.get_mut(&link) else { return false };
        server.current = if up { server.current.saturating_add(1) } else { server.current.saturating_sub(1) };
        true
    }

    /// Forgets the server behind `link`.
    pub(crate) fn remove(&mut self, link: u64) -> Option<MsgServer> {
        self.servers.remove(&link)
    }

    /// The least loaded server that is not full.
    pub(crate) fn choose(&self) -> Choice<'_> {
        let free = self.servers.values().filter(|server| server.current < server.max);
        match free.min_by_key(|server| server.current) {
            Some(server) => Choice::Server(server),
            None if self.servers.is_empty() => Choice::NoServer,
            None => Choice::AllFull,
        }
    }

    /// How many servers are registered and how many connections they have together.
    pub(crate) fn totals(&self) -> (usize, u64) {
        (self.servers.len(), self.servers.values().map(|server| u64::from(server.current)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16, current: u32, max: u32) -> MsgServer {
        MsgServer { ip1: "10.0.0.1".into(), ip2: "10.0.0.2".into(), port, max, current }
    }

    fn chosen(directory: &Directory) -> Option<u16> {
        match directory.choose() {
            Choice::Server(server) => Some(server.port),
            Choice::NoServer | Choice::AllFull => None,
        }
    }

    #[test]
    fn the_least_loaded_server_that_is_not_full_is_chosen() {
        let mut directory = Directory::default();
        assert_eq!(directory.choose(), Choice::NoServer);
        directory.register(1, server(1, 0, 0));
        assert_eq!(directory.choose(), Choice::AllFull);
        directory.register(2, server(2, 5, 9));
        directory.register(3, server(3, 5, 9));
        assert_eq!(chosen(&directory), Some(2), "the eldest of equals");
        assert!(directory.count(2, true));
        assert_eq!(chosen(&directory), Some(3));
    }

    #[test]
    fn registering_again_replaces() {
        let mut directory = Directory::default();
        directory.register(1, server(1, 5, 9));
        directory.register(1, server(1, 2, 9));
        assert_eq!(directory.totals(), (1, 2));
        assert!(directory.remove(1).is_some());
        assert_eq!(directory.totals(), (0, 0));
    }

    #[test]
    fn a_count_never_goes_below_zero_nor_wraps_above() {
        let mut directory = Directory::default();
        assert!(!directory.count(1, false), "nobody is registered");
        directory.register(1, server(1, 0, 9));
        directory.count(1, false);
        assert_eq!(directory.totals(), (1, 0));
        directory.register(1, server(1, u32::MAX, 9));
        directory.count(1, true);
        assert_eq!(directory.totals(), (1, u64::from(u32::MAX)));
    }

    #[test]
    fn an_announcement_that_no_client_could_use_is_refused() {
        let good = ImMsgServInfo { ip1: "10.0.0.1".into(), port: 8000, max_conn_cnt: 1, ..ImMsgServInfo::default() };
        assert_eq!(MsgServer::from_info(good.clone()).map(|server| server.ip2), Some("10.0.0.1".into()));
        for bad in [
            ImMsgServInfo { ip1: String::new(), ..good.clone() },
            ImMsgServInfo { ip1: "x".repeat(254), ..good.clone() },
            ImMsgServInfo { ip2: "a\r\nb".into(), ..good.clone() },
            ImMsgServInfo { port: 0, ..good.clone() },
            ImMsgServInfo { port: 65_536, ..good.clone() },
        ] {
            assert_eq!(MsgServer::from_info(bad.clone()), None, "{bad:?}");
        }
    }
}
