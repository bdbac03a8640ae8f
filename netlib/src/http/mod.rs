//! A small HTTP/1.1 server and client for a server's own endpoints: discovery, metrics, health.
//! One request per connection, answered and closed; no chunked request bodies, no compression.
//! It is not a web server.
//!
//! `parse` knows the syntax and neither sockets nor time; `server` and `client` are handlers of
//! ordinary connections.

mod client;
mod parse;
mod server;

pub use client::{ClientError, ClientResponse, get};
pub use server::{Request, Response, ServerOptions, serve};

/// What the fuzz targets may call: the syntax without sockets.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::ServerOptions;
    use super::parse::{self, Progress, RequestParser};

    /// A request that arrives at once and one that arrives in two pieces come out alike.
    pub fn request(input: &[u8], split: usize) {
        let options = ServerOptions { max_head: 512, max_body: 512, ..ServerOptions::default() };
        let whole = RequestParser::default().advance(input, &options);
        let mut parser = RequestParser::default();
        let first = parser.advance(&input[..split.min(input.len())], &options);
        let pieces = match first {
            Ok(Progress::Head | Progress::Body { .. }) => parser.advance(input, &options),
            // What is complete or refused stays so, whatever follows.
            decided => decided,
        };
        assert_eq!(pieces, whole, "split at {split}");
        if let Ok(Progress::Complete { head, body }) = whole {
            assert!(head + body <= input.len());
            let _ = parse::request_head(&input[..head]);
        }
    }

    /// No answer of a server makes the client's side panic.
    pub fn response(input: &[u8]) {
        if let Some(end) = parse::head_end(input, &mut 0) {
            if let Some(head) = parse::response_head(&input[..end]) {
                let _ = parse::body_length(&head.headers);
            }
            let _ = parse::join_chunks(&input[end..]);
        }
    }
}
