//! A reactor network library: one thread, one loop, readiness in, callbacks out.
//!
//! # The pattern
//!
//! A server that waits for many sockets at once asks the kernel one question,
//! "which of these can make progress?", and then calls the code that belongs to
//! each answer. That is the reactor: a [`Reactor`] owns the loop, a
//! [back end](backend) asks the question (select, poll, epoll and their kin), and
//! your [`Handler`]s are the code. Nothing in a handler may block, because every
//! other connection waits for it.
//!
//! ```
//! use netlib::{Conn, Context, Handler, ListenOptions, Reactor, ReactorConfig};
//!
//! /// Sends everything back.
//! struct Echo;
//!
//! impl<S: 'static> Handler<S> for Echo {
//!     fn on_data(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
//!         // Closed or over its limit: the reactor ends it, nothing to do here.
//!         let _ = conn.send(input.to_vec());
//!         input.len()
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
//! let address: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
//! let listener = reactor
//!     .context()
//!     .listen(address, ListenOptions::default(), |(), _, _| Some(Box::new(Echo)))?;
//! println!("echoing on {}", listener.local_addr());
//! # reactor.context().stop();
//! reactor.run(&mut ())
//! # }
//! ```
//!
//! # One tick
//!
//! The loop runs ticks of six [phases](Phase), always in this order:
//!
//! ```text
//!   Wait ──► Ready ──► Posted ──► Timers ──► Flush ──► Reap ──┐
//!    ▲    (callbacks) (callbacks) (callbacks) one write each   │
//!    └──────────────────────────────────────────────────────◄─┘
//! ```
//!
//! Callbacks never re-enter one another: [`Conn::send`] queues and the bytes leave
//! in *Flush*; [`Conn::close`] marks and the connection ends in *Reap*. So a
//! handler never finds its own connection, or another's, half torn down.
//!
//! # State without globals
//!
//! The loop runs as [`Reactor::run`]`(&mut state)`: every callback receives
//! `&mut S`, your own struct, and a [`Context`] with the loop's services. What
//! belongs to one connection lives in its handler value; what connections share
//! lives in `S`. No statics, no `RefCell` around your tables.
//!
//! # Back-pressure
//!
//! What a slow peer has not taken waits in the connection's output buffer, which
//! has a high and a low watermark and a hard limit ([`ConnOptions`]). Crossing
//! them is reported or acted upon by an [`OutputPolicy`].
//!
//! # Threads
//!
//! A reactor and everything it hands out belong to one thread. Only a [`Remote`]
//! crosses threads: it posts a closure that the loop runs. Blocking work goes to a
//! [`WorkerPool`](worker_pool::WorkerPool), whose results come back the same way.
//!
//! # Choosing a back end
//!
//! By value ([`ReactorConfig::backend`]), or for a process by the environment
//! variable `NETLIB_BACKEND`:
//!
//! | name | mechanism | a wait costs by |
//! |---|---|---|
//! | `mio` | mio, edge-triggered: the portable default | what is ready |
//! | `epoll-lt`, `epoll-et` | epoll(7), level- or edge-triggered | what is ready |
//! | `poll` | poll(2), level-triggered | what is watched |
//! | `select` | select(2), level-triggered | the highest descriptor |
//! | `uring-poll` | polls through io_uring, edge-triggered | what is ready |
//!
//! With `poll`, `select` and `uring-poll` a change of interest costs no system call, so a few busy
//! connections lose nothing; with the first two thousands of idle ones are paid for in every tick.
//! `select` works above descriptor 1023. What each promises is in its
//! [`Caps`](backend::Caps).

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod adopt;
pub mod backend;
pub mod buffer;
pub mod clock;
pub mod codec;
mod conn;
mod conn_close;
mod conn_flush;
mod conn_io;
mod conn_limits;
mod conn_options;
mod connector;
mod context;
pub mod datagram;
mod embed;
pub mod event_queue;
mod framed;
mod hand_off;
mod hooks;
#[cfg(feature = "http")]
pub mod http;
mod idle;
pub mod layer;
mod listener;
mod per_address;
mod race;
mod rate;
mod reactor;
pub mod reactor_pool;
mod remote_conn;
mod resolver;
mod slot;
pub mod socket;
mod source;
mod stats;
mod swap;
mod sync;
pub mod sys;
pub mod timer;
#[cfg(feature = "tls")]
pub mod tls;
pub mod token;
mod transport;
mod wheel;
pub mod worker_pool;
#[cfg(feature = "ws")]
pub mod ws;

pub use backend::BackendKind;
pub use codec::{Decode, Frame, FrameError};
pub use conn::{Conn, Handler};
pub use conn_options::{CloseReason, ConnOptions, Fault, OutputPolicy, SendError};
pub use connector::{Backoff, ConnectOptions, Connector, Target};
pub use context::{Context, Missed, Remote};
pub use datagram::{Datagram, DatagramHandler, DatagramOptions, DatagramSocket};
pub use event_queue::PostError;
pub use framed::{FrameHandler, Framed};
pub use listener::{ListenOptions, Listener, ListenerStats};
pub use rate::Rate;
pub use reactor::{PanicPolicy, Phase, Reactor, ReactorConfig};
pub use reactor_pool::ReactorPool;
pub use remote_conn::RemoteConn;
pub use resolver::{Resolve, SystemResolver};
pub use source::{Ready, SourceId};
pub use stats::{LongestCallback, PhaseTimes, Stats};
pub use sys::{Signal, SignalFd};
pub use timer::TimerId;
pub use token::Token;
