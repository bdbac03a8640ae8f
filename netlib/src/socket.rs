//! TCP sockets as a reactor needs them: non-blocking from birth, closed on exec, Nagle off (a
//! small PDU must not wait for the one before it). EINTR is retried here and EAGAIN is
//! `WouldBlock`, so the layers above see neither.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::sendfile;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, SocketFlags, SocketType,
    acceptfrom_with, bind, connect, getpeername, getsockname, listen, recv, send, sendmsg, shutdown, socket_with,
    sockopt,
};

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Opens a listening socket. `backlog` is how many accepted connections the kernel may hold for
/// us (it caps the number at `net.core.somaxconn`). A wildcard IPv6 address accepts IPv4 as
/// well. Port 0 takes any free one; ask the listener which.
pub fn bind_tcp(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let fd = open_tcp(addr)?;
    // A restart must not wait for the connections of the previous run to leave TIME_WAIT.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, !addr.ip().is_unspecified())?;
    }
    bind(&fd, &addr)?;
    listen(&fd, backlog)?;
    Ok(TcpListener::from(fd))
}

/// Takes one connection from a listener's backlog. `WouldBlock` says that it is empty. Errors
/// that belong to the connection alone (`ConnectionAborted`) are returned too: try again.
pub fn accept(listener: &TcpListener) -> io::Result<(Stream, SocketAddr)> {
    let (fd, peer) = retry_on_intr(|| acceptfrom_with(listener, FLAGS))?;
    let stream = Stream { fd };
    // Refused if the peer has reset the connection already; the first read will say so.
    let _ = sockopt::set_tcp_nodelay(&stream.fd, true);
    Ok((stream, internet_address(peer)?))
}

/// A connected, or connecting, stream socket.
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
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let fd = open_tcp(addr)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        match connect(&fd, &addr) {
            // An interrupted connect goes on by itself; calling again would be an error.
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Self { fd }),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what is there, up to the size of `buffer`; 0 is the end.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, count) = retry_on_intr(|| recv(&self.fd, &mut *buffer, RecvFlags::empty()))?;
        Ok(count.min(buffer.len()))
    }

    /// Writes as much of `bytes` as the kernel takes now.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| send(&self.fd, bytes, SendFlags::NOSIGNAL))?)
    }

    /// The same from several pieces, at most 1,024 of them.
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // Not writev: only sendmsg can be told not to raise SIGPIPE.
        Ok(retry_on_intr(|| sendmsg(&self.fd, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL))?)
    }

    /// Lets the kernel send bytes of a file, at most `count` from `offset` on; 0 is the file's
    /// end.
    pub fn send_file(&self, file: BorrowedFd<'_>, offset: u64, count: usize) -> io::Result<usize> {
        Ok(retry_on_intr(|| sendfile(&self.fd, file, Some(&mut { offset }), count))?)
    }

    /// Tells the peer that no more will come (FIN); reading goes on.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(&self.fd, Shutdown::Write)?)
    }

    /// The error that is pending on the socket, which clears it: how a connect ended.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(sockopt::socket_error(&self.fd)?.err().map(io::Error::from))
    }

    /// The other end. `NotConnected` while connecting, and for a connection that was reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        internet_address(getpeername(&self.fd)?)
    }

    /// This end.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        internet_address(Some(getsockname(&self.fd)?))
    }

    /// Closing will discard what is unsent and reset the connection, instead of finishing it.
    pub fn set_reset_on_close(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO))?)
    }

    /// Whether the socket is connected to itself. Dialling a local port of the ephemeral range
    /// that nobody listens on can pick that very port as the source, and TCP then connects the
    /// socket to itself; a redialling client would keep the server's port busy that way.
    pub fn is_self_connected(&self) -> bool {
        matches!((self.local_addr(), self.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
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

fn open_tcp(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    Ok(socket_with(family, SocketType::STREAM, FLAGS, None)?)
}

fn internet_address(addr: Option<SocketAddrAny>) -> io::Result<SocketAddr> {
    let addr = addr.ok_or(io::ErrorKind::NotConnected)?;
    Ok(SocketAddr::try_from(addr)?)
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
            eprintln!("skipped: no IPv6 on this machine");
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
        let fd = open_tcp(LOOPBACK).unwrap();
        bind(&fd, &LOOPBACK).unwrap();
        let stream = Stream { fd };
        assert_eq!(connect(&stream, &stream.local_addr().unwrap()), Err(Errno::INPROGRESS));
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
