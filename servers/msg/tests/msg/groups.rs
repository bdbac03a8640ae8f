//! Groups: their commands, the notices of a change, and a message's way to the members.

use bytes::Bytes;
use tt_proto::im::base_define::{
    GroupInfo, GroupModifyType, GroupType, GroupVersionInfo, MsgType, SessionType, UserStat,
};
use tt_proto::im::buddy::{ImUsersStatReq, ImUsersStatRsp};
use tt_proto::im::group::{
    ImGroupChangeMemberNotify, ImGroupChangeMemberReq, ImGroupChangeMemberRsp, ImGroupCreateReq, ImGroupCreateRsp,
    ImGroupInfoListReq, ImGroupInfoListRsp, ImGroupShieldReq, ImGroupShieldRsp, ImNormalGroupListReq,
    ImNormalGroupListRsp,
};
use tt_proto::im::message::{
    ImGetLatestMsgIdReq, ImGetLatestMsgIdRsp, ImMsgData, ImMsgDataAck, ImMsgDataReadAck, ImMsgDataReadNotify,
};
use tt_proto::im::server::ImServerKickUser;

use crate::questions::relay;
use crate::support::{PC, PHONE, Wire, World, text};

const GROUP: u32 = 9;
const ADD: i32 = GroupModifyType::GroupModifyTypeAdd as i32;
const DEL: i32 = GroupModifyType::GroupModifyTypeDel as i32;

fn say(data: &str) -> ImMsgData {
    ImMsgData { msg_type: MsgType::MsgTypeGroupText.into(), ..text(GROUP, data) }
}

fn ack(from: u32, msg_id: u32) -> ImMsgDataAck {
    let session_type = SessionType::SessionTypeGroup.into();
    ImMsgDataAck { user_id: from, session_id: GROUP, msg_id, session_type, result: None }
}

impl World {
    /// The store takes a message that met this version of the membership.
    fn store_in_group(&mut self, msg_id: u32, version: Option<u32>) {
        let (seq, message) = self.db.expect::<ImMsgData>();
        assert_eq!(message.group_version, None, "the store says it, not the client");
        self.db.send(seq, &ImMsgData { msg_id, group_version: version, ..message });
    }

    /// The server asks who is in the group.
    fn members_question(&mut self) -> ImGroupInfoListReq {
        let (seq, question) = self.db.expect::<ImGroupInfoListReq>();
        let wanted = GroupVersionInfo { group_id: GROUP, version: 0 };
        assert_eq!((seq, question.user_id, &question.group_version_list[..]), (0, 0, &[wanted][..]));
        question
    }

    fn answer(&mut self, question: ImGroupInfoListReq, version: u32, members: &[u32]) {
        self.db.send(0, &cards(0, version, members, question.attach_data));
    }

    fn answer_members(&mut self, version: u32, members: &[u32]) {
        let question = self.members_question();
        self.answer(question, version, members);
    }

    /// Route's next message for the other servers.
    fn relayed(&mut self) -> ImMsgData {
        self.route.expect::<ImMsgData>().1
    }
}

fn cards(user_id: u32, version: u32, members: &[u32], attach_data: Option<Bytes>) -> ImGroupInfoListRsp {
    let card = GroupInfo {
        group_id: GROUP,
        version,
        group_type: GroupType::GroupTypeTmp.into(),
        group_member_list: members.to_vec(),
        ..GroupInfo::default()
    };
    ImGroupInfoListRsp { user_id, group_info_list: vec![card], attach_data }
}

fn received(client: &mut Wire) -> (u16, u32, Bytes) {
    let (seq, message) = client.expect::<ImMsgData>();
    assert_eq!((message.attach_data, message.client_msg_id, message.group_version), (None, None, None));
    assert_eq!(message.to_session_id, GROUP);
    (seq, message.msg_id, message.msg_data)
}

#[test]
fn each_group_question_goes_to_the_store_under_the_clients_own_id() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let (c, db) = (&mut client, &mut world.db);
    let list = |user_id| ImNormalGroupListReq { user_id, attach_data: None };
    let group_version_list = vec![GroupVersionInfo { group_id: GROUP, version: 3 }];
    let answer = ImNormalGroupListRsp { user_id: 5, group_version_list: group_version_list.clone(), attach_data: None };
    relay(c, db, &list(0), &list(5), &answer);
    let info =
        |user_id| ImGroupInfoListReq { user_id, group_version_list: group_version_list.clone(), attach_data: None };
    relay(c, db, &info(0), &info(5), &cards(5, 4, &[5, 6], None));
    let create = |user_id| ImGroupCreateReq {
        user_id,
        group_type: GroupType::GroupTypeTmp.into(),
        group_name: "name".to_owned(),
        group_avatar: String::new(),
        member_id_list: vec![5, 6],
        attach_data: None,
    };
    let answer = ImGroupCreateRsp {
        user_id: 5,
        result_code: 0,
        group_id: Some(GROUP),
        group_name: "name".to_owned(),
        user_id_list: vec![5, 6],
        attach_data: None,
    };
    relay(c, db, &create(0), &create(5), &answer);
    let shield = |user_id| ImGroupShieldReq { user_id, group_id: GROUP, shield_status: 1, attach_data: None };
    let answer = ImGroupShieldRsp { user_id: 5, group_id: GROUP, result_code: 0, attach_data: None };
    relay(c, db, &shield(0), &shield(5), &answer);
    let session_type = SessionType::SessionTypeGroup.into();
    let latest = |user_id| ImGetLatestMsgIdReq { user_id, session_type, session_id: GROUP, attach_data: None };
    let answer =
        ImGetLatestMsgIdRsp { user_id: 5, session_type, session_id: GROUP, latest_msg_id: 8, attach_data: None };
    relay(c, db, &latest(0), &latest(5), &answer);
}

#[test]
fn a_client_makes_no_fixed_group_and_wrong_numbers_are_ignored() {
    let mut world = World::new();
    let mut client = world.sign_in(5, PC);
    let fixed = GroupType::GroupTypeNormal.into();
    client.send(3, &ImGroupCreateReq { group_type: fixed, group_name: "x".into(), ..ImGroupCreateReq::default() });
    let (seq, answer) = client.expect::<ImGroupCreateRsp>();
    assert_eq!((seq, answer.user_id, answer.result_code, answer.group_id), (3, 5, 1, None));
    client.send(4, &ImGroupCreateReq { group_type: 3, ..ImGroupCreateReq::default() });
    client.send(5, &ImGroupChangeMemberReq { change_type: 3, ..ImGroupChangeMemberReq::default() });
    world.expect_nothing_at_the_store(&mut client);
}

fn change(user_id: u32, change_type: i32, members: &[u32]) -> ImGroupChangeMemberReq {
    let member_id_list = members.to_vec();
    ImGroupChangeMemberReq { user_id, change_type, group_id: GROUP, member_id_list, attach_data: None }
}

#[test]
fn a_change_is_told_to_old_and_new_members_once_and_to_the_other_servers() {
    let mut world = World::new();
    let mut asker = world.sign_in(1, PC);
    let mut own_phone = world.sign_in(1, PHONE);
    let mut gone = world.sign_in(2, PC);
    let mut stays = world.sign_in(3, PC);
    let mut stranger = world.sign_in(4, PC);
    asker.send(7, &change(77, DEL, &[2]));
    let (seq, heard) = world.db.expect::<ImGroupChangeMemberReq>();
    assert_eq!((seq, heard.user_id), (7, 1));
    let answer = ImGroupChangeMemberRsp {
        user_id: 1,
        change_type: DEL,
        result_code: 0,
        group_id: GROUP,
        cur_user_id_list: vec![1, 3],
        chg_user_id_list: vec![2],
        attach_data: heard.attach_data,
    };
    world.db.send(seq, &answer);
    assert_eq!(asker.expect(), (7, ImGroupChangeMemberRsp { attach_data: None, ..answer }));
    let notice = ImGroupChangeMemberNotify {
        user_id: 1,
        change_type: DEL,
        group_id: GROUP,
        cur_user_id_list: vec![1, 3],
        chg_user_id_list: vec![2],
    };
    for client in [&mut own_phone, &mut gone, &mut stays] {
        assert_eq!(client.expect(), (0, notice.clone()));
    }
    assert_eq!(world.route.expect(), (0, notice));
    for client in [&mut asker, &mut own_phone, &mut gone, &mut stays, &mut stranger] {
        client.expect_nothing();
    }
}

#[test]
fn a_change_that_is_refused_is_told_to_the_asker_alone() {
    let mut world = World::new();
    let mut asker = world.sign_in(1, PC);
    let mut other = world.sign_in(2, PC);
    asker.send(7, &change(1, ADD, &[2]));
    let (seq, heard) = world.db.expect::<ImGroupChangeMemberReq>();
    let refusal = ImGroupChangeMemberRsp {
        user_id: 1,
        change_type: ADD,
        result_code: 1,
        group_id: GROUP,
        attach_data: heard.attach_data,
        ..ImGroupChangeMemberRsp::default()
    };
    world.db.send(seq, &refusal);
    assert_eq!(asker.expect(), (7, ImGroupChangeMemberRsp { attach_data: None, ..refusal }));
    other.expect_nothing();
    // Nothing went to route before this question.
    asker.send(8, &ImUsersStatReq { user_id_list: vec![2], ..ImUsersStatReq::default() });
    let (seq, query) = world.route.expect::<ImUsersStatReq>();
    let user_stat_list = vec![UserStat { user_id: 2, status: 1, ..UserStat::default() }];
    world.route.send(seq, &ImUsersStatRsp { user_id: 1, user_stat_list, attach_data: query.attach_data });
    assert_eq!(asker.expect::<ImUsersStatRsp>().0, 8);
}

#[test]
fn a_notice_of_another_server_reaches_each_connection_once() {
    let mut world = World::new();
    let mut pc = world.sign_in(1, PC);
    let mut phone = world.sign_in(1, PHONE);
    let mut stranger = world.sign_in(2, PC);
    // An added member is in both lists.
    let notice = ImGroupChangeMemberNotify {
        user_id: 0,
        change_type: ADD,
        group_id: GROUP,
        cur_user_id_list: vec![1, 50],
        chg_user_id_list: vec![1],
    };
    world.route.send(66, &notice);
    for client in [&mut pc, &mut phone] {
        assert_eq!(client.expect(), (0, notice.clone()));
        client.expect_nothing();
    }
    stranger.expect_nothing();
}

#[test]
fn a_message_reaches_all_members_but_the_connection_that_sent_it() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut own_phone = world.sign_in(1, PHONE);
    let mut member = world.sign_in(2, PC);
    let mut stranger = world.sign_in(3, PC);
    sender.send(5, &say("hi"));
    world.store_in_group(1, Some(1));
    assert_eq!(sender.expect(), (5, ack(1, 1)));
    let relayed = world.relayed();
    assert_eq!((relayed.msg_id, relayed.group_version), (1, Some(1)));
    assert_eq!((relayed.attach_data, relayed.client_msg_id), (None, None));
    world.answer_members(1, &[1, 2, 40]);
    for client in [&mut own_phone, &mut member] {
        assert_eq!(received(client), (0, 1, Bytes::from("hi")));
    }
    // A receipt for it is of no use, and does no harm.
    member.send(9, &ack(2, 1));
    for client in [&mut sender, &mut own_phone, &mut member, &mut stranger] {
        client.expect_nothing();
    }
}

#[test]
fn members_are_asked_for_once_for_each_version_of_the_membership() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut member = world.sign_in(2, PC);
    let mut later = world.sign_in(3, PC);
    let mut say_and_store = |world: &mut World, msg_id: u32, version| {
        sender.send(5, &say(&format!("{msg_id}")));
        world.store_in_group(msg_id, version);
        assert_eq!(sender.expect(), (5, ack(1, msg_id)));
        world.relayed();
    };
    say_and_store(&mut world, 1, Some(1));
    let question = world.members_question();
    say_and_store(&mut world, 2, Some(1)); // nobody is asked again meanwhile
    world.answer(question, 1, &[1, 2]);
    say_and_store(&mut world, 3, Some(1)); // nobody is asked: the store sees the next message first
    for msg_id in 1..=3 {
        assert_eq!(received(&mut member).1, msg_id);
    }
    say_and_store(&mut world, 4, Some(2));
    world.answer_members(2, &[1, 3]);
    assert_eq!(received(&mut later).1, 4);
    member.expect_nothing();
    // A store that says no version is asked each time.
    for msg_id in [5, 6] {
        say_and_store(&mut world, msg_id, None);
        world.answer_members(3, &[1, 2, 3]);
        assert_eq!((received(&mut member).1, received(&mut later).1), (msg_id, msg_id));
    }
}

#[test]
fn a_message_that_meets_a_later_membership_waits_for_it_in_order() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut member = world.sign_in(2, PC);
    let mut question = None;
    for (msg_id, version) in [(1, 1), (2, 2), (3, 2)] {
        sender.send(5, &say("x"));
        world.store_in_group(msg_id, Some(version));
        sender.expect::<ImMsgDataAck>();
        world.relayed();
        question = question.or_else(|| Some(world.members_question()));
    }
    world.answer(question.expect("asked with the first"), 1, &[1]);
    world.answer_members(2, &[1, 2]);
    assert_eq!((received(&mut member).1, received(&mut member).1), (2, 3));
    member.expect_nothing();
}

#[test]
fn a_message_of_another_server_is_delivered_once() {
    let mut world = World::new();
    let mut pc = world.sign_in(1, PC);
    let mut phone = world.sign_in(1, PHONE);
    let relayed = ImMsgData { from_user_id: 1, msg_id: 4, group_version: Some(1), ..say("hi") };
    world.route.send(44, &relayed);
    world.nothing_before();
    world.answer_members(1, &[1]);
    for client in [&mut pc, &mut phone] {
        assert_eq!(received(client), (0, 4, Bytes::from("hi")));
    }
    world.route.send(45, &relayed);
    world.server.wait_for("teamtalk_messages_repeated_total", 1);
    pc.expect_nothing();
}

#[test]
fn a_group_that_is_gone_and_a_store_without_answer_lose_no_later_message() {
    let mut world = World::with(|config| config.timeouts.call_ms = 300);
    let mut member = world.sign_in(1, PC);
    let relayed = |msg_id| ImMsgData { from_user_id: 50, msg_id, group_version: Some(1), ..say("hi") };
    world.route.send(44, &relayed(1));
    let (seq, question) = world.db.expect::<ImGroupInfoListReq>();
    world.db.send(seq, &ImGroupInfoListRsp { user_id: 0, group_info_list: vec![], attach_data: question.attach_data });
    world.server.wait_for("teamtalk_group_messages_missed_total", 1);
    world.route.send(44, &relayed(2));
    world.db.expect::<ImGroupInfoListReq>(); // no answer
    world.answer_members(1, &[1]); // it is asked again
    assert_eq!(received(&mut member).1, 2);
    member.expect_nothing();
}

#[test]
fn a_read_group_is_told_to_the_readers_other_devices() {
    let mut world = World::new();
    let mut pc = world.sign_in(1, PC);
    let mut phone = world.sign_in(1, PHONE);
    let session_type = SessionType::SessionTypeGroup.into();
    pc.send(3, &ImMsgDataReadAck { user_id: 9, session_id: GROUP, msg_id: 4, session_type, exact: None });
    assert_eq!(world.db.expect::<ImMsgDataReadAck>().1.user_id, 1);
    let notice = ImMsgDataReadNotify { user_id: 1, session_id: GROUP, msg_id: 4, session_type };
    assert_eq!(phone.expect(), (0, notice));
    assert_eq!(world.route.expect(), (0, notice));
    pc.expect_nothing();
}

#[test]
fn a_kicked_device_gets_no_group_messages() {
    let mut world = World::new();
    let mut pc = world.sign_in(1, PC);
    world
        .route
        .send(0, &ImServerKickUser { user_id: 1, client_type: PC as i32, reason: 1, ..ImServerKickUser::default() });
    world.route.send(0, &ImMsgData { from_user_id: 2, msg_id: 4, group_version: Some(1), ..say("hi") });
    world.nothing_before();
    world.answer_members(1, &[1]);
    assert!(pc.pdu().is_some_and(|kick| kick.header.command == 0x010f_u16 || kick.header.command >> 8 == 1));
    pc.expect_closed();
}
