//! What is no PDU, no command or no reader: the connection or the PDU is lost, the
//! server and everybody else are not.

use std::io::Write;

use tt_proto::im::buddy::{ImAllUserReq, ImAllUserRsp};
use tt_proto::im::message::{ImClientTimeReq, ImClientTimeRsp};
use tt_proto::im::other::ImHeartBeat;
use tt_proto::pdu::{self, MAX_FROM_CLIENT};

use crate::support::{PC, PHONE, Wire, World, card};

/// Random bytes that are the same in each run.
fn noise(mut seed: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((seed >> 56) as u8)
    })
}

fn assert_lives(client: &mut Wire) {
    client.send(5, &ImClientTimeReq::default());
    assert_eq!(client.expect::<ImClientTimeRsp>().0, 5);
}

#[test]
fn every_length_from_0_to_17_has_its_outcome() {
    let mut world = World::new();
    let mut bystander = world.sign_in(1, PC);
    for length in 0..=17_u32 {
        for signed_in in [false, true] {
            let mut client = if signed_in { world.sign_in(2, PC) } else { world.server.connect() };
            let mut frame = pdu::encode(3, &ImHeartBeat::default()).to_vec();
            frame[..4].copy_from_slice(&length.to_be_bytes());
            frame.push(0);
            match length {
                0..=15 => {
                    client.send_raw(&frame);
                    client.expect_closed();
                }
                16 => {
                    client.send_raw(&frame[..16]);
                    assert_eq!(client.pdu().expect("an echo").header.seq, 3);
                }
                // One byte of body, which a heartbeat does not have: echoed all the same.
                _ => {
                    client.send_raw(&frame);
                    assert_eq!(client.pdu().expect("an echo").body, [0]);
                }
            }
            drop(client);
            if signed_in {
                world.expect_left(2, PC);
            }
        }
    }
    assert_lives(&mut bystander);
}

#[test]
fn a_length_above_the_limit_closes_before_the_bytes_come() {
    let mut world = World::new();
    for length in [MAX_FROM_CLIENT as u32 + 1, u32::MAX] {
        let mut client = world.sign_in(1, PC);
        client.send_raw(&length.to_be_bytes());
        client.expect_closed();
        world.expect_left(1, PC);
    }
    let closed = world.server.metric("teamtalk_clients_closed_total{client=\"member\",reason=\"bad_frame\"}");
    assert_eq!(closed, 2);
}

/// A hundred thousand strangers with 400 KiB each would be 40 GB.
#[test]
fn before_sign_in_less_is_taken_than_after() {
    let mut world = World::new();
    let mut heartbeat = pdu::encode_raw(0x0701, 5, &vec![0; 16 * 1024]).to_vec();
    let mut visitor = world.server.connect();
    visitor.send_raw(&heartbeat[..16]);
    visitor.expect_closed();
    let mut member = world.sign_in(1, PC);
    member.send_raw(&heartbeat);
    assert_eq!(member.pdu().expect("an echo").body.len(), 16 * 1024);
    // As long as a stranger's may be.
    heartbeat.truncate(16 * 1024);
    heartbeat[..4].copy_from_slice(&(16 * 1024_u32).to_be_bytes());
    let mut visitor = world.server.connect();
    visitor.send_raw(&heartbeat);
    assert_eq!(visitor.pdu().expect("an echo").body.len(), 16 * 1024 - 16);
}

#[test]
fn random_bytes_hurt_only_who_sends_them() {
    let mut world = World::new();
    let mut bystander = world.sign_in(1, PC);
    for seed in 0..50 {
        let bytes: Vec<u8> = noise(seed).take(5_000).collect();
        let mut visitor = world.server.connect();
        // The server may close before it has read all of it.
        let _ = visitor.stream.write_all(&bytes);
        visitor.expect_closed();
    }
    assert_lives(&mut bystander);
}

#[test]
fn random_bodies_of_every_command_are_ignored() {
    let mut world = World::new();
    let mut client = world.sign_in(1, PHONE);
    // 0xff is no field key, so none of them parses, and log-out does not end the test.
    let body: Vec<u8> = std::iter::repeat_n(0xff, 12).chain(noise(1).take(100)).collect();
    let commands = (0x0100..=0x0740).chain([0x07f0, 0x0999, 0xffff]).filter(|command| *command != 0x0701);
    for command in commands {
        client.send_raw(&pdu::encode_raw(command, 4, &body));
    }
    world.expect_nothing_at_the_store(&mut client);
    client.expect_nothing();
}

#[test]
fn commands_that_are_not_served_are_counted_and_ignored() {
    let mut world = World::new();
    let mut client = world.sign_in(1, PC);
    // Answers and notices, what a file server serves, registering, what only servers say, and a number that is no
    // command.
    for command in [0x0402, 0x040b, 0x0504, 0x0110, 0x0703, 0x0999] {
        client.send_raw(&pdu::encode_raw(command, 4, &[]));
    }
    client.expect_nothing();
    assert_eq!(world.server.metric("teamtalk_requests_ignored_total{kind=\"unknown\"}"), 6);
}

#[test]
fn what_the_other_servers_say_wrongly_is_ignored() {
    let mut world = World::new();
    let mut client = world.sign_in(1, PC);
    let body: Vec<u8> = vec![0xff; 20];
    for wire in [&mut world.login, &mut world.route, &mut world.db] {
        for command in (0x0101..=0x0740).filter(|command| ![0x0701, 0x0702].contains(command)) {
            wire.send_raw(&pdu::encode_raw(command, 0, &body));
            wire.send_raw(&pdu::encode_raw(command, 0, &[]));
        }
    }
    // The route link lives: a notice still arrives. Empty bodies read as user 0.
    let notice = tt_proto::im::buddy::ImRemoveSessionNotify { user_id: 1, session_type: 1, session_id: 2 };
    world.route.send(0, &notice);
    loop {
        let pdu = client.next();
        if pdu.header.command == 0x020f {
            assert_eq!(pdu.decode::<tt_proto::im::buddy::ImRemoveSessionNotify>(), notice);
            break;
        }
        assert_eq!(pdu.header.command, 0x0203, "an empty status notice is one about user 0");
    }
    world.expect_nothing_at_the_store(&mut client);
}

#[test]
fn a_client_that_never_reads_is_bounded_and_closed() {
    let mut world = World::with(|config| config.limits.output_bytes = 1 << 20);
    let mut client = world.sign_in(1, PC);
    let mut bystander = world.sign_in(2, PC);
    let user_list: Vec<_> = (0..5_000).map(card).collect();
    for seq in 1..=60 {
        client.send(seq, &ImAllUserReq { user_id: 1, latest_update_time: 0, attach_data: None });
        let (seq, query) = world.db.expect::<ImAllUserReq>();
        let attach_data = query.attach_data;
        world.db.send(seq, &ImAllUserRsp { user_list: user_list.clone(), attach_data, ..ImAllUserRsp::default() });
        // Once the bystander has an answer the one before it has been dealt with.
        world.expect_nothing_at_the_store(&mut bystander);
        let closed = "teamtalk_clients_closed_total{client=\"member\",reason=\"output_limit\"}";
        if world.server.metric(closed) == 1 {
            world.expect_left(1, PC);
            assert_lives(&mut bystander);
            return;
        }
    }
    panic!("12 MB of answers and still not closed");
}

#[test]
fn a_thousand_connections_in_one_burst_are_all_served() {
    let world = World::new();
    let mut clients: Vec<Wire> = (0..1_000).map(|_| world.server.connect()).collect();
    for client in &mut clients {
        client.send(1, &ImHeartBeat::default());
    }
    for client in &mut clients {
        assert_eq!(client.pdu().expect("an echo").header.seq, 1);
    }
}
