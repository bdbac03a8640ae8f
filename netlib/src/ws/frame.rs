//! Frames and the messages they add up to, sans-I/O and incremental: bytes in, events out, however
//! the bytes are cut. The syntax of a frame's header is tungstenite's; what is ours is the
//! assembly: its `WebSocketContext` keeps a read buffer per connection, looks at a text only when
//! its frame is complete, and answers every ping of a flood.

use std::io::Cursor;
use std::ops::Range;

use bytes::Bytes;
use tungstenite::handshake::client::generate_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::handshake::decode_key;
use super::{CloseCode, CloseFrame, Options};

/// The most that a control frame carries.
pub(super) const MAX_CONTROL: usize = 125;
/// How far ahead of what has arrived a message's memory grows: a peer that announces much and
/// sends little costs little.
const GROWTH: usize = 64 * 1024;

/// Which side of the protocol this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Sends plain, receives masked frames.
    Server,
    /// The other way round.
    Client,
}

/// A broken rule, and the close code that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: CloseCode,
    pub(super) what: &'static str,
}

const fn protocol(what: &'static str) -> Violation {
    Violation { code: CloseCode::PROTOCOL, what }
}

const NOT_UTF8: Violation = Violation { code: CloseCode::INVALID_PAYLOAD, what: "text that is not UTF-8" };
const TOO_BIG: Violation = Violation { code: CloseCode::TOO_BIG, what: "message over the limit" };

/// Something whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    Text(&'a str),
    Binary(Bytes),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Close(CloseFrame),
}

/// What [`Reader::advance`] found, to be taken out with [`Reader::event`].
#[derive(Debug)]
pub(super) struct Found(What);

#[derive(Debug)]
enum What {
    /// Within the input given to `advance`.
    MessageIn(bool, Range<usize>),
    /// In `Reader::payload`; is it text?
    Message(bool),
    /// In `Reader::control`.
    Control(Control),
}

/// A data frame whose payload is arriving.
#[derive(Debug)]
struct Open {
    is_final: bool,
    mask: Option<[u8; 4]>,
    /// Bytes seen and bytes to come.
    seen: usize,
    left: usize,
}

/// A message that has begun and not ended.
#[derive(Debug)]
struct Begun {
    text: bool,
    frames: u32,
    /// So much of the payload is known to be whole characters.
    checked: usize,
}

/// Reads one direction of a connection. Owns memory only while a message is incomplete.
#[derive(Debug)]
pub(super) struct Reader {
    role: Role,
    max_frame: usize,
    max_message: usize,
    max_fragments: u32,
    frame: Option<Open>,
    message: Option<Begun>,
    payload: Vec<u8>,
    control: Vec<u8>,
    discards: bool,
}

impl Reader {
    pub(super) fn new(role: Role, options: &Options) -> Self {
        Self {
            role,
            max_frame: options.max_frame,
            max_message: options.max_message,
            max_fragments: options.max_fragments,
            frame: None,
            message: None,
            payload: Vec::new(),
            control: Vec::new(),
            discards: false,
        }
    }

    /// From now on messages are skipped: they cost no memory and are not reported.
    pub(super) fn discard(&mut self) {
        self.discards = true;
        self.payload = Vec::new();
    }

    /// Gives back what a finished burst of messages has left allocated.
    pub(super) fn rest(&mut self) {
        if self.message.is_none() {
            self.payload = Vec::new();
        }
        self.control = Vec::new();
    }

    /// Reads on up to the next whole message or control frame. Returns the bytes used, which
    /// are not to be shown again; what is not used is to be shown again with more behind it.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<(usize, Option<Found>), Violation> {
        let mut used = 0;
        loop {
            if self.frame.is_none() {
                let rest = &input[used..];
                let Some((header, length, size)) = self.header(rest)? else { return Ok((used, None)) };
                if let OpCode::Control(kind) = header.opcode {
                    // Small enough to wait for.
                    let Some(body) = rest.get(size..size + length) else { return Ok((used, None)) };
                    self.control.clear();
                    self.control.extend_from_slice(body);
                    if let Some(mask) = header.mask {
                        apply_mask(&mut self.control, mask, 0);
                    }
                    return Ok((used + size + length, Some(Found(What::Control(kind)))));
                }
                self.begin(&header, length)?;
                used += size;
            }
            let (taken, found) = self.data(&input[used..])?;
            let found = found.map(|found| match found {
                What::MessageIn(text, range) => What::MessageIn(text, used + range.start..used + range.end),
                other => other,
            });
            used += taken;
            if found.is_some() || self.frame.is_some() {
                return Ok((used, found.map(Found)));
            }
        }
    }

    /// What was found in `input`, the argument of that call of [`advance`](Self::advance).
    pub(super) fn event<'a>(&'a mut self, input: &'a [u8], found: Found) -> Result<Event<'a>, Violation> {
        match found.0 {
            What::MessageIn(true, range) => as_text(&input[range]).map(Event::Text),
            What::MessageIn(false, range) => Ok(Event::Binary(Bytes::copy_from_slice(&input[range]))),
            What::Message(true) => as_text(&self.payload).map(Event::Text),
            What::Message(false) => Ok(Event::Binary(std::mem::take(&mut self.payload).into())),
            What::Control(Control::Ping) => Ok(Event::Ping(&self.control)),
            What::Control(Control::Pong) => Ok(Event::Pong(&self.control)),
            What::Control(_) => close_frame(&self.control).map(Event::Close),
        }
    }

    /// The header at the beginning of `input`, its payload's length and its own.
    fn header(&self, input: &[u8]) -> Result<Option<(FrameHeader, usize, usize)>, Violation> {
        let mut cursor = Cursor::new(input);
        // Its only error: a reserved opcode.
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| protocol("reserved opcode"))?;
        let Some((header, length)) = parsed else { return Ok(None) };
        let size = cursor.position() as usize;
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(protocol("reserved bit without an extension"));
        }
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(protocol("frame of a client without a mask")),
            (Role::Client, Some(_)) => return Err(protocol("frame of a server with a mask")),
            _ => {}
        }
        if size != header.len(length) || length > i64::MAX as u64 {
            return Err(protocol("length not in its shortest form"));
        }
        if matches!(header.opcode, OpCode::Control(_)) {
            if !header.is_final {
                return Err(protocol("control frame in fragments"));
            }
            if length > MAX_CONTROL as u64 {
                return Err(protocol("control frame over 125 bytes"));
            }
        }
        // `begin` compares with the real limits; here only what does not fit a number.
        let length = usize::try_from(length).map_err(|_| TOO_BIG)?;
        Ok(Some((header, length, size)))
    }

    /// A data frame begins.
    fn begin(&mut self, header: &FrameHeader, length: usize) -> Result<(), Violation> {
        match (header.opcode, &mut self.message) {
            (OpCode::Data(Data::Continue), Some(message)) => {
                message.frames += 1;
                if message.frames > self.max_fragments {
                    return Err(Violation { code: CloseCode::POLICY, what: "message in too many fragments" });
                }
            }
            (OpCode::Data(Data::Continue), None) => return Err(protocol("continuation of nothing")),
            (_, Some(_)) => return Err(protocol("message within a message")),
            (opcode, none) => {
                self.payload.clear();
                *none = Some(Begun { text: opcode == OpCode::Data(Data::Text), frames: 1, checked: 0 });
            }
        }
        let over = length > self.max_frame || length > self.max_message.saturating_sub(self.payload.len());
        if over && !self.discards {
            return Err(TOO_BIG);
        }
        self.frame = Some(Open { is_final: header.is_final, mask: header.mask, seen: 0, left: length });
        Ok(())
    }

    /// Payload of the data frame that is open. Returns the bytes used, and the message if this
    /// was its end.
    fn data(&mut self, input: &[u8]) -> Result<(usize, Option<What>), Violation> {
        let (Some(frame), Some(message)) = (&mut self.frame, &mut self.message) else { return Ok((0, None)) };
        let chunk = &input[..frame.left.min(input.len())];
        let ends = frame.left == chunk.len();
        let whole = ends && frame.is_final;
        if whole && frame.mask.is_none() && frame.seen == 0 && message.frames == 1 && !self.discards {
            // All of it is here and plain: no need to keep it.
            let text = message.text;
            (self.frame, self.message) = (None, None);
            return Ok((chunk.len(), Some(What::MessageIn(text, 0..chunk.len()))));
        }
        if !self.discards {
            let start = self.payload.len();
            if self.payload.capacity() - start < chunk.len() {
                self.payload.reserve_exact(chunk.len().max(frame.left.min(start.max(GROWTH))));
            }
            self.payload.extend_from_slice(chunk);
            if let Some(mask) = frame.mask {
                apply_mask(&mut self.payload[start..], mask, frame.seen);
            }
            // A whole message is looked at when it is taken out.
            if message.text && !whole {
                message.checked += whole_characters(&self.payload[message.checked..])?;
            }
        }
        frame.seen += chunk.len();
        frame.left -= chunk.len();
        if ends {
            self.frame = None;
        }
        if !whole {
            return Ok((chunk.len(), None));
        }
        let text = message.text;
        self.message = None;
        Ok((chunk.len(), (!self.discards).then_some(What::Message(text))))
    }
}

fn as_text(bytes: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)
}

/// The length of the whole characters that `bytes` begin with; an error if what follows them can
/// no longer become one.
fn whole_characters(bytes: &[u8]) -> Result<usize, Violation> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(NOT_UTF8),
    }
}

fn close_frame(body: &[u8]) -> Result<CloseFrame, Violation> {
    match body {
        [] => Ok(CloseFrame { code: CloseCode::NO_STATUS, reason: String::new() }),
        [_] => Err(protocol("half a close code")),
        [high, low, reason @ ..] => {
            let code =
                CloseCode::new(u16::from_be_bytes([*high, *low])).ok_or(protocol("close code not for the wire"))?;
            Ok(CloseFrame { code, reason: as_text(reason)?.to_owned() })
        }
    }
}

/// Masks, or takes the mask away; `offset` is how much of the payload came before.
pub(super) fn apply_mask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut turned = mask;
    turned.rotate_left(offset % 4);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The header of a whole, unfragmented message or control frame.
pub(super) fn header(opcode: OpCode, length: usize, mask: Option<[u8; 4]>, room: usize) -> Vec<u8> {
    let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
    let mut bytes = Vec::with_capacity(header.len(length as u64) + room);
    header.format(length as u64, &mut bytes).expect("a Vec takes everything");
    bytes
}

/// A whole frame.
pub(super) fn encode(opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = header(opcode, payload.len(), mask, payload.len());
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut bytes[start..], mask, 0);
    }
    bytes
}

/// The payload of a close frame. A reason that is too long is cut between characters.
pub(super) fn close_payload(frame: &CloseFrame) -> Vec<u8> {
    if frame.code == CloseCode::NO_STATUS {
        return Vec::new();
    }
    let mut payload = frame.code.value().to_be_bytes().to_vec();
    let reason = &frame.reason;
    let cut = reason.floor_char_boundary(MAX_CONTROL - payload.len());
    payload.extend_from_slice(&reason.as_bytes()[..cut]);
    payload
}

/// The masks of a client. They must not be foreseeable by whoever chooses the payload (RFC 6455
/// §10.3), so they come from the generator of tungstenite's handshake keys, four from each key.
#[derive(Debug, Default)]
pub(super) struct Masks {
    pool: [u8; 16],
    left: usize,
}

impl Masks {
    pub(super) fn next(&mut self) -> [u8; 4] {
        if self.left == 0 {
            self.pool = decode_key(generate_key().as_bytes()).expect("a generated key is 16 bytes in base64");
            self.left = 4;
        }
        self.left -= 1;
        let at = self.left * 4;
        [self.pool[at], self.pool[at + 1], self.pool[at + 2], self.pool[at + 3]]
    }
}

/// For the tests and the fuzz target: a stream read in pieces, and what came out.
#[cfg(any(test, fuzzing))]
pub(super) mod by_pieces {
    use super::{Event, Reader, Role, Violation};
    use crate::ws::{CloseFrame, Options};

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(in crate::ws) enum Seen {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(CloseFrame),
    }

    /// Shows `stream` in pieces of `step` bytes, as a connection does: what is not used is shown
    /// again. Ends at a close frame or a violation.
    pub(in crate::ws) fn read(
        role: Role,
        options: &Options,
        stream: &[u8],
        step: usize,
    ) -> (Vec<Seen>, Option<Violation>) {
        let mut reader = Reader::new(role, options);
        let (mut seen, mut begin, mut end) = (Vec::new(), 0, 0);
        while end < stream.len() {
            end = (end + step).min(stream.len());
            loop {
                let input = &stream[begin..end];
                let found = match reader.advance(input) {
                    Err(violation) => return (seen, Some(violation)),
                    Ok((used, found)) => {
                        assert!(used <= input.len());
                        begin += used;
                        found
                    }
                };
                let Some(found) = found else { break };
                match reader.event(input, found) {
                    Err(violation) => return (seen, Some(violation)),
                    Ok(Event::Text(text)) => seen.push(Seen::Text(text.to_owned())),
                    Ok(Event::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
                    Ok(Event::Ping(payload)) => seen.push(Seen::Ping(payload.to_vec())),
                    Ok(Event::Pong(payload)) => seen.push(Seen::Pong(payload.to_vec())),
                    Ok(Event::Close(frame)) => {
                        seen.push(Seen::Close(frame));
                        return (seen, None);
                    }
                }
            }
            reader.rest();
        }
        for event in &seen {
            match event {
                Seen::Text(text) => assert!(text.len() <= options.max_message),
                Seen::Binary(bytes) => assert!(bytes.len() <= options.max_message),
                Seen::Ping(payload) | Seen::Pong(payload) => assert!(payload.len() <= super::MAX_CONTROL),
                Seen::Close(_) => {}
            }
        }
        (seen, None)
    }
}

#[cfg(test)]
mod tests {
    use super::by_pieces::{Seen, read};
    use super::*;
    use crate::clock::SplitMix64;

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

    fn data(opcode: Data, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mut bytes = encode(OpCode::Data(opcode), payload, MASK);
        if !is_final {
            bytes[0] &= 0x7f;
        }
        bytes
    }

    fn control(opcode: Control, payload: &[u8]) -> Vec<u8> {
        encode(OpCode::Control(opcode), payload, MASK)
    }

    #[test]
    fn where_the_input_is_cut_makes_no_difference() {
        let stream = [
            data(Data::Text, true, "grüße".as_bytes()),
            data(Data::Binary, false, &[7; 300]),
            control(Control::Ping, b"between"),
            data(Data::Continue, false, &[]),
            data(Data::Continue, true, &[8; 5]),
            control(Control::Pong, b""),
            control(Control::Close, &[0x03, 0xe8, b'!']),
        ]
        .concat();
        let expected = [
            Seen::Text("grüße".into()),
            Seen::Ping(b"between".to_vec()),
            Seen::Binary([vec![7; 300], vec![8; 5]].concat()),
            Seen::Pong(Vec::new()),
            Seen::Close(CloseFrame { code: CloseCode::NORMAL, reason: "!".into() }),
        ];
        for step in 1..=stream.len() {
            assert_eq!(read(Role::Server, &Options::default(), &stream, step), (expected.to_vec(), None), "{step}");
        }
    }

    #[test]
    fn a_mask_is_put_on_and_taken_off_at_any_offset() {
        let plain: Vec<u8> = (0..100).collect();
        for offset in 0..9 {
            for length in 0..plain.len() {
                let mut bytes = plain[..length].to_vec();
                apply_mask(&mut bytes, [0xa1, 0xb2, 0xc3, 0xd4], offset);
                let naive = |(n, byte): (usize, &u8)| byte ^ [0xa1, 0xb2, 0xc3, 0xd4][(n + offset) % 4];
                assert_eq!(bytes, plain[..length].iter().enumerate().map(naive).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn lengths_in_more_bytes_than_needed_are_refused() {
        for header in [&[0x82, 0xfe, 0, 125, 0, 0, 0, 0][..], &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]] {
            let (seen, broken) = read(Role::Server, &Options::default(), header, header.len());
            assert_eq!((seen.len(), broken.map(|violation| violation.code)), (0, Some(CloseCode::PROTOCOL)));
        }
    }

    #[test]
    fn each_side_masks_as_it_must() {
        let plain = encode(OpCode::Data(Data::Text), b"a", None);
        let masked = encode(OpCode::Data(Data::Text), b"a", MASK);
        for (role, bytes, fine) in [
            (Role::Server, &masked, true),
            (Role::Server, &plain, false),
            (Role::Client, &plain, true),
            (Role::Client, &masked, false),
        ] {
            assert_eq!(read(role, &Options::default(), bytes, 99).1.is_none(), fine, "{role:?}");
        }
    }

    #[test]
    fn announcing_much_costs_little() {
        let mut reader = Reader::new(Role::Server, &Options::default());
        let frame = data(Data::Binary, true, &vec![0; 1 << 20]);
        let (used, found) = reader.advance(&frame[..100]).unwrap();
        assert!(used == 100 && found.is_none());
        assert!(reader.payload.capacity() <= 2 * GROWTH, "{}", reader.payload.capacity());
        let (_, found) = reader.advance(&frame[100..]).unwrap();
        assert!(found.is_some());
        assert!(reader.payload.capacity() <= 1 << 20, "no more than the message");
    }

    #[test]
    fn between_messages_no_memory_is_owned() {
        let mut reader = Reader::new(Role::Server, &Options::default());
        for frame in [data(Data::Text, true, b"text"), control(Control::Ping, b"ping")] {
            let (_, found) = reader.advance(&frame).unwrap();
            reader.event(&frame, found.unwrap()).unwrap();
            reader.rest();
            assert_eq!((reader.payload.capacity(), reader.control.capacity()), (0, 0));
        }
    }

    #[test]
    fn masks_differ_and_none_is_used_twice_in_a_row() {
        let mut masks = Masks::default();
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| masks.next()).collect();
        assert!(drawn.len() > 990, "{}", drawn.len());
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let reason = format!("{}ü", "x".repeat(122));
        let payload = close_payload(&CloseFrame { code: CloseCode::NORMAL, reason });
        assert_eq!(payload.len(), 2 + 122);
        assert_eq!(close_payload(&CloseFrame { code: CloseCode::NO_STATUS, reason: "unsaid".into() }), b"");
    }

    #[test]
    fn no_bytes_make_the_reader_panic_and_no_cut_changes_what_they_mean() {
        let mut random = SplitMix64::new(7);
        let options = Options { max_message: 200, max_frame: 150, max_fragments: 5, ..Options::default() };
        let firsts = [0x81, 0x82, 0x80, 0x00, 0x01, 0x02, 0x89, 0x8a, 0x88, 0x83, 0xc1];
        for _ in 0..5_000 {
            let mut stream = Vec::new();
            for _ in 0..random.next() % 6 {
                let payload: Vec<u8> = (0..random.next() % 20).map(|_| b'a' + (random.next() % 3) as u8).collect();
                let mut frame = encode(OpCode::Data(Data::Text), &payload, MASK);
                frame[0] = firsts[random.next() as usize % firsts.len()];
                if random.next().is_multiple_of(8) {
                    let at = random.next() as usize % frame.len();
                    frame[at] = random.next() as u8;
                }
                stream.extend(frame);
            }
            let whole = read(Role::Server, &options, &stream, stream.len().max(1));
            let step = 1 + random.next() as usize % 30;
            assert_eq!(read(Role::Server, &options, &stream, step), whole, "step {step} of {stream:02x?}");
        }
    }
}
