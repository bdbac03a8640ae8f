//! One line per event worth an operator's time, on standard error.
//!
//! Levels come from `RUST_LOG`, info without it. Each line names the thread, which is the role that wrote it:
//! `2026-01-31T12:00:00.123Z INFO route: link with msg 127.0.0.1:40112 is up`. Passwords, tokens and message
//! texts are never logged, at no level.

use std::io::Write;

use env_logger::Env;

/// Starts logging. Later calls do nothing, so tests may all call it.
pub fn init() {
    let mut builder = env_logger::Builder::from_env(Env::default().default_filter_or("info"));
    builder.format(|out, record| {
        let time = out.timestamp_millis();
        let thread = std::thread::current();
        writeln!(out, "{time} {:<5} {}: {}", record.level(), thread.name().unwrap_or("-"), record.args())
    });
    // An error means that a logger is there already.
    let _ = builder.try_init();
}
