//! Connecting by name: looked up off the loop, every address tried, one deadline, every failure on the
//! same path (spec/netlib.md G3.1, G3.4, G7.1). Names come from a resolver of the test's, never from DNS.

mod support;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use netlib::backend::BackendKind;
use netlib::clock::ManualClock;
use netlib::socket::{Address, Stream};
use netlib::{Backoff, CloseReason, Conn, ConnectOptions, Context, Handler, Reactor, ReactorConfig, Target};
use rustix::net::{AddressFamily, SocketType};
use support::{drive, local, reactor};

#[derive(Default)]
struct Log {
    opened: Vec<Address>,
    closed: Vec<CloseReason>,
}

struct Client;

impl Handler<Log> for Client {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.opened.push(conn.peer_addr());
    }

    fn on_data(&mut self, _: &mut Log, _: &mut Context<Log>, _: &Conn, input: &[u8]) -> usize {
        input.len()
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, reason: &CloseReason) {
        log.closed.push(reason.clone());
    }
}

/// A host of these addresses, whose port is theirs and not the one that was asked for.
fn host(reactor: &mut Reactor<Log>, addresses: &[SocketAddr]) -> Target {
    let addresses = addresses.to_vec();
    reactor.context().set_resolver(move |_: &str, _: u16| Ok(addresses.clone()));
    Target::from(("im.test", 1))
}

fn connect(reactor: &mut Reactor<Log>, target: Target) -> Conn {
    reactor.context().connect(target, ConnectOptions::default(), Box::new(Client))
}

fn listening() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind(local()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// Nobody listens there, and nobody will: the port is bound.
fn refusing() -> (OwnedFd, SocketAddr) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &local()).unwrap();
    let addr = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    (socket, addr)
}

/// A listener whose queue is full: connects to it get no answer.
struct BlackHole {
    addr: SocketAddr,
    _socket: TcpListener,
    _fillers: Vec<Stream>,
}

fn black_hole() -> BlackHole {
    let socket = netlib::socket::bind_tcp(local(), 0).unwrap();
    let addr = socket.local_addr().unwrap();
    let fillers = (0..4).map(|_| Stream::connect(addr).unwrap()).collect();
    BlackHole { addr, _socket: socket, _fillers: fillers }
}

/// With a clock that the test moves.
fn timed(kind: BackendKind) -> (Reactor<Log>, ManualClock) {
    let clock = ManualClock::new();
    let config = ReactorConfig {
        backend: Some(kind),
        fallback: false,
        clock: Box::new(clock.clone()),
        seed: Some(1),
        ..ReactorConfig::default()
    };
    (Reactor::new(config).unwrap(), clock)
}

/// Connecting TCP sockets of this process to that address, by /proc/self/net/tcp: SYN_SENT is 02. Other
/// tests run in this process too, so descriptors as such cannot be counted here.
fn attempts_under_way(addr: SocketAddr) -> usize {
    let wanted = format!(":{:04X} 02", addr.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().filter(|line| line.contains(&wanted)).count()
}

fn a_name_connects_and_what_was_sent_meanwhile_arrives(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let (server, addr) = listening();
    let target = host(&mut reactor, &[addr]);
    let conn = connect(&mut reactor, target);
    assert_eq!(conn.peer_addr(), Address::UNSPECIFIED);
    conn.send_slice(b"hello").unwrap();
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the connect", |log| !log.opened.is_empty());
    assert_eq!(log.opened, [Address::from(addr)]);
    let (mut accepted, _) = server.accept().unwrap();
    let mut text = [0; 5];
    drive(&mut reactor, &mut log, "the flush", |_| conn.queued() == 0);
    io::Read::read_exact(&mut accepted, &mut text).unwrap();
    assert_eq!(&text, b"hello");
    conn.close();
    drop(accepted);
    drive(&mut reactor, &mut log, "the close", |log| log.closed == [CloseReason::Local]);
}

fn an_address_that_refuses_gives_way_to_the_next_at_once(kind: BackendKind) {
    // The clock stands: nothing but the failure itself can start the second attempt.
    let (mut reactor, _clock) = timed(kind);
    let (_bound, dead) = refusing();
    let (_server, good) = listening();
    let target = host(&mut reactor, &[dead, good]);
    connect(&mut reactor, target);
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the second address", |log| !log.opened.is_empty());
    assert_eq!(log.opened, [Address::from(good)]);
    assert_eq!(log.closed, []);
}

/// RFC 8305: a quarter of a second, and not the connect's whole time limit.
fn an_address_that_does_not_answer_has_a_head_start_only(kind: BackendKind) {
    let (mut reactor, clock) = timed(kind);
    let hole = black_hole();
    let (server, good) = listening();
    server.set_nonblocking(true).unwrap();
    let target = host(&mut reactor, &[hole.addr, good]);
    connect(&mut reactor, target);
    let mut log = Log::default();
    let before = attempts_under_way(hole.addr);
    drive(&mut reactor, &mut log, "the first attempt", |_| attempts_under_way(hole.addr) == before + 1);
    clock.advance(Duration::from_millis(249));
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the second began too early");
    clock.advance(Duration::from_millis(1));
    drive(&mut reactor, &mut log, "the second address", |log| !log.opened.is_empty());
    assert_eq!(log.opened, [Address::from(good)]);
    assert_eq!(attempts_under_way(hole.addr), before, "the loser's socket is closed");
}

fn the_families_take_turns(kind: BackendKind) {
    let Ok(server) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("SKIPPED the_families_take_turns: no IPv6 on this machine");
        return;
    };
    let (mut reactor, clock) = timed(kind);
    let (first, second) = (black_hole(), black_hole());
    let good = server.local_addr().unwrap();
    // Two of IPv4 first: without turns the IPv6 address would begin after half a second.
    let target = host(&mut reactor, &[first.addr, second.addr, good]);
    connect(&mut reactor, target);
    let mut log = Log::default();
    let before = attempts_under_way(first.addr);
    drive(&mut reactor, &mut log, "the first attempt", |_| attempts_under_way(first.addr) == before + 1);
    clock.advance(Duration::from_millis(250));
    drive(&mut reactor, &mut log, "the other family", |log| !log.opened.is_empty());
    assert_eq!(log.opened, [Address::from(good)]);
}

fn when_all_fail_it_is_closed_once_with_the_last_reason(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let (_first, one) = refusing();
    let (_second, two) = refusing();
    let target = host(&mut reactor, &[one, two]);
    let conn = connect(&mut reactor, target);
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the failure", |log| !log.closed.is_empty());
    reactor.run_once(&mut log, Some(Duration::from_millis(20))).unwrap();
    assert_eq!(log.closed, [CloseReason::ConnectFailed(io::ErrorKind::ConnectionRefused)]);
    assert!(log.opened.is_empty() && !conn.is_open());
    assert_eq!(reactor.context().connections(), 0);
}

fn a_name_that_nobody_knows_takes_the_same_path(kind: BackendKind) {
    for answer in [Ok(vec![]), Err(io::ErrorKind::NotFound)] {
        let mut reactor = reactor::<Log>(kind);
        reactor.context().set_resolver(move |_: &str, _: u16| answer.clone().map_err(io::Error::from));
        connect(&mut reactor, Target::from(("nobody.test", 1)));
        let mut log = Log::default();
        drive(&mut reactor, &mut log, "the failure", |log| !log.closed.is_empty());
        assert_eq!(log.closed, [CloseReason::ConnectFailed(io::ErrorKind::NotFound)]);
    }
}

fn a_resolver_that_panics_is_a_failure_to_connect(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    reactor.context().set_resolver(|_: &str, _: u16| -> io::Result<Vec<SocketAddr>> { panic!("on purpose") });
    connect(&mut reactor, Target::from(("im.test", 1)));
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the failure", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::ConnectFailed(io::ErrorKind::Other)]);
}

/// Also: dropping the reactor does not wait for the look-up, or this test would never end.
fn the_deadline_counts_while_the_name_is_looked_up(kind: BackendKind) {
    let (mut reactor, clock) = timed(kind);
    let (_never, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    reactor.context().set_resolver(move |_: &str, _: u16| {
        let _ = gate.lock().unwrap().recv();
        Ok(vec![])
    });
    connect(&mut reactor, Target::from(("slow.test", 1)));
    let mut log = Log::default();
    clock.advance(Duration::from_secs(9));
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    assert_eq!(log.closed, []);
    clock.advance(Duration::from_secs(1));
    drive(&mut reactor, &mut log, "the deadline", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::ConnectTimeout]);
    drop(reactor);
}

/// One deadline for all attempts together.
fn the_deadline_ends_all_attempts_and_their_sockets(kind: BackendKind) {
    let (mut reactor, clock) = timed(kind);
    let holes = [black_hole(), black_hole()];
    let before = holes.each_ref().map(|hole| attempts_under_way(hole.addr));
    let target = host(&mut reactor, &holes.each_ref().map(|hole| hole.addr));
    connect(&mut reactor, target);
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the first", |_| attempts_under_way(holes[0].addr) == before[0] + 1);
    clock.advance(Duration::from_secs(5));
    drive(&mut reactor, &mut log, "the second", |_| attempts_under_way(holes[1].addr) == before[1] + 1);
    clock.advance(Duration::from_secs(5));
    drive(&mut reactor, &mut log, "the deadline", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::ConnectTimeout]);
    assert_eq!(holes.each_ref().map(|hole| attempts_under_way(hole.addr)), before, "no socket is left");
}

fn an_abort_while_racing_frees_everything(kind: BackendKind) {
    let (mut reactor, _clock) = timed(kind);
    let hole = black_hole();
    let before = attempts_under_way(hole.addr);
    let target = host(&mut reactor, &[hole.addr]);
    let conn = connect(&mut reactor, target);
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the attempt", |_| attempts_under_way(hole.addr) == before + 1);
    conn.abort();
    drive(&mut reactor, &mut log, "the end", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::Aborted]);
    assert_eq!(attempts_under_way(hole.addr), before);
    assert_eq!(reactor.context().connections(), 0);
}

fn an_answer_for_a_connection_that_was_aborted_connects_nothing(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let (server, addr) = listening();
    server.set_nonblocking(true).unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let (done, is_done) = mpsc::channel::<()>();
    let ends = Mutex::new((gate, done));
    reactor.context().set_resolver(move |_: &str, _: u16| {
        let ends = ends.lock().unwrap();
        ends.0.recv().unwrap();
        ends.1.send(()).unwrap();
        Ok(vec![addr])
    });
    let conn = connect(&mut reactor, Target::from(("im.test", 1)));
    let mut log = Log::default();
    conn.abort();
    drive(&mut reactor, &mut log, "the end", |log| !log.closed.is_empty());
    go.send(()).unwrap();
    is_done.recv().unwrap();
    // The answer is posted right after; a second connect of the same kind shows that it was worked through.
    let target = host(&mut reactor, &[addr]);
    connect(&mut reactor, target);
    drive(&mut reactor, &mut log, "another connect", |log| !log.opened.is_empty());
    assert_eq!(log.closed, [CloseReason::Aborted]);
    server.accept().unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the aborted one connected");
}

fn look_ups_of_one_name_are_one(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let (_server, addr) = listening();
    let (go, gate) = mpsc::channel::<()>();
    let (gate, asked) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    reactor.context().set_resolver(move |_: &str, _: u16| {
        count.fetch_add(1, Ordering::SeqCst);
        gate.lock().unwrap().recv().unwrap();
        Ok(vec![addr])
    });
    for _ in 0..10 {
        connect(&mut reactor, Target::from(("im.test", 1)));
    }
    go.send(()).unwrap();
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "all of them", |log| log.opened.len() == 10);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// spec/netlib.md G7.1, G7.2.
fn a_kept_connection_looks_its_name_up_anew_and_can_be_moved(kind: BackendKind) {
    let (mut reactor, clock) = timed(kind);
    let (_bound, dead) = refusing();
    let (_server, first) = listening();
    let (_other, second) = listening();
    let (looked_up, answers) = (Arc::new(AtomicUsize::new(0)), [dead, first]);
    let count = Arc::clone(&looked_up);
    reactor.context().set_resolver(move |name: &str, _: u16| match name {
        "a.test" => Ok(vec![answers[count.fetch_add(1, Ordering::SeqCst).min(1)]]),
        _ => Ok(vec![second]),
    });
    let backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(64), 0);
    let connector =
        reactor.context().keep_connected(("a.test", 1), ConnectOptions::default(), backoff, |_, _| Box::new(Client));
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the failure", |log| log.closed.len() == 1);
    clock.advance(Duration::from_secs(4));
    drive(&mut reactor, &mut log, "the next address of the name", |log| log.opened == [Address::from(first)]);
    assert_eq!(looked_up.load(Ordering::SeqCst), 2);
    connector.set_target(("b.test", 1));
    connector.conn().unwrap().abort();
    drive(&mut reactor, &mut log, "the end", |log| log.closed.len() == 2);
    clock.advance(Duration::from_secs(4));
    drive(&mut reactor, &mut log, "the new target", |log| log.opened.len() == 2);
    assert_eq!(log.opened[1], Address::from(second));
    let cx = reactor.context();
    connector.stop(cx);
}

on_every_backend!(
    a_name_connects_and_what_was_sent_meanwhile_arrives,
    an_address_that_refuses_gives_way_to_the_next_at_once,
    an_address_that_does_not_answer_has_a_head_start_only,
    the_families_take_turns,
    when_all_fail_it_is_closed_once_with_the_last_reason,
    a_name_that_nobody_knows_takes_the_same_path,
    a_resolver_that_panics_is_a_failure_to_connect,
    the_deadline_counts_while_the_name_is_looked_up,
    the_deadline_ends_all_attempts_and_their_sockets,
    an_abort_while_racing_frees_everything,
    an_answer_for_a_connection_that_was_aborted_connects_nothing,
    look_ups_of_one_name_are_one,
    a_kept_connection_looks_its_name_up_anew_and_can_be_moved,
);
