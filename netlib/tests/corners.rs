//! Where two features of a connection meet, on every back end: an orderly close under a rate, with
//! input unread, before the connect is done; limits that count only what they say; a stop that
//! drains. Each test names the fault that it holds down.

mod support;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use netlib::backend::BackendKind;
use netlib::clock::ManualClock;
use netlib::event_queue::{self, Overflow, QueueConfig, Stop};
use netlib::{
    CloseReason, Conn, ConnOptions, ConnectOptions, Context, Handler, ListenOptions, Rate, Reactor, ReactorConfig,
    SendError,
};
use support::{drive, local, peer, reactor, read_some};

on_every_backend! {
    a_close_while_a_write_rate_rests_still_sends_everything,
    a_send_over_the_limit_under_a_write_rate_ends_the_connection_and_not_the_loop,
    a_close_inside_a_handler_takes_the_input_that_is_there_already,
    a_side_finished_before_the_connect_is_done_sends_its_fin,
    whole_frames_in_one_read_do_not_count_as_unused_input,
    a_file_cut_short_while_it_is_sent_ends_the_connection,
    reading_that_rested_is_given_the_whole_idle_timeout_again,
    a_drain_asked_for_by_posted_work_runs_what_was_posted_before_it,
    an_accept_budget_of_zero_counts_as_one,
}

const HOUR: Duration = Duration::from_hours(1);

#[derive(Default)]
struct Log {
    opened: Vec<Conn>,
    records: usize,
    received: usize,
    closed: Vec<CloseReason>,
}

/// Records of ten bytes.
struct Records;

impl Handler<Log> for Records {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.opened.push(conn.clone());
    }

    fn on_data(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn, input: &[u8]) -> usize {
        log.received += input.len();
        log.records += input.len() / 10;
        if input.starts_with(b"close") {
            conn.send(vec![0; 32 << 20]).unwrap();
            conn.close();
        }
        input.len() / 10 * 10
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, reason: &CloseReason) {
        log.closed.push(reason.clone());
    }
}

fn connected(reactor: &mut Reactor<Log>, conn: ConnOptions) -> (Log, std::net::TcpStream) {
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Records))).unwrap();
    let mut log = Log::default();
    let client = peer(listener.local_addr());
    drive(reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    (log, client)
}

/// Runs until no connection is left.
fn settle(reactor: &mut Reactor<Log>, log: &mut Log) {
    let start = Instant::now();
    while reactor.context().connections() > 0 {
        assert!(start.elapsed() < support::DEADLINE, "a connection is left");
        reactor.run_once(log, Some(Duration::from_millis(20))).unwrap();
    }
}

/// The rest that the rate had imposed went on: what one flush left was never written.
fn a_close_while_a_write_rate_rests_still_sends_everything(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let write_rate = Some(Rate { bytes_per_second: 1, burst: 1000 });
    let options = ConnOptions { write_rate, linger: HOUR, ..ConnOptions::default() };
    let (mut log, mut client) = connected(&mut reactor, options);
    let conn = log.opened[0].clone();
    for _ in 0..192 {
        conn.send(vec![0; 16 << 10]).unwrap();
    }
    drive(&mut reactor, &mut log, "the burst", |_| conn.bytes_out() == 1000);
    for _ in 0..3 {
        reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    }
    conn.close();
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "all bytes and the FIN", |_| read_some(&mut client, &mut taken));
    assert_eq!(taken.len(), 192 << 14);
    drop(client);
    settle(&mut reactor, &mut log);
    assert_eq!(log.closed, [CloseReason::Local]);
}

/// The send tried to make room, was allowed to write nothing, and tried for ever.
fn a_send_over_the_limit_under_a_write_rate_ends_the_connection_and_not_the_loop(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let write_rate = Some(Rate { bytes_per_second: 1, burst: 1000 });
    let options = ConnOptions { write_rate, output_limit: 10_000, ..ConnOptions::default() };
    let (mut log, client) = connected(&mut reactor, options);
    let conn = log.opened[0].clone();
    conn.send(vec![0; 9000]).unwrap();
    drive(&mut reactor, &mut log, "the burst", |_| conn.bytes_out() == 1000);
    assert_eq!(conn.send(vec![0; 9000]), Err(SendError::Closed));
    assert_eq!(conn.bytes_out(), 1000, "more than the rate allows");
    settle(&mut reactor, &mut log);
    assert_eq!(log.closed, [CloseReason::OutputLimit]);
    drop(client);
}

/// The edge that announces the input is used up when the handler closes on the first of it. A peer
/// that writes everything before it reads anything would be stuck.
fn a_close_inside_a_handler_takes_the_input_that_is_there_already(kind: BackendKind) {
    const EACH_WAY: usize = 32 << 20;
    let mut reactor = reactor(kind);
    let (mut log, mut client) = connected(&mut reactor, ConnOptions { linger: HOUR, ..ConnOptions::default() });
    client.set_nonblocking(true).unwrap();
    let request = b"close".repeat(20_000);
    let mut written = 0;
    while let Ok(count) = client.write(&request) {
        written += count; // as much as fits before the loop has looked
    }
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "the answer and the FIN", |_| {
        while written < EACH_WAY
            && let Ok(count) = client.write(&request)
        {
            written += count;
        }
        written >= EACH_WAY && read_some(&mut client, &mut taken)
    });
    assert_eq!(taken.len(), EACH_WAY);
    drop(client);
    settle(&mut reactor, &mut log);
    assert_eq!(log.closed, [CloseReason::Local]);
}

/// The mark was used up while the connect was under way.
fn a_side_finished_before_the_connect_is_done_sends_its_fin(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let listener = std::net::TcpListener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap();
    reactor.context().set_resolver(move |_: &str, _: u16| Ok(vec![address]));
    let conn = reactor.context().connect(("im.test", 1), ConnectOptions::default(), Box::new(Records));
    conn.finish();
    let mut log = Log::default();
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    let (mut server, _) = listener.accept().unwrap();
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "the FIN", |_| read_some(&mut server, &mut taken));
    server.write_all(&[0; 10]).unwrap();
    drive(&mut reactor, &mut log, "what the peer says then", |log| log.records == 1);
}

/// What one read added to the unused head of a frame was counted before it was offered.
fn whole_frames_in_one_read_do_not_count_as_unused_input(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let (mut log, mut client) = connected(&mut reactor, ConnOptions { input_limit: 100, ..ConnOptions::default() });
    client.write_all(b"begun").unwrap();
    drive(&mut reactor, &mut log, "the head of a record", |log| log.received == 5);
    client.write_all(&[0; 5000]).unwrap();
    drive(&mut reactor, &mut log, "the records", |log| log.records == 500 || !log.closed.is_empty());
    assert_eq!(log.closed, []);
}

/// It was taken for a full socket, whose room an edge trigger then never announced; and the peer was
/// blamed for it.
fn a_file_cut_short_while_it_is_sent_ends_the_connection(kind: BackendKind) {
    const LEN: u64 = 64 << 20;
    let mut reactor = reactor(kind);
    let (mut log, mut client) = connected(&mut reactor, ConnOptions::default());
    let conn = log.opened[0].clone();
    let file = tempfile::tempfile().unwrap();
    file.set_len(LEN).unwrap();
    let handle = Rc::new(OwnedFd::from(file.try_clone().unwrap()));
    conn.send_file(&handle, 0, LEN).unwrap();
    let mut sent = 1;
    while sent != conn.bytes_out() {
        sent = conn.bytes_out().max(1);
        reactor.run_once(&mut log, Some(Duration::from_millis(20))).unwrap();
    }
    assert!(sent < LEN, "the socket is full");
    file.set_len(sent + 1000).unwrap();
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "the end", |log| {
        read_some(&mut client, &mut taken);
        !log.closed.is_empty()
    });
    assert_eq!(log.closed, [CloseReason::Io(std::io::ErrorKind::UnexpectedEof)]);
}

/// The timer came due in the very tick in which reading went on, before it had looked.
fn reading_that_rested_is_given_the_whole_idle_timeout_again(kind: BackendKind) {
    let clock = ManualClock::new();
    let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
    let mut reactor = Reactor::new(config).unwrap();
    let read_rate = Some(Rate { bytes_per_second: 100, burst: 4000 });
    let idle_timeout = Some(Duration::from_secs(5));
    let (mut log, mut client) =
        connected(&mut reactor, ConnOptions { read_rate, idle_timeout, ..ConnOptions::default() });
    client.write_all(&vec![0; 20_000]).unwrap();
    drive(&mut reactor, &mut log, "the burst", |log| log.received >= 4000);
    for _ in 0..3 {
        reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap(); // and then it rests
    }
    let start = Instant::now();
    while log.received < 20_000 {
        assert!(start.elapsed() < support::DEADLINE && log.closed.is_empty(), "{:?}", log.closed);
        clock.advance(Duration::from_millis(2500));
        for _ in 0..3 {
            reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
        }
    }
    for _ in 0..20 {
        clock.advance(Duration::from_secs(1));
        reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    }
    drive(&mut reactor, &mut log, "the end of a silent peer", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::Idle]);
}

/// The loop believed its last look into the queue, which was older than the posts.
fn a_drain_asked_for_by_posted_work_runs_what_was_posted_before_it(kind: BackendKind) {
    let mut reactor = reactor::<u32>(kind);
    let remote = reactor.context().remote();
    let inner = remote.clone();
    let first = move |_: &mut u32, cx: &mut Context<u32>| {
        inner.post(|ran, _| *ran += 1).unwrap();
        cx.stop_posts(Stop::Drain);
    };
    remote.post(first).unwrap();
    let mut ran = 0;
    reactor.run(&mut ran).unwrap();
    assert_eq!(ran, 1);
}

/// It accepted nobody, and did that in a busy loop.
fn an_accept_budget_of_zero_counts_as_one(kind: BackendKind) {
    let mut reactor = reactor(kind);
    let options = ListenOptions { accept_budget: 0, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Records))).unwrap();
    let client = peer(listener.local_addr());
    drive(&mut reactor, &mut Log::default(), "the connection", |log| log.opened.len() == 1);
    drop(client);
}

/// A look-up's answer that was dropped left everybody who asked for that name waiting, for good.
#[test]
fn a_full_queue_does_not_drop_what_was_let_in_regardless() {
    let config = QueueConfig { capacity: Some(2), overflow: Overflow::DropOldest, ..QueueConfig::default() };
    let (sender, mut receiver) = event_queue::channel(config);
    for result in ["result 1", "result 2", "result 3"] {
        sender.push_regardless(result).unwrap();
    }
    for event in ["event 1", "event 2"] {
        sender.push(event).unwrap();
    }
    let mut taken = Vec::new();
    while let Some(event) = receiver.pop_within(Duration::ZERO) {
        taken.push(event);
    }
    assert_eq!(taken, ["result 1", "result 2", "result 3", "event 2"]);
    assert_eq!(sender.stats().dropped, 1);
}
