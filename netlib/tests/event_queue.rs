//! The event queue in both variants: a thread of its own, and a reactor on every back end
//! (spec/netlib.md §11, G4.2). Every interleaving of its core is checked by loom, see
//! `README.md`; here are the promises as a user meets them.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use netlib::backend::{BackendKind, Interest};
use netlib::clock::ManualClock;
use netlib::event_queue::{self, EventQueue, EventSender, Overflow, PushError, QueueConfig, Stop};
use netlib::{PostError, Reactor, ReactorConfig, Token};
use support::{DEADLINE, drive};

type Log = Vec<String>;

on_every_backend! {
    g11_1_a_delayed_post_runs_when_the_loops_clock_says_so,
    g11_1_a_post_is_cancelled_by_id_and_by_name,
    g11_1_a_full_queue_rejects_blocks_or_drops_the_oldest,
    g11_1_the_loop_drains_or_discards_what_was_posted,
    g11_4_the_loop_measures_waiting_and_running,
    a_wake_up_between_the_last_check_and_the_sleep_is_not_lost,
    sixteen_producers_each_in_order_and_no_wait_is_for_nothing,
}

fn bounded(capacity: usize, overflow: Overflow) -> QueueConfig {
    QueueConfig { capacity: Some(capacity), overflow, ..QueueConfig::default() }
}

/// A queue whose thread stands in an event until the returned sender is dropped.
fn busy<S: Send + 'static>(
    config: QueueConfig,
    make: impl FnOnce() -> S + Send + 'static,
) -> (EventQueue<S>, EventSender<S>, mpsc::Sender<()>) {
    let queue = EventQueue::start("test", config, make).unwrap();
    let events = queue.sender();
    let (release, gate) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    events
        .post(move |_| {
            begun.send(()).unwrap();
            let _ = gate.recv();
        })
        .unwrap();
    has_begun.recv().unwrap();
    (queue, events, release)
}

// --- with a thread of its own

#[test]
fn g11_2_sixteen_producers_keep_their_order_on_the_queues_thread() {
    const PRODUCERS: usize = 16;
    const EVENTS: usize = 5_000;
    for config in [QueueConfig::default(), bounded(64, Overflow::Block)] {
        let (result, seen) = mpsc::channel();
        let queue = EventQueue::start("test", config, || vec![Vec::new(); PRODUCERS]).unwrap();
        let barrier = Arc::new(Barrier::new(PRODUCERS));
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let (events, barrier) = (queue.sender(), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    for n in 0..EVENTS {
                        events.post(move |seen: &mut Vec<Vec<usize>>| seen[producer].push(n)).unwrap();
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        queue.sender().post(move |seen| result.send(std::mem::take(seen)).unwrap()).unwrap();
        let stats = queue.stop(Stop::Drain);
        let seen = seen.recv().unwrap();
        assert!(seen.iter().all(|numbers| numbers.len() == EVENTS && numbers.is_sorted()));
        assert_eq!(stats.taken, (PRODUCERS * EVENTS + 1) as u64);
        assert_eq!((stats.depth, stats.rejected, stats.dropped), (0, 0, 0));
        assert!(config.capacity.is_none_or(|capacity| stats.max_depth <= capacity), "{stats:?}");
    }
}

#[test]
fn g11_1_delayed_events_run_in_the_order_of_their_deadlines_and_never_early() {
    let queue = EventQueue::start("test", QueueConfig::default(), Vec::new).unwrap();
    let events = queue.sender();
    let (done, wait) = mpsc::channel();
    let start = Instant::now();
    for millis in [40_u64, 10, 30, 20] {
        let done = done.clone();
        let event = move |order: &mut Vec<u64>| {
            assert!(start.elapsed() >= Duration::from_millis(millis), "early");
            order.push(millis);
            if order.len() == 4 {
                done.send(order.clone()).unwrap();
            }
        };
        events.post_delayed(Duration::from_millis(millis), event).unwrap();
    }
    let victim = events.post_delayed(Duration::from_millis(15), |_| panic!("it was cancelled")).unwrap();
    assert!(events.cancel(victim));
    assert!(!events.cancel(victim));
    assert_eq!(wait.recv_timeout(DEADLINE).unwrap(), [10, 20, 30, 40]);
    let stats = queue.stop(Stop::Drain);
    assert_eq!((stats.taken, stats.cancelled, stats.panics), (4, 1, 0));
}

#[test]
fn an_earlier_deadline_shortens_the_sleep() {
    let (sender, mut receiver) = event_queue::channel(QueueConfig::default());
    sender.push_delayed(Duration::MAX, "never").unwrap();
    let poster = thread::spawn(move || {
        sender.push_delayed(Duration::from_millis(5), "soon").unwrap();
        sender // kept, or the queue would be at its end
    });
    assert_eq!(receiver.pop_within(DEADLINE), Some("soon"));
    let sender = poster.join().unwrap();
    assert_eq!(receiver.pop_within(Duration::ZERO), None);
    assert_eq!(sender.stats().delayed, 1);
}

#[test]
fn g11_1_a_full_queue_with_its_own_thread_rejects() {
    let (queue, events, release) = busy(bounded(2, Overflow::Reject), || 0);
    events.post(|sum| *sum += 1).unwrap();
    let delayed = events.post_delayed(Duration::from_secs(3600), |_| unreachable!()).unwrap();
    assert_eq!(events.post(|_| unreachable!()), Err(PostError::Full), "a delayed event counts");
    assert!(events.cancel(delayed));
    events.post(|sum| assert_eq!(*sum, 1)).unwrap();
    drop(release);
    let stats = queue.stop(Stop::Drain);
    assert_eq!((stats.rejected, stats.taken, stats.panics), (1, 3, 0));
}

#[test]
fn g11_1_a_full_queue_drops_the_oldest() {
    let (queue, events, release) = busy(bounded(3, Overflow::DropOldest), Vec::new);
    let (result, seen) = mpsc::channel();
    for n in 0..10 {
        events.post(move |seen: &mut Vec<u32>| seen.push(n)).unwrap();
    }
    // The last one also reports; it pushes out 7.
    events.post(move |seen| result.send(seen.clone()).unwrap()).unwrap();
    drop(release);
    let stats = queue.stop(Stop::Drain);
    assert_eq!(seen.recv().unwrap(), [8, 9]);
    assert_eq!((stats.dropped, stats.max_depth), (8, 3));
}

#[test]
fn g11_1_a_full_queue_blocks_its_producers_but_never_its_own_thread() {
    let (queue, events, release) = busy(bounded(1, Overflow::Block), || ());
    events.post(|()| ()).unwrap();
    let (posting, is_posting) = mpsc::channel();
    let blocked = {
        let events = events.clone();
        thread::spawn(move || {
            posting.send(()).unwrap();
            events.post(|()| ())
        })
    };
    is_posting.recv().unwrap();
    assert!(!blocked.is_finished());
    assert_eq!(events.stats().posted, 2, "the third is not in");
    drop(release);
    blocked.join().unwrap().unwrap();

    let own = events.clone();
    let (result, outcome) = mpsc::channel();
    events
        .post(move |()| {
            let outcomes = [own.post(|()| ()).err(), own.post(|()| ()).err()];
            result.send(outcomes).unwrap();
        })
        .unwrap();
    let outcomes = outcome.recv_timeout(DEADLINE).expect("it waits for itself");
    assert_eq!(outcomes[1], Some(PostError::OwnThread));
    queue.stop(Stop::Drain);
}

#[test]
fn a_blocked_producer_is_refused_when_the_queue_stops() {
    let (sender, mut receiver) = event_queue::channel(bounded(1, Overflow::Block));
    sender.push(1).unwrap();
    let producer = thread::spawn(move || sender.push(2));
    receiver.close(Stop::Drain);
    assert_eq!(producer.join().unwrap(), Err(PushError::Closed(2)));
    assert_eq!((receiver.pop(), receiver.pop()), (Some(1), None));
}

#[test]
fn g11_1_stop_drains_or_discards() {
    for (stop, ran, dropped) in [(Stop::Drain, 3, 1), (Stop::Discard, 1, 3)] {
        let counter = Arc::new(AtomicUsize::new(0));
        let (queue, events, release) = busy(QueueConfig::default(), || ());
        for _ in 0..2 {
            let counter = Arc::clone(&counter);
            events
                .post(move |()| {
                    counter.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
        }
        events.post_delayed(Duration::from_secs(3600), |()| unreachable!()).unwrap();
        let stopping = thread::spawn(move || queue.stop(stop));
        // Stopped while the first event still runs.
        while events.post(|()| ()) != Err(PostError::Closed) {
            thread::yield_now();
        }
        drop(release);
        let stats = stopping.join().unwrap();
        let extra = stats.posted - 4; // what the loop above still got in
        assert_eq!((stats.taken + stats.dropped, stats.depth), (stats.posted, 0));
        assert_eq!(counter.load(Ordering::Relaxed), ran - 1);
        let kept = if stop == Stop::Drain { extra } else { 0 };
        assert_eq!(stats.taken, ran as u64 + kept);
        assert_eq!(stats.dropped, dropped + extra - kept);
    }
}

#[test]
fn g11_2_a_panicking_event_is_contained_and_counted() {
    let queue = EventQueue::start("test", QueueConfig::default(), || ()).unwrap();
    let events = queue.sender();
    let (sender, results) = mpsc::channel();
    events.post(|()| panic!("on purpose")).unwrap();
    events.post(move |()| sender.send("alive").unwrap()).unwrap();
    assert_eq!(results.recv_timeout(DEADLINE).unwrap(), "alive");
    let stats = queue.stop(Stop::Drain);
    assert_eq!((stats.panics, stats.taken), (1, 2));
}

#[test]
fn g11_4_waiting_and_running_are_measured() {
    let (queue, events, release) = busy(QueueConfig::default(), || ());
    events.post(|()| ()).unwrap();
    events.post(|()| ()).unwrap();
    let pause = Duration::from_millis(10);
    thread::sleep(pause); // the quantity under test, not a wait for something
    drop(release);
    let stats = queue.stop(Stop::Drain);
    assert_eq!((stats.posted, stats.taken, stats.depth, stats.max_depth), (3, 3, 0, 2));
    assert!(stats.wait_max >= pause && stats.wait_total >= 2 * pause, "{stats:?}");
    assert!(stats.run_max >= pause && stats.run_total >= stats.run_max, "{stats:?}");
    let unmeasured = QueueConfig { measure: false, ..QueueConfig::default() };
    let (queue, _, release) = busy(unmeasured, || ());
    drop(release);
    assert_eq!(queue.stop(Stop::Drain).run_total, Duration::ZERO);
}

#[test]
fn named_events_are_cancelled_together_delayed_or_not() {
    let (sender, mut receiver) = event_queue::channel(QueueConfig::default());
    let user = format!("user {}", 7);
    sender.push_named(user.clone(), None, 1).unwrap();
    sender.push(2).unwrap();
    sender.push_named(user.clone(), Some(Duration::from_secs(3600)), 3).unwrap();
    sender.push_named("another", None, 4).unwrap();
    assert_eq!(sender.cancel_named(&user), 2);
    assert_eq!(sender.cancel_named(&user), 0);
    let stats = sender.stats();
    assert_eq!((stats.depth, stats.delayed, stats.cancelled), (2, 0, 2));
    drop(sender);
    assert_eq!([receiver.pop(), receiver.pop(), receiver.pop()], [Some(2), Some(4), None]);
}

#[test]
fn an_event_may_push_while_it_is_dropped() {
    struct Pushes(event_queue::Sender<Pushes, event_queue::Parked>);
    impl Drop for Pushes {
        fn drop(&mut self) {
            // The refused one would recurse: forget it.
            if let Err(refused) = self.0.push(Pushes(self.0.clone())) {
                std::mem::forget(refused);
            }
        }
    }
    let (sender, receiver) = event_queue::channel(QueueConfig::default());
    let id = sender.push(Pushes(sender.clone())).unwrap();
    assert!(sender.cancel(id), "dropped here, which pushes another");
    assert_eq!(sender.stats().depth, 1);
    drop(receiver);
    assert_eq!(sender.stats().depth, 0);
}

#[test]
fn cancelling_without_a_consumer_leaves_nothing_behind() {
    let (sender, _receiver) = event_queue::pollable(bounded(2, Overflow::Reject)).unwrap();
    for n in 0..100_000 {
        let queued = sender.push(n).unwrap();
        let delayed = sender.push_delayed(Duration::from_secs(1), n).unwrap();
        assert!(sender.cancel(delayed) && sender.cancel(queued));
    }
    let stats = sender.stats();
    assert_eq!((stats.depth, stats.delayed, stats.cancelled), (0, 0, 200_000));
}

// --- a reactor's queue

fn manual(config: ReactorConfig) -> (Reactor<Log>, ManualClock) {
    let clock = ManualClock::new();
    (Reactor::new(ReactorConfig { clock: Box::new(clock.clone()), ..config }).unwrap(), clock)
}

fn on(kind: BackendKind) -> ReactorConfig {
    ReactorConfig { backend: Some(kind), ..ReactorConfig::default() }
}

fn note(text: &'static str) -> impl FnOnce(&mut Log, &mut netlib::Context<Log>) + Send {
    move |log, _| log.push(text.into())
}

fn turn(reactor: &mut Reactor<Log>, log: &mut Log) {
    reactor.run_once(log, Some(Duration::ZERO)).unwrap();
}

fn g11_1_a_delayed_post_runs_when_the_loops_clock_says_so(kind: BackendKind) {
    let (mut reactor, clock) = manual(on(kind));
    let mut log = Log::new();
    let remote = reactor.context().remote();
    thread::spawn(move || {
        remote.post_delayed(Duration::from_secs(10), note("ten")).unwrap();
        remote.post_delayed(Duration::from_secs(5), note("five")).unwrap();
        remote.post_delayed(Duration::MAX, note("never")).unwrap();
    })
    .join()
    .unwrap();
    turn(&mut reactor, &mut log);
    assert_eq!(reactor.context().stats().queue.delayed, 3);
    clock.advance(Duration::from_millis(4_999));
    turn(&mut reactor, &mut log);
    assert!(log.is_empty());
    clock.advance(Duration::from_millis(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["five"]);
    clock.advance(Duration::from_secs(60));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["five", "ten"]);
    // By the system's clock the loop wakes by itself.
    let mut reactor = support::reactor::<Log>(kind);
    let remote = reactor.context().remote();
    let start = Instant::now();
    remote.post_delayed(Duration::from_millis(20), |_, cx| cx.stop()).unwrap();
    reactor.run(&mut log).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20), "early");
}

fn g11_1_a_post_is_cancelled_by_id_and_by_name(kind: BackendKind) {
    let (mut reactor, clock) = manual(on(kind));
    let mut log = Log::new();
    let remote = reactor.context().remote();
    let queued = remote.post(note("cancelled")).unwrap();
    let delayed = remote.post_delayed(Duration::from_secs(1), note("cancelled")).unwrap();
    let armed = remote.post_delayed(Duration::from_secs(1), note("cancelled")).unwrap();
    remote.post_named("group", None, note("cancelled")).unwrap();
    remote.post_named("group", Some(Duration::from_secs(1)), note("cancelled")).unwrap();
    let kept = remote.post_delayed(Duration::from_secs(1), note("kept")).unwrap();
    assert!(remote.cancel(queued) && remote.cancel(delayed));
    assert_eq!(remote.cancel_named("group"), 2);
    turn(&mut reactor, &mut log); // the loop has put the others on its clock now
    assert!(remote.cancel(armed) && !remote.cancel(armed));
    clock.advance(Duration::from_secs(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["kept"]);
    assert!(!remote.cancel(kept), "it has run");
    assert_eq!(reactor.context().stats().queue.cancelled, 5);
}

fn g11_1_a_full_queue_rejects_blocks_or_drops_the_oldest(kind: BackendKind) {
    let with = |queue_overflow| {
        let config = ReactorConfig { queue_capacity: Some(2), queue_overflow, ..on(kind) };
        let mut reactor = Reactor::<Log>::new(config).unwrap();
        let remote = reactor.context().remote();
        remote.post(note("one")).unwrap();
        remote.post(note("two")).unwrap();
        (reactor, remote, Log::new())
    };
    let (mut reactor, remote, mut log) = with(Overflow::Reject);
    assert_eq!(remote.post(note("three")), Err(PostError::Full));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["one", "two"]);

    let (mut reactor, remote, mut log) = with(Overflow::DropOldest);
    remote.post(note("three")).unwrap();
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["two", "three"]);

    let (mut reactor, remote, mut log) = with(Overflow::Block);
    assert_eq!(remote.post(note("mine")), Err(PostError::OwnThread), "the loop would wait for itself");
    let poster = thread::spawn(move || remote.post(note("three")));
    drive(&mut reactor, &mut log, "all three", |log| log.len() == 3);
    poster.join().unwrap().unwrap();
    assert_eq!(log, ["one", "two", "three"]);
}

fn g11_1_the_loop_drains_or_discards_what_was_posted(kind: BackendKind) {
    for (stop, expected) in [(Stop::Drain, 3_000), (Stop::Discard, 0)] {
        let mut reactor = support::reactor::<Log>(kind);
        let remote = reactor.context().remote();
        for _ in 0..3_000 {
            remote.post(note("ran")).unwrap(); // more than one tick takes
        }
        reactor.context().stop_posts(stop);
        assert_eq!(remote.post(note("late")), Err(PostError::Closed));
        let mut log = Log::new();
        reactor.run(&mut log).unwrap();
        assert_eq!(log.len(), expected);
        let queue = reactor.context().stats().queue;
        assert_eq!((queue.taken, queue.dropped), (expected as u64, 3_000 - expected as u64));
    }
}

fn g11_4_the_loop_measures_waiting_and_running(kind: BackendKind) {
    let (mut reactor, clock) = manual(ReactorConfig { measure: true, ..on(kind) });
    let mut log = Log::new();
    let remote = reactor.context().remote();
    let pause = Duration::from_millis(5);
    remote.post(note("first")).unwrap();
    thread::sleep(pause); // the quantity under test: posts wait by the system's clock
    let busy = clock.clone();
    reactor.context().post(move |_, _| busy.advance(Duration::from_secs(1)));
    turn(&mut reactor, &mut log);
    let queue = reactor.context().stats().queue;
    assert_eq!((queue.posted, queue.taken, queue.max_depth), (1, 1, 1));
    assert!(queue.wait_max >= pause && queue.wait_total == queue.wait_max, "{queue:?}");
    assert_eq!(queue.run_total, Duration::ZERO, "the long one was no post of another thread");
}

/// The last check of a tick is the take in *Posted*; here a post comes right after it, from the
/// loop's own thread, where no luck is needed.
fn a_wake_up_between_the_last_check_and_the_sleep_is_not_lost(kind: BackendKind) {
    let mut reactor = support::reactor::<Log>(kind);
    let mut log = Log::new();
    let remote = reactor.context().remote();
    let late = remote.clone();
    reactor.context().after(Duration::ZERO, move |_, _| {
        late.post(note("after the check")).unwrap();
    });
    drive(&mut reactor, &mut log, "the timer", |_| remote_depth(&remote) == 1);
    reactor.run_once(&mut log, None).unwrap(); // would sleep for ever
    assert_eq!(log, ["after the check"]);
    let late = remote.clone();
    reactor.context().on_before_wait(move |log: &mut Log, cx| {
        log.push("before the wait".into());
        late.post(note("after the hook")).unwrap();
        cx.remove_hooks();
    });
    reactor.run_once(&mut log, None).unwrap();
    assert_eq!(log[1..], ["before the wait", "after the hook"]);
}

fn remote_depth<S: 'static>(remote: &netlib::Remote<S>) -> usize {
    remote.stats().depth
}

/// spec/netlib.md G4.2, G11.2, §14 item 7.
fn sixteen_producers_each_in_order_and_no_wait_is_for_nothing(kind: BackendKind) {
    use std::os::fd::AsFd;
    const PRODUCERS: usize = 16;
    const ITEMS: usize = 5_000;
    let (sender, mut receiver) = event_queue::pollable(QueueConfig::default()).unwrap();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let sender = sender.clone();
            thread::spawn(move || {
                for n in 0..ITEMS {
                    sender.push((producer, n)).unwrap();
                }
            })
        })
        .collect();
    let mut backend = kind.open().unwrap();
    backend.add(receiver.as_fd(), Token::new(0, 0), Interest::READABLE, kind.default_trigger()).unwrap();
    let mut next = [0; PRODUCERS];
    let (mut events, mut items) = (Vec::new(), Vec::new());
    while next.iter().sum::<usize>() < PRODUCERS * ITEMS {
        backend.wait(&mut events, Some(DEADLINE)).unwrap();
        assert_eq!(events.len(), 1, "{kind}: a wake-up was lost");
        assert!(receiver.stats().depth > 0, "{kind}: a wait ended for nothing");
        while receiver.take(Instant::now(), 64, &mut items) > 0 {}
        for (producer, n) in items.drain(..) {
            assert_eq!(n, next[producer], "{kind}: producer {producer} out of order");
            next[producer] += 1;
        }
    }
    for producer in producers {
        producer.join().unwrap();
    }
    backend.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert_eq!(events, [], "{kind}: nothing is left to be woken for");
}
