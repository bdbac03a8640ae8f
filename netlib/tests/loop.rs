//! The loop itself, on every back end: timers, posting, sources, signals, stopping
//! (spec/netlib.md §14 numbers in the names).

mod support;

use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use netlib::backend::{BackendKind, Interest};
use netlib::clock::ManualClock;
use netlib::socket::Stream;
use netlib::worker_pool::{JobLost, JobOptions, WorkerPool};
use netlib::{Phase, Reactor, ReactorConfig};
use support::{drive, reactor};

type Log = Vec<String>;

on_every_backend! {
    g11_2_a_panicking_callback_is_contained_and_counted,
    endless_durations_are_no_accident,
    a_timer_armed_long_after_the_start_is_not_early,
    run_once_waits_again_after_a_stop,
    a_source_may_remove_itself,
    results_of_jobs_are_not_lost_in_a_full_queue,
    c6_a_timer_cancels_the_next_one_and_itself,
    c6_a_step_of_the_wall_clock_fires_nothing,
    c6_timers_are_never_early_and_fire_in_order,
    a_periodic_timer_skips_missed_beats_and_keeps_its_phase,
    the_only_timer_is_one_shot_and_has_fired_and_the_loop_sleeps_on,
    c7_posts_of_sixteen_threads_keep_each_threads_order,
    c7_a_post_wakes_an_idle_loop,
    posts_from_callbacks_belong_to_the_next_tick,
    a_source_reports_readiness_until_it_is_removed,
    a_worker_posts_its_result_back,
    what_becomes_of_a_job_is_always_told,
    phases_run_in_order,
    an_idle_loop_waits_and_does_not_tick,
}

/// A reactor whose time stands still until told otherwise.
fn manual(kind: BackendKind) -> (Reactor<Log>, ManualClock) {
    let clock = ManualClock::new();
    let config = ReactorConfig { backend: Some(kind), clock: Box::new(clock.clone()), ..ReactorConfig::default() };
    (Reactor::new(config).expect("a reactor"), clock)
}

fn note(text: &'static str) -> impl FnOnce(&mut Log, &mut netlib::Context<Log>) {
    move |log, _| log.push(text.into())
}

fn turn(reactor: &mut Reactor<Log>, log: &mut Log) {
    reactor.run_once(log, Some(Duration::ZERO)).expect("a tick");
}

fn c6_a_timer_cancels_the_next_one_and_itself(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    let cx = reactor.context();
    let victim = Rc::new(std::cell::Cell::new(None));
    let shared = Rc::clone(&victim);
    cx.after(Duration::from_millis(10), move |log, cx| {
        log.push(format!("cancelled {}", cx.cancel(shared.get().expect("set below"))));
    });
    victim.set(Some(cx.after(Duration::from_millis(10), note("the victim"))));
    cx.after(Duration::from_millis(10), note("the third"));
    let own = Rc::new(std::cell::Cell::new(None));
    let shared = Rc::clone(&own);
    own.set(Some(cx.every(Duration::from_millis(10), move |log: &mut Log, cx| {
        log.push(format!("periodic, cancelled {}", cx.cancel(shared.get().expect("set below"))));
    })));
    clock.advance(Duration::from_millis(10));
    turn(&mut reactor, &mut log);
    clock.advance(Duration::from_secs(10));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["cancelled true", "the third", "periodic, cancelled true"]);
    assert!(!reactor.context().cancel(own.get().expect("set")), "it is gone");
}

fn c6_a_step_of_the_wall_clock_fires_nothing(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    reactor.context().after(Duration::from_mins(1), note("fired"));
    clock.step_wall(Duration::from_secs(4_000_000_000));
    turn(&mut reactor, &mut log);
    clock.step_wall(Duration::ZERO);
    turn(&mut reactor, &mut log);
    assert!(log.is_empty());
    clock.advance(Duration::from_mins(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["fired"]);
}

fn c6_timers_are_never_early_and_fire_in_order(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let cx = reactor.context();
    let start = Instant::now();
    for millis in [7_u64, 3, 5, 1, 3] {
        cx.after(Duration::from_millis(millis), move |log, cx| {
            assert!(start.elapsed() >= Duration::from_millis(millis), "early");
            assert!(cx.phase() == Phase::Timers);
            log.push(millis.to_string());
        });
    }
    drive(&mut reactor, &mut log, "five timers", |log| log.len() == 5);
    assert_eq!(log, ["1", "3", "3", "5", "7"]);
}

fn a_periodic_timer_skips_missed_beats_and_keeps_its_phase(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    let start = reactor.context().now();
    reactor.context().every(Duration::from_millis(100), move |log: &mut Log, cx| {
        log.push((cx.now() - start).as_millis().to_string());
    });
    for step in [100, 350, 40, 10, 100] {
        clock.advance(Duration::from_millis(step));
        turn(&mut reactor, &mut log);
    }
    // Due at 100, then late at 450 for 200 to 400, then on the beat again at 500 and 600.
    assert_eq!(log, ["100", "450", "500", "600"]);
}

fn the_only_timer_is_one_shot_and_has_fired_and_the_loop_sleeps_on(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    reactor.context().after(Duration::from_millis(1), note("fired"));
    drive(&mut reactor, &mut log, "the timer", |log| log.len() == 1);
    let start = Instant::now();
    reactor.run_once(&mut log, Some(Duration::from_millis(30))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(30), "the wait ended for nothing");
}

fn c7_posts_of_sixteen_threads_keep_each_threads_order(kind: BackendKind) {
    const THREADS: usize = 16;
    const POSTS: usize = 2_000;
    let mut reactor = reactor::<Vec<Vec<usize>>>(kind);
    let mut state = vec![Vec::new(); THREADS];
    let barrier = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (remote, barrier) = (reactor.context().remote(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                for n in 0..POSTS {
                    remote.post(move |state: &mut Vec<Vec<usize>>, _| state[thread].push(n)).expect("posted");
                }
            })
        })
        .collect();
    drive(&mut reactor, &mut state, "all posts", |state| state.iter().map(Vec::len).sum::<usize>() == THREADS * POSTS);
    assert!(state.iter().all(|seen| seen.is_sorted() && seen.len() == POSTS));
    for thread in threads {
        thread.join().unwrap();
    }
}

fn c7_a_post_wakes_an_idle_loop(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let remote = reactor.context().remote();
    let poster = std::thread::spawn(move || remote.post(|_, cx| cx.stop()));
    // Without the wake-up this would wait for ever; the test runner would tell.
    reactor.run(&mut log).unwrap();
    poster.join().unwrap().unwrap();
    let remote = reactor.context().remote();
    drop(reactor);
    assert_eq!(remote.post(|_, _| ()), Err(netlib::PostError::Closed));
}

fn posts_from_callbacks_belong_to_the_next_tick(kind: BackendKind) {
    let (mut reactor, _clock) = manual(kind);
    let mut log = Log::new();
    reactor.context().post(|log, cx| {
        log.push("first".into());
        cx.post(note("second"));
    });
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["first"]);
    // It does not wait, although it might.
    reactor.run_once(&mut log, None).unwrap();
    assert_eq!(log, ["first", "second"]);
}

fn a_source_reports_readiness_until_it_is_removed(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let source = reactor
        .context()
        .add_source(near, Interest::READABLE, |log: &mut Log, _, near, ready| {
            use std::io::Read;
            let mut text = String::new();
            let _would_block = near.read_to_string(&mut text);
            log.push(format!("{text} {}", ready.readable));
        })
        .unwrap();
    std::io::Write::write_all(&mut &far, b"one").unwrap();
    drive(&mut reactor, &mut log, "the source", |log| !log.is_empty());
    assert_eq!(log, ["one true"]);
    assert!(reactor.context().remove_source(source));
    assert!(!reactor.context().remove_source(source));
    assert!(std::io::Write::write_all(&mut &far, b"two").is_err(), "the near end is closed");
    reactor.run_once(&mut log, Some(Duration::ZERO)).unwrap();
    assert_eq!(log.len(), 1);
}

fn a_worker_posts_its_result_back(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let pool = WorkerPool::new("test", 2, 100).unwrap();
    let remote = reactor.context().remote();
    for n in 0..20_u64 {
        pool.run(
            &remote,
            Some(n % 2),
            move || n * n,
            move |log: &mut Log, _, square| log.push(format!("{n}:{}", square.expect("it ran"))),
        )
        .expect("room");
    }
    drive(&mut reactor, &mut log, "twenty results", |log| log.len() == 20);
    let evens: Vec<_> =
        log.iter().filter(|line| line.split(':').next().unwrap().parse::<u64>().unwrap() % 2 == 0).collect();
    assert_eq!(evens[0], "0:0");
    assert_eq!(evens[9], "18:324", "one key, one order");
    pool.shutdown();
}

fn what_becomes_of_a_job_is_always_told(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let pool = WorkerPool::new("test", 1, 100).unwrap();
    let remote = reactor.context().remote();
    let told = |log: &mut Log, _: &mut netlib::Context<Log>, result: Result<(), JobLost>| {
        log.push(format!("{result:?}"));
    };
    pool.run(&remote, None, || (), told).unwrap();
    pool.run(&remote, None, || panic!("as asked"), told).unwrap();
    let late = JobOptions { deadline: Some(Instant::now()), ..JobOptions::default() };
    pool.run(&remote, late, || (), told).unwrap();
    drive(&mut reactor, &mut log, "three answers", |log| log.len() == 3);
    assert_eq!(log, ["Ok(())", "Err(Panicked)", "Err(Expired)"]);
}

fn phases_run_in_order(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    let listener = netlib::socket::bind_tcp(support::local(), 16).unwrap();
    let addr = listener.local_addr().unwrap();
    let cx = reactor.context();
    cx.listen_on(listener, netlib::ListenOptions::default(), |log: &mut Log, cx, _| {
        log.push(format!("{:?}", cx.phase()));
        None
    })
    .unwrap();
    cx.after(Duration::from_millis(1), |log, cx| log.push(format!("{:?}", cx.phase())));
    cx.post(|log, cx| log.push(format!("{:?}", cx.phase())));
    let client = Stream::connect(addr).unwrap();
    clock.advance(Duration::from_millis(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["Ready", "Posted", "Timers"]);
    drop(client);
}

fn an_idle_loop_waits_and_does_not_tick(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let listener =
        reactor.context().listen(support::local(), netlib::ListenOptions::default(), |_: &mut Log, _, _| None).unwrap();
    // A connection that came and went leaves nothing behind that keeps the loop awake.
    drop(support::peer(listener.local_addr()));
    drive(&mut reactor, &mut log, "the visitor to be gone", |_| listener.connections() == 0);
    reactor.run_once(&mut log, Some(Duration::from_millis(20))).unwrap();
    let start = Instant::now();
    reactor.run_once(&mut log, Some(Duration::from_millis(60))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60), "woken for nothing");
}

fn g11_2_a_panicking_callback_is_contained_and_counted(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    let cx = reactor.context();
    cx.post(|_, _| panic!("a post, as asked"));
    cx.post(note("the next post"));
    let remote = cx.remote();
    remote.post(|_, _| panic!("a remote post, as asked")).unwrap();
    remote.post(|log, _| log.push("the next remote post".into())).unwrap();
    cx.after(Duration::from_millis(1), |_, _| panic!("a timer, as asked"));
    let mut beats = 0;
    cx.every(Duration::from_millis(1), move |log: &mut Log, _| {
        beats += 1;
        assert!(beats > 1, "the first beat, as asked");
        log.push("the second beat".into());
    });
    clock.advance(Duration::from_millis(1));
    turn(&mut reactor, &mut log);
    clock.advance(Duration::from_millis(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["the next post", "the next remote post", "the second beat"]);
    assert_eq!(reactor.context().stats().panics, 4);
}

/// Closes at once.
struct Farewell;

impl netlib::Handler<Log> for Farewell {
    fn on_open(&mut self, _: &mut Log, _: &mut netlib::Context<Log>, conn: &netlib::Conn) {
        conn.close();
    }

    fn on_data(&mut self, _: &mut Log, _: &mut netlib::Context<Log>, _: &netlib::Conn, input: &[u8]) -> usize {
        input.len()
    }
}

fn endless_durations_are_no_accident(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let cx = reactor.context();
    let timer = cx.after(Duration::MAX, note("never"));
    cx.every(Duration::MAX, |_, _| unreachable!());
    assert!(cx.rearm(timer, Duration::MAX));
    let conn = netlib::ConnOptions {
        idle_timeout: Some(Duration::MAX),
        linger: Duration::MAX,
        ..netlib::ConnOptions::default()
    };
    let options = netlib::ListenOptions { conn, ..netlib::ListenOptions::default() };
    let listener = cx.listen(support::local(), options, |_, _, _| Some(Box::new(Farewell))).unwrap();
    let client = support::peer(listener.local_addr());
    drive(&mut reactor, &mut log, "the connection to be taken", |_| listener.connections() == 1);
    drop(client);
    drive(&mut reactor, &mut log, "its end", |_| listener.connections() == 0);
    assert!(netlib::Backoff::new(Duration::MAX, Duration::MAX, 20).next(7) > Duration::from_secs(1));
}

fn a_timer_armed_long_after_the_start_is_not_early(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    clock.advance(Duration::from_secs(5)); // a slow start-up
    reactor.context().after(Duration::from_secs(2), note("fired"));
    clock.advance(Duration::from_secs(1));
    turn(&mut reactor, &mut log);
    assert!(log.is_empty());
    clock.advance(Duration::from_secs(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["fired"]);
}

fn run_once_waits_again_after_a_stop(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    reactor.context().stop();
    assert!(!reactor.run_once(&mut log, None).unwrap(), "told once");
    let start = Instant::now();
    assert!(reactor.run_once(&mut log, Some(Duration::from_millis(15))).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(15));
}

fn a_source_may_remove_itself(kind: BackendKind) {
    let mut reactor = reactor::<Log>(kind);
    let mut log = Log::new();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let id = Rc::new(std::cell::Cell::new(None));
    let own = Rc::clone(&id);
    let source = reactor
        .context()
        .add_source(near, Interest::READABLE, move |log: &mut Log, cx, _, _| {
            log.push(format!("{}", cx.remove_source(own.get().expect("set below"))));
        })
        .unwrap();
    id.set(Some(source));
    drop(far);
    drive(&mut reactor, &mut log, "the end of the pair", |log| log.len() == 1);
    reactor.run_once(&mut log, Some(Duration::from_millis(5))).unwrap();
    assert_eq!(log, ["true"]);
    assert!(!reactor.context().remove_source(source));
}

fn results_of_jobs_are_not_lost_in_a_full_queue(kind: BackendKind) {
    let config = ReactorConfig { backend: Some(kind), queue_capacity: Some(4), ..ReactorConfig::default() };
    let mut reactor = Reactor::<Log>::new(config).unwrap();
    let mut log = Log::new();
    let pool = WorkerPool::new("test", 2, 100).unwrap();
    let remote = reactor.context().remote();
    for _ in 0..20 {
        pool.run(&remote, None, || (), |log: &mut Log, _, _| log.push("done".into())).unwrap();
    }
    pool.shutdown();
    assert_eq!(remote.post(|_, _| ()), Err(netlib::PostError::Full));
    drive(&mut reactor, &mut log, "twenty results", |log| log.len() == 20);
}
