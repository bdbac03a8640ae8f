//! The order of a conversation, under pipelining and while db links come and go.

use std::time::Instant;

use tt_proto::im::login::ImLoginRes;
use tt_proto::im::message::{ImMsgData, ImMsgDataAck, ImUnreadMsgCntReq};
use tt_proto::im::server::{ImStopReceivePacket, ImUserCntUpdate};
use tt_proto::pdu;

use crate::support::{DEADLINE, PC, Pdu, Wire, World, ack, login_request, text, valid};

fn pipelined(seqs: impl Iterator<Item = u16>, to: u32) -> Vec<u8> {
    seqs.flat_map(|seq| pdu::encode(seq, &text(to, &format!("{seq}")))).collect()
}

#[test]
fn g3_pipelined_messages_keep_their_order_to_the_store_to_the_sender_and_to_the_receiver() {
    let mut world = World::new();
    let mut sender = world.sign_in(1, PC);
    let mut receiver = world.sign_in(2, PC);
    for round in 0..20_u16 {
        let seqs = round * 20 + 1..=round * 20 + 20;
        sender.send_raw(&pipelined(seqs.clone(), 2));
        for seq in seqs.clone() {
            assert_eq!(world.store(u32::from(seq)).msg_data, format!("{seq}"));
        }
        for seq in seqs {
            assert_eq!(sender.expect(), (seq, ack(1, 2, u32::from(seq), None)));
            let (_, copy) = receiver.expect::<ImMsgData>();
            assert_eq!((copy.msg_id, &*copy.msg_data), (u32::from(seq), format!("{seq}").as_bytes()));
        }
    }
}

/// The db link on which something comes first, and that PDU.
fn first_of(links: &mut [Wire]) -> (usize, Pdu) {
    let start = Instant::now();
    loop {
        if let Some(ready) = links.iter().position(Wire::has_input) {
            return (ready, links[ready].next());
        }
        assert!(start.elapsed() < DEADLINE, "nothing came on any db link");
        std::thread::yield_now();
    }
}

/// A world with two db links. The hello of each is read, so that what comes next is
/// a request.
fn with_two_db_links() -> (World, Vec<Wire>) {
    let mut world = World::with(|config| config.db_links = 2);
    let second = world.peers.db.accept();
    world.server.wait_for("teamtalk_links{peer=\"db-proxy\"}", 2);
    let first = std::mem::replace(&mut world.db, world.server.connect());
    let mut links = vec![first, second];
    for link in &mut links {
        assert_eq!(link.pdu().expect("the hello").header.command, 0x07f0);
    }
    (world, links)
}

/// Signs a client in over whichever db link is asked.
fn sign_in(world: &mut World, links: &mut [Wire], user: u32) -> Wire {
    let mut client = world.server.connect();
    client.send(1, &login_request(user, PC));
    let (at, pdu) = first_of(links);
    links[at].send(pdu.header.seq, &valid(pdu.decode(), user));
    client.expect::<ImLoginRes>();
    world.login.expect::<ImUserCntUpdate>();
    client
}

#[test]
fn g3_a_conversation_takes_one_db_link_from_both_sides_and_conversations_spread() {
    let (mut world, mut links) = with_two_db_links();
    let mut a = sign_in(&mut world, &mut links, 1);
    let mut used = [0, 0];
    for to in 2..34 {
        a.send(1, &text(to, "one"));
        let (first, pdu) = first_of(&mut links);
        links[first].send(1, &ImMsgData { msg_id: 1, ..pdu.decode() });
        a.expect::<ImMsgDataAck>();
        a.send(2, &text(to, "two"));
        let (second, pdu) = first_of(&mut links);
        links[second].send(2, &ImMsgData { msg_id: 2, ..pdu.decode() });
        a.expect::<ImMsgDataAck>();
        assert_eq!(first, second, "conversation with {to}");
        used[first] += 1;
    }
    assert!(used[0] > 4 && used[1] > 4, "{used:?}");
}

#[test]
fn a_db_link_told_to_stop_gets_no_request_and_what_is_there_keeps_its_place() {
    let (mut world, mut links) = with_two_db_links();
    let mut a = sign_in(&mut world, &mut links, 1);
    a.send(1, &text(2, "first"));
    let (old, pdu) = first_of(&mut links);
    let at_store: ImMsgData = pdu.decode();
    links[old].send(0, &ImStopReceivePacket { result: 0 });
    // Whether the server has seen that: questions go to the other link only.
    let new = 1 - old;
    loop {
        a.send(9, &ImUnreadMsgCntReq { user_id: 0, attach_data: None });
        if first_of(&mut links).0 == new {
            break;
        }
    }
    a.send(2, &text(2, "second"));
    a.send(3, &text(2, "third"));
    a.send(4, &text(3, "another conversation"));
    // The other conversation passes; the two that follow the first one wait for it.
    let (at, pdu) = first_of(&mut links);
    assert_eq!((at, pdu.decode::<ImMsgData>().to_session_id), (new, 3));
    links[old].send(1, &ImMsgData { msg_id: 1, ..at_store });
    for (seq, expected) in [(2, "second"), (3, "third")] {
        let (at, pdu) = first_of(&mut links);
        let message: ImMsgData = pdu.decode();
        assert_eq!((at, pdu.header.seq, &*message.msg_data), (new, seq, expected.as_bytes()));
        links[new].send(seq, &ImMsgData { msg_id: u32::from(seq), ..message });
    }
    for seq in 1..=3 {
        assert_eq!(a.expect(), (seq, ack(1, 2, u32::from(seq), None)));
    }
}
