//! Sockets that listen: TCP over IPv4, IPv6 and both at once, and Unix stream sockets with their
//! files in the file system. Which connections are accepted and when is in `listener.rs`.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, listen, socket_with, sockopt};

use super::{Address, FLAGS, SocketOptions, UnixAddress};

/// How a listening socket is opened.
///
/// ```
/// use netlib::socket::{BindOptions, ListeningSocket};
///
/// // Two sockets on one port: the kernel spreads connections over them.
/// let shared = BindOptions { reuse_port: true, ..BindOptions::default() };
/// let first = ListeningSocket::bind(&"127.0.0.1:0".parse()?, &shared)?;
/// let second = ListeningSocket::bind(&first.local_addr()?, &shared)?;
/// assert_eq!(first.local_addr()?, second.local_addr()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindOptions {
    /// Connections that the kernel may hold until they are accepted; it caps the number at
    /// `net.core.somaxconn`.
    pub backlog: i32,
    /// Let other sockets that ask for it too listen on the same port (SO_REUSEPORT): each takes a
    /// part of the connections. TCP only.
    pub reuse_port: bool,
    /// On an IPv6 address, no IPv4. Without it, the wildcard address accepts both.
    pub ipv6_only: bool,
    /// The permissions of a Unix socket's file, such as 0o600; None leaves them to the umask. Who may
    /// write to the file may connect.
    pub unix_mode: Option<u32>,
    /// For the connections. Those that must be known before listening are set here, and the others
    /// when a connection is accepted.
    pub socket: SocketOptions,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self { backlog: 1024, reuse_port: false, ipv6_only: false, unix_mode: None, socket: SocketOptions::default() }
    }
}

/// A socket that listens. Dropping it closes it and removes a Unix socket's file, if that is still
/// its own; with clones, the last one does.
///
/// Thread rule: it may be sent to the thread that uses it.
///
/// ```
/// use netlib::socket::{Address, BindOptions, ListeningSocket};
///
/// let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
/// let socket = ListeningSocket::bind(&any, &BindOptions::default())?;
/// assert_ne!(socket.local_addr()?, any, "a port was chosen");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct ListeningSocket {
    fd: OwnedFd,
    /// Removes the file when it is dropped.
    #[allow(dead_code)]
    file: Option<Arc<SocketFile>>,
}

impl ListeningSocket {
    /// Binds and listens. Port 0 takes any free one; ask [`local_addr`](Self::local_addr) which.
    ///
    /// A Unix socket's file that nobody listens on any more, left by a process that died, is
    /// replaced. One that somebody listens on is `AddrInUse`, and so is a file that is no socket. (Two
    /// processes that start at the same instant may both find a dead file; whoever needs to exclude
    /// that holds a lock.)
    ///
    /// # Errors
    ///
    /// `AddrInUse`, `InvalidInput` for an option out of range, or what the system says.
    pub fn bind(address: &Address, options: &BindOptions) -> io::Result<Self> {
        match address {
            Address::Inet(address) => Ok(Self { fd: Self::bind_inet(*address, options)?, file: None }),
            Address::Unix(address) => Self::bind_unix(address, options),
        }
    }

    pub(super) fn bind_inet(address: SocketAddr, options: &BindOptions) -> io::Result<OwnedFd> {
        let family = super::family(&address);
        let fd = socket_with(family, SocketType::STREAM, FLAGS, None)?;
        // A restart must not wait for the connections of the previous run to leave TIME_WAIT.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if options.reuse_port {
            sockopt::set_socket_reuseport(&fd, true)?;
        }
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, options.ipv6_only || !address.ip().is_unspecified())?;
        }
        options.socket.apply(&fd, family, true)?;
        bind(&fd, &address)?;
        listen(&fd, options.backlog)?;
        Ok(fd)
    }

    fn bind_unix(address: &UnixAddress, options: &BindOptions) -> io::Result<Self> {
        let name = address.to_kernel()?;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
        options.socket.apply(&fd, AddressFamily::UNIX, true)?;
        let path = address.as_path();
        match (bind(&fd, &name), &path) {
            (Ok(()), _) => {}
            (Err(Errno::ADDRINUSE), Some(path)) => {
                remove_if_dead(path, address)?;
                bind(&fd, &name)?;
            }
            (Err(error), _) => return Err(error.into()),
        }
        // From here on a failure removes the file again.
        let file = path.map(SocketFile::of).transpose()?;
        if let (Some(file), Some(mode)) = (&file, options.unix_mode) {
            // Nobody gets in before: a connect is refused until the socket listens.
            fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
        }
        listen(&fd, options.backlog)?;
        Ok(Self { fd, file: file.map(Arc::new) })
    }

    /// Another descriptor of the same socket: both accept from one queue.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, file: self.file.clone() })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<Address> {
        Address::from_kernel(getsockname(&self.fd)?)
    }

    pub(crate) fn prepare(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, true)?)
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes over a socket that listens already, such as one that a supervisor has opened.
impl From<TcpListener> for ListeningSocket {
    fn from(socket: TcpListener) -> Self {
        Self { fd: socket.into(), file: None }
    }
}

/// Its file stays when it is closed: who made it removes it.
impl From<UnixListener> for ListeningSocket {
    fn from(socket: UnixListener) -> Self {
        Self { fd: socket.into(), file: None }
    }
}

/// Removes what a dead process has left; `AddrInUse` if it is alive or something else.
fn remove_if_dead(path: &Path, address: &UnixAddress) -> io::Result<()> {
    let in_use = |why: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {why}", path.display()));
    let found = fs::symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        return Err(in_use("there is a file that is no socket"));
    }
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    match connect(&probe, &address.to_kernel()?) {
        Err(Errno::CONNREFUSED) => {
            log::info!("{}: nobody listens on this socket any more, it is replaced", path.display());
            fs::remove_file(path)
        }
        // A queue that is full (`AGAIN`) is somebody's, too.
        _ => Err(in_use("another process listens on this socket")),
    }
}

/// The file of a Unix socket that was bound here.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have put its own in this place since.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        // The process may change its directory until it removes the file.
        let path = std::path::absolute(path)?;
        let found = fs::symlink_metadata(&path)?;
        Ok(Self { path, identity: (found.dev(), found.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{}: the socket's file stays: {error}", self.path.display());
        }
    }
}
