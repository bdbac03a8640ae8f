//! The client: one GET on its own connection, with one time limit over all of it and a cap on
//! the answer. Redirects are not followed, and what a status means is the caller's affair.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::parse::{self, BodyLength, ResponseHead};
use crate::{CloseReason, Conn, ConnectOptions, Context, Handler, TimerId};

/// Bytes of an answer, head and body together.
const MAX_RESPONSE: usize = 1024 * 1024;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientResponse {
    /// Such as 200. Any status is an answer, not an error.
    pub status: u16,
    /// Names and values in the order in which they came; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Bytes,
}

impl ClientResponse {
    /// The first header of that name, which is compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// Host or path cannot stand in a request.
    BadTarget,
    /// Not connected, or the connection broke; says how.
    Connection(CloseReason),
    /// The time limit passed.
    Timeout,
    /// The answer is over 1 MiB.
    TooLarge,
    /// What came is not HTTP/1, or ended too early.
    Malformed,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadTarget => f.write_str("host or path has characters that a request cannot carry"),
            Self::Connection(reason) => reason.fmt(f),
            Self::Timeout => f.write_str("no answer in time"),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::Malformed => f.write_str("the answer is not HTTP, or incomplete"),
        }
    }
}

impl std::error::Error for ClientError {}

/// Fetches `path` (with its query, if any) from the server at `addr`, which is called `host`.
/// `then` is called exactly once, never from within this call, and at the latest when `timeout`
/// has passed.
///
/// ```no_run
/// # fn example(cx: &mut netlib::Context<()>) {
/// use std::time::Duration;
/// use netlib::http;
///
/// let addr = "127.0.0.1:8080".parse().unwrap();
/// http::get(cx, addr, "127.0.0.1:8080", "/msg_server", Duration::from_secs(3), |_, _, result| match result {
///     Ok(response) if response.status == 200 => println!("{} bytes", response.body.len()),
///     Ok(response) => println!("status {}", response.status),
///     Err(error) => println!("{error}"),
/// });
/// # }
/// ```
pub fn get<S: 'static>(
    cx: &mut Context<S>,
    addr: SocketAddr,
    host: &str,
    path: &str,
    timeout: Duration,
    then: impl FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>) + 'static,
) {
    let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !printable(path) || !printable(host) {
        cx.post(move |state, cx| then(state, cx, Err(ClientError::BadTarget)));
        return;
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    let options = ConnectOptions { timeout, ..ConnectOptions::default() };
    let exchange = Exchange { received: Vec::new(), scanned: 0, begin: 0, expected: None, then: Some(then) };
    let conn = cx.connect(addr, options, Box::new(exchange));
    // Over connecting and answering together. Both end with the connection.
    cx.conn_timer(&conn, timeout);
    let _ = conn.send(request); // refused if the connect has failed already, which `on_close` tells
}

/// One request and its answer.
struct Exchange<F> {
    received: Vec<u8>,
    /// How far the end of the head has been searched for.
    scanned: usize,
    /// Where the head of the final answer begins, behind interim ones (1xx).
    begin: usize,
    /// The total length, when the head has come and says so.
    expected: Option<Expected>,
    /// Taken when it is called.
    then: Option<F>,
}

#[derive(Debug, Clone, Copy)]
struct Expected {
    head_end: usize,
    /// `None`: what comes up to the end of the connection.
    end: Option<usize>,
    chunked: bool,
}

impl<F> Exchange<F> {
    /// Reads the head once it is there.
    fn look_at_head(&mut self) -> Result<(), ClientError> {
        while self.expected.is_none() {
            let rest = &self.received[self.begin..];
            let Some(length) = parse::head_end(rest, &mut self.scanned) else { return Ok(()) };
            let head = parse::response_head(&rest[..length]).ok_or(ClientError::Malformed)?;
            let head_end = self.begin + length;
            if (100..200).contains(&head.status) {
                self.begin = head_end;
                self.scanned = 0;
                continue;
            }
            self.expected = Some(expected(&head, head_end)?);
        }
        Ok(())
    }

    /// The answer, if it is complete; `ended`: no more will come.
    fn answer(&mut self, ended: bool) -> Result<Option<ClientResponse>, ClientError> {
        if self.received.len() > MAX_RESPONSE {
            return Err(ClientError::TooLarge);
        }
        self.look_at_head()?;
        let complete = self.expected.filter(|expected| match expected.end {
            Some(end) => self.received.len() >= end,
            None => ended,
        });
        let Some(Expected { head_end, end, chunked }) = complete else {
            return if ended { Err(ClientError::Malformed) } else { Ok(None) };
        };
        let head = parse::response_head(&self.received[self.begin..head_end]).ok_or(ClientError::Malformed)?;
        let body = &self.received[head_end..end.unwrap_or(self.received.len())];
        let body = if chunked {
            parse::join_chunks(body).ok_or(ClientError::Malformed)?.into()
        } else {
            Bytes::copy_from_slice(body)
        };
        let text = |(name, value): &(&str, &[u8])| ((*name).to_owned(), String::from_utf8_lossy(value).into_owned());
        Ok(Some(ClientResponse { status: head.status, headers: head.headers.iter().map(text).collect(), body }))
    }

    fn finish<S: 'static>(&mut self, state: &mut S, cx: &mut Context<S>, result: Result<ClientResponse, ClientError>)
    where
        F: FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>),
    {
        if let Some(then) = self.then.take() {
            then(state, cx, result);
        }
    }
}

fn expected(head: &ResponseHead<'_>, head_end: usize) -> Result<Expected, ClientError> {
    let (end, chunked) = match parse::body_length(&head.headers) {
        _ if matches!(head.status, 204 | 304) => (Some(head_end), false),
        Ok(BodyLength::Known(length)) => {
            let end = usize::try_from(length).ok().and_then(|length| length.checked_add(head_end));
            let end = end.filter(|end| *end <= MAX_RESPONSE).ok_or(ClientError::TooLarge)?;
            (Some(end), false)
        }
        Ok(BodyLength::Unstated) => (None, false),
        // The server was asked to close behind the answer, so the chunks are joined at the end.
        Ok(BodyLength::Chunked) => (None, true),
        Err(_) => return Err(ClientError::Malformed),
    };
    Ok(Expected { head_end, end, chunked })
}

impl<S, F> Handler<S> for Exchange<F>
where
    S: 'static,
    F: FnOnce(&mut S, &mut Context<S>, Result<ClientResponse, ClientError>) + 'static,
{
    fn on_data(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, input: &[u8]) -> usize {
        self.received.extend_from_slice(input);
        if let Some(result) = self.answer(false).transpose() {
            // Nothing is owed to the server any more, so there is nothing to wait for.
            conn.abort();
            self.finish(state, cx, result);
        }
        input.len()
    }

    fn on_eof(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn) {
        let result = self.answer(true).and_then(|response| response.ok_or(ClientError::Malformed));
        conn.abort();
        self.finish(state, cx, result);
    }

    fn on_timer(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, _: TimerId) {
        conn.abort();
        self.finish(state, cx, Err(ClientError::Timeout));
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn, reason: &CloseReason) {
        let error = match reason {
            CloseReason::ConnectTimeout => ClientError::Timeout,
            other => ClientError::Connection(other.clone()),
        };
        self.finish(state, cx, Err(error));
    }
}
