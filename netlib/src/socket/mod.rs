//! Stream sockets as a reactor needs them, TCP and Unix: non-blocking from birth, closed on exec,
//! Nagle off. EINTR is retried here and EAGAIN is `WouldBlock`, so the layers above see neither.

mod address;
mod listening;
mod options;

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, bind,
    connect, getpeername, getsockname, recv, send, sendmsg, shutdown, socket_with, sockopt,
};

pub use address::{Address, UnixAddress};
pub use listening::{BindOptions, ListeningSocket};
pub use options::{Keepalive, SocketOptions};

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Opens a listening TCP socket of the standard library's type. `backlog` is how many accepted
/// connections the kernel may hold for us (it caps the number at `net.core.somaxconn`). A wildcard
/// IPv6 address accepts IPv4 as well. Port 0 takes any free one; ask the listener which.
/// [`ListeningSocket::bind`] knows more options.
///
/// # Errors
///
/// What the system says, such as `AddrInUse`.
pub fn bind_tcp(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let options = BindOptions { backlog, ..BindOptions::default() };
    ListeningSocket::bind_inet(addr, &options).map(TcpListener::from)
}

/// Takes one connection from a listener's backlog. `WouldBlock` says that it is empty. Errors
/// that belong to the connection alone (`ConnectionAborted`) are returned too: try again.
///
/// # Errors
///
/// `WouldBlock`, those of one connection, and those of the process (no descriptors left).
pub fn accept(listener: impl AsFd) -> io::Result<(Stream, Address)> {
    accept_with(listener, &SocketOptions::default())
}

/// [`accept`] with options for the connection.
///
/// # Errors
///
/// Those of [`accept`], and of the options.
pub fn accept_with(listener: impl AsFd, options: &SocketOptions) -> io::Result<(Stream, Address)> {
    let (fd, peer) = retry_on_intr(|| acceptfrom_with(&listener, FLAGS))?;
    let peer = match peer {
        Some(peer) => Address::from_kernel(peer)?,
        None => Address::Unix(UnixAddress::Unnamed),
    };
    let family = match &peer {
        Address::Inet(addr) => family(addr),
        Address::Unix(_) => AddressFamily::UNIX,
    };
    if let Err(error) = options.apply(&fd, family, false) {
        // Refused if the peer has reset the connection already; the first read will say so.
        log::debug!("options of a connection from {peer}: {error}");
    }
    Ok((Stream { fd }, peer))
}

/// A connected, or connecting, stream socket.
///
/// Thread rule: it may be sent to the thread that uses it.
///
/// ```
/// use netlib::socket::{Stream, accept, bind_tcp};
///
/// let listener = bind_tcp("127.0.0.1:0".parse().unwrap(), 16)?;
/// let client = Stream::connect(listener.local_addr()?)?; // on loopback it is there at once
/// let (server, peer) = accept(&listener)?;
/// assert_eq!(client.local_addr()?, peer);
///
/// assert_eq!(client.write(b"hello")?, 5);
/// let mut buffer = [0; 16];
/// assert_eq!(server.read(&mut buffer)?, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
}

impl Stream {
    /// Begins to connect. The outcome is known when the socket becomes writable: ask
    /// [`Stream::take_error`].
    ///
    /// # Errors
    ///
    /// What is known at once; see [`take_error`](Self::take_error) for the rest.
    pub fn connect(address: impl Into<Address>) -> io::Result<Self> {
        Self::connect_with(&address.into(), &SocketOptions::default())
    }

    /// [`connect`](Self::connect) with options. A Unix socket whose listener's queue is full is
    /// `WouldBlock`: there is no waiting for it as there is with TCP.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect), and of the options.
    pub fn connect_with(address: &Address, options: &SocketOptions) -> io::Result<Self> {
        let (fd, outcome) = match address {
            Address::Inet(addr) => {
                let fd = open(family(addr))?;
                options.apply(&fd, family(addr), true)?;
                if let Some(ip) = options.from {
                    bind(&fd, &SocketAddr::new(ip, 0))?;
                }
                let outcome = connect(&fd, addr);
                (fd, outcome)
            }
            Address::Unix(unix) => {
                let name = unix.to_kernel()?;
                let fd = open(AddressFamily::UNIX)?;
                options.apply(&fd, AddressFamily::UNIX, true)?;
                let outcome = connect(&fd, &name);
                (fd, outcome)
            }
        };
        match outcome {
            // An interrupted connect goes on by itself; calling again would be an error.
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Self { fd }),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a socket that came from elsewhere one like those made here.
    pub(crate) fn take_over(&self, options: &SocketOptions) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.fd, true)?;
        rustix::io::fcntl_setfd(&self.fd, rustix::io::FdFlags::CLOEXEC)?;
        let family = sockopt::socket_domain(&self.fd)?;
        if let Err(error) = options.apply(&self.fd, family, false) {
            // As with an accepted one: refused if the peer has reset the connection already.
            log::debug!("options of an adopted connection: {error}");
        }
        Ok(())
    }

    /// How a connect ended: None while it is under way. One that reached itself
    /// ([`is_self_connected`](Self::is_self_connected)) counts as refused.
    pub(crate) fn connect_outcome(&self) -> Option<io::Result<()>> {
        match self.take_error() {
            Ok(Some(error)) | Err(error) => Some(Err(error)),
            // Writable without an error, and yet not connected: a spurious event.
            Ok(None) if self.peer_addr().is_err() => None,
            // On loopback a connect to a free ephemeral port can meet itself.
            Ok(None) if self.is_self_connected() => Some(Err(io::ErrorKind::ConnectionRefused.into())),
            Ok(None) => Some(Ok(())),
        }
    }

    /// Reads what is there, up to the size of `buffer`; 0 is the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when nothing is there, or how the connection broke.
    #[inline(always)]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, count) = retry_on_intr(|| recv(&self.fd, &mut *buffer, RecvFlags::empty()))?;
        Ok(count.min(buffer.len()))
    }

    /// Writes as much of `bytes` as the kernel takes now.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is no room, or how the connection broke.
    #[inline(always)]
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| send(&self.fd, bytes, SendFlags::NOSIGNAL))?)
    }

    /// The same from several pieces, at most 1,024 of them.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write).
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // Not writev: only sendmsg can be told not to raise SIGPIPE.
        Ok(retry_on_intr(|| sendmsg(&self.fd, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL))?)
    }

    /// Lets the kernel send bytes of a file, at most `count` from `offset` on; 0 is the file's
    /// end.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write), and of reading the file.
    pub fn send_file(&self, file: BorrowedFd<'_>, offset: u64, count: usize) -> io::Result<usize> {
        Ok(retry_on_intr(|| sendfile(&self.fd, file, Some(&mut { offset }), count))?)
    }

    /// Tells the peer that no more will come (FIN); reading goes on.
    ///
    /// # Errors
    ///
    /// `NotConnected`, or what the system says.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(&self.fd, Shutdown::Write)?)
    }

    /// The error that is pending on the socket, which clears it: how a connect ended.
    ///
    /// # Errors
    ///
    /// If the question itself fails.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(sockopt::socket_error(&self.fd)?.err().map(io::Error::from))
    }

    /// The other end. `NotConnected` while connecting, and for a connection that was reset.
    ///
    /// # Errors
    ///
    /// `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<Address> {
        match getpeername(&self.fd)? {
            Some(address) => Address::from_kernel(address),
            None => Ok(Address::Unix(UnixAddress::Unnamed)),
        }
    }

    /// This end.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<Address> {
        Address::from_kernel(getsockname(&self.fd)?)
    }

    /// Closing will discard what is unsent and reset the connection, instead of finishing it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn set_reset_on_close(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO))?)
    }

    /// Whether the socket is connected to itself. Dialling a local port of the ephemeral range
    /// that nobody listens on can pick that very port as the source, and TCP then connects the
    /// socket to itself; a redialling client would keep the server's port busy that way.
    pub fn is_self_connected(&self) -> bool {
        // Both ends of a Unix connection may well be unnamed.
        matches!((self.local_addr(), self.peer_addr()), (Ok(Address::Inet(local)), Ok(peer)) if peer == local)
    }
}

/// Takes over a stream socket, which has to be non-blocking already.
impl From<OwnedFd> for Stream {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> Self {
        stream.fd
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::STREAM, FLAGS, None)?)
}

fn family(addr: &SocketAddr) -> AddressFamily {
    if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use super::*;
    use crate::Token;
    use crate::backend::{BackendKind, Event, Interest, Trigger};

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn pair() -> (Stream, Stream) {
        let listener = bind_tcp(LOOPBACK, 16).unwrap();
        let client = Stream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = accept(&listener).unwrap();
        (client, server)
    }

    #[test]
    fn an_empty_backlog_and_an_empty_stream_would_block() {
        let listener = bind_tcp(LOOPBACK, 16).unwrap();
        assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (client, _server) = pair();
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn accepted_and_dialled_sockets_do_not_delay_and_do_not_leak_into_children() {
        let (client, server) = pair();
        for stream in [client, server] {
            assert!(sockopt::tcp_nodelay(&stream).unwrap());
            assert!(rustix::io::fcntl_getfd(&stream).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_wildcard_ipv6_listener_accepts_ipv4() {
        let Ok(listener) = bind_tcp((Ipv6Addr::UNSPECIFIED, 0).into(), 16) else {
            eprintln!("SKIPPED a_wildcard_ipv6_listener_accepts_ipv4: no IPv6 on this machine");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        accept(&listener).unwrap();
    }

    #[test]
    fn writing_to_a_reset_connection_is_an_error_and_no_signal() {
        let (client, server) = pair();
        server.set_reset_on_close().unwrap();
        drop(server);
        let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        assert!(kinds.contains(&client.write(b"x").unwrap_err().kind()));
        assert!(kinds.contains(&client.write_vectored(&[IoSlice::new(b"x")]).unwrap_err().kind()));
    }

    #[test]
    fn shutdown_ends_one_direction_only() {
        let (client, server) = pair();
        client.shutdown_write().unwrap();
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
        server.write(b"still here").unwrap();
        let mut text = [0; 10];
        let mut client = TcpStream::from(OwnedFd::from(client));
        client.set_nonblocking(false).unwrap();
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"still here");
    }

    #[test]
    fn a_refused_connect_shows_as_the_pending_error() {
        let listener = bind_tcp(LOOPBACK, 16).unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        // Loopback may refuse within the call.
        let error = match Stream::connect(addr) {
            Ok(stream) => stream.take_error().unwrap().expect("nobody listens"),
            Err(error) => error,
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_socket_connected_to_itself_is_recognised() {
        // Binding first fixes the source port, so the accident happens on purpose.
        let fd = open(AddressFamily::INET).unwrap();
        bind(&fd, &LOOPBACK).unwrap();
        let stream = Stream { fd };
        assert_eq!(connect(&stream, &stream.local_addr().unwrap().inet().unwrap()), Err(Errno::INPROGRESS));
        let mut backend = BackendKind::Mio.open().unwrap();
        backend.add(stream.as_fd(), Token::new(0, 0), Interest::WRITABLE, Trigger::Edge).unwrap();
        let mut events = Vec::new();
        while !events.iter().any(|event: &Event| event.writable) {
            backend.wait(&mut events, None).unwrap();
        }
        assert!(stream.is_self_connected());
        let (client, server) = pair();
        assert!(!client.is_self_connected() && !server.is_self_connected());
    }
}
