//! What goes over the wire, as values: heads of requests, responses, reason phrases.

use crate::socket::Address;
use std::fmt;
use std::fmt::Write as _;

use bytes::Bytes;

use super::parse;

/// The request line and the headers of one request.
///
/// ```
/// # use netlib::http::{Exchange, RequestHandler};
/// # use netlib::Context;
/// fn on_request(_: &mut (), cx: &mut Context<()>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<()>>> {
///     let head = exchange.head();
///     let answer = format!("{} {} for {:?}", head.method(), head.path(), head.header("user-agent"));
///     exchange.send(cx, netlib::http::Response::new(200).body(answer));
///     None
/// }
/// ```
pub struct RequestHead {
    /// All of it as it came, which the spans below are of.
    raw: Box<[u8]>,
    method: Span,
    target: Span,
    minor_version: u8,
    headers: Vec<(Span, Span)>,
}

#[derive(Clone, Copy)]
struct Span(u32, u32);

impl RequestHead {
    /// The parts are slices of `raw`, which the head keeps a copy of.
    pub(super) fn new(
        raw: &[u8],
        method: &str,
        target: &str,
        minor_version: u8,
        headers: &[httparse::Header<'_>],
    ) -> Self {
        let span = |part: &[u8]| {
            let start = (part.as_ptr() as usize).wrapping_sub(raw.as_ptr() as usize).min(raw.len());
            Span(start as u32, (start + part.len()).min(raw.len()) as u32)
        };
        Self {
            method: span(method.as_bytes()),
            target: span(target.as_bytes()),
            minor_version,
            headers: headers.iter().map(|header| (span(header.name.as_bytes()), span(header.value))).collect(),
            raw: raw.into(),
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.raw[span.0 as usize..span.1 as usize]
    }

    /// The parser has seen it as text.
    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    /// As sent, usually in capitals.
    pub fn method(&self) -> &str {
        self.text(self.method)
    }

    /// As sent: path and query, neither decoded, or a whole URL, or `*`.
    pub fn target(&self) -> &str {
        self.text(self.target)
    }

    /// 0 or 1, of HTTP/1.0 and HTTP/1.1.
    pub fn minor_version(&self) -> u8 {
        self.minor_version
    }

    /// The target's path, not decoded.
    pub fn path(&self) -> &str {
        path_of(self.target())
    }

    /// The target behind the question mark, not decoded.
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// Whom the client means: the target's authority if it has one, else the header `Host`.
    pub fn host(&self) -> Option<&str> {
        split_absolute(self.target()).map(|(authority, _)| authority).or_else(|| self.header("host"))
    }

    /// All headers in the order in which they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (self.text(*name), self.bytes(*value)))
    }

    /// The first header of that name, which is compared without regard to case. `None` also if
    /// its value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// Whether a list header such as `Connection` has that element, in any of its lines.
    pub fn has_element(&self, name: &str, element: &str) -> bool {
        let mut lines = self.headers().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        lines.any(|(_, value)| parse::has_element(value, element))
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers carry credentials, and this ends up in logs.
        f.debug_struct("RequestHead")
            .field("method", &self.method())
            .field("target", &self.target())
            .finish_non_exhaustive()
    }
}

/// Authority and the rest of a whole URL.
pub(super) fn split_absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

fn path_of(target: &str) -> &str {
    let target = if target.starts_with('/') { target } else { split_absolute(target).map_or(target, |(_, path)| path) };
    match target.split(['?', '#']).next() {
        None | Some("") => "/",
        Some(path) => path,
    }
}

/// A complete request, as [`serve`](super::serve) shows it.
///
/// ```
/// use netlib::http::{Request, Response};
///
/// fn answer(request: &Request<'_>) -> Response {
///     match (request.method, request.path()) {
///         ("POST", "/echo") => Response::new(200).body(request.body.to_vec()),
///         (_, "/echo") => Response::method_not_allowed("POST"),
///         _ => Response::new(404),
///     }
/// }
/// ```
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
    /// All of the head.
    pub head: &'a RequestHead,
}

impl<'a> Request<'a> {
    /// The target's path, not decoded.
    pub fn path(&self) -> &'a str {
        self.head.path()
    }

    /// The target behind the question mark.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query()
    }

    /// The first header of that name, which is compared without regard to case. `None` also if
    /// its value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.head.header(name)
    }
}

/// What a service answers.
///
/// A response is written as it is given, header by header, because there are clients that care
/// about order and spelling. What is needed to find its end is added behind them unless the
/// response names it: `Content-Length` or `Transfer-Encoding`, and `Connection`.
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
    pub(super) status: u16,
    /// Whole lines without their ends.
    headers: Vec<String>,
    pub(super) body: Bytes,
}

impl Response {
    /// An empty response with that status.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// 405, with the methods that are allowed, such as `GET, HEAD`.
    pub fn method_not_allowed(allowed: &str) -> Self {
        Self::refusal(405).header("Allow", allowed)
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
    /// are left out: a line break would begin another header. `Transfer-Encoding` is the
    /// server's to say and left out as well.
    pub fn header_raw(mut self, line: &str) -> Self {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        if !is_named(&line, "Transfer-Encoding") {
            self.headers.push(line);
        }
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The response as it goes over the wire on a connection that ends with it.
    pub fn to_bytes(&self) -> Bytes {
        let mut head = self.head_lines();
        if !self.names("Connection") {
            head.push_str("Connection: close\r\n");
        }
        if !self.names("Content-Length") && self.may_have_body() {
            write!(head, "Content-Length: {}\r\n", self.body.len()).expect("a String takes everything");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if self.may_have_body() {
            bytes.extend_from_slice(&self.body);
        }
        bytes.into()
    }

    /// Status line and the response's own headers.
    pub(super) fn head_lines(&self) -> String {
        let length: usize = self.headers.iter().map(|line| line.len() + 2).sum();
        let mut head = String::with_capacity(length + 160);
        write!(head, "HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status)).expect("a String takes everything");
        for line in &self.headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head
    }

    /// By definition these have none.
    pub(super) fn may_have_body(&self) -> bool {
        !matches!(self.status, 100..200 | 204 | 304)
    }

    pub(super) fn names(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The value of its header of that name.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let line = self.headers.iter().find(|line| is_named(line, name))?;
        line.split_once(':').map(|(_, value)| value.trim_ascii())
    }

    /// For a request that never reached the service.
    pub(super) fn refusal(status: u16) -> Self {
        Self::new(status).header("Content-Type", "text/plain").body(format!("{}\n", reason_phrase(status)))
    }
}

fn is_named(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(own, _)| own.trim_ascii().eq_ignore_ascii_case(name))
}

/// The text that goes with a status.
pub(super) fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
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
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_out_of_every_form_of_target() {
        for (target, path, host) in [
            ("/a/b?c=d", "/a/b", Some("h")),
            ("http://x:1/a?b", "/a", Some("x:1")),
            ("https://x", "/", Some("x")),
            ("http://x?b", "/", Some("x")),
            ("*", "*", Some("h")),
        ] {
            let method = if target == "*" { "OPTIONS" } else { "GET" };
            let head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nA: 1, Two\r\na: three\r\n\r\n");
            let head = parse::request_head(head.as_bytes()).unwrap();
            assert_eq!((head.path(), head.host(), head.target()), (path, host, target));
            assert!(head.has_element("A", "two") && head.has_element("a", "THREE") && !head.has_element("a", "tw"));
        }
    }

    #[test]
    fn a_header_cannot_begin_another() {
        let response = Response::new(204).header("A", "b\r\nC: d").header("transfer-encoding", "chunked");
        assert_eq!(response.to_bytes(), "HTTP/1.1 204 No Content\r\nA: bC: d\r\nConnection: close\r\n\r\n");
    }
}
