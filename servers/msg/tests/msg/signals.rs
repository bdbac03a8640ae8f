//! Signals between clients: to whom they go, from whom they are, how many.

use std::time::Instant;

use tt_proto::im::switch_service::Imp2pCmdMsg;
use tt_proto::pdu;

use crate::support::{MAC, PC, PHONE, World};

const TYPING: &str = r#"{"cmd_id":131073,"content":"","service_id":2}"#;

fn signal(from_user_id: u32, to_user_id: u32, data: &str) -> Imp2pCmdMsg {
    Imp2pCmdMsg { from_user_id, to_user_id, cmd_msg_data: data.to_owned() }
}

#[test]
fn a_signal_reaches_all_other_devices_of_both_with_its_true_sender() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut sender_phone = world.sign_in(1, PHONE);
    let mut receiver = world.sign_in(2, MAC);
    let mut receiver_phone = world.sign_in(2, PHONE);
    let mut stranger = world.sign_in(3, PC);
    // The client says that user 3 sends it, under a sequence number of its own.
    sender.send(700, &signal(3, 2, TYPING));
    for other in [&mut world.route, &mut sender_phone, &mut receiver, &mut receiver_phone] {
        assert_eq!(other.expect(), (0, signal(1, 2, TYPING)));
    }
    for client in [&mut sender, &mut sender_phone, &mut receiver, &mut receiver_phone, &mut stranger] {
        client.expect_nothing();
    }
    world.expect_nothing_at_the_store(&mut sender);
    assert_eq!(world.server.metric("teamtalk_signals_total"), 3);
}

#[test]
fn a_signal_from_route_reaches_both_users_devices_and_never_with_a_sequence_number() {
    let mut world = World::new();
    let mut sender_phone = world.sign_in(1, PHONE);
    let mut receiver = world.sign_in(2, PC);
    let mut stranger = world.sign_in(3, PC);
    // As a recorded server passes it on.
    world.route.send(700, &signal(1, 2, TYPING));
    for client in [&mut sender_phone, &mut receiver] {
        assert_eq!(client.expect(), (0, signal(1, 2, TYPING)));
        client.expect_nothing();
    }
    stranger.expect_nothing();
}

#[test]
fn a_signal_to_oneself_reaches_the_other_device_once() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut phone = world.sign_in(1, PHONE);
    sender.send(1, &signal(1, 1, TYPING));
    assert_eq!(phone.expect(), (0, signal(1, 1, TYPING)));
    phone.expect_nothing();
    sender.expect_nothing();
}

#[test]
fn what_is_no_signal_goes_nowhere() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut receiver = world.sign_in(2, PC);
    let longest = "x".repeat(4_096);
    sender.send(1, &signal(1, 0, TYPING));
    sender.send(1, &signal(1, 2, ""));
    sender.send(1, &signal(1, 2, &format!("{longest}x")));
    sender.send_raw(&pdu::encode_raw(0x0601, 1, b"\x08\x01\x10\x02\x1a\x02\xff\xff"));
    world.route.send(0, &signal(0, 2, TYPING));
    world.route.send(0, &signal(1, 0, TYPING));
    world.route.send_raw(&pdu::encode_raw(0x0601, 1, b"\x1a\x7f"));
    // The first that arrives is the one that may.
    sender.send(1, &signal(1, 2, &longest));
    assert_eq!(receiver.expect(), (0, signal(1, 2, &longest)));
    assert_eq!(world.route.expect(), (0, signal(1, 2, &longest)));
    world.server.wait_for("teamtalk_requests_ignored_total{kind=\"signal\"}", 3);
    world.server.wait_for("teamtalk_requests_ignored_total{kind=\"relayed signal\"}", 2);
}

#[test]
fn over_their_rate_signals_wait_and_none_is_lost() {
    let mut world = World::with(|config| {
        config.limits.signals_per_second = 50;
        config.limits.signals_burst = 10;
    });
    let mut sender = world.sign_in(1, PC);
    let mut receiver = world.sign_in(2, PC);
    let start = Instant::now();
    let all: Vec<u8> = (1..=30).flat_map(|seq| pdu::encode(seq, &signal(1, 2, &seq.to_string()))).collect();
    sender.send_raw(&all);
    for number in 1..=30 {
        assert_eq!(receiver.expect(), (0, signal(1, 2, &number.to_string())));
    }
    let took = start.elapsed().as_millis();
    assert!(took >= 350, "20 signals over the burst at 50 a second in {took} ms");
    assert!(world.server.metric("teamtalk_rate_pauses_total") > 0);
}
