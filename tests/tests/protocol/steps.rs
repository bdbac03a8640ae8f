//! The walk: what people do, one step after the other, and for each step every PDU that it causes on every
//! connection, with its order and sequence number, and the rows that it leaves.
//!
//! What is expected of a step is written as chains, `who>whom command mark`, a PDU causing the next; `=` marks the
//! sequence number of the step's request and `0` none. A PDU may stand in several chains. Nothing else may happen.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use prost::Message;
use tt_proto::im::{
    base_define::{GroupVersionInfo, ServerUserStat},
    buddy, file, group, login, message, other, server, switch_service,
};
use tt_tests::{Class, Client, PATIENCE, pack};

use crate::{
    fleet::{Fleet, Plan, Store},
    tap::Hop,
};

/// A PDU of a step, by kinds of parties.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) command: u16,
    pub(crate) from: char,
    pub(crate) to: char,
    /// It has a request's sequence number, not 0.
    pub(crate) echo: bool,
    /// The test itself sent it: a client, or an old msg server.
    played: bool,
}

impl Seen {
    fn of(hop: &Hop) -> Self {
        let played = |name: &str| kind(name) == 'C' || name == OLD_MSG;
        Self {
            command: hop.pdu.command,
            from: kind(&hop.from),
            to: kind(&hop.to),
            echo: hop.pdu.seq != 0,
            played: played(&hop.from),
        }
    }

    /// Whether somebody asks for something here.
    pub(crate) fn is_request(&self) -> bool {
        self.played
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{}{}", self.from, self.to, if self.echo { '=' } else { '0' })
    }
}

/// What a party is by its name: servers have capitals.
fn kind(name: &str) -> char {
    name.chars().next().filter(char::is_ascii_uppercase).unwrap_or('C')
}

/// A msg server of 2015, played by the test.
const OLD_MSG: &str = "M3";

/// The sequence number of what the harness asks to see that nothing more is on its way.
const FENCE: u16 = 0x7fff;

const LOGIN_REQ: u16 = 0x0103;
const ANN: u32 = 1;
const BEN: u32 = 2;
const CID: u32 = 3;
const DAN: u32 = 4;
const TEXT: i32 = 1;
const VOICE: i32 = 2;
const SINGLE: i32 = 1;

struct World {
    fleet: Fleet,
    store: Store,
    clients: BTreeMap<&'static str, Client>,
    walked: Vec<(&'static str, Vec<Seen>)>,
}

/// A link of chains.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    from: String,
    to: String,
    command: u16,
    seq: u16,
}

impl Link {
    fn matches(&self, hop: &Hop) -> bool {
        (&*self.from, &*self.to, self.command, self.seq) == (&*hop.from, &*hop.to, hop.pdu.command, hop.pdu.seq)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{} {:#06x} {}", self.from, self.to, self.command, self.seq)
    }
}

/// Chains as they are written, for a request with this sequence number.
fn chains(text: &str, seq: u16) -> Vec<Vec<Link>> {
    let link = |text: &str| {
        let (hop, rest) = text.trim().split_once(' ').unwrap_or_else(|| panic!("{text:?} is no link"));
        let (from, to) = hop.split_once('>').unwrap_or_else(|| panic!("{text:?} has no direction"));
        let (command, mark) = rest.trim().split_at(4);
        let seq = match mark {
            "=" => seq,
            "0" => 0,
            _ => panic!("{text:?} has no mark"),
        };
        let command = u16::from_str_radix(command, 16).unwrap_or_else(|_| panic!("{text:?} has no command"));
        Link { from: from.to_owned(), to: to.to_owned(), command, seq }
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.split(';').map(link).collect()).collect()
}

/// What a step is judged by: not heartbeats, greetings, nor the harness's own questions.
fn counts(hop: &Hop) -> bool {
    ![0x0701, 0x07f0, 0x07f1].contains(&hop.pdu.command) && hop.pdu.seq != FENCE
}

impl World {
    fn client(&mut self, name: &'static str) -> &mut Client {
        self.clients.get_mut(name).unwrap_or_else(|| panic!("{name} is not connected"))
    }

    /// A step: `act` returns the sequence number of its request.
    fn step(&mut self, name: &'static str, expected: &str, act: impl FnOnce(&mut Self) -> u16) {
        let mark = self.fleet.log.mark();
        let seq = act(self);
        self.judge(name, mark, &chains(expected, seq));
    }

    fn judge(&mut self, name: &'static str, mark: usize, expected: &[Vec<Link>]) {
        let mut all: Vec<&Link> = Vec::new();
        for link in expected.iter().flatten() {
            if !all.contains(&link) {
                all.push(link);
            }
        }
        let there = |hops: &[Hop]| all.iter().all(|link| hops.iter().any(|hop| link.matches(hop)));
        self.fleet.log.wait(mark, there);
        self.fence();
        let hops: Vec<Hop> = self.fleet.log.since(mark).into_iter().filter(counts).collect();

        let lines = |list: Vec<String>| list.join("\n  ");
        let mut found: Vec<String> = hops.iter().map(ToString::to_string).collect();
        let mut wanted: Vec<String> = all.iter().map(ToString::to_string).collect();
        let as_it_was = lines(found.clone());
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "step {name:?}: what happened (left) is not what should; in order:\n  {as_it_was}");
        for chain in expected {
            let place = |link: &Link| hops.iter().position(|hop| link.matches(hop));
            let places: Vec<_> = chain.iter().map(place).collect();
            assert!(places.is_sorted(), "step {name:?}: not in this order: {chain:?}; it was\n  {as_it_was}");
        }
        cookies(name, &hops);
        self.walked.push((name, hops.iter().map(Seen::of).collect()));
        for client in self.clients.values_mut() {
            client.drain();
        }
    }

    /// Waits until nothing of the past is on its way: every client asks the store and a route server, twice,
    /// because the first time some servers may not have what the last one sent.
    fn fence(&mut self) {
        for client in self.clients.values_mut() {
            fence(client);
        }
        for client in self.clients.values_mut() {
            fence(client);
        }
    }

    /// The rows of a query are these.
    fn rows(&self, sql: &str, expected: &[&str]) {
        assert_eq!(self.store.rows(sql), expected, "{sql}");
    }

    fn connect(&mut self, name: &'static str, server: usize) {
        let address = self.fleet.tapped(name, server);
        self.clients.insert(name, Client::connect(address));
    }

    /// Sends a client's sign-in, without waiting for the answer.
    fn sign_in(&mut self, name: &'static str, account: &str, class: Class) -> u16 {
        let password = tt_proto::password::wire_digest(account);
        let request = login::ImLoginReq {
            user_name: account.to_owned(),
            password,
            online_status: 1,
            client_type: class as i32,
            client_version: Some("walk".to_owned()),
            ..Default::default()
        };
        self.send(name, LOGIN_REQ, &request)
    }

    fn send<M: Message>(&mut self, name: &'static str, command: u16, body: &M) -> u16 {
        self.client(name).send(command, body)
    }

    /// A link of an old msg server to the server at `address`.
    fn old_msg_server(&self, to: &str, address: SocketAddr) -> Client {
        Client::connect(self.fleet.log.tap(OLD_MSG, to, address))
    }
}

fn fence(client: &mut Client) {
    let ask = |client: &mut Client, request: u16, reply: u16| {
        client.write(&pack(request, FENCE, &[])).expect("the server reads on");
        client.wait_for("a fence", |pdu| pdu.command == reply && pdu.seq == FENCE);
    };
    ask(client, 0x0307, 0x0308);
    ask(client, 0x020a, 0x020b);
}

/// No client sees a cookie, and every answer to a server's question has the question's.
fn cookies(step: &str, hops: &[Hop]) {
    for (place, hop) in hops.iter().enumerate() {
        let cookie = tt_common::link::attach_of(&hop.pdu.body);
        if kind(&hop.to) == 'C' {
            assert_eq!(cookie, None, "step {step:?}: a client sees a cookie in {hop}");
        }
        let answer = matches!((kind(&hop.from), kind(&hop.to)), ('D' | 'R', 'M')) && hop.pdu.seq != 0;
        if answer {
            let asked = hops[..place]
                .iter()
                .rev()
                .find(|asked| (&asked.from, &asked.to, asked.pdu.seq) == (&hop.to, &hop.from, hop.pdu.seq));
            let asked = asked.unwrap_or_else(|| panic!("step {step:?}: nobody asked for {hop}"));
            assert_eq!(cookie, tt_common::link::attach_of(&asked.pdu.body), "step {step:?}: the cookie of {hop}");
        }
    }
}

/// Does all of it; returns what was seen at each step.
pub(crate) fn walk() -> Vec<(&'static str, Vec<Seen>)> {
    let fleet = Fleet::start(&Plan { msg: |config| config.timeouts.kick_grace_ms = 300, ..Plan::default() });
    let store = fleet.store();
    let mut world = World { fleet, store, clients: BTreeMap::new(), walked: Vec::new() };
    signing_in(&mut world);
    address_book(&mut world);
    messages(&mut world);
    groups(&mut world);
    settings(&mut world);
    files_and_push(&mut world);
    signing_out(&mut world);
    heartbeats_and_the_end(world)
}

fn signing_in(world: &mut World) {
    let meet = "M1>L 07090
        M2>L 07090
        M1>R 07070; M1>R 07080
        M2>R 07070; M2>R 07080";
    world.judge("the servers meet", 0, &chains(meet, 0));

    let visitor = world.fleet.log.tap("visitor", "L", world.fleet.login_clients);
    world.step("where to sign in", "visitor>L 0101=; L>visitor 0102=", |_| {
        let mut visitor = Client::connect(visitor);
        let seq = visitor.send(0x0101, &login::ImMsgServReq {});
        let answer = visitor.next(PATIENCE).expect("an answer");
        assert_eq!(answer.decode::<login::ImMsgServRsp>().result_code, 0);
        visitor.wait_closed(PATIENCE);
        seq
    });

    world.connect("ann", 1);
    let alone = "ann>M1 0103=; M1>D 0703=; D>M1 0704=; M1>ann 0104=
        D>M1 0704=; M1>R 070d0; M1>R 070a0
        D>M1 0704=; M1>L 070b0
        M1>R 070a0; R>M1 070e0
        M1>R 070a0; R>M1 02030; M1>ann 02030
        M1>R 070a0; R>M2 02030";
    world.step("the first one signs in", alone, |world| {
        let seq = world.sign_in("ann", "ann", Class::Pc);
        let ann = world.client("ann");
        let answer = ann.wait_for("the answer", |pdu| pdu.seq == seq).decode::<login::ImLoginRes>();
        assert_eq!((answer.result_code, answer.online_status), (0, Some(1)));
        let card = answer.user_info.expect("a card");
        assert_eq!((card.user_id, card.user_real_name.as_str()), (ANN, "ann"));
        seq
    });

    world.connect("ben", 2);
    let other = "ben>M2 0103=; M2>D 0703=; D>M2 0704=; M2>ben 0104=
        D>M2 0704=; M2>R 070d0; M2>R 070a0
        D>M2 0704=; M2>L 070b0
        M2>R 070a0; R>M2 070e0
        M2>R 070a0; R>M1 02030; M1>ann 02030
        M2>R 070a0; R>M2 02030; M2>ben 02030";
    world.step("ben signs in", other, |world| world.sign_in("ben", "ben", Class::Pc));

    world.connect("phone", 2);
    // Who has capability 11 is told of a phone (the notice that says so stays with the servers here).
    let phone = "phone>M2 0103=; M2>D 0703=; D>M2 0704=; M2>phone 0104=
        D>M2 0704=; M2>R 070d0; M2>R 070a0
        M2>R 070d0; R>M1 070d0
        D>M2 0704=; M2>L 070b0
        M2>R 070a0; R>M1 070e0
        M2>R 070a0; R>M2 070e0; M2>phone 020e0
        M2>R 070a0; R>M1 02030
        M2>R 070a0; R>M2 02030";
    world.step("a phone signs in", phone, |world| world.sign_in("phone", "ann", Class::Mobile));

    world.connect("cid", 1);
    let third = "cid>M1 0103=; M1>D 0703=; D>M1 0704=; M1>cid 0104=
        D>M1 0704=; M1>R 070d0; M1>R 070a0
        D>M1 0704=; M1>L 070b0
        M1>R 070a0; R>M1 070e0
        M1>R 070a0; R>M1 02030; M1>ann 02030
        R>M1 02030; M1>cid 02030
        M1>R 070a0; R>M2 02030; M2>ben 02030";
    world.step("cid signs in", third, |world| world.sign_in("cid", "cid", Class::Pc));

    world.step("what time it is", "ann>M1 0305=; M1>ann 0306=", |world| {
        world.send("ann", 0x0305, &message::ImClientTimeReq::default())
    });
}

/// A question of a client that the store answers.
fn from_store(who: &str, server: &str, question: &str, answer: &str) -> String {
    format!("{who}>{server} {question}=; {server}>D {question}=; D>{server} {answer}=; {server}>{who} {answer}=")
}

fn address_book(world: &mut World) {
    world.step("cards of all users", &from_store("ann", "M1", "0208", "0209"), |world| {
        world.send("ann", 0x0208, &buddy::ImAllUserReq::default())
    });
    world.step("cards of some users", &from_store("ann", "M1", "0204", "0205"), |world| {
        let request = buddy::ImUsersInfoReq { user_id: ANN, user_id_list: vec![BEN, 99_999], ..Default::default() };
        let seq = world.send("ann", 0x0204, &request);
        let answer: buddy::ImUsersInfoRsp = world.client("ann").wait_for("cards", |pdu| pdu.seq == seq).decode();
        assert_eq!(answer.user_info_list.iter().map(|card| card.user_id).collect::<Vec<_>>(), [BEN]);
        seq
    });
    world.step("departments", &from_store("ann", "M1", "0210", "0211"), |world| {
        world.send("ann", 0x0210, &buddy::ImDepartmentReq::default())
    });
    let asked = "ann>M1 020a=; M1>R 020a=; R>M1 020b=; M1>ann 020b=";
    world.step("who is online", asked, |world| {
        let user_id_list = vec![DAN, ANN, BEN];
        let request = buddy::ImUsersStatReq { user_id: ANN, user_id_list, ..Default::default() };
        let seq = world.send("ann", 0x020a, &request);
        let answer: buddy::ImUsersStatRsp = world.client("ann").wait_for("statuses", |pdu| pdu.seq == seq).decode();
        let found: Vec<_> = answer.user_stat_list.iter().map(|stat| (stat.user_id, stat.status)).collect();
        assert_eq!(found, [(DAN, 2), (ANN, 1), (BEN, 1)], "one for each that was asked for, in that order");
        seq
    });
}

fn single(world: &mut World, from: &'static str, to: u32, msg_type: i32, data: &[u8]) -> u16 {
    // What a client says of ids and times is not believed.
    let message = message::ImMsgData {
        from_user_id: 77,
        to_session_id: to,
        msg_id: 9,
        create_time: 5,
        msg_type,
        msg_data: data.to_vec().into(),
        ..Default::default()
    };
    world.send(from, 0x0301, &message)
}

const CIPHER: &[u8] = b"Q86LjI5C0w5zckkEFxEXrg==";

fn messages(world: &mut World) {
    let text = "ann>M1 0301=; M1>D 0301=; D>M1 0301=; M1>ann 0302=
        D>M1 0301=; M1>R 03010; R>M2 03010; M2>ben 03010
        R>M2 03010; M2>phone 03010";
    world.step("a text", text, |world| single(world, "ann", BEN, TEXT, CIPHER));
    world
        .rows("SELECT conversation, msg_id, sender, type, content FROM message", &["1,1,1,1,Q86LjI5C0w5zckkEFxEXrg=="]);
    world.rows("SELECT user, kind, peer, status FROM session", &["1,1,2,0", "2,1,1,0"]);
    world.rows("SELECT user, read_msg_id FROM cursor", &[]);

    world.step("a copy has arrived", "ben>M2 0302=", |world| {
        let ack = message::ImMsgDataAck {
            user_id: BEN,
            session_id: ANN,
            msg_id: 1,
            session_type: SINGLE,
            ..Default::default()
        };
        world.send("ben", 0x0302, &ack)
    });
    let voice = "ben>M2 0301=; M2>D 0301=; D>M2 0301=; M2>ben 0302=
        D>M2 0301=; M2>R 03010; R>M1 03010; M1>ann 03010
        D>M2 0301=; M2>phone 03010";
    let recording = b"\0\0\0\x03AUDIODATA";
    world.step("a voice message", voice, |world| single(world, "ben", ANN, VOICE, recording));
    world.rows("SELECT msg_id, sender, type, content FROM message WHERE msg_id = 2", &["2,2,2,\0\0\0\u{3}AUDIODATA"]);

    world.step("unread counts", &from_store("ann", "M1", "0307", "0308"), |world| {
        let request = message::ImUnreadMsgCntReq { user_id: ANN, ..Default::default() };
        let seq = world.send("ann", 0x0307, &request);
        let answer: message::ImUnreadMsgCntRsp = world.client("ann").wait_for("counts", |pdu| pdu.seq == seq).decode();
        assert_eq!((answer.total_cnt, answer.unreadinfo_list[0].session_id), (1, BEN));
        seq
    });
    let read = "phone>M2 0303=; M2>D 0303=
        phone>M2 0303=; M2>R 03040; R>M1 03040; M1>ann 03040";
    world.step("the chat is read", read, |world| {
        let (session_id, session_type) = (BEN, SINGLE);
        let ack = message::ImMsgDataReadAck { user_id: 77, session_id, msg_id: 2, session_type, ..Default::default() };
        world.send("phone", 0x0303, &ack)
    });
    world.rows("SELECT user, read_msg_id FROM cursor", &["1,2"]);

    world.step("a page of history", &from_store("ann", "M1", "0309", "030a"), |world| {
        let request = message::ImGetMsgListReq {
            user_id: 77,
            session_type: SINGLE,
            session_id: BEN,
            msg_id_begin: 0,
            msg_cnt: 10,
            ..Default::default()
        };
        let seq = world.send("ann", 0x0309, &request);
        let page: message::ImGetMsgListRsp = world.client("ann").wait_for("a page", |pdu| pdu.seq == seq).decode();
        let found: Vec<_> = page.msg_list.iter().map(|m| (m.msg_id, m.from_session_id, &m.msg_data[..])).collect();
        assert_eq!(found, [(2, BEN, &recording[..]), (1, ANN, CIPHER)], "newest first, voice whole");
        seq
    });
    world.step("the newest id", &from_store("ann", "M1", "030b", "030c"), |world| {
        let (session_type, session_id) = (SINGLE, BEN);
        world.send("ann", 0x030b, &message::ImGetLatestMsgIdReq { session_type, session_id, ..Default::default() })
    });
    world.step("messages by id", &from_store("ann", "M1", "030d", "030e"), |world| {
        let (session_type, session_id, msg_id_list) = (SINGLE, BEN, vec![1, 77]);
        let request = message::ImGetMsgByIdReq { session_type, session_id, msg_id_list, ..Default::default() };
        world.send("ann", 0x030d, &request)
    });
    world.step("recent sessions", &from_store("ann", "M1", "0201", "0202"), |world| {
        world.send("ann", 0x0201, &buddy::ImRecentContactSessionReq::default())
    });
    let typing = "ann>M1 0601=; M1>R 06010; R>M2 06010; M2>ben 06010
        R>M2 06010; M2>phone 06010";
    world.step("somebody types", typing, |world| {
        let signal = switch_service::Imp2pCmdMsg {
            from_user_id: 77,
            to_user_id: BEN,
            cmd_msg_data: "{\"cmd_id\":1}".to_owned(),
        };
        world.send("ann", 0x0601, &signal)
    });
    let removed = format!(
        "{}
        D>M1 0207=; M1>R 020f0; R>M2 020f0; M2>phone 020f0",
        from_store("ann", "M1", "0206", "0207")
    );
    world.step("a session is taken off the list", &removed, |world| {
        let (session_type, session_id) = (SINGLE, BEN);
        world.send("ann", 0x0206, &buddy::ImRemoveSessionReq { session_type, session_id, ..Default::default() })
    });
    world.rows("SELECT user, kind, peer, status FROM session", &["1,1,2,1", "2,1,1,0"]);
}

fn groups(world: &mut World) {
    world.step("a group is made", &from_store("ann", "M1", "0405", "0406"), |world| {
        let request = group::ImGroupCreateReq {
            user_id: 77,
            group_type: 2,
            group_name: "g1 组".to_owned(),
            member_id_list: vec![ANN, BEN, CID],
            ..Default::default()
        };
        world.send("ann", 0x0405, &request)
    });
    world.rows("SELECT id, kind, name, creator, version FROM chat_group", &["1,2,g1 组,1,1"]);
    world.rows("SELECT user, status, joined_after FROM group_member", &["1,0,0", "2,0,0", "3,0,0"]);
    world.step("fixed groups", &from_store("cid", "M1", "0401", "0402"), |world| {
        world.send("cid", 0x0401, &group::ImNormalGroupListReq::default())
    });
    let sent = "ann>M1 0301=; M1>D 0301=; D>M1 0301=; M1>ann 0302=
        D>M1 0301=; M1>D 04030; D>M1 04040; M1>cid 03010
        D>M1 0301=; M1>R 03010; R>M2 03010; M2>D 04030; D>M2 04040; M2>ben 03010
        D>M2 04040; M2>phone 03010";
    world.step("a group's message", sent, |world| single(world, "ann", 1, 17, CIPHER));
    world.rows("SELECT c.kind, c.low, m.msg_id, m.sender FROM message m JOIN conversation c ON c.id = m.conversation WHERE c.kind = 2", &[
        "2,1,1,1",
    ]);
    world.step("a group's card", &from_store("cid", "M1", "0403", "0404"), |world| {
        let request = group::ImGroupInfoListReq {
            user_id: 77,
            group_version_list: vec![GroupVersionInfo { group_id: 1, version: 0 }],
            ..Default::default()
        };
        let seq = world.send("cid", 0x0403, &request);
        let answer: group::ImGroupInfoListRsp = world.client("cid").wait_for("a card", |pdu| pdu.seq == seq).decode();
        assert_eq!(answer.group_info_list[0].group_member_list, [ANN, BEN, CID]);
        seq
    });
    let changed = format!(
        "{}
        D>M1 0408=; M1>cid 040b0
        D>M1 0408=; M1>R 040b0; R>M2 040b0; M2>ben 040b0
        R>M2 040b0; M2>phone 040b0",
        from_store("ann", "M1", "0407", "0408")
    );
    world.step("a member more", &changed, |world| {
        let (user_id, change_type, group_id) = (77, 1, 1);
        let member_id_list = vec![DAN];
        let request =
            group::ImGroupChangeMemberReq { user_id, change_type, group_id, member_id_list, ..Default::default() };
        world.send("ann", 0x0407, &request)
    });
    world.rows("SELECT id, version FROM chat_group", &["1,2"]);
    world.rows("SELECT user, status, joined_after FROM group_member WHERE user = 4", &["4,0,1"]);
    world.step("a muted group", &from_store("ben", "M2", "0409", "040a"), |world| {
        let request = group::ImGroupShieldReq { user_id: 77, group_id: 1, shield_status: 1, ..Default::default() };
        world.send("ben", 0x0409, &request)
    });
    world.rows("SELECT user, shield FROM group_member", &["1,0", "2,1", "3,0", "4,0"]);
}

fn settings(world: &mut World) {
    let avatar = format!(
        "{}
        D>M1 020d=; M1>ann 02120
        D>M1 020d=; M1>cid 02120
        D>M1 020d=; M1>R 02120; R>M2 02120; M2>ben 02120
        R>M2 02120; M2>phone 02120",
        from_store("ann", "M1", "020c", "020d")
    );
    world.step("a new picture", &avatar, |world| {
        let request =
            buddy::ImChangeAvatarReq { user_id: BEN, avatar_url: "http://x/new.png".to_owned(), ..Default::default() };
        world.send("ann", 0x020c, &request)
    });
    let line = format!(
        "{}
        D>M1 0214=; M1>R 02150; R>M1 02150; M1>ann 02150
        R>M1 02150; M1>cid 02150
        M1>R 02150; R>M2 02150; M2>ben 02150
        R>M2 02150; M2>phone 02150",
        from_store("ann", "M1", "0213", "0214")
    );
    world.step("a new signature line", &line, |world| {
        let request =
            buddy::ImChangeSignInfoReq { user_id: BEN, sign_info: "new sign".to_owned(), ..Default::default() };
        world.send("ann", 0x0213, &request)
    });
    world.rows("SELECT id, avatar, sign_info FROM user WHERE id < 3", &["1,http://x/new.png,new sign", "2,,"]);

    let token = "phone>M2 0108=; M2>phone 0109=
        phone>M2 0108=; M2>D 0108=; D>M2 0109=";
    world.step("a push token", token, |world| {
        let request = login::ImDeviceTokenReq { user_id: BEN, device_token: "tok".to_owned(), ..Default::default() };
        world.send("phone", 0x0108, &request)
    });
    world.rows("SELECT user, device, platform, token FROM device", &["1,,18,tok"]);
    world.step("quiet nights", &from_store("phone", "M2", "010c", "010d"), |world| {
        world.send("phone", 0x010c, &login::ImPushShieldReq { user_id: BEN, shield_status: 1, ..Default::default() })
    });
    world.rows("SELECT id, push_shield FROM user WHERE id < 3", &["1,1", "2,0"]);
    world.step("are nights quiet", &from_store("phone", "M2", "010e", "010f"), |world| {
        world.send("phone", 0x010e, &login::ImQueryPushShieldReq { user_id: BEN, ..Default::default() })
    });
}

fn files_and_push(world: &mut World) {
    let before = world.store.all();
    world.step("a file without a file server", "ann>M1 0506=; M1>ann 0507=", |world| {
        let request = file::ImFileReq {
            from_user_id: 77,
            to_user_id: BEN,
            file_name: "f.bin".to_owned(),
            file_size: 10,
            trans_mode: 1,
        };
        let seq = world.send("ann", 0x0506, &request);
        let answer: file::ImFileRsp = world.client("ann").wait_for("a refusal", |pdu| pdu.seq == seq).decode();
        let refusal = file::ImFileRsp {
            result_code: 1,
            from_user_id: ANN,
            to_user_id: BEN,
            file_name: "f.bin".to_owned(),
            task_id: String::new(),
            trans_mode: 1,
            ..Default::default()
        };
        assert_eq!(answer, refusal);
        seq
    });
    world.step("files that wait", "ann>M1 0509=; M1>ann 050a=", |world| {
        let seq = world.send("ann", 0x0509, &file::ImFileHasOfflineReq { user_id: 77, ..Default::default() });
        let answer: file::ImFileHasOfflineRsp = world.client("ann").wait_for("none", |pdu| pdu.seq == seq).decode();
        assert_eq!(answer, file::ImFileHasOfflineRsp { user_id: ANN, ..Default::default() });
        seq
    });
    world.step("a file is left for later", "ann>M1 050b=", |world| {
        let request = file::ImFileAddOfflineReq { to_user_id: BEN, task_id: "t".to_owned(), ..Default::default() };
        world.send("ann", 0x050b, &request)
    });
    world.step("a file is fetched", "ann>M1 050c=", |world| {
        let request = file::ImFileDelOfflineReq { from_user_id: BEN, task_id: "t".to_owned(), ..Default::default() };
        world.send("ann", 0x050c, &request)
    });
    let nothing = "ann>M1 0501=
        ann>M1 0502=
        ann>M1 0503=
        ann>M1 0504=
        ann>M1 0505=";
    world.step("what only a file server serves", nothing, |world| {
        let seq = world.client("ann").seq();
        for command in 0x0501..=0x0505 {
            world.client("ann").write(&pack(command, seq, &[])).expect("the server reads on");
        }
        seq
    });

    let (route, db, login) = (world.fleet.route, world.fleet.db, world.fleet.login_links);
    let mut old = [("R", route), ("D", db), ("L", login)].map(|(to, at)| (to, world.old_msg_server(to, at)));
    let asks = "M3>D 0705=; D>M3 0706=";
    world.step("push tokens for an old msg server", asks, |_| {
        let request = server::ImGetDeviceTokenReq { user_id: vec![ANN, BEN], attach_data: Some("any".into()) };
        let seq = old[1].1.send(0x0705, &request);
        let answer = old[1].1.wait_for("tokens", |pdu| pdu.seq == seq).decode::<server::ImGetDeviceTokenRsp>();
        let found: Vec<_> = answer.user_token_info.iter().map(|info| (info.user_id, info.token.as_str())).collect();
        assert_eq!(found, [(ANN, "tok")]);
        seq
    });
    world.step("who muted the group, for an old msg server", "M3>D 0711=; D>M3 0712=", |_| {
        let (group_id, user_id) = (1, vec![ANN, BEN, 77]);
        let request = server::ImGroupGetShieldReq { group_id, user_id, attach_data: Some("any".into()) };
        let seq = old[1].1.send(0x0711, &request);
        let answer = old[1].1.wait_for("shields", |pdu| pdu.seq == seq).decode::<server::ImGroupGetShieldRsp>();
        let found: Vec<_> = answer.shield_status_list.iter().map(|s| (s.user_id, s.shield_status)).collect();
        assert_eq!(found, [(ANN, 0), (BEN, 1)], "who is not in it is left out");
        seq
    });
    let notice = "M3>R 07080; M3>R 05080; R>M2 05080; M2>ben 05080";
    world.step("a file from an old msg server", notice, |_| {
        let snapshot = server::ImOnlineUserInfo {
            user_stat_list: vec![ServerUserStat { user_id: DAN, status: 1, client_type: 1, ..Default::default() }],
        };
        let notice = file::ImFileNotify {
            from_user_id: DAN,
            to_user_id: BEN,
            file_name: "f.bin".to_owned(),
            file_size: 10,
            task_id: "t".to_owned(),
            trans_mode: 1,
            ..Default::default()
        };
        let link = &mut old[0].1;
        link.write(&pack(0x0708, 0, &snapshot.encode_to_vec())).expect("the link is open");
        link.write(&pack(0x0508, 0, &notice.encode_to_vec())).expect("the link is open");
        0
    });
    let commands = [0x070f, 0x0710, 0x0731, 0x0732, 0x0733, 0x0734_u16];
    let lines = |who: &str, to: &str| commands.map(|command| format!("{who}>{to} {command:04x}=")).join("\n");
    let nobody = [lines("ann", "M1"), lines("M3", "R"), lines("M3", "D"), lines("M3", "L")].join("\n");
    world.step("what only file and push servers serve", &nobody, |world| {
        let seq = 4_711;
        for command in commands {
            world.client("ann").write(&pack(command, seq, &[])).expect("the server reads on");
            for (_, link) in &mut old {
                link.write(&pack(command, seq, &[])).expect("the link is open");
            }
        }
        seq
    });
    assert_eq!(world.store.all(), before, "none of this is stored");
    // The old server goes, and dan, whom it had, goes offline.
    let gone = "R>M1 02030; M1>ann 02030
        R>M1 02030; M1>cid 02030
        R>M2 02030; M2>ben 02030";
    world.step("the old msg server goes", gone, |_| {
        drop(old);
        0
    });
}

fn signing_out(world: &mut World) {
    let kick = "phone>M2 010a=; M2>phone 010b=
        phone>M2 010a=; M2>R 070d0; R>M1 070d0; M1>ann 01070
        R>M1 070d0; M1>L 070b0
        R>M1 070d0; M1>R 070a0; R>M2 070e0; M2>phone 020e0
        M1>R 070a0; R>M1 02030; M1>cid 02030
        M1>R 070a0; R>M2 02030; M2>ben 02030";
    let mut kicked = None;
    world.step("the phone sends the PC away", kick, |world| {
        let seq = world.send("phone", 0x010a, &login::ImKickPcClientReq { user_id: BEN });
        let mut ann = world.clients.remove("ann").expect("she is here");
        assert_eq!(ann.notice::<login::ImKickUser>(0x0107).kick_reason, 2);
        ann.wait_closed(PATIENCE);
        kicked = Some(ann);
        seq
    });
    let logout = "phone>M2 0105=; M2>phone 0106=
        phone>M2 0105=; M2>D 0108=; D>M2 0109=
        phone>M2 0105=; M2>L 070b0
        phone>M2 0105=; M2>R 070a0; R>M1 02030
        M2>R 070a0; R>M2 02030";
    world.step("the phone logs out", logout, |world| {
        let seq = world.send("phone", 0x0105, &login::ImLogoutReq {});
        let mut phone = world.clients.remove("phone").expect("it is here");
        phone.wait_closed(PATIENCE);
        seq
    });
    world.rows("SELECT user, token FROM device", &[]);
}

fn heartbeats_and_the_end(mut world: World) -> Vec<(&'static str, Vec<Seen>)> {
    // Every link beats when nothing else was sent for five seconds.
    let beats = ["cid>M1", "M1>cid", "M1>L", "L>M1", "M1>R", "R>M1", "M1>D", "D>M1"];
    let is = |hop: &Hop, beat: &str| hop.pdu.command == 0x0701 && format!("{}>{}", hop.from, hop.to) == beat;
    world.send("cid", 0x0701, &other::ImHeartBeat::default());
    let hops = world.fleet.log.wait(0, |hops| beats.iter().all(|beat| hops.iter().any(|hop| is(hop, beat))));
    for beat in beats {
        let hop = hops.iter().find(|hop| is(hop, beat)).unwrap_or_else(|| panic!("no heartbeat {beat}"));
        assert_eq!(hop.pdu.seq == 0, kind(&hop.from) != 'C' && kind(&hop.to) != 'C', "{hop}");
        assert!(hop.pdu.body.is_empty(), "{hop}");
    }
    // One of each kind; the harness beats under other clients' names as well.
    let seen = beats.map(|beat| Seen::of(hops.iter().find(|hop| is(hop, beat)).expect("just found")));
    world.walked.push(("a heartbeat", seen.to_vec()));

    let mark = world.fleet.log.mark();
    world.fleet.stop_db();
    let stops =
        |hops: &[Hop]| ["M1", "M2"].iter().all(|to| hops.iter().any(|h| h.pdu.command == 0x0702 && h.to == *to));
    let hops = world.fleet.log.wait(mark, stops);
    let hops: Vec<Seen> = hops.iter().filter(|hop| hop.pdu.command == 0x0702).map(Seen::of).collect();
    world.walked.push(("the db-proxy stops", hops));
    world.walked
}
