//! What an idle connection costs. Alone in its file, that is in its process: it counts what the
//! process allocates.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use netlib::sys::CountingAllocator;
use netlib::{Conn, ConnOptions, Context, Handler, ListenOptions};
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

#[test]
fn an_idle_connection_takes_at_most_256_bytes() {
    if std::env::var_os(CLIENT).is_some() {
        return;
    }
    if !allow_descriptors() {
        eprintln!("SKIPPED an_idle_connection_takes_at_most_256_bytes: fewer than {CONNECTIONS} descriptors allowed");
        return;
    }
    for idle_timeout in [None, Some(Duration::from_mins(5))] {
        let mut reactor = reactor::<()>(netlib::BackendKind::Mio);
        let conn = ConnOptions { idle_timeout, ..ConnOptions::default() };
        let options = ListenOptions { conn, ..ListenOptions::default() };
        let listener = reactor.context().listen(local(), options, |(), _, _| Some(Box::new(Idle))).unwrap();
        // One has come and gone, so that what the loop allocates once is there.
        let mut first = support::peer(listener.local_addr());
        std::io::Write::write_all(&mut first, b"x").unwrap();
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
        println!("{each:.1} bytes per idle connection, idle timeout {idle_timeout:?}");
        assert!(each <= MOST as f64, "{each:.1} bytes per idle connection, idle timeout {idle_timeout:?}");
        drop(clients.stdin.take());
        clients.wait().unwrap();
        drop(stdout);
    }
}
