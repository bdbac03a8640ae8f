//! Several loops that share the connections of one address (issue 3, multi-core): every test runs
//! on every back end, and those about listening with every spread.

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;
use std::{fs, thread};

use netlib::backend::BackendKind;
use netlib::buffer::{OutputBuffer, Progress};
use netlib::layer::{Layer, LayerFactory};
use netlib::reactor_pool::{PoolListener, PoolOptions, Spread};
use netlib::socket::{Address, Stream};
use netlib::{
    CloseReason, Conn, ConnectOptions, Context, Handler, ListenOptions, PanicPolicy, ReactorPool, RemoteConn, SendError,
};
use support::{DEADLINE, drive, local, peer};

/// A loop's state: which one it is, and how many it has served.
struct Loop {
    number: usize,
    served: Arc<[AtomicUsize]>,
    opened: mpsc::Sender<(usize, RemoteConn<Loop>)>,
}

/// Echoes, and says first on which loop.
struct Echo;

impl Handler<Loop> for Echo {
    fn on_open(&mut self, this: &mut Loop, cx: &mut Context<Loop>, conn: &Conn) {
        this.served[this.number].fetch_add(1, Ordering::Relaxed);
        // Gone when the test looks no more.
        let _ = this.opened.send((this.number, cx.remote_conn(conn)));
        conn.send(vec![this.number as u8]).unwrap();
    }

    fn on_data(&mut self, _: &mut Loop, _: &mut Context<Loop>, conn: &Conn, input: &[u8]) -> usize {
        conn.send_slice(input).unwrap();
        input.len()
    }
}

fn options(kind: BackendKind, threads: usize, name: &str) -> PoolOptions {
    PoolOptions { threads, name: name.to_owned(), backend: Some(kind), fallback: false, ..PoolOptions::default() }
}

struct Fixture {
    pool: ReactorPool<Loop>,
    served: Arc<[AtomicUsize]>,
    opened: mpsc::Receiver<(usize, RemoteConn<Loop>)>,
}

fn start(kind: BackendKind, threads: usize) -> Fixture {
    let served: Arc<[AtomicUsize]> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
    let (tell, opened) = mpsc::channel();
    let counts = Arc::clone(&served);
    let pool = ReactorPool::start(options(kind, threads, "pool"), move |number, cx, remotes| {
        assert_eq!((cx.backend_name(), remotes.len()), (kind.name(), threads));
        Ok(Loop { number, served: Arc::clone(&counts), opened: tell.clone() })
    });
    Fixture { pool: pool.unwrap(), served, opened }
}

/// An address of this test's own: no other test is given the port when it is free again.
fn own(kind: BackendKind, test: u8) -> SocketAddr {
    SocketAddr::from(([127, 77, kind as u8, test], 0))
}

impl Fixture {
    fn listen(&self, spread: Spread, options: ListenOptions) -> PoolListener<Loop> {
        self.pool.listen(local(), spread, options, |_, _, _| Some(Box::new(Echo))).unwrap()
    }

    fn served(&self) -> Vec<usize> {
        self.served.iter().map(|served| served.load(Ordering::Relaxed)).collect()
    }
}

/// The loop that serves it.
fn loop_of(stream: &mut TcpStream) -> usize {
    let mut number = [0];
    stream.read_exact(&mut number).expect("a loop that serves it");
    number[0].into()
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"over there and back").unwrap();
    let mut answer = [0; 19];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"over there and back");
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}

/// Waits for something that the loops count.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for: {what}");
        thread::yield_now();
    }
}

fn connections_reach_every_loop_and_are_echoed(kind: BackendKind) {
    for spread in Spread::ALL {
        let pool = start(kind, 3);
        let listener = pool.listen(spread, ListenOptions::default());
        let mut clients: Vec<_> = (0..60).map(|_| peer(listener.local_addr())).collect();
        let mut by_loop = vec![0; 3];
        for client in &mut clients {
            by_loop[loop_of(client)] += 1;
            echoes(client);
        }
        assert_eq!(pool.served(), by_loop, "{spread}");
        match spread {
            // Three sockets, and 60 connections miss one of them once in 10^10 runs.
            Spread::ReusePort => assert!(by_loop.iter().all(|served| *served > 0), "{by_loop:?}"),
            Spread::Exclusive => assert_eq!(by_loop.iter().sum::<usize>(), 60),
            Spread::HandOff => assert_eq!(by_loop, [20, 20, 20]),
        }
        let accepted: Vec<_> = listener.stats().unwrap().iter().map(|of_loop| of_loop.accepted as usize).collect();
        assert_eq!(accepted, by_loop);
        pool.pool.stop().unwrap();
        assert!(clients.iter_mut().all(is_closed));
    }
}

fn limits_hold_for_each_loop_and_refusals_are_counted(kind: BackendKind) {
    for spread in Spread::ALL {
        let pool = start(kind, 2);
        let listener = pool.listen(spread, ListenOptions { max_connections: 1, ..ListenOptions::default() });
        let mut clients: Vec<_> = (0..30).map(|_| peer(listener.local_addr())).collect();
        wait_until("all are decided upon", || {
            let stats = listener.stats().unwrap();
            stats.iter().map(|of_loop| of_loop.accepted + of_loop.refused).sum::<u64>() == 30
        });
        let stats = listener.stats().unwrap();
        assert!(stats.iter().all(|of_loop| of_loop.live <= 1 && of_loop.accepted <= 1), "{spread}: {stats:?}");
        let live: usize = stats.iter().map(|of_loop| of_loop.live).sum();
        if spread == Spread::Exclusive {
            assert!(live >= 1);
        } else {
            assert_eq!(live, 2, "{spread}: each loop has its own");
        }
        assert_eq!(clients.iter_mut().filter_map(|client| client.read(&mut [0]).ok()).sum::<usize>(), live);
    }
}

fn messages_to_a_connection_on_another_loop_arrive_in_order(kind: BackendKind) {
    const MESSAGES: u32 = 2000;
    for spread in Spread::ALL {
        let pool = start(kind, 2);
        let listener = pool.listen(spread, ListenOptions::default());
        let mut client = peer(listener.local_addr());
        let home = loop_of(&mut client);
        let (number, conn) = pool.opened.recv_timeout(DEADLINE).unwrap();
        assert_eq!(number, home);
        pool.pool.remotes()[1 - home]
            .post(move |this, _| {
                assert_ne!(this.number, home);
                for n in 0..MESSAGES {
                    conn.send(n.to_be_bytes().to_vec()).unwrap();
                }
                conn.with(move |this, _, _| assert_eq!(this.number, home)).unwrap();
                conn.close_with(CloseReason::Local).unwrap();
            })
            .unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        let expected: Vec<u8> = (0..MESSAGES).flat_map(u32::to_be_bytes).collect();
        assert!(received == expected, "{spread}: {} bytes, out of order or incomplete", received.len());
        pool.pool.stop().unwrap();
    }
}

/// Turns every byte around, and begins with a greeting of both sides.
#[derive(Debug)]
struct Flip {
    greeted: bool,
}

impl Layer for Flip {
    fn handshake(&mut self, stream: &Stream) -> io::Result<bool> {
        if !self.greeted {
            self.greeted = stream.write(b"!")? == 1;
        }
        match stream.read(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, stream: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        let count = stream.read(buffer)?;
        buffer[..count].iter_mut().for_each(|byte| *byte = !*byte);
        Ok(count)
    }

    fn write(&mut self, stream: &Stream, output: &mut OutputBuffer) -> io::Result<Progress> {
        output.write_to(stream)
    }

    fn pending(&self) -> usize {
        0
    }

    fn close(&mut self) {}
}

#[derive(Debug)]
struct FlipFactory;

impl LayerFactory for FlipFactory {
    fn layer(&self) -> io::Result<Box<dyn Layer>> {
        Ok(Box::new(Flip { greeted: false }))
    }
}

fn a_layer_is_agreed_upon_on_the_loop_that_serves(kind: BackendKind) {
    for spread in Spread::ALL {
        let pool = start(kind, 2);
        let options = ListenOptions { layer: Some(Arc::new(FlipFactory)), ..ListenOptions::default() };
        let listener = pool.listen(spread, options);
        for _ in 0..4 {
            let mut client = peer(listener.local_addr());
            let mut greeting = [0];
            client.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"!");
            client.write_all(b"?").unwrap();
            loop_of(&mut client);
            client.write_all(&[!b'x']).unwrap();
            client.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"x", "{spread}");
        }
        if spread == Spread::HandOff {
            assert_eq!(pool.served(), [2, 2]);
        }
        pool.pool.stop().unwrap();
    }
}

fn a_closed_listener_refuses_on_all_loops_and_its_connections_stay(kind: BackendKind) {
    for spread in Spread::ALL {
        let pool = start(kind, 2);
        let listener = pool
            .pool
            .listen(own(kind, 2), spread, ListenOptions::default(), |_, _, _| {
                Some(Box::new(Echo) as Box<dyn Handler<Loop>>)
            })
            .unwrap();
        let mut clients: Vec<_> = (0..8).map(|_| peer(listener.local_addr())).collect();
        for client in &mut clients {
            loop_of(client);
        }
        listener.close();
        assert_eq!(TcpStream::connect(listener.local_addr()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        clients.iter_mut().for_each(echoes);
    }
}

fn a_paused_listener_lets_peers_wait_and_serves_them_when_it_goes_on(kind: BackendKind) {
    for spread in Spread::ALL {
        let pool = start(kind, 2);
        let listener = pool.listen(spread, ListenOptions::default());
        listener.pause().unwrap();
        let mut clients: Vec<_> = (0..6).map(|_| peer(listener.local_addr())).collect();
        for _ in 0..20 {
            // Each answer is a tick of every loop.
            assert!(listener.stats().unwrap().iter().all(|of_loop| of_loop.accepted == 0), "{spread}");
        }
        listener.resume().unwrap();
        for client in &mut clients {
            assert!(loop_of(client) < 2);
        }
        pool.pool.stop().unwrap();
    }
}

fn a_taken_port_is_one_error_and_the_pool_goes_on(kind: BackendKind) {
    let taken = TcpListener::bind(local()).unwrap();
    for spread in Spread::ALL {
        let pool = start(kind, 2);
        let outcome = pool.pool.listen(taken.local_addr().unwrap(), spread, ListenOptions::default(), |_, _, _| None);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::AddrInUse, "{spread}");
        let listener = pool.listen(spread, ListenOptions::default());
        loop_of(&mut peer(listener.local_addr()));
        pool.pool.stop().unwrap();
    }
}

fn when_one_loop_cannot_listen_none_does(kind: BackendKind) {
    for spread in Spread::ALL {
        let pool = start(kind, 3);
        let last = &pool.pool.remotes()[2];
        last.stop();
        wait_until("the loop is gone", || last.post(|_, _| ()).is_err());
        // Taken and freed again, to have a number to ask for.
        let free = TcpListener::bind(own(kind, 1)).unwrap().local_addr().unwrap();
        let outcome = pool.pool.listen(free, spread, ListenOptions::default(), |_, _, _| None);
        assert_eq!(outcome.unwrap_err().to_string(), "a loop of the pool has ended", "{spread}");
        assert_eq!(TcpStream::connect(free).unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "{spread}");
        pool.pool.stop().unwrap();
    }
}

fn loops_share_a_unix_socket(kind: BackendKind) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let address: Address = format!("unix:{}", path.display()).parse().unwrap();
    for spread in Spread::ALL {
        let pool = start(kind, 2);
        let listener = pool.pool.listen(address.clone(), spread, ListenOptions::default(), |_, _, _| {
            Some(Box::new(Echo) as Box<dyn Handler<Loop>>)
        });
        if spread == Spread::ReusePort {
            assert_eq!(listener.unwrap_err().kind(), io::ErrorKind::Unsupported);
            continue;
        }
        let listener = listener.unwrap();
        for _ in 0..4 {
            UnixStream::connect(&path).unwrap().read_exact(&mut [0]).unwrap();
        }
        assert_eq!(pool.served().iter().sum::<usize>(), 4);
        if spread == Spread::Exclusive {
            let first = &pool.pool.remotes()[0];
            first.stop();
            wait_until("the loop is gone", || first.post(|_, _| ()).is_err());
            UnixStream::connect(&path).unwrap().read_exact(&mut [0]).unwrap();
        }
        listener.close();
        assert!(!path.exists(), "{spread}: the last of the loops removes the file");
    }
}

fn a_hand_off_passes_by_a_loop_that_is_gone(kind: BackendKind) {
    let pool = start(kind, 2);
    let listener = pool.listen(Spread::HandOff, ListenOptions::default());
    let mut before: Vec<_> = (0..2).map(|_| peer(listener.local_addr())).collect();
    assert_eq!(before.iter_mut().map(loop_of).sum::<usize>(), 1, "one each");
    let last = &pool.pool.remotes()[1];
    last.stop();
    wait_until("the loop is gone", || last.post(|_, _| ()).is_err());
    for _ in 0..6 {
        let mut client = peer(listener.local_addr());
        assert_eq!(loop_of(&mut client), 0);
        echoes(&mut client);
    }
    pool.pool.stop().unwrap();
}

fn what_waits_for_a_loop_that_is_held_up_is_served_later_or_closed_with_it(kind: BackendKind) {
    for released in [true, false] {
        let pool = start(kind, 2);
        let listener = pool.listen(Spread::HandOff, ListenOptions::default());
        let (held, is_held) = mpsc::channel();
        let (release, until_released) = mpsc::channel::<()>();
        let last = &pool.pool.remotes()[1];
        last.post(move |_, cx| {
            held.send(()).unwrap();
            let _ = until_released.recv_timeout(DEADLINE);
            if !released {
                cx.stop_posts(netlib::event_queue::Stop::Discard);
            }
        })
        .unwrap();
        is_held.recv_timeout(DEADLINE).unwrap();
        let mut clients: Vec<_> = (0..8).map(|_| peer(listener.local_addr())).collect();
        // The first of each round is for the other loop.
        for client in clients.iter_mut().skip(1).step_by(2) {
            assert_eq!(loop_of(client), 0);
        }
        assert_eq!(pool.served(), [4, 0]);
        release.send(()).unwrap();
        for client in clients.iter_mut().step_by(2) {
            if released {
                assert_eq!(loop_of(client), 1);
            } else {
                assert!(is_closed(client), "nobody would ever answer it");
            }
        }
        pool.pool.stop().unwrap();
    }
}

/// The threads of this process whose names begin so.
fn threads_named(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter(|comm| comm.starts_with(name))
        .count()
}

fn a_failing_init_is_one_clear_error_and_leaves_no_thread(kind: BackendKind) {
    // Unique among the tests of this process, within the 15 bytes that the kernel keeps.
    let name = format!("i{}", kind.name());
    let running = Arc::new(name.clone());
    // The kernel lists a thread for a moment after it was joined. But by then it has let go of what it had.
    let all_ended = || {
        assert_eq!(Arc::strong_count(&running), 1, "a thread still has it");
        wait_until("no thread is listed", || threads_named(&name) == 0);
    };
    for failing in 0..3 {
        let running = Arc::clone(&running);
        let outcome = ReactorPool::<()>::start(options(kind, 3, &name), move |number, _, _| {
            assert!(threads_named(&running) > 0, "the name is found while they run");
            if number == failing { Err(io::Error::new(io::ErrorKind::NotFound, "no such shard")) } else { Ok(()) }
        });
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::NotFound, "no such shard"));
        all_ended();
    }
    let theirs = Arc::clone(&running);
    let outcome = ReactorPool::<()>::start(options(kind, 3, &name), move |number, _, _| {
        assert!(threads_named(&theirs) > 0);
        assert_ne!(number, 1, "this one is not wanted");
        Ok(())
    });
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains(&format!("{name}-1 panicked")) && error.contains("this one is not wanted"), "{error}");
    all_ended();
}

fn a_panic_that_leaves_its_loop_stops_the_others_and_is_reported(kind: BackendKind) {
    let options = PoolOptions { panics: PanicPolicy::Propagate, ..options(kind, 3, "propagating") };
    let pool = ReactorPool::<()>::start(options, |_, _, _| Ok(())).unwrap();
    pool.remotes()[1].post(|(), _| panic!("the second loop is lost")).unwrap();
    let error = pool.join().unwrap_err().to_string();
    assert_eq!(error, "the thread propagating-1 panicked: the second loop is lost");
}

fn a_loop_does_not_wait_for_itself(kind: BackendKind) {
    let pool = Arc::new(Mutex::new(Some(start(kind, 2).pool)));
    let (tell, told) = mpsc::channel();
    let remote = pool.lock().unwrap().as_ref().unwrap().remotes()[0].clone();
    let theirs = Arc::clone(&pool);
    remote
        .post(move |_, _| {
            let pool = theirs.lock().unwrap().take().unwrap();
            let outcome = pool.listen(local(), Spread::HandOff, ListenOptions::default(), |_, _, _| None);
            tell.send(outcome.unwrap_err().kind()).unwrap();
            // And dropping it here ends all loops, this one included.
            drop(pool);
        })
        .unwrap();
    assert_eq!(told.recv_timeout(DEADLINE), Ok(io::ErrorKind::Deadlock));
    wait_until("the loop is gone", || remote.post(|_, _| ()).is_err());
}

#[derive(Default)]
struct Adopted {
    opened: usize,
    closed: Vec<CloseReason>,
    received: Vec<u8>,
}

struct Records;

impl Handler<Adopted> for Records {
    fn on_open(&mut self, state: &mut Adopted, _: &mut Context<Adopted>, _: &Conn) {
        state.opened += 1;
    }

    fn on_data(&mut self, state: &mut Adopted, _: &mut Context<Adopted>, _: &Conn, input: &[u8]) -> usize {
        state.received.extend_from_slice(input);
        input.len()
    }

    fn on_close(&mut self, state: &mut Adopted, _: &mut Context<Adopted>, _: &Conn, reason: &CloseReason) {
        state.closed.push(reason.clone());
    }
}

fn a_connected_stream_is_adopted_and_an_unconnected_one_refused_like_a_connect(kind: BackendKind) {
    let mut reactor = support::reactor::<Adopted>(kind);
    let mut state = Adopted::default();
    // A blocking one, with input in it and its output full: it opens at once all the same.
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"was here before").unwrap();
    ours.set_nonblocking(true).unwrap();
    while (&ours).write(&[0; 4096]).is_ok() {}
    ours.set_nonblocking(false).unwrap();
    let cx = reactor.context();
    let peer: Address = "192.0.2.7:99".parse().unwrap();
    let conn = cx.adopt(ours, Some(peer.clone()), &ConnectOptions::default(), Box::new(Records));
    assert_eq!((conn.peer_addr(), conn.is_open()), (peer, true));
    drive(&mut reactor, &mut state, "its input", |state| state.received == b"was here before");
    assert_eq!((state.opened, &state.closed[..]), (1, &[][..]));
    conn.close();
    drop(theirs);
    drive(&mut reactor, &mut state, "its end", |state| state.closed == [CloseReason::Local]);

    let options = rustix::net::SocketFlags::CLOEXEC;
    let inet = rustix::net::AddressFamily::INET;
    let socket = rustix::net::socket_with(inet, rustix::net::SocketType::STREAM, options, None).unwrap();
    let conn = reactor.context().adopt(socket, None, &ConnectOptions::default(), Box::new(Records));
    assert_eq!(conn.send_slice(b"lost"), Err(SendError::Closed));
    assert_eq!(state.closed.len(), 1, "the outcome comes later");
    drive(&mut reactor, &mut state, "the refusal", |state| state.closed.len() == 2);
    assert_eq!(state.closed[1], CloseReason::ConnectFailed(io::ErrorKind::NotConnected));
    assert_eq!((state.opened, reactor.context().connections()), (1, 0));
}

fn an_adopted_stream_may_have_a_layer(kind: BackendKind) {
    let mut reactor = support::reactor::<Adopted>(kind);
    let mut state = Adopted::default();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let options = ConnectOptions { layer: Some(Arc::new(FlipFactory)), ..ConnectOptions::default() };
    reactor.context().adopt(ours, None, &options, Box::new(Records));
    theirs.write_all(&[b'?', !b'x']).unwrap();
    drive(&mut reactor, &mut state, "its input", |state| state.received == b"x");
    assert_eq!(state.opened, 1);

    let (ours, _silent) = UnixStream::pair().unwrap();
    let options = ConnectOptions { timeout: std::time::Duration::from_millis(1), ..options };
    reactor.context().adopt(ours, None, &options, Box::new(Records));
    drive(&mut reactor, &mut state, "the limit", |state| state.closed == [CloseReason::HandshakeTimeout]);
}

on_every_backend!(
    connections_reach_every_loop_and_are_echoed,
    limits_hold_for_each_loop_and_refusals_are_counted,
    messages_to_a_connection_on_another_loop_arrive_in_order,
    a_layer_is_agreed_upon_on_the_loop_that_serves,
    a_closed_listener_refuses_on_all_loops_and_its_connections_stay,
    a_paused_listener_lets_peers_wait_and_serves_them_when_it_goes_on,
    a_taken_port_is_one_error_and_the_pool_goes_on,
    when_one_loop_cannot_listen_none_does,
    loops_share_a_unix_socket,
    a_hand_off_passes_by_a_loop_that_is_gone,
    what_waits_for_a_loop_that_is_held_up_is_served_later_or_closed_with_it,
    a_failing_init_is_one_clear_error_and_leaves_no_thread,
    a_panic_that_leaves_its_loop_stops_the_others_and_is_reported,
    a_loop_does_not_wait_for_itself,
    a_connected_stream_is_adopted_and_an_unconnected_one_refused_like_a_connect,
    an_adopted_stream_may_have_a_layer,
);
