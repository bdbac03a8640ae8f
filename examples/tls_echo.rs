//! An echo server that speaks TLS, and takes a new certificate without losing anybody.
//!
//! ```sh
//! openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
//!     -keyout key.pem -out chain.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost
//! cargo run -p netlib-examples --features tls --example tls_echo -- --chain chain.pem --key key.pem --port 7443
//! openssl s_client -quiet -servername localhost -CAfile chain.pem -connect 127.0.0.1:7443
//! ```
//!
//! Make another certificate over the first and send the server SIGHUP: whoever connects from
//! then on is shown the new one, and connections that are open go on.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use netlib::{CloseReason, Conn, Context, Handler, ListenOptions, Reactor, ReactorConfig, Signal, SignalFd, tls};

/// Sends everything back, encrypted
#[derive(Parser)]
#[command(version, about, long_about = None)]
struct Options {
    /// The certificate and its issuers (PEM)
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// Its private key (PEM, without a passphrase)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Port to listen on; 0 takes any free one, which is printed
    #[arg(long)]
    port: u16,
}

struct Echo;

impl Handler<()> for Echo {
    /// Comes once the handshake is complete.
    fn on_open(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn) {
        if let Some(session) = tls::session(conn) {
            eprintln!("{}: {:?}, {}", conn.peer_addr(), session.version, session.cipher);
        }
    }

    fn on_data(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn, input: &[u8]) -> usize {
        // Refused only if the connection is over its limit; the reactor then ends it.
        let _ = conn.send_slice(input);
        input.len()
    }

    /// Comes for failed handshakes too, and says why.
    fn on_close(&mut self, (): &mut (), _: &mut Context<()>, conn: &Conn, reason: &CloseReason) {
        eprintln!("{}: {reason}", conn.peer_addr());
    }
}

fn main() -> ExitCode {
    env_logger::init();
    let options = Options::parse();
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls_echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> io::Result<()> {
    let signals = SignalFd::new(&[Signal::Interrupt, Signal::Terminate, Signal::Hangup])?;
    let server = tls::Server::from_pem_files(&options.chain, &options.key).map_err(io::Error::other)?;
    let server = Arc::new(server);
    let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
    let cx = reactor.context();
    let reloading = Arc::clone(&server);
    cx.on_signals(signals, move |(), cx, signal| match signal {
        Signal::Hangup => match reloading.reload() {
            Ok(()) => eprintln!("the new certificate is in use"),
            Err(error) => eprintln!("the old certificate stays: {error}"),
        },
        _ => cx.stop(),
    })?;
    let listening = ListenOptions { layer: Some(server), ..ListenOptions::default() };
    let addr = SocketAddr::new(options.listen, options.port);
    let listener = cx.listen(addr, listening, |(), _, _| Some(Box::new(Echo)))?;
    eprintln!("echoing on {}", listener.local_addr());
    println!("ready");
    io::stdout().flush()?;
    reactor.run(&mut ())
}
