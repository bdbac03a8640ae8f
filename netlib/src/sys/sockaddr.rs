//! Socket addresses as the kernel writes them (`struct sockaddr_in` and its kin), read and
//! written as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::socket::{Address, UnixAddress};

/// Room for an address of any family (`struct sockaddr_storage`).
#[derive(Clone, Debug)]
#[repr(align(8))]
pub(super) struct Name([u8; Self::ROOM]);

impl Name {
    pub(super) const ROOM: usize = 128;

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// Writes `address` and returns its length. An IPv6 socket is told IPv4 addresses in their
    /// mapped form.
    pub(super) fn write(&mut self, address: &Address, ipv6: bool) -> usize {
        match address {
            Address::Inet(SocketAddr::V4(v4)) if !ipv6 => {
                self.family(libc::AF_INET);
                self.0[2..4].copy_from_slice(&v4.port().to_be_bytes());
                self.0[4..8].copy_from_slice(&v4.ip().octets());
                self.0[8..16].fill(0);
                16
            }
            Address::Inet(SocketAddr::V4(v4)) => {
                self.write_v6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
            }
            Address::Inet(SocketAddr::V6(v6)) => self.write_v6(*v6),
            Address::Unix(unix) => {
                self.family(libc::AF_UNIX);
                match unix {
                    UnixAddress::Unnamed => 2,
                    // A path ends with a zero byte, an abstract name begins with one.
                    UnixAddress::Path(path) => self.write_unix(2, path) + 1,
                    UnixAddress::Abstract(name) => self.write_unix(3, name),
                }
            }
        }
    }

    fn family(&mut self, family: i32) {
        self.0[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    }

    fn write_v6(&mut self, v6: SocketAddrV6) -> usize {
        self.family(libc::AF_INET6);
        self.0[2..4].copy_from_slice(&v6.port().to_be_bytes());
        self.0[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
        self.0[8..24].copy_from_slice(&v6.ip().octets());
        self.0[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
        28
    }

    fn write_unix(&mut self, start: usize, name: &[u8]) -> usize {
        self.0[2..].fill(0);
        // `UnixAddress` lets no longer one come into being.
        let length = name.len().min(UnixAddress::LONGEST);
        self.0[start..][..length].copy_from_slice(&name[..length]);
        start + length
    }

    /// Reads what the kernel wrote. Mapped IPv4 addresses become IPv4 ones; none at all, or one of
    /// a family that no socket of ours has, is [`UnixAddress::Unnamed`].
    pub(super) fn parse(&self, length: usize) -> Address {
        let name = &self.0[..length.min(Self::ROOM)];
        let family = if length < 2 { libc::AF_UNSPEC } else { i32::from(u16::from_ne_bytes([name[0], name[1]])) };
        match family {
            libc::AF_INET if length >= 16 => {
                let port = u16::from_be_bytes([name[2], name[3]]);
                Address::Inet(SocketAddr::from(([name[4], name[5], name[6], name[7]], port)))
            }
            libc::AF_INET6 if length >= 28 => {
                let port = u16::from_be_bytes([name[2], name[3]]);
                let ip = ipv6(&name[8..24]);
                let scope = u32::from_ne_bytes([name[24], name[25], name[26], name[27]]);
                Address::Inet(match canonical(ip) {
                    IpAddr::V4(ip) => SocketAddr::from((ip, port)),
                    IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
                })
            }
            libc::AF_UNIX if length > 2 => Address::Unix(if name[2] == 0 {
                UnixAddress::Abstract(name[3..].into())
            } else {
                let path = name[2..].split(|byte| *byte == 0).next().unwrap_or_default();
                UnixAddress::Path(path.into())
            }),
            _ => Address::Unix(UnixAddress::Unnamed),
        }
    }
}

impl Default for Name {
    fn default() -> Self {
        Self([0; Self::ROOM])
    }
}

/// Sixteen bytes as an address.
pub(super) fn ipv6(bytes: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    Ipv6Addr::from(octets)
}

/// An IPv4 address that a dual-stack socket shows in its mapped form, as what it is.
pub(super) fn canonical(ip: Ipv6Addr) -> IpAddr {
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), |v4: Ipv4Addr| IpAddr::V4(v4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_the_kernels_form() {
        let mut name = Name::default();
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 7);
        for (address, length) in [
            (Address::Inet("192.0.2.1:8900".parse().unwrap()), 16),
            (Address::Inet("[2001:db8::5]:65535".parse().unwrap()), 28),
            (Address::Inet(scoped.into()), 28),
            (Address::Unix(UnixAddress::path("/run/x").unwrap()), 2 + 6 + 1),
            (Address::Unix(UnixAddress::abstract_name(b"a\0b").unwrap()), 2 + 1 + 3),
            (Address::Unix(UnixAddress::Unnamed), 2),
        ] {
            assert_eq!(name.write(&address, false), length, "{address}");
            assert_eq!(name.parse(length), address);
        }
    }

    #[test]
    fn an_ipv6_socket_names_ipv4_addresses_mapped_and_shows_them_plain() {
        let address = Address::Inet("192.0.2.1:8900".parse().unwrap());
        let mut name = Name::default();
        assert_eq!(name.write(&address, true), 28);
        assert_eq!(name.0[18..24], [0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(name.parse(28), address);
    }

    #[test]
    fn the_longest_unix_names_fit() {
        let mut name = Name::default();
        for address in [
            UnixAddress::path("x".repeat(UnixAddress::LONGEST)).unwrap(),
            UnixAddress::abstract_name(&[7; UnixAddress::LONGEST]).unwrap(),
        ] {
            let address = Address::Unix(address);
            let length = name.write(&address, false);
            assert_eq!(length, 110, "all of struct sockaddr_un");
            assert_eq!(name.parse(length), address);
        }
    }

    #[test]
    fn lengths_that_fit_no_address_are_no_address() {
        let mut name = Name::default();
        let address = Address::Inet("192.0.2.1:8900".parse().unwrap());
        name.write(&address, false);
        for length in [0, 1, 2, 15] {
            assert_eq!(name.parse(length), Address::Unix(UnixAddress::Unnamed));
        }
        assert_eq!(name.parse(usize::MAX), address, "never beyond the room");
    }
}
