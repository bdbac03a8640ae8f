//! Lets netlib cut a byte stream into PDUs. The rule itself is tt-proto's; this is the adapter
//! between two crates that do not know each other.

use netlib::{Decode, Frame, FrameError};
use tt_proto::pdu;

/// The longest PDU that this side accepts, in bytes with the header. The servers of this project
/// stay below 384 KiB; the recorded ones had no limit, so a long address book of theirs must fit.
pub const MAX_FROM_SERVER: usize = 4 * 1024 * 1024;

/// Cuts the stream from a message server into PDUs (header and body).
#[derive(Debug, Clone, Copy, Default)]
pub struct PduDecoder;

impl Decode for PduDecoder {
    fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError> {
        match pdu::frame_len(input, MAX_FROM_SERVER) {
            Ok(whole) => Ok(whole.map(|len| Frame { consumed: len, body: 0..len })),
            Err(pdu::FrameError::TooShort(_)) => Err(FrameError::TooShort),
            Err(pdu::FrameError::TooLong { .. }) => Err(FrameError::TooLong),
            Err(pdu::FrameError::Mismatch { .. }) => Err(FrameError::Malformed("a PDU of another length than it says")),
        }
    }
}
