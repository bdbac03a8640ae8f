//! Traps of the field that have no better room, on every back end. `docs/traps.md` tells what each
//! of them is and where the tests of the others are.

mod support;

use std::cell::Cell;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use netlib::backend::{BackendKind, Interest};
use netlib::{Conn, ConnOptions, Context, FrameHandler, Framed, Handler, ListenOptions, SourceId};
use support::{drive, local, peer, reactor, read_some};

on_every_backend! {
    an_event_for_a_descriptor_that_was_reused_in_its_batch_reaches_nobody,
    what_arrives_while_the_socket_is_drained_is_not_missed,
    write_readiness_survives_changes_of_interest,
    a_flood_of_tiny_frames_is_handed_over_before_the_end_behind_it,
}

/// What the sources of the first test know of each other.
#[derive(Default)]
struct Pairs {
    called: Vec<&'static str>,
    /// The one whose event is further down in the batch, and its number.
    other: [Option<(SourceId, i32)>; 2],
    reused: bool,
    /// Ends that keep the new sources quiet.
    quiet: Vec<UnixStream>,
}

fn an_event_for_a_descriptor_that_was_reused_in_its_batch_reaches_nobody(kind: BackendKind) {
    // Another test's thread may be faster to take the number: try again then.
    for _ in 0..100 {
        let mut pairs = Pairs::default();
        reuse_within_a_batch(kind, &mut pairs);
        if pairs.reused {
            assert_eq!(pairs.called, ["a source of the batch"]);
            return;
        }
    }
    panic!("the number never came back, so nothing was shown");
}

fn reuse_within_a_batch(kind: BackendKind, pairs: &mut Pairs) {
    let mut reactor = reactor::<Pairs>(kind);
    let mut far = Vec::new();
    for n in 0..2 {
        let (near, end) = UnixStream::pair().unwrap();
        far.push(end);
        let raw = near.as_raw_fd();
        let id = reactor
            .context()
            .add_source(near, Interest::READABLE, move |pairs: &mut Pairs, cx, _, _| {
                pairs.called.push("a source of the batch");
                // The other one is ready too. It goes, and its number comes back at once.
                let Some((victim, raw)) = pairs.other[1 - n].take() else { return };
                assert!(cx.remove_source(victim));
                let (fresh, end) = UnixStream::pair().unwrap();
                pairs.reused = fresh.as_raw_fd() == raw;
                pairs.quiet.push(end);
                cx.add_source(fresh, Interest::READABLE, |pairs: &mut Pairs, _, _, _| {
                    pairs.called.push("the new source");
                })
                .unwrap();
            })
            .unwrap();
        pairs.other[n] = Some((id, raw));
    }
    for end in &mut far {
        end.write_all(b"x").unwrap();
    }
    drive(&mut reactor, pairs, "the batch", |pairs| !pairs.called.is_empty());
    // The source that was called has not read: with a level trigger it is called again. The new
    // one never is.
    reactor.run_once(pairs, Some(Duration::ZERO)).unwrap();
    pairs.called.dedup();
}

#[derive(Default)]
struct Log {
    conn: Option<Conn>,
    input: Vec<u8>,
}

/// Has the peer send more from within the callback that takes what came before.
struct Provoke {
    peer: Rc<Cell<Option<TcpStream>>>,
    left: u8,
}

impl Handler<Log> for Provoke {
    fn on_open(&mut self, log: &mut Log, _: &mut Context<Log>, conn: &Conn) {
        log.conn = Some(conn.clone());
    }

    fn on_data(&mut self, log: &mut Log, _: &mut Context<Log>, _: &Conn, input: &[u8]) -> usize {
        log.input.extend_from_slice(input);
        if self.left > 0
            && let Some(mut peer) = self.peer.take()
        {
            self.left -= 1;
            peer.write_all(&[self.left; 3]).unwrap(); // on loopback it is there when this returns
            self.peer.set(Some(peer));
        }
        input.len()
    }
}

fn what_arrives_while_the_socket_is_drained_is_not_missed(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let shared = Rc::new(Cell::new(None));
    let theirs = Rc::clone(&shared);
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), move |_, _, _| {
            Some(Box::new(Provoke { peer: Rc::clone(&theirs), left: 100 }))
        })
        .unwrap();
    let mut client = peer(listener.local_addr());
    client.write_all(b"go").unwrap();
    shared.set(Some(client));
    drive(&mut reactor, &mut log, "every provoked piece", |log| log.input.len() == 2 + 300);
    assert!(log.input[2..].chunks(3).zip((0..100).rev()).all(|(piece, n)| piece == [n; 3]));
}

fn write_readiness_survives_changes_of_interest(kind: BackendKind) {
    const SIZE: usize = 24 << 20;
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::default();
    let conn = ConnOptions { output_limit: 2 * SIZE, ..ConnOptions::default() };
    let listener = reactor
        .context()
        .listen(local(), ListenOptions { conn, ..ListenOptions::default() }, |_, _, _| {
            Some(Box::new(Provoke { peer: Rc::default(), left: 0 }))
        })
        .unwrap();
    let mut client = peer(listener.local_addr());
    drive(&mut reactor, &mut log, "the connection", |log| log.conn.is_some());
    let conn = log.conn.clone().unwrap();
    conn.send(vec![7; SIZE]).unwrap();
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    assert!(conn.queued() > 0, "it has to block for this test to show anything");
    let mut taken = Vec::new();
    let mut turns = 0;
    // Between any two looks at the socket its registration changes.
    drive(&mut reactor, &mut log, "all of it", |_| {
        if turns % 2 == 0 {
            conn.pause();
        } else {
            conn.resume();
        }
        turns += 1;
        read_some(&mut client, &mut taken);
        taken.len() == SIZE
    });
    conn.resume();
    client.write_all(b"and reading goes on").unwrap();
    drive(&mut reactor, &mut log, "the input", |log| log.input == b"and reading goes on");
}

#[derive(Default)]
struct Lines {
    lines: usize,
    eof_after: Option<usize>,
}

struct Count;

impl FrameHandler<Lines> for Count {
    fn on_frame(&mut self, seen: &mut Lines, _: &mut Context<Lines>, _: &Conn, _: &[u8]) {
        seen.lines += 1;
    }

    fn on_eof(&mut self, seen: &mut Lines, _: &mut Context<Lines>, conn: &Conn) {
        seen.eof_after = Some(seen.lines);
        conn.close();
    }
}

/// More frames in one read than a handler is given in one turn, and the end right behind them.
fn a_flood_of_tiny_frames_is_handed_over_before_the_end_behind_it(kind: BackendKind) {
    const LINES: usize = 50_000;
    let mut reactor = reactor::<Lines>(kind);
    let mut seen = Lines::default();
    let listener = reactor
        .context()
        .listen(local(), ListenOptions::default(), |_, _, _| {
            Some(Box::new(Framed::new(netlib::codec::Lines::new(10), Count)))
        })
        .unwrap();
    let mut client = peer(listener.local_addr());
    client.write_all(&b"\n".repeat(LINES)).unwrap();
    drop(client);
    drive(&mut reactor, &mut seen, "the end", |seen| seen.eof_after.is_some());
    assert_eq!(seen.eof_after, Some(LINES));
}
