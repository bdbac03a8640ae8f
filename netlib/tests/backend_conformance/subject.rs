//! What the promises are asked of, and what comes out.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use netlib::Token;
use netlib::backend::{Backend, BackendKind, Event, Interest, Trigger};
use rustix::process::{Resource, getrlimit, setrlimit};

/// What became of a promise that was not broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Kept,
    /// The contract leaves it open, [`netlib::backend::Caps`] says so, and this is done instead.
    Otherwise(&'static str),
    /// This machine cannot tell.
    Skipped(&'static str),
}

/// Long enough for any machine; reaching it fails the test.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// Past the harness, which keeps what a test that passes prints.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A back end with the trigger under test.
pub(crate) struct Subject {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) trigger: Trigger,
}

impl Subject {
    /// `Skipped` where the kernel refuses io_uring and nobody insists on it.
    pub(crate) fn open(kind: BackendKind, trigger: Trigger) -> Result<Self, Outcome> {
        match kind.open() {
            Ok(backend) => Ok(Self { backend, trigger }),
            Err(error)
                if matches!(kind, BackendKind::UringPoll | BackendKind::Uring)
                    && BackendKind::from_env() != Ok(Some(kind)) =>
            {
                say(&format!("io_uring: {error}"));
                Err(Outcome::Skipped("the kernel refuses io_uring"))
            }
            Err(error) => panic!("{kind}: {error}"),
        }
    }

    pub(crate) fn kind(&self) -> BackendKind {
        self.backend.name().parse().unwrap()
    }

    pub(crate) fn add(&mut self, fd: &impl AsFd, token: Token, interest: Interest) {
        self.backend.add(fd.as_fd(), token, interest, self.trigger).unwrap();
    }

    pub(crate) fn modify(&mut self, fd: &impl AsFd, token: Token, interest: Interest) {
        self.backend.modify(fd.as_fd(), token, interest, self.trigger).unwrap();
    }

    /// Waits for a batch that is not empty.
    pub(crate) fn wait(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let give_up = Instant::now() + LONG;
        while events.is_empty() {
            assert!(Instant::now() < give_up, "nothing was reported");
            self.backend.wait(&mut events, Some(LONG)).unwrap();
        }
        events
    }

    /// Waits for the one event that there can be.
    pub(crate) fn wait_for(&mut self, token: Token) -> Event {
        let events = self.wait();
        assert!(matches!(events[..], [event] if event.token == token), "{events:?}");
        events[0]
    }

    /// Waits until an event satisfies `condition`; edges may come one by one.
    pub(crate) fn wait_until(
        &mut self,
        token: Token,
        interest: Interest,
        fd: &impl AsFd,
        condition: impl Fn(&Event) -> bool,
    ) -> Event {
        loop {
            let event = self.wait_for(token);
            if condition(&event) {
                return event;
            }
            self.rearm(fd, token, interest);
        }
    }

    /// A one-shot that has fired is armed again; for other triggers nothing is to be done.
    pub(crate) fn rearm(&mut self, fd: &impl AsFd, token: Token, interest: Interest) {
        if self.trigger == Trigger::OneShot {
            self.modify(fd, token, interest);
        }
    }

    /// The next event says that the peer sends no more, as far as the mechanism can say it.
    pub(crate) fn assert_told_of_the_end(&mut self, token: Token) {
        let announced = self.backend.caps().reports_read_closed;
        let event = self.wait_for(token);
        assert!(event.readable && event.read_closed == announced, "{event:?}");
    }

    pub(crate) fn assert_silent(&mut self) {
        let mut events = Vec::new();
        self.backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
    }
}

pub(crate) const A: Token = Token::new(1, 0);
pub(crate) const B: Token = Token::new(2, 7);

pub(crate) fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// Writes until the kernel takes no more.
pub(crate) fn fill<T>(mut stream: &T) -> usize
where
    for<'a> &'a T: Write,
{
    let mut total = 0;
    loop {
        match stream.write(&[0; 4096]) {
            Ok(count) => total += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return total,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn drain(mut stream: &UnixStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

/// Held while a test relies on which high numbers are free, or opens very many.
pub(crate) static DESCRIPTORS: Mutex<()> = Mutex::new(());
/// Where the high numbers of the tests begin.
pub(crate) const HIGH: RawFd = 15_000;
pub(crate) const LOW_LIMIT: &str = "the limit on open descriptors is not above 15,000";

/// An eventfd above 1023; None where the limit on descriptors is too low for one.
pub(crate) fn high_descriptor() -> Option<OwnedFd> {
    let low = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    match rustix::io::fcntl_dupfd_cloexec(&low, HIGH) {
        Ok(high) => Some(high),
        Err(rustix::io::Errno::INVAL) if !raise_limit(HIGH as u64 + 1) => None,
        Err(rustix::io::Errno::INVAL) => Some(rustix::io::fcntl_dupfd_cloexec(&low, HIGH).unwrap()),
        Err(errno) => panic!("{errno}"),
    }
}

/// Allows this process as many descriptors as it may have. False if that is fewer than `wanted`.
pub(crate) fn raise_limit(wanted: u64) -> bool {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.current.is_none_or(|limit| limit >= wanted)
}

/// Sends one byte of urgent data.
pub(crate) fn send_urgent(stream: &TcpStream) {
    rustix::net::send(stream, b"!", rustix::net::SendFlags::OOB).unwrap();
}

/// Closes `old` and gives its number to `new`.
pub(crate) fn replace_descriptor(old: UnixStream, new: UnixStream) -> UnixStream {
    let mut number = OwnedFd::from(old);
    rustix::io::dup2(new.as_fd(), &mut number).unwrap();
    UnixStream::from(number)
}
