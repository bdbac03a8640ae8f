//! What netlib is measured against, in one command:
//! `cargo run --release -p netlib-bench -- <name> [--quick]`.
//!
//! Every figure is a ratio to something measured in the same run. Each benchmark is a module with a `run`; what
//! they share (servers, load, clocks of the kernel, statistics, result files) are rooms of their own.

mod echo;
mod fairness;
mod kernel;
mod load;
mod peers;
mod report;
mod results;
mod stats;
mod timers;
mod tokio_echo;
mod udp;
mod uring_echo;
mod wake;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
#[command(about = "Measures netlib against its peers, all in one run")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Framed echo of 64 bytes: server CPU and system calls per request, beside C, tokio and libuv
    Echo(echo::Args),
    /// One firehose beside 999 ping-pong clients: what it does to their p99
    Fairness(fairness::Args),
    /// Arm, cancel, re-arm and fire at 10^2 to 10^6 timers, beside BTreeMap and BinaryHeap
    Timers(timers::Args),
    /// Posts from 1 and 16 threads: latency and cost, beside std's mpsc
    Wake(wake::Args),
    /// UDP echo of 1,200 bytes: packets per second, system calls and CPU per packet
    Udp {
        /// A second per load
        #[arg(long)]
        quick: bool,
    },
    /// Put the figures of a result file into docs/benchmarks.md
    Report(report::Args),
    /// Run one of the servers that live in this binary (the suite starts them itself)
    #[command(hide = true)]
    Peer {
        name: String,
        #[arg(long)]
        port: u16,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().bench {
        Bench::Echo(args) => echo::run(&args),
        Bench::Fairness(args) => fairness::run(&args),
        Bench::Timers(args) => timers::run(&args),
        Bench::Wake(args) => wake::run(&args),
        Bench::Udp { quick } => udp::run(quick),
        Bench::Report(args) => report::run(&args),
        Bench::Peer { name, port } => peer(&name, port),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("netlib-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn peer(name: &str, port: u16) -> Outcome<bool> {
    match name {
        "tokio" => tokio_echo::serve(port)?,
        "uring" => uring_echo::serve(port)?,
        _ => return Err(format!("no such peer in this binary: {name}").into()),
    }
    Ok(true)
}
