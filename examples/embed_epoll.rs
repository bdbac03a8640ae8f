//! A reactor inside somebody else's event loop. The program's own loop is a plain epoll that
//! counts the lines typed at it; among what it watches is one more descriptor, the reactor, which
//! runs an echo service. One thread, no polling.
//!
//! `cargo run -p netlib-examples --example embed_epoll -- --listen 127.0.0.1:7777`

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use netlib::{BackendKind, Conn, Context, Handler, ListenOptions, Reactor, ReactorConfig};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// An echo service of netlib inside a plain epoll loop.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The back end of the inner reactor: one that has a descriptor (not poll or select).
    #[arg(long, default_value = "epoll-et")]
    backend: BackendKind,
}

/// Sends everything back; the state counts the bytes.
struct Echo;

impl Handler<u64> for Echo {
    fn on_data(&mut self, echoed: &mut u64, _: &mut Context<u64>, conn: &Conn, input: &[u8]) -> usize {
        *echoed += input.len() as u64;
        // Closed or over its limit: the reactor ends it, nothing to do here.
        let _ = conn.send(input.to_vec());
        input.len()
    }
}

const STDIN: u64 = 1;
const REACTOR: u64 = 2;

fn main() -> io::Result<()> {
    env_logger::init();
    let options = Options::parse();
    let mut reactor = Reactor::new(ReactorConfig { backend: Some(options.backend), ..ReactorConfig::default() })?;
    let mut echoed = 0;
    let cx = reactor.context();
    let listener = cx.listen(options.listen, ListenOptions::default(), |_, _, _| Some(Box::new(Echo)))?;

    // The loop of the program.
    let outer = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&outer, reactor.as_fd()?, epoll::EventData::new_u64(REACTOR), epoll::EventFlags::IN)?;
    // A file or /dev/null cannot be watched; then there is nobody to type anyway.
    let typing = epoll::add(&outer, io::stdin(), epoll::EventData::new_u64(STDIN), epoll::EventFlags::IN);
    println!("ready {}", listener.local_addr());
    if typing.is_ok() {
        println!("type a line to see the count, close the input to end");
    }

    let mut events = Vec::with_capacity(16);
    loop {
        // The reactor's turn: cheap when it has nothing to do.
        if !reactor.run_once(&mut echoed, Some(Duration::ZERO))? {
            return Ok(());
        }
        let timeout = reactor.next_timeout().map(whole_milliseconds);
        events.clear();
        match epoll::wait(&outer, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // That the reactor is ready needs no answer here: its turn comes in any case.
        if events.iter().any(|event| event.data.u64() == STDIN) {
            let mut line = [0; 1024];
            if io::stdin().read(&mut line)? == 0 {
                println!("{echoed} bytes echoed");
                return Ok(());
            }
            println!("{echoed} bytes echoed so far");
            io::stdout().flush()?;
        }
    }
}

/// Rounded up: rounded down, the loop would spin through the last millisecond before a timer.
fn whole_milliseconds(timeout: Duration) -> Timespec {
    let millis = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}
