//! The streaming HTTP server over real sockets, on every back end: connections that are kept,
//! pipelining, bodies of any length both ways, time limits, files, and curl as the other side.
#![cfg(feature = "http")]
#![allow(clippy::naive_bytecount)] // a crate for one test would be too much

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use netlib::clock::{Clock, ManualClock, SystemClock};
use netlib::http::{self, Exchange, Files, Flow, RequestHandler, Response, ServerOptions};
use netlib::{
    BackendKind, CloseReason, Conn, ConnOptions, Context, Handler, ListenOptions, Reactor, ReactorConfig, socket,
};
use support::{drive, local, peer, read_some};

type Answer = Option<Box<dyn RequestHandler<State>>>;

#[derive(Default)]
struct State {
    /// Method and path of each request that reached the service.
    served: Vec<String>,
    /// Exchanges that wait for the test to answer them.
    parked: Vec<Exchange>,
    gone: Vec<CloseReason>,
    /// The most bytes that one exchange had waiting to be sent.
    most_queued: u64,
    files: Option<Files>,
}

/// Sends the body back while it comes in.
struct Echo;

impl RequestHandler<State> for Echo {
    fn on_body(&mut self, state: &mut State, cx: &mut Context<State>, exchange: &Exchange, chunk: &[u8]) {
        if exchange.write(cx, chunk.to_vec()) == Ok(Flow::Wait) {
            exchange.pause_body(cx);
        }
        state.most_queued = state.most_queued.max(exchange.conn().queued());
    }

    fn on_drain(&mut self, _: &mut State, cx: &mut Context<State>, exchange: &Exchange) {
        exchange.resume_body(cx);
    }

    fn on_end(&mut self, _: &mut State, cx: &mut Context<State>, exchange: &Exchange) {
        exchange.finish(cx);
    }

    fn on_gone(&mut self, state: &mut State, _: &mut Context<State>, reason: &CloseReason) {
        state.gone.push(reason.clone());
    }
}

/// Takes the body only when the test says so.
struct Hesitant;

impl RequestHandler<State> for Hesitant {
    fn on_end(&mut self, _: &mut State, cx: &mut Context<State>, exchange: &Exchange) {
        exchange.send(cx, Response::new(200).body("taken\n"));
    }
}

/// What a connection becomes by an upgrade.
struct Shout;

impl Handler<State> for Shout {
    fn on_data(&mut self, _: &mut State, _: &mut Context<State>, conn: &Conn, input: &[u8]) -> usize {
        let _ = conn.send(input.to_ascii_uppercase());
        input.len()
    }
}

fn serve(state: &mut State, cx: &mut Context<State>, exchange: &Exchange) -> Answer {
    let head = exchange.head();
    state.served.push(format!("{} {}", head.method(), head.path()));
    match head.path() {
        "/hello" => exchange.send(cx, Response::new(200).body("hello\n")),
        "/echo" => {
            exchange.start(cx, Response::new(200)).unwrap();
            return Some(Box::new(Echo));
        }
        "/buffered" => {
            return Some(http::buffered(|_, cx, exchange, body| {
                exchange.send(cx, Response::new(200).body(format!("{} bytes\n", body.len())));
            }));
        }
        "/later" => {
            // The first is answered last: order must come from the connection, not from chance.
            let number: u64 = head.query().unwrap().parse().unwrap();
            let exchange = exchange.clone();
            cx.after(Duration::from_millis((100 - number) % 7), move |_, cx| {
                exchange.send(cx, Response::new(200).body(format!("<{number}>")));
            });
        }
        "/parked" => state.parked.push(exchange.clone()),
        "/hesitant" => {
            exchange.pause_body(cx);
            state.parked.push(exchange.clone());
            return Some(Box::new(Hesitant));
        }
        "/parts" => {
            exchange.write(cx, "one,").unwrap();
            let exchange = exchange.clone();
            cx.post(move |_, cx| {
                exchange.write(cx, "two").unwrap();
                exchange.finish(cx);
            });
        }
        "/large" => exchange.send(cx, Response::new(200).body(vec![b'x'; 20 << 20])),
        "/panic" => panic!("a service's mistake"),
        "/forget" => {}
        "/forget-later" => return Some(Box::new(Forgetful)),
        "/upgrade" => {
            let response = Response::new(101).header("Connection", "Upgrade").header("Upgrade", "shout");
            exchange.upgrade(cx, &response, Box::new(Shout)).unwrap();
        }
        _ => match &state.files {
            Some(files) => files.answer(cx, exchange),
            None => exchange.send(cx, Response::new(404)),
        },
    }
    None
}

struct Forgetful;
impl RequestHandler<State> for Forgetful {}

struct World {
    reactor: Reactor<State>,
    state: State,
    clock: ManualClock,
    addr: SocketAddr,
}

impl World {
    fn new(kind: BackendKind) -> Self {
        let clock = ManualClock::new();
        let conn = ConnOptions { high_water: 256 << 10, low_water: 64 << 10, ..ConnOptions::default() };
        let options = ServerOptions {
            listen: ListenOptions { conn, ..ListenOptions::default() },
            date: false,
            max_body: 1 << 30,
            ..ServerOptions::default()
        };
        Self::with(kind, Box::new(clock.clone()), clock, options)
    }

    fn with(kind: BackendKind, time: Box<dyn Clock>, clock: ManualClock, options: ServerOptions) -> Self {
        let config = ReactorConfig { backend: Some(kind), clock: time, ..ReactorConfig::default() };
        let mut reactor = Reactor::new(config).unwrap();
        support::runs_on(&mut reactor, kind);
        let listener = socket::bind_tcp(local(), 64).unwrap();
        let addr = listener.local_addr().unwrap();
        http::serve_with(reactor.context(), listener, options, serve).unwrap();
        Self { reactor, state: State::default(), clock, addr }
    }

    /// Real time, for answers by timers.
    fn in_real_time(kind: BackendKind) -> Self {
        Self::with(kind, Box::new(SystemClock), ManualClock::new(), ServerOptions { date: false, ..Default::default() })
    }

    fn connect(&mut self, request: &str) -> TcpStream {
        let mut stream = peer(self.addr);
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// Reads until the answers end in `end`.
    fn until(&mut self, stream: &mut TcpStream, end: &str) -> String {
        let mut received = Vec::new();
        drive(&mut self.reactor, &mut self.state, &format!("an answer that ends in {end:?}"), |_| {
            let over = read_some(stream, &mut received);
            assert!(!over || received.ends_with(end.as_bytes()), "{:?}", String::from_utf8_lossy(&received));
            received.ends_with(end.as_bytes())
        });
        stream.set_nonblocking(false).unwrap();
        String::from_utf8(received).unwrap()
    }

    fn rest(&mut self, stream: &mut TcpStream) -> String {
        let mut received = Vec::new();
        drive(&mut self.reactor, &mut self.state, "the end of the connection", |_| read_some(stream, &mut received));
        String::from_utf8(received).unwrap()
    }

    /// Everything that is answered to `request` up to the end of the connection.
    fn ask(&mut self, request: &str) -> String {
        let mut stream = self.connect(request);
        self.rest(&mut stream)
    }

    fn settle(&mut self) {
        for _ in 0..5 {
            self.reactor.run_once(&mut self.state, Some(Duration::ZERO)).unwrap();
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

fn every_byte_may_come_alone(kind: BackendKind) {
    let mut world = World::new(kind);
    let requests = "POST /buffered HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n\
                    POST /buffered HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nxyz";
    let expected =
        format!("{OK}Content-Length: 8\r\n\r\n5 bytes\n{OK}Connection: close\r\nContent-Length: 8\r\n\r\n3 bytes\n");
    assert_eq!(world.ask(requests), expected);
    let mut stream = peer(world.addr);
    let before = world.reactor.context().stats().bytes_in;
    for (sent, byte) in requests.bytes().enumerate() {
        stream.write_all(&[byte]).unwrap();
        while world.reactor.context().stats().bytes_in < before + sent as u64 + 1 {
            world.reactor.run_once(&mut world.state, Some(support::DEADLINE)).unwrap();
        }
    }
    assert_eq!(world.rest(&mut stream), expected);
}

fn a_hundred_pipelined_requests_are_answered_in_order(kind: BackendKind) {
    let mut world = World::in_real_time(kind);
    let request = |n: u32| format!("GET /later?{n} HTTP/1.1\r\nHost: a\r\n\r\n");
    let requests = (0..100).map(request).collect::<Vec<_>>().concat();
    let mut stream = world.connect(&requests);
    let answers = world.until(&mut stream, "<99>");
    let bodies = (0..100).map(|n| format!("<{n}>")).collect::<Vec<_>>().concat();
    let headless: String = answers.split("HTTP/1.1").filter_map(|answer| answer.split("\r\n\r\n").nth(1)).collect();
    assert_eq!(headless, bodies);
}

fn the_next_request_waits_for_the_answer_before_it(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut stream = world.connect("GET /parked HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    drive(&mut world.reactor, &mut world.state, "the first request", |state| !state.parked.is_empty());
    world.settle();
    assert_eq!(world.state.served, ["GET /parked"]);
    let exchange = world.state.parked.pop().unwrap();
    exchange.send(world.reactor.context(), Response::new(204));
    let answers = world.until(&mut stream, "hello\n");
    assert_eq!(answers, format!("HTTP/1.1 204 No Content\r\n\r\n{OK}Content-Length: 6\r\n\r\nhello\n"));
    assert!(!exchange.is_open());
    exchange.send(world.reactor.context(), Response::new(200)); // says nothing any more
    world.settle();
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    assert!(world.rest(&mut stream).starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"));
}

/// spec: back-pressure. 64 MiB there and back again through a client that reads in bursts.
fn a_large_echo_to_a_slow_reader_is_held_back(kind: BackendKind) {
    const TOTAL: u64 = 64 << 20;
    let mut world = World::new(kind);
    let stream = peer(world.addr);
    let mut writer = stream.try_clone().unwrap();
    let written = std::sync::Arc::new(AtomicU64::new(0));
    let count = std::sync::Arc::clone(&written);
    let upload = thread::spawn(move || {
        writer.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let data = vec![b'x'; 64 << 10];
        for _ in 0..TOTAL >> 16 {
            writer.write_all(b"10000\r\n").unwrap();
            writer.write_all(&data).unwrap();
            writer.write_all(b"\r\n").unwrap();
            count.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        writer.write_all(b"0\r\n\r\n").unwrap();
    });
    // Nobody reads: the upload must come to rest with what sockets and limits hold.
    let mut last = u64::MAX;
    while last != written.load(Ordering::Relaxed) {
        last = written.load(Ordering::Relaxed);
        for _ in 0..10 {
            world.reactor.run_once(&mut world.state, Some(Duration::from_millis(20))).unwrap();
        }
    }
    assert!(last < TOTAL / 2, "{last} bytes went out although nobody reads");
    let mut reader = stream;
    // Not non-blocking: that would be the writer's socket too.
    reader.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (mut received, mut data) = (0, vec![0; 256 << 10]);
    let mut tail = Vec::new();
    drive(&mut world.reactor, &mut world.state, "the echo", |_| {
        while let Ok(count) = reader.read(&mut data) {
            assert_ne!(count, 0, "closed early");
            received += data[..count].iter().filter(|byte| **byte == b'x').count() as u64;
            tail = data[count.saturating_sub(5)..count].to_vec();
        }
        received == TOTAL && tail.ends_with(b"\r\n\r\n")
    });
    upload.join().unwrap();
    // The high mark, and one read's worth beyond it.
    assert!(world.state.most_queued < 256 << 10 | 128 << 10, "{} bytes waited", world.state.most_queued);
    assert!(world.state.most_queued > 64 << 10, "the test did not press");
}

fn slow_clients_are_cut_off(kind: BackendKind) {
    let mut world = World::new(kind);
    let second = Duration::from_secs(1);
    // Head: byte by byte does not help.
    let mut slow = world.connect("GET /");
    for _ in 0..15 {
        slow.write_all(b"x").unwrap();
        world.settle();
        world.clock.advance(second);
    }
    assert!(world.rest(&mut slow).starts_with("HTTP/1.1 408 "));
    // Nothing at all: no answer either.
    let mut silent = world.connect("");
    world.settle();
    world.clock.advance(15 * second);
    assert_eq!(world.rest(&mut silent), "");
    // Between two requests.
    let mut idle = world.connect("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    world.until(&mut idle, "hello\n");
    world.clock.advance(59 * second);
    world.settle();
    idle.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    world.until(&mut idle, "hello\n");
    world.clock.advance(60 * second);
    assert_eq!(world.rest(&mut idle), "");
    // A later request has its own time for its head.
    let mut later = world.connect("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    world.until(&mut later, "hello\n");
    world.clock.advance(50 * second);
    later.write_all(b"GET /hel").unwrap();
    world.settle();
    world.clock.advance(15 * second);
    assert!(world.rest(&mut later).starts_with("HTTP/1.1 408 "));
}

fn a_body_must_keep_its_rate(kind: BackendKind) {
    let mut world = World::new(kind);
    let second = Duration::from_secs(1);
    let head = "POST /buffered HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let mut trickle = world.connect(head);
    let mut steady = world.connect(head);
    world.settle();
    for _ in 0..30 {
        trickle.write_all(b"x").unwrap();
        steady.write_all(&[b'x'; 8192]).unwrap();
        world.settle();
        world.clock.advance(second);
    }
    assert!(world.rest(&mut trickle).starts_with("HTTP/1.1 408 "));
    steady.write_all(&vec![b'x'; 1_000_000 - 30 * 8192]).unwrap();
    assert!(world.until(&mut steady, "1000000 bytes\n").starts_with(OK));
    // Time in which the service has paused the body is not the client's.
    let mut paused = world.connect("POST /hesitant HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    drive(&mut world.reactor, &mut world.state, "the head", |state| !state.parked.is_empty());
    for _ in 0..10 {
        world.clock.advance(20 * second);
        world.settle();
    }
    world.state.parked.pop().unwrap().resume_body(world.reactor.context());
    paused.write_all(b"ok").unwrap();
    world.until(&mut paused, "taken\n");
}

fn a_client_that_takes_nothing_is_dropped(kind: BackendKind) {
    let mut world = World::new(kind);
    let _greedy = world.connect("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    drive(&mut world.reactor, &mut world.state, "the request", |state| !state.served.is_empty());
    world.settle();
    assert_eq!(world.reactor.context().connections(), 1);
    // For a while it takes what the sockets hold.
    let mut periods = 0;
    while world.reactor.context().connections() > 0 {
        world.clock.advance(Duration::from_secs(30));
        world.settle();
        periods += 1;
        assert!(periods < 100);
    }
    assert!(periods > 1, "the first look comes after bytes have moved");
}

fn a_body_that_nobody_wants_is_dropped_or_ends_the_connection(kind: BackendKind) {
    let mut world = World::new(kind);
    let post = |length: usize| format!("POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let small = post(64 << 10) + &"x".repeat(64 << 10) + "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = world.ask(&small);
    assert_eq!(answers.matches("hello\n").count(), 2, "{answers}");
    let answers = world.ask(&(post((64 << 10) + 1) + &"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)));
    assert_eq!(answers, format!("{OK}Connection: close\r\nContent-Length: 6\r\n\r\nhello\n"));
    // In chunks its length shows late.
    let endless = "POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        + &format!("4000\r\n{}\r\n", "x".repeat(0x4000)).repeat(5);
    assert_eq!(world.ask(&endless), format!("{OK}Content-Length: 6\r\n\r\nhello\n"));
}

fn a_sign_to_continue_is_given_when_the_body_is_wanted(kind: BackendKind) {
    let mut world = World::new(kind);
    let head =
        |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    let mut stream = world.connect(&head("/hesitant"));
    drive(&mut world.reactor, &mut world.state, "the head", |state| !state.parked.is_empty());
    world.settle();
    let mut early = Vec::new();
    assert!(!read_some(&mut stream, &mut early) && early.is_empty(), "not before it is wanted");
    stream.set_nonblocking(false).unwrap();
    world.state.parked.pop().unwrap().resume_body(world.reactor.context());
    assert_eq!(world.until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").unwrap();
    world.until(&mut stream, "taken\n");
    // A final answer without the sign: whether the body comes is not known, so it is the last.
    let answer = world.ask(&head("/hello"));
    assert_eq!(answer, format!("{OK}Connection: close\r\nContent-Length: 6\r\n\r\nhello\n"));
    let too_large = head("/buffered").replace("Length: 2", "Length: 99999999999");
    assert!(world.ask(&too_large).starts_with("HTTP/1.1 413 "));
    assert!(world.ask(&head("/hello").replace("100-continue", "more")).starts_with("HTTP/1.1 417 "));
}

fn old_clients_get_no_chunks(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut kept = world.connect("GET /parts HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = world.until(&mut kept, "0\r\n\r\n");
    assert_eq!(answer, format!("{OK}Transfer-Encoding: chunked\r\n\r\n4\r\none,\r\n3\r\ntwo\r\n0\r\n\r\n"));
    let keep = "Connection: keep-alive\r\n";
    assert_eq!(
        world.ask(&format!("GET /parts HTTP/1.0\r\n{keep}\r\n")),
        format!("{OK}Connection: close\r\n\r\none,two")
    );
    let mut kept = world.connect(&format!("GET /hello HTTP/1.0\r\n{keep}\r\n"));
    assert_eq!(world.until(&mut kept, "hello\n"), format!("{OK}{keep}Content-Length: 6\r\n\r\nhello\n"));
    kept.write_all(b"HEAD /hello HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(world.rest(&mut kept), format!("{OK}Connection: close\r\nContent-Length: 6\r\n\r\n"));
    let head = world.ask("HEAD /parts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(head, format!("{OK}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"));
}

fn a_service_that_fails_leaves_an_answer(kind: BackendKind) {
    let mut world = World::new(kind);
    for path in ["/panic", "/forget", "/forget-later"] {
        let answer = world.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 500 "), "{path}: {answer}");
    }
    let parked = world.connect("GET /parked HTTP/1.1\r\nHost: a\r\n\r\n");
    drive(&mut world.reactor, &mut world.state, "the request", |state| !state.parked.is_empty());
    world.state.parked.clear(); // forgotten later
    let mut parked = parked;
    assert!(world.rest(&mut parked).starts_with("HTTP/1.1 500 "));
}

fn a_client_that_goes_is_noticed(kind: BackendKind) {
    let mut world = World::new(kind);
    let stream = world.connect("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123");
    drive(&mut world.reactor, &mut world.state, "the request", |state| !state.served.is_empty());
    drop(stream);
    drive(&mut world.reactor, &mut world.state, "the news", |state| !state.gone.is_empty());
    // So is one whose request is refused in its middle.
    let before = world.state.gone.len();
    let _refused =
        world.connect("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno size\r\n");
    drive(&mut world.reactor, &mut world.state, "the other news", |state| state.gone.len() == before + 1);
    // One that only ends its side still gets its answer.
    let mut stream = world.connect("GET /parked HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drive(&mut world.reactor, &mut world.state, "the request", |state| !state.parked.is_empty());
    world.settle();
    world.state.parked.pop().unwrap().send(world.reactor.context(), Response::new(200).body("late\n"));
    assert!(world.rest(&mut stream).ends_with("late\n"));
}

fn an_upgraded_connection_keeps_what_was_sent_behind_the_request(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut stream = world.connect("GET /upgrade HTTP/1.1\r\nHost: a\r\n\r\nearly");
    let answer = world.until(&mut stream, "EARLY");
    assert_eq!(answer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nEARLY");
    world.clock.advance(Duration::from_hours(1)); // the limits of HTTP are not its own
    world.settle();
    stream.write_all(b"late").unwrap();
    world.until(&mut stream, "LATE");
}

/// What follows a request that two readers could understand differently is never served.
fn nothing_is_smuggled_behind_a_refused_request(kind: BackendKind) {
    let mut world = World::new(kind);
    let hidden = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, status) in [
        ("POST /buffered HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST /buffered HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 33\r\n\r\n", 400),
        ("POST /buffered HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        ("POST /buffered HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
        ("POST /buffered HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n", 400),
        ("POST /buffered HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0 \r\n\r\n", 400),
        ("GET /buffered HTTP/1.1\r\nHost: a\r\nA: b\r\n folded\r\n\r\n", 400),
        ("GET /buffered HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", 400),
        ("GET /buffered HTTP/1.1\r\n\r\n", 400),
        ("GET /buffered HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ] {
        world.state.served.clear();
        let answer = world.ask(&format!("{request}{hidden}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer:?}");
        assert!(!world.state.served.iter().any(|served| served == "GET /hello"), "{request:?}");
    }
}

/// A directory that vanishes.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netlib-http-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("root/dir")).unwrap();
        fs::write(path.join("secret.txt"), "secret").unwrap();
        fs::write(path.join("root/abc.txt"), "0123456789").unwrap();
        fs::write(path.join("root/.hidden"), "hidden").unwrap();
        fs::write(path.join("root/dir/index.html"), "index").unwrap();
        fs::write(path.join("root/large.bin"), pattern(5 << 20)).unwrap();
        symlink("../secret.txt", path.join("root/out")).unwrap();
        symlink("abc.txt", path.join("root/in")).unwrap();
        Self(path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| b'a' + (n % 23) as u8).collect()
}

fn files_answer_with_what_is_asked_of_them(kind: BackendKind) {
    let tree = Tree::new(kind.name());
    let mut world = World::new(kind);
    world.state.files = Some(Files::new(tree.0.join("root")).unwrap().index("index.html"));
    let mut get = |line: &str, headers: &str| {
        world.ask(&format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n"))
    };
    let whole = get("GET /abc.txt", "");
    assert!(whole.starts_with(OK) && whole.ends_with("\r\n\r\n0123456789"), "{whole}");
    assert!(whole.contains("Content-Type: text/plain; charset=utf-8\r\n") && whole.contains("Content-Length: 10\r\n"));
    let header = |name: &str| whole.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let (etag, modified) = (header("ETag: "), header("Last-Modified: "));
    let head = get("HEAD /abc.txt", "");
    assert_eq!(head, whole.strip_suffix("0123456789").unwrap());

    let part = get("GET /abc.txt", "Range: bytes=2-4\r\n");
    assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\n234"), "{part}");
    assert!(part.contains("Content-Range: bytes 2-4/10\r\n") && part.contains("Content-Length: 3\r\n"), "{part}");
    let parts = get("GET /abc.txt", "Range: bytes=0-1,-2\r\n");
    let (head, body) = parts.split_once("\r\n\r\n").unwrap();
    let boundary = head.split_once("boundary=").unwrap().1.lines().next().unwrap();
    let expected = format!(
        "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
         \r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 8-9/10\r\n\r\n89\
         \r\n--{boundary}--\r\n"
    );
    assert_eq!(body, expected);
    assert!(head.contains(&format!("Content-Length: {}", expected.len())));
    let none = get("GET /abc.txt", "Range: bytes=10-\r\n");
    assert!(none.starts_with("HTTP/1.1 416 ") && none.contains("Content-Range: bytes */10\r\n"), "{none}");

    for condition in [format!("If-None-Match: {etag}\r\n"), format!("If-Modified-Since: {modified}\r\n")] {
        let answer = get("GET /abc.txt", &condition);
        assert!(answer.starts_with("HTTP/1.1 304 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    for (line, status) in [
        ("GET /dir/", 200),
        ("GET /in", 200),
        ("GET /dir", 301),
        ("GET /..%2fsecret.txt", 400),
        ("GET /../secret.txt", 400),
        ("GET /out", 404),
        ("GET /.hidden", 404),
        ("GET /abc.txt/x", 404),
        ("GET /none", 404),
        ("POST /abc.txt", 405),
    ] {
        let answer = get(line, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert!(status != 405 || answer.contains("Allow: GET, HEAD\r\n"));
    }
    assert!(get("GET /large.bin", "").into_bytes().ends_with(&pattern(5 << 20)));
}

/// curl as the other side, in real time.
fn curl_understands_it(kind: BackendKind) {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED curl_understands_it: curl is not installed");
        return;
    }
    let tree = Tree::new(&format!("curl-{}", kind.name()));
    let mut options = ServerOptions { max_body: 1 << 30, ..Default::default() };
    options.max_requests = 3;
    let mut world = World::with(kind, Box::new(SystemClock), ManualClock::new(), options);
    world.state.files = Some(Files::new(tree.0.join("root")).unwrap());
    let large = tree.0.join("root/large.bin");
    let mut curl = |arguments: &[&str]| {
        let arguments: Vec<String> =
            arguments.iter().map(|text| text.replace("URL", &format!("http://{}", world.addr))).collect();
        let process = Command::new("curl")
            .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "20"])
            .args(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = thread::spawn(move || process.wait_with_output().unwrap());
        drive(&mut world.reactor, &mut world.state, "curl", |_| output.is_finished());
        let output = output.join().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (body, log) = curl(&["-v", "URL/hello", "URL/parts", "URL/hello", "URL/hello"]);
    assert_eq!(body, b"hello\none,twohello\nhello\n");
    assert_eq!(log.matches("Re-using existing connection").count(), 2, "three requests are the most: {log}");

    let path = large.to_str().unwrap();
    let (echo, log) = curl(&["-v", "-T", path, "-H", "Transfer-Encoding: chunked", "-X", "POST", "URL/echo"]);
    assert!(echo == pattern(5 << 20) && log.contains("> Transfer-Encoding: chunked"), "{log}");
    let (answer, log) = curl(&["-v", "-H", "Expect: 100-continue", "-T", path, "URL/buffered"]);
    assert_eq!(answer, format!("{} bytes\n", 5 << 20).as_bytes());
    assert!(log.contains("100 Continue"), "{log}");

    assert!(curl(&["URL/large.bin"]).0 == pattern(5 << 20));
    assert!(curl(&["--range", "100-4000000", "URL/large.bin"]).0 == pattern(5 << 20)[100..=4_000_000]);
    let (head, _) = curl(&["--head", "URL/large.bin"]);
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with(OK) && head.contains(&format!("Content-Length: {}\r\n", 5 << 20)), "{head}");
    assert!(head.contains("Date: "), "{head}");
    let distinct: BTreeSet<_> = world.state.served.iter().collect();
    assert!(distinct.len() >= 5, "{distinct:?}");
}

/// A service may say per request how long a body may be.
fn a_route_has_its_own_limit(kind: BackendKind) {
    struct Routes;
    impl http::Service<State> for Routes {
        fn on_request(&mut self, state: &mut State, cx: &mut Context<State>, exchange: &Exchange) -> Answer {
            serve(state, cx, exchange)
        }
        fn max_body(&self, head: &http::RequestHead) -> Option<u64> {
            (head.query() == Some("short")).then_some(3)
        }
    }
    let mut world = World::new(kind);
    let listener = socket::bind_tcp(local(), 64).unwrap();
    world.addr = listener.local_addr().unwrap();
    http::serve_with(world.reactor.context(), listener, ServerOptions::default(), Routes).unwrap();
    let post = |path: &str, body: &str| {
        format!(
            "POST /buffered{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n"
        )
    };
    assert!(world.ask(&post("", "4\r\nabcd\r\n")).ends_with("4 bytes\n"));
    assert!(world.ask(&post("?short", "3\r\nabc\r\n")).ends_with("3 bytes\n"));
    assert!(world.ask(&post("?short", "2\r\nab\r\n2\r\ncd\r\n")).starts_with("HTTP/1.1 413 "));
}

fn handles_do_not_keep_a_closed_connection_alive(kind: BackendKind) {
    let mut world = World::new(kind);
    let stream = world.connect("GET /parked HTTP/1.1\r\nHost: a\r\n\r\n");
    drive(&mut world.reactor, &mut world.state, "the request", |state| !state.parked.is_empty());
    drop(stream);
    // The client has only ended its side as far as anybody can know; the answer finds out.
    let exchange = world.state.parked.pop().unwrap();
    while exchange.is_open() {
        if exchange.write(world.reactor.context(), vec![b'x'; 1 << 16]).is_err() {
            break;
        }
        world.settle();
    }
    drop(exchange);
    world.settle();
    assert_eq!(world.reactor.context().connections(), 0);
}

on_every_backend!(
    every_byte_may_come_alone,
    a_hundred_pipelined_requests_are_answered_in_order,
    the_next_request_waits_for_the_answer_before_it,
    a_large_echo_to_a_slow_reader_is_held_back,
    slow_clients_are_cut_off,
    a_body_must_keep_its_rate,
    a_client_that_takes_nothing_is_dropped,
    a_body_that_nobody_wants_is_dropped_or_ends_the_connection,
    a_sign_to_continue_is_given_when_the_body_is_wanted,
    old_clients_get_no_chunks,
    a_service_that_fails_leaves_an_answer,
    a_client_that_goes_is_noticed,
    an_upgraded_connection_keeps_what_was_sent_behind_the_request,
    nothing_is_smuggled_behind_a_refused_request,
    files_answer_with_what_is_asked_of_them,
    curl_understands_it,
    a_route_has_its_own_limit,
    handles_do_not_keep_a_closed_connection_alive,
);
