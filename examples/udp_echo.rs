//! A UDP echo server: one socket on one loop, many packets per system call.
//!
//! `udp_echo --port 8900` prints `ready` when it serves. It ends on Ctrl-C and then says what it counted.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use netlib::backend::BackendKind;
use netlib::datagram::{BindOptions, Outgoing, Packets, QueuePolicy};
use netlib::{
    Context, Datagram, DatagramHandler, DatagramOptions, DatagramSocket, Reactor, ReactorConfig, Signal, SignalFd,
};

#[derive(Parser)]
#[command(about = "Sends every UDP packet back to where it came from")]
struct Cli {
    /// Readiness mechanism, such as epoll-et; otherwise NETLIB_BACKEND, or mio
    #[arg(long)]
    backend: Option<BackendKind>,
    #[arg(long, default_value = "127.0.0.1")]
    listen: IpAddr,
    #[arg(long)]
    port: u16,
    /// Messages per system call, 1 to 64
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Neither put packets together nor have them cut apart by the kernel
    #[arg(long)]
    no_offload: bool,
    /// Bytes of the longest packet that is echoed whole
    #[arg(long, default_value_t = 2048)]
    max_packet: usize,
}

/// Sends everything back, its congestion mark included, from the address that it came to.
struct Echo;

impl DatagramHandler<()> for Echo {
    fn on_packets(&mut self, (): &mut (), _: &mut Context<()>, socket: &Datagram, packets: Packets<'_>) {
        for packet in packets.iter() {
            // What the queue does not take is dropped and counted, as the network would.
            let _ = if packet.ecn == netlib::datagram::Ecn::NotCapable {
                socket.reply(&packet, packet.payload)
            } else {
                let answer = Outgoing::new(packet.payload.to_vec(), packet.from.clone());
                socket.send(Outgoing { from: packet.to, ecn: packet.ecn, ..answer })
            };
        }
    }
}

fn main() -> io::Result<()> {
    env_logger::init();
    let cli = Cli::parse();
    let signals = SignalFd::new(&[Signal::Interrupt, Signal::Terminate])?;
    let bind = BindOptions {
        receive_buffer: Some(4 << 20),
        send_buffer: Some(4 << 20),
        gro: !cli.no_offload,
        gso: !cli.no_offload,
        ..BindOptions::default()
    };
    let options = DatagramOptions {
        batch: cli.batch,
        max_packet: cli.max_packet,
        policy: QueuePolicy::DropOldest,
        ..DatagramOptions::default()
    };
    let mut reactor = Reactor::<()>::new(ReactorConfig { backend: cli.backend, ..ReactorConfig::default() })?;
    let cx = reactor.context();
    let socket = DatagramSocket::bind(SocketAddr::new(cli.listen, cli.port), &bind)?;
    let (gro, gso) = (socket.has_gro(), socket.has_gso());
    let socket = cx.datagram(socket, options, Box::new(Echo))?;
    cx.on_signals(signals, |(), cx, _| cx.stop())?;
    eprintln!("echoing at {} by {}, GRO {gro}, GSO {gso}", socket.local_addr(), cx.backend_name());
    println!("ready");
    io::stdout().flush()?;
    reactor.run(&mut ())?;
    eprintln!("{:?}", socket.counters());
    Ok(())
}
