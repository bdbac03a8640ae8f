//! What the binary can be told to do, one file per command.

pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod dev;
pub(crate) mod group;
pub(crate) mod role;
pub(crate) mod user;

use std::{fmt, io::Write};

/// Where data is kept when nobody says otherwise: visible, and gone with one `rm -r`.
pub(crate) const DEFAULT_DATA: &str = "teamtalk-data";

/// Writes to standard output. A reader that went away (`teamtalk dev | head`) is no reason to stop.
pub(crate) fn say(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
