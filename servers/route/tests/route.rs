//! The route server from outside: msg servers made of sockets.

#[path = "../../common/tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netlib::{CloseReason, Context, Reactor, ReactorConfig};
use support::{DEADLINE, RawPeer, assault, http_get, legacy_cluster};
use tt_common::{
    CallError, ClusterConfig, Identity, Link, LinkHandler, LinkOptions, LinkRole, Metrics, RoleHandle, Trust,
};
use tt_proto::im::base_define::{ClientType, MsgType, ServerUserStat, UserStat, UserStatType};
use tt_proto::im::buddy::{ImSignInfoChangedNotify, ImUserStatNotify, ImUsersStatReq, ImUsersStatRsp};
use tt_proto::im::extension::{ImLinkHello, ImUserRouteReq, ImUserRouteRsp};
use tt_proto::im::group::ImGroupChangeMemberNotify;
use tt_proto::im::message::{ImMsgData, ImMsgDataReadNotify};
use tt_proto::im::server::{
    ImOnlineUserInfo, ImRoleSet, ImServerKickUser, ImServerPcLoginStatusNotify, ImUserStatusUpdate,
};
use tt_proto::pdu::PduRef;
use tt_proto::{Command, pdu};
use tt_route::Config;

use ClientType::{ClientTypeAndroid as PHONE, ClientTypeIos, ClientTypeMac as MAC, ClientTypeWindows as PC};
use UserStatType::{UserStatusOffline as OFF, UserStatusOnline as ON};

const ALICE: u32 = 1;
const BOB: u32 = 2;

struct Server {
    role: Option<RoleHandle>,
    addr: SocketAddr,
    metrics: SocketAddr,
}

impl Server {
    fn start() -> Self {
        Self::of(legacy_cluster())
    }

    fn of(cluster: ClusterConfig) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen: any, metrics_listen: any, cluster, ..Config::default() };
        let listeners = config.bind().expect("free ports");
        let addr = listeners.links.local_addr().expect("bound");
        let metrics = listeners.metrics.local_addr().expect("bound");
        let role = tt_route::spawn(config, listeners).expect("a thread");
        role.wait_ready(DEADLINE).expect("it serves");
        Self { role: Some(role), addr, metrics }
    }

    /// A msg server that has greeted and sent its snapshot.
    fn msg_server(&self, online: &[(u32, ClientType)]) -> MsgServer {
        let mut peer = RawPeer::connect(self.addr);
        peer.greet(LinkRole::Msg);
        let mut server = MsgServer(peer);
        server.snapshot(online);
        server.fence();
        server
    }

    fn wait_for_metric(&self, line: &str) {
        let start = Instant::now();
        loop {
            let metrics = http_get(self.metrics, "/metrics");
            if metrics.lines().any(|found| found == line) {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "never {line} in {metrics}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(role) = self.role.take() {
            role.stop();
            role.join();
        }
    }
}

struct MsgServer(RawPeer);

/// What a route server tells.
#[derive(Debug, PartialEq)]
enum Told {
    Pc(u32, bool),
    Status(u32, UserStatType),
    Answer(u16, Vec<(u32, UserStatType)>),
    Other(u16),
}

impl MsgServer {
    fn snapshot(&mut self, online: &[(u32, ClientType)]) {
        let entry = |&(user_id, client_type): &(u32, ClientType)| ServerUserStat {
            user_id,
            status: ON.into(),
            client_type: client_type.into(),
            ..ServerUserStat::default()
        };
        self.0.send(0, &ImOnlineUserInfo { user_stat_list: online.iter().map(entry).collect() });
    }

    fn update(&mut self, user_id: u32, client: ClientType, status: UserStatType) {
        let client_type = client.into();
        self.0.send(0, &ImUserStatusUpdate { user_status: status as u32, user_id, client_type, ..Default::default() });
    }

    fn query(&mut self, seq: u16, users: &[u32]) {
        self.0.send(seq, &ImUsersStatReq { user_id: 9, user_id_list: users.to_vec(), ..ImUsersStatReq::default() });
    }

    fn next(&mut self) -> Told {
        let pdu = self.0.next();
        let pdu = pdu.parse();
        match Command::try_from(pdu.header.command) {
            Ok(Command::ServerPcLoginStatusNotify) => {
                assert_eq!(pdu.header.seq, 0);
                let notice: ImServerPcLoginStatusNotify = pdu.decode().expect("a notice");
                Told::Pc(notice.user_id, notice.login_status == 1)
            }
            Ok(Command::UserStatNotify) => {
                assert_eq!(pdu.header.seq, 0);
                let notice: ImUserStatNotify = pdu.decode().expect("a notice");
                Told::Status(notice.user_stat.user_id, notice.user_stat.status())
            }
            Ok(Command::UsersStatRsp) => {
                let answer: ImUsersStatRsp = pdu.decode().expect("an answer");
                assert_eq!(answer.user_id, 9);
                let users = answer.user_stat_list.iter().map(|user| (user.user_id, user.status())).collect();
                Told::Answer(pdu.header.seq, users)
            }
            _ => Told::Other(pdu.header.command),
        }
    }

    fn expect(&mut self, told: &[Told]) {
        for told in told {
            assert_eq!(self.next(), *told);
        }
    }

    /// Everything sent to us so far has been read, and it was nothing.
    fn fence(&mut self) {
        self.query(0xfefe, &[]);
        self.expect(&[Told::Answer(0xfefe, vec![])]);
    }

    fn sees(&mut self, user: u32, status: UserStatType) {
        self.query(3, &[user]);
        self.expect(&[Told::Answer(3, vec![(user, status)])]);
    }
}

#[test]
fn everybody_is_told_of_a_pc_that_comes_and_goes() {
    let server = Server::start();
    let (mut one, mut two) = (server.msg_server(&[]), server.msg_server(&[]));
    one.update(ALICE, PC, ON);
    // What is for her own phones goes where she is.
    one.expect(&[Told::Pc(ALICE, true), Told::Status(ALICE, ON)]);
    two.expect(&[Told::Status(ALICE, ON)]);
    two.update(ALICE, PHONE, ON);
    for msg in [&mut one, &mut two] {
        msg.expect(&[Told::Pc(ALICE, true)]);
    }
    one.update(ALICE, PC, OFF);
    two.expect(&[Told::Pc(ALICE, false), Told::Status(ALICE, OFF)]);
    one.expect(&[Told::Status(ALICE, OFF)]);
    for msg in [&mut one, &mut two] {
        msg.sees(ALICE, OFF);
    }
}

#[test]
fn a_status_query_answers_every_id_in_order_and_echoes_the_cookie() {
    let server = Server::start();
    let mut msg = server.msg_server(&[(ALICE, MAC), (BOB, PHONE)]);
    msg.query(77, &[BOB, ALICE, 99, ALICE]);
    msg.expect(&[Told::Answer(77, vec![(BOB, OFF), (ALICE, ON), (99, OFF), (ALICE, ON)])]);
    let cookie = Bytes::from_static(&[0, 0, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0]);
    let attach_data = Some(cookie.clone());
    msg.0.send(78, &ImUsersStatReq { user_id: 0, user_id_list: vec![ALICE], attach_data });
    let (seq, answer) = msg.0.receive::<ImUsersStatRsp>();
    assert_eq!((seq, answer.attach_data), (78, Some(cookie)));
}

#[test]
fn a_status_query_is_answered_up_to_five_thousand_ids() {
    let server = Server::start();
    let mut msg = server.msg_server(&[(4_999, PC), (5_000, PC)]);
    msg.query(1, &(0..100_000).collect::<Vec<u32>>());
    let Told::Answer(1, users) = msg.next() else { panic!("no answer") };
    assert_eq!(users.len(), 5_000);
    assert_eq!(users[4_999], (4_999, ON));
}

/// D30, D31.
#[test]
fn a_lost_msg_server_takes_its_users_offline_and_brings_them_back() {
    let server = Server::start();
    let mut watcher = server.msg_server(&[(BOB, PHONE)]);
    let lost = server.msg_server(&[(ALICE, PC), (BOB, PC), (3, PHONE)]);
    server.wait_for_metric("teamtalk_users_online 3");
    drop(lost);
    watcher.expect(&[Told::Status(ALICE, OFF), Told::Pc(BOB, false), Told::Status(BOB, OFF)]);
    watcher.sees(BOB, OFF);
    server.wait_for_metric("teamtalk_users_online 1");
    let mut back = server.msg_server(&[]);
    back.snapshot(&[(ALICE, PC)]);
    watcher.expect(&[Told::Status(ALICE, ON)]);
}

/// D33.
#[test]
fn a_snapshot_sent_again_replaces_the_first() {
    let server = Server::start();
    let mut msg = server.msg_server(&[(ALICE, PC)]);
    msg.snapshot(&[(ALICE, PC)]);
    msg.fence();
    msg.update(ALICE, PC, OFF);
    msg.expect(&[Told::Status(ALICE, OFF)]);
    msg.sees(ALICE, OFF);
}

#[test]
fn the_relayed_commands_reach_all_others_unchanged() {
    let server = Server::start();
    let (mut one, mut two, mut three) = (server.msg_server(&[]), server.msg_server(&[]), server.msg_server(&[]));
    // The recorded seven, and the notice of a new picture, which no recorded server sends.
    let relayed = [0x0301, 0x0304, 0x020f, 0x040b, 0x0508, 0x0601, 0x070d, 0x0212];
    for (seq, command) in relayed.into_iter().enumerate() {
        // Not even a message: what is passed on is not looked at. Header fields go with it.
        let mut frame = pdu::encode_raw(command, seq as u16, &[0xa2, 0x01, 0x03, 1, 2, 3, 0xff]).to_vec();
        frame[4..8].copy_from_slice(&[0, 13, 0, 6]);
        one.0.write(&frame);
        for msg in [&mut two, &mut three] {
            assert_eq!(msg.0.next().0, frame, "{command:#06x}");
        }
    }
    one.fence();
}

#[test]
fn a_changed_signature_reaches_the_sender_too() {
    let server = Server::start();
    let (mut one, mut two) = (server.msg_server(&[]), server.msg_server(&[]));
    let notice = ImSignInfoChangedNotify { changed_user_id: ALICE, sign_info: "hello".to_owned() };
    one.0.send(0, &notice);
    for msg in [&mut one, &mut two] {
        assert_eq!(msg.0.receive::<ImSignInfoChangedNotify>(), (0, notice.clone()));
    }
}

/// An http-msg server opens a link to send notices, and gets none.
#[test]
fn a_link_that_reports_nobody_gets_nothing_but_may_send() {
    let server = Server::start();
    let mut msg = server.msg_server(&[]);
    let mut legacy = MsgServer(RawPeer::connect(server.addr));
    let mut http_msg = MsgServer(RawPeer::connect(server.addr));
    http_msg.0.greet(LinkRole::HttpMsg);
    http_msg.snapshot(&[]);
    http_msg.0.send(0, &ImRoleSet { master: 1 });
    for sender in [&mut legacy, &mut http_msg] {
        sender.0.write(&pdu::encode_raw(Command::GroupChangeMemberNotify.id(), 0, &[]));
        msg.expect(&[Told::Other(Command::GroupChangeMemberNotify.id())]);
    }
    msg.update(ALICE, PC, ON);
    msg.expect(&[Told::Pc(ALICE, true), Told::Status(ALICE, ON)]);
    legacy.fence();
    http_msg.fence();
    // Once it reports somebody it is a msg server.
    legacy.update(BOB, PC, ON);
    legacy.expect(&[Told::Pc(BOB, true), Told::Status(BOB, ON)]);
}

#[test]
fn another_kind_of_server_is_refused() {
    let server = Server::start();
    let mut peer = RawPeer::connect(server.addr);
    peer.greet(LinkRole::DbProxy);
    peer.wait_closed();
}

#[test]
fn nonsense_changes_nothing_and_keeps_the_link() {
    let server = Server::start();
    let mut msg = server.msg_server(&[(ALICE, PC)]);
    for command in [0x070a, 0x0708, 0x020a, 0x0707] {
        msg.0.write(&pdu::encode_raw(command, 1, &[0xff; 20]));
    }
    for (user_status, client_type) in [(0, 1), (9, 1), (u32::MAX, 1), (2, 0), (2, 3), (2, -1)] {
        msg.0.send(0, &ImUserStatusUpdate { user_status, user_id: ALICE, client_type, ..Default::default() });
    }
    let bad_entry = ServerUserStat { user_id: ALICE, status: ON.into(), client_type: 77, ..Default::default() };
    msg.0.send(0, &ImOnlineUserInfo { user_stat_list: vec![bad_entry] });
    for command in [0x0101, 0x0103, 0x0703, 0x0203, 0x020b, 0x0999, 0xffff] {
        msg.0.write(&pdu::encode_raw(command, 1, &[]));
    }
    let stat = UserStat { user_id: ALICE, status: ON.into(), ..UserStat::default() };
    msg.query(4, &[ALICE]);
    msg.expect(&[Told::Answer(4, vec![(stat.user_id, stat.status())])]);
    server.wait_for_metric("teamtalk_malformed_bodies_total 11");
    server.wait_for_metric("teamtalk_unknown_commands_total 7");
}

#[test]
fn no_bytes_kill_the_server() {
    let server = Server::start();
    assault(server.addr);
    server.msg_server(&[(ALICE, PC)]).sees(ALICE, ON);
    assert!(http_get(server.metrics, "/healthz").ends_with("ok\n"));
}

#[test]
fn it_stops_while_msg_servers_are_connected() {
    let mut server = Server::start();
    let mut msg = server.msg_server(&[(ALICE, PC)]);
    let role = server.role.take().expect("running");
    role.stop();
    msg.0.wait_closed();
    drop(msg);
    role.join();
}

/// The servers that hold one of the users get it, once; the others do not.
#[test]
fn what_concerns_a_user_goes_where_the_user_is() {
    let server = Server::start();
    let mut sender = server.msg_server(&[(ALICE, PC)]);
    let mut two = server.msg_server(&[(BOB, PC), (BOB, PHONE)]);
    let mut three = server.msg_server(&[(ALICE, PHONE), (3, PC)]);
    let mut four = server.msg_server(&[(4, PC)]);
    let message = |to, msg_type: MsgType| ImMsgData {
        from_user_id: ALICE,
        to_session_id: to,
        msg_id: 1,
        msg_type: msg_type.into(),
        msg_data: Bytes::from_static(b"x"),
        ..ImMsgData::default()
    };
    sender.0.send(1, &message(BOB, MsgType::MsgTypeSingleText));
    for msg in [&mut two, &mut three] {
        msg.expect(&[Told::Other(0x0301)]);
        msg.fence();
    }
    four.fence();
    sender.0.send(2, &ImMsgDataReadNotify { user_id: ALICE, session_id: BOB, msg_id: 1, session_type: 1 });
    three.expect(&[Told::Other(0x0304)]);
    let changed = ImGroupChangeMemberNotify {
        user_id: ALICE,
        change_type: 1,
        group_id: 9,
        cur_user_id_list: vec![ALICE, BOB],
        chg_user_id_list: vec![4],
    };
    sender.0.send(3, &changed);
    for msg in [&mut two, &mut three, &mut four] {
        msg.expect(&[Told::Other(0x040b)]);
    }
    // Who is in a group is not known here.
    sender.0.send(4, &message(9, MsgType::MsgTypeGroupText));
    for msg in [&mut two, &mut three, &mut four] {
        msg.expect(&[Told::Other(0x0301)]);
    }
    sender.fence();
    // Whoever is nowhere costs nobody anything.
    four.0.send(5, &message(99, MsgType::MsgTypeSingleText));
    three.expect(&[Told::Other(0x0301)]);
    sender.expect(&[Told::Other(0x0301)]);
    two.fence();
}

#[test]
fn two_sign_ins_at_once_are_parted_by_the_table() {
    let server = Server::start();
    let (mut one, mut two) = (server.msg_server(&[]), server.msg_server(&[]));
    let online = |at, client: ClientType| ImUserStatusUpdate {
        user_status: ON as u32,
        user_id: ALICE,
        client_type: client.into(),
        signed_in_at: Some(at),
        sign_in_id: Some(at),
        ..ImUserStatusUpdate::default()
    };
    one.0.send(0, &online(5, PC));
    one.expect(&[Told::Pc(ALICE, true), Told::Status(ALICE, ON)]);
    two.expect(&[Told::Status(ALICE, ON)]);
    two.0.send(0, &online(6, MAC));
    one.expect(&[Told::Pc(ALICE, true), Told::Status(ALICE, ON)]);
    let (_, kick) = one.0.receive::<ImServerKickUser>();
    assert_eq!((kick.user_id, kick.signed_in_at, kick.sign_in_id, kick.reason), (ALICE, Some(6), Some(6), 1));
    // A phone is no rival of a PC. An old server does not say when: it has kicked by itself.
    one.0.send(0, &online(7, PHONE));
    two.expect(&[Told::Pc(ALICE, true), Told::Status(ALICE, ON), Told::Pc(ALICE, true)]);
    two.fence();
    two.update(ALICE, PHONE, ON);
    one.expect(&[Told::Pc(ALICE, true), Told::Pc(ALICE, true)]);
    one.fence();
}

#[test]
fn a_newer_msg_server_is_told_of_phones() {
    let server = Server::start();
    let mut old = server.msg_server(&[]);
    let mut newer = MsgServer(RawPeer::connect(server.addr));
    let capabilities = Some(1 << 11);
    newer.0.send(0, &ImLinkHello { role: Some(LinkRole::Msg as u32), capabilities, ..ImLinkHello::default() });
    newer.snapshot(&[]);
    newer.fence();
    old.update(ALICE, PHONE, ON);
    let (_, notice) = newer.0.receive::<ImUserStatNotify>();
    let stat = notice.user_stat;
    assert_eq!((stat.user_id, stat.status(), &*stat.client_types), (ALICE, OFF, &[PHONE as u32][..]));
    assert_eq!(stat.detail_only, Some(true));
    old.fence();
}

/// A message that is stored after its receiver has signed in, and gets here before the report of that does, is in no
/// history that the client has read and would go nowhere (G4).
#[test]
fn g4_a_message_that_overtakes_the_report_of_its_receivers_sign_in_follows_it() {
    let server = Server::start();
    let mut first = server.msg_server(&[(ALICE, PC)]);
    let mut second = server.msg_server(&[]);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let message = |msg_id: u32| ImMsgData {
        from_user_id: ALICE,
        to_session_id: BOB,
        msg_id,
        msg_type: MsgType::MsgTypeSingleText.into(),
        msg_data: Bytes::from_static(b"hello"),
        ..ImMsgData::default()
    };
    first.0.send(0, &message(1));
    first.0.send(0, &message(2));
    first.fence();
    let report = ImUserStatusUpdate {
        user_status: ON as u32,
        user_id: BOB,
        client_type: PHONE.into(),
        signed_in_at: Some(since.as_micros() as u64),
        sign_in_id: Some(1),
        ..Default::default()
    };
    second.0.send(0, &report);
    for msg_id in [1, 2] {
        assert_eq!(second.0.next().parse().decode::<ImMsgData>().expect("a message").msg_id, msg_id);
    }
    // Another of his devices there: the server has them.
    second.0.send(0, &ImUserStatusUpdate { client_type: ClientTypeIos.into(), ..report });
    second.fence();
    server.wait_for_metric("teamtalk_relayed_late_total 2");
}

const SECRET: &[u8] = b"known to every server of this cluster";

/// A route server that believes whoever proves to know the secret, and sockets.
fn sworn() -> (Server, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("a directory");
    let secret_file = home.path().join("secret");
    std::fs::write(&secret_file, SECRET).expect("written");
    std::fs::set_permissions(&secret_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    (Server::of(ClusterConfig { secret_file, ..legacy_cluster() }), home)
}

/// A server that asks where users are, over a link that it has proven itself on.
struct Asker {
    reactor: Reactor<Asked>,
    link: Link<Asked>,
    asked: Asked,
}

/// Server, client type, and since when.
type Place = (String, u32, u32);

#[derive(Default)]
struct Asked {
    answers: Vec<Result<ImUserRouteRsp, CallError>>,
    downs: usize,
}

struct Nothing;

impl LinkHandler<Asked> for Nothing {
    fn on_pdu(&mut self, _: &mut Asked, _: &mut Context<Asked>, _: &Link<Asked>, _: PduRef<'_>) {}

    fn on_down(&mut self, asked: &mut Asked, _: &mut Context<Asked>, _: &Link<Asked>, _: &CloseReason) {
        asked.downs += 1;
    }
}

impl Asker {
    fn at(server: &Server) -> Self {
        let mut reactor = Reactor::new(ReactorConfig::default()).expect("a reactor");
        let identity = Identity::new(LinkRole::Msg, "msg-asks");
        let options = LinkOptions::new(identity, Metrics::new(), Trust::in_secret(SECRET));
        let link = Link::dial(reactor.context(), LinkRole::Route, server.addr, options, Box::new(Nothing));
        let mut asker = Self { reactor, link, asked: Asked::default() };
        asker.until(|asker| asker.link.is_proven());
        asker
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < DEADLINE, "nothing came");
            self.reactor.run_once(&mut self.asked, Some(Duration::from_millis(20))).expect("a tick");
        }
    }

    fn routes(&mut self, users: Vec<u32>) -> Vec<(u32, Vec<Place>)> {
        let query = ImUserRouteReq { user_id_list: users, attach_data: None };
        self.link.call(self.reactor.context(), 5, query, DEADLINE, |asked: &mut Asked, _, answer| {
            asked.answers.push(answer);
        });
        self.until(|asker| !asker.asked.answers.is_empty());
        let answer = self.asked.answers.remove(0).expect("an answer");
        let user = |user: tt_proto::im::extension::UserRoutes| {
            let mut routes: Vec<_> = user
                .routes
                .iter()
                .map(|route| (route.server_id().to_owned(), route.client_type(), route.since()))
                .collect();
            routes.sort_unstable();
            (user.user_id(), routes)
        };
        answer.user_list.into_iter().map(user).collect()
    }
}

/// spec/gaps.md §4.
#[test]
fn a_query_for_routes_tells_a_proven_link_where_users_are_and_since_when() {
    let (server, _home) = sworn();
    let mut one = server.msg_server(&[(BOB, PC)]);
    let mut old = MsgServer(RawPeer::connect(server.addr));
    let report = ImUserStatusUpdate {
        user_status: ON as u32,
        user_id: ALICE,
        client_type: PC.into(),
        signed_in_at: Some(1_700_000_000_999_999),
        sign_in_id: Some(1),
        ..ImUserStatusUpdate::default()
    };
    one.0.send(0, &ImUserStatusUpdate { signed_in_at: Some(1_700_000_060_000_000), ..report });
    one.0.send(0, &report);
    one.expect(&[Told::Pc(ALICE, true), Told::Status(ALICE, ON), Told::Pc(ALICE, true), Told::Status(ALICE, ON)]);
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let before = now() as u32;
    old.update(ALICE, PHONE, ON);
    for msg in [&mut one, &mut old] {
        msg.expect(&[Told::Pc(ALICE, true)]);
    }

    let mut asker = Asker::at(&server);
    let found = asker.routes(vec![ALICE, 99, BOB, ALICE, 0, u32::MAX]);
    let users: Vec<u32> = found.iter().map(|(user, _)| *user).collect();
    assert_eq!(users, [ALICE, 99, BOB, ALICE, 0, u32::MAX]);
    let [(server_id, client, since), here] = &found[0].1[..] else { panic!("{found:?}") };
    // A server of 2015 has no name and does not say when.
    assert_eq!((server_id.as_str(), *client), ("", PHONE as u32));
    assert!((before..=now() as u32).contains(since), "{since}");
    assert_eq!(*here, ("test-msg".to_owned(), PC as u32, 1_700_000_000), "the first of two");
    assert_eq!(found[3], found[0]);
    assert_eq!((found[1].1.len(), found[4].1.len(), found[5].1.len()), (0, 0, 0), "they are nowhere");
    assert_eq!(found[2].1[0].0, "test-msg");
    // Whoever has left is nowhere.
    one.update(BOB, PC, OFF);
    one.expect(&[Told::Status(BOB, OFF)]);
    assert_eq!(asker.routes(vec![BOB]), [(BOB, Vec::new())]);
}

#[test]
fn a_query_for_routes_has_a_limit_and_no_answer_for_who_has_proven_nothing() {
    let (server, _home) = sworn();
    let mut asker = Asker::at(&server);
    let found = asker.routes((0..100_000).collect());
    assert_eq!(found.len(), 1_000);
    assert_eq!(found[999], (999, Vec::new()));
    assert_eq!(asker.routes(Vec::new()), []);
    // What does not parse is counted, as everywhere, and costs nobody the link.
    asker.link.send_frame(pdu::encode_raw(Command::UserRouteReq.id(), 1, &[0xff; 20])).expect("up");
    assert_eq!(asker.routes(vec![ALICE]), [(ALICE, Vec::new())]);
    server.wait_for_metric("teamtalk_malformed_bodies_total 1");
    assert_eq!(asker.asked.downs, 0);

    // Believed for its address only: as if the command were not known.
    let mut unproven = server.msg_server(&[(ALICE, PC)]);
    unproven.0.send(1, &ImUserRouteReq { user_id_list: vec![ALICE], attach_data: None });
    unproven.fence();
    server.wait_for_metric("teamtalk_unknown_commands_total 1");
}
