//! Posting to a reactor from other threads: how long a post to a sleeping reactor takes until it runs, and what a
//! post costs when 1 or 16 threads post as fast as they can; beside a thread that receives from
//! `std::sync::mpsc`, which is what one would use without a reactor.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netlib::{Reactor, ReactorConfig, Remote};
use serde_json::json;

use crate::stats::{Ratio, median, paired_ratio, quantile};
use crate::{Outcome, kernel, results};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Three short rounds
    #[arg(long)]
    quick: bool,
    /// Rounds, each of every case
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Result file (else under benches/results/; `--quick` writes none unless told)
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Work for the receiving thread: either says that it ran, or is one of many of which the last says so.
enum Message {
    Reply(mpsc::Sender<Instant>),
    Nothing,
    Stop,
}

/// A thread that runs messages.
trait Receiver: Sized {
    const NAME: &str;
    type Sender: Clone + Send + 'static;
    fn start() -> (Self, Self::Sender);
    fn send(sender: &Self::Sender, message: Message);
    fn join(self);
}

struct OnReactor(thread::JoinHandle<()>);

impl Receiver for OnReactor {
    const NAME: &str = "netlib post";
    type Sender = Remote<()>;

    fn start() -> (Self, Remote<()>) {
        let (told, tell) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::<()>::new(ReactorConfig::default()).expect("a reactor opens");
            told.send(reactor.context().remote()).expect("the starter waits");
            reactor.run(&mut ()).expect("the loop runs");
        });
        let remote = tell.recv().expect("the thread started");
        (Self(thread), remote)
    }

    fn send(remote: &Remote<()>, message: Message) {
        let posted = remote.post(move |(), cx| match message {
            Message::Reply(to) => to.send(Instant::now()).expect("the sender waits"),
            Message::Nothing => {}
            Message::Stop => cx.stop(),
        });
        assert!(posted.is_ok(), "the queue has no limit and the reactor runs");
    }

    fn join(self) {
        self.0.join().expect("the reactor's thread does not panic");
    }
}

struct OnChannel(thread::JoinHandle<()>);

impl Receiver for OnChannel {
    const NAME: &str = "std mpsc";
    type Sender = mpsc::Sender<Box<Message>>;

    fn start() -> (Self, Self::Sender) {
        // Boxed, for a post is boxed too.
        let (sender, receiver) = mpsc::channel::<Box<Message>>();
        let thread = thread::spawn(move || {
            for message in receiver {
                match *message {
                    Message::Reply(to) => to.send(Instant::now()).expect("the sender waits"),
                    Message::Nothing => {}
                    Message::Stop => return,
                }
            }
        });
        (Self(thread), sender)
    }

    fn send(sender: &Self::Sender, message: Message) {
        sender.send(Box::new(message)).expect("the thread runs");
    }

    fn join(self) {
        self.0.join().expect("the receiving thread does not panic");
    }
}

/// One receiver's figures, a value per round.
#[derive(Default)]
struct Column {
    latency_p50: Vec<f64>,
    latency_p99: Vec<f64>,
    /// Nanoseconds per post with 1 and with 16 posting threads.
    post: [Vec<f64>; 2],
}

const PRODUCERS: [usize; 2] = [1, 16];

pub(crate) fn run(args: &Args) -> Outcome<bool> {
    kernel::be_eager();
    let (rounds, wakes, posts) = if args.quick { (3, 200, 16_000) } else { (args.rounds.max(2), 2_000, 160_000) };
    let (mut ours, mut theirs) = (Column::default(), Column::default());
    for round in 0..rounds {
        eprint!("\rround {} of {rounds}  ", round + 1);
        one_round::<OnReactor>(&mut ours, wakes, posts)?;
        one_round::<OnChannel>(&mut theirs, wakes, posts)?;
    }
    eprintln!();
    println!("{:<14} {:>14} {:>14} {:>16} {:>16}", "", "wake p50 ns", "wake p99 ns", "1→1 ns/post", "16→1 ns/post");
    for (name, column) in [(OnReactor::NAME, &ours), (OnChannel::NAME, &theirs)] {
        print!("{name:<14} {:>14.0} {:>14.0}", median(&column.latency_p50), median(&column.latency_p99));
        println!(" {:>16.0} {:>16.0}", median(&column.post[0]), median(&column.post[1]));
    }
    print!("{:<14}", "ratio");
    let pairs = [(&ours.latency_p50, &theirs.latency_p50), (&ours.latency_p99, &theirs.latency_p99)];
    for (ours, theirs) in pairs.into_iter().chain(ours.post.iter().zip(&theirs.post)) {
        let Ratio { median, low, high, .. } = paired_ratio(ours, theirs);
        print!("  {median:.2} ({low:.2} .. {high:.2})");
    }
    println!();
    if args.out.is_some() || !args.quick {
        let json = |name: &str, column: &Column| {
            json!({ "receiver": name, "wake_p50_ns": column.latency_p50, "wake_p99_ns": column.latency_p99,
                    "post_1_ns": column.post[0], "post_16_ns": column.post[1] })
        };
        let body = json!({ "receivers": [json(OnReactor::NAME, &ours), json(OnChannel::NAME, &theirs)] });
        println!("\nwritten: {}", results::write("wake", args.out.as_deref(), body)?.display());
    }
    Ok(true)
}

fn one_round<R: Receiver>(column: &mut Column, wakes: usize, posts: usize) -> Outcome<()> {
    let (receiver, sender) = R::start();
    let latencies = wake_latencies::<R>(&sender, wakes)?;
    column.latency_p50.push(median(&latencies));
    column.latency_p99.push(quantile(&latencies, 0.99));
    for (&producers, ns) in PRODUCERS.iter().zip(&mut column.post) {
        ns.push(nanoseconds_per_post::<R>(&sender, producers, posts)?);
    }
    R::send(&sender, Message::Stop);
    receiver.join();
    Ok(())
}

/// One post at a time, each after the receiver has had time to fall asleep.
fn wake_latencies<R: Receiver>(sender: &R::Sender, count: usize) -> Outcome<Vec<f64>> {
    let (reply, replies) = mpsc::channel();
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        thread::sleep(Duration::from_micros(50));
        let begin = Instant::now();
        R::send(sender, Message::Reply(reply.clone()));
        latencies.push(replies.recv()?.saturating_duration_since(begin).as_nanos() as f64);
    }
    Ok(latencies)
}

/// From the first post until the receiver has run the last.
fn nanoseconds_per_post<R: Receiver>(sender: &R::Sender, producers: usize, posts: usize) -> Outcome<f64> {
    let (reply, replies) = mpsc::channel();
    let begin = Instant::now();
    for _ in 0..producers {
        let (sender, reply) = (sender.clone(), reply.clone());
        thread::spawn(move || {
            for _ in 0..posts / producers {
                R::send(&sender, Message::Nothing);
            }
            R::send(&sender, Message::Reply(reply));
        });
    }
    drop(reply);
    let last = replies.iter().take(producers).max().ok_or("no producer came to its end")?;
    Ok(last.saturating_duration_since(begin).as_nanos() as f64 / posts as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_receivers_run_every_message() {
        let mut column = Column::default();
        one_round::<OnReactor>(&mut column, 3, 160).unwrap();
        one_round::<OnChannel>(&mut column, 3, 160).unwrap();
        assert!(column.latency_p50.len() == 2 && column.post.iter().flatten().all(|ns| *ns > 0.0));
    }
}
