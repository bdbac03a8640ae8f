//! The protocol against the running servers: every command of the published table, the recorded bytes, peers of
//! 2015, and bad input that is generated from the table. The servers run on threads of this process, and a
//! wire-tap sits on every connection between them.

mod bad_input;
mod commands;
mod fleet;
mod golden;
mod hostile;
mod recorded_peers;
mod rules;
mod schema;
mod steps;
mod tap;
mod unasked;
