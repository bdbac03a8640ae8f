//! The client library of the TeamTalk protocol: finds a message server through the login server,
//! signs in, sends and resends, reconnects, and reports what arrives.
//!
//! It has two layers over the same sessions:
//!
//! * [`Session`] lives in the caller's own netlib reactor and calls back. Many of them share one
//!   thread; the interactive terminal client and load generators use it.
//! * [`Client`] runs a reactor of its own and offers calls that wait. Scripts, one-shot commands
//!   and tests use it.
//!
//! What can be asked is a list of small types in [`request`]; both layers carry any of them.
//!
//! ```no_run
//! use std::time::Duration;
//! use tt_client::{Client, ClientClass, Options};
//!
//! # fn main() -> Result<(), tt_client::Error> {
//! let server = "http://127.0.0.1:8080".parse()?;
//! let (client, events) = Client::login(Options::new(server, "alice", "secret", ClientClass::Pc))?;
//! let bob = client.users()?.into_iter().find(|user| user.name == "bob").expect("bob has an account");
//! let sent = client.send_text(bob.id, "hello")?;
//! println!("stored as number {}", sent.msg_id);
//! let reply = events.next_message(Duration::from_secs(60))?;
//! println!("{}", reply.text().unwrap_or("(unreadable)"));
//! # Ok(())
//! # }
//! ```
//!
//! # What a message may rely on
//!
//! Every text is sent under an id of its own. If the connection is lost before the server has
//! acknowledged it, it is sent again after the reconnect under the same id, and the server stores
//! it once. A server that does not recognise such ids gets no repetition: the send fails, and its
//! outcome is unknown. Messages that arrive twice are reported once.

#![warn(missing_docs)]

mod blocking;
mod dedup;
mod discovery;
mod error;
mod framing;
mod model;
mod options;
mod outbox;
pub mod request;
mod server_url;
mod session;
mod signal;
mod text;

pub use blocking::{Answer, Client, Events};
pub use error::{Error, KickReason};
pub use framing::{MAX_FROM_SERVER, PduDecoder};
pub use model::{Content, Conversation, Department, Group, GroupChange, Message, Peer, Presence, Sent, User};
pub use options::{ClientClass, Event, Options, SendLimit};
pub use server_url::ServerUrl;
pub use session::Session;
pub use signal::Signal;
