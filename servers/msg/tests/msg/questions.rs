//! Questions that db-proxy and route answer: who asks is not the client's choice,
//! the answer has the client's sequence number and nothing of the servers' in it.

use std::fmt::Debug;

use tt_proto::im::base_define::{SessionType, UserInfo, UserStat};
use tt_proto::im::buddy::{
    ImAllUserReq, ImAllUserRsp, ImDepartmentReq, ImDepartmentRsp, ImRecentContactSessionReq, ImRecentContactSessionRsp,
    ImRemoveSessionNotify, ImRemoveSessionReq, ImRemoveSessionRsp, ImUsersInfoReq, ImUsersInfoRsp, ImUsersStatReq,
    ImUsersStatRsp,
};
use tt_proto::im::message::{
    ImClientTimeReq, ImClientTimeRsp, ImGetLatestMsgIdReq, ImGetLatestMsgIdRsp, ImGetMsgByIdReq, ImGetMsgByIdRsp,
    ImGetMsgListReq, ImGetMsgListRsp, ImUnreadMsgCntReq, ImUnreadMsgCntRsp,
};
use tt_proto::pdu::{self, MAX_TO_CLIENT};
use tt_proto::{Attach, Body};

use crate::support::{PC, PHONE, Wire, World};

const SINGLE: i32 = SessionType::SessionTypeSingle as i32;

/// The client asks, `server` must hear `heard` and gives `answer`; the client gets it.
pub(crate) fn relay<Q, R>(client: &mut Wire, server: &mut Wire, asked: &Q, heard: &Q, answer: &R)
where
    Q: Body + Attach + PartialEq + Debug,
    R: Body + Attach + Clone + PartialEq + Debug,
{
    client.send(321, asked);
    let (seq, mut query) = server.expect::<Q>();
    let cookie = query.attach().cloned();
    assert_eq!(cookie.as_ref().map(bytes::Bytes::len), Some(12), "the published layout");
    query.set_attach(None);
    assert_eq!((seq, &query), (321, heard));
    let mut with_cookie = answer.clone();
    with_cookie.set_attach(cookie);
    server.send(seq, &with_cookie);
    assert_eq!(client.expect(), (321, answer.clone()));
}

#[test]
fn each_question_goes_to_the_store_under_the_clients_own_id() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let (c, db) = (&mut client, &mut world.db);
    // The client claims to be user 6.
    let recent = |user_id| ImRecentContactSessionReq { user_id, latest_update_time: 3, attach_data: None };
    relay(c, db, &recent(6), &recent(5), &ImRecentContactSessionRsp { user_id: 5, ..Default::default() });
    let users = |user_id| ImUsersInfoReq { user_id, user_id_list: vec![1, 2, 99_999], attach_data: None };
    let cards = vec![crate::support::card(1)];
    relay(c, db, &users(6), &users(5), &ImUsersInfoRsp { user_id: 5, user_info_list: cards, attach_data: None });
    let all = |user_id| ImAllUserReq { user_id, latest_update_time: 9, attach_data: None };
    relay(c, db, &all(6), &all(5), &ImAllUserRsp { user_id: 5, latest_update_time: 9, ..Default::default() });
    let departments = |user_id| ImDepartmentReq { user_id, latest_update_time: 0, attach_data: None };
    relay(c, db, &departments(6), &departments(5), &ImDepartmentRsp { user_id: 5, ..Default::default() });
    let unread = |user_id| ImUnreadMsgCntReq { user_id, attach_data: None };
    relay(c, db, &unread(6), &unread(5), &ImUnreadMsgCntRsp { user_id: 5, total_cnt: 7, ..Default::default() });
    let latest = |user_id| ImGetLatestMsgIdReq { user_id, session_type: SINGLE, session_id: 2, attach_data: None };
    let answer =
        ImGetLatestMsgIdRsp { user_id: 5, session_type: SINGLE, session_id: 2, latest_msg_id: 8, attach_data: None };
    relay(c, db, &latest(6), &latest(5), &answer);
    let by_id = |user_id| ImGetMsgByIdReq {
        user_id,
        session_type: SINGLE,
        session_id: 2,
        msg_id_list: vec![1, 2],
        attach_data: None,
    };
    let answer = ImGetMsgByIdRsp { user_id: 5, session_type: SINGLE, session_id: 2, ..Default::default() };
    relay(c, db, &by_id(6), &by_id(5), &answer);
    let list = |user_id, msg_cnt| ImGetMsgListReq {
        user_id,
        session_type: SINGLE,
        session_id: 2,
        msg_id_begin: 0,
        msg_cnt,
        attach_data: None,
    };
    let answer = ImGetMsgListRsp { user_id: 5, session_type: SINGLE, session_id: 2, ..Default::default() };
    relay(c, db, &list(6, 10), &list(5, 10), &answer);
    relay(c, db, &list(6, u32::MAX), &list(5, 200), &answer);
}

#[test]
fn lists_of_ids_have_a_limit() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let ids: Vec<u32> = (0..50_000).collect();
    client.send(1, &ImUsersInfoReq { user_id: 5, user_id_list: ids.clone(), attach_data: None });
    assert_eq!(world.db.expect::<ImUsersInfoReq>().1.user_id_list, ids[..1_000]);
    client.send(2, &ImUsersStatReq { user_id: 5, user_id_list: ids.clone(), attach_data: None });
    assert_eq!(world.route.expect::<ImUsersStatReq>().1.user_id_list, ids[..5_000]);
    assert_eq!(world.server.metric("teamtalk_lists_cut_total"), 2);
}

#[test]
fn route_answers_who_is_online() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let query = |user_id| ImUsersStatReq { user_id, user_id_list: vec![1, 2], attach_data: None };
    let stat = |user_id, status| UserStat { user_id, status, ..UserStat::default() };
    let answer = ImUsersStatRsp { user_id: 5, user_stat_list: vec![stat(1, 1), stat(2, 2)], attach_data: None };
    relay(&mut client, &mut world.route, &query(6), &query(5), &answer);
}

#[test]
fn the_server_tells_its_own_time() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    client.send(3, &ImClientTimeReq::default());
    let (seq, answer) = client.expect::<ImClientTimeRsp>();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(seq == 3 && u64::from(answer.server_time).abs_diff(now) <= 2);
}

#[test]
fn a_removed_session_is_announced_once_it_is_removed() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let mut phone = world.sign_in(5, PHONE);
    let session_type = SINGLE;
    for result_code in [0, 1] {
        let query = |user_id| ImRemoveSessionReq { user_id, session_type, session_id: 3, attach_data: None };
        let answer = ImRemoveSessionRsp { user_id: 5, result_code, session_type, session_id: 3, attach_data: None };
        relay(&mut client, &mut world.db, &query(6), &query(5), &answer);
        if result_code == 0 {
            let notice = ImRemoveSessionNotify { user_id: 5, session_type, session_id: 3 };
            assert_eq!(phone.expect(), (0, notice));
            assert_eq!(world.route.expect(), (0, notice));
        }
        phone.expect_nothing();
        client.expect_nothing();
    }
}

#[test]
fn a_session_notice_from_route_reaches_the_user() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let notice = ImRemoveSessionNotify { user_id: 5, session_type: SINGLE, session_id: 3 };
    world.route.send(8, &notice);
    assert_eq!(client.expect(), (0, notice));
}

#[test]
fn without_the_store_a_question_with_a_place_for_it_is_answered_with_a_failure() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    world.db.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    world.server.wait_for("teamtalk_links{peer=\"db-proxy\"}", 0);
    client.send(1, &ImUnreadMsgCntReq { user_id: 5, attach_data: None });
    client.send(2, &ImRemoveSessionReq { user_id: 5, session_type: SINGLE, session_id: 3, attach_data: None });
    let failed =
        ImRemoveSessionRsp { user_id: 5, result_code: 1, session_type: SINGLE, session_id: 3, attach_data: None };
    assert_eq!(client.expect(), (2, failed));
    client.expect_nothing();
}

#[test]
fn an_unknown_session_type_is_ignored() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let session_type = 9;
    client.send(1, &ImGetMsgListReq { session_type, ..ImGetMsgListReq::default() });
    client.send(1, &ImGetMsgByIdReq { session_type, ..ImGetMsgByIdReq::default() });
    client.send(1, &ImGetLatestMsgIdReq { session_type, ..ImGetLatestMsgIdReq::default() });
    client.send(1, &ImRemoveSessionReq { session_type, ..ImRemoveSessionReq::default() });
    world.expect_nothing_at_the_store(&mut client);
}

#[test]
fn an_answer_too_long_for_a_client_comes_in_parts() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    client.send(7, &ImAllUserReq { user_id: 5, latest_update_time: 0, attach_data: None });
    let (seq, query) = world.db.expect::<ImAllUserReq>();
    let user_list: Vec<UserInfo> = (1..=10_000)
        .map(|user_id| UserInfo { sign_info: Some("x".repeat(90)), ..crate::support::card(user_id) })
        .collect();
    let answer = ImAllUserRsp {
        user_id: 5,
        latest_update_time: 99,
        user_list: user_list.clone(),
        attach_data: query.attach_data,
    };
    assert!(pdu::encode(seq, &answer).len() > 3 * MAX_TO_CLIENT);
    world.db.send(seq, &answer);
    let mut got = Vec::new();
    while got.len() < user_list.len() {
        let part = client.next();
        assert!(part.header.seq == 7 && part.header.length as usize <= MAX_TO_CLIENT);
        let part: ImAllUserRsp = part.decode();
        got.extend(part.user_list);
        // Only the last part moves the client's time on.
        let time = if got.len() == user_list.len() { 99 } else { 0 };
        assert_eq!((part.attach_data, part.latest_update_time), (None, time));
    }
    assert_eq!(got, user_list);
    client.expect_nothing();
}

#[test]
fn a_late_answer_for_a_client_that_has_left_is_dropped() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    client.send(1, &ImUnreadMsgCntReq { user_id: 5, attach_data: None });
    let (seq, query) = world.db.expect::<ImUnreadMsgCntReq>();
    drop(client);
    world.expect_left(5, PC);
    let mut again = world.sign_in(5, PC);
    world.db.send(seq, &ImUnreadMsgCntRsp { user_id: 5, attach_data: query.attach_data, ..Default::default() });
    world.expect_nothing_at_the_store(&mut again);
}
