//! A reactor inside a plain epoll loop, on every back end that has a descriptor to watch: no
//! event is missed, and the outer loop does not spin.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use netlib::backend::BackendKind;
use netlib::clock::ManualClock;
use netlib::{Conn, ConnOptions, Context, Handler, ListenOptions, Reactor, ReactorConfig};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use support::DEADLINE;

on_every_backend! {
    the_outer_loop_misses_nothing_and_does_not_spin,
    a_busy_service_is_served_through_the_outer_loop,
    pending_work_means_no_waiting,
    timers_and_sends_between_two_turns_count,
}

/// Sends everything back.
struct Echo;

impl<S: 'static> Handler<S> for Echo {
    fn on_data(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        let _closed = conn.send(input.to_vec());
        input.len()
    }
}

/// An epoll loop of somebody else's, with a reactor among what it watches.
struct Outer {
    epoll: std::os::fd::OwnedFd,
    turns: usize,
}

impl Outer {
    /// None, with a line, if the back end has nothing to watch.
    fn around<S: 'static>(reactor: &mut Reactor<S>, flags: epoll::EventFlags, test: &str) -> Option<Self> {
        match reactor.as_fd() {
            Ok(inner) => {
                let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
                epoll::add(&outer, inner, epoll::EventData::new_u64(7), epoll::EventFlags::IN | flags).unwrap();
                Some(Self { epoll: outer, turns: 0 })
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
                let name = reactor.context().backend_name();
                assert!(["poll", "select"].contains(&name), "{name} ought to have a descriptor");
                eprintln!("SKIPPED {test}: {error}");
                None
            }
        }
    }

    /// Sleeps as the reactor says, at most for `limit`, and gives it a turn if it is ready or
    /// due. False if neither was the case.
    fn turn<S: 'static>(&mut self, reactor: &mut Reactor<S>, state: &mut S, limit: Duration) -> bool {
        let timeout = reactor.next_timeout();
        let waits = timeout.unwrap_or(limit).min(limit);
        // epoll takes whole milliseconds: up, or it would spin through the last one.
        let millis = i64::try_from(waits.as_nanos().div_ceil(1_000_000)).unwrap();
        let spec = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        let mut events = Vec::with_capacity(4);
        // A thread that has just closed an io_uring may be interrupted; any loop goes on then.
        rustix::io::retry_on_intr(|| epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&spec))).unwrap();
        if events.is_empty() && timeout.is_none_or(|timeout| timeout > limit) {
            return false;
        }
        self.turns += 1;
        assert!(reactor.run_once(state, Some(Duration::ZERO)).unwrap());
        true
    }

    /// Turns until nothing is left to do at once.
    fn settle<S: 'static>(&mut self, reactor: &mut Reactor<S>, state: &mut S) {
        while self.turn(reactor, state, Duration::ZERO) {
            assert!(self.turns < 100_000, "it never settles");
        }
    }
}

const TRIGGERS: [epoll::EventFlags; 2] = [epoll::EventFlags::empty(), epoll::EventFlags::ET];

/// One event at a time, each of which must end the outer wait, whatever the trigger.
fn the_outer_loop_misses_nothing_and_does_not_spin(kind: BackendKind) {
    for flags in TRIGGERS {
        let mut reactor = support::reactor::<usize>(kind);
        let mut posts = 0;
        let Some(mut outer) = Outer::around(&mut reactor, flags, "embedding in epoll") else { return };
        let options = ListenOptions::default();
        let listener = reactor.context().listen(support::local(), options, |_, _, _| Some(Box::new(Echo))).unwrap();
        outer.settle(&mut reactor, &mut posts);

        let mut client = support::peer(listener.local_addr());
        let rounds: usize = 50;
        for round in 0..rounds {
            client.write_all(&[round as u8; 10]).unwrap();
            let before = reactor.context().stats().bytes_out;
            // An event lost on the way leaves the outer loop asleep.
            while reactor.context().stats().bytes_out < before + 10 {
                assert!(outer.turn(&mut reactor, &mut posts, DEADLINE), "{flags:?}: round {round} was missed");
            }
            let mut answer = [0; 10];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [round as u8; 10]);
        }
        for n in 1..=rounds {
            reactor.context().remote().post(|posts: &mut usize, _| *posts += 1).unwrap();
            while posts < n {
                assert!(outer.turn(&mut reactor, &mut posts, DEADLINE), "{flags:?}: post {n} was missed");
            }
        }
        // Per event one turn that finds it and one that finds no more.
        outer.settle(&mut reactor, &mut posts);
        assert!(outer.turns <= 4 * rounds + 20, "{flags:?}: {} turns for {} events", outer.turns, 2 * rounds);
        // With nothing to do the outer loop sleeps.
        assert_eq!(reactor.next_timeout(), None);
        // The descriptor may be readable once more without need.
        if outer.turn(&mut reactor, &mut posts, Duration::from_millis(30)) {
            outer.settle(&mut reactor, &mut posts);
        }
        let before = outer.turns;
        let start = Instant::now();
        assert!(!outer.turn(&mut reactor, &mut posts, Duration::from_millis(30)));
        assert!(start.elapsed() >= Duration::from_millis(30) && outer.turns == before);
    }
}

/// More connections than one batch holds, more bytes than one turn reads.
fn a_busy_service_is_served_through_the_outer_loop(kind: BackendKind) {
    const CLIENTS: usize = 300;
    const BYTES: usize = 16_000;
    for flags in TRIGGERS {
        let mut reactor = support::reactor::<()>(kind);
        let Some(mut outer) = Outer::around(&mut reactor, flags, "a busy embedded service") else { return };
        let conn = ConnOptions { read_budget: 4096, ..ConnOptions::default() };
        let options = ListenOptions { conn, ..ListenOptions::default() };
        let listener = reactor.context().listen(support::local(), options, |(), _, _| Some(Box::new(Echo))).unwrap();
        let address = listener.local_addr();
        let clients = thread::spawn(move || {
            let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| support::peer(address.clone())).collect();
            for client in &mut clients {
                client.write_all(&[7; BYTES]).unwrap();
            }
            for client in &mut clients {
                let mut answer = vec![0; BYTES];
                client.read_exact(&mut answer).unwrap();
                assert!(answer.iter().all(|byte| *byte == 7));
            }
        });
        while reactor.context().stats().bytes_out < (CLIENTS * BYTES) as u64 {
            assert!(outer.turn(&mut reactor, &mut (), DEADLINE), "{flags:?}: stalled");
        }
        clients.join().unwrap();
    }
}

fn pending_work_means_no_waiting(kind: BackendKind) {
    let mut reactor = support::reactor::<usize>(kind);
    let mut ran = 0;
    reactor.run_once(&mut ran, Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.next_timeout(), None);
    reactor.context().post(|ran, cx| {
        *ran += 1;
        cx.post(|ran, _| *ran += 1);
    });
    for expected in 1..=2 {
        assert_eq!(reactor.next_timeout(), Some(Duration::ZERO));
        reactor.run_once(&mut ran, Some(Duration::ZERO)).unwrap();
        assert_eq!(ran, expected);
    }
    assert_eq!(reactor.next_timeout(), None);
    reactor.context().stop();
    assert_eq!(reactor.next_timeout(), Some(Duration::ZERO));
    assert!(!reactor.run_once(&mut ran, Some(Duration::ZERO)).unwrap());
}

fn timers_and_sends_between_two_turns_count(kind: BackendKind) {
    let clock = ManualClock::new();
    let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
    let mut reactor = Reactor::<Vec<Conn>>::new(config).unwrap();
    let mut conns = Vec::new();
    clock.advance(Duration::from_secs(100)); // the outer loop has been busy with other things
    reactor.context().after(Duration::from_secs(3), |_, _| ());
    assert_eq!(reactor.next_timeout(), Some(Duration::from_secs(3)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(reactor.next_timeout(), Some(Duration::from_secs(2)));
    let remote = reactor.context().remote();
    remote.post_delayed(Duration::from_secs(1), |_, _| ()).unwrap();
    reactor.run_once(&mut conns, Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.next_timeout(), Some(Duration::ZERO), "the wait found the post, there may be more");
    reactor.run_once(&mut conns, Some(Duration::ZERO)).unwrap();
    assert_eq!(reactor.next_timeout(), Some(Duration::from_secs(1)), "the delayed post is the next");

    struct Keep;
    impl Handler<Vec<Conn>> for Keep {
        fn on_open(&mut self, conns: &mut Vec<Conn>, _: &mut Context<Vec<Conn>>, conn: &Conn) {
            conns.push(conn.clone());
        }

        fn on_data(&mut self, _: &mut Vec<Conn>, _: &mut Context<Vec<Conn>>, _: &Conn, input: &[u8]) -> usize {
            input.len()
        }
    }
    let listen = ListenOptions::default();
    let listener = reactor.context().listen(support::local(), listen, |_, _, _| Some(Box::new(Keep))).unwrap();
    let mut client = support::peer(listener.local_addr());
    support::drive(&mut reactor, &mut conns, "the connection", |conns| conns.len() == 1);
    while reactor.next_timeout() == Some(Duration::ZERO) {
        reactor.run_once(&mut conns, Some(Duration::ZERO)).unwrap();
    }
    conns[0].send("between two turns").unwrap();
    assert_eq!(reactor.next_timeout(), Some(Duration::ZERO));
    reactor.run_once(&mut conns, Some(Duration::ZERO)).unwrap();
    let mut text = [0; 17];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"between two turns");
}
