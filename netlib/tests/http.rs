//! The simple HTTP server and the client over real sockets, on every back end (spec/netlib.md G12.2, G12.3).
//! Connections that are kept, streams and files are in `http_server.rs`.
#![cfg(feature = "http")]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlib::clock::ManualClock;
use netlib::http::{self, ClientError, ClientResponse, Response, ServerOptions};
use netlib::{BackendKind, CloseReason, Reactor, ReactorConfig, socket};
use support::{drive, local, peer, read_some};

#[derive(Default)]
struct State {
    /// Method, target and body of each request that reached the service.
    served: Vec<String>,
    /// What the client was told.
    results: Vec<Result<ClientResponse, ClientError>>,
}

struct World {
    reactor: Reactor<State>,
    state: State,
    /// Time stands still unless a test moves it, so no limit passes by accident.
    clock: ManualClock,
    addr: SocketAddr,
}

impl World {
    fn new(kind: BackendKind) -> Self {
        let clock = ManualClock::new();
        let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
        let mut reactor = Reactor::new(config).unwrap();
        support::runs_on(&mut reactor, kind);
        let listener = socket::bind_tcp(local(), 64).unwrap();
        let addr = listener.local_addr().unwrap();
        let options = ServerOptions {
            max_body: 100,
            keep_alive: None,
            date: false,
            require_host: false,
            ..ServerOptions::default()
        };
        http::serve(reactor.context(), listener, options, |state: &mut State, _, request| {
            let body = String::from_utf8_lossy(request.body);
            state.served.push(format!("{} {} {body}", request.method, request.target));
            match request.path() {
                "/hello" => Response::new(200).header("Content-Type", "text/plain").body("hello\n"),
                "/large" => Response::new(200).body(vec![b'x'; 6 << 20]),
                "/msg_server" => recorded(request.header("host")),
                _ => Response::new(404),
            }
        })
        .unwrap();
        Self { reactor, state: State::default(), clock, addr }
    }

    /// Sends a request in pieces of `step` bytes, each received before the next is sent, and
    /// returns everything up to the end of the connection.
    fn ask_in_steps(&mut self, request: &[u8], step: usize) -> String {
        let mut stream = peer(self.addr);
        let mut total = self.reactor.context().stats().bytes_in;
        for piece in request.chunks(step) {
            stream.write_all(piece).unwrap();
            total += piece.len() as u64;
            self.until_received(total);
        }
        self.read_to_end(stream)
    }

    fn ask(&mut self, request: &str) -> String {
        let mut stream = peer(self.addr);
        stream.write_all(request.as_bytes()).unwrap();
        self.read_to_end(stream)
    }

    fn until_received(&mut self, total: u64) {
        while self.reactor.context().stats().bytes_in < total {
            self.reactor.run_once(&mut self.state, Some(support::DEADLINE)).unwrap();
        }
    }

    fn read_to_end(&mut self, mut stream: TcpStream) -> String {
        let mut received = Vec::new();
        drive(&mut self.reactor, &mut self.state, "the end of the answer", |_| read_some(&mut stream, &mut received));
        String::from_utf8(received).unwrap()
    }

    fn get(&mut self, addr: SocketAddr, path: &str) {
        let limit = Duration::from_secs(3);
        http::get(self.reactor.context(), addr, "test", path, limit, |state: &mut State, _, result| {
            state.results.push(result);
        });
    }

    fn result(&mut self) -> Result<ClientResponse, ClientError> {
        drive(&mut self.reactor, &mut self.state, "a result", |state| !state.results.is_empty());
        self.state.results.remove(0)
    }
}

/// The header of the recorded login server: its order, and no space behind the colons.
fn recorded(host: Option<&str>) -> Response {
    let body = format!("{{\n   \"host\" : \"{}\"\n}}\n", host.unwrap_or_default());
    Response::new(200)
        .header_raw("Connection:close")
        .header_raw(&format!("Content-Length:{}", body.len()))
        .header_raw("Content-Type:text/html;charset=utf-8")
        .body(body)
}

/// A server that reads one request, says `answer` and hangs up.
fn scripted(answer: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind(local()).unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        // The client may hang up in the middle of an answer that it does not like.
        let _ = stream.write_all(&answer);
        String::from_utf8(request).unwrap()
    });
    (addr, thread)
}

const HELLO: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 6\r\n\r\nhello\n";

fn a_request_may_arrive_byte_by_byte(kind: BackendKind) {
    let mut world = World::new(kind);
    assert_eq!(world.ask_in_steps(b"GET /hello?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", 1), HELLO);
    let answer = world.ask_in_steps(b"\r\n\r\nPOST /post HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", 1);
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert_eq!(world.state.served, ["GET /hello?x=1 ", "POST /post body"]);
}

fn headers_keep_their_order_and_spelling(kind: BackendKind) {
    let mut world = World::new(kind);
    assert_eq!(
        world.ask("GET /msg_server HTTP/1.0\r\nHOST: me\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nConnection:close\r\nContent-Length:21\r\nContent-Type:text/html;charset=utf-8\r\n\r\n\
         {\n   \"host\" : \"me\"\n}\n"
    );
}

fn head_is_answered_without_the_body(kind: BackendKind) {
    let mut world = World::new(kind);
    let answer = world.ask("HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer, HELLO.strip_suffix("hello\n").unwrap());
}

fn only_the_first_of_pipelined_requests_is_served(kind: BackendKind) {
    let mut world = World::new(kind);
    let answer = world.ask("GET /hello HTTP/1.1\r\n\r\nGET /other HTTP/1.1\r\n\r\n");
    assert_eq!(answer, HELLO);
    assert_eq!(world.state.served, ["GET /hello "]);
}

fn an_answer_above_the_output_limit_arrives_whole(kind: BackendKind) {
    let mut world = World::new(kind);
    let answer = world.ask("GET /large HTTP/1.1\r\n\r\n");
    assert!(answer.len() > 6 << 20 && answer.ends_with('x'));
}

fn a_head_over_sixteen_kib_is_431(kind: BackendKind) {
    let mut world = World::new(kind);
    let head = |length: usize| {
        let frame = "GET /hello HTTP/1.1\r\nA: \r\n\r\n".len();
        format!("GET /hello HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length - frame))
    };
    assert_eq!(world.ask(&head(16 * 1024)), HELLO);
    assert!(world.ask(&head(16 * 1024 + 1)).starts_with("HTTP/1.1 431 "));
    let endless = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(16 * 1024));
    assert!(world.ask(&endless).starts_with("HTTP/1.1 431 "), "without waiting for its end");
    assert!(world.ask(&"x".repeat(8 * 1024 + 1)).starts_with("HTTP/1.1 414 "), "a line has a limit of its own");
    assert_eq!(world.state.served.len(), 1);
}

fn faulty_requests_are_refused_with_their_status(kind: BackendKind) {
    let mut world = World::new(kind);
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx", 400),
        ("GET / HTTP/1.1\r\nExpect: miracles\r\n\r\n", 417),
        ("POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("GET / HTTP/9.9\r\n\r\n", 505),
    ] {
        let answer = world.ask(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
    }
    assert_eq!(world.state.served, [""; 0]);
}

fn a_client_that_trickles_is_answered_408_at_the_limit(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut stream = peer(world.addr);
    let mut sent = 0;
    for _ in 0..14 {
        stream.write_all(b"x").unwrap();
        sent += 1;
        world.until_received(sent);
        world.clock.advance(Duration::from_secs(1));
    }
    let mut early = Vec::new();
    world.reactor.run_once(&mut world.state, Some(Duration::ZERO)).unwrap();
    assert!(!read_some(&mut stream, &mut early) && early.is_empty(), "a second is left");
    world.clock.advance(Duration::from_secs(1));
    assert!(world.read_to_end(stream).starts_with("HTTP/1.1 408 "));
}

fn a_client_that_expects_it_is_told_to_continue(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut stream = peer(world.addr);
    stream.write_all(b"POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").unwrap();
    let mut received = Vec::new();
    drive(&mut world.reactor, &mut world.state, "100 Continue", |_| {
        read_some(&mut stream, &mut received);
        received.ends_with(b"\r\n\r\n")
    });
    assert_eq!(received, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.set_nonblocking(false).unwrap();
    stream.write_all(b"ok").unwrap();
    assert!(world.read_to_end(stream).starts_with("HTTP/1.1 404 "));
    assert_eq!(world.state.served, ["POST /x ok"]);
}

fn the_client_fetches_what_the_server_serves(kind: BackendKind) {
    let mut world = World::new(kind);
    let addr = world.addr;
    world.get(addr, "/hello?a=b");
    let response = world.result().unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &b"hello\n"[..]));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    world.get(addr, "/nowhere");
    assert_eq!(world.result().unwrap().status, 404, "a status is an answer");
    assert_eq!(world.state.served, ["GET /hello?a=b ", "GET /nowhere "]);
}

fn the_client_understands_every_way_to_end_a_body(kind: BackendKind) {
    let mut world = World::new(kind);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
        "HTTP/1.0 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let (addr, server) = scripted(answer);
        world.get(addr, "/");
        let response = world.result().unwrap();
        assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]), "{answer:?}");
        assert!(server.join().unwrap().starts_with("GET / HTTP/1.1\r\nHost: test\r\n"));
    }
}

fn the_client_names_what_is_wrong_with_an_answer(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut endless = String::from("HTTP/1.1 200 OK\r\n\r\n");
    write!(endless, "{}", "x".repeat((1 << 20) + 1)).unwrap();
    for (answer, error) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", ClientError::Malformed),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", ClientError::Malformed),
        ("SSH-2.0-OpenSSH\r\n\r\n", ClientError::Malformed),
        ("", ClientError::Malformed),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n", ClientError::TooLarge),
        (&endless, ClientError::TooLarge),
    ] {
        let (addr, server) = scripted(answer);
        world.get(addr, "/");
        assert_eq!(world.result(), Err(error), "{:?}", &answer[..answer.len().min(60)]);
        server.join().unwrap();
    }
}

fn the_client_reports_a_refused_connect_and_a_silent_server(kind: BackendKind) {
    let mut world = World::new(kind);
    let listener = TcpListener::bind(local()).unwrap();
    let addr = listener.local_addr().unwrap();
    world.get(addr, "/");
    let (_silent, _) = listener.accept().unwrap(); // the kernel has connected it meanwhile
    world.reactor.run_once(&mut world.state, Some(Duration::ZERO)).unwrap();
    assert!(world.state.results.is_empty());
    world.clock.advance(Duration::from_secs(3));
    assert_eq!(world.result(), Err(ClientError::Timeout));

    drop(listener);
    world.get(addr, "/");
    let refused = CloseReason::ConnectFailed(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(world.result(), Err(ClientError::Connection(refused)));
}

fn a_target_that_would_smuggle_a_line_is_refused_later_not_at_once(kind: BackendKind) {
    let mut world = World::new(kind);
    let addr = world.addr;
    for path in ["/a b", "/\r\nHost: other", "nowhere", ""] {
        world.get(addr, path);
        assert!(world.state.results.is_empty(), "not from within the call");
        assert_eq!(world.result(), Err(ClientError::BadTarget));
    }
}

on_every_backend!(
    a_request_may_arrive_byte_by_byte,
    headers_keep_their_order_and_spelling,
    head_is_answered_without_the_body,
    only_the_first_of_pipelined_requests_is_served,
    an_answer_above_the_output_limit_arrives_whole,
    a_head_over_sixteen_kib_is_431,
    faulty_requests_are_refused_with_their_status,
    a_client_that_trickles_is_answered_408_at_the_limit,
    a_client_that_expects_it_is_told_to_continue,
    the_client_fetches_what_the_server_serves,
    the_client_understands_every_way_to_end_a_body,
    the_client_names_what_is_wrong_with_an_answer,
    the_client_reports_a_refused_connect_and_a_silent_server,
    a_target_that_would_smuggle_a_line_is_refused_later_not_at_once,
);
