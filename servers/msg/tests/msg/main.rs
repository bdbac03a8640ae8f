//! The msg server's rules, each on real sockets against servers and clients that the
//! test plays itself.

mod account;
mod bad_input;
mod catch_up;
mod groups;
mod kick;
mod limits;
mod logs;
mod messages;
mod order;
mod presence;
mod questions;
mod sign_in;
mod signals;
mod stop;
mod support;
