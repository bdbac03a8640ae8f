//! HTTP and WebSocket on one port, on every back end: a request of the HTTP server becomes a
//! WebSocket, or is refused by an ordinary answer. Each protocol has its own tests elsewhere.
#![cfg(all(feature = "http", feature = "ws"))]

mod support;
#[path = "support/ws_frames.rs"]
mod ws_frames;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use netlib::backend::BackendKind;
use netlib::clock::ManualClock;
use netlib::http::{self, Exchange, RequestHandler, Response};
use netlib::ws::{self, Accept, Closed, Message, Options, Refuse, UpgradeRequest, WebSocket, WsHandler};
use netlib::{Context, Reactor, ReactorConfig, socket};
use support::{drive, local, peer, read_some};
use ws_frames::{ACCEPT, KEY, TEXT, close, encode, take_frames, whole};

on_every_backend! {
    one_port_serves_pages_and_websockets,
    a_refusal_is_the_exchanges_answer,
    frames_behind_the_request_are_not_lost,
    pages_and_a_websocket_on_one_connection_in_order,
    it_opens_without_a_word_from_the_client,
    a_client_that_has_ended_its_side_is_refused,
    an_exchange_that_has_been_answered_stays_so,
    the_servers_time_limits_end_with_the_upgrade,
}

#[derive(Default)]
struct Log {
    parked: Option<Exchange>,
    asked: usize,
    upgraded: usize,
    open: Vec<WebSocket>,
    messages: Vec<String>,
    closed: Vec<Closed>,
}

/// Writes down and echoes.
struct Echo;

impl WsHandler<Log> for Echo {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, ws: &WebSocket) {
        log.open.push(ws.clone());
    }

    fn on_message(&mut self, log: &mut Log, _: &mut Context<Log>, ws: &WebSocket, message: Message<'_>) {
        assert!(!log.open.is_empty(), "a message before the opening");
        let Message::Text(text) = message else { panic!("nobody sends bytes here") };
        log.messages.push(text.to_owned());
        ws.send_text(text).unwrap();
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket, closed: &Closed) {
        log.closed.push(closed.clone());
    }
}

fn decide(request: &UpgradeRequest<'_>) -> Result<Accept<Log>, Refuse> {
    match request.header("Cookie") {
        Some("let=in") => Ok(Accept::new(Echo).choose_protocol(request, &["chat"]).header("Set-Cookie", "seen=1")),
        _ => Err(Refuse::new(401).header("WWW-Authenticate", "cookie").body("who are you?\n")),
    }
}

fn serve(log: &mut Log, cx: &mut Context<Log>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<Log>>> {
    // No pings: with the test's clock they would come when it is moved.
    let common = Rc::new(Options { ping_interval: None, ..Options::default() });
    let options = ws::ServerOptions { common, ..ws::ServerOptions::default() };
    match exchange.head().path() {
        "/chat" => {
            let asked = &mut log.asked;
            let upgraded = ws::upgrade_exchange(cx, exchange, &options, |_, request| {
                *asked += 1;
                decide(request)
            });
            log.upgraded += usize::from(upgraded);
        }
        "/parked" => log.parked = Some(exchange.clone()),
        "/answered" => {
            exchange.send(cx, Response::new(200).body("page\n"));
            // Written down, since the server would catch a panic.
            let asked = &mut log.asked;
            let upgraded = ws::upgrade_exchange(cx, exchange, &options, |_, request| {
                *asked += 1;
                decide(request)
            });
            log.upgraded += usize::from(upgraded);
        }
        _ => exchange.send(cx, Response::new(200).body("page\n")),
    }
    None
}

struct World {
    reactor: Reactor<Log>,
    log: Log,
    addr: SocketAddr,
    clock: ManualClock,
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl World {
    fn new(kind: BackendKind) -> Self {
        let clock = ManualClock::new();
        let config = ReactorConfig {
            backend: Some(kind),
            fallback: false,
            clock: Box::new(clock.clone()),
            ..ReactorConfig::default()
        };
        let mut reactor = Reactor::new(config).unwrap();
        support::runs_on(&mut reactor, kind);
        let listener = socket::bind_tcp(local(), 64).unwrap();
        let addr = listener.local_addr().unwrap();
        let options = http::ServerOptions { date: false, ..http::ServerOptions::default() };
        http::serve_with(reactor.context(), listener, options, serve).unwrap();
        Self { reactor, log: Log::default(), addr, clock }
    }

    fn client(&self, says: &[u8]) -> Client {
        let mut client = Client { stream: peer(self.addr), input: Vec::new() };
        client.write(says);
        client
    }

    /// Takes the front of what the server says, up to `end`.
    fn until(&mut self, client: &mut Client, end: &str) -> String {
        let mut over = false;
        let mut found = None;
        drive(&mut self.reactor, &mut self.log, &format!("{end:?}"), |_| {
            assert!(!over, "ended with {:?}", String::from_utf8_lossy(&client.input));
            over = read_some(&mut client.stream, &mut client.input);
            found = client.input.windows(end.len()).position(|window| window == end.as_bytes());
            found.is_some()
        });
        let length = found.unwrap() + end.len();
        String::from_utf8(client.input.drain(..length).collect()).unwrap()
    }

    fn rest(&mut self, client: &mut Client) -> String {
        drive(&mut self.reactor, &mut self.log, "the end of the connection", |_| {
            read_some(&mut client.stream, &mut client.input)
        });
        String::from_utf8(std::mem::take(&mut client.input)).unwrap()
    }

    /// One message from the server.
    fn heard(&mut self, client: &mut Client, text: &str) {
        let mut frames = Vec::new();
        drive(&mut self.reactor, &mut self.log, &format!("the message {text:?}"), |_| {
            read_some(&mut client.stream, &mut client.input);
            frames.append(&mut take_frames(&mut client.input));
            !frames.is_empty()
        });
        assert_eq!(frames, [whole(TEXT, text)]);
    }

    fn closes(&mut self, client: &mut Client) {
        client.write(&encode(&close(1000, ""), true));
        let before = self.log.closed.len();
        drive(&mut self.reactor, &mut self.log, "the end", |log| log.closed.len() > before);
        assert!(self.log.closed[before].is_clean(), "{}", self.log.closed[before]);
    }
}

impl Client {
    fn write(&mut self, bytes: &[u8]) {
        self.stream.set_nonblocking(false).unwrap();
        self.stream.write_all(bytes).unwrap();
    }

    fn says(&mut self, text: &str) {
        self.write(&encode(&whole(TEXT, text), true));
    }
}

const PAGE: &str = "GET /page HTTP/1.1\r\nHost: h\r\n\r\n";
const PAGE_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npage\n";

fn chat(cookie: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: x, chat\r\n\
         Cookie: {cookie}\r\n\r\n"
    )
}

fn switched() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\nSet-Cookie: seen=1\r\n\r\n"
    )
}

fn one_port_serves_pages_and_websockets(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut reader = world.client(PAGE.as_bytes());
    let mut talker = world.client(chat("let=in").as_bytes());
    assert_eq!(world.until(&mut reader, "page\n"), PAGE_ANSWER);
    assert_eq!(world.until(&mut talker, "\r\n\r\n"), switched());
    for n in 0..3 {
        talker.says(&format!("message {n}"));
        reader.write(PAGE.as_bytes());
        world.heard(&mut talker, &format!("message {n}"));
        assert_eq!(world.until(&mut reader, "page\n"), PAGE_ANSWER);
    }
    world.closes(&mut talker);
    assert_eq!(world.log.upgraded, 1);
    reader.write(PAGE.as_bytes());
    assert_eq!(world.until(&mut reader, "page\n"), PAGE_ANSWER);
}

fn a_refusal_is_the_exchanges_answer(kind: BackendKind) {
    let mut world = World::new(kind);
    // By the application. What may be frames behind it is not taken for a request.
    let frames = encode(&whole(TEXT, "eager"), true);
    let mut stranger = world.client(&[chat("x").as_bytes(), &frames].concat());
    assert_eq!(
        world.rest(&mut stranger),
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: cookie\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: 13\r\n\r\nwho are you?\n"
    );
    assert_eq!(world.log.asked, 1);
    // By the protocol, which does not ask the application; a browser that was sent to the wrong
    // address keeps its connection.
    let mut lost = world.client(PAGE.replace("page", "chat").as_bytes());
    let answer = world.until(&mut lost, "this is a WebSocket\n");
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n"), "{answer}");
    assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n") && !answer.contains("close"), "{answer}");
    lost.write(PAGE.as_bytes());
    assert_eq!(world.until(&mut lost, "page\n"), PAGE_ANSWER);
    for (good, bad, status) in [
        ("Version: 13", "Version: 8", 426),
        (KEY, "short", 400),
        ("GET", "DELETE", 405),
        ("HTTP/1.1", "HTTP/1.0", 505),
        ("Cookie:", "Content-Length: 3\r\nCookie:", 400),
    ] {
        let mut wrong = world.client(chat("let=in").replace(good, bad).as_bytes());
        let answer = world.rest(&mut wrong);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bad}: {answer}");
    }
    assert_eq!((world.log.asked, world.log.upgraded, world.log.open.len()), (1, 0, 0));
}

fn frames_behind_the_request_are_not_lost(kind: BackendKind) {
    let mut world = World::new(kind);
    let first = encode(&whole(TEXT, "first"), true);
    let second = encode(&whole(TEXT, "second"), true);
    let (early, late) = second.split_at(5);
    let mut client = world.client(&[chat("let=in").as_bytes(), &first, early].concat());
    assert_eq!(world.until(&mut client, "\r\n\r\n"), switched());
    world.heard(&mut client, "first");
    client.write(late);
    world.heard(&mut client, "second");
    world.closes(&mut client);
    assert_eq!(world.log.messages, ["first", "second"]);
}

fn pages_and_a_websocket_on_one_connection_in_order(kind: BackendKind) {
    let mut world = World::new(kind);
    let frame = encode(&whole(TEXT, "behind"), true);
    let mut client = world.client(&[PAGE.as_bytes(), PAGE.as_bytes(), chat("let=in").as_bytes(), &frame].concat());
    let answers = world.until(&mut client, "seen=1\r\n\r\n");
    assert_eq!(answers, [PAGE_ANSWER, PAGE_ANSWER, &switched()].concat());
    world.heard(&mut client, "behind");
    world.closes(&mut client);
}

fn it_opens_without_a_word_from_the_client(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut client = world.client(chat("let=in").as_bytes());
    drive(&mut world.reactor, &mut world.log, "the opening", |log| !log.open.is_empty());
    assert_eq!(world.log.open[0].protocol(), Some("chat"));
    world.log.open[0].send_text("welcome").unwrap();
    world.until(&mut client, "\r\n\r\n");
    world.heard(&mut client, "welcome");
}

/// It could not even answer a close frame.
fn a_client_that_has_ended_its_side_is_refused(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut client = world.client(chat("let=in").replace("/chat", "/parked").as_bytes());
    drive(&mut world.reactor, &mut world.log, "the request", |log| log.parked.is_some());
    client.stream.shutdown(Shutdown::Write).unwrap();
    for _ in 0..5 {
        world.reactor.run_once(&mut world.log, Some(Duration::from_millis(1))).unwrap();
    }
    let exchange = world.log.parked.take().unwrap();
    let options = ws::ServerOptions::default();
    let cx = world.reactor.context();
    assert!(!ws::upgrade_exchange(cx, &exchange, &options, |_, request| decide(request)));
    let answer = world.rest(&mut client);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("both directions\n"), "{answer}");
    drive(&mut world.reactor, &mut world.log, "nothing left", |log| log.open.is_empty());
    assert_eq!(world.reactor.context().stats().connections, 0);
}

fn an_exchange_that_has_been_answered_stays_so(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut client = world.client(chat("let=in").replace("/chat", "/answered").as_bytes());
    assert_eq!(world.until(&mut client, "page\n"), PAGE_ANSWER);
    client.write(PAGE.as_bytes());
    assert_eq!(world.until(&mut client, "page\n"), PAGE_ANSWER);
    assert_eq!((world.log.asked, world.log.upgraded), (0, 0));
}

/// An hour of silence would be over every limit that a request or a kept connection has.
fn the_servers_time_limits_end_with_the_upgrade(kind: BackendKind) {
    let mut world = World::new(kind);
    let mut client = world.client(chat("let=in").as_bytes());
    world.until(&mut client, "\r\n\r\n");
    drive(&mut world.reactor, &mut world.log, "the opening", |log| !log.open.is_empty());
    world.clock.advance(Duration::from_hours(1));
    for _ in 0..3 {
        world.reactor.run_once(&mut world.log, Some(Duration::ZERO)).unwrap();
    }
    client.says("still here");
    world.heard(&mut client, "still here");
    assert!(world.log.closed.is_empty());
}
