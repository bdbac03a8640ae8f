//! Stopping, and the operator's port.

use std::io::{Read, Write};
use std::net::TcpStream;

use tt_proto::im::message::{ImClientTimeReq, ImClientTimeRsp, ImMsgData, ImMsgDataAck};
use tt_proto::im::server::{ImMsgServInfo, ImUserCntUpdate};

use crate::support::{DEADLINE, PC, Peers, Server, World, ack, text};

#[test]
fn a_stop_announces_itself_finishes_what_is_in_flight_and_closes_the_clients() {
    let mut world = World::with(|config| config.timeouts.drain_ms = 10_000);
    let mut sender = world.sign_in(1, PC);
    sender.send(1, &text(2, "last words"));
    let (seq, message) = world.db.expect::<ImMsgData>();
    let handle = world.server.handle.take().expect("running");
    handle.stop();
    let (_, info) = world.login.expect::<ImMsgServInfo>();
    assert_eq!(info.max_conn_cnt, 0, "no room for new clients");
    assert!(TcpStream::connect(world.server.addr).is_err(), "not accepting any more");
    world.db.send(seq, &ImMsgData { msg_id: 1, ..message });
    assert_eq!(sender.expect(), (1, ack(1, 2, 1, None)));
    sender.expect_closed();
    assert_eq!(world.login.expect::<ImUserCntUpdate>().1.user_action, 2);
    handle.join();
    assert!(world.db.pdu().is_none(), "the links are closed");
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut world = World::with(|config| config.timeouts.drain_ms = 200);
    let mut sender = world.sign_in(1, PC);
    sender.send(1, &text(2, "never answered"));
    world.db.expect::<ImMsgData>();
    let handle = world.server.handle.take().expect("running");
    handle.stop();
    handle.join();
    assert!(sender.pdu().is_none(), "closed without an ack");
}

#[test]
fn nothing_is_read_from_clients_while_stopping() {
    let mut world = World::with(|config| config.timeouts.drain_ms = 10_000);
    let mut sender = world.sign_in(1, PC);
    sender.send(1, &text(2, "first"));
    let (seq, message) = world.db.expect::<ImMsgData>();
    let handle = world.server.handle.take().expect("running");
    handle.stop();
    world.login.expect::<ImMsgServInfo>();
    sender.send(2, &text(2, "too late"));
    world.db.send(seq, &ImMsgData { msg_id: 1, ..message });
    assert_eq!(sender.expect::<ImMsgDataAck>().0, 1);
    handle.join();
    assert!(world.db.pdu().is_none(), "the second message never reached the store");
}

fn get(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(server.metrics).expect("the metrics port");
    stream.set_read_timeout(Some(DEADLINE)).expect("an open socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn health_is_good_with_a_link_of_each_kind_only() {
    let peers = Peers::new();
    let server = Server::start(peers.config());
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 503"));
    let _links = [peers.login.accept(), peers.route.accept(), peers.db.accept()];
    server.wait_ready();
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&server, "/metrics").contains("# EOF"));
}

#[test]
fn what_clients_say_and_hear_is_counted_by_command() {
    let mut world = World::new();
    let mut client = world.sign_in(1, PC);
    client.send(2, &ImClientTimeReq::default());
    client.expect::<ImClientTimeRsp>();
    client.expect_nothing();
    let pdus = |direction, command| {
        world.server.metric(&format!("teamtalk_pdus_total{{direction=\"{direction}\",command=\"{command}\"}}"))
    };
    assert_eq!((pdus("in", "CID_LOGIN_REQ_USERLOGIN"), pdus("out", "CID_LOGIN_RES_USERLOGIN")), (1, 1));
    assert_eq!((pdus("in", "CID_MSG_TIME_REQUEST"), pdus("out", "CID_MSG_TIME_RESPONSE")), (1, 1));
}
