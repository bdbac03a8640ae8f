//! Any pollable descriptor (a pipe, a terminal, a signalfd, another loop) as a
//! source of events beside the sockets.

use std::os::fd::{AsFd, BorrowedFd};

use crate::backend::Interest;
use crate::context::Context;
use crate::token::Token;

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read makes progress (data, end or error).
    pub readable: bool,
    /// A write makes progress.
    pub writable: bool,
}

/// Names a source, see [`Context::add_source`].
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
