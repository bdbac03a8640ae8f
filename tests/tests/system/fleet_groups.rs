//! Groups whose members are at different msg servers: messages, changes, and what a lost relay had (G4).

use std::time::Duration;

use tt_proto::im::group;
use tt_tests::{Class, Client, PATIENCE, command};

use crate::cluster::Fleet;

fn make(maker: &mut Client, members: &[u32]) -> u32 {
    let request = group::ImGroupCreateReq {
        user_id: 0,
        group_type: 2,
        group_name: "across".to_owned(),
        group_avatar: String::new(),
        member_id_list: members.to_vec(),
        attach_data: None,
    };
    let answer: group::ImGroupCreateRsp =
        maker.request(command::GROUP_CREATE_REQUEST, &request, command::GROUP_CREATE_RESPONSE);
    answer.group_id.expect("a group")
}

fn add(by: &mut Client, group: u32, member: u32) {
    let request = group::ImGroupChangeMemberReq {
        user_id: 0,
        change_type: 1,
        group_id: group,
        member_id_list: vec![member],
        attach_data: None,
    };
    let answer: group::ImGroupChangeMemberRsp =
        by.request(command::GROUP_CHANGE_MEMBER_REQUEST, &request, command::GROUP_CHANGE_MEMBER_RESPONSE);
    assert_eq!((answer.result_code, answer.chg_user_id_list), (0, vec![member]));
}

fn heard(client: &mut Client) -> Vec<u32> {
    let pdus = client.drain();
    pdus.iter().filter(|pdu| pdu.command == command::MSG_DATA).map(|pdu| client.delivered(pdu).id).collect()
}

#[test]
fn g4_groups_span_msg_servers_and_who_joins_late_is_not_shown_what_was_lost_before() {
    let fleet = Fleet::start_proxied(&["ann", "ben", "cid", "dot"]);
    let [a, b, c, d] = [0, 1, 2, 3].map(|person| fleet.people[person].id);
    let mut ann = fleet.sign_in(0, 0, Class::Pc);
    let mut ben = fleet.sign_in(1, 1, Class::Pc);
    let mut cid = fleet.sign_in(2, 1, Class::Pc);
    let mut dot = fleet.sign_in(3, 2, Class::Pc);
    let group = make(&mut ann, &[a, b]);
    assert_eq!(ann.say_to_group(group, "to ben alone"), 1);
    assert_eq!(ben.hear().id, 1);

    // A change made at one server is told at the others, and the next message meets it.
    add(&mut ben, group, d);
    for client in [&mut ann, &mut dot] {
        let notice: group::ImGroupChangeMemberNotify = client.notice(command::GROUP_CHANGE_MEMBER_NOTIFY);
        assert_eq!((notice.user_id, notice.group_id, notice.cur_user_id_list), (b, group, vec![a, b, d]));
    }
    assert_eq!(dot.say_to_group(group, "to ann and ben"), 2);
    assert_eq!((ann.hear().id, ben.hear().id), (2, 2));

    // What the route servers have for ben's server is lost with the links; cid joins after it.
    let proxy = fleet.proxy.as_ref().expect("a proxied fleet");
    let ways = ["msg-1>route-0", "msg-1>route-1"];
    for way in ways {
        proxy.stall(way, PATIENCE);
    }
    for id in 3..=5 {
        assert_eq!(ann.say_to_group(group, "lost on the way"), id);
        assert_eq!(dot.hear().id, id);
    }
    add(&mut ann, group, c);
    for way in ways {
        assert_eq!(proxy.cut(way, Duration::ZERO), 1, "it was up");
        proxy.stall(way, Duration::ZERO);
    }
    for id in 3..=5 {
        assert_eq!(ben.hear().id, id, "fetched from the store, in order");
    }
    fleet.wait_links(1, "route", 2);
    assert_eq!(dot.say_to_group(group, "to all"), 6);
    for client in [&mut ann, &mut ben, &mut cid] {
        assert_eq!(client.hear().id, 6);
    }
    for client in [&mut ann, &mut ben, &mut cid, &mut dot] {
        assert!(heard(client).is_empty(), "nothing twice, and nothing from before the joining");
    }
    assert_eq!(fleet.metric("msg-1", "teamtalk_messages_recovered_total"), 3);
    let seen: Vec<u32> = cid.group_history(group, 0, 10).iter().map(|message| message.id).collect();
    assert_eq!(seen, [6]);
}
