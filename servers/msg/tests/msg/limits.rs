//! What an address and a user may do in all their connections together (docs/limits.md).

use tt_proto::im::base_define::ResultType;
use tt_proto::im::buddy::{ImChangeSignInfoReq, ImChangeSignInfoRsp};
use tt_proto::im::login::{ImLoginReq, ImLoginRes};
use tt_proto::im::server::ImValidateReq;

use crate::support::{PC, PHONE, Wire, World, login_request, valid};

const TOO_OFTEN: &str = "登录过于频繁，请稍后再试";

fn expect_too_often(client: &mut Wire) {
    let (seq, answer) = client.expect::<ImLoginRes>();
    assert_eq!((seq, answer.result_code), (1, ResultType::RefuseReasonMsgServerFull as i32));
    assert_eq!(answer.result_string.as_deref(), Some(TOO_OFTEN));
    client.expect_closed();
}

#[test]
fn an_address_that_signs_in_too_often_is_told_so_before_the_password_is_looked_at() {
    let mut world = World::with(|config| {
        config.limits.address_sign_ins_per_second = 1;
        config.limits.address_sign_ins_burst = 2;
        // A second in which a token comes back would be a second of luck: there is time for none.
        config.limits.user_sign_ins_per_minute = 1_000;
    });
    let mut first = world.sign_in(1, PC);
    let mut more = Vec::new();
    for user in 2..10 {
        let mut client = world.server.connect();
        client.send(1, &login_request(user, PC));
        more.push(client);
    }
    // The second has a token; of the others none or one, if this machine is very slow.
    let (seq, request) = world.db.expect::<ImValidateReq>();
    assert_eq!(request.user_name, "user2");
    world.db.send(seq, &valid(request, 2));
    for client in &mut more[5..] {
        expect_too_often(client);
    }
    assert!(world.server.metric("teamtalk_sign_ins_limited_total{kind=\"address\"}") >= 3);
    first.expect_nothing();
}

#[test]
fn a_user_who_signs_in_too_often_is_told_so_and_the_client_there_is_stays() {
    let mut world = World::with(|config| config.limits.user_sign_ins_per_minute = 1);
    let mut first = world.sign_in(5, PC);
    let mut again = world.server.connect();
    again.send(1, &login_request(5, PC));
    let (seq, request) = world.db.expect::<ImValidateReq>();
    world.db.send(seq, &valid(request, 5));
    expect_too_often(&mut again);
    first.expect_nothing();
    world.sign_in(6, PC);
    assert_eq!(world.server.metric("teamtalk_sign_ins_limited_total{kind=\"user\"}"), 1);
}

#[test]
fn a_new_connection_brings_no_new_changes_of_the_card() {
    let mut world = World::with(|config| config.limits.card_changes_per_minute = 1);
    let mut pc = world.sign_in(5, PC);
    let change = ImChangeSignInfoReq { user_id: 5, sign_info: "a".into(), attach_data: None };
    pc.send(1, &change);
    let (seq, query) = world.db.expect::<ImChangeSignInfoReq>();
    let answer = ImChangeSignInfoRsp { user_id: 5, result_code: 1, sign_info: None, attach_data: query.attach_data };
    world.db.send(seq, &answer);
    assert_eq!(pc.expect::<ImChangeSignInfoRsp>().1.result_code, 1);
    let mut phone = world.sign_in(5, PHONE);
    phone.send(2, &change);
    assert_eq!(phone.expect::<ImChangeSignInfoRsp>().1.result_code, 2, "too many of this user");
}

#[test]
fn more_connections_of_an_address_than_it_may_have_are_closed_at_once() {
    let mut world = World::with(|config| config.limits.address_connections = 2);
    let mut one = world.sign_in(1, PC);
    let two = world.sign_in(2, PC);
    let mut three = world.server.connect();
    three.expect_closed();
    one.expect_nothing();
    two.stream.shutdown(std::net::Shutdown::Both).expect("an open socket");
    world.expect_left(2, PC);
    world.sign_in(3, PC);
}

#[test]
fn a_client_with_capabilities_is_told_how_fast_it_is_read_and_an_old_one_is_not() {
    let mut world = World::with(|config| {
        config.limits.messages_per_second = 7;
        config.limits.messages_burst = 9;
    });
    for (user, capabilities, expected) in [(1, Some(1 << 1), Some((7, 9))), (2, None, None)] {
        let mut client = world.server.connect();
        client.send(1, &ImLoginReq { capabilities, ..login_request(user, PC) });
        let (seq, request) = world.db.expect::<ImValidateReq>();
        world.db.send(seq, &valid(request, user));
        let (_, answer) = client.expect::<ImLoginRes>();
        assert_eq!(answer.messages_per_second.zip(answer.messages_burst), expected);
    }
}
