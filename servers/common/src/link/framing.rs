//! Where netlib meets the protocol: PDU framing as a netlib decoder.

use std::cell::Cell;
use std::rc::Rc;

use netlib::{Decode, Frame, FrameError};
use tt_proto::pdu::{self, MAX_ON_LINK};

/// Cuts a byte stream into PDUs of at most a given size. A length below the header's or above the limit ends
/// the connection (spec/netlib.md G6.1).
#[derive(Clone, Copy, Debug)]
pub struct PduFraming {
    max: usize,
}

impl PduFraming {
    /// Accepts PDUs of up to `max` bytes, header included.
    pub fn new(max: usize) -> Self {
        Self { max }
    }
}

impl Decode for PduFraming {
    fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError> {
        match pdu::frame_len(input, self.max) {
            Ok(Some(len)) if len <= input.len() => Ok(Some(Frame { consumed: len, body: 0..len })),
            Ok(_) => Ok(None),
            Err(pdu::FrameError::TooShort(_)) => Err(FrameError::TooShort),
            Err(pdu::FrameError::TooLong { .. }) => Err(FrameError::TooLong),
            Err(pdu::FrameError::Mismatch { .. }) => Err(FrameError::Malformed("length and size differ")),
        }
    }
}

/// The framing of a link: a peer that has not shown who it is may send greetings, which are short, and so
/// make the server hold next to nothing.
#[derive(Clone, Debug)]
pub(super) struct LinkFraming {
    admitted: Rc<Cell<bool>>,
}

/// The longest PDU before a peer is admitted, in bytes.
const MAX_STRANGE: usize = 4 * 1024;

impl LinkFraming {
    /// `admitted` is set when the peer is.
    pub(super) fn new(admitted: Rc<Cell<bool>>) -> Self {
        Self { admitted }
    }
}

impl Decode for LinkFraming {
    fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError> {
        PduFraming::new(if self.admitted.get() { MAX_ON_LINK } else { MAX_STRANGE }).decode(input)
    }
}
