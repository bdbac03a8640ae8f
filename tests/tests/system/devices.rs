//! People with a PC and a phone: voice, what is refused and how, cards that their owners change,
//! quiet nights, signals; on one msg server and on two.

use std::{fs, net::SocketAddr};

use tt_proto::{
    cipher::{Cipher, DEFAULT_KEY},
    im::{
        base_define::{MsgInfo, UserInfo},
        buddy, login, message, switch_service,
    },
    pdu::MAX_VOICE,
};
use tt_tests::{Account, Class, Client, Home, Server, binaries, command, eventually, free_address, run_with_input};

use super::roles::{launch, list, text};

const VOICE: i32 = 2;
/// Announces that the client understands an ack that says no.
const REFUSALS: Option<u64> = Some(0b10);
const TYPING: &str = r#"{"cmd_id":131073,"content":"","service_id":2}"#;

/// A voice message of nine seconds with a recording of so many bytes, no two lengths alike.
fn voice(client: &Client, to: u32, len: usize) -> message::ImMsgData {
    let recording = (0..len).map(|at| (at * 7 + len) as u8);
    let body: Vec<u8> = 9_u32.to_be_bytes().into_iter().chain(recording).collect();
    message::ImMsgData { msg_type: VOICE, msg_data: body.into(), ..client.text_message(to, "x") }
}

fn ack(client: &mut Client, message: &message::ImMsgData) -> message::ImMsgDataAck {
    client.request(command::MSG_DATA, message, command::MSG_DATA_ACK)
}

fn history(client: &mut Client, with: u32) -> Vec<MsgInfo> {
    let (user_id, session_type, session_id, msg_cnt) = (client.user_id, 1, with, 10);
    let request = message::ImGetMsgListReq { user_id, session_type, session_id, msg_cnt, ..Default::default() };
    let page: message::ImGetMsgListRsp =
        client.request(command::MSG_LIST_REQUEST, &request, command::MSG_LIST_RESPONSE);
    page.msg_list
}

fn sign(client: &mut Client, text: &str) -> buddy::ImChangeSignInfoRsp {
    // Somebody else's id: the server knows better.
    let request = buddy::ImChangeSignInfoReq { user_id: 1_000, sign_info: text.to_owned(), ..Default::default() };
    client.request(command::CHANGE_SIGN_INFO_REQUEST, &request, command::CHANGE_SIGN_INFO_RESPONSE)
}

fn picture(client: &mut Client, url: &str) -> buddy::ImChangeAvatarRsp {
    let request = buddy::ImChangeAvatarReq { user_id: 1_000, avatar_url: url.to_owned(), ..Default::default() };
    client.request(command::CHANGE_AVATAR_REQUEST, &request, command::CHANGE_AVATAR_RESPONSE)
}

fn pull(client: &mut Client, since: u32) -> (Vec<UserInfo>, u32) {
    let request = buddy::ImAllUserReq { latest_update_time: since, ..Default::default() };
    let page: buddy::ImAllUserRsp = client.request(command::ALL_USER_REQUEST, &request, command::ALL_USER_RESPONSE);
    (page.user_list, page.latest_update_time)
}

fn quiet_nights(client: &mut Client) -> u32 {
    let request = login::ImQueryPushShieldReq::default();
    let answer: login::ImQueryPushShieldRsp =
        client.request(command::REQ_QUERY_PUSH_SHIELD, &request, command::RES_QUERY_PUSH_SHIELD);
    assert_eq!((answer.user_id, answer.result_code), (client.user_id, 0));
    answer.shield_status.expect("set when the result is 0")
}

/// spec/README.md, traps 27 and 28.
#[test]
fn voice_is_whole_on_every_device_in_history_and_after_a_restart() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let mut alices_phone = dev.sign_in("alice", Class::Mobile);
    let mut bobs_phone = dev.sign_in("bob", Class::Mobile);
    let sent = [1, 20_000, MAX_VOICE - 4].map(|len| voice(&alice, bob.user_id, len));
    for (id, message) in (1..).zip(&sent) {
        assert_eq!(ack(&mut alice, message).msg_id, id);
        for device in [&mut alices_phone, &mut bob, &mut bobs_phone] {
            let copy: message::ImMsgData = device.notice(command::MSG_DATA);
            assert_eq!((copy.msg_id, copy.from_user_id, copy.msg_type), (id, alice.user_id, VOICE));
            assert!(copy.msg_data == message.msg_data, "all of it, as it was sent");
        }
    }
    assert_eq!(dev.server.stop().code, Some(0));

    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let (alice_id, bob_id) = (alice.user_id, bob.user_id);
    for (client, peer) in [(&mut alice, bob_id), (&mut bob, alice_id)] {
        let rows = history(client, peer);
        let mut newest_first = sent.iter().rev();
        assert_eq!(rows.len(), 3);
        for row in rows {
            assert_eq!((row.msg_type, row.from_session_id), (VOICE, alice_id));
            assert!(row.msg_data == newest_first.next().expect("three").msg_data, "history has what was delivered");
        }
    }
    let request = buddy::ImRecentContactSessionReq::default();
    let sessions: buddy::ImRecentContactSessionRsp =
        bob.request(command::RECENT_SESSION_REQUEST, &request, command::RECENT_SESSION_RESPONSE);
    let unread: message::ImUnreadMsgCntRsp =
        bob.request(command::UNREAD_CNT_REQUEST, &message::ImUnreadMsgCntReq::default(), command::UNREAD_CNT_RESPONSE);
    let (session, unread) = (&sessions.contact_session_list[0], &unread.unreadinfo_list[0]);
    assert_eq!((unread.unread_cnt, session.latest_msg_type, unread.latest_msg_type), (3, VOICE, VOICE));
    for preview in [&session.latest_msg_data, &unread.latest_msg_data] {
        let plain = Cipher::new(DEFAULT_KEY).decrypt(preview).expect("enciphered like any text");
        assert_eq!(std::str::from_utf8(&plain), Ok("[语音]"));
    }
}

#[test]
fn g6_each_refusal_is_told_to_clients_that_understand_it_and_takes_no_id() {
    let home = Home::new();
    let dev = home.start();
    let (alice, bob) = (dev.account("alice"), dev.account("bob").id);
    let mut capable = Client::sign_in_with(dev.address("msg"), &alice, Class::Pc, REFUSALS);
    let mut legacy = dev.sign_in("alice", Class::Mobile);
    let text = |to| capable.text_message(to, "x");
    let named = |id: &str, what: &str| message::ImMsgData {
        client_msg_id: Some(id.to_owned()),
        ..capable.text_message(bob, what)
    };
    let data = |msg_type, len: usize| message::ImMsgData { msg_type, msg_data: vec![b'A'; len].into(), ..text(bob) };
    let first = named("once", "first");
    let cases = [
        ("nothing in it", data(1, 0), 3),
        ("to nobody", text(9_999_999), 3),
        ("to user 0", text(0), 3),
        ("to oneself", text(alice.id), 3),
        ("of no kind", data(99, 1), 3),
        ("an id too long", named(&"x".repeat(65), "x"), 3),
        ("a voice message without a recording", data(VOICE, 4), 3),
        ("a text above the limit", data(1, 4_097), 5),
        ("a recording above the limit", data(VOICE, MAX_VOICE + 1), 5),
        ("an id used for something else", named("once", "second"), 6),
        ("an id used for another receiver", message::ImMsgData { to_session_id: 9_999_999, ..first.clone() }, 6),
    ];
    assert_eq!(ack(&mut capable, &first).msg_id, 1);
    for (what, message, result) in cases {
        let answer = ack(&mut capable, &message);
        assert_eq!((answer.msg_id, answer.result), (0, Some(result)), "{what}");
        assert_eq!((answer.user_id, answer.session_id), (alice.id, message.to_session_id), "{what}");
        // The same from a client of 2015, which an ack with id 0 would crash.
        legacy.send(command::MSG_DATA, &message::ImMsgData { client_msg_id: None, ..message });
    }
    assert_eq!(ack(&mut capable, &first).msg_id, 1, "a repetition is no refusal");
    let acks = legacy.drain().iter().filter(|pdu| pdu.command == command::MSG_DATA_ACK).count();
    // Two of them were refused for their id alone, and without it are messages like any other.
    assert_eq!(acks, 2);
    assert_eq!(capable.say(bob, "and the ids go on"), history(&mut capable, bob).len() as u32);
}

#[test]
fn a_changed_card_is_told_to_everybody_and_pulled_by_who_was_away() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let mut bobs_phone = dev.sign_in("bob", Class::Mobile);
    let (alice_id, bob_id) = (alice.user_id, bob.user_id);
    let (_, since) = pull(&mut bob, 0);

    let longest = "é".repeat(64);
    for line in ["in a meeting", &longest] {
        let answer = sign(&mut alice, line);
        assert_eq!((answer.user_id, answer.result_code, answer.sign_info.as_deref()), (alice.user_id, 0, Some(line)));
        for client in [&mut alice, &mut bob, &mut bobs_phone] {
            let notice: buddy::ImSignInfoChangedNotify = client.notice(command::SIGN_INFO_CHANGED_NOTIFY);
            assert_eq!((notice.changed_user_id, notice.sign_info.as_str()), (alice_id, line));
        }
    }
    assert_eq!(picture(&mut bob, "g0/000/bob.png").result_code, 0);
    for client in [&mut alice, &mut bob, &mut bobs_phone] {
        let notice: buddy::ImAvatarChangedNotify = client.notice(command::AVATAR_CHANGED_NOTIFY);
        assert_eq!((notice.changed_user_id, notice.avatar_url.as_str()), (bob_id, "g0/000/bob.png"));
    }
    // Refused, and told to nobody: one byte too long, and no UTF-8 at all (silence).
    assert_eq!(sign(&mut alice, &format!("{longest}x")).result_code, 1);
    assert_eq!(picture(&mut alice, &"x".repeat(256)).result_code, 1);
    let seq = alice.seq();
    alice.write(&tt_tests::pack(command::CHANGE_SIGN_INFO_REQUEST, seq, b"\x08\x01\x12\x02\xff\xff")).expect("sent");
    for client in [&mut alice, &mut bob, &mut bobs_phone] {
        let told = client.drain();
        let of_cards = [command::SIGN_INFO_CHANGED_NOTIFY, command::AVATAR_CHANGED_NOTIFY];
        assert!(!told.iter().any(|pdu| of_cards.contains(&pdu.command) || pdu.seq == seq), "{told:?}");
    }
    // All of it within a second or two: whoever pulls by time misses none of the changes.
    let (changed, latest) = pull(&mut bob, since + 1);
    let card = |id| changed.iter().find(|card| card.user_id == id).expect("changed since");
    assert_eq!(card(alice.user_id).sign_info.as_deref(), Some(longest.as_str()));
    assert_eq!(card(bob.user_id).avatar_url, "g0/000/bob.png");
    assert_eq!(sign(&mut alice, "back").result_code, 0);
    let (changed, _) = pull(&mut bob, latest);
    assert!(changed.iter().any(|card| card.sign_info.as_deref() == Some("back")), "{changed:?}");
    // And it shows on the card that the next sign-in brings.
    assert_eq!(dev.server.stop().code, Some(0));
    let dev = home.start();
    let account = dev.account("alice");
    let card = dev.connect().login(&account.name, &account.password, Class::Pc).user_info.expect("a card");
    assert_eq!(card.sign_info.as_deref(), Some("back"));
}

#[test]
fn quiet_nights_belong_to_the_user_and_stay() {
    let home = Home::new();
    let dev = home.start();
    let mut bob = dev.sign_in("bob", Class::Pc);
    let mut alice = dev.sign_in("alice", Class::Mobile);
    assert_eq!((quiet_nights(&mut alice), quiet_nights(&mut bob)), (0, 0));
    for (status, result) in [(1, 0), (1, 0), (2, 1), (u32::MAX, 1)] {
        // Bob's id in it changes nothing for bob.
        let request = login::ImPushShieldReq { user_id: bob.user_id, shield_status: status, ..Default::default() };
        let answer: login::ImPushShieldRsp =
            alice.request(command::REQ_PUSH_SHIELD, &request, command::RES_PUSH_SHIELD);
        assert_eq!((answer.user_id, answer.result_code), (alice.user_id, result), "{status}");
    }
    let token = login::ImDeviceTokenReq { device_token: "t".to_owned(), ..Default::default() };
    let answer: login::ImDeviceTokenRsp = alice.request(command::REQ_DEVICETOKEN, &token, command::RES_DEVICETOKEN);
    assert_eq!(answer.user_id, alice.user_id, "the recorded server left its required field out");
    bob.send(command::REQ_DEVICETOKEN, &token);
    assert!(!bob.drain().iter().any(|pdu| pdu.command == command::RES_DEVICETOKEN), "only phones have one");
    assert_eq!((quiet_nights(&mut alice), quiet_nights(&mut bob)), (1, 0));
    assert_eq!(dev.server.stop().code, Some(0));
    let dev = home.start();
    assert_eq!(quiet_nights(&mut dev.sign_in("alice", Class::Pc)), 1);
}

/// A login, a route and a db-proxy server, two msg servers, and two people.
fn two_msg_servers(home: &Home) -> (Vec<Server>, [SocketAddr; 2], [Account; 2]) {
    let (login, route, db_proxy, msgs) =
        (free_address(), free_address(), free_address(), [free_address(), free_address()]);
    let any = || text(free_address());
    fs::create_dir(home.data()).expect("a temporary directory");
    let data = format!("\"{}\"", home.data().display());
    let mut servers = vec![
        launch(home, "db-proxy", &[("listen", text(db_proxy)), ("data", data), ("metrics_listen", any())]),
        launch(home, "route", &[("listen", text(route)), ("metrics_listen", any())]),
        launch(
            home,
            "login",
            &[("http_listen", any()), ("client_listen", any()), ("msg_listen", text(login)), ("metrics_listen", any())],
        ),
    ];
    for (number, address) in (1..).zip(msgs) {
        let changes = [
            ("server_id", format!("\"msg-{number}\"")),
            ("listen", text(address)),
            ("login_servers", list(login)),
            ("route_servers", list(route)),
            ("db_proxies", list(db_proxy)),
            ("metrics_listen", any()),
        ];
        let mut server = launch(home, "msg", &changes);
        server.wait_line("Ready");
        servers.push(server);
    }
    let file = home.path("db-proxy.toml");
    let people = ["erin", "frank"].map(|name| {
        let arguments = ["user", "add", name, "--config", file.to_str().expect("UTF-8")];
        let exit = run_with_input(&binaries().teamtalk, &arguments, "password\n");
        let id = exit.stdout.trim_end().rsplit('#').next().and_then(|id| id.parse().ok());
        Account { name: name.to_owned(), password: "password".to_owned(), id: id.expect("its id is printed") }
    });
    (servers, msgs, people)
}

#[test]
fn devices_on_two_msg_servers_see_what_those_on_one_would() {
    let home = Home::new();
    let (_servers, [one, other], [erin, frank]) = two_msg_servers(&home);
    let mut erins_phone = Client::sign_in(one, &erin, Class::Mobile);
    let mut erin = Client::sign_in(other, &erin, Class::Pc);
    let mut frank = Client::sign_in(one, &frank, Class::Pc);

    // The phone learns that the PC is there.
    let notice: buddy::ImpcLoginStatusNotify = erins_phone.notice(command::PC_LOGIN_STATUS_NOTIFY);
    assert_eq!((notice.user_id, notice.login_stat), (erin.user_id, 1));

    // What the PC sends, the phone and frank get; voice from one server to the other is whole.
    let long = voice(&erin, frank.user_id, MAX_VOICE - 4);
    assert_eq!(ack(&mut erin, &long).msg_id, 1);
    for device in [&mut erins_phone, &mut frank] {
        let copy: message::ImMsgData = device.notice(command::MSG_DATA);
        assert!((copy.msg_id, copy.msg_type) == (1, VOICE) && copy.msg_data == long.msg_data);
    }

    // What frank sends and the phone reads, the PC does not have to read again.
    assert_eq!(frank.say(erin.user_id, "hi"), 2);
    assert_eq!((erin.hear().id, erins_phone.hear().id), (2, 2));
    let read =
        message::ImMsgDataReadAck { session_id: frank.user_id, msg_id: 2, session_type: 1, ..Default::default() };
    erins_phone.send(command::MSG_READ_ACK, &read);
    let notice: message::ImMsgDataReadNotify = erin.notice(command::MSG_READ_NOTIFY);
    assert_eq!((notice.user_id, notice.session_id, notice.msg_id), (erin.user_id, frank.user_id, 2));

    // Signals have their true sender and sequence number 0, also on the other server.
    let (from_user_id, to_user_id) = (frank.user_id, frank.user_id);
    let cmd_msg_data = TYPING.to_owned();
    erin.send(command::P2P_CMD, &switch_service::Imp2pCmdMsg { from_user_id, to_user_id, cmd_msg_data });
    for device in [&mut frank, &mut erins_phone] {
        let signal: switch_service::Imp2pCmdMsg = device.notice(command::P2P_CMD);
        assert_eq!((signal.from_user_id, signal.to_user_id), (erin.user_id, to_user_id));
        assert_eq!(signal.cmd_msg_data, TYPING);
    }

    // Cards are told on both servers, once to each client.
    assert_eq!(sign(&mut frank, "busy").result_code, 0);
    assert_eq!(picture(&mut frank, "g0/f.png").result_code, 0);
    for client in [&mut erin, &mut erins_phone, &mut frank] {
        let notice: buddy::ImSignInfoChangedNotify = client.notice(command::SIGN_INFO_CHANGED_NOTIFY);
        assert_eq!((notice.changed_user_id, notice.sign_info.as_str()), (to_user_id, "busy"));
        let notice: buddy::ImAvatarChangedNotify = client.notice(command::AVATAR_CHANGED_NOTIFY);
        assert_eq!((notice.changed_user_id, notice.avatar_url.as_str()), (to_user_id, "g0/f.png"));
    }

    // The phone sends the PC away, from the other server; then it learns that the PC is gone.
    let _: login::ImKickPcClientRsp =
        erins_phone.request(command::REQ_KICKPCCLIENT, &login::ImKickPcClientReq::default(), command::RES_KICKPCCLIENT);
    let kick: login::ImKickUser = erin.notice(command::KICK_USER);
    assert_eq!((kick.user_id, kick.kick_reason), (erin.user_id, 2));
    drop(erin);
    loop {
        let notice: buddy::ImpcLoginStatusNotify = erins_phone.notice(command::PC_LOGIN_STATUS_NOTIFY);
        if notice.login_stat == 2 {
            break;
        }
    }
    for client in [&mut erins_phone, &mut frank] {
        let once = [command::P2P_CMD, command::SIGN_INFO_CHANGED_NOTIFY, command::AVATAR_CHANGED_NOTIFY];
        let again = client.drain();
        assert!(!again.iter().any(|pdu| once.contains(&pdu.command)), "{again:?}");
    }
}

#[test]
fn g6_without_a_store_whatever_has_a_place_for_it_says_no() {
    let home = Home::new();
    let (mut servers, [one, _], [erin, frank]) = two_msg_servers(&home);
    let mut capable = Client::sign_in_with(one, &erin, Class::Pc, REFUSALS);
    let mut legacy = Client::sign_in(one, &frank, Class::Mobile);
    servers.remove(0).kill_9();
    let sign_in = || Client::connect(one).login(&erin.name, &erin.password, Class::Mobile).result_code;
    eventually("no link to a db-proxy is left", || sign_in() == 3);

    for message in [capable.text_message(frank.id, "x"), voice(&capable, frank.id, 1_000)] {
        let answer = ack(&mut capable, &message);
        assert_eq!((answer.msg_id, answer.result), (0, Some(7)), "known not to be stored, so it says so");
    }
    assert_eq!(sign(&mut capable, "x").result_code, 1);
    assert_eq!(picture(&mut capable, "x").result_code, 1);
    let shield = login::ImPushShieldReq { shield_status: 1, ..Default::default() };
    let answer: login::ImPushShieldRsp = legacy.request(command::REQ_PUSH_SHIELD, &shield, command::RES_PUSH_SHIELD);
    assert_eq!((answer.user_id, answer.result_code), (frank.id, 1));
    let query = login::ImQueryPushShieldReq::default();
    let answer: login::ImQueryPushShieldRsp =
        legacy.request(command::REQ_QUERY_PUSH_SHIELD, &query, command::RES_QUERY_PUSH_SHIELD);
    assert_eq!((answer.result_code, answer.shield_status), (1, None));
    legacy.post(erin.id, "to an old client: silence");
    let told = legacy.drain();
    assert!(!told.iter().any(|pdu| pdu.command == command::MSG_DATA_ACK), "{told:?}");
    // What needs no store goes on.
    let typing = |to_user_id| switch_service::Imp2pCmdMsg { from_user_id: 0, to_user_id, cmd_msg_data: TYPING.into() };
    legacy.send(command::P2P_CMD, &typing(erin.id));
    let signal: switch_service::Imp2pCmdMsg = capable.notice(command::P2P_CMD);
    assert_eq!(signal.from_user_id, frank.id);
}
