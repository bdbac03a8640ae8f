//! One conversation as the chat knows it: what was loaded, what arrived, what is on its way.

use tt_client::Message;

use crate::text;

/// How far a message of this person has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Stored by the server under this number.
    Stored(u32),
    /// Not acknowledged yet; the number is this program's own.
    Pending(u64),
    /// Not sent, or nobody knows; the text says why.
    Failed(String),
}

/// One message on the screen.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) from: u32,
    /// Seconds since 1970.
    pub(super) time: u32,
    pub(super) text: String,
    pub(super) state: State,
}

impl Entry {
    fn msg_id(&self) -> Option<u32> {
        match self.state {
            State::Stored(id) => Some(id),
            State::Pending(_) | State::Failed(_) => None,
        }
    }
}

/// What has been asked about the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Loaded {
    /// Nothing, or what is here may have a gap at its end.
    #[default]
    No,
    /// The newest page has been asked for.
    Asked,
    /// The end is known; more may lie before the beginning.
    Recent,
    /// An older page has been asked for.
    AskedOlder,
    /// Everything is here.
    All,
}

/// Stored messages in the order of their numbers, then the others in the order of typing.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub(super) entries: Vec<Entry>,
    pub(super) loaded: Loaded,
    /// Rows between the last row and the bottom of the window.
    pub(super) scroll: usize,
}

impl Conversation {
    /// Adds a stored message; false if it was here already.
    pub(super) fn insert(&mut self, message: &Message) -> bool {
        let entry = Entry {
            from: message.from,
            time: message.time,
            text: text::content(&message.content, true),
            state: State::Stored(message.msg_id),
        };
        self.insert_entry(message.msg_id, entry)
    }

    fn insert_entry(&mut self, msg_id: u32, entry: Entry) -> bool {
        let at = self.entries.partition_point(|other| other.msg_id().is_some_and(|other| other < msg_id));
        if self.entries.get(at).and_then(Entry::msg_id) == Some(msg_id) {
            return false;
        }
        self.entries.insert(at, entry);
        true
    }

    /// Takes in the newest page of the history (newest first). If messages are missing between
    /// what was here and the page, the older part is forgotten: it can be loaded again.
    pub(super) fn newest_page(&mut self, page: &[Message]) {
        if let Some(oldest) = page.last().map(|message| message.msg_id)
            && self.newest_before(oldest).is_some_and(|id| id + 1 < oldest)
        {
            self.entries.retain(|entry| entry.msg_id().is_none_or(|id| id >= oldest));
        }
        for message in page {
            self.insert(message);
        }
        self.loaded = if is_last_page(page) { Loaded::All } else { Loaded::Recent };
    }

    /// Takes in a page that ends before the oldest message here.
    pub(super) fn older_page(&mut self, page: &[Message]) {
        for message in page {
            self.insert(message);
        }
        self.loaded = if is_last_page(page) { Loaded::All } else { Loaded::Recent };
    }

    /// The number of the oldest stored message here.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.entries.first().and_then(Entry::msg_id)
    }

    /// The number of the newest stored message here.
    pub(super) fn newest(&self) -> Option<u32> {
        self.newest_before(u32::MAX)
    }

    fn newest_before(&self, limit: u32) -> Option<u32> {
        self.entries.iter().filter_map(Entry::msg_id).take_while(|id| *id < limit).last()
    }

    /// Adds a message that is on its way.
    pub(super) fn add_pending(&mut self, number: u64, from: u32, time: u32, text: &str) {
        let text = text::printable(text, true);
        self.entries.push(Entry { from, time, text, state: State::Pending(number) });
    }

    /// How many messages are on their way.
    pub(super) fn pending(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.state, State::Pending(_))).count()
    }

    /// The message that was on its way under `number` has arrived or failed.
    pub(super) fn settle(&mut self, number: u64, outcome: Result<u32, String>) {
        let Some(at) = self.entries.iter().position(|entry| entry.state == State::Pending(number)) else { return };
        match outcome {
            Err(why) => self.entries[at].state = State::Failed(why),
            Ok(msg_id) => {
                let mut entry = self.entries.remove(at);
                entry.state = State::Stored(msg_id);
                // It may have come back with the history before its acknowledgement.
                self.insert_entry(msg_id, entry);
            }
        }
    }
}

/// Numbers begin at 1 and are dense, but a server may answer fewer than asked because of their
/// size: only number 1 or an empty page is the end.
fn is_last_page(page: &[Message]) -> bool {
    page.last().is_none_or(|oldest| oldest.msg_id <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tt_client::{Content, Peer};

    fn message(msg_id: u32) -> Message {
        let content = Content::Text(format!("text {msg_id}"));
        Message { conversation: Peer::User(2), from: 2, to: 1, msg_id, time: 0, content }
    }

    fn page(ids: std::ops::RangeInclusive<u32>) -> Vec<Message> {
        ids.rev().map(message).collect()
    }

    fn ids(conversation: &Conversation) -> Vec<u32> {
        conversation.entries.iter().filter_map(Entry::msg_id).collect()
    }

    #[test]
    fn messages_are_kept_by_number_and_once() {
        let mut conversation = Conversation::default();
        assert!(conversation.insert(&message(3)));
        assert!(conversation.insert(&message(1)));
        assert!(!conversation.insert(&message(3)));
        conversation.newest_page(&page(1..=3));
        assert_eq!(ids(&conversation), [1, 2, 3]);
        assert_eq!(conversation.loaded, Loaded::All);
    }

    #[test]
    fn a_page_behind_a_gap_replaces_what_lies_before_it() {
        let mut conversation = Conversation::default();
        conversation.newest_page(&page(1..=5));
        conversation.newest_page(&page(8..=9));
        assert_eq!(ids(&conversation), [8, 9]);
        assert_eq!(conversation.loaded, Loaded::Recent);
        conversation.older_page(&page(6..=7));
        assert_eq!((conversation.oldest(), conversation.newest()), (Some(6), Some(9)));
        conversation.newest_page(&page(10..=11));
        assert_eq!(ids(&conversation), [6, 7, 8, 9, 10, 11], "a page that adjoins leaves no gap");
    }

    #[test]
    fn an_own_message_moves_to_its_place_when_it_is_acknowledged() {
        let mut conversation = Conversation::default();
        conversation.add_pending(1, 1, 0, "first");
        conversation.add_pending(2, 1, 0, "second");
        assert_eq!(conversation.pending(), 2);
        conversation.insert(&message(5));
        conversation.settle(2, Err("no".to_owned()));
        conversation.settle(1, Ok(4));
        conversation.settle(7, Ok(9));
        let states: Vec<_> = conversation.entries.iter().map(|entry| entry.state.clone()).collect();
        assert_eq!(conversation.pending(), 0);
        assert_eq!(states, [State::Stored(4), State::Stored(5), State::Failed("no".to_owned())]);
    }

    #[test]
    fn an_own_message_that_came_with_the_history_is_not_shown_twice() {
        let mut conversation = Conversation::default();
        conversation.add_pending(1, 1, 0, "text");
        conversation.insert(&message(1));
        conversation.settle(1, Ok(1));
        assert_eq!(ids(&conversation), [1]);
        assert_eq!(conversation.entries.len(), 1);
    }
}
