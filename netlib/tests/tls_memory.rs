//! What an idle TLS connection costs. Alone in its file, that is in its process: it counts what
//! the process allocates. (aws-lc allocates in C; what it keeps per connection lies inside
//! rustls' own values.)
#![cfg(feature = "tls")]

mod tls_support;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use netlib::buffer::OutputBuffer;
use netlib::layer::{Layer, LayerFactory};
use netlib::socket::Stream;
use netlib::sys::CountingAllocator;
use tls_support::Authority;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator::new();

const CONNECTIONS: usize = 200;
/// What the module's documentation says, and a little.
const MOST: usize = 8 * 1024;

struct Side(Box<dyn Layer>, Stream);

impl Side {
    fn new(factory: &dyn LayerFactory, stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self(factory.layer().unwrap(), Stream::from(OwnedFd::from(stream)))
    }

    fn send(&mut self, bytes: Vec<u8>) {
        let mut output = OutputBuffer::new();
        output.push(bytes.into());
        let progress = self.0.write(&self.1, &mut output).unwrap();
        assert!(!progress.blocked && output.is_empty());
    }

    /// Until the socket is empty, as the reactor does.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut total = 0;
        loop {
            match self.0.read(&self.1, buffer) {
                Ok(count) => total += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return total;
                }
            }
        }
    }
}

#[test]
fn an_idle_tls_connection_takes_at_most_eight_kilobytes_also_after_much_traffic() {
    let authority = Authority::new("ours");
    let (server, client) = (authority.server(&["a.example"]), authority.client("a.example"));
    let mut buffer = vec![0; 64 << 10];
    let mut pairs = Vec::with_capacity(CONNECTIONS);
    let before = HEAP.bytes();
    for _ in 0..CONNECTIONS {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Side::new(&server, ours), Side::new(&client, theirs));
        let mut turns = 0;
        while !(theirs.0.handshake(&theirs.1).unwrap() & ours.0.handshake(&ours.1).unwrap()) {
            turns += 1;
            assert!(turns < 100, "no handshake");
        }
        for size in [10, 50_000] {
            ours.send(vec![1; size]);
            assert_eq!(theirs.read(&mut buffer), size);
            theirs.send(vec![2; size]);
            assert_eq!(ours.read(&mut buffer), size);
        }
        pairs.push((ours, theirs));
    }
    let both = HEAP.bytes() - before;
    let servers: Vec<Side> = pairs.into_iter().map(|(ours, _)| ours).collect();
    let server_side = (HEAP.bytes() - before) / CONNECTIONS;
    let client_side = both / CONNECTIONS - server_side;
    eprintln!("an idle TLS connection takes {server_side} bytes of heap as a server, {client_side} as a client");
    // Both hold at least a record layer and a read buffer: less would mean that nothing was counted.
    assert!((1_000..=MOST).contains(&server_side) && (1_000..=MOST).contains(&client_side));
    drop(servers);
}
