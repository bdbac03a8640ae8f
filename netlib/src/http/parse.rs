//! The syntax of HTTP/1: where a request ends and what its head says. Sans-I/O and incremental:
//! bytes that have been looked at are not looked at again, however small the pieces in which a
//! request arrives.

use super::server::ServerOptions;

/// Header lines per message; more is an attack or a mistake.
const MAX_HEADERS: usize = 100;

/// Why a request is refused: the status to answer with.
pub(super) type Reject = u16;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The head is incomplete.
    Head,
    /// The head is complete, the body is not; `expects_continue` if the client waits for a sign
    /// before it sends the body.
    Body { expects_continue: bool },
    /// All is there: the lengths of the head (with its blank line) and of the body.
    Complete { head: usize, body: usize },
}

/// Measures one request.
#[derive(Debug, Default)]
pub(super) struct RequestParser {
    /// So many bytes are known to hold no end of the head.
    scanned: usize,
    /// Of a complete head.
    measured: Option<Measured>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    head: usize,
    body: usize,
    expects_continue: bool,
}

impl RequestParser {
    /// Looks at all bytes of the request that have arrived so far.
    pub(super) fn advance(&mut self, input: &[u8], options: &ServerOptions) -> Result<Progress, Reject> {
        let measured = match self.measured {
            Some(measured) => measured,
            None => match head_end(input, &mut self.scanned) {
                Some(end) if end <= options.max_head => {
                    let measured = measure(&input[..end], options.max_body)?;
                    *self.measured.insert(measured)
                }
                None if input.len() <= options.max_head => return Ok(Progress::Head),
                Some(_) | None => return Err(431),
            },
        };
        let Measured { head, body, expects_continue } = measured;
        Ok(if input.len() - head >= body {
            Progress::Complete { head, body }
        } else {
            Progress::Body { expects_continue }
        })
    }
}

/// Where the head ends: behind the first blank line. `scanned` carries over what is known.
pub(super) fn head_end(input: &[u8], scanned: &mut usize) -> Option<usize> {
    for at in *scanned..input.len() {
        // A line feed that follows a line feed, with or without a carriage return between them.
        if input[at] == b'\n' && matches!(input[..at], [.., b'\n'] | [.., b'\n', b'\r']) {
            return Some(at + 1);
        }
    }
    *scanned = input.len();
    None
}

/// A parsed request head; everything is a slice of the input.
#[derive(Debug)]
pub(super) struct RequestHead<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    /// HTTP/1.x
    pub(super) minor_version: u8,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
}

pub(super) fn request_head(head: &[u8]) -> Result<RequestHead<'_>, Reject> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(httparse::Error::Version) => return Err(505),
        Ok(httparse::Status::Partial) | Err(_) => return Err(400),
    }
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(400);
    };
    Ok(RequestHead { method, target, minor_version, headers: pairs(request.headers) })
}

/// A parsed response head.
#[derive(Debug)]
pub(super) struct ResponseHead<'a> {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
}

pub(super) fn response_head(head: &[u8]) -> Option<ResponseHead<'_>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => {
            Some(ResponseHead { status: response.code?, headers: pairs(response.headers) })
        }
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}

fn pairs<'a>(headers: &[httparse::Header<'a>]) -> Vec<(&'a str, &'a [u8])> {
    headers.iter().map(|header| (header.name, header.value)).collect()
}

/// The first header of that name; names do not distinguish case.
pub(super) fn find<'a>(headers: &[(&'a str, &'a [u8])], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

/// How a body's end is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// No header says anything.
    Unstated,
    Known(u64),
    Chunked,
}

/// Reads Content-Length and Transfer-Encoding; the error is the status for a request. Where two
/// readers could come to different lengths the message is refused, since that difference is how
/// requests are smuggled past a proxy.
pub(super) fn body_length(headers: &[(&str, &[u8])]) -> Result<BodyLength, Reject> {
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
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

fn measure(head: &[u8], max_body: usize) -> Result<Measured, Reject> {
    let parsed = request_head(head)?;
    let body = match body_length(&parsed.headers)? {
        BodyLength::Unstated => 0,
        BodyLength::Known(length) => usize::try_from(length).map_err(|_| 413_u16)?,
        BodyLength::Chunked => return Err(411),
    };
    if body > max_body {
        return Err(413);
    }
    let expects_continue = parsed.minor_version >= 1
        && find(&parsed.headers, "expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    Ok(Measured { head: head.len(), body, expects_continue })
}

/// Joins the chunks of a whole body; `None` if they are malformed or the last one is missing.
pub(super) fn join_chunks(mut input: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(input) else { return None };
        if size == 0 {
            return Some(body); // trailers, if any, are of no interest
        }
        let end = usize::try_from(size).ok()?.checked_add(line)?;
        body.extend_from_slice(input.get(line..end)?);
        input = input.get(end..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: fn() -> ServerOptions = ServerOptions::default;

    /// Feeds a request byte by byte and at once; both must agree.
    fn outcome(request: &[u8]) -> Result<Progress, Reject> {
        let options = ServerOptions { max_body: 10, ..OPTIONS() };
        let mut parser = RequestParser::default();
        let mut last = Ok(Progress::Head);
        for end in 1..=request.len() {
            last = parser.advance(&request[..end], &options);
            if last.is_err() {
                break;
            }
        }
        assert_eq!(RequestParser::default().advance(request, &options), last);
        last
    }

    #[test]
    fn complete_requests_are_measured() {
        for (request, head, body) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27, 0),
            ("GET / HTTP/1.0\r\n\r\n", 18, 0),
            ("GET / HTTP/1.1\n\n", 16, 0), // lenient, as the grammar advises
            ("POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabc", 38, 3),
            ("POST / HTTP/1.1\r\nContent-Length:3\r\nContent-Length: 3\r\n\r\nabcGET", 56, 3),
        ] {
            let expected = Progress::Complete { head, body };
            let options = ServerOptions::default();
            assert_eq!(RequestParser::default().advance(request.as_bytes(), &options), Ok(expected), "{request:?}");
            assert_eq!(outcome(request.as_bytes()), Ok(expected), "{request:?}");
        }
    }

    #[test]
    fn incomplete_requests_wait() {
        assert_eq!(outcome(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok(Progress::Head));
        let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\n";
        assert_eq!(outcome(format!("{head}\r\nab").as_bytes()), Ok(Progress::Body { expects_continue: false }));
        let expecting = format!("{head}Expect: 100-continue\r\n\r\n");
        assert_eq!(outcome(expecting.as_bytes()), Ok(Progress::Body { expects_continue: true }));
    }

    #[test]
    fn each_fault_has_its_status() {
        for (request, status) in [
            ("nonsense\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nNo Colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ] {
            assert_eq!(outcome(request.as_bytes()), Err(status), "{request:?}");
        }
    }

    #[test]
    fn a_head_of_sixteen_kib_passes_and_one_byte_more_does_not() {
        let head = |length: usize| {
            let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length - frame))
        };
        let limit = 16 * 1024;
        let options = OPTIONS();
        let advance = |input: &[u8]| RequestParser::default().advance(input, &options);
        assert_eq!(advance(head(limit).as_bytes()), Ok(Progress::Complete { head: limit, body: 0 }));
        assert_eq!(advance(head(limit + 1).as_bytes()), Err(431));
        assert_eq!(advance(&vec![b'x'; limit]), Ok(Progress::Head));
        assert_eq!(advance(&vec![b'x'; limit + 1]), Err(431), "refused before it ends");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(advance(many.as_bytes()), Err(431));
    }

    #[test]
    fn chunks_are_joined_and_bad_ones_refused() {
        assert_eq!(join_chunks(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n").unwrap(), b"abc0123456789");
        assert_eq!(join_chunks(b"0\r\n\r\n").unwrap(), b"");
        for bad in [&b"3\r\nabc\r\n"[..], b"3\r\nab", b"3\r\nabcd\r\n0\r\n\r\n", b"x\r\n", b"", b"ffffffffffffffff\r\n"]
        {
            assert_eq!(join_chunks(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic() {
        let mut random = crate::clock::SplitMix64::new(12);
        let alphabet = b"GET /: HTTP1.0\r\n\r\n\n\x00\xffabcContent-Length9;";
        for _ in 0..20_000 {
            let length = random.next() % 40;
            let input: Vec<u8> = (0..length).map(|_| alphabet[random.next() as usize % alphabet.len()]).collect();
            let _ = RequestParser::default().advance(&input, &OPTIONS());
            let _ = response_head(&input);
            let _ = join_chunks(&input);
        }
    }
}
