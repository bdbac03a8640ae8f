//! HTTP/1.1: a server and a client for bodies of any length in both directions.
//!
//! ```text
//!   bytes ──► parse, chunked, body ──► connection ──► Service, RequestHandler
//!             (syntax, no sockets)                          │
//!   bytes ◄── outgoing ◄── core ◄──────────────────────  Exchange
//! ```
//!
//! [`serve`] is for requests that are answered at once, from one function. It stands on
//! [`serve_with`], where a request is shown as its head arrives, its body is streamed and can be
//! paused, and its answer may come later, in parts, from a [file](File), or be another protocol.
//!
//! # What a server promises
//!
//! Connections are kept and requests may be pipelined; answers come in the order of the requests,
//! and the next request is looked at when the answer before it is complete, so a client has at
//! most one request in service per connection. Nothing that a client sends is kept beyond a
//! limit ([`ServerOptions`]); nothing that it does slowly lasts beyond a time. Requests that two
//! readers could understand differently are refused, which keeps a server behind a proxy from
//! being deceived: both `Content-Length` and `Transfer-Encoding`, line ends that are not CRLF,
//! folded headers, two hosts, chunk sizes with anything but digits. Trailers are dropped.
//!
//! Compression and HTTP/2 are not here.

mod body;
mod chunked;
mod client;
mod client_conn;
mod connection;
mod core;
mod date;
mod exchange;
mod file;
mod message;
mod outgoing;
mod parse;
mod pool;
mod range;
mod server;

pub use client::{Call, ClientError, ClientRequest, ClientResponse, ResponseHandler, fetch, get, request};
pub use exchange::{Exchange, Flow};
pub use file::{File, FileError, Files};
pub use message::{Request, RequestHead, Response};
pub use pool::{Pool, PoolOptions};
pub use server::{RequestHandler, Server, ServerOptions, Service, buffered, serve, serve_with};

#[cfg(fuzzing)]
pub mod fuzzing;
