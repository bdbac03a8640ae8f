//! What a connection is given and how it ends: limits and times, the policy of a full
//! output buffer, and the reasons of closing. Values only; `conn.rs` has the handle.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::codec::FrameError;
use crate::rate::Rate;

/// Why a connection ended.
///
/// ```
/// use netlib::{CloseReason, Fault};
///
/// let reason = CloseReason::Idle;
/// assert_eq!(reason.to_string(), "idle for too long"); // for people
/// assert_eq!(reason.label(), "idle"); // for a metric
/// assert_eq!(reason.fault(), Fault::Peer); // for an alarm
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed its side in order.
    PeerClosed,
    /// The peer, or the network, broke the connection.
    Reset,
    /// Nothing was received for the idle timeout.
    Idle,
    /// It lived as long as it may, [`ConnOptions::lifetime`].
    Lifetime,
    /// The connect did not finish in time.
    ConnectTimeout,
    /// The connect failed, at once or later.
    ConnectFailed(io::ErrorKind),
    /// The peer did not take its data and the output limit was reached.
    OutputLimit,
    /// The peer sent more in all than [`ConnOptions::max_bytes_in`].
    InputLimit,
    /// The peer sent something that is no frame.
    BadFrame(FrameError),
    /// The connection's [layer](crate::layer) was not agreed upon in time.
    HandshakeTimeout,
    /// The peer broke the protocol of the connection's [layer](crate::layer); says how.
    Protocol(Box<str>),
    /// This side closed it.
    Local,
    /// This side dropped it without flushing.
    Aborted,
    /// This side refused the peer; the text says why.
    Refused(&'static str),
    /// A callback panicked.
    HandlerPanic,
    /// Another error of the operating system.
    Io(io::ErrorKind),
}

impl CloseReason {
    pub(crate) fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            // A layer's stream that was cut off.
            io::ErrorKind::UnexpectedEof => Self::Reset,
            io::ErrorKind::InvalidData => Self::Protocol(error.to_string().into()),
            kind => Self::Io(kind),
        }
    }

    /// Whose doing it was: what a metric or an alarm wants to tell apart first.
    pub fn fault(&self) -> Fault {
        match self {
            Self::PeerClosed | Self::Local | Self::Aborted | Self::Lifetime => Fault::Nobody,
            Self::Idle
            | Self::OutputLimit
            | Self::InputLimit
            | Self::BadFrame(_)
            | Self::HandshakeTimeout
            | Self::Protocol(_)
            | Self::Refused(_) => Fault::Peer,
            Self::Reset | Self::ConnectTimeout | Self::ConnectFailed(_) => Fault::Network,
            Self::HandlerPanic | Self::Io(_) => Fault::Ours,
        }
    }

    /// A short fixed word for each kind, for a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed(_) => "connect_failed",
            Self::OutputLimit => "output_limit",
            Self::InputLimit => "input_limit",
            Self::BadFrame(_) => "bad_frame",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Protocol(_) => "protocol",
            Self::Local => "local",
            Self::Aborted => "aborted",
            Self::Refused(_) => "refused",
            Self::HandlerPanic => "handler_panic",
            Self::Io(_) => "io",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Reset => f.write_str("reset by the peer"),
            Self::Idle => f.write_str("idle for too long"),
            Self::Lifetime => f.write_str("it has lived as long as it may"),
            Self::ConnectTimeout => f.write_str("connecting took too long"),
            Self::ConnectFailed(io::ErrorKind::NotFound) => {
                f.write_str("could not connect: no host or socket of that name")
            }
            Self::ConnectFailed(kind) => write!(f, "could not connect: {kind}"),
            Self::OutputLimit => f.write_str("the peer does not read and the output limit is reached"),
            Self::InputLimit => f.write_str("the peer sent more in all than it may"),
            Self::BadFrame(error) => write!(f, "bad frame: {error}"),
            Self::HandshakeTimeout => f.write_str("the handshake took too long"),
            Self::Protocol(what) => write!(f, "protocol broken: {what}"),
            Self::Local => f.write_str("closed here"),
            Self::Aborted => f.write_str("aborted here"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::HandlerPanic => f.write_str("its handler panicked"),
            Self::Io(kind) => write!(f, "i/o error: {kind}"),
        }
    }
}

/// Who or what made a connection end.
///
/// ```
/// use netlib::{CloseReason, Fault};
///
/// assert_eq!(CloseReason::PeerClosed.fault(), Fault::Nobody);
/// assert_eq!(CloseReason::Reset.fault(), Fault::Network);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It ended in order, by either side.
    Nobody,
    /// The peer did what it should not, or did not do what it should.
    Peer,
    /// It never came about, or broke on the way.
    Network,
    /// A fault of this program or of its machine.
    Ours,
}

/// What happens when the output buffer passes [`ConnOptions::high_water`].
///
/// ```
/// use netlib::{ConnOptions, OutputPolicy};
///
/// // A subscriber that does not keep up loses its place.
/// let options = ConnOptions { policy: OutputPolicy::Close, high_water: 256 << 10, ..ConnOptions::default() };
/// # drop(options);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputPolicy {
    /// Only the callbacks are called.
    #[default]
    Notify,
    /// Reading from this connection stops until the low mark: right for a
    /// connection whose output answers its own input.
    Pause,
    /// A send that would go over the mark is dropped and answered with [`SendError::Full`]; one
    /// that fits is taken.
    Drop,
    /// The connection is closed with [`CloseReason::OutputLimit`].
    Close,
}

/// Limits and times of a connection. Cheap to share: one value serves a listener.
///
/// ```
/// use std::time::Duration;
/// use netlib::{ConnOptions, ListenOptions, Rate};
///
/// let conn = ConnOptions {
///     idle_timeout: Some(Duration::from_secs(120)),
///     read_rate: Some(Rate { bytes_per_second: 1 << 20, burst: 4 << 20 }),
///     ..ConnOptions::default()
/// };
/// let listen = ListenOptions { conn, ..ListenOptions::default() };
/// # drop(listen);
/// ```
#[derive(Clone, Debug)]
pub struct ConnOptions {
    /// Bytes queued for sending at which the policy sets in. 0 counts as 1: whatever the socket does not take at once.
    pub high_water: usize,
    /// Bytes at which it ends.
    pub low_water: usize,
    /// What it is.
    pub policy: OutputPolicy,
    /// Bytes queued for sending beyond which the connection is closed with
    /// [`CloseReason::OutputLimit`] under every policy. Only a single message that is
    /// larger by itself may pass it, and only through an empty buffer.
    pub output_limit: usize,
    /// Input that the handler has not used beyond which the connection is closed with
    /// [`CloseReason::BadFrame`]. Codecs refuse much earlier; this guards handlers
    /// that use nothing.
    pub input_limit: usize,
    /// Close after so long without input. None: never.
    pub idle_timeout: Option<Duration>,
    /// Close with [`CloseReason::Lifetime`] so long after the connection opened. None: never.
    pub lifetime: Option<Duration>,
    /// Close with [`CloseReason::InputLimit`] once more than this was received in all.
    pub max_bytes_in: Option<u64>,
    /// How fast the peer may send: over it, reading rests, and TCP slows the peer down.
    pub read_rate: Option<Rate>,
    /// How fast this side sends: over it, output waits. Not kept in an orderly close.
    pub write_rate: Option<Rate>,
    /// How long [`Conn::close`](crate::Conn::close) waits without progress: for the peer to take what is
    /// left, and then for its FIN.
    pub linger: Duration,
    /// Bytes read from the connection in one tick before others get their turn.
    pub read_budget: usize,
}

impl ConnOptions {
    /// Whether bytes are to be accounted for.
    pub(crate) fn meters(&self) -> bool {
        self.read_rate.is_some() || self.write_rate.is_some() || self.max_bytes_in.is_some()
    }
}

impl Default for ConnOptions {
    fn default() -> Self {
        Self {
            high_water: 1 << 20,
            low_water: 256 << 10,
            policy: OutputPolicy::Notify,
            output_limit: 4 << 20,
            input_limit: 32 << 20,
            idle_timeout: None,
            lifetime: None,
            max_bytes_in: None,
            read_rate: None,
            write_rate: None,
            linger: Duration::from_secs(5),
            read_budget: 128 << 10,
        }
    }
}

/// Why a send was not queued.
///
/// ```
/// use netlib::{Conn, SendError};
///
/// fn tell(conn: &Conn, news: &'static str, missed: &mut u64) {
///     match conn.send(news) {
///         Ok(()) => {}
///         Err(SendError::Full) => *missed += 1, // under OutputPolicy::Drop
///         Err(SendError::Closed) => {}          // its on_close has come, or comes
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The connection is closed, closing, or was just closed by its output limit.
    Closed,
    /// The output buffer is over its high mark and the policy is to drop.
    Full,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection is closed",
            Self::Full => "the connection's output buffer is full",
        })
    }
}

impl std::error::Error for SendError {}
