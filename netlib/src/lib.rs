//! A reactor network library: one thread, one loop, readiness in, callbacks out.
//!
//! This page is a tour; each stop names the types that have more to say.
//! [The pattern](#the-pattern) · [The tick](#the-tick) · [The contract](#the-contract) ·
//! [State](#state-without-globals) · [Back-pressure](#back-pressure) · [Closing](#closing) · [Limits](#limits) ·
//! [Timers](#timers) · [Threads](#threads) · [Multi-core](#multi-core) · [Embedding](#embedding) · [Layers](#layers) ·
//! [Datagrams](#datagrams) · [Statistics](#statistics) · [Porting from callbacks](#porting-from-callbacks) ·
//! [Choosing a back end](#choosing-a-back-end) · [Tests](#tests)
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
//!         let _ = conn.send_slice(input);
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
//! Protocols with frames implement [`FrameHandler`] instead and let [`Framed`] cut the stream with a
//! [`codec`]. Outgoing connections are made by [`Context::connect`], to an address or by name, or
//! kept up by [`Context::keep_connected`]; they have the same handlers. Any other descriptor that can be
//! polled (a pipe, a terminal, a signalfd) is a source: [`Context::add_source`], [`Context::on_signals`].
//!
//! # The tick
//!
//! The loop runs ticks of six [phases](Phase), always in this order:
//!
//! ```text
//!   Wait ──► Ready ──► Posted ──► Timers ──► Flush ──► Reap ──┐
//!    ▲    (callbacks) (callbacks) (callbacks) one write each   │
//!    └──────────────────────────────────────────────────────◄─┘
//! ```
//!
//! *Wait* sleeps in the back end until something is ready or a timer is due, or does not sleep at all if
//! work is pending. *Ready* reads from what is ready, *Posted* runs what was posted, *Timers* what is
//! due. What all of these have queued leaves in *Flush*, with one write per connection; the back end `uring` is given
//! it there and sends it with the next *Wait*. *Reap* calls [`Handler::on_close`] and frees the slots.
//!
//! No phase lasts for ever. A connection reads at most [`ConnOptions::read_budget`] bytes in a tick, a
//! listener accepts at most [`ListenOptions::accept_budget`] connections, *Posted* takes what was there
//! when it began. What is left has its turn in the next tick, which then does not sleep. So one firehose
//! does not starve its neighbours.
//!
//! # The contract
//!
//! What a handler can rely on:
//!
//! * **Callbacks never nest.** [`Conn::send`] queues and the bytes leave in *Flush*; [`Conn::close`] marks
//!   and the connection ends in *Reap*; what is posted runs in a later *Posted*. Nothing that a callback
//!   calls can call another callback, so a handler never finds its own connection, or another's, half torn
//!   down.
//! * **Exactly one end.** Every connection gets one `on_close` with a [`CloseReason`], also a connect that
//!   failed. After it nothing is called. (Only what is alive when the reactor itself is dropped gets none.)
//! * **Handles outlive connections.** A [`Conn`] is a counted reference; kept too long, its calls answer
//!   [`SendError::Closed`]. It never reaches the connection that has the same descriptor next: slots
//!   carry a generation ([`Token`]), and so do events.
//! * **Input is shown until it is used.** [`Handler::on_data`] returns how many bytes it has used; the rest
//!   is shown again together with what comes later. Data and the end that came with it are
//!   delivered in that order.
//! * **Timers are never early**, and a step of the wall clock moves none: see [`clock`].
//! * **A panic stays where it happened**: by default it ends the connection whose handler it was, and is
//!   counted. [`PanicPolicy`] has the other choices.
//!
//! What it owes in return: it does not block, and it uses up what it is shown or says how much is left.
//!
//! # State without globals
//!
//! The loop runs as [`Reactor::run`]`(&mut state)`: every callback receives
//! `&mut S`, your own struct, and a [`Context`] with the loop's services. What
//! belongs to one connection lives in its handler value; what connections share
//! lives in `S`. No statics, no `RefCell` around your tables.
//!
//! ```
//! use std::collections::HashMap;
//! use netlib::{CloseReason, Conn, Context, Handler, Token};
//!
//! #[derive(Default)]
//! struct Room {
//!     members: HashMap<Token, Conn>,
//! }
//!
//! struct Member;
//!
//! impl Handler<Room> for Member {
//!     fn on_open(&mut self, room: &mut Room, _: &mut Context<Room>, conn: &Conn) {
//!         room.members.insert(conn.id(), conn.clone());
//!     }
//!     fn on_data(&mut self, room: &mut Room, _: &mut Context<Room>, _: &Conn, input: &[u8]) -> usize {
//!         let said = bytes::Bytes::copy_from_slice(input); // one copy, shared by all
//!         for member in room.members.values() {
//!             let _ = member.send(said.clone());
//!         }
//!         input.len()
//!     }
//!     fn on_close(&mut self, room: &mut Room, _: &mut Context<Room>, conn: &Conn, _: &CloseReason) {
//!         room.members.remove(&conn.id());
//!     }
//! }
//! ```
//!
//! # Back-pressure
//!
//! What a slow peer has not taken waits in the connection's output buffer, which has three marks in
//! [`ConnOptions`]: at `high_water` the [`OutputPolicy`] sets in and
//! [`Handler::on_high_water`] is called; at `low_water` it ends, with [`Handler::on_low_water`]; at
//! `output_limit` the connection is closed under every policy, with [`CloseReason::OutputLimit`].
//!
//! | policy | right for |
//! |---|---|
//! | [`Notify`](OutputPolicy::Notify) | a handler that stops its own source between the two callbacks |
//! | [`Pause`](OutputPolicy::Pause) | a server whose output answers its input: a peer that does not read is not read |
//! | [`Drop`](OutputPolicy::Drop) | news that the next news replaces |
//! | [`Close`](OutputPolicy::Close) | subscribers that must keep up or come back |
//!
//! [`Conn::pause`] and [`Conn::resume`] stop reading by hand: TCP then slows the peer down. Whoever
//! writes more than memory should hold, writes a piece and goes on in [`Handler::on_flushed`], or gives
//! the file to [`Conn::send_file`].
//!
//! # Closing
//!
//! | call | what leaves | when it is over |
//! |---|---|---|
//! | [`Conn::finish`] | everything queued, then FIN | reading goes on until the peer ends |
//! | [`Conn::close`] | everything queued, then FIN | when the peer's FIN has come, or [`linger`](ConnOptions::linger) passed without progress |
//! | [`Conn::abort`] | nothing of what waits here; the socket is closed | at once |
//!
//! `on_close` comes in the *Reap* of the tick that closed: tables are right at once, and the socket finishes
//! by itself. A peer's end arrives as [`Handler::on_eof`], whose default is to close; one that overrides it
//! can still answer. Why a connection ended is a [`CloseReason`], with a text for people, a
//! [label](CloseReason::label) for metrics and a [`Fault`].
//!
//! # Limits
//!
//! Nothing that a peer feeds grows without one:
//!
//! | what | where | default |
//! |---|---|---|
//! | connections; of one address | [`ListenOptions::max_connections`], [`max_per_address`](ListenOptions::max_per_address) | see there |
//! | output that waits | [`ConnOptions::output_limit`] | 4 MiB |
//! | input that the handler has not used | [`ConnOptions::input_limit`] | 32 MiB; codecs refuse earlier |
//! | silence; the whole life | [`idle_timeout`](ConnOptions::idle_timeout), [`lifetime`](ConnOptions::lifetime) | none |
//! | bytes in all; per second | [`max_bytes_in`](ConnOptions::max_bytes_in), [`read_rate`](ConnOptions::read_rate), [`write_rate`](ConnOptions::write_rate) | none |
//! | a layer's handshake; a connect | [`ListenOptions::handshake_timeout`], [`ConnectOptions`] | see there |
//! | posts that wait | [`ReactorConfig::queue_capacity`] | none: other threads are yours |
//! | jobs that wait | [`WorkerPool::new`](worker_pool::WorkerPool::new) | given |
//!
//! When descriptors run out, a listener sends the peer that waits away, rests and tries again, and
//! goes on serving those it has. An idle connection takes at most 256 bytes in netlib.
//!
//! # Timers
//!
//! [`Context::after`], [`every`](Context::every), [`cancel`](Context::cancel), [`rearm`](Context::rearm),
//! and [`Context::conn_timer`] for one that ends with its connection. Arming, moving and cancelling cost
//! O(log n), and a cancelled timer leaves nothing behind. [`Context::every_with`] says what becomes of
//! [missed](Missed) beats. Idle timeouts cost O(1) each, so there may be a million of them.
//!
//! # Threads
//!
//! A reactor and everything it hands out belong to one thread; the compiler sees to it. Two kinds of
//! handle cross: [`Remote`] posts a closure that the loop runs, and [`RemoteConn`] reaches one
//! connection that way. Blocking work goes to a [`WorkerPool`](worker_pool::WorkerPool), whose results
//! come back as posts; a queue with a thread of its own and no reactor is an
//! [`EventQueue`](event_queue::EventQueue). Every handle's documentation has a line "Thread rule".
//!
//! ```
//! use netlib::worker_pool::WorkerPool;
//! use netlib::{Reactor, ReactorConfig};
//!
//! # fn main() -> std::io::Result<()> {
//! let pool = WorkerPool::new("store", 2, 100)?;
//! let mut reactor = Reactor::<Option<u64>>::new(ReactorConfig::default())?;
//! let remote = reactor.context().remote();
//! let job = || (1..=20u64).product(); // somewhere else
//! pool.run(&remote, None, job, |answer, cx, result| {
//!     *answer = result.ok(); // here again
//!     cx.stop();
//! })
//! .expect("room in the pool");
//! let mut answer = None;
//! reactor.run(&mut answer)?;
//! assert_eq!(answer, Some(2_432_902_008_176_640_000));
//! # Ok(())
//! # }
//! ```
//!
//! # Multi-core
//!
//! One reactor uses one core. More cores take more reactors, one per thread, each with its own `S`:
//! a [`ReactorPool`] starts them. It [spreads](reactor_pool::Spread) connections by the kernel (a socket per
//! loop, or one that all of them watch), or hands them out in turn; a connection stays on the reactor where
//! it was born. Messages to one elsewhere go through that reactor's [`Remote`], or a [`RemoteConn`].
//!
//! # Embedding
//!
//! A reactor can run inside another loop: [`Reactor::run_once`] with a limit of zero, then wait until
//! [`Reactor::as_fd`] is readable or [`Reactor::next_timeout`] has passed. `examples/embed_epoll.rs` does it
//! in a plain epoll loop, `examples/embed_tokio.rs` inside tokio. `poll` and `select` have no such descriptor.
//! The other way round, [`Context::on_before_wait`] and [`Context::on_after_wait`] run code of yours in
//! every tick. A running loop can [change its back end](Reactor::swap_backend) without losing an event.
//!
//! # Layers
//!
//! A [`layer`] stands between a connection and its socket, and handlers do not notice. Each of these is
//! a cargo feature, usable alone, and none is on by default:
//!
//! | feature | module | what |
//! |---|---|---|
//! | `tls` | `netlib::tls` | TLS 1.2 and 1.3 by rustls: servers, clients, ALPN, certificates exchanged while running |
//! | `http` | `netlib::http` | HTTP/1.1: streaming bodies both ways, pipelining, files and ranges; a client with a pool |
//! | `ws` | `netlib::ws` | WebSocket, both sides, held to the published cases of the Autobahn suite |
//!
//! `tls` is a layer, so it goes under each of the others; `http` hands a connection over to `ws`.
//!
//! # Datagrams
//!
//! UDP and Unix datagrams live in [`datagram`]: many packets per system call in both directions,
//! segmentation offload where the kernel has it, congestion marks, the address that a packet was sent to,
//! and a send queue that drops by policy and counts.
//!
//! # Statistics
//!
//! [`Context::stats`] counts ticks, events, callbacks, connections, bytes, timers and the depth of the event
//! queue at all times: [`Stats`]. With [`ReactorConfig::measure`] it also tells how long each phase and
//! the longest callback took, which is how to find the handler that blocks.
//!
//! # Porting from callbacks
//!
//! | elsewhere | here |
//! |---|---|
//! | a global loop, a map from descriptors to objects | `run(&mut state)`; each handler is owned by its connection's slot |
//! | `switch (msg)` in one callback with a `void*` | one method per event of [`Handler`]; `self` and `state` are the data |
//! | register for writing after a short write | [`Conn::send`], always; the loop asks for writability when it must |
//! | read in a loop until `EAGAIN` | return from `on_data` how much was used |
//! | `delete this` in a callback, reference counts by hand | [`Conn::close`]; the slot goes in *Reap* |
//! | a close callback that may come twice, or never | one [`Handler::on_close`] with its reason |
//! | a mutex and a pipe to wake the loop | [`Remote::post`] |
//! | locks around shared tables | `&mut S`, one callback at a time |
//! | a chain of callbacks with their context | [`Context::replace_handler`]: the next state is another handler |
//!
//! The names of C++ TeamTalk, muduo and libuv stand beside ours in `docs/names.md`, and the traps that this
//! design avoids, each with its test, in `docs/traps.md`.
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
//! | `uring` | io_uring receives and sends, and watches the rest | what is ready |
//!
//! The first six say when bytes could be moved (readiness), and a running loop can move from one to another. `uring`
//! moves them itself and says when that is done (completion): a turn of the loop is one system call however many
//! plain connections it serves. Nothing changes for handlers; listeners, datagrams and connections under a layer or
//! with a rate are watched as ever. The seam is [`backend::Completions`].
//!
//! With `poll`, `select` and `uring-poll` a change of interest costs no system call, so a few busy
//! connections lose nothing; with the first two thousands of idle ones are paid for in every tick.
//! `select` works above descriptor 1023. What each promises is in its [`Caps`](backend::Caps), and
//! `docs/backends.md` has the table of all. Where the kernel refuses io_uring, a server told to use it runs
//! on epoll and logs why, unless [`ReactorConfig::fallback`] is off.
//!
//! # Tests
//!
//! Time is an input: with a [`ManualClock`](clock::ManualClock) a test decides when a timer is due.
//! Chance is one too: [`ReactorConfig::seed`].

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod adopt;
pub mod backend;
pub mod buffer;
pub mod clock;
pub mod codec;
mod conn;
mod conn_close;
mod conn_complete;
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
mod group;
mod hand_off;
mod handler;
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
pub use conn::Conn;
pub use conn_options::{CloseReason, ConnOptions, Fault, OutputPolicy, SendError};
pub use connector::{Backoff, ConnectOptions, Connector, Target};
pub use context::{Context, Missed, Remote};
pub use datagram::{Datagram, DatagramHandler, DatagramOptions, DatagramSocket};
pub use event_queue::PostError;
pub use framed::{FrameHandler, Framed};
pub use handler::Handler;
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
