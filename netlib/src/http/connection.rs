//! The handler of a server's connection: cuts the input into heads and bodies and brings them to
//! the service. What it decides on is in `core.rs`.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::core::{Core, Reading, Reply};
use super::exchange::Exchange;
use super::message::RequestHead;
use super::parse::{self, BodyLength, HeadScanner, Reject};
use super::server::{RequestHandler, Service, Shared};
use crate::{CloseReason, Conn, Context, Handler, TimerId};

pub(super) struct Connection<S: 'static, V> {
    core: Rc<RefCell<Core>>,
    /// Callbacks never nest, so it is never borrowed twice.
    service: Rc<RefCell<V>>,
    scanner: HeadScanner,
    current: Option<Current<S>>,
}

/// Takes the body of the request that is going on.
struct Current<S: 'static> {
    exchange: Exchange,
    handler: Box<dyn RequestHandler<S>>,
    /// It has been told that the body is complete.
    ended: bool,
}

/// What comes of a look at the input.
enum Look {
    /// So many bytes were used; there may be more to do.
    Used(usize),
    /// Nothing more can be done with the input now.
    Later,
    /// It is of no interest any more.
    Over,
}

impl<S: 'static, V: Service<S>> Connection<S, V> {
    pub(super) fn new(shared: Rc<Shared>, service: Rc<RefCell<V>>, conn: &Conn) -> Self {
        let core = Rc::new(RefCell::new(Core::new(shared, conn.clone())));
        Self { core, service, scanner: HeadScanner::default(), current: None }
    }

    fn look(&mut self, state: &mut S, cx: &mut Context<S>, rest: &[u8]) -> Look {
        let mut core = self.core.borrow_mut();
        if core.upgraded || !core.conn.is_open() {
            return Look::Over;
        }
        if rest.is_empty() {
            return Look::Later;
        }
        match core.reading {
            Reading::Head if core.outgoing.is_full(&core.conn) => {
                // The client asks, but does not take the answers.
                core.hold(cx.now());
                Look::Later
            }
            Reading::Head => {
                drop(core);
                self.look_at_head(state, cx, rest)
            }
            Reading::Body(_) => {
                drop(core);
                self.look_at_body(state, cx, rest)
            }
            Reading::Done => {
                core.hold(cx.now());
                Look::Later
            }
        }
    }

    fn refuse(&self, status: Reject) -> Look {
        self.core.borrow_mut().refuse(status);
        Look::Over
    }

    fn look_at_head(&mut self, state: &mut S, cx: &mut Context<S>, rest: &[u8]) -> Look {
        // Some clients send an empty line behind a body, which then comes before a request.
        let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank > 0 {
            return Look::Used(blank);
        }
        let limits = self.core.borrow().shared.options.head_limits();
        match self.scanner.advance(rest, limits) {
            Err(status) => self.refuse(status),
            Ok(None) => {
                self.core.borrow_mut().head_begun(cx);
                Look::Later
            }
            Ok(Some(length)) => {
                self.scanner = HeadScanner::default();
                match self.accept(&rest[..length]) {
                    Err(status) => return self.refuse(status),
                    Ok((head, body, limit)) => self.serve(state, cx, head, &body, limit),
                }
                Look::Used(length)
            }
        }
    }

    /// The request, how long its body is, and how long that may be.
    fn accept(&self, bytes: &[u8]) -> Result<(RequestHead, BodyLength, u64), Reject> {
        let core = self.core.borrow();
        let options = &core.shared.options;
        let head = parse::request_head(bytes)?;
        let length = parse::body_length(head.minor_version(), head.headers())?;
        if options.require_host && head.minor_version() > 0 && head.headers().all(|(name, _)| !is_host(name)) {
            return Err(400);
        }
        let expects = head.headers().find(|(name, _)| name.eq_ignore_ascii_case("expect"));
        if expects.is_some_and(|(_, value)| !value.eq_ignore_ascii_case(b"100-continue")) {
            return Err(417);
        }
        let limit = self.service.borrow().max_body(&head).unwrap_or(options.max_body);
        match length {
            BodyLength::Known(length) if length > limit => Err(413),
            length => Ok((head, length, limit)),
        }
    }

    fn serve(&mut self, state: &mut S, cx: &mut Context<S>, head: RequestHead, length: &BodyLength, limit: u64) {
        self.core.borrow_mut().begin(cx, &head, length, limit);
        let exchange = Exchange::new(&self.core, head);
        let service = &self.service;
        match cx.caught("an http service", |cx| service.borrow_mut().on_request(state, cx, &exchange)) {
            Some(Some(handler)) if exchange.is_open() => {
                self.current = Some(Current { exchange, handler, ended: false });
                let mut core = self.core.borrow_mut();
                match core.reading {
                    Reading::Body(_) if !core.body_paused => core.say_continue(),
                    Reading::Done => {
                        drop(core);
                        self.ended(state, cx);
                    }
                    _ => {}
                }
            }
            None if exchange.is_open() => self.core.borrow_mut().refuse(500),
            Some(_) | None => {}
        }
    }

    fn look_at_body(&mut self, state: &mut S, cx: &mut Context<S>, rest: &[u8]) -> Look {
        let mut core = self.core.borrow_mut();
        let discards = core.discards();
        if core.body_paused || (self.current.is_none() && !discards) {
            core.hold(cx.now());
            return Look::Later;
        }
        let Reading::Body(decoder) = &mut core.reading else { return Look::Later };
        let outcome = decoder.step(rest).map_err(|_| 400);
        let step = match outcome.and_then(|step| core.count_body(step.data.len(), discards).map(|()| step)) {
            Ok(step) => step,
            Err(status) => {
                core.refuse(status);
                return Look::Over;
            }
        };
        if step.end {
            core.body_read(cx);
        }
        drop(core);
        if !step.data.is_empty() && !discards {
            self.call(cx, |current, cx| {
                current.handler.on_body(state, cx, &current.exchange, &rest[step.data.clone()]);
            });
        }
        if step.end {
            self.ended(state, cx);
        }
        Look::Used(step.used)
    }

    /// The body is complete.
    fn ended(&mut self, state: &mut S, cx: &mut Context<S>) {
        self.call(cx, |current, cx| {
            current.ended = true;
            current.handler.on_end(state, cx, &current.exchange);
        });
        self.core.borrow_mut().settle(cx);
    }

    /// Calls the handler of an exchange that is still open.
    fn call(&mut self, cx: &mut Context<S>, f: impl FnOnce(&mut Current<S>, &mut Context<S>)) {
        let Some(current) = self.current.as_mut().filter(|current| current.exchange.is_open()) else { return };
        if cx.caught("an http request handler", |cx| f(current, cx)).is_none() && current.exchange.is_open() {
            self.core.borrow_mut().refuse(500);
        }
        self.drop_finished();
    }

    /// Forgets the handler of an answer that is complete, or that nobody can complete.
    fn drop_finished(&mut self) {
        let Some(current) = &self.current else { return };
        let over = !current.exchange.is_open() || {
            let core = self.core.borrow();
            let waits = current.ended || (core.body_paused && matches!(core.reading, Reading::Body(_)));
            // For nothing: dropping the last handle answers with 500.
            waits && current.exchange.is_last() && !core.wants_drain
        };
        if over {
            self.current = None;
        }
    }
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}

impl<S: 'static, V: Service<S>> Connection<S, V> {
    fn drained(&mut self, state: &mut S, cx: &mut Context<S>) {
        let mut core = self.core.borrow_mut();
        core.pump(cx);
        if core.outgoing.is_full(&core.conn) {
            return;
        }
        if matches!(core.reading, Reading::Head) {
            core.release(cx.now());
        }
        let tell = std::mem::take(&mut core.wants_drain) && matches!(core.reply, Reply::Streaming(_));
        drop(core);
        if tell {
            self.call(cx, |current, cx| current.handler.on_drain(state, cx, &current.exchange));
        } else {
            self.drop_finished();
        }
    }
}

impl<S: 'static, V: Service<S>> Handler<S> for Connection<S, V> {
    fn on_open(&mut self, _: &mut S, cx: &mut Context<S>, _: &Conn) {
        self.core.borrow_mut().opened(cx);
    }

    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            match self.look(state, cx, &input[used..]) {
                Look::Used(count) => used += count,
                Look::Later => return used,
                Look::Over if self.core.borrow().upgraded => return used,
                Look::Over => return input.len(),
            }
        }
    }

    fn on_eof(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn) {
        let mut core = self.core.borrow_mut();
        core.eof = true;
        // A client may end its side behind its request and wait for the answer.
        if !matches!(core.reading, Reading::Done) {
            conn.close_with(CloseReason::PeerClosed);
        }
    }

    fn on_low_water(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn) {
        self.drained(state, cx);
    }

    fn on_flushed(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn) {
        self.drained(state, cx);
    }

    fn on_timer(&mut self, _: &mut S, cx: &mut Context<S>, _: &Conn, timer: TimerId) {
        self.core.borrow_mut().timer_due(cx, timer);
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn, reason: &CloseReason) {
        let unfinished = self.core.borrow().cut || self.core.borrow().reply != Reply::Done;
        if let Some(mut current) = self.current.take()
            && unfinished
        {
            cx.caught("an http request handler", |cx| current.handler.on_gone(state, cx, reason));
        }
    }
}

impl<S: 'static, V> fmt::Debug for Connection<S, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("core", &self.core).finish_non_exhaustive()
    }
}
