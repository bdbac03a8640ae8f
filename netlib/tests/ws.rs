//! WebSockets under the reactor, on every back end: opening, messages, keep-alive, closing, and
//! what a peer may not do. Conformance to the protocol in detail is in `ws_autobahn.rs`.
#![cfg(feature = "ws")]

mod support;
#[path = "support/ws_frames.rs"]
mod ws_frames;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::slice;
use std::time::Duration;

use netlib::backend::BackendKind;
use netlib::clock::ManualClock;
use netlib::ws::{
    self, Accept, ClientOptions, CloseCode, Closed, Message, Options, Prepared, Refuse, ServerOptions, UpgradeRequest,
    Url, WebSocket, WsHandler,
};
use netlib::{
    CloseReason, Conn, ConnOptions, ConnectOptions, Context, FrameError, Handler, ListenOptions, OutputPolicy, Reactor,
    ReactorConfig,
};
use support::{drive, local, peer, reactor, read_some};
use ws_frames::{
    ACCEPT, BINARY, CLOSE, CONTINUE, FIN, Frame, KEY, PING, PONG, TEXT, close, encode, encode_all, frame, take_frames,
    whole,
};

/// What the handlers of a test write down.
#[derive(Default)]
struct Log {
    open: Vec<WebSocket>,
    messages: Vec<Vec<u8>>,
    pings: usize,
    pongs: Vec<Vec<u8>>,
    low: usize,
    closed: Vec<Closed>,
}

/// Writes down and echoes; obeys some texts.
struct Recorder;

impl WsHandler<Log> for Recorder {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, ws: &WebSocket) {
        log.open.push(ws.clone());
    }

    fn on_message(&mut self, log: &mut Log, cx: &mut Context<Log>, ws: &WebSocket, message: Message<'_>) {
        match message {
            Message::Text(text) => {
                log.messages.push(text.as_bytes().to_vec());
                match text {
                    "close" => ws.close(cx, CloseCode::new(4000).unwrap(), "as asked"),
                    "panic" => panic!("as asked"),
                    "pause" => ws.conn().pause(),
                    _ => drop(ws.send_text(text)),
                }
            }
            Message::Binary(bytes) => {
                log.messages.push(bytes.to_vec());
                let _ = ws.send_binary(bytes);
            }
        }
    }

    fn on_ping(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket, _: &[u8]) {
        log.pings += 1;
    }

    fn on_pong(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket, payload: &[u8]) {
        log.pongs.push(payload.to_vec());
    }

    fn on_low_water(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket) {
        log.low += 1;
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket, closed: &Closed) {
        log.closed.push(closed.clone());
    }
}

/// A client that says something and keeps what it hears.
struct Caller {
    says: Vec<Vec<u8>>,
    heard: Rc<std::cell::RefCell<Vec<Vec<u8>>>>,
}

impl WsHandler<Log> for Caller {
    fn on_open(&mut self, _: &mut Log, _: &mut Context<Log>, ws: &WebSocket) {
        assert_eq!(ws.protocol(), Some("b"));
        for bytes in self.says.drain(..) {
            match String::from_utf8(bytes) {
                Ok(text) => ws.send_text(&text).unwrap(),
                Err(bytes) => ws.send_binary(bytes.into_bytes()).unwrap(),
            }
        }
    }

    fn on_message(&mut self, _: &mut Log, _: &mut Context<Log>, _: &WebSocket, message: Message<'_>) {
        self.heard.borrow_mut().push(match message {
            Message::Text(text) => text.as_bytes().to_vec(),
            Message::Binary(bytes) => bytes.to_vec(),
        });
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &WebSocket, closed: &Closed) {
        log.closed.push(closed.clone());
    }
}

fn decide(request: &UpgradeRequest<'_>) -> Result<Accept<Log>, Refuse> {
    match request.path() {
        "/" => Ok(Accept::new(Recorder).choose_protocol(request, &["b", "a"]).header("X-Served-By", "test")),
        "/secret" => Err(Refuse::new(403)),
        _ => Err(Refuse::new(404)),
    }
}

fn serve(reactor: &mut Reactor<Log>, options: ServerOptions, conn: ConnOptions) -> SocketAddr {
    let options = Rc::new(options);
    let listen = ListenOptions { conn, ..ListenOptions::default() };
    let acceptor =
        move |_: &mut Log, _: &mut Context<Log>, _: &Conn| Some(ws::accept(&options, |_, _, request| decide(request)));
    reactor.context().listen(local(), listen, acceptor).expect("listens").local_addr().inet().expect("TCP")
}

fn server_options(common: Options) -> ServerOptions {
    ServerOptions { common: Rc::new(common), ..ServerOptions::default() }
}

fn setup(kind: BackendKind, options: Options) -> (Reactor<Log>, Log, SocketAddr) {
    let mut reactor = reactor(kind);
    let addr = serve(&mut reactor, server_options(options), ConnOptions::default());
    (reactor, Log::default(), addr)
}

/// The same with a clock that the test moves.
fn manual(kind: BackendKind, options: Options) -> (Reactor<Log>, Log, SocketAddr, ManualClock) {
    let clock = ManualClock::new();
    let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
    let mut reactor = Reactor::new(config).expect("a reactor");
    let addr = serve(&mut reactor, server_options(options), ConnOptions::default());
    (reactor, Log::default(), addr, clock)
}

fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A raw client in the reactor's own thread.
struct Raw {
    stream: TcpStream,
    input: Vec<u8>,
    ended: bool,
}

impl Raw {
    fn new(addr: SocketAddr) -> Self {
        Self { stream: peer(addr), input: Vec::new(), ended: false }
    }

    /// Connected and upgraded.
    fn open(reactor: &mut Reactor<Log>, log: &mut Log, addr: SocketAddr) -> Self {
        let mut raw = Self::new(addr);
        raw.write(request("/").as_bytes());
        let head = raw.head(reactor, log);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("\r\nSec-WebSocket-Accept: {ACCEPT}\r\n")), "{head}");
        raw
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.set_nonblocking(false).expect("blocking");
        self.stream.write_all(bytes).expect("written");
    }

    fn send(&mut self, frames: &[Frame]) {
        self.write(&encode_all(frames, true));
    }

    /// Writes more than the kernel holds, with the reactor taking it meanwhile.
    fn send_much(&mut self, reactor: &mut Reactor<Log>, log: &mut Log, mut bytes: &[u8]) {
        self.stream.set_nonblocking(true).expect("nonblocking");
        drive(reactor, log, "the server reads", |_| {
            while !bytes.is_empty() {
                match self.stream.write(bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            bytes.is_empty()
        });
    }

    fn read(&mut self) {
        self.ended |= read_some(&mut self.stream, &mut self.input);
    }

    fn head(&mut self, reactor: &mut Reactor<Log>, log: &mut Log) -> String {
        let mut end = None;
        drive(reactor, log, "an answer", |_| {
            self.read();
            end = self.input.windows(4).position(|window| window == b"\r\n\r\n");
            end.is_some()
        });
        let rest = self.input.split_off(end.expect("driven until it was there") + 4);
        String::from_utf8(std::mem::replace(&mut self.input, rest)).expect("text")
    }

    fn frames(&mut self, reactor: &mut Reactor<Log>, log: &mut Log, count: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        drive(reactor, log, "frames", |_| {
            self.read();
            frames.extend(take_frames(&mut self.input));
            frames.len() >= count
        });
        assert_eq!(frames.len(), count, "{frames:?}");
        frames
    }

    /// Nothing more than `frames`, then the end.
    fn ends_with(&mut self, reactor: &mut Reactor<Log>, log: &mut Log, frames: &[Frame]) {
        drive(reactor, log, "the end", |_| {
            self.read();
            self.ended
        });
        assert_eq!(take_frames(&mut self.input), frames);
        assert!(self.input.is_empty());
    }
}

fn closed(reactor: &mut Reactor<Log>, log: &mut Log) -> Closed {
    drive(reactor, log, "on_close", |log| !log.closed.is_empty());
    assert_eq!(log.closed.len(), 1, "once");
    log.closed.remove(0)
}

fn code(frame: &Frame) -> u16 {
    assert_eq!(frame.0, FIN | CLOSE);
    u16::from_be_bytes([frame.1[0], frame.1[1]])
}

on_every_backend! {
    our_client_and_our_server_understand_each_other,
    a_handshake_that_trickles_in_is_served_and_so_are_frames_byte_by_byte,
    frames_behind_the_handshake_in_one_segment_are_served,
    many_messages_in_one_segment_are_all_served_in_order,
    a_silent_peer_is_pinged_and_then_dropped,
    a_peer_that_answers_the_ping_stays,
    a_closing_begun_here_waits_for_the_answer,
    a_closing_begun_here_is_given_up_after_its_time,
    a_closing_begun_by_the_peer_is_answered,
    no_message_is_delivered_after_close,
    a_message_over_the_limit_is_refused_before_it_has_come,
    fragments_add_up_to_the_limit_and_their_number_has_one,
    a_flood_of_pings_is_answered_by_few_pongs_the_last_among_them,
    a_peer_that_does_not_read_is_closed_at_the_limit,
    a_paused_socket_keeps_its_messages_until_resumed,
    a_panic_ends_its_connection_only,
    a_peer_that_goes_without_a_word_is_reported,
    each_bad_request_has_its_answer,
    a_foreign_origin_is_refused,
    a_request_that_does_not_come_is_given_up,
    a_head_without_end_is_refused,
    a_client_reports_each_failed_handshake_once,
    a_client_gives_up_a_server_that_does_not_answer,
    a_client_refuses_what_a_server_may_not_send,
    wss_without_tls_sends_nothing,
    an_http_server_can_hand_a_connection_over,
    one_message_goes_to_many,
    a_large_message_survives_the_drop_policy_whole,
}

fn our_client_and_our_server_understand_each_other(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let large = (0..300_000).map(|n| (n % 251) as u8).collect::<Vec<u8>>();
    let says = vec![b"hello".to_vec(), large.clone(), "ü".repeat(100_000).into_bytes(), Vec::new()];
    let heard = Rc::default();
    let caller = Caller { says: says.clone(), heard: Rc::clone(&heard) };
    let url: Url = format!("ws://{addr}/?q").parse().unwrap();
    let options = ClientOptions { protocols: vec!["a".into(), "b".into()], ..ClientOptions::default() };
    let conn = ws::connect(reactor.context(), addr, &url, ConnectOptions::default(), options, caller);
    drive(&mut reactor, &mut log, "the echoes", |_| heard.borrow().len() == says.len());
    assert!(*heard.borrow() == says);
    assert_eq!(log.open[0].protocol(), Some("b"), "the server likes b best");
    assert_eq!(log.open[0].conn().peer_addr(), conn.local_addr());

    // The server begins to close; both sides learn it, and only the server closes first.
    let server = log.open.remove(0);
    server.close(reactor.context(), CloseCode::GOING_AWAY, "bye");
    drive(&mut reactor, &mut log, "both ends", |log| log.closed.len() == 2);
    assert!(log.closed.iter().all(Closed::is_clean), "{:?}", log.closed);
    let mut causes: Vec<_> = log.closed.iter().map(|closed| closed.cause.label()).collect();
    causes.sort_unstable();
    assert_eq!(causes, ["local", "peer_closed"]);
    assert_eq!(server.send_text("late"), Err(netlib::SendError::Closed));
}

fn a_handshake_that_trickles_in_is_served_and_so_are_frames_byte_by_byte(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::new(addr);
    let frames = [frame(TEXT, "frag"), whole(PING, "p"), frame(FIN | CONTINUE, "mented"), whole(BINARY, [7; 200])];
    for byte in [request("/").into_bytes(), encode_all(&frames, true)].concat() {
        raw.write(&[byte]);
        reactor.run_once(&mut log, Some(Duration::from_millis(1))).unwrap();
    }
    assert!(raw.head(&mut reactor, &mut log).contains("\r\nX-Served-By: test\r\n"));
    let expected = [whole(PONG, "p"), whole(TEXT, "fragmented"), whole(BINARY, [7; 200])];
    assert_eq!(raw.frames(&mut reactor, &mut log, 3), expected);
}

fn frames_behind_the_handshake_in_one_segment_are_served(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::new(addr);
    raw.write(&[request("/").into_bytes(), encode(&whole(TEXT, "eager"), true)].concat());
    raw.head(&mut reactor, &mut log);
    assert_eq!(raw.frames(&mut reactor, &mut log, 1), [whole(TEXT, "eager")]);
}

fn many_messages_in_one_segment_are_all_served_in_order(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    // More than are handed over in one turn.
    let frames: Vec<Frame> = (0..3000).map(|n: u32| whole(TEXT, n.to_string())).collect();
    raw.send(&frames);
    assert_eq!(raw.frames(&mut reactor, &mut log, 3000), frames);
}

fn keep_alive() -> Options {
    let (ping_interval, pong_timeout) = (Some(Duration::from_secs(30)), Duration::from_secs(10));
    Options { ping_interval, pong_timeout, ..Options::default() }
}

fn a_silent_peer_is_pinged_and_then_dropped(kind: BackendKind) {
    let (mut reactor, mut log, addr, clock) = manual(kind, keep_alive());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    clock.advance(Duration::from_secs(29));
    raw.send(&[whole(TEXT, "I live")]);
    assert_eq!(raw.frames(&mut reactor, &mut log, 1), [whole(TEXT, "I live")]);
    clock.advance(Duration::from_secs(29));
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    raw.read();
    assert!(raw.input.is_empty(), "a peer that has spoken is not asked");
    clock.advance(Duration::from_secs(1));
    assert_eq!(raw.frames(&mut reactor, &mut log, 1), [whole(PING, "")]);
    clock.advance(Duration::from_secs(9));
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    assert!(log.closed.is_empty());
    clock.advance(Duration::from_secs(1));
    assert_eq!(closed(&mut reactor, &mut log).cause, CloseReason::Idle);
    raw.ends_with(&mut reactor, &mut log, &[]);
}

fn a_peer_that_answers_the_ping_stays(kind: BackendKind) {
    // The answer must count although the time for it is longer than the interval.
    let options = Options { ping_interval: Some(Duration::from_secs(3)), ..keep_alive() };
    let (mut reactor, mut log, addr, clock) = manual(kind, options);
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    for round in 1..=4 {
        clock.advance(Duration::from_secs(10));
        assert_eq!(raw.frames(&mut reactor, &mut log, 1), [whole(PING, "")], "round {round}");
        raw.send(&[whole(PONG, "")]);
        drive(&mut reactor, &mut log, "the pong", |log| log.pongs.len() == round);
    }
    assert!(log.closed.is_empty() && log.open[0].is_open());
}

fn a_closing_begun_here_waits_for_the_answer(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    raw.send(&[whole(TEXT, "before"), whole(TEXT, "close")]);
    assert_eq!(raw.frames(&mut reactor, &mut log, 2), [whole(TEXT, "before"), close(4000, "as asked")]);
    assert!(!log.open[0].is_open() && log.closed.is_empty());
    assert!(!raw.ended, "the connection waits");
    raw.send(&[close(4000, "as asked")]);
    raw.ends_with(&mut reactor, &mut log, &[]);
    let closed = closed(&mut reactor, &mut log);
    assert!(closed.is_clean());
    assert_eq!(closed.cause, CloseReason::Local);
    assert_eq!(closed.sent, closed.received);
}

fn a_closing_begun_here_is_given_up_after_its_time(kind: BackendKind) {
    let (mut reactor, mut log, addr, clock) = manual(kind, Options::default());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    raw.send(&[whole(TEXT, "close")]);
    assert_eq!(raw.frames(&mut reactor, &mut log, 1), [close(4000, "as asked")]);
    clock.advance(Duration::from_secs(4));
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    assert!(log.closed.is_empty());
    clock.advance(Duration::from_secs(1));
    let closed = closed(&mut reactor, &mut log);
    assert!(!closed.is_clean());
    assert_eq!((closed.cause, closed.received), (CloseReason::Local, None));
    raw.ends_with(&mut reactor, &mut log, &[]);
}

fn a_closing_begun_by_the_peer_is_answered(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    let large = "x".repeat(500_000);
    raw.send_much(&mut reactor, &mut log, &encode_all(&[whole(TEXT, &large), close(3001, "enough")], true));
    // What was sent before is not lost.
    raw.ends_with(&mut reactor, &mut log, &[whole(TEXT, &large), close(3001, "enough")]);
    let closed = closed(&mut reactor, &mut log);
    assert!(closed.is_clean());
    assert_eq!(closed.cause, CloseReason::PeerClosed);
    let received = closed.received.unwrap();
    assert_eq!((received.code.value(), received.reason.as_str()), (3001, "enough"));
}

fn no_message_is_delivered_after_close(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options { max_message: 100, ..Options::default() });
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    // What is not looked at has no limit either, and takes no memory.
    let frames = [whole(TEXT, "close"), whole(TEXT, "late"), whole(BINARY, [0; 5000]), whole(PING, "late")];
    raw.send(&frames);
    raw.send(&[frame(TEXT, "la"), frame(CONTINUE, [0xff]), close(1000, "")]);
    raw.ends_with(&mut reactor, &mut log, &[close(4000, "as asked")]);
    assert!(closed(&mut reactor, &mut log).is_clean());
    assert_eq!(log.messages, [b"close"]);
    assert_eq!(log.pings, 0);
}

fn a_message_over_the_limit_is_refused_before_it_has_come(kind: BackendKind) {
    let options = Options { max_message: 1000, max_frame: 500, ..Options::default() };
    for (announced, fine) in [(500, true), (501, false), (1 << 40, false)] {
        let (mut reactor, mut log, addr) = setup(kind, options.clone());
        let mut raw = Raw::open(&mut reactor, &mut log, addr);
        let mut header = vec![FIN | BINARY, 0xff];
        if announced > 0xffff {
            header.extend(u64::to_be_bytes(announced));
        } else {
            header[1] = 0xfe;
            header.extend((announced as u16).to_be_bytes());
        }
        header.extend([0; 4]);
        raw.write(&header);
        if fine {
            raw.write(&[0; 500]);
            assert_eq!(raw.frames(&mut reactor, &mut log, 1), [whole(BINARY, [0; 500])]);
        } else {
            assert_eq!(code(&raw.frames(&mut reactor, &mut log, 1)[0]), 1009);
            assert_eq!(closed(&mut reactor, &mut log).cause, CloseReason::BadFrame(FrameError::TooLong));
        }
    }
}

fn fragments_add_up_to_the_limit_and_their_number_has_one(kind: BackendKind) {
    let options = Options { max_message: 1000, max_frame: 500, max_fragments: 4, ..Options::default() };
    let part = |first: u8, length: usize| frame(first, vec![b'x'; length]);
    for (frames, expected) in [
        (vec![part(TEXT, 500), part(CONTINUE, 400), part(FIN | CONTINUE, 100)], None),
        (vec![part(TEXT, 500), part(CONTINUE, 400), part(FIN | CONTINUE, 101)], Some(1009)),
        (vec![part(TEXT, 1), part(CONTINUE, 0), part(CONTINUE, 0), part(FIN | CONTINUE, 0)], None),
        (vec![part(TEXT, 1), part(CONTINUE, 0), part(CONTINUE, 0), part(CONTINUE, 0), part(CONTINUE, 0)], Some(1008)),
    ] {
        let (mut reactor, mut log, addr) = setup(kind, options.clone());
        let mut raw = Raw::open(&mut reactor, &mut log, addr);
        raw.send(&frames);
        let answer = &raw.frames(&mut reactor, &mut log, 1)[0];
        match expected {
            None => assert_eq!(answer.0, FIN | TEXT),
            Some(expected) => assert_eq!(code(answer), expected),
        }
    }
}

fn a_flood_of_pings_is_answered_by_few_pongs_the_last_among_them(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    let pings: Vec<Frame> = (0..20_000).map(|n: u32| whole(PING, n.to_string())).collect();
    raw.send_much(&mut reactor, &mut log, &encode_all(&pings, true));
    let mut pongs = Vec::new();
    drive(&mut reactor, &mut log, "the last pong", |_| {
        raw.read();
        pongs.extend(take_frames(&mut raw.input));
        pongs.last() == Some(&whole(PONG, "19999"))
    });
    assert_eq!(log.pings, 20_000);
    // At most 65 for each 1,024, and as many for each read that ends early.
    assert!(pongs.len() < 10_000, "{} pongs", pongs.len());
    let numbers: Vec<u32> = pongs.iter().map(|pong| String::from_utf8_lossy(&pong.1).parse().unwrap()).collect();
    assert!(numbers.is_sorted());
}

fn a_peer_that_does_not_read_is_closed_at_the_limit(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let conn = ConnOptions { policy: OutputPolicy::Close, high_water: 100_000, ..ConnOptions::default() };
    let addr = serve(&mut reactor, ServerOptions::default(), conn);
    let mut log = Log::default();
    let _raw = Raw::open(&mut reactor, &mut log, addr);
    let ws = log.open[0].clone();
    let message = vec![0_u8; 50_000];
    let mut most = 0;
    drive(&mut reactor, &mut log, "the limit", |log| {
        let _ = ws.send_binary(message.clone());
        most = most.max(ws.conn().queued());
        !log.closed.is_empty()
    });
    assert_eq!(log.closed[0].cause, CloseReason::OutputLimit);
    assert!(most <= 200_000, "{most} bytes waited");
}

fn a_paused_socket_keeps_its_messages_until_resumed(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    raw.send(&[whole(TEXT, "1"), whole(TEXT, "pause"), whole(TEXT, "2"), whole(TEXT, "3")]);
    drive(&mut reactor, &mut log, "the pause", |log| log.messages.len() == 2);
    for _ in 0..3 {
        reactor.run_once(&mut log, Some(Duration::from_millis(1))).unwrap();
    }
    assert_eq!(log.messages, [&b"1"[..], b"pause"]);
    log.open[0].conn().resume();
    drive(&mut reactor, &mut log, "the rest", |log| log.messages.len() == 4);
    // A paused socket that is closed still sees the answer.
    raw.send(&[whole(TEXT, "pause")]);
    drive(&mut reactor, &mut log, "the pause", |log| log.messages.len() == 5);
    log.open[0].close(reactor.context(), CloseCode::NORMAL, "");
    raw.send(&[close(1000, "")]);
    assert!(closed(&mut reactor, &mut log).is_clean());
}

fn a_panic_ends_its_connection_only(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut other = Raw::open(&mut reactor, &mut log, addr);
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    raw.send(&[whole(TEXT, "panic")]);
    assert_eq!(closed(&mut reactor, &mut log).cause, CloseReason::HandlerPanic);
    other.send(&[whole(TEXT, "alive")]);
    assert_eq!(other.frames(&mut reactor, &mut log, 1), [whole(TEXT, "alive")]);
}

fn a_peer_that_goes_without_a_word_is_reported(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    raw.send(&[whole(TEXT, "last words")]);
    assert_eq!(raw.frames(&mut reactor, &mut log, 1).len(), 1);
    drop(raw);
    let closed = closed(&mut reactor, &mut log);
    assert!(!closed.is_clean());
    assert_eq!((closed.sent, closed.received), (None, None));
    assert_eq!(closed.cause, CloseReason::PeerClosed);
}

fn each_bad_request_has_its_answer(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let good = request("/");
    for (bad, status, says) in [
        (good.replace("GET", "POST"), 405, "\r\nAllow: GET\r\n"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 505, ""),
        (good.replace("Host: h\r\n", ""), 400, ""),
        (good.replace("Upgrade: websocket\r\n", ""), 426, "\r\nUpgrade: websocket\r\n"),
        (good.replace("Version: 13", "Version: 7"), 426, "\r\nSec-WebSocket-Version: 13\r\n"),
        (good.replace(KEY, "short"), 400, ""),
        ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400, ""),
        (request("/nowhere"), 404, ""),
        (request("/secret"), 403, ""),
    ] {
        let mut raw = Raw::new(addr);
        raw.write(bad.as_bytes());
        raw.write(&encode(&whole(TEXT, "not looked at"), true));
        let head = raw.head(&mut reactor, &mut log);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{bad}: {head}");
        assert!(head.contains(says) && head.contains("\r\nConnection: close\r\n"), "{head}");
        drive(&mut reactor, &mut log, "the end", |_| {
            raw.read();
            raw.ended
        });
    }
    assert!(log.open.is_empty() && log.closed.is_empty() && log.messages.is_empty());
}

fn a_foreign_origin_is_refused(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let options = ServerOptions { origins: Some(vec!["https://ours.example".into()]), ..ServerOptions::default() };
    let addr = serve(&mut reactor, options, ConnOptions::default());
    let mut log = Log::default();
    for (origin, status) in [
        ("Origin: https://ours.example\r\n", 101),
        ("", 101),
        ("Origin: https://theirs.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: https://ours.example.evil\r\n", 403),
    ] {
        let mut raw = Raw::new(addr);
        raw.write(request("/").replace("Host: h\r\n", &format!("Host: h\r\n{origin}")).as_bytes());
        let head = raw.head(&mut reactor, &mut log);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{origin}: {head}");
    }
}

fn a_request_that_does_not_come_is_given_up(kind: BackendKind) {
    let (mut reactor, mut log, addr, clock) = manual(kind, Options::default());
    let mut raw = Raw::new(addr);
    raw.write(b"GET / HTTP/1.1\r\n");
    drive(&mut reactor, &mut log, "the bytes", |_| true);
    while reactor.context().stats().bytes_in == 0 {
        reactor.run_once(&mut log, Some(Duration::from_millis(1))).unwrap();
    }
    clock.advance(Duration::from_secs(9));
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    // One more byte does not buy more time.
    raw.write(b"H");
    reactor.run_once(&mut log, Some(Duration::from_millis(1))).unwrap();
    raw.read();
    assert!(raw.input.is_empty());
    clock.advance(Duration::from_secs(1));
    assert!(raw.head(&mut reactor, &mut log).starts_with("HTTP/1.1 408 "));
}

fn a_head_without_end_is_refused(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options { max_head: 1000, ..Options::default() });
    let mut raw = Raw::new(addr);
    raw.write(&[b'x'; 1001]);
    assert!(raw.head(&mut reactor, &mut log).starts_with("HTTP/1.1 431 "));
    let mut fits = Raw::new(addr);
    let request = request("/");
    let filled = request.replace("Host: h", &format!("Host: h\r\nX: {}", "y".repeat(1000 - request.len() - 5)));
    assert_eq!(filled.len(), 1000);
    fits.write(filled.as_bytes());
    assert!(fits.head(&mut reactor, &mut log).starts_with("HTTP/1.1 101 "));
}

/// Connects our client to a listener of the test and shows it `answer`, in which KEY's accept
/// key stands for the right one. The socket is returned with what the client sent.
fn answered(reactor: &mut Reactor<Log>, log: &mut Log, answer: &str) -> (TcpStream, String) {
    let listener = TcpListener::bind(local()).unwrap();
    let addr = listener.local_addr().unwrap();
    let url: Url = format!("ws://{addr}/chat").parse().unwrap();
    ws::connect(reactor.context(), addr, &url, ConnectOptions::default(), ClientOptions::default(), Recorder);
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    drive(reactor, log, "the request", |_| {
        read_some(&mut stream, &mut request);
        request.ends_with(b"\r\n\r\n")
    });
    let request = String::from_utf8(request).unwrap();
    let key = request.split("\r\nSec-WebSocket-Key: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    stream.set_nonblocking(false).unwrap();
    stream.write_all(answer.replace(ACCEPT, &accept).as_bytes()).unwrap();
    (stream, request)
}

fn good_answer() -> String {
    format!("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n")
}

fn a_client_reports_each_failed_handshake_once(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let mut log = Log::default();
    for (answer, says) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), "404"),
        ("HTTP/1.1 200 OK\r\n\r\nhello".to_owned(), "200"),
        (good_answer().replace("Accept: ", "Accept: x"), "another key"),
        (good_answer().replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: x\r\n\r\n"), "not offered"),
        ("x".repeat(17_000), "too long"),
        ("SSH-2.0-x\r\n\r\n".to_owned(), "no HTTP"),
    ] {
        let (stream, request) = answered(&mut reactor, &mut log, &answer);
        assert!(request.starts_with("GET /chat HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        let closed = closed(&mut reactor, &mut log);
        assert!(matches!(&closed.cause, CloseReason::Protocol(what) if what.contains(says)), "{says}: {closed}");
        drop(stream);
    }
    // A connect that fails takes the same path.
    let addr = TcpListener::bind(local()).and_then(|listener| listener.local_addr()).unwrap();
    let url: Url = format!("ws://{addr}/").parse().unwrap();
    ws::connect(reactor.context(), addr, &url, ConnectOptions::default(), ClientOptions::default(), Recorder);
    assert!(matches!(closed(&mut reactor, &mut log).cause, CloseReason::ConnectFailed(_)));
    assert!(log.open.is_empty());
}

fn a_client_gives_up_a_server_that_does_not_answer(kind: BackendKind) {
    let (mut reactor, mut log, _, clock) = manual(kind, Options::default());
    let (_stream, _) = answered(&mut reactor, &mut log, "HTTP/1.1 101 x\r\n");
    clock.advance(Duration::from_secs(10));
    assert_eq!(closed(&mut reactor, &mut log).cause, CloseReason::HandshakeTimeout);
}

fn a_client_refuses_what_a_server_may_not_send(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let mut log = Log::default();
    let (mut stream, _) = answered(&mut reactor, &mut log, &good_answer());
    drive(&mut reactor, &mut log, "the opening", |log| log.open.len() == 1);
    stream.write_all(&encode(&whole(TEXT, "masked"), true)).unwrap();
    let closed = closed(&mut reactor, &mut log);
    assert!(matches!(closed.cause, CloseReason::BadFrame(FrameError::Malformed(_))), "{closed}");
    assert_eq!(closed.sent.unwrap().code, CloseCode::PROTOCOL);
    stream.set_nonblocking(false).unwrap();
    let mut sent = Vec::new();
    stream.read_to_end(&mut sent).unwrap();
    assert_eq!((sent[0], sent[1] & 0x80), (FIN | CLOSE, 0x80), "a close frame, masked");
    assert!(log.messages.is_empty());
}

fn wss_without_tls_sends_nothing(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let mut log = Log::default();
    let listener = TcpListener::bind(local()).unwrap();
    let addr = listener.local_addr().unwrap();
    let url: Url = format!("wss://{addr}/").parse().unwrap();
    ws::connect(reactor.context(), addr, &url, ConnectOptions::default(), ClientOptions::default(), Recorder);
    assert!(matches!(closed(&mut reactor, &mut log).cause, CloseReason::Refused(_)));
    let (mut stream, _) = listener.accept().unwrap();
    let mut sent = Vec::new();
    // The end or a reset, but no byte.
    let _ = stream.read_to_end(&mut sent);
    assert!(sent.is_empty());
}

/// As an HTTP server would: it has parsed the head itself.
struct HandsOver;

impl Handler<Log> for HandsOver {
    fn on_data(&mut self, _: &mut Log, cx: &mut Context<Log>, conn: &Conn, input: &[u8]) -> usize {
        let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else { return 0 };
        let headers: [(&str, &[u8]); 5] = [
            ("host", b"h"),
            ("upgrade", b"websocket"),
            ("connection", b"upgrade"),
            ("sec-websocket-version", b"13"),
            ("sec-websocket-key", KEY.as_bytes()),
        ];
        let request = UpgradeRequest::new("GET", "/", 1, headers.to_vec());
        ws::upgrade(&ServerOptions::default(), &request, decide).expect("in order").start(cx, conn);
        end + 4
    }
}

fn an_http_server_can_hand_a_connection_over(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let mut log = Log::default();
    let listener =
        reactor.context().listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(HandsOver))).unwrap();
    let addr = listener.local_addr().inet().expect("TCP");
    // It opens without a word from the client ...
    let mut quiet = Raw::open(&mut reactor, &mut log, addr);
    drive(&mut reactor, &mut log, "the opening", |log| log.open.len() == 1);
    log.open[0].send_text("first").unwrap();
    assert_eq!(quiet.frames(&mut reactor, &mut log, 1), [whole(TEXT, "first")]);
    // ... and only once with frames right behind the head.
    let mut eager = Raw::new(addr);
    eager.write(&[request("/").into_bytes(), encode(&whole(TEXT, "eager"), true)].concat());
    eager.head(&mut reactor, &mut log);
    assert_eq!(eager.frames(&mut reactor, &mut log, 1), [whole(TEXT, "eager")]);
    eager.send(&[close(1000, "")]);
    assert!(closed(&mut reactor, &mut log).is_clean());
    assert_eq!(log.open.len(), 2);
}

fn one_message_goes_to_many(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, Options::default());
    let mut raws: Vec<Raw> = (0..5).map(|_| Raw::open(&mut reactor, &mut log, addr)).collect();
    let large = vec![9; 70_000];
    for (message, expected) in
        [(Prepared::text("news"), whole(TEXT, "news")), (Prepared::binary(&large), whole(BINARY, &large))]
    {
        log.open.iter().for_each(|ws| ws.send(&message).unwrap());
        for raw in &mut raws {
            assert_eq!(raw.frames(&mut reactor, &mut log, 1), slice::from_ref(&expected));
        }
    }
}

/// A header without its payload would put the peer out of step.
fn a_large_message_survives_the_drop_policy_whole(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let conn = ConnOptions { policy: OutputPolicy::Drop, high_water: 100_000, ..ConnOptions::default() };
    let addr = serve(&mut reactor, ServerOptions::default(), conn);
    let mut log = Log::default();
    let mut raw = Raw::open(&mut reactor, &mut log, addr);
    let ws = log.open[0].clone();
    let message = vec![5_u8; 60_000];
    let mut accepted = 0;
    drive(&mut reactor, &mut log, "a refusal", |_| match ws.send_binary(message.clone()) {
        Ok(()) => {
            accepted += 1;
            false
        }
        Err(error) => error == netlib::SendError::Full,
    });
    let frames = raw.frames(&mut reactor, &mut log, accepted);
    assert!(frames.iter().all(|frame| *frame == whole(BINARY, &message)));
    ws.send_text("still in step").unwrap();
    assert_eq!(raw.frames(&mut reactor, &mut log, 1), [whole(TEXT, "still in step")]);
}
