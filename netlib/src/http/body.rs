//! Where a message's body ends, for both sides: by its length, by its chunks, or with the
//! connection. Sans-I/O.

use super::chunked::{BadChunk, Chunked, Step};
use super::parse::BodyLength;

/// Decodes one body.
#[derive(Debug, Clone)]
pub(super) enum BodyDecoder {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
    /// Everything up to the end of the connection.
    UntilClose,
}

impl BodyDecoder {
    /// No body, or no more of it.
    pub(super) const NONE: Self = Self::Length(0);

    /// Of a request, whose body is stated or absent.
    pub(super) fn of_request(length: &BodyLength) -> Self {
        match length {
            BodyLength::Unstated => Self::NONE,
            BodyLength::Known(length) => Self::Length(*length),
            BodyLength::Chunked => Self::Chunked(Chunked::new()),
        }
    }

    /// Of a response that may have a body.
    pub(super) fn of_response(length: &BodyLength) -> Self {
        match length {
            BodyLength::Unstated => Self::UntilClose,
            stated => Self::of_request(stated),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// Goes on to the next piece of data, the end, or the end of the input. At the end the
    /// decoder is [`NONE`](Self::NONE).
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, BadChunk> {
        let step = match self {
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= count as u64;
                Step { used: count, data: 0..count, end: *left == 0 }
            }
            Self::Chunked(chunked) => chunked.step(input)?,
            Self::UntilClose => Step { used: input.len(), data: 0..input.len(), end: false },
        };
        if step.end {
            *self = Self::NONE;
        }
        Ok(step)
    }
}
