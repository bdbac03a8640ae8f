//! Any pollable descriptor (a pipe, a terminal, a signalfd, another loop) as a
//! source of events beside the sockets.

use std::os::fd::{AsFd, BorrowedFd};

use crate::backend::Interest;
use crate::context::Context;
use crate::token::Token;

/// What a descriptor is ready for.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use netlib::backend::Interest;
/// use netlib::{Reactor, ReactorConfig, Ready};
///
/// let mut reactor = Reactor::<Vec<u8>>::new(ReactorConfig::default())?;
/// let (mut near, far) = UnixStream::pair()?;
/// near.write_all(b"hello")?;
/// far.set_nonblocking(true)?;
/// reactor.context().add_source(far, Interest::READABLE, |read: &mut Vec<u8>, cx, far, ready: Ready| {
///     assert!(ready.readable && !ready.writable);
///     let mut buffer = [0; 16];
///     if let Ok(n) = far.read(&mut buffer) {
///         read.extend(&buffer[..n]);
///         cx.stop();
///     }
/// })?;
/// let mut read = Vec::new();
/// reactor.run(&mut read)?;
/// assert_eq!(read, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read makes progress (data, end or error).
    pub readable: bool,
    /// A write makes progress.
    pub writable: bool,
}

/// Names a source, see [`Context::add_source`].
///
/// Thread rule: a value that any thread may hold; only its own reactor knows what it means.
///
/// ```
/// use netlib::backend::Interest;
/// use netlib::{Reactor, ReactorConfig, SourceId};
///
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// let (near, far) = std::os::unix::net::UnixStream::pair()?;
/// let id: SourceId = reactor.context().add_source(far, Interest::READABLE, |(), _, _, _| ())?;
/// assert!(reactor.context().remove_source(id));
/// assert!(!reactor.context().remove_source(id));
/// # drop(near);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub(crate) Token);

/// A descriptor and its callback, whatever their types.
pub(crate) trait Source<S: 'static> {
    fn fd(&self) -> BorrowedFd<'_>;
    fn ready(&mut self, state: &mut S, cx: &mut Context<S>, ready: Ready);
}

pub(crate) struct FdSource<F, C> {
    pub(crate) fd: F,
    pub(crate) callback: C,
}

impl<S, F, C> Source<S> for FdSource<F, C>
where
    S: 'static,
    F: AsFd,
    C: FnMut(&mut S, &mut Context<S>, &mut F, Ready),
{
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn ready(&mut self, state: &mut S, cx: &mut Context<S>, ready: Ready) {
        (self.callback)(state, cx, &mut self.fd, ready);
    }
}

pub(crate) struct SourceSlot<S: 'static> {
    /// Taken out while its callback runs.
    pub(crate) source: Option<Box<dyn Source<S>>>,
    /// What it is watched for.
    pub(crate) interest: Interest,
    /// Its callback asked for its removal.
    pub(crate) removed: bool,
}
