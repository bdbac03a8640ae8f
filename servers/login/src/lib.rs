//! The login server: the directory of msg servers. Despite its name it knows no users and checks no password.
//!
//! A client asks where to sign in, over HTTP or with one PDU, and is given the msg server with the smallest
//! load (spec/flows.md §2). Msg servers register over a link of their own and report every sign-in and
//! sign-out; when such a link is lost its server is forgotten.
//!
//! | file | holds |
//! |---|---|
//! | `directory.rs` | who is registered, how loaded, and which one is next |
//! | `server.rs` | the state, and how it starts and stops |
//! | `msg_link.rs` | the port for msg servers |
//! | `client.rs` | the PDU port for clients |
//! | `discovery.rs` | the HTTP answer, byte for byte |
//! | `config.rs` | the configuration |

#![warn(missing_docs)]

mod client;
mod config;
mod directory;
mod discovery;
mod msg_link;
mod server;

pub use config::{Config, Listeners};
pub use server::{Login, spawn};
