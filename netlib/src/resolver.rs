//! Names of hosts to addresses, off the loop: the system's look-up blocks, for half a minute if the
//! name server is away. What is done with the addresses is in `race.rs`.
//!
//! Nothing is cached: how long an answer holds only the name server knows, and the system's
//! resolver is the place that is told. Look-ups of one name at the same time are one look-up.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::{fmt, io};

use crate::context::Context;
use crate::token::Token;
use crate::worker_pool::{JobOptions, WorkerPool};

/// Look-ups that run at the same time; the others wait.
const THREADS: usize = 4;
/// Look-ups that may wait. A connect beyond them fails with `ResourceBusy`.
const QUEUE: usize = 256;
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 32;

/// How names become addresses. Runs on threads of its own and may block.
///
/// Any closure of the same shape is one:
///
/// ```
/// use netlib::{Reactor, ReactorConfig};
///
/// let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
/// reactor.context().set_resolver(|name: &str, port: u16| match name {
///     "im.test" => Ok(vec![([127, 0, 0, 1], port).into()]),
///     _ => Err(std::io::ErrorKind::NotFound.into()),
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a host, the ones to prefer first. A name that has none is `NotFound`.
    fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

impl<F: Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static> Resolve for F {
    fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self(name, port)
    }
}

/// The operating system's look-up (getaddrinfo), with its files, caches and preferences.
///
/// ```
/// use netlib::{Resolve, SystemResolver};
///
/// let addresses = SystemResolver.resolve("127.0.0.1", 80)?; // numbers ask nobody
/// assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap()]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match (name, port).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.collect()),
            // getaddrinfo has errors of its own, which the standard library gives no kind.
            Err(error) if error.raw_os_error().is_none() => Err(io::Error::new(io::ErrorKind::NotFound, error)),
            Err(error) => Err(error),
        }
    }
}

/// The look-ups of one reactor. Its threads start with the first.
pub(crate) struct Resolver {
    resolve: Arc<dyn Resolve>,
    pool: Option<WorkerPool>,
    /// Who waits for each look-up that is under way.
    waiting: HashMap<(Arc<str>, u16), Vec<Token>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { resolve: Arc::new(SystemResolver), pool: None, waiting: HashMap::new() }
    }
}

impl Drop for Resolver {
    /// A look-up can take half a minute, and nobody waits for its answer any more: so a thread of
    /// no one's waits for its end.
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let end = std::thread::Builder::new().name("netlib-resolver-end".into());
            // Without a thread for it this one has to wait.
            drop(end.spawn(move || pool.drain(std::time::Duration::ZERO)));
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl<S: 'static> Context<S> {
    /// Names are looked up by `resolve` from now on, and not by the [system](SystemResolver).
    pub fn set_resolver(&mut self, resolve: impl Resolve) {
        self.dialling.resolver.resolve = Arc::new(resolve);
    }

    /// Looks a name up; [`race`](Self::race) or [`race_lost`](Self::race_lost) is called for
    /// `token` in a later phase, never now.
    pub(crate) fn look_up(&mut self, token: Token, name: &Arc<str>, port: u16) -> io::Result<()> {
        let remote = self.remote();
        let resolver = &mut self.dialling.resolver;
        let key = (Arc::clone(name), port);
        if let Some(waiting) = resolver.waiting.get_mut(&key) {
            waiting.push(token);
            return Ok(());
        }
        let pool = match &mut resolver.pool {
            Some(pool) => pool,
            pool => pool.insert(WorkerPool::new("netlib-resolver", THREADS, QUEUE)?),
        };
        let resolve = Arc::clone(&resolver.resolve);
        let (name, answered) = (Arc::clone(name), key.clone());
        let submitted = pool.run(
            &remote,
            JobOptions::default(),
            move || resolve.resolve(&name, port),
            move |_, cx: &mut Self, outcome| {
                cx.looked_up(&answered, outcome.unwrap_or_else(|lost| Err(io::Error::other(lost))));
            },
        );
        if submitted.is_err() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many look-ups wait"));
        }
        resolver.waiting.insert(key, vec![token]);
        Ok(())
    }

    /// A connection that waits no more.
    pub(crate) fn forget_look_up(&mut self, token: Token, name: &Arc<str>, port: u16) {
        // The key stays: the look-up is under way, and the next one that asks may have its answer.
        if let Some(waiting) = self.dialling.resolver.waiting.get_mut(&(Arc::clone(name), port)) {
            waiting.retain(|other| *other != token);
        }
    }

    fn looked_up(&mut self, key: &(Arc<str>, u16), outcome: io::Result<Vec<SocketAddr>>) {
        let Some(waiting) = self.dialling.resolver.waiting.remove(key) else { return };
        let outcome = match outcome {
            Ok(addresses) if addresses.is_empty() => Err(io::ErrorKind::NotFound.into()),
            Ok(mut addresses) => {
                addresses.truncate(MOST_ADDRESSES);
                Ok(addresses)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            // The reason that the handlers get has no room for it.
            log::debug!("look-up of {}: {error}", key.0);
        }
        for token in waiting {
            match &outcome {
                Ok(addresses) => self.race(token, addresses),
                Err(error) => self.race_lost(token, error.kind()),
            }
        }
    }
}
