//! A wire-tap: it accepts connections in the place of a server, passes PDUs on both ways and notes each of them
//! before it lets it go. So of two PDUs of which one caused the other the cause is noted first, whatever
//! connections they took.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Instant,
};

use tt_tests::{PATIENCE, Pdu, pack};

/// A PDU on one of the connections.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) pdu: Pdu,
}

impl std::fmt::Display for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}>{} {:#06x} {}", self.from, self.to, self.pdu.command, self.pdu.seq)
    }
}

/// Everything that was noted, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    inner: Arc<(Mutex<Vec<Hop>>, Condvar)>,
}

impl Log {
    /// An address that leads to `target`; what comes there is noted as between `from` and `to`.
    pub(crate) fn tap(&self, from: &str, to: &str, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (log, from, to) = (self.clone(), from.to_owned(), to.to_owned());
        thread::spawn(move || {
            for inner in listener.incoming().map_while(Result::ok) {
                // Before the server listens whoever dials tries again.
                let Ok(outer) = TcpStream::connect(target) else { continue };
                for (source, sink, from, to) in [(&inner, &outer, &from, &to), (&outer, &inner, &to, &from)] {
                    let (source, sink) = (share(source), share(sink));
                    let (log, from, to) = (log.clone(), from.clone(), to.clone());
                    thread::spawn(move || log.pass(&source, &sink, &from, &to));
                }
            }
        });
        address
    }

    fn pass(&self, mut source: &TcpStream, mut sink: &TcpStream, from: &str, to: &str) {
        let (mut input, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(count @ 1..) = source.read(&mut chunk) {
            input.extend_from_slice(&chunk[..count]);
            while let Some(pdu) = Pdu::take(&mut input) {
                let frame = pack(pdu.command, pdu.seq, &pdu.body);
                self.note(Hop { from: from.to_owned(), to: to.to_owned(), pdu });
                if sink.write_all(&frame).is_err() {
                    break;
                }
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
    }

    fn note(&self, hop: Hop) {
        let (hops, changed) = &*self.inner;
        hops.lock().expect("no holder panics").push(hop);
        changed.notify_all();
    }

    /// How much is noted up to now.
    pub(crate) fn mark(&self) -> usize {
        self.inner.0.lock().expect("no holder panics").len()
    }

    /// What was noted from `mark` on.
    pub(crate) fn since(&self, mark: usize) -> Vec<Hop> {
        self.inner.0.lock().expect("no holder panics")[mark..].to_vec()
    }

    /// Waits until what was noted from `mark` on is enough, or until it should have been.
    pub(crate) fn wait(&self, mark: usize, enough: impl Fn(&[Hop]) -> bool) -> Vec<Hop> {
        let (hops, changed) = &*self.inner;
        let deadline = Instant::now() + PATIENCE;
        let mut hops = hops.lock().expect("no holder panics");
        while !enough(&hops[mark..]) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            hops = changed.wait_timeout(hops, left).expect("no holder panics").0;
        }
        hops[mark..].to_vec()
    }
}

fn share(stream: &TcpStream) -> TcpStream {
    stream.set_nodelay(true).expect("an open socket");
    stream.try_clone().expect("a socket can be shared")
}
