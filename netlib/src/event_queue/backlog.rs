//! What waits in a queue, without locks, clocks or threads: the events ready to be taken, the
//! delayed ones, and the counts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{EventId, Id, Name, QueueStats};
use crate::clock::CENTURY;
use crate::timer::{TimerId, Timers};

pub(super) struct Backlog<T> {
    ready: VecDeque<Entry<T>>,
    delayed: Timers<Entry<T>>,
    /// Delayed events whose deadline the consumer has yet to compute, since only it has the clock.
    arriving: Vec<(TimerId, Duration)>,
    next_id: u64,
    pub(super) stats: QueueStats,
}

struct Entry<T> {
    id: Id,
    name: Option<Name>,
    /// Let in beyond the capacity, and so not to be dropped for another.
    kept: bool,
    /// Since when it is ready, if that is measured.
    since: Option<Instant>,
    event: T,
}

/// When a delayed event is due.
#[derive(Clone, Copy)]
pub(super) enum Due {
    At(Instant),
    /// So long after the consumer next looks.
    After(Duration),
}

impl<T> Backlog<T> {
    pub(super) fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            delayed: Timers::new(),
            arriving: Vec::new(),
            next_id: 0,
            stats: QueueStats::default(),
        }
    }

    /// Events that count towards the capacity.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.delayed.len()
    }

    /// Something is there that the consumer must look at without delay.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.arriving.is_empty()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.next_deadline()
    }

    pub(super) fn push(&mut self, event: T, name: Option<Name>, kept: bool, since: Option<Instant>) -> EventId {
        let id = Id::Queued(self.next_id);
        self.next_id += 1;
        self.stats.posted += 1;
        self.push_ready(Entry { id, name, kept, since, event });
        EventId(id)
    }

    fn push_ready(&mut self, entry: Entry<T>) {
        self.ready.push_back(entry);
        self.stats.max_depth = self.stats.max_depth.max(self.ready.len());
    }

    /// `now` need not be exact for [`Due::After`]; it only keeps the event from being due before
    /// the consumer has looked.
    pub(super) fn push_delayed(&mut self, event: T, name: Option<Name>, due: Due, now: Instant) -> EventId {
        let deadline = match due {
            Due::At(deadline) => deadline,
            Due::After(_) => now + CENTURY,
        };
        // The id is known only now; `Queued` here is never looked at.
        let timer = self.delayed.insert(deadline, Entry { id: Id::Queued(0), name, kept: false, since: None, event });
        if let Some(entry) = self.delayed.get_mut(timer) {
            entry.id = Id::Delayed(timer);
        }
        if let Due::After(delay) = due {
            if self.arriving.len() > 2 * self.delayed.len() + 16 {
                // Those cancelled while nobody consumes must not pile up.
                self.arriving.retain(|(timer, _)| self.delayed.deadline(*timer).is_some());
            }
            self.arriving.push((timer, delay));
        }
        self.stats.posted += 1;
        EventId(Id::Delayed(timer))
    }

    /// Makes room: takes out the event that has waited longest, if there is one that may go.
    pub(super) fn drop_oldest(&mut self) -> Option<T> {
        let oldest = self.ready.iter().position(|entry| !entry.kept);
        let victim = match oldest {
            Some(index) => self.ready.remove(index),
            None => self.delayed.remove(self.delayed.first()?),
        }?;
        self.stats.dropped += 1;
        Some(victim.event)
    }

    /// Puts arrivals on the clock and makes ready what is due.
    pub(super) fn settle(&mut self, now: Instant, since: Option<Instant>) {
        for (timer, delay) in self.arriving.drain(..) {
            // One that was cancelled meanwhile is not there to be moved.
            self.delayed.rearm(timer, now.checked_add(delay).unwrap_or(now + CENTURY));
        }
        while let Some(entry) = self.delayed.next_due(now).and_then(|timer| self.delayed.remove(timer)) {
            self.push_ready(Entry { since, ..entry });
        }
    }

    pub(super) fn pop(&mut self, now: Option<Instant>) -> Option<T> {
        let entry = self.ready.pop_front()?;
        self.stats.taken += 1;
        if let (Some(now), Some(since)) = (now, entry.since) {
            let waited = now.saturating_duration_since(since);
            self.stats.wait_total += waited;
            self.stats.wait_max = self.stats.wait_max.max(waited);
        }
        Some(entry.event)
    }

    /// O(log n) for a delayed event; one that is ready is looked for from the front.
    pub(super) fn cancel(&mut self, EventId(id): EventId) -> Option<T> {
        let delayed = match id {
            Id::Delayed(timer) => self.delayed.remove(timer),
            Id::Queued(_) => None,
        };
        let entry = delayed.or_else(|| {
            let index = self.ready.iter().position(|entry| entry.id == id)?;
            self.ready.remove(index)
        })?;
        self.stats.cancelled += 1;
        Some(entry.event)
    }

    /// Looks at every event.
    pub(super) fn cancel_named(&mut self, name: &str) -> Vec<T> {
        let has_name = |entry: &Entry<T>| entry.name.as_deref() == Some(name);
        let mut cancelled = Vec::new();
        for entry in std::mem::take(&mut self.ready) {
            if has_name(&entry) {
                cancelled.push(entry.event);
            } else {
                self.ready.push_back(entry);
            }
        }
        for timer in self.delayed.ids_where(has_name) {
            cancelled.extend(self.delayed.remove(timer).map(|entry| entry.event));
        }
        self.stats.cancelled += cancelled.len() as u64;
        cancelled
    }

    /// Takes out the delayed events, and with `all` those that are ready too.
    pub(super) fn clear(&mut self, all: bool) -> Vec<T> {
        self.arriving.clear();
        let mut orphans = Vec::new();
        while let Some(entry) = self.delayed.first().and_then(|timer| self.delayed.remove(timer)) {
            orphans.push(entry.event);
        }
        if all {
            orphans.extend(self.ready.drain(..).map(|entry| entry.event));
        }
        self.stats.dropped += orphans.len() as u64;
        orphans
    }

    pub(super) fn counted(&self) -> QueueStats {
        QueueStats { depth: self.ready.len(), delayed: self.delayed.len(), ..self.stats }
    }
}
