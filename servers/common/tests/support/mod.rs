//! A peer made of nothing but a socket and the PDU codec, for tests that look at a server from outside.
//!
//! Reads block until the awaited thing is there and fail the test after a deadline.

#![allow(dead_code, unreachable_pub)] // a module of several test binaries, each of which uses its own part

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use tt_common::{ClusterConfig, LinkRole};
use tt_proto::Body;
use tt_proto::im::extension::ImLinkHello;
use tt_proto::im::other::ImHeartBeat;
use tt_proto::pdu::{self, HEADER_LEN, Header, PduRef};

/// Longer than anything awaited here takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A cluster whose other servers are sockets of this test, which prove nothing.
pub fn legacy_cluster() -> ClusterConfig {
    let legacy_addresses = vec![[127, 0, 0, 1].into()];
    ClusterConfig { secret_file: PathBuf::new(), legacy_peers: true, legacy_addresses }
}

pub struct RawPeer {
    pub stream: TcpStream,
}

/// A received PDU.
#[derive(Clone, Debug, PartialEq)]
pub struct Pdu(pub Vec<u8>);

impl Pdu {
    pub fn parse(&self) -> PduRef<'_> {
        PduRef::parse(&self.0).expect("a whole PDU")
    }

    pub fn command(&self) -> u16 {
        self.parse().header.command
    }
}

impl RawPeer {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect_timeout(&addr, DEADLINE).expect("the server listens"))
    }

    /// The next connection that the server under test dials.
    pub fn accept(listener: &TcpListener) -> Self {
        Self::new(listener.accept().expect("a connection").0)
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket option");
        Self { stream }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub fn send<M: Body>(&mut self, seq: u16, message: &M) {
        self.write(&pdu::encode(seq, message));
    }

    /// Sends a greeting and returns the server's.
    pub fn greet(&mut self, role: LinkRole) -> ImLinkHello {
        self.send_hello(role);
        self.next_any().parse().decode().expect("the server greets first")
    }

    pub fn send_hello(&mut self, role: LinkRole) {
        let server_id = Some(format!("test-{role}"));
        self.send(0, &ImLinkHello { role: Some(role as u32), server_id, ..ImLinkHello::default() });
    }

    /// The next PDU, greeting and heartbeats included; an error when the connection ends.
    pub fn try_next(&mut self) -> io::Result<Pdu> {
        let mut frame = vec![0; HEADER_LEN];
        self.stream.read_exact(&mut frame)?;
        let length = Header::read(&frame).expect("16 bytes").length as usize;
        assert!(length >= HEADER_LEN, "the server sent a PDU of length {length}");
        frame.resize(length, 0);
        self.stream.read_exact(&mut frame[HEADER_LEN..])?;
        Ok(Pdu(frame))
    }

    pub fn next_any(&mut self) -> Pdu {
        self.try_next().expect("a PDU in time")
    }

    /// The next PDU that is neither a greeting nor a heartbeat.
    pub fn next(&mut self) -> Pdu {
        loop {
            let pdu = self.next_any();
            if ![ImLinkHello::COMMAND.id(), ImHeartBeat::COMMAND.id()].contains(&pdu.command()) {
                return pdu;
            }
        }
    }

    /// The next PDU, which must carry an `M`, with its seq.
    pub fn receive<M: Body>(&mut self) -> (u16, M) {
        let pdu = self.next();
        let message = pdu.parse().decode().unwrap_or_else(|error| panic!("{error} in {pdu:?}"));
        (pdu.parse().header.seq, message)
    }

    /// Reads until the server has closed the connection.
    pub fn wait_closed(&mut self) {
        let mut sink = [0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
    }
}

/// Header-like input with every length from 0 to 17, and pseudo-random bytes: each on a connection of its own.
/// The server may close it or not; it must survive.
pub fn assault(addr: SocketAddr) {
    for length in 0u32..=17 {
        let mut peer = RawPeer::connect(addr);
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.resize(64, 0x01);
        peer.write(&bytes);
        if length < HEADER_LEN as u32 {
            peer.wait_closed();
        }
    }
    let mut random = netlib::clock::SplitMix64::new(2015);
    for round in 0..32 {
        let mut peer = RawPeer::connect(addr);
        let mut bytes: Vec<u8> = (0..=random.next() % 4096).map(|_| random.next() as u8).collect();
        if round % 2 == 0 {
            // With a true length, so that the bytes get as far as the commands.
            let length = bytes.len().max(HEADER_LEN);
            bytes.resize(length, 0);
            bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
        }
        // The server may have closed it after the first bytes.
        let _ = peer.stream.write_all(&bytes);
    }
}

/// One HTTP request; the whole answer.
pub fn http(addr: SocketAddr, request: &str) -> String {
    let mut peer = RawPeer::connect(addr);
    peer.write(request.as_bytes());
    let mut answer = String::new();
    peer.stream.read_to_string(&mut answer).expect("an answer in UTF-8, and then the end");
    answer
}

/// GET, as a client does it.
pub fn http_get(addr: SocketAddr, target: &str) -> String {
    http(addr, &format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"))
}
