//! The db-proxy as a msg server sees it: over a real link, in PDUs.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tt_common::role::RoleError;
use tt_common::{ClusterConfig, RoleHandle};
use tt_db_proxy::store::embedded::{Embedded, OpenError};
use tt_db_proxy::store::{Accounts, NewUser, Store};
use tt_db_proxy::{Config, Limits, Listeners, QuietHours};
use tt_proto::im::base_define::{
    ClientType, GroupInfo, GroupModifyType, GroupType, GroupVersionInfo, MsgType, SessionType, UserTokenInfo,
};
use tt_proto::im::buddy::{
    ImAllUserReq, ImAllUserRsp, ImChangeAvatarReq, ImChangeAvatarRsp, ImChangeSignInfoReq, ImChangeSignInfoRsp,
    ImDepartmentReq, ImDepartmentRsp, ImRecentContactSessionReq, ImRecentContactSessionRsp, ImRemoveSessionReq,
    ImRemoveSessionRsp, ImUsersInfoReq, ImUsersInfoRsp,
};
use tt_proto::im::extension::ImLinkHello;
use tt_proto::im::group::{
    ImGroupChangeMemberReq, ImGroupChangeMemberRsp, ImGroupCreateReq, ImGroupCreateRsp, ImGroupInfoListReq,
    ImGroupInfoListRsp, ImGroupShieldReq, ImGroupShieldRsp, ImNormalGroupListReq, ImNormalGroupListRsp,
};
use tt_proto::im::login::{
    ImDeviceTokenReq, ImDeviceTokenRsp, ImPushShieldReq, ImPushShieldRsp, ImQueryPushShieldReq, ImQueryPushShieldRsp,
};
use tt_proto::im::message::{
    ImGetLatestMsgIdReq, ImGetLatestMsgIdRsp, ImGetMsgByIdReq, ImGetMsgByIdRsp, ImGetMsgListReq, ImGetMsgListRsp,
    ImMsgData, ImMsgDataReadAck, ImUnreadMsgCntReq, ImUnreadMsgCntRsp,
};
use tt_proto::im::server::{
    ImGetDeviceTokenReq, ImGetDeviceTokenRsp, ImGroupGetShieldReq, ImGroupGetShieldRsp, ImStopReceivePacket,
    ImValidateReq, ImValidateRsp,
};
use tt_proto::password::wire_digest;
use tt_proto::pdu::{self, MAX_ON_LINK, MAX_VOICE, PduRef};
use tt_proto::{Attach, Body, Command};

const ALICE: u32 = 1;
const BOB: u32 = 2;
const SINGLE: i32 = SessionType::SessionTypeSingle as i32;
const TEXT: i32 = MsgType::MsgTypeSingleText as i32;
/// Longer than anything here takes; a test that waits for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running db-proxy with two accounts.
struct Proxy {
    home: TempDir,
    handle: Option<RoleHandle>,
    links: SocketAddr,
    metrics: SocketAddr,
}

fn home() -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(home.path()).expect("open");
    for name in ["alice", "bob"] {
        let user = NewUser { name: name.to_owned(), wire_digest: wire_digest(name), ..NewUser::default() };
        store.add_user(&user).expect("a new account");
    }
    home
}

fn config(home: &Path) -> Config {
    let cluster = ClusterConfig {
        secret_file: PathBuf::new(),
        legacy_peers: true,
        legacy_addresses: vec![Ipv4Addr::LOCALHOST.into()],
    };
    Config { data: home.to_owned(), cluster, ..Config::default() }
}

fn listeners() -> Listeners {
    let free = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    Listeners { links: free(), metrics: free() }
}

impl Proxy {
    fn start() -> Self {
        Self::start_with(Limits::default())
    }

    fn start_with(limits: Limits) -> Self {
        Self::start_at(home(), |config| config.limits = limits)
    }

    fn start_at(home: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let listeners = listeners();
        let links = listeners.links.local_addr().expect("bound");
        let metrics = listeners.metrics.local_addr().expect("bound");
        let mut config = config(home.path());
        change(&mut config);
        let handle = tt_db_proxy::spawn(config, listeners).expect("a thread");
        handle.wait_ready(PATIENCE).expect("ready");
        Self { home, handle: Some(handle), links, metrics }
    }

    fn link(&self) -> Peer {
        Peer::dial(self.links)
    }

    fn stop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
            handle.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A msg server's end of a link, one that does not greet.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    fn dial(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, input: Vec::new() }
    }

    fn send<M: Body>(&mut self, seq: u16, message: &M) {
        self.raw(&pdu::encode(seq, message));
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// The next PDU that is not a greeting or a heartbeat: its sequence number, command and bytes.
    /// None at the end of the stream.
    fn next(&mut self) -> Option<(u16, u16, Vec<u8>)> {
        loop {
            if let Some(len) = pdu::frame_len(&self.input, MAX_ON_LINK).expect("framing") {
                let frame: Vec<u8> = self.input.drain(..len).collect();
                let header = PduRef::parse(&frame).expect("a frame").header;
                if [Command::LinkHello.id(), Command::HeartBeat.id()].contains(&header.command) {
                    continue;
                }
                return Some((header.seq, header.command, frame));
            }
            let mut buffer = [0; 8_192];
            let read = self.stream.read(&mut buffer).expect("receive");
            if read == 0 {
                return None;
            }
            self.input.extend_from_slice(&buffer[..read]);
        }
    }

    fn receive<M: Body>(&mut self, seq: u16) -> M {
        let (found, command, frame) = self.next().expect("an answer");
        assert_eq!((found, command), (seq, M::COMMAND.id()));
        PduRef::parse(&frame).expect("a frame").decode().expect("a body")
    }

    fn ask<Q: Body, R: Body>(&mut self, seq: u16, query: &Q) -> R {
        self.send(seq, query);
        self.receive(seq)
    }

    fn say(&mut self, seq: u16, message: &ImMsgData) -> ImMsgData {
        self.ask(seq, message)
    }

    fn sign_in(&mut self, name: &str, password: &str) -> ImValidateRsp {
        let query =
            ImValidateReq { user_name: name.to_owned(), password: wire_digest(password), attach_data: Some(cookie()) };
        self.ask(9, &query)
    }
}

fn cookie() -> Bytes {
    Bytes::from_static(b"\0\x01\xff any bytes")
}

fn text(from: u32, to: u32, content: &str) -> ImMsgData {
    ImMsgData {
        from_user_id: from,
        to_session_id: to,
        create_time: 1_700_000_000,
        msg_type: TEXT,
        msg_data: Bytes::copy_from_slice(content.as_bytes()),
        attach_data: Some(cookie()),
        ..ImMsgData::default()
    }
}

/// A voice message of seven seconds.
fn voice(from: u32, to: u32, recording: &[u8]) -> ImMsgData {
    let body = [&7_u32.to_be_bytes(), recording].concat();
    ImMsgData { msg_type: MsgType::MsgTypeSingleAudio.into(), msg_data: body.into(), ..text(from, to, "") }
}

fn history(user: u32, peer: u32) -> ImGetMsgListReq {
    ImGetMsgListReq {
        user_id: user,
        session_type: SINGLE,
        session_id: peer,
        msg_id_begin: 0,
        msg_cnt: 100,
        attach_data: Some(cookie()),
    }
}

fn unread(user: u32) -> ImUnreadMsgCntReq {
    ImUnreadMsgCntReq { user_id: user, attach_data: Some(cookie()) }
}

#[test]
fn every_answer_echoes_the_sequence_number_and_the_cookie() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    peer.say(1, &text(ALICE, BOB, "something to list"));

    fn check<Q: Body + Attach, R: Body + Attach>(peer: &mut Peer, seq: u16, query: &Q) {
        let answer: R = peer.ask(seq, query);
        assert_eq!(answer.attach(), query.attach(), "{}", R::COMMAND);
    }
    let (user_id, attach_data) = (ALICE, Some(cookie()));
    let validate =
        ImValidateReq { user_name: "alice".to_owned(), password: String::new(), attach_data: attach_data.clone() };
    check::<_, ImValidateRsp>(&mut peer, 2, &validate);
    let users = ImAllUserReq { user_id, latest_update_time: 0, attach_data: attach_data.clone() };
    check::<_, ImAllUserRsp>(&mut peer, 3, &users);
    let cards = ImUsersInfoReq { user_id, user_id_list: vec![BOB], attach_data: attach_data.clone() };
    check::<_, ImUsersInfoRsp>(&mut peer, 4, &cards);
    let departments = ImDepartmentReq { user_id, latest_update_time: 0, attach_data: attach_data.clone() };
    check::<_, ImDepartmentRsp>(&mut peer, 5, &departments);
    let sessions = ImRecentContactSessionReq { user_id, latest_update_time: 0, attach_data: attach_data.clone() };
    check::<_, ImRecentContactSessionRsp>(&mut peer, 6, &sessions);
    check::<_, ImUnreadMsgCntRsp>(&mut peer, 7, &unread(ALICE));
    check::<_, ImMsgData>(&mut peer, u16::MAX, &text(ALICE, BOB, "hello"));
    check::<_, ImGetMsgListRsp>(&mut peer, 0, &history(ALICE, BOB));
    let (session_type, session_id) = (SINGLE, BOB);
    let remove = ImRemoveSessionReq { user_id, session_type, session_id, attach_data: attach_data.clone() };
    check::<_, ImRemoveSessionRsp>(&mut peer, 10, &remove);
    let latest = ImGetLatestMsgIdReq { user_id, session_type, session_id, attach_data: attach_data.clone() };
    check::<_, ImGetLatestMsgIdRsp>(&mut peer, 8, &latest);
    let by_id = ImGetMsgByIdReq { user_id, session_type, session_id, msg_id_list: vec![1], attach_data };
    check::<_, ImGetMsgByIdRsp>(&mut peer, 9, &by_id);
}

#[test]
fn a_sign_in_is_answered_with_the_card_or_a_reason() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let accepted = peer.sign_in("alice", "alice");
    assert_eq!((accepted.result_code, accepted.result_string.as_deref()), (0, Some("成功")));
    let card = accepted.user_info.expect("the card");
    assert_eq!((card.user_id, card.user_real_name.as_str(), card.status), (ALICE, "alice", 0));
    for (name, password) in [("alice", "wrong"), ("nobody", "alice"), (&"x".repeat(1_000), "x")] {
        let refused = peer.sign_in(name, password);
        assert_eq!((refused.result_code, refused.user_name.as_str()), (1, name));
        assert!(refused.user_info.is_none());
        assert_eq!(refused.attach_data, Some(cookie()));
    }
}

#[test]
fn the_twelfth_wrong_password_locks_the_name_and_no_other() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    for _ in 0..11 {
        assert_eq!(peer.sign_in("alice", "wrong").result_code, 1);
    }
    assert_eq!(peer.sign_in("alice", "alice").result_code, 6);
    assert_eq!(peer.sign_in("bob", "bob").result_code, 0);
}

#[test]
fn a_sign_in_that_does_not_parse_is_answered_too() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    // The password is no UTF-8.
    peer.raw(&pdu::encode_raw(Command::ValidateReq.id(), 7, b"\x0a\x05alice\x12\x01\xff\xa2\x01\x03abc"));
    let answer: ImValidateRsp = peer.receive(7);
    assert_eq!((answer.user_name.as_str(), answer.result_code), ("alice", 2));
    assert_eq!(answer.attach_data.as_deref(), Some(&b"abc"[..]));
}

#[test]
fn g3_pipelined_messages_are_stored_and_answered_in_order() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let mut burst = Vec::new();
    for seq in 1..=200 {
        burst.extend_from_slice(&pdu::encode(seq, &text(ALICE, BOB, &format!("{seq}"))));
    }
    peer.raw(&burst);
    for seq in 1..=200 {
        let answer: ImMsgData = peer.receive(seq);
        assert_eq!(answer.msg_id, u32::from(seq));
    }
    let list: ImGetMsgListRsp = peer.ask(1, &history(BOB, ALICE));
    let contents: Vec<_> =
        list.msg_list.iter().map(|row| String::from_utf8_lossy(&row.msg_data).into_owned()).collect();
    assert_eq!(contents, (101..=200).rev().map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn g2_the_same_client_id_over_another_link_is_the_same_message() {
    let proxy = Proxy::start();
    let message = ImMsgData { client_msg_id: Some("one".to_owned()), ..text(ALICE, BOB, "once") };
    let later = ImMsgData { create_time: message.create_time + 5, ..message.clone() };
    assert_eq!(proxy.link().say(1, &message).msg_id, 1);
    let again = proxy.link().say(2, &later);
    assert_eq!((again.msg_id, again.create_time), (1, message.create_time));
    assert_eq!(proxy.link().say(3, &text(ALICE, BOB, "next")).msg_id, 2);
}

#[test]
fn a_read_sees_the_writes_that_were_sent_before_it() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    for round in 1..=50_u16 {
        let mut burst = Vec::new();
        burst.extend_from_slice(&pdu::encode(1, &text(ALICE, BOB, &format!("{round}"))));
        burst.extend_from_slice(&pdu::encode(2, &history(BOB, ALICE)));
        burst.extend_from_slice(&pdu::encode(3, &unread(BOB)));
        let ack = ImMsgDataReadAck { user_id: BOB, session_id: ALICE, session_type: SINGLE, ..Default::default() };
        burst.extend_from_slice(&pdu::encode(4, &ack));
        burst.extend_from_slice(&pdu::encode(5, &unread(BOB)));
        peer.raw(&burst);
        let mut seen = 0;
        while seen < 4 {
            let (seq, _, frame) = peer.next().expect("an answer");
            let pdu = PduRef::parse(&frame).expect("a frame");
            match seq {
                1 => assert_eq!(pdu.decode::<ImMsgData>().expect("body").msg_id, u32::from(round)),
                2 => {
                    let list = pdu.decode::<ImGetMsgListRsp>().expect("body").msg_list;
                    assert_eq!(list.first().map(|row| row.msg_id), Some(u32::from(round)));
                }
                3 => {}
                5 => assert_eq!(pdu.decode::<ImUnreadMsgCntRsp>().expect("body").total_cnt, 0, "round {round}"),
                other => panic!("an answer to {other}"),
            }
            seen += 1;
        }
    }
}

#[test]
fn g5_unread_counts_follow_messages_and_read_acks() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    for seq in 1..=3 {
        peer.say(seq, &text(ALICE, BOB, "hello"));
    }
    let counts: ImUnreadMsgCntRsp = peer.ask(4, &unread(BOB));
    assert_eq!((counts.total_cnt, counts.unreadinfo_list.len()), (3, 1));
    let row = &counts.unreadinfo_list[0];
    assert_eq!((row.session_id, row.unread_cnt, row.latest_msg_id), (ALICE, 3, 3));
    assert_eq!((row.latest_msg_from_user_id, &row.latest_msg_data[..]), (ALICE, &b"hello"[..]));
    let own: ImUnreadMsgCntRsp = peer.ask(5, &unread(ALICE));
    assert_eq!(own.total_cnt, 0);
    let all = ImMsgDataReadAck { user_id: BOB, session_id: ALICE, msg_id: 1, session_type: SINGLE, exact: None };
    for (id, left) in [(1, 2), (0, 2)] {
        peer.send(6, &ImMsgDataReadAck { msg_id: id, exact: Some(true), ..all });
        let after: ImUnreadMsgCntRsp = peer.ask(7, &unread(BOB));
        assert_eq!(after.total_cnt, left, "a client that means its message");
    }
    peer.send(6, &ImMsgDataReadAck { exact: Some(false), ..all });
    let after: ImUnreadMsgCntRsp = peer.ask(7, &unread(BOB));
    assert_eq!((after.total_cnt, after.unreadinfo_list.len()), (0, 0), "an ack reads the whole session");
}

#[test]
fn g6_a_message_that_is_not_stored_comes_back_with_a_reason() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    peer.say(1, &ImMsgData { client_msg_id: Some("id".to_owned()), ..text(ALICE, BOB, "first") });
    let limit = "x".repeat(4_096);
    let cases = [
        (text(ALICE, ALICE, "me"), 3),
        (text(ALICE, BOB, ""), 3),
        (text(ALICE, 404, "nobody"), 3),
        (text(404, BOB, "from nobody"), 3),
        (text(ALICE, BOB, &format!("{limit}x")), 5),
        (voice(ALICE, BOB, &[]), 3),
        (voice(ALICE, ALICE, b"sound"), 3),
        (voice(ALICE, BOB, &vec![7; MAX_VOICE - 3]), 5),
        (ImMsgData { msg_type: MsgType::MsgTypeGroupText.into(), ..text(ALICE, BOB, "group") }, 3),
        (ImMsgData { msg_type: 99, ..text(ALICE, BOB, "?") }, 3),
        (ImMsgData { client_msg_id: Some("id".to_owned()), ..text(ALICE, BOB, "other") }, 6),
        (ImMsgData { client_msg_id: Some("x".repeat(65)), ..text(ALICE, BOB, "long id") }, 3),
    ];
    for (seq, (message, reason)) in (2..).zip(cases) {
        let answer = peer.say(seq, &message);
        assert_eq!((answer.msg_id, answer.refusal), (0, Some(reason)), "{message:?}");
        assert_eq!(answer.attach_data, Some(cookie()));
    }
    let fits = peer.say(100, &text(ALICE, BOB, &limit));
    assert_eq!((fits.msg_id, fits.refusal), (2, None), "refusals use no ids");
}

#[test]
fn g6_over_the_limit_messages_are_refused_as_overload() {
    let proxy = Proxy::start_with(Limits { writes: 1, ..Limits::default() });
    let mut peer = proxy.link();
    let mut burst = Vec::new();
    for seq in 1..=50 {
        burst.extend_from_slice(&pdu::encode(seq, &text(ALICE, BOB, "burst")));
    }
    peer.raw(&burst);
    let (mut stored, mut refused) = (0, 0);
    for _ in 1..=50 {
        let (_, _, frame) = peer.next().expect("an answer to each");
        let answer: ImMsgData = PduRef::parse(&frame).expect("a frame").decode().expect("a body");
        match answer.refusal {
            None => stored += 1,
            Some(reason) => {
                assert_eq!((reason, answer.msg_id), (7, 0));
                refused += 1;
            }
        }
    }
    assert!(stored > 0 && refused > 0, "{stored} stored, {refused} refused");
    assert_eq!(peer.say(60, &text(ALICE, BOB, "later")).msg_id, stored + 1);
}

/// Whether bytes have come, or come in that time; they stay to be read.
fn has_answer_within(stream: &TcpStream, patience: Duration) -> bool {
    let before = stream.read_timeout().expect("a timeout");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    let came = matches!(stream.peek(&mut [0]), Ok(1));
    stream.set_read_timeout(before).expect("a timeout");
    came
}

/// A store that hangs, here in another process's lock: what waits behind it is answered as overload in good
/// time, what is at the store already is not refused, and nothing that was refused is stored.
#[test]
fn g6_what_waits_behind_a_store_that_hangs_is_refused_before_the_store_is_back() {
    let proxy = Proxy::start_at(home(), |config| config.timeouts.request_ms = 400);
    let mut peer = proxy.link();
    assert_eq!(peer.say(1, &text(ALICE, BOB, "before")).msg_id, 1);
    let other = rusqlite::Connection::open(proxy.home.path().join(tt_db_proxy::store::embedded::DATABASE));
    let other = other.expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    peer.send(2, &text(ALICE, BOB, "at the store"));
    // The writer takes what waits, and hangs with it. What comes later waits behind that.
    let reader = peer.stream.try_clone().expect("a second handle");
    let mut newest = 2;
    while newest < 20 && !has_answer_within(&reader, Duration::from_millis(100)) {
        newest += 1;
        peer.send(newest, &text(ALICE, BOB, "behind it"));
    }
    let mut refused = Vec::new();
    let (seq, _, frame) = peer.next().expect("an answer while the store hangs");
    let answer: ImMsgData = PduRef::parse(&frame).expect("a frame").decode().expect("a body");
    assert_eq!((answer.msg_id, answer.refusal), (0, Some(7)), "overloaded");
    refused.push(seq);
    other.execute_batch("ROLLBACK").expect("the lock is given back");
    let mut stored = Vec::new();
    for _ in 3..=newest {
        let (seq, _, frame) = peer.next().expect("an answer to each");
        let answer: ImMsgData = PduRef::parse(&frame).expect("a frame").decode().expect("a body");
        if answer.msg_id == 0 { refused.push(seq) } else { stored.push(seq) }
    }
    assert!(stored.contains(&2), "what the writer had in hand is stored: {stored:?}");
    let list: ImGetMsgListRsp = peer.ask(99, &history(ALICE, BOB));
    assert_eq!(list.msg_list.len(), 1 + stored.len(), "refused and not stored: {refused:?}");
}

#[test]
fn g6_bytes_that_wait_have_a_limit_of_their_own() {
    let proxy = Proxy::start_with(Limits { write_bytes: 100, ..Limits::default() });
    let mut peer = proxy.link();
    let refused = peer.say(1, &voice(ALICE, BOB, &[7; 97]));
    assert_eq!((refused.msg_id, refused.refusal), (0, Some(7)));
    for (seq, id) in [(2, 1), (3, 2)] {
        let fits = peer.say(seq, &voice(ALICE, BOB, &[7; 96]));
        assert_eq!((fits.msg_id, fits.refusal), (id, None), "what is stored waits no more");
    }
}

/// spec/README.md, traps 27 and 28.
#[test]
fn a_voice_message_comes_back_whole_and_lists_show_an_enciphered_text_for_it() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    // The longest, and one of bytes that are no text.
    let longest: Vec<u8> = (0..MAX_VOICE - 4).map(|at| (at * 7 % 251) as u8).collect();
    let sent = [voice(ALICE, BOB, &longest), voice(BOB, ALICE, b"\0\xff\xfe")];
    for (seq, message) in (1..).zip(&sent) {
        let stored = peer.say(seq, message);
        assert_eq!((u16::try_from(stored.msg_id), stored.refusal), (Ok(seq), None));
        assert_eq!((stored.msg_type, &stored.msg_data), (message.msg_type, &message.msg_data));
    }
    let list: ImGetMsgListRsp = peer.ask(5, &history(BOB, ALICE));
    let (session_type, session_id, attach_data) = (SINGLE, BOB, Some(cookie()));
    let msg_id_list = vec![1, 2];
    let by_id = ImGetMsgByIdReq { user_id: ALICE, session_type, session_id, msg_id_list, attach_data };
    let by_id: ImGetMsgByIdRsp = peer.ask(6, &by_id);
    for listed in [list.msg_list, by_id.msg_list] {
        let bodies: Vec<_> = listed.iter().rev().map(|row| (row.msg_type, &row.msg_data)).collect();
        assert_eq!(bodies, sent.iter().map(|message| (message.msg_type, &message.msg_data)).collect::<Vec<_>>());
    }
    let sessions: ImRecentContactSessionRsp =
        peer.ask(7, &ImRecentContactSessionReq { user_id: ALICE, ..Default::default() });
    let counts: ImUnreadMsgCntRsp = peer.ask(8, &unread(ALICE));
    let previews = [
        (sessions.contact_session_list[0].latest_msg_type, &sessions.contact_session_list[0].latest_msg_data),
        (counts.unreadinfo_list[0].latest_msg_type, &counts.unreadinfo_list[0].latest_msg_data),
    ];
    for (kind, data) in previews {
        assert_eq!(kind, MsgType::MsgTypeSingleAudio as i32);
        let plain = tt_proto::cipher::Cipher::new(tt_proto::cipher::DEFAULT_KEY).decrypt(data);
        assert_eq!(plain.as_deref().map(std::str::from_utf8), Ok(Ok("[语音]")));
    }
}

fn token(user_id: u32, device_token: &str, device: &str) -> ImDeviceTokenReq {
    ImDeviceTokenReq {
        user_id,
        device_token: device_token.to_owned(),
        client_type: Some(ClientType::ClientTypeIos.into()),
        attach_data: Some(cookie()),
        device_id: Some(device.to_owned()),
    }
}

fn pushes(peer: &mut Peer, users: &[u32]) -> Vec<(u32, i32, String, u32)> {
    let query = ImGetDeviceTokenReq { user_id: users.to_vec(), attach_data: Some(cookie()) };
    let answer: ImGetDeviceTokenRsp = peer.ask(77, &query);
    assert_eq!(answer.attach_data, Some(cookie()));
    let row = |row: UserTokenInfo| (row.user_id, row.user_type, row.token, row.push_count);
    answer.user_token_info.into_iter().map(row).collect()
}

#[test]
fn a_card_is_changed_with_an_answer_and_the_next_pull_has_it() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let sign =
        |user_id, text: &str| ImChangeSignInfoReq { user_id, sign_info: text.to_owned(), attach_data: Some(cookie()) };
    let picture =
        |user_id, url: &str| ImChangeAvatarReq { user_id, avatar_url: url.to_owned(), attach_data: Some(cookie()) };
    let longest = "x".repeat(128);
    for text in ["", "in a meeting", &longest] {
        let done: ImChangeSignInfoRsp = peer.ask(1, &sign(ALICE, text));
        assert_eq!((done.user_id, done.result_code, done.sign_info.as_deref()), (ALICE, 0, Some(text)));
        assert_eq!(done.attach_data, Some(cookie()));
    }
    for (user, text) in [(ALICE, format!("{longest}x")), (404, "nobody".to_owned())] {
        let refused: ImChangeSignInfoRsp = peer.ask(2, &sign(user, &text));
        assert_eq!((refused.user_id, refused.result_code, refused.sign_info), (user, 1, None));
        assert_eq!(refused.attach_data, Some(cookie()));
    }
    let done: ImChangeAvatarRsp = peer.ask(3, &picture(ALICE, "g0/a.png"));
    assert_eq!((done.user_id, done.result_code, done.attach_data), (ALICE, 0, Some(cookie())));
    for (user, url) in [(ALICE, "x".repeat(256)), (404, "g0".to_owned())] {
        let refused: ImChangeAvatarRsp = peer.ask(4, &picture(user, &url));
        assert_eq!((refused.user_id, refused.result_code), (user, 1));
    }
    // User 0 is nobody: no answer, no row, and the link goes on.
    peer.send(90, &sign(0, "x"));
    peer.send(91, &picture(0, "x"));
    peer.send(92, &ImPushShieldReq { user_id: 0, shield_status: 1, attach_data: None });
    peer.send(93, &ImQueryPushShieldReq { user_id: 0, attach_data: None });
    let users: ImAllUserRsp = peer.ask(5, &ImAllUserReq { user_id: BOB, ..Default::default() });
    assert_eq!(users.user_list.len(), 2);
    let card = users.user_list.iter().find(|card| card.user_id == ALICE).expect("alice");
    assert_eq!((card.sign_info.as_deref(), card.avatar_url.as_str()), (Some(&*longest), "g0/a.png"));
}

/// What recorded servers asked (the third: what a client asked, with the cookie of the second), and what the
/// recorded db-proxy answered.
#[test]
fn recorded_bytes_about_accounts_are_answered_with_the_recorded_bytes() {
    let recorded = [
        (
            "0000002f000100000002021300220000080112086e6577207369676ea2011000000001000000120000000000000000",
            "00000031000100000002021400220000080110001a086e6577207369676ea2011000000001000000120000000000000000",
        ),
        (
            "00000027000100000001010c0003000008021001a2011000000001000000110000000000000000",
            "00000029000100000001010d00030000080210001801a2011000000001000000110000000000000000",
        ),
        (
            "00000025000100000001010e000400000802a2011000000001000000110000000000000000",
            "00000029000100000001010f00040000080210001801a2011000000001000000110000000000000000",
        ),
        // The recorded one had no answer to this; spec/wire.md §8 asks for one.
        (
            "00000024000100000002020c0021000008011210687474703a2f2f782f6e65772e706e67",
            "00000014000100000002020d0021000008011000",
        ),
        // And left the required field out of this.
        ("0000001d00010000000101080002000008021207696f733a746f6b1812", "000000120001000000010109000200000802"),
    ];
    let bytes = |hex: &str| -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(digit).collect()
    };
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    for (asked, answered) in recorded {
        peer.raw(&bytes(asked));
        let (_, _, frame) = peer.next().expect("an answer");
        assert_eq!(frame, bytes(answered), "to {asked}");
    }
}

#[test]
fn a_push_shield_is_set_and_asked_in_order() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let set = |user_id, shield_status| ImPushShieldReq { user_id, shield_status, attach_data: Some(cookie()) };
    let ask = |user_id| ImQueryPushShieldReq { user_id, attach_data: Some(cookie()) };
    let mut burst = pdu::encode(1, &ask(ALICE)).to_vec();
    for (seq, status) in [(2, 1), (4, 0), (6, 1)] {
        burst.extend_from_slice(&pdu::encode(seq, &set(ALICE, status)));
        burst.extend_from_slice(&pdu::encode(seq + 1, &ask(ALICE)));
    }
    peer.raw(&burst);
    let is = |user_id, shield_status: Option<u32>| ImQueryPushShieldRsp {
        user_id,
        result_code: u32::from(shield_status.is_none()),
        shield_status,
        attach_data: Some(cookie()),
    };
    assert_eq!(peer.receive::<ImQueryPushShieldRsp>(1), is(ALICE, Some(0)));
    for (seq, status) in [(2, 1), (4, 0), (6, 1)] {
        let done: ImPushShieldRsp = peer.receive(seq);
        assert_eq!((done.user_id, done.result_code, done.shield_status), (ALICE, 0, Some(status)));
        assert_eq!(done.attach_data, Some(cookie()));
        assert_eq!(peer.receive::<ImQueryPushShieldRsp>(seq + 1), is(ALICE, Some(status)));
    }
    for (user, status) in [(ALICE, 2), (ALICE, u32::MAX), (404, 1)] {
        let refused: ImPushShieldRsp = peer.ask(8, &set(user, status));
        assert_eq!((refused.result_code, refused.shield_status), (1, None), "{user} {status}");
    }
    assert_eq!(peer.ask::<_, ImQueryPushShieldRsp>(9, &ask(404)), is(404, None));
    assert_eq!(peer.ask::<_, ImQueryPushShieldRsp>(9, &ask(BOB)), is(BOB, Some(0)));
}

#[test]
fn tokens_are_kept_per_device_and_looked_up_with_the_unread_count() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let (ios, android) = (ClientType::ClientTypeIos as i32, ClientType::ClientTypeAndroid as i32);
    let kept: ImDeviceTokenRsp = peer.ask(1, &token(BOB, "t1", "phone"));
    assert_eq!(kept, ImDeviceTokenRsp { user_id: BOB, attach_data: Some(cookie()) });
    // As a recorded server sends it: no name of the device.
    let tablet = ImDeviceTokenReq { client_type: Some(android), device_id: None, ..token(BOB, "t2", "") };
    let _: ImDeviceTokenRsp = peer.ask(2, &tablet);
    peer.say(3, &text(ALICE, BOB, "one"));
    peer.say(4, &text(ALICE, BOB, "two"));
    let both = [(BOB, android, "t2".to_owned(), 2), (BOB, ios, "t1".to_owned(), 2)];
    assert_eq!(pushes(&mut peer, &[ALICE, BOB, 0, 404]), both);
    // A log-out: no token, no kind.
    let forget = ImDeviceTokenReq { client_type: None, ..token(BOB, "", "phone") };
    let _: ImDeviceTokenRsp = peer.ask(5, &forget);
    assert_eq!(pushes(&mut peer, &[BOB]), both[..1]);
    // No kind of phone, or none that there is; nobody.
    for (kind, user) in [(None, BOB), (Some(1), BOB), (Some(0x13), BOB), (Some(-1), BOB), (Some(ios), 0)] {
        peer.send(6, &ImDeviceTokenReq { client_type: kind, ..token(user, "t3", "x") });
    }
    let refused: ImDeviceTokenRsp = peer.ask(7, &token(404, "t3", "x"));
    assert_eq!(refused.user_id, 404);
    assert_eq!(pushes(&mut peer, &[BOB, 404]), both[..1]);
}

#[test]
fn at_night_iphones_of_who_wants_that_get_no_push() {
    let all_day = QuietHours { from: 0, to: 23 };
    let last_hour = QuietHours { from: 23, to: 0 };
    // One of the two includes the present hour, whichever it is.
    let mut found = Vec::new();
    for quiet_hours in [all_day, last_hour] {
        let home = home();
        let listeners = listeners();
        let links = listeners.links.local_addr().expect("bound");
        let config = Config { quiet_hours, ..config(home.path()) };
        let handle = tt_db_proxy::spawn(config, listeners).expect("a thread");
        handle.wait_ready(PATIENCE).expect("ready");
        let mut peer = Peer::dial(links);
        let android = Some(ClientType::ClientTypeAndroid.into());
        let _: ImDeviceTokenRsp = peer.ask(1, &token(BOB, "b-ios", ""));
        let _: ImDeviceTokenRsp = peer.ask(2, &ImDeviceTokenReq { client_type: android, ..token(BOB, "b", "2") });
        let _: ImDeviceTokenRsp = peer.ask(3, &token(ALICE, "a-ios", ""));
        let shield = ImPushShieldReq { user_id: BOB, shield_status: 1, attach_data: None };
        let _: ImPushShieldRsp = peer.ask(4, &shield);
        let got: Vec<String> = pushes(&mut peer, &[ALICE, BOB]).into_iter().map(|(_, _, token, _)| token).collect();
        found.push(got);
        handle.stop();
        handle.join();
    }
    found.sort();
    assert_eq!(found, [vec!["a-ios", "b"], vec!["a-ios", "b-ios", "b"]]);
}

#[test]
fn lists_of_long_texts_stay_below_what_a_client_takes() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let long = "x".repeat(4_096);
    for seq in 1..=120 {
        peer.say(seq, &text(ALICE, BOB, &long));
    }
    let query = ImGetMsgListReq { msg_cnt: u32::MAX, ..history(ALICE, BOB) };
    peer.send(1, &query);
    let (_, _, frame) = peer.next().expect("an answer");
    assert!(frame.len() <= pdu::MAX_TO_CLIENT, "{} bytes", frame.len());
    let list: ImGetMsgListRsp = PduRef::parse(&frame).expect("a frame").decode().expect("a body");
    assert!(list.msg_list.len() > 80);
    assert_eq!(list.msg_list[0].msg_id, 120, "the newest are there");
}

#[test]
fn what_no_handler_knows_is_ignored_and_the_link_goes_on() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    for command in [0x0000, 0x0402, 0x0480, 0x0801, 0xffff] {
        peer.raw(&pdu::encode_raw(command, 1, b""));
    }
    for command in [Command::MsgData, Command::GetMsgListReq, Command::AllUserReq, Command::MsgDataReadAck] {
        peer.raw(&pdu::encode_raw(command.id(), 2, b"\xff\xff\xff"));
    }
    let unknown = ImGetMsgListReq { session_type: 3, ..history(ALICE, BOB) };
    peer.send(3, &unknown);
    assert_eq!(peer.say(4, &text(ALICE, BOB, "still here")).msg_id, 1);
}

#[test]
fn no_length_field_and_no_bytes_at_random_stop_the_server() {
    let proxy = Proxy::start();
    for length in 0..=17_u32 {
        let mut stream = TcpStream::connect(proxy.links).expect("connect");
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 12]);
        stream.write_all(&bytes).expect("send");
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..50 {
        let mut peer = proxy.link();
        let mut bytes = Vec::new();
        for _ in 0..200 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.extend_from_slice(&random.to_be_bytes());
        }
        if round % 2 == 0 {
            // A well-formed frame of a known command around the noise.
            let command = [0x0703, 0x0301, 0x0309, 0x0208, 0x0204][round / 2 % 5];
            bytes = pdu::encode_raw(command, 1, &bytes).to_vec();
        }
        // The server may have closed already.
        let _ = peer.stream.write_all(&bytes);
    }
    assert_eq!(proxy.link().say(1, &text(ALICE, BOB, "still here")).msg_id, 1);
}

#[test]
fn stopping_tells_the_peers_and_finishes_what_is_in_flight() {
    let mut proxy = Proxy::start();
    let mut peer = proxy.link();
    assert_eq!(peer.say(1, &text(ALICE, BOB, "1")).msg_id, 1);
    let handle = proxy.handle.take().expect("running");
    handle.stop();
    let stop: ImStopReceivePacket = peer.receive(0);
    assert_eq!(stop.result, 0);
    // On its way when the word came: still served.
    assert_eq!(peer.say(2, &text(ALICE, BOB, "2")).msg_id, 2);
    assert!(peer.next().is_none(), "then the link is closed");
    handle.join();
    let store = Embedded::open(proxy.home.path()).expect("the directory is free");
    assert_eq!(store.latest_msg_id(ALICE, tt_db_proxy::store::Peer::User(BOB)).expect("latest"), 2);
}

#[test]
fn metrics_and_health_are_served() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    peer.say(1, &text(ALICE, BOB, "counted"));
    let get = |path: &str| {
        let mut stream = TcpStream::connect(proxy.metrics).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("send");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("receive");
        text
    };
    let metrics = get("/metrics");
    for line in
        ["teamtalk_store_commits_total 1", "teamtalk_store_batch_size_count 1", "teamtalk_store_damaged_rows_total 0"]
    {
        assert!(metrics.contains(line), "{line} is missing in:\n{metrics}");
    }
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_server_on_an_open_store_lets_go_of_it_when_it_stops() {
    let home = home();
    let store = Arc::new(Embedded::open(home.path()).expect("open"));
    let (config, listeners) = (config(home.path()), listeners());
    let addr = listeners.links.local_addr().expect("bound");
    let handle = tt_db_proxy::spawn_on(config, listeners, store.clone()).expect("a thread");
    handle.wait_ready(PATIENCE).expect("ready");
    assert_eq!(Peer::dial(addr).say(1, &text(ALICE, BOB, "hello")).msg_id, 1);
    assert_eq!(store.latest_msg_id(ALICE, tt_db_proxy::store::Peer::User(BOB)).expect("latest"), 1);
    handle.stop();
    handle.join();
    assert_eq!(Arc::strong_count(&store), 1);
}

#[test]
fn a_directory_that_cannot_be_used_is_the_start_error() {
    let home = home();
    let missing = home.path().join("missing");
    let handle = tt_db_proxy::spawn(config(&missing), listeners()).expect("a thread");
    match handle.wait_ready(PATIENCE) {
        Err(RoleError::Start { source, .. }) => {
            let error = source.downcast_ref::<OpenError>().expect("the store's own error");
            assert!(matches!(error, OpenError::Missing(path) if *path == missing), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

const GROUP: i32 = SessionType::SessionTypeGroup as i32;

fn create(user_id: u32, kind: GroupType, member_id_list: &[u32]) -> ImGroupCreateReq {
    ImGroupCreateReq {
        user_id,
        group_type: kind.into(),
        group_name: "name".to_owned(),
        group_avatar: String::new(),
        member_id_list: member_id_list.to_vec(),
        attach_data: Some(cookie()),
    }
}

fn change(user_id: u32, change: GroupModifyType, group_id: u32, members: &[u32]) -> ImGroupChangeMemberReq {
    let (change_type, member_id_list) = (change.into(), members.to_vec());
    ImGroupChangeMemberReq { user_id, change_type, group_id, member_id_list, attach_data: Some(cookie()) }
}

fn info(user_id: u32, group_id: u32, version: u32) -> ImGroupInfoListReq {
    let group_version_list = vec![GroupVersionInfo { group_id, version }];
    ImGroupInfoListReq { user_id, group_version_list, attach_data: Some(cookie()) }
}

#[test]
fn groups_are_made_changed_shown_and_muted() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let tmp = GroupType::GroupTypeTmp;
    let (add, del) = (GroupModifyType::GroupModifyTypeAdd, GroupModifyType::GroupModifyTypeDel);

    let made: ImGroupCreateRsp = peer.ask(1, &create(ALICE, tmp, &[ALICE, 404]));
    let expected = ImGroupCreateRsp {
        user_id: ALICE,
        result_code: 0,
        group_id: Some(1),
        group_name: "name".to_owned(),
        user_id_list: vec![ALICE],
        attach_data: Some(cookie()),
    };
    assert_eq!(made, expected);
    let refused: ImGroupCreateRsp = peer.ask(2, &create(ALICE, tmp, &[404]));
    assert_eq!((refused.result_code, refused.group_id, refused.attach_data), (1, None, Some(cookie())));
    let refused: ImGroupCreateRsp = peer.ask(2, &ImGroupCreateReq { group_type: 7, ..create(ALICE, tmp, &[ALICE]) });
    assert_eq!((refused.result_code, refused.group_id), (1, None));

    let changed: ImGroupChangeMemberRsp = peer.ask(3, &change(ALICE, add, 1, &[BOB, ALICE]));
    assert_eq!((changed.result_code, changed.cur_user_id_list), (0, vec![ALICE, BOB]));
    assert_eq!((changed.chg_user_id_list, changed.attach_data), (vec![BOB], Some(cookie())));
    for question in [change(BOB, del, 1, &[ALICE]), change(ALICE, add, 1, &[BOB]), change(ALICE, add, 99, &[BOB])] {
        let refused: ImGroupChangeMemberRsp = peer.ask(4, &question);
        assert_eq!((refused.result_code, refused.group_id), (1, question.group_id));
        assert_eq!((refused.cur_user_id_list, refused.chg_user_id_list), (vec![], vec![]));
    }

    let shield = |user_id, group_id, shield_status| ImGroupShieldReq {
        user_id,
        group_id,
        shield_status,
        attach_data: Some(cookie()),
    };
    for (question, result) in [(shield(BOB, 1, 1), 0), (shield(BOB, 1, 2), 1), (shield(BOB, 99, 1), 1)] {
        let answer: ImGroupShieldRsp = peer.ask(5, &question);
        assert_eq!((answer.result_code, answer.attach_data), (result, Some(cookie())), "{question:?}");
    }
    let asked = ImGroupGetShieldReq { group_id: 1, user_id: vec![BOB, ALICE, 404], attach_data: Some(cookie()) };
    let shields: ImGroupGetShieldRsp = peer.ask(6, &asked);
    let shields: Vec<_> = shields.shield_status_list.iter().map(|row| (row.user_id, row.shield_status)).collect();
    assert_eq!(shields, [(ALICE, 0), (BOB, 1)]);

    let cards: ImGroupInfoListRsp = peer.ask(7, &info(BOB, 1, 1));
    let card = GroupInfo {
        group_id: 1,
        version: 2,
        group_name: "name".to_owned(),
        group_avatar: String::new(),
        group_creator_id: ALICE,
        group_type: tmp.into(),
        shield_status: 1,
        group_member_list: vec![ALICE, BOB],
        joined_after: Vec::new(),
    };
    assert_eq!(cards.group_info_list, [card]);
    let known: ImGroupInfoListRsp = peer.ask(8, &info(BOB, 1, 2));
    assert_eq!(known.group_info_list, []);
    let strange: ImGroupInfoListRsp = peer.ask(8, &info(404, 1, 0));
    assert_eq!(strange.group_info_list, []);
    let fixed: ImNormalGroupListRsp = peer.ask(9, &ImNormalGroupListReq { user_id: ALICE, attach_data: None });
    assert_eq!(fixed.group_version_list, [], "temporary ones are not on it");
}

#[test]
fn an_operators_id_does_not_come_from_a_msg_server() {
    let proxy = Proxy::start();
    let mut stranger = proxy.link();
    let mut msg_server = proxy.link();
    let hello = ImLinkHello { role: Some(2), server_id: Some("msg".to_owned()), ..ImLinkHello::default() };
    msg_server.send(0, &hello);
    let fixed = create(0, GroupType::GroupTypeNormal, &[ALICE]);
    let made: ImGroupCreateRsp = stranger.ask(1, &fixed);
    assert_eq!((made.result_code, made.group_id), (0, Some(1)), "an http-msg server's, recorded or not");
    let refused: ImGroupCreateRsp = msg_server.ask(1, &fixed);
    assert_eq!((refused.result_code, refused.group_id), (1, None));
    let add = change(0, GroupModifyType::GroupModifyTypeAdd, 1, &[BOB]);
    let refused: ImGroupChangeMemberRsp = msg_server.ask(2, &add);
    assert_eq!(refused.result_code, 1);
    let done: ImGroupChangeMemberRsp = stranger.ask(2, &add);
    assert_eq!((done.result_code, done.chg_user_id_list), (0, vec![BOB]));
    let fixed: ImNormalGroupListRsp = stranger.ask(9, &ImNormalGroupListReq { user_id: BOB, attach_data: None });
    assert_eq!(fixed.group_version_list, [GroupVersionInfo { group_id: 1, version: 2 }]);
}

#[test]
fn a_group_is_talked_in_and_read() {
    let proxy = Proxy::start();
    let mut peer = proxy.link();
    let _: ImGroupCreateRsp = peer.ask(1, &create(ALICE, GroupType::GroupTypeTmp, &[ALICE, BOB]));
    let say =
        |from, group, content| ImMsgData { msg_type: MsgType::MsgTypeGroupText.into(), ..text(from, group, content) };
    let stored = peer.say(2, &say(ALICE, 1, "hello"));
    assert_eq!((stored.msg_id, stored.refusal, stored.group_version), (1, None, Some(1)));
    for message in [say(404, 1, "not in it"), say(ALICE, 99, "no such group")] {
        let refused = peer.say(3, &message);
        assert_eq!((refused.msg_id, refused.refusal), (0, Some(3)));
    }
    let list: ImGetMsgListRsp = peer.ask(4, &ImGetMsgListReq { session_type: GROUP, ..history(BOB, 1) });
    let rows: Vec<_> = list.msg_list.iter().map(|row| (row.msg_id, row.from_session_id, row.msg_type)).collect();
    assert_eq!(rows, [(1, ALICE, MsgType::MsgTypeGroupText as i32)]);
    let recent = ImRecentContactSessionReq { user_id: BOB, latest_update_time: 0, attach_data: None };
    let sessions: ImRecentContactSessionRsp = peer.ask(5, &recent);
    let row = &sessions.contact_session_list[0];
    assert_eq!((row.session_type, row.session_id, row.latest_msg_from_user_id), (GROUP, 1, ALICE));
    assert_eq!(row.latest_msg_type, MsgType::MsgTypeGroupText as i32);
    let counts: ImUnreadMsgCntRsp = peer.ask(6, &unread(BOB));
    let row = &counts.unreadinfo_list[0];
    assert_eq!((counts.total_cnt, row.session_type, row.session_id, row.unread_cnt), (1, GROUP, 1, 1));
    peer.send(7, &ImMsgDataReadAck { user_id: BOB, session_id: 1, msg_id: 1, session_type: GROUP, exact: None });
    let counts: ImUnreadMsgCntRsp = peer.ask(8, &unread(BOB));
    assert_eq!(counts.total_cnt, 0);
    let remove = ImRemoveSessionReq { user_id: BOB, session_type: GROUP, session_id: 1, attach_data: None };
    let removed: ImRemoveSessionRsp = peer.ask(9, &remove);
    assert_eq!(removed.result_code, 0);
    let sessions: ImRecentContactSessionRsp = peer.ask(10, &recent);
    assert_eq!(sessions.contact_session_list, []);
}
