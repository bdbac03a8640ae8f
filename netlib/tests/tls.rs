//! TLS under the reactor, on every back end: handlers see plaintext and nothing else changes.
//! What the layer itself does is in `tls_layer.rs`, other implementations are in `tls_interop.rs`.
#![cfg(feature = "tls")]

mod support;
mod tls_support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use netlib::backend::BackendKind;
use netlib::clock::ManualClock;
use netlib::layer::LayerFactory;
use netlib::{
    CloseReason, Conn, ConnOptions, ConnectOptions, Context, Handler, ListenOptions, OutputPolicy, Reactor,
    ReactorConfig, tls,
};
use support::{drive, local, peer, reactor};
use tls_support::Authority;

on_every_backend! {
    a_hundred_connections_echo_and_know_their_protocol_when_they_open,
    what_is_sent_while_connecting_waits_for_the_handshake,
    a_handshake_that_does_not_end_is_given_up,
    a_server_that_never_answers_is_given_up,
    a_new_certificate_does_not_disturb_open_connections,
    a_close_says_good_bye_and_then_fin,
    a_finished_side_still_hears_the_other,
    data_that_waits_in_the_layer_is_delivered_after_a_pause,
    a_reader_that_does_not_read_is_noticed_by_the_marks,
    the_policy_pause_works_through_the_layer,
    a_stream_that_is_cut_off_is_told_apart_from_its_end,
    faults_close_with_their_reason_in_words,
    a_rate_holds_for_what_is_encrypted_too,
    one_tick_leaves_in_one_record,
}

const ALPN: &str = "echo";

/// What one connection has lived through.
#[derive(Default)]
struct Life {
    conn: Option<Conn>,
    session: Option<tls::Session>,
    input: Vec<u8>,
    flushed: usize,
    eof: bool,
    high: usize,
    low: usize,
    closed: Option<CloseReason>,
}

/// By the number of their handlers: clients from 0, accepted ones from 1,000.
type Lives = BTreeMap<usize, Life>;

#[derive(Clone, Default)]
struct Probe {
    id: usize,
    greeting: Bytes,
    echoes: bool,
    /// Answers the peer's end with so much, instead of closing at once.
    last_words: Option<Bytes>,
    pauses_at_open: bool,
}

impl Handler<Lives> for Probe {
    fn on_open(&mut self, lives: &mut Lives, _: &mut Context<Lives>, conn: &Conn) {
        let life = lives.entry(self.id).or_default();
        assert!(life.conn.is_none(), "opened twice");
        life.conn = Some(conn.clone());
        life.session = tls::session(conn);
        if self.pauses_at_open {
            conn.pause();
        }
        if !self.greeting.is_empty() {
            conn.send(self.greeting.clone()).unwrap();
        }
    }

    fn on_data(&mut self, lives: &mut Lives, _: &mut Context<Lives>, conn: &Conn, input: &[u8]) -> usize {
        lives.entry(self.id).or_default().input.extend_from_slice(input);
        if self.echoes {
            conn.send_slice(input).unwrap();
        }
        input.len()
    }

    fn on_eof(&mut self, lives: &mut Lives, _: &mut Context<Lives>, conn: &Conn) {
        lives.entry(self.id).or_default().eof = true;
        if let Some(words) = self.last_words.take() {
            conn.send(words).unwrap();
        }
        conn.close_with(CloseReason::PeerClosed);
    }

    fn on_high_water(&mut self, lives: &mut Lives, _: &mut Context<Lives>, _: &Conn) {
        lives.entry(self.id).or_default().high += 1;
    }

    fn on_low_water(&mut self, lives: &mut Lives, _: &mut Context<Lives>, _: &Conn) {
        lives.entry(self.id).or_default().low += 1;
    }

    fn on_flushed(&mut self, lives: &mut Lives, _: &mut Context<Lives>, _: &Conn) {
        lives.entry(self.id).or_default().flushed += 1;
    }

    fn on_close(&mut self, lives: &mut Lives, _: &mut Context<Lives>, _: &Conn, reason: &CloseReason) {
        let life = lives.entry(self.id).or_default();
        assert_eq!(life.closed, None, "closed twice");
        life.closed = Some(reason.clone());
    }
}

fn listen(reactor: &mut Reactor<Lives>, layer: Arc<dyn LayerFactory>, conn: ConnOptions, probe: Probe) -> SocketAddr {
    let options = ListenOptions { layer: Some(layer), conn, ..ListenOptions::default() };
    let mut next = 1_000;
    let listener = reactor.context().listen(local(), options, move |_, _, _| {
        let id = next;
        next += 1;
        Some(Box::new(Probe { id, ..probe.clone() }))
    });
    listener.unwrap().local_addr().inet().expect("TCP")
}

fn dial(reactor: &mut Reactor<Lives>, addr: SocketAddr, layer: &Arc<tls::Client>, probe: Probe) -> Conn {
    let layer: Arc<dyn LayerFactory> = Arc::clone(layer) as _;
    let options = ConnectOptions { layer: Some(layer), ..ConnectOptions::default() };
    reactor.context().connect(addr, options, Box::new(probe))
}

/// A reactor whose listener plays `probe` over TLS, and a client that suits it.
fn setup(kind: BackendKind, conn: ConnOptions, probe: Probe) -> (Reactor<Lives>, SocketAddr, Arc<tls::Client>) {
    let authority = Authority::new("ours");
    let server = tls::Server::builder().identity(authority.issue(&["a.example"]).identity()).alpn([ALPN]);
    let client = tls::Client::builder("a.example", authority.roots()).alpn([ALPN]).build().unwrap();
    let mut reactor = reactor(kind);
    let addr = listen(&mut reactor, Arc::new(server.build().unwrap()), conn, probe);
    (reactor, addr, Arc::new(client))
}

fn echoing() -> Probe {
    Probe { echoes: true, ..Probe::default() }
}

fn numbered(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|n| (n % 251) as u8).collect()
}

fn received(lives: &Lives, id: usize) -> usize {
    lives.get(&id).map_or(0, |life| life.input.len())
}

fn closed(lives: &Lives, id: usize) -> Option<&CloseReason> {
    lives.get(&id).and_then(|life| life.closed.as_ref())
}

fn a_hundred_connections_echo_and_know_their_protocol_when_they_open(kind: BackendKind) {
    const EACH: usize = 50_000;
    let (mut reactor, addr, client) = setup(kind, ConnOptions::default(), echoing());
    let mut lives = Lives::new();
    for id in 0..100 {
        let greeting = Bytes::from(numbered(id, EACH));
        dial(&mut reactor, addr, &client, Probe { id, greeting, ..Probe::default() });
    }
    drive(&mut reactor, &mut lives, "all echoes", |lives| (0..100).all(|id| received(lives, id) == EACH));
    for (id, life) in &lives {
        let session = life.session.as_ref().expect("known when it opens");
        assert_eq!(session.alpn.as_deref(), Some(ALPN.as_bytes()));
        assert_eq!(session.server_name.as_deref(), Some("a.example"));
        if *id < 1_000 {
            assert!(life.input == numbered(*id, EACH), "connection {id} got another's bytes");
            life.conn.as_ref().unwrap().close();
        }
    }
    drive(&mut reactor, &mut lives, "all ends", |lives| lives.values().all(|life| life.closed.is_some()));
    for (id, life) in &lives {
        let expected = if *id < 1_000 { CloseReason::Local } else { CloseReason::PeerClosed };
        assert_eq!(life.closed, Some(expected), "{id}");
        assert!(*id < 1_000 || life.eof);
    }
    drive(&mut reactor, &mut lives, "all slots free", |_| true);
}

fn what_is_sent_while_connecting_waits_for_the_handshake(kind: BackendKind) {
    let (mut reactor, addr, client) = setup(kind, ConnOptions::default(), echoing());
    let mut lives = Lives::new();
    let conn = dial(&mut reactor, addr, &client, Probe::default());
    conn.send(&b"early"[..]).unwrap();
    assert!(tls::session(&conn).is_none());
    drive(&mut reactor, &mut lives, "the echo", |lives| received(lives, 0) == 5);
    assert_eq!(lives[&0].flushed, 1);
}

/// A reactor whose time is ours, so that ten seconds pass at once.
fn manual(kind: BackendKind) -> (Reactor<Lives>, ManualClock) {
    let clock = ManualClock::new();
    let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
    (Reactor::new(config).unwrap(), clock)
}

fn a_handshake_that_does_not_end_is_given_up(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut lives = Lives::new();
    let server = Arc::new(Authority::new("ours").server(&["a.example"]));
    let addr = listen(&mut reactor, server, ConnOptions::default(), Probe::default());
    // One says nothing. The other goes on saying something: that buys no time.
    let (_silent, mut drips) = (peer(addr), peer(addr));
    let mut hello = [0; 600];
    hello[..9].copy_from_slice(&[22, 3, 1, 2, 80, 1, 0, 2, 76]);
    let mut bytes = hello.iter();
    for _ in 0..99 {
        drips.write_all(&[*bytes.next().unwrap()]).unwrap();
        reactor.run_once(&mut lives, Some(Duration::from_millis(1))).unwrap();
        clock.advance(Duration::from_millis(100));
    }
    assert!(lives.is_empty(), "not before its time");
    clock.advance(Duration::from_secs(1));
    drive(&mut reactor, &mut lives, "both ends", |lives| lives.len() == 2);
    for life in lives.values() {
        assert_eq!(life.closed, Some(CloseReason::HandshakeTimeout));
        assert!(life.conn.is_none(), "it never opened");
    }
    let mut end = Vec::new();
    let _reset_or_end = drips.read_to_end(&mut end);
}

fn a_server_that_never_answers_is_given_up(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut lives = Lives::new();
    let silent = std::net::TcpListener::bind(local()).unwrap();
    let client = Arc::new(Authority::new("ours").client("a.example"));
    let conn = dial(&mut reactor, silent.local_addr().unwrap(), &client, Probe::default());
    let (mut accepted, _) = silent.accept().unwrap();
    let mut hello = [0; 5];
    accepted.set_nonblocking(true).unwrap();
    drive(&mut reactor, &mut lives, "the client's hello", |_| accepted.peek(&mut hello).is_ok());
    assert_eq!(accepted.read(&mut hello).unwrap(), 5);
    assert_eq!(hello[..2], [22, 3]);
    clock.advance(Duration::from_secs(11));
    drive(&mut reactor, &mut lives, "the end", |lives| closed(lives, 0).is_some());
    assert_eq!(lives[&0].closed, Some(CloseReason::HandshakeTimeout));
    assert!(!conn.is_open());
}

fn a_new_certificate_does_not_disturb_open_connections(kind: BackendKind) {
    let authority = Authority::new("ours");
    let (old, new) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let server = Arc::new(tls::Server::builder().identity(old.identity()).build().unwrap());
    let mut reactor = reactor(kind);
    let addr = listen(&mut reactor, Arc::clone(&server) as _, ConnOptions::default(), echoing());
    let mut lives = Lives::new();
    let greet = |id| Probe { id, greeting: Bytes::from_static(b"hello"), ..Probe::default() };
    // Each a client of its own, since a resumed session shows the certificate that began it.
    dial(&mut reactor, addr, &Arc::new(authority.client("a.example")), greet(0));
    drive(&mut reactor, &mut lives, "the first echo", |lives| received(lives, 0) == 5);
    server.replace([new.identity()]).unwrap();
    dial(&mut reactor, addr, &Arc::new(authority.client("a.example")), greet(1));
    drive(&mut reactor, &mut lives, "the second echo", |lives| received(lives, 1) == 5);
    lives[&0].conn.as_ref().unwrap().send(&b"still here"[..]).unwrap();
    drive(&mut reactor, &mut lives, "the first again", |lives| received(lives, 0) == 15);
    let shown = |id| lives[&id].session.as_ref().unwrap().peer_certificates.clone();
    assert_eq!((shown(0), shown(1)), (vec![old.der()], vec![new.der()]));
    assert!(lives.values().all(|life| life.closed.is_none()));
}

/// What rustls sees as the peer of a netlib server, over a blocking socket in a thread.
struct RawClient(rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>);

impl RawClient {
    fn new(authority: &Authority, addr: SocketAddr) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(authority.rustls_roots())
            .with_no_client_auth();
        let tls = rustls::ClientConnection::new(Arc::new(config), "a.example".try_into().unwrap()).unwrap();
        Self(rustls::StreamOwned::new(tls, peer(addr)))
    }
}

fn a_close_says_good_bye_and_then_fin(kind: BackendKind) {
    let authority = Authority::new("ours");
    let mut reactor = reactor(kind);
    let greeting = Bytes::from(numbered(0, 300_000));
    let probe = Probe { greeting: greeting.clone(), ..Probe::default() };
    let addr = listen(&mut reactor, Arc::new(authority.server(&["a.example"])), ConnOptions::default(), probe);
    let thread = std::thread::spawn(move || {
        let mut client = RawClient::new(&authority, addr);
        let mut all = Vec::new();
        // An end without close_notify would be an error here.
        client.0.read_to_end(&mut all).expect("a good-bye");
        let behind = client.0.sock.read(&mut [0; 16]).expect("no reset");
        client.0.conn.send_close_notify();
        client.0.flush().unwrap();
        (all, behind)
    });
    let mut lives = Lives::new();
    drive(&mut reactor, &mut lives, "the connection", |lives| lives.contains_key(&1_000));
    lives[&1_000].conn.as_ref().unwrap().close();
    drive(&mut reactor, &mut lives, "the end", |_| thread.is_finished());
    let (all, behind) = thread.join().unwrap();
    assert!(all == greeting, "{} bytes came", all.len());
    assert_eq!(behind, 0, "FIN comes behind the good-bye");
    assert_eq!(lives[&1_000].closed, Some(CloseReason::Local));
}

fn a_finished_side_still_hears_the_other(kind: BackendKind) {
    let words = Bytes::from(numbered(0, 1_000_000));
    let probe = Probe { last_words: Some(words.clone()), ..Probe::default() };
    let (mut reactor, addr, client) = setup(kind, ConnOptions::default(), probe);
    let mut lives = Lives::new();
    let conn = dial(&mut reactor, addr, &client, Probe::default());
    conn.send(&b"the question"[..]).unwrap();
    conn.finish();
    drive(&mut reactor, &mut lives, "both ends", |lives| closed(lives, 0).is_some() && closed(lives, 1_000).is_some());
    assert_eq!(lives[&1_000].input, b"the question");
    assert!(lives[&0].input == words, "{} bytes came", lives[&0].input.len());
    assert!(lives[&0].eof && lives[&1_000].eof);
    assert_eq!(lives[&0].closed, Some(CloseReason::PeerClosed));
    assert_eq!(lives[&1_000].closed, Some(CloseReason::PeerClosed));
}

/// What the layer has decrypted, or could decrypt, the back end knows nothing of: no event
/// comes for it.
fn data_that_waits_in_the_layer_is_delivered_after_a_pause(kind: BackendKind) {
    let greeting = Bytes::from(numbered(0, 200_000));
    let probe = Probe { greeting: greeting.clone(), ..Probe::default() };
    // A budget that ends in the middle of records.
    let (mut reactor, addr, client) = setup(kind, ConnOptions::default(), probe);
    let mut lives = Lives::new();
    let layer: Arc<dyn LayerFactory> = client;
    let conn = ConnOptions { read_budget: 10_000, ..ConnOptions::default() };
    let options = ConnectOptions { layer: Some(layer), conn, ..ConnectOptions::default() };
    let conn = reactor.context().connect(addr, options, Box::new(Probe { pauses_at_open: true, ..Probe::default() }));
    drive(&mut reactor, &mut lives, "the server's send", |lives| {
        lives.get(&1_000).is_some_and(|life| life.flushed == 1) && lives.contains_key(&0)
    });
    let mut seen = 0;
    while seen < greeting.len() {
        assert_eq!(received(&lives, 0), seen, "paused");
        conn.resume();
        drive(&mut reactor, &mut lives, "more", |lives| received(lives, 0) > seen);
        conn.pause();
        reactor.run_once(&mut lives, Some(Duration::ZERO)).unwrap();
        seen = received(&lives, 0);
    }
    assert!(lives[&0].input == greeting);
}

fn a_reader_that_does_not_read_is_noticed_by_the_marks(kind: BackendKind) {
    const TOTAL: usize = 8 << 20;
    let options = ConnOptions { output_limit: 32 << 20, ..ConnOptions::default() };
    let probe = Probe { greeting: Bytes::from(numbered(0, TOTAL)), ..Probe::default() };
    let (mut reactor, addr, client) = setup(kind, options, probe);
    let mut lives = Lives::new();
    let conn = dial(&mut reactor, addr, &client, Probe { pauses_at_open: true, ..Probe::default() });
    drive(&mut reactor, &mut lives, "the high mark", |lives| lives.get(&1_000).is_some_and(|life| life.high == 1));
    assert_eq!((lives[&1_000].low, lives[&1_000].flushed), (0, 0));
    conn.resume();
    drive(&mut reactor, &mut lives, "everything", |lives| received(lives, 0) == TOTAL);
    assert!(lives[&0].input == numbered(0, TOTAL));
    let life = &lives[&1_000];
    assert_eq!((life.high, life.low, life.flushed), (1, 1, 1));
}

fn the_policy_pause_works_through_the_layer(kind: BackendKind) {
    const TOTAL: usize = 12 << 20;
    const HIGH: usize = 256 << 10;
    let options =
        ConnOptions { high_water: HIGH, low_water: 64 << 10, policy: OutputPolicy::Pause, ..Default::default() };
    let (mut reactor, addr, client) = setup(kind, options, echoing());
    let mut lives = Lives::new();
    let layer: Arc<dyn LayerFactory> = client;
    let conn = ConnOptions { output_limit: 2 * TOTAL, ..ConnOptions::default() };
    let connect = ConnectOptions { layer: Some(layer), conn, ..ConnectOptions::default() };
    // It sends much and does not read the echoes, so the server stops reading.
    let conn = reactor.context().connect(addr, connect, Box::new(Probe { pauses_at_open: true, ..Probe::default() }));
    conn.send(numbered(0, TOTAL)).unwrap();
    drive(&mut reactor, &mut lives, "the server's pause", |lives| {
        lives.get(&1_000).is_some_and(|life| life.high > 0 && !life.conn.as_ref().unwrap().wants_input())
    });
    let most = lives[&1_000].conn.as_ref().unwrap().queued();
    assert!(most <= (HIGH + (128 << 10)) as u64, "{most} bytes queued");
    assert!(received(&lives, 1_000) < TOTAL);
    conn.resume();
    drive(&mut reactor, &mut lives, "all echoes", |lives| received(lives, 0) == TOTAL);
    assert!(lives[&0].input == numbered(0, TOTAL));
}

fn a_stream_that_is_cut_off_is_told_apart_from_its_end(kind: BackendKind) {
    let authority = Authority::new("ours");
    let mut reactor = reactor(kind);
    let server = Arc::new(authority.server(&["a.example"]));
    let addr = listen(&mut reactor, server, ConnOptions::default(), Probe::default());
    let thread = std::thread::spawn(move || {
        let mut client = RawClient::new(&authority, addr);
        client.0.write_all(b"pay 100 to").unwrap();
        client.0.sock.shutdown(std::net::Shutdown::Write).unwrap();
        // Held until the server has gone, so that no reset comes before its reading.
        let _ = client.0.sock.read_to_end(&mut Vec::new());
    });
    let mut lives = Lives::new();
    drive(&mut reactor, &mut lives, "the end", |lives| closed(lives, 1_000).is_some());
    assert_eq!(lives[&1_000].input, b"pay 100 to");
    assert!(!lives[&1_000].eof, "it is no end of the stream");
    assert_eq!(lives[&1_000].closed, Some(CloseReason::Reset));
    drive(&mut reactor, &mut lives, "the peer's end", |_| thread.is_finished());
    thread.join().unwrap();
}

fn faults_close_with_their_reason_in_words(kind: BackendKind) {
    let (mut reactor, addr, _) = setup(kind, ConnOptions::default(), Probe::default());
    let mut lives = Lives::new();
    let stranger = Arc::new(Authority::new("a stranger").client("a.example"));
    dial(&mut reactor, addr, &stranger, Probe::default());
    let told = |lives: &Lives, id| match closed(lives, id) {
        Some(CloseReason::Protocol(text)) => text.to_string(),
        other => panic!("{id}: {other:?}"),
    };
    drive(&mut reactor, &mut lives, "both refusals", |lives| {
        closed(lives, 0).is_some() && closed(lives, 1_000).is_some()
    });
    assert!(told(&lives, 0).contains("certificate is refused"), "{}", told(&lives, 0));
    assert!(told(&lives, 1_000).contains("does not trust who issued"), "the alert arrived: {}", told(&lives, 1_000));

    let mut http = peer(addr);
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drive(&mut reactor, &mut lives, "the refusal", |lives| closed(lives, 1_001).is_some());
    assert!(told(&lives, 1_001).contains("plain HTTP on a port that speaks TLS"));
    let mut answer = Vec::new();
    http.read_to_end(&mut answer).expect("an end, not a reset");
    assert_eq!(answer.first(), Some(&21), "an alert, not {answer:?}");
    assert!(lives.values().all(|life| life.conn.is_none()), "none of them opened");
}

fn a_rate_holds_for_what_is_encrypted_too(kind: BackendKind) {
    let rate = netlib::Rate { bytes_per_second: 100_000, burst: 10_000 };
    let options = ConnOptions { write_rate: Some(rate), ..ConnOptions::default() };
    let probe = Probe { greeting: Bytes::from(numbered(0, 150_000)), ..Probe::default() };
    let (mut reactor, addr, client) = setup(kind, options, probe);
    let mut lives = Lives::new();
    dial(&mut reactor, addr, &client, Probe::default());
    let start = std::time::Instant::now();
    drive(&mut reactor, &mut lives, "everything", |lives| received(lives, 0) == 150_000);
    assert!(lives[&0].input == numbered(0, 150_000));
    assert!(start.elapsed() >= Duration::from_millis(400), "too fast: {:?}", start.elapsed());
}

fn one_tick_leaves_in_one_record(kind: BackendKind) {
    let authority = Authority::new("ours");
    let mut reactor = reactor(kind);
    let server = Arc::new(authority.server(&["a.example"]));
    let addr = listen(&mut reactor, server, ConnOptions::default(), Probe::default());
    let thread = std::thread::spawn(move || {
        let mut client = RawClient::new(&authority, addr);
        let mut first = [0; 1];
        client.0.read_exact(&mut first).unwrap();
        // One record is decrypted as a whole, and nothing else was read.
        client.0.conn.process_new_packets().unwrap().plaintext_bytes_to_read()
    });
    let mut lives = Lives::new();
    drive(&mut reactor, &mut lives, "the connection", |lives| lives.contains_key(&1_000));
    let conn = lives[&1_000].conn.clone().unwrap();
    (0..100).for_each(|_| conn.send(&b"ten bytes."[..]).unwrap());
    drive(&mut reactor, &mut lives, "the client", |_| thread.is_finished());
    assert_eq!(thread.join().unwrap(), 999);
}
