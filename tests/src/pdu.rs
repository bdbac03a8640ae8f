//! One PDU, packed and unpacked by hand: sixteen header bytes, big-endian, then a protobuf body
//! (spec/wire.md §1).

/// Bytes before the body.
pub const HEADER_LEN: usize = 16;

/// A PDU as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pdu {
    /// Command family, the high byte of the command.
    pub service: u16,
    /// What it is.
    pub command: u16,
    /// The request's number in a reply; 0 in what the server starts itself.
    pub seq: u16,
    /// The encoded message.
    pub body: Vec<u8>,
}

impl Pdu {
    /// Takes the first complete PDU off `buffer`.
    pub fn take(buffer: &mut Vec<u8>) -> Option<Self> {
        let length = u32::from_be_bytes(buffer.get(..4)?.try_into().ok()?) as usize;
        assert!(length >= HEADER_LEN, "the server sent a length of {length}");
        if buffer.len() < length {
            return None;
        }
        let frame: Vec<u8> = buffer.drain(..length).collect();
        let u16_at = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        assert_eq!(u16_at(4), 1, "servers write version 1");
        assert_eq!(u16_at(6), 0, "servers write flag 0");
        assert_eq!(u16_at(14), 0, "servers write reserved 0");
        let pdu = Self { service: u16_at(8), command: u16_at(10), seq: u16_at(12), body: frame[HEADER_LEN..].to_vec() };
        assert_eq!(pdu.service, pdu.command >> 8, "service of {:#06x}", pdu.command);
        Some(pdu)
    }

    /// The body as `M`.
    pub fn decode<M: prost::Message + Default>(&self) -> M {
        M::decode(self.body.as_slice()).unwrap_or_else(|error| panic!("body of {:#06x}: {error}", self.command))
    }

    /// The numbers of the body's fields in order of appearance, read without any schema.
    pub fn tags(&self) -> Vec<u64> {
        let mut input = self.body.as_slice();
        let mut tags = Vec::new();
        while !input.is_empty() {
            let key = varint(&mut input);
            tags.push(key >> 3);
            let skip = match key & 7 {
                0 => {
                    varint(&mut input);
                    0
                }
                1 => 8,
                2 => varint(&mut input) as usize,
                5 => 4,
                other => panic!("wire type {other} in {:#06x}", self.command),
            };
            input = &input[skip..];
        }
        tags
    }
}

fn varint(input: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first().expect("a varint ends inside the body");
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// A complete PDU around `body`.
pub fn pack(command: u16, seq: u16, body: &[u8]) -> Vec<u8> {
    pack_with_length((HEADER_LEN + body.len()) as u32, command, seq, body)
}

/// The same with whatever length field the caller wants to lie with.
pub fn pack_with_length(length: u32, command: u16, seq: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + body.len());
    frame.extend(length.to_be_bytes());
    for field in [1, 0, command >> 8, command, seq, 0] {
        frame.extend(u16::to_be_bytes(field));
    }
    frame.extend(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_split_anywhere_is_taken_once_it_is_whole() {
        let frame = pack(0x0305, 7, b"\x08\x01\xa2\x01\x02hi");
        for cut in 0..frame.len() {
            let mut buffer = frame[..cut].to_vec();
            assert_eq!(Pdu::take(&mut buffer), None);
            buffer.extend(&frame[cut..]);
            let pdu = Pdu::take(&mut buffer).expect("whole");
            assert_eq!((pdu.command, pdu.seq, pdu.tags()), (0x0305, 7, vec![1, 20]));
            assert!(buffer.is_empty());
        }
    }
}
