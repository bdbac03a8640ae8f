//! System calls that have no safe form elsewhere, each behind a safe type. Together with
//! `backend` this is the only home of `unsafe`; every block says why it is sound.

#![allow(unsafe_code)] // see above; denied everywhere else

mod alloc;
mod control;
mod datagram;
#[doc(hidden)]
pub mod faults;
mod ring;
mod ring_pool;
mod signal;
mod sockaddr;
mod time_left;
mod wake;

pub use alloc::CountingAllocator;
pub use control::Ecn;
pub(crate) use control::{UDP_GRO, UDP_SEGMENT};
pub(crate) use datagram::{Class, MOST_MESSAGES, Message, Received, knows_option, set_option};
pub use datagram::{ReceiveBatch, SendBatch};
pub(crate) use ring::enter;
pub use ring::{Completion, CompletionRing, Payload};
pub use ring_pool::Buffer;
pub use signal::{Signal, SignalFd};
pub(crate) use time_left::TimeLeft;
pub use wake::WakeFd;
