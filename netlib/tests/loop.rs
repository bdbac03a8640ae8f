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
use netlib::{Missed, PanicPolicy, Phase, Reactor, ReactorConfig};
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
    g4_1_a_fixed_rate_timer_makes_up_for_missed_beats_one_per_tick,
    hooks_run_around_the_wait_and_what_they_send_leaves_before_the_loop_sleeps,
    a_hook_removes_or_replaces_itself,
    a_panic_outside_a_handler_leaves_run_if_it_is_to_propagate,
    statistics_name_the_longest_callback_and_the_time_of_each_phase,
    statistics_cost_no_look_at_the_clock_unless_asked_for,
    an_idle_connection_is_closed_to_the_moment_and_a_busy_one_is_not,
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

fn g4_1_a_fixed_rate_timer_makes_up_for_missed_beats_one_per_tick(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    let cx = reactor.context();
    let beat = cx.every_with(Missed::CatchUp, Duration::from_millis(100), |log: &mut Log, _| log.push("beat".into()));
    cx.after(Duration::from_millis(340), note("another"));
    clock.advance(Duration::from_millis(350));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["beat", "another"], "catching up keeps nobody else waiting");
    for beats in 2..=3 {
        reactor.run_once(&mut log, None).unwrap(); // it does not wait, although it might
        assert_eq!(log.iter().filter(|line| *line == "beat").count(), beats);
    }
    turn(&mut reactor, &mut log);
    assert_eq!(log.len(), 4, "all three are made up for");
    clock.advance(Duration::from_millis(50));
    turn(&mut reactor, &mut log);
    assert_eq!(log.len(), 5, "the fourth is on the beat");
    assert!(reactor.context().rearm(beat, Duration::from_secs(1)));
    clock.advance(Duration::from_millis(999));
    turn(&mut reactor, &mut log);
    assert_eq!(log.len(), 5, "moved");
}

/// Keeps its connection for the hook.
struct Keep;

impl netlib::Handler<Vec<netlib::Conn>> for Keep {
    fn on_open(
        &mut self,
        conns: &mut Vec<netlib::Conn>,
        _: &mut netlib::Context<Vec<netlib::Conn>>,
        conn: &netlib::Conn,
    ) {
        conns.push(conn.clone());
    }

    fn on_data(
        &mut self,
        _: &mut Vec<netlib::Conn>,
        _: &mut netlib::Context<Vec<netlib::Conn>>,
        _: &netlib::Conn,
        input: &[u8],
    ) -> usize {
        input.len()
    }
}

fn hooks_run_around_the_wait_and_what_they_send_leaves_before_the_loop_sleeps(kind: BackendKind) {
    let mut reactor = reactor::<Vec<netlib::Conn>>(kind);
    let mut conns = Vec::new();
    let options = netlib::ListenOptions::default();
    let listener = reactor.context().listen(support::local(), options, |_, _, _| Some(Box::new(Keep))).unwrap();
    let mut client = support::peer(listener.local_addr());
    drive(&mut reactor, &mut conns, "the connection", |conns| conns.len() == 1);
    let order = Rc::new(std::cell::RefCell::new(Vec::new()));
    let (before, after, timer) = (Rc::clone(&order), Rc::clone(&order), Rc::clone(&order));
    let cx = reactor.context();
    cx.on_before_wait(move |conns: &mut Vec<netlib::Conn>, cx| {
        before.borrow_mut().push("before");
        assert_eq!(cx.phase(), Phase::Wait);
        if before.borrow().len() == 1 {
            conns[0].send("from the hook").unwrap();
        }
    });
    cx.on_after_wait(move |_, cx| {
        after.borrow_mut().push("after");
        assert_eq!(cx.phase(), Phase::Wait);
    });
    cx.after(Duration::ZERO, move |_, _| timer.borrow_mut().push("timer"));
    reactor.run_once(&mut conns, None).unwrap();
    assert_eq!(*order.borrow(), ["before", "after", "timer"]);
    let mut text = [0; 13];
    std::io::Read::read_exact(&mut client, &mut text).unwrap();
    assert_eq!(&text, b"from the hook");
    // Nothing is queued by the hook now, so the loop sleeps again.
    drive(&mut reactor, &mut conns, "a quiet loop", |_| order.borrow().len() >= 5);
    let start = Instant::now();
    reactor.run_once(&mut conns, Some(Duration::from_millis(20))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20), "it spins");
    reactor.context().remove_hooks();
    let calls = order.borrow().len();
    reactor.run_once(&mut conns, Some(Duration::ZERO)).unwrap();
    assert_eq!(order.borrow().len(), calls);
}

fn a_hook_removes_or_replaces_itself(kind: BackendKind) {
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    clock.advance(Duration::from_secs(9));
    reactor.context().on_before_wait(|log: &mut Log, cx| {
        log.push("first".into());
        cx.on_before_wait(|log: &mut Log, cx| {
            log.push("second".into());
            cx.remove_hooks();
        });
        // A timer armed here counts from now, not from the end of the last wait.
        cx.after(Duration::from_secs(1), note("timer"));
    });
    for _ in 0..4 {
        turn(&mut reactor, &mut log);
    }
    assert_eq!(log, ["first", "second"]);
    clock.advance(Duration::from_secs(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["first", "second", "timer"]);
}

struct Panics;

impl netlib::Handler<Log> for Panics {
    fn on_data(&mut self, _: &mut Log, _: &mut netlib::Context<Log>, _: &netlib::Conn, _: &[u8]) -> usize {
        panic!("a handler, as asked")
    }

    fn on_close(
        &mut self,
        log: &mut Log,
        _: &mut netlib::Context<Log>,
        _: &netlib::Conn,
        reason: &netlib::CloseReason,
    ) {
        log.push(format!("{reason:?}"));
    }
}

fn panicking_service(kind: BackendKind, panics: PanicPolicy) -> (Reactor<Log>, std::net::TcpStream) {
    let config = ReactorConfig { backend: Some(kind), panics, ..ReactorConfig::default() };
    let mut reactor = Reactor::<Log>::new(config).unwrap();
    let options = netlib::ListenOptions::default();
    let listener = reactor.context().listen(support::local(), options, |_, _, _| Some(Box::new(Panics))).unwrap();
    let mut client = support::peer(listener.local_addr());
    std::io::Write::write_all(&mut client, b"go").unwrap();
    (reactor, client)
}

fn a_panic_outside_a_handler_leaves_run_if_it_is_to_propagate(kind: BackendKind) {
    let (mut reactor, _client) = panicking_service(kind, PanicPolicy::Propagate);
    let mut log = Log::new();
    drive(&mut reactor, &mut log, "the handler's panic", |log| !log.is_empty());
    assert_eq!(log, ["HandlerPanic"], "one in a handler ends its connection only");
    reactor.context().post(|_, _| panic!("a post, as asked"));
    let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reactor.run(&mut log)));
    assert!(left.is_err());
}

/// The process ends, so another one is asked: this test again, with a variable set.
#[test]
fn a_panic_aborts_the_process_if_that_is_the_policy() {
    use std::os::unix::process::ExitStatusExt;
    const NAME: &str = "a_panic_aborts_the_process_if_that_is_the_policy";
    const WHERE: &str = "NETLIB_TEST_PANICS_IN";
    let run = |mut reactor: Reactor<Log>| {
        let start = Instant::now();
        while start.elapsed() < support::DEADLINE {
            let _ = reactor.run_once(&mut Log::new(), Some(Duration::from_millis(10)));
        }
    };
    match std::env::var(WHERE).as_deref() {
        Ok("handler") => run(panicking_service(BackendKind::Mio, PanicPolicy::Abort).0),
        Ok(_) => {
            let config = ReactorConfig { panics: PanicPolicy::Abort, ..ReactorConfig::default() };
            let mut reactor = Reactor::<Log>::new(config).unwrap();
            reactor.context().post(|_, _| panic!("a post, as asked"));
            run(reactor);
        }
        Err(_) => {
            for place in ["handler", "post"] {
                let mut child = std::process::Command::new(std::env::current_exe().unwrap());
                child.args(["--exact", NAME]).env(WHERE, place);
                let output = child.output().unwrap();
                assert_eq!(output.status.signal(), Some(6), "{place}: {output:?}");
            }
        }
    }
}

fn statistics_name_the_longest_callback_and_the_time_of_each_phase(kind: BackendKind) {
    let clock = ManualClock::new();
    let config = ReactorConfig {
        backend: Some(kind),
        clock: Box::new(clock.clone()),
        measure: true,
        ..ReactorConfig::default()
    };
    let mut reactor = Reactor::<Log>::new(config).unwrap();
    let mut log = Log::new();
    let takes = |millis| {
        let clock = clock.clone();
        move |_: &mut Log, _: &mut netlib::Context<Log>| clock.advance(Duration::from_millis(millis))
    };
    let cx = reactor.context();
    cx.post(takes(30));
    cx.post(takes(10));
    cx.after(Duration::ZERO, takes(50));
    cx.after(Duration::from_secs(3600), note("later"));
    turn(&mut reactor, &mut log);
    clock.advance(Duration::from_secs(60)); // outside the loop: no phase's time
    turn(&mut reactor, &mut log);
    let stats = reactor.context().stats();
    assert_eq!((stats.ticks, stats.callbacks, stats.timers, stats.panics), (2, 3, 1, 0));
    assert_eq!(stats.phases.of(Phase::Posted), Duration::from_millis(40));
    assert_eq!(stats.phases.of(Phase::Timers), Duration::from_millis(50));
    for phase in [Phase::Wait, Phase::Ready, Phase::Flush, Phase::Reap] {
        assert_eq!(stats.phases.of(phase), Duration::ZERO, "{phase:?}");
    }
    let longest = stats.longest_callback.expect("measured");
    assert_eq!((longest.what, longest.phase, longest.conn), ("a timer", Phase::Timers, None));
    assert_eq!(longest.took, Duration::from_millis(50));

    let options = netlib::ListenOptions::default();
    let (slow, busy) = (clock.clone(), Duration::from_millis(70));
    struct Slow(ManualClock, Duration);
    impl netlib::Handler<Log> for Slow {
        fn on_data(&mut self, log: &mut Log, _: &mut netlib::Context<Log>, conn: &netlib::Conn, input: &[u8]) -> usize {
            self.0.advance(self.1);
            log.push(conn.id().to_string());
            input.len()
        }
    }
    let listener = reactor
        .context()
        .listen(support::local(), options, move |_, _, _| Some(Box::new(Slow(slow.clone(), busy))))
        .unwrap();
    let mut client = support::peer(listener.local_addr());
    std::io::Write::write_all(&mut client, b"go").unwrap();
    drive(&mut reactor, &mut log, "the slow handler", |log| !log.is_empty());
    let stats = reactor.context().stats();
    let longest = stats.longest_callback.expect("measured");
    assert_eq!((longest.what, longest.phase, longest.took), ("a handler", Phase::Ready, busy));
    assert_eq!(longest.conn.expect("a connection's").to_string(), log[0]);
    assert_eq!((stats.bytes_in, stats.connections), (2, 1));
}

/// A clock that counts who looks at it.
struct Counted(Rc<std::cell::Cell<usize>>, ManualClock);

impl netlib::clock::Clock for Counted {
    fn now(&self) -> Instant {
        self.0.set(self.0.get() + 1);
        self.1.now()
    }

    fn unix_time(&self) -> Duration {
        self.1.unix_time()
    }
}

fn statistics_cost_no_look_at_the_clock_unless_asked_for(kind: BackendKind) {
    for (measure, most) in [(false, 1), (true, 40)] {
        let looks = Rc::new(std::cell::Cell::new(0));
        let clock = Box::new(Counted(Rc::clone(&looks), ManualClock::new()));
        let config = ReactorConfig { backend: Some(kind), clock, measure, ..ReactorConfig::default() };
        let mut reactor = Reactor::<Log>::new(config).unwrap();
        let mut log = Log::new();
        for _ in 0..10 {
            reactor.context().post(note("posted"));
        }
        looks.set(0);
        turn(&mut reactor, &mut log);
        assert_eq!(log.len(), 10);
        assert!(looks.get() <= most, "measure {measure}: {} looks", looks.get());
        assert!(!measure || looks.get() >= 20, "the other case would show nothing");
    }
}

fn an_idle_connection_is_closed_to_the_moment_and_a_busy_one_is_not(kind: BackendKind) {
    struct Tells;
    impl netlib::Handler<Log> for Tells {
        fn on_data(&mut self, log: &mut Log, _: &mut netlib::Context<Log>, _: &netlib::Conn, input: &[u8]) -> usize {
            log.push(String::from_utf8_lossy(input).into());
            input.len()
        }

        fn on_close(
            &mut self,
            log: &mut Log,
            _: &mut netlib::Context<Log>,
            _: &netlib::Conn,
            reason: &netlib::CloseReason,
        ) {
            log.push(format!("{reason:?}"));
        }
    }
    let (mut reactor, clock) = manual(kind);
    let mut log = Log::new();
    let conn = netlib::ConnOptions { idle_timeout: Some(Duration::from_secs(30)), ..netlib::ConnOptions::default() };
    let options = netlib::ListenOptions { conn, ..netlib::ListenOptions::default() };
    let listener = reactor.context().listen(support::local(), options, |_, _, _| Some(Box::new(Tells))).unwrap();
    let _quiet = support::peer(listener.local_addr());
    let mut busy = support::peer(listener.local_addr());
    drive(&mut reactor, &mut log, "both", |_| listener.connections() == 2);
    assert_eq!(reactor.context().stats().idle_timers, 2);
    clock.advance(Duration::from_secs(20));
    std::io::Write::write_all(&mut busy, b"busy").unwrap();
    drive(&mut reactor, &mut log, "input", |log| !log.is_empty());
    clock.advance(Duration::from_millis(9_999));
    for _ in 0..3 {
        turn(&mut reactor, &mut log);
    }
    assert_eq!(log, ["busy"], "early");
    clock.advance(Duration::from_millis(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["busy", "Idle"]);
    clock.advance(Duration::from_millis(19_999));
    for _ in 0..3 {
        turn(&mut reactor, &mut log);
    }
    assert_eq!(log.len(), 2, "its time began anew with what it sent");
    clock.advance(Duration::from_millis(1));
    turn(&mut reactor, &mut log);
    assert_eq!(log, ["busy", "Idle", "Idle"]);
    assert_eq!(reactor.context().stats().idle_timers, 0);
}
