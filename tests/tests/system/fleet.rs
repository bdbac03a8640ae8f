//! Several servers of each kind ([`Fleet`]) at work: across all of them, and when one of them dies.

use std::thread;

use tt_proto::im::{
    base_define::UserStat,
    buddy, login, message,
    server::{ImMsgServInfo, ImOnlineUserInfo},
};
use tt_tests::{Class, Client, PATIENCE, Pdu, command, eventually, http_get, pack};

use crate::cluster::Fleet;

/// Whether `watcher` sees `user` online.
fn is_online(watcher: &mut Client, user: u32) -> bool {
    let request = buddy::ImUsersStatReq { user_id: watcher.user_id, user_id_list: vec![user], ..Default::default() };
    let answer: buddy::ImUsersStatRsp =
        watcher.request(command::USERS_STATUS_REQUEST, &request, command::USERS_STATUS_RESPONSE);
    answer.user_stat_list == [UserStat { user_id: user, status: 1, ..UserStat::default() }]
}

/// What a status notice says: whose, and which.
fn told(pdu: &Pdu) -> Option<(u32, i32)> {
    let notice = (pdu.command == command::STATUS_NOTIFY).then(|| pdu.decode::<buddy::ImUserStatNotify>());
    notice.map(|notice| (notice.user_stat.user_id, notice.user_stat.status))
}

/// Waits until the client is told that `user` is on (1) or off (2).
fn wait_told(client: &mut Client, user: u32, status: i32) {
    client.wait_for("a status", |pdu| told(pdu) == Some((user, status)));
}

/// How often twenty messages are pipelined; `TT_TEST_ROUNDS=1000` is the long mode.
fn rounds() -> usize {
    std::env::var("TT_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20)
}

#[test]
fn a_fleet_started_in_any_order_talks_across_all_its_servers() {
    let fleet = Fleet::start(&["ann", "ben", "cid"]);
    let [ann, ben] = [0, 1].map(|person| fleet.people[person].id);
    let mut ann_pc = fleet.sign_in(0, 0, Class::Pc);
    let mut ben_pc = fleet.sign_in(1, 1, Class::Pc);
    let mut ben_phone = fleet.sign_in(1, 2, Class::Mobile);
    eventually("all of it is counted", || [0, 1].iter().all(|login| fleet.connections(*login) == 3));
    // Twenty at once, both ways: every device has them once and in the order of the ids.
    let mut heard = Vec::new();
    for round in 0..rounds() {
        for n in 0..20 {
            ann_pc.post(ben, &format!("ann {round} {n}"));
            ben_pc.post(ann, &format!("ben {round} {n}"));
        }
        let first = heard.len();
        heard.extend((0..40).map(|_| ben_phone.hear()));
        let now = &heard[first..];
        let ids = first as u32 + 1..=first as u32 + 40;
        assert_eq!(now.iter().map(|message| message.id).collect::<Vec<_>>(), ids.collect::<Vec<_>>());
        for (from, name) in [(ann, "ann"), (ben, "ben")] {
            let texts: Vec<_> = now.iter().filter(|m| m.from == from).map(|m| m.text.clone()).collect();
            let sent: Vec<_> = (0..20).map(|n| format!("{name} {round} {n}")).collect();
            assert_eq!(texts, sent, "in sending order");
        }
        let to_ann: Vec<_> = (0..20).map(|_| ann_pc.hear().id).collect();
        let to_ben: Vec<_> = (0..20).map(|_| ben_pc.hear().id).collect();
        assert!(to_ann.is_sorted() && to_ben.is_sorted(), "{to_ann:?} {to_ben:?}");
    }
    let mut stored = ann_pc.history(ben);
    stored.reverse();
    assert_eq!(stored, heard);
    // With two route servers everybody hears once that somebody comes and goes.
    wait_told(&mut ann_pc, ben, 1);
    drop(ben_pc);
    wait_told(&mut ann_pc, ben, 2);
    let ben_pc = fleet.sign_in(1, 0, Class::Pc);
    wait_told(&mut ann_pc, ben, 1);
    // A fence behind which both route servers have said what they have to say of ben: another's coming.
    let fence = fleet.sign_in(2, 1, Class::Pc);
    wait_told(&mut ann_pc, fence.user_id, 1);
    let more: Vec<_> = ann_pc.drain().iter().filter_map(told).filter(|(user, _)| *user == ben).collect();
    assert_eq!(more, [], "nothing twice");
    drop(fence);
    drop(ben_pc);
    eventually("the counters go down again", || [0, 1].iter().all(|login| fleet.connections(*login) == 2));
}

#[test]
fn a_user_has_one_pc_and_one_phone_in_the_whole_fleet() {
    let fleet = Fleet::start(&["ann"]);
    let mut pc = fleet.sign_in(0, 0, Class::Pc);
    let mut phone = fleet.sign_in(0, 1, Class::Mobile);
    let second = fleet.sign_in(0, 2, Class::Pc);
    let kick: login::ImKickUser = pc.notice(command::KICK_USER);
    assert_eq!(kick.kick_reason, 1);
    pc.wait_closed(PATIENCE);
    phone.drain();
    // Three sign-ins at the same moment on three servers, over and over: one is left each time.
    drop(second);
    let fleet = &fleet;
    for round in 0..5 {
        let clients: Vec<Client> = thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|place| scope.spawn(move || fleet.sign_in(0, place, Class::Pc))).collect();
            threads.into_iter().map(|thread| thread.join().expect("signed in")).collect()
        });
        // A kicked one is closed within the grace time, and the counters say when all are gone.
        eventually("one PC and the phone are left", || fleet.connections(0) == 2);
        let alive = clients.into_iter().filter_map(|mut client| {
            let seq = client.seq();
            let alive = client.write(&pack(command::HEARTBEAT, seq, &[])).is_ok();
            let echoed = alive && {
                let mut echoed = false;
                while let Ok(pdu) = client.next(PATIENCE) {
                    echoed |= pdu.command == command::HEARTBEAT;
                    if echoed {
                        break;
                    }
                }
                echoed
            };
            echoed.then_some(client)
        });
        assert_eq!(alive.count(), 1, "round {round}");
        eventually("the phone is left", || fleet.connections(0) == 1);
    }
    assert!(phone.drain().iter().all(|pdu| pdu.command != command::KICK_USER), "a phone is no rival of a PC");
}

#[test]
fn a_killed_msg_server_takes_its_users_offline_and_a_killed_route_server_nobody() {
    let fleet = Fleet::start(&["ann", "ben", "cid"]);
    let [ann, ben, cid] = [0, 1, 2].map(|person| fleet.people[person].id);
    let mut ann_pc = fleet.sign_in(0, 0, Class::Pc);
    let mut ben_pc = fleet.sign_in(1, 1, Class::Pc);
    let _cid_pc = fleet.sign_in(2, 2, Class::Pc);
    wait_told(&mut ann_pc, cid, 1);
    fleet.kill("msg-2");
    wait_told(&mut ann_pc, cid, 2);
    assert!(!is_online(&mut ann_pc, cid) && is_online(&mut ann_pc, ben));
    eventually("its load is forgotten", || [0, 1].iter().all(|login| fleet.connections(*login) == 2));

    // Messages keep coming while each of the route servers in turn dies and returns.
    let mut next = 1;
    for route in ["route-0", "route-1"] {
        fleet.kill(route);
        for _ in 0..10 {
            assert_eq!(ann_pc.say(ben, "over the other one"), next);
            next += 1;
        }
        fleet.launch("route", usize::from(route == "route-1"));
        fleet.wait_line(route, "Ready");
        for _ in 0..10 {
            assert_eq!(ann_pc.say(ben, "and back"), next);
            next += 1;
        }
        for place in 0..2 {
            fleet.wait_links(place, "route", 2);
        }
    }
    let heard: Vec<_> = (1..next).map(|_| ben_pc.hear().id).collect();
    assert_eq!(heard, (1..next).collect::<Vec<_>>(), "all of them, once, in order");
    // Their servers have dialled it again.
    eventually("everybody is known again", || is_online(&mut ann_pc, ben) && is_online(&mut ben_pc, ann));
}

#[test]
fn messages_outlive_the_db_proxy_that_had_them() {
    let fleet = Fleet::start(&["ann", "ben"]);
    let ben = fleet.people[1].id;
    let mut ann_pc = fleet.sign_in(0, 0, Class::Pc);
    let mut ben_pc = fleet.sign_in(1, 1, Class::Pc);
    for n in 1..=200 {
        ann_pc.post(ben, &format!("{n}"));
        if n == 100 {
            fleet.kill("db-proxy-0");
        }
    }
    // The one that stood by has the directory as soon as the other is gone; what was at the dead one is repeated.
    fleet.wait_line("db-proxy-1", "Ready");
    for n in 1..=200 {
        let ack = ann_pc.wait_for("an ack", |pdu| pdu.command == command::MSG_DATA_ACK);
        assert_eq!(ack.decode::<message::ImMsgDataAck>().msg_id, n, "in order, none twice");
        assert_eq!(ben_pc.hear().text, n.to_string());
    }
    let mut stored = ann_pc.history(ben);
    stored.reverse();
    assert_eq!(stored.iter().map(|message| message.id).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    assert!(stored.iter().all(|message| message.text == message.id.to_string()), "each once");
}

/// Once, a msg server of somebody's own making on the login server's port drew every client to itself.
#[test]
fn a_rogue_msg_server_draws_no_client_and_hears_nothing() {
    let fleet = Fleet::start(&["ann"]);
    let mine = |answer: &str| fleet.at.msg.iter().any(|at| answer.contains(&format!("\"port\" : \"{}\"", at.port())));
    for (ports, greet) in [(&fleet.at.login_msg, false), (&fleet.at.login_msg, true), (&fleet.at.route, true)] {
        let mut rogue = Client::connect(ports[0]);
        if greet {
            let hello = tt_proto::im::extension::ImLinkHello {
                role: Some(2),
                server_id: Some("msg-0".to_owned()),
                nonce: Some(vec![7; 16].into()),
                ..Default::default()
            };
            rogue.send(0x07f0, &hello);
        }
        let info = ImMsgServInfo {
            ip1: "192.0.2.66".to_owned(),
            ip2: "192.0.2.66".to_owned(),
            port: 6_666,
            max_conn_cnt: 1_000_000,
            cur_conn_cnt: 0,
            host_name: "rogue".to_owned(),
        };
        // It may be closed already.
        let _ = rogue.write(&pack(0x0709, 0, &prost::Message::encode_to_vec(&info)));
        let _ = rogue.write(&pack(0x0708, 0, &prost::Message::encode_to_vec(&ImOnlineUserInfo::default())));
        rogue.wait_closed(PATIENCE);
        let heard: Vec<u16> = rogue.drain_closed().iter().map(|pdu| pdu.command).collect();
        assert!(heard.iter().all(|command| [0x07f0, 0x07f1].contains(command)), "{heard:#06x?}");
        assert!(mine(&http_get(fleet.at.login_http[0], "/msg_server")));
    }
    fleet.sign_in(0, 0, Class::Pc);
}
