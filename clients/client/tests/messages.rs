//! Messages and questions of a signed-in client: acknowledgements, repetition after a lost
//! connection, duplicates, notices, and the ways a session ends.

mod fake;

use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use fake::{Fake, Link};
use tt_client::request::{SendText, ServerTime};
use tt_client::{Client, Content, Error, Event, Events, KickReason, Options, Peer, Presence};
use tt_proto::im::base_define::{MsgInfo, UserStat};
use tt_proto::im::buddy::{ImAllUserReq, ImAllUserRsp, ImUserStatNotify};
use tt_proto::im::login::{ImKickUser, ImLogoutReq, ImLogoutRsp};
use tt_proto::im::message::{
    ImClientTimeReq, ImClientTimeRsp, ImGetMsgListReq, ImGetMsgListRsp, ImMsgData, ImMsgDataAck, ImMsgDataReadAck,
    ImMsgDataReadNotify,
};
use tt_proto::pdu;

/// Runs `script` as the server and returns the client that it signed in.
fn meet(
    change: impl FnOnce(&mut Options),
    script: impl FnOnce(&Fake) + Send + 'static,
) -> (Client, Events, JoinHandle<()>) {
    let server = Fake::new();
    let mut options = server.options();
    change(&mut options);
    let script = thread::spawn(move || script(&server));
    let (client, events) = Client::login(options).unwrap();
    (client, events, script)
}

fn stay(_: &mut Options) {}

fn reconnect(options: &mut Options) {
    options.reconnect = true;
}

/// The error that ended the session.
fn closed(events: &Events) -> Error {
    events
        .wait_for(fake::LIMIT, |event| match event {
            Event::Closed(error) => Some(error.clone()),
            _ => None,
        })
        .unwrap()
}

#[test]
fn a_send_returns_the_number_of_its_acknowledgement() {
    let (client, _events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        let data = link.ack(41);
        assert_eq!((data.from_user_id, data.to_session_id, data.msg_id, data.msg_type), (1, 2, 0, 1));
        assert_eq!(data.msg_data, fake::text_message(1, 2, 0, "hello").msg_data);
        link.until_closed();
    });
    let sent = client.send_text(2, "hello").unwrap();
    assert_eq!((sent.msg_id, sent.client_msg_id.len()), (41, 32));
    drop(client);
    script.join().unwrap();
}

#[test]
fn unacknowledged_messages_are_repeated_in_order_under_their_ids_after_a_reconnect() {
    let (client, events, script) = meet(reconnect, |server| {
        let mut link = server.sign_in();
        let first: Vec<_> = (0..3).map(|_| link.recv::<ImMsgData>().1.client_msg_id.unwrap()).collect();
        drop(link);
        let mut link = server.sign_in();
        let second: Vec<_> = (1..=3).map(|id| link.ack(id).client_msg_id.unwrap()).collect();
        assert_eq!(first, second);
        link.until_closed();
    });
    let answers: Vec<_> =
        ["a", "b", "c"].map(|text| client.start(SendText::new(2, text).unwrap(), fake::LIMIT)).into_iter().collect();
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.wait().unwrap().msg_id).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert!(matches!(events.next(fake::LIMIT).unwrap(), Event::Offline { error: Error::Unreachable { .. }, .. }));
    drop(client);
    script.join().unwrap();
}

#[test]
fn a_server_that_knows_no_message_ids_gets_no_repetition() {
    let (client, _events, script) = meet(reconnect, |server| {
        let (mut link, seq, _) = server.meet();
        let mut welcome = fake::welcome();
        welcome.capabilities = None;
        link.send(seq, &welcome);
        link.recv::<ImMsgData>();
        drop(link);
        // The question is repeated, the message is not.
        let mut link = server.sign_in();
        let (seq, _) = link.recv::<ImClientTimeReq>();
        link.send(seq, &ImClientTimeRsp { server_time: 5 });
        link.until_closed();
    });
    let message = client.start(SendText::new(2, "a").unwrap(), fake::LIMIT);
    let question = client.start(ServerTime, fake::LIMIT);
    assert!(matches!(message.wait().unwrap_err(), Error::Unreachable { .. }));
    assert_eq!(question.wait(), Ok(5));
    drop(client);
    script.join().unwrap();
}

#[test]
fn a_negative_acknowledgement_is_a_refusal_with_its_code() {
    let (client, _events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        let (seq, _) = link.recv::<ImMsgData>();
        link.send(seq, &ImMsgDataAck { session_type: 1, result: Some(7), ..Default::default() });
        link.until_closed();
    });
    assert!(matches!(client.send_text(2, "hello").unwrap_err(), Error::Refused { code: 7, .. }));
    drop(client);
    script.join().unwrap();
}

#[test]
fn a_text_that_cannot_be_sent_is_refused_here() {
    for text in [String::new(), "x".repeat(4000)] {
        assert!(matches!(SendText::new(2, &text), Err(Error::Invalid(_))));
    }
    assert!(SendText::new(2, &"x".repeat(3000)).is_ok());
}

#[test]
fn a_message_that_comes_twice_is_reported_once_and_receipted_twice() {
    let (client, events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        for id in [7, 7, 8] {
            link.send(0, &fake::text_message(2, 1, id, "hi"));
        }
        for id in [7, 7, 8] {
            let (_, receipt) = link.recv::<ImMsgDataAck>();
            assert_eq!((receipt.user_id, receipt.session_id, receipt.msg_id), (1, 2, id));
        }
        link.until_closed();
    });
    let seen = [7, 8].map(|_| events.next_message(fake::LIMIT).unwrap());
    assert_eq!(seen.each_ref().map(|message| message.msg_id), [7, 8]);
    assert_eq!((seen[0].from, seen[0].to, seen[0].conversation), (2, 1, Peer::User(2)));
    assert_eq!((seen[0].text(), seen[0].time), (Some("hi"), 1_700_000_000));
    drop(client);
    script.join().unwrap();
}

#[test]
fn duplicates_are_recognised_across_a_reconnect() {
    let (client, events, script) = meet(reconnect, |server| {
        let mut link = server.sign_in();
        link.send(0, &fake::text_message(2, 1, 7, "hi"));
        link.recv::<ImMsgDataAck>();
        drop(link);
        link = server.sign_in();
        for id in [7, 8] {
            link.send(0, &fake::text_message(2, 1, id, "hi"));
        }
        link.until_closed();
    });
    let ids = [1, 2].map(|_| events.next_message(fake::LIMIT).unwrap().msg_id);
    assert_eq!(ids, [7, 8]);
    drop(client);
    script.join().unwrap();
}

#[test]
fn an_own_message_from_another_device_belongs_to_the_peers_conversation() {
    let (client, events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        link.send(0, &fake::text_message(1, 2, 9, "from my phone"));
        link.until_closed();
    });
    let message = events.next_message(fake::LIMIT).unwrap();
    assert_eq!((message.from, message.conversation), (1, Peer::User(2)));
    drop(client);
    script.join().unwrap();
}

#[test]
fn foreign_contents_are_shown_as_unreadable_and_end_nothing() {
    let contents = ["", "not base64 \u{1f}", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA=="];
    let (client, events, script) = meet(stay, move |server| {
        let mut link = server.sign_in();
        for (content, id) in contents.iter().zip(1..) {
            let msg_data = Bytes::from_static(content.as_bytes());
            link.send(0, &ImMsgData { msg_data, ..fake::text_message(2, 1, id, "x") });
        }
        link.send(0, &ImMsgData { msg_type: 99, ..fake::text_message(2, 1, 5, "x") });
        let voice = Bytes::from_static(&[0, 0, 0, 3, 0xff]);
        link.send(0, &ImMsgData { msg_type: 2, msg_data: voice, ..fake::text_message(2, 1, 6, "x") });
        // A body that is no message at all, and a command that nobody knows.
        link.send_bytes(&pdu::encode_raw(0x0301, 0, &[0xff; 9]));
        link.send_bytes(&pdu::encode_raw(0x7777, 0, b"x"));
        link.send(0, &fake::text_message(2, 1, 7, "still here"));
        link.until_closed();
    });
    for _ in 0..5 {
        assert_eq!(events.next_message(fake::LIMIT).unwrap().content, Content::Unreadable);
    }
    assert!(matches!(events.next_message(fake::LIMIT).unwrap().content, Content::Voice { seconds: 3, .. }));
    assert_eq!(events.next_message(fake::LIMIT).unwrap().text(), Some("still here"));
    drop(client);
    script.join().unwrap();
}

#[test]
fn an_answer_must_fit_its_question() {
    let (client, _events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        let (seq, _) = link.recv::<ImClientTimeReq>();
        link.send(seq.wrapping_add(1), &ImClientTimeRsp { server_time: 1 });
        link.send(seq, &ImMsgDataAck { msg_id: 2, session_type: 1, ..Default::default() });
        link.send(seq, &ImClientTimeRsp { server_time: 3 });
        link.send(seq, &ImClientTimeRsp { server_time: 4 });
        link.until_closed();
    });
    assert_eq!(client.server_time(), Ok(3));
    drop(client);
    script.join().unwrap();
}

#[test]
fn a_question_without_an_answer_times_out_and_the_session_goes_on() {
    let (client, _events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        let (late, _) = link.recv::<ImClientTimeReq>();
        let (seq, _) = link.recv::<ImClientTimeReq>();
        link.send(late, &ImClientTimeRsp { server_time: 1 });
        link.send(seq, &ImClientTimeRsp { server_time: 2 });
        link.until_closed();
    });
    let error = client.ask_within(ServerTime, Duration::from_millis(30)).unwrap_err();
    assert!(matches!(error, Error::Timeout { what: "the server time", .. }));
    assert_eq!(client.server_time(), Ok(2));
    drop(client);
    script.join().unwrap();
}

#[test]
fn history_names_sender_and_receiver_of_each_row() {
    let (client, _events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        let (seq, request) = link.recv::<ImGetMsgListReq>();
        assert_eq!((request.session_id, request.msg_id_begin, request.msg_cnt), (2, 0, 10));
        let row = |msg_id, from_session_id| MsgInfo {
            msg_id,
            from_session_id,
            create_time: 9,
            msg_type: 1,
            msg_data: fake::text_message(0, 0, 0, "row").msg_data,
        };
        link.send(seq, &ImGetMsgListRsp { msg_list: vec![row(2, 1), row(1, 2)], ..Default::default() });
        link.until_closed();
    });
    let rows = client.history(2, 0, 10).unwrap();
    let brief: Vec<_> = rows.iter().map(|row| (row.msg_id, row.from, row.to, row.text())).collect();
    assert_eq!(brief, [(2, 1, 2, Some("row")), (1, 2, 1, Some("row"))]);
    drop(client);
    script.join().unwrap();
}

#[test]
fn the_address_book_is_fetched_page_by_page() {
    let (client, _events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        let mut page = |since, newest, ids: &[u32]| {
            let (seq, request) = link.recv::<ImAllUserReq>();
            assert_eq!(request.latest_update_time, since);
            let mut user_list: Vec<_> = ids.iter().map(|id| fake::card(*id, "u")).collect();
            if let Some(left) = user_list.iter_mut().find(|user| user.user_id == 4) {
                left.status = 3;
            }
            link.send(seq, &ImAllUserRsp { latest_update_time: newest, user_list, ..Default::default() });
        };
        page(0, 100, &[1, 2]);
        page(100, 200, &[2, 3, 4]);
        page(200, 200, &[3]);
        link.until_closed();
    });
    let ids: Vec<_> = client.users().unwrap().iter().map(|user| user.id).collect();
    assert_eq!(ids, [1, 2, 3]);
    drop(client);
    script.join().unwrap();
}

#[test]
fn notices_become_events_and_reading_is_told() {
    let (client, events, script) = meet(stay, |server| {
        let mut link = server.sign_in();
        link.send(0, &ImUserStatNotify { user_stat: UserStat { user_id: 2, status: 1, ..UserStat::default() } });
        link.send(0, &ImMsgDataReadNotify { user_id: 1, session_id: 2, msg_id: 4, session_type: 1 });
        let (_, read) = link.recv::<ImMsgDataReadAck>();
        assert_eq!((read.user_id, read.session_id, read.msg_id, read.session_type), (1, 2, 5, 1));
        link.until_closed();
    });
    let event = events.next(fake::LIMIT).unwrap();
    assert!(matches!(event, Event::Presence { user_id: 2, presence: Presence::Online }), "{event:?}");
    let event = events.next(fake::LIMIT).unwrap();
    assert!(matches!(event, Event::Read { conversation: Peer::User(2), msg_id: 4 }), "{event:?}");
    client.mark_read(2, 5).unwrap();
    drop(client);
    script.join().unwrap();
}

#[test]
fn a_kicked_session_ends_at_once_and_does_not_come_back() {
    let (client, events, script) = meet(reconnect, |server| {
        let mut link = server.sign_in();
        link.recv::<ImMsgData>();
        link.send(0, &ImKickUser { user_id: 1, kick_reason: 1 });
        assert!(link.until_closed().is_empty());
    });
    let kicked = Error::Kicked(KickReason::SignedInElsewhere);
    assert_eq!(client.send_text(2, "hello").unwrap_err(), kicked);
    assert_eq!(closed(&events), kicked);
    assert_eq!(client.send_text(2, "hello").unwrap_err(), kicked, "and so says every later call");
    script.join().unwrap();
}

#[test]
fn a_session_without_reconnect_ends_with_its_connection() {
    let (client, events, script) = meet(stay, |server| {
        let mut link: Link = server.sign_in();
        link.recv::<ImMsgData>();
    });
    assert!(matches!(client.send_text(2, "hello").unwrap_err(), Error::Unreachable { .. }));
    assert!(matches!(closed(&events), Error::Unreachable { .. }));
    script.join().unwrap();
}

#[test]
fn logging_out_waits_for_the_answer() {
    let (client, events, script) = meet(reconnect, |server| {
        let mut link = server.sign_in();
        let (seq, _) = link.recv::<ImLogoutReq>();
        link.send(seq, &ImLogoutRsp { result_code: 0 });
        link.until_closed();
    });
    client.logout().unwrap();
    assert_eq!(closed(&events), Error::Closed);
    script.join().unwrap();
}
