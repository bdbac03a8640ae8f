//! Threads for what must not run on a reactor: databases, disks, name look-ups. The number of
//! waiting jobs is bounded, and jobs with the same key run in the order of their submission, one
//! after the other, while different keys run side by side. A job may have a deadline: one that
//! has not begun by then is not worth beginning, and is reported instead.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use crate::clock::{Clock, SystemClock};
use crate::context::{Context, Remote};

/// What is to be done, or to be told that it was not.
type Work = Box<dyn FnOnce(Result<(), JobLost>) + Send>;

struct Job {
    deadline: Option<Instant>,
    work: Work,
}

/// In what order and until when a job runs. A key converts into options without a deadline, so
/// `Some(7)` and `None` do as well.
///
/// ```
/// use netlib::worker_pool::JobOptions;
///
/// assert_eq!(JobOptions::from(Some(7)), JobOptions { key: Some(7), deadline: None });
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// Jobs with the same key run one after the other, in the order of their submission.
    pub key: Option<u64>,
    /// The job begins before that moment, or never.
    pub deadline: Option<Instant>,
}

impl From<Option<u64>> for JobOptions {
    fn from(key: Option<u64>) -> Self {
        Self { key, deadline: None }
    }
}

/// Why a job has no result.
///
/// ```
/// use netlib::worker_pool::JobLost;
///
/// assert_eq!(JobLost::Expired.to_string(), "the job's deadline passed while it waited");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobLost {
    /// Its deadline passed while it waited.
    Expired,
    /// It panicked.
    Panicked,
    /// The pool was drained before its turn came.
    Cancelled,
}

impl fmt::Display for JobLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the job's deadline passed while it waited",
            Self::Panicked => "the job panicked",
            Self::Cancelled => "the worker pool ended before the job's turn",
        })
    }
}

impl std::error::Error for JobLost {}

/// A fixed number of threads that run jobs.
///
/// Thread rule: it may be shared; any thread may submit. Jobs run on its threads, answers on the reactor's.
///
/// ```
/// use netlib::worker_pool::WorkerPool;
///
/// let pool = WorkerPool::new("store", 2, 100)?;
/// let (sender, results) = std::sync::mpsc::channel();
/// for n in 0..10 {
///     let sender = sender.clone();
///     // The same key: in this order, although there are two threads.
///     pool.submit(Some(7), move || sender.send(n).unwrap()).unwrap();
/// }
/// pool.shutdown();
/// assert!(results.try_iter().eq(0..10));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct WorkerPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// The pool has as many waiting jobs as it may; the job was dropped.
///
/// ```
/// use netlib::worker_pool::{PoolFull, WorkerPool};
///
/// let pool = WorkerPool::new("tiny", 1, 0)?; // no job may wait
/// assert_eq!(pool.submit(None, || ()), Err(PoolFull));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFull;

impl fmt::Display for PoolFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the worker pool is full")
    }
}

impl std::error::Error for PoolFull {}

struct Shared {
    state: Mutex<State>,
    /// Something to run, or the end.
    changed: Condvar,
    /// Nothing waits any more.
    drained: Condvar,
    capacity: usize,
    panics: AtomicU64,
    expired: AtomicU64,
}

struct State {
    /// Jobs that a thread may start now. Of each key at most one is here or running.
    ready: VecDeque<(Option<u64>, Job)>,
    /// For each key that has a job ready or running, those that come after it.
    lanes: HashMap<u64, VecDeque<Job>>,
    /// In `ready` and `lanes` together.
    waiting: usize,
    closing: bool,
}

impl WorkerPool {
    /// Starts `threads` threads (at least one) called `name`-0, `name`-1, ... that share a queue
    /// of at most `capacity` waiting jobs, the running ones not counted.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub fn new(name: &str, threads: usize, capacity: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { ready: VecDeque::new(), lanes: HashMap::new(), waiting: 0, closing: false }),
            changed: Condvar::new(),
            drained: Condvar::new(),
            capacity,
            panics: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        });
        let mut pool = Self { shared, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let thread = thread::Builder::new().name(format!("{name}-{number}"));
            // On failure the threads that did start end with the pool.
            pool.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Hands over a job; it never runs on the caller's thread. With a key it runs after all
    /// earlier jobs with that key have ended. One that expires or is cancelled is dropped.
    ///
    /// # Errors
    ///
    /// [`PoolFull`] if as many jobs wait as may; the job is dropped.
    pub fn submit(&self, options: impl Into<JobOptions>, job: impl FnOnce() + Send + 'static) -> Result<(), PoolFull> {
        self.enqueue(options.into(), Box::new(move |begin| begin.map_or((), |()| job())))
    }

    fn enqueue(&self, JobOptions { key, deadline }: JobOptions, work: Work) -> Result<(), PoolFull> {
        let job = Job { deadline, work };
        let mut state = self.shared.lock();
        if state.waiting >= self.shared.capacity {
            return Err(PoolFull);
        }
        state.waiting += 1;
        if let Some(lane) = key.and_then(|key| state.lanes.get_mut(&key)) {
            lane.push_back(job);
            return Ok(());
        }
        if let Some(key) = key {
            state.lanes.insert(key, VecDeque::new());
        }
        state.ready.push_back((key, job));
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Runs `work` on a thread of the pool and then `done` on the loop behind `remote`: exactly
    /// once, with the result or with what became of the job. Only if the loop is gone by then is
    /// `done` dropped.
    ///
    /// # Errors
    ///
    /// [`PoolFull`] if as many jobs wait as may; both closures are dropped.
    pub fn run<S: 'static, T: Send + 'static>(
        &self,
        remote: &Remote<S>,
        options: impl Into<JobOptions>,
        work: impl FnOnce() -> T + Send + 'static,
        done: impl FnOnce(&mut S, &mut Context<S>, Result<T, JobLost>) + Send + 'static,
    ) -> Result<(), PoolFull> {
        let remote = remote.clone();
        let work = move |begin: Result<(), JobLost>| {
            let outcome = begin.map(|()| catch_unwind(AssertUnwindSafe(work)));
            let (result, panic) = match outcome {
                Ok(Ok(value)) => (Ok(value), None),
                Ok(Err(panic)) => (Err(JobLost::Panicked), Some(panic)),
                Err(lost) => (Err(lost), None),
            };
            // Without a loop there is nobody left to tell.
            remote.post_result(move |state, cx| done(state, cx, result));
            if let Some(panic) = panic {
                resume_unwind(panic); // to be counted where all are
            }
        };
        self.enqueue(options.into(), Box::new(work))
    }

    /// How many jobs wait.
    pub fn depth(&self) -> usize {
        self.shared.lock().waiting
    }

    /// How many jobs have panicked. Such a job ends, the thread and the key go on.
    pub fn panics(&self) -> u64 {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// How many jobs were not begun because their deadline had passed.
    pub fn expired(&self) -> u64 {
        self.shared.expired.load(Ordering::Relaxed)
    }

    /// Runs what waits to the end, then joins the threads. Dropping the pool does the same.
    pub fn shutdown(self) {
        drop(self);
    }

    /// Runs what waits for at most `limit`, cancels the rest, and joins the threads, that is,
    /// waits for the jobs that have begun. Returns how many were cancelled.
    pub fn drain(self, limit: Duration) -> usize {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.changed.notify_all();
        let waited = self.shared.drained.wait_timeout_while(state, limit, |state| state.waiting > 0);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting = 0;
        let mut rest: Vec<Job> = state.ready.drain(..).map(|(_, job)| job).collect();
        rest.extend(state.lanes.values_mut().flat_map(std::mem::take));
        drop(state);
        let cancelled = rest.len();
        for job in rest {
            // Told outside the lock, and like a job: what it does may well panic.
            self.shared.start(job.work, Err(JobLost::Cancelled));
        }
        cancelled
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        for handle in self.threads.drain(..) {
            // A job that owned the last handle to the pool drops it on a worker, which cannot
            // wait for itself. (Jobs' panics are caught, so joining does not fail.)
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
        }
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool")
            .field("threads", &self.threads.len())
            .field("depth", &self.depth())
            .field("panics", &self.panics())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Jobs run outside the lock, so nothing leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does.
    fn work(&self) {
        while let Some((key, job)) = self.next() {
            let late = job.deadline.is_some_and(|deadline| SystemClock.now() >= deadline);
            if late {
                self.expired.fetch_add(1, Ordering::Relaxed);
            }
            self.start(job.work, if late { Err(JobLost::Expired) } else { Ok(()) });
            if let Some(key) = key {
                self.release(key);
            }
        }
    }

    fn start(&self, work: Work, begin: Result<(), JobLost>) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(begin))) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            log::error!("a job of the worker pool panicked: {}", panic_text(&*panic));
        }
    }

    /// Waits for a job; `None` once the pool closes and none is ready. (Jobs behind a running one
    /// in its lane are then the affair of the thread that runs it.)
    fn next(&self) -> Option<(Option<u64>, Job)> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.ready.pop_front() {
                state.waiting -= 1;
                if state.waiting == 0 && state.closing {
                    self.drained.notify_all();
                }
                return Some(next);
            }
            if state.closing {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// After a job with `key`: the next of its lane becomes ready, behind those of other keys.
    /// No thread needs to be told, since the caller is about to look itself.
    fn release(&self, key: u64) {
        let mut state = self.lock();
        match state.lanes.get_mut(&key).and_then(VecDeque::pop_front) {
            Some(job) => state.ready.push_back((Some(key), job)),
            None => {
                state.lanes.remove(&key);
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Barrier, Mutex};

    use super::*;

    /// A job that runs until the returned sender is dropped, and tells when it has begun.
    fn occupy(pool: &WorkerPool, key: Option<u64>) -> mpsc::Sender<()> {
        let (release, gate) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        pool.submit(key, move || {
            begun.send(()).unwrap();
            let _ = gate.recv();
        })
        .unwrap();
        has_begun.recv().unwrap();
        release
    }

    /// spec/netlib.md G10.2.
    #[test]
    fn each_key_keeps_its_order_on_many_threads() {
        let pool = WorkerPool::new("test", 8, usize::MAX).unwrap();
        let ran = Arc::new(Mutex::new(HashMap::<u64, Vec<usize>>::new()));
        for n in 0..10_000 {
            let ran = Arc::clone(&ran);
            let key = n as u64 % 7;
            pool.submit(Some(key), move || {
                ran.lock().unwrap().entry(key).or_default().push(n);
            })
            .unwrap();
        }
        pool.shutdown();
        let ran = ran.lock().unwrap();
        assert_eq!(ran.values().map(Vec::len).sum::<usize>(), 10_000);
        assert!(ran.values().all(|numbers| numbers.is_sorted()));
    }

    #[test]
    fn a_busy_key_holds_up_neither_other_keys_nor_jobs_without_one() {
        let pool = WorkerPool::new("test", 2, 100).unwrap();
        let busy = occupy(&pool, Some(1));
        let (sender, results) = mpsc::channel();
        for key in [Some(1), Some(1), Some(2), None] {
            let sender = sender.clone();
            pool.submit(key, move || sender.send(key).unwrap()).unwrap();
        }
        assert_eq!([results.recv().unwrap(), results.recv().unwrap()], [Some(2), None]);
        assert_eq!(pool.depth(), 2);
        drop(busy);
        assert_eq!([results.recv().unwrap(), results.recv().unwrap()], [Some(1), Some(1)]);
    }

    #[test]
    fn jobs_without_a_key_run_side_by_side() {
        let pool = WorkerPool::new("test", 4, 100).unwrap();
        let barrier = Arc::new(Barrier::new(5));
        for _ in 0..4 {
            let barrier = Arc::clone(&barrier);
            pool.submit(None, move || {
                barrier.wait();
            })
            .unwrap();
        }
        barrier.wait(); // passes only if all four run at the same time
    }

    /// spec/netlib.md G10.1.
    #[test]
    fn a_full_pool_refuses_until_a_job_has_begun() {
        let pool = WorkerPool::new("test", 1, 2).unwrap();
        let busy = occupy(&pool, None);
        let (begun, has_begun) = mpsc::channel();
        pool.submit(None, move || begun.send(()).unwrap()).unwrap();
        pool.submit(Some(1), || ()).unwrap();
        assert_eq!(pool.submit(Some(1), || ()), Err(PoolFull));
        assert_eq!(pool.submit(None, || ()), Err(PoolFull));
        drop(busy);
        has_begun.recv().unwrap();
        assert_eq!(pool.submit(None, || ()), Ok(()));
    }

    #[test]
    fn a_panicking_job_ends_neither_its_thread_nor_its_key() {
        let pool = WorkerPool::new("test", 1, 100).unwrap();
        let (sender, results) = mpsc::channel();
        pool.submit(Some(1), || panic!("on purpose")).unwrap();
        pool.submit(Some(1), move || sender.send("alive").unwrap()).unwrap();
        assert_eq!(results.recv().unwrap(), "alive");
        assert_eq!(pool.panics(), 1);
    }

    /// spec/netlib.md G10.3.
    #[test]
    fn a_job_whose_deadline_has_passed_is_not_begun() {
        let pool = WorkerPool::new("test", 1, 100).unwrap();
        let busy = occupy(&pool, Some(1));
        let (sender, results) = mpsc::channel();
        let now = SystemClock.now();
        for (name, deadline) in [("late", Some(now)), ("early", Some(now + Duration::from_hours(1))), ("any", None)] {
            let sender = sender.clone();
            pool.submit(JobOptions { key: Some(1), deadline }, move || sender.send(name).unwrap()).unwrap();
        }
        drop(busy);
        drop(sender);
        assert_eq!(results.iter().collect::<Vec<_>>(), ["early", "any"]);
        assert_eq!(pool.expired(), 1);
    }

    #[test]
    fn a_drain_ends_in_time_and_says_what_it_cancelled() {
        let pool = WorkerPool::new("test", 1, 100).unwrap();
        let busy = occupy(&pool, Some(1));
        let (sender, results) = mpsc::channel();
        for key in [Some(1), Some(1), Some(2), None] {
            let sender = sender.clone();
            pool.submit(key, move || sender.send(()).unwrap()).unwrap();
        }
        drop(sender);
        // The running job ends once the waiting ones are cancelled, which closes their channel.
        let canceller = thread::spawn(move || {
            assert_eq!(results.iter().count(), 0);
            drop(busy);
        });
        assert_eq!(pool.drain(Duration::ZERO), 4);
        canceller.join().unwrap();
    }

    #[test]
    fn a_drain_with_time_runs_everything() {
        let pool = WorkerPool::new("test", 2, 1000).unwrap();
        let (sender, results) = mpsc::channel();
        for n in 0..500 {
            let sender = sender.clone();
            pool.submit(Some(n % 5), move || sender.send(n).unwrap()).unwrap();
        }
        drop(sender);
        assert_eq!(pool.drain(Duration::from_mins(1)), 0);
        assert_eq!(results.iter().count(), 500);
    }

    /// spec/netlib.md G10.3.
    #[test]
    fn shutdown_runs_what_waits_lanes_included() {
        let pool = WorkerPool::new("test", 3, usize::MAX).unwrap();
        let busy = occupy(&pool, Some(0));
        let (sender, results) = mpsc::channel();
        for n in 0..300 {
            let sender = sender.clone();
            pool.submit(Some(n % 3), move || sender.send(n).unwrap()).unwrap();
        }
        drop(busy);
        drop(sender);
        pool.shutdown();
        assert_eq!(results.iter().count(), 300);
    }
}
