//! One reactor per thread, and how they share the connections of a listener. What it is not: a
//! way to move a connection. A connection stays on the loop on which it was born; who has something
//! for it posts ([`RemoteConn`](crate::RemoteConn)), or posts to its loop ([`Remote`]).

use std::any::Any;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle, ThreadId};

use crate::backend::BackendKind;
use crate::conn::Conn;
use crate::context::{Context, Remote};
use crate::hand_off::{self, Intake, Turns};
use crate::handler::Handler;
use crate::listener::{ListenOptions, ListenerStats};
use crate::reactor::{PanicPolicy, Reactor, ReactorConfig};
use crate::socket::{Address, ListeningSocket};
use crate::token::Token;

/// How the loops of a pool are made.
///
/// ```
/// use netlib::reactor_pool::PoolOptions;
///
/// let four = PoolOptions { threads: 4, ..PoolOptions::default() };
/// assert!(PoolOptions::default().threads >= 1);
/// # drop(four);
/// ```
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// How many; at least one. By default as many as the process may use processors.
    pub threads: usize,
    /// The threads are called `name`-0, `name`-1, …
    pub name: String,
    /// This and the others as in [`ReactorConfig`].
    pub backend: Option<BackendKind>,
    /// See [`ReactorConfig::fallback`].
    pub fallback: bool,
    /// See [`ReactorConfig::queue_capacity`]; of each loop's queue.
    pub queue_capacity: Option<usize>,
    /// See [`ReactorConfig::panics`]. A panic that leaves its loop stops the others, too.
    pub panics: PanicPolicy,
    /// See [`ReactorConfig::measure`].
    pub measure: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        let ReactorConfig { backend, fallback, queue_capacity, panics, measure, .. } = ReactorConfig::default();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self { threads, name: "reactor".to_owned(), backend, fallback, queue_capacity, panics, measure }
    }
}

/// How the loops of a pool come by the connections of one address. In text `reuse-port`,
/// `exclusive` and `hand-off`.
///
/// ```
/// use netlib::reactor_pool::Spread;
///
/// assert_eq!("hand-off".parse(), Ok(Spread::HandOff));
/// assert_eq!(Spread::default().to_string(), "reuse-port");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Spread {
    /// Each loop has a listening socket of its own (`SO_REUSEPORT`), and the kernel deals the
    /// connections out by a hash of their addresses. No loop is woken for another's connection.
    /// What waits in the queue of a loop that is busy waits for that loop. TCP only. Other programs
    /// of the same user may take a share, too, so a port of theirs that is shared is not refused.
    #[default]
    ReusePort,
    /// All loops watch one socket, and the kernel wakes one that sleeps (`EPOLLEXCLUSIVE`; with
    /// back ends that do not have it, all of them, and the first one gets the connection). Busy
    /// loops take less; few connections may all end up on one loop.
    Exclusive,
    /// The first loop accepts, and hands the connections out in turn. An even spread whatever the
    /// peers are, for a post to the other loop. A loop that is held up, or gone, is passed by.
    HandOff,
}

impl Spread {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::ReusePort, Self::Exclusive, Self::HandOff];

    /// As it is called in text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReusePort => "reuse-port",
            Self::Exclusive => "exclusive",
            Self::HandOff => "hand-off",
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Spread {
    type Err = UnknownSpread;

    fn from_str(name: &str) -> Result<Self, UnknownSpread> {
        Self::ALL.into_iter().find(|spread| spread.name() == name).ok_or_else(|| UnknownSpread(name.to_owned()))
    }
}

/// A name that no [`Spread`] has. Its text lists the names there are.
///
/// ```
/// use netlib::reactor_pool::Spread;
///
/// let error = "random".parse::<Spread>().unwrap_err();
/// assert!(error.to_string().ends_with("there are: reuse-port, exclusive, hand-off"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSpread(String);

impl fmt::Display for UnknownSpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Spread::ALL.map(Spread::name).join(", ");
        write!(f, "there is no spread {:?}; there are: {known}", self.0)
    }
}

impl std::error::Error for UnknownSpread {}

/// Event loops on threads of their own. Each has a state of its own, made on its thread, so `S`
/// need not be `Send`.
///
/// Thread rule: may be used from any thread. What waits for the loops (listening, counting) fails on
/// a thread of theirs, which would wait for itself.
///
/// ```
/// use netlib::reactor_pool::{PoolOptions, ReactorPool, Spread};
/// use netlib::{Conn, Context, Handler, ListenOptions};
///
/// struct Echo;
/// impl Handler<usize> for Echo {
///     fn on_data(&mut self, bytes: &mut usize, _: &mut Context<usize>, conn: &Conn, input: &[u8]) -> usize {
///         *bytes += input.len(); // of this loop
///         let _ = conn.send_slice(input);
///         input.len()
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let pool = ReactorPool::start(PoolOptions { threads: 2, ..PoolOptions::default() }, |_, _, _| Ok(0_usize))?;
/// let address: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
/// let listener = pool.listen(address, Spread::ReusePort, ListenOptions::default(), |_, _, _| Some(Box::new(Echo)))?;
/// println!("two loops echo on {}", listener.local_addr());
/// pool.stop()
/// # }
/// ```
pub struct ReactorPool<S: 'static> {
    loops: Arc<Loops<S>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// What a pool and its listeners know of the loops.
struct Loops<S: 'static> {
    remotes: Arc<[Remote<S>]>,
    threads: Vec<ThreadId>,
}

impl<S: 'static> ReactorPool<S> {
    /// Starts the threads. On each, `init` is called with the number of its loop, the loop's
    /// services, and the remotes of all loops in order; it returns the loop's state. They run when
    /// this returns.
    ///
    /// A loop that ends by an error, or by a panic that is not contained, stops the others.
    ///
    /// # Errors
    ///
    /// Those of starting a thread, of opening a reactor, and of `init`; a panic in `init` is one,
    /// too. By then all threads have ended.
    pub fn start<F>(options: PoolOptions, init: F) -> io::Result<Self>
    where
        F: Fn(usize, &mut Context<S>, &Arc<[Remote<S>]>) -> io::Result<S> + Send + Sync + 'static,
    {
        let init: Arc<Init<S>> = Arc::new(init);
        let mut starting = Vec::new();
        for number in 0..options.threads.max(1) {
            match Starting::spawn(number, &options, &init) {
                Ok(thread) => starting.push(thread),
                Err(error) => return Err(given_up(starting).err().unwrap_or(error)),
            }
        }
        // Two rounds: `init` gets the remotes of all, so all loops are there before any is
        // initialised. A thread that fails drops its ends, and its end says why.
        let remotes: Option<Arc<[_]>> = starting.iter().map(Starting::remote).collect();
        let Some(remotes) = remotes else { return Err(failure_of(given_up(starting))) };
        for starting in &starting {
            // One that has ended meanwhile is missed below.
            let _ = starting.give_peers.send(Arc::clone(&remotes));
        }
        let all = starting.iter().filter(|starting| starting.initialised()).count() == starting.len();
        let threads: Vec<_> = starting.into_iter().map(|starting| starting.thread).collect();
        let ids = threads.iter().map(|thread| thread.thread().id()).collect();
        let pool = Self { loops: Arc::new(Loops { remotes, threads: ids }), threads };
        if all { Ok(pool) } else { Err(failure_of(pool.stop())) }
    }

    /// The ways to the loops, in order.
    pub fn remotes(&self) -> &[Remote<S>] {
        &self.loops.remotes
    }

    /// Serves what connects to `address` on all loops. When it returns, all of them listen. Each
    /// has its own clone of `acceptor`, which is called there; see [`Context::listen`]. Port 0 takes
    /// one free port for all of them.
    ///
    /// The limits of `options` hold for each loop on its own. The spread decides about
    /// `reuse_port` and `exclusive`.
    ///
    /// # Errors
    ///
    /// Those of binding, or `Unsupported` for a Unix socket by [`Spread::ReusePort`]; nothing
    /// listens then, on any loop. `Deadlock` on a thread of the pool.
    pub fn listen<F>(
        &self,
        address: impl Into<Address>,
        spread: Spread,
        options: ListenOptions,
        acceptor: F,
    ) -> io::Result<PoolListener<S>>
    where
        F: FnMut(&mut S, &mut Context<S>, &Conn) -> Option<Box<dyn Handler<S>>> + Send + Clone + 'static,
    {
        self.loops.may_wait()?;
        let options = ListenOptions { reuse_port: spread == Spread::ReusePort, exclusive: false, ..options };
        let address = address.into();
        if spread == Spread::ReusePort && matches!(address, Address::Unix(_)) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "Unix sockets cannot share an address (SO_REUSEPORT): spread their connections in another way",
            ));
        }
        // All sockets are opened here, before any loop has one.
        let socket = ListeningSocket::bind(&address, &options.bind_options())?;
        let local = socket.local_addr()?;
        let more = self.loops.remotes.len() - 1;
        let others: io::Result<Vec<_>> = match spread {
            Spread::ReusePort => (0..more).map(|_| ListeningSocket::bind(&local, &options.bind_options())).collect(),
            Spread::Exclusive => (0..more).map(|_| socket.try_clone()).collect(),
            Spread::HandOff => return self.loops.hand_off(socket, &local, &options, &acceptor),
        };
        let sockets = std::iter::once(socket).chain(others?);
        self.loops.serve(sockets, local, spread, &options, &acceptor)
    }

    /// Asks all loops to stop and waits for their threads. Connections that are alive end with
    /// their reactors.
    ///
    /// # Errors
    ///
    /// The first of those that ended a loop; a panic on a loop's thread is one.
    pub fn stop(mut self) -> io::Result<()> {
        self.loops.stop();
        self.join_all()
    }

    /// Waits until all loops have ended by themselves ([`Context::stop`], [`Remote::stop`]).
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    pub fn join(mut self) -> io::Result<()> {
        self.join_all()
    }

    fn join_all(&mut self) -> io::Result<()> {
        // On a loop's own thread, which may be left the last owner, there is no waiting for it.
        let here = thread::current().id();
        join(self.threads.drain(..).filter(|thread| thread.thread().id() != here))
    }
}

impl<S: 'static> Drop for ReactorPool<S> {
    /// Stops the loops, as [`stop`](ReactorPool::stop) does, and forgets how they ended.
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.loops.stop();
            let _ = self.join_all();
        }
    }
}

impl<S: 'static> fmt::Debug for ReactorPool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactorPool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

/// The handle of what [`ReactorPool::listen`] has opened. Dropping it does not close it.
///
/// Thread rule: for any thread.
///
/// ```
/// use netlib::reactor_pool::{PoolOptions, ReactorPool, Spread};
/// use netlib::ListenOptions;
///
/// let pool = ReactorPool::<()>::start(PoolOptions { threads: 2, ..PoolOptions::default() }, |_, _, _| Ok(()))?;
/// let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let listener = pool.listen(address, Spread::Exclusive, ListenOptions::default(), |_, _, _| None)?;
/// assert_eq!(listener.stats()?.iter().map(|of_loop| of_loop.accepted).sum::<u64>(), 0);
/// listener.close(); // its connections stay
/// assert!(std::net::TcpStream::connect(listener.local_addr()).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct PoolListener<S: 'static> {
    local: Address,
    loops: Arc<Loops<S>>,
    /// The listener of each loop, in order.
    tokens: Vec<Token>,
}

impl<S: 'static> PoolListener<S> {
    /// Where it listens; with the port that the system chose if 0 was asked for.
    pub fn local_addr(&self) -> Address {
        self.local.clone()
    }

    /// Stops listening on all loops and waits until all of them have; on a thread of the pool it
    /// only tells them. Connections stay. Those not accepted yet are reset by the kernel.
    pub fn close(&self) {
        let asked: Vec<_> = self.ask(Context::remove_listener);
        if self.loops.may_wait().is_ok() {
            for asked in asked {
                // One that is gone listens no more.
                let _ = answer(&asked);
            }
        }
    }

    /// Accepts nothing on any loop until [`resume`](Self::resume); see
    /// [`Listener::pause`](crate::Listener::pause). Waits until all loops have paused.
    ///
    /// # Errors
    ///
    /// The first loop's that cannot; `Deadlock` on a thread of the pool.
    pub fn pause(&self) -> io::Result<()> {
        self.set_paused(|cx, token| cx.pause_listener(token, true))
    }

    /// Accepts again on all loops, those that wait first.
    ///
    /// # Errors
    ///
    /// As [`pause`](Self::pause).
    pub fn resume(&self) -> io::Result<()> {
        self.set_paused(|cx, token| cx.pause_listener(token, false))
    }

    fn set_paused(&self, f: fn(&mut Context<S>, Token) -> io::Result<()>) -> io::Result<()> {
        self.loops.may_wait()?;
        // A loop that is gone accepts nothing.
        let outcomes: Vec<_> = self.ask(f).iter().map(|asked| answer(asked).unwrap_or(Ok(()))).collect();
        outcomes.into_iter().collect()
    }

    /// What each loop has counted, in order. A loop that is gone, and a listener that is closed,
    /// has zeros.
    ///
    /// # Errors
    ///
    /// `Deadlock` on a thread of the pool.
    pub fn stats(&self) -> io::Result<Vec<ListenerStats>> {
        self.loops.may_wait()?;
        let asked = self.ask(Context::listener_stats);
        Ok(asked.iter().map(|asked| answer(asked).ok().flatten().unwrap_or_default()).collect())
    }

    fn ask<R: Send + 'static>(&self, f: fn(&mut Context<S>, Token) -> R) -> Vec<mpsc::Receiver<R>> {
        let parts = self.loops.remotes.iter().zip(&self.tokens);
        parts.map(|(remote, &token)| ask(remote, move |cx| f(cx, token))).collect()
    }
}

impl<S: 'static> fmt::Debug for PoolListener<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolListener").field("local", &self.local).finish_non_exhaustive()
    }
}

// --- listening

/// An acceptor of which each loop gets a clone.
trait Accept<S: 'static>:
    FnMut(&mut S, &mut Context<S>, &Conn) -> Option<Box<dyn Handler<S>>> + Send + Clone + 'static
{
}

impl<S: 'static, F> Accept<S> for F where
    F: FnMut(&mut S, &mut Context<S>, &Conn) -> Option<Box<dyn Handler<S>>> + Send + Clone + 'static
{
}

impl<S: 'static> Loops<S> {
    fn stop(&self) {
        for remote in &*self.remotes {
            // One that takes no posts has ended, or is about to.
            remote.stop();
        }
    }

    fn may_wait(&self) -> io::Result<()> {
        if self.threads.contains(&thread::current().id()) {
            return Err(io::Error::new(io::ErrorKind::Deadlock, "a loop of the pool cannot wait for itself"));
        }
        Ok(())
    }

    /// A socket for each loop.
    fn serve(
        self: &Arc<Self>,
        sockets: impl Iterator<Item = ListeningSocket>,
        local: Address,
        spread: Spread,
        options: &ListenOptions,
        acceptor: &impl Accept<S>,
    ) -> io::Result<PoolListener<S>> {
        let asked = self.remotes.iter().zip(sockets).map(|(remote, socket)| {
            let (mut options, acceptor) = (options.clone(), acceptor.clone());
            ask(remote, move |cx| {
                options.exclusive = spread == Spread::Exclusive && cx.backend.caps().exclusive_wakeup;
                cx.add_listener(Intake::Socket(socket), None, options, Box::new(acceptor))
                    .map(|listener| listener.token)
            })
        });
        let asked: Vec<_> = asked.collect();
        Ok(PoolListener { local, loops: Arc::clone(self), tokens: self.tokens(0, &asked)? })
    }

    /// The socket for the first loop, doors for the others.
    fn hand_off(
        self: &Arc<Self>,
        socket: ListeningSocket,
        local: &Address,
        options: &ListenOptions,
        acceptor: &impl Accept<S>,
    ) -> io::Result<PoolListener<S>> {
        let (outsides, asked): (Vec<_>, Vec<_>) = self.remotes[1..]
            .iter()
            .map(|remote| {
                let (outside, inside) = hand_off::door(local);
                let (options, acceptor) = (options.clone(), acceptor.clone());
                let asked = ask(remote, move |cx| {
                    let intake = Intake::Door(inside);
                    cx.add_listener(intake, None, options, Box::new(acceptor)).map(|listener| listener.token)
                });
                (outside, asked)
            })
            .unzip();
        let mut tokens = self.tokens(1, &asked)?;
        let mut turns = Turns::new();
        for ((outside, remote), token) in outsides.into_iter().zip(&self.remotes[1..]).zip(&tokens) {
            turns.add(outside, remote.clone(), *token);
        }
        let (options, acceptor) = (options.clone(), acceptor.clone());
        let first = ask(&self.remotes[0], move |cx| {
            let intake = Intake::Socket(socket);
            cx.add_listener(intake, Some(turns), options, Box::new(acceptor)).map(|listener| listener.token)
        });
        match answer(&first).and_then(|outcome| outcome) {
            Ok(token) => tokens.insert(0, token),
            Err(error) => {
                self.close(1, tokens.into_iter().map(Some));
                return Err(error);
            }
        }
        Ok(PoolListener { local: local.clone(), loops: Arc::clone(self), tokens })
    }

    /// The listeners of the loops from the `first` on. If one has failed, the others are closed.
    fn tokens(&self, first: usize, asked: &[mpsc::Receiver<io::Result<Token>>]) -> io::Result<Vec<Token>> {
        let outcomes: Vec<_> = asked.iter().map(|asked| answer(asked).and_then(|outcome| outcome)).collect();
        if outcomes.iter().any(Result::is_err) {
            self.close(first, outcomes.iter().map(|outcome| outcome.as_ref().ok().copied()));
        }
        outcomes.into_iter().collect()
    }

    fn close(&self, first: usize, tokens: impl Iterator<Item = Option<Token>>) {
        let parts = self.remotes[first..].iter().zip(tokens);
        let asked = parts.filter_map(|(remote, token)| {
            Some(ask(remote, {
                let token = token?;
                move |cx: &mut Context<S>| cx.remove_listener(token)
            }))
        });
        let asked: Vec<_> = asked.collect();
        for asked in asked {
            let _ = answer(&asked);
        }
    }
}

/// Runs `f` on a loop.
fn ask<S: 'static, R: Send + 'static>(
    remote: &Remote<S>,
    f: impl FnOnce(&mut Context<S>) -> R + Send + 'static,
) -> mpsc::Receiver<R> {
    let (answer, answers) = mpsc::channel();
    // What a loop refuses, or never comes to, is dropped, and the waiting one learns it.
    remote.post_result(move |_, cx| drop(answer.send(f(cx))));
    answers
}

fn answer<R>(asked: &mpsc::Receiver<R>) -> io::Result<R> {
    asked.recv().map_err(|_| io::Error::other("a loop of the pool has ended"))
}

// --- starting and ending

type Init<S> = dyn Fn(usize, &mut Context<S>, &Arc<[Remote<S>]>) -> io::Result<S> + Send + Sync;

/// A thread on its way to its loop.
struct Starting<S: 'static> {
    thread: JoinHandle<io::Result<()>>,
    opened: mpsc::Receiver<Remote<S>>,
    initialised: mpsc::Receiver<()>,
    give_peers: mpsc::Sender<Arc<[Remote<S>]>>,
}

/// Its own ends of that.
struct Progress<S: 'static> {
    opened: mpsc::Sender<Remote<S>>,
    initialised: mpsc::Sender<()>,
    peers: mpsc::Receiver<Arc<[Remote<S>]>>,
}

impl<S: 'static> Starting<S> {
    fn spawn(number: usize, options: &PoolOptions, init: &Arc<Init<S>>) -> io::Result<Self> {
        let (tell_opened, opened) = mpsc::channel();
        let (tell_initialised, initialised) = mpsc::channel();
        let (give_peers, peers) = mpsc::channel();
        let progress = Progress { opened: tell_opened, initialised: tell_initialised, peers };
        let (init, options) = (Arc::clone(init), options.clone());
        let name = format!("{}-{number}", options.name);
        let thread = thread::Builder::new().name(name).spawn(move || run(number, &options, &*init, progress))?;
        Ok(Self { thread, opened, initialised, give_peers })
    }

    fn remote(&self) -> Option<Remote<S>> {
        self.opened.recv().ok()
    }

    fn initialised(&self) -> bool {
        self.initialised.recv().is_ok()
    }
}

/// What each thread does.
fn run<S: 'static>(number: usize, options: &PoolOptions, init: &Init<S>, progress: Progress<S>) -> io::Result<()> {
    let mut reactor = Reactor::new(ReactorConfig {
        backend: options.backend,
        fallback: options.fallback,
        queue_capacity: options.queue_capacity,
        panics: options.panics,
        measure: options.measure,
        ..ReactorConfig::default()
    })?;
    // Whoever waits for these is there until all threads are.
    let _ = progress.opened.send(reactor.context().remote());
    let Ok(peers) = progress.peers.recv() else {
        return Ok(()); // another thread has failed
    };
    let mut others = StopOthers { remotes: Arc::clone(&peers), needed: true };
    let mut state = init(number, reactor.context(), &peers)?;
    drop(peers);
    let _ = progress.initialised.send(());
    let outcome = reactor.run(&mut state);
    others.needed = outcome.is_err();
    outcome
}

/// Stops all loops when one of them does not end in order: who waits for them would never learn it.
struct StopOthers<S: 'static> {
    remotes: Arc<[Remote<S>]>,
    needed: bool,
}

impl<S: 'static> Drop for StopOthers<S> {
    fn drop(&mut self) {
        if self.needed {
            for remote in &*self.remotes {
                remote.stop();
            }
        }
    }
}

/// Lets threads that wait for the remotes go, and waits for them.
fn given_up<S: 'static>(starting: Vec<Starting<S>>) -> io::Result<()> {
    // Each drops its way to tell the remotes: all of them before the first is waited for.
    let threads: Vec<_> = starting.into_iter().map(|starting| starting.thread).collect();
    join(threads.into_iter())
}

fn join(threads: impl Iterator<Item = JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let ends: Vec<_> = threads
        .map(|thread| {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            thread.join().unwrap_or_else(|panic| Err(panicked(&name, &*panic)))
        })
        .collect();
    ends.into_iter().collect()
}

fn panicked(thread: &str, panic: &(dyn Any + Send)) -> io::Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    io::Error::other(format!("the thread {thread} panicked: {}", text.unwrap_or("with no text")))
}

fn failure_of(ended: io::Result<()>) -> io::Error {
    // Every thread that gives up says why, or panics.
    ended.err().unwrap_or_else(|| io::Error::other("a loop of the pool has ended while it started"))
}
