//! An echo server.
fn main() {}
