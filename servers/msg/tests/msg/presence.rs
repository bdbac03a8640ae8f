//! Who is here: what the msg server tells the others, and what it passes on.

use tt_proto::im::base_define::{ServerUserStat, UserStat, UserStatType};
use tt_proto::im::buddy::{ImUserStatNotify, ImpcLoginStatusNotify};
use tt_proto::im::login::{ImDeviceTokenReq, ImLogoutReq, ImLogoutRsp};
use tt_proto::im::server::{ImMsgServInfo, ImOnlineUserInfo, ImRoleSet, ImServerPcLoginStatusNotify};

use crate::support::{MAC, PC, PHONE, Peers, Server, World};

const ONLINE: i32 = UserStatType::UserStatusOnline as i32;
const OFFLINE: i32 = UserStatType::UserStatusOffline as i32;

#[test]
fn a_login_server_is_told_the_address_and_the_load() {
    let peers = Peers::new();
    let mut config = peers.config();
    config.server_id = "msg-7".into();
    config.max_connections = 1234;
    config.advertise.ip1 = "203.0.113.1".into();
    config.advertise.port = 4321;
    let _server = Server::start(config);
    let (_, info) = peers.login.accept().expect::<ImMsgServInfo>();
    let expected = ImMsgServInfo {
        ip1: "203.0.113.1".into(),
        ip2: "203.0.113.1".into(),
        port: 4321,
        max_conn_cnt: 1234,
        cur_conn_cnt: 0,
        host_name: "msg-7".into(),
    };
    assert_eq!(info, expected);
}

#[test]
fn a_client_that_logs_out_is_answered_closed_and_announced() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    pc.send(69, &ImLogoutReq::default());
    assert_eq!(pc.expect(), (69, ImLogoutRsp { result_code: 0 }));
    pc.expect_closed();
    world.expect_left(5, PC);
    // The phone's push token would be next at the store if a PC could wipe it.
    let mut other = world.sign_in(6, PC);
    world.expect_nothing_at_the_store(&mut other);
}

#[test]
fn a_phone_that_logs_out_forgets_its_push_token() {
    let mut world = World::new();
    let mut phone = world.sign_in(5, PHONE);
    phone.send(69, &ImLogoutReq::default());
    let (_, forget) = world.db.expect::<ImDeviceTokenReq>();
    assert_eq!(forget, ImDeviceTokenReq { user_id: 5, ..ImDeviceTokenReq::default() });
    phone.expect::<ImLogoutRsp>();
    phone.expect_closed();
    world.expect_left(5, PHONE);
}

#[test]
fn a_broken_connection_is_announced() {
    let mut world = World::new();
    let phone = world.sign_in(5, PHONE);
    drop(phone);
    world.expect_left(5, PHONE);
    assert_eq!(world.server.metric("teamtalk_users"), 0);
}

#[test]
fn servers_that_come_back_are_told_who_is_here() {
    let mut world = World::with(|config| {
        // The same route server twice: the second link is the one that survives.
        config.route_servers.push(config.route_servers[0]);
        config.login_servers.push(config.login_servers[0]);
    });
    let _pc = world.sign_in(5, PC);
    let _phone = world.sign_in(5, PHONE);
    let mut second = world.peers.route.accept();
    let (_, mut snapshot) = second.expect::<ImOnlineUserInfo>();
    snapshot.user_stat_list.sort_by_key(|entry| entry.client_type);
    let entry = |client_type| ServerUserStat { user_id: 5, status: ONLINE, client_type };
    assert_eq!(snapshot.user_stat_list, [entry(PC as i32), entry(PHONE as i32)]);
    let (_, info) = world.peers.login.accept().expect::<ImMsgServInfo>();
    assert_eq!(info.cur_conn_cnt, 2);
    // The first route server was the master; with it gone the second one is told.
    world.route.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    assert_eq!(second.expect::<ImRoleSet>().1.master, 1);
}

#[test]
fn a_status_notice_reaches_every_pc_client() {
    let mut world = World::new();
    let mut first = world.sign_in(1, PC);
    let mut second = world.sign_in(2, MAC);
    let mut phone = world.sign_in(2, PHONE);
    let notice = ImUserStatNotify { user_stat: UserStat { user_id: 9, status: OFFLINE } };
    world.route.send(3, &notice);
    assert_eq!(first.expect(), (0, notice));
    assert_eq!(second.expect(), (0, notice));
    phone.expect_nothing();
}

#[test]
fn a_pc_notice_reaches_the_users_phones() {
    let mut world = World::new();
    let mut pc = world.sign_in(1, PC);
    let mut phone = world.sign_in(1, PHONE);
    let mut other = world.sign_in(2, PHONE);
    for (login_status, login_stat) in [(1, ONLINE), (0, OFFLINE)] {
        world.route.send(0, &ImServerPcLoginStatusNotify { user_id: 1, login_status });
        assert_eq!(phone.expect(), (0, ImpcLoginStatusNotify { user_id: 1, login_stat }));
    }
    world.route.send(0, &ImServerPcLoginStatusNotify { user_id: 99, login_status: 1 });
    pc.expect_nothing();
    phone.expect_nothing();
    other.expect_nothing();
}
