//! G4: what a relay between servers loses is fetched and delivered in order.

use bytes::Bytes;
use tt_proto::im::base_define::{ContactSessionInfo, MsgInfo, MsgType};
use tt_proto::im::buddy::{
    ImRecentContactSessionReq, ImRecentContactSessionRsp, ImUserStatNotify, ImUsersStatReq, ImUsersStatRsp,
};
use tt_proto::im::message::{ImGetMsgByIdReq, ImGetMsgByIdRsp, ImMsgData, ImMsgDataAck};
use tt_proto::im::server::{ImOnlineUserInfo, ImRoleSet};

use crate::support::{PC, Wire, World, text};

/// A message from user 1 to user 2 as another msg server relays it.
fn relay(msg_id: u32) -> ImMsgData {
    ImMsgData { from_user_id: 1, msg_id, create_time: now(), ..text(2, &format!("text {msg_id}")) }
}

fn now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    since.as_secs() as u32
}

/// The store's answer to a question for messages between users 1 and 2.
fn answer(db: &mut Wire, create_time: u32) -> Vec<u32> {
    answer_newest(db, create_time, usize::MAX)
}

/// An answer that has room for so many.
fn answer_newest(db: &mut Wire, create_time: u32, room: usize) -> Vec<u32> {
    let (seq, query) = db.expect::<ImGetMsgByIdReq>();
    let mut ids = query.msg_id_list.clone();
    ids.sort_unstable();
    let row = |id: &u32| MsgInfo {
        msg_id: *id,
        from_session_id: 1,
        create_time,
        msg_type: MsgType::MsgTypeSingleText.into(),
        msg_data: Bytes::from(format!("text {id}")),
    };
    let answer = ImGetMsgByIdRsp {
        user_id: query.user_id,
        session_type: query.session_type,
        session_id: query.session_id,
        msg_list: ids.iter().rev().take(room).map(row).collect(),
        attach_data: query.attach_data,
    };
    db.send(seq, &answer);
    ids
}

fn hears(client: &mut Wire, msg_id: u32) {
    let (seq, message) = client.expect::<ImMsgData>();
    assert_eq!((seq, message.msg_id, message.from_user_id, message.to_session_id), (0, msg_id, 1, 2));
    assert_eq!(message.msg_data, format!("text {msg_id}").as_bytes());
}

#[test]
fn g4_missing_messages_are_fetched_and_come_in_order() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(5));
    world.nothing_before();
    hears(&mut client, 5);
    // 6 and 7 were lost; 8 and 9 wait for them.
    world.route.send(0, &relay(8));
    world.route.send(0, &relay(9));
    assert_eq!(answer(&mut world.db, now()), [6, 7]);
    for id in 6..=9 {
        hears(&mut client, id);
    }
    // The lost ones after all: everybody has them.
    world.route.send(0, &relay(7));
    client.expect_nothing();
    assert_eq!(world.server.metric("teamtalk_messages_recovered_total"), 2);
}

/// A few recordings fill an answer; the older ones are in the next.
#[test]
fn g4_what_one_answer_has_no_room_for_is_asked_for_again() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(5));
    world.nothing_before();
    hears(&mut client, 5);
    world.route.send(0, &relay(9));
    assert_eq!(answer_newest(&mut world.db, now(), 1), [6, 7, 8]);
    assert_eq!(answer_newest(&mut world.db, now(), 1), [6, 7]);
    assert_eq!(answer_newest(&mut world.db, now(), 1), [6]);
    for id in 6..=9 {
        hears(&mut client, id);
    }
    assert_eq!(world.server.metric("teamtalk_messages_recovered_total"), 3);
}

#[test]
fn g4_messages_that_only_come_in_another_order_are_not_fetched() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    for id in [1, 3, 2, 4] {
        world.route.send(0, &relay(id));
    }
    for id in 1..=4 {
        hears(&mut client, id);
    }
    world.expect_nothing_at_the_store(&mut client);
    assert_eq!(world.server.metric("teamtalk_gaps_total"), 1);
}

/// Two servers store the first messages of a conversation at once: nothing is known here that would show a gap.
#[test]
fn g3_the_first_messages_of_a_conversation_come_in_order_too() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    for id in [3, 4, 1, 2, 5] {
        world.route.send(0, &relay(id));
    }
    for id in 1..=5 {
        hears(&mut client, id);
    }
    world.expect_nothing_at_the_store(&mut client);
}

/// A server that has just started remembers nothing: what was sent before somebody signed in here is not for him,
/// what was sent since then passed him by.
#[test]
fn g4_what_came_before_the_first_message_is_looked_for() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(30));
    assert_eq!(answer_newest(&mut world.db, now(), 2), (14..30).collect::<Vec<_>>());
    assert_eq!(answer(&mut world.db, now() - 60), (14..28).collect::<Vec<_>>());
    for id in 28..=30 {
        hears(&mut client, id);
    }
    // A server whose route server died relays its last messages again.
    for id in [12, 13, 20, 29, 31] {
        world.route.send(0, &relay(id));
    }
    hears(&mut client, 31);
    client.expect_nothing();
}

/// Two sides talk at once, and what one of them says comes late: all of it has passed the other one by.
#[test]
fn g4_what_came_before_the_first_message_is_looked_for_as_far_back_as_it_is_new() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(150));
    assert_eq!(answer(&mut world.db, now()), (134..150).collect::<Vec<_>>());
    client.expect_nothing();
    // Too late for the window of ids that are remembered: the store's copy will do.
    world.route.send(0, &relay(40));
    assert_eq!(answer(&mut world.db, now()), (34..134).collect::<Vec<_>>());
    // Before the sign-in.
    assert_eq!(answer(&mut world.db, now() - 30), (1..34).collect::<Vec<_>>());
    for id in 34..=150 {
        hears(&mut client, id);
    }
    client.expect_nothing();
    world.expect_nothing_at_the_store(&mut client);
}

/// What turns out to be missing while the store is asked is asked for next.
#[test]
fn g4_a_gap_that_shows_while_another_is_filled_is_filled_too() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(1));
    hears(&mut client, 1);
    world.route.send(0, &relay(3));
    let (seq, query) = world.db.expect::<ImGetMsgByIdReq>();
    assert_eq!(query.msg_id_list, [2]);
    world.route.send(0, &relay(5));
    // It is there before the answer is: the client's question comes back behind it.
    client.expect_nothing();
    let row = MsgInfo {
        msg_id: 2,
        from_session_id: 1,
        create_time: now(),
        msg_type: MsgType::MsgTypeSingleText.into(),
        msg_data: Bytes::from("text 2"),
    };
    let found = ImGetMsgByIdRsp {
        user_id: query.user_id,
        session_type: query.session_type,
        session_id: query.session_id,
        msg_list: vec![row],
        attach_data: query.attach_data,
    };
    world.db.send(seq, &found);
    assert_eq!(answer(&mut world.db, now()), [4]);
    for id in 2..=5 {
        hears(&mut client, id);
    }
}

#[test]
fn g4_what_the_store_does_not_have_holds_nothing_up() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(1));
    hears(&mut client, 1);
    world.route.send(0, &relay(4));
    let (seq, query) = world.db.expect::<ImGetMsgByIdReq>();
    let empty = ImGetMsgByIdRsp { attach_data: query.attach_data, session_type: 1, ..ImGetMsgByIdRsp::default() };
    world.db.send(seq, &empty);
    hears(&mut client, 4);
}

#[test]
fn g4_a_device_that_came_later_is_not_told_old_news() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(1));
    hears(&mut client, 1);
    world.route.send(0, &relay(3));
    assert_eq!(answer(&mut world.db, now() - 60), [2], "sent a minute before the sign-in");
    hears(&mut client, 3);
}

#[test]
fn g4_after_a_route_link_has_returned_recent_sessions_are_looked_through() {
    let mut world = World::new();
    let mut client = world.sign_in(2, PC);
    world.route.send(0, &relay(5));
    world.nothing_before();
    hears(&mut client, 5);
    world.route.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    world.route = world.peers.route.accept();
    world.route.expect::<ImRoleSet>();
    world.route.expect::<ImOnlineUserInfo>();
    // Nothing is looked for before the route server has noted who is here.
    let (seq, fence) = world.route.expect::<ImUsersStatReq>();
    world.expect_nothing_at_the_store(&mut client);
    world.route.send(seq, &ImUsersStatRsp { attach_data: fence.attach_data, ..ImUsersStatRsp::default() });
    let (seq, query) = world.db.expect::<ImRecentContactSessionReq>();
    assert_eq!(query.user_id, 2);
    assert!(query.latest_update_time < now(), "from before the loss on");
    let session = |session_id, latest_msg_id| ContactSessionInfo {
        session_id,
        session_type: 1,
        updated_time: now(),
        latest_msg_id,
        latest_msg_type: MsgType::MsgTypeSingleText.into(),
        ..ContactSessionInfo::default()
    };
    let sessions = ImRecentContactSessionRsp {
        user_id: 2,
        contact_session_list: vec![session(1, 7)],
        attach_data: query.attach_data,
    };
    world.db.send(seq, &sessions);
    assert_eq!(answer(&mut world.db, now()), [6, 7]);
    hears(&mut client, 6);
    hears(&mut client, 7);
    client.expect_nothing();
}

#[test]
fn g4_a_new_master_gets_what_the_dead_one_may_not_have_passed_on() {
    let mut world = World::new();
    let mut client = world.sign_in(1, PC);
    client.send(7, &text(2, "text 1"));
    world.store(1);
    assert_eq!(client.expect::<ImMsgDataAck>().1.msg_id, 1);
    hears(&mut world.route, 1);
    world.route.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    world.route = world.peers.route.accept();
    world.route.expect::<ImRoleSet>();
    hears(&mut world.route, 1);
    world.route.expect::<ImOnlineUserInfo>();
    world.route.send(0, &ImUserStatNotify::default());
}
