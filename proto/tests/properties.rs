//! What must hold for any bytes at all: nothing panics, framing does not depend on how a stream was cut up,
//! what was built is what is read.

use proptest::prelude::*;
use tt_proto::cipher::Cipher;
use tt_proto::command::{TABLE, Visitor};
use tt_proto::im::base_define::{MsgInfo, MsgType};
use tt_proto::im::message::{ImGetMsgListRsp, ImMsgData};
use tt_proto::pdu::{self, DecodeError, FrameError, HEADER_LEN, Header, MAX_FROM_CLIENT, PduRef};
use tt_proto::{Attach, Body};

/// Decodes a body; what decodes must survive another round.
struct RoundTrip<'a>(&'a [u8]);

impl Visitor for RoundTrip<'_> {
    type Output = ();
    fn visit<M: Body>(self) {
        let frame = pdu::encode_raw(M::COMMAND.id(), 1, self.0);
        let Ok(message) = PduRef::parse(&frame).expect("a frame that we built").decode::<M>() else {
            return;
        };
        let again = pdu::encode(1, &message);
        let once_more: M = PduRef::parse(&again).expect("a frame").decode().expect("what we encoded");
        assert_eq!(pdu::encode(1, &once_more), again);
    }
}

/// Cuts a stream into frames as a connection does that receives it in pieces of the given sizes.
fn cut(stream: &[u8], pieces: &[usize]) -> Vec<Vec<u8>> {
    let (mut buffer, mut frames, mut at) = (Vec::new(), Vec::new(), 0);
    let mut pieces = pieces.iter().copied().cycle();
    while at < stream.len() {
        let end = stream.len().min(at + pieces.next().expect("at least one").max(1));
        buffer.extend_from_slice(&stream[at..end]);
        at = end;
        while let Some(length) = pdu::frame_len(&buffer, MAX_FROM_CLIENT).expect("a good stream") {
            frames.push(buffer.drain(..length).collect());
        }
    }
    assert!(buffer.is_empty());
    frames
}

fn message() -> impl Strategy<Value = ImMsgData> {
    let ids = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let data = prop::collection::vec(any::<u8>(), 0..200);
    let cookie = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
    let client_msg_id = prop::option::of("[a-z0-9]{0,16}");
    (ids, data, cookie, client_msg_id).prop_map(|((from, to, id, time), data, cookie, client_msg_id)| ImMsgData {
        from_user_id: from,
        to_session_id: to,
        msg_id: id,
        create_time: time,
        msg_type: MsgType::MsgTypeSingleText.into(),
        msg_data: data.into(),
        attach_data: cookie.map(Into::into),
        client_msg_id,
        refusal: None,
        group_version: None,
    })
}

proptest! {
    #[test]
    fn any_body_of_any_command_decodes_or_is_refused(body in prop::collection::vec(any::<u8>(), 0..256)) {
        for row in TABLE {
            row.command.visit(RoundTrip(&body));
        }
    }

    #[test]
    fn any_bytes_frame_or_wait_or_are_refused(
        // Small lengths, or hardly any input would be long enough to be a frame.
        length in prop_oneof![0..80_u32, any::<u32>()],
        rest in prop::collection::vec(any::<u8>(), 0..80),
        max in 0..120_usize,
    ) {
        let input = [&length.to_be_bytes()[..], &rest].concat();
        let total = length as usize;
        match pdu::frame_len(&input, max) {
            Ok(Some(found)) => {
                prop_assert_eq!(found, total);
                prop_assert!((HEADER_LEN..=max.min(input.len())).contains(&found));
                prop_assert_eq!(PduRef::parse(&input[..found]).expect("one PDU").body.len(), found - HEADER_LEN);
            }
            Ok(None) => prop_assert!((HEADER_LEN..=max).contains(&total) && input.len() < total),
            Err(_) => prop_assert!(!(HEADER_LEN..=max).contains(&total)),
        }
        prop_assert_eq!(PduRef::parse(&input).is_ok(), input.len() >= HEADER_LEN && total == input.len());
    }

    #[test]
    fn any_body_survives_damage(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut frame = pdu::encode(1, &message).to_vec();
        let at = HEADER_LEN + at.index(frame.len() - HEADER_LEN);
        frame[at] = byte;
        for row in TABLE {
            row.command.visit(RoundTrip(&frame[HEADER_LEN..]));
        }
    }

    #[test]
    fn framing_does_not_depend_on_where_the_stream_was_cut(
        messages in prop::collection::vec((any::<u16>(), message()), 1..6),
        pieces in prop::collection::vec(1..64_usize, 1..8),
    ) {
        let sent: Vec<_> = messages.iter().map(|(seq, message)| pdu::encode(*seq, message)).collect();
        prop_assert_eq!(cut(&sent.concat(), &pieces), sent);
    }

    #[test]
    fn a_message_comes_out_as_it_went_in(seq in any::<u16>(), message in message()) {
        let frame = pdu::encode(seq, &message);
        let pdu = PduRef::parse(&frame).expect("a whole PDU");
        prop_assert_eq!(pdu.header, Header::new(0x0301, seq, frame.len() - HEADER_LEN));
        prop_assert_eq!(pdu.decode::<ImMsgData>().expect("a body"), message);
        prop_assert_eq!(pdu.to_bytes(), frame);
    }

    #[test]
    fn a_header_reads_as_it_was_written(bytes in any::<[u8; HEADER_LEN]>()) {
        let mut out = Vec::new();
        Header::read(&bytes).expect("16 bytes").write(&mut out);
        prop_assert_eq!(out, bytes);
    }

    #[test]
    fn texts_decipher_to_themselves(text in prop::collection::vec(any::<u8>(), 1..600), key in any::<[u8; 32]>()) {
        let cipher = Cipher::new(&key);
        let enciphered = cipher.encrypt(&text).expect("not empty");
        prop_assert_eq!(cipher.decrypt(enciphered.as_bytes()), Ok(text));
    }

    #[test]
    fn any_cipher_text_deciphers_or_is_refused(input in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Cipher::default().decrypt(&input);
    }

    #[test]
    fn as_many_items_fit_as_do_and_no_more(sizes in prop::collection::vec(0..400_usize, 0..40), max in 0..4096_usize) {
        let items: Vec<_> = sizes.iter().map(|&size| MsgInfo { msg_data: vec![0; size].into(), ..MsgInfo::default() }).collect();
        let reply = ImGetMsgListRsp::default();
        let carries = |count: usize| {
            pdu::encode(0, &ImGetMsgListRsp { msg_list: items[..count].to_vec(), ..reply.clone() }).len()
        };
        let fitting = pdu::fit(&reply, &items, max);
        prop_assert!(fitting == 0 || carries(fitting) <= max);
        // The estimate allows two bytes of key per item and this field needs one.
        prop_assert!(fitting == items.len() || carries(fitting + 1) + fitting + 1 > max);
    }
}

#[test]
fn bad_lengths_are_refused_with_four_bytes_of_header() {
    for length in 0..16_u32 {
        assert_eq!(pdu::frame_len(&length.to_be_bytes(), MAX_FROM_CLIENT), Err(FrameError::TooShort(length)));
    }
    let max = u32::try_from(MAX_FROM_CLIENT).expect("small");
    for length in [max + 1, 1 << 31, u32::MAX] {
        let error = FrameError::TooLong { length, max: MAX_FROM_CLIENT };
        assert_eq!(pdu::frame_len(&length.to_be_bytes(), MAX_FROM_CLIENT), Err(error));
    }
    assert_eq!(pdu::frame_len(&max.to_be_bytes(), MAX_FROM_CLIENT), Ok(None));
    assert_eq!(pdu::frame_len(&[0, 0, 0], MAX_FROM_CLIENT), Ok(None));
}

#[test]
fn a_frame_of_the_wrong_size_is_refused() {
    let frame = pdu::encode(1, &ImMsgData::default());
    let length = u32::try_from(frame.len()).expect("small");
    let longer = [&frame[..], b"x"].concat();
    assert_eq!(PduRef::parse(&longer), Err(FrameError::Mismatch { length, actual: longer.len() }));
    assert_eq!(PduRef::parse(&frame[..20]), Err(FrameError::Mismatch { length, actual: 20 }));
    assert_eq!(PduRef::parse(&frame[..15]), Err(FrameError::Mismatch { length: 0, actual: 15 }));
}

#[test]
fn the_message_of_another_command_is_not_decoded() {
    let frame = pdu::encode(1, &ImMsgData::default());
    let error = PduRef::parse(&frame).expect("a PDU").decode::<ImGetMsgListRsp>().expect_err("not that message");
    assert!(matches!(error, DecodeError::WrongCommand { found: 0x0301, .. }));
    assert_eq!(error.to_string(), "command 0x0301 does not carry the message of 0x030a CID_MSG_LIST_RESPONSE");
}

#[test]
fn a_pdu_passed_on_keeps_fields_that_this_version_does_not_know() {
    let body = [0x08, 0x01, 0xfa, 0x3f, 0x01, b'x']; // from_user_id 1, and field 1023
    let frame = pdu::encode_raw(0x0301, 9, &body);
    let pdu = PduRef::parse(&frame).expect("a PDU");
    assert_eq!(pdu.decode::<ImMsgData>().expect("lenient").from_user_id, 1);
    assert_eq!(pdu.to_bytes(), frame);
    assert_eq!(pdu.with_seq(0).to_bytes(), pdu::encode_raw(0x0301, 0, &body));
}

#[test]
fn an_unknown_enum_number_is_kept_and_written_back() {
    let sent = ImMsgData { msg_type: 99, ..ImMsgData::default() };
    let frame = pdu::encode(0, &sent);
    let received: ImMsgData = PduRef::parse(&frame).expect("a PDU").decode().expect("lenient");
    assert_eq!(received.msg_type, 99);
    assert!(MsgType::try_from(received.msg_type).is_err());
    assert_eq!(received.msg_type(), MsgType::MsgTypeSingleText, "the accessor's default");
    assert_eq!(pdu::encode(0, &received), frame);
}

#[test]
fn lists_of_numbers_decode_packed_too() {
    use tt_proto::im::buddy::ImUsersInfoReq;
    let unpacked = pdu::encode_raw(0x0204, 1, &[0x08, 0x05, 0x10, 0x01, 0x10, 0x02]);
    let packed = pdu::encode_raw(0x0204, 1, &[0x08, 0x05, 0x12, 0x02, 0x01, 0x02]);
    let expected = ImUsersInfoReq { user_id: 5, user_id_list: vec![1, 2], attach_data: None };
    for frame in [&unpacked, &packed] {
        assert_eq!(PduRef::parse(frame).expect("a PDU").decode::<ImUsersInfoReq>().as_ref(), Ok(&expected));
    }
    assert_eq!(pdu::encode(1, &expected), unpacked, "we send them unpacked, as proto2 does");
}

#[test]
fn a_removed_cookie_leaves_no_trace() {
    let plain = ImMsgData::default();
    let mut carried = plain.clone();
    carried.set_attach(Some(bytes::Bytes::from_static(b"cookie")));
    assert_eq!(carried.attach().map(|cookie| &cookie[..]), Some(&b"cookie"[..]));
    assert_ne!(pdu::encode(0, &carried), pdu::encode(0, &plain));
    carried.set_attach(None);
    assert_eq!(pdu::encode(0, &carried), pdu::encode(0, &plain));
}
