//! The options of stream sockets, with types and units, and reading back what the kernel made of
//! them. Not here: what belongs to a listening socket alone ([`BindOptions`](super::BindOptions)),
//! and lingering. SO_LINGER with a time makes close(2) block, hence the loop; what
//! [`ConnOptions::linger`](crate::ConnOptions::linger) does instead blocks nobody.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};

use crate::conn::Conn;

/// What a stream socket is told before it is used. What only TCP or IP knows is left out on a
/// Unix socket.
///
/// ```
/// use netlib::socket::{Keepalive, SocketOptions};
/// use netlib::ListenOptions;
/// use std::time::Duration;
///
/// let options = ListenOptions {
///     socket: SocketOptions {
///         keepalive: Some(Keepalive { idle: Duration::from_secs(60), ..Keepalive::default() }),
///         user_timeout: Some(Duration::from_secs(90)),
///         ..SocketOptions::default()
///     },
///     ..ListenOptions::default()
/// };
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Send small pieces at once (TCP_NODELAY), and not when what was sent before is acknowledged:
    /// a small PDU must not wait for the one before it. On unless told otherwise.
    pub nodelay: bool,
    /// Probe a silent peer (SO_KEEPALIVE).
    pub keepalive: Option<Keepalive>,
    /// Bytes of SO_SNDBUF. The kernel doubles what it is told, to have room for its own
    /// bookkeeping, and reports the doubled figure; it caps it at `net.core.wmem_max`. None leaves
    /// it to the kernel, which then adapts the size to the connection; a fixed one it never changes.
    pub send_buffer: Option<usize>,
    /// Bytes of SO_RCVBUF; the same holds, with `net.core.rmem_max`. It bounds the TCP window, so it
    /// is set before connecting or listening.
    pub receive_buffer: Option<usize>,
    /// The connection breaks when what was sent is not acknowledged for so long
    /// (TCP_USER_TIMEOUT, in milliseconds), instead of after about 15 minutes.
    pub user_timeout: Option<Duration>,
    /// The class of service, 0 to 63, as routers see it: the upper six bits of IP_TOS and
    /// IPV6_TCLASS. More is `InvalidInput`.
    pub dscp: Option<u8>,
    /// The address of this machine to connect from, on any free port; None leaves the choice to
    /// the system. For sockets that connect; accepted ones have theirs.
    pub from: Option<IpAddr>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            send_buffer: None,
            receive_buffer: None,
            user_timeout: None,
            dscp: None,
            from: None,
        }
    }
}

/// When a silent peer is probed and given up. The kernel counts in whole seconds, from 1 to
/// 32,767; fractions are rounded up.
///
/// ```
/// // The defaults find a peer that has vanished within 60 + 3 × 10 s.
/// let keepalive = netlib::socket::Keepalive::default();
/// assert_eq!(keepalive.idle + keepalive.interval * keepalive.retries, std::time::Duration::from_secs(90));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer, 1 to 127, that end the connection.
    pub retries: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Duration::from_mins(1), interval: Duration::from_secs(10), retries: 3 }
    }
}

impl SocketOptions {
    /// What is in force on the socket. The buffers are always there, in the kernel's figures: twice
    /// what they were set to.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd();
        let family = sockopt::socket_domain(fd)?;
        let mut options = Self {
            send_buffer: Some(sockopt::socket_send_buffer_size(fd)?),
            receive_buffer: Some(sockopt::socket_recv_buffer_size(fd)?),
            ..Self::default()
        };
        if family == AddressFamily::UNIX {
            return Ok(Self { nodelay: false, ..options });
        }
        options.nodelay = sockopt::tcp_nodelay(fd)?;
        if sockopt::socket_keepalive(fd)? {
            options.keepalive = Some(Keepalive {
                idle: sockopt::tcp_keepidle(fd)?,
                interval: sockopt::tcp_keepintvl(fd)?,
                retries: sockopt::tcp_keepcnt(fd)?,
            });
        }
        let user_timeout = sockopt::tcp_user_timeout(fd)?;
        options.user_timeout = (user_timeout > 0).then(|| Duration::from_millis(user_timeout.into()));
        let class = if family == AddressFamily::INET6 { sockopt::ipv6_tclass(fd)? as u8 } else { sockopt::ip_tos(fd)? };
        options.dscp = (class >> 2 > 0).then_some(class >> 2);
        Ok(options)
    }

    /// Tells a socket. `nodelay` alone is told where it is off already, as on a new socket, only if
    /// it is on.
    pub(super) fn apply(&self, fd: impl AsFd, family: AddressFamily, new: bool) -> io::Result<()> {
        let fd = fd.as_fd();
        if let Some(bytes) = self.send_buffer {
            sockopt::set_socket_send_buffer_size(fd, bytes)?;
        }
        if let Some(bytes) = self.receive_buffer {
            sockopt::set_socket_recv_buffer_size(fd, bytes)?;
        }
        if family == AddressFamily::UNIX {
            return Ok(());
        }
        if self.nodelay || !new {
            sockopt::set_tcp_nodelay(fd, self.nodelay)?;
        }
        if let Some(keepalive) = self.keepalive {
            sockopt::set_tcp_keepidle(fd, whole_seconds(keepalive.idle))?;
            sockopt::set_tcp_keepintvl(fd, whole_seconds(keepalive.interval))?;
            sockopt::set_tcp_keepcnt(fd, keepalive.retries)?;
            sockopt::set_socket_keepalive(fd, true)?;
        }
        if let Some(timeout) = self.user_timeout {
            // 0 would mean the kernel's own; beyond its range is as good as never.
            let millis = timeout.as_millis().clamp(1, i32::MAX as u128) as u32;
            sockopt::set_tcp_user_timeout(fd, millis)?;
        }
        if let Some(dscp) = self.dscp {
            set_dscp(fd, family, dscp)?;
        }
        Ok(())
    }
}

fn set_dscp(fd: impl AsFd, family: AddressFamily, dscp: u8) -> io::Result<()> {
    if dscp > 63 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a DSCP has six bits"));
    }
    let fd = fd.as_fd();
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_tclass(fd, u32::from(dscp << 2))?;
        // For the IPv4 peers of a dual-stack socket. One that is IPv6 alone may refuse it.
        match sockopt::set_ip_tos(fd, dscp << 2) {
            Ok(()) | Err(Errno::NOPROTOOPT | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    } else {
        Ok(sockopt::set_ip_tos(fd, dscp << 2)?)
    }
}

fn whole_seconds(time: Duration) -> Duration {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(seconds.clamp(1, 32_767))
}

impl Conn {
    /// The options in force on its socket; see [`SocketOptions::of`]. `NotConnected` while there is
    /// no socket.
    ///
    /// # Errors
    ///
    /// `NotConnected` while there is no socket.
    pub fn socket_options(&self) -> io::Result<SocketOptions> {
        match self.0.transport.borrow().stream() {
            Some(stream) => SocketOptions::of(stream),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}
