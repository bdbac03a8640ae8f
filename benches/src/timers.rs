//! Timers at 10^2 … 10^6 armed: what arming, cancelling, re-arming and firing cost, beside the two structures that
//! one would write oneself. Each figure is the median over repetitions that are far shorter than a time slice, so
//! what else the machine does falls out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netlib::TimerId;
use netlib::timer::Timers;
use serde_json::{Value, json};

use crate::results;
use crate::stats::{Ratio, median, paired_ratio};
use crate::{Outcome, kernel};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Few repetitions, up to 10^4 timers
    #[arg(long)]
    quick: bool,
    /// Result file (else under benches/results/; `--quick` writes none unless told)
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What all three can do; ids are theirs.
trait Store {
    type Id: Copy;
    const NAME: &str;
    fn arm(&mut self, deadline: Instant) -> Self::Id;
    fn cancel(&mut self, id: Self::Id);
    fn rearm(&mut self, id: Self::Id, deadline: Instant) -> Self::Id;
    /// Takes out the earliest.
    fn fire(&mut self) -> Option<Self::Id>;
    /// Entries held, dead ones included.
    fn entries(&self) -> usize;
}

/// A 4-ary heap that removes for real.
struct Netlib(Timers<u64>);

impl Store for Netlib {
    type Id = TimerId;
    const NAME: &str = "netlib";

    fn arm(&mut self, deadline: Instant) -> TimerId {
        self.0.insert(deadline, 0)
    }

    fn cancel(&mut self, id: TimerId) {
        self.0.remove(id);
    }

    fn rearm(&mut self, id: TimerId, deadline: Instant) -> TimerId {
        self.0.rearm(id, deadline);
        id
    }

    fn fire(&mut self) -> Option<TimerId> {
        let due = self.0.next_due(self.0.next_deadline()?)?;
        self.0.remove(due).map(|_| due)
    }

    fn entries(&self) -> usize {
        self.0.len()
    }
}

/// `BTreeMap<(Instant, u64), u64>`: the key is the id.
#[derive(Default)]
struct Tree(BTreeMap<(Instant, u64), u64>, u64);

impl Store for Tree {
    type Id = (Instant, u64);
    const NAME: &str = "BTreeMap";

    fn arm(&mut self, deadline: Instant) -> Self::Id {
        self.1 += 1;
        self.0.insert((deadline, self.1), 0);
        (deadline, self.1)
    }

    fn cancel(&mut self, id: Self::Id) {
        self.0.remove(&id);
    }

    fn rearm(&mut self, id: Self::Id, deadline: Instant) -> Self::Id {
        self.cancel(id);
        self.arm(deadline)
    }

    fn fire(&mut self) -> Option<Self::Id> {
        self.0.pop_first().map(|(id, _)| id)
    }

    fn entries(&self) -> usize {
        self.0.len()
    }
}

/// A binary heap whose cancelled entries stay until they come up: cancelling is a mark, and the dead pile up.
#[derive(Default)]
struct LazyHeap {
    heap: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    /// By slot: the sequence number of the live entry; 0 is none.
    live: Vec<u64>,
    free: Vec<u32>,
    sequence: u64,
}

impl LazyHeap {
    fn push(&mut self, slot: u32, deadline: Instant) {
        self.sequence += 1;
        self.live[slot as usize] = self.sequence;
        self.heap.push(Reverse((deadline, self.sequence, slot)));
    }
}

impl Store for LazyHeap {
    type Id = u32;
    const NAME: &str = "BinaryHeap, lazy";

    fn arm(&mut self, deadline: Instant) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.live.push(0);
            self.live.len() as u32 - 1
        });
        self.push(slot, deadline);
        slot
    }

    fn cancel(&mut self, id: u32) {
        self.live[id as usize] = 0;
        self.free.push(id);
    }

    fn rearm(&mut self, id: u32, deadline: Instant) -> u32 {
        self.push(id, deadline);
        id
    }

    fn fire(&mut self) -> Option<u32> {
        while let Some(Reverse((_, sequence, slot))) = self.heap.pop() {
            if self.live[slot as usize] == sequence {
                self.cancel(slot);
                return Some(slot);
            }
        }
        None
    }

    fn entries(&self) -> usize {
        self.heap.len()
    }
}

const OPERATIONS: [&str; 4] = ["arm", "cancel", "re-arm", "fire"];

/// One structure at one size: nanoseconds per operation, by operation and repetition.
struct Column {
    name: &'static str,
    ns: [Vec<f64>; 4],
    entries: usize,
}

pub(crate) fn run(args: &Args) -> Outcome<bool> {
    kernel::be_eager();
    let top = if args.quick { 4 } else { 6 };
    let mut sizes = Vec::new();
    for power in 2..=top {
        let armed = 10_usize.pow(power);
        eprint!("\r{armed} timers ");
        io::stderr().flush()?;
        let columns = measure(armed, if args.quick { 15 } else { 201 });
        print(armed, &columns);
        sizes.push(json!({ "armed": armed, "structures": columns.iter().map(Column::json).collect::<Vec<_>>() }));
    }
    if args.out.is_some() || !args.quick {
        let path = results::write("timers", args.out.as_deref(), json!({ "sizes": sizes }))?;
        println!("\nwritten: {}", path.display());
    }
    Ok(true)
}

fn measure(armed: usize, repetitions: usize) -> [Column; 3] {
    let mut ours = Runner::new(Netlib(Timers::new()), armed);
    let mut tree = Runner::new(Tree::default(), armed);
    let mut heap = Runner::new(LazyHeap::default(), armed);
    for _ in 0..repetitions {
        ours.repeat();
        tree.repeat();
        heap.repeat();
    }
    [ours.column(), tree.column(), heap.column()]
}

/// A structure with `armed` timers in it, before and after each repetition.
struct Runner<S: Store> {
    store: S,
    ids: Vec<S::Id>,
    random: Random,
    origin: Instant,
    batch: usize,
    ns: [Vec<f64>; 4],
}

impl<S: Store> Runner<S> {
    fn new(store: S, armed: usize) -> Self {
        // Half of few timers, and not more than keeps a repetition below a millisecond or two.
        let batch = (armed / 2).min(2_000);
        let mut runner = Self {
            store,
            ids: Vec::with_capacity(armed + batch),
            random: Random(0x9e37_79b9_7f4a_7c15),
            origin: Instant::now(),
            batch,
            ns: Default::default(),
        };
        for _ in 0..armed {
            let deadline = runner.deadline();
            let id = runner.store.arm(deadline);
            runner.ids.push(id);
        }
        runner
    }

    /// Somewhere in a minute, after a second that is for those that fire.
    fn deadline(&mut self) -> Instant {
        self.origin + Duration::from_secs(1) + Duration::from_nanos(self.random.next() % 60_000_000_000)
    }

    fn deadlines(&mut self) -> Vec<Instant> {
        (0..self.batch).map(|_| self.deadline()).collect()
    }

    /// `batch` ids taken out at random.
    fn victims(&mut self) -> Vec<S::Id> {
        let mut taken = Vec::with_capacity(self.batch);
        for _ in 0..self.batch {
            let at = self.random.next() as usize % self.ids.len();
            taken.push(self.ids.swap_remove(at));
        }
        taken
    }

    fn repeat(&mut self) {
        let deadlines = self.deadlines();
        let begin = Instant::now();
        for deadline in deadlines {
            let id = self.store.arm(deadline);
            self.ids.push(id);
        }
        self.note(0, begin);

        let victims = self.victims();
        let begin = Instant::now();
        for id in victims {
            self.store.cancel(id);
        }
        self.note(1, begin);

        let (victims, deadlines) = (self.victims(), self.deadlines());
        let begin = Instant::now();
        for (id, deadline) in victims.into_iter().zip(deadlines) {
            let id = self.store.rearm(id, deadline);
            self.ids.push(id);
        }
        self.note(2, begin);

        // Timers made to be the next, so that the ids of the others stay good.
        for _ in 0..self.batch {
            let soon = Duration::from_nanos(self.random.next() % 1_000_000);
            self.store.arm(self.origin + soon);
        }
        let begin = Instant::now();
        for _ in 0..self.batch {
            black_box(self.store.fire());
        }
        self.note(3, begin);
    }

    fn note(&mut self, operation: usize, begin: Instant) {
        self.ns[operation].push(begin.elapsed().as_nanos() as f64 / self.batch as f64);
    }

    fn column(self) -> Column {
        Column { name: S::NAME, entries: self.store.entries(), ns: self.ns }
    }
}

impl Column {
    fn json(&self) -> Value {
        let [arm, cancel, rearm, fire] = &self.ns;
        json!({ "structure": self.name, "entries_at_the_end": self.entries,
                "ns": { "arm": arm, "cancel": cancel, "re-arm": rearm, "fire": fire } })
    }
}

fn print(armed: usize, columns: &[Column; 3]) {
    println!("\n{armed} timers armed: ns per operation (ratio of netlib to it, 95 % bounds)");
    println!("{:<18} {:>30} {:>30} {:>30} {:>30}", "", OPERATIONS[0], OPERATIONS[1], OPERATIONS[2], OPERATIONS[3]);
    let ours = &columns[0];
    for column in columns {
        print!("{:<18}", column.name);
        for (ns, ours) in column.ns.iter().zip(&ours.ns) {
            let Ratio { median: ratio, low, high, .. } = paired_ratio(ours, ns);
            print!(" {:>8.1} ({ratio:>5.2}, {low:>5.2} .. {high:>4.2})", median(ns));
        }
        println!("  {} entries", column.entries);
    }
}

/// xorshift64*: the same numbers for all three.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires_in_order_what_was_not_cancelled<S: Store>(mut store: S) {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let late = store.arm(at(30));
        let gone = store.arm(at(10));
        store.arm(at(20));
        store.cancel(gone);
        store.rearm(late, at(5));
        assert!(store.fire().is_some() && store.fire().is_some(), "{}", S::NAME);
        assert!(store.fire().is_none(), "{}", S::NAME);
    }

    #[test]
    fn all_three_do_the_same_work() {
        fires_in_order_what_was_not_cancelled(Netlib(Timers::new()));
        fires_in_order_what_was_not_cancelled(Tree::default());
        fires_in_order_what_was_not_cancelled(LazyHeap::default());
        for column in measure(100, 3) {
            assert!(column.entries >= 100, "{}: {}", column.name, column.entries);
        }
    }
}
