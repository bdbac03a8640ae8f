//! Framed echo of 64 bytes: server CPU time and system calls per request, ours beside the peers'.
//!
//! A round starts every server afresh (so its memory layout is a new draw), connects, warms up, and then gives each
//! server several short slices in turn: whatever else the machine does falls on all of them. The order is rotated
//! from round to round. System calls are counted once, apart from the timed rounds.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Outcome;
use crate::kernel;
use crate::load::{Load, Shape};
use crate::peers::{self, Built, ECHO_SERVERS, Pin, Server};
use crate::results;
use crate::stats::{Ratio, median, paired_ratio};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Three short rounds: to see that it works, not to claim anything
    #[arg(long)]
    quick: bool,
    /// Rounds of each scenario
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Only these servers, by name
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// Only these pipeline depths
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    depths: Vec<usize>,
    /// Where generator and server run
    #[arg(long, value_enum, default_value_t = Pin::Same)]
    pin: Pin,
    /// Fail if a peer is missing
    #[arg(long)]
    require_all: bool,
    /// Fail if a figure is above what netlib promises
    #[arg(long)]
    check: bool,
    /// A ready-built example `echo_server` (else it is built from the sources)
    #[arg(long)]
    echo_server: Option<PathBuf>,
    /// Result file (else under benches/results/; `--quick` and `--servers` write none unless told)
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What netlib promises: a bound on the 95 % upper bound of the ratio of CPU per request.
pub(crate) struct Gate {
    pub(crate) depth: usize,
    pub(crate) ours: &'static str,
    pub(crate) theirs: &'static str,
    pub(crate) at_most: f64,
}

const fn gate(depth: usize, ours: &'static str, theirs: &'static str, at_most: f64) -> Gate {
    Gate { depth, ours, theirs, at_most }
}

pub(crate) const GATES: &[Gate] = &[
    gate(1, "netlib", "c-epoll", 1.03),
    gate(1, "netlib-epoll-lt", "c-epoll", 1.03),
    gate(1, "netlib-epoll-et", "c-epoll", 1.03),
    gate(1, "netlib", "tokio", 1.0),
    gate(1, "netlib", "libuv", 1.0),
    gate(16, "netlib", "c-epoll", 1.10),
    gate(16, "netlib-epoll-lt", "c-epoll", 1.10),
    gate(16, "netlib-epoll-et", "c-epoll", 1.10),
    gate(1, "netlib-poll", "c-poll", 1.05),
    gate(16, "netlib-poll", "c-poll", 1.05),
];

/// Ratios that are published without a promise.
pub(crate) const SHOWN: &[(&str, &str)] = &[
    ("netlib-uring", "c-epoll"),
    ("raw-uring", "c-epoll"),
    ("netlib-uring", "raw-uring"),
    ("tokio", "c-epoll"),
    ("libuv", "c-epoll"),
    ("netlib-uring-poll", "c-epoll"),
    ("c-poll", "c-epoll"),
];

const CONNECTIONS: usize = 50;
const FRAME: usize = 64;
const SLICES: u64 = 16;

/// Calls per request of a server that reads once, writes once, and waits once per pass.
fn known_calls(depth: usize) -> f64 {
    2.0 / depth as f64 + 1.0 / (CONNECTIONS * depth) as f64
}

/// False if `--check` was asked for and a gate failed.
pub(crate) fn run(args: &Args) -> Outcome<bool> {
    let servers = build(args)?;
    kernel::pin(None, 0)?;
    let eager = kernel::be_eager();
    let mut passed = true;
    let mut scenarios = Vec::new();
    for &depth in &args.depths {
        let scenario = measure(args, &servers, depth)?;
        passed &= scenario.print();
        scenarios.push(scenario.json());
    }
    let body = json!({ "frame": FRAME, "pin": format!("{:?}", args.pin).to_lowercase(), "reniced": eager,
                       "scenarios": scenarios });
    if args.out.is_some() || !args.quick && args.servers.is_empty() {
        let name = if args.pin == Pin::Same { "echo" } else { "echo-split" };
        println!("\nwritten: {}", results::write(name, args.out.as_deref(), body)?.display());
    }
    Ok(passed || !args.check)
}

fn build(args: &Args) -> Outcome<Vec<Built>> {
    let mut built = Vec::new();
    for &peer in ECHO_SERVERS {
        if !args.servers.is_empty() && !args.servers.iter().any(|name| name == peer.name) {
            continue;
        }
        match peers::build(peer, args.echo_server.as_deref()) {
            Ok(server) => built.push(server),
            Err(error) if args.require_all => return Err(format!("{} is required: {error}", peer.name).into()),
            Err(error) => eprintln!("SKIPPED {}: {error}", peer.name),
        }
    }
    if built.is_empty() { Err("there is no server to measure".into()) } else { Ok(built) }
}

/// All servers under one shape of load.
struct Scenario {
    shape: Shape,
    columns: Vec<Column>,
}

/// One server's figures.
struct Column {
    name: &'static str,
    calls_per_request: f64,
    /// Nanoseconds of server CPU per request, one value per round.
    cpu: Vec<f64>,
    /// Nanoseconds of the generator's CPU per request: what a server leaves to the kernel of its peer shows here.
    load: Vec<f64>,
    /// Nanoseconds of wall time per request, likewise.
    wall: Vec<f64>,
}

fn measure(args: &Args, servers: &[Built], depth: usize) -> Outcome<Scenario> {
    let shape = Shape { connections: CONNECTIONS, depth, frame: FRAME };
    let (rounds, seconds) = if args.quick { (3, 0.1) } else { (args.rounds.max(2), 0.5) };
    let mut columns = Vec::new();
    let mut slice = Vec::new();
    for built in servers {
        let server = Server::start(built, args.pin)?;
        let mut load = Load::connect(server.port, shape)?;
        load.run(100)?;
        slice.push(passes_in(&mut load, seconds / SLICES as f64)?);
        let calls_per_request = calls_per_request(&server, &mut load)?;
        columns.push(Column { name: built.name, calls_per_request, cpu: vec![], load: vec![], wall: vec![] });
    }
    // The same number of passes for all: what is per pass then weighs the same.
    let slice = slice.iter().copied().max().unwrap_or(1);
    for round in 0..rounds {
        eprint!("\r{CONNECTIONS} x {depth}: round {} of {rounds}  ", round + 1);
        io::stderr().flush()?;
        one_round(args.pin, servers, shape, round, slice, &mut columns)?;
    }
    eprintln!();
    Ok(Scenario { shape, columns })
}

fn passes_in(load: &mut Load, seconds: f64) -> io::Result<u64> {
    let probe = 200;
    let begin = Instant::now();
    load.run(probe)?;
    Ok((probe as f64 * seconds / begin.elapsed().as_secs_f64()).ceil() as u64)
}

/// The least of several short counts: a generator that is preempted within a pass only adds calls, for its server
/// then waits once more.
fn calls_per_request(server: &Server, load: &mut Load) -> Outcome<f64> {
    let passes = 50;
    let mut least = u64::MAX;
    for _ in 0..10 {
        least = least.min(kernel::count_syscalls(server.pid(), || load.run(passes))?);
    }
    Ok(least as f64 / load.requests_in(passes) as f64)
}

fn one_round(
    pin: Pin,
    servers: &[Built],
    shape: Shape,
    round: usize,
    slice: u64,
    columns: &mut [Column],
) -> Outcome<()> {
    let mut running = Vec::new();
    for built in servers {
        let server = Server::start(built, pin)?;
        let mut load = Load::connect(server.port, shape)?;
        load.run(100)?;
        running.push(Running { server, load, cpu: 0, load_cpu: 0, wall: 0 });
    }
    let count = running.len();
    for turn in 0..SLICES as usize {
        for place in 0..count {
            running[(place + round + turn) % count].one_slice(slice)?;
        }
    }
    for (column, run) in columns.iter_mut().zip(&running) {
        let requests = run.load.requests_in(slice * SLICES) as f64;
        column.cpu.push(run.cpu as f64 / requests);
        column.load.push(run.load_cpu as f64 / requests);
        column.wall.push(run.wall as f64 / requests);
    }
    Ok(())
}

/// A server in a round, and what its slices add up to.
struct Running {
    server: Server,
    load: Load,
    cpu: u64,
    load_cpu: u64,
    wall: u128,
}

impl Running {
    fn one_slice(&mut self, passes: u64) -> io::Result<()> {
        self.load.run(2)?; // the caches hold the other servers' work
        let pid = self.server.pid();
        let (cpu, load_cpu, begin) = (kernel::cpu_ns(pid)?, kernel::own_cpu_ns(), Instant::now());
        self.load.run(passes)?;
        self.wall += begin.elapsed().as_nanos();
        self.load_cpu += kernel::own_cpu_ns() - load_cpu;
        self.cpu += kernel::cpu_ns(pid)? - cpu;
        Ok(())
    }
}

impl Scenario {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn ratio(&self, ours: &str, theirs: &str) -> Option<Ratio> {
        Some(paired_ratio(&self.column(ours)?.cpu, &self.column(theirs)?.cpu))
    }

    /// The tables; true if every gate of this scenario holds.
    fn print(&self) -> bool {
        let depth = self.shape.depth;
        println!("\n{} connections x depth {depth}, frames of {} bytes", self.shape.connections, self.shape.frame);
        println!(
            "{:<18} {:>12} {:>8} {:>8} {:>12} {:>12}",
            "server", "CPU ns/req", "min", "max", "wall ns/req", "calls/req"
        );
        for column in &self.columns {
            let min = column.cpu.iter().copied().fold(f64::INFINITY, f64::min);
            let max = column.cpu.iter().copied().fold(0.0, f64::max);
            println!(
                "{:<18} {:>12.1} {min:>8.1} {max:>8.1} {:>12.1} {:>12.1} {:>12.4}",
                column.name,
                median(&column.cpu),
                median(&column.load),
                median(&column.wall),
                column.calls_per_request
            );
        }
        println!("{:<34} {:>8} {:>18} {:>8}", "CPU ratio", "median", "95 % bounds", "limit");
        let mut passed = true;
        for gate in GATES.iter().filter(|gate| gate.depth == depth) {
            let Some(ratio) = self.ratio(gate.ours, gate.theirs) else { continue };
            let holds = ratio.high <= gate.at_most;
            passed &= holds;
            let verdict = if holds { "holds" } else { "FAILS" };
            print_ratio(gate.ours, gate.theirs, ratio, &format!("{:>8.2}  {verdict}", gate.at_most));
        }
        for &(ours, theirs) in SHOWN {
            if let Some(ratio) = self.ratio(ours, theirs) {
                print_ratio(ours, theirs, ratio, "       -");
            }
        }
        self.print_calls() && passed
    }

    /// Calls per request must be the known figure, for the C servers as for ours. Not for those on
    /// io_uring: one makes a single call per turn, and the other is not told urgent data from other, so that it
    /// reads each input until it would block.
    fn print_calls(&self) -> bool {
        let known = known_calls(self.shape.depth);
        let mut passed = true;
        let counted = |name: &str| name.starts_with("c-") || (name.starts_with("netlib") && !name.contains("uring"));
        for column in self.columns.iter().filter(|column| counted(column.name)) {
            let holds = (column.calls_per_request / known - 1.0).abs() < 0.005;
            passed &= holds;
            if !holds {
                println!(
                    "{}: {:.4} calls per request, known is {known:.4}  FAILS",
                    column.name, column.calls_per_request
                );
            }
        }
        passed
    }

    fn json(&self) -> Value {
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|c| {
                json!({ "server": c.name, "calls_per_request": c.calls_per_request,
                        "cpu_ns_per_request": c.cpu,
                        "load_cpu_ns_per_request": c.load, "wall_ns_per_request": c.wall })
            })
            .collect();
        json!({ "connections": self.shape.connections, "depth": self.shape.depth, "servers": columns })
    }
}

fn print_ratio(ours: &str, theirs: &str, ratio: Ratio, verdict: &str) {
    let Ratio { median, low, high, .. } = ratio;
    println!("{:<34} {median:>8.4} {low:>8.4} .. {high:<6.4} {verdict}", format!("{ours} / {theirs}"));
}
