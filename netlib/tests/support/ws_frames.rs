//! WebSocket frames by hand, for the peers of the tests: the library's codec is what they test.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of this module

pub const FIN: u8 = 0x80;
pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The key of RFC 6455's example, and what answers it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame by its first byte and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub u8, pub Vec<u8>);

pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    Frame(first, payload.as_ref().to_vec())
}

pub fn whole(opcode: u8, payload: impl AsRef<[u8]>) -> Frame {
    frame(FIN | opcode, payload)
}

pub fn close(code: u16, reason: impl AsRef<[u8]>) -> Frame {
    whole(CLOSE, [&code.to_be_bytes(), reason.as_ref()].concat())
}

/// The bytes of a frame, masked as a client's or plain.
pub fn encode(Frame(first, payload): &Frame, masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![*first];
    match payload.len() {
        length @ 0..=125 => bytes.push(bit | length as u8),
        length @ 126..=0xffff => {
            bytes.push(bit | 0x7e);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(bit | 0x7f);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let mask = [0xa5, 0x5a, 0x00, 0xff];
    if masked {
        bytes.extend(mask);
    }
    let start = bytes.len();
    bytes.extend(payload);
    if masked {
        unmask(&mut bytes[start..], mask);
    }
    bytes
}

pub fn encode_all(frames: &[Frame], masked: bool) -> Vec<u8> {
    frames.iter().flat_map(|frame| encode(frame, masked)).collect()
}

/// Four bytes at a time: one at a time is felt with 16 MiB in a build without optimization.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    rest.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// Takes all whole frames from the front of what a server sent.
pub fn take_frames(bytes: &mut Vec<u8>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let [first, second, rest @ ..] = &bytes[at..] {
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (size, length) = match (second, rest) {
            (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            (127, length) if length.len() >= 8 => {
                (10, u64::from_be_bytes(length[..8].try_into().expect("eight")) as usize)
            }
            (126 | 127, _) => break,
            (length, _) => (2, usize::from(*length)),
        };
        let Some(payload) = bytes.get(at + size..at + size + length) else { break };
        frames.push(frame(*first, payload));
        at += size + length;
    }
    bytes.drain(..at);
    frames
}
