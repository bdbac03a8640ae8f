//! What only a back end that moves bytes itself can get wrong: its pool of buffers runs out, it is ahead of a
//! handler that has paused, its sends find no room.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread;

use bytes::Bytes;
use netlib::backend::BackendKind;
use netlib::socket::{SocketOptions, Stream};
use netlib::{CloseReason, Conn, ConnOptions, Context, Handler, ListenOptions, OutputPolicy, Rate, Reactor};
use rustix::net::sockopt::set_socket_send_buffer_size;
use support::{drive, local, peer, read_some};

#[derive(Default)]
struct World {
    conns: Vec<Conn>,
    input: Vec<u8>,
    ended: usize,
    flushed: usize,
    closed: Vec<CloseReason>,
    /// The ticks in which something was forwarded.
    forwarded: Vec<u64>,
}

/// Sends everything back, and counts.
struct Echo;

impl Handler<World> for Echo {
    fn on_data(&mut self, _: &mut World, _: &mut Context<World>, conn: &Conn, input: &[u8]) -> usize {
        conn.send_slice(input).expect("room for it");
        input.len()
    }

    fn on_eof(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        world.ended += 1;
        conn.close();
    }
}

/// Takes everything, and pauses at once if told so.
struct Reads {
    pauses: bool,
}

impl Handler<World> for Reads {
    fn on_open(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        if self.pauses {
            conn.pause();
        }
        world.conns.push(conn.clone());
    }

    fn on_data(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, input: &[u8]) -> usize {
        world.input.extend_from_slice(input);
        input.len()
    }

    fn on_eof(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn) {
        world.ended += 1;
    }

    fn on_flushed(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn) {
        world.flushed += 1;
    }

    fn on_close(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, reason: &CloseReason) {
        world.closed.push(reason.clone());
    }
}

/// Is there to be sent to, and does not ask what becomes of that.
struct Target;

impl Handler<World> for Target {
    fn on_open(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        world.conns.push(conn.clone());
    }

    fn on_data(&mut self, _: &mut World, _: &mut Context<World>, _: &Conn, input: &[u8]) -> usize {
        input.len()
    }

    fn watches_flushes(&self) -> bool {
        false
    }

    fn on_close(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, reason: &CloseReason) {
        world.closed.push(reason.clone());
    }
}

/// Passes everything on to the first connection.
struct Forwards;

impl Handler<World> for Forwards {
    fn on_open(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        world.conns.push(conn.clone());
    }

    fn on_data(&mut self, world: &mut World, cx: &mut Context<World>, _: &Conn, input: &[u8]) -> usize {
        world.conns[0].send_slice(input).expect("room for it");
        world.forwarded.push(cx.stats().ticks);
        input.len()
    }
}

/// A connection of that handler, and its client.
fn connected(
    reactor: &mut Reactor<World>,
    world: &mut World,
    conn: ConnOptions,
    handler: fn() -> Box<dyn Handler<World>>,
) -> (Conn, TcpStream) {
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, move |_, _, _| Some(handler())).unwrap();
    let client = peer(listener.local_addr());
    let before = world.conns.len();
    drive(reactor, world, "the connection", |world| world.conns.len() > before);
    (world.conns[before].clone(), client)
}

fn reactor(test: &str) -> Option<Reactor<World>> {
    if let Err(error) = BackendKind::Uring.open() {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: the kernel refuses io_uring: {error}");
        return None;
    }
    Some(support::reactor(BackendKind::Uring))
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len / 4).flat_map(|number| (number as u32).to_be_bytes()).collect()
}

/// 64 connections × 64 KiB are twice what the pool holds.
#[test]
fn input_for_which_there_is_no_buffer_is_received_later() {
    const CLIENTS: usize = 64;
    const BYTES: usize = 64 << 10;
    let Some(mut reactor) = reactor("the pool") else { return };
    let listener = reactor.context().listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(Echo))).unwrap();
    let address = listener.local_addr();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| peer(address.clone())).collect();
    // Before the loop runs at all.
    for client in &mut clients {
        client.write_all(&numbered(BYTES)).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let readers = thread::spawn(move || {
        for mut client in clients {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert!(answer == numbered(BYTES), "{} of {BYTES} bytes came back", answer.len());
        }
    });
    let mut world = World::default();
    drive(&mut reactor, &mut world, "every end", |world| world.ended == CLIENTS);
    drive(&mut reactor, &mut world, "every answer", |_| readers.is_finished());
    readers.join().unwrap();
}

#[test]
fn a_paused_connection_is_not_received_from_and_loses_nothing() {
    const BYTES: usize = 32 << 20;
    let Some(mut reactor) = reactor("pausing") else { return };
    // Small buffers of the kernel's, so that what is taken in shows.
    let socket = SocketOptions { receive_buffer: Some(64 << 10), ..SocketOptions::default() };
    let options = ListenOptions { socket, ..ListenOptions::default() };
    let listener =
        reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Reads { pauses: true }))).unwrap();
    let mut client = peer(listener.local_addr());
    set_socket_send_buffer_size(&client, 64 << 10).unwrap();
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the connection", |world| !world.conns.is_empty());
    client.set_nonblocking(true).unwrap();
    // Until the kernel takes no more: what the reactor had received would make room.
    let (bytes, mut sent) = (numbered(BYTES), 0);
    let mut refused = 0;
    while refused < 20 {
        reactor.run_once(&mut world, Some(std::time::Duration::from_millis(1))).unwrap();
        match client.write(&bytes[sent..]) {
            Ok(count) => (sent, refused) = (sent + count, 0),
            Err(_) => refused += 1,
        }
    }
    assert!(sent <= 1 << 20, "{sent} bytes were taken in though nobody reads");
    assert!(world.input.is_empty());

    world.conns[0].resume();
    client.set_nonblocking(false).unwrap();
    let writer = thread::spawn(move || {
        client.write_all(&bytes[sent..]).unwrap();
        drop(client);
    });
    drive(&mut reactor, &mut world, "the rest and its end", |world| world.ended == 1);
    writer.join().unwrap();
    assert!(world.input == numbered(BYTES), "{} bytes, or not in order", world.input.len());
}

/// Its end has been received already, and is not told again.
#[test]
fn a_paused_connection_whose_peer_has_ended_does_not_linger_when_it_is_closed() {
    let Some(mut reactor) = reactor("closing after the end") else { return };
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(Reads { pauses: false })))
        .unwrap();
    let client = peer(listener.local_addr());
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the connection", |world| !world.conns.is_empty());
    // Paused in the very tick in which the end arrives.
    drop(client);
    world.conns[0].pause();
    reactor.run_once(&mut world, Some(std::time::Duration::from_millis(20))).unwrap();
    world.conns[0].close();
    for _ in 0..3 {
        reactor.run_once(&mut world, Some(std::time::Duration::from_millis(20))).unwrap();
    }
    assert_eq!(reactor.context().connections(), 0);
}

/// Shared pieces, copies and parts of a file, to a peer that does not read at first.
#[test]
fn what_finds_no_room_is_sent_later_and_in_order() {
    let Some(mut reactor) = reactor("short sends") else { return };
    let conn = ConnOptions {
        high_water: 64 << 20,
        output_limit: 64 << 20,
        policy: OutputPolicy::Notify,
        ..ConnOptions::default()
    };
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener =
        reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Reads { pauses: false }))).unwrap();
    let mut client = peer(listener.local_addr());
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the connection", |world| !world.conns.is_empty());

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&numbered(1 << 20)).unwrap();
    let file = Rc::new(OwnedFd::from(file));
    let mut expected = Vec::new();
    for round in 0..100_u32 {
        let conn = &world.conns[0];
        conn.send_slice(&round.to_be_bytes()).unwrap();
        let shared = Bytes::from(numbered(40_000 + 4 * round as usize));
        conn.send(shared.clone()).unwrap();
        conn.send_slice(b"behind it").unwrap();
        expected.extend_from_slice(&round.to_be_bytes());
        expected.extend_from_slice(&shared);
        expected.extend_from_slice(b"behind it");
        if round % 10 == 0 {
            conn.send_file(&file, 4, 300_000).unwrap();
            expected.extend_from_slice(&numbered(1 << 20)[4..300_004]);
        }
        reactor.run_once(&mut world, Some(std::time::Duration::ZERO)).unwrap();
    }
    assert!(world.conns[0].queued() > 0, "the socket took everything: nothing was tested");
    let len = expected.len();
    let reader = thread::spawn(move || {
        let mut answer = vec![0; len];
        client.read_exact(&mut answer).unwrap();
        answer
    });
    drive(&mut reactor, &mut world, "all of it", |world| world.conns[0].queued() == 0);
    assert!(world.flushed > 0);
    assert!(reader.join().unwrap() == expected, "not in order");
    assert_eq!(world.conns[0].bytes_out(), len as u64);
}

/// There is a flush after 256 of them. What came behind it waited for a completion that nobody waited for.
#[test]
fn what_400_connections_forward_to_one_in_one_tick_arrives() {
    const SOURCES: usize = 400;
    let Some(mut reactor) = reactor("a flush in mid-batch") else { return };
    let mut world = World::default();
    let (_, mut target) = connected(&mut reactor, &mut world, ConnOptions::default(), || Box::new(Target));
    // A rate has connections watched, and those that are ready are reported all at once.
    let rate = Rate { bytes_per_second: 1 << 30, burst: 1 << 30 };
    let conn = ConnOptions { read_rate: Some(rate), ..ConnOptions::default() };
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Forwards))).unwrap();
    let mut sources: Vec<_> = (0..SOURCES).map(|_| peer(listener.local_addr())).collect();
    drive(&mut reactor, &mut world, "the sources", |world| world.conns.len() == 1 + SOURCES);
    let mut tell_all = || sources.iter_mut().for_each(|source| source.write_all(b"news").unwrap());
    // A batch of events grows when one was full.
    tell_all();
    let mut arrived = Vec::new();
    drive(&mut reactor, &mut world, "the first round", |_| {
        read_some(&mut target, &mut arrived);
        arrived.len() == SOURCES * 4
    });
    target.set_nonblocking(false).unwrap();
    world.forwarded.clear();
    tell_all();
    let remote = reactor.context().remote();
    let reader = thread::spawn(move || {
        let mut arrived = [0; SOURCES * 4];
        let outcome = target.read_exact(&mut arrived);
        assert!(remote.stop());
        outcome.map(|()| arrived)
    });
    // Its waits have no limit.
    reactor.run(&mut world).unwrap();
    assert_eq!(reader.join().unwrap().expect("all of it"), *b"news".repeat(SOURCES));
    let ticks = &world.forwarded;
    assert!(ticks.len() == SOURCES && ticks[0] == ticks[SOURCES - 1], "not in one tick: nothing was tested");
}

/// Sends to the first connection as much as may wait when it is told to, and again at its own end.
struct SendsTwice;

impl Handler<World> for SendsTwice {
    fn on_open(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        world.conns.push(conn.clone());
    }

    fn on_data(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn, input: &[u8]) -> usize {
        world.conns[0].send_slice(&vec![1; 64 << 10]).expect("nothing waits");
        conn.abort();
        input.len()
    }

    fn on_close(&mut self, world: &mut World, _: &mut Context<World>, _: &Conn, _: &CloseReason) {
        world.conns[0].send_slice(&vec![2; 32 << 10]).expect("what is on its way does not wait");
        world.conns[0].send_slice(&vec![3; 32 << 10]).expect("what is on its way does not wait");
    }
}

/// What the back end has been given and the kernel not yet counted as if the peer did not take it.
#[test]
fn a_peer_that_reads_does_not_reach_the_output_limit() {
    let Some(mut reactor) = reactor("the output limit") else { return };
    let mut world = World::default();
    let limit = ConnOptions { output_limit: 64 << 10, ..ConnOptions::default() };
    let (_, mut target) = connected(&mut reactor, &mut world, limit, || Box::new(Target));
    for _ in 0..10 {
        let (_, mut source) = connected(&mut reactor, &mut world, ConnOptions::default(), || Box::new(SendsTwice));
        source.write_all(b"go").unwrap();
        let mut target = target.try_clone().unwrap();
        let reader = thread::spawn(move || target.read_exact(&mut vec![0; 128 << 10]));
        drive(&mut reactor, &mut world, "both", |_| reader.is_finished());
        reader.join().unwrap().unwrap();
    }
    assert_eq!(world.closed, []);
    target.set_nonblocking(true).unwrap();
    assert!(target.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}

#[test]
fn input_ahead_of_a_reset_is_delivered_before_the_end() {
    let Some(mut reactor) = reactor("a reset behind input") else { return };
    let conn = ConnOptions { read_budget: 1 << 10, ..ConnOptions::default() };
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener =
        reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Reads { pauses: false }))).unwrap();
    let client = Stream::connect(listener.local_addr().inet().unwrap()).unwrap();
    let mut world = World::default();
    drive(&mut reactor, &mut world, "the connection", |world| world.conns.len() == 1);
    let bytes = numbered(32 << 10);
    assert_eq!(client.write(&bytes).unwrap(), bytes.len());
    drive(&mut reactor, &mut world, "some of it", |world| !world.input.is_empty());
    assert!(world.input.len() < bytes.len(), "all of it was shown at once: nothing was tested");
    client.set_reset_on_close().unwrap();
    drop(client);
    drive(&mut reactor, &mut world, "the end", |world| !world.closed.is_empty());
    assert_eq!(world.closed, [CloseReason::Reset]);
    assert!(world.input == bytes, "{} of {} bytes", world.input.len(), bytes.len());
}

/// Answers and ends the loop.
struct LastWords;

impl Handler<World> for LastWords {
    fn on_open(&mut self, world: &mut World, _: &mut Context<World>, conn: &Conn) {
        world.conns.push(conn.clone());
    }

    fn on_data(&mut self, _: &mut World, cx: &mut Context<World>, conn: &Conn, input: &[u8]) -> usize {
        conn.send_slice(b"bye").unwrap();
        cx.stop();
        input.len()
    }

    fn watches_flushes(&self) -> bool {
        false
    }
}

#[test]
fn what_is_sent_right_before_the_loop_stops_leaves() {
    let Some(mut reactor) = reactor("output before the stop") else { return };
    let mut world = World::default();
    let (conn, mut client) = connected(&mut reactor, &mut world, ConnOptions::default(), || Box::new(LastWords));
    client.write_all(b"?").unwrap();
    reactor.run(&mut world).unwrap();
    assert_eq!((conn.queued(), conn.bytes_out()), (0, 3));
    let mut answer = [0; 3];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"bye");
}

/// A send that nobody waits to hear of counted as queued until the next tick's callbacks.
#[test]
fn what_a_connection_has_sent_is_known_whenever_it_can_be_asked() {
    let Some(mut reactor) = reactor("the accounts of sends") else { return };
    let mut world = World::default();
    let (conn, mut client) = connected(&mut reactor, &mut world, ConnOptions::default(), || Box::new(Target));
    // Between two ticks, and for a loop around this one.
    conn.send_slice(b"one").unwrap();
    assert_eq!((conn.queued(), conn.bytes_out()), (3, 0));
    reactor.run_once(&mut world, Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!((conn.queued(), conn.bytes_out()), (0, 3));

    // In whatever is called first after the wait that sent it.
    let asked = conn.clone();
    let cx = reactor.context();
    cx.on_after_wait(move |world: &mut World, cx| {
        world.forwarded.push(asked.queued());
        cx.remove_hooks();
    });
    cx.post(|world: &mut World, cx| {
        world.conns[0].send_slice(b"two").unwrap();
        // The first tick sends it, with the wait of the second.
        cx.post(|world: &mut World, cx| {
            world.forwarded.push(world.conns[0].bytes_out());
            cx.stop();
        });
    });
    world.forwarded.clear();
    reactor.run(&mut world).unwrap();
    assert_eq!(world.forwarded, [0, 6]);

    // Of what does not fit into the socket, all but what has left.
    const MUCH: u64 = 16 << 20;
    conn.send(vec![0; MUCH as usize]).unwrap();
    reactor.run_once(&mut world, Some(std::time::Duration::ZERO)).unwrap();
    let (queued, sent) = (conn.queued(), conn.bytes_out() - 6);
    assert!(queued + sent == MUCH && sent > 0 && queued > 0, "{queued} wait and {sent} are sent");
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all.len())
    });
    drive(&mut reactor, &mut world, "the rest", |_| conn.queued() == 0);
    assert_eq!(conn.bytes_out(), 6 + MUCH);
    conn.close();
    drive(&mut reactor, &mut world, "the end", |_| reader.is_finished());
    assert_eq!(reader.join().unwrap().unwrap() as u64, 6 + MUCH);
}
