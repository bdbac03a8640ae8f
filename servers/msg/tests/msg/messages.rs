//! The way of a message: what is stored, who is told, and who is told no.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tt_proto::Command;
use tt_proto::im::base_define::SessionType;
use tt_proto::im::login::ImLoginRes;
use tt_proto::im::message::{
    ImClientTimeReq, ImClientTimeRsp, ImMsgData, ImMsgDataAck, ImMsgDataReadAck, ImMsgDataReadNotify,
};
use tt_proto::im::server::ImValidateReq;
use tt_proto::pdu::{self, MAX_TEXT, MAX_VOICE};

use crate::support::{MAC, PC, PHONE, Peers, Server, World, ack, login_request, text, valid, voice};

/// Announces that the client understands an ack that says no.
const REFUSALS: Option<u64> = Some(0b10);

#[test]
fn g1_a_message_is_acked_after_the_store_has_answered_and_then_relayed_and_copied() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut sender_phone = world.sign_in(1, PHONE);
    let mut receiver = world.sign_in(2, MAC);
    let mut receiver_phone = world.sign_in(2, PHONE);
    let mut stranger = world.sign_in(3, PC);

    sender.send(500, &ImMsgData { msg_id: 9, create_time: 5, ..text(2, "cipher") });
    let (seq, at_store) = world.db.expect::<ImMsgData>();
    assert_eq!((seq, at_store.from_user_id, at_store.to_session_id, at_store.msg_id), (500, 1, 2, 0));
    assert!(at_store.create_time > 1_700_000_000, "the server's clock, not the client's");
    assert_eq!(at_store.msg_data, "cipher");
    assert!(at_store.client_msg_id.as_ref().is_some_and(|id| !id.is_empty()), "made where the client makes none");
    sender.expect_nothing();
    receiver.expect_nothing();

    world.db.send(seq, &ImMsgData { msg_id: 41, refusal: Some(0), ..at_store.clone() });
    let (seq, first) = sender.expect::<ImMsgDataAck>();
    assert_eq!((seq, first), (500, ack(1, 2, 41, None)));
    let copy = ImMsgData { msg_id: 41, attach_data: None, client_msg_id: None, refusal: None, ..at_store };
    assert_eq!(world.route.expect(), (0, copy.clone()), "relayed without anything of ours in it");
    world.nothing_before();
    for device in [&mut sender_phone, &mut receiver, &mut receiver_phone] {
        assert_eq!(device.expect(), (0, copy.clone()));
        device.expect_nothing();
    }
    sender.expect_nothing();
    stranger.expect_nothing();
}

#[test]
fn a_relayed_message_reaches_all_devices_of_both_users_clean_and_once() {
    let mut world = World::new();
    let mut sender_phone = world.sign_in(1, PHONE);
    let mut receiver = world.sign_in(2, PC);
    let mut stranger = world.sign_in(3, PC);
    let copy = ImMsgData { from_user_id: 1, msg_id: 8, create_time: 1_800_000_000, ..text(2, "x") };
    let attach_data = Some(Bytes::from_static(b"\0\0\0\x01\0\0\0\x12\0\0\0\0"));
    // As an old route server sends it.
    let relayed = ImMsgData { attach_data, client_msg_id: Some("a".into()), refusal: Some(0), ..copy.clone() };
    world.route.send(500, &relayed);
    world.route.send(501, &relayed);
    world.nothing_before();
    for device in [&mut sender_phone, &mut receiver] {
        assert_eq!(device.expect(), (0, copy.clone()));
        device.expect_nothing();
    }
    stranger.expect_nothing();
    world.expect_nothing_at_the_store(&mut stranger);
}

#[test]
fn a_relay_that_is_no_stored_message_is_dropped() {
    let mut world = World::new();
    let mut receiver = world.sign_in(2, PC);
    for bad in [
        text(2, "no id"),
        ImMsgData { msg_id: 1, ..text(2, "") },
        ImMsgData { msg_id: 1, msg_type: 0x77, ..text(2, "kind") },
        ImMsgData { msg_id: 1, from_user_id: 2, ..text(2, "self") },
    ] {
        world.route.send(0, &bad);
    }
    world.route.send_raw(&pdu::encode_raw(0x0301, 0, &[0xff; 9]));
    world.route.send(0, &ImMsgData { msg_id: 2, ..text(2, "good") });
    world.nothing_before();
    assert_eq!(receiver.expect::<ImMsgData>().1.msg_id, 2);
    receiver.expect_nothing();
}

#[test]
fn g2_the_id_of_the_client_goes_to_the_store() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    sender.send(1, &ImMsgData { client_msg_id: Some("my-id".into()), ..text(2, "a") });
    assert_eq!(world.store(1).client_msg_id.as_deref(), Some("my-id"));
    sender.expect::<ImMsgDataAck>();
}

#[test]
fn g2_a_repeated_pdu_has_the_same_id_and_a_repeated_text_another() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut phone = world.sign_in(1, PHONE);
    let mut receiver = world.sign_in(2, PC);
    sender.send(7, &text(2, "hi"));
    let first = world.store(1);
    assert_eq!(sender.expect::<ImMsgDataAck>().1, ack(1, 2, 1, None));
    // The same PDU again: the store recognises the id and gives the same msg_id.
    sender.send(7, &text(2, "hi"));
    assert_eq!(world.store(1).client_msg_id, first.client_msg_id);
    assert_eq!(sender.expect(), (7, ack(1, 2, 1, None)), "acked again");
    // The same text with another sequence number, or from another connection.
    sender.send(8, &text(2, "hi"));
    assert_ne!(world.store(2).client_msg_id, first.client_msg_id);
    phone.send(7, &text(2, "hi"));
    assert_ne!(world.store(3).client_msg_id, first.client_msg_id);
    let ids: Vec<u32> = (0..3).map(|_| receiver.expect::<ImMsgData>().1.msg_id).collect();
    assert_eq!(ids, [1, 2, 3], "the repetition is not delivered again");
    receiver.expect_nothing();
    let relayed: Vec<u32> = (0..3).map(|_| world.route.expect::<ImMsgData>().1.msg_id).collect();
    assert_eq!(relayed, [1, 2, 3]);
}

#[test]
fn g4_a_message_whose_first_answer_was_lost_is_delivered_in_its_place() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut receiver = world.sign_in(2, PC);
    for (seq, msg_id) in [(1, 1), (2, 3), (3, 2)] {
        sender.send(seq, &text(2, &format!("{seq}")));
        world.store(msg_id);
        assert_eq!(sender.expect::<ImMsgDataAck>().1.msg_id, msg_id);
    }
    let ids: Vec<u32> = (0..3).map(|_| receiver.expect::<ImMsgData>().1.msg_id).collect();
    assert_eq!(ids, [1, 2, 3]);
}

/// What is not accepted, and the result a capable client reads.
fn refused() -> Vec<(ImMsgData, u32)> {
    vec![
        (text(2, ""), 3),
        (text(2, &"x".repeat(MAX_TEXT + 1)), 5),
        (text(1, "to myself"), 3),
        (ImMsgData { msg_type: 0x99, ..text(2, "x") }, 3),
        (voice(2, 0), 3),
        (voice(2, MAX_VOICE - 3), 5),
        (voice(1, 10), 3),
        (ImMsgData { msg_data: Bytes::from_static(b"\0\0\0"), ..voice(2, 10) }, 3),
        (ImMsgData { client_msg_id: Some("x".repeat(65)), ..text(2, "x") }, 3),
    ]
}

#[test]
fn g6_a_refused_message_is_answered_to_clients_that_understand_it() {
    let mut world = World::new();
    let mut sender = world.sign_in_with(1, PC, REFUSALS);
    for (seq, (message, result)) in (10..).zip(refused()) {
        sender.send(seq, &message);
        assert_eq!(sender.expect(), (seq, ack(1, message.to_session_id, 0, Some(result))), "{message:?}");
    }
    world.expect_nothing_at_the_store(&mut sender);
}

#[test]
fn g6_old_clients_get_silence_that_is_counted() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    for (message, _) in refused() {
        sender.send(10, &message);
    }
    sender.send_raw(&pdu::encode_raw(0x0301, 11, &[0xff; 20]));
    world.expect_nothing_at_the_store(&mut sender);
    let empty = world.server.metric("teamtalk_messages_refused_total{kind=\"empty\"}");
    let large = world.server.metric("teamtalk_messages_refused_total{kind=\"too large\"}");
    let malformed = world.server.metric("teamtalk_requests_ignored_total{kind=\"malformed\"}");
    assert_eq!((empty, large, malformed), (1, 2, 1));
}

#[test]
fn a_text_of_exactly_the_limit_is_accepted() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    sender.send(1, &text(2, &"x".repeat(MAX_TEXT)));
    assert_eq!(world.store(1).msg_data.len(), MAX_TEXT);
    assert_eq!(sender.expect::<ImMsgDataAck>().1, ack(1, 2, 1, None));
}

/// spec/README.md, trap 27: live copies have what history has.
#[test]
fn a_voice_message_is_stored_relayed_and_copied_whole() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut receiver = world.sign_in(2, PC);
    for (seq, len) in [(1, 1), (2, MAX_VOICE - 4)] {
        let sent = voice(2, len);
        sender.send(seq, &sent);
        let at_store = world.store(u32::from(seq));
        assert_eq!((at_store.msg_type, &at_store.msg_data), (sent.msg_type, &sent.msg_data));
        assert_eq!(sender.expect(), (seq, ack(1, 2, u32::from(seq), None)));
        for other in [&mut world.route, &mut receiver] {
            let (seq, copy) = other.expect::<ImMsgData>();
            assert_eq!((seq, copy.msg_type, &copy.msg_data), (0, sent.msg_type, &sent.msg_data));
        }
    }
    let from_elsewhere = ImMsgData { from_user_id: 1, msg_id: 3, ..voice(2, 50_000) };
    world.route.send(9, &from_elsewhere);
    assert_eq!(receiver.expect(), (0, from_elsewhere));
}

/// Each number of spec/gaps.md §6 that a store may give, and one that nobody knows.
#[test]
fn g6_every_reason_of_the_store_reaches_a_client_that_understands_it() {
    let mut world = World::new();
    let mut sender = world.sign_in_with(1, PC, REFUSALS);
    let mut old = world.sign_in(3, PC);
    for result in [1, 2, 3, 4, 5, 6, 7, 250] {
        for client in [&mut sender, &mut old] {
            client.send(result as u16, &text(2, "x"));
            let (seq, message) = world.db.expect::<ImMsgData>();
            world.db.send(seq, &ImMsgData { msg_id: 0, refusal: Some(result), ..message });
        }
        assert_eq!(sender.expect(), (result as u16, ack(1, 2, 0, Some(result))));
    }
    old.expect_nothing();
    world.server.wait_for("teamtalk_messages_refused_total{kind=\"by the store\"}", 16);
}

#[test]
fn a_recording_costs_as_many_tokens_as_it_is_long() {
    let mut world = World::with(|config| {
        config.limits.messages_per_second = 100;
        config.limits.messages_burst = 20;
    });
    let mut sender = world.sign_in(1, PC);
    let start = Instant::now();
    for seq in 1..=2 {
        sender.send(seq, &voice(2, 240 * 1024));
        world.store(u32::from(seq));
    }
    // 31 tokens each; 20 were there.
    let took = start.elapsed().as_millis();
    assert!(took >= 100, "the second recording was read after {took} ms");
    assert!(world.server.metric("teamtalk_rate_pauses_total") > 0);
}

#[test]
fn never_an_ack_with_msg_id_0_to_an_old_client() {
    let mut world = World::new();
    let mut old = world.sign_in(1, PC);
    let mut new = world.sign_in_with(3, PC, REFUSALS);
    old.send(1, &text(2, "a"));
    world.store(0);
    world.expect_nothing_at_the_store(&mut old);
    for (seq, refusal, result) in [(1, None, 1), (2, Some(6), 6), (3, Some(0), 1)] {
        new.send(seq, &text(2, "a"));
        let (at, message) = world.db.expect::<ImMsgData>();
        world.db.send(at, &ImMsgData { refusal, ..message });
        assert_eq!(new.expect(), (seq, ack(3, 2, 0, Some(result))));
    }
}

#[test]
fn g2_what_a_lost_db_link_had_is_repeated_over_the_next_in_order_and_under_its_ids() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut receiver = world.sign_in(2, PC);
    let mut lost = Vec::new();
    for seq in 1..=3 {
        sender.send(seq, &text(2, &format!("{seq}")));
        lost.push(world.db.expect::<ImMsgData>().1);
    }
    // The first is stored; of the others nobody knows.
    let first = lost.remove(0);
    world.db.send(1, &ImMsgData { msg_id: 1, ..first });
    assert_eq!(sender.expect(), (1, ack(1, 2, 1, None)));
    world.db.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    world.server.wait_for("teamtalk_links{peer=\"db-proxy\"}", 0);
    // What comes while there is no link waits behind them.
    sender.send(4, &text(2, "4"));
    world.db = world.peers.db.accept();
    for (message, msg_id) in lost.iter().zip(2..) {
        let again = world.store(msg_id);
        assert_eq!((&again.msg_data, &again.client_msg_id), (&message.msg_data, &message.client_msg_id));
    }
    assert_eq!(world.store(4).msg_data, &b"4"[..]);
    for msg_id in 2..=4 {
        assert_eq!(sender.expect(), (msg_id as u16, ack(1, 2, msg_id, None)));
    }
    let ids: Vec<u32> = (0..4).map(|_| receiver.expect::<ImMsgData>().1.msg_id).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(world.server.metric("teamtalk_messages_repeats_total"), 2);
}

#[test]
fn without_a_db_link_until_its_time_is_up_a_message_is_not_acked() {
    let mut world = World::with(|config| config.timeouts.call_ms = 200);
    let mut sender = world.sign_in_with(1, PC, REFUSALS);
    let mut receiver = world.sign_in(2, PC);
    sender.send(1, &text(2, "a"));
    world.db.expect::<ImMsgData>();
    world.db.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    world.server.wait_for("teamtalk_unanswered_total{kind=\"link_down\"}", 1);
    sender.expect_nothing();
    receiver.expect_nothing();
    // With no link at all it is known that the message is not stored.
    sender.send(2, &text(2, "b"));
    assert_eq!(sender.expect(), (2, ack(1, 2, 0, Some(7))));
}

/// All messages of a conversation take the link that its db-proxy's name draws, wherever that stands in the list.
#[test]
fn g3_every_msg_server_takes_a_conversation_to_the_same_db_proxy() {
    let chosen = [false, true].map(|turned| {
        let peers = [Peers::new(), Peers::new()];
        let mut config = peers[0].config();
        config.db_proxies = peers.iter().map(|peers| peers.db.addr()).collect();
        if turned {
            config.db_proxies.reverse();
        }
        let server = Server::start(config);
        let (_login, _route) = (peers[0].login.accept(), peers[0].route.accept());
        // By the other user, the db-proxies that each message came to.
        let chosen: Arc<Mutex<BTreeMap<u32, Vec<&'static str>>>> = Arc::default();
        let stores = [("db-one", &peers[0]), ("db-two", &peers[1])].map(|(name, peers)| {
            let (mut link, chosen) = (peers.db.accept_as(name), Arc::clone(&chosen));
            std::thread::spawn(move || {
                while let Some(pdu) = link.pdu() {
                    let seq = pdu.header.seq;
                    if pdu.header.command == Command::ValidateReq.id() {
                        link.send(seq, &valid(pdu.decode::<ImValidateReq>(), 1));
                    } else if pdu.header.command == Command::MsgData.id() {
                        let message: ImMsgData = pdu.decode();
                        let mut chosen = chosen.lock().expect("no panic holds it");
                        let seen = chosen.entry(message.to_session_id).or_default();
                        seen.push(name);
                        link.send(seq, &ImMsgData { msg_id: seen.len() as u32, ..message });
                    }
                }
            })
        });
        server.wait_for("teamtalk_links{peer=\"db-proxy\"}", 2);
        let mut client = server.connect();
        client.send(1, &login_request(1, PC));
        client.expect::<ImLoginRes>();
        for round in 1..=3 {
            for peer in 2..40 {
                client.send(2, &text(peer, &format!("{round}")));
                assert_eq!(client.expect::<ImMsgDataAck>().1.msg_id, round);
            }
        }
        drop(server);
        for store in stores {
            store.join().expect("it saw the end");
        }
        Arc::try_unwrap(chosen).expect("the stores are gone").into_inner().expect("no panic held it")
    });
    for (peer, places) in &chosen[0] {
        assert!(places.iter().all(|place| *place == places[0]), "conversation with {peer}: {places:?}");
    }
    assert_eq!(chosen[0], chosen[1]);
    let used: BTreeSet<_> = chosen[0].values().flatten().collect();
    assert_eq!(used.len(), 2, "both have some");
}

#[test]
fn a_store_that_does_not_answer_in_time_means_no_ack_and_a_late_answer_is_nothing() {
    let mut world = World::with(|config| config.timeouts.call_ms = 100);
    let mut sender = world.sign_in(1, PC);
    sender.send(1, &text(2, "a"));
    let (seq, message) = world.db.expect::<ImMsgData>();
    world.server.wait_for("teamtalk_unanswered_total{kind=\"timeout\"}", 1);
    world.db.send(seq, &ImMsgData { msg_id: 1, ..message });
    world.server.wait_for("teamtalk_unmatched_replies_total", 1);
    sender.expect_nothing();
}

#[test]
fn over_its_rate_a_client_is_not_read_and_nothing_is_lost() {
    let mut world = World::with(|config| {
        config.limits.messages_per_second = 50;
        config.limits.messages_burst = 10;
    });
    let mut sender = world.sign_in(1, PC);
    let start = Instant::now();
    let all: Vec<u8> = (1..=30).flat_map(|seq| pdu::encode(seq, &text(2, &format!("{seq}")))).collect();
    sender.send_raw(&all);
    for seq in 1..=30 {
        let message = world.store(seq);
        assert_eq!(message.msg_data, format!("{seq}"));
    }
    let took = start.elapsed().as_millis();
    assert!(took >= 350, "20 messages over the burst at 50 a second in {took} ms");
    for seq in 1..=30 {
        assert_eq!(sender.expect(), (seq, ack(1, 2, u32::from(seq), None)));
    }
    assert!(world.server.metric("teamtalk_rate_pauses_total") > 0);
}

#[test]
fn other_requests_have_a_rate_of_their_own_and_receipts_have_none() {
    let mut world = World::with(|config| {
        config.limits.requests_per_second = 50;
        config.limits.requests_burst = 10;
    });
    let mut client = world.sign_in(1, PC);
    let start = Instant::now();
    let receipts: Vec<u8> = (0..500).flat_map(|_| pdu::encode(1, &ack(1, 2, 1, None))).collect();
    client.send_raw(&receipts);
    client.expect_nothing();
    let took = start.elapsed().as_millis();
    assert!(took < 2_000, "500 receipts at 50 a second would take ten seconds, not {took} ms");
    let start = Instant::now();
    let questions: Vec<u8> = (1..=30).flat_map(|seq| pdu::encode(seq, &ImClientTimeReq::default())).collect();
    client.send_raw(&questions);
    for seq in 1..=30 {
        assert_eq!(client.expect::<ImClientTimeRsp>().0, seq);
    }
    let took = start.elapsed().as_millis();
    assert!(took >= 350, "20 questions over the burst at 50 a second in {took} ms");
}

#[test]
fn a_read_ack_goes_to_the_store_and_to_the_readers_other_devices_only() {
    let mut world = World::new();
    let mut reader = world.sign_in(2, PC);
    let mut reader_phone = world.sign_in(2, PHONE);
    let mut sender = world.sign_in(1, PC);
    let session_type = SessionType::SessionTypeSingle.into();
    let exact = Some(true); // not the client's to say
    reader.send(4, &ImMsgDataReadAck { user_id: 1, session_id: 1, msg_id: 9, session_type, exact });
    let at_store = world.db.expect::<ImMsgDataReadAck>();
    assert_eq!(at_store, (4, ImMsgDataReadAck { user_id: 2, session_id: 1, msg_id: 9, session_type, exact: None }));
    let notice = ImMsgDataReadNotify { user_id: 2, session_id: 1, msg_id: 9, session_type };
    assert_eq!(reader_phone.expect(), (0, notice));
    assert_eq!(world.route.expect(), (0, notice));
    reader.expect_nothing();
    sender.expect_nothing();
}

#[test]
fn g5_a_client_that_means_its_message_says_so_to_the_store() {
    let mut world = World::new();
    let session_type = SessionType::SessionTypeSingle.into();
    let sent = ImMsgDataReadAck { user_id: 2, session_id: 1, msg_id: 9, session_type, exact: None };
    for (capabilities, exact) in [(1 << 12, Some(true)), (1 << 1, None), (1 << 11, None)] {
        let mut reader = world.sign_in_with(2, PC, Some(capabilities));
        reader.send(4, &sent);
        assert_eq!(world.db.expect(), (4, ImMsgDataReadAck { exact, ..sent }));
        world.route.expect::<ImMsgDataReadNotify>();
        drop(reader);
        world.expect_left(2, PC);
    }
}

#[test]
fn a_read_notice_from_route_reaches_all_devices_of_the_reader() {
    let mut world = World::new();
    let mut pc = world.sign_in(2, PC);
    let mut phone = world.sign_in(2, PHONE);
    let mut other = world.sign_in(1, PC);
    let session_type = SessionType::SessionTypeGroup.into();
    let notice = ImMsgDataReadNotify { user_id: 2, session_id: 7, msg_id: 9, session_type };
    world.route.send(44, &notice);
    assert_eq!(pc.expect(), (0, notice));
    assert_eq!(phone.expect(), (0, notice));
    other.expect_nothing();
}

#[test]
fn a_read_ack_of_an_unknown_session_type_is_ignored() {
    let mut world = World::new();
    let mut reader = world.sign_in(2, PC);
    reader.send(4, &ImMsgDataReadAck { session_id: 1, msg_id: 9, session_type: 9, ..Default::default() });
    world.expect_nothing_at_the_store(&mut reader);
}

#[test]
fn received_acks_are_counted_and_answered_by_nothing() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut receiver = world.sign_in(2, PC);
    sender.send(1, &text(2, "a"));
    world.store(1);
    receiver.expect::<ImMsgData>();
    receiver.send(2, &ack(2, 1, 1, None));
    receiver.expect_nothing();
    world.expect_nothing_at_the_store(&mut receiver);
    assert_eq!(world.server.metric("teamtalk_copies_total"), 1);
    assert_eq!(world.server.metric("teamtalk_messages_acked_total"), 1);
}

#[test]
fn g6_a_message_that_does_not_parse_is_refused_to_who_can_take_it() {
    let mut world = World::new();
    for (capabilities, told) in [(REFUSALS, true), (Some(0), false), (None, false)] {
        let mut sender = world.sign_in_with(1, PC, capabilities);
        // Field 6 is cut short.
        sender.send_raw(&pdu::encode_raw(Command::MsgData.id(), 8, &[0x32, 0x7f, b'a']));
        if told {
            assert_eq!(sender.expect(), (8, ack(1, 0, 0, Some(3))));
        }
        world.expect_nothing_at_the_store(&mut sender);
        drop(sender);
        world.expect_left(1, PC);
    }
}
