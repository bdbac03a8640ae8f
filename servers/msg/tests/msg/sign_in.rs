//! Signing in: who may, in which order the world hears of it, and what a client that
//! has not signed in can do (nothing).

use std::time::Instant;

use tt_proto::im::base_define::{ResultType, UserStatType};
use tt_proto::im::login::{ImLoginReq, ImLoginRes};
use tt_proto::im::message::ImClientTimeReq;
use tt_proto::im::other::ImHeartBeat;
use tt_proto::im::server::{ImServerKickUser, ImUserStatusUpdate, ImValidateReq, ImValidateRsp};
use tt_proto::pdu;

use crate::support::{MAC, PC, PHONE, Peers, Server, Wire, World, card, login_request, name, valid};

fn expect_refused(client: &mut Wire, result: ResultType) -> ImLoginRes {
    let (seq, answer) = client.expect::<ImLoginRes>();
    assert_eq!((seq, answer.result_code), (1, result as i32));
    assert!(answer.server_time > 1_700_000_000, "the server's clock");
    assert_eq!((&answer.user_info, answer.online_status), (&None, None));
    client.expect_closed();
    answer
}

#[test]
fn a_valid_name_and_password_sign_in_and_get_the_user_card() {
    let mut world = World::new();
    let mut client = world.server.connect();
    let away = UserStatType::UserStatusLeave;
    client.send(9, &ImLoginReq { online_status: away.into(), ..login_request(5, MAC) });
    let (seq, request) = world.db.expect::<ImValidateReq>();
    assert_eq!(seq, 9, "the client's sequence number goes along");
    assert_eq!((&request.user_name, request.password.len()), (&name(5), 32));
    world.db.send(seq, &valid(request, 5));
    let (seq, answer) = client.expect::<ImLoginRes>();
    assert_eq!((seq, answer.result_code), (9, 0));
    assert_eq!(answer.result_string.as_deref(), Some("成功"));
    assert_eq!(answer.online_status, Some(away.into()), "as asked");
    assert_eq!(answer.user_info, Some(card(5)));
    assert_eq!(answer.capabilities, None, "an old client gets no field it does not know");
    assert_eq!(world.route.expect::<ImServerKickUser>().1.user_id, 5);
    let (_, status) = world.route.expect::<ImUserStatusUpdate>();
    assert_eq!(status.user_status, UserStatType::UserStatusOnline as u32, "away is told as online");
}

#[test]
fn capabilities_are_answered_with_what_both_sides_have() {
    let mut world = World::new();
    let mut client = world.server.connect();
    client.send(1, &ImLoginReq { capabilities: Some(u64::MAX), ..login_request(5, PC) });
    let (seq, request) = world.db.expect::<ImValidateReq>();
    world.db.send(seq, &valid(request, 5));
    assert_eq!(client.expect::<ImLoginRes>().1.capabilities, Some(1 << 1 | 1 << 11 | 1 << 12));
}

#[test]
fn a_refusal_of_the_store_is_code_6_with_its_text() {
    let mut world = World::new();
    for result_code in [1, 2, 6] {
        let mut client = world.server.connect();
        client.send(1, &login_request(5, PC));
        let (seq, request) = world.db.expect::<ImValidateReq>();
        let refusal = ImValidateRsp {
            user_name: request.user_name,
            result_code,
            result_string: Some("用户名/密码错误".into()),
            user_info: None,
            attach_data: request.attach_data,
        };
        world.db.send(seq, &refusal);
        let answer = expect_refused(&mut client, ResultType::RefuseReasonDbValidateFailed);
        assert_eq!(answer.result_string.as_deref(), Some("用户名/密码错误"));
    }
    assert_eq!(world.server.metric("teamtalk_connections"), 0);
}

#[test]
fn a_yes_without_a_user_or_for_user_0_is_a_refusal() {
    let mut world = World::new();
    for user_info in [None, Some(card(0))] {
        let mut client = world.server.connect();
        client.send(1, &login_request(5, PC));
        let (seq, request) = world.db.expect::<ImValidateReq>();
        world.db.send(seq, &ImValidateRsp { user_info, ..valid(request, 5) });
        expect_refused(&mut client, ResultType::RefuseReasonDbValidateFailed);
    }
}

#[test]
fn a_second_sign_in_on_the_connection_is_ignored() {
    let mut world = World::new();
    let mut client = world.server.connect();
    client.send(1, &login_request(5, PC));
    client.send(2, &login_request(6, PC));
    let (seq, request) = world.db.expect::<ImValidateReq>();
    assert_eq!(request.user_name, name(5));
    world.db.send(seq, &valid(request, 5));
    assert_eq!(client.expect::<ImLoginRes>().0, 1);
    client.send(3, &login_request(6, PC));
    world.expect_nothing_at_the_store(&mut client);
}

#[test]
fn a_missing_peer_has_its_code() {
    for (missing, result) in [
        ("db", ResultType::RefuseReasonNoDbServer),
        ("login", ResultType::RefuseReasonNoLoginServer),
        ("route", ResultType::RefuseReasonNoRouteServer),
    ] {
        let peers = Peers::new();
        let server = Server::start(peers.config());
        // A link that is not greeted is not up for another two seconds.
        let _links: Vec<Wire> = [("db", &peers.db), ("login", &peers.login), ("route", &peers.route)]
            .into_iter()
            .filter(|(kind, _)| *kind != missing)
            .map(|(_, peer)| peer.accept())
            .collect();
        for kind in ["login", "route", "db-proxy"].into_iter().filter(|kind| !kind.starts_with(missing)) {
            server.wait_for(&format!("teamtalk_links{{peer=\"{kind}\"}}"), 1);
        }
        let mut client = server.connect();
        client.send(1, &login_request(5, PC));
        let answer = expect_refused(&mut client, result);
        assert_eq!(answer.result_string.as_deref(), Some("服务端异常"));
    }
}

#[test]
fn a_full_server_answers_code_2() {
    let mut world = World::with(|config| config.max_connections = 1);
    let _first = world.sign_in(1, PC);
    let mut second = world.server.connect();
    second.send(1, &login_request(2, PC));
    expect_refused(&mut second, ResultType::RefuseReasonMsgServerFull);
}

#[test]
fn a_sign_in_whose_db_link_is_lost_is_answered() {
    let mut world = World::new();
    let mut client = world.server.connect();
    client.send(1, &login_request(5, PC));
    world.db.expect::<ImValidateReq>();
    world.db.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    expect_refused(&mut client, ResultType::RefuseReasonNoDbServer);
}

#[test]
fn every_command_but_sign_in_and_heartbeat_closes_a_visitor() {
    let world = World::new();
    for command in (0..=0x0740).chain([0x07f0, 0x0999, 0xffff]).filter(|command| ![0x0103, 0x0701].contains(command)) {
        let mut client = world.server.connect();
        client.send_raw(&pdu::encode_raw(command, 1, &[]));
        client.expect_closed();
    }
    assert_eq!(world.server.metric("teamtalk_visitors"), 0);
}

#[test]
fn a_command_right_behind_the_sign_in_is_before_it() {
    let mut world = World::new();
    let mut client = world.server.connect();
    let both = [pdu::encode(1, &login_request(5, PC)), pdu::encode(2, &ImClientTimeReq::default())].concat();
    client.send_raw(&both);
    client.expect_closed();
    // The answer comes for nobody; nobody is announced.
    let (seq, request) = world.db.expect::<ImValidateReq>();
    world.db.send(seq, &valid(request, 5));
    world.sign_in(6, PC);
}

#[test]
fn heartbeats_are_echoed_unchanged_before_and_after_sign_in() {
    let mut world = World::new();
    let mut frame = pdu::encode(77, &ImHeartBeat::default()).to_vec();
    // The iOS client's version and the Android client's reserved field.
    frame[5] = 13;
    frame[15] = 0x30;
    for mut client in [world.server.connect(), world.sign_in(5, PHONE)] {
        client.send_raw(&frame);
        let echo = client.pdu().expect("an echo");
        let mut back = Vec::new();
        echo.header.write(&mut back);
        assert_eq!((back, echo.body), (frame.clone(), vec![]));
    }
}

#[test]
fn a_client_that_says_nothing_is_closed() {
    let world = World::with(|config| config.timeouts.login_ms = 200);
    let start = Instant::now();
    let mut client = world.server.connect();
    client.expect_closed();
    assert!(start.elapsed().as_millis() >= 190, "not before its time");
    let closed = world.server.metric("teamtalk_clients_closed_total{client=\"visitor\",reason=\"no sign-in in time\"}");
    assert_eq!(closed, 1);
}

#[test]
fn heartbeats_do_not_prolong_the_sign_in() {
    let world = World::with(|config| config.timeouts.login_ms = 200);
    let mut client = world.server.connect();
    client.expect_nothing();
    client.expect_closed();
}

#[test]
fn a_member_is_not_closed_by_the_deadline_of_visitors_but_by_idleness() {
    let mut world = World::with(|config| {
        config.timeouts.login_ms = 300;
        config.timeouts.idle_pc_ms = 900;
    });
    let start = Instant::now();
    let mut client = world.sign_in(5, PC);
    client.expect_closed();
    assert!(start.elapsed().as_millis() >= 890, "closed after {:?}", start.elapsed());
    world.expect_left(5, PC);
}

#[test]
fn a_sign_in_that_does_not_parse_is_ignored_and_may_be_repeated() {
    let mut world = World::new();
    let mut client = world.server.connect();
    client.send_raw(&pdu::encode_raw(0x0103, 1, &[0xff; 40]));
    client.send(2, &ImLoginReq { client_type: 99, ..login_request(5, PC) });
    client.send(3, &login_request(5, PC));
    let (seq, request) = world.db.expect::<ImValidateReq>();
    assert_eq!(seq, 3);
    world.db.send(seq, &valid(request, 5));
    assert_eq!(client.expect::<ImLoginRes>().0, 3);
}

#[test]
fn an_unknown_online_status_counts_as_online() {
    let mut world = World::new();
    let mut client = world.server.connect();
    client.send(1, &ImLoginReq { online_status: 9, ..login_request(5, PC) });
    let (seq, request) = world.db.expect::<ImValidateReq>();
    world.db.send(seq, &valid(request, 5));
    assert_eq!(client.expect::<ImLoginRes>().1.online_status, Some(UserStatType::UserStatusOnline.into()));
}
