//! What the fuzz targets may call: the syntax without sockets, and the invariant that a message
//! comes out alike however it is cut.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use std::io::{Read, Write};

use super::chunked::{BadChunk, Chunked};
use super::parse::{self, HeadLimits, HeadScanner};
use super::range::{self, Ranges};
use super::{Response, ServerOptions, serve};
use crate::{Reactor, ReactorConfig};

const LIMITS: HeadLimits = HeadLimits { line: 256, head: 512, strict: true };

/// A head that arrives at once and one that arrives in two pieces come out alike.
pub fn request(input: &[u8], split: usize) {
    let whole = HeadScanner::default().advance(input, LIMITS);
    let mut scanner = HeadScanner::default();
    let pieces = match scanner.advance(&input[..split.min(input.len())], LIMITS) {
        Ok(None) => scanner.advance(input, LIMITS),
        // What is complete or refused stays so, whatever follows.
        decided => decided,
    };
    assert_eq!(pieces, whole, "split at {split}");
    if let Ok(Some(end)) = whole {
        assert!(end <= input.len());
        if let Ok(head) = parse::request_head(&input[..end]) {
            let _ = (parse::body_length(head.minor_version(), head.headers()), head.path(), head.query(), head.host());
        }
    }
}

/// No answer of a server makes the client's side panic.
pub fn response(input: &[u8]) {
    let limits = HeadLimits { strict: false, ..LIMITS };
    if let Ok(Some(end)) = HeadScanner::default().advance(input, limits)
        && let Some(head) = parse::response_head(&input[..end])
    {
        let _ = parse::body_length(head.minor_version, head.headers.iter().copied());
    }
}

/// A chunked body comes out alike whole, in two pieces and byte by byte.
pub fn chunked(input: &[u8], split: usize) {
    let (first, second) = input.split_at(split.min(input.len()));
    let whole = decode([input]);
    assert_eq!(decode([first, second]), whole, "split at {split}");
    assert_eq!(decode(input.chunks(1)), whole, "byte by byte");
}

type Decoded = Result<(Vec<u8>, usize, bool), (BadChunk, Vec<u8>)>;

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Chunked::new();
    let (mut data, mut used) = (Vec::new(), 0);
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() {
            let step = match decoder.step(&piece[at..]) {
                Ok(step) => step,
                Err(error) => return Err((error, data)),
            };
            assert!(step.data.end <= step.used && at + step.used <= piece.len());
            data.extend_from_slice(&piece[at..][step.data]);
            at += step.used;
            used += step.used;
            if step.end {
                return Ok((data, used, true));
            }
        }
    }
    Ok((data, used, false))
}

/// Ranges lie within the whole and cost no more than it.
pub fn ranges(input: &[u8], len: u64) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ranges::Parts(parts) = range::parse(text, len) {
        assert!(!parts.is_empty());
        assert!(parts.iter().all(|part| part.start < part.end && part.end <= len));
        assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= len);
    }
}

/// A whole connection: what is answered to an input does not depend on where it is cut.
pub fn connection(input: &[u8], split: usize) {
    let split = split.min(input.len());
    assert_eq!(talk(&[&input[..split], &input[split..]]), talk(&[input]), "split at {split}");
}

/// What a server says to these pieces, each of which it sees before the next is sent.
fn talk(pieces: &[&[u8]]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let mut reactor: Reactor<()> = Reactor::new(ReactorConfig::default()).expect("a reactor");
    let options =
        ServerOptions { max_head: 512, max_request_line: 256, max_body: 512, date: false, ..Default::default() };
    serve(reactor.context(), listener, options, |(), _, request| {
        Response::new(200).body(format!("{} {} {:?}\n", request.method, request.target, request.body))
    })
    .expect("listens");
    let mut answers = Vec::new();
    for piece in pieces {
        let _ = client.write_all(piece); // refused: the server has hung up
        for _ in 0..4 {
            reactor.run_once(&mut (), Some(Duration::ZERO)).expect("a tick");
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Write);
    client.set_nonblocking(true).expect("a socket");
    let mut some = [0; 4096];
    for _ in 0..1000 {
        reactor.run_once(&mut (), Some(Duration::from_millis(1))).expect("a tick");
        match client.read(&mut some) {
            Ok(0) => break,
            Ok(count) => answers.extend_from_slice(&some[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    answers
}
