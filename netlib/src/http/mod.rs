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
