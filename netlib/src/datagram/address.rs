//! Where a datagram comes from or goes to: an internet address and port, or the name of a Unix
//! socket.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The address of a datagram socket.
///
/// ```
/// use netlib::datagram::{Address, UnixAddress};
///
/// let inet = Address::from("192.0.2.1:8900".parse::<std::net::SocketAddr>().unwrap());
/// assert_eq!(inet.to_string(), "192.0.2.1:8900");
/// let unix = Address::Unix(UnixAddress::path("/run/media.sock")?);
/// assert_eq!(unix.to_string(), "/run/media.sock");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// UDP over IPv4 or IPv6. IPv4 peers of a dual-stack socket appear as IPv4.
    Inet(SocketAddr),
    /// A Unix datagram socket.
    Unix(UnixAddress),
}

impl Address {
    /// The internet address, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) => None,
        }
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

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(address) => address.fmt(f),
        }
    }
}

/// The name of a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnixAddress {
    /// None: nobody can send to it by name.
    #[default]
    Unnamed,
    /// A path in the file system, without a zero byte.
    Path(Arc<[u8]>),
    /// A name of its own kind, known while the socket lives. Linux only.
    Abstract(Arc<[u8]>),
}

impl UnixAddress {
    /// Most bytes of a path or an abstract name.
    pub const LONGEST: usize = 107;

    /// The socket at `path`. Fails with `InvalidInput` for one that is empty, longer than
    /// [`LONGEST`](Self::LONGEST), or has a zero byte in it.
    pub fn path(path: impl AsRef<Path>) -> io::Result<Self> {
        let bytes = path.as_ref().as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() > Self::LONGEST || bytes.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path that a Unix socket can have"));
        }
        Ok(Self::Path(bytes.into()))
    }

    /// The socket of that abstract name, which may hold any byte. Fails with `InvalidInput` for
    /// one that is longer than [`LONGEST`](Self::LONGEST).
    pub fn abstract_name(name: &[u8]) -> io::Result<Self> {
        if name.len() > Self::LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too long for an abstract name"));
        }
        Ok(Self::Abstract(name.into()))
    }

    /// The path, if it is one.
    pub fn as_path(&self) -> Option<PathBuf> {
        match self {
            Self::Path(bytes) => {
                Some(OsStringExt::from_vec(bytes.to_vec())).map(|name: std::ffi::OsString| name.into())
            }
            Self::Unnamed | Self::Abstract(_) => None,
        }
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
