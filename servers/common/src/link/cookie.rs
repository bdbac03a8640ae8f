//! The routing cookie (field 20, attach_data): who asked, carried through the answering server and back.
//!
//! The layout is the published one of a connection handle (spec/wire.md §5), so recorded peers echo it as they
//! echo their own. Reading it back needs no message type: field 20 is picked out of the encoded body.

use bytes::{BufMut, Bytes, BytesMut};

/// Length of the cookie: type, handle, service type, each a big-endian u32.
pub const HANDLE_COOKIE_LEN: usize = 12;

/// The cookie type for "the handle of whoever asked".
const TYPE_HANDLE: u32 = 1;

/// Field 20, wire type 2: the tag of attach_data in every message that has it.
const ATTACH_TAG: u64 = 20 << 3 | 2;

/// The cookie of a call.
pub(super) fn encode(call_id: u32) -> Bytes {
    let mut cookie = BytesMut::with_capacity(HANDLE_COOKIE_LEN);
    cookie.put_u32(TYPE_HANDLE);
    cookie.put_u32(call_id);
    cookie.put_u32(0);
    cookie.freeze()
}

/// The call that a body answers; None unless its cookie is exactly one that [`encode`] makes.
pub(super) fn call_id(body: &[u8]) -> Option<u32> {
    let cookie: &[u8; HANDLE_COOKIE_LEN] = attach_of(body)?.try_into().ok()?;
    let word = |at: usize| u32::from_be_bytes([cookie[at], cookie[at + 1], cookie[at + 2], cookie[at + 3]]);
    (word(0) == TYPE_HANDLE && word(8) == 0).then(|| word(4))
}

/// The attach_data of an encoded body, the last one if there are several (as protobuf has it); None if there
/// is none or the body is no protobuf message.
pub fn attach_of(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    let mut found = None;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => drop(varint(&mut rest)?),
            1 => drop(take(&mut rest, 8)?),
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                let value = take(&mut rest, len)?;
                if tag == ATTACH_TAG {
                    found = Some(value);
                }
            }
            5 => drop(take(&mut rest, 4)?),
            // Groups (3, 4) occur in no message of the protocol.
            _ => return None,
        }
    }
    found
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(head)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `body` with the cookie as field 20.
    fn with_attach(mut body: Vec<u8>, cookie: &[u8]) -> Vec<u8> {
        body.extend([0xa2, 0x01, cookie.len() as u8]);
        body.extend(cookie);
        body
    }

    #[test]
    fn a_cookie_comes_back_from_between_other_fields() {
        let mut body = with_attach(vec![0x08, 0x96, 0x01, 0x12, 2, b'h', b'i'], &encode(0xfeed));
        body.extend([0x9d, 0x06, 1, 2, 3, 4, 0x99, 0x06, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(call_id(&body), Some(0xfeed));
    }

    #[test]
    fn the_last_of_two_cookies_counts() {
        assert_eq!(call_id(&with_attach(with_attach(vec![], &encode(1)), &encode(2))), Some(2));
    }

    #[test]
    fn every_other_cookie_is_refused() {
        for cookie in [&[][..], &[0; 11], &[0; 12], &[0; 13], &[0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1]] {
            assert_eq!(call_id(&with_attach(vec![], cookie)), None, "{cookie:?}");
        }
        assert_eq!(call_id(&[]), None);
    }

    #[test]
    fn no_body_makes_it_read_past_the_end() {
        let whole = with_attach(vec![0x08, 0x96, 0x01], &encode(7));
        for cut in 0..whole.len() {
            assert_eq!(call_id(&whole[..cut]), None, "cut at {cut}");
        }
        for start in 0..=255u8 {
            for next in 0..=255u8 {
                attach_of(&[start, next, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
            }
        }
    }
}
