//! The route server: who is online where, and the hub between msg servers.
//!
//! Msg servers report sign-ins and sign-outs; the route server answers who is online, tells all of them about
//! changes, and passes what one of them sends on to those it concerns (spec/flows.md §3.4, spec/wire.md §7.2).
//!
//! | file | holds |
//! |---|---|
//! | `presence.rs` | the table of who is online where, and what follows from a change |
//! | `msg_link.rs` | the port for msg servers |
//! | `addressees.rs` | which servers a PDU concerns |
//! | `passing.rs` | messages for receivers who are just signing in |
//! | `server.rs` | the state, and how it starts and stops |
//! | `config.rs` | the configuration |

#![warn(missing_docs)]

mod addressees;
mod config;
mod msg_link;
mod passing;
mod presence;
mod server;

pub use config::{Config, Listeners};
pub use server::{Route, spawn};
