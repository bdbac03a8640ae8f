//! A WebSocket server that sends every message back.
//!
//! ```text
//! cargo run --release -p netlib-examples --features ws --example ws_echo -- --port 9001
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use clap::Parser;
use netlib::ws::{self, Accept, Closed, Message, ServerOptions, WebSocket, WsHandler};
use netlib::{Context, ListenOptions, Reactor, ReactorConfig};

#[derive(Parser)]
struct Args {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The port; 0 lets the system choose.
    #[arg(long)]
    port: u16,
}

struct Echo;

impl WsHandler<()> for Echo {
    fn on_message(&mut self, (): &mut (), _: &mut Context<()>, ws: &WebSocket, message: Message<'_>) {
        // Closed or over its limit: the reactor ends it, nothing to do here.
        let _ = match message {
            Message::Text(text) => ws.send_text(text),
            Message::Binary(bytes) => ws.send_binary(bytes),
        };
    }

    fn on_close(&mut self, (): &mut (), _: &mut Context<()>, ws: &WebSocket, closed: &Closed) {
        println!("{}: {closed}", ws.conn().peer_addr());
    }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut reactor = Reactor::new(ReactorConfig::default())?;
    let options = Rc::new(ServerOptions::default());
    let address = SocketAddr::new(args.listen, args.port);
    let listener = reactor.context().listen(address, ListenOptions::default(), move |(), _, _| {
        Some(ws::accept(&options, |(), _, _| Ok(Accept::new(Echo))))
    })?;
    println!("ready on ws://{}/", listener.local_addr());
    reactor.run(&mut ())
}
