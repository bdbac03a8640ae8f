//! One connection of each class: who is kicked, when, and what a kicked client can
//! still do.

use tt_proto::im::base_define::{ClientType, KickReasonType};
use tt_proto::im::login::{
    ImDeviceTokenReq, ImKickPcClientReq, ImKickPcClientRsp, ImKickUser, ImLoginReq, ImLoginRes, ImLogoutReq,
    ImLogoutRsp,
};
use tt_proto::im::message::{ImClientTimeReq, ImMsgData, ImMsgDataAck};
use tt_proto::im::server::{ImServerKickUser, ImUserCntUpdate, ImUserStatusUpdate, ImValidateReq};

use crate::support::{MAC, PC, PHONE, Wire, World, ack, login_request, text, valid};

fn expect_kick(client: &mut Wire, user: u32, reason: KickReasonType) {
    let (seq, kick) = client.expect::<ImKickUser>();
    assert_eq!((seq, kick.user_id, kick.kick_reason), (0, user, reason as i32));
}

#[test]
fn a_new_pc_kicks_the_old_one_and_the_world_hears_it_before_the_reply() {
    let mut world = World::new();
    let mut old = world.sign_in(5, PC);
    let mut new = world.server.connect();
    new.send(1, &login_request(5, MAC));
    let (seq, request) = world.db.expect::<ImValidateReq>();
    world.db.send(seq, &valid(request, 5));
    expect_kick(&mut old, 5, KickReasonType::KickReasonDuplicateUser);
    let (_, kick) = world.route.expect::<ImServerKickUser>();
    assert_eq!((kick.user_id, kick.client_type, kick.reason), (5, MAC as i32, 1));
    assert!(kick.signed_in_at.is_some() && kick.sign_in_id.is_some(), "{kick:?}");
    assert_eq!(world.route.expect::<ImUserStatusUpdate>().1.user_status, 1);
    assert_eq!(world.login.expect::<ImUserCntUpdate>().1.user_action, 1);
    assert_eq!(new.expect::<ImLoginRes>().1.result_code, 0);
    // The old connection still counts; it leaves when it closes.
    old.send(2, &ImLogoutReq::default());
    old.expect::<ImLogoutRsp>();
    old.expect_closed();
    world.expect_left(5, PC);
    new.expect_nothing();
}

#[test]
fn a_phone_and_a_pc_live_together_and_other_users_are_not_touched() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    let mut other = world.sign_in(6, PC);
    let mut phone = world.sign_in(5, PHONE);
    pc.expect_nothing();
    other.expect_nothing();
    phone.expect_nothing();
}

#[test]
fn a_kicked_client_may_beat_and_is_closed_after_the_grace_time() {
    let mut world = World::with(|config| config.timeouts.kick_grace_ms = 300);
    let mut old = world.sign_in(5, PC);
    let mut new = world.sign_in(5, PC);
    let start = std::time::Instant::now();
    expect_kick(&mut old, 5, KickReasonType::KickReasonDuplicateUser);
    old.expect_nothing();
    old.expect_closed();
    assert!(start.elapsed().as_millis() >= 200, "closed after {:?}", start.elapsed());
    world.expect_left(5, PC);
    new.expect_nothing();
}

#[test]
fn a_kicked_client_that_goes_on_is_closed_at_once() {
    let mut world = World::with(|config| config.timeouts.kick_grace_ms = 60_000);
    let mut old = world.sign_in(5, PC);
    let _new = world.sign_in(5, PC);
    expect_kick(&mut old, 5, KickReasonType::KickReasonDuplicateUser);
    old.send(7, &ImClientTimeReq::default());
    old.expect_closed();
    world.expect_left(5, PC);
}

#[test]
fn a_kicked_phones_log_out_forgets_its_own_token_and_no_other() {
    let mut world = World::with(|config| config.timeouts.kick_grace_ms = 60_000);
    for name in [Some("old phone"), None] {
        let mut old = world.server.connect();
        let device_id = name.map(str::to_owned);
        old.send(1, &ImLoginReq { device_id: device_id.clone(), ..login_request(5, PHONE) });
        world.admit(&mut old, 5, PHONE);
        let mut new = world.sign_in(5, PHONE);
        expect_kick(&mut old, 5, KickReasonType::KickReasonDuplicateUser);
        old.send(9, &ImLogoutReq::default());
        // Without a name its token's place is the new phone's now.
        if name.is_some() {
            let (seq, forget) = world.db.expect::<ImDeviceTokenReq>();
            assert_eq!((seq, forget), (9, ImDeviceTokenReq { user_id: 5, device_id, ..ImDeviceTokenReq::default() }));
        }
        assert_eq!(old.expect::<ImLogoutRsp>().0, 9);
        old.expect_closed();
        world.expect_left(5, PHONE);
        world.expect_nothing_at_the_store(&mut new);
        drop(new);
        world.expect_left(5, PHONE);
    }
}

#[test]
fn a_kicked_client_gets_no_more_messages() {
    let mut world = World::new();
    let mut old = world.sign_in(5, PC);
    let mut new = world.sign_in(5, PC);
    let mut peer = world.sign_in(6, PC);
    expect_kick(&mut old, 5, KickReasonType::KickReasonDuplicateUser);
    peer.send(1, &text(5, "hi"));
    world.store(1);
    assert_eq!(peer.expect::<ImMsgDataAck>().1, ack(6, 5, 1, None));
    assert_eq!(new.expect::<ImMsgData>().1.msg_id, 1);
    old.expect_nothing();
}

#[test]
fn another_msg_server_kicks_through_route_all_of_the_class() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    let mut phone = world.sign_in(5, PHONE);
    let mut other = world.sign_in(6, PC);
    let mac = ClientType::ClientTypeMac.into();
    world.route.send(0, &ImServerKickUser { user_id: 5, client_type: mac, reason: 2, ..Default::default() });
    expect_kick(&mut pc, 5, KickReasonType::KickReasonMobileKick);
    phone.expect_nothing();
    other.expect_nothing();
    // A number that is no reason must not reach an old client.
    let phone_type = ClientType::ClientTypeIos.into();
    world
        .route
        .send(0, &ImServerKickUser { user_id: 5, client_type: phone_type, reason: u32::MAX, ..Default::default() });
    expect_kick(&mut phone, 5, KickReasonType::KickReasonDuplicateUser);
}

#[test]
fn a_phone_kicks_its_pc_here_and_elsewhere() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    let mut phone = world.sign_in(5, PHONE);
    phone.send(3, &ImKickPcClientReq { user_id: 6 });
    expect_kick(&mut pc, 5, KickReasonType::KickReasonMobileKick);
    let (_, kick) = world.route.expect::<ImServerKickUser>();
    assert_eq!((kick.user_id, kick.client_type, kick.reason), (5, ClientType::ClientTypeMac as i32, 2));
    assert_eq!(phone.expect::<ImKickPcClientRsp>().1, ImKickPcClientRsp { user_id: 5, result_code: 0 });
}

#[test]
fn a_pc_cannot_kick_a_pc() {
    let mut world = World::new();
    let mut pc = world.sign_in(5, PC);
    pc.send(3, &ImKickPcClientReq { user_id: 5 });
    pc.expect_nothing();
    world.expect_nothing_at_the_store(&mut pc);
}

/// Another server's kick, for user 5's PC, by a sign-in of that moment.
fn kick_at(signed_in_at: u64) -> ImServerKickUser {
    ImServerKickUser {
        user_id: 5,
        client_type: MAC.into(),
        reason: 1,
        signed_in_at: Some(signed_in_at),
        sign_in_id: Some(1),
    }
}

#[test]
fn of_two_sign_ins_at_once_the_later_stays_and_the_earlier_is_told_so() {
    let mut world = World::new();
    let mut client = world.server.connect();
    client.send(1, &login_request(5, PC));
    let (seq, request) = world.db.expect::<ImValidateReq>();
    world.db.send(seq, &valid(request, 5));
    let (_, own) = world.route.expect::<ImServerKickUser>();
    world.route.expect::<ImUserStatusUpdate>();
    client.expect::<ImLoginRes>();
    let at = own.signed_in_at.expect("it says when");
    // Its own kick, should it come back, does not hit itself.
    world.route.send(0, &own);
    client.expect_nothing();
    // The other one was a moment earlier: it stays here, and the other server hears of it.
    world.route.send(0, &kick_at(at - 1));
    let (_, answer) = world.route.expect::<ImServerKickUser>();
    assert_eq!((answer.signed_in_at, answer.sign_in_id, answer.client_type), (Some(at), own.sign_in_id, MAC as i32));
    client.expect_nothing();
    // A moment later: it goes, and nothing is answered.
    world.route.send(0, &kick_at(at + 1));
    expect_kick(&mut client, 5, KickReasonType::KickReasonDuplicateUser);
    assert_eq!(world.server.metric("teamtalk_kicks_answered_total"), 1);
}
