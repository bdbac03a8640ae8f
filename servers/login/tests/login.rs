//! The login server from outside: clients on both ports, msg servers on theirs.

#[path = "../../common/tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::time::Instant;

use support::{DEADLINE, RawPeer, assault, http, http_get, legacy_cluster};
use tt_common::{LinkRole, RoleHandle};
use tt_login::Config;
use tt_proto::im::base_define::ResultType;
use tt_proto::im::login::{ImMsgServReq, ImMsgServRsp};
use tt_proto::im::other::ImHeartBeat;
use tt_proto::im::server::{ImMsgServInfo, ImUserCntUpdate};
use tt_proto::{Body, pdu};

struct Server {
    role: Option<RoleHandle>,
    http: SocketAddr,
    clients: SocketAddr,
    msg: SocketAddr,
    metrics: SocketAddr,
}

impl Server {
    fn start() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let cluster = legacy_cluster();
        let config =
            Config { http_listen: any, client_listen: any, msg_listen: any, metrics_listen: any, cluster, ..config };
        let listeners = config.bind().expect("free ports");
        let addr = |listener: &std::net::TcpListener| listener.local_addr().expect("bound");
        let (http, clients) = (addr(&listeners.http), addr(&listeners.clients));
        let (msg, metrics) = (addr(&listeners.msg), addr(&listeners.metrics));
        let role = tt_login::spawn(config, listeners).expect("a thread");
        role.wait_ready(DEADLINE).expect("it serves");
        Self { role: Some(role), http, clients, msg, metrics }
    }

    /// A greeted msg server that has registered.
    fn register(&self, port: u16, current: u32, max: u32) -> RawPeer {
        let mut peer = RawPeer::connect(self.msg);
        peer.greet(LinkRole::Msg);
        peer.send(0, &info(port, current, max));
        self.wait_for(&format!("\"port\" : \"{port}\""), &[(port, current, max)]);
        peer
    }

    /// Asks over HTTP until the answer contains `text`.
    fn wait_for(&self, text: &str, because: &[(u16, u32, u32)]) -> String {
        let start = Instant::now();
        loop {
            let answer = http_get(self.http, "/msg_server");
            if answer.contains(text) {
                return answer;
            }
            assert!(start.elapsed() < DEADLINE, "never {text} after {because:?}, but {answer}");
        }
    }

    /// Reads the metrics until a line is there.
    fn wait_for_metric(&self, line: &str) {
        let start = Instant::now();
        loop {
            let metrics = http_get(self.metrics, "/metrics");
            if metrics.lines().any(|found| found == line) {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "never {line} in {metrics}");
        }
    }

    /// Asks with a PDU.
    fn ask(&self, seq: u16) -> ImMsgServRsp {
        let mut client = RawPeer::connect(self.clients);
        client.send(seq, &ImMsgServReq::default());
        let (echoed, answer) = client.receive();
        assert_eq!(echoed, seq);
        client.wait_closed();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(role) = self.role.take() {
            role.stop();
            role.join();
        }
    }
}

fn info(port: u16, current: u32, max: u32) -> ImMsgServInfo {
    ImMsgServInfo {
        ip1: "127.0.0.1".to_owned(),
        ip2: "127.0.0.1".to_owned(),
        port: u32::from(port),
        max_conn_cnt: max,
        cur_conn_cnt: current,
        host_name: "test".to_owned(),
    }
}

fn count(up: bool) -> ImUserCntUpdate {
    ImUserCntUpdate { user_action: if up { 1 } else { 2 }, user_id: 5 }
}

#[test]
fn http_answers_have_the_recorded_bytes() {
    let server = Server::with(Config { msfs: "http://127.0.0.1:28700/".to_owned(), ..Config::default() });
    let _msg = server.register(28_000, 0, 100);
    let recorded = include_str!("recorded/msg_server.http");
    assert_eq!(http_get(server.http, "/msg_server"), recorded);
    assert_eq!(http(server.http, "GET /msg_server HTTP/1.0\r\n\r\n"), recorded, "HTTP/1.0 without a host");
    assert_eq!(http_get(server.http, "/msg_server?user=1"), recorded, "whatever follows");
    assert_eq!(http_get(server.http, "/msg_servers/x"), recorded, "only the beginning counts");
    let post = "POST /msg_server HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(http(server.http, post), recorded, "the method is not looked at");
}

#[test]
fn without_a_msg_server_and_with_full_ones_the_codes_are_1_and_2() {
    let server = Server::start();
    let none = http_get(server.http, "/msg_server");
    assert!(none.starts_with("HTTP/1.1 200 OK\r\n"), "{none}");
    assert!(none.ends_with("{\n   \"code\" : 1,\n   \"msg\" : \"没有msg_server\"\n}\n"), "{none}");
    assert_eq!(server.ask(9).result_code(), ResultType::RefuseReasonNoMsgServer);

    let mut peer = RawPeer::connect(server.msg);
    peer.greet(LinkRole::Msg);
    peer.send(0, &info(8000, 7, 7));
    let full = server.wait_for("\"code\" : 2", &[(8000, 7, 7)]);
    assert!(full.ends_with("{\n   \"code\" : 2,\n   \"msg\" : \"负载过高\"\n}\n"), "{full}");
    assert_eq!(server.ask(10).result_code(), ResultType::RefuseReasonMsgServerFull);
}

#[test]
fn other_paths_are_404_and_a_long_head_is_431() {
    let server = Server::start();
    assert!(http_get(server.http, "/nope").starts_with("HTTP/1.1 404 "));
    assert!(http_get(server.http, "/").starts_with("HTTP/1.1 404 "));
    let long = format!("/msg_server?{}", "x".repeat(17 * 1024));
    assert!(http_get(server.http, &long).starts_with("HTTP/1.1 431 "));
}

#[test]
fn the_pdu_port_answers_with_the_same_seq_and_closes() {
    let server = Server::start();
    let _msg = server.register(8000, 0, 100);
    let answer = server.ask(0x1234);
    assert_eq!(answer.result_code(), ResultType::RefuseReasonNone);
    assert_eq!((answer.prior_ip.as_deref(), answer.port), (Some("127.0.0.1"), Some(8000)));

    // Other commands are ignored, and the connection stays for the question.
    let mut client = RawPeer::connect(server.clients);
    client.send(1, &ImHeartBeat::default());
    client.write(&pdu::encode_raw(0x7fff, 2, b"whatever"));
    client.write(&pdu::encode_raw(ImMsgServReq::COMMAND.id(), 3, &[0xff; 9]));
    let (seq, answer) = client.receive::<ImMsgServRsp>();
    assert_eq!((seq, answer.port), (3, Some(8000)), "there is nothing to parse in the question");
    client.wait_closed();
}

/// D1: the recorded server took registrations from clients.
#[test]
fn a_client_cannot_register_as_a_msg_server() {
    let server = Server::start();
    let mut client = RawPeer::connect(server.clients);
    client.send(0, &info(6666, 0, 100));
    client.send(1, &ImMsgServReq::default());
    let (_, answer) = client.receive::<ImMsgServRsp>();
    assert_eq!(answer.result_code(), ResultType::RefuseReasonNoMsgServer);

    // Nor does another kind of server.
    let mut route = RawPeer::connect(server.msg);
    route.greet(LinkRole::Route);
    route.wait_closed();
}

/// D4: the recorded server added a repeated registration to the total again.
#[test]
fn registering_again_replaces_and_counts_never_go_below_zero() {
    let server = Server::start();
    let mut peer = server.register(8000, 5, 100);
    peer.send(0, &info(8001, 2, 100));
    server.wait_for("\"port\" : \"8001\"", &[]);
    server.wait_for_metric("teamtalk_msg_servers 1");
    server.wait_for_metric("teamtalk_connections 2");
    for _ in 0..5 {
        peer.send(0, &count(false));
    }
    peer.send(0, &count(true));
    server.wait_for_metric("teamtalk_connections 1");
}

#[test]
fn the_least_loaded_is_chosen_and_a_lost_link_is_forgotten() {
    let server = Server::start();
    let mut first = RawPeer::connect(server.msg);
    first.greet(LinkRole::Msg);
    first.send(0, &info(8001, 3, 100));
    server.wait_for("\"port\" : \"8001\"", &[(8001, 3, 100)]);
    let second = server.register(8002, 1, 100);
    server.wait_for_metric("teamtalk_connections 4");
    // It was the emptier one until these came.
    for _ in 0..3 {
        first.send(0, &count(false));
    }
    server.wait_for("\"port\" : \"8001\"", &[]);
    drop(first);
    server.wait_for("\"port\" : \"8002\"", &[]);
    server.wait_for_metric("teamtalk_connections 1");
    drop(second);
    server.wait_for("\"code\" : 1", &[]);
    server.wait_for_metric("teamtalk_connections 0");
}

#[test]
fn a_msg_server_that_does_not_greet_is_served() {
    let server = Server::start();
    let mut legacy = RawPeer::connect(server.msg);
    legacy.send(0, &info(8000, 0, 100));
    server.wait_for("\"port\" : \"8000\"", &[]);
}

#[test]
fn nonsense_from_a_msg_server_registers_nothing_and_keeps_the_link() {
    let server = Server::start();
    let mut peer = RawPeer::connect(server.msg);
    peer.greet(LinkRole::Msg);
    for body in [&[0xff; 30][..], &[], &[0x0a, 0x7f]] {
        peer.write(&pdu::encode_raw(ImMsgServInfo::COMMAND.id(), 0, body));
        peer.write(&pdu::encode_raw(ImUserCntUpdate::COMMAND.id(), 0, body));
    }
    peer.send(0, &ImUserCntUpdate { user_action: 3, user_id: 1 });
    peer.write(&pdu::encode_raw(0x7777, 0, &[]));
    server.wait_for_metric("teamtalk_unknown_commands_total 1");
    assert!(http_get(server.http, "/msg_server").contains("\"code\" : 1"));
    peer.send(0, &info(8000, 0, 100));
    server.wait_for("\"port\" : \"8000\"", &[]);
}

#[test]
fn no_bytes_on_any_port_kill_the_server() {
    let server = Server::start();
    assault(server.clients);
    assault(server.msg);
    for addr in [server.http, server.metrics] {
        for length in 0u8..=17 {
            let mut peer = RawPeer::connect(addr);
            peer.write(&[0, 0, 0, length, 0, 1, 0, 0, 0, 7, 7, 1, 0, 0, 0, 0]);
            let _ = peer.stream.write_all(b"\r\n\r\n");
            peer.wait_closed();
        }
    }
    let _msg = server.register(8000, 0, 100);
    assert_eq!(server.ask(1).port, Some(8000));
}

#[test]
fn it_stops_while_clients_and_msg_servers_are_connected() {
    let mut server = Server::start();
    let mut msg = server.register(8000, 0, 100);
    let role = server.role.take().expect("running");
    role.stop();
    msg.wait_closed();
    drop(msg);
    role.join();
    assert!(std::net::TcpStream::connect(server.http).is_err(), "nobody listens any more");
}
