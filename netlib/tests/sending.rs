//! What a connection sends and how it ends its side, on every back end: copies, shared bytes,
//! parts, files; FIN without a close; limits of rate, volume and lifetime.

mod support;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use netlib::backend::BackendKind;
use netlib::clock::ManualClock;
use netlib::{
    CloseReason, Conn, ConnOptions, Context, Fault, Handler, ListenOptions, Phase, Rate, Reactor, ReactorConfig,
    SendError,
};
use support::{drive, local, peer, reactor, read_some};

on_every_backend! {
    pieces_of_every_kind_arrive_in_the_order_of_sending,
    the_marks_and_the_end_of_the_output_are_told_in_the_phase_that_has_sent_it,
    one_message_to_many_connections_shares_its_bytes,
    parts_are_sent_all_or_none,
    a_finished_side_sends_its_fin_and_goes_on_reading,
    a_lifetime_ends_a_busy_connection,
    more_bytes_than_the_limit_end_the_connection,
    input_counts_when_its_handler_is_given_it,
    a_read_rate_slows_the_peer_down_and_loses_nothing,
    a_write_rate_is_kept_and_loses_nothing,
    another_thread_reaches_a_connection_until_it_ends,
}

#[derive(Default)]
struct Log {
    conns: Vec<Conn>,
    input: Vec<u8>,
    eofs: usize,
    closed: Vec<CloseReason>,
}

struct Note;

impl Handler<Log> for Note {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.conns.push(conn.clone());
    }

    fn on_data(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, input: &[u8]) -> usize {
        log.input.extend_from_slice(input);
        input.len()
    }

    fn on_eof(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.eofs += 1;
        conn.close_with(CloseReason::PeerClosed);
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, reason: &CloseReason) {
        log.closed.push(reason.clone());
    }
}

/// A reactor with so many open connections.
fn connected(reactor: &mut Reactor<Log>, conn: ConnOptions, count: usize) -> (Log, Vec<TcpStream>) {
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Note))).unwrap();
    let mut log = Log::default();
    let mut clients = Vec::new();
    for n in 1..=count {
        clients.push(peer(listener.local_addr()));
        drive(reactor, &mut log, "the connection", |log| log.conns.len() == n);
    }
    (log, clients)
}

fn manual(kind: BackendKind) -> (Reactor<Log>, ManualClock) {
    let clock = ManualClock::new();
    let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
    (Reactor::new(config).unwrap(), clock)
}

fn numbered(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|n| (n % 251) as u8).collect()
}

fn pieces_of_every_kind_arrive_in_the_order_of_sending(kind: BackendKind) {
    const EACH: usize = 30_011;
    const ROUNDS: usize = 100;
    let mut reactor = reactor(kind);
    let options = ConnOptions { output_limit: 64 << 20, ..ConnOptions::default() };
    let (mut log, mut clients) = connected(&mut reactor, options, 1);
    let total = ROUNDS * 4 * EACH;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&numbered(0, total)).unwrap();
    let file = Rc::new(OwnedFd::from(file));
    let conn = log.conns[0].clone();
    for round in 0..ROUNDS {
        let at = |n: usize| (round * 4 + n) * EACH;
        conn.send(numbered(at(0), EACH)).unwrap();
        conn.send_file(&file, at(1) as u64, EACH as u64).unwrap();
        conn.send_slice(&numbered(at(2), EACH)).unwrap();
        let (one, other) = (numbered(at(3), 7), numbered(at(3) + 7, EACH - 7));
        conn.send_parts(&[one.into(), Bytes::new(), other.into()]).unwrap();
    }
    assert_eq!(conn.queued(), total as u64);
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "all bytes", |_| {
        read_some(&mut clients[0], &mut taken);
        taken.len() == total
    });
    assert!(taken == numbered(0, total));
    assert_eq!((conn.queued(), conn.bytes_out()), (0, total as u64));
}

/// Writes down the phase of everything that is said of its output.
struct Phases(Rc<RefCell<Vec<(&'static str, Phase)>>>);

impl Handler<Log> for Phases {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.conns.push(conn.clone());
    }

    fn on_data(&mut self, _: &mut Log, _: &mut Context<Log>, _: &Conn, input: &[u8]) -> usize {
        input.len()
    }

    fn on_high_water(&mut self, _: &mut Log, cx: &mut Context<Log>, _: &Conn) {
        self.0.borrow_mut().push(("high", cx.phase()));
    }

    fn on_low_water(&mut self, _: &mut Log, cx: &mut Context<Log>, _: &Conn) {
        self.0.borrow_mut().push(("low", cx.phase()));
    }

    fn on_flushed(&mut self, _: &mut Log, cx: &mut Context<Log>, _: &Conn) {
        self.0.borrow_mut().push(("flushed", cx.phase()));
    }
}

/// *Flush*, or the *Ready* behind it where the back end sends.
fn the_marks_and_the_end_of_the_output_are_told_in_the_phase_that_has_sent_it(kind: BackendKind) {
    let phase = if kind == BackendKind::Uring { Phase::Ready } else { Phase::Flush };
    let mut reactor = reactor(kind);
    let told = Rc::new(RefCell::new(Vec::new()));
    let phases = Rc::clone(&told);
    let conn = ConnOptions { high_water: 1, low_water: 0, output_limit: 32 << 20, ..ConnOptions::default() };
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let cx = reactor.context();
    let listener = cx.listen(local(), options, move |_, _, _| Some(Box::new(Phases(Rc::clone(&phases))))).unwrap();
    let mut client = peer(listener.local_addr());
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the connection", |log| log.conns.len() == 1);
    log.conns[0].send(vec![0; 16 << 20]).unwrap();
    drive(&mut reactor, &mut log, "the high mark", |_| !told.borrow().is_empty());
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "all of it", |log| {
        read_some(&mut client, &mut taken);
        log.conns[0].queued() == 0 && told.borrow().len() == 3
    });
    assert_eq!(*told.borrow(), [("high", phase), ("low", phase), ("flushed", phase)]);
}

fn one_message_to_many_connections_shares_its_bytes(kind: BackendKind) {
    const RECEIVERS: usize = 20;
    const SIZE: usize = 1 << 20;
    let mut reactor = reactor(kind);
    let (mut log, mut clients) = connected(&mut reactor, ConnOptions::default(), RECEIVERS);
    let message = Bytes::from(numbered(0, SIZE));
    let first = message.as_ptr();
    for conn in &log.conns {
        conn.send(message.clone()).unwrap();
    }
    // Nobody has made a copy: the bytes cannot be taken out while connections hold them.
    let message = message.try_into_mut().expect_err("shared by what is queued");
    assert_eq!(message.as_ptr(), first);
    let mut taken = vec![Vec::new(); RECEIVERS];
    drive(&mut reactor, &mut log, "all of it, everywhere", |_| {
        for (client, taken) in clients.iter_mut().zip(&mut taken) {
            read_some(client, taken);
        }
        taken.iter().all(|taken| taken.len() == SIZE)
    });
    assert!(taken.iter().all(|taken| taken[..] == message));
    // A back end that sends by itself hears with its next wait that it is over.
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    assert!(message.try_into_mut().is_ok(), "nobody holds it any more");
}

fn parts_are_sent_all_or_none(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let options = ConnOptions {
        policy: netlib::OutputPolicy::Drop,
        high_water: 1 << 20,
        output_limit: 16 << 20,
        ..ConnOptions::default()
    };
    let (mut log, mut clients) = connected(&mut reactor, options, 1);
    let conn = log.conns[0].clone();
    // More than the kernel takes, whatever its buffers are.
    conn.send(vec![1; 12 << 20]).unwrap();
    let parts = [Bytes::from(vec![2; 600 << 10]), Bytes::from(vec![2; 600 << 10])];
    assert_eq!(conn.send_parts(&parts), Err(SendError::Full));
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "what was taken", |_| {
        read_some(&mut clients[0], &mut taken);
        taken.len() >= 12 << 20
    });
    conn.send_parts(&parts).unwrap();
    drive(&mut reactor, &mut log, "both parts", |_| {
        read_some(&mut clients[0], &mut taken);
        taken.len() == (12 << 20) + (1200 << 10)
    });
    assert!(taken[..12 << 20].iter().all(|byte| *byte == 1) && taken[12 << 20..].iter().all(|byte| *byte == 2));
}

fn a_finished_side_sends_its_fin_and_goes_on_reading(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let (mut log, mut clients) = connected(&mut reactor, ConnOptions::default(), 1);
    let conn = log.conns[0].clone();
    conn.send(vec![5; 3 << 20]).unwrap();
    conn.finish();
    conn.finish();
    assert_eq!(conn.send_slice(b"more"), Err(SendError::Closed));
    let mut taken = Vec::new();
    let mut ended = false;
    drive(&mut reactor, &mut log, "everything and the end", |_| {
        ended = ended || read_some(&mut clients[0], &mut taken);
        ended
    });
    assert_eq!(taken.len(), 3 << 20);
    assert!(log.closed.is_empty(), "only one side has ended");
    clients[0].write_all(b"still here").unwrap();
    drive(&mut reactor, &mut log, "the answer", |log| log.input == b"still here");
    drop(clients);
    drive(&mut reactor, &mut log, "the other end", |log| !log.closed.is_empty());
    assert_eq!((log.eofs, &log.closed[..]), (1, &[CloseReason::PeerClosed][..]));
}

fn a_lifetime_ends_a_busy_connection(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let options = ConnOptions { lifetime: Some(Duration::from_mins(1)), ..ConnOptions::default() };
    let (mut log, mut clients) = connected(&mut reactor, options, 1);
    for _ in 0..59 {
        clock.advance(Duration::from_secs(1));
        clients[0].write_all(b"x").unwrap();
        reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    }
    assert!(log.closed.is_empty());
    clock.advance(Duration::from_secs(1));
    drive(&mut reactor, &mut log, "its end", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::Lifetime]);
    assert_eq!(CloseReason::Lifetime.fault(), Fault::Nobody);
}

fn more_bytes_than_the_limit_end_the_connection(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let options = ConnOptions { max_bytes_in: Some(10), ..ConnOptions::default() };
    let (mut log, mut clients) = connected(&mut reactor, options, 1);
    clients[0].write_all(b"0123456789").unwrap();
    drive(&mut reactor, &mut log, "what is allowed", |log| log.input.len() == 10);
    assert!(log.closed.is_empty());
    clients[0].write_all(b"!").unwrap();
    drive(&mut reactor, &mut log, "the end", |log| !log.closed.is_empty());
    assert_eq!((log.input.len(), &log.closed[..]), (10, &[CloseReason::InputLimit][..]));
    assert_eq!(log.closed[0].fault(), Fault::Peer);
}

/// Takes nothing until it is told to.
struct Waits;

impl Handler<Log> for Waits {
    fn on_open(&mut self, log: &mut Log, cx: &mut Context<Log>, conn: &Conn) {
        conn.pause();
        Note.on_open(log, cx, conn);
    }

    fn on_data(&mut self, log: &mut Log, cx: &mut Context<Log>, conn: &Conn, input: &[u8]) -> usize {
        Note.on_data(log, cx, conn, input)
    }

    fn on_close(&mut self, log: &mut Log, cx: &mut Context<Log>, conn: &Conn, reason: &CloseReason) {
        Note.on_close(log, cx, conn, reason);
    }
}

/// Not when a back end has received it ahead of a handler that has paused.
fn input_counts_when_its_handler_is_given_it(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let conn = ConnOptions { max_bytes_in: Some(10_000), read_budget: 1_000, ..ConnOptions::default() };
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Waits))).unwrap();
    let mut client = peer(listener.local_addr());
    client.write_all(&numbered(0, 20_000)).unwrap(); // it is there when the connection opens
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the connection", |log| log.conns.len() == 1);
    for _ in 0..3 {
        reactor.run_once(&mut log, Some(Duration::from_millis(2))).unwrap();
    }
    let conn = log.conns[0].clone();
    assert_eq!((conn.bytes_in(), reactor.context().stats().bytes_in), (0, 0));
    conn.resume();
    drive(&mut reactor, &mut log, "some of it", |log| !log.input.is_empty());
    assert_eq!(conn.bytes_in(), log.input.len() as u64);
    assert!(log.input.len() <= 1_000, "{} bytes within a budget of 1,000", log.input.len());
    drive(&mut reactor, &mut log, "the limit", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::InputLimit]);
    assert!(log.input == numbered(0, 10_000), "{} of 10,000 bytes", log.input.len());
}

/// Time moves only here, so what may pass is known to the byte.
fn a_read_rate_slows_the_peer_down_and_loses_nothing(kind: BackendKind) {
    const TOTAL: usize = 200_000;
    let (mut reactor, clock) = manual(kind);
    let rate = Rate { bytes_per_second: 10_000, burst: 40_000 };
    let options = ConnOptions { read_rate: Some(rate), ..ConnOptions::default() };
    let (mut log, mut clients) = connected(&mut reactor, options, 1);
    let mut client = clients.remove(0);
    let writer = std::thread::spawn(move || {
        client.write_all(&numbered(0, TOTAL)).unwrap();
        client
    });
    drive(&mut reactor, &mut log, "the burst", |log| log.input.len() == 40_000);
    let mut seconds = 0;
    while log.input.len() < TOTAL {
        for _ in 0..5 {
            reactor.run_once(&mut log, Some(Duration::from_millis(2))).unwrap();
        }
        assert!(log.input.len() <= 40_000 + seconds * 10_000, "{} after {seconds} s", log.input.len());
        clock.advance(Duration::from_secs(1));
        seconds += 1;
        assert!(seconds < 100, "it never comes: {} bytes", log.input.len());
    }
    assert!(seconds >= 16, "{seconds}");
    assert!(log.input == numbered(0, TOTAL));
    drop(writer.join().unwrap());
}

fn a_write_rate_is_kept_and_loses_nothing(kind: BackendKind) {
    const TOTAL: usize = 200_000;
    let (mut reactor, clock) = manual(kind);
    let rate = Rate { bytes_per_second: 10_000, burst: 40_000 };
    let options = ConnOptions { write_rate: Some(rate), ..ConnOptions::default() };
    let (mut log, mut clients) = connected(&mut reactor, options, 1);
    log.conns[0].send(numbered(0, TOTAL)).unwrap();
    let mut taken = Vec::new();
    let mut seconds = 0;
    while taken.len() < TOTAL {
        for _ in 0..5 {
            reactor.run_once(&mut log, Some(Duration::from_millis(2))).unwrap();
            read_some(&mut clients[0], &mut taken);
        }
        let written = log.conns[0].bytes_out() as usize;
        assert!(written <= 40_000 + seconds * 10_000, "{written} after {seconds} s");
        clock.advance(Duration::from_secs(1));
        seconds += 1;
        assert!(seconds < 100, "it never comes: {} bytes", taken.len());
    }
    assert!(seconds >= 16, "{TOTAL} bytes in {seconds} s");
    assert!(taken == numbered(0, TOTAL));
}

fn another_thread_reaches_a_connection_until_it_ends(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let (mut log, mut clients) = connected(&mut reactor, ConnOptions::default(), 2);
    let remote = reactor.context().remote_conn(&log.conns[0]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let far = Arc::clone(&seen);
    let thread = std::thread::spawn(move || {
        remote.send(&b"from afar"[..]).unwrap();
        let copy = remote.clone();
        copy.with(move |_, cx, conn| far.lock().unwrap().push((conn.id(), cx.phase()))).unwrap();
        remote
    });
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "the message", |_| {
        read_some(&mut clients[0], &mut taken);
        taken == b"from afar" && !seen.lock().unwrap().is_empty()
    });
    let remote = thread.join().unwrap();
    assert_eq!(seen.lock().unwrap()[0], (remote.id(), Phase::Posted));
    remote.close_with(CloseReason::Refused("enough")).unwrap();
    drive(&mut reactor, &mut log, "the close", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::Refused("enough")]);
    drop(clients.remove(0));
    drive(&mut reactor, &mut log, "one left", |_| true);
    // The next connection is another, whatever slot it gets.
    remote.with(|log, _, _| log.eofs = 1_000).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while reactor.context().stats().queue.depth > 0 {
        assert!(Instant::now() < until);
        reactor.run_once(&mut log, Some(Duration::from_millis(5))).unwrap();
    }
    assert_eq!(log.eofs, 0);
    let mut rest = Vec::new();
    clients[0].set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let _nothing = clients[0].read_to_end(&mut rest);
    assert!(rest.is_empty());
}
