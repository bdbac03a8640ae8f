//! The other contract, beside readiness: [`Completions`].

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::{Buffer, Payload};
use crate::token::Token;

/// The other way to do I/O: the back end moves the bytes of plain stream connections itself and says when that is
/// done (completion), instead of saying when they could be moved (readiness).
///
/// A back end that can do this keeps both contracts: descriptors that were registered are reported by
/// [`Backend::wait`](super::Backend::wait) as ever, and streams that were handed over here are reported by
/// [`take`](Self::take) after it. A wait also returns, with an empty batch, when only the latter has something.
/// Nothing else may read from a stream while it is received from here, and nobody else write between a send and
/// its completion.
///
/// ```
/// use std::io::Write;
/// use std::os::fd::AsFd;
/// use netlib::backend::{BackendKind, Moved};
/// use netlib::Token;
///
/// let Ok(mut backend) = BackendKind::Uring.open() else { return Ok(()) }; // the kernel may refuse
/// let (mut near, far) = std::os::unix::net::UnixStream::pair()?;
/// let completions = backend.completions().expect("this back end moves bytes");
/// completions.receive(far.as_fd(), Token::new(1, 1))?;
///
/// near.write_all(b"hello")?;
/// backend.wait(&mut Vec::new(), None)?;
/// let mut moved = Vec::new();
/// backend.completions().expect("as before").take(&mut moved);
/// let Some(Moved::In { result: Ok(Some(bytes)), .. }) = moved.pop() else { panic!() };
/// assert_eq!(&bytes[..], b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Completions: fmt::Debug {
    /// Receives whatever comes, from the next wait on, until the peer ends its side, an error, or
    /// [`stop_receiving`](Self::stop_receiving).
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if it does already, and what the system says.
    fn receive(&mut self, stream: BorrowedFd<'_>, token: Token) -> io::Result<()>;

    /// Receives no more for now; does nothing if nothing is received. What was received before it took effect is
    /// still handed over.
    ///
    /// Before a stream is closed, this and then [`Backend::flush`](super::Backend::flush): what was to be sent is
    /// on its way then, and nothing holds the stream open.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn stop_receiving(&mut self, token: Token) -> io::Result<()>;

    /// Sends as much of it as the socket has room for, with the next wait. One send at a time per stream.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn send(&mut self, stream: BorrowedFd<'_>, token: Token, payload: Payload) -> io::Result<()>;

    /// Appends what has been moved by the waits since the last call: of each wait first what was sent, then what was
    /// received. After a [`flush`](super::Backend::flush) also what that has sent.
    fn take(&mut self, moved: &mut Vec<Moved>);
}

/// What has been moved for a stream.
#[derive(Debug)]
pub enum Moved {
    /// Something was received.
    In {
        /// What the stream was handed over with.
        token: Token,
        /// The bytes; `None` is the end of the peer's side.
        result: io::Result<Option<Buffer>>,
    },
    /// A send is over.
    Out {
        /// What the stream was handed over with.
        token: Token,
        /// How many bytes the kernel took; `WouldBlock` if none for want of room.
        result: io::Result<usize>,
        /// What was to be sent.
        payload: Payload,
    },
}
