//! Who is there: address book, departments, user cards, presence, the server's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use tt_client::{ClientClass, Event, Options, Presence, ServerUrl};
use tt_proto::im::{buddy, login, message};
use tt_proto::password::wire_digest;
use tt_tests::{Class, Client, Home, PATIENCE, command};

const ONLINE: i32 = 1;
const OFFLINE: i32 = 2;

fn all_users(client: &mut Client, since: u32) -> buddy::ImAllUserRsp {
    let request = buddy::ImAllUserReq { user_id: client.user_id, latest_update_time: since, ..Default::default() };
    client.request(command::ALL_USER_REQUEST, &request, command::ALL_USER_RESPONSE)
}

fn status_of(client: &mut Client, users: &[u32]) -> Vec<(u32, i32)> {
    let request = buddy::ImUsersStatReq { user_id: client.user_id, user_id_list: users.to_vec(), ..Default::default() };
    let answer: buddy::ImUsersStatRsp =
        client.request(command::USERS_STATUS_REQUEST, &request, command::USERS_STATUS_RESPONSE);
    answer.user_stat_list.iter().map(|stat| (stat.user_id, stat.status)).collect()
}

#[test]
fn the_address_book_is_complete_and_then_incremental() {
    let home = Home::new();
    let dev = home.start();
    let mut alice = dev.sign_in("alice", Class::Pc);
    let all = all_users(&mut alice, 0);
    let mut names: Vec<_> = all.user_list.iter().map(|user| &user.user_real_name).collect();
    names.sort();
    assert_eq!(names, ["alice", "bob"]);
    assert!(all.latest_update_time > 0);
    let again = all_users(&mut alice, all.latest_update_time + 1);
    assert_eq!(again.user_list, []);
    assert_eq!(again.latest_update_time, all.latest_update_time + 1, "nothing changed: as asked");
}

#[test]
fn departments_and_their_people_agree() {
    let home = Home::new();
    let dev = home.start();
    let mut alice = dev.sign_in("alice", Class::Pc);
    let request = buddy::ImDepartmentReq { user_id: alice.user_id, ..Default::default() };
    let answer: buddy::ImDepartmentRsp =
        alice.request(command::DEPARTMENT_REQUEST, &request, command::DEPARTMENT_RESPONSE);
    assert_eq!(answer.user_id, alice.user_id);
    let known: Vec<u32> = answer.dept_list.iter().map(|department| department.dept_id).collect();
    let users = all_users(&mut alice, 0).user_list;
    assert_eq!(users.len(), 2);
    for user in users {
        assert!(known.contains(&user.department_id), "{user:?} of {known:?}");
    }
}

#[test]
fn user_cards_come_for_known_ids_only() {
    let home = Home::new();
    let dev = home.start();
    let bob = dev.account("bob");
    let mut alice = dev.sign_in("alice", Class::Pc);
    let request = buddy::ImUsersInfoReq {
        user_id: alice.user_id,
        user_id_list: vec![bob.id, 4_000_000_000],
        ..Default::default()
    };
    let answer: buddy::ImUsersInfoRsp =
        alice.request(command::USER_INFO_REQUEST, &request, command::USER_INFO_RESPONSE);
    assert_eq!(answer.user_info_list.len(), 1);
    let card = &answer.user_info_list[0];
    assert_eq!((card.user_id, card.user_real_name.as_str(), card.status), (bob.id, "bob", 0));
}

#[test]
fn presence_means_that_a_desktop_is_on() {
    let home = Home::new();
    let dev = home.start();
    let bob = dev.account("bob").id;
    let mut alice = dev.sign_in("alice", Class::Pc);
    let me = alice.user_id;
    assert_eq!(status_of(&mut alice, &[bob, me, 77]), [(bob, OFFLINE), (me, ONLINE), (77, OFFLINE)]);
    // Alice hears of her own coming as everybody does.
    let own: buddy::ImUserStatNotify = alice.notice(command::STATUS_NOTIFY);
    assert_eq!((own.user_stat.user_id, own.user_stat.status), (me, ONLINE));

    let mut bobs_phone = dev.sign_in("bob", Class::Mobile);
    assert_eq!(status_of(&mut alice, &[bob]), [(bob, OFFLINE)], "a phone alone does not count");

    let mut bobs_desktop = dev.sign_in("bob", Class::Pc);
    let came: buddy::ImUserStatNotify = alice.notice(command::STATUS_NOTIFY);
    assert_eq!((came.user_stat.user_id, came.user_stat.status), (bob, ONLINE));
    assert_eq!(status_of(&mut alice, &[bob]), [(bob, ONLINE)]);
    let on: buddy::ImpcLoginStatusNotify = bobs_phone.notice(command::PC_LOGIN_STATUS_NOTIFY);
    assert_eq!((on.user_id, on.login_stat), (bob, ONLINE));

    let out: login::ImLogoutRsp =
        bobs_desktop.request(command::REQ_LOGINOUT, &login::ImLogoutReq::default(), command::RES_LOGINOUT);
    assert_eq!(out.result_code, 0);
    bobs_desktop.wait_closed(PATIENCE);
    let left: buddy::ImUserStatNotify = alice.notice(command::STATUS_NOTIFY);
    assert_eq!((left.user_stat.user_id, left.user_stat.status), (bob, OFFLINE));
    let off: buddy::ImpcLoginStatusNotify = bobs_phone.notice(command::PC_LOGIN_STATUS_NOTIFY);
    assert_eq!((off.user_id, off.login_stat), (bob, OFFLINE));
    assert_eq!(status_of(&mut alice, &[bob]), [(bob, OFFLINE)]);
}

/// Capability 11 (spec/gaps.md §5): of users whose status was asked for, and of nobody else.
#[test]
fn the_client_library_hears_of_phones_and_absence_of_who_it_asked_about() {
    let home = Home::new();
    let dev = home.start();
    let (alice, bob) = (dev.account("alice"), dev.account("bob"));
    let server: ServerUrl = format!("http://{}", dev.address("login_http")).parse().expect("a URL");
    let options = Options::new(server, &alice.name, &alice.password, ClientClass::Pc);
    let (client, events) = tt_client::Client::login(options).expect("signed in");
    let becomes = |expected: Presence| {
        loop {
            match events.next(PATIENCE).expect("an event") {
                Event::Presence { user_id, presence } => {
                    assert_eq!(user_id, bob.id, "nobody else was asked about");
                    if presence == expected {
                        return;
                    }
                }
                Event::Online { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(client.status(&[bob.id, 77]), Ok(vec![(bob.id, Presence::Offline), (77, Presence::Offline)]));
    let phone = dev.sign_in("bob", Class::Mobile);
    becomes(Presence::Mobile);
    assert_eq!(client.status(&[bob.id]), Ok(vec![(bob.id, Presence::Mobile)]));
    let desktop = dev.sign_in("bob", Class::Pc);
    becomes(Presence::Online);
    drop(desktop);
    becomes(Presence::Mobile);
    drop(phone);
    becomes(Presence::Offline);
    let mut away = Client::connect(dev.address("msg"));
    let request = login::ImLoginReq {
        user_name: bob.name.clone(),
        password: wire_digest(&bob.password),
        online_status: 3,
        client_type: Class::Pc as i32,
        ..Default::default()
    };
    let answer: login::ImLoginRes = away.request(command::REQ_USERLOGIN, &request, command::RES_USERLOGIN);
    assert_eq!(answer.result_code, 0);
    becomes(Presence::Away);
    assert_eq!(client.status(&[bob.id]), Ok(vec![(bob.id, Presence::Away)]));
}

#[test]
fn the_login_server_names_the_msg_server_over_its_pdu_port_too() {
    let home = Home::new();
    let dev = home.start();
    let mut asking = Client::connect(dev.address("login_pdu"));
    let answer: login::ImMsgServRsp =
        asking.request(command::REQ_MSGSERVER, &login::ImMsgServReq::default(), command::RES_MSGSERVER);
    let msg = dev.address("msg");
    assert_eq!(answer.result_code, 0);
    assert_eq!(answer.prior_ip, Some(msg.ip().to_string()));
    assert_eq!(answer.port, Some(msg.port().into()));
    asking.wait_closed(PATIENCE); // one question, one answer
}

#[test]
fn the_server_tells_the_time() {
    let home = Home::new();
    let dev = home.start();
    let mut alice = dev.sign_in("alice", Class::Pc);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let before = now();
    let answer: message::ImClientTimeRsp =
        alice.request(command::TIME_REQUEST, &message::ImClientTimeReq::default(), command::TIME_RESPONSE);
    assert!((before..=now()).contains(&u64::from(answer.server_time)), "{answer:?}");
}
