//! Datagrams as handlers see them and as they are sent: values only.

use std::fmt;
use std::io;
use std::net::IpAddr;

use bytes::Bytes;

use super::Ecn;
use crate::socket::Address;
use crate::sys::{ReceiveBatch, Received};

/// One datagram that arrived, in the memory that it was received into.
///
/// ```
/// use netlib::datagram::Packets;
/// use netlib::{Context, Datagram, DatagramHandler};
///
/// struct Relay;
/// impl DatagramHandler<u64> for Relay {
///     fn on_packets(&mut self, cut: &mut u64, _: &mut Context<u64>, socket: &Datagram, packets: Packets<'_>) {
///         for packet in packets.iter() {
///             if packet.truncated {
///                 *cut += 1;
///             } else {
///                 let _ = socket.reply(&packet, packet.payload); // a full queue counts what it drops
///             }
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Packet<'a> {
    /// What was sent; may be empty.
    pub payload: &'a [u8],
    /// Who sent it. A Unix sender without a name cannot be answered.
    pub from: &'a Address,
    /// The address of this machine (or group, or broadcast address) that it was sent to, if
    /// [`BindOptions::packet_info`](super::BindOptions::packet_info) asked for it.
    pub to: Option<IpAddr>,
    /// Its congestion mark; `NotCapable` also if [`BindOptions::ecn`](super::BindOptions::ecn) did
    /// not ask.
    pub ecn: Ecn,
    /// It was longer than [`DatagramOptions::max_packet`](super::DatagramOptions::max_packet);
    /// `payload` is its beginning.
    pub truncated: bool,
    /// From where an answer leaves.
    pub(super) local: Option<IpAddr>,
}

/// The datagrams that one system call brought, in the order of their arrival.
///
/// ```
/// use netlib::datagram::Packets;
///
/// fn bytes(packets: Packets<'_>) -> usize {
///     packets.iter().map(|packet| packet.payload.len()).sum()
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Packets<'a> {
    batch: &'a ReceiveBatch,
    count: usize,
    /// Where all of them were sent to, if the socket has but one address.
    to: Option<IpAddr>,
}

impl<'a> Packets<'a> {
    pub(super) fn new(batch: &'a ReceiveBatch, to: Option<IpAddr>) -> Self {
        Self { batch, count: batch.messages().iter().map(segments).sum(), to }
    }

    /// How many they are.
    pub fn len(self) -> usize {
        self.count
    }

    /// Whether there are none. A handler is never shown so few.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// One after the other. What the kernel had put together (GRO) is taken apart again.
    pub fn iter(self) -> impl Iterator<Item = Packet<'a>> {
        self.batch.messages().iter().enumerate().flat_map(move |(index, message)| {
            let bytes = self.batch.bytes(index);
            let size = segment_size(message);
            (0..segments(message)).map(move |segment| {
                let end = bytes.len().min((segment + 1) * size);
                packet(message, &bytes[segment * size..end], self.to)
            })
        })
    }

    /// How many messages they came in.
    pub(super) fn messages(self) -> usize {
        self.received().len()
    }

    pub(super) fn received(self) -> &'a [Received] {
        self.batch.messages()
    }
}

fn segment_size(message: &Received) -> usize {
    message.facts.segment.unwrap_or(message.length).max(1)
}

fn segments(message: &Received) -> usize {
    // An empty datagram is one, too.
    message.length.div_ceil(segment_size(message)).max(1)
}

fn packet<'a>(message: &'a Received, payload: &'a [u8], to: Option<IpAddr>) -> Packet<'a> {
    Packet {
        payload,
        from: &message.from,
        to: message.facts.to.or(to),
        ecn: message.facts.ecn(),
        truncated: message.truncated,
        local: message.facts.local,
    }
}

/// One datagram to be sent, or several of one size at once.
///
/// ```
/// use netlib::datagram::{Ecn, Outgoing};
///
/// let to: std::net::SocketAddr = "192.0.2.1:8900".parse().unwrap();
/// let packet = Outgoing { ecn: Ecn::Capable0, ..Outgoing::new("hello", to) };
/// assert_eq!(packet.payload, "hello");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// What to send. Shared, not copied.
    pub payload: Bytes,
    /// To whom; None: where the socket is [connected](super::DatagramSocket::connect) to.
    pub to: Option<Address>,
    /// The address of this machine that it leaves from, for one that has several; None lets
    /// the system choose.
    pub from: Option<IpAddr>,
    /// Its congestion mark.
    pub ecn: Ecn,
    /// The payload is cut into datagrams of so many bytes, the last of which may be shorter.
    pub segment: Option<usize>,
}

impl Outgoing {
    /// A datagram to `to`.
    pub fn new(payload: impl Into<Bytes>, to: impl Into<Address>) -> Self {
        Self { payload: payload.into(), to: Some(to.into()), ..Self::default() }
    }

    /// A datagram to where the socket is connected to.
    pub fn to_peer(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }
}

/// What went wrong with one datagram, or on the way. The socket lives on.
///
/// ```
/// use std::io;
/// use netlib::datagram::DatagramError;
///
/// let error = DatagramError::Network(io::ErrorKind::ConnectionRefused.into());
/// assert_eq!(error.to_string(), "the network reports: connection refused");
/// ```
#[derive(Debug)]
pub enum DatagramError {
    /// The system did not take a packet, or several to one address that it was to cut apart;
    /// they are lost.
    Send {
        /// Where to.
        to: Option<Address>,
        /// How many.
        packets: usize,
        /// Why: too long, no route, nobody there.
        error: io::Error,
    },
    /// The network reported it about something sent earlier; most often `ConnectionRefused`:
    /// the port that the socket is connected to is not open.
    Network(io::Error),
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { to: Some(to), error, .. } => write!(f, "could not send to {to}: {error}"),
            Self::Send { to: None, error, .. } => write!(f, "could not send: {error}"),
            Self::Network(error) => write!(f, "the network reports: {error}"),
        }
    }
}

impl std::error::Error for DatagramError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Send { error, .. } | Self::Network(error) => Some(error),
        }
    }
}
