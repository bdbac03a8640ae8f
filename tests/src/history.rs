//! What the clients of a run have seen, in the order in which they saw it, and the judgement over it: the clauses
//! G1 to G7 of `docs/guarantees.md`. No clock and no socket: events go in, findings come out, so the judge itself
//! is tested with histories that are wrong on purpose.
//!
//! Texts name messages: each message of a run has a text of its own, which is also the id that its client gave it.

mod judge;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The parties of a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Conversation {
    /// Two users, the smaller id first.
    Pair(u32, u32),
    /// A group.
    Group(u32),
}

impl Conversation {
    /// That of two users.
    pub fn pair(one: u32, other: u32) -> Self {
        Self::Pair(one.min(other), one.max(other))
    }

    /// What `user` calls it on the wire: session type and session id.
    pub fn session(self, user: u32) -> (i32, u32) {
        match self {
            Self::Pair(low, high) => (1, if user == low { high } else { low }),
            Self::Group(group) => (2, group),
        }
    }
}

/// One message as a client was shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number in the conversation.
    pub msg_id: u32,
    /// Who wrote it.
    pub from: u32,
    /// What it says.
    pub text: Arc<str>,
}

/// Names one connection from its sign-in to its end.
pub type SessionId = u64;

/// What happened at a client. Requests are noted before they leave, answers and what comes unasked after they
/// have arrived, so that the order of the events allows no more than what really was possible.
#[derive(Debug, Clone)]
pub enum Event {
    /// A device has signed in.
    Came {
        /// On this connection from now on.
        session: SessionId,
        /// Which device; it remembers what it has seen from session to session.
        device: u32,
        /// Whose.
        user: u32,
    },
    /// The connection has ended.
    Left {
        /// Which.
        session: SessionId,
    },
    /// A message leaves, for the first time or again.
    Sent {
        /// From where.
        session: SessionId,
        /// Where to.
        to: Conversation,
        /// Which.
        text: Arc<str>,
    },
    /// The server has said that it is stored.
    Acked {
        /// To whom.
        session: SessionId,
        /// Which message.
        text: Arc<str>,
        /// Under this number.
        msg_id: u32,
    },
    /// The server has said no.
    Refused {
        /// To whom.
        session: SessionId,
        /// Which message.
        text: Arc<str>,
        /// Why.
        result: u32,
    },
    /// A message came unasked.
    Delivered {
        /// Where.
        session: SessionId,
        /// In which conversation.
        conversation: Conversation,
        /// The message.
        row: Row,
    },
    /// A page of history is asked for.
    Asked {
        /// By whom.
        session: SessionId,
        /// Names the question.
        page: u64,
        /// Of which conversation.
        conversation: Conversation,
        /// From this id down; 0: from the newest.
        begin: u32,
        /// At most so many.
        count: u32,
    },
    /// It came.
    Page {
        /// Which.
        page: u64,
        /// The newest first.
        rows: Vec<Row>,
    },
    /// A client says up to where its user has read.
    Marked {
        /// Where.
        session: SessionId,
        /// Which conversation.
        conversation: Conversation,
        /// Up to and with this one.
        up_to: u32,
    },
    /// The server says how many messages are unread. Conversations without any are not listed.
    Unread {
        /// Whom.
        session: SessionId,
        /// Of each conversation: the number, and the newest id at that moment.
        counts: Vec<(Conversation, u32, u32)>,
    },
}

/// The events of a run. Clones share it, and any thread may add to it.
#[derive(Debug, Clone, Default)]
pub struct History {
    events: Arc<Mutex<Vec<Event>>>,
}

impl History {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what has just happened, or is about to.
    pub fn note(&self, event: Event) {
        self.events().push(event);
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        // A push leaves no list half changed.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages that a session which is still open should have been shown and was not: each of them was sent
    /// after the session began, acknowledged, and is in a conversation of its user.
    pub fn undelivered(&self, parties: &Parties) -> Vec<String> {
        judge::undelivered(&self.events(), parties)
    }

    /// Holds everything that was seen against what is stored in the end.
    pub fn judge(&self, parties: &Parties, stored: &Stored) -> Judgement {
        judge::judge(&self.events(), parties, stored)
    }
}

/// Who is in which conversation, for the whole run.
pub type Parties = BTreeMap<Conversation, Vec<u32>>;

/// What is stored when everything has come to rest: each conversation, oldest message first.
pub type Stored = BTreeMap<Conversation, Vec<Row>>;

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Different messages that left a client.
    pub sent: usize,
    /// Of those, the ones of which the server said that they are stored.
    pub acked: usize,
    /// The ones to which it said no.
    pub refused: usize,
    /// The rest, of which nothing is known at their client.
    pub unknown: usize,
    /// Of the rest, what is stored.
    pub unknown_stored: usize,
    /// Messages stored.
    pub stored: usize,
    /// Copies that came unasked.
    pub delivered: usize,
    /// Messages of pages of history.
    pub pulled: usize,
    /// Acknowledged and not there (G1, G7).
    pub lost: usize,
    /// Stored or numbered twice (G2).
    pub duplicates: usize,
    /// Out of order, or with a hole in the ids (G3).
    pub order: usize,
    /// Not shown to somebody who should have been (G4).
    pub unseen: usize,
    /// Read cursors that moved back or too far (G5).
    pub cursors: usize,
    /// Refused and stored all the same (G6).
    pub untrue: usize,
    /// Shown otherwise than it was sent (G7).
    pub damaged: usize,
    /// Each of them in words; of many the first.
    pub findings: Vec<String>,
}

/// Findings that are told in words.
const MOST_FINDINGS: usize = 40;

impl Judgement {
    /// Whether every clause was kept.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicates + self.order + self.unseen + self.cursors + self.untrue + self.damaged == 0
            && self.sent == self.acked + self.refused + self.unknown
            && self.stored == self.acked + self.unknown_stored - self.lost
    }

    fn find(&mut self, count: impl Fn(&mut Self) -> &mut usize, words: String) {
        *count(self) += 1;
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(words);
        }
    }

    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Self) {
        for (mine, its) in [
            (&mut self.sent, other.sent),
            (&mut self.acked, other.acked),
            (&mut self.refused, other.refused),
            (&mut self.unknown, other.unknown),
            (&mut self.unknown_stored, other.unknown_stored),
            (&mut self.stored, other.stored),
            (&mut self.delivered, other.delivered),
            (&mut self.pulled, other.pulled),
            (&mut self.lost, other.lost),
            (&mut self.duplicates, other.duplicates),
            (&mut self.order, other.order),
            (&mut self.unseen, other.unseen),
            (&mut self.cursors, other.cursors),
            (&mut self.untrue, other.untrue),
            (&mut self.damaged, other.damaged),
        ] {
            *mine += its;
        }
        self.findings.extend(other.findings.iter().cloned());
        self.findings.truncate(MOST_FINDINGS);
    }
}

/// The conservation counts, in one line.
impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {} = acked {} + refused {} + unknown {} (of those stored {}); stored {}; delivered {} copies, pulled {}; \
             lost {}, duplicates {}, order {}, unseen {}, cursors {}, untrue refusals {}, damaged {}",
            self.sent,
            self.acked,
            self.refused,
            self.unknown,
            self.unknown_stored,
            self.stored,
            self.delivered,
            self.pulled,
            self.lost,
            self.duplicates,
            self.order,
            self.unseen,
            self.cursors,
            self.untrue,
            self.damaged
        )
    }
}
