//! The queue under every interleaving of its threads:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p netlib --release --lib loom
//! ```
//!
//! Loom knows no eventfd, so [`Readable`] stands in: a flag that a wait sleeps on. A wake-up
//! that is lost leaves a thread asleep for ever, which loom reports as a deadlock. What is not
//! modelled is time: delayed events and limited waits are tested elsewhere.

use std::time::Instant;

use ::loom::model::Builder;
use ::loom::sync::{Arc, Condvar, Mutex};
use ::loom::thread;

use super::channel::{Receiver, Sender, channel, ends};
use super::core::{Core, Wake, sealed};
use super::{Overflow, PushError, QueueConfig, Stop};

/// An eventfd with its poller: readable from raise to lower.
struct Readable {
    flag: Mutex<bool>,
    changed: Condvar,
    /// Writes so far.
    raised: Mutex<usize>,
}

impl Wake for Arc<Readable> {}
impl sealed::Wake for Arc<Readable> {
    const SHARES_CLOCK: bool = false;

    fn raise(&self) {
        *self.raised.lock().unwrap() += 1;
        let was = std::mem::replace(&mut *self.flag.lock().unwrap(), true);
        assert!(!was, "written although it was readable already");
        self.changed.notify_one();
    }

    fn lower(&self) {
        let was = std::mem::replace(&mut *self.flag.lock().unwrap(), false);
        assert!(was, "read although it was not readable");
    }
}

impl Readable {
    /// The consumer's epoll_wait, level-triggered.
    fn wait(&self) {
        let mut flag = self.flag.lock().unwrap();
        while !*flag {
            flag = self.changed.wait(flag).unwrap();
        }
    }
}

fn polled<T>(config: QueueConfig) -> (Sender<T, Arc<Readable>>, Receiver<T, Arc<Readable>>, Arc<Readable>) {
    let wake = Arc::new(Readable { flag: Mutex::new(false), changed: Condvar::new(), raised: Mutex::new(0) });
    let (sender, receiver) = ends(Core::new(config, Arc::clone(&wake)));
    (sender, receiver, wake)
}

fn config(capacity: Option<usize>, overflow: Overflow) -> QueueConfig {
    QueueConfig { capacity, overflow, measure: false }
}

/// Explores every interleaving with at most `preemptions` forced switches. Loom's authors find
/// that two or three show all bugs that more would; without a bound three threads take hours.
fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// The reactor's side: look, take, and sleep only if nothing was there. A post between the last
/// look and the sleep must end the sleep.
#[test]
fn loom_a_post_between_the_last_look_and_the_sleep_wakes() {
    model(3, || {
        let (sender, mut receiver, wake) = polled(config(None, Overflow::Reject));
        let other = sender.clone();
        let producers = [
            thread::spawn(move || {
                sender.push(1).unwrap();
                sender.push(2).unwrap();
            }),
            thread::spawn(move || {
                other.push(10).unwrap();
            }),
        ];
        let now = Instant::now();
        let mut events = Vec::new();
        while events.len() < 3 {
            wake.wait();
            receiver.take(now, 2, &mut events);
        }
        for producer in producers {
            producer.join().unwrap();
        }
        events.retain(|event| *event < 10);
        assert_eq!(events, [1, 2], "the order of one producer");
        assert!(!*wake.flag.lock().unwrap() || receiver.take(now, 9, &mut events) == 0);
        assert!(*wake.raised.lock().unwrap() <= 4, "three posts and the end of the senders");
    });
}

/// The blocking consumer, and its end when the last sender goes.
#[test]
fn loom_a_blocking_pop_sees_every_event_and_the_end() {
    model(3, || {
        let (sender, mut receiver) = channel(config(None, Overflow::Reject));
        let other = sender.clone();
        let first = thread::spawn(move || {
            sender.push(1).unwrap();
            sender.push(2).unwrap();
        });
        let second = thread::spawn(move || {
            other.push(10).unwrap();
        });
        let mut events = Vec::new();
        while let Some(event) = receiver.pop() {
            events.push(event);
        }
        assert_eq!(events.iter().sum::<i32>(), 13);
        events.retain(|event| *event < 10);
        assert_eq!(events, [1, 2]);
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// Two producers of a queue with one place: each gets in when there is room.
#[test]
fn loom_a_producer_that_waits_for_room_gets_it() {
    model(3, || {
        let (sender, mut receiver) = channel(config(Some(1), Overflow::Block));
        let other = sender.clone();
        let first = thread::spawn(move || {
            sender.push(1).unwrap();
            sender.push(2).unwrap();
        });
        let second = thread::spawn(move || {
            other.push(10).unwrap();
        });
        let mut sum = 0;
        while let Some(event) = receiver.pop() {
            sum += event;
        }
        assert_eq!(sum, 13);
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// Stopping wakes a producer that waits for room and a consumer that waits for events, and
/// every event is either refused, dropped or taken.
#[test]
fn loom_a_stop_wakes_everybody_and_loses_count_of_nothing() {
    for stop in [Stop::Drain, Stop::Discard] {
        model(3, move || {
            let (sender, mut receiver) = channel(config(Some(1), Overflow::Block));
            let stopper = sender.clone();
            let producer = thread::spawn(move || {
                let accepted = (0..2).filter(|n| !matches!(sender.push(*n), Err(PushError::Closed(_)))).count();
                (accepted, sender)
            });
            let stopping = thread::spawn(move || stopper.close(stop));
            let mut taken = 0;
            while receiver.pop().is_some() {
                taken += 1;
            }
            let (accepted, sender) = producer.join().unwrap();
            stopping.join().unwrap();
            let stats = sender.stats();
            assert_eq!((stats.posted, stats.taken), (accepted as u64, taken));
            assert_eq!(stats.taken + stats.dropped, stats.posted);
            assert!(stop == Stop::Discard || stats.dropped == 0, "a drain drops nothing that was ready");
        });
    }
}

/// A cancel races with the take: the event runs or is cancelled, never both, never neither.
#[test]
fn loom_an_event_is_taken_or_cancelled() {
    model(3, || {
        let (sender, mut receiver, wake) = polled(config(None, Overflow::Reject));
        let id = sender.push(1).unwrap();
        let canceller = thread::spawn(move || (sender.cancel(id), sender));
        let mut events = Vec::new();
        receiver.take(Instant::now(), 9, &mut events);
        let (cancelled, sender) = canceller.join().unwrap();
        assert_ne!(cancelled, events == [1]);
        assert!(!*wake.flag.lock().unwrap(), "nothing is left to be woken for");
        drop(sender);
    });
}
