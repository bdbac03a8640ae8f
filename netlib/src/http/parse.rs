//! The syntax of HTTP/1 heads: where one ends and what it says. Sans-I/O and incremental: bytes
//! that have been looked at are not looked at again, however small the pieces in which they
//! arrive, and the outcome does not depend on the pieces.
//!
//! Requests are read strictly. Where two readers could come to different ends of a message, or
//! to different targets, it is refused.

use super::message::RequestHead;

/// Header lines per message; more is an attack or a mistake.
const MAX_HEADERS: usize = 100;

/// Why a request is refused: the status to answer with.
pub(super) type Reject = u16;

/// What a head may measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    /// Bytes of the first line.
    pub(super) line: usize,
    /// Bytes of all of it, the blank line included.
    pub(super) head: usize,
    /// Line ends are CRLF, and control characters are refused at once.
    pub(super) strict: bool,
}

/// Looks for the end of a head.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    scanned: usize,
    /// The first line is complete.
    past_line: bool,
}

impl HeadScanner {
    /// Looks at all bytes of the message that have arrived so far: the length of the head, once
    /// its blank line is there.
    pub(super) fn advance(&mut self, input: &[u8], limits: HeadLimits) -> Result<Option<usize>, Reject> {
        // Byte by byte, so that which limit is met first does not depend on the pieces.
        for at in self.scanned..input.len() {
            if at >= limits.head {
                return Err(431);
            }
            if !self.past_line && at >= limits.line {
                return Err(414);
            }
            let before = &input[..at];
            match input[at] {
                b'\n' if limits.strict && !before.ends_with(b"\r") => return Err(400),
                b'\n' => {
                    self.past_line = true;
                    // The line feed ends a line, and so did the one before it.
                    if before.ends_with(b"\n") || before.ends_with(b"\n\r") {
                        return Ok(Some(at + 1));
                    }
                }
                _ if limits.strict && before.ends_with(b"\r") => return Err(400),
                0..=8 | 11 | 12 | 14..=31 | 127 if limits.strict => return Err(400),
                _ => {}
            }
        }
        self.scanned = input.len();
        Ok(None)
    }
}

/// Reads the head of a request and checks what does not depend on the server's options.
pub(super) fn request_head(head: &[u8]) -> Result<RequestHead, Reject> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(httparse::Error::Version) if names_version(head) => return Err(505),
        Ok(httparse::Status::Partial) | Err(_) => return Err(400),
    }
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(400);
    };
    check_target(method, target)?;
    let head = RequestHead::new(head, method, target, minor_version, request.headers);
    check_host(&head)?;
    Ok(head)
}

/// Whether what stands in the place of the version is meant as one.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.splitn(3, |byte| *byte == b' ').nth(2).is_some_and(|version| version.starts_with(b"HTTP/"))
}

/// The forms of a target that a server must know: path, whole URL, `*` for OPTIONS.
fn check_target(method: &str, target: &str) -> Result<(), Reject> {
    if method == "CONNECT" {
        return Err(501); // there is no tunnel here
    }
    let known = match target.as_bytes() {
        [b'/', ..] => true,
        b"*" => method == "OPTIONS",
        _ => super::message::split_absolute(target).is_some_and(|(authority, _)| is_authority(authority.as_bytes())),
    };
    if known { Ok(()) } else { Err(400) }
}

/// Two hosts could be taken for either.
fn check_host(head: &RequestHead) -> Result<(), Reject> {
    let mut hosts = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    let first = hosts.next().map(|(_, value)| value);
    let valid = first.is_none_or(|value| value.is_empty() || is_authority(value));
    if valid && hosts.next().is_none() { Ok(()) } else { Err(400) }
}

/// Roughly: host and port. Who may ask for it is the service's affair.
fn is_authority(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte))
}

/// A parsed response head.
#[derive(Debug)]
pub(super) struct ResponseHead<'a> {
    pub(super) status: u16,
    /// HTTP/1.x
    pub(super) minor_version: u8,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
}

pub(super) fn response_head(head: &[u8]) -> Option<ResponseHead<'_>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => Some(ResponseHead {
            status: response.code?,
            minor_version: response.version?,
            headers: response.headers.iter().map(|header| (header.name, header.value)).collect(),
        }),
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}

/// How a body's end is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// No header says anything.
    Unstated,
    Known(u64),
    Chunked,
}

/// Reads Content-Length and Transfer-Encoding; the error is the status for a request.
pub(super) fn body_length<'a>(
    minor_version: u8,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<BodyLength, Reject> {
    let mut length = None;
    let mut chunked = false;
    for (name, value) in headers {
        if name.eq_ignore_ascii_case("content-length") {
            let stated = decimal(value).ok_or(400_u16)?;
            if length.is_some_and(|length| length != stated) {
                return Err(400);
            }
            length = Some(stated);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // HTTP/1.0 does not know it: what stands between may have passed it on unread.
            if chunked || minor_version == 0 {
                return Err(400);
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(501);
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(400),
        (None, true) => Ok(BodyLength::Chunked),
        (Some(length), false) => Ok(BodyLength::Known(length)),
        (None, false) => Ok(BodyLength::Unstated),
    }
}

/// Digits and nothing else: `parse` would also take a sign.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// The elements of a list header such as `Connection`, in small letters or not.
pub(super) fn has_element(value: &[u8], element: &str) -> bool {
    value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(element.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { line: 100, head: 200, strict: true };

    /// Length of the head and of the body, fed byte by byte and at once; both must agree.
    fn outcome(request: &[u8]) -> Result<Option<(usize, BodyLength)>, Reject> {
        let at_once = HeadScanner::default().advance(request, LIMITS);
        let mut scanner = HeadScanner::default();
        let mut last = Ok(None);
        for end in 1..=request.len() {
            last = scanner.advance(&request[..end], LIMITS);
            if last != Ok(None) {
                break;
            }
        }
        assert_eq!(last, at_once, "{:?}", String::from_utf8_lossy(request));
        let Some(end) = at_once? else { return Ok(None) };
        let head = request_head(&request[..end])?;
        Ok(Some((end, body_length(head.minor_version(), head.headers())?)))
    }

    #[test]
    fn complete_heads_are_measured() {
        for (request, head, body) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27, BodyLength::Unstated),
            ("GET / HTTP/1.0\r\n\r\n", 18, BodyLength::Unstated),
            ("OPTIONS * HTTP/1.1\r\n\r\n", 22, BodyLength::Unstated),
            ("GET http://a:1/x HTTP/1.1\r\n\r\n", 29, BodyLength::Unstated),
            ("POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabc", 38, BodyLength::Known(3)),
            ("POST / HTTP/1.1\r\nContent-Length:3\r\nContent-Length: 3\r\n\r\nabcGET", 56, BodyLength::Known(3)),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n0", 47, BodyLength::Chunked),
        ] {
            assert_eq!(outcome(request.as_bytes()), Ok(Some((head, body))), "{request:?}");
        }
        assert_eq!(outcome(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    /// The smuggling table: what two readers could understand differently.
    #[test]
    fn each_fault_has_its_status() {
        for (request, status) in [
            ("nonsense\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/1.1\n\n", 400),
            ("GET / HTTP/1.1\r\nA: b\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nNo Colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n A: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", 400),
            ("G\x01T / HTTP/1.1\r\n", 400),
            ("GET  / HTTP/1.1\r\n\r\n", 400),
            ("GET / x HTTP/1.1\r\n\r\n", 400),
            ("GET nowhere HTTP/1.1\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\n\r\n", 400),
            ("GET http:/// HTTP/1.1\r\n\r\n", 400),
            ("GET ftp://a/ HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\n\r\n", 501),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("GET / HTTP/1.2\r\n\r\n", 505),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nTransfer-Encoding:\x0bchunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
        ] {
            assert_eq!(outcome(request.as_bytes()), Err(status), "{request:?}");
        }
    }

    #[test]
    fn a_head_at_its_limit_passes_and_one_byte_more_does_not() {
        let head = |length: usize| {
            let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length - frame))
        };
        assert_eq!(outcome(head(200).as_bytes()), Ok(Some((200, BodyLength::Unstated))));
        assert_eq!(outcome(head(201).as_bytes()), Err(431));
        assert_eq!(outcome(&head(201).as_bytes()[..201]), Err(431), "refused before it ends");
        let line = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(length - 16));
        assert_eq!(outcome(line(100).as_bytes()), Ok(Some((102, BodyLength::Unstated))));
        assert_eq!(outcome(line(101).as_bytes()), Err(414));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(request_head(many.as_bytes()).err(), Some(431));
    }

    #[test]
    fn no_bytes_make_the_parsers_panic() {
        let mut random = crate::clock::SplitMix64::new(12);
        let alphabet = b"GET /: HTTP1.0\r\n\r\n\n\x00\xffabcContent-Length9;";
        for _ in 0..20_000 {
            let length = random.next() % 40;
            let input: Vec<u8> = (0..length).map(|_| alphabet[random.next() as usize % alphabet.len()]).collect();
            let _ = outcome(&input);
            let _ = request_head(&input);
            let _ = response_head(&input);
        }
    }
}
