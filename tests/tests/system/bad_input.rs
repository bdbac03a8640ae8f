//! Hostile and broken bytes on every port of every role. One packet of 16 bytes once ended a msg
//! server and a db-proxy; here every role must live on and lose nothing.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use tt_proto::im::message;
use tt_tests::{Class, Client, Home, PATIENCE, Random, command, http, http_get, pack, pack_with_length};

/// Sends bytes, then the end of input, and reads until the server closes too.
fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the port listens");
    // The server may close in the middle of it: that is one of the right answers.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    stream.set_read_timeout(Some(PATIENCE)).expect("above zero");
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let kind = error.kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{address} after {bytes:02x?}");
    }
}

const PDU_PORTS: [&str; 5] = ["login_pdu", "login_msg", "msg", "route", "db_proxy"];

#[test]
fn every_length_from_0_to_17_on_every_port_and_the_roles_live() {
    let home = Home::new();
    let dev = home.start();
    for (_, address) in dev.listeners() {
        for length in 0..=17 {
            for command in [0, command::REQ_USERLOGIN, command::MSG_DATA, command::VALIDATE_RSP] {
                throw(address, &pack_with_length(length, command, 1, &[0xff; 4]));
            }
            // The field alone, and a header cut short.
            throw(address, &length.to_be_bytes());
            throw(address, &pack_with_length(length, 0, 0, &[])[..length.min(15) as usize]);
        }
    }
    dev.assert_lives();
}

#[test]
fn a_length_below_the_header_or_above_the_limit_closes_the_connection() {
    let home = Home::new();
    let dev = home.start();
    let too_long = [400 * 1024 + 1, 16 * 1024 * 1024 + 1, u32::MAX];
    for port in PDU_PORTS {
        for length in (0..=15).chain(too_long) {
            // Server links take PDUs of up to 16 MiB.
            let link = !matches!(port, "login_pdu" | "msg");
            if link && length == too_long[0] {
                continue;
            }
            let mut client = Client::connect(dev.address(port));
            client.write(&pack_with_length(length, command::HEARTBEAT, 1, &[])).expect("16 bytes");
            client.wait_closed(Duration::from_secs(5));
        }
    }
    dev.assert_lives();
}

#[test]
fn random_bytes_on_every_port_and_the_roles_live() {
    let mut random = Random::seeded("random bytes");
    let home = Home::new();
    let dev = home.start();
    for (_, address) in dev.listeners() {
        for _ in 0..40 {
            let length = random.between(1, 5000) as usize;
            throw(address, &random.bytes(length));
            // The same behind a header that frames it, so that it reaches the decoders.
            let body_length = random.between(0, 60) as usize;
            let command = random.between(0x0100, 0x0800) as u16;
            throw(address, &pack(command, 1, &random.bytes(body_length)));
        }
    }
    dev.assert_lives();
}

#[test]
fn bodies_that_do_not_parse_are_ignored_on_a_signed_in_connection() {
    let mut random = Random::seeded("bad bodies");
    let home = Home::new();
    let dev = home.start();
    let bob = dev.account("bob").id;
    let mut alice = dev.sign_in("alice", Class::Pc);
    let commands = (0x0201..=0x0215).chain(0x0301..=0x030e).chain(0x0401..=0x040b);
    for command in commands.chain([0x0601, 0x0799, 0x0981, 0xffff]) {
        // Field 1, wire type 2, and a length that the body does not have.
        let seq = alice.seq();
        alice.write(&pack(command, seq, &[0x0a, 0x7f, 1, 2, 3])).expect("the server reads on");
        let length = random.between(1, 40) as usize;
        let noise = random.bytes(length);
        alice.write(&pack(command, seq, &noise)).expect("the server reads on");
    }
    alice.drain();
    assert_eq!(alice.say(bob, "still signed in"), 1);
    dev.assert_lives();
}

#[test]
fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let home = Home::new();
    let dev = home.start();
    let mut alice = dev.sign_in("alice", Class::Pc);
    let seq = alice.seq();
    let text = prost::Message::encode_to_vec(&alice.text_message(dev.account("bob").id, "slow"));
    for byte in pack(command::MSG_DATA, seq, &text) {
        alice.write(&[byte]).expect("the server waits for the rest");
    }
    let ack = alice.wait_for("the ack", |pdu| pdu.command == command::MSG_DATA_ACK);
    let ack: message::ImMsgDataAck = ack.decode();
    assert_eq!(ack.msg_id, 1);
}

#[test]
fn http_requests_beyond_the_rules_are_refused() {
    let home = Home::new();
    let dev = home.start();
    let login = dev.address("login_http");
    assert!(http_get(login, "/nope").starts_with("HTTP/1.1 404"));
    let long = format!("GET /msg_server?{} HTTP/1.1\r\n\r\n", "x".repeat(17 * 1024));
    assert!(http(login, &long).starts_with("HTTP/1.1 431"));
    assert!(http(login, "GET /msg_server HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200"));
    let answer = http_get(login, "/msg_server");
    let body = answer.split_once("\r\n\r\n").expect("a head and a body").1;
    let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let msg = dev.address("msg");
    assert_eq!(json["code"], 0);
    assert_eq!(json["priorIP"], msg.ip().to_string());
    assert_eq!(json["port"], msg.port().to_string(), "a string");
}
