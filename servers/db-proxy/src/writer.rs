//! The thread that writes. It takes everything that waits as one batch, so the batches grow by
//! themselves when the disk is slow or the load high, and no timer ever delays a message that is
//! alone (G1: one sync per batch, answers only after it).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lanes::Ticket;
use crate::metrics::Metrics;
use crate::store::{Applied, Store, StoreError, Write};
use tt_common::role::or_exit;

/// Why a write came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// The store said so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too much waits, or this waited for too long.
    #[error("overloaded: {0}")]
    Overloaded(&'static str),
}

/// What became of each member of a batch.
pub(crate) type Outcomes = Vec<(Ticket, Result<Applied, WriteError>)>;

/// The right to end a request: whoever takes it first begins the work, or gives the request up and
/// says so. So a request that was refused is never stored, and one that is at the store is never
/// refused. Clones are the same claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Whether this was the first to take it.
    pub(crate) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

struct Job {
    ticket: Ticket,
    arrived: Instant,
    claim: Claim,
    write: Write,
}

/// The handle to the thread. Dropping it lets the thread finish what waits, and joins it.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// How the thread works.
pub(crate) struct Options {
    /// Members of one transaction.
    pub(crate) batch: usize,
    /// What has waited for longer is refused.
    pub(crate) deadline: Duration,
    pub(crate) metrics: Metrics,
}

impl Writer {
    /// Starts the thread. `done` gets the outcomes of each batch, on the thread.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        options: Options,
        done: impl Fn(Outcomes) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("db-writer".to_owned())
            .spawn(move || or_exit("the writer", || run(store.as_ref(), &options, &waiting, &done)))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a write. The queue is bounded by whoever admits requests.
    pub(crate) fn submit(&self, ticket: Ticket, arrived: Instant, claim: Claim, write: Write) {
        if let Some(jobs) = &self.jobs {
            // The thread receives until this sender is dropped.
            let _ = jobs.send(Job { ticket, arrived, claim, write });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panics end the process
        }
    }
}

fn run(store: &dyn Store, options: &Options, waiting: &Receiver<Job>, done: &dyn Fn(Outcomes)) {
    while let Ok(first) = waiting.recv() {
        let mut outcomes = Outcomes::new();
        let mut tickets = Vec::new();
        let mut batch = Vec::new();
        for job in std::iter::once(first).chain(waiting.try_iter()).take(options.batch) {
            if !job.claim.take() || job.arrived.elapsed() > options.deadline {
                outcomes.push((job.ticket, Err(WriteError::Overloaded("waited too long"))));
            } else {
                tickets.push(job.ticket);
                batch.push(job.write);
            }
        }
        if !batch.is_empty() {
            let begun = Instant::now();
            let mut answers = store.apply(&batch);
            // Nothing else can be written before it is known what is there.
            while begun.elapsed() < options.deadline && repeat_uncertain(store, &batch, &mut answers) {
                thread::sleep(BETWEEN_REPEATS);
            }
            options.metrics.committed(batch.len(), begun.elapsed());
            outcomes.extend(tickets.into_iter().zip(answers.into_iter().map(|answer| Ok(answer?))));
        }
        done(outcomes);
        store.tend();
    }
}

/// The time between two questions of a store whose disk fails.
const BETWEEN_REPEATS: Duration = Duration::from_millis(20);

/// Asks once more for what the disk failed to say, if asking twice is asking once (G2): the store reopens itself
/// for it, and then knows. Returns whether there is still something that nobody knows.
fn repeat_uncertain(store: &dyn Store, batch: &[Write], answers: &mut [Result<Applied, StoreError>]) -> bool {
    let repeatable = |write: &Write| match write {
        Write::Message(message) => message.client_msg_id.is_some(),
        Write::Read { .. } => true,
        _ => false,
    };
    let uncertain: Vec<usize> = (0..batch.len())
        .filter(|member| matches!(answers[*member], Err(StoreError::Uncertain(_))) && repeatable(&batch[*member]))
        .collect();
    if uncertain.is_empty() {
        return false;
    }
    let again: Vec<Write> = uncertain.iter().map(|member| batch[*member].clone()).collect();
    let mut left = false;
    for (member, answer) in uncertain.into_iter().zip(store.apply(&again)) {
        if matches!(answer, Ok(_) | Err(StoreError::Refused(_))) {
            answers[member] = answer;
        } else {
            left = true;
        }
    }
    left
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
