//! The one address a person has to know: the login server's, as `http://host:port`. Everything
//! else is found from there.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::Error;

/// The login server's address, resolved once, so that the event loop never waits for a name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    host: String,
    addrs: Vec<SocketAddr>,
}

impl ServerUrl {
    /// Where the demonstration system of `teamtalk dev` listens.
    pub const DEFAULT: &str = "http://127.0.0.1:8080";

    /// This server with further addresses, tried after those it has.
    pub fn or_at(mut self, more: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.addrs.extend(more);
        self
    }

    /// The host and port as they go into the `Host` header.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The resolved addresses, at least one, in the order in which to try them. A name may have some
    /// that nobody serves: `localhost` often is `::1` first.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }
}

impl From<SocketAddr> for ServerUrl {
    fn from(addr: SocketAddr) -> Self {
        Self { host: addr.to_string(), addrs: vec![addr] }
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.host)
    }
}

impl FromStr for ServerUrl {
    type Err = Error;

    /// Reads `http://host[:port][/]` and looks the host up. The port is 8080 when it is missing:
    /// that is the protocol's published one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything else, [`Error::Unreachable`] for a name nobody knows.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid =
            |why: &str| Error::Invalid(format!("{text:?} is no server address: {why} (expected http://host:port)"));
        let rest = text.strip_prefix("http://").ok_or_else(|| invalid("it does not begin with http://"))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(invalid("only a host and a port may follow http://"));
        }
        let has_port = authority.rfind(':').is_some_and(|colon| !authority[colon..].contains(']'));
        let host = if has_port { authority.to_owned() } else { format!("{authority}:8080") };
        if host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(invalid("the port is not a number from 0 to 65535"));
        }
        let found = host.to_socket_addrs().map_err(|error| Error::Unreachable {
            what: format!("cannot find the host of {text}: {error}; check the name and this machine's network"),
        })?;
        let mut addrs: Vec<SocketAddr> = found.collect();
        addrs.dedup();
        if addrs.is_empty() {
            return Err(invalid("the name has no address"));
        }
        Ok(Self { host, addrs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_taken_and_the_port_may_be_missing() {
        let url: ServerUrl = "http://127.0.0.1:9000/".parse().unwrap();
        assert_eq!((url.host(), url.addrs()), ("127.0.0.1:9000", &["127.0.0.1:9000".parse().unwrap()][..]));
        let url: ServerUrl = "http://127.0.0.1".parse().unwrap();
        assert_eq!(url.addrs()[0].port(), 8080);
        let url: ServerUrl = "http://[::1]".parse().unwrap();
        assert_eq!(url.addrs(), ["[::1]:8080".parse().unwrap()]);
        assert_eq!(url.to_string(), "http://[::1]:8080");
    }

    #[test]
    fn anything_else_is_refused_with_the_expected_form() {
        for text in [
            "",
            "127.0.0.1:8080",
            "https://127.0.0.1",
            "http://",
            "http://a b",
            "http://127.0.0.1:x",
            "http://127.0.0.1:1/p",
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(matches!(&error, Error::Invalid(why) if why.contains("http://host:port")), "{text}: {error}");
        }
    }
}
