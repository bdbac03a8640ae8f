//! Programs on netlib, each in one file beside this one. Build them with
//! `cargo build --release -p netlib-examples --examples`; they are then in
//! `target/release/examples/`.
