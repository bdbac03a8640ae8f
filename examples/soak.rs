//! A soak test: an echo service and its clients, in one process on two loops, with faults. It runs
//! for ten minutes unless told otherwise and prints what became of every frame:
//!
//! ```text
//! sent = echoed + lost with a connection that a fault ended
//! ```
//!
//! No echo is wrong or out of order, every connection that opened has closed, and at the end as
//! many descriptors are open as at the beginning. Otherwise the exit code is 1.
//!
//! ```sh
//! cargo run --release -p netlib-examples --example soak -- --seconds 600
//! ```

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use netlib::codec::{LengthPrefixed, LengthWidth};
use netlib::{BackendKind, CloseReason, Conn, ConnOptions, ConnectOptions, Context, FrameHandler, Framed};
use netlib::{ListenOptions, Reactor, ReactorConfig, Remote, TimerId};

/// Frames of one client that may be under way.
const PIPELINE: u64 = 16;
/// The largest body; now and then one is so large that it takes several reads.
const LARGEST: u64 = 200_000;
/// How often the counts are printed.
const REPORT: Duration = Duration::from_secs(10);

/// Echo server and clients in one process, with faults, for as long as you like.
#[derive(Parser, Clone)]
#[command(version, about, long_about = None)]
struct Options {
    /// How long to run
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Clients at a time
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    clients: u32,
    /// How to wait for sockets, on both sides; by default what NETLIB_BACKEND
    /// names, or else mio
    #[arg(long, value_name = "NAME")]
    backend: Option<BackendKind>,
    /// Where the faults come from; the same seed makes the same decisions
    #[arg(long, default_value_t = 2015)]
    seed: u64,
}

fn framing() -> LengthPrefixed {
    LengthPrefixed::new(LengthWidth::Four, LARGEST)
}

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("bodies are small");
    [&length.to_be_bytes(), body].concat()
}

// --- the service

struct Echo;

impl FrameHandler<()> for Echo {
    fn on_frame(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn, body: &[u8]) {
        let _ = conn.send(frame(body)); // over the limit: the loop closes it
    }
}

/// Runs the service until its remote is told to stop; returns the connections that are left.
fn serve(options: &Options, ready: &mpsc::Sender<(SocketAddr, Remote<()>)>) -> io::Result<usize> {
    let mut reactor = Reactor::new(ReactorConfig { backend: options.backend, ..ReactorConfig::default() })?;
    let conn = ConnOptions { idle_timeout: Some(Duration::from_secs(5)), ..ConnOptions::default() };
    let listen = ListenOptions { conn, ..ListenOptions::default() };
    let cx = reactor.context();
    let listener = cx.listen(SocketAddr::from(([127, 0, 0, 1], 0)), listen, |(), _, _| {
        Some(Box::new(Framed::new(framing(), Echo)))
    })?;
    let addr = listener.local_addr().inet().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let told = ready.send((addr, cx.remote()));
    told.map_err(|_| io::Error::other("the clients are gone"))?;
    reactor.run(&mut ())?;
    Ok(listener.connections())
}

// --- the clients

#[derive(Default)]
struct Counts {
    opened: u64,
    closed: u64,
    sent: u64,
    echoed: u64,
    lost: u64,
    wrong: u64,
    refused: u64,
    faults: [u64; FAULTS],
}

const FAULTS: usize = 6;
const FAULT_NAMES: [&str; FAULTS] = ["abort", "close", "half-close", "pause", "garbage", "half a frame"];

struct Clients {
    counts: Counts,
    server: SocketAddr,
    stopping: bool,
}

struct Client {
    /// Bodies are this seed's numbers, so an echo can be checked without keeping it.
    seed: u64,
    sent: u64,
    echoed: u64,
    paused: Option<TimerId>,
}

fn body(seed: u64, number: u64) -> Vec<u8> {
    let mut random = netlib::clock::SplitMix64::new(seed ^ number.wrapping_mul(0x9e37_79b9));
    let most = if random.next().is_multiple_of(500) { LARGEST } else { 400 };
    let length = random.next() % most + 1;
    let byte = random.next() as u8;
    (0..length).map(|n| byte.wrapping_add(n as u8)).collect()
}

impl Client {
    fn fill(&mut self, clients: &mut Clients, conn: &Conn) {
        while self.sent - self.echoed < PIPELINE && !clients.stopping {
            if conn.send(frame(&body(self.seed, self.sent))).is_err() {
                return;
            }
            self.sent += 1;
            clients.counts.sent += 1;
        }
        if clients.stopping && self.sent == self.echoed {
            conn.close();
        }
    }

    fn fault(&mut self, clients: &mut Clients, cx: &mut Context<Clients>, conn: &Conn) {
        let which = (cx.random() % FAULTS as u64) as usize;
        clients.counts.faults[which] += 1;
        match which {
            0 => conn.abort(),
            1 => conn.close(),
            2 => conn.finish(),
            3 => {
                conn.pause();
                self.paused = Some(cx.conn_timer(conn, Duration::from_millis(50)));
            }
            4 => drop(conn.send(vec![0xff; 64])), // a length beyond the limit: the server hangs up
            _ => {
                let _ = conn.send_slice(&[0, 0, 1]);
                conn.finish();
            }
        }
    }
}

impl FrameHandler<Clients> for Client {
    fn on_open(&mut self, clients: &mut Clients, _: &mut Context<Clients>, conn: &Conn) {
        clients.counts.opened += 1;
        self.fill(clients, conn);
    }

    fn on_frame(&mut self, clients: &mut Clients, cx: &mut Context<Clients>, conn: &Conn, echo: &[u8]) {
        if echo == body(self.seed, self.echoed) {
            clients.counts.echoed += 1;
        } else {
            clients.counts.wrong += 1;
        }
        self.echoed += 1;
        if !clients.stopping && cx.random().is_multiple_of(2000) {
            self.fault(clients, cx, conn);
        }
        self.fill(clients, conn);
    }

    fn on_timer(&mut self, _: &mut Clients, _: &mut Context<Clients>, conn: &Conn, timer: TimerId) {
        if self.paused == Some(timer) {
            conn.resume();
        }
    }

    fn on_close(&mut self, clients: &mut Clients, cx: &mut Context<Clients>, _: &Conn, reason: &CloseReason) {
        if let CloseReason::ConnectFailed(_) = reason {
            clients.counts.refused += 1;
        } else {
            clients.counts.closed += 1;
        }
        clients.counts.lost += self.sent - self.echoed;
        if !clients.stopping {
            // Now and then at a port where nobody listens.
            let port = if cx.random().is_multiple_of(50) { 1 } else { clients.server.port() };
            dial(clients.server.ip(), port, cx);
        } else if cx.connections() <= 1 {
            cx.stop(); // this was the last
        }
    }
}

fn dial(ip: std::net::IpAddr, port: u16, cx: &mut Context<Clients>) {
    let client = Client { seed: cx.random(), sent: 0, echoed: 0, paused: None };
    cx.connect(SocketAddr::new(ip, port), ConnectOptions::default(), Box::new(Framed::new(framing(), client)));
}

fn run_clients(options: &Options, server: SocketAddr) -> io::Result<Counts> {
    let config = ReactorConfig { backend: options.backend, seed: Some(options.seed), ..ReactorConfig::default() };
    let mut reactor = Reactor::new(config)?;
    let mut clients = Clients { counts: Counts::default(), server, stopping: false };
    let cx = reactor.context();
    for _ in 0..options.clients {
        dial(server.ip(), server.port(), cx);
    }
    let mut seconds = 0;
    cx.every(REPORT, move |clients: &mut Clients, cx| {
        seconds += REPORT.as_secs();
        let Counts { opened, sent, echoed, lost, wrong, .. } = clients.counts;
        println!(
            "{seconds:>5} s  {sent} sent = {echoed} echoed + {lost} lost + {} under way; {wrong} wrong; \
             {opened} connections so far, {} now",
            sent - echoed - wrong - lost,
            cx.connections()
        );
    });
    cx.after(Duration::from_secs(options.seconds), |clients, cx| {
        clients.stopping = true;
        // What faults have left hanging is not waited for for ever.
        cx.after(Duration::from_secs(10), |_, cx| cx.stop());
    });
    reactor.run(&mut clients)?;
    // Connections that closed in order wait for the other side's end.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while reactor.context().connections() > 0 && std::time::Instant::now() < deadline {
        reactor.run_once(&mut clients, Some(Duration::from_millis(50)))?;
    }
    Ok(clients.counts)
}

fn open_descriptors() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

fn soak(options: &Options) -> io::Result<bool> {
    let before = open_descriptors()?;
    let (ready, told) = mpsc::channel();
    let service = options.clone();
    let server = thread::spawn(move || serve(&service, &ready));
    let (addr, remote) = told.recv().map_err(|_| io::Error::other("the service did not start"))?;
    let counts = run_clients(options, addr)?;
    // The clients' ends are closed; the service stops when it has learned that of the last one.
    let _ = remote.post(|(), cx| {
        cx.every(Duration::from_millis(10), |(), cx| {
            if cx.connections() == 0 {
                cx.stop();
            }
        });
        cx.after(Duration::from_secs(10), |(), cx| cx.stop());
    });
    let left = server.join().map_err(|_| io::Error::other("the service panicked"))??;
    drop(remote);
    let after = open_descriptors()?;

    let Counts { opened, closed, sent, echoed, lost, wrong, refused, faults } = counts;
    let faults = FAULT_NAMES.iter().zip(faults).map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ");
    println!("faults: {faults}; {refused} refused connects");
    println!("frames: {sent} sent = {echoed} echoed + {lost} lost with their connection; {wrong} wrong");
    println!("connections: {opened} opened = {closed} closed; {left} left at the service");
    println!("descriptors: {before} before, {after} after");
    Ok(sent == echoed + lost && wrong == 0 && opened == closed && left == 0 && before == after && echoed > 0)
}

fn main() -> ExitCode {
    env_logger::init();
    let options = Options::parse();
    match soak(&options) {
        Ok(true) => {
            println!("conserved");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("NOT CONSERVED");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}
