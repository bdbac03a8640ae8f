//! Groups, with real processes: made, talked in, changed, read, left.

use tt_proto::im::base_define::GroupVersionInfo;
use tt_proto::im::{buddy, group, message};
use tt_tests::{Account, Class, Client, Dev, Home, Message, binaries, command, run_with_input};

const ADD: i32 = 1;
const DEL: i32 = 2;

/// The third person; alice and bob are there from the beginning.
fn carol(home: &Home, dev: &Dev) -> Client {
    let data = home.data().to_str().expect("UTF-8");
    let exit = run_with_input(&binaries().teamtalk, &["user", "add", "carol", "--data", data], "password\n");
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let mut client = dev.connect();
    let answer = client.login("carol", "password", Class::Pc);
    client.user_id = answer.user_info.expect("a card").user_id;
    client
}

fn seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn create(client: &mut Client, members: &[u32]) -> group::ImGroupCreateRsp {
    let request = group::ImGroupCreateReq {
        user_id: 4711, // whose it is says the connection
        group_type: 2,
        group_name: "friends".to_owned(),
        group_avatar: String::new(),
        member_id_list: members.to_vec(),
        ..Default::default()
    };
    client.request(command::GROUP_CREATE_REQUEST, &request, command::GROUP_CREATE_RESPONSE)
}

fn made(client: &mut Client, members: &[u32]) -> u32 {
    let answer = create(client, members);
    assert_eq!((answer.user_id, answer.result_code), (client.user_id, 0), "{answer:?}");
    answer.group_id.expect("an id")
}

fn change(client: &mut Client, kind: i32, group_id: u32, members: &[u32]) -> group::ImGroupChangeMemberRsp {
    let request = group::ImGroupChangeMemberReq {
        user_id: 0,
        change_type: kind,
        group_id,
        member_id_list: members.to_vec(),
        ..Default::default()
    };
    client.request(command::GROUP_CHANGE_MEMBER_REQUEST, &request, command::GROUP_CHANGE_MEMBER_RESPONSE)
}

fn cards(client: &mut Client, group_id: u32, version: u32) -> group::ImGroupInfoListRsp {
    let group_version_list = vec![GroupVersionInfo { group_id, version }];
    let request = group::ImGroupInfoListReq { user_id: 0, group_version_list, ..Default::default() };
    client.request(command::GROUP_INFO_REQUEST, &request, command::GROUP_INFO_RESPONSE)
}

fn unread(client: &mut Client, group: u32) -> u32 {
    let request = message::ImUnreadMsgCntReq { user_id: 0, ..Default::default() };
    let answer: message::ImUnreadMsgCntRsp =
        client.request(command::UNREAD_CNT_REQUEST, &request, command::UNREAD_CNT_RESPONSE);
    let row = answer.unreadinfo_list.iter().find(|row| (row.session_type, row.session_id) == (2, group));
    row.map_or(0, |row| row.unread_cnt)
}

fn is_listed(client: &mut Client, group: u32) -> bool {
    let request = buddy::ImRecentContactSessionReq { user_id: 0, ..Default::default() };
    let answer: buddy::ImRecentContactSessionRsp =
        client.request(command::RECENT_SESSION_REQUEST, &request, command::RECENT_SESSION_RESPONSE);
    answer.contact_session_list.iter().any(|row| (row.session_type, row.session_id) == (2, group))
}

fn ids(client: &mut Client, group: u32) -> Vec<u32> {
    client.group_history(group, 0, 100).iter().map(|message| message.id).collect()
}

/// Messages, and what belongs to groups, that came and was not taken: presence is another matter.
fn left_over(client: &mut Client) -> usize {
    client.drain().iter().filter(|pdu| pdu.command == command::MSG_DATA || pdu.command >> 8 == 4).count()
}

fn changes(client: &mut Client) -> usize {
    client.drain().iter().filter(|pdu| pdu.command == command::GROUP_CHANGE_MEMBER_NOTIFY).count()
}

#[test]
fn three_people_talk_in_a_group_on_all_their_devices() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let mut carol = carol(&home, &dev);
    let mut alices_phone = dev.sign_in("alice", Class::Mobile);
    let mut bobs_phone = dev.sign_in("bob", Class::Mobile);
    let members = [alice.user_id, bob.user_id, carol.user_id];
    let group = made(&mut alice, &members);
    assert!(!is_listed(&mut bob, group), "nobody is told of a group without a message");

    for number in 1..=20 {
        let id = alice.say_to_group(group, &number.to_string());
        assert_eq!(id, number);
        for device in [&mut alices_phone, &mut bob, &mut bobs_phone, &mut carol] {
            let text = number.to_string();
            assert_eq!(device.hear(), Message { id, from: alice.user_id, text });
        }
    }
    assert_eq!(bob.say_to_group(group, "from bob"), 21);
    for device in [&mut alice, &mut carol] {
        assert_eq!((device.hear().id, left_over(device)), (21, 0), "each message once");
    }
    let newest_first: Vec<u32> = (1..=21).rev().collect();
    assert_eq!(ids(&mut carol, group), newest_first);
    for (device, count) in [(&mut alice, 1), (&mut bob, 20), (&mut carol, 21)] {
        assert!(is_listed(device, group), "on everybody's list at once");
        assert_eq!(unread(device, group), count);
    }
    let read =
        message::ImMsgDataReadAck { user_id: bob.user_id, session_id: group, msg_id: 21, session_type: 2, exact: None };
    bob.send(command::MSG_READ_ACK, &read);
    let notice: message::ImMsgDataReadNotify = bobs_phone.notice(command::MSG_READ_NOTIFY);
    assert_eq!((notice.session_id, notice.session_type, notice.msg_id), (group, 2, 21));
    assert_eq!((unread(&mut bob, group), unread(&mut carol, group)), (0, 21));
}

#[test]
fn members_come_and_go_and_everybody_concerned_is_told_once() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let mut carol = carol(&home, &dev);
    let mut alices_phone = dev.sign_in("alice", Class::Mobile);
    let (a, b, c) = (alice.user_id, bob.user_id, carol.user_id);
    let group = made(&mut alice, &[a, b]);
    alice.say_to_group(group, "before carol");

    assert_eq!(change(&mut carol, ADD, group, &[c]).result_code, 1, "not by somebody who is not in it");
    let added = change(&mut bob, ADD, group, &[c]);
    assert_eq!((added.result_code, added.cur_user_id_list, added.chg_user_id_list), (0, vec![a, b, c], vec![c]));
    let notice: group::ImGroupChangeMemberNotify = carol.notice(command::GROUP_CHANGE_MEMBER_NOTIFY);
    assert_eq!((notice.user_id, notice.change_type, notice.group_id), (b, ADD, group));
    assert_eq!((notice.cur_user_id_list, notice.chg_user_id_list), (vec![a, b, c], vec![c]));
    for (client, count) in [(&mut alice, 1), (&mut alices_phone, 1), (&mut bob, 0), (&mut carol, 0)] {
        assert_eq!(changes(client), count);
    }
    let card = &cards(&mut carol, group, 1).group_info_list[0];
    assert_eq!((card.version, card.group_creator_id, card.group_type), (2, a, 2));
    assert_eq!(cards(&mut carol, group, 2).group_info_list, []);

    alice.say_to_group(group, "with carol");
    assert_eq!(carol.hear().id, 2);
    assert_eq!((ids(&mut carol, group), ids(&mut bob, group)), (vec![2], vec![2, 1]), "from the joining on");

    assert_eq!(change(&mut bob, DEL, group, &[c]).result_code, 1, "only the creator removes others");
    assert_eq!(change(&mut carol, DEL, group, &[c]).result_code, 0, "leaving is removing oneself");
    assert_eq!((changes(&mut alice), changes(&mut bob), changes(&mut carol)), (1, 1, 0));
    alice.say_to_group(group, "without carol");
    assert_eq!((ids(&mut carol, group), left_over(&mut carol)), (vec![], 0));
    assert!(!is_listed(&mut carol, group) && cards(&mut carol, group, 0).group_info_list.is_empty());
    // From a device that is told so, lest it comes after the next change.
    let account = Account { id: c, name: "carol".to_owned(), password: "password".to_owned() };
    let mut phone = Client::sign_in_with(dev.address("msg"), &account, Class::Mobile, Some(0b10));
    let outside = message::ImMsgData { msg_type: 17, ..phone.text_message(group, "let me in") };
    let refusal: message::ImMsgDataAck = phone.request(command::MSG_DATA, &outside, command::MSG_DATA_ACK);
    assert_eq!(refusal.msg_id, 0);

    assert_eq!(change(&mut alice, ADD, group, &[c]).result_code, 0);
    alice.say_to_group(group, "with carol again");
    carol.notice::<group::ImGroupChangeMemberNotify>(command::GROUP_CHANGE_MEMBER_NOTIFY);
    assert_eq!(carol.hear().id, 4, "what carol said from outside has no number");
    assert_eq!((ids(&mut carol, group), unread(&mut carol, group)), (vec![4], 1));
}

#[test]
fn muting_is_kept_and_groups_outlive_a_kill() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, bob) = dev.alice_and_bob();
    let members = [alice.user_id, bob.user_id];
    let group = made(&mut alice, &members);
    let id = alice.say_to_group(group, "kept");
    let shield = group::ImGroupShieldReq { user_id: 0, group_id: group, shield_status: 1, ..Default::default() };
    let answer: group::ImGroupShieldRsp =
        alice.request(command::GROUP_SHIELD_REQUEST, &shield, command::GROUP_SHIELD_RESPONSE);
    assert_eq!((answer.group_id, answer.result_code), (group, 0));
    dev.server.kill_9();

    // Messages have times in seconds: one of the very second of a sign-in is shown to be safe (G4).
    let kept_in = seconds();
    while seconds() == kept_in {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    assert_eq!(bob.group_history(group, 0, 10)[0].text, "kept");
    assert_eq!(cards(&mut alice, group, 0).group_info_list[0].shield_status, 1);
    assert_eq!(cards(&mut bob, group, 0).group_info_list[0].shield_status, 0);
    assert_eq!(bob.say_to_group(group, "still here"), id + 1);
    assert_eq!(alice.hear().id, id + 1);
}

#[test]
fn an_operator_makes_fixed_groups_that_members_cannot_change() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let data = home.data().to_str().expect("UTF-8");
    let group = |arguments: &[&str]| {
        let all = [&["group"], arguments, &["--data", data]].concat();
        run_with_input(&binaries().teamtalk, &all, "")
    };
    let made = group(&["create", "everybody", "alice", "bob"]);
    assert_eq!((made.code, made.stdout.as_str()), (Some(0), "everybody is group #1\n"), "{made:?}");
    let request = group::ImNormalGroupListReq { user_id: 0, ..Default::default() };
    let list: group::ImNormalGroupListRsp =
        bob.request(command::GROUP_LIST_REQUEST, &request, command::GROUP_LIST_RESPONSE);
    assert_eq!(list.group_version_list, [GroupVersionInfo { group_id: 1, version: 1 }]);
    assert_eq!(alice.say_to_group(1, "hello"), 1);
    assert_eq!(bob.hear().id, 1);
    let me = alice.user_id;
    assert_eq!(change(&mut alice, DEL, 1, &[me]).result_code, 1, "not even oneself");

    assert_eq!(group(&["remove", "1", "bob"]).code, Some(0));
    // The running system sees it with the next message.
    alice.say_to_group(1, "without bob");
    assert_eq!(left_over(&mut bob), 0);
    let listed = group(&["list"]);
    assert!(listed.stdout.contains("everybody") && listed.stdout.contains("fixed"), "{listed:?}");
    for wrong in [&["add", "99", "bob"], &["add", "1", "nobody"], &["add", "1", "alice"]] {
        assert_eq!(group(wrong).code, Some(7), "{wrong:?}");
    }
}

#[test]
fn wrong_requests_about_groups_get_the_defined_answer_and_write_nothing() {
    let home = Home::new();
    let dev = home.start();
    let (mut alice, mut bob) = dev.alice_and_bob();
    let huge: Vec<u32> = (1..=20_000).collect();
    for members in [&[][..], &[0], &[999_999], &huge] {
        let answer = create(&mut alice, members);
        assert_eq!((answer.result_code, answer.group_id), (1, None), "{} ids", members.len());
    }
    let me = alice.user_id;
    let group = made(&mut alice, &[me]);
    assert_eq!(group, 1, "nothing was made before");
    for (kind, id, members) in
        [(ADD, group, &[][..]), (ADD, group, &[0]), (ADD, group, &huge), (ADD, 0, &[1]), (DEL, u32::MAX, &[1])]
    {
        let answer = change(&mut alice, kind, id, members);
        assert_eq!((answer.result_code, answer.group_id), (1, id));
    }
    for kind in [0, 3, -1] {
        let request = group::ImGroupChangeMemberReq { change_type: kind, group_id: group, ..Default::default() };
        alice.send(command::GROUP_CHANGE_MEMBER_REQUEST, &request);
    }
    assert_eq!(left_over(&mut alice), 0, "a number that means nothing: silence");
    for id in [0, group, 99, u32::MAX] {
        bob.post_to_group(id, "not for me");
        assert_eq!(bob.group_history(id, 0, 10), []);
    }
    assert_eq!(left_over(&mut alice), 0);
    assert_eq!(cards(&mut alice, group, 0).group_info_list[0].version, 1);
    assert_eq!(alice.say_to_group(group, "the first"), 1);
    dev.assert_lives();
}
