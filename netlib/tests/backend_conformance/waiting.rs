//! The wait itself: its batch, its time, and what ends it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netlib::Token;
use netlib::backend::Interest;
use netlib::sys::WakeFd;
use netlib::sys::faults::Interrupter;

use crate::subject::Outcome::{Kept, Otherwise};
use crate::subject::{A, B, LONG, Outcome, Subject, pair};

pub(crate) fn a_wait_that_finds_nothing_lasts_at_least_as_long_as_asked(mut subject: Subject) -> Outcome {
    let mut events = vec![];
    let (quiet, gone) = (WakeFd::new().unwrap(), WakeFd::new().unwrap());
    subject.add(&quiet, A, Interest::READABLE);
    for micros in [1, 300, 999, 1_001, 2_500, 10_000] {
        let timeout = Duration::from_micros(micros);
        // Changes made just before are no reason to return.
        subject.modify(&quiet, A, Interest::READABLE);
        subject.add(&gone, B, Interest::READABLE);
        subject.modify(&gone, B, Interest::NONE);
        subject.backend.remove(gone.as_fd()).unwrap();
        let begin = Instant::now();
        subject.backend.wait(&mut events, Some(timeout)).unwrap();
        assert!(begin.elapsed() >= timeout, "{:?} for {timeout:?}", begin.elapsed());
        assert_eq!(events, []);
    }
    Kept
}

pub(crate) fn a_wait_replaces_the_previous_batch(mut subject: Subject) -> Outcome {
    let (ours, _theirs) = pair();
    subject.add(&ours, A, Interest::WRITABLE);
    let mut events = Vec::new();
    subject.backend.wait(&mut events, None).unwrap();
    assert_eq!(events.len(), 1);
    subject.backend.remove(ours.as_fd()).unwrap();
    subject.backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert_eq!(events, []);
    Kept
}

pub(crate) fn a_batch_of_any_size_is_delivered_in_full(mut subject: Subject) -> Outcome {
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
    Kept
}

pub(crate) fn another_thread_ends_a_wait_without_limit(mut subject: Subject) -> Outcome {
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
    Kept
}

/// EINTR, with a real handler.
pub(crate) fn a_signal_ends_a_wait_and_loses_nothing(mut subject: Subject) -> Outcome {
    let wake = WakeFd::new().unwrap();
    let interrupter = Interrupter::of_this_thread().unwrap();
    for changed in [true, false] {
        if changed {
            subject.add(&wake, A, Interest::READABLE); // goes to the kernel with the wait, where it can
        }
        let (done, begin) = (AtomicBool::new(false), Instant::now());
        thread::scope(|scope| {
            scope.spawn(|| {
                // Again and again: the first may come before the wait begins.
                while !done.load(Ordering::Acquire) {
                    interrupter.interrupt();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let mut events = Vec::new();
            let outcome = subject.backend.wait(&mut events, Some(LONG));
            done.store(true, Ordering::Release);
            outcome.unwrap();
            assert_eq!(events, []);
        });
        assert!(begin.elapsed() < LONG, "the wait went on");
    }
    wake.signal().unwrap();
    subject.wait_for(A);
    Kept
}

pub(crate) fn another_loop_can_watch_this_one(mut subject: Subject) -> Outcome {
    let readable = |subject: &Subject| -> Option<bool> {
        let fd = subject.backend.as_fd()?;
        let mut asked = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut asked, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        Some(asked[0].revents().contains(rustix::event::PollFlags::IN))
    };
    subject.backend.flush().unwrap();
    if readable(&subject).is_none() {
        return Otherwise("the kernel keeps nothing between two waits that could be watched");
    }
    // It may be readable without need, but not when the last two looks found nothing.
    let assert_rests = |subject: &mut Subject| {
        subject.assert_silent();
        subject.assert_silent();
        subject.backend.flush().unwrap();
        assert_eq!(readable(subject), Some(false));
    };
    assert_rests(&mut subject);
    let wake = WakeFd::new().unwrap();
    wake.signal().unwrap();
    subject.add(&wake, A, Interest::READABLE);
    subject.backend.flush().unwrap();
    assert_eq!(readable(&subject), Some(true), "for what is ready already");
    subject.wait_for(A);
    wake.acknowledge().unwrap();
    subject.modify(&wake, A, Interest::READABLE);
    assert_rests(&mut subject);

    // What comes while the other loop sleeps wakes it.
    thread::scope(|scope| {
        let fd = subject.backend.as_fd().unwrap();
        let mut asked = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        scope.spawn(|| wake.signal().unwrap());
        let limit = rustix::event::Timespec::try_from(LONG).unwrap();
        assert_eq!(rustix::event::poll(&mut asked, Some(&limit)).unwrap(), 1, "the other loop slept on");
    });
    subject.wait_for(A);
    subject.backend.remove(wake.as_fd()).unwrap();
    Kept
}
