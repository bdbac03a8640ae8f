//! Datagrams, UDP and Unix, many per system call: for media, where a packet is small, there are
//! many, and late is worthless.
//!
//! A [`DatagramSocket`] is the socket alone. [`Context::datagram`] puts it on the loop: its
//! [`DatagramHandler`] is shown what arrived, a batch at a time, and sends through a [`Datagram`]
//! handle, whose queue leaves in the tick's *Flush*.
//!
//! ```
//! use netlib::datagram::{BindOptions, Packets};
//! use netlib::{Context, Datagram, DatagramHandler, DatagramOptions, DatagramSocket, Reactor, ReactorConfig};
//!
//! /// Sends everything back, from the address that it came to.
//! struct Echo;
//!
//! impl<S: 'static> DatagramHandler<S> for Echo {
//!     fn on_packets(&mut self, _: &mut S, _: &mut Context<S>, socket: &Datagram, packets: Packets<'_>) {
//!         for packet in packets.iter() {
//!             // A full queue drops it and counts it, which is the right thing for an echo.
//!             let _ = socket.reply(&packet, packet.payload);
//!         }
//!     }
//! }
//!
//! # fn main() -> std::io::Result<()> {
//! let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
//! let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
//! let socket = DatagramSocket::bind(any, &BindOptions::default())?;
//! let socket = reactor.context().datagram(socket, DatagramOptions::default(), Box::new(Echo))?;
//! println!("echoing at {}", socket.local_addr());
//! # reactor.context().stop();
//! reactor.run(&mut ())
//! # }
//! ```
//!
//! # What the kernel loses
//!
//! It drops what finds no room in the socket's receive buffer; the count is in
//! [`DatagramCounters::overflowed`]. Make [`BindOptions::receive_buffer`] as large as the longest
//! pause of the loop times the rate. It also drops silently what goes to an address where nobody
//! is; only a connected socket is told, through [`DatagramHandler::on_error`].

mod handle;
mod packet;
mod queue;
mod serve;
mod socket;

pub use handle::{Datagram, DatagramCounters, DatagramHandler, DatagramOptions};
pub use packet::{DatagramError, Outgoing, Packet, Packets};
pub use queue::{Flushed, QueuePolicy, SendCounters, SendQueue};
pub(crate) use serve::{DatagramSlot, Datagrams};
pub use socket::{BindOptions, DatagramSocket};

#[cfg(doc)]
use crate::Context;
pub use crate::socket::{Address, UnixAddress};
pub use crate::sys::{Ecn, ReceiveBatch, SendBatch};
