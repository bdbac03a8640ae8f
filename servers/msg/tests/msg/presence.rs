//! Who is here: what the msg server tells the others, and what it passes on.

use tt_proto::im::base_define::{UserStat, UserStatType};
use tt_proto::im::buddy::{ImUserStatNotify, ImUsersStatReq, ImUsersStatRsp, ImpcLoginStatusNotify};
use tt_proto::im::login::{ImDeviceTokenReq, ImLogoutReq, ImLogoutRsp};
use tt_proto::im::server::{
    ImMsgServInfo, ImOnlineUserInfo, ImRoleSet, ImServerPcLoginStatusNotify, ImUserStatusUpdate,
};

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
    for (entry, client_type) in snapshot.user_stat_list.iter().zip([PC as i32, PHONE as i32]) {
        assert_eq!((entry.user_id, entry.status, entry.client_type), (5, ONLINE, client_type));
        assert!(entry.signed_in_at.is_some() && entry.sign_in_id.is_some(), "{entry:?}");
    }
    assert_eq!(snapshot.user_stat_list.len(), 2);
    let (_, info) = world.peers.login.accept().expect::<ImMsgServInfo>();
    assert_eq!(info.cur_conn_cnt, 2);
    // The first route server was the master; with it gone the second one is told.
    world.route.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    // It had been met by users who were here before: what it may have had for them is looked for.
    second.expect::<ImUsersStatReq>();
    assert_eq!(second.expect::<ImRoleSet>().1.master, 1);
}

#[test]
fn a_status_notice_reaches_every_pc_client() {
    let mut world = World::new();
    let mut first = world.sign_in(1, PC);
    let mut second = world.sign_in(2, MAC);
    let mut phone = world.sign_in(2, PHONE);
    let notice = ImUserStatNotify { user_stat: UserStat { user_id: 9, status: OFFLINE, ..UserStat::default() } };
    world.route.send(3, &notice);
    assert_eq!(first.expect(), (0, notice.clone()));
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

fn stat(user_id: u32, status: i32, client_types: &[u32], detail_only: Option<bool>) -> ImUserStatNotify {
    let client_types = client_types.to_vec();
    ImUserStatNotify { user_stat: UserStat { user_id, status, client_types, leave: None, detail_only } }
}

/// One write a second, however much happens: the kernel hands it over in one piece.
#[test]
fn changes_are_gathered_into_one_write_and_all_of_them_are_in_it() {
    let mut world = World::new();
    let mut watcher = world.sign_in(1, PC);
    let mut expected = Vec::new();
    for round in 0..3 {
        for user in 10..40 {
            let status = if round % 2 == 0 { ONLINE } else { OFFLINE };
            world.route.send(0, &stat(user, status, &[], None));
            // The same from a second route server, or once more, is no change.
            world.route.send(0, &stat(user, status, &[], None));
            expected.push((user, status));
        }
    }
    for (user, status) in expected {
        let (seq, notice) = watcher.expect::<ImUserStatNotify>();
        assert_eq!((seq, notice.user_stat.user_id, notice.user_stat.status), (0, user, status));
    }
    world.server.wait_for("teamtalk_presence_writes_total", 1);
    assert_eq!(world.server.metric("teamtalk_presence_changes_total"), 90);
}

#[test]
fn a_newer_client_is_told_only_of_whom_it_asked_about_and_more_of_them() {
    let mut world = World::with(|config| {
        config.timeouts.presence_ms = 50;
        config.limits.watched_users = 2;
    });
    let mut newer = world.sign_in_with(1, PHONE, Some(1 << 11));
    let mut old = world.sign_in(2, PC);
    newer.send(7, &ImUsersStatReq { user_id: 1, user_id_list: vec![9, 10, 9, 11], attach_data: None });
    let (seq, query) = world.route.expect::<ImUsersStatReq>();
    let user_stat_list = vec![UserStat { user_id: 9, status: OFFLINE, client_types: vec![18], ..UserStat::default() }];
    let answer = ImUsersStatRsp { user_id: 1, user_stat_list, attach_data: query.attach_data };
    world.route.send(seq, &answer);
    let (seq, shown) = newer.expect::<ImUsersStatRsp>();
    assert_eq!((seq, shown.user_stat_list), (7, answer.user_stat_list.clone()));
    // A phone of one it asked about; of one beyond the limit; of a stranger.
    for user in [9, 11, 12] {
        world.route.send(0, &stat(user, OFFLINE, &[18], Some(true)));
    }
    assert_eq!(newer.expect(), (0, stat(9, OFFLINE, &[18], None)));
    newer.expect_nothing();
    // Old clients hear of PCs, of everybody, and nothing that they do not know.
    world.route.send(0, &stat(12, ONLINE, &[1, 18], None));
    assert_eq!(old.expect(), (0, stat(12, ONLINE, &[], None)));
    newer.expect_nothing();
    assert_eq!(world.server.metric("teamtalk_watches_refused_total"), 1);
    old.send(8, &ImUsersStatReq { user_id: 1, user_id_list: vec![9], attach_data: None });
    let (seq, query) = world.route.expect::<ImUsersStatReq>();
    world.route.send(seq, &ImUsersStatRsp { attach_data: query.attach_data, ..answer });
    let (_, shown) = old.expect::<ImUsersStatRsp>();
    assert_eq!(shown.user_stat_list, [UserStat { user_id: 9, status: OFFLINE, ..UserStat::default() }]);
}

#[test]
fn with_two_route_servers_the_masters_word_counts_and_the_others_after_it() {
    let mut world = World::with(|config| {
        config.timeouts.presence_ms = 20;
        config.route_servers.push(config.route_servers[0]);
    });
    let mut second = world.peers.route.accept();
    second.expect::<ImOnlineUserInfo>();
    let mut watcher = world.sign_in(1, PC);
    let mut phone = world.sign_in(1, PHONE);
    second.send(0, &stat(9, ONLINE, &[], None));
    second.send(0, &ImServerPcLoginStatusNotify { user_id: 1, login_status: 1 });
    world.route.send(0, &stat(8, ONLINE, &[], None));
    assert_eq!(watcher.expect(), (0, stat(8, ONLINE, &[], None)));
    phone.expect_nothing();
    // The master dies before it says what the other has said already.
    world.route.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    assert_eq!(watcher.expect(), (0, stat(9, ONLINE, &[], None)));
    assert_eq!(phone.expect(), (0, ImpcLoginStatusNotify { user_id: 1, login_stat: ONLINE }));
}

#[test]
fn who_comes_and_goes_without_a_route_server_is_announced_to_the_next() {
    let mut world = World::new();
    let stays = world.sign_in(5, PC);
    let leaves = world.sign_in(6, PC);
    world.route.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    world.server.wait_for("teamtalk_links{peer=\"route\"}", 0);
    drop(leaves);
    let mut route = world.peers.route.accept();
    let snapshot = loop {
        let pdu = route.next();
        if pdu.header.command == 0x0708 {
            break pdu.decode::<ImOnlineUserInfo>();
        }
    };
    assert_eq!(snapshot.user_stat_list.iter().map(|entry| entry.user_id).collect::<Vec<_>>(), [5]);
    let (_, gone) = route.expect::<ImUserStatusUpdate>();
    assert_eq!((gone.user_id, gone.user_status), (6, OFFLINE as u32));
    drop(stays);
}

/// The load that the presence rules are made for: 100 changes a second among 2,000 clients who are told of all of
/// them. Counts the writes; the CPU time of the server's thread is printed for `docs/message-path.md`.
#[test]
#[ignore = "a measurement: run it alone, with --release and --nocapture"]
fn two_thousand_clients_and_a_hundred_changes_a_second() {
    const CLIENTS: u32 = 2_000;
    const SECONDS: u64 = 10;
    let cpu = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("proc").flatten();
        let of = |name: &str| {
            tasks
                .map(|task| task.path())
                .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name))
        };
        let stat = std::fs::read_to_string(of("msg").expect("the server's thread").join("schedstat")).expect("proc");
        let ns: u64 = stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds");
        std::time::Duration::from_nanos(ns)
    };
    let mut world = World::new();
    let mut clients: Vec<_> = (1..=CLIENTS).map(|user| world.sign_in(user, PC)).collect();
    for client in &clients {
        client.stream.set_nonblocking(true).expect("an open socket");
    }
    let (begin, start) = (cpu(), std::time::Instant::now());
    let mut sent = 0_u32;
    while start.elapsed() < std::time::Duration::from_secs(SECONDS) {
        while sent < (start.elapsed().as_millis() / 10) as u32 {
            let status = if (sent / CLIENTS).is_multiple_of(2) { OFFLINE } else { ONLINE };
            world.route.send(0, &stat(1 + sent % CLIENTS, status, &[1], None));
            sent += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
        for client in &mut clients {
            let _ = std::io::Read::read(&mut client.stream, &mut [0; 8192]);
        }
    }
    let used = cpu().saturating_sub(begin);
    let writes = world.server.metric("teamtalk_presence_writes_total");
    println!("{sent} changes, {writes} writes in {SECONDS} s, {used:?} of CPU: {:.2} % of a core", {
        used.as_secs_f64() * 100.0 / SECONDS as f64
    });
    assert!(writes <= u64::from(CLIENTS) * SECONDS, "more than one a second for each client");
    assert!(writes >= u64::from(CLIENTS) * (SECONDS - 2));
}
