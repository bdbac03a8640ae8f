//! The opening handshake as bytes (RFC 6455 §4), sans-I/O: what a request must say, what answers
//! it, and the client's side of both. tungstenite derives the keys; it is not given the stream,
//! because it refuses a head that arrives in small pieces.

use std::fmt::{self, Write as _};

use tungstenite::handshake::derive_accept_key;

/// Header lines per head; more is an attack or a mistake.
const MAX_HEADERS: usize = 100;

/// A client's request to speak WebSocket. Everything in it is a slice of what was received.
///
/// ```
/// use netlib::ws::UpgradeRequest;
///
/// let headers: [(&str, &[u8]); 2] = [("Host", b"example.org"), ("Sec-WebSocket-Protocol", b"chat, superchat")];
/// let request = UpgradeRequest::new("GET", "/room?id=7", 1, headers.to_vec());
/// assert_eq!((request.path(), request.query()), ("/room", Some("id=7")));
/// assert!(request.protocols().any(|protocol| protocol == "superchat"));
/// ```
#[derive(Clone, Debug)]
pub struct UpgradeRequest<'a> {
    method: &'a str,
    target: &'a str,
    minor_version: u8,
    headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> UpgradeRequest<'a> {
    /// A request of HTTP/1.`minor_version` whose head is parsed already.
    pub fn new(method: &'a str, target: &'a str, minor_version: u8, headers: Vec<(&'a str, &'a [u8])>) -> Self {
        Self { method, target, minor_version, headers }
    }

    /// Parses a whole head, blank line included.
    pub(super) fn parse(head: &'a [u8]) -> Result<Self, Refuse> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Refuse::new(431)),
            Err(httparse::Error::Version) => return Err(Refuse::new(505)),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Refuse::new(400)),
        }
        match (request.method, request.path, request.version) {
            (Some(method), Some(target), Some(minor_version)) => {
                Ok(Self::new(method, target, minor_version, pairs(request.headers)))
            }
            _ => Err(Refuse::new(400)),
        }
    }

    /// Path and query as sent.
    pub fn target(&self) -> &'a str {
        self.target
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

    /// The first header of that name, which is compared without regard to case. None also if its
    /// value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        find(&self.headers, name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The page that the request comes from, if a browser sent it.
    pub fn origin(&self) -> Option<&'a str> {
        self.header("Origin")
    }

    /// The sub-protocols that the client offers, the one it likes best first.
    pub fn protocols(&self) -> impl Iterator<Item = &str> {
        tokens(&self.headers, "Sec-WebSocket-Protocol")
    }

    /// Checks everything that the protocol demands. Returns the key.
    pub(super) fn check(&self) -> Result<&'a [u8], Refuse> {
        if self.minor_version < 1 {
            return Err(Refuse::new(505));
        }
        if self.method != "GET" {
            return Err(Refuse::new(405).header("Allow", "GET"));
        }
        if only(&self.headers, "Host").is_none() {
            return Err(Refuse::new(400).body("one Host header is needed\n"));
        }
        if find(&self.headers, "Transfer-Encoding").next().is_some()
            || find(&self.headers, "Content-Length").any(|length| length != b"0")
        {
            // What is a body to one reader is frames to another.
            return Err(Refuse::new(400).body("an upgrade has no body\n"));
        }
        let upgrade = Refuse::new(426).header("Upgrade", "websocket").header("Sec-WebSocket-Version", "13");
        if !has_token(&self.headers, "Upgrade", "websocket") || !has_token(&self.headers, "Connection", "upgrade") {
            return Err(upgrade.body("this is a WebSocket\n"));
        }
        if only(&self.headers, "Sec-WebSocket-Version") != Some(b"13") {
            return Err(upgrade.body("the version of the protocol is 13\n"));
        }
        only(&self.headers, "Sec-WebSocket-Key")
            .filter(|key| decode_key(key).is_some())
            .ok_or(Refuse::new(400).body("Sec-WebSocket-Key is not 16 bytes in base64\n"))
    }
}

/// The headers that accept: the protocol's and what the application adds.
pub(super) fn accept_headers(
    key: &[u8],
    protocol: Option<&str>,
    added: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let accept = derive_accept_key(key);
    let fixed = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", &accept)];
    let protocol = protocol.map(|protocol| ("Sec-WebSocket-Protocol", protocol));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    fixed.into_iter().chain(protocol).map(owned).chain(added).collect()
}

/// The head of the 101 with these headers.
pub(super) fn accept_head(headers: &[(String, String)]) -> String {
    let mut head = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
    for (name, value) in headers {
        push_header(&mut head, name, value);
    }
    head.push_str("\r\n");
    head
}

/// An answer that refuses to upgrade.
///
/// ```
/// let refuse = netlib::ws::Refuse::new(403).body("not for you\n");
/// assert!(refuse.to_string().starts_with("HTTP/1.1 403 Forbidden\r\n"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Refuse {
    /// With that status, 400 to 599 (others become 500), and its name as the body.
    pub fn new(status: u16) -> Self {
        let status = if (400..600).contains(&status) { status } else { 500 };
        Self { status, headers: Vec::new(), body: format!("{}\n", reason_phrase(status)) }
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Appends a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body, plain text.
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    #[cfg(feature = "http")]
    pub(super) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    #[cfg(feature = "http")]
    pub(super) fn text(&self) -> &str {
        &self.body
    }
}

/// The answer as it goes over the wire.
impl fmt::Display for Refuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status));
        for (name, value) in &self.headers {
            push_header(&mut head, name, value);
        }
        let length = self.body.len();
        write!(
            f,
            "{head}Connection: close\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{}",
            self.body
        )
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

/// The head that asks for the upgrade.
pub(super) fn request_head(url: &Url, key: &str, protocols: &[String], headers: &[(String, String)]) -> String {
    let mut head = format!("GET {} HTTP/1.1\r\n", url.target);
    push_header(&mut head, "Host", &url.authority());
    head.push_str("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
    push_header(&mut head, "Sec-WebSocket-Key", key);
    if !protocols.is_empty() {
        push_header(&mut head, "Sec-WebSocket-Protocol", &protocols.join(", "));
    }
    for (name, value) in headers {
        push_header(&mut head, name, value);
    }
    head.push_str("\r\n");
    head
}

/// Checks the server's answer to a request with `key`. Returns the sub-protocol it chose, or
/// what is wrong.
pub(super) fn check_answer(head: &[u8], key: &str, offered: &[String]) -> Result<Option<String>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err("the answer is no HTTP".to_owned()),
    }
    if response.code != Some(101) {
        return Err(format!("the server answered {}", response.code.unwrap_or_default()));
    }
    let headers = pairs(response.headers);
    if !has_token(&headers, "Upgrade", "websocket") || !has_token(&headers, "Connection", "upgrade") {
        return Err("the answer upgrades to something else".to_owned());
    }
    if only(&headers, "Sec-WebSocket-Accept") != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err("the answer belongs to another key".to_owned());
    }
    if find(&headers, "Sec-WebSocket-Extensions").next().is_some() {
        return Err("the server uses an extension that was not offered".to_owned());
    }
    let mut chosen = find(&headers, "Sec-WebSocket-Protocol");
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(None),
        (Some(chosen), None) => match offered.iter().find(|protocol| protocol.as_bytes() == chosen) {
            Some(protocol) => Ok(Some(protocol.clone())),
            None => Err("the server chose a sub-protocol that was not offered".to_owned()),
        },
        (Some(_), Some(_)) => Err("the server chose several sub-protocols".to_owned()),
    }
}

/// Where a head ends: behind the first blank line. `scanned` carries over how much is known to
/// hold no end, so that a head which trickles in is searched once.
pub(super) fn head_end(input: &[u8], scanned: &mut usize) -> Option<usize> {
    for at in *scanned..input.len() {
        if input[at] == b'\n' && matches!(input[..at], [.., b'\n'] | [.., b'\n', b'\r']) {
            return Some(at + 1);
        }
    }
    *scanned = input.len();
    None
}

/// A `Sec-WebSocket-Key`: 16 bytes in base64, in its one correct form.
pub(super) fn decode_key(key: &[u8]) -> Option<[u8; 16]> {
    let digits: &[u8; 22] = key.strip_suffix(b"==")?.try_into().ok()?;
    let mut bytes = [0; 16];
    let (mut bits, mut count, mut at) = (0_u32, 0, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes[at] = (bits >> count) as u8;
            bits &= (1 << count) - 1;
            at += 1;
        }
    }
    // 22 digits carry 132 bits: the last four mean nothing and must be zero.
    (bits == 0).then_some(bytes)
}

/// Control characters are left out: a line break would begin another header.
fn push_header(head: &mut String, name: &str, value: &str) {
    head.extend(name.chars().chain(": ".chars()).chain(value.chars()).filter(|c| !c.is_control()));
    head.push_str("\r\n");
}

fn pairs<'a>(headers: &[httparse::Header<'a>]) -> Vec<(&'a str, &'a [u8])> {
    headers.iter().map(|header| (header.name, header.value)).collect()
}

fn find<'a>(headers: &[(&'a str, &'a [u8])], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

/// The value of a header that must be there once.
fn only<'a>(headers: &[(&'a str, &'a [u8])], name: &str) -> Option<&'a [u8]> {
    let mut values = find(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// The elements of all headers of that name, which are comma-separated lists.
fn tokens<'a>(headers: &'a [(&'a str, &'a [u8])], name: &'a str) -> impl Iterator<Item = &'a str> {
    find(headers, name)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn has_token(headers: &[(&str, &[u8])], name: &str, token: &str) -> bool {
    tokens(headers, name).any(|other| other.eq_ignore_ascii_case(token))
}

/// The address of a WebSocket server, `ws://host[:port][/path][?query]` or `wss://…`.
///
/// ```
/// use netlib::ws::Url;
///
/// let url: Url = "wss://example.org/chat?room=7".parse().unwrap();
/// assert_eq!((url.host(), url.port(), url.is_secure()), ("example.org", 443, true));
/// assert_eq!(url.target(), "/chat?room=7");
/// assert!("http://example.org/".parse::<Url>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    secure: bool,
    host: String,
    port: u16,
    target: String,
}

impl Url {
    /// Whether it is `wss`: the connection needs a TLS layer.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; where none is named 80, or 443 for `wss`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as they are sent.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What the Host header says.
    fn authority(&self) -> String {
        let mut host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port != default_port(self.secure) {
            write!(host, ":{}", self.port).expect("a String takes everything");
        }
        host
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// Why a text is no [`Url`].
///
/// ```
/// use netlib::ws::Url;
///
/// let error = "http://example.org/".parse::<Url>().unwrap_err();
/// assert_eq!(error.to_string(), "the scheme is neither ws nor wss");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlError(&'static str);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for UrlError {}

impl std::str::FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError("a space, a control character or a letter that is not percent-encoded"));
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError("no scheme"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            _ => return Err(UrlError("the scheme is neither ws nor wss")),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if target.contains('#') {
            return Err(UrlError("a fragment, which WebSocket addresses do not have"));
        }
        if authority.contains('@') {
            return Err(UrlError("a user name, which is not supported"));
        }
        let bad_port = UrlError("the port is no number from 1 to 65535");
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(UrlError("a bracket that is not closed"))?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        if host.is_empty() {
            return Err(UrlError("no host"));
        }
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(bad_port)?,
            None if port.is_empty() => default_port(secure),
            None => return Err(bad_port),
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { secure, host: host.to_owned(), port, target: format!("{slash}{target}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn status(head: &str) -> Result<Vec<u8>, u16> {
        let outcome = UpgradeRequest::parse(head.as_bytes()).and_then(|request| request.check().map(<[u8]>::to_vec));
        outcome.map_err(|refuse| refuse.status())
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert_eq!(status(GOOD).unwrap(), b"dGhlIHNhbXBsZSBub25jZQ==");
        let added = vec![("X-A".into(), "b\r\nc".into())];
        let head = accept_head(&accept_headers(b"dGhlIHNhbXBsZSBub25jZQ==", Some("chat"), added));
        assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(head.ends_with("\r\nSec-WebSocket-Protocol: chat\r\nX-A: bc\r\n\r\n"));
        assert_eq!(
            check_answer(head.as_bytes(), "dGhlIHNhbXBsZSBub25jZQ==", &["chat".into()]),
            Ok(Some("chat".into()))
        );
    }

    #[test]
    fn lists_case_and_several_lines_make_no_difference() {
        for (from, to) in [
            ("Upgrade: websocket", "upgrade: h2c, WebSocket"),
            ("Connection: Upgrade", "Connection: keep-alive\r\nCONNECTION: foo , uPGRADE"),
            ("Host: h\r\n", "Host: h\r\nContent-Length: 0\r\n"),
        ] {
            assert!(GOOD.contains(from));
            assert!(status(&GOOD.replace(from, to)).is_ok(), "{to}");
        }
    }

    #[test]
    fn each_fault_of_a_request_has_its_status() {
        let many = format!("Host: h\r\n{}", "A: b\r\n".repeat(MAX_HEADERS));
        for (from, to, expected) in [
            ("GET", "POST", 405),
            ("GET", "get", 405),
            ("HTTP/1.1", "HTTP/1.0", 505),
            ("HTTP/1.1", "HTTP/2.0", 505),
            ("GET /a HTTP/1.1", "hello", 400),
            ("Host: h\r\n", "", 400),
            ("Host: h\r\n", "Host: h\r\nHost: i\r\n", 400),
            ("Host: h\r\n", "Host: h\r\nContent-Length: 4\r\n", 400),
            ("Host: h\r\n", "Host: h\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Host: h\r\n", &many, 431),
            ("Upgrade: websocket\r\n", "", 426),
            ("Upgrade: websocket", "Upgrade: websockets", 426),
            ("Connection: Upgrade", "Connection: close", 426),
            ("Version: 13", "Version: 8", 426),
            ("Sec-WebSocket-Version: 13\r\n", "", 426),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR==", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ===", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBs", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhb*BsZSBub25jZQ==", 400),
        ] {
            assert!(GOOD.contains(from), "{from}");
            assert_eq!(status(&GOOD.replacen(from, to, 1)), Err(expected), "{to}");
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_the_request_is_refused() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = accept_head(&accept_headers(key.as_bytes(), Some("b"), Vec::new()));
        let offered = ["a".to_owned(), "b".to_owned()];
        assert_eq!(check_answer(good.as_bytes(), key, &offered), Ok(Some("b".to_owned())));
        for (from, to) in [
            ("101", "200"),
            ("101", "404"),
            ("Upgrade: websocket", "Upgrade: h2c"),
            ("Connection: Upgrade", "Connection: close"),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp="),
            ("Protocol: b", "Protocol: c"),
            ("Protocol: b", "Protocol: a\r\nSec-WebSocket-Protocol: b"),
            ("Protocol: b", "Protocol: b\r\nSec-WebSocket-Extensions: permessage-deflate"),
            ("HTTP/1.1", "SMTP"),
        ] {
            assert!(good.contains(from), "{from}");
            assert!(check_answer(good.replace(from, to).as_bytes(), key, &offered).is_err(), "{to}");
        }
    }

    #[test]
    fn a_request_says_what_the_protocol_demands() {
        let url: Url = "ws://[::1]:8080?x".parse().unwrap();
        let headers = [("Cookie".to_owned(), "a=b".to_owned())];
        let head = request_head(&url, "dGhlIHNhbXBsZSBub25jZQ==", &["p".into(), "q".into()], &headers);
        let request = UpgradeRequest::parse(head.as_bytes()).unwrap();
        assert!(request.check().is_ok());
        assert_eq!(request.target(), "/?x");
        assert_eq!(request.header("host"), Some("[::1]:8080"));
        assert_eq!(request.header("cookie"), Some("a=b"));
        assert_eq!(request.protocols().collect::<Vec<_>>(), ["p", "q"]);
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for bad in [
            "",
            "ws://",
            "ws:///x",
            "http://h",
            "ws://h:0",
            "ws://h:x",
            "ws://h:70000",
            "ws://[::1",
            "ws://[::1]x",
            "ws://u@h",
            "ws://h/#f",
            "ws://h/a b",
            "ws://h/\r\nX: y",
            "ws://ü",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
        let plain: Url = "WS://h".parse().unwrap();
        assert_eq!((plain.authority().as_str(), plain.port(), plain.target()), ("h", 80, "/"));
    }
}
