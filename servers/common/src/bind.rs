//! Binding listeners before anything runs, with an error that says what to do about it.

use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that the kernel holds for a listener that is busy.
const BACKLOG: i32 = 1024;

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{role}: cannot listen on {addr}: {source}{}", hint(*.addr, .option, .source))]
pub struct BindError {
    /// The role that wanted it.
    pub role: &'static str,
    /// The configuration key that moves it.
    pub option: &'static str,
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

fn hint(addr: SocketAddr, option: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(" (port {} is taken: choose another with `{option}` or --port-base)", addr.port())
        }
        io::ErrorKind::PermissionDenied => format!(" (ports below 1024 need privileges: set `{option}`)"),
        io::ErrorKind::AddrNotAvailable => format!(" (not an address of this machine: set `{option}` or --host)"),
        _ => format!(" (set `{option}`)"),
    }
}

/// Binds and listens. `option` is the configuration key that the address comes from.
pub fn listen(role: &'static str, option: &'static str, addr: SocketAddr) -> Result<TcpListener, BindError> {
    netlib::socket::bind_tcp(addr, BACKLOG).map_err(|source| BindError { role, option, addr, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_role_and_option() {
        let taken = listen("route", "listen", SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let addr = taken.local_addr().expect("bound");
        let line = listen("route", "listen", addr).expect_err("taken").to_string();
        for part in ["route", &addr.port().to_string(), "`listen`", "--port-base"] {
            assert!(line.contains(part), "{part} is missing in: {line}");
        }
        assert!(!line.contains('\n'));
    }
}
