//! A role: one server on a thread of its own with a reactor of its own.
//!
//! The thread is named after the role, so that logs, debuggers and `strace -f` tell roles of one process apart.
//! A role is made on its thread by a setup closure, says once when it serves, and ends when it is asked to.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlib::{Context, PanicPolicy, Reactor, ReactorConfig};

/// What the state of a role can do besides being the state.
pub trait Role: Sized + 'static {
    /// The role is asked to end: stop accepting, finish what is in flight within a limit, tell the peers, and
    /// [`Context::stop`]. May come more than once.
    fn stop(&mut self, cx: &mut Context<Self>);
}

/// Why a role does not serve.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// Its setup failed.
    #[error("{role}: {source}")]
    Start {
        /// Which role.
        role: &'static str,
        /// What its setup said.
        source: StartError,
    },
    /// It ended before it was ready.
    #[error("{0}: ended before it was ready")]
    Ended(&'static str),
    /// It was not ready in time; it may still become so.
    #[error("{0}: not ready in time")]
    NotReady(&'static str),
}

/// What a setup closure fails with.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Says that the role serves. The first [`signal`](Self::signal) counts.
#[derive(Clone, Debug)]
pub struct Ready {
    sender: Sender<Result<(), StartError>>,
}

impl Ready {
    /// The role serves from here on.
    pub fn signal(&self) {
        // Nobody may be waiting any more; that is no concern of the role.
        let _ = self.sender.send(Ok(()));
    }
}

/// A running role.
pub struct RoleHandle {
    name: &'static str,
    /// Until somebody takes it.
    readiness: Cell<Option<Readiness>>,
    ask_to_stop: Box<dyn Fn() + Send + Sync>,
    thread: JoinHandle<()>,
}

/// Whether a role serves, or why it does not; see [`RoleHandle::take_readiness`].
#[derive(Debug)]
pub struct Readiness {
    role: &'static str,
    ready: Receiver<Result<(), StartError>>,
}

impl Readiness {
    /// Waits until it serves, at most for `limit`.
    pub fn wait(self, limit: Option<Duration>) -> Result<(), RoleError> {
        let answer = match limit {
            Some(limit) => self.ready.recv_timeout(limit),
            None => self.ready.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(RoleError::Start { role: self.role, source }),
            Err(RecvTimeoutError::Timeout) => Err(RoleError::NotReady(self.role)),
            Err(RecvTimeoutError::Disconnected) => Err(RoleError::Ended(self.role)),
        }
    }
}

/// How long a role that was asked to end may take to finish what is in flight.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The exit code of a process one of whose loops broke (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_LOOP_BROKE: i32 = 70;

/// Starts a role. `setup` runs on its thread, opens listeners and links, and returns the state; it signals
/// readiness itself or keeps [`Ready`] for later.
///
/// A panic in a connection's handler ends that connection. Any other on the role's thread (in a timer, in
/// posted work, in the loop itself) ends the process with one line and [`EXIT_LOOP_BROKE`]: the state may be
/// half changed, and a half-working server would be worse than a restarted one.
pub fn spawn<S: Role>(
    name: &'static str,
    setup: impl FnOnce(&mut Context<S>, Ready) -> Result<S, StartError> + Send + 'static,
) -> io::Result<RoleHandle> {
    let (ready_sender, ready) = mpsc::channel();
    let (remote_sender, remote) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let mut reactor =
            match Reactor::<S>::new(ReactorConfig { panics: PanicPolicy::Propagate, ..ReactorConfig::default() }) {
                Ok(reactor) => reactor,
                Err(error) => {
                    let _ = remote_sender.send(Err(error));
                    return;
                }
            };
        let _ = remote_sender.send(Ok(reactor.context().remote()));
        let who = format!("the loop of {name}");
        match or_exit(&who, || run(&mut reactor, setup, ready_sender)) {
            Ok(()) => log::debug!("the loop has ended"),
            Err(error) => broke(&who, &error.to_string()),
        }
    })?;
    let remote = remote.recv().map_err(|_| io::Error::other("the role's thread ended at once"))??;
    let ask_to_stop = Box::new(move || {
        // A closed queue means that the loop has ended: what was asked for.
        let _ = remote.post(S::stop);
    });
    Ok(RoleHandle { name, readiness: Cell::new(Some(Readiness { role: name, ready })), ask_to_stop, thread })
}

fn run<S: Role>(
    reactor: &mut Reactor<S>,
    setup: impl FnOnce(&mut Context<S>, Ready) -> Result<S, StartError>,
    sender: Sender<Result<(), StartError>>,
) -> io::Result<()> {
    match setup(reactor.context(), Ready { sender: sender.clone() }) {
        Ok(mut state) => {
            drop(sender);
            reactor.run(&mut state)
        }
        Err(error) => {
            let _ = sender.send(Err(error));
            Ok(())
        }
    }
}

/// Runs `work`; a panic in it ends the process with one line about `who` and [`EXIT_LOOP_BROKE`]. For every
/// thread that requests depend on: half a server, which never answers them, would be worse than a restarted one.
pub fn or_exit<T>(who: &str, work: impl FnOnce() -> T) -> T {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| broke(who, text_of(panic.as_ref())))
}

fn broke(who: &str, what: &str) -> ! {
    log::error!("{who} broke: {what}; the process ends");
    process::exit(EXIT_LOOP_BROKE)
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without text")
}

impl RoleHandle {
    /// The role's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its readiness, to be waited for on any thread. It can be taken once.
    pub fn take_readiness(&self) -> Option<Readiness> {
        self.readiness.take()
    }

    /// Waits until the role serves. Once its readiness is taken it counts as not ready.
    pub fn wait_ready(&self, limit: Duration) -> Result<(), RoleError> {
        let readiness = self.take_readiness().ok_or(RoleError::NotReady(self.name))?;
        readiness.wait(Some(limit))
    }

    /// Asks the role to end and returns at once.
    pub fn stop(&self) {
        (self.ask_to_stop)();
    }

    /// Waits until its thread has ended.
    pub fn join(self) {
        // The thread catches its panics itself, and then ends the process.
        let _ = self.thread.join();
    }
}

impl std::fmt::Debug for RoleHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleHandle").field("name", &self.name).finish_non_exhaustive()
    }
}
