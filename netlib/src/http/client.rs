//! The client's surface: requests as values, the two ways to make one, and the handles of one
//! that is under way. What happens on its connection is in `client_conn.rs`. Redirects are not
//! followed, nothing is decompressed, and what a status means is the caller's affair.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::client_conn;
use super::exchange::{Flow, chunk};
use super::outgoing::{Outgoing, Piece};
use crate::{CloseReason, Conn, ConnOptions, ConnectOptions, Context, SendError, Target};

/// A request to be made.
///
/// ```
/// use std::time::Duration;
/// use netlib::http::ClientRequest;
///
/// let request = ClientRequest::new("PUT", "example.org", "/items/7")
///     .header("Content-Type", "application/json")
///     .body("{}")
///     .timeout(Duration::from_secs(3));
/// # let _ = request;
/// ```
#[derive(Debug, Clone)]
pub struct ClientRequest {
    pub(super) method: String,
    host: String,
    path: String,
    /// Whole lines with their ends.
    headers: String,
    pub(super) body: RequestBody,
    pub(super) expects_continue: bool,
    pub(super) timeout: Duration,
    pub(super) max_body: u64,
    pub(super) connect: ConnectOptions,
}

#[derive(Debug, Clone)]
pub(super) enum RequestBody {
    None,
    Whole(Bytes),
    /// Written bit by bit; so many bytes, if that is known.
    Streamed(Option<u64>),
}

impl ClientRequest {
    /// For `path` (with its query, if any) of the server that is called `host`. Ten seconds,
    /// and an answer of at most 1 MiB.
    pub fn new(method: &str, host: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers: String::new(),
            body: RequestBody::None,
            expects_continue: false,
            timeout: Duration::from_secs(10),
            max_body: 1024 * 1024,
            connect: ConnectOptions::default(),
        }
    }

    /// `GET`.
    pub fn get(host: &str, path: &str) -> Self {
        Self::new("GET", host, path)
    }

    /// Appends a header. Control characters are left out: a line break would begin another.
    /// Length and coding of the body, `Host` and `Connection` are the client's to say.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.extend(name.chars().chain(": ".chars()).chain(value.chars()).filter(|c| !c.is_control()));
        self.headers.push_str("\r\n");
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = RequestBody::Whole(body.into());
        self
    }

    /// The body will be written to the [`Call`], `length` bytes of it if that is known, else in
    /// chunks.
    pub fn streamed_body(mut self, length: Option<u64>) -> Self {
        self.body = RequestBody::Streamed(length);
        self
    }

    /// Sends the body only when the server has said that it wants it, or nothing for a second.
    pub fn expect_continue(mut self) -> Self {
        self.expects_continue = true;
        self
    }

    /// Over everything, from now to the last byte of the answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Bytes of the answer's body; a longer one is [`ClientError::TooLarge`].
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.max_body = bytes;
        self
    }

    /// How to connect: with TLS, for example, by its `layer`. Not used by a
    /// [`Pool`](super::Pool), which has its own.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.connect = options;
        self
    }

    /// Request line and headers; None if something in it would break out of its place.
    pub(super) fn head(&self, keep_alive: bool) -> Option<String> {
        let printable = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let token = self.method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !token || self.method.is_empty() || !self.path.starts_with('/') {
            return None;
        }
        if !printable(&self.path) || !printable(&self.host) {
            return None;
        }
        let Self { method, host, path, headers, .. } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}");
        if !headers.to_ascii_lowercase().contains("accept:") {
            head.push_str("Accept: */*\r\n");
        }
        let length = match &self.body {
            RequestBody::None => None,
            RequestBody::Whole(body) => Some(body.len() as u64),
            RequestBody::Streamed(length) => *length,
        };
        match (length, &self.body) {
            (Some(length), _) => write!(head, "Content-Length: {length}\r\n").expect("a String takes everything"),
            (None, RequestBody::Streamed(_)) => head.push_str("Transfer-Encoding: chunked\r\n"),
            (None, _) => {}
        }
        if self.expects_continue {
            head.push_str("Expect: 100-continue\r\n");
        }
        head.push_str(if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
        Some(head)
    }
}

/// An answer.
///
/// ```
/// use netlib::http::ClientResponse;
///
/// let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
/// let response = ClientResponse { status: 200, headers, body: "hello".into() };
/// assert_eq!(response.header("content-type"), Some("text/plain"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientResponse {
    /// Such as 200. Any status is an answer, not an error.
    pub status: u16,
    /// Names and values in the order in which they came; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// All of it; empty where it is streamed.
    pub body: Bytes,
}

impl ClientResponse {
    /// The first header of that name, which is compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Why there is no answer.
///
/// ```
/// use netlib::CloseReason;
/// use netlib::http::ClientError;
///
/// /// Whether asking again may help.
/// fn worth_another_try(error: &ClientError) -> bool {
///     matches!(error, ClientError::Connection(_) | ClientError::Timeout | ClientError::PoolFull)
/// }
/// assert!(worth_another_try(&ClientError::Connection(CloseReason::Reset)));
/// assert!(!worth_another_try(&ClientError::BadTarget));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// Method, host or path cannot stand in a request.
    BadTarget,
    /// Not connected, or the connection broke; says how.
    Connection(CloseReason),
    /// The time limit passed.
    Timeout,
    /// The answer is larger than its limit.
    TooLarge,
    /// What came is not HTTP/1, or ended too early.
    Malformed,
    /// All connections of the [`Pool`](super::Pool) are busy, and as many requests wait as may.
    PoolFull,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadTarget => f.write_str("method, host or path has characters that a request cannot carry"),
            Self::Connection(reason) => reason.fmt(f),
            Self::Timeout => f.write_str("no answer in time"),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::Malformed => f.write_str("the answer is not HTTP, or incomplete"),
            Self::PoolFull => f.write_str("too many requests wait for a connection"),
        }
    }
}

impl std::error::Error for ClientError {}

/// Takes an answer while it comes in, and is told when more of a streamed request may be written.
///
/// ```
/// use netlib::Context;
/// use netlib::http::{self, Call, ClientError, ClientRequest, ResponseHandler};
///
/// /// Counts the bytes of an answer of any length.
/// struct Count(u64);
///
/// impl ResponseHandler<u64> for Count {
///     fn on_body(&mut self, _: &mut u64, _: &mut Context<u64>, _: &Call, chunk: &[u8]) {
///         self.0 += chunk.len() as u64;
///     }
///     fn on_done(&mut self, total: &mut u64, _: &mut Context<u64>, result: Result<(), ClientError>) {
///         match result {
///             Ok(()) => *total = self.0,
///             Err(error) => println!("{error}"),
///         }
///     }
/// }
///
/// # fn example(cx: &mut Context<u64>) {
/// http::fetch(cx, ("localhost", 8080), ClientRequest::get("localhost", "/large").max_body(u64::MAX), Box::new(Count(0)));
/// # }
/// ```
#[allow(unused_variables)]
pub trait ResponseHandler<S: 'static>: 'static {
    /// The head of the answer; its body follows.
    fn on_response(&mut self, state: &mut S, cx: &mut Context<S>, call: &Call, head: &ClientResponse) {}

    /// The next part of the body; its borders mean nothing.
    fn on_body(&mut self, state: &mut S, cx: &mut Context<S>, call: &Call, chunk: &[u8]) {}

    /// It is time for the first write of a [streamed body](ClientRequest::streamed_body), or for
    /// the next, after one that was told to [`Wait`](Flow::Wait).
    fn on_drain(&mut self, state: &mut S, cx: &mut Context<S>, call: &Call) {}

    /// The end, exactly once: the answer is complete, or will never be.
    fn on_done(&mut self, state: &mut S, cx: &mut Context<S>, result: Result<(), ClientError>);
}

/// The handle of a request that is under way. Dropping it changes nothing.
///
/// Thread rule: it belongs to its reactor's thread.
///
/// ```
/// use netlib::http::{Call, Flow};
/// # use netlib::SendError;
///
/// /// Of a request with a `streamed_body`; `on_drain` says when to go on.
/// fn upload(call: &Call, mut parts: impl Iterator<Item = Vec<u8>>) -> Result<(), SendError> {
///     for part in &mut parts {
///         if call.write(part)? == Flow::Wait {
///             return Ok(());
///         }
///     }
///     call.finish()
/// }
/// ```
#[derive(Clone)]
pub struct Call(pub(super) Rc<CallInner>);

pub(super) struct CallInner {
    pub(super) conn: RefCell<Option<Conn>>,
    pub(super) outgoing: RefCell<Outgoing>,
    pub(super) upload: Cell<Upload>,
    /// The server has not said yet that it wants the body.
    pub(super) expecting: Cell<bool>,
    pub(super) wants_drain: Cell<bool>,
    pub(super) over: Cell<bool>,
}

/// What is still to be written of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upload {
    Done,
    Length(u64),
    Chunked,
}

impl Call {
    pub(super) fn new(request: &ClientRequest, options: &ConnOptions) -> Self {
        let mut outgoing = Outgoing::new(options);
        let upload = match &request.body {
            RequestBody::None | RequestBody::Streamed(Some(0)) => Upload::Done,
            RequestBody::Whole(body) => {
                outgoing.push(Piece::Bytes(body.clone()));
                Upload::Done
            }
            RequestBody::Streamed(Some(length)) => Upload::Length(*length),
            RequestBody::Streamed(None) => Upload::Chunked,
        };
        Self(Rc::new(CallInner {
            conn: RefCell::new(None),
            outgoing: RefCell::new(outgoing),
            upload: Cell::new(upload),
            expecting: Cell::new(request.expects_continue && !matches!(request.body, RequestBody::None)),
            wants_drain: Cell::new(upload != Upload::Done),
            over: Cell::new(false),
        }))
    }

    /// Appends to the body of a request with a [`streamed_body`](ClientRequest::streamed_body).
    /// The error says that the request is over, or more was written than it announced.
    ///
    /// # Errors
    ///
    /// The request is over, or more was written than it announced.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<Flow, SendError> {
        let bytes = bytes.into();
        if self.0.over.get() {
            return Err(SendError::Closed);
        }
        let mut outgoing = self.0.outgoing.borrow_mut();
        match self.0.upload.get() {
            Upload::Done => return Err(SendError::Closed),
            Upload::Length(left) => {
                let left = left.checked_sub(bytes.len() as u64).ok_or(SendError::Closed)?;
                self.0.upload.set(if left == 0 { Upload::Done } else { Upload::Length(left) });
                outgoing.push(Piece::Bytes(bytes));
            }
            Upload::Chunked if bytes.is_empty() => {} // an empty chunk would be the end
            Upload::Chunked => chunk(bytes).into_iter().for_each(|piece| outgoing.push(Piece::Bytes(piece))),
        }
        drop(outgoing);
        self.pump();
        let full = self.is_full();
        self.0.wants_drain.set(full);
        let over = self.0.conn.borrow().as_ref().is_some_and(|conn| self.0.outgoing.borrow().is_over_limit(conn));
        if over {
            self.cancel();
            return Err(SendError::Closed);
        }
        Ok(if full { Flow::Wait } else { Flow::Go })
    }

    /// The body is complete. Refused if it got less than was announced.
    ///
    /// # Errors
    ///
    /// The request is over, or its body got less than was announced.
    pub fn finish(&self) -> Result<(), SendError> {
        match self.0.upload.get() {
            Upload::Done => return Ok(()),
            Upload::Length(_) => return Err(SendError::Closed),
            Upload::Chunked => {
                self.0.outgoing.borrow_mut().push(Piece::Bytes(Bytes::from_static(b"0\r\n\r\n")));
                self.0.upload.set(Upload::Done);
            }
        }
        self.pump();
        Ok(())
    }

    /// Stops the body of the answer from coming.
    pub fn pause(&self) {
        self.with_conn(Conn::pause);
    }

    /// Lets it come again.
    pub fn resume(&self) {
        self.with_conn(Conn::resume);
    }

    /// Gives up. The handler is told [`CloseReason::Aborted`].
    pub fn cancel(&self) {
        self.with_conn(Conn::abort);
        // One that still waits for a connection finds this instead of one.
        self.0.upload.set(Upload::Done);
        self.0.over.set(true);
    }

    fn with_conn(&self, f: impl FnOnce(&Conn)) {
        if !self.0.over.get()
            && let Some(conn) = self.0.conn.borrow().as_ref()
        {
            f(conn);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let outgoing = self.0.outgoing.borrow();
        self.0.conn.borrow().as_ref().is_none_or(|conn| outgoing.is_full(conn))
    }

    pub(super) fn pump(&self) {
        if !self.0.expecting.get() {
            self.with_conn(|conn| self.0.outgoing.borrow_mut().pump(conn));
        }
    }

    /// Everything that the request is has been given to the connection.
    pub(super) fn is_sent(&self) -> bool {
        self.0.upload.get() == Upload::Done && self.0.outgoing.borrow().is_empty()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("conn", &self.0.conn).finish_non_exhaustive()
    }
}

/// Makes a request of `server`, an address or a name, on a connection of its own. `handler` is never called
/// from within this call.
pub fn fetch<S: 'static>(
    cx: &mut Context<S>,
    server: impl Into<Target>,
    request: ClientRequest,
    handler: Box<dyn ResponseHandler<S>>,
) -> Call {
    client_conn::start(cx, server.into(), request, handler)
}

/// [`fetch`] of an answer that is wanted in one piece. `then` is called exactly once, never from
/// within this call, and at the latest when the request's timeout has passed.
///
/// ```no_run
/// # fn example(cx: &mut netlib::Context<()>) {
/// use netlib::http::{self, ClientRequest};
///
/// let request = ClientRequest::new("POST", "localhost", "/items").body("{}");
/// http::request(cx, ("localhost", 8080), request, |_, _, result| match result {
///     Ok(response) => println!("status {}", response.status),
///     Err(error) => println!("{error}"),
/// });
/// # }
/// ```
pub fn request<S: 'static>(
    cx: &mut Context<S>,
    server: impl Into<Target>,
    request: ClientRequest,
    then: impl FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>) + 'static,
) -> Call {
    fetch(cx, server, request, gather(then))
}

/// [`request`] with `GET`.
///
/// ```no_run
/// # fn example(cx: &mut netlib::Context<()>) {
/// use std::time::Duration;
/// use netlib::http;
///
/// http::get(cx, ("127.0.0.1", 8080), "127.0.0.1:8080", "/msg_server", Duration::from_secs(3), |_, _, result| match result {
///     Ok(response) if response.status == 200 => println!("{} bytes", response.body.len()),
///     Ok(response) => println!("status {}", response.status),
///     Err(error) => println!("{error}"),
/// });
/// # }
/// ```
pub fn get<S: 'static>(
    cx: &mut Context<S>,
    server: impl Into<Target>,
    host: &str,
    path: &str,
    timeout: Duration,
    then: impl FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>) + 'static,
) {
    request(cx, server, ClientRequest::get(host, path).timeout(timeout), then);
}

/// A handler that gathers the whole answer.
pub(super) fn gather<S: 'static>(
    then: impl FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>) + 'static,
) -> Box<dyn ResponseHandler<S>> {
    Box::new(Gather { response: None, body: Vec::new(), then: Some(then) })
}

struct Gather<F> {
    response: Option<ClientResponse>,
    /// No longer than the request's limit.
    body: Vec<u8>,
    then: Option<F>,
}

impl<S: 'static, F> ResponseHandler<S> for Gather<F>
where
    F: FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>) + 'static,
{
    fn on_response(&mut self, _: &mut S, _: &mut Context<S>, _: &Call, head: &ClientResponse) {
        self.response = Some(head.clone());
    }

    fn on_body(&mut self, _: &mut S, _: &mut Context<S>, _: &Call, chunk: &[u8]) {
        self.body.extend_from_slice(chunk);
    }

    fn on_done(&mut self, state: &mut S, cx: &mut Context<S>, result: Result<(), ClientError>) {
        let body = Bytes::from(std::mem::take(&mut self.body));
        let result = result.and_then(|()| self.response.take().ok_or(ClientError::Malformed));
        if let Some(then) = self.then.take() {
            then(state, cx, result.map(|response| ClientResponse { body, ..response }));
        }
    }
}
