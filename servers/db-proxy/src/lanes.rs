//! The order of requests. Those of one conversation take effect as they arrived: a write goes in
//! behind the writes before it, a read waits for the writes before it, a write waits for the reads
//! before it. Conversations do not wait for each other. A read of everything that a user has waits
//! for every write before it.
//!
//! Nothing here runs anything: what may start is handed back, and the caller says when it is done.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::store::Peer;

/// What a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Writes to a conversation.
    Write(Conversation),
    /// Reads a conversation.
    Read(Conversation),
    /// Reads what any write may change, such as a user's unread counts.
    ReadAll,
    /// Reads what needs no order with the writes on their way, such as the address book.
    Free,
}

/// The two users of a conversation, the smaller id first, or a group and 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Conversation(u32, u32);

impl Conversation {
    /// The conversation that `user` has with `peer`.
    pub(crate) fn of(user: u32, peer: Peer) -> Self {
        match peer {
            Peer::User(other) => Self(user.min(other), user.max(other)),
            Peer::Group(group) => Self::group(group),
        }
    }

    /// A group's. Group 0, which does not exist, stands for those that are being made.
    pub(crate) fn group(group: u32) -> Self {
        Self(group, 0)
    }

    /// What a user has alone: settings and devices, which are kept in order like a conversation's
    /// messages. Nobody talks to himself, so no messages go there.
    pub(crate) fn own(user: u32) -> Self {
        Self(user, user)
    }
}

/// Names a request from its arrival until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// A job that may start now.
pub(crate) type Start<J> = (Ticket, J);

#[derive(Debug)]
pub(crate) struct Lanes<J> {
    next: u64,
    /// Those with something running or waiting.
    busy: HashMap<Conversation, Lane<J>>,
    /// Writes that have arrived and are not done.
    writes: BTreeSet<Ticket>,
    /// Reads of everything, in order of arrival.
    barriers: VecDeque<Start<J>>,
    /// What each running job occupies.
    running: HashMap<Ticket, Access>,
}

#[derive(Debug)]
struct Lane<J> {
    /// Writes may run together, because the writer takes them in order. Of reads one runs.
    writes_running: u32,
    read_running: bool,
    waiting: VecDeque<(Start<J>, Access)>,
}

impl<J> Lanes<J> {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            busy: HashMap::new(),
            writes: BTreeSet::new(),
            barriers: VecDeque::new(),
            running: HashMap::new(),
        }
    }

    /// Takes in a request. It is handed back if it may start now; otherwise a later
    /// [`done`](Self::done) does that.
    pub(crate) fn arrive(&mut self, access: Access, job: J) -> (Ticket, Option<Start<J>>) {
        let ticket = Ticket(self.next);
        self.next += 1;
        let start = match access {
            Access::Free => Some((ticket, job)),
            Access::ReadAll if self.writes.is_empty() => Some((ticket, job)),
            Access::ReadAll => {
                self.barriers.push_back((ticket, job));
                None
            }
            Access::Write(conversation) | Access::Read(conversation) => {
                if matches!(access, Access::Write(_)) {
                    self.writes.insert(ticket);
                }
                let lane = self.busy.entry(conversation).or_default();
                lane.waiting.push_back(((ticket, job), access));
                // Only the newcomer can be free to start.
                lane.next().map(|(start, _)| start)
            }
        };
        if start.is_some() {
            self.running.insert(ticket, access);
        }
        (ticket, start)
    }

    /// A job has come to its end; returns what may start because of that, in order.
    pub(crate) fn done(&mut self, ticket: Ticket) -> Vec<Start<J>> {
        let mut starts = Vec::new();
        let Some(access) = self.running.remove(&ticket) else { return starts };
        if let Access::Write(conversation) | Access::Read(conversation) = access
            && let Some(lane) = self.busy.get_mut(&conversation)
        {
            match access {
                Access::Write(_) => lane.writes_running -= 1,
                _ => lane.read_running = false,
            }
            while let Some((start, access)) = lane.next() {
                self.running.insert(start.0, access);
                starts.push(start);
            }
            if lane.is_empty() {
                self.busy.remove(&conversation);
            }
        }
        if matches!(access, Access::Write(_)) {
            self.writes.remove(&ticket);
            let oldest = self.writes.first().copied();
            while let Some((ticket, _)) = self.barriers.front()
                && oldest.is_none_or(|oldest| *ticket < oldest)
                && let Some(start) = self.barriers.pop_front()
            {
                self.running.insert(start.0, Access::ReadAll);
                starts.push(start);
            }
        }
        starts
    }
}

impl<J> Lane<J> {
    /// Takes out the next job if it may run beside what runs.
    fn next(&mut self) -> Option<(Start<J>, Access)> {
        let (_, access) = self.waiting.front()?;
        match access {
            Access::Write(_) if !self.read_running => self.writes_running += 1,
            Access::Read(_) if !self.read_running && self.writes_running == 0 => self.read_running = true,
            _ => return None,
        }
        self.waiting.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.writes_running == 0 && !self.read_running && self.waiting.is_empty()
    }
}

impl<J> Default for Lane<J> {
    fn default() -> Self {
        Self { writes_running: 0, read_running: false, waiting: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AB: Conversation = Conversation(1, 2);
    const CD: Conversation = Conversation(3, 4);

    /// Lanes of named jobs.
    struct Run {
        lanes: Lanes<&'static str>,
        started: Vec<Start<&'static str>>,
    }

    impl Run {
        fn new() -> Self {
            Self { lanes: Lanes::new(), started: Vec::new() }
        }

        fn arrive(&mut self, access: Access, name: &'static str) {
            self.started.extend(self.lanes.arrive(access, name).1);
        }

        fn done(&mut self, name: &'static str) {
            let (ticket, _) = *self.started.iter().find(|(_, job)| *job == name).expect("started before");
            self.started.retain(|(_, job)| *job != name);
            let next = self.lanes.done(ticket);
            self.started.extend(next);
        }

        fn running(&self) -> Vec<&'static str> {
            self.started.iter().map(|(_, job)| *job).collect()
        }
    }

    #[test]
    fn writes_of_a_conversation_run_together_in_order() {
        let mut run = Run::new();
        run.arrive(Access::Write(AB), "one");
        run.arrive(Access::Write(AB), "two");
        assert_eq!(run.running(), ["one", "two"]);
    }

    #[test]
    fn a_read_waits_for_the_writes_before_it_and_later_writes_wait_for_the_read() {
        let mut run = Run::new();
        run.arrive(Access::Write(AB), "one");
        run.arrive(Access::Write(AB), "two");
        run.arrive(Access::Read(AB), "read");
        run.arrive(Access::Write(AB), "three");
        run.done("one");
        assert_eq!(run.running(), ["two"]);
        run.done("two");
        assert_eq!(run.running(), ["read"]);
        run.done("read");
        assert_eq!(run.running(), ["three"]);
    }

    #[test]
    fn reads_of_a_conversation_are_answered_in_order() {
        let mut run = Run::new();
        run.arrive(Access::Read(AB), "one");
        run.arrive(Access::Read(AB), "two");
        assert_eq!(run.running(), ["one"]);
        run.done("one");
        assert_eq!(run.running(), ["two"]);
    }

    #[test]
    fn conversations_do_not_wait_for_each_other() {
        let mut run = Run::new();
        run.arrive(Access::Write(AB), "ab");
        run.arrive(Access::Read(AB), "waits");
        run.arrive(Access::Read(CD), "cd");
        run.arrive(Access::Free, "free");
        assert_eq!(run.running(), ["ab", "cd", "free"]);
    }

    #[test]
    fn a_read_of_everything_waits_for_every_write_before_it_and_for_none_after() {
        let mut run = Run::new();
        run.arrive(Access::Write(AB), "ab");
        run.arrive(Access::Write(CD), "cd");
        run.arrive(Access::ReadAll, "all");
        run.arrive(Access::Write(AB), "later");
        run.done("cd");
        assert_eq!(run.running(), ["ab", "later"]);
        run.done("ab");
        assert_eq!(run.running(), ["later", "all"]);
    }

    #[test]
    fn a_write_that_waits_itself_holds_a_read_of_everything() {
        let mut run = Run::new();
        run.arrive(Access::Read(AB), "read");
        run.arrive(Access::Write(AB), "write");
        run.arrive(Access::ReadAll, "all");
        assert_eq!(run.running(), ["read"]);
        run.done("read");
        assert_eq!(run.running(), ["write"]);
        run.done("write");
        assert_eq!(run.running(), ["all"]);
    }

    #[test]
    fn nothing_is_kept_of_conversations_that_rest() {
        let mut run = Run::new();
        run.arrive(Access::Write(AB), "write");
        run.arrive(Access::Read(AB), "read");
        run.done("write");
        run.done("read");
        let lanes = &run.lanes;
        assert!(lanes.busy.is_empty() && lanes.running.is_empty() && lanes.writes.is_empty());
    }
}
