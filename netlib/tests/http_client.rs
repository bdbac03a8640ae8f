//! The HTTP client beyond the simple GET: bodies streamed both ways, kept connections, limits
//! (spec/netlib.md G12.2), on every back end.
#![cfg(feature = "http")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlib::clock::ManualClock;
use netlib::http::{
    self, Call, ClientError, ClientRequest, ClientResponse, Exchange, Flow, Pool, PoolOptions, RequestHandler,
    Response, ResponseHandler, ServerOptions,
};
use netlib::{BackendKind, CloseReason, Context, Reactor, ReactorConfig, socket};
use support::{drive, local};

#[derive(Default)]
struct State {
    results: Vec<Result<ClientResponse, ClientError>>,
    /// Connections that the server has seen requests on, by the client's port.
    ports: Vec<u16>,
    received: u64,
    done: Vec<Result<(), ClientError>>,
    chunk_while_paused: bool,
    paused: bool,
}

struct World {
    reactor: Reactor<State>,
    state: State,
    clock: ManualClock,
    addr: SocketAddr,
}

struct Echo;

impl RequestHandler<State> for Echo {
    fn on_body(&mut self, _: &mut State, cx: &mut Context<State>, exchange: &Exchange, chunk: &[u8]) {
        if exchange.write(cx, chunk.to_vec()) == Ok(Flow::Wait) {
            exchange.pause_body(cx);
        }
    }
    fn on_drain(&mut self, _: &mut State, cx: &mut Context<State>, exchange: &Exchange) {
        exchange.resume_body(cx);
    }
    fn on_end(&mut self, _: &mut State, cx: &mut Context<State>, exchange: &Exchange) {
        exchange.finish(cx);
    }
}

fn serve(state: &mut State, cx: &mut Context<State>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<State>>> {
    state.ports.push(exchange.conn().peer_addr().port().expect("TCP"));
    match exchange.head().path() {
        "/echo" => {
            exchange.start(cx, Response::new(200)).unwrap();
            return Some(Box::new(Echo));
        }
        "/close" => exchange.send(cx, Response::new(200).header("Connection", "close").body("last")),
        "/refuse" => exchange.send(cx, Response::new(403)),
        _ => exchange.send(cx, Response::new(200).body("hello")),
    }
    None
}

impl World {
    fn new(kind: BackendKind) -> Self {
        let clock = ManualClock::new();
        let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
        let mut reactor = Reactor::new(config).unwrap();
        support::runs_on(&mut reactor, kind);
        let listener = socket::bind_tcp(local(), 64).unwrap();
        let addr = listener.local_addr().unwrap();
        let options = ServerOptions { max_body: 1 << 30, ..ServerOptions::default() };
        http::serve_with(reactor.context(), listener, options, serve).unwrap();
        Self { reactor, state: State::default(), clock, addr }
    }

    fn result(&mut self) -> Result<ClientResponse, ClientError> {
        drive(&mut self.reactor, &mut self.state, "a result", |state| !state.results.is_empty());
        self.state.results.remove(0)
    }

    fn ask(&mut self, request: ClientRequest) -> Result<ClientResponse, ClientError> {
        let addr = self.addr;
        http::request(self.reactor.context(), addr, request, |state: &mut State, _, result| state.results.push(result));
        self.result()
    }

    fn pooled(&mut self, pool: &Pool<State>, path: &str) {
        pool.request(self.reactor.context(), ClientRequest::get("a", path), |state, _, result| {
            state.results.push(result);
        });
    }

    fn settle(&mut self) {
        for _ in 0..5 {
            self.reactor.run_once(&mut self.state, Some(Duration::ZERO)).unwrap();
        }
    }
}

/// Sends so many bytes and counts what comes back, with a pause in between.
struct Upload {
    left: usize,
    rested: bool,
}

impl Upload {
    fn go_on(&mut self, call: &Call) {
        while self.left > 0 {
            let part = self.left.min(50_000);
            self.left -= part;
            if call.write(vec![b'u'; part]).unwrap() == Flow::Wait {
                return;
            }
        }
        call.finish().unwrap();
    }
}

impl ResponseHandler<State> for Upload {
    fn on_body(&mut self, state: &mut State, cx: &mut Context<State>, call: &Call, chunk: &[u8]) {
        state.received += chunk.len() as u64;
        state.chunk_while_paused |= state.paused;
        if !self.rested && state.received > 1 << 20 {
            self.rested = true;
            state.paused = true;
            call.pause();
            let call = call.clone();
            cx.after(Duration::from_secs(1), move |state: &mut State, _| {
                state.paused = false;
                call.resume();
            });
        }
    }
    fn on_drain(&mut self, _: &mut State, _: &mut Context<State>, call: &Call) {
        self.go_on(call);
    }
    fn on_done(&mut self, state: &mut State, _: &mut Context<State>, result: Result<(), ClientError>) {
        state.done.push(result);
    }
}

fn bodies_stream_both_ways_and_can_be_paused(kind: BackendKind) {
    const TOTAL: usize = 8 << 20;
    let mut world = World::new(kind);
    for length in [None, Some(TOTAL as u64)] {
        let request = ClientRequest::new("POST", "a", "/echo").streamed_body(length).max_body(u64::MAX);
        let addr = world.addr;
        let upload = Upload { left: TOTAL, rested: false };
        let call = http::fetch(world.reactor.context(), addr, request, Box::new(upload));
        drive(&mut world.reactor, &mut world.state, "the pause", |state| state.paused);
        world.settle();
        assert!(world.state.received < TOTAL as u64 && world.state.done.is_empty());
        world.clock.advance(Duration::from_secs(1));
        drive(&mut world.reactor, &mut world.state, "the whole echo", |state| !state.done.is_empty());
        assert_eq!((world.state.done.pop(), world.state.received), (Some(Ok(())), TOTAL as u64));
        assert!(!world.state.chunk_while_paused);
        assert!(call.write("more").is_err());
        world.state.received = 0;
    }
}

fn a_chunked_answer_ends_by_itself(kind: BackendKind) {
    let mut world = World::new(kind);
    // The connection stays open: nothing but the last chunk tells the end.
    let pool = Pool::new(world.addr, PoolOptions::default());
    let request = ClientRequest::new("POST", "a", "/echo").body("both ways");
    pool.request(world.reactor.context(), request, |state: &mut State, _, result| state.results.push(result));
    assert_eq!(world.result().unwrap().body, "both ways");
    assert_eq!(pool.connections(), 1);
}

fn head_and_expect(kind: BackendKind) {
    let mut world = World::new(kind);
    let head = world.ask(ClientRequest::new("HEAD", "a", "/")).unwrap();
    assert_eq!((head.header("content-length"), head.body.len()), (Some("5"), 0));
    let echoed = world.ask(ClientRequest::new("POST", "a", "/echo").body("x").expect_continue()).unwrap();
    assert_eq!(echoed.body, "x");
    let refused = world.ask(ClientRequest::new("POST", "a", "/refuse").body("x").expect_continue()).unwrap();
    assert_eq!(refused.status, 403);
    let large =
        world.ask(ClientRequest::new("POST", "a", "/echo").body(vec![b'x'; 5 << 20]).max_body(5 << 20)).unwrap();
    assert_eq!(large.body.len(), 5 << 20, "larger than the output limit");
}

fn a_server_that_does_not_know_expect_gets_the_body_after_a_second(kind: BackendKind) {
    let mut world = World::new(kind);
    let (addr, server) = scripted(vec![(b"\r\n\r\nbody", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]);
    let request = ClientRequest::new("POST", "a", "/").body("body").expect_continue();
    http::request(world.reactor.context(), addr, request, |state: &mut State, _, result| state.results.push(result));
    world.settle();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.result().unwrap().body, "ok");
    server.join().unwrap();
}

fn what_is_wrong_is_named(kind: BackendKind) {
    let mut world = World::new(kind);
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 99\r\nA: {}\r\n\r\n", "x".repeat(70_000)).into_bytes();
    let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20);
    for (answer, error) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..],
            ClientError::Malformed,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", ClientError::Malformed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", ClientError::Malformed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", ClientError::Malformed),
        (&long, ClientError::TooLarge),
        (&interim, ClientError::Malformed),
    ] {
        let (addr, server) = scripted(vec![(b"\r\n\r\n", answer)]);
        world.addr = addr;
        assert_eq!(
            world.ask(ClientRequest::get("a", "/")),
            Err(error),
            "{:?}",
            String::from_utf8_lossy(&answer[..40.min(answer.len())])
        );
        server.join().unwrap();
    }
    for request in [
        ClientRequest::new("G T", "a", "/"),
        ClientRequest::new("", "a", "/"),
        ClientRequest::get("a b", "/"),
        ClientRequest::get("a", "x"),
    ] {
        assert_eq!(world.ask(request), Err(ClientError::BadTarget));
    }
}

/// A server of one connection that waits for the end of each request and says the next answer.
fn scripted(script: Vec<(&[u8], &[u8])>) -> (SocketAddr, JoinHandle<()>) {
    let script: Vec<(Vec<u8>, Vec<u8>)> =
        script.into_iter().map(|(request, answer)| (request.to_vec(), answer.to_vec())).collect();
    let listener = TcpListener::bind(local()).unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for (end, answer) in script {
            let mut request = Vec::new();
            while !request.ends_with(&end) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            // The client may hang up in the middle of an answer that it does not like.
            let _ = stream.write_all(&answer);
        }
    });
    (addr, thread)
}

fn a_pool_keeps_its_connections(kind: BackendKind) {
    let mut world = World::new(kind);
    let pool = Pool::new(world.addr, PoolOptions { max_connections: 2, max_waiting: 10, ..PoolOptions::default() });
    for _ in 0..3 {
        world.pooled(&pool, "/");
        assert_eq!(world.result().unwrap().body, "hello");
    }
    assert_eq!((pool.connections(), world.state.ports.iter().min()), (1, world.state.ports.iter().max()));
    // More at once than there may be connections: they wait for one.
    (0..12).for_each(|_| world.pooled(&pool, "/"));
    world.pooled(&pool, "/one-too-many");
    assert_eq!(pool.connections(), 2);
    assert_eq!(world.result(), Err(ClientError::PoolFull));
    (0..12).for_each(|_| assert_eq!(world.result().unwrap().status, 200));
    assert_eq!(pool.connections(), 2);
    // One that the server ends is not used again.
    world.pooled(&pool, "/close");
    assert_eq!(world.result().unwrap().body, "last");
    world.settle();
    assert_eq!(pool.connections(), 1);
    // Unused ones come of age, and none outlives the pool.
    world.clock.advance(Duration::from_secs(30));
    world.settle();
    assert_eq!(pool.connections(), 0);
    world.pooled(&pool, "/");
    world.result().unwrap();
    drop(pool);
    drive(&mut world.reactor, &mut world.state, "a request on another connection", |_| true);
    for _ in 0..20 {
        world.settle();
    }
    assert_eq!(world.reactor.context().connections(), 0);
}

fn a_request_on_a_connection_that_was_just_closed_is_made_again(kind: BackendKind) {
    let mut world = World::new(kind);
    let listener = TcpListener::bind(local()).unwrap();
    let pool = Pool::new(listener.local_addr().unwrap(), PoolOptions::default());
    let server = thread::spawn(move || {
        for answers in [1, 1] {
            let (mut stream, _) = listener.accept().unwrap();
            for _ in 0..answers {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
            // The next request meets the end of the connection.
            let mut byte = [0];
            let _ = stream.read(&mut byte);
        }
    });
    world.pooled(&pool, "/1");
    assert_eq!(world.result().unwrap().body, "ok");
    world.pooled(&pool, "/2");
    assert_eq!(world.result().unwrap().body, "ok");
    // What cannot be repeated is not.
    let post = ClientRequest::new("POST", "a", "/3");
    pool.request(world.reactor.context(), post, |state: &mut State, _, result| state.results.push(result));
    assert!(matches!(world.result(), Err(ClientError::Connection(CloseReason::Reset) | ClientError::Malformed)));
    server.join().unwrap();
}

fn waiting_for_a_connection_counts_for_the_time_limit(kind: BackendKind) {
    let mut world = World::new(kind);
    let silent = TcpListener::bind(local()).unwrap();
    let options = PoolOptions { max_connections: 1, ..PoolOptions::default() };
    let pool = Pool::new(silent.local_addr().unwrap(), options);
    (0..2).for_each(|_| world.pooled(&pool, "/"));
    let (_stream, _) = silent.accept().unwrap();
    world.settle();
    assert!(world.state.results.is_empty());
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.result(), Err(ClientError::Timeout));
    assert_eq!(world.result(), Err(ClientError::Timeout));
}

fn a_cancelled_request_is_done_once(kind: BackendKind) {
    let mut world = World::new(kind);
    let addr = world.addr;
    let call =
        http::request(world.reactor.context(), addr, ClientRequest::get("a", "/"), |state: &mut State, _, result| {
            state.results.push(result);
        });
    call.cancel();
    assert_eq!(world.result(), Err(ClientError::Connection(CloseReason::Aborted)));
    call.cancel();
    world.settle();
    assert!(world.state.results.is_empty());
}

on_every_backend!(
    bodies_stream_both_ways_and_can_be_paused,
    a_chunked_answer_ends_by_itself,
    head_and_expect,
    a_server_that_does_not_know_expect_gets_the_body_after_a_second,
    what_is_wrong_is_named,
    a_pool_keeps_its_connections,
    a_request_on_a_connection_that_was_just_closed_is_made_again,
    waiting_for_a_connection_counts_for_the_time_limit,
    a_cancelled_request_is_done_once,
);
