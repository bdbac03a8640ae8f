//! What a conversation is to this server, and the lanes that keep its messages in
//! order: while messages of a conversation are at the store, all further ones take
//! the same db link, and wait here if that link takes no more. When the link fails,
//! what was on its way is repeated, in order and before everything that waits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use tt_proto::content::Kind;
use tt_proto::im::base_define::SessionType;
use tt_proto::im::message::ImMsgData;

/// The parties of a chat, as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Conversation {
    /// Two users, the smaller id first, so that both directions are one key.
    Single(u32, u32),
    /// A group.
    Group(u32),
}

impl Conversation {
    pub(crate) const fn single(a: u32, b: u32) -> Self {
        if a <= b { Self::Single(a, b) } else { Self::Single(b, a) }
    }

    /// The conversation that `user` calls session `session`.
    pub(crate) const fn of_session(user: u32, kind: SessionType, session: u32) -> Self {
        match kind {
            SessionType::SessionTypeSingle => Self::single(user, session),
            SessionType::SessionTypeGroup => Self::Group(session),
        }
    }

    /// The conversation that a message of this kind belongs to.
    pub(crate) fn of_message(message: &ImMsgData, kind: Kind) -> Self {
        Self::of_session(message.from_user_id, kind.session, message.to_session_id)
    }

    /// The number by which the conversation draws its db link: the same on every
    /// server and after every restart.
    pub(crate) fn key(self) -> u64 {
        match self {
            Self::Single(a, b) => u64::from(a) << 32 | u64::from(b),
            Self::Group(id) => 1 << 63 | u64::from(id),
        }
    }
}

/// Messages that may wait in one lane.
const MAX_HELD: usize = 1_024;

/// The lanes of the conversations that have messages at the store. `M` is the
/// message, `L` the handle of a link.
#[derive(Debug)]
pub(crate) struct Lanes<M, L> {
    lanes: HashMap<Conversation, Lane<M, L>>,
    /// Messages of conversations that have no link at all now.
    parked: HashMap<Conversation, VecDeque<M>>,
}

#[derive(Debug)]
struct Lane<M, L> {
    link: L,
    /// Messages at the store, never 0.
    at_store: usize,
    /// Messages that their link took with it; they come before the held ones.
    again: VecDeque<M>,
    held: VecDeque<M>,
}

/// What is to be done with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<M, L> {
    /// Send it over this link now.
    Go(M, L),
    /// It waits until [`Lanes::done`] hands it back.
    Held,
    /// No link takes requests, or too many messages wait already.
    Refused(M),
}

impl<M, L: Clone> Lanes<M, L> {
    pub(crate) fn new() -> Self {
        Self { lanes: HashMap::new(), parked: HashMap::new() }
    }

    /// Gives a message its turn. `usable` says whether a link takes requests,
    /// `choose` picks the link of a conversation that has nothing at the store.
    pub(crate) fn turn(
        &mut self,
        conversation: Conversation,
        message: M,
        usable: impl FnOnce(&L) -> bool,
        choose: impl FnOnce() -> Option<L>,
    ) -> Turn<M, L> {
        if let Some(parked) = self.parked.get_mut(&conversation) {
            if parked.len() >= MAX_HELD {
                return Turn::Refused(message);
            }
            parked.push_back(message);
            return Turn::Held;
        }
        match self.lanes.entry(conversation) {
            Entry::Vacant(entry) => match choose() {
                Some(link) => {
                    entry.insert(Lane {
                        link: link.clone(),
                        at_store: 1,
                        again: VecDeque::new(),
                        held: VecDeque::new(),
                    });
                    Turn::Go(message, link)
                }
                None => Turn::Refused(message),
            },
            Entry::Occupied(mut entry) => {
                let lane = entry.get_mut();
                if lane.held.is_empty() && lane.again.is_empty() && usable(&lane.link) {
                    lane.at_store += 1;
                    Turn::Go(message, lane.link.clone())
                } else if lane.held.len() < MAX_HELD {
                    lane.held.push_back(message);
                    Turn::Held
                } else {
                    Turn::Refused(message)
                }
            }
        }
    }

    /// A message came back from the store, or never will. Returns the messages that
    /// waited for it and are to be given their turn again, in order.
    #[must_use = "held messages would be lost"]
    pub(crate) fn done(&mut self, conversation: Conversation) -> VecDeque<M> {
        self.returned(conversation, None)
    }

    /// A message's link failed before the answer came: it is to be sent once more when
    /// all that went with it are back. Returns what [`done`](Self::done) returns.
    #[must_use = "held messages would be lost"]
    pub(crate) fn failed(&mut self, conversation: Conversation, message: M) -> VecDeque<M> {
        self.returned(conversation, Some(message))
    }

    fn returned(&mut self, conversation: Conversation, again: Option<M>) -> VecDeque<M> {
        let Entry::Occupied(mut entry) = self.lanes.entry(conversation) else { return again.into_iter().collect() };
        let lane = entry.get_mut();
        lane.again.extend(again);
        lane.at_store -= 1;
        if lane.at_store > 0 {
            return VecDeque::new();
        }
        let mut lane = entry.remove();
        lane.again.append(&mut lane.held);
        lane.again
    }

    /// Keeps messages for which there is no link now; what comes later waits behind them.
    pub(crate) fn park(&mut self, conversation: Conversation, messages: VecDeque<M>) {
        self.parked.entry(conversation).or_default().extend(messages);
    }

    /// The conversations with parked messages.
    pub(crate) fn parked(&self) -> Vec<Conversation> {
        self.parked.keys().copied().collect()
    }

    /// Takes a conversation's parked messages, in order.
    pub(crate) fn unpark(&mut self, conversation: Conversation) -> VecDeque<M> {
        self.parked.remove(&conversation).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Conversation = Conversation::single(2, 1);

    #[test]
    fn both_directions_are_one_conversation_and_a_group_is_another() {
        assert_eq!(Conversation::single(1, 2), Conversation::single(2, 1));
        assert_ne!(Conversation::Group(1).key(), Conversation::single(0, 1).key());
    }

    #[test]
    fn a_conversation_with_messages_at_the_store_stays_on_its_link() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.turn(PAIR, "a", |_| true, || Some(1)), Turn::Go("a", 1));
        assert_eq!(lanes.turn(PAIR, "b", |_| true, || Some(2)), Turn::Go("b", 1));
        assert!(lanes.done(PAIR).is_empty());
        assert!(lanes.done(PAIR).is_empty());
        assert_eq!(lanes.turn(PAIR, "c", |_| true, || Some(2)), Turn::Go("c", 2));
    }

    #[test]
    fn messages_wait_while_their_link_takes_no_more_and_leave_in_order() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.turn(PAIR, "a", |_| true, || Some(1)), Turn::Go("a", 1));
        assert_eq!(lanes.turn(PAIR, "b", |_| false, || Some(2)), Turn::Held);
        assert_eq!(lanes.turn(PAIR, "c", |_| true, || Some(2)), Turn::Held, "nothing overtakes");
        assert_eq!(lanes.done(PAIR), ["b", "c"]);
    }

    #[test]
    fn what_a_link_took_with_it_is_repeated_in_order_before_all_that_waits() {
        let mut lanes = Lanes::new();
        for message in ["a", "b", "c"] {
            assert_eq!(lanes.turn(PAIR, message, |_| true, || Some(1)), Turn::Go(message, 1));
        }
        assert!(lanes.done(PAIR).is_empty(), "a is stored");
        assert!(lanes.failed(PAIR, "b").is_empty(), "c is still there");
        // The link is usable again at once: d must not overtake what is to be repeated.
        assert_eq!(lanes.turn(PAIR, "d", |_| true, || Some(1)), Turn::Held);
        assert_eq!(lanes.failed(PAIR, "c"), ["b", "c", "d"]);
    }

    #[test]
    fn parked_messages_keep_later_ones_behind_them() {
        let mut lanes: Lanes<&str, u32> = Lanes::new();
        assert_eq!(lanes.turn(PAIR, "a", |_| true, || Some(1)), Turn::Go("a", 1));
        let waiting = lanes.failed(PAIR, "a");
        lanes.park(PAIR, waiting);
        assert_eq!(lanes.turn(PAIR, "b", |_| true, || Some(2)), Turn::Held);
        assert_eq!(lanes.parked(), [PAIR]);
        assert_eq!(lanes.unpark(PAIR), ["a", "b"]);
        assert!(lanes.unpark(PAIR).is_empty());
        assert_eq!(lanes.turn(PAIR, "c", |_| true, || Some(2)), Turn::Go("c", 2));
    }

    #[test]
    fn without_a_link_or_with_a_full_lane_a_message_is_refused() {
        let mut lanes: Lanes<usize, u32> = Lanes::new();
        assert_eq!(lanes.turn(PAIR, 0, |_| true, || None), Turn::Refused(0));
        assert_eq!(lanes.turn(PAIR, 0, |_| true, || Some(1)), Turn::Go(0, 1));
        for n in 0..MAX_HELD {
            assert_eq!(lanes.turn(PAIR, n, |_| false, || None), Turn::Held);
        }
        assert_eq!(lanes.turn(PAIR, 7, |_| false, || None), Turn::Refused(7));
    }
}
