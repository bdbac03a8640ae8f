//! Connections under the reactor, on every back end: the base-layer checklist of
//! spec/netlib.md §14 (numbers in the test names) and the traps of the field.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use netlib::backend::BackendKind;
use netlib::clock::{Clock, ManualClock};
use netlib::codec::{LengthPrefixed, LengthWidth};
use netlib::{
    Backoff, CloseReason, Conn, ConnOptions, ConnectOptions, Context, FrameError, FrameHandler, Framed, Handler,
    ListenOptions, OutputPolicy, Reactor, ReactorConfig,
};
use support::{drive, frame, local, peer, reactor, read_some};

const MAX: u64 = 1 << 20;

fn decoder() -> LengthPrefixed {
    LengthPrefixed::new(LengthWidth::Four, MAX).counting_itself().min(16)
}

/// What the handlers of a test write down.
#[derive(Default)]
struct Log {
    opened: Vec<Conn>,
    frames: Vec<Vec<u8>>,
    closed: Vec<CloseReason>,
    high: usize,
    low: usize,
}

/// Writes frames down; obeys the bodies "close", "abort", "panic", "pause".
struct Recorder;

impl FrameHandler<Log> for Recorder {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.opened.push(conn.clone());
    }

    fn on_frame(&mut self, log: &mut Log, cx: &mut Context<Log>, conn: &Conn, frame: &[u8]) {
        let body = &frame[12..]; // the decoder takes the length away
        log.frames.push(body.to_vec());
        match body {
            b"close" => conn.close(),
            b"abort" => conn.abort(),
            b"pause" => conn.pause(),
            b"panic" => panic!("as asked"),
            b"replace" => cx.replace_handler(conn, Box::new(Framed::new(decoder(), Second))),
            b"echo" => drop(conn.send(support::frame(body))),
            _ => {}
        }
    }

    fn on_high_water(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn) {
        log.high += 1;
    }

    fn on_low_water(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn) {
        log.low += 1;
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, reason: &CloseReason) {
        log.closed.push(reason.clone());
    }
}

/// The handler that "replace" puts in place.
struct Second;

impl FrameHandler<Log> for Second {
    fn on_frame(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, frame: &[u8]) {
        log.frames.push([b"second:", &frame[12..]].concat());
    }
}

fn serve(reactor: &mut Reactor<Log>, options: ConnOptions) -> SocketAddr {
    let options = ListenOptions { conn: options, ..ListenOptions::default() };
    let listener = reactor
        .context()
        .listen(local(), options, |_, _, _| Some(Box::new(Framed::new(decoder(), Recorder))))
        .expect("listens");
    listener.local_addr().inet().expect("TCP")
}

fn setup(kind: BackendKind, options: ConnOptions) -> (Reactor<Log>, Log, SocketAddr) {
    let mut reactor = reactor(kind);
    let addr = serve(&mut reactor, options);
    (reactor, Log::default(), addr)
}

/// Runs until no connection is left.
fn settle(reactor: &mut Reactor<Log>, log: &mut Log) {
    let start = Instant::now();
    while reactor.context().connections() > 0 {
        assert!(start.elapsed() < support::DEADLINE, "{} connections are left", reactor.context().connections());
        reactor.run_once(log, Some(Duration::from_millis(20))).unwrap();
    }
}

on_every_backend! {
    a_handler_replaced_in_any_callback_leaves_the_connection_alive,
    a_handler_replaced_from_outside_is_shown_the_unused_input,
    more_output_than_the_limit_in_one_tick_does_not_end_a_peer_that_reads,
    the_pause_policy_acts_within_the_tick,
    nothing_is_called_after_a_close_but_on_close,
    a_kept_connection_survives_a_replaced_handler_and_obeys_a_stop_in_its_factory,
    a_paused_connection_is_not_idle,
    a_connect_that_is_given_up_sends_nothing,
    closing_costs_no_tick_for_nothing,
    the_read_budget_holds_per_tick,
    the_accept_budget_holds_per_tick,
    an_orderly_close_lasts_as_long_as_the_peer_takes_its_bytes,
    c1_frames_arrive_byte_by_byte_and_many_in_one_segment,
    c2_bad_lengths_close_that_connection_only,
    c3_data_and_fin_in_one_segment_give_all_frames_then_one_close,
    c4_a_peer_that_never_reads_is_closed_at_the_limit,
    c5_a_refused_connect_is_reported_and_retried_with_backoff,
    c5_a_connect_into_a_black_hole_times_out,
    c8_a_close_inside_a_handler_stops_the_frames_behind_it,
    c9_a_closed_connections_handle_never_reaches_the_next_one,
    a_panicking_handler_ends_its_connection_only,
    a_replaced_handler_gets_the_rest_of_the_input,
    a_paused_connection_delivers_nothing_until_resumed,
    a_paused_connection_whose_peer_resets_does_not_spin,
    an_idle_connection_is_closed_and_input_defers_it,
    an_orderly_close_delivers_everything_then_fin,
    watermarks_report_both_edges,
    a_high_mark_of_zero_is_whatever_the_socket_does_not_take_at_once,
    the_pause_policy_stops_reading_until_the_low_mark,
    a_half_closed_peer_still_gets_its_answer,
    connections_over_the_limit_are_closed,
    a_firehose_does_not_starve_its_neighbour,
    a_big_frame_over_many_reads_arrives_whole,
}

fn c1_frames_arrive_byte_by_byte_and_many_in_one_segment(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let mut client = peer(addr);
    for byte in frame(b"slow") {
        client.write_all(&[byte]).unwrap();
        reactor.run_once(&mut log, Some(Duration::from_millis(5))).unwrap();
    }
    drive(&mut reactor, &mut log, "the slow frame", |log| log.frames.len() == 1);
    // Several frames and the beginning of one, then its end.
    let all: Vec<u8> = (0..5).flat_map(|n| frame(&[n])).collect();
    client.write_all(&all[..all.len() - 9]).unwrap();
    drive(&mut reactor, &mut log, "four frames", |log| log.frames.len() == 5);
    client.write_all(&all[all.len() - 9..]).unwrap();
    drive(&mut reactor, &mut log, "the fifth", |log| log.frames.len() == 6);
    assert_eq!(log.frames[0], b"slow");
    assert_eq!(log.frames[1..], [vec![0], vec![1], vec![2], vec![3], vec![4]]);
}

fn c2_bad_lengths_close_that_connection_only(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let mut good = peer(addr);
    for length in [0, 1, 15, MAX as u32 + 1, u32::MAX] {
        let mut bad = peer(addr);
        bad.write_all(&length.to_be_bytes()).unwrap();
        drive(&mut reactor, &mut log, "the close", |log| log.closed.len() == 1);
        let expected = if length < 16 { FrameError::TooShort } else { FrameError::TooLong };
        assert_eq!(log.closed.pop(), Some(CloseReason::BadFrame(expected)), "length {length}");
    }
    let mut longest = vec![0; MAX as usize];
    longest[..4].copy_from_slice(&(MAX as u32).to_be_bytes());
    good.write_all(&frame(b"")).unwrap();
    let writer = std::thread::spawn(move || good.write_all(&longest).map(|()| good));
    drive(&mut reactor, &mut log, "both limits pass", |log| log.frames.len() == 2);
    assert_eq!((log.frames[0].len(), log.frames[1].len()), (0, MAX as usize - 16));
    writer.join().unwrap().unwrap();
}

fn c3_data_and_fin_in_one_segment_give_all_frames_then_one_close(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    for round in 0..20 {
        let mut client = peer(addr);
        client.write_all(&[frame(b"a"), frame(b"b"), frame(b"c")].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        drive(&mut reactor, &mut log, "the close", |log| log.closed.len() == round + 1);
        assert_eq!(log.frames.len(), 3 * (round + 1));
    }
    settle(&mut reactor, &mut log);
    assert!(log.closed.iter().all(|reason| *reason == CloseReason::PeerClosed), "{:?}", log.closed);
    assert_eq!(log.closed.len(), 20);
}

fn c4_a_peer_that_never_reads_is_closed_at_the_limit(kind: BackendKind) {
    let options = ConnOptions { output_limit: 1 << 20, ..ConnOptions::default() };
    let (mut reactor, mut log, addr) = setup(kind, options);
    let client = peer(addr);
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    let conn = log.opened[0].clone();
    let mut sent = 0;
    while conn.send(vec![0; 64 << 10]).is_ok() {
        sent += 64 << 10;
        assert!(conn.queued() <= 1 << 20);
        assert!(sent < 1 << 30, "no limit in sight");
        reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    }
    drive(&mut reactor, &mut log, "the close", |log| log.closed == [CloseReason::OutputLimit]);
    assert_eq!((conn.queued(), reactor.context().connections()), (0, 0));
    drop(client);
}

fn c5_a_refused_connect_is_reported_and_retried_with_backoff(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    // A port that is free: bound a moment ago and closed.
    let addr = TcpListener::bind(local()).unwrap().local_addr().unwrap();
    let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40), 0);
    let cx = reactor.context();
    cx.keep_connected(addr, ConnectOptions::default(), backoff, |_, _| Box::new(Framed::new(decoder(), Recorder)));
    let start = Instant::now();
    drive(&mut reactor, &mut log, "four attempts", |log| log.closed.len() == 4);
    assert!(start.elapsed() >= Duration::from_millis(10 + 20 + 40), "came too early: {:?}", start.elapsed());
    let refused = CloseReason::ConnectFailed(std::io::ErrorKind::ConnectionRefused);
    assert!(log.closed.iter().all(|reason| *reason == refused), "{:?}", log.closed);
    // And it heals by itself once somebody listens.
    let listener = TcpListener::bind(addr).unwrap();
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    drop(listener);
}

fn c5_a_connect_into_a_black_hole_times_out(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    // A listener whose queue is full drops what comes.
    let hole = netlib::socket::bind_tcp(local(), 0).unwrap();
    let addr = hole.local_addr().unwrap();
    let fillers: Vec<_> = (0..4).map(|_| netlib::socket::Stream::connect(addr).unwrap()).collect();
    let options = ConnectOptions { timeout: Duration::from_millis(50), ..ConnectOptions::default() };
    let start = Instant::now();
    reactor.context().connect(addr, options, Box::new(Framed::new(decoder(), Recorder)));
    drive(&mut reactor, &mut log, "the timeout", |log| !log.closed.is_empty());
    assert_eq!(log.closed, [CloseReason::ConnectTimeout]);
    assert!(start.elapsed() >= Duration::from_millis(50));
    drop(fillers);
}

fn c8_a_close_inside_a_handler_stops_the_frames_behind_it(kind: BackendKind) {
    for word in [&b"close"[..], b"abort"] {
        let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
        let mut client = peer(addr);
        client.write_all(&[frame(b"first"), frame(word), frame(b"late"), frame(b"later")].concat()).unwrap();
        drive(&mut reactor, &mut log, "the close", |log| log.closed.len() == 1);
        assert_eq!(log.frames, [b"first".to_vec(), word.to_vec()]);
        drop(client);
        settle(&mut reactor, &mut log);
        assert_eq!(log.closed.len(), 1, "one close only");
    }
}

fn c9_a_closed_connections_handle_never_reaches_the_next_one(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let first = peer(addr);
    drive(&mut reactor, &mut log, "the first", |log| log.opened.len() == 1);
    drop(first);
    drive(&mut reactor, &mut log, "its end", |log| log.closed.len() == 1);
    let mut second = peer(addr);
    drive(&mut reactor, &mut log, "the second", |log| log.opened.len() == 2);
    let (old, new) = (log.opened[0].clone(), log.opened[1].clone());
    assert_eq!(old.id().slot(), new.id().slot(), "the slot is used again, or this test shows nothing");
    assert_ne!(old.id(), new.id());
    assert_eq!(old.send(&b"stray"[..]), Err(netlib::SendError::Closed));
    old.abort();
    new.send(frame(b"meant for you")).unwrap();
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    let mut answer = vec![0; frame(b"meant for you").len()];
    second.read_exact(&mut answer).unwrap();
    assert_eq!(answer, frame(b"meant for you"));
}

fn a_panicking_handler_ends_its_connection_only(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let (mut bad, mut good) = (peer(addr), peer(addr));
    bad.write_all(&frame(b"panic")).unwrap();
    drive(&mut reactor, &mut log, "the end", |log| log.closed == [CloseReason::HandlerPanic]);
    good.write_all(&frame(b"echo")).unwrap();
    drive(&mut reactor, &mut log, "the neighbour", |log| log.frames.len() == 2);
    assert_eq!(reactor.context().stats().panics, 1);
}

fn a_replaced_handler_gets_the_rest_of_the_input(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let mut client = peer(addr);
    client.write_all(&[frame(b"one"), frame(b"replace"), frame(b"two")].concat()).unwrap();
    drive(&mut reactor, &mut log, "three frames", |log| log.frames.len() == 3);
    client.write_all(&frame(b"three")).unwrap();
    drive(&mut reactor, &mut log, "the fourth", |log| log.frames.len() == 4);
    assert_eq!(log.frames[2..], [b"second:two".to_vec(), b"second:three".to_vec()]);
}

fn a_paused_connection_delivers_nothing_until_resumed(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let mut client = peer(addr);
    client.write_all(&[frame(b"pause"), frame(b"buffered")].concat()).unwrap();
    drive(&mut reactor, &mut log, "the pause", |log| log.frames.len() == 1);
    client.write_all(&frame(b"in the socket")).unwrap();
    let start = Instant::now();
    for _ in 0..5 {
        reactor.run_once(&mut log, Some(Duration::from_millis(4))).unwrap();
    }
    assert_eq!(log.frames.len(), 1);
    assert!(start.elapsed() >= Duration::from_millis(16), "four of five ticks at least waited");
    log.opened[0].resume();
    drive(&mut reactor, &mut log, "the rest", |log| log.frames.len() == 3);
    assert_eq!(log.frames[1..], [b"buffered".to_vec(), b"in the socket".to_vec()]);
}

fn a_paused_connection_whose_peer_resets_does_not_spin(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let client = netlib::socket::Stream::connect(addr).unwrap();
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    client.write(&frame(b"pause")).unwrap();
    drive(&mut reactor, &mut log, "the pause", |log| log.frames.len() == 1);
    client.set_reset_on_close().unwrap();
    drop(client);
    // Whether the reset is seen at once or only when reading resumes is the back
    // end's affair. Waits that end for nothing, over and over, are not.
    let start = Instant::now();
    let ticks = reactor.context().stats().ticks;
    while start.elapsed() < Duration::from_millis(60) {
        reactor.run_once(&mut log, Some(Duration::from_millis(20))).unwrap();
    }
    assert!(reactor.context().stats().ticks - ticks <= 6, "it spins");
    log.opened[0].resume();
    drive(&mut reactor, &mut log, "the reset", |log| log.closed == [CloseReason::Reset]);
}

fn an_idle_connection_is_closed_and_input_defers_it(kind: BackendKind) {
    let idle = Duration::from_millis(80);
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions { idle_timeout: Some(idle), ..ConnOptions::default() });
    let mut client = peer(addr);
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    let conn = log.opened[0].clone();
    let start = Instant::now();
    while start.elapsed() < idle / 2 {
        reactor.run_once(&mut log, Some(Duration::from_millis(5))).unwrap();
    }
    client.write_all(&frame(b"alive")).unwrap();
    drive(&mut reactor, &mut log, "the sign of life", |log| log.frames.len() == 1);
    let heard = conn.last_recv();
    drive(&mut reactor, &mut log, "the idle close", |log| log.closed == [CloseReason::Idle]);
    assert!(heard.elapsed() >= idle, "closed {:?} after input", heard.elapsed());
}

fn an_orderly_close_delivers_everything_then_fin(kind: BackendKind) {
    let options = ConnOptions { output_limit: 64 << 20, ..ConnOptions::default() };
    let (mut reactor, mut log, addr) = setup(kind, options);
    let mut client = peer(addr);
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    // Unread input at the close would turn the FIN into a reset.
    client.write_all(&frame(b"unread")).unwrap();
    let size = 8 << 20;
    let conn = log.opened[0].clone();
    conn.send(vec![7; size]).unwrap();
    conn.close();
    conn.close();
    assert_eq!(conn.send(&b"too late"[..]), Err(netlib::SendError::Closed));
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all)
    });
    drive(&mut reactor, &mut log, "everything to be taken", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap().expect("no reset").len(), size);
    assert_eq!(log.closed, [CloseReason::Local]);
    settle(&mut reactor, &mut log);
}

fn watermarks_report_both_edges(kind: BackendKind) {
    let options =
        ConnOptions { high_water: 256 << 10, low_water: 1 << 10, output_limit: 64 << 20, ..ConnOptions::default() };
    let (mut reactor, mut log, addr) = setup(kind, options);
    let mut client = peer(addr);
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    let conn = log.opened[0].clone();
    conn.send(vec![0; 16 << 20]).unwrap();
    conn.send(vec![0; 16 << 20]).unwrap();
    drive(&mut reactor, &mut log, "the high mark", |log| log.high == 1);
    assert_eq!(log.low, 0);
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "the low mark", |log| {
        read_some(&mut client, &mut taken);
        log.low == 1
    });
    assert_eq!(log.high, 1);
    drive(&mut reactor, &mut log, "all bytes", |_| {
        read_some(&mut client, &mut taken);
        taken.len() == 32 << 20
    });
}

/// It was reported with an empty buffer or never, and never left again: under the pause policy nothing was read any more.
fn a_high_mark_of_zero_is_whatever_the_socket_does_not_take_at_once(kind: BackendKind) {
    for policy in [OutputPolicy::Notify, OutputPolicy::Pause] {
        let options =
            ConnOptions { high_water: 0, low_water: 0, output_limit: 64 << 20, policy, ..ConnOptions::default() };
        let (mut reactor, mut log, addr) = setup(kind, options);
        let mut client = peer(addr);
        for round in 1..=3 {
            client.write_all(&frame(b"echo")).unwrap();
            drive(&mut reactor, &mut log, "a request", |log| log.frames.len() == round);
            client.read_exact(&mut [0; 20]).unwrap();
        }
        assert_eq!((log.high, log.low), (0, 0), "the socket took it at once");
        log.opened[0].send(vec![0; 16 << 20]).unwrap();
        drive(&mut reactor, &mut log, "the high mark", |log| log.high == 1);
        let mut taken = Vec::new();
        drive(&mut reactor, &mut log, "the low mark", |log| {
            read_some(&mut client, &mut taken);
            log.low == 1
        });
        client.set_nonblocking(false).unwrap();
        client.read_exact(&mut vec![0; (16 << 20) - taken.len()]).unwrap();
        client.write_all(&frame(b"echo")).unwrap();
        drive(&mut reactor, &mut log, "one more request", |log| log.frames.len() == 4);
        client.read_exact(&mut [0; 20]).unwrap();
        assert_eq!((log.high, log.low), (1, 1));
    }
}

fn the_pause_policy_stops_reading_until_the_low_mark(kind: BackendKind) {
    let options = ConnOptions {
        high_water: 64 << 10,
        low_water: 1 << 10,
        policy: OutputPolicy::Pause,
        output_limit: 64 << 20,
        ..ConnOptions::default()
    };
    let (mut reactor, mut log, addr) = setup(kind, options);
    let mut client = peer(addr);
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    log.opened[0].send(vec![0; 16 << 20]).unwrap();
    drive(&mut reactor, &mut log, "the high mark", |log| log.high == 1);
    client.write_all(&frame(b"waits")).unwrap();
    for _ in 0..5 {
        reactor.run_once(&mut log, Some(Duration::from_millis(2))).unwrap();
    }
    assert!(log.frames.is_empty(), "read above the high mark");
    let mut taken = Vec::new();
    drive(&mut reactor, &mut log, "the frame", |log| {
        read_some(&mut client, &mut taken);
        log.frames.len() == 1
    });
    assert_eq!(log.low, 1);
}

/// Answers at the end of input, as a tool behind a pipe does.
struct AnswerAtEnd(Vec<u8>);

impl Handler<Log> for AnswerAtEnd {
    fn on_data(&mut self, _: &mut Log, _: &mut Context<Log>, _: &Conn, input: &[u8]) -> usize {
        self.0.extend(input);
        input.len()
    }

    fn on_eof(&mut self, _: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        conn.send(std::mem::take(&mut self.0)).unwrap();
        conn.close();
    }
}

fn a_half_closed_peer_still_gets_its_answer(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let cx = reactor.context();
    let listener =
        cx.listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(AnswerAtEnd(Vec::new())))).unwrap();
    let mut client = peer(listener.local_addr());
    client.write_all(b"all of it").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    drive(&mut reactor, &mut log, "the connection to come and go", |_| listener.connections() == 1);
    drive(&mut reactor, &mut log, "the connection to go", |_| listener.connections() == 0);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"all of it");
}

fn connections_over_the_limit_are_closed(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let options = ListenOptions { max_connections: 2, ..ListenOptions::default() };
    let cx = reactor.context();
    let listener = cx.listen(local(), options, |_, _, _| Some(Box::new(Framed::new(decoder(), Recorder)))).unwrap();
    let mut clients: Vec<_> = (0..3).map(|_| peer(listener.local_addr())).collect();
    drive(&mut reactor, &mut log, "a refusal", |log| log.opened.len() == 2);
    assert_eq!(reactor.context().stats().refused, 1);
    let third = clients[2].read(&mut [0; 1]);
    let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(matches!(&third, Ok(0)) || third.as_ref().is_err_and(reset), "the third is open: {third:?}");
    drop(clients.remove(0));
    drive(&mut reactor, &mut log, "room", |_| listener.connections() == 1);
    let _fourth = peer(listener.local_addr());
    drive(&mut reactor, &mut log, "the fourth", |log| log.opened.len() == 3);
}

fn a_firehose_does_not_starve_its_neighbour(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let mut quiet = peer(addr);
    let mut loud = peer(addr);
    drive(&mut reactor, &mut log, "both", |log| log.opened.len() == 2);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let firehose = std::thread::spawn(move || {
        let block: Vec<u8> = (0..4096).flat_map(|_| frame(b"x")).collect();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) && loud.write_all(&block).is_ok() {}
    });
    drive(&mut reactor, &mut log, "the firehose to run", |log| log.frames.len() > 10_000);
    quiet.write_all(&frame(b"hello")).unwrap();
    log.frames.clear();
    for _ in 0..1000 {
        reactor.run_once(&mut log, Some(Duration::from_millis(20))).unwrap();
        if log.frames.iter().any(|body| body == b"hello") {
            break;
        }
    }
    let before = log.frames.iter().position(|body| body == b"hello").expect("the neighbour's turn came");
    // In one tick the firehose gets its budget of 128 KiB, which is 7,710 frames,
    // and one read more. It may have two ticks: one before the word arrived.
    assert!(before < 4 * 7_711, "{before} frames came first");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(reactor);
    firehose.join().unwrap();
}

fn a_big_frame_over_many_reads_arrives_whole(kind: BackendKind) {
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions::default());
    let body: Vec<u8> = (0..MAX as usize - 16).map(|n| n as u8).collect();
    let bytes = frame(&body);
    let mut client = peer(addr);
    let writer = std::thread::spawn(move || {
        for piece in bytes.chunks(10_007) {
            client.write_all(piece).unwrap();
        }
        client
    });
    drive(&mut reactor, &mut log, "the frame", |log| log.frames.len() == 1);
    assert!(log.frames[0] == body, "the bytes differ");
    drop(writer.join().unwrap());
}

/// Replaces itself by [`Second`] in the callback that it is named after.
struct Changeling(&'static str);

impl Changeling {
    fn change(&self, callback: &str, cx: &mut Context<Log>, conn: &Conn) {
        if self.0 == callback {
            cx.replace_handler(conn, Box::new(Framed::new(decoder(), Second)));
        }
    }
}

impl Handler<Log> for Changeling {
    fn on_open(&mut self, _: &mut Log, cx: &mut Context<Log>, conn: &Conn) {
        self.change("open", cx, conn);
        cx.conn_timer(conn, Duration::from_millis(1));
        conn.send(frame(b"hello")).unwrap();
    }

    fn on_data(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, _: &[u8]) -> usize {
        log.high += 1; // seen, and not used
        0
    }

    fn on_flushed(&mut self, _: &mut Log, cx: &mut Context<Log>, conn: &Conn) {
        self.change("flushed", cx, conn);
    }

    fn on_timer(&mut self, log: &mut Log, cx: &mut Context<Log>, conn: &Conn, _: netlib::TimerId) {
        self.change("timer", cx, conn);
        log.low += 1;
    }
}

fn a_handler_replaced_in_any_callback_leaves_the_connection_alive(kind: BackendKind) {
    for callback in ["accept", "open", "flushed", "timer"] {
        let mut reactor = reactor::<Log>(kind);
        let mut log = Log::default();
        let cx = reactor.context();
        let listener = cx
            .listen(local(), ListenOptions::default(), move |_, cx, conn| {
                Changeling(callback).change("accept", cx, conn);
                Some(if callback == "accept" {
                    Box::new(Framed::new(decoder(), Second))
                } else {
                    Box::new(Changeling(callback))
                })
            })
            .unwrap();
        let mut client = peer(listener.local_addr());
        client.write_all(&frame(b"one")).unwrap();
        drive(&mut reactor, &mut log, "the first frame", |log| log.frames.len() == 1);
        client.write_all(&frame(b"two")).unwrap();
        drive(&mut reactor, &mut log, "the second frame", |log| log.frames.len() == 2);
        assert_eq!(log.frames, [b"second:one", b"second:two"], "{callback}");
        drop(client);
        settle(&mut reactor, &mut log);
    }
}

fn a_handler_replaced_from_outside_is_shown_the_unused_input(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), |log: &mut Log, _, conn| {
            log.opened.push(conn.clone());
            Some(Box::new(Changeling("never")))
        })
        .unwrap();
    let mut client = peer(listener.local_addr());
    client.write_all(&frame(b"waiting")).unwrap();
    drive(&mut reactor, &mut log, "the unused input", |log| log.high > 0);
    let conn = log.opened[0].clone();
    reactor.context().replace_handler(&conn, Box::new(Framed::new(decoder(), Second)));
    drive(&mut reactor, &mut log, "the frame", |log| log.frames == [b"second:waiting"]);
}

/// Answers each frame with a kilobyte.
struct Amplifier;

impl FrameHandler<Log> for Amplifier {
    fn on_frame(&mut self, _: &mut Log, _: &mut Context<Log>, conn: &Conn, _: &[u8]) {
        let _ = conn.send(vec![0; 1024]);
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, reason: &CloseReason) {
        log.closed.push(reason.clone());
    }
}

/// Sends `requests` empty frames to an [`Amplifier`] while reading; returns the bytes read.
fn amplify(kind: BackendKind, conn: ConnOptions, requests: usize) -> usize {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let cx = reactor.context();
    let listener = cx.listen(local(), options, |_, _, _| Some(Box::new(Framed::new(decoder(), Amplifier)))).unwrap();
    let mut client = peer(listener.local_addr());
    let mut writer = client.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&frame(b"").repeat(requests)));
    let receiver = std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let mut taken = 0;
        while taken < requests * 1024 {
            match client.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => taken += count,
            }
        }
        taken
    });
    drive(&mut reactor, &mut log, "the answers", |_| receiver.is_finished());
    assert!(log.closed.iter().all(|reason| *reason == CloseReason::PeerClosed), "{:?}", log.closed);
    sender.join().unwrap().unwrap();
    receiver.join().unwrap()
}

fn more_output_than_the_limit_in_one_tick_does_not_end_a_peer_that_reads(kind: BackendKind) {
    // One tick's ten requests ask for 160 KiB where 64 may wait. The socket takes them.
    let options = ConnOptions { output_limit: 64 << 10, ..ConnOptions::default() };
    assert_eq!(amplify(kind, options, 160), 160 * 1024);
}

fn the_pause_policy_acts_within_the_tick(kind: BackendKind) {
    let options = ConnOptions {
        high_water: 64 << 10,
        low_water: 16 << 10,
        output_limit: 128 << 10,
        policy: OutputPolicy::Pause,
        ..ConnOptions::default()
    };
    assert_eq!(amplify(kind, options, 20_000), 20_000 * 1024);
}

/// Closes in the named callback and writes down everything that is called.
struct Closer(&'static str);

impl Closer {
    fn called(&self, callback: &'static str, log: &mut Log, conn: &Conn) {
        log.frames.push(callback.as_bytes().to_vec());
        if self.0 == callback {
            conn.close();
        }
    }
}

impl Handler<Log> for Closer {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        conn.send(vec![0; 32 << 20]).unwrap();
        self.called("open", log, conn);
    }

    fn on_data(&mut self, _: &mut Log, _: &mut Context<Log>, _: &Conn, input: &[u8]) -> usize {
        input.len()
    }

    fn on_high_water(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        self.called("high", log, conn);
    }

    fn on_low_water(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        self.called("low", log, conn);
    }

    fn on_flushed(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        self.called("flushed", log, conn);
    }

    fn on_close(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn, _: &CloseReason) {
        self.called("close", log, conn);
        conn.close(); // does nothing, and wakes nobody
        conn.pause();
    }
}

fn nothing_is_called_after_a_close_but_on_close(kind: BackendKind) {
    for (callback, expected) in [
        ("open", &["open", "close"][..]),
        ("high", &["open", "high", "close"]),
        ("low", &["open", "high", "low", "close"]),
        ("flushed", &["open", "high", "low", "flushed", "close"]),
    ] {
        let mut reactor = reactor::<Log>(kind);
        let mut log = Log::default();
        let conn = ConnOptions { high_water: 1 << 10, low_water: 0, ..ConnOptions::default() };
        let options = ListenOptions { conn, ..ListenOptions::default() };
        let listener =
            reactor.context().listen(local(), options, move |_, _, _| Some(Box::new(Closer(callback)))).unwrap();
        let mut client = peer(listener.local_addr());
        let reader = std::thread::spawn(move || client.read_to_end(&mut Vec::new()));
        drive(&mut reactor, &mut log, "the close", |log| log.frames.last().is_some_and(|last| last == b"close"));
        settle(&mut reactor, &mut log);
        let seen: Vec<_> = log.frames.iter().map(|name| std::str::from_utf8(name).unwrap()).collect();
        assert_eq!(seen, expected, "{callback}");
        assert_eq!(reader.join().unwrap().unwrap(), 32 << 20);
    }
}

fn a_kept_connection_survives_a_replaced_handler_and_obeys_a_stop_in_its_factory(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let server = TcpListener::bind(local()).unwrap();
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1), 0);
    let made = std::rc::Rc::new(std::cell::RefCell::new(None::<netlib::Connector>));
    let shared = std::rc::Rc::clone(&made);
    let mut attempts = 0;
    let connector = reactor.context().keep_connected(
        server.local_addr().unwrap(),
        ConnectOptions::default(),
        backoff,
        move |_, cx| {
            attempts += 1;
            if attempts == 3 {
                shared.borrow().as_ref().expect("set below").stop(cx);
            }
            Box::new(Changeling("open"))
        },
    );
    *made.borrow_mut() = Some(connector.clone());
    for _ in 0..2 {
        drive(&mut reactor, &mut log, "a connection", |_| connector.conn().is_some_and(|conn| conn.bytes_out() > 0));
        let (mut stream, _) = server.accept().unwrap();
        stream.write_all(&frame(b"to the second handler")).unwrap();
        let seen = log.frames.len();
        drive(&mut reactor, &mut log, "the frame", |log| log.frames.len() == seen + 1);
        drop(stream);
        drive(&mut reactor, &mut log, "its end", |_| connector.conn().is_none());
    }
    for _ in 0..20 {
        reactor.run_once(&mut log, Some(Duration::from_millis(2))).unwrap();
    }
    assert_eq!(reactor.context().connections(), 0, "the third attempt was stopped");
}

fn a_paused_connection_is_not_idle(kind: BackendKind) {
    let idle = Duration::from_millis(40);
    let (mut reactor, mut log, addr) = setup(kind, ConnOptions { idle_timeout: Some(idle), ..ConnOptions::default() });
    let mut client = peer(addr);
    client.write_all(&[frame(b"pause"), frame(b"kept")].concat()).unwrap();
    drive(&mut reactor, &mut log, "the pause", |log| log.frames.len() == 1);
    let start = Instant::now();
    while start.elapsed() < 3 * idle {
        reactor.run_once(&mut log, Some(Duration::from_millis(10))).unwrap();
    }
    assert!(log.closed.is_empty(), "{:?}", log.closed);
    log.opened[0].resume();
    drive(&mut reactor, &mut log, "the rest", |log| log.frames.len() == 2);
}

fn a_connect_that_is_given_up_sends_nothing(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let server = TcpListener::bind(local()).unwrap();
    let addr = server.local_addr().unwrap();
    let conn = reactor.context().connect(addr, ConnectOptions::default(), Box::new(Framed::new(decoder(), Recorder)));
    conn.send(&b"never"[..]).unwrap();
    conn.close();
    drive(&mut reactor, &mut log, "the end", |log| log.closed == [CloseReason::Local]);
    settle(&mut reactor, &mut log);
    let (mut stream, _) = server.accept().unwrap();
    let mut received = Vec::new();
    let _reset_or_end = stream.read_to_end(&mut received);
    assert!(received.is_empty());
}

fn closing_costs_no_tick_for_nothing(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(Closer("flushed"))))
        .unwrap();
    let mut client = peer(listener.local_addr());
    let reader = std::thread::spawn(move || client.read_to_end(&mut Vec::new()).map(|count| (count, client)));
    drive(&mut reactor, &mut log, "the close", |log| log.frames.last().is_some_and(|last| last == b"close"));
    settle(&mut reactor, &mut log);
    let start = Instant::now();
    reactor.run_once(&mut log, Some(Duration::from_millis(25))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(25), "a wait ended for nothing");
    reader.join().unwrap().unwrap();
}

fn the_read_budget_holds_per_tick(kind: BackendKind) {
    let options = ConnOptions { read_budget: 64 << 10, ..ConnOptions::default() };
    let (mut reactor, mut log, addr) = setup(kind, options);
    let mut client = peer(addr);
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    let writer = std::thread::spawn(move || client.write_all(&frame(&[0; 1008]).repeat(4096)));
    let mut seen = 0;
    drive(&mut reactor, &mut log, "all frames", |log| {
        let count = log.frames.len();
        assert!(count - seen <= 64, "{} KiB in one tick", count - seen);
        seen = count;
        count == 4096
    });
    writer.join().unwrap().unwrap();
}

fn the_accept_budget_holds_per_tick(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let options = ListenOptions { accept_budget: 2, ..ListenOptions::default() };
    let cx = reactor.context();
    let listener = cx.listen(local(), options, |_, _, _| Some(Box::new(Framed::new(decoder(), Recorder)))).unwrap();
    let clients: Vec<_> = (0..30).map(|_| peer(listener.local_addr())).collect();
    let mut seen = 0;
    drive(&mut reactor, &mut log, "thirty connections", |log| {
        assert!(log.opened.len() - seen <= 2, "{} in one tick", log.opened.len() - seen);
        seen = log.opened.len();
        seen == 30
    });
    drop(clients);
}

/// The clock moves only when the peer has taken something, so that a busy machine changes nothing.
fn an_orderly_close_lasts_as_long_as_the_peer_takes_its_bytes(kind: BackendKind) {
    const TOTAL: usize = 24 << 20;
    let linger = Duration::from_secs(5);
    let clock = ManualClock::new();
    let config = ReactorConfig {
        backend: Some(kind),
        fallback: false,
        clock: Box::new(clock.clone()),
        ..ReactorConfig::default()
    };
    let mut reactor = Reactor::new(config).unwrap();
    support::runs_on(&mut reactor, kind);
    let mut log = Log::default();
    let addr = serve(&mut reactor, ConnOptions { output_limit: 64 << 20, linger, ..ConnOptions::default() });
    let mut client = peer(addr);
    drive(&mut reactor, &mut log, "the connection", |log| log.opened.len() == 1);
    let conn = log.opened[0].clone();
    conn.send(vec![0; TOTAL]).unwrap();
    conn.close();
    let begin = clock.now();
    let (mut taken, mut ended, mut given) = (Vec::new(), false, 0);
    while !ended {
        // Two thirds of a linger time for as little as makes room for more.
        drive(&mut reactor, &mut log, "progress", |_| {
            ended = read_some(&mut client, &mut taken);
            ended || conn.queued() == 0 || conn.bytes_out() > given + (1 << 20)
        });
        if conn.queued() > 0 {
            given = conn.bytes_out();
            clock.advance(linger * 2 / 3);
        }
    }
    assert_eq!(taken.len(), TOTAL);
    let lasted = clock.now() - begin;
    assert!(lasted > linger * 3, "{lasted:?} are not longer than one linger time of {linger:?}");
    drop(client);
    settle(&mut reactor, &mut log);
    // And a peer that takes nothing is given up, but not before its time.
    let stuck = peer(addr);
    drive(&mut reactor, &mut log, "the second", |log| log.opened.len() == 2);
    log.opened[1].send(vec![0; TOTAL]).unwrap();
    log.opened[1].close();
    let mut before = None;
    drive(&mut reactor, &mut log, "full buffers of the kernel", |log| {
        let given = Some(log.opened[1].bytes_out());
        log.closed.len() == 2 && std::mem::replace(&mut before, given) == given
    });
    assert_eq!(reactor.context().connections(), 1);
    // At the end of the first it is seen to have taken something, by the kernel's buffers.
    for _ in 0..2 {
        clock.advance(linger);
        for _ in 0..2 {
            reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
        }
    }
    assert_eq!(reactor.context().connections(), 0);
    drop(stuck);
}
