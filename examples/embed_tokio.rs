//! A reactor inside tokio. A current-thread runtime watches the reactor's descriptor and runs its
//! ticks in a task; beside it other tasks do what tokio is for. The echo service is netlib's, the
//! timer that ends it after `--seconds` is tokio's.
//!
//! `cargo run -p netlib-examples --example embed_tokio -- --listen 127.0.0.1:7777`

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use netlib::{BackendKind, Conn, Context, Handler, ListenOptions, Reactor, ReactorConfig};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time;

/// An echo service of netlib inside a tokio runtime.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The back end of the inner reactor: one that has a descriptor (not poll or select).
    #[arg(long, default_value = "epoll-et")]
    backend: BackendKind,
    /// End after so long; without it, never.
    #[arg(long)]
    seconds: Option<u64>,
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

// The reactor is not `Send`, so the runtime is one that stays on its thread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    env_logger::init();
    let options = Options::parse();
    let mut reactor = Reactor::new(ReactorConfig { backend: Some(options.backend), ..ReactorConfig::default() })?;
    let mut echoed = 0;
    let cx = reactor.context();
    let listener = cx.listen(options.listen, ListenOptions::default(), |_, _, _| Some(Box::new(Echo)))?;
    println!("ready {}", listener.local_addr());

    // The way back from tokio: any task may post to the loop.
    let remote = reactor.context().remote();
    if let Some(seconds) = options.seconds {
        tokio::spawn(async move {
            time::sleep(Duration::from_secs(seconds)).await;
            // A reactor that is gone needs no stop.
            let _ = remote.post(|_, cx| cx.stop());
        });
    }
    drive(&mut reactor, &mut echoed).await?;
    println!("{echoed} bytes echoed");
    Ok(())
}

/// Runs the reactor until it is stopped, giving way to other tasks whenever it has nothing to do.
async fn drive<S: 'static>(reactor: &mut Reactor<S>, state: &mut S) -> io::Result<()> {
    // A duplicate names the same set of descriptors, and leaves the reactor free to be used.
    let watched = reactor.as_fd()?.try_clone_to_owned()?;
    // Deprecated for types that do not own what they name (its successor is `unsafe`); an `OwnedFd` does.
    #[expect(deprecated)]
    let watched = AsyncFd::with_interest(watched, Interest::READABLE)?;
    while reactor.run_once(state, Some(Duration::ZERO))? {
        match reactor.next_timeout() {
            // Work is pending; let the others have their turn too.
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            timeout => {
                let readable = watched.readable();
                let guard = match timeout {
                    Some(timeout) => time::timeout(timeout, readable).await,
                    None => Ok(readable.await),
                };
                if let Ok(guard) = guard {
                    // tokio is edge-triggered: what is ready from now on is reported anew. What
                    // was ready before is taken by the turns that follow: the reactor asks for
                    // more of them until it has found nothing.
                    guard?.clear_ready();
                }
            }
        }
    }
    Ok(())
}
