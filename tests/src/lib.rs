//! The harness of the whole-system tests: it builds the real binaries, starts them as processes of
//! their own on free ports and in directories that vanish, and talks to them through a client
//! written from the wire format alone (spec/wire.md §1–§2). Neither netlib nor the client library
//! is used on this side, so a mistake there cannot hide itself here; only [`Proxy`], which breaks
//! what passes through it, stands on netlib.
//!
//! The tests are in `tests/system/`, one module per subject. They wait for events (a line of
//! output, a PDU, the end of a process), each with a deadline; none sleeps to wait for something.

#![warn(missing_docs)]

mod binaries;
mod client;
pub mod command;
mod disk;
pub mod faults;
pub mod history;
mod pdu;
mod proxy;
mod random;
pub mod report;
mod server;

pub use binaries::{Binaries, binaries};
pub use client::{Account, Class, Client, Ended, Message};
pub use disk::{Mounted, small_disk};
pub use pdu::{HEADER_LEN, Pdu, pack, pack_with_length};
pub use proxy::Proxy;
pub use random::Random;
pub use server::{Dev, Exit, Home, Server, free_address, free_port_base, http, http_get, run, run_with_input};

use std::time::{Duration, Instant};

/// How long a test waits for one event before it calls the event missing. Generous: it only
/// matters when something is wrong, and the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until the answer is yes. Each question must be a round trip to the system under test,
/// which sets the pace; for what the system says unasked, wait for that instead.
pub fn eventually(what: &str, mut asked: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !asked() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
    }
}
