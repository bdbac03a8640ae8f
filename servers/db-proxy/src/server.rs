//! The state of a db-proxy and the way of a request through it: admitted if there is room, put in
//! order by its lane, run by the writer or a worker, answered on the link that it came from.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use netlib::worker_pool::WorkerPool;
use netlib::{CloseReason, Context, Remote};
use tt_common::log_limit::LogLimit;
use tt_common::{Link, LinkHandler};
use tt_proto::im::server::ImStopReceivePacket;
use tt_proto::pdu::PduRef;

use crate::attempts::Attempts;
use crate::config::Config;
use crate::drain::Drain;
use crate::handlers;
use crate::lanes::{Access, Conversation, Lanes, Start, Ticket};
use crate::metrics::Metrics;
use crate::store::{Applied, Store, StoreError, Write};
use crate::writer::{self, Claim, Outcomes, WriteError, Writer};
use tt_common::role::or_exit;

/// A query: runs on a worker and returns the encoded answer.
pub(crate) type Query = Box<dyn FnOnce(&dyn Store) -> Result<Bytes, StoreError> + Send>;

/// What a write's outcome means to whoever asked: the encoded answer, if there is one.
pub(crate) type Answer = Box<dyn FnOnce(&mut Server, Result<Applied, WriteError>) -> Option<Bytes>>;

/// Looks at what waits too long, within the time that a request may wait.
const LOOKS: u32 = 4;
/// Why a request was given up.
const TOO_LATE: &str = "waited too long";

/// One line about refused or unanswered requests in so long.
const NOISE_INTERVAL: Duration = Duration::from_secs(10);

/// What the links of a db-proxy share. Fields are dropped in order: threads first, the store last.
pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) attempts: Arc<Mutex<Attempts>>,
    pub(crate) links: HashMap<u64, Link<Server>>,
    pub(crate) drain: Drain,
    lanes: Lanes<Job>,
    pending: HashMap<Ticket, Pending>,
    writes: usize,
    write_bytes: usize,
    reads: usize,
    /// What the store said when it last failed to write, until it succeeds again.
    failing: Option<String>,
    /// Whether a look at what waits too long is set.
    watching: bool,
    noise: LogLimit,
    remote: Remote<Server>,
    writer: Writer,
    pool: WorkerPool,
    store: Arc<dyn Store>,
}

enum Job {
    Write(Write),
    Query(Query),
}

/// A request between its arrival and its end.
struct Pending {
    link: Link<Server>,
    arrived: Instant,
    claim: Claim,
    /// The bytes that a write holds.
    bytes: usize,
    then: Then,
}

enum Then {
    /// The query's answer goes out; this one if it has none.
    Query { otherwise: Option<Bytes> },
    /// Who wants to know what became of a write.
    Write(Answer),
    /// It waited too long and was answered so.
    GivenUp,
}

/// Why a query has no answer.
enum NoAnswer {
    TooLate,
    Store(StoreError),
}

impl Server {
    pub(crate) fn new(
        config: Config,
        store: Arc<dyn Store>,
        common: &tt_common::Metrics,
        cx: &mut Context<Self>,
    ) -> io::Result<Self> {
        let metrics = Metrics::new(common, &store);
        let remote = cx.remote();
        let back = remote.clone();
        let options = writer::Options {
            batch: config.limits.batch,
            deadline: config.timeouts.request(),
            metrics: metrics.clone(),
        };
        let writer = Writer::start(Arc::clone(&store), options, move |outcomes| {
            // Without a loop there is nobody left to tell.
            let _ = back.post(move |server, cx| server.written(cx, outcomes));
        })?;
        // Room for all that are admitted, so that a submitted job is never turned away.
        let pool = WorkerPool::new("db-worker", config.workers, config.limits.reads)?;
        Ok(Self {
            config,
            metrics,
            attempts: Arc::new(Mutex::new(Attempts::new(cx.now()))),
            links: HashMap::new(),
            drain: Drain::default(),
            lanes: Lanes::new(),
            pending: HashMap::new(),
            writes: 0,
            write_bytes: 0,
            reads: 0,
            failing: None,
            watching: false,
            noise: LogLimit::new(NOISE_INTERVAL),
            remote,
            writer,
            pool,
            store,
        })
    }

    /// Admits a query. `otherwise` is the answer when the store gives none.
    pub(crate) fn query(
        &mut self,
        cx: &mut Context<Self>,
        link: &Link<Self>,
        access: Access,
        query: Query,
        otherwise: Option<Bytes>,
    ) {
        if self.reads >= self.config.limits.reads {
            self.metrics.unanswered("overloaded");
            self.complain(cx.now(), "query", "too many wait");
            send(link, otherwise);
            return;
        }
        self.reads += 1;
        self.metrics.reads_waiting.inc();
        self.admit(cx, link, access, Job::Query(query), 0, Then::Query { otherwise });
    }

    /// Admits a write to a conversation. `answer` hears what became of it.
    pub(crate) fn write(
        &mut self,
        cx: &mut Context<Self>,
        link: &Link<Self>,
        conversation: Conversation,
        write: Write,
        answer: Answer,
    ) {
        let bytes = write.weight();
        let limits = &self.config.limits;
        if self.writes >= limits.writes || self.write_bytes + bytes > limits.write_bytes {
            let frame = answer(self, Err(WriteError::Overloaded("too many wait")));
            self.complain(cx.now(), "write", "too many wait");
            send(link, frame);
            return;
        }
        self.writes += 1;
        self.write_bytes += bytes;
        self.metrics.writes_waiting.inc();
        self.metrics.write_bytes_waiting.set(self.write_bytes as i64);
        self.admit(cx, link, Access::Write(conversation), Job::Write(write), bytes, Then::Write(answer));
    }

    fn admit(&mut self, cx: &mut Context<Self>, link: &Link<Self>, access: Access, job: Job, bytes: usize, then: Then) {
        let (ticket, start) = self.lanes.arrive(access, job);
        let pending = Pending { link: link.clone(), arrived: cx.now(), claim: Claim::default(), bytes, then };
        self.pending.insert(ticket, pending);
        if let Some(start) = start {
            self.start(start);
        }
        self.watch(cx);
    }

    /// While anything waits, looks every now and then for what has waited too long. The writer and the
    /// workers look too, but a store that hangs keeps them from it.
    fn watch(&mut self, cx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.watching, true) {
            cx.after(self.config.timeouts.request() / LOOKS, |server: &mut Self, cx| {
                server.watching = false;
                server.give_up_late(cx.now());
                if !server.pending.is_empty() {
                    server.watch(cx);
                }
            });
        }
    }

    /// Answers what has waited too long and was not begun, as overload. It keeps its place until its
    /// turn comes, and is passed over then.
    fn give_up_late(&mut self, now: Instant) {
        let limit = self.config.timeouts.request();
        let late = self.pending.iter().filter(|(_, pending)| now.saturating_duration_since(pending.arrived) > limit);
        let mut late: Vec<Ticket> = late.map(|(ticket, _)| *ticket).collect();
        late.sort_unstable();
        for ticket in late {
            let Some(pending) = self.pending.get_mut(&ticket) else { continue };
            if matches!(pending.then, Then::GivenUp) || !pending.claim.take() {
                continue;
            }
            let (link, then) = (pending.link.clone(), std::mem::replace(&mut pending.then, Then::GivenUp));
            let frame = match then {
                Then::Query { otherwise } => {
                    self.metrics.unanswered(TOO_LATE);
                    self.complain(now, "query", TOO_LATE);
                    otherwise
                }
                Then::Write(answer) => {
                    self.complain(now, "write", TOO_LATE);
                    answer(self, Err(WriteError::Overloaded(TOO_LATE)))
                }
                Then::GivenUp => None,
            };
            self.metrics.given_up.inc();
            send(&link, frame);
        }
    }

    fn start(&mut self, (ticket, job): Start<Job>) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let (arrived, claim) = (pending.arrived, pending.claim.clone());
        match job {
            Job::Write(write) => self.writer.submit(ticket, arrived, claim, write),
            Job::Query(query) => {
                let (store, remote) = (Arc::clone(&self.store), self.remote.clone());
                let deadline = self.config.timeouts.request();
                let submitted = self.pool.submit(None, move || {
                    let answer = if !claim.take() || arrived.elapsed() > deadline {
                        Err(NoAnswer::TooLate)
                    } else {
                        or_exit("a store worker", || query(store.as_ref())).map_err(NoAnswer::Store)
                    };
                    let _ = remote.post(move |server: &mut Self, cx| server.answered(cx, ticket, answer));
                });
                debug_assert!(submitted.is_ok(), "the pool holds all that are admitted");
            }
        }
    }

    /// A worker has run a query.
    fn answered(&mut self, cx: &mut Context<Self>, ticket: Ticket, answer: Result<Bytes, NoAnswer>) {
        self.reads -= 1;
        self.metrics.reads_waiting.dec();
        if let Some(Pending { link, then: Then::Query { otherwise }, .. }) = self.pending.remove(&ticket) {
            let frame = match answer {
                Ok(frame) => Some(frame),
                Err(NoAnswer::TooLate) => {
                    self.metrics.unanswered(TOO_LATE);
                    self.complain(cx.now(), "query", TOO_LATE);
                    otherwise
                }
                Err(NoAnswer::Store(error)) => {
                    self.metrics.unanswered("store");
                    self.complain(cx.now(), "query", &error);
                    otherwise
                }
            };
            send(&link, frame);
        }
        self.finished(cx, ticket);
    }

    /// The writer has been through a batch.
    fn written(&mut self, cx: &mut Context<Self>, outcomes: Outcomes) {
        for (ticket, outcome) in outcomes {
            self.writes -= 1;
            self.metrics.writes_waiting.dec();
            let Some(Pending { link, bytes, then, .. }) = self.pending.remove(&ticket) else { continue };
            self.write_bytes -= bytes;
            self.metrics.write_bytes_waiting.set(self.write_bytes as i64);
            let Then::Write(answer) = then else {
                self.finished(cx, ticket);
                continue;
            };
            match &outcome {
                Ok(_) => self.failing = None,
                Err(WriteError::Store(StoreError::Refused(_))) => {}
                Err(error) => {
                    self.complain(cx.now(), "write", error);
                    if let WriteError::Store(error) = error {
                        self.failing = Some(error.to_string());
                    }
                }
            }
            let frame = answer(self, outcome);
            send(&link, frame);
            self.finished(cx, ticket);
        }
    }

    fn finished(&mut self, cx: &mut Context<Self>, ticket: Ticket) {
        for start in self.lanes.done(ticket) {
            self.start(start);
        }
        self.drain_on(cx);
    }

    /// Requests that have no answer yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// What /healthz says.
    pub(crate) fn health(&self) -> Result<(), String> {
        match &self.failing {
            Some(error) => Err(error.clone()),
            None if self.drain.is_on() => Err("stopping".to_owned()),
            None => Ok(()),
        }
    }

    fn complain(&mut self, now: Instant, what: &str, why: impl std::fmt::Display) {
        if let Some(unsaid) = self.noise.allow(now) {
            log::warn!("a {what} came to nothing: {why}{unsaid}");
        }
    }
}

/// Sends an answer. A link that is gone has nobody behind it who waits.
fn send(link: &Link<Server>, frame: Option<Bytes>) {
    if let Some(frame) = frame
        && let Err(error) = link.send_frame(frame)
    {
        log::debug!("link with {link}: an answer was dropped: {error}");
    }
}

/// The link of a msg server.
pub(crate) struct DbLink;

impl LinkHandler<Server> for DbLink {
    fn on_up(&mut self, server: &mut Server, _: &mut Context<Server>, link: &Link<Server>) {
        server.links.insert(link.id(), link.clone());
        if server.drain.is_on() {
            let _ = link.send(0, &ImStopReceivePacket { result: 0 });
        }
    }

    fn on_pdu(&mut self, server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, pdu: PduRef<'_>) {
        server.drain.last_request = Some(cx.now());
        handlers::handle(server, cx, link, pdu);
    }

    fn on_down(&mut self, server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, _: &CloseReason) {
        server.links.remove(&link.id());
        server.drain_on(cx);
    }
}
