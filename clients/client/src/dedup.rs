//! Remembers which messages were shown already. A server that is not sure whether a copy arrived
//! sends it again, so a client must be able to tell (spec: guarantees G4).

use std::collections::{HashSet, VecDeque};

use crate::Peer;

/// A window over the most recent messages of a session, all conversations together.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    known: HashSet<(Peer, u32)>,
    order: VecDeque<(Peer, u32)>,
}

impl Seen {
    /// How many messages are remembered: repeats follow within seconds, so this is ample, and a
    /// server cannot make the client grow.
    const WINDOW: usize = 8192;

    /// Notes a message; false if it had been noted before.
    pub(crate) fn first_time(&mut self, conversation: Peer, msg_id: u32) -> bool {
        let key = (conversation, msg_id);
        if !self.known.insert(key) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > Self::WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_known_and_the_same_id_elsewhere_is_not() {
        let mut seen = Seen::default();
        assert!(seen.first_time(Peer::User(1), 7));
        assert!(!seen.first_time(Peer::User(1), 7));
        assert!(seen.first_time(Peer::User(2), 7));
        assert!(seen.first_time(Peer::Group(1), 7));
    }

    #[test]
    fn the_window_is_bounded_and_forgets_the_oldest_first() {
        let mut seen = Seen::default();
        for id in 0..=Seen::WINDOW as u32 {
            assert!(seen.first_time(Peer::User(1), id));
        }
        assert_eq!((seen.known.len(), seen.order.len()), (Seen::WINDOW, Seen::WINDOW));
        assert!(!seen.first_time(Peer::User(1), 1));
        assert!(seen.first_time(Peer::User(1), 0));
    }
}
