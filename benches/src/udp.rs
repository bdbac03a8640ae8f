//! UDP echo of 1,200 bytes over loopback: packets per second, and what a packet costs the server in system calls
//! and CPU time; with many packets per call and offloads, without offloads, and one packet per call.
//!
//! The server is `examples/udp_echo.rs`, a process of its own, pinned to one core; the load comes from this
//! process on another, always in the same way. A *paced* load offers 100,000 packets/s in bursts of a millisecond; a
//! *windowed* one keeps so many packets on their way and finds what the server can do. One peer sends runs that the
//! kernel can put together; 50 peers take turns by the packet, which it cannot.
//!
//! System calls are counted by the kernel (perf's tracepoint `raw_syscalls:sys_enter`), CPU time is the kernel's
//! too (`schedstat`).

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use netlib::DatagramSocket;
use netlib::datagram::{BindOptions, Flushed, Outgoing, QueuePolicy, ReceiveBatch, SendBatch, SendQueue};

use serde_json::{Value, json};

use crate::peers::build_example;
use crate::{Outcome, results};

const SIZE: usize = 1200;
const RATE: usize = 100_000;
/// Packets on their way in the windowed load.
const WINDOW: usize = 512;
/// A server that does not answer for so long has lost packets, which the windowed load cannot go on without.
const SILENCE: Duration = Duration::from_secs(3);
/// Packets that a peer sends in a row when there are several.
const TURN: usize = 1;

struct Variant {
    name: &'static str,
    arguments: &'static [&'static str],
}

const VARIANTS: [Variant; 3] = [
    Variant { name: "one packet per call", arguments: &["--batch", "1", "--no-offload"] },
    Variant { name: "64 per call", arguments: &["--no-offload"] },
    Variant { name: "64 per call, GRO and GSO", arguments: &[] },
];

enum Load {
    Paced,
    Windowed,
}

/// Measures and prints. True if 100,000 packets/s came back through one socket.
pub(crate) fn run(quick: bool) -> Outcome<bool> {
    let time = if quick { Duration::from_secs(1) } else { Duration::from_secs(4) };
    let binary = build_example("udp_echo")?;
    // Children inherit it. Needs a privilege, and a quiet machine needs no priority.
    let eager = command("renice", &["-n", "-10", "-p", &std::process::id().to_string()]).is_ok();
    let pinned = command("taskset", &["-cp", "1", &std::process::id().to_string()]).is_ok();
    let place = if pinned { "server on core 0, load on core 1" } else { "not pinned" };
    println!("UDP echo, {SIZE} bytes, loopback; {place}; {} priority", if eager { "raised" } else { "usual" });
    println!("system calls counted by perf (raw_syscalls:sys_enter), CPU by schedstat; both of the server\n");
    println!("{HEAD}");
    let mut reached = false;
    let mut rows = Vec::new();
    for peers in [1, 50] {
        for load in [Load::Paced, Load::Windowed] {
            for variant in &VARIANTS {
                let mut server = Server::start(&binary, variant, pinned)?;
                let figures = measure(&mut server, peers, &load, time)?;
                reached |= figures.rate() >= 0.99 * RATE as f64;
                let row = figures.row(variant, peers, &load);
                println!("{}", line(&row));
                rows.push(row);
            }
        }
    }
    if !quick {
        let body = json!({ "bytes": SIZE, "place": place, "loads": rows });
        println!("\nwritten: {}", results::write("udp", None, body)?.display());
    }
    println!("\n{RATE} packets/s through one socket: {}", if reached { "reached" } else { "NOT reached" });
    Ok(reached)
}

struct Figures {
    elapsed: Duration,
    sent: u64,
    back: u64,
    calls: u64,
    cpu: Duration,
}

impl Figures {
    fn rate(&self) -> f64 {
        self.back as f64 / self.elapsed.as_secs_f64()
    }

    fn row(&self, variant: &Variant, peers: usize, load: &Load) -> Value {
        let load = match load {
            Load::Paced => "100,000/s",
            Load::Windowed => "512 on their way",
        };
        let packets = self.back.max(1) as f64;
        json!({
            "load": load,
            "peers": peers,
            "server": variant.name,
            "packets_per_second": self.rate(),
            "lost": self.sent.saturating_sub(self.back) as f64 / self.sent.max(1) as f64,
            "calls_per_packet": self.calls as f64 / packets,
            "cpu_us_per_packet": self.cpu.as_secs_f64() * 1e6 / packets,
            "cpu": self.cpu.as_secs_f64() / self.elapsed.as_secs_f64(),
        })
    }
}

/// The head of the table of which `line` makes a row.
pub(crate) const HEAD: &str = "| load | peers | server | packets/s | lost | calls/packet | CPU µs/packet | CPU |
|---|--:|---|--:|--:|--:|--:|--:|";

/// One measurement as a row of a table.
pub(crate) fn line(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or("?");
    let of = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "| {} | {} | {} | {:.0} | {:.2} % | {:.3} | {:.2} | {:.0} % |",
        text("load"),
        row["peers"],
        text("server"),
        of("packets_per_second"),
        100.0 * of("lost"),
        of("calls_per_packet"),
        of("cpu_us_per_packet"),
        100.0 * of("cpu"),
    )
}

fn measure(server: &mut Server, peers: usize, load: &Load, time: Duration) -> Outcome<Figures> {
    let mut peers = Peers::new(server.address, peers)?;
    // Memory and caches are warm before anything counts.
    peers.run(load, Duration::from_millis(100))?;
    let perf = Perf::attach(server.child.id())?;
    let cpu = cpu_time(server.child.id())?;
    let (sent, back, elapsed) = peers.run(load, time)?;
    // The server books its time when it sleeps.
    thread::sleep(Duration::from_millis(20));
    let cpu = cpu_time(server.child.id())?.saturating_sub(cpu);
    Ok(Figures { elapsed, sent, back, calls: perf.finish()?, cpu })
}

/// The sockets that the load comes from, all driven by the calling thread.
struct Peers {
    sockets: Vec<(DatagramSocket, SendQueue)>,
    server: SocketAddr,
    packet: Outgoing,
    receive: ReceiveBatch,
    send: SendBatch,
    turn: usize,
}

impl Peers {
    fn new(server: SocketAddr, count: usize) -> Outcome<Self> {
        let options =
            BindOptions { receive_buffer: Some(4 << 20), send_buffer: Some(4 << 20), ..BindOptions::default() };
        let sockets = (0..count)
            .map(|_| {
                let mut socket = DatagramSocket::bind(SocketAddr::new(server.ip(), 0), &options)?;
                socket.connect(server)?;
                Ok((socket, SendQueue::new(4096, 8 << 20, QueuePolicy::DropNewest)))
            })
            .collect::<Outcome<Vec<_>>>()?;
        let packet = Outgoing::to_peer(vec![7; SIZE]);
        Ok(Self { sockets, server, packet, receive: ReceiveBatch::new(), send: SendBatch::new(), turn: 0 })
    }

    /// Sends for `time`, then waits for what is still to come. Returns what was sent, what came back, and in which
    /// time.
    fn run(&mut self, load: &Load, time: Duration) -> Outcome<(u64, u64, Duration)> {
        let start = Instant::now();
        let (mut sent, mut back) = (0_u64, 0_u64);
        let mut last_heard = Instant::now();
        while start.elapsed() < time {
            let due = match load {
                Load::Paced => (start.elapsed().as_micros() as u64 * RATE as u64 / 1_000_000).saturating_sub(sent),
                Load::Windowed => (WINDOW as u64).saturating_sub(sent.saturating_sub(back)),
            };
            // Bursts of a millisecond, and half windows, as a sender with timers makes them.
            let burst = match load {
                Load::Paced => RATE as u64 / 1000,
                Load::Windowed => WINDOW as u64 / 2,
            };
            if due >= burst {
                self.offer(burst as usize)?;
                sent += burst;
            }
            let came = self.collect()?;
            back += came;
            if came > 0 {
                last_heard = Instant::now();
            } else if matches!(load, Load::Windowed) && last_heard.elapsed() > SILENCE {
                return Err(format!(
                    "nothing comes back of {} packets on their way to {}",
                    sent.saturating_sub(back),
                    self.server
                )
                .into());
            }
        }
        let elapsed = start.elapsed();
        // What comes later than that is lost; it must not be taken for the next run's.
        let mut last_heard = Instant::now();
        while back < sent && last_heard.elapsed() < Duration::from_millis(300) {
            let came = self.collect()?;
            back += came;
            if came > 0 {
                last_heard = Instant::now();
            }
        }
        Ok((sent, back, elapsed))
    }

    fn offer(&mut self, packets: usize) -> Outcome<()> {
        let mut errors = Vec::new();
        let in_a_row = if self.sockets.len() == 1 { packets } else { TURN };
        let mut left = packets;
        while left > 0 {
            let count = left.min(in_a_row);
            left -= count;
            self.turn = (self.turn + 1) % self.sockets.len();
            let (socket, queue) = &mut self.sockets[self.turn];
            for _ in 0..count {
                queue.push(self.packet.clone())?;
            }
            while queue.flush(socket, &mut self.send, usize::MAX, &mut errors) != Flushed::Empty {
                thread::yield_now();
            }
            if let Some(error) = errors.pop() {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn collect(&mut self) -> Outcome<u64> {
        let mut count = 0;
        for (socket, _) in &self.sockets {
            match socket.receive(&mut self.receive, 64, SIZE + 1) {
                Ok(packets) => {
                    if packets.iter().any(|packet| packet.payload.len() != SIZE) {
                        return Err("a packet came back changed".into());
                    }
                    count += packets.len() as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(count)
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(binary: &Path, variant: &Variant, pinned: bool) -> Outcome<Self> {
        // Free a moment ago; whoever takes it meanwhile makes the server fail, not the figures wrong.
        let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = if pinned { Command::new("taskset") } else { Command::new(binary) };
        if pinned {
            command.args(["-c", "0"]).arg(binary);
        }
        command.args(variant.arguments).args(["--port", &address.port().to_string()]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let server = Self { child, address };
        if line.trim() == "ready" { Ok(server) } else { Err("udp_echo did not start".into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counts the system calls of a process from now on.
struct Perf(Child);

impl Perf {
    fn attach(pid: u32) -> Outcome<Self> {
        let child = Command::new("perf")
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("perf, which counts the system calls: {error}"))?;
        let descriptors = PathBuf::from(format!("/proc/{}/fd", child.id()));
        let perf = Self(child);
        let deadline = Instant::now() + Duration::from_secs(5);
        let counts =
            |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("anon_inode:[perf_event]"));
        while !fs::read_dir(&descriptors).is_ok_and(|entries| entries.flatten().any(counts)) {
            if Instant::now() > deadline {
                return Err("perf did not attach".into());
            }
            thread::sleep(Duration::from_millis(2));
        }
        // The descriptor is there a moment before it counts.
        thread::sleep(Duration::from_millis(50));
        Ok(perf)
    }

    fn finish(mut self) -> Outcome<u64> {
        command("kill", &["-INT", &self.0.id().to_string()])?;
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut text)?;
        }
        let count = text.lines().find(|line| line.contains("raw_syscalls")).and_then(|line| line.split(',').next());
        Ok(count.and_then(|count| count.parse().ok()).ok_or_else(|| format!("perf counted nothing: {text}"))?)
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        // It has ended, unless attaching failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of all threads of a process.
fn cpu_time(pid: u32) -> Outcome<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let line = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = line.split_ascii_whitespace().next().ok_or("an empty schedstat")?;
        total += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}

fn command(program: &str, arguments: &[&str]) -> Outcome<()> {
    let done = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
    if done { Ok(()) } else { Err(format!("{program} failed").into()) }
}
