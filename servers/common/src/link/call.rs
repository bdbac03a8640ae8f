//! The calls of one link that wait for their answer: a bounded table from call id to what happens next.

use std::collections::HashMap;

use netlib::{Context, TimerId};
use tt_proto::pdu::PduRef;

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The link was down, told not to ask, or was lost before the answer came. In the last case the peer may
    /// have acted on the request.
    #[error("the link is down")]
    LinkDown,
    /// No answer in time. It is dropped if it still comes.
    #[error("no answer in time")]
    Timeout,
    /// Too many calls wait on this link, or its queue is full.
    #[error("too many requests are under way")]
    TooMany,
    /// The answer does not parse.
    #[error("the answer does not parse")]
    Decode,
}

impl CallError {
    /// A short fixed word, for a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::LinkDown => "link_down",
            Self::Timeout => "timeout",
            Self::TooMany => "too_many",
            Self::Decode => "decode",
        }
    }
}

/// What a call ends with: the reply's PDU or the reason why there is none.
pub(super) type Reply<'a> = Result<PduRef<'a>, CallError>;

/// What happens when a call ends.
pub(super) type Then<S> = Box<dyn FnOnce(&mut S, &mut Context<S>, Reply<'_>)>;

pub(super) struct Pending<S: 'static> {
    /// The command that answers.
    reply: u16,
    /// Calls are failed in the order in which they were made, so that who repeats them keeps the order.
    order: u64,
    pub(super) timer: TimerId,
    pub(super) then: Then<S>,
}

pub(super) struct Calls<S: 'static> {
    pending: HashMap<u32, Pending<S>>,
    max: usize,
    last_id: u32,
    made: u64,
    /// Commands that have been called for on this link. A handful, so a list beats a set.
    replies: Vec<u16>,
}

impl<S: 'static> Calls<S> {
    pub(super) fn new(max: usize) -> Self {
        Self { pending: HashMap::new(), max, last_id: 0, made: 0, replies: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// An id for the next call: never 0 and never one that still waits. None if the table is full.
    pub(super) fn reserve(&mut self) -> Option<u32> {
        if self.pending.len() >= self.max {
            return None;
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if self.last_id != 0 && !self.pending.contains_key(&self.last_id) {
                return Some(self.last_id);
            }
        }
    }

    pub(super) fn insert(&mut self, id: u32, reply: u16, timer: TimerId, then: Then<S>) {
        if !self.replies.contains(&reply) {
            self.replies.push(reply);
        }
        self.made += 1;
        self.pending.insert(id, Pending { reply, order: self.made, timer, then });
    }

    /// Whether PDUs with this command are replies on this link.
    pub(super) fn expects(&self, command: u16) -> bool {
        self.replies.contains(&command)
    }

    /// The call that `command` with this id answers.
    pub(super) fn answered(&mut self, id: u32, command: u16) -> Option<Pending<S>> {
        match self.pending.get(&id) {
            Some(pending) if pending.reply == command => self.pending.remove(&id),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Pending<S>> {
        self.pending.remove(&id)
    }

    /// All of them, oldest first.
    pub(super) fn drain(&mut self) -> Vec<Pending<S>> {
        let mut all: Vec<_> = self.pending.drain().map(|(_, pending)| pending).collect();
        all.sort_unstable_by_key(|pending| pending.order);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_skip_zero_and_those_that_wait() {
        let mut reactor = netlib::Reactor::<()>::new(netlib::ReactorConfig::default()).expect("a reactor");
        let cx = reactor.context();
        let mut timer = || cx.after(std::time::Duration::from_mins(1), |(), _| {});
        let mut calls = Calls::<()>::new(3);
        calls.insert(1, 7, timer(), Box::new(|(), _, _| {}));
        calls.insert(u32::MAX, 7, timer(), Box::new(|(), _, _| {}));
        calls.last_id = u32::MAX - 1;
        assert_eq!(calls.reserve(), Some(2), "u32::MAX waits, 0 is never used, 1 waits");
        calls.insert(2, 7, timer(), Box::new(|(), _, _| {}));
        assert_eq!(calls.reserve(), None, "the table holds three");
        assert!(calls.answered(2, 8).is_none(), "another command does not answer");
        assert!(calls.answered(2, 7).is_some());
        assert!(calls.answered(2, 7).is_none(), "once");
    }
}
