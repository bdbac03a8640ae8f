//! Two people talk: sending, delivery, history, unread counts, read cursors.

use std::collections::HashSet;

use tt_proto::im::{buddy, message};
use tt_tests::{Class, Client, Home, Message, command};

/// Every text message that has reached this client and was not taken yet.
fn heard(client: &mut Client) -> Vec<Message> {
    let pdus = client.drain();
    let texts = pdus.iter().filter(|pdu| pdu.command == command::MSG_DATA);
    texts.map(|pdu| client.delivered(pdu)).collect()
}

fn unread(client: &mut Client) -> message::ImUnreadMsgCntRsp {
    let request = message::ImUnreadMsgCntReq { user_id: client.user_id, ..Default::default() };
    client.request(command::UNREAD_CNT_REQUEST, &request, command::UNREAD_CNT_RESPONSE)
}

fn read_ack(client: &mut Client, with: u32, id: u32) {
    let (user_id, session_type) = (client.user_id, 1);
    let ack = message::ImMsgDataReadAck { user_id, session_id: with, msg_id: id, session_type, ..Default::default() };
    client.send(command::MSG_READ_ACK, &ack);
}

#[test]
fn two_people_talk() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();

    let lines = ["hello", "how are you?", "in Grüßen 你好 🙂", "…", "bye"];
    for (position, text) in lines.iter().enumerate() {
        // Both write into one conversation, and both count in it.
        let (from, to) = if position % 2 == 0 { (&mut alice, &mut bob) } else { (&mut bob, &mut alice) };
        let id = from.say(to.user_id, text);
        assert_eq!(id as usize, position + 1, "ids are 1, 2, 3, …");
        let message = to.hear(); // asserts seq 0 and no field 20
        assert_eq!(message, Message { id, from: from.user_id, text: (*text).to_owned() });
        let received = message::ImMsgDataAck {
            user_id: to.user_id,
            session_id: from.user_id,
            msg_id: id,
            session_type: 1,
            ..Default::default()
        };
        to.send(command::MSG_DATA_ACK, &received);
    }
    assert_eq!(heard(&mut alice), [], "each message comes once, and never back to its device");
    assert_eq!(heard(&mut bob), []);

    let history = alice.history(bob.user_id);
    assert_eq!(history, bob.history(alice.user_id), "both see one conversation");
    let ids: Vec<u32> = history.iter().map(|message| message.id).collect();
    assert_eq!(ids, [5, 4, 3, 2, 1], "newest first");
    let texts: Vec<&str> = history.iter().rev().map(|message| message.text.as_str()).collect();
    assert_eq!(texts, lines);
}

#[test]
fn a_thousand_messages_arrive_once_and_in_order() {
    const COUNT: u32 = 1000;
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    for number in 1..=COUNT {
        alice.post(bob.user_id, &number.to_string());
    }
    for number in 1..=COUNT {
        let message = bob.hear();
        assert_eq!((message.id, message.text), (number, number.to_string()));
    }
    assert_eq!(heard(&mut bob), []);
    for number in 1..=COUNT {
        let ack = alice.wait_for("an ack", |pdu| pdu.command == command::MSG_DATA_ACK);
        let body: message::ImMsgDataAck = ack.decode();
        // The client counted its requests from the login on, which was number 1.
        assert_eq!((u32::from(ack.seq), body.msg_id), (number + 1, number));
    }
    assert_eq!(alice.history(bob.user_id).len(), COUNT as usize);
}

#[test]
fn every_device_of_both_people_gets_every_message() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let mut alices_phone = dev.sign_in("alice", Class::Mobile);
    let mut bobs_phone = dev.sign_in("bob", Class::Mobile);

    let id = alice.say(bob.user_id, "to all of you");
    for device in [&mut alices_phone, &mut bob, &mut bobs_phone] {
        let message = device.hear();
        assert_eq!((message.id, message.from), (id, alice.user_id));
        assert_eq!(heard(device), []);
    }
    assert_eq!(heard(&mut alice), [], "the sending device has its ack");
}

#[test]
fn unread_counts_follow_the_read_cursor() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let mut bobs_phone = dev.sign_in("bob", Class::Mobile);
    for text in ["one", "two", "three"] {
        alice.say(bob.user_id, text);
    }
    assert_eq!(unread(&mut alice).total_cnt, 0, "nobody has unread messages of his own");
    let counts = unread(&mut bob);
    assert_eq!((counts.total_cnt, counts.unreadinfo_list.len()), (3, 1));
    let info = &counts.unreadinfo_list[0];
    assert_eq!((info.session_id, info.session_type), (alice.user_id, 1));
    assert_eq!((info.unread_cnt, info.latest_msg_id, info.latest_msg_type), (3, 3, 1));

    read_ack(&mut bob, alice.user_id, 3);
    let notice: message::ImMsgDataReadNotify = bobs_phone.notice(command::MSG_READ_NOTIFY);
    assert_eq!((notice.user_id, notice.session_id), (bob.user_id, alice.user_id));
    assert_eq!((notice.msg_id, notice.session_type), (3, 1));
    assert_eq!(unread(&mut bob).total_cnt, 0);
    let told = |client: &mut Client| client.drain().iter().any(|pdu| pdu.command == command::MSG_READ_NOTIFY);
    assert!(!told(&mut bob), "the reading device knows already");
    assert!(!told(&mut alice), "the sender is not told");

    alice.say(bob.user_id, "four");
    read_ack(&mut bob, alice.user_id, 1);
    let _: message::ImMsgDataReadNotify = bobs_phone.notice(command::MSG_READ_NOTIFY);
    assert_eq!(unread(&mut bob).total_cnt, 0, "to an old client reading means reading it all");
    alice.say(bob.user_id, "five");
    assert_eq!(unread(&mut bob).total_cnt, 1, "the cursor stands where it was");
}

#[test]
fn g5_a_read_mark_of_a_client_with_capability_12_means_its_message() {
    let home = Home::new();
    let dev = home.start();
    let mut alice = dev.sign_in("alice", Class::Pc);
    let account = dev.account("bob");
    let mut bob = Client::sign_in_with(dev.address("msg"), &account, Class::Pc, Some(1 << 12));
    for text in ["one", "two", "three", "four"] {
        alice.say(bob.user_id, text);
    }
    // Forward, never back, and not past the newest.
    for (id, left) in [(0, 4), (1, 3), (3, 1), (2, 1), (u32::MAX, 0)] {
        read_ack(&mut bob, alice.user_id, id);
        // Takes the same way as the mark, so it comes behind it.
        bob.history_page(alice.user_id, 0, 1);
        assert_eq!(unread(&mut bob).total_cnt, left, "read up to {id}");
    }
    alice.say(bob.user_id, "five");
    assert_eq!(unread(&mut bob).total_cnt, 1, "what came later is not read");
}

#[test]
fn pages_of_history_are_bounded_and_join_up() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    for number in 1..=25 {
        alice.say(bob.user_id, &format!("message {number}"));
    }
    let ids = |page: &[Message]| page.iter().map(|message| message.id).collect::<Vec<_>>();
    assert_eq!(ids(&bob.history_page(alice.user_id, 0, 3)), [25, 24, 23]);
    assert_eq!(ids(&bob.history_page(alice.user_id, 22, 3)), [22, 21, 20], "begin is inclusive");
    assert_eq!(ids(&bob.history_page(alice.user_id, 2, 10)), [2, 1]);
    assert_eq!(ids(&bob.history_page(alice.user_id, 0, 0)), [0; 0]);
    assert_eq!(ids(&bob.history_page(bob.user_id, 0, 10)), [0; 0], "nobody talks to himself");

    let request = message::ImGetLatestMsgIdReq {
        user_id: bob.user_id,
        session_type: 1,
        session_id: alice.user_id,
        ..Default::default()
    };
    let latest: message::ImGetLatestMsgIdRsp =
        bob.request(command::LATEST_MSG_ID_REQ, &request, command::LATEST_MSG_ID_RSP);
    assert_eq!(latest.latest_msg_id, 25);

    let request = message::ImGetMsgByIdReq {
        user_id: bob.user_id,
        session_type: 1,
        session_id: alice.user_id,
        msg_id_list: vec![3, 99, 17],
        ..Default::default()
    };
    let some: message::ImGetMsgByIdRsp = bob.request(command::MSG_BY_ID_REQ, &request, command::MSG_BY_ID_RES);
    let ids: Vec<u32> = some.msg_list.iter().map(|info| info.msg_id).collect();
    assert_eq!(ids, [17, 3], "newest first, unknown ids left out");
}

#[test]
fn recent_sessions_name_the_peer_and_the_last_message() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let sessions = |client: &mut Client| -> buddy::ImRecentContactSessionRsp {
        let request = buddy::ImRecentContactSessionReq { user_id: client.user_id, ..Default::default() };
        client.request(command::RECENT_SESSION_REQUEST, &request, command::RECENT_SESSION_RESPONSE)
    };
    assert_eq!(sessions(&mut alice).contact_session_list, []);
    alice.say(bob.user_id, "first");
    alice.say(bob.user_id, "second");
    for (client, peer) in [(&mut alice, bob.user_id), (&mut bob, dev.account("alice").id)] {
        let list = sessions(client).contact_session_list;
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].session_id, list[0].session_type), (peer, 1));
        assert_eq!((list[0].session_status, list[0].latest_msg_id), (0, 2));
        assert_eq!(list[0].latest_msg_type, 1);
    }
}

#[test]
fn a_message_that_may_not_be_sent_gets_silence_and_leaves_no_hole() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let (me, peer) = (alice.user_id, bob.user_id);
    let refused = [
        message::ImMsgData { msg_data: Vec::new().into(), ..alice.text_message(peer, "empty") },
        message::ImMsgData { msg_data: vec![b'A'; 4097].into(), ..alice.text_message(peer, "long") },
        alice.text_message(me, "to myself"),
        alice.text_message(9_999_999, "to nobody"),
    ];
    let mut seqs = HashSet::new();
    for message in refused {
        seqs.insert(alice.send(command::MSG_DATA, &message));
    }
    // Somebody else's name in the message is replaced by the sender's.
    let forged = message::ImMsgData { from_user_id: peer, ..alice.text_message(peer, "it is me") };
    let ack: message::ImMsgDataAck = alice.request(command::MSG_DATA, &forged, command::MSG_DATA_ACK);
    assert_eq!((ack.user_id, ack.msg_id), (me, 1), "the first message that was accepted");
    assert_eq!(bob.hear().from, me);
    let answered = alice.drain().into_iter().any(|pdu| seqs.contains(&pdu.seq));
    assert!(!answered, "an old client gets no ack for a refused message");
    assert_eq!(alice.history(peer).len(), 1);
}

#[test]
fn everything_is_still_there_after_a_restart() {
    let home = Home::new();
    let dev = home.start();
    let accounts = [dev.account("alice"), dev.account("bob")];
    let (mut alice, bob) = dev.alice_and_bob();
    for text in ["before", "the restart"] {
        alice.say(bob.user_id, text);
    }
    let before = alice.history(bob.user_id);
    assert_eq!(dev.server.stop().code, Some(0));

    let dev = home.start();
    assert_eq!([dev.account("alice"), dev.account("bob")], accounts, "the same passwords and ids");
    let (mut alice, mut bob) = dev.alice_and_bob();
    assert_eq!(alice.history(bob.user_id), before);
    assert_eq!(unread(&mut bob).total_cnt, 2);
    assert_eq!(alice.say(bob.user_id, "after it"), 3);
}
