//! PDUs: where one ends in a stream of bytes, what its header says, how one is built.
//!
//! Sans I/O: a stream adapter calls [`frame_len`] on what has arrived, cuts that many bytes off and hands them
//! to [`PduRef::parse`]. Nothing here panics, whatever the bytes are. Layout: spec/wire.md §1 and §2.
//!
//! ```text
//!  0       4         6      8         10        12    14         16
//! +--------+---------+------+---------+---------+-----+----------+------------
//! | length | version | flag | service | command | seq | reserved | body
//! +--------+---------+------+---------+---------+-----+----------+------------
//!   big-endian; length counts the header too
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::command::{Body, Command};

/// Length of the header; a PDU without fields is this long.
pub const HEADER_LEN: usize = 16;

/// Longest PDU a server takes from a client.
pub const MAX_FROM_CLIENT: usize = 400 * 1024;

/// Longest PDU on a link between servers.
pub const MAX_ON_LINK: usize = 16 * 1024 * 1024;

/// Longest PDU a server sends to a client: one known client refuses frames above 400 KiB. [`fit`] says how
/// much of a list that leaves room for.
pub const MAX_TO_CLIENT: usize = 384 * 1024;

/// Longest `msg_data` of a text message, enciphered as it is received.
pub const MAX_TEXT: usize = 4096;

/// Longest `msg_data` of a voice message.
pub const MAX_VOICE: usize = 256 * 1024;

/// The version that this implementation writes; none is checked.
const VERSION: u16 = 1;

/// A header field that makes the rest of the stream unreadable: the connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field does not even cover the header.
    #[error("length {0} is shorter than a header")]
    TooShort(u32),
    /// The length field is above the link's limit.
    #[error("length {length} is above the limit of {max}")]
    TooLong {
        /// What the header says, in bytes.
        length: u32,
        /// The limit, in bytes.
        max: usize,
    },
    /// The bytes given as one PDU are not as many as its header says.
    #[error("length {length}, but {actual} bytes")]
    Mismatch {
        /// What the header says; 0 if the bytes do not even hold one.
        length: u32,
        /// The bytes that were given.
        actual: usize,
    },
}

impl FrameError {
    /// The same without the numbers: for a close reason or a metric's label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooShort(_) => "length shorter than a header",
            Self::TooLong { .. } => "length above the limit",
            Self::Mismatch { .. } => "length is not that of the frame",
        }
    }
}

/// A body that cannot be read. The PDU is dropped; the stream itself is intact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The caller asked for the message of another command. A mistake of the caller, not of the peer.
    #[error("command {found:#06x} does not carry the message of {expected}")]
    WrongCommand {
        /// The command of the message asked for.
        expected: Command,
        /// The command in the header.
        found: u16,
    },
    /// The body is no such message.
    #[error("bad body: {0}")]
    Body(#[from] prost::DecodeError),
}

/// The 16 bytes before the body. Only `length`, `command` and `seq` mean anything to a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole PDU, the header included.
    pub length: u32,
    /// 1 from servers; clients write what they like.
    pub version: u16,
    /// 0.
    pub flag: u16,
    /// The command's family. Some clients dispatch on it, servers ignore it.
    pub service: u16,
    /// What the PDU is: see [`Command`].
    pub command: u16,
    /// Chosen by the requester and echoed in the reply; 0 in whatever a server sends unasked.
    pub seq: u16,
    /// 0 from servers; clients write what they like.
    pub reserved: u16,
}

impl Header {
    /// The header of a PDU of `command` with a body of `body_len` bytes.
    pub fn new(command: u16, seq: u16, body_len: usize) -> Self {
        // A body beyond 4 GiB has no representation. The saturated length is above every limit, so no
        // receiver takes it for something else.
        let length = u32::try_from(HEADER_LEN.saturating_add(body_len)).unwrap_or(u32::MAX);
        Self { length, version: VERSION, flag: 0, service: command >> 8, command, seq, reserved: 0 }
    }

    /// Reads the first 16 bytes of `input`, whatever they say; `None` if there are fewer.
    pub fn read(input: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = input.first_chunk()?;
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            length: u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            version: half(4),
            flag: half(6),
            service: half(8),
            command: half(10),
            seq: half(12),
            reserved: half(14),
        })
    }

    /// Appends the 16 bytes to `out`.
    pub fn write(&self, out: &mut impl BufMut) {
        out.put_u32(self.length);
        for half in [self.version, self.flag, self.service, self.command, self.seq, self.reserved] {
            out.put_u16(half);
        }
    }
}

/// The length of the PDU that `input` starts with, once all of it is there; `None` while more bytes are needed.
///
/// `max` is the limit of the link, such as [`MAX_FROM_CLIENT`]. A length that is too small or too large is
/// reported as soon as its four bytes have arrived, so a peer cannot make a receiver buffer towards it.
pub fn frame_len(input: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
    let Some(&length) = input.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(length);
    // Where usize is narrower than u32, a length that does not fit is above any limit.
    let total = usize::try_from(length).unwrap_or(usize::MAX);
    if total < HEADER_LEN {
        return Err(FrameError::TooShort(length));
    }
    if total > max {
        return Err(FrameError::TooLong { length, max });
    }
    Ok((input.len() >= total).then_some(total))
}

/// One PDU within a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PduRef<'a> {
    /// The header.
    pub header: Header,
    /// The bytes after it: one protobuf message.
    pub body: &'a [u8],
}

impl<'a> PduRef<'a> {
    /// Takes apart a frame that [`frame_len`] has cut out of a stream: exactly one PDU.
    pub fn parse(frame: &'a [u8]) -> Result<Self, FrameError> {
        let mismatch = |length| FrameError::Mismatch { length, actual: frame.len() };
        let (Some(header), Some(body)) = (Header::read(frame), frame.get(HEADER_LEN..)) else {
            return Err(mismatch(0));
        };
        if usize::try_from(header.length) != Ok(frame.len()) {
            return Err(mismatch(header.length));
        }
        Ok(Self { header, body })
    }

    /// The body as the message of its command. Lenient about what is missing: see the crate's introduction.
    pub fn decode<M: Body>(&self) -> Result<M, DecodeError> {
        if self.header.command != M::COMMAND.id() {
            return Err(DecodeError::WrongCommand { expected: M::COMMAND, found: self.header.command });
        }
        Ok(M::decode(self.body)?)
    }

    /// The same PDU in memory of its own: to pass it on with everything in it, fields unknown here included.
    pub fn to_bytes(&self) -> Bytes {
        let header = Header { length: Header::new(0, 0, self.body.len()).length, ..self.header };
        frame(header, self.body)
    }

    /// The same PDU under another sequence number, such as 0 on its way to somebody who did not ask.
    pub fn with_seq(self, seq: u16) -> Self {
        Self { header: Header { seq, ..self.header }, ..self }
    }
}

/// Builds the PDU that carries `message`.
pub fn encode<M: Body>(seq: u16, message: &M) -> Bytes {
    let body_len = message.encoded_len();
    let mut out = BytesMut::with_capacity(HEADER_LEN + body_len);
    Header::new(M::COMMAND.id(), seq, body_len).write(&mut out);
    // `encode_raw` is `encode` without the check for room: BytesMut grows.
    message.encode_raw(&mut out);
    out.freeze()
}

/// Builds a PDU around a body that is already encoded.
pub fn encode_raw(command: u16, seq: u16, body: &[u8]) -> Bytes {
    frame(Header::new(command, seq, body.len()), body)
}

fn frame(header: Header, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_LEN + body.len());
    header.write(&mut out);
    out.put_slice(body);
    out.freeze()
}

/// How many of `items`, from the first on, `reply` can carry in one repeated field without its PDU growing
/// beyond `max` bytes. `reply` is complete but for the items.
///
/// ```
/// use tt_proto::im::base_define::MsgInfo;
/// use tt_proto::im::message::ImGetMsgListRsp;
/// use tt_proto::pdu;
///
/// let page = vec![MsgInfo { msg_data: vec![b'x'; 1000].into(), ..MsgInfo::default() }; 1000];
/// let mut reply = ImGetMsgListRsp::default();
/// let fitting = pdu::fit(&reply, &page, pdu::MAX_TO_CLIENT);
/// reply.msg_list = page[..fitting].to_vec();
///
/// assert!(fitting < page.len());
/// assert!(pdu::encode(1, &reply).len() <= pdu::MAX_TO_CLIENT);
/// ```
pub fn fit<M: Body, T: Message>(reply: &M, items: &[T], max: usize) -> usize {
    let mut room = max.saturating_sub(HEADER_LEN).saturating_sub(reply.encoded_len());
    items
        .iter()
        .take_while(|item| {
            // Two bytes of key cover every field number in use, then the length, then the item.
            let len = item.encoded_len();
            let cost = len.saturating_add(2 + prost::length_delimiter_len(len));
            room.checked_sub(cost).map(|rest| room = rest).is_some()
        })
        .count()
}
