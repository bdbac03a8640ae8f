//! What the contract at the head of `netlib::backend` promises, asked of every back end with
//! every trigger it offers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netlib::Token;
use netlib::backend::{Backend, BackendKind, Event, Interest, Trigger};
use netlib::sys::WakeFd;

/// Long enough for any machine; reaching it fails the test.
const LONG: Duration = Duration::from_secs(10);

/// A back end with the trigger under test.
struct Subject {
    backend: Box<dyn Backend>,
    trigger: Trigger,
}

impl Subject {
    fn open(kind: BackendKind, trigger: Trigger) -> Self {
        Self { backend: kind.open().unwrap(), trigger }
    }

    fn add(&mut self, fd: &impl AsFd, token: Token, interest: Interest) {
        self.backend.add(fd.as_fd(), token, interest, self.trigger).unwrap();
    }

    fn modify(&mut self, fd: &impl AsFd, token: Token, interest: Interest) {
        self.backend.modify(fd.as_fd(), token, interest, self.trigger).unwrap();
    }

    /// Waits for a batch that is not empty.
    fn wait(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let give_up = Instant::now() + LONG;
        while events.is_empty() {
            assert!(Instant::now() < give_up, "nothing was reported");
            self.backend.wait(&mut events, Some(LONG)).unwrap();
        }
        events
    }

    /// Waits for the one event that there can be.
    fn wait_for(&mut self, token: Token) -> Event {
        let events = self.wait();
        assert!(matches!(events[..], [event] if event.token == token), "{events:?}");
        events[0]
    }

    /// Waits until an event satisfies `condition`; edges may come one by one.
    fn wait_until(
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
    fn rearm(&mut self, fd: &impl AsFd, token: Token, interest: Interest) {
        if self.trigger == Trigger::OneShot {
            self.modify(fd, token, interest);
        }
    }

    /// The next event says that the peer sends no more, as far as the mechanism can say it.
    fn assert_told_of_the_end(&mut self, token: Token) {
        let announced = self.backend.caps().reports_read_closed;
        let event = self.wait_for(token);
        assert!(event.readable && event.read_closed == announced, "{event:?}");
    }

    fn assert_silent(&mut self) {
        let mut events = Vec::new();
        self.backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
    }
}

const A: Token = Token::new(1, 0);
const B: Token = Token::new(2, 7);

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// Writes until the kernel takes no more.
fn fill<T>(mut stream: &T) -> usize
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

fn drain(mut stream: &UnixStream) {
    while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

/// The suite: one function per promise.
mod suite {
    use super::*;

    pub(super) fn what_is_readable_already_is_reported_after_add(mut subject: Subject) {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"early").unwrap();
        subject.add(&ours, A, Interest::READABLE);
        let event = subject.wait_for(A);
        assert!(event.readable && !event.writable && !event.read_closed && !event.error, "{event:?}");
    }

    pub(super) fn what_is_readable_already_is_reported_after_modify(mut subject: Subject) {
        let (ours, mut theirs) = pair();
        subject.add(&ours, A, Interest::READABLE);
        theirs.write_all(b"x").unwrap();
        assert!(subject.wait_for(A).readable);
        // Nothing was read: an edge has been used up, and only modify brings it back.
        subject.modify(&ours, B, Interest::READABLE);
        assert!(subject.wait_for(B).readable);
    }

    pub(super) fn a_reader_that_resumes_learns_of_what_came_meanwhile(mut subject: Subject) {
        let (ours, mut theirs) = pair();
        subject.add(&ours, A, Interest::READABLE);
        subject.modify(&ours, A, Interest::NONE);
        theirs.write_all(b"x").unwrap();
        subject.assert_silent();
        subject.modify(&ours, A, Interest::READABLE);
        assert!(subject.wait_for(A).readable);
    }

    pub(super) fn both_directions_are_told_apart(mut subject: Subject) {
        let (ours, mut theirs) = pair();
        subject.add(&ours, A, Interest::BOTH);
        let event = subject.wait_for(A);
        assert!(event.writable && !event.readable, "{event:?}");

        fill(&ours);
        theirs.write_all(b"x").unwrap();
        subject.modify(&ours, A, Interest::BOTH);
        let event = subject.wait_for(A);
        assert!(event.readable && !event.writable, "{event:?}");
    }

    pub(super) fn a_full_stream_becomes_writable_when_the_peer_reads(mut subject: Subject) {
        let (ours, theirs) = pair();
        fill(&ours);
        subject.add(&ours, A, Interest::WRITABLE);
        subject.assert_silent();
        drain(&theirs);
        let event = subject.wait_for(A);
        assert!(event.writable && !event.readable, "{event:?}");
    }

    pub(super) fn only_what_was_asked_for_is_reported(mut subject: Subject) {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        fill(&ours);
        subject.add(&ours, A, Interest::WRITABLE);
        subject.assert_silent();
        subject.modify(&ours, A, Interest::READABLE);
        assert!(!subject.wait_for(A).writable);
    }

    /// spec/netlib.md G3.2, §14 item 3: the edge that the recorded system lost.
    pub(super) fn a_half_close_behind_data_is_reported_with_it(mut subject: Subject) {
        let (mut ours, mut theirs) = tcp_pair();
        subject.add(&ours, A, Interest::READABLE);
        theirs.write_all(b"last words").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let announced = subject.backend.caps().reports_read_closed;
        let event = subject.wait_until(A, Interest::READABLE, &ours, |event| event.read_closed || !announced);
        assert!(event.readable && !event.error && !event.write_closed, "{event:?}");
        assert_eq!(event.read_closed, announced);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }

    pub(super) fn a_half_close_does_not_wake_a_paused_reader(mut subject: Subject) {
        let (ours, theirs) = pair();
        fill(&ours);
        subject.add(&ours, A, Interest::WRITABLE);
        theirs.shutdown(Shutdown::Write).unwrap();
        subject.assert_silent();
        subject.modify(&ours, A, Interest::READABLE);
        subject.assert_told_of_the_end(A);
    }

    pub(super) fn a_reset_is_an_error_that_both_directions_see(mut subject: Subject) {
        for interest in [Interest::READABLE, Interest::WRITABLE, Interest::BOTH] {
            let (ours, theirs) = tcp_pair();
            // Full, so that nothing but the reset makes it writable.
            fill(&ours);
            subject.add(&ours, A, interest);
            let theirs = netlib::socket::Stream::from(OwnedFd::from(theirs));
            theirs.set_reset_on_close().unwrap();
            drop(theirs);
            if subject.backend.caps().reports_error {
                let event = subject.wait_until(A, interest, &ours, |event| event.error);
                assert!(event.readable && event.writable && event.write_closed, "{event:?}");
            } else {
                // The direction that was asked for is ready, and trying it tells.
                let event = subject.wait_until(A, interest, &ours, |event| {
                    if interest.is_readable() { event.readable } else { event.writable }
                });
                assert!(!event.error && !event.write_closed, "{event:?}");
            }
            assert_eq!((&ours).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            subject.backend.remove(ours.as_fd()).unwrap();
        }
    }

    pub(super) fn urgent_data_is_reported_and_passes_when_read(mut subject: Subject) {
        let (ours, theirs) = tcp_pair();
        subject.add(&ours, A, Interest::READABLE);
        send_urgent(&theirs);
        let event = subject.wait_until(A, Interest::READABLE, &ours, |event| event.urgent);
        assert!(event.readable, "{event:?}");
        assert_eq!((&ours).read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        subject.modify(&ours, A, Interest::READABLE);
        subject.assert_silent();
    }

    pub(super) fn nothing_is_reported_after_remove(mut subject: Subject) {
        let (ours, mut theirs) = pair();
        subject.add(&ours, A, Interest::BOTH);
        theirs.write_all(b"x").unwrap();
        subject.backend.remove(ours.as_fd()).unwrap(); // while it is ready
        subject.assert_silent();
        // It may come back under another name.
        subject.add(&ours, B, Interest::READABLE);
        subject.wait_for(B);
    }

    pub(super) fn registering_twice_is_an_error(mut subject: Subject) {
        let (ours, _theirs) = pair();
        let trigger = subject.trigger;
        for first in [Interest::READABLE, Interest::NONE] {
            subject.add(&ours, A, first);
            for second in [Interest::READABLE, Interest::NONE] {
                let error = subject.backend.add(ours.as_fd(), B, second, trigger).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            }
            subject.backend.remove(ours.as_fd()).unwrap();
        }
    }

    pub(super) fn an_unknown_descriptor_is_an_error(mut subject: Subject) {
        let (ours, _theirs) = pair();
        let trigger = subject.trigger;
        for interest in [Interest::READABLE, Interest::NONE] {
            let error = subject.backend.modify(ours.as_fd(), A, interest, trigger).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(subject.backend.remove(ours.as_fd()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// spec/netlib.md G1.1, §14 item 9.
    pub(super) fn a_reused_descriptor_is_told_apart_by_its_generation(mut subject: Subject) {
        let (first, mut first_peer) = pair();
        let number = first.as_raw_fd();
        let old = Token::new(5, 1);
        subject.add(&first, old, Interest::READABLE);
        first_peer.write_all(b"for the first").unwrap();
        let batch = subject.wait();

        // A handler closes it while its event is in the batch, and another takes its number.
        subject.backend.remove(first.as_fd()).unwrap();
        let (donor, mut second_peer) = pair();
        // dup2 onto the number: what the kernel does by itself when nothing else is opened.
        let second = replace_descriptor(first, donor);
        assert_eq!(second.as_raw_fd(), number);
        let new = Token::new(5, 2);
        subject.add(&second, new, Interest::READABLE);

        assert_eq!(batch[0].token, old);
        assert_ne!(batch[0].token, new);
        subject.assert_silent();
        second_peer.write_all(b"for the second").unwrap();
        assert!(subject.wait_for(new).readable);
    }

    pub(super) fn no_interest_is_silent_whatever_happens(mut subject: Subject) {
        let (added, mut added_peer) = tcp_pair();
        let (modified, mut modified_peer) = tcp_pair();
        subject.add(&added, A, Interest::NONE);
        subject.add(&modified, B, Interest::BOTH);
        assert!(subject.wait_for(B).writable);
        subject.modify(&modified, B, Interest::NONE);
        subject.modify(&modified, B, Interest::NONE);

        for peer in [&mut added_peer, &mut modified_peer] {
            peer.write_all(b"x").unwrap();
        }
        subject.assert_silent();
        for (ours, peer) in [(&added, added_peer), (&modified, modified_peer)] {
            // The reset has arrived when a read says so.
            let peer = netlib::socket::Stream::from(OwnedFd::from(peer));
            peer.set_reset_on_close().unwrap();
            drop(peer);
            let mut ours = ours;
            let error = loop {
                match ours.read(&mut [0; 8]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                    Err(error) => break error,
                    Ok(_) => {}
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        subject.assert_silent();
        subject.backend.remove(added.as_fd()).unwrap();
        subject.modify(&modified, A, Interest::READABLE);
        subject.assert_told_of_the_end(A);
    }

    pub(super) fn a_wait_that_finds_nothing_lasts_at_least_as_long_as_asked(mut subject: Subject) {
        let mut events = vec![];
        for micros in [1, 300, 999, 1_001, 2_500, 10_000] {
            let timeout = Duration::from_micros(micros);
            let begin = Instant::now();
            subject.backend.wait(&mut events, Some(timeout)).unwrap();
            assert!(begin.elapsed() >= timeout, "{:?} for {timeout:?}", begin.elapsed());
            assert_eq!(events, []);
        }
    }

    pub(super) fn a_wait_replaces_the_previous_batch(mut subject: Subject) {
        let (ours, _theirs) = pair();
        subject.add(&ours, A, Interest::WRITABLE);
        let mut events = Vec::new();
        subject.backend.wait(&mut events, None).unwrap();
        assert_eq!(events.len(), 1);
        subject.backend.remove(ours.as_fd()).unwrap();
        subject.backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
    }

    pub(super) fn another_thread_ends_a_wait_without_limit(mut subject: Subject) {
        let wake = Arc::new(WakeFd::new().unwrap());
        subject.add(&*wake, A, Interest::READABLE);
        let theirs = Arc::clone(&wake);
        let thread = thread::spawn(move || theirs.signal().unwrap());
        let mut events = Vec::new();
        subject.backend.wait(&mut events, None).unwrap();
        assert_eq!(events[0].token, A);
        thread.join().unwrap();

        assert_eq!(wake.acknowledge().unwrap(), 1);
        subject.modify(&*wake, A, Interest::READABLE);
        subject.assert_silent();
        wake.signal().unwrap(); // the next signal is news again
        subject.wait_for(A);
    }

    /// What embeds one loop in another: flushed changes alone make the descriptor readable.
    pub(super) fn another_loop_can_watch_the_descriptor_where_there_is_one(mut subject: Subject) {
        let readable = |subject: &Subject| -> Option<bool> {
            let fd = subject.backend.as_fd()?;
            let mut asked = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut asked, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
            Some(asked[0].revents().contains(rustix::event::PollFlags::IN))
        };
        subject.backend.flush().unwrap();
        if readable(&subject).is_none() {
            return;
        }
        assert_eq!(readable(&subject), Some(false));
        let wake = WakeFd::new().unwrap();
        wake.signal().unwrap();
        subject.add(&wake, A, Interest::READABLE);
        subject.backend.flush().unwrap();
        assert_eq!(readable(&subject), Some(true));
        subject.wait_for(A);
        wake.acknowledge().unwrap();
        subject.modify(&wake, A, Interest::READABLE);
        subject.assert_silent();
        assert_eq!(readable(&subject), Some(false));
        subject.backend.remove(wake.as_fd()).unwrap();
    }

    pub(super) fn a_batch_of_any_size_is_delivered_in_full(mut subject: Subject) {
        // More than the first batch, and more than the second.
        let wakes: Vec<_> = (0..900).map(|_| WakeFd::new().unwrap()).collect();
        for (slot, wake) in wakes.iter().enumerate() {
            subject.add(wake, Token::new(slot as u32, 3), Interest::READABLE);
            wake.signal().unwrap();
        }
        let mut seen = BTreeMap::new();
        while seen.len() < wakes.len() {
            for event in subject.wait() {
                assert_eq!(event.token.generation(), 3);
                *seen.entry(event.token.slot()).or_insert(0) += 1;
                // A level trigger reports what is left; the handled ones must not hide it.
                wakes[event.token.slot() as usize].acknowledge().unwrap();
            }
        }
        assert!(seen.values().all(|count| *count == 1));
        subject.assert_silent();
    }

    pub(super) fn the_trigger_reports_as_often_as_it_should(mut subject: Subject) {
        let wake = WakeFd::new().unwrap();
        subject.add(&wake, A, Interest::READABLE);
        wake.signal().unwrap();
        subject.wait_for(A);
        match subject.trigger {
            Trigger::Level => {
                subject.wait_for(A);
                wake.acknowledge().unwrap();
                subject.assert_silent();
            }
            Trigger::Edge => {
                // A mechanism may repeat an edge; after the descriptor is drained the next one counts.
                wake.acknowledge().unwrap();
                subject.assert_silent();
                wake.signal().unwrap();
                subject.wait_for(A);
            }
            Trigger::OneShot => {
                wake.signal().unwrap();
                subject.assert_silent();
                subject.modify(&wake, B, Interest::READABLE);
                subject.wait_for(B);
                subject.assert_silent();
            }
        }
    }

    pub(super) fn a_trigger_that_is_not_offered_is_refused(mut subject: Subject) {
        let caps = subject.backend.caps();
        let (ours, _theirs) = pair();
        for (trigger, offered) in
            [(Trigger::Level, caps.level), (Trigger::Edge, caps.edge), (Trigger::OneShot, caps.one_shot)]
        {
            match subject.backend.add(ours.as_fd(), A, Interest::READABLE, trigger) {
                Ok(()) => {
                    assert!(offered);
                    subject.backend.remove(ours.as_fd()).unwrap();
                }
                Err(error) => {
                    assert!(!offered);
                    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
                }
            }
        }
    }

    pub(super) fn what_cannot_be_polled_is_refused_or_always_ready(mut subject: Subject) {
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        let regular = OwnedFd::from(File::open(std::env::current_exe().unwrap()).unwrap());
        let trigger = subject.trigger;
        for fd in [null, regular] {
            for interest in [Interest::NONE, Interest::READABLE] {
                let added = subject.backend.add(fd.as_fd(), A, interest, trigger);
                if subject.backend.caps().refuses_unpollable {
                    assert_eq!(added.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
                    continue;
                }
                added.unwrap();
                if interest.is_none() {
                    subject.assert_silent();
                } else {
                    assert!(subject.wait_for(A).readable);
                }
                subject.backend.remove(fd.as_fd()).unwrap();
            }
        }
    }

    /// Where libc's `fd_set` ends and, used on, corrupts memory.
    pub(super) fn a_descriptor_above_1023_is_like_any_other(mut subject: Subject) {
        let _numbers = HIGH_NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(high) = high_descriptor() else { return };
        let low = WakeFd::new().unwrap();
        subject.add(&high, A, Interest::READABLE);
        subject.add(&low, B, Interest::READABLE);
        subject.assert_silent();
        rustix::io::write(&high, &1_u64.to_ne_bytes()).unwrap();
        assert!(subject.wait_for(A).readable);
        subject.backend.remove(high.as_fd()).unwrap();
        low.signal().unwrap();
        subject.wait_for(B);
    }

    /// Against the contract, and yet it may not take the others down with it.
    pub(super) fn a_descriptor_that_was_closed_unremoved_is_forgotten(mut subject: Subject) {
        let _numbers = HIGH_NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        // A number that no other test of this process can be given meanwhile.
        let Some(high) = high_descriptor() else { return };
        let other = WakeFd::new().unwrap();
        subject.add(&high, A, Interest::READABLE);
        subject.add(&other, B, Interest::READABLE);
        drop(high);
        other.signal().unwrap();
        subject.wait_for(B);
        other.acknowledge().unwrap();
        subject.modify(&other, B, Interest::READABLE);
        subject.assert_silent();

        let again = high_descriptor().unwrap();
        subject.add(&again, A, Interest::READABLE);
        rustix::io::write(&again, &1_u64.to_ne_bytes()).unwrap();
        assert!(subject.wait_for(A).readable);
    }
}

/// Held while a test relies on which high numbers are free.
static HIGH_NUMBERS: Mutex<()> = Mutex::new(());

/// An eventfd above 1023; None where the limit on descriptors is too low for one.
fn high_descriptor() -> Option<OwnedFd> {
    let low = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    match rustix::io::fcntl_dupfd_cloexec(&low, 5_000) {
        Ok(high) => Some(high),
        Err(rustix::io::Errno::INVAL) => {
            eprintln!("skipped: the limit on open descriptors is not above 5000");
            None
        }
        Err(errno) => panic!("{errno}"),
    }
}

/// Sends one byte of urgent data.
fn send_urgent(stream: &TcpStream) {
    rustix::net::send(stream, b"!", rustix::net::SendFlags::OOB).unwrap();
}

/// Closes `old` and gives its number to `new`.
fn replace_descriptor(old: UnixStream, new: UnixStream) -> UnixStream {
    let mut number = OwnedFd::from(old);
    rustix::io::dup2(new.as_fd(), &mut number).unwrap();
    UnixStream::from(number)
}

macro_rules! instantiate {
    ($($module:ident: $kind:ident with $trigger:ident;)*) => {
        $(mod $module {
            use super::*;
            instantiate!(@tests $kind $trigger:
                what_is_readable_already_is_reported_after_add
                what_is_readable_already_is_reported_after_modify
                a_reader_that_resumes_learns_of_what_came_meanwhile
                both_directions_are_told_apart
                a_full_stream_becomes_writable_when_the_peer_reads
                only_what_was_asked_for_is_reported
                a_half_close_behind_data_is_reported_with_it
                a_half_close_does_not_wake_a_paused_reader
                a_reset_is_an_error_that_both_directions_see
                urgent_data_is_reported_and_passes_when_read
                nothing_is_reported_after_remove
                registering_twice_is_an_error
                an_unknown_descriptor_is_an_error
                a_reused_descriptor_is_told_apart_by_its_generation
                no_interest_is_silent_whatever_happens
                a_wait_that_finds_nothing_lasts_at_least_as_long_as_asked
                a_wait_replaces_the_previous_batch
                another_thread_ends_a_wait_without_limit
                another_loop_can_watch_the_descriptor_where_there_is_one
                a_batch_of_any_size_is_delivered_in_full
                the_trigger_reports_as_often_as_it_should
                a_trigger_that_is_not_offered_is_refused
                what_cannot_be_polled_is_refused_or_always_ready
                a_descriptor_above_1023_is_like_any_other
                a_descriptor_that_was_closed_unremoved_is_forgotten
            );
        })*
    };
    (@tests $kind:ident $trigger:ident: $($name:ident)*) => {
        $(#[test]
        fn $name() {
            suite::$name(Subject::open(BackendKind::$kind, Trigger::$trigger));
        })*
    };
}

instantiate! {
    mio_edge: Mio with Edge;
    epoll_lt_level: EpollLt with Level;
    epoll_lt_edge: EpollLt with Edge;
    epoll_lt_one_shot: EpollLt with OneShot;
    epoll_et_edge: EpollEt with Edge;
    poll_level: Poll with Level;
    poll_one_shot: Poll with OneShot;
    select_level: Select with Level;
    select_one_shot: Select with OneShot;
    uring_poll_level: UringPoll with Level;
    uring_poll_edge: UringPoll with Edge;
    uring_poll_one_shot: UringPoll with OneShot;
}

#[test]
fn every_kind_opens_under_its_own_name_and_offers_its_default_trigger() {
    for kind in BackendKind::ALL {
        let backend = kind.open().unwrap();
        assert_eq!(backend.name(), kind.name());
        assert_eq!(kind.name().parse(), Ok(kind));
        assert!(match kind.default_trigger() {
            Trigger::Level => backend.caps().level,
            Trigger::Edge => backend.caps().edge,
            Trigger::OneShot => backend.caps().one_shot,
        });
    }
}
