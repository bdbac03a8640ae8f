//! The server: one handler per connection that gathers a request, asks the service, answers and
//! closes. A response is written as it is given, header by header, because there are clients
//! that care about order and spelling.

use std::cell::RefCell;
use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::parse::{self, Progress, RequestHead, RequestParser};
use crate::socket::Address;
use crate::{CloseReason, Conn, Context, Handler, ListenOptions, Listener, TimerId};

/// The limits of a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Of the listener and its connections.
    pub listen: ListenOptions,
    /// From the connection to the last byte of the request; over it the answer is 408. What
    /// takes a connection to keep it open pays with this (slow loris).
    pub request_timeout: Duration,
    /// Bytes of request line and headers; over it the answer is 431.
    pub max_head: usize,
    /// Bytes of the body, as announced; over it the answer is 413.
    pub max_body: usize,
}

impl Default for ServerOptions {
    /// 30 s, 16 KiB, 1 MiB.
    fn default() -> Self {
        Self {
            listen: ListenOptions::default(),
            request_timeout: Duration::from_secs(30),
            max_head: 16 * 1024,
            max_body: 1024 * 1024,
        }
    }
}

/// A complete request.
#[derive(Debug)]
pub struct Request<'a> {
    /// As sent, usually in capitals.
    pub method: &'a str,
    /// As sent: path and query, neither decoded.
    pub target: &'a str,
    /// All of it; empty if there is none.
    pub body: &'a [u8],
    /// Who asks.
    pub peer: Address,
    headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Request<'a> {
    fn new(head: RequestHead<'a>, body: &'a [u8], peer: Address) -> Self {
        Self { method: head.method, target: head.target, body, peer, headers: head.headers }
    }

    /// The target up to the question mark.
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// The target behind the question mark.
    pub fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// All headers in the order in which they were sent.
    pub fn headers(&self) -> &[(&'a str, &'a [u8])] {
        &self.headers
    }

    /// The first header of that name, which is compared without regard to case. `None` also if
    /// its value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(parse::find(&self.headers, name)?).ok()
    }
}

/// What a service answers.
///
/// `Content-Length` and `Connection: close` are added at the end unless the response names them
/// itself.
///
/// ```
/// use netlib::http::Response;
///
/// let response = Response::new(200).header_raw("Connection:close").header("Content-Type", "text/plain").body("ok\n");
/// assert_eq!(
///     response.to_bytes(),
///     "HTTP/1.1 200 OK\r\nConnection:close\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
/// );
/// ```
#[derive(Debug, Clone)]
pub struct Response {
    status: u16,
    /// Whole lines without their ends.
    headers: Vec<String>,
    body: Bytes,
}

impl Response {
    /// An empty response with that status.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Appends a header, written as `name: value`.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.header_raw(&format!("{name}: {value}"))
    }

    /// Appends a header line exactly as given, such as `Connection:close`. Control characters
    /// are left out: a line break would begin another header.
    pub fn header_raw(mut self, line: &str) -> Self {
        self.headers.push(line.chars().filter(|c| !c.is_control()).collect());
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The response as it goes over the wire.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = self.head().into_bytes();
        if self.may_have_body() {
            bytes.extend_from_slice(&self.body);
        }
        bytes.into()
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status));
        for line in &self.headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if !self.names("Connection") {
            head.push_str("Connection: close\r\n");
        }
        if !self.names("Content-Length") && self.may_have_body() {
            write!(head, "Content-Length: {}\r\n", self.body.len()).expect("a String takes everything");
        }
        head.push_str("\r\n");
        head
    }

    /// These two have none by definition.
    fn may_have_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }

    fn names(&self, name: &str) -> bool {
        self.headers.iter().any(|line| line.split(':').next().is_some_and(|own| own.eq_ignore_ascii_case(name)))
    }

    /// For a request that never reached the service.
    fn refusal(status: u16) -> Self {
        Self::new(status).header("Content-Type", "text/plain").body(format!("{}\n", reason_phrase(status)))
    }
}

/// Serves HTTP on a bound listener. `service` is called once per complete request, whatever its
/// method; answers to HEAD lose their body on the way out. Requests that are malformed or over a
/// limit are answered (400, 408, 411, 413, 431, 501, 505) without it.
///
/// ```
/// use netlib::http::{self, Response, ServerOptions};
/// use netlib::{Reactor, ReactorConfig};
///
/// let mut reactor: Reactor<u64> = Reactor::new(ReactorConfig::default())?;
/// let listener = netlib::socket::bind_tcp("127.0.0.1:0".parse().unwrap(), 1024)?;
/// http::serve(reactor.context(), listener, ServerOptions::default(), |served, _, request| {
///     *served += 1;
///     match request.path() {
///         "/healthz" => Response::new(200).body("ok\n"),
///         _ => Response::new(404),
///     }
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn serve<S: 'static>(
    cx: &mut Context<S>,
    listener: TcpListener,
    options: ServerOptions,
    service: impl FnMut(&mut S, &mut Context<S>, &Request<'_>) -> Response + 'static,
) -> io::Result<Listener> {
    let listen = options.listen.clone();
    let options = Rc::new(options);
    let service = Rc::new(RefCell::new(service));
    cx.listen_on(listener, listen, move |_, _, _| {
        Some(Box::new(Connection {
            options: Rc::clone(&options),
            service: Rc::clone(&service),
            parser: RequestParser::default(),
            timeout: None,
            told_to_continue: false,
        }))
    })
}

/// One connection, which carries one request.
struct Connection<F> {
    options: Rc<ServerOptions>,
    /// Callbacks never nest, so it is never borrowed twice.
    service: Rc<RefCell<F>>,
    parser: RequestParser,
    timeout: Option<TimerId>,
    told_to_continue: bool,
}

impl<F> Connection<F> {
    fn refuse(conn: &Conn, status: u16) {
        // A send that fails means that the peer is gone, and then so is the need to answer.
        let _ = conn.send(Response::refusal(status).to_bytes());
        conn.close_with(CloseReason::Refused(reason_phrase(status)));
    }
}

impl<S, F> Handler<S> for Connection<F>
where
    S: 'static,
    F: FnMut(&mut S, &mut Context<S>, &Request<'_>) -> Response + 'static,
{
    fn on_open(&mut self, _: &mut S, cx: &mut Context<S>, conn: &Conn) {
        self.timeout = Some(cx.conn_timer(conn, self.options.request_timeout));
    }

    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        // Some clients send an empty line behind a body, which then comes before a request.
        let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let request = &input[blank..];
        if request.is_empty() {
            return blank;
        }
        match self.parser.advance(request, &self.options) {
            Ok(Progress::Head) => return blank,
            Ok(Progress::Body { expects_continue }) => {
                if expects_continue && !self.told_to_continue {
                    self.told_to_continue = true;
                    let _ = conn.send(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
                }
                return blank;
            }
            Ok(Progress::Complete { head, body }) => match parse::request_head(&request[..head]) {
                Ok(parsed) => {
                    let request = Request::new(parsed, &request[head..head + body], conn.peer_addr());
                    let served = cx.caught("an http service", |cx| (self.service.borrow_mut())(state, cx, &request));
                    let response = served.unwrap_or_else(|| Response::refusal(500));
                    // In one piece: a single message may be larger than the output limit.
                    let _ = match request.method {
                        "HEAD" => conn.send(response.head()),
                        _ => conn.send(response.to_bytes()),
                    };
                    conn.close();
                }
                Err(status) => Self::refuse(conn, status),
            },
            Err(status) => Self::refuse(conn, status),
        }
        // Whatever follows the request is not looked at: the connection ends with the answer.
        input.len()
    }

    fn on_timer(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn, timer: TimerId) {
        if self.timeout == Some(timer) {
            Self::refuse(conn, 408);
        }
    }
}

impl<F> fmt::Debug for Connection<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("parser", &self.parser).finish_non_exhaustive()
    }
}

/// The text that goes with a status.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
