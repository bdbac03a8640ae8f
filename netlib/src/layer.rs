//! What may stand between a connection and its socket: a layer such as TLS, which turns what a
//! handler sends into what the peer expects on the wire, and back. Handlers do not notice: the
//! same `Conn`, the same callbacks, `on_open` once the layer's handshake is complete.
//!
//! A layer reads from and writes to the socket it is given and never waits: where the socket
//! would block, so does it (`WouldBlock`). It asks nobody for the time; the deadline of its
//! handshake is kept by the reactor.

use std::any::Any;
use std::{fmt, io};

use crate::buffer::{OutputBuffer, Progress};
use crate::socket::Stream;

/// One connection's layer. All calls come from the reactor's thread, none of them nested.
///
/// An error of kind `InvalidData` says that the peer broke the layer's protocol: it ends the
/// connection with [`CloseReason::Protocol`](crate::CloseReason::Protocol) and the error's text,
/// after what is [`pending`](Self::pending) (an alert, say) was offered to the socket once. Any
/// other error is the socket's.
///
/// ```
/// use std::io;
/// use netlib::buffer::{OutputBuffer, Progress};
/// use netlib::layer::Layer;
/// use netlib::socket::Stream;
///
/// /// The layer that changes nothing.
/// #[derive(Debug)]
/// struct Plain;
///
/// impl Layer for Plain {
///     fn handshake(&mut self, _: &Stream) -> io::Result<bool> {
///         Ok(true)
///     }
///
///     fn read(&mut self, stream: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
///         stream.read(buffer)
///     }
///
///     fn write(&mut self, stream: &Stream, output: &mut OutputBuffer) -> io::Result<Progress> {
///         output.write_to(stream)
///     }
///
///     fn pending(&self) -> usize {
///         0
///     }
///
///     fn close(&mut self) {}
/// }
/// ```
pub trait Layer: Any + fmt::Debug {
    /// Moves the handshake on as far as the socket allows; true once it is complete. Called
    /// again whenever the socket is ready. The end of the stream in its middle is
    /// `UnexpectedEof`.
    ///
    /// # Errors
    ///
    /// See [`Layer`]: `InvalidData` is the peer's fault, `UnexpectedEof` an end in the middle.
    fn handshake(&mut self, stream: &Stream) -> io::Result<bool>;

    /// Reads what the peer's handler sent, up to the size of `buffer`; 0 is the end, in order:
    /// a stream that is cut off is `UnexpectedEof`. The reactor goes on until `WouldBlock`,
    /// since a short read says nothing about the socket here.
    ///
    /// # Errors
    ///
    /// See [`Layer`]; `WouldBlock` when nothing is there.
    fn read(&mut self, stream: &Stream, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes from `output` and writes to the socket. [`Progress::written`] counts bytes taken
    /// from `output`; `blocked` says that the socket takes no more for now. Called also with an
    /// empty `output` while something is [`pending`](Self::pending).
    ///
    /// # Errors
    ///
    /// See [`Layer`]. A socket without room is no error, but `blocked`.
    fn write(&mut self, stream: &Stream, output: &mut OutputBuffer) -> io::Result<Progress>;

    /// Bytes of the layer's own that wait to be written: what it has encoded but the socket
    /// has not taken, its handshake's messages, its good-bye.
    fn pending(&self) -> usize;

    /// No more will be sent: prepares the layer's good-bye, if it has one, which the following
    /// [`write`](Self::write) sends. Our FIN comes behind it.
    fn close(&mut self);
}

/// Makes the layer of each connection of a listener or a connector. Shared by threads.
///
/// ```
/// use std::io;
/// use std::sync::Arc;
/// use netlib::layer::{Layer, LayerFactory};
/// use netlib::ListenOptions;
///
/// #[derive(Debug)]
/// struct Plaintext;
///
/// impl LayerFactory for Plaintext {
///     fn layer(&self) -> io::Result<Box<dyn Layer>> {
///         Err(io::Error::other("there is no such layer here; see netlib::tls"))
///     }
/// }
///
/// let options = ListenOptions { layer: Some(Arc::new(Plaintext)), ..ListenOptions::default() };
/// # drop(options);
/// ```
pub trait LayerFactory: Send + Sync + fmt::Debug {
    /// A layer for one new connection, its handshake not begun.
    ///
    /// # Errors
    ///
    /// If there can be none; the connection is then refused.
    fn layer(&self) -> io::Result<Box<dyn Layer>>;
}
