//! TLS on listeners and outgoing connections (feature `tls`): TLS 1.2 and 1.3 by rustls, with
//! aws-lc-rs for the cryptography.
//!
//! Handlers do not notice: give a [`Server`] to
//! [`ListenOptions::layer`](crate::ListenOptions::layer) or a [`Client`] to
//! [`ConnectOptions::layer`](crate::ConnectOptions::layer), and the same [`Conn`] carries
//! plaintext. [`on_open`](crate::Handler::on_open) comes once the handshake is complete;
//! [`session`] then tells what was agreed upon. So HTTP becomes HTTPS, WebSocket `wss`, and any
//! other protocol its encrypted self.
//!
//! ```
//! use std::sync::Arc;
//! use netlib::{Conn, ConnectOptions, Context, Handler, ListenOptions, Reactor, ReactorConfig, tls};
//!
//! # struct Echo;
//! # impl Handler<()> for Echo {
//! #     fn on_data(&mut self, _: &mut (), _: &mut Context<()>, conn: &Conn, input: &[u8]) -> usize {
//! #         let _ = conn.send(input.to_vec());
//! #         input.len()
//! #     }
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A certificate for tests, made on the spot by the crate `rcgen`.
//! let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
//!
//! let identity = tls::Identity::from_pem(chain.as_bytes(), key.as_bytes())?;
//! let server = Arc::new(tls::Server::builder().identity(identity).build()?);
//! let client = Arc::new(tls::Client::builder("localhost", tls::Roots::from_pem(chain.as_bytes())?).build()?);
//!
//! let mut reactor = Reactor::<()>::new(ReactorConfig::default())?;
//! let listening = ListenOptions { layer: Some(server), ..ListenOptions::default() };
//! let listener = reactor
//!     .context()
//!     .listen("127.0.0.1:0".parse::<std::net::SocketAddr>()?, listening, |(), _, _| Some(Box::new(Echo)))?;
//! let connecting = ConnectOptions { layer: Some(client), ..ConnectOptions::default() };
//! reactor.context().connect(listener.local_addr(), connecting, Box::new(Echo));
//! # Ok(())
//! # }
//! ```
//!
//! # Certificates
//!
//! A server needs a chain and a key in PEM files: the chain with its own certificate first and
//! its issuers behind it (`fullchain.pem` of ACME clients), the key without a passphrase.
//! Mistakes are found when they are loaded, and the [`Error`] says in which file and what to do.
//! For a try on the command line:
//!
//! ```text
//! openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
//!     -keyout key.pem -out chain.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1
//! ```
//!
//! A client that is to accept it trusts it by name: [`Roots::from_pem_file`]`("chain.pem")`. There is
//! no switch that accepts anything.
//!
//! # New certificates while running
//!
//! [`Server::reload`] reads the files again and shows what they hold to whoever connects from
//! then on; open connections go on. If the new files are unusable it is an error and the old
//! certificate stays. The customary trigger is SIGHUP:
//!
//! ```no_run
//! use std::sync::Arc;
//! use netlib::sys::{Signal, SignalFd};
//! use netlib::tls;
//!
//! // First thing in `main`; the descriptor then becomes a source of the reactor.
//! let signals = SignalFd::new(&[Signal::Hangup])?;
//! let server = Arc::new(tls::Server::from_pem_files("chain.pem", "key.pem").map_err(std::io::Error::other)?);
//!
//! // In the source's callback:
//! match server.reload() {
//!     Ok(()) => println!("new certificate"),
//!     Err(error) => eprintln!("the old certificate stays: {error}"),
//! }
//! # drop(signals);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What a handshake costs
//!
//! The cryptography of a handshake runs on the loop: about 0.3 ms of it with a P-256 key and
//! 2 ms with RSA-2048 on a small machine, during which no other connection of that reactor is
//! served. So prefer P-256. A crowd that connects at once is spread over ticks by
//! [`ListenOptions::accept_budget`](crate::ListenOptions::accept_budget): 64 handshakes may
//! follow from one tick by default; a server with RSA keys and latency to keep takes 4 or 8, and
//! a pool of reactors. Clients that come back resume their session without a signature. A
//! handshake that does not end within
//! [`ListenOptions::handshake_timeout`](crate::ListenOptions::handshake_timeout) ends its
//! connection with [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout).
//!
//! # How connections end
//!
//! [`Conn::close`] sends TLS's own good-bye (close_notify) after what is queued, and then FIN. A
//! stream that ends without the peer's good-bye was cut off, by the network or by somebody who
//! wants you to miss the rest: [`on_eof`](crate::Handler::on_eof) does not come, and the reason is
//! [`Reset`](crate::CloseReason::Reset) and not [`PeerClosed`](crate::CloseReason::PeerClosed). What
//! the peer does wrong, or does not accept in us, is a
//! [`Protocol`](crate::CloseReason::Protocol) reason in words.
//!
//! # Memory
//!
//! An idle TLS connection costs about 7 KiB, most of it rustls' read buffer of 4 KiB. Under way
//! it holds one incoming record of 16 KiB and up to 64 KiB that wait for the socket.

mod client;
mod error;
mod fault;
mod identity;
mod layer;
mod server;

pub use client::{Client, ClientBuilder};
pub use error::{Error, Origin};
pub use identity::{Identity, Roots};
pub use layer::TlsLayer;
pub use server::{Server, ServerBuilder};

use rustls::{Connection, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};

use crate::conn::Conn;

/// What was agreed upon on a TLS connection; None on one without TLS, and before
/// [`on_open`](crate::Handler::on_open).
pub fn session(conn: &Conn) -> Option<Session> {
    conn.with_layer(TlsLayer::session).flatten()
}

/// A version of the protocol. Older ones are broken and not spoken.
///
/// ```
/// use netlib::tls::Version;
///
/// assert!(Version::Tls12 < Version::Tls13);
/// assert_eq!(Version::default(), Version::Tls12); // the oldest that is accepted
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Version {
    fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Tls12 => const { &BOTH },
            Self::Tls13 => const { &[BOTH[0]] },
        }
    }
}

/// What both sides agreed upon.
///
/// ```
/// use netlib::{Conn, Context, Handler, tls};
///
/// struct Negotiated;
///
/// impl<S: 'static> Handler<S> for Negotiated {
///     fn on_open(&mut self, _: &mut S, _: &mut Context<S>, conn: &Conn) {
///         match tls::session(conn) {
///             Some(session) if session.alpn.as_deref() == Some(b"h2") => { /* … */ }
///             Some(_) => { /* … */ }
///             None => { /* not a TLS connection */ }
///         }
///     }
/// #   fn on_data(&mut self, _: &mut S, _: &mut Context<S>, _: &Conn, input: &[u8]) -> usize { input.len() }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// The application protocol, if one was negotiated.
    pub alpn: Option<Vec<u8>>,
    /// On the server's side the name that the client asked for (SNI), on the client's the one
    /// that it was built with.
    pub server_name: Option<String>,
    /// The version.
    pub version: Version,
    /// The cipher suite by its registered name, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// What the peer has shown and proved to be its own, its own certificate first, as DER.
    /// Empty on the server's side unless it asks for them.
    pub peer_certificates: Vec<Vec<u8>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl Session {
    fn new(tls: &Connection, server_name: Option<String>) -> Option<Self> {
        Some(Self {
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            server_name,
            version: match tls.protocol_version()? {
                ProtocolVersion::TLSv1_3 => Version::Tls13,
                _ => Version::Tls12,
            },
            cipher: tls.negotiated_cipher_suite()?.suite().as_str().unwrap_or("unknown"),
            peer_certificates: tls.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect(),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

fn alpn_list(protocols: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Error> {
    match protocols.iter().find(|protocol| !(1..=255).contains(&protocol.len())) {
        Some(bad) => Err(Error::BadAlpn { len: bad.len() }),
        None => Ok(protocols),
    }
}
