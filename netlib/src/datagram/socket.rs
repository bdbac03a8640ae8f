//! Datagram sockets without a loop: opened, bound and asked what the kernel can do for them.
//! Non-blocking from birth and closed on exec.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with, sockopt};

use super::{Address, Packets, UnixAddress};
use crate::sys::{ReceiveBatch, UDP_GRO, UDP_SEGMENT, knows_option, set_option};

/// How a datagram socket is opened. Internet options do nothing to a Unix socket.
///
/// ```
/// use netlib::datagram::BindOptions;
///
/// // Voice: expedited forwarding, and a receive buffer for 50 ms of 100,000 packets a second.
/// let voice = BindOptions { dscp: 46, receive_buffer: Some(12 << 20), ..BindOptions::default() };
/// assert!(voice.packet_info && voice.ecn && voice.gro && voice.gso);
/// ```
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // independent switches
pub struct BindOptions {
    /// A wildcard IPv6 address receives IPv4 as well, which then appears as IPv4.
    pub dual_stack: bool,
    /// Several sockets of one user may share the address; the kernel spreads the senders over
    /// them.
    pub reuse_port: bool,
    /// Datagrams may be sent to broadcast addresses.
    pub broadcast: bool,
    /// Bytes that the kernel holds for us until we read, its own overhead included; None leaves
    /// the system's default. It gives at most `net.core.rmem_max`.
    pub receive_buffer: Option<usize>,
    /// Bytes that the kernel holds until they have left, likewise.
    pub send_buffer: Option<usize>,
    /// Ask to which address each packet was sent ([`Packet::to`](super::Packet::to)), so that a
    /// socket bound to a wildcard answers from the address that was asked.
    pub packet_info: bool,
    /// Ask for the congestion marks ([`Packet::ecn`](super::Packet::ecn)).
    pub ecn: bool,
    /// Differentiated services code point of everything sent, 0 to 63; 46 is the usual one for
    /// voice.
    pub dscp: u8,
    /// Receive several packets of a sender as one where the kernel can (generic receive
    /// offload); handlers see the packets all the same.
    pub gro: bool,
    /// Hand over several packets to one receiver as one where the kernel can (generic
    /// segmentation offload).
    pub gso: bool,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self {
            dual_stack: true,
            reuse_port: false,
            broadcast: false,
            receive_buffer: None,
            send_buffer: None,
            packet_info: true,
            ecn: true,
            dscp: 0,
            gro: true,
            gso: true,
        }
    }
}

/// A bound datagram socket, UDP or Unix.
///
/// Thread rule: it may be sent to the thread that uses it.
///
/// ```
/// use netlib::datagram::{BindOptions, DatagramSocket};
///
/// let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let socket = DatagramSocket::bind(any, &BindOptions::default())?;
/// assert_ne!(socket.local_addr()?.inet().unwrap().port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct DatagramSocket {
    fd: OwnedFd,
    family: Family,
    connected: bool,
    /// The peer that it is connected to is an IPv4 one.
    peer_ipv4: bool,
    /// The one address that packets can have been sent to, if that was asked for.
    own_ip: Option<IpAddr>,
    dscp: u8,
    gro: bool,
    /// The longest packets that segmentation offload has not refused; 0: it is off.
    gso_limit: Cell<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Unix,
}

impl DatagramSocket {
    /// Opens a socket at `address`. Port 0 takes any free one; [`UnixAddress::Unnamed`] leaves a
    /// Unix socket without a name, so that it can send but not be answered. A path must not
    /// exist, and stays when the socket is gone.
    ///
    /// # Errors
    ///
    /// What the system says; `AddrInUse` for a path that exists.
    pub fn bind(address: impl Into<Address>, options: &BindOptions) -> io::Result<Self> {
        let address = address.into();
        let family = match &address {
            Address::Inet(SocketAddr::V4(_)) => Family::V4,
            Address::Inet(SocketAddr::V6(_)) => Family::V6,
            Address::Unix(_) => Family::Unix,
        };
        let domain = match family {
            Family::V4 => AddressFamily::INET,
            Family::V6 => AddressFamily::INET6,
            Family::Unix => AddressFamily::UNIX,
        };
        let fd = socket_with(domain, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        let mut socket = Self {
            fd,
            family,
            connected: false,
            peer_ipv4: false,
            own_ip: None,
            dscp: options.dscp & 63,
            gro: false,
            gso_limit: Cell::new(0),
        };
        socket.set_buffers(options)?;
        match &address {
            Address::Inet(inet) => {
                socket.set_internet_options(inet, options)?;
                bind(&socket.fd, inet)?;
            }
            Address::Unix(UnixAddress::Unnamed) => {}
            Address::Unix(unix) => bind(&socket.fd, &unix.to_kernel()?)?,
        }
        Ok(socket)
    }

    fn set_buffers(&self, options: &BindOptions) -> io::Result<()> {
        if let Some(bytes) = options.receive_buffer {
            sockopt::set_socket_recv_buffer_size(&self.fd, bytes)?;
        }
        if let Some(bytes) = options.send_buffer {
            sockopt::set_socket_send_buffer_size(&self.fd, bytes)?;
        }
        Ok(())
    }

    fn set_internet_options(&mut self, address: &SocketAddr, options: &BindOptions) -> io::Result<()> {
        let v6 = self.family == Family::V6;
        let dual = v6 && options.dual_stack && address.ip().is_unspecified();
        if v6 {
            sockopt::set_ipv6_v6only(&self.fd, !dual)?;
        }
        if options.reuse_port {
            sockopt::set_socket_reuseport(&self.fd, true)?;
        }
        if options.broadcast {
            sockopt::set_socket_broadcast(&self.fd, true)?;
        }
        // A socket with one address need not be told it with every packet.
        let many_addresses = address.ip().is_unspecified() || address.ip().is_multicast();
        self.own_ip = (options.packet_info && !many_addresses).then(|| address.ip().to_canonical());
        // What a dual-stack socket does with IPv4 is set at the IPv4 level.
        let levels = [(libc::SOL_IP, !v6 || dual), (libc::SOL_IPV6, v6)];
        for (level, _) in levels.into_iter().filter(|(_, used)| *used) {
            let ip = level == libc::SOL_IP;
            if options.packet_info && many_addresses {
                set_option(&self.fd, level, if ip { libc::IP_PKTINFO } else { libc::IPV6_RECVPKTINFO }, 1)?;
            }
            if options.ecn {
                set_option(&self.fd, level, if ip { libc::IP_RECVTOS } else { libc::IPV6_RECVTCLASS }, 1)?;
            }
            if self.dscp != 0 {
                let class = i32::from(self.dscp) << 2;
                set_option(&self.fd, level, if ip { libc::IP_TOS } else { libc::IPV6_TCLASS }, class)?;
            }
        }
        // A count of what was lost, nothing that a packet depends on.
        let _ = set_option(&self.fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
        self.gro = options.gro && set_option(&self.fd, libc::SOL_UDP, UDP_GRO, 1).is_ok();
        if options.gso && knows_option(&self.fd, libc::SOL_UDP, UDP_SEGMENT) {
            self.gso_limit.set(usize::from(u16::MAX));
        }
        Ok(())
    }

    /// Fixes the peer: only its packets are received, packets without an address go to it, and
    /// the network's reports about it are heard.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn connect(&mut self, peer: impl Into<Address>) -> io::Result<()> {
        let peer = peer.into();
        self.peer_ipv4 = peer.inet().is_some_and(|peer| peer.is_ipv4());
        match peer {
            Address::Inet(SocketAddr::V4(peer)) if self.family == Family::V6 => {
                connect(&self.fd, &SocketAddr::from((peer.ip().to_ipv6_mapped(), peer.port())))?;
            }
            Address::Inet(peer) => connect(&self.fd, &peer)?,
            Address::Unix(peer) => connect(&self.fd, &peer.to_kernel()?)?,
        }
        self.connected = true;
        Ok(())
    }

    /// Its own address.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<Address> {
        Address::from_kernel(getsockname(&self.fd)?)
    }

    /// Whether [`connect`](Self::connect) fixed its peer.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether the kernel puts received packets together.
    pub fn has_gro(&self) -> bool {
        self.gro
    }

    /// Whether the kernel takes several packets as one. It may turn out later that the way out
    /// does not.
    pub fn has_gso(&self) -> bool {
        self.gso_limit.get() > 0
    }

    /// Receives what is there by one system call: at most `messages` (up to 64) of at most `room`
    /// bytes each, of which the rest is cut off. `WouldBlock` says that nothing is there, and
    /// fewer messages than asked for that nothing more is there.
    ///
    /// With GRO each message may hold several packets, and `room` is not looked at.
    ///
    /// # Errors
    ///
    /// `WouldBlock`; what the network reported about something sent earlier; or what the system says.
    pub fn receive<'a>(&self, batch: &'a mut ReceiveBatch, messages: usize, room: usize) -> io::Result<Packets<'a>> {
        let room = if self.gro { usize::MAX } else { room };
        batch.receive(self.fd.as_fd(), messages, room, self.family != Family::Unix)?;
        Ok(Packets::new(batch, self.own_ip))
    }

    pub(super) fn is_unix(&self) -> bool {
        self.family == Family::Unix
    }

    pub(super) fn peer_is_ipv4(&self) -> bool {
        self.peer_ipv4
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.family == Family::V6
    }

    pub(super) fn dscp(&self) -> u8 {
        self.dscp
    }

    /// The longest packets that may be handed over together.
    pub(super) fn gso_limit(&self) -> usize {
        self.gso_limit.get()
    }

    /// Remembers that the kernel did not take packets of `segment` bytes together. Too long for
    /// the way is a matter of their length; anything else, of the way itself.
    pub(super) fn refuse_gso(&self, segment: usize, error: &io::Error) {
        let too_long = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE));
        self.gso_limit.set(if too_long { segment - 1 } else { 0 });
        log::debug!("segmentation offload refused for packets of {segment} bytes: {error}");
    }
}

/// Whether a send failed because several packets were handed over as one.
pub(super) fn refuses_gso(error: &io::Error) -> bool {
    const REFUSALS: [i32; 5] = [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::ENOPROTOOPT, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|code| REFUSALS.contains(&code))
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
