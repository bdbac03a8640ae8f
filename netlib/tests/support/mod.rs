//! What the reactor's tests share: a reactor on a chosen back end, and driving it
//! until something has happened instead of sleeping.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of this module

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlib::backend::BackendKind;
use netlib::clock::SystemClock;
use netlib::{Reactor, ReactorConfig};

/// Long enough for any machine; reached only by a failure.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn reactor<S: 'static>(kind: BackendKind) -> Reactor<S> {
    let config = ReactorConfig {
        backend: Some(kind),
        fallback: false,
        clock: Box::new(SystemClock),
        seed: Some(1),
        ..ReactorConfig::default()
    };
    let mut reactor = Reactor::new(config).expect("a reactor");
    runs_on(&mut reactor, kind);
    reactor
}

/// Fails if it is another back end, and says once per test program that this one runs, past the harness, which keeps
/// what `eprintln` says.
pub fn runs_on<S: 'static>(reactor: &mut Reactor<S>, kind: BackendKind) {
    static SAID: Mutex<Vec<BackendKind>> = Mutex::new(Vec::new());
    assert_eq!(reactor.context().backend_name(), kind.name());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&kind) {
        said.push(kind);
        // In one write, lest it mixes with the harness's lines.
        let _ = std::io::stderr().write_all(format!("runs on the back end {kind}\n").as_bytes());
    }
}

/// Runs ticks until `done` says so.
pub fn drive<S: 'static>(reactor: &mut Reactor<S>, state: &mut S, what: &str, mut done: impl FnMut(&mut S) -> bool) {
    let start = Instant::now();
    while !done(state) {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        reactor.run_once(state, Some(Duration::from_millis(20))).expect("a tick");
    }
}

pub fn local() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub fn peer(addr: impl ToSocketAddrs) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// Reads what has come without waiting, while the reactor runs in this thread too.
pub fn read_some(stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    stream.set_nonblocking(true).expect("nonblocking");
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

/// A frame with a 16-byte header that begins with the total length.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(16 + body.len()).expect("small").to_be_bytes().to_vec();
    frame.extend([0; 12]);
    frame.extend(body);
    frame
}

/// Instantiates each named test function once per back end.
#[macro_export]
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::on_every_backend!(@module mio, Mio, $($test),*);
        $crate::on_every_backend!(@module epoll_lt, EpollLt, $($test),*);
        $crate::on_every_backend!(@module epoll_et, EpollEt, $($test),*);
        $crate::on_every_backend!(@module poll, Poll, $($test),*);
        $crate::on_every_backend!(@module select, Select, $($test),*);
        $crate::on_every_backend!(@module uring_poll, UringPoll, $($test),*);
        $crate::on_every_backend!(@module uring, Uring, $($test),*);
    };
    (@module $module:ident, $kind:ident, $($test:ident),*) => {
        mod $module {
            $(#[test] fn $test() { super::$test(netlib::BackendKind::$kind) })*
        }
    };
}
