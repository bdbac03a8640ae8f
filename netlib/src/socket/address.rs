//! Where a stream socket listens or connects to: an internet address and port, or the name of a
//! Unix socket. What has a host's name instead is a [`Target`](crate::Target).

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::{fmt, io};

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

/// What a Unix address begins with in text.
const UNIX: &str = "unix:";

/// The address of a socket.
///
/// In text: `127.0.0.1:80`, `[::1]:80`, `unix:/run/im.sock`, and `unix:@name` for an abstract name.
///
/// ```
/// use netlib::socket::Address;
///
/// let inet: Address = "[::1]:8000".parse()?;
/// assert_eq!(inet.port(), Some(8000));
/// let unix: Address = "unix:/run/im.sock".parse()?;
/// assert_eq!(unix.to_string(), "unix:/run/im.sock");
/// assert_eq!(unix.ip(), None);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A socket of this machine.
    Unix(UnixAddress),
}

// Each idle connection keeps one: the tag of a Unix address fits beside that of a SocketAddr.
const _: () = assert!(size_of::<Address>() == 32 && size_of::<Option<Address>>() == 32);

impl Address {
    /// 0.0.0.0:0, which stands for "not known".
    pub const UNSPECIFIED: Self = Self::Inet(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));

    /// The internet address, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The internet address without the port.
    pub fn ip(&self) -> Option<IpAddr> {
        self.inet().map(|address| address.ip())
    }

    /// The port of an internet address.
    pub fn port(&self) -> Option<u16> {
        self.inet().map(|address| address.port())
    }

    pub(crate) fn from_kernel(address: SocketAddrAny) -> io::Result<Self> {
        if address.address_family() != AddressFamily::UNIX {
            return Ok(Self::Inet(address.try_into()?));
        }
        let unix = SocketAddrUnix::try_from(address)?;
        Ok(Self::Unix(match (unix.path_bytes(), unix.abstract_name()) {
            (Some(path), _) => UnixAddress::Path(path.strip_suffix(b"\0").unwrap_or(path).into()),
            (None, Some(name)) => UnixAddress::Abstract(name.into()),
            (None, None) => UnixAddress::Unnamed,
        }))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl From<UnixAddress> for Address {
    fn from(address: UnixAddress) -> Self {
        Self::Unix(address)
    }
}

impl PartialEq<SocketAddr> for Address {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.inet() == Some(*other)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(address) => write!(f, "{UNIX}{address}"),
        }
    }
}

/// Fails with `InvalidInput`. Names of hosts are no addresses.
impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let Some(unix) = text.strip_prefix(UNIX) else {
            let address = text.parse::<SocketAddr>();
            return address.map(Self::Inet).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
        };
        match unix.strip_prefix('@') {
            Some(name) => UnixAddress::abstract_name(name.as_bytes()).map(Self::Unix),
            None => UnixAddress::path(unix).map(Self::Unix),
        }
    }
}

/// For the blocking sockets of the standard library; a Unix address is `Unsupported` there.
impl ToSocketAddrs for Address {
    type Iter = std::option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        match self {
            Self::Inet(address) => Ok(Some(*address).into_iter()),
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// The name of a Unix socket.
///
/// ```
/// use netlib::socket::UnixAddress;
///
/// assert_eq!(UnixAddress::path("/run/im.sock")?.to_string(), "/run/im.sock");
/// assert!(UnixAddress::path("a".repeat(200)).is_err()); // the kernel has room for 107 bytes
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnixAddress {
    /// None, as that of most clients.
    #[default]
    Unnamed,
    /// A path in the file system.
    Path(Arc<[u8]>),
    /// A name outside of it, known while the socket lives. Linux only.
    Abstract(Arc<[u8]>),
}

impl UnixAddress {
    /// Most bytes of a path or an abstract name.
    pub const LONGEST: usize = 107;

    /// The socket at `path`. `InvalidInput` for one that is empty, longer than
    /// [`LONGEST`](Self::LONGEST), or has a zero byte in it.
    ///
    /// # Errors
    ///
    /// `InvalidInput`.
    pub fn path(path: impl AsRef<Path>) -> io::Result<Self> {
        let bytes = path.as_ref().as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > Self::LONGEST || bytes.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a Unix socket cannot have that path"));
        }
        Ok(Self::Path(bytes.into()))
    }

    /// The socket of that abstract name. `InvalidInput` for one that is empty (the kernel would
    /// choose a name) or longer than [`LONGEST`](Self::LONGEST).
    ///
    /// # Errors
    ///
    /// `InvalidInput`.
    pub fn abstract_name(name: &[u8]) -> io::Result<Self> {
        if name.is_empty() || name.len() > Self::LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a Unix socket cannot have that abstract name"));
        }
        Ok(Self::Abstract(name.into()))
    }

    /// The path, if it is one.
    pub fn as_path(&self) -> Option<PathBuf> {
        match self {
            Self::Path(bytes) => Some(OsStr::from_bytes(bytes).into()),
            Self::Unnamed | Self::Abstract(_) => None,
        }
    }

    pub(crate) fn to_kernel(&self) -> io::Result<SocketAddrUnix> {
        Ok(match self {
            Self::Unnamed => return Err(io::Error::new(io::ErrorKind::InvalidInput, "an unnamed Unix socket")),
            Self::Path(bytes) => SocketAddrUnix::new(&**bytes)?,
            Self::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
        })
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed => f.write_str("(unnamed)"),
            Self::Path(bytes) => Path::new(OsStr::from_bytes(bytes)).display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_from_its_text() {
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%3]:80", "unix:/tmp/a b.sock", "unix:relative", "unix:@name"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "localhost:80", "127.0.0.1", "unix:", "unix:@", "unix:/a\0b"] {
            assert_eq!(text.parse::<Address>().unwrap_err().kind(), io::ErrorKind::InvalidInput, "{text:?}");
        }
    }
}
