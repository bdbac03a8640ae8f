//! System calls that have no safe form elsewhere, each behind a safe type. Together with
//! `backend` this is the only home of `unsafe`; every block says why it is sound.

#![allow(unsafe_code)] // see above; denied everywhere else

mod alloc;
mod ring;
mod signal;
mod wake;

pub use alloc::CountingAllocator;
pub use ring::{Buffer, Completion, CompletionRing, Payload};
pub use signal::{Signal, SignalFd};
pub use wake::WakeFd;
