//! What is reported of a descriptor, and when.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use netlib::backend::{Interest, Trigger};
use netlib::sys::WakeFd;

use crate::subject::Outcome::{Kept, Otherwise};
use crate::subject::{A, B, Outcome, Subject, drain, fill, pair, send_urgent, tcp_pair};

pub(crate) fn what_is_readable_already_is_reported_after_add(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    theirs.write_all(b"early").unwrap();
    subject.add(&ours, A, Interest::READABLE);
    let event = subject.wait_for(A);
    assert!(event.readable && !event.writable && !event.read_closed && !event.error, "{event:?}");
    Kept
}

pub(crate) fn what_is_readable_already_is_reported_after_modify(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    subject.add(&ours, A, Interest::READABLE);
    theirs.write_all(b"x").unwrap();
    assert!(subject.wait_for(A).readable);
    // Nothing was read: an edge has been used up, and only modify brings it back.
    subject.modify(&ours, B, Interest::READABLE);
    assert!(subject.wait_for(B).readable);
    Kept
}

pub(crate) fn a_reader_that_resumes_learns_of_what_came_meanwhile(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    subject.add(&ours, A, Interest::READABLE);
    subject.modify(&ours, A, Interest::NONE);
    theirs.write_all(b"x").unwrap();
    subject.assert_silent();
    subject.modify(&ours, A, Interest::READABLE);
    assert!(subject.wait_for(A).readable);
    Kept
}

pub(crate) fn both_directions_are_told_apart(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    subject.add(&ours, A, Interest::BOTH);
    let event = subject.wait_for(A);
    assert!(event.writable && !event.readable, "{event:?}");

    fill(&ours);
    theirs.write_all(b"x").unwrap();
    subject.modify(&ours, A, Interest::BOTH);
    let event = subject.wait_for(A);
    assert!(event.readable && !event.writable, "{event:?}");
    Kept
}

pub(crate) fn both_directions_are_reported_at_once(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    theirs.write_all(b"x").unwrap();
    subject.add(&ours, A, Interest::BOTH);
    let event = subject.wait_for(A);
    assert!(event.readable && event.writable, "{event:?}");
    Kept
}

pub(crate) fn a_full_stream_becomes_writable_when_the_peer_reads(mut subject: Subject) -> Outcome {
    let (ours, theirs) = pair();
    fill(&ours);
    subject.add(&ours, A, Interest::WRITABLE);
    subject.assert_silent();
    drain(&theirs);
    let event = subject.wait_for(A);
    assert!(event.writable && !event.readable, "{event:?}");
    Kept
}

pub(crate) fn only_what_was_asked_for_is_reported(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    theirs.write_all(b"x").unwrap();
    fill(&ours);
    subject.add(&ours, A, Interest::WRITABLE);
    subject.assert_silent();
    subject.modify(&ours, A, Interest::READABLE);
    assert!(!subject.wait_for(A).writable);
    Kept
}

pub(crate) fn the_trigger_reports_as_often_as_it_should(mut subject: Subject) -> Outcome {
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
    Kept
}

/// The checksum that failed, the other process that accepted first: whatever was reported, or not,
/// the next thing is news.
pub(crate) fn what_another_reader_took_is_a_false_alarm_at_worst(mut subject: Subject) -> Outcome {
    let (ours, mut theirs) = pair();
    let mut other = ours.try_clone().unwrap();
    subject.add(&ours, A, Interest::READABLE);
    for _ in 0..3 {
        theirs.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
        let mut events = Vec::new();
        subject.backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!((&ours).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        if !events.is_empty() {
            subject.rearm(&ours, A, Interest::READABLE);
        }
        theirs.write_all(b"y").unwrap();
        assert!(subject.wait_for(A).readable);
        (&ours).read_exact(&mut [0]).unwrap();
        subject.rearm(&ours, A, Interest::READABLE);
    }
    Kept
}

pub(crate) fn a_half_close_behind_data_is_reported_with_it(mut subject: Subject) -> Outcome {
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
    if announced { Kept } else { Otherwise("the mechanism has no word for it: only a read tells the end") }
}

pub(crate) fn a_half_close_does_not_wake_a_paused_reader(mut subject: Subject) -> Outcome {
    let (ours, theirs) = pair();
    fill(&ours);
    subject.add(&ours, A, Interest::WRITABLE);
    theirs.shutdown(Shutdown::Write).unwrap();
    subject.assert_silent();
    subject.modify(&ours, A, Interest::READABLE);
    subject.assert_told_of_the_end(A);
    Kept
}

pub(crate) fn a_reset_is_an_error_that_both_directions_see(mut subject: Subject) -> Outcome {
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
    if subject.backend.caps().reports_error {
        Kept
    } else {
        Otherwise("the direction that was asked for is ready, and its read or write returns the error")
    }
}

pub(crate) fn urgent_data_is_reported_and_passes_when_read(mut subject: Subject) -> Outcome {
    let (ours, theirs) = tcp_pair();
    subject.add(&ours, A, Interest::READABLE);
    send_urgent(&theirs);
    let event = subject.wait_until(A, Interest::READABLE, &ours, |event| event.urgent);
    assert!(event.readable, "{event:?}");
    assert_eq!((&ours).read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    subject.modify(&ours, A, Interest::READABLE);
    subject.assert_silent();
    Kept
}

pub(crate) fn no_interest_is_silent_whatever_happens(mut subject: Subject) -> Outcome {
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
    Kept
}
