//! The recorded PDUs, replayed: as a client against all servers, and as a msg server against the db-proxy, the route
//! and the login server. What they answer is what was recorded. Where it is not, `EXCEPTIONS` says why; an exception
//! that is no longer needed fails the test.
//!
//! The recording holds one PDU of each kind and hop, so some requests are missing on a hop on which their answer is
//! there: they are made of the same request on the hop before, as the recorded server did it.

use std::{cell::RefCell, collections::BTreeSet, thread};

use prost::Message as _;
use protox::prost_reflect::{DynamicMessage, FieldDescriptor, Value};
use serde_json::Value as Json;
use tt_proto::{
    command::Command,
    im::{login, message, server},
};
use tt_tests::{Client, HEADER_LEN, PATIENCE, Pdu, http_get, pack};

use crate::{
    fleet::{self, Fleet, Plan},
    schema,
};

/// Fields that are of that run and no other.
const OF_THAT_RUN: &[&str] = &["create_time", "server_time", "latest_update_time"];

/// Fields of ours, which old servers skip (gaps.md §0.3).
const OURS: u32 = 100;

/// What is different here: the place in the recording (from 0), the field, or none where the whole PDU is, and why.
pub(crate) const EXCEPTIONS: &[(usize, Option<&str>, &str)] = &[
    (12, Some("client_type"), "0x070d named the newcomer's client type; any of the class will do, here it is MAC"),
    (46, None, "0x0705 asks for push tokens; there is no push server yet"),
    (73, Some(SEQ), "0x0301 to route kept its sender's sequence number (flows.md §5.1): it is 0"),
    (85, None, "0x0711 asks who muted a group, for a push server"),
    (112, Some("user_id"), "0x0109 to a client lacked its required user_id (wire.md §8): it is set"),
    (
        120,
        Some(SEQ),
        "0x0601 had its sender's sequence number, which a phone may take for an answer (flows.md §13): it is 0",
    ),
    (124, None, "0x0507 named a task on a file server; there is none here, so it refuses"),
    (125, None, "0x0508 of that task"),
    (126, None, "0x0508 of that task to route"),
    (136, None, "0x050b to db-proxy: files that wait are not kept yet"),
    (138, None, "0x0509 to db-proxy: the same"),
    (139, None, "0x050a of db-proxy: files that wait are not kept yet"),
    (140, None, "0x050a with an address of a file server and the cookie of the servers in it (wire.md §8)"),
];

/// Stands for the header's sequence number where a field is named.
const SEQ: &str = "seq of the header";

#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) line: usize,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) command: u16,
    pub(crate) seq: u16,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn recording() -> Vec<Recorded> {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/tests/golden/pdus.jsonl"));
    let unhex = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits")).collect()
    };
    let parse = |(line, text): (usize, &str)| {
        let json: Json = serde_json::from_str(text).expect("a line of JSON");
        let word = |key: &str| json[key].as_str().expect("text").to_owned();
        let frame = unhex(&word("hex"));
        let command = u16::from_be_bytes([frame[10], frame[11]]);
        let seq = u16::from_be_bytes([frame[12], frame[13]]);
        Recorded { line, from: word("from"), to: word("to"), command, seq, body: frame[HEADER_LEN..].to_vec() }
    };
    text.lines().enumerate().map(parse).collect()
}

impl Recorded {
    pub(crate) fn is(&self, from: &str, to: &str) -> bool {
        self.from == from && self.to == to
    }

    fn decode<M: prost::Message + Default>(&self) -> M {
        M::decode(&*self.body).expect("a body of its command")
    }
}

/// Holds what came against what was recorded, and notes which exceptions were needed.
#[derive(Default)]
pub(crate) struct Judge {
    needed: RefCell<BTreeSet<usize>>,
    different: RefCell<Vec<String>>,
    judged: RefCell<BTreeSet<usize>>,
}

impl Judge {
    /// One of the PDUs that came is the recorded one.
    pub(crate) fn finds(&self, recorded: &Recorded, came: &[Pdu]) {
        self.judged.borrow_mut().insert(recorded.line);
        let name = Command::try_from(recorded.command).expect("a published command").info().full_name();
        let decode = |body: &[u8]| DynamicMessage::decode(schema::message(&name), body).expect("a body of its command");
        let same = |except: Option<&str>| {
            let plain = |body: &[u8]| {
                let mut message = decode(body);
                // A cookie is its maker's: what comes back is compared, not what is sent.
                let cookie = recorded.from == MSG;
                clear(&mut message, &|field| {
                    let name = field.name();
                    OF_THAT_RUN.contains(&name)
                        || Some(name) == except
                        || field.number() >= OURS
                        || (cookie && field.number() == 20)
                });
                message
            };
            let wanted = plain(&recorded.body);
            let seq = if except == Some(SEQ) { 0 } else { recorded.seq };
            let mut like = came.iter().filter(|pdu| (pdu.command, pdu.seq) == (recorded.command, seq));
            like.any(|pdu| plain(&pdu.body) == wanted)
        };
        let exception = EXCEPTIONS.iter().find(|(line, ..)| *line == recorded.line);
        let found = same(None)
            || match exception {
                Some((line, field, _)) => {
                    self.needed.borrow_mut().insert(*line);
                    field.is_none_or(|field| same(Some(field)))
                }
                None => false,
            };
        if !found {
            let show = |body: &[u8]| {
                let message = decode(body);
                let fields = message.fields().map(|(field, value)| format!("{}: {value:?}", field.name()));
                fields.collect::<Vec<_>>().join(", ")
            };
            let like = came.iter().filter(|pdu| pdu.command == recorded.command);
            let like: Vec<_> = like.map(|pdu| format!("seq {}: {}", pdu.seq, show(&pdu.body))).collect();
            let Recorded { line, from, to, command, seq, body } = recorded;
            let recorded = show(body);
            self.different.borrow_mut().push(format!(
                "{line} {command:#06x} {from} to {to}, seq {seq}: {recorded}\n  came {}",
                like.join("\n  and ")
            ));
        }
    }

    /// Everything was as recorded, and no exception is left over.
    pub(crate) fn close(self) {
        let different = self.different.into_inner();
        assert!(different.is_empty(), "not as recorded:\n{}", different.join("\n"));
        let judged = self.judged.into_inner();
        let listed = EXCEPTIONS.iter().map(|(line, ..)| *line).filter(|line| judged.contains(line));
        assert_eq!(
            self.needed.into_inner(),
            listed.collect(),
            "exceptions that were needed, and those that are listed"
        );
    }
}

/// Takes fields out of a message and all messages in it.
fn clear(message: &mut DynamicMessage, unwanted: &dyn Fn(&FieldDescriptor) -> bool) {
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        if unwanted(&field) {
            message.clear_field(&field);
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => clear(inner, unwanted),
            Value::List(items) => {
                for item in items {
                    if let Value::Message(inner) = item {
                        clear(inner, unwanted);
                    }
                }
            }
            _ => {}
        }
    }
}

pub(crate) const CLIENT: &str = "client";
pub(crate) const MSG: &str = "msg_server";
pub(crate) const ROUTE: &str = "route_server";
pub(crate) const DB: &str = "db_proxy_server";
pub(crate) const LOGIN: &str = "login_server";

/// The recorded people: t001 to t009, of whom t009 could not sign in.
fn fleet() -> Fleet {
    const PEOPLE: &[&str] = &["t001", "t002", "t003", "t004", "t005", "t006", "t007", "t008", "t009"];
    Fleet::start(&Plan {
        people: PEOPLE,
        msg_servers: 1,
        prepare: |db| db.execute_batch(PREPARE).expect("prepared"),
        ..Plan::default()
    })
}

/// What the recorded store held: cards, departments, and a conversation of t001 with t003.
const PREPARE: &str = "
    UPDATE depart SET name = 'root', priority = 1 WHERE id = 1;
    UPDATE user SET nick = 'nick' || substr(name, 2), domain = name, email = 't' || id || '@example.com',
        phone = '1380000000' || id, avatar = 'http://127.0.0.1/a' || id || '.png', sign_info = 'sign ' || id,
        depart = 1;
    UPDATE user SET depart = 3, sex = 1 WHERE id = 2;
    UPDATE user SET sex = 2 WHERE id = 3;
    UPDATE user SET status = 3 WHERE id = 9;
";

/// The request on the hop to the store that a recorded answer belongs to, if it was recorded itself.
fn request_of<'a>(all: &'a [Recorded], answer: &Recorded, from: &str, to: &str) -> Option<&'a Recorded> {
    let asked = if answer.command == 0x0301 { 0x0301 } else { answer.command - 1 };
    all[..answer.line].iter().rev().find(|pdu| {
        pdu.is(from, to) && pdu.command == asked && pdu.seq == answer.seq && {
            let cookie = |body: &[u8]| tt_common::link::attach_of(body).map(<[u8]>::to_vec);
            to != DB
                || answer.command != 0x0704
                || names(&pdu.body) == names(&answer.body) && cookie(&pdu.body) == cookie(&answer.body)
        }
    })
}

/// The name in field 1 of a request to check a password, and of its answer.
fn names(body: &[u8]) -> Option<String> {
    let request = server::ImValidateReq::decode(body).ok().map(|request| request.user_name);
    request.or_else(|| server::ImValidateRsp::decode(body).ok().map(|answer| answer.user_name))
}

#[test]
fn the_store_answers_a_recorded_msg_server_as_recorded() {
    let fleet = fleet();
    let all = recording();
    let judge = Judge::default();
    let mut link = Client::connect(fleet.db);
    let mut came = Vec::new();
    let text = message::ImMsgData {
        from_user_id: 1,
        to_session_id: 3,
        msg_type: 1,
        msg_data: "x".into(),
        ..Default::default()
    };
    for pdu in all.iter().filter(|pdu| pdu.command != 0x0701 && pdu.command != 0x0702) {
        if pdu.is(MSG, DB) {
            if pdu.command == 0x0206 {
                // The session that is taken off the list; its message was not recorded.
                ask(&mut link, 0x0301, 3_000, &text.encode_to_vec());
            }
            came.extend(ask(&mut link, pdu.command, pdu.seq, &pdu.body));
        }
        if !pdu.is(DB, MSG) {
            continue;
        }
        if request_of(&all, pdu, MSG, DB).is_none() {
            // Not recorded on this hop: what the client sent, with the cookie that came back.
            let cookie = tt_common::link::attach_of(&pdu.body).expect("an answer has a cookie").to_vec();
            let mut body = match (pdu.command, request_of(&all, pdu, CLIENT, MSG)) {
                (0x0704, _) => {
                    let user_name = names(&pdu.body).expect("an answer names whom it is about");
                    server::ImValidateReq { user_name, password: "0".repeat(32), attach_data: None }.encode_to_vec()
                }
                (_, Some(asked)) => asked.body.clone(),
                (_, None) => panic!("nobody asked for {pdu:?}"),
            };
            body.extend([0xa2, 0x01, cookie.len() as u8]);
            body.extend(cookie);
            let command = if pdu.command == 0x0301 { 0x0301 } else { pdu.command - 1 };
            came.extend(ask(&mut link, command, pdu.seq, &body));
        }
        judge.finds(pdu, &came);
    }
    judge.close();
    fleet::assert_no_panic();
}

/// Sends over a link and returns what came before the answer to a question behind it.
fn ask(link: &mut Client, command: u16, seq: u16, body: &[u8]) -> Vec<Pdu> {
    const FENCE: u16 = 0x7fff;
    link.write(&pack(command, seq, body)).expect("the link stays");
    link.write(&pack(0x0307, FENCE, &[])).expect("the link stays");
    let mut before = Vec::new();
    loop {
        match link.next(PATIENCE).expect("an answer to the fence") {
            pdu if pdu.seq == FENCE => return before,
            pdu => before.push(pdu),
        }
    }
}

#[test]
fn route_tells_recorded_msg_servers_what_was_recorded() {
    let fleet = fleet();
    let all = recording();
    let judge = Judge::default();
    let [mut link, mut other] = [(); 2].map(|()| Client::connect(fleet.route));
    // The other one has t002 at a PC and a phone, and a phone of t001.
    let stat = |user_id, client_type| tt_proto::im::base_define::ServerUserStat {
        user_id,
        status: 1,
        client_type,
        ..Default::default()
    };
    let snapshot = server::ImOnlineUserInfo { user_stat_list: vec![stat(2, 1), stat(2, 0x12), stat(1, 0x12)] };
    other.write(&pack(0x0708, 0, &snapshot.encode_to_vec())).expect("the link is open");
    fence_route(&mut other);
    for pdu in &all {
        if pdu.is(MSG, ROUTE) && pdu.command != 0x0701 {
            link.write(&pack(pdu.command, pdu.seq, &pdu.body)).expect("the link is open");
        }
        // Relayed, and not recorded on the way there.
        if pdu.is(ROUTE, MSG) && [0x0301, 0x0508].contains(&pdu.command) {
            link.write(&pack(pdu.command, pdu.seq, &pdu.body)).expect("the link is open");
        }
    }
    let mut came = fence_route(&mut link);
    came.extend(fence_route(&mut other));
    for pdu in all.iter().filter(|pdu| pdu.is(ROUTE, MSG) && pdu.command != 0x0701) {
        judge.finds(pdu, &came);
    }
    judge.close();
    fleet::assert_no_panic();
}

fn fence_route(link: &mut Client) -> Vec<Pdu> {
    link.write(&pack(0x020a, 0x7fff, &[])).expect("the link is open");
    let mut before = Vec::new();
    loop {
        match link.next(PATIENCE).expect("an answer to the fence") {
            pdu if pdu.seq == 0x7fff => return before,
            pdu => before.push(pdu),
        }
    }
}

#[test]
fn a_recorded_msg_server_registers_at_login() {
    let fleet = fleet();
    let all = recording();
    let mut link = Client::connect(fleet.login_links);
    for pdu in all.iter().filter(|pdu| pdu.is(MSG, LOGIN)) {
        link.write(&pack(pdu.command, pdu.seq, &pdu.body)).expect("the link is open");
    }
    // Ours, which nobody has signed in at, has less to do: once it is gone, the recorded one is named.
    let info: server::ImMsgServInfo = all.iter().find(|pdu| pdu.command == 0x0709).expect("it is there").decode();
    assert_eq!((info.port, info.max_conn_cnt), (28_000, 100_000));
    fleet.stop_msg();
    let named = format!("\"port\" : \"{}\"", info.port);
    tt_tests::eventually("the recorded one is named", || http_get(fleet.login_http, "/msg_server").contains(&named));
    // It was told of one sign-in and no sign-out, and answers the client's question as recorded.
    let asked = all.iter().find(|pdu| pdu.command == 0x0101).expect("it is there");
    let mut client = Client::connect(fleet.login_clients);
    client.write(&pack(asked.command, asked.seq, &asked.body)).expect("open");
    let answer = client.next(PATIENCE).expect("an answer");
    assert_eq!((answer.command, answer.seq), (0x0102, asked.seq));
    let answer: login::ImMsgServRsp = answer.decode();
    assert_eq!((answer.result_code, answer.prior_ip(), answer.port()), (0, "127.0.0.1", 28_000));
    fleet::assert_no_panic();
}

#[test]
fn recorded_clients_are_answered_as_recorded() {
    let fleet = fleet();
    let all = recording();
    let judge = Judge::default();
    let address = fleet.msg[0];
    let mut came: Vec<Pdu> = Vec::new();
    // Who was where: t001 at a PC, t002 at a phone and for a while at a PC, t004 and t005 at PCs.
    let sign_in = |name: &str, client_type: i32| {
        let mut client = Client::connect(address);
        let request = login::ImLoginReq {
            user_name: name.to_owned(),
            password: tt_proto::password::wire_digest(name),
            online_status: 1,
            client_type,
            ..Default::default()
        };
        client.write(&pack(0x0103, 900, &request.encode_to_vec())).expect("open");
        client.wait_for("its answer", |pdu| pdu.seq == 900);
        client
    };
    let mut t001 = sign_in("t001", 1);
    let mut t002 = sign_in("t002", 0x12);
    let mut t002_pc = Some(sign_in("t002", 1));
    let mut t004 = sign_in("t004", 1);
    let mut t005 = sign_in("t005", 1);
    // A conversation that the recording leaves out.
    let text = message::ImMsgData { to_session_id: 3, msg_type: 1, msg_data: "x".into(), ..Default::default() };
    t001.write(&pack(0x0301, 901, &text.encode_to_vec())).expect("open");
    t001.wait_for("its ack", |pdu| pdu.seq == 901);
    for pdu in all.iter().filter(|pdu| pdu.is(CLIENT, MSG)) {
        let frame = pack(pdu.command, pdu.seq, &pdu.body);
        match pdu.command {
            0x0103 => {
                let mut stranger = Client::connect(address);
                stranger.write(&frame).expect("open");
                came.push(stranger.wait_for("its answer", |found| found.command == 0x0104));
            }
            0x0999 | 0x0105 => {}
            command => {
                let user = user_of(command, &pdu.body);
                let client = match (user, command) {
                    (2, _) | (_, 0x010a) => &mut t002,
                    (5, _) | (_, 0x050c) => &mut t005,
                    _ => &mut t001,
                };
                client.write(&frame).expect("open");
                if command == 0x010a {
                    // It must not ask for anything more.
                    t002_pc = None;
                }
                let clients = [Some(&mut t001), Some(&mut t002), t002_pc.as_mut(), Some(&mut t004), Some(&mut t005)];
                settle(clients.into_iter().flatten(), &mut came);
            }
        }
    }
    // Notices of cards wait for up to a second.
    came.push(t004.wait_for("a notice", |pdu| pdu.command == 0x0215));
    // t001 comes again and is kicked; the phone logs out.
    let again = thread::scope(|scope| scope.spawn(|| sign_in("t001", 1)).join().expect("signed in"));
    came.push(t001.wait_for("a kick", |pdu| pdu.command == 0x0107));
    let logout = all.iter().find(|pdu| pdu.is(CLIENT, MSG) && pdu.command == 0x0105).expect("it is there");
    t002.write(&pack(logout.command, logout.seq, &logout.body)).expect("open");
    came.push(t002.wait_for("its answer", |pdu| pdu.command == 0x0106));
    came.push(Pdu { service: 7, command: 0x0701, seq: 77, body: echo(again) });
    for pdu in all.iter().filter(|pdu| pdu.is(MSG, CLIENT)) {
        judge.finds(pdu, &came);
    }
    judge.close();
    fleet::assert_no_panic();
}

/// A heartbeat's echo.
fn echo(mut client: Client) -> Vec<u8> {
    client.write(&pack(0x0701, 77, &[])).expect("open");
    client.wait_for("an echo", |pdu| pdu.seq == 77).body
}

/// Who sent it: field 1 of nearly everything that a client sends.
fn user_of(command: u16, body: &[u8]) -> u64 {
    match (command, body) {
        (0x050c | 0x0305 | 0x0105, _) => 0,
        (_, [0x08, user, ..]) => u64::from(*user),
        _ => 0,
    }
}

/// Takes in what everybody was sent, once the store and route have nothing more for them.
fn settle<'a>(clients: impl Iterator<Item = &'a mut Client>, came: &mut Vec<Pdu>) {
    const FENCE: u16 = 0x7fff;
    let mut clients: Vec<_> = clients.collect();
    // The second time everybody has what the first caused.
    for _ in 0..2 {
        for client in &mut clients {
            client.write(&pack(0x0307, FENCE, &[])).expect("open");
            client.write(&pack(0x020a, FENCE, &[])).expect("open");
            let mut fences = 0;
            while fences < 2 {
                match client.next(PATIENCE).expect("an answer to the fence") {
                    pdu if pdu.seq == FENCE => fences += 1,
                    pdu => came.push(pdu),
                }
            }
        }
    }
}
