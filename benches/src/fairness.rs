//! One firehose beside 999 ping-pong clients on one reactor: how far it moves their p99.
//!
//! The ping-pongs are closed loops on one epoll; the firehose has two threads of its own, which yield to the
//! ping-pongs' thread, so that what is measured is the server's fairness and not the generator's. Rounds without and
//! with the firehose alternate on the same server process.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use serde_json::json;

use crate::peers::{self, ECHO_SERVERS, Pin, Server};
use crate::stats::{median, paired_ratio, quantile};
use crate::{Outcome, kernel, results};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Three short rounds
    #[arg(long)]
    quick: bool,
    /// Rounds, each without and with the firehose
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Only these servers, by name
    #[arg(long, value_delimiter = ',', default_values_t = ["netlib".to_owned(), "netlib-poll".to_owned()])]
    servers: Vec<String>,
    /// Fail if the p99 moves by more than netlib promises
    #[arg(long)]
    check: bool,
    /// A ready-built example `echo_server` (else it is built from the sources)
    #[arg(long)]
    echo_server: Option<PathBuf>,
    /// Result file (else under benches/results/; `--quick` writes none unless told)
    #[arg(long)]
    out: Option<PathBuf>,
}

const CLIENTS: usize = 999;
const FRAME: usize = 64;
const AT_MOST: f64 = 2.0;

pub(crate) fn run(args: &Args) -> Outcome<bool> {
    kernel::pin(None, 0)?;
    kernel::be_eager();
    let (rounds, each) = if args.quick { (3, 0.2) } else { (args.rounds.max(2), 1.0) };
    let mut passed = true;
    let mut servers = Vec::new();
    println!(
        "{:<18} {:>12} {:>12} {:>8} {:>18} {:>12}",
        "server", "p99 alone", "p99 beside", "ratio", "95 % bounds", "hose MB/s"
    );
    for peer in ECHO_SERVERS.iter().filter(|peer| args.servers.iter().any(|name| name == peer.name)) {
        let built = peers::build(*peer, args.echo_server.as_deref())?;
        let server = Server::start(&built, Pin::Split)?;
        let mut clients = PingPongs::connect(server.port)?;
        clients.run(Duration::from_secs_f64(each))?;
        let (mut alone, mut beside, mut hose) = (vec![], vec![], vec![]);
        for round in 0..rounds {
            eprint!("\r{}: round {} of {rounds}  ", peer.name, round + 1);
            alone.push(quantile(&clients.run(Duration::from_secs_f64(each))?, 0.99));
            let firehose = Firehose::open(server.port)?;
            let begin = Instant::now();
            beside.push(quantile(&clients.run(Duration::from_secs_f64(each))?, 0.99));
            hose.push(firehose.echoed() as f64 / begin.elapsed().as_secs_f64() / 1e6);
            firehose.close()?;
        }
        eprintln!();
        let ratio = paired_ratio(&beside, &alone);
        let holds = ratio.median <= AT_MOST;
        passed &= holds || !peer.name.starts_with("netlib");
        println!(
            "{:<18} {:>9.0} µs {:>9.0} µs {:>8.2} {:>8.2} .. {:<6.2} {:>12.1}  {}",
            peer.name,
            median(&alone) / 1e3,
            median(&beside) / 1e3,
            ratio.median,
            ratio.low,
            ratio.high,
            median(&hose),
            if holds { "holds (2)" } else { "FAILS (2)" }
        );
        servers.push(json!({ "server": peer.name, "p99_alone_ns": alone, "p99_beside_ns": beside,
                             "firehose_mb_per_s": hose }));
    }
    if args.out.is_some() || !args.quick {
        let body = json!({ "clients": CLIENTS, "frame": FRAME, "at_most": AT_MOST, "servers": servers });
        println!("\nwritten: {}", results::write("fairness", args.out.as_deref(), body)?.display());
    }
    Ok(passed || !args.check)
}

/// Clients that each send a frame, wait for it, and send the next.
struct PingPongs {
    epoll: rustix::fd::OwnedFd,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    sent: Instant,
    have: usize,
}

impl PingPongs {
    fn connect(port: u16) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut clients = Vec::with_capacity(CLIENTS);
        for index in 0..CLIENTS {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            clients.push(Client { stream, sent: Instant::now(), have: 0 });
        }
        Ok(Self { epoll, clients })
    }

    /// The latencies of a while, in nanoseconds. Ends with nothing outstanding.
    fn run(&mut self, length: Duration) -> io::Result<Vec<f64>> {
        let frame = frame();
        let mut latencies = Vec::new();
        for client in &mut self.clients {
            client.send(&frame)?;
        }
        let end = Instant::now() + length;
        let mut outstanding = self.clients.len();
        let mut events = Vec::with_capacity(CLIENTS);
        while outstanding > 0 {
            events.clear();
            let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience))? == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a ping-pong client starves"));
            }
            for event in &events {
                let client = &mut self.clients[event.data.u64() as usize];
                let Some(latency) = client.receive(&frame)? else { continue };
                latencies.push(latency.as_nanos() as f64);
                if Instant::now() < end {
                    client.send(&frame)?;
                } else {
                    outstanding -= 1;
                }
            }
        }
        Ok(latencies)
    }
}

impl Client {
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.sent = Instant::now();
        self.have = 0;
        self.stream.write_all(frame) // an empty socket buffer takes 64 bytes whole
    }

    fn receive(&mut self, frame: &[u8]) -> io::Result<Option<Duration>> {
        let mut answer = [0; FRAME];
        let n = self.stream.read(&mut answer[..frame.len() - self.have])?;
        if n == 0 || answer[..n] != frame[self.have..self.have + n] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent"));
        }
        self.have += n;
        Ok((self.have == frame.len()).then(|| self.sent.elapsed()))
    }
}

fn frame() -> Vec<u8> {
    let mut frame = vec![0x5a; FRAME];
    frame[..4].copy_from_slice(&(FRAME as u32).to_be_bytes());
    frame
}

/// A connection that sends as fast as the server takes it, and reads all that comes back.
struct Firehose {
    stream: TcpStream,
    echoed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Firehose {
    fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        let echoed = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (mut out, mut back) = (stream.try_clone()?, stream.try_clone()?);
        let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&echoed));
        let writer = thread::spawn(move || {
            kernel::be_ordinary();
            let chunk = frame().repeat(1024);
            // It ends with the connection, which `close` shuts down.
            while !stopping.load(Ordering::Relaxed) && out.write_all(&chunk).is_ok() {}
        });
        let reader = thread::spawn(move || {
            kernel::be_ordinary();
            let mut buf = vec![0; 256 * 1024];
            while let Ok(n @ 1..) = back.read(&mut buf) {
                counted.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        Ok(Self { stream, echoed, stop, threads: [writer, reader] })
    }

    fn echoed(&self) -> u64 {
        self.echoed.load(Ordering::Relaxed)
    }

    fn close(self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.stream.shutdown(Shutdown::Both)?;
        for thread in self.threads {
            thread.join().map_err(|_| "a thread of the firehose panicked")?;
        }
        Ok(())
    }
}
