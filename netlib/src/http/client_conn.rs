//! The handler of a client's connection: one request at a time, and between two of them a place
//! in the pool.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::BodyDecoder;
use super::client::{Call, ClientError, ClientRequest, ClientResponse, RequestBody, ResponseHandler};
use super::parse::{self, HeadLimits, HeadScanner};
use super::pool::PoolInner;
use crate::{CloseReason, Conn, ConnectOptions, Context, Handler, Target, TimerId};

/// Of the head of an answer. Servers are read leniently: they are chosen, not met.
const HEAD: HeadLimits = HeadLimits { line: 64 * 1024, head: 64 * 1024, strict: false };
/// Interim answers before the real one.
const MAX_INTERIM: u32 = 16;
/// A server that does not know `Expect` says nothing; then the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A request that is to be made.
pub(super) struct Job<S: 'static> {
    pub(super) call: Call,
    pub(super) request: ClientRequest,
    pub(super) handler: Box<dyn ResponseHandler<S>>,
    pub(super) deadline: Instant,
}

impl<S: 'static> Job<S> {
    pub(super) fn new(
        cx: &Context<S>,
        options: &ConnectOptions,
        request: ClientRequest,
        handler: Box<dyn ResponseHandler<S>>,
    ) -> Self {
        let call = Call::new(&request, &options.conn);
        Self { call, deadline: cx.due(request.timeout), request, handler }
    }

    pub(super) fn fail(mut self, state: &mut S, cx: &mut Context<S>, error: ClientError) {
        self.call.0.over.set(true);
        self.handler.on_done(state, cx, Err(error));
    }
}

/// On a connection of its own.
pub(super) fn start<S: 'static>(
    cx: &mut Context<S>,
    server: Target,
    request: ClientRequest,
    handler: Box<dyn ResponseHandler<S>>,
) -> Call {
    let options = request.connect.clone();
    let job = Job::new(cx, &options, request, handler);
    let call = job.call.clone();
    match job.request.head(false) {
        Some(head) => drop(connect(cx, server, options, job, &head, None)),
        None => cx.post(move |state, cx| job.fail(state, cx, ClientError::BadTarget)),
    }
    call
}

/// Connects for a job, which goes out as soon as the connection is up.
pub(super) fn connect<S: 'static>(
    cx: &mut Context<S>,
    server: Target,
    options: ConnectOptions,
    job: Job<S>,
    head: &str,
    pool: Option<Rc<PoolInner<S>>>,
) -> Rc<Line<S>> {
    let left = job.deadline.saturating_duration_since(cx.now());
    let options = ConnectOptions { timeout: options.timeout.min(left), ..options };
    let line = Rc::new(Line { conn: RefCell::new(None), active: RefCell::new(None), reused: Cell::new(false) });
    let conn = cx.connect(server, options, Box::new(ClientConnection { line: Rc::clone(&line), pool }));
    *line.conn.borrow_mut() = Some(conn);
    line.begin(cx, job, head);
    line
}

/// A connection and the request that it serves.
pub(super) struct Line<S: 'static> {
    conn: RefCell<Option<Conn>>,
    /// Taken out while one of its callbacks runs.
    active: RefCell<Option<Active<S>>>,
    reused: Cell<bool>,
}

struct Active<S: 'static> {
    job: Job<S>,
    scanner: HeadScanner,
    /// None: the head is incomplete.
    body: Option<BodyDecoder>,
    interim: u32,
    received: u64,
    /// Something of the answer has come.
    begun: bool,
    keep_alive: bool,
    timeout: TimerId,
    continue_wait: Option<TimerId>,
}

impl<S: 'static> Line<S> {
    pub(super) fn is_open(&self) -> bool {
        self.conn.borrow().as_ref().is_some_and(Conn::is_open)
    }

    pub(super) fn abort(&self) {
        if let Some(conn) = self.conn.borrow().as_ref() {
            conn.abort();
        }
    }

    /// Sends the request. A refusal means that the connection is closed, which `on_close` tells.
    pub(super) fn begin(&self, cx: &mut Context<S>, job: Job<S>, head: &str) {
        let Some(conn) = self.conn.borrow().clone() else { return };
        let left = job.deadline.saturating_duration_since(cx.now());
        let timeout = cx.conn_timer(&conn, left);
        let continue_wait = job.call.0.expecting.get().then(|| cx.conn_timer(&conn, CONTINUE_WAIT));
        let _ = conn.send(Bytes::copy_from_slice(head.as_bytes()));
        *job.call.0.conn.borrow_mut() = Some(conn);
        job.call.pump();
        *self.active.borrow_mut() = Some(Active {
            job,
            scanner: HeadScanner::default(),
            body: None,
            interim: 0,
            received: 0,
            begun: false,
            keep_alive: false,
            timeout,
            continue_wait,
        });
    }

    pub(super) fn set_reused(&self) {
        self.reused.set(true);
    }
}

pub(super) struct ClientConnection<S: 'static> {
    line: Rc<Line<S>>,
    pool: Option<Rc<PoolInner<S>>>,
}

/// What a look at the input came to.
enum Look {
    Used(usize),
    Later,
    Complete(usize),
}

impl<S: 'static> ClientConnection<S> {
    /// The end of a request, however it went.
    fn done(
        &self,
        state: &mut S,
        cx: &mut Context<S>,
        conn: &Conn,
        mut active: Active<S>,
        result: Result<(), ClientError>,
    ) {
        cx.cancel(active.timeout);
        active.continue_wait.take().map(|timer| cx.cancel(timer));
        active.job.call.0.over.set(true);
        let reusable = result.is_ok() && active.keep_alive && active.job.call.is_sent() && conn.is_open();
        match self.pool.clone() {
            Some(pool) if reusable => pool.idle(cx, &self.line),
            // Nothing is owed to the server any more, so there is nothing to wait for.
            _ => conn.abort(),
        }
        active.job.handler.on_done(state, cx, result);
    }

    fn fail(&self, state: &mut S, cx: &mut Context<S>, conn: &Conn, error: ClientError) {
        let Some(active) = self.line.active.borrow_mut().take() else { return };
        // A server may close a connection that waits at the very moment in which it is used.
        let stale = self.line.reused.get()
            && !active.begun
            && matches!(active.job.request.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
            && !matches!(active.job.request.body, RequestBody::Streamed(_))
            && matches!(error, ClientError::Connection(_) | ClientError::Malformed)
            && !active.job.call.0.over.get();
        if let Some(pool) = self.pool.clone()
            && stale
        {
            cx.cancel(active.timeout);
            conn.abort();
            let Job { call, request, handler, deadline } = active.job;
            // The same handle, with the body to be sent from its beginning.
            let fresh = Call::new(&request, &pool.options.conn);
            call.0.outgoing.swap(&fresh.0.outgoing);
            call.0.expecting.set(fresh.0.expecting.get());
            pool.again(cx, Job { call, request, handler, deadline });
            return;
        }
        self.done(state, cx, conn, active, Err(error));
    }

    fn look(active: &mut Active<S>, state: &mut S, cx: &mut Context<S>, rest: &[u8]) -> Result<Look, ClientError> {
        active.begun |= !rest.is_empty();
        let Some(body) = &mut active.body else {
            let length = match active.scanner.advance(rest, HEAD) {
                Ok(None) => return Ok(Look::Later),
                Ok(Some(length)) => length,
                Err(_) => return Err(ClientError::TooLarge),
            };
            active.scanner = HeadScanner::default();
            active.head(state, cx, &rest[..length])?;
            let complete = active.body.as_ref().is_some_and(BodyDecoder::is_complete);
            return Ok(if complete { Look::Complete(length) } else { Look::Used(length) });
        };
        if rest.is_empty() {
            return Ok(Look::Later);
        }
        let step = body.step(rest).map_err(|_| ClientError::Malformed)?;
        active.received += step.data.len() as u64;
        if active.received > active.job.request.max_body {
            return Err(ClientError::TooLarge);
        }
        if !step.data.is_empty() {
            active.job.handler.on_body(state, cx, &active.job.call, &rest[step.data]);
        }
        Ok(if step.end { Look::Complete(step.used) } else { Look::Used(step.used) })
    }
}

impl<S: 'static> Active<S> {
    /// A head is complete: of an interim answer, or of the one that counts.
    fn head(&mut self, state: &mut S, cx: &mut Context<S>, bytes: &[u8]) -> Result<(), ClientError> {
        let head = parse::response_head(bytes).ok_or(ClientError::Malformed)?;
        let call = &self.job.call;
        if (100..200).contains(&head.status) && head.status != 101 {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(ClientError::Malformed);
            }
            if head.status == 100 && call.0.expecting.replace(false) {
                call.pump();
                self.drained(state, cx);
            }
            return Ok(());
        }
        // Who answers without having asked for the body does not want it.
        let refused = call.0.expecting.get();
        let headers = || head.headers.iter().copied();
        let length = parse::body_length(head.minor_version, headers()).map_err(|_| ClientError::Malformed)?;
        let bare = matches!(head.status, 101 | 204 | 304) || self.job.request.method == "HEAD";
        let body = if bare { BodyDecoder::NONE } else { BodyDecoder::of_response(&length) };
        if matches!(body, BodyDecoder::Length(length) if length > self.job.request.max_body) {
            return Err(ClientError::TooLarge);
        }
        let says = |element| {
            headers().any(|(name, value)| name.eq_ignore_ascii_case("connection") && parse::has_element(value, element))
        };
        let persistent = if head.minor_version == 0 { says("keep-alive") } else { !says("close") };
        self.keep_alive = persistent && !refused && head.status != 101 && !matches!(body, BodyDecoder::UntilClose);
        let text = |(name, value): (&str, &[u8])| (name.to_owned(), String::from_utf8_lossy(value).into_owned());
        let response =
            ClientResponse { status: head.status, headers: headers().map(text).collect(), body: Bytes::new() };
        self.body = Some(body);
        self.job.handler.on_response(state, cx, &self.job.call, &response);
        Ok(())
    }

    /// Goes on with the request's body.
    fn drained(&mut self, state: &mut S, cx: &mut Context<S>) {
        let call = &self.job.call;
        call.pump();
        if !call.is_full() && !call.0.expecting.get() && call.0.wants_drain.replace(false) {
            self.job.handler.on_drain(state, cx, &self.job.call);
        }
    }
}

impl<S: 'static> Handler<S> for ClientConnection<S> {
    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        let mut used = 0;
        while conn.wants_input() {
            let Some(mut active) = self.line.active.borrow_mut().take() else {
                // Nobody asked: whatever this is, it would be taken for the next answer.
                conn.abort();
                return input.len();
            };
            match Self::look(&mut active, state, cx, &input[used..]) {
                Ok(Look::Used(count)) => {
                    used += count;
                    *self.line.active.borrow_mut() = Some(active);
                }
                Ok(Look::Later) => {
                    *self.line.active.borrow_mut() = Some(active);
                    return used;
                }
                Ok(Look::Complete(count)) => {
                    active.keep_alive &= used + count == input.len();
                    self.done(state, cx, conn, active, Ok(()));
                    return input.len();
                }
                Err(error) => {
                    self.done(state, cx, conn, active, Err(error));
                    return input.len();
                }
            }
        }
        used
    }

    fn on_eof(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        let ended = matches!(
            self.line.active.borrow().as_ref().map(|active| &active.body),
            Some(Some(BodyDecoder::UntilClose))
        );
        if ended {
            if let Some(active) = { self.line.active.borrow_mut().take() } {
                self.done(state, cx, conn, active, Ok(()));
            }
        } else {
            self.fail(state, cx, conn, ClientError::Malformed);
        }
        conn.abort();
    }

    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        self.on_flushed(state, cx, conn);
    }

    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn) {
        if let Some(mut active) = { self.line.active.borrow_mut().take() } {
            active.drained(state, cx);
            *self.line.active.borrow_mut() = Some(active);
        }
    }

    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, timer: TimerId) {
        let Some(mut active) = self.line.active.borrow_mut().take() else { return };
        if timer == active.timeout {
            self.done(state, cx, conn, active, Err(ClientError::Timeout));
            return;
        }
        if active.continue_wait == Some(timer) {
            active.continue_wait = None;
            active.job.call.0.expecting.set(false);
            active.drained(state, cx);
        }
        *self.line.active.borrow_mut() = Some(active);
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {
        let error = match reason {
            CloseReason::ConnectTimeout => ClientError::Timeout,
            other => ClientError::Connection(other.clone()),
        };
        self.fail(state, cx, conn, error);
        if let Some(pool) = self.pool.clone() {
            pool.gone(cx, &self.line);
        }
    }
}

impl<S: 'static> fmt::Debug for Line<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("conn", &self.conn).finish_non_exhaustive()
    }
}
