//! What only a back end that moves bytes itself can get wrong: its pool of buffers runs out, it is ahead of a
//! handler that has paused, its sends find no room.

mod support;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread;

use bytes::Bytes;
use netlib::backend::BackendKind;
use netlib::{Conn, ConnOptions, Context, Handler, ListenOptions, OutputPolicy, Reactor};
use support::{drive, local, peer};

#[derive(Default)]
struct World {
    conns: Vec<Conn>,
    input: Vec<u8>,
    ended: usize,
    flushed: usize,
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
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), |_, _, _| Some(Box::new(Reads { pauses: true })))
        .unwrap();
    let mut client = peer(listener.local_addr());
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
    assert!(sent < BYTES, "everything was taken in though nobody reads");
    let ahead = world.conns[0].bytes_in();
    assert!(ahead <= 256 << 10, "{ahead} bytes were received for a paused connection");
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
