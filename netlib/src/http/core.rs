//! What a connection's handler and the handles of its exchange share: how far the request has
//! been read, how far the answer has got, and what happens when both are complete. Calls no
//! callback, so it may be borrowed by whoever is in one.

use std::fmt::Write as _;
use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::BodyDecoder;
use super::message::{RequestHead, Response, reason_phrase};
use super::outgoing::Outgoing;
use super::parse::{BodyLength, Reject};
use super::server::Shared;
use crate::{CloseReason, Conn, Context, TimerId};

/// How far the request has been read.
#[derive(Debug)]
pub(super) enum Reading {
    /// There is none, or its head is incomplete.
    Head,
    Body(BodyDecoder),
    /// All of it; the next waits for the answer.
    Done,
}

/// How far the answer has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Due,
    Streaming(Framing),
    /// All is said, but not all of it has been given to the connection.
    Pumping,
    Done,
}

/// How the client finds the end of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked,
    Close,
    /// It has no body, whatever is written.
    Nothing,
}

/// What the client owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// Another request, or the first byte of the first.
    Request,
    Head,
    Body,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts, not states of one thing
pub(super) struct Core {
    pub(super) shared: Rc<Shared>,
    pub(super) conn: Conn,
    /// The number of the exchange that is going on, or was the last.
    pub(super) turn: u32,
    pub(super) reading: Reading,
    pub(super) reply: Reply,
    /// This side has ended an exchange before its time.
    pub(super) cut: bool,
    minor_version: u8,
    head_only: bool,
    /// The connection ends with this answer.
    pub(super) close_after: bool,
    pub(super) body_paused: bool,
    /// A write was told to wait.
    pub(super) wants_drain: bool,
    /// The client waits for a sign before it sends the body.
    pub(super) continue_due: bool,
    max_body: u64,
    body_bytes: u64,
    discarded: u64,
    /// The client will send no more.
    pub(super) eof: bool,
    /// Input was left where it is; reading is paused.
    held_since: Option<Instant>,
    held: Duration,
    /// When this request began, or the connection.
    began: Instant,
    pub(super) outgoing: Outgoing,
    deadline: Deadline,
    owed: Owed,
    stall: Deadline,
    stall_mark: u64,
    /// The connection belongs to another handler.
    pub(super) upgraded: bool,
}

impl Core {
    pub(super) fn new(shared: Rc<Shared>, conn: Conn) -> Self {
        Self {
            began: conn.last_recv(),
            outgoing: Outgoing::new(conn.options()),
            shared,
            conn,
            turn: 0,
            reading: Reading::Head,
            reply: Reply::Done,
            cut: false,
            minor_version: 1,
            head_only: false,
            close_after: false,
            body_paused: false,
            wants_drain: false,
            continue_due: false,
            max_body: 0,
            body_bytes: 0,
            discarded: 0,
            eof: false,
            held_since: None,
            held: Duration::ZERO,
            deadline: Deadline::default(),
            owed: Owed::Request,
            stall: Deadline::default(),
            stall_mark: 0,
            upgraded: false,
        }
    }

    pub(super) fn opened<S: 'static>(&mut self, cx: &mut Context<S>) {
        self.began = cx.now();
        let at = self.began.checked_add(self.shared.options.head_timeout);
        self.deadline.set(cx, &self.conn, at);
    }

    // --- the request

    /// Bytes of a head are there, but not all.
    pub(super) fn head_begun<S: 'static>(&mut self, cx: &mut Context<S>) {
        if self.owed == Owed::Request {
            if self.turn > 0 {
                self.began = cx.now();
            }
            self.owed = Owed::Head;
            let at = self.began.checked_add(self.shared.options.head_timeout);
            self.deadline.set(cx, &self.conn, at);
        }
    }

    /// A head is complete and acceptable: the next exchange.
    pub(super) fn begin<S: 'static>(
        &mut self,
        cx: &mut Context<S>,
        head: &RequestHead,
        length: &BodyLength,
        max_body: u64,
    ) {
        if self.owed == Owed::Request && self.turn > 0 {
            self.began = cx.now();
        }
        self.turn += 1;
        self.reply = Reply::Due;
        self.minor_version = head.minor_version();
        self.head_only = head.method() == "HEAD";
        let options = &self.shared.options;
        let persistent = if self.minor_version == 0 {
            head.has_element("connection", "keep-alive")
        } else {
            !head.has_element("connection", "close")
        };
        self.close_after = !persistent || options.keep_alive.is_none() || self.turn >= options.max_requests;
        self.body_paused = false;
        self.wants_drain = false;
        self.max_body = max_body;
        (self.body_bytes, self.discarded, self.held) = (0, 0, Duration::ZERO);
        let decoder = BodyDecoder::of_request(length);
        if decoder.is_complete() {
            self.continue_due = false;
            self.reading = Reading::Done;
            self.deadline.set(cx, &self.conn, None);
        } else {
            self.continue_due = self.minor_version > 0 && head.has_element("expect", "100-continue");
            self.reading = Reading::Body(decoder);
            self.owed = Owed::Body;
            let due = self.body_due(cx.now());
            self.deadline.set(cx, &self.conn, due);
        }
    }

    /// When the body must be complete, if no more of it comes.
    fn body_due(&self, now: Instant) -> Option<Instant> {
        let options = &self.shared.options;
        let earned = self.body_bytes.checked_div(options.min_body_rate).unwrap_or(0);
        let held = self.held + self.held_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.began.checked_add(options.request_timeout)?.checked_add(held)?.checked_add(Duration::from_secs(earned))
    }

    /// The body is wanted now: a client that waits for a sign gets it.
    pub(super) fn say_continue(&mut self) {
        if mem::take(&mut self.continue_due) && self.body_bytes == 0 {
            let _ = self.conn.send(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
    }

    /// Nobody will look at more of the body.
    pub(super) fn discards(&self) -> bool {
        matches!(self.reply, Reply::Pumping | Reply::Done)
    }

    /// Counts body that came in; the error is the status that goes with a limit passed.
    pub(super) fn count_body(&mut self, bytes: usize, discarding: bool) -> Result<(), Reject> {
        self.body_bytes += bytes as u64;
        if discarding {
            self.discarded += bytes as u64;
        }
        let within = self.body_bytes <= self.max_body && self.discarded <= self.shared.options.max_discard;
        if within { Ok(()) } else { Err(413) }
    }

    pub(super) fn body_read<S: 'static>(&mut self, cx: &mut Context<S>) {
        self.reading = Reading::Done;
        self.continue_due = false;
        self.deadline.set(cx, &self.conn, None);
    }

    /// Leaves input where it is.
    pub(super) fn hold(&mut self, now: Instant) {
        if self.held_since.is_none() {
            self.held_since = Some(now);
            self.conn.pause();
        }
    }

    pub(super) fn release(&mut self, now: Instant) {
        if let Some(since) = self.held_since.take() {
            self.held += now.saturating_duration_since(since);
            self.conn.resume();
        }
    }

    // --- the answer

    /// Whether the exchange of that number can still be answered.
    pub(super) fn is_current(&self, turn: u32) -> bool {
        self.turn == turn && !self.upgraded && self.conn.is_open() && !self.discards()
    }

    /// The head of an answer, and how its end will be found. `length` is that of the body, if
    /// it is known.
    pub(super) fn answer_head<S: 'static>(
        &mut self,
        cx: &Context<S>,
        response: &Response,
        length: Option<u64>,
    ) -> (String, Framing) {
        let stated = response.value("Content-Length").and_then(|value| value.parse().ok());
        let bare = !response.may_have_body();
        let framing = match stated.or(length) {
            _ if bare || self.head_only => Framing::Nothing,
            Some(length) => Framing::Length(length),
            None if self.minor_version == 0 => Framing::Close,
            None => Framing::Chunked,
        };
        self.close_after |= self.eof
            || framing == Framing::Close
            || response.value("Connection").is_some_and(|value| super::parse::has_element(value.as_bytes(), "close"));
        let mut head = response.head_lines();
        if self.shared.options.date && !response.names("Date") {
            self.shared.date.append_to(&mut head, cx.unix_time().as_secs());
        }
        if !response.names("Connection") {
            match (self.close_after, self.minor_version) {
                (true, _) => head.push_str("Connection: close\r\n"),
                (false, 0) => head.push_str("Connection: keep-alive\r\n"),
                (false, _) => {}
            }
        }
        match (stated, length) {
            (None, Some(length)) if !bare => {
                write!(head, "Content-Length: {length}\r\n").expect("a String takes everything");
            }
            (None, None) if !bare && self.minor_version > 0 => head.push_str("Transfer-Encoding: chunked\r\n"),
            _ => {}
        }
        head.push_str("\r\n");
        (head, framing)
    }

    /// Before a complete answer: what is left of the body will not be used.
    pub(super) fn give_up_body(&mut self) {
        if let Reading::Body(decoder) = &self.reading {
            let too_long = matches!(decoder, BodyDecoder::Length(left) if *left > self.shared.options.max_discard);
            // One that waits for a sign may send the body or the next request: nobody knows.
            self.close_after |= too_long || mem::take(&mut self.continue_due);
        }
    }

    /// All of the answer has been put into `outgoing`.
    pub(super) fn answered<S: 'static>(&mut self, cx: &mut Context<S>) {
        self.reply = Reply::Pumping;
        self.body_paused = false;
        self.pump(cx);
    }

    /// Gives the connection what it may take now, and goes on if that was all.
    pub(super) fn pump<S: 'static>(&mut self, cx: &mut Context<S>) {
        self.outgoing.pump(&self.conn);
        if self.conn.queued() > 0 && !self.stall.is_set() {
            self.stall_mark = self.conn.bytes_out();
            let at = cx.now().checked_add(self.shared.options.send_timeout);
            self.stall.set(cx, &self.conn, at);
        }
        self.settle(cx);
    }

    /// When question and answer are complete: the next question, or the end.
    pub(super) fn settle<S: 'static>(&mut self, cx: &mut Context<S>) {
        // A file is given to the connection whole, but it is not answered before it has left: until
        // then the limit of a stalled answer holds, and neither that of an idle connection nor that
        // of a close.
        if self.reply == Reply::Pumping && self.outgoing.is_empty() && !self.conn.sends_file() {
            self.reply = Reply::Done;
        }
        if self.reply != Reply::Done || self.upgraded || !self.conn.is_open() {
            if self.discards() {
                self.release(cx.now()); // the rest of the body is in the way
            }
            return;
        }
        match self.reading {
            Reading::Head => {}
            _ if self.close_after || self.eof => self.conn.close(),
            Reading::Body(_) => self.release(cx.now()),
            Reading::Done => {
                self.reading = Reading::Head;
                self.owed = Owed::Request;
                let at = self.shared.options.keep_alive.and_then(|limit| cx.now().checked_add(limit));
                self.deadline.set(cx, &self.conn, at);
                self.release(cx.now());
            }
        }
    }

    /// Ends the connection with an answer of the server's own, if there is room for one.
    pub(super) fn refuse(&mut self, status: u16) {
        self.continue_due = false;
        self.cut |= self.reply != Reply::Done;
        match self.reply {
            Reply::Due | Reply::Done if !matches!(self.reading, Reading::Body(_)) || self.reply == Reply::Due => {
                let response = Response::refusal(status);
                let response = if status == 405 { response.header("Allow", "GET, HEAD") } else { response };
                let mut bytes = response.to_bytes();
                if self.reply == Reply::Due && self.head_only {
                    bytes.truncate(bytes.len() - response.body.len());
                }
                // A send that fails means that the peer is gone, and then so is the need to answer.
                let _ = self.conn.send(bytes);
                self.conn.close_with(CloseReason::Refused(reason_phrase(status)));
            }
            // The answer is under way: only its missing end can tell that something is wrong.
            Reply::Due | Reply::Streaming(_) | Reply::Pumping => self.conn.abort(),
            Reply::Done => self.conn.close_with(CloseReason::Refused(reason_phrase(status))),
        }
        self.reply = Reply::Done;
    }

    // --- time

    /// A timer of this connection is due.
    pub(super) fn timer_due<S: 'static>(&mut self, cx: &mut Context<S>, timer: TimerId) {
        if self.deadline.fired(cx, &self.conn, timer) {
            match self.owed {
                // It owes nothing.
                Owed::Request => self.conn.close_with(CloseReason::Idle),
                Owed::Head => self.refuse(408),
                Owed::Body => match self.body_due(cx.now()) {
                    Some(at) if at <= cx.now() => self.refuse(408),
                    later => self.deadline.set(cx, &self.conn, later),
                },
            }
        } else if self.stall.fired(cx, &self.conn, timer) && self.conn.queued() > 0 {
            if self.conn.bytes_out() == self.stall_mark {
                self.conn.abort();
            } else {
                self.stall_mark = self.conn.bytes_out();
                let at = cx.now().checked_add(self.shared.options.send_timeout);
                self.stall.set(cx, &self.conn, at);
            }
        }
    }

    pub(super) fn cancel_timers<S: 'static>(&mut self, cx: &mut Context<S>) {
        self.deadline.cancel(cx);
        self.stall.cancel(cx);
    }
}

/// A moment that moves often and is reached seldom: its timer is not moved along, but looks
/// when it fires whether there is time left.
#[derive(Debug, Default)]
struct Deadline {
    at: Option<Instant>,
    timer: Option<(TimerId, Instant)>,
}

impl Deadline {
    fn is_set(&self) -> bool {
        self.at.is_some()
    }

    fn set<S: 'static>(&mut self, cx: &mut Context<S>, conn: &Conn, at: Option<Instant>) {
        self.at = at;
        let Some(at) = at else { return };
        let delay = at.saturating_duration_since(cx.now());
        match &mut self.timer {
            Some((_, armed)) if *armed <= at => {}
            Some((timer, armed)) => {
                cx.rearm(*timer, delay);
                *armed = at;
            }
            None => self.timer = Some((cx.conn_timer(conn, delay), at)),
        }
    }

    /// Whether `timer` is its own and the moment has come, which takes the moment away.
    fn fired<S: 'static>(&mut self, cx: &mut Context<S>, conn: &Conn, timer: TimerId) -> bool {
        if self.timer.is_none_or(|(own, _)| own != timer) {
            return false;
        }
        self.timer = None;
        if self.at.is_some_and(|at| at <= cx.now()) {
            self.at = None;
            return true;
        }
        self.set(cx, conn, self.at);
        false
    }

    fn cancel<S: 'static>(&mut self, cx: &mut Context<S>) {
        self.at = None;
        if let Some((timer, _)) = self.timer.take() {
            cx.cancel(timer);
        }
    }
}
