//! An echo server: the smallest program on netlib that is worth measuring.
//!
//! ```sh
//! cargo run --release -p netlib-examples --example echo_server -- --port 7000
//! ```
//!
//! Without `--framed` every byte comes back as it came. With it the peer speaks in frames, a
//! big-endian 32-bit length first that counts the whole frame, and whole frames come back.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::mpsc;

use clap::Parser;
use netlib::codec::{LengthPrefixed, LengthWidth};
use netlib::reactor_pool::{PoolOptions, Spread};
use netlib::{BackendKind, Conn, ConnOptions, Context, Decode, Frame, FrameError, FrameHandler, Framed, Handler};
use netlib::{ListenOptions, OutputPolicy, Reactor, ReactorConfig, ReactorPool, Signal, SignalFd};

/// The header of a frame, its length included.
const HEADER: u64 = 16;
/// The longest frame that is echoed; what claims to be longer is a bad frame.
const MAX_FRAME: u64 = 1 << 20;

/// Sends everything back.
#[derive(Parser)]
#[command(version, about, long_about = None)]
struct Options {
    /// How to wait for sockets: mio, epoll-lt, epoll-et, poll, select, uring-poll, uring; by default what NETLIB_BACKEND
    /// names, or else mio
    #[arg(long, value_name = "NAME")]
    backend: Option<BackendKind>,
    /// Echo frames: a big-endian 32-bit total length, then the rest of a 16-byte header, then
    /// the body
    #[arg(long)]
    framed: bool,
    /// Event loops, each on its own thread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How several loops share the connections: reuse-port, exclusive, hand-off
    #[arg(long, value_name = "NAME", default_value_t)]
    spread: Spread,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Port to listen on; 0 takes any free one, which is printed
    #[arg(long)]
    port: u16,
}

struct EchoBytes;

impl Handler<()> for EchoBytes {
    fn on_data(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn, input: &[u8]) -> usize {
        // Refused only if the connection is over its limit; the reactor then ends it.
        let _ = conn.send_slice(input);
        input.len()
    }

    fn watches_flushes(&self) -> bool {
        false
    }
}

struct EchoFrames;

impl FrameHandler<()> for EchoFrames {
    fn on_frame(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn, frame: &[u8]) {
        let _ = conn.send_slice(frame);
    }

    fn watches_flushes(&self) -> bool {
        false
    }
}

/// Whole frames, their header included.
struct WholeFrames(LengthPrefixed);

impl WholeFrames {
    fn new() -> Self {
        Self(LengthPrefixed::new(LengthWidth::Four, MAX_FRAME).min(HEADER).counting_itself())
    }
}

impl Decode for WholeFrames {
    fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError> {
        let frame = self.0.decode(input)?;
        Ok(frame.map(|frame| Frame { body: 0..frame.consumed, ..frame }))
    }
}

fn main() -> ExitCode {
    env_logger::init();
    let options = Options::parse();
    let served = if options.threads == 1 { serve(&options) } else { serve_on_many(&options) };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_server: cannot serve on {}:{}: {error}", options.listen, options.port);
            ExitCode::FAILURE
        }
    }
}

/// A client that sends more than it reads is read from no further, until it has caught up.
fn reads_at_the_pace_of_its_peer() -> ListenOptions {
    let conn = ConnOptions { policy: OutputPolicy::Pause, ..ConnOptions::default() };
    ListenOptions { conn, ..ListenOptions::default() }
}

fn serve(options: &Options) -> io::Result<()> {
    let signals = SignalFd::new(&[Signal::Interrupt, Signal::Terminate])?;
    let mut reactor = Reactor::<()>::new(ReactorConfig { backend: options.backend, ..ReactorConfig::default() })?;
    let cx = reactor.context();
    cx.on_signals(signals, |(), cx, _| cx.stop())?;
    let addr = SocketAddr::new(options.listen, options.port);
    let framed = options.framed;
    let listener = cx.listen(addr, reads_at_the_pace_of_its_peer(), move |(), _, _| Some(echo(framed)))?;
    eprintln!("echoing on {} with {}", listener.local_addr(), cx.backend_name());
    ready()?;
    reactor.run(&mut ())
}

/// The same with several loops: each thread runs its own, and the first one looks after signals.
fn serve_on_many(options: &Options) -> io::Result<()> {
    // Blocked here, hence on the threads that are started from here; a signal waits until it is read.
    let signals = SignalFd::new(&[Signal::Interrupt, Signal::Terminate])?;
    let threads = usize::from(options.threads);
    let pool_options = PoolOptions { threads, backend: options.backend, ..PoolOptions::default() };
    let pool = ReactorPool::<()>::start(pool_options, |_, _, _| Ok(()))?;
    let addr = SocketAddr::new(options.listen, options.port);
    let framed = options.framed;
    let listener =
        pool.listen(addr, options.spread, reads_at_the_pace_of_its_peer(), move |(), _, _| Some(echo(framed)))?;
    let loops = pool.remotes().to_vec();
    let (tell, told) = mpsc::channel();
    let watch = move |(): &mut (), cx: &mut Context<()>| {
        let watched = cx.on_signals(signals, move |(), _, _| {
            for remote in &loops {
                remote.stop();
            }
        });
        let _ = tell.send(watched); // main waits for it
    };
    pool.remotes()[0].post(watch).map_err(io::Error::other)?;
    told.recv().map_err(io::Error::other)??;
    eprintln!("echoing on {} with {threads} loops, {}", listener.local_addr(), options.spread);
    ready()?;
    pool.join()
}

fn echo(framed: bool) -> Box<dyn Handler<()>> {
    if framed { Box::new(Framed::new(WholeFrames::new(), EchoFrames)) } else { Box::new(EchoBytes) }
}

fn ready() -> io::Result<()> {
    println!("ready");
    io::stdout().flush()
}
