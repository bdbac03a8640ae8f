//! What a connection reads from and writes to: its socket, or a [layer](crate::layer) over it.

use std::any::Any;
use std::io;

use crate::buffer::{OutputBuffer, Progress};
use crate::layer::Layer;
use crate::socket::Stream;

/// A socket and what stands on it.
#[derive(Debug, Default)]
pub(crate) enum Transport {
    /// Not there yet, or gone.
    #[default]
    None,
    Plain(Stream),
    Layered(Box<Layered>),
}

#[derive(Debug)]
pub(crate) struct Layered {
    stream: Stream,
    layer: Box<dyn Layer>,
}

impl Transport {
    pub(crate) fn new(stream: Stream, layer: Option<Box<dyn Layer>>) -> Self {
        match layer {
            None => Self::Plain(stream),
            Some(layer) => Self::Layered(Box::new(Layered { stream, layer })),
        }
    }

    pub(crate) fn stream(&self) -> Option<&Stream> {
        match self {
            Self::None => None,
            Self::Plain(stream) => Some(stream),
            Self::Layered(layered) => Some(&layered.stream),
        }
    }

    pub(crate) fn layer<L: Layer>(&self) -> Option<&L> {
        let Self::Layered(layered) = self else { return None };
        (&*layered.layer as &dyn Any).downcast_ref()
    }

    pub(crate) fn is_layered(&self) -> bool {
        matches!(self, Self::Layered(_))
    }

    /// True once bytes can be exchanged.
    pub(crate) fn handshake(&mut self) -> io::Result<bool> {
        match self {
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            Self::Plain(_) => Ok(true),
            Self::Layered(layered) => layered.layer.handshake(&layered.stream),
        }
    }

    #[inline(always)]
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            Self::Plain(stream) => stream.read(buffer),
            Self::Layered(layered) => layered.layer.read(&layered.stream, buffer),
        }
    }

    pub(crate) fn write(&mut self, output: &mut OutputBuffer) -> io::Result<Progress> {
        match self {
            Self::None => Err(io::ErrorKind::NotConnected.into()),
            Self::Plain(stream) => output.write_to(stream),
            Self::Layered(layered) => layered.layer.write(&layered.stream, output),
        }
    }

    /// Bytes of a layer's own that wait to be written.
    pub(crate) fn pending(&self) -> usize {
        match self {
            Self::None | Self::Plain(_) => 0,
            Self::Layered(layered) => layered.layer.pending(),
        }
    }

    /// The layer's good-bye is to be written next.
    pub(crate) fn close_layer(&mut self) {
        if let Self::Layered(layered) = self {
            layered.layer.close();
        }
    }
}
