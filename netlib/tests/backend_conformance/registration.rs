//! Registering, changing and removing: who is known, under which name, and when it is let go.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netlib::Token;
use netlib::backend::{Interest, Trigger};
use netlib::sys::WakeFd;

use crate::subject::Outcome::{Kept, Otherwise, Skipped};
use crate::subject::{
    A, B, DESCRIPTORS, HIGH, LONG, LOW_LIMIT, Outcome, Subject, high_descriptor, pair, raise_limit, replace_descriptor,
};

pub(crate) fn registering_twice_is_an_error(mut subject: Subject) -> Outcome {
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
    Kept
}

pub(crate) fn an_unknown_descriptor_is_an_error(mut subject: Subject) -> Outcome {
    let (ours, _theirs) = pair();
    let trigger = subject.trigger;
    for interest in [Interest::READABLE, Interest::NONE] {
        let error = subject.backend.modify(ours.as_fd(), A, interest, trigger).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
    assert_eq!(subject.backend.remove(ours.as_fd()).unwrap_err().kind(), io::ErrorKind::NotFound);
    Kept
}

pub(crate) fn a_trigger_that_is_not_offered_is_refused(mut subject: Subject) -> Outcome {
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
    Kept
}

pub(crate) fn what_cannot_be_polled_is_refused(mut subject: Subject) -> Outcome {
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
                subject.rearm(&fd, A, interest);
                assert!(subject.wait_for(A).readable, "and stays so");
            }
            subject.backend.remove(fd.as_fd()).unwrap();
        }
    }
    if subject.backend.caps().refuses_unpollable { Kept } else { Otherwise("it is taken, and always ready") }
}

pub(crate) fn a_descriptor_above_1023_is_like_any_other(mut subject: Subject) -> Outcome {
    let _numbers = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(high) = high_descriptor() else { return Skipped(LOW_LIMIT) };
    let low = WakeFd::new().unwrap();
    subject.add(&high, A, Interest::READABLE);
    subject.add(&low, B, Interest::READABLE);
    subject.assert_silent();
    rustix::io::write(&high, &1_u64.to_ne_bytes()).unwrap();
    assert!(subject.wait_for(A).readable);
    subject.backend.remove(high.as_fd()).unwrap();
    low.signal().unwrap();
    subject.wait_for(B);
    Kept
}

pub(crate) fn ten_thousand_descriptors_are_told_apart(mut subject: Subject) -> Outcome {
    const MANY: u32 = 10_000;
    let _numbers = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    if !raise_limit(u64::from(MANY) + 1_000) {
        return Skipped("the limit on open descriptors is not above 11,000");
    }
    let wakes: Vec<_> = (0..MANY).map(|_| WakeFd::new().unwrap()).collect();
    for (slot, wake) in (0..).zip(&wakes) {
        subject.add(wake, Token::new(slot, 3), Interest::READABLE);
    }
    subject.assert_silent();
    // A few of many.
    let few = [0, MANY / 2, MANY - 1];
    for slot in few {
        wakes[slot as usize].signal().unwrap();
    }
    let mut seen: Vec<_> = subject.wait().iter().map(|event| event.token.slot()).collect();
    seen.sort_unstable();
    assert_eq!(seen, few);
    for slot in few {
        wakes[slot as usize].acknowledge().unwrap();
        subject.rearm(&wakes[slot as usize], Token::new(slot, 3), Interest::READABLE);
    }
    subject.assert_silent();
    // All of them, more than any batch or queue holds. A queue that ran over may not forget who is watched.
    for _ in 0..2 {
        for wake in &wakes {
            wake.signal().unwrap();
        }
        let mut count = vec![0; MANY as usize];
        let mut total = 0;
        while total < MANY {
            for event in subject.wait() {
                assert_eq!(event.token.generation(), 3);
                let slot = event.token.slot();
                count[slot as usize] += 1;
                total += 1;
                wakes[slot as usize].acknowledge().unwrap();
                subject.rearm(&wakes[slot as usize], event.token, Interest::READABLE);
            }
        }
        assert!(count.iter().all(|count| *count == 1));
        subject.assert_silent();
    }
    for wake in &wakes {
        subject.backend.remove(wake.as_fd()).unwrap();
    }
    Kept
}

pub(crate) fn nothing_is_reported_after_remove(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    subject.add(&ours, A, Interest::BOTH);
    theirs.write_all(b"x").unwrap();
    subject.backend.remove(ours.as_fd()).unwrap(); // while it is ready
    subject.assert_silent();
    // It may come back under another name.
    subject.add(&ours, B, Interest::READABLE);
    subject.wait_for(B);
    Kept
}

/// A mechanism may hold what it polls open; then `remove` has to let go of it.
pub(crate) fn the_peer_sees_the_end_as_soon_as_a_removed_descriptor_is_closed(mut subject: Subject) -> Outcome {
    for case in 0..8 {
        let [waits, is_ready, modifies] = [1, 2, 4].map(|bit| case & bit != 0);
        let (ours, mut theirs) = pair();
        subject.add(&ours, A, Interest::READABLE);
        if waits {
            subject.assert_silent();
        }
        if is_ready {
            theirs.write_all(b"x").unwrap();
        }
        if modifies {
            subject.modify(&ours, B, Interest::NONE);
        }
        subject.backend.remove(ours.as_fd()).unwrap();
        drop(ours);
        match (&theirs).read(&mut [0]) {
            Ok(0) => {}
            Err(error) if is_ready && error.kind() == io::ErrorKind::ConnectionReset => {} // it was not read
            outcome => panic!("{outcome:?}"),
        }
    }
    subject.assert_silent();
    // One that goes down takes its registrations along.
    let (ours, theirs) = pair();
    subject.add(&ours, A, Interest::READABLE);
    subject.assert_silent();
    drop(subject);
    drop(ours);
    assert_eq!((&theirs).read(&mut [0]).unwrap(), 0);
    Kept
}

pub(crate) fn a_descriptor_that_was_closed_unremoved_is_forgotten(mut subject: Subject) -> Outcome {
    let _numbers = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    // A number that no other test of this process can be given meanwhile.
    let Some(high) = high_descriptor() else { return Skipped(LOW_LIMIT) };
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
    Kept
}

pub(crate) fn a_descriptor_closed_unremoved_is_really_closed(mut subject: Subject) -> Outcome {
    let _numbers = DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let (ours, theirs) = pair();
    // A number that no other test of this process can be given meanwhile.
    let Ok(high) = rustix::io::fcntl_dupfd_cloexec(&ours, HIGH) else { return Skipped(LOW_LIMIT) };
    drop(ours);
    subject.add(&high, A, Interest::READABLE);
    subject.assert_silent();
    drop(high);
    match (&theirs).read(&mut [0]) {
        Ok(0) if subject.backend.caps().lets_go_of_closed => Kept,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && !subject.backend.caps().lets_go_of_closed => {
            // Until its number comes back, and is told apart.
            let (again, mut peer) = pair();
            let again = rustix::io::fcntl_dupfd_cloexec(&again, HIGH).unwrap();
            subject.add(&again, B, Interest::READABLE);
            subject.assert_silent();
            assert_eq!((&theirs).read(&mut [0]).unwrap(), 0);
            peer.write_all(b"x").unwrap();
            assert!(subject.wait_for(B).readable);
            Otherwise("it stays open until its number is registered anew or the back end goes down")
        }
        outcome => panic!("{outcome:?}"),
    }
}

pub(crate) fn a_reused_descriptor_is_told_apart_by_its_generation(mut subject: Subject) -> Outcome {
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
    Kept
}

/// Handlers change other registrations while the batch that names them is being worked through.
pub(crate) fn changes_inside_a_batch_apply_to_the_next_wait(mut subject: Subject) -> Outcome {
    let wakes: Vec<_> = (0..4).map(|_| WakeFd::new().unwrap()).collect();
    for (slot, wake) in wakes.iter().enumerate() {
        subject.add(wake, Token::new(slot as u32, 1), Interest::READABLE);
        wake.signal().unwrap();
    }
    assert_eq!(subject.wait().len(), 4, "all in one batch");
    // The first one's handler silences the second, renames the third and replaces the fourth.
    subject.modify(&wakes[0], Token::new(0, 1), Interest::NONE);
    subject.modify(&wakes[1], Token::new(1, 1), Interest::NONE);
    subject.modify(&wakes[2], Token::new(2, 2), Interest::READABLE);
    subject.backend.remove(wakes[3].as_fd()).unwrap();
    subject.add(&wakes[3], Token::new(3, 2), Interest::READABLE);
    let mut seen: Vec<_> = subject.wait().iter().map(|event| event.token).collect();
    seen.sort_unstable_by_key(|token| token.slot());
    assert_eq!(seen, [Token::new(2, 2), Token::new(3, 2)]);
    Kept
}

/// Where readiness is queued on its way to the next wait, a change overtakes it.
pub(crate) fn what_was_queued_for_an_old_registration_is_not_reported(mut subject: Subject) -> Outcome {
    let (wake, other) = (WakeFd::new().unwrap(), WakeFd::new().unwrap());
    for _ in 0..3 {
        subject.add(&wake, A, Interest::READABLE);
        subject.add(&other, Token::new(9, 9), Interest::READABLE);
        subject.assert_silent();
        wake.signal().unwrap();
        // Whatever this hands to the kernel or takes from it, the signal is known by now.
        subject.backend.remove(other.as_fd()).unwrap();
        subject.backend.flush().unwrap();
        subject.modify(&wake, B, Interest::NONE);
        subject.assert_silent();
        subject.modify(&wake, B, Interest::READABLE);
        assert!(subject.wait_for(B).readable);
        wake.acknowledge().unwrap();
        subject.modify(&wake, B, Interest::READABLE);
        subject.assert_silent();
        subject.backend.remove(wake.as_fd()).unwrap();
    }
    Kept
}

/// EPOLLEXCLUSIVE: each waiter has a back end of its own, and the listener is in all of them.
pub(crate) fn of_several_waiters_for_a_listener_one_is_woken(mut subject: Subject) -> Outcome {
    const WAITERS: usize = 2;
    const CONNECTIONS: usize = 10;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (kind, trigger) = (subject.kind(), subject.trigger);
    let first = subject.backend.add_exclusive(listener.as_fd(), A, Interest::READABLE, trigger);
    if !subject.backend.caps().exclusive_wakeup {
        assert_eq!(first.unwrap_err().kind(), io::ErrorKind::Unsupported);
        return Otherwise("a connection wakes every waiter");
    }
    if trigger == Trigger::OneShot {
        assert_eq!(first.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(subject.backend.remove(listener.as_fd()).unwrap_err().kind(), io::ErrorKind::NotFound);
        return Otherwise("a one-shot cannot be exclusive");
    }
    first.unwrap();
    subject.backend.remove(listener.as_fd()).unwrap();

    let stop = WakeFd::new().unwrap();
    let (woken, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (say, waiters) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..WAITERS {
            let say = say.clone();
            scope.spawn(|| {
                let say = say;
                let mut subject = Subject::open(kind, trigger).expect("it has been opened before");
                // It stays exclusive when it rests and comes back, and when it is renamed.
                subject.backend.add_exclusive(listener.as_fd(), B, Interest::READABLE, trigger).unwrap();
                subject.modify(&listener, B, Interest::NONE);
                subject.modify(&listener, B, Interest::READABLE);
                subject.modify(&listener, A, Interest::READABLE);
                subject.add(&stop, B, Interest::READABLE);
                say.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
                loop {
                    let events = subject.wait();
                    if events.iter().any(|event| event.token == B) {
                        return;
                    }
                    woken.fetch_add(1, Ordering::AcqRel);
                    // Time for the other to find the connection too, should it have been woken.
                    thread::sleep(Duration::from_millis(3));
                    while listener.accept().is_ok() {
                        accepted.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        let waiters: Vec<_> = waiters.iter().take(WAITERS).collect();
        let all_asleep = || waiters.iter().all(|thread| is_asleep(thread));
        for connection in 1..=CONNECTIONS {
            until("the waiters sleep", all_asleep);
            drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            until("it is accepted", || accepted.load(Ordering::Acquire) == connection);
        }
        until("the waiters sleep", all_asleep);
        stop.signal().unwrap();
    });
    assert_eq!(woken.into_inner(), CONNECTIONS);
    Kept
}

/// Whether a thread, by its directory below /proc, sleeps in the kernel.
fn is_asleep(thread: &Path) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap();
    // The state follows the name, which stands in parentheses.
    stat.rsplit_once(')').unwrap().1.trim_start().starts_with('S')
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LONG, "in vain until {what}");
        thread::yield_now();
    }
}
