//! Connections to one server that are kept for the next request.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::client::{Call, ClientError, ClientRequest, ClientResponse, ResponseHandler, gather};
use super::client_conn::{self, Job, Line};
use crate::{ConnectOptions, Context, Target, TimerId};

/// The limits of a [`Pool`].
///
/// ```
/// let options = netlib::http::PoolOptions { max_connections: 4, ..Default::default() };
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// How to connect; with TLS, for example, by its `layer`.
    pub connect: ConnectOptions,
    /// Connections at a time, busy ones and idle ones.
    pub max_connections: usize,
    /// Requests that may wait for one; more are refused with [`ClientError::PoolFull`].
    pub max_waiting: usize,
    /// An unused connection is closed after that long. Less than the server's own limit, so
    /// that it is seldom the server that closes.
    pub idle_timeout: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            connect: ConnectOptions::default(),
            max_connections: 8,
            max_waiting: 1000,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Makes requests of one server and keeps the connections for the next ones. Cloning shares it.
///
/// A request that finds its kept connection closed is made again on a new one, if making it twice
/// does no harm (GET, HEAD, OPTIONS, PUT, DELETE) and its body is at hand.
///
/// Thread rule: it belongs to its reactor's thread.
///
/// ```no_run
/// use netlib::Context;
/// use netlib::http::{ClientRequest, Pool, PoolOptions};
///
/// # fn example(cx: &mut Context<()>) {
/// let pool = Pool::new(("127.0.0.1", 8080), PoolOptions::default());
/// for n in 0..100 {
///     pool.request(cx, ClientRequest::get("localhost", &format!("/items/{n}")), move |_, _, result| {
///         println!("{n}: {:?}", result.map(|response| response.status));
///     });
/// }
/// # }
/// ```
pub struct Pool<S: 'static>(Rc<Handle<S>>);

/// What the handles share: without it, no connection is kept.
struct Handle<S: 'static>(Rc<PoolInner<S>>);

pub(super) struct PoolInner<S: 'static> {
    server: Target,
    pub(super) options: ConnectOptions,
    limits: PoolOptions,
    /// The last used is used first, so that those that are too many come of age.
    idle: RefCell<Vec<(Rc<Line<S>>, Limit)>>,
    waiting: RefCell<VecDeque<(Job<S>, Limit)>>,
    live: Cell<usize>,
    next_number: Cell<u64>,
    /// No handle is left.
    closed: Cell<bool>,
}

impl<S: 'static> Pool<S> {
    /// For one server, by address or by name; connects when there is a request.
    pub fn new(server: impl Into<Target>, options: PoolOptions) -> Self {
        Self(Rc::new(Handle(Rc::new(PoolInner {
            server: server.into(),
            options: options.connect.clone(),
            limits: options,
            idle: RefCell::default(),
            waiting: RefCell::default(),
            live: Cell::new(0),
            next_number: Cell::new(0),
            closed: Cell::new(false),
        }))))
    }

    /// Connections at present, busy ones and idle ones.
    pub fn connections(&self) -> usize {
        self.0.0.live.get()
    }

    /// Like [`http::fetch`](super::fetch).
    pub fn fetch(&self, cx: &mut Context<S>, request: ClientRequest, handler: Box<dyn ResponseHandler<S>>) -> Call {
        let job = Job::new(cx, &self.0.0.options, request, handler);
        let call = job.call.clone();
        let refusal = match job.request.head(true) {
            None => Some(ClientError::BadTarget),
            Some(_) if self.0.0.is_full() => Some(ClientError::PoolFull),
            Some(_) => None,
        };
        match refusal {
            Some(error) => cx.post(move |state, cx| job.fail(state, cx, error)),
            None => self.0.0.submit(cx, job),
        }
        call
    }

    /// Like [`http::request`](super::request).
    pub fn request(
        &self,
        cx: &mut Context<S>,
        request: ClientRequest,
        then: impl FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>) + 'static,
    ) -> Call {
        self.fetch(cx, request, gather(then))
    }
}

impl<S: 'static> PoolInner<S> {
    fn is_full(&self) -> bool {
        self.waiting.borrow().len() >= self.limits.max_waiting && !self.has_room()
    }

    fn has_room(&self) -> bool {
        !self.idle.borrow().is_empty() || self.live.get() < self.limits.max_connections.max(1)
    }

    fn number(&self) -> u64 {
        self.next_number.set(self.next_number.get() + 1);
        self.next_number.get()
    }

    fn submit(self: &Rc<Self>, cx: &mut Context<S>, job: Job<S>) {
        if self.has_room() {
            return self.run(cx, job);
        }
        let number = self.number();
        let left = job.deadline.saturating_duration_since(cx.now());
        let pool = Rc::downgrade(self);
        let timer = cx.after(left, move |state, cx| {
            let Some(pool) = pool.upgrade() else { return };
            let job = {
                let mut waiting = pool.waiting.borrow_mut();
                let at = waiting.iter().position(|(_, limit)| limit.number == number);
                at.and_then(|at| waiting.remove(at))
            };
            if let Some((job, _)) = job {
                job.fail(state, cx, ClientError::Timeout);
            }
        });
        self.waiting.borrow_mut().push_back((job, Limit { number, timer }));
    }

    /// On an idle connection, or on a new one.
    fn run(self: &Rc<Self>, cx: &mut Context<S>, job: Job<S>) {
        let Some(head) = job.request.head(true) else { return };
        loop {
            let Some((line, limit)) = self.idle.borrow_mut().pop() else { break };
            cx.cancel(limit.timer);
            if line.is_open() {
                line.set_reused();
                return line.begin(cx, job, &head);
            }
        }
        self.connect(cx, job, &head);
    }

    fn connect(self: &Rc<Self>, cx: &mut Context<S>, job: Job<S>, head: &str) {
        self.live.set(self.live.get() + 1);
        client_conn::connect(cx, self.server.clone(), self.options.clone(), job, head, Some(Rc::clone(self)));
    }

    /// The connection that a request was made on had been closed: on a new one, whatever the
    /// limit, since the closed one is about to go.
    pub(super) fn again(self: &Rc<Self>, cx: &mut Context<S>, job: Job<S>) {
        let Some(head) = job.request.head(true) else { return };
        self.connect(cx, job, &head);
    }

    /// A connection has nothing to do.
    pub(super) fn idle(self: &Rc<Self>, cx: &mut Context<S>, line: &Rc<Line<S>>) {
        if self.closed.get() && self.waiting.borrow().is_empty() {
            return line.abort();
        }
        let number = self.number();
        let pool = Rc::downgrade(self);
        let timer = cx.after(self.limits.idle_timeout, move |_, _| {
            let Some(pool) = pool.upgrade() else { return };
            let mut idle = pool.idle.borrow_mut();
            if let Some(at) = idle.iter().position(|(_, limit)| limit.number == number) {
                idle.remove(at).0.abort();
            }
        });
        self.idle.borrow_mut().push((Rc::clone(line), Limit { number, timer }));
        self.serve_waiting(cx);
    }

    /// A connection is gone.
    pub(super) fn gone(self: &Rc<Self>, cx: &mut Context<S>, line: &Rc<Line<S>>) {
        self.live.set(self.live.get() - 1);
        self.idle.borrow_mut().retain(|(other, limit)| {
            let stays = !Rc::ptr_eq(other, line);
            if !stays {
                cx.cancel(limit.timer);
            }
            stays
        });
        self.serve_waiting(cx);
    }

    fn serve_waiting(self: &Rc<Self>, cx: &mut Context<S>) {
        while self.has_room() {
            let Some((job, limit)) = self.waiting.borrow_mut().pop_front() else { return };
            cx.cancel(limit.timer);
            self.run(cx, job);
        }
    }
}

/// How long something stays where it is: the timer that ends it, and the number by which that
/// finds it.
#[derive(Clone, Copy)]
struct Limit {
    number: u64,
    timer: TimerId,
}

impl<S: 'static> Drop for Handle<S> {
    fn drop(&mut self) {
        // Nobody will use them again. Those that are busy end with their request.
        self.0.closed.set(true);
        for (line, _) in self.0.idle.borrow_mut().drain(..) {
            line.abort();
        }
    }
}

impl<S: 'static> Clone for Pool<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: 'static> fmt::Debug for Pool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("server", &self.0.0.server)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
