//! A running loop moves to another back end between two ticks, and nothing that was ready,
//! unread, unsent, connecting or waiting to be accepted is lost on the way.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use netlib::backend::{BackendKind, Interest};
use netlib::{Conn, ConnOptions, ConnectOptions, Context, Handler, ListenOptions, OutputPolicy, Reactor};
use support::{drive, local, peer, reactor};

/// What the connections of a test have seen.
#[derive(Default)]
struct World {
    opened: Vec<Conn>,
    input: Vec<u8>,
    beats: usize,
    /// High marks reached.
    marks: usize,
    closed: usize,
}

/// Writes down what arrives.
struct Recorder;

impl Handler<World> for Recorder {
    fn on_open(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        world.opened.push(conn.clone());
    }

    fn on_data(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, input: &[u8]) -> usize {
        world.input.extend_from_slice(input);
        input.len()
    }
}

fn serve(kind: BackendKind, options: ListenOptions) -> (Reactor<World>, World, SocketAddr) {
    let mut reactor = reactor(kind);
    let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Recorder))).unwrap();
    (reactor, World::default(), listener.local_addr().inet().expect("TCP"))
}

/// Moves and makes sure of it.
fn swap(reactor: &mut Reactor<World>, to: BackendKind) {
    reactor.swap_backend(to).unwrap();
    assert_eq!(reactor.context().backend_name(), to.name());
}

/// A back end that moves bytes itself can neither be left nor entered.
fn cannot_be_moved(kind: BackendKind) -> bool {
    if BackendKind::READINESS.contains(&kind) {
        return false;
    }
    for (from, to) in [(kind, BackendKind::EpollEt), (BackendKind::EpollEt, kind)] {
        let (mut reactor, ..) = serve(from, ListenOptions::default());
        assert_eq!(reactor.swap_backend(to).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(reactor.context().backend_name(), from.name());
    }
    true
}

on_every_backend! {
    a_connection_that_was_accepted_but_never_read_is_read_after_the_swap,
    a_connection_with_input_half_read_goes_on_after_the_swap,
    a_paused_connection_stays_paused_and_has_its_input_when_it_resumes,
    connections_that_wait_to_be_accepted_are_accepted_after_the_swap,
    a_connect_under_way_ends_after_the_swap,
    output_half_written_is_finished_after_the_swap,
    a_peer_that_closed_before_the_swap_is_noticed_after_it,
    sources_posts_and_timers_go_on_after_the_swap,
    a_swap_that_is_refused_leaves_the_loop_where_it_is,
}

fn a_connection_that_was_accepted_but_never_read_is_read_after_the_swap(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let (mut reactor, mut world, addr) = serve(from, ListenOptions::default());
        let mut client = peer(addr);
        drive(&mut reactor, &mut world, "the connection", |world| world.opened.len() == 1);
        client.write_all(b"before").unwrap();
        swap(&mut reactor, to);
        drive(&mut reactor, &mut world, "what came before", |world| world.input == b"before");
        client.write_all(b", after").unwrap();
        drive(&mut reactor, &mut world, "what comes after", |world| world.input == b"before, after");
        // And back again, with nothing to report.
        swap(&mut reactor, from);
        client.write_all(b"!").unwrap();
        drive(&mut reactor, &mut world, "the rest", |world| world.input == b"before, after!");
    }
}

/// An edge was spent on the first part; the rest is known only to the loop's own list.
fn a_connection_with_input_half_read_goes_on_after_the_swap(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let conn = ConnOptions { read_budget: 1000, ..ConnOptions::default() };
        let (mut reactor, mut world, addr) = serve(from, ListenOptions { conn, ..ListenOptions::default() });
        let mut client = peer(addr);
        let bytes = stream(7, 0, 10_000);
        client.write_all(&bytes).unwrap();
        drive(&mut reactor, &mut world, "a part", |world| world.input.len() > 1000);
        assert!(world.input.len() < bytes.len());
        swap(&mut reactor, to);
        drive(&mut reactor, &mut world, "all of it", |world| world.input.len() == bytes.len());
        assert!(world.input == bytes);
    }
}

fn a_paused_connection_stays_paused_and_has_its_input_when_it_resumes(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let (mut reactor, mut world, addr) = serve(from, ListenOptions::default());
        let mut client = peer(addr);
        drive(&mut reactor, &mut world, "the connection", |world| world.opened.len() == 1);
        world.opened[0].pause();
        reactor.run_once(&mut world, Some(Duration::ZERO)).unwrap();
        client.write_all(b"kept").unwrap();
        swap(&mut reactor, to);
        let ticks = reactor.context().stats().events;
        for _ in 0..3 {
            reactor.run_once(&mut world, Some(Duration::from_millis(2))).unwrap();
        }
        assert_eq!(world.input, b"");
        assert_eq!(reactor.context().stats().events, ticks, "a paused connection is not reported");
        world.opened[0].resume();
        drive(&mut reactor, &mut world, "the input", |world| world.input == b"kept");
    }
}

fn connections_that_wait_to_be_accepted_are_accepted_after_the_swap(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let options = ListenOptions { accept_budget: 2, ..ListenOptions::default() };
        let (mut reactor, mut world, addr) = serve(from, options);
        let first: Vec<_> = (0..5).map(|_| peer(addr)).collect();
        drive(&mut reactor, &mut world, "the first two", |world| world.opened.len() == 2);
        swap(&mut reactor, to);
        drive(&mut reactor, &mut world, "the rest of its budget", |world| world.opened.len() == 5);
        reactor.run_once(&mut world, Some(Duration::ZERO)).unwrap(); // the queue was seen empty
        let second: Vec<_> = (0..5).map(|_| peer(addr)).collect();
        swap(&mut reactor, from);
        drive(&mut reactor, &mut world, "all ten", |world| world.opened.len() == 10);
        drop((first, second));
    }
}

fn a_connect_under_way_ends_after_the_swap(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let (mut reactor, mut world, addr) = serve(from, ListenOptions::default());
        let conn = reactor.context().connect(addr, ConnectOptions::default(), Box::new(Recorder));
        conn.send(&b"queued while connecting"[..]).unwrap();
        swap(&mut reactor, to);
        drive(&mut reactor, &mut world, "both ends", |world| world.opened.len() == 2);
        drive(&mut reactor, &mut world, "the bytes", |world| world.input == b"queued while connecting");
    }
}

fn output_half_written_is_finished_after_the_swap(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let conn = ConnOptions { output_limit: 64 << 20, ..ConnOptions::default() };
        let (mut reactor, mut world, addr) = serve(from, ListenOptions { conn, ..ListenOptions::default() });
        let mut client = peer(addr);
        drive(&mut reactor, &mut world, "the connection", |world| world.opened.len() == 1);
        let bytes = stream(3, 0, 8 << 20);
        world.opened[0].send(bytes.clone()).unwrap();
        reactor.run_once(&mut world, Some(Duration::from_millis(5))).unwrap();
        reactor.run_once(&mut world, Some(Duration::from_millis(5))).unwrap();
        assert!(world.opened[0].queued() > 0, "the socket took everything");
        swap(&mut reactor, to);
        let len = bytes.len();
        let client = thread::spawn(move || {
            let mut taken = vec![0; len];
            client.read_exact(&mut taken).unwrap();
            taken
        });
        drive(&mut reactor, &mut world, "the rest", |_| client.is_finished());
        assert!(client.join().unwrap() == bytes);
    }
}

fn a_peer_that_closed_before_the_swap_is_noticed_after_it(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let (mut reactor, mut world, addr) = serve(from, ListenOptions::default());
        let mut client = peer(addr);
        drive(&mut reactor, &mut world, "the connection", |world| world.opened.len() == 1);
        client.write_all(b"last words").unwrap();
        drop(client);
        swap(&mut reactor, to);
        let conn = world.opened[0].clone();
        drive(&mut reactor, &mut world, "the end", |_| !conn.is_open());
        assert_eq!(world.input, b"last words");
    }
}

fn sources_posts_and_timers_go_on_after_the_swap(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    for to in BackendKind::READINESS {
        let mut reactor = reactor::<World>(from);
        let mut world = World::default();
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let cx = reactor.context();
        cx.add_source(near, Interest::READABLE, |world: &mut World, _, near, _| {
            let _would_block = (&*near).read_to_end(&mut world.input);
        })
        .unwrap();
        cx.after(Duration::from_millis(3), |world, _| world.beats += 1);
        far.write_all(b"a").unwrap();
        swap(&mut reactor, to);
        drive(&mut reactor, &mut world, "the source and the timer", |world| world.input == b"a" && world.beats == 1);

        // The loop sleeps without limit, and another thread wakes it.
        let remote = reactor.context().remote();
        let thread = thread::spawn(move || remote.post(|world: &mut World, _| world.beats += 1).unwrap());
        while world.beats == 1 {
            reactor.run_once(&mut world, None).unwrap();
        }
        thread.join().unwrap();
    }
}

fn a_swap_that_is_refused_leaves_the_loop_where_it_is(from: BackendKind) {
    if cannot_be_moved(from) {
        return;
    }
    let (mut reactor, mut world, addr) = serve(from, ListenOptions::default());
    let null = std::fs::File::open("/dev/null").unwrap();
    // Some mechanisms call it always ready, others refuse what cannot be polled.
    if reactor.context().add_source(null, Interest::NONE, |_, _, _, _| {}).is_err() {
        return; // then it is not there to be refused by the next one
    }
    assert!(reactor.swap_backend(BackendKind::EpollLt).is_err());
    assert_eq!(reactor.context().backend_name(), from.name());
    reactor.context().swap_backend(BackendKind::Mio).unwrap(); // refused at the next tick, and logged
    let mut client = peer(addr);
    client.write_all(b"still here").unwrap();
    drive(&mut reactor, &mut world, "the input", |world| world.input == b"still here");
    assert_eq!(reactor.context().backend_name(), from.name());
}

// --- under load

const CONNECTIONS: usize = 500;
/// Of these, the ones that send until nothing moves any more, and only then read.
const FIREHOSES: usize = 10;
const CLIENT_THREADS: usize = 5;
const LOAD: Duration = Duration::from_secs(4);
const SWAP_EVERY: Duration = Duration::from_millis(50);

/// Sends everything back, and counts who is gone.
struct Echo;

impl Handler<World> for Echo {
    fn on_data(&mut self, _: &mut World, _: &mut Context<World>, conn: &Conn, input: &[u8]) -> usize {
        conn.send(input.to_vec()).expect("the policy pauses a peer that does not read");
        input.len()
    }

    fn on_high_water(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn) {
        world.marks += 1;
    }

    fn on_close(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, _: &netlib::CloseReason) {
        world.closed += 1;
    }
}

#[test]
fn five_hundred_connections_echo_while_the_back_end_changes_every_fifty_milliseconds() {
    let mut reactor = reactor::<World>(BackendKind::READINESS[0]);
    let mut world = World::default();
    // Small marks, so that pauses and partial writes happen too.
    let policy = OutputPolicy::Pause;
    let conn = ConnOptions { high_water: 32 << 10, low_water: 8 << 10, policy, ..ConnOptions::default() };
    let options = ListenOptions { accept_budget: 16, conn, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Echo))).unwrap();
    let addr = listener.local_addr().inet().expect("TCP");
    let runs = Rc::new(std::cell::RefCell::new([0_usize; BackendKind::READINESS.len()]));
    let counts = Rc::clone(&runs);
    reactor.context().every(SWAP_EVERY, move |world, cx| {
        world.beats += 1;
        let next = world.beats % BackendKind::READINESS.len();
        let running = BackendKind::READINESS.iter().position(|kind| kind.name() == cx.backend_name()).unwrap();
        counts.borrow_mut()[running] += 1;
        cx.swap_backend(BackendKind::READINESS[next]).unwrap();
    });

    let start = Instant::now();
    let mut clients: Vec<_> = (0..CLIENT_THREADS)
        .map(|thread| thread::spawn(move || echo_until(addr, thread * CONNECTIONS, start + LOAD)))
        .collect();
    clients.push(thread::spawn(move || flood_until(addr, start + LOAD)));
    drive_for(&mut reactor, &mut world, LOAD * 5, |world| world.closed == CONNECTIONS);
    let (bytes, rounds) = clients
        .into_iter()
        .map(|client| client.join().expect("no byte is lost or reordered"))
        .fold((0, 0), |(bytes, rounds), (more, again)| (bytes + more, rounds + again));

    let runs = runs.borrow();
    let stats = reactor.context().stats();
    let _ = writeln!(
        std::io::stderr(),
        "swap: {CONNECTIONS} connections, {bytes} bytes in {rounds} rounds, {} swaps, {} pauses, {:?} per back end {:?}, {} ticks",
        world.beats,
        world.marks,
        *runs,
        BackendKind::READINESS.map(BackendKind::name),
        stats.ticks,
    );
    assert_eq!((stats.bytes_in, stats.bytes_out), (bytes, bytes));
    assert_eq!(stats.accepted, CONNECTIONS as u64);
    assert!(world.marks > 0, "nobody was ever paused");
    assert!(rounds >= CONNECTIONS as u64, "every connection echoed");
    assert!(runs.iter().all(|count| *count >= 3), "every back end ran: {runs:?}");
}

fn drive_for(reactor: &mut Reactor<World>, world: &mut World, limit: Duration, mut done: impl FnMut(&World) -> bool) {
    let start = Instant::now();
    while !done(world) {
        assert!(start.elapsed() < limit, "{} connections have ended", world.closed);
        reactor.run_once(world, Some(Duration::from_millis(20))).unwrap();
    }
}

/// Echoes over one thread's share of the connections and checks every byte. Returns the bytes and
/// rounds.
fn echo_until(addr: SocketAddr, seed: usize, end: Instant) -> (u64, u64) {
    let share = (CONNECTIONS - FIREHOSES) / CLIENT_THREADS;
    let mut clients: Vec<_> = (0..share).map(|index| (seed + index, peer(addr), 0_usize)).collect();
    let mut rounds = 0;
    while Instant::now() < end || rounds == 0 {
        // All write before any reads, so that the loop has much to do at once.
        let mut sent = Vec::new();
        for (seed, client, offset) in &mut clients {
            let round = rounds as usize + *seed;
            // Mostly small; now and then more than the loop reads at once.
            let len = if round.is_multiple_of(97) { 150_000 } else { 1 + round * 31 % 2000 };
            let bytes = stream(*seed, *offset, len);
            client.write_all(&bytes).expect("the loop reads");
            *offset += len;
            sent.push(bytes);
        }
        for ((_, client, _), bytes) in clients.iter_mut().zip(sent) {
            let mut echoed = vec![0; bytes.len()];
            client.read_exact(&mut echoed).expect("the loop echoes");
            assert!(echoed == bytes, "what came back is not what was sent");
        }
        rounds += 1;
    }
    let bytes = clients.iter().map(|(_, _, offset)| *offset as u64).sum();
    for (_, client, _) in &mut clients {
        finish(client);
    }
    (bytes, rounds * share as u64)
}

/// Fills connections until the loop has paused reading and its output is stuck, then reads all of
/// it back.
fn flood_until(addr: SocketAddr, end: Instant) -> (u64, u64) {
    let mut clients: Vec<_> = (0..FIREHOSES).map(|index| (900 + index, peer(addr), 0_usize)).collect();
    let mut rounds = 0;
    for turn in (0..FIREHOSES).cycle() {
        if Instant::now() >= end && rounds >= FIREHOSES as u64 {
            break;
        }
        let (seed, client, offset) = &mut clients[turn];
        let bytes = stream(*seed, *offset, 32 << 20);
        let mut sent = 0;
        client.set_nonblocking(true).unwrap();
        let mut progress = Instant::now();
        while progress.elapsed() < Duration::from_millis(40) {
            match client.write(&bytes[sent..]) {
                Ok(count) => {
                    sent += count;
                    progress = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(sent < bytes.len(), "the loop never pauses");
        client.set_nonblocking(false).unwrap();
        let mut echoed = vec![0; sent];
        client.read_exact(&mut echoed).expect("the loop echoes");
        assert!(echoed == bytes[..sent], "what came back is not what was sent");
        *offset += sent;
        rounds += 1;
    }
    let bytes = clients.iter().map(|(_, _, offset)| *offset as u64).sum();
    for (_, client, _) in &mut clients {
        finish(client);
    }
    (bytes, rounds)
}

fn finish(client: &mut TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "nothing follows");
}

/// A part of a connection's endless stream: what stands at a place depends on the place and the
/// connection. It repeats after a megabyte, far beyond what can be under way.
fn stream(seed: usize, offset: usize, len: usize) -> Vec<u8> {
    static BYTES: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..1_000_003_usize).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect());
    let mut part = Vec::with_capacity(len);
    while part.len() < len {
        let from = (offset + part.len() + seed * 7919) % BYTES.len();
        let rest = &BYTES[from..];
        part.extend_from_slice(&rest[..rest.len().min(len - part.len())]);
    }
    part
}
