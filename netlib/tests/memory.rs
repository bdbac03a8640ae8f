//! What an idle connection costs, and that a busy one gives back what it took. Alone in its file, that is in its process: it counts what the
//! process allocates.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netlib::sys::CountingAllocator;
use netlib::{BackendKind, Conn, ConnOptions, Context, Handler, ListenOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{drive, local, reactor};

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

const CONNECTIONS: usize = 10_000;
/// The promise of the architecture, the embedder's handler not counted.
const MOST: usize = 256;

/// Takes no memory, so that only netlib's is counted.
struct Idle;

impl Handler<()> for Idle {
    fn on_data(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn, input: &[u8]) -> usize {
        conn.send_slice(input).unwrap();
        input.len()
    }
}

/// One at a time: the counts are the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// Set for the process that holds the other ends.
const CLIENT: &str = "NETLIB_TEST_CLIENT_OF";

/// Not a test but the other half of the one below: its descriptors are another process's.
#[test]
fn other_half() {
    let Ok(addr) = std::env::var(CLIENT) else { return };
    allow_descriptors();
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(&addr).expect("connects")).collect();
    println!("\nconnected {}", connections.len());
    let _ = std::io::stdin().read(&mut [0]); // until the parent is done with them
}

fn allow_descriptors() -> bool {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.is_none_or(|most| most > CONNECTIONS as u64 + 100)
}

/// One that reads and writes, and the one that has the kernel do it.
fn kinds(test: &str) -> Vec<BackendKind> {
    let mut kinds = vec![BackendKind::Mio];
    match BackendKind::Uring.open() {
        Ok(_) => kinds.push(BackendKind::Uring),
        Err(error) => eprintln!("SKIPPED {test} on uring: the kernel refuses io_uring: {error}"),
    }
    kinds
}

#[test]
fn an_idle_connection_takes_at_most_256_bytes() {
    if std::env::var_os(CLIENT).is_some() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !allow_descriptors() {
        eprintln!("SKIPPED an_idle_connection_takes_at_most_256_bytes: fewer than {CONNECTIONS} descriptors allowed");
        return;
    }
    for kind in kinds("an_idle_connection_takes_at_most_256_bytes") {
        for idle_timeout in [None, Some(Duration::from_mins(5))] {
            let each = bytes_per_connection(kind, idle_timeout);
            println!("{each:.1} bytes per idle connection on {kind}, idle timeout {idle_timeout:?}");
            assert!(
                each <= MOST as f64,
                "{each:.1} bytes per idle connection on {kind}, idle timeout {idle_timeout:?}"
            );
        }
    }
}

fn bytes_per_connection(kind: BackendKind, idle_timeout: Option<Duration>) -> f64 {
    let mut reactor = reactor::<()>(kind);
    let conn = ConnOptions { idle_timeout, ..ConnOptions::default() };
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener = reactor.context().listen(local(), options, |(), _, _| Some(Box::new(Idle))).unwrap();
    // One has come and gone, so that what the loop allocates once is there.
    let mut first = support::peer(listener.local_addr());
    first.write_all(b"x").unwrap();
    drive(&mut reactor, &mut (), "the first", |()| listener.connections() == 1);
    drop(first);
    drive(&mut reactor, &mut (), "its end", |()| listener.connections() == 0);

    let before = HEAP.bytes();
    let mut clients = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "other_half", "--nocapture", "--test-threads=1"])
        .env(CLIENT, listener.local_addr().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = clients.stdout.take().unwrap();
    let told = std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout);
        let mut line = String::new();
        while !line.contains("connected") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the clients ended early");
        }
        drop(line);
        lines
    });
    drive(&mut reactor, &mut (), "all connections", |()| listener.connections() == CONNECTIONS);
    let stdout = told.join().unwrap();
    // Settles what the accepting tick left marked.
    reactor.run_once(&mut (), Some(Duration::ZERO)).unwrap();
    let each = (HEAP.bytes() - before) as f64 / CONNECTIONS as f64;
    drop(clients.stdin.take());
    clients.wait().unwrap();
    drop(stdout);
    each
}

const BIG: usize = 8 << 20;

/// Waits until all has come, and sends as much back in many pieces.
struct Hoard;

impl Handler<Vec<Conn>> for Hoard {
    fn on_open(&mut self, conns: &mut Vec<Conn>, _: &mut Context<Vec<Conn>>, conn: &Conn) {
        conns.push(conn.clone());
    }

    fn on_data(&mut self, _: &mut Vec<Conn>, _: &mut Context<Vec<Conn>>, conn: &Conn, input: &[u8]) -> usize {
        if input.len() < BIG {
            return 0;
        }
        for part in input.chunks(1 << 20) {
            conn.send_slice(&part[1..]).unwrap();
            conn.send(vec![part[0]]).unwrap();
        }
        input.len()
    }
}

#[test]
fn the_memory_of_8_mib_received_and_sent_is_given_back() {
    if std::env::var_os(CLIENT).is_some() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for kind in kinds("the_memory_of_8_mib_received_and_sent_is_given_back") {
        let mut reactor = reactor::<Vec<Conn>>(kind);
        let conn = ConnOptions { output_limit: 2 * BIG, high_water: 2 * BIG, ..ConnOptions::default() };
        let options = ListenOptions { conn, ..ListenOptions::default() };
        let listener = reactor.context().listen(local(), options, |_, _, _| Some(Box::new(Hoard))).unwrap();
        let mut client = support::peer(listener.local_addr());
        let mut conns = Vec::new();
        drive(&mut reactor, &mut conns, "the connection", |conns| conns.len() == 1);
        let before = HEAP.bytes();
        let exchange = std::thread::spawn(move || {
            client.write_all(&vec![7; BIG]).unwrap();
            client.read_exact(&mut vec![0; BIG]).unwrap();
            client
        });
        let mut most = 0;
        drive(&mut reactor, &mut conns, "the exchange", |conns| {
            most = most.max(HEAP.bytes());
            exchange.is_finished() && conns[0].queued() == 0
        });
        drop(exchange.join().unwrap());
        assert_eq!(conns[0].bytes_out(), BIG as u64);
        assert!(most - before > BIG, "it was never in memory: nothing was tested");
        let kept = HEAP.bytes().saturating_sub(before);
        println!("{kept} bytes are kept on {kind}");
        assert!(kept < 512 << 10, "{kept} bytes are kept on {kind}");
    }
}
