//! Rules of the links that no single command shows: who echoes a heartbeat, that a receiver never gets a sender's
//! sequence number, and what each server does when it is told that its peer takes no more requests.

use prost::Message;
use tt_proto::im::{base_define::ServerUserStat, buddy, file, group, login, message, server, switch_service};
use tt_tests::{Class, Client, PATIENCE, Pdu, pack};

use crate::fleet::{self, Fleet, Plan};

const HEARTBEAT: u16 = 0x0701;
const GREETINGS: [u16; 2] = [0x07f0, 0x07f1];
/// Of what an old msg server sends, and of nothing else here.
const SENDERS: u16 = 4_711;

/// The next PDU on a link that is no greeting.
fn next(link: &mut Client) -> Pdu {
    loop {
        let pdu = link.next(PATIENCE).expect("the link stays");
        if !GREETINGS.contains(&pdu.command) {
            return pdu;
        }
    }
}

/// A msg server of 2015 on a link to one of ours, which has it for a msg server once it tells who is there.
fn old_msg_server(at: std::net::SocketAddr, user_id: u32) -> Client {
    let mut link = Client::connect(at);
    let entry = ServerUserStat { user_id, status: 1, client_type: 1, ..Default::default() };
    let snapshot = server::ImOnlineUserInfo { user_stat_list: vec![entry] };
    link.write(&pack(0x0708, 0, &snapshot.encode_to_vec())).expect("the link is open");
    link
}

/// spec/wire.md §4: a msg server echoes its clients' and starts none; on links both ends send and nobody echoes.
#[test]
fn a_heartbeat_is_echoed_to_clients_as_it_came_and_to_servers_not_at_all() {
    let fleet = Fleet::start(&Plan::default());
    // Fields that a later client may add come back too.
    let body = [0x08, 0x07, 0x52, 0x01, b'x'];
    let beat = |client: &mut Client| {
        for seq in [0, 77, u16::MAX] {
            client.write(&pack(HEARTBEAT, seq, &body)).expect("open");
            let echo = client.next(PATIENCE).expect("an echo");
            assert_eq!((echo.command, echo.seq, &echo.body[..]), (HEARTBEAT, seq, &body[..]));
        }
    };
    let mut visitor = Client::connect(fleet.msg[0]);
    beat(&mut visitor);
    let account = fleet.account("ann");
    assert_eq!(visitor.login(&account.name, &account.password, Class::Mobile).result_code, 0);
    visitor.drain();
    beat(&mut visitor);

    // The login server answers one question and nothing else.
    let mut asking = Client::connect(fleet.login_clients);
    asking.write(&pack(HEARTBEAT, 77, &body)).expect("open");
    let seq = asking.send(0x0101, &login::ImMsgServReq {});
    let answer = asking.next(PATIENCE).expect("an answer");
    assert_eq!((answer.command, answer.seq), (0x0102, seq));

    // What comes between a heartbeat and the server's own is no echo of it.
    for (name, at) in [("login", fleet.login_links), ("route", fleet.route), ("db-proxy", fleet.db)] {
        let mut link = Client::connect(at);
        link.write(&pack(HEARTBEAT, 77, &body)).expect("open");
        let own = next(&mut link);
        assert_eq!((own.command, own.seq, own.body.len()), (HEARTBEAT, 0, 0), "{name} sends its own");
    }
    fleet::assert_no_panic();
}

/// spec/flows.md §18, §5.2: a published phone takes whatever has the number of one of its questions for the answer.
#[test]
fn a_receiver_never_gets_the_sequence_number_or_the_cookie_of_an_old_server() {
    let fleet = Fleet::start(&Plan::default());
    let ids = ["ann", "ben", "dan"].map(|name| fleet.account(name).id);
    let [ann, ben, dan] = ids;
    let mut clients = [fleet.sign_in("ben", 1, Class::Pc), fleet.sign_in("ben", 2, Class::Mobile)];
    let mut owner = fleet.sign_in("ann", 1, Class::Pc);
    let (group_type, member_id_list) = (2, vec![ann, ben]);
    let create = group::ImGroupCreateReq { group_type, group_name: "g".into(), member_id_list, ..Default::default() };
    let created: group::ImGroupCreateRsp = owner.request(0x0405, &create, 0x0406);
    let group_id = created.group_id.expect("a group");
    let mut old = old_msg_server(fleet.route, dan);

    let cookie = Some(bytes(b"\0\0\0\x02\0\0\0\x07\0\0\0\0"));
    let text = |to, msg_type| message::ImMsgData {
        from_user_id: dan,
        to_session_id: to,
        msg_id: 1,
        create_time: 1_700_000_000,
        msg_type,
        msg_data: bytes(b"Q86LjI5C0w5zckkEFxEXrg=="),
        attach_data: cookie.clone(),
        ..Default::default()
    };
    let session = |session_id| message::ImMsgDataReadNotify { user_id: ben, session_id, msg_id: 1, session_type: 1 };
    let file = file::ImFileNotify { from_user_id: dan, to_user_id: ben, trans_mode: 1, ..Default::default() };
    let signal = switch_service::Imp2pCmdMsg { from_user_id: dan, to_user_id: ben, cmd_msg_data: "{}".to_owned() };
    let removed = buddy::ImRemoveSessionNotify { user_id: ben, session_type: 1, session_id: dan };
    let avatar = buddy::ImAvatarChangedNotify { changed_user_id: dan, avatar_url: "http://x/y.png".to_owned() };
    let line = buddy::ImSignInfoChangedNotify { changed_user_id: dan, sign_info: "hello".to_owned() };
    let changed = group::ImGroupChangeMemberNotify {
        user_id: ann,
        change_type: 1,
        group_id,
        cur_user_id_list: vec![ann, ben],
        chg_user_id_list: vec![ben],
    };
    let relayed: [(u16, Vec<u8>); 8] = [
        (0x0301, text(ben, 1).encode_to_vec()),
        (0x0301, text(group_id, 17).encode_to_vec()),
        (0x0304, session(dan).encode_to_vec()),
        (0x020f, removed.encode_to_vec()),
        (0x0212, avatar.encode_to_vec()),
        (0x0215, line.encode_to_vec()),
        (0x0601, signal.encode_to_vec()),
        (0x040b, changed.encode_to_vec()),
    ];
    for (command, body) in relayed {
        old.write(&pack(command, SENDERS, &body)).expect("the link is open");
        for client in &mut clients {
            let pdu = client.wait_for("what was relayed", |pdu| pdu.command == command);
            assert_eq!(pdu.seq, 0, "{command:#06x}");
            assert!(!pdu.tags().contains(&20), "{command:#06x} has a cookie");
        }
    }
    // Files are for desktops.
    old.write(&pack(0x0508, SENDERS, &file.encode_to_vec())).expect("the link is open");
    assert_eq!(clients[0].wait_for("a file", |pdu| pdu.command == 0x0508).seq, 0);
    // One who comes to the old server, and its kick.
    let update = server::ImUserStatusUpdate { user_status: 1, user_id: dan, client_type: 1, ..Default::default() };
    old.write(&pack(0x070a, SENDERS, &update.encode_to_vec())).expect("the link is open");
    let came = clients[0].wait_for("presence", |pdu| pdu.command == 0x0203);
    assert_eq!(came.seq, 0);
    let kick = server::ImServerKickUser { user_id: ben, client_type: 18, reason: 1, ..Default::default() };
    old.write(&pack(0x070d, SENDERS, &kick.encode_to_vec())).expect("the link is open");
    assert_eq!(clients[1].wait_for("the kick", |pdu| pdu.command == 0x0107).seq, 0);
    fleet::assert_no_panic();
}

fn bytes(bytes: &'static [u8]) -> prost::bytes::Bytes {
    prost::bytes::Bytes::from_static(bytes)
}

/// 0x0702 means that its sender takes no more requests. Login, route and db-proxy make none: whoever tells them so is
/// answered and told as before. (What a msg server does is in `servers/msg/tests/msg/order.rs`: it asks others, and
/// takes the answers that are still to come.) A client has no business with it.
#[test]
fn a_server_that_is_told_to_stop_asking_goes_on_answering() {
    let fleet = Fleet::start(&Plan::default());
    let (ben, dan) = (fleet.account("ben").id, fleet.account("dan").id);
    let stop = pack(0x0702, SENDERS, &server::ImStopReceivePacket { result: 0 }.encode_to_vec());

    let mut db = Client::connect(fleet.db);
    db.write(&stop).expect("open");
    db.write(&pack(0x0307, 5, &message::ImUnreadMsgCntReq { user_id: ben, ..Default::default() }.encode_to_vec()))
        .expect("open");
    assert_eq!(db.wait_for("an answer", |pdu| pdu.command == 0x0308).seq, 5);

    let mut route = old_msg_server(fleet.route, dan);
    route.write(&stop).expect("open");
    route
        .write(&pack(0x020a, 5, &buddy::ImUsersStatReq { user_id: ben, ..Default::default() }.encode_to_vec()))
        .expect("open");
    assert_eq!(route.wait_for("an answer", |pdu| pdu.command == 0x020b).seq, 5);
    // Notices are no requests.
    let mut client = fleet.sign_in("ben", 1, Class::Pc);
    route.wait_for("a notice", |pdu| pdu.command == 0x0203);

    let mut login = Client::connect(fleet.login_links);
    login.write(&stop).expect("open");
    let info = server::ImMsgServInfo {
        ip1: "127.0.0.1".to_owned(),
        ip2: "127.0.0.1".to_owned(),
        port: 65_000,
        max_conn_cnt: 1_000,
        cur_conn_cnt: 999,
        host_name: "old".to_owned(),
    };
    login.write(&pack(0x0709, 0, &info.encode_to_vec())).expect("open");
    // It still sends what it sends by itself.
    assert_eq!(next(&mut login).command, HEARTBEAT);

    client.write(&stop).expect("open");
    client.drain();
    let seq = client.send(0x0307, &message::ImUnreadMsgCntReq::default());
    client.wait_for("the store's answer", |pdu| pdu.command == 0x0308 && pdu.seq == seq);
    fleet::assert_no_panic();
}
