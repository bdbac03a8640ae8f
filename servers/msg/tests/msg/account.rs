//! What users change of their own accounts and devices: kept by the store under their own id, told
//! to whoever must know, answered in any case.

use tt_proto::im::base_define::ClientType;
use tt_proto::im::buddy::{
    ImAvatarChangedNotify, ImChangeAvatarReq, ImChangeAvatarRsp, ImChangeSignInfoReq, ImChangeSignInfoRsp,
    ImSignInfoChangedNotify,
};
use tt_proto::im::login::{
    ImDeviceTokenReq, ImDeviceTokenRsp, ImKickUser, ImLoginReq, ImLogoutReq, ImLogoutRsp, ImPushShieldReq,
    ImPushShieldRsp, ImQueryPushShieldReq, ImQueryPushShieldRsp,
};
use tt_proto::im::switch_service::Imp2pCmdMsg;
use tt_proto::{Attach, Body, pdu};

use crate::support::{PC, PHONE, Wire, World, login_request};

/// db-proxy hears `Q` and says `answer`.
fn answer<Q: Body + Attach, R: Body + Attach>(db: &mut Wire, mut answer: R) -> Q {
    let (seq, query) = db.expect::<Q>();
    answer.set_attach(query.attach().cloned());
    db.send(seq, &answer);
    query
}

fn sign_info(user_id: u32, text: &str) -> ImChangeSignInfoReq {
    ImChangeSignInfoReq { user_id, sign_info: text.to_owned(), attach_data: None }
}

fn signed(user_id: u32, result_code: u32, text: Option<&str>) -> ImChangeSignInfoRsp {
    ImChangeSignInfoRsp { user_id, result_code, sign_info: text.map(str::to_owned), attach_data: None }
}

#[test]
fn a_signature_is_kept_answered_and_told_to_everybody_by_way_of_route() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    let mut phone = world.sign_in(5, PHONE);
    let mut other = world.sign_in(6, PC);
    pc.send(44, &sign_info(6, "hello"));
    let query: ImChangeSignInfoReq = answer(&mut world.db, signed(5, 0, Some("hello")));
    assert_eq!((query.user_id, &*query.sign_info), (5, "hello"), "whose it is is not the client's to say");
    assert_eq!(pc.expect(), (44, signed(5, 0, Some("hello"))));
    let notice = ImSignInfoChangedNotify { changed_user_id: 5, sign_info: "hello".into() };
    assert_eq!(world.route.expect(), (0, notice.clone()));
    for client in [&mut pc, &mut phone, &mut other] {
        client.expect_nothing();
    }
    // Route sends it back to this server too.
    world.route.send(9, &notice);
    for client in [&mut pc, &mut phone, &mut other] {
        assert_eq!(client.expect(), (0, notice.clone()));
    }
}

#[test]
fn a_signature_that_is_refused_is_told_to_nobody() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    pc.send(1, &sign_info(5, "too long, says the store"));
    let _: ImChangeSignInfoReq = answer(&mut world.db, signed(5, 1, None));
    assert_eq!(pc.expect(), (1, signed(5, 1, None)));
    pc.send(2, &ImChangeAvatarReq { user_id: 5, avatar_url: "x".into(), attach_data: None });
    let refused = ImChangeAvatarRsp { user_id: 5, result_code: 1, attach_data: None };
    let _: ImChangeAvatarReq = answer(&mut world.db, refused.clone());
    assert_eq!(pc.expect(), (2, refused));
    pc.expect_nothing();
    // The next thing that route hears is this.
    pc.send(3, &sign_info(5, "b"));
    let _: ImChangeSignInfoReq = answer(&mut world.db, signed(5, 0, Some("b")));
    assert_eq!(world.route.expect::<ImSignInfoChangedNotify>().1.sign_info, "b");
}

#[test]
fn a_picture_is_told_to_everybody_here_and_elsewhere() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    let mut other = world.sign_in(6, PHONE);
    pc.send(44, &ImChangeAvatarReq { user_id: 6, avatar_url: "g0/1.png".into(), attach_data: None });
    let done = ImChangeAvatarRsp { user_id: 5, result_code: 0, attach_data: None };
    let query: ImChangeAvatarReq = answer(&mut world.db, done.clone());
    assert_eq!((query.user_id, &*query.avatar_url), (5, "g0/1.png"));
    assert_eq!(pc.expect(), (44, done));
    let notice = ImAvatarChangedNotify { changed_user_id: 5, avatar_url: "g0/1.png".into() };
    assert_eq!(world.route.expect(), (0, notice.clone()));
    for client in [&mut pc, &mut other] {
        assert_eq!(client.expect(), (0, notice.clone()));
        client.expect_nothing();
    }
    let elsewhere = ImAvatarChangedNotify { changed_user_id: 9, avatar_url: "g0/9.png".into() };
    world.route.send(3, &elsewhere);
    assert_eq!(other.expect(), (0, elsewhere));
}

#[test]
fn many_changes_within_a_second_are_one_write_to_each_client() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    let mut phone = world.sign_in(5, PHONE);
    let notice = |number: u32| ImSignInfoChangedNotify { changed_user_id: number, sign_info: format!("{number}") };
    let burst: Vec<u8> = (1..=100).flat_map(|number| pdu::encode(0, &notice(number))).collect();
    world.route.send_raw(&burst);
    for client in [&mut pc, &mut phone] {
        for number in 1..=100 {
            assert_eq!(client.expect(), (0, notice(number)));
        }
        client.expect_nothing();
    }
    let writes = world.server.metric("teamtalk_card_writes_total");
    // Two, if the second ends within the burst.
    assert!(writes == 2 || writes == 4, "{writes} writes of 100 notices to 2 clients");
    // What is too much to be kept goes out at once.
    let long = ImAvatarChangedNotify { changed_user_id: 7, avatar_url: "x".repeat(70_000) };
    world.route.send(0, &long);
    assert_eq!(pc.expect(), (0, long));
}

#[test]
fn more_changes_than_the_limit_are_refused_before_they_cost_anything() {
    let mut world = World::with(|config| config.limits.card_changes_per_minute = 2);
    let mut pc = world.sign_in(5, PC);
    for seq in [1, 2] {
        pc.send(seq, &sign_info(5, "a"));
        let _: ImChangeSignInfoReq = answer(&mut world.db, signed(5, 1, None));
        assert_eq!(pc.expect(), (seq, signed(5, 1, None)));
    }
    pc.send(3, &sign_info(5, "a"));
    assert_eq!(pc.expect(), (3, signed(5, 2, None)));
    pc.send(4, &ImChangeAvatarReq { user_id: 5, avatar_url: "a".into(), attach_data: None });
    assert_eq!(pc.expect(), (4, ImChangeAvatarRsp { user_id: 5, result_code: 2, attach_data: None }));
    world.expect_nothing_at_the_store(&mut pc);
    // Another device of the same user, and the same device once more, have no more of them.
    let mut phone = world.sign_in(5, PHONE);
    phone.send(5, &sign_info(5, "a"));
    assert_eq!(phone.expect(), (5, signed(5, 2, None)));
    drop(pc);
    world.expect_left(5, PC);
    let mut pc = world.sign_in(5, PC);
    pc.send(6, &sign_info(5, "a"));
    assert_eq!(pc.expect(), (6, signed(5, 2, None)));
    let mut other = world.sign_in(6, PC);
    other.send(7, &sign_info(6, "a"));
    let _: ImChangeSignInfoReq = answer(&mut world.db, signed(6, 1, None));
    assert_eq!(other.expect(), (7, signed(6, 1, None)));
    assert_eq!(world.server.metric("teamtalk_card_changes_refused_total"), 4);
}

#[test]
fn quiet_nights_are_set_and_asked_under_the_clients_own_id() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    let set = ImPushShieldRsp { user_id: 5, result_code: 0, shield_status: Some(1), attach_data: None };
    pc.send(7, &ImPushShieldReq { user_id: 6, shield_status: 1, attach_data: None });
    let query: ImPushShieldReq = answer(&mut world.db, set.clone());
    assert_eq!((query.user_id, query.shield_status), (5, 1));
    assert_eq!(pc.expect(), (7, set));
    let is = ImQueryPushShieldRsp { user_id: 5, result_code: 0, shield_status: Some(1), attach_data: None };
    pc.send(8, &ImQueryPushShieldReq { user_id: 6, attach_data: None });
    let query: ImQueryPushShieldReq = answer(&mut world.db, is.clone());
    assert_eq!(query.user_id, 5);
    assert_eq!(pc.expect(), (8, is));
}

#[test]
fn without_the_store_every_change_is_answered_with_a_failure() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    // One that is under way when the link fails, and then one of each without any link.
    pc.send(1, &sign_info(5, "a"));
    world.db.expect::<ImChangeSignInfoReq>();
    world.db.stream.shutdown(std::net::Shutdown::Both).expect("an open link");
    assert_eq!(pc.expect(), (1, signed(5, 1, None)));
    pc.send(2, &sign_info(5, "a"));
    assert_eq!(pc.expect(), (2, signed(5, 1, None)));
    pc.send(3, &ImChangeAvatarReq { user_id: 5, avatar_url: "a".into(), attach_data: None });
    assert_eq!(pc.expect::<ImChangeAvatarRsp>().1.result_code, 1);
    pc.send(4, &ImPushShieldReq { user_id: 5, shield_status: 1, attach_data: None });
    assert_eq!(pc.expect::<ImPushShieldRsp>().1.result_code, 1);
    pc.send(5, &ImQueryPushShieldReq { user_id: 5, attach_data: None });
    assert_eq!(pc.expect::<ImQueryPushShieldRsp>().1.result_code, 1);
    pc.expect_nothing();
}

#[test]
fn nothing_of_this_before_the_sign_in_or_after_a_kick() {
    let mut world = World::new();
    let signal = Imp2pCmdMsg { from_user_id: 5, to_user_id: 6, cmd_msg_data: "x".into() };
    let frames = [
        pdu::encode(1, &sign_info(5, "a")),
        pdu::encode(1, &ImChangeAvatarReq { user_id: 5, avatar_url: "a".into(), attach_data: None }),
        pdu::encode(1, &ImPushShieldReq { user_id: 5, shield_status: 1, attach_data: None }),
        pdu::encode(1, &ImQueryPushShieldReq { user_id: 5, attach_data: None }),
        pdu::encode(1, &token("abc")),
        pdu::encode(1, &signal),
    ];
    let mut bystander = world.sign_in(6, PC);
    for frame in frames {
        let mut visitor = world.server.connect();
        visitor.send_raw(&frame);
        visitor.expect_closed();
        let mut kicked = world.sign_in(5, PHONE);
        let newer = world.sign_in(5, PHONE);
        kicked.expect::<ImKickUser>();
        kicked.send_raw(&frame);
        kicked.expect_closed();
        world.expect_left(5, PHONE);
        drop(newer);
        world.expect_left(5, PHONE);
        bystander.expect_nothing();
    }
    world.expect_nothing_at_the_store(&mut bystander);
}

fn token(text: &str) -> ImDeviceTokenReq {
    // Neither the id nor the kind nor the name is what the sign-in said.
    ImDeviceTokenReq {
        user_id: 99,
        device_token: text.to_owned(),
        client_type: Some(ClientType::ClientTypeIos.into()),
        attach_data: None,
        device_id: Some("another's".into()),
    }
}

#[test]
fn a_phones_token_is_kept_for_that_phone_and_answered_at_once() {
    let mut world = World::new();
    let mut phone = world.sign_in(5, PHONE);
    phone.send(6, &token("abc"));
    assert_eq!(phone.expect(), (6, ImDeviceTokenRsp { user_id: 5, attach_data: None }), "before the store has it");
    let (seq, kept) = world.db.expect::<ImDeviceTokenReq>();
    assert_eq!((seq, kept.user_id, &*kept.device_token), (6, 5, "abc"));
    assert_eq!((kept.client_type, kept.device_id), (Some(PHONE.into()), None));
    world.db.send(seq, &ImDeviceTokenRsp { user_id: 5, attach_data: None });
    phone.expect_nothing();
}

#[test]
fn a_phone_that_names_itself_has_its_own_token_and_a_log_out_forgets_only_that() {
    let mut world = World::new();
    for (name, kept) in [(Some("phone-1"), Some("phone-1")), (Some(&*"x".repeat(65)), None), (Some(""), None)] {
        let mut phone = world.server.connect();
        let device_id = name.map(str::to_owned);
        phone.send(1, &ImLoginReq { device_id, ..login_request(5, PHONE) });
        world.admit(&mut phone, 5, PHONE);
        phone.send(2, &token("t"));
        assert_eq!(world.db.expect::<ImDeviceTokenReq>().1.device_id.as_deref(), kept);
        phone.expect::<ImDeviceTokenRsp>();
        phone.send(3, &ImLogoutReq {});
        let (_, forgotten) = world.db.expect::<ImDeviceTokenReq>();
        assert_eq!((forgotten.user_id, &*forgotten.device_token, forgotten.device_id.as_deref()), (5, "", kept));
        assert_eq!(phone.expect::<ImLogoutRsp>().0, 3);
        phone.expect_closed();
        world.expect_left(5, PHONE);
    }
}

/// spec/README.md, trap 17.
#[test]
fn a_pc_neither_registers_a_token_nor_wipes_the_phones() {
    let mut world = World::new();
    let mut other = world.sign_in(6, PC);
    let mut pc = world.sign_in(5, PC);
    pc.send(6, &token("abc"));
    pc.send(7, &token(""));
    pc.expect_nothing();
    pc.send(8, &ImLogoutReq {});
    assert_eq!(pc.expect::<ImLogoutRsp>().0, 8);
    world.expect_left(5, PC);
    world.expect_nothing_at_the_store(&mut other);
}

#[test]
fn a_token_longer_than_any_is_ignored() {
    let mut world = World::new();
    let mut phone = world.sign_in(5, PHONE);
    phone.send(6, &token(&"x".repeat(1_025)));
    world.expect_nothing_at_the_store(&mut phone);
    phone.send(7, &token(&"x".repeat(1_024)));
    assert_eq!(world.db.expect::<ImDeviceTokenReq>().1.device_token.len(), 1_024);
    assert_eq!(phone.expect::<ImDeviceTokenRsp>().0, 7);
}
