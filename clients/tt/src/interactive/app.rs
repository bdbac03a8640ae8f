//! What the chat knows and how it reacts: keys and events go in, [`Effect`]s come out. No I/O and
//! no clock here, so every reaction is tested by calling it.

use std::collections::HashMap;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tt_client::request::SendText;
use tt_client::{Conversation as Summary, Error, Event, Message, Peer, Presence, Signal, User};

use super::conversation::{Conversation, Loaded};
use super::editor::Editor;
use crate::text;

/// How many messages of history to ask for at once.
pub(super) const PAGE: u32 = 50;

/// What the outside has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Fetch the address book, who is online and what is unread.
    LoadContacts,
    /// Fetch a page of history; 0 begins at the newest.
    LoadHistory { peer: u32, from_msg_id: u32 },
    /// Send a message; the number comes back with its outcome.
    Send { number: u64, to: u32, text: String },
    /// Tell the server what was read.
    MarkRead { peer: u32, msg_id: u32 },
    /// Leave.
    Quit,
}

/// The state of the connection, for the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Online,
    /// Why not, and when the next attempt begins, as a time of day.
    Offline {
        why: String,
        retry_at: String,
    },
}

/// One line of the contact list.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub(super) user: User,
    pub(super) presence: Presence,
    pub(super) unread: u32,
}

/// The whole chat.
#[derive(Debug)]
pub(super) struct App {
    pub(super) me: User,
    pub(super) link: Link,
    pub(super) contacts: Vec<Contact>,
    /// Which of the contacts is open.
    pub(super) selected: Option<usize>,
    pub(super) conversations: HashMap<u32, Conversation>,
    pub(super) editor: Editor,
    /// A remark for the person, until the next key.
    pub(super) notice: String,
    /// The height of the conversation's window, told by the view.
    pub(super) page_rows: usize,
    next_number: u64,
}

impl App {
    pub(super) fn new(me: User) -> Self {
        Self {
            me,
            link: Link::Online,
            contacts: Vec::new(),
            selected: None,
            conversations: HashMap::new(),
            editor: Editor::default(),
            notice: "loading contacts …".to_owned(),
            page_rows: 10,
            next_number: 0,
        }
    }

    /// The user id of the open contact.
    pub(super) fn open_peer(&self) -> Option<u32> {
        self.selected.and_then(|at| self.contacts.get(at)).map(|contact| contact.user.id)
    }

    // ---- the person

    /// A key, a paste or a resize. `now` is in seconds since 1970.
    pub(super) fn on_input(&mut self, input: &Input, now: u32) -> Vec<Effect> {
        match input {
            // Some terminals also report the release.
            Input::Key(key) if key.kind != KeyEventKind::Release => self.on_key(*key, now),
            Input::Paste(text) => {
                self.editor.paste(text);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn on_key(&mut self, key: KeyEvent, now: u32) -> Vec<Effect> {
        self.notice.clear();
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c' | 'q') => return vec![Effect::Quit],
                KeyCode::Char('n') => return self.select_next(1),
                KeyCode::Char('p') => return self.select_next(-1),
                KeyCode::Char('a') => self.editor.home(),
                KeyCode::Char('e') => self.editor.end(),
                KeyCode::Char('w') => self.editor.delete_word(),
                KeyCode::Char('u') => self.editor.delete_to_start(),
                _ => {}
            }
            return Vec::new();
        }
        if key.modifiers.contains(KeyModifiers::ALT) {
            return match key.code {
                KeyCode::Down => self.select_next(1),
                KeyCode::Up => self.select_next(-1),
                _ => Vec::new(),
            };
        }
        match key.code {
            KeyCode::Tab => return self.select_next(1),
            KeyCode::BackTab => return self.select_next(-1),
            KeyCode::Enter => return self.submit(now),
            KeyCode::PageUp => return self.scroll_up(),
            KeyCode::PageDown => return self.scroll_down(),
            KeyCode::Up => self.editor.older(),
            KeyCode::Down => self.editor.newer(),
            KeyCode::Left => self.editor.left(),
            KeyCode::Right => self.editor.right(),
            KeyCode::Home => self.editor.home(),
            KeyCode::End => self.editor.end(),
            KeyCode::Backspace => self.editor.backspace(),
            KeyCode::Delete => self.editor.delete(),
            KeyCode::Char(c) => self.editor.insert(c),
            _ => {}
        }
        Vec::new()
    }

    fn submit(&mut self, now: u32) -> Vec<Effect> {
        if self.editor.text().trim().is_empty() {
            return Vec::new();
        }
        let Some(to) = self.open_peer() else {
            "choose a contact first (Tab)".clone_into(&mut self.notice);
            return Vec::new();
        };
        if let Err(error) = SendText::new(to, &self.editor.text()) {
            // The line stays, to be mended.
            self.on_failure(&error);
            return Vec::new();
        }
        let text = self.editor.submit();
        self.next_number += 1;
        let number = self.next_number;
        let conversation = self.conversations.entry(to).or_default();
        conversation.scroll = 0;
        conversation.add_pending(number, self.me.id, now, &text);
        // What had arrived below the window is on the screen now.
        let mut effects = self.read_open();
        effects.push(Effect::Send { number, to, text });
        effects
    }

    fn select_next(&mut self, step: isize) -> Vec<Effect> {
        let count = self.contacts.len() as isize;
        if count == 0 {
            return Vec::new();
        }
        let at =
            self.selected.map_or(if step > 0 { 0 } else { count - 1 }, |at| (at as isize + step).rem_euclid(count));
        self.selected = Some(at as usize);
        self.open_selected()
    }

    /// The open conversation is on the screen now: load it, and it counts as read.
    fn open_selected(&mut self) -> Vec<Effect> {
        let Some(peer) = self.open_peer() else { return Vec::new() };
        let mut effects = self.read_open();
        let conversation = self.conversations.entry(peer).or_default();
        if conversation.loaded == Loaded::No && self.link == Link::Online {
            conversation.loaded = Loaded::Asked;
            effects.push(Effect::LoadHistory { peer, from_msg_id: 0 });
        }
        effects
    }

    /// Marks the open conversation as read up to what is on the screen.
    fn read_open(&mut self) -> Vec<Effect> {
        let Some(contact) = self.selected.and_then(|at| self.contacts.get_mut(at)) else { return Vec::new() };
        let peer = contact.user.id;
        let newest = self.conversations.get(&peer).and_then(Conversation::newest);
        match newest {
            Some(msg_id) if contact.unread > 0 => {
                contact.unread = 0;
                vec![Effect::MarkRead { peer, msg_id }]
            }
            _ => Vec::new(),
        }
    }

    fn scroll_up(&mut self) -> Vec<Effect> {
        let page_rows = self.page_rows;
        let online = self.link == Link::Online;
        let Some(peer) = self.open_peer() else { return Vec::new() };
        let Some(conversation) = self.conversations.get_mut(&peer) else { return Vec::new() };
        // The view limits this to what there is.
        conversation.scroll += page_rows.saturating_sub(1).max(1);
        match (conversation.loaded, conversation.oldest()) {
            (Loaded::Recent, Some(oldest)) if online => {
                conversation.loaded = Loaded::AskedOlder;
                vec![Effect::LoadHistory { peer, from_msg_id: oldest.saturating_sub(1) }]
            }
            _ => Vec::new(),
        }
    }

    fn scroll_down(&mut self) -> Vec<Effect> {
        let page_rows = self.page_rows;
        let open = self.open_peer().and_then(|peer| self.conversations.get_mut(&peer));
        let Some(conversation) = open else { return Vec::new() };
        conversation.scroll = conversation.scroll.saturating_sub(page_rows.saturating_sub(1).max(1));
        if conversation.scroll == 0 { self.read_open() } else { Vec::new() }
    }

    // ---- the session

    /// Something happened in the session. `retry_at` turns a pause into a time of day.
    pub(super) fn on_event(
        &mut self,
        event: Event,
        retry_at: impl FnOnce(std::time::Duration) -> String,
    ) -> Vec<Effect> {
        match event {
            Event::Online { me } => {
                self.me = me;
                self.link = Link::Online;
                // What happened meanwhile is fetched; what is here may have a gap at its end.
                for conversation in self.conversations.values_mut() {
                    conversation.loaded = Loaded::No;
                }
                let mut effects = vec![Effect::LoadContacts];
                effects.extend(self.open_selected());
                effects
            }
            Event::Offline { error, retry_in } => {
                let why = text::printable(&error.to_string(), false);
                self.link = Link::Offline { why, retry_at: retry_at(retry_in) };
                Vec::new()
            }
            Event::Message(message) => self.on_message(&message),
            Event::Read { conversation: Peer::User(peer), msg_id } => {
                let newest = self.conversations.get(&peer).and_then(Conversation::newest).unwrap_or(0);
                if msg_id >= newest
                    && let Some(contact) = self.contact_mut(peer)
                {
                    contact.unread = 0;
                }
                Vec::new()
            }
            // Servers tell people of themselves too.
            Event::Presence { user_id, .. } if user_id == self.me.id => Vec::new(),
            Event::Presence { user_id, presence } => match self.contact_mut(user_id) {
                Some(contact) => {
                    contact.presence = presence;
                    Vec::new()
                }
                None => vec![Effect::LoadContacts],
            },
            // Taken off the list by another device: read with it.
            Event::SessionRemoved { conversation: Peer::User(peer) } => {
                if let Some(contact) = self.contact_mut(peer) {
                    contact.unread = 0;
                }
                Vec::new()
            }
            Event::Signal { from, signal, .. } => {
                self.signalled(from, &signal);
                Vec::new()
            }
            // Nothing of these is on the screen.
            Event::Read { conversation: Peer::Group(_), .. }
            | Event::SessionRemoved { conversation: Peer::Group(_) }
            | Event::Signature { .. }
            | Event::Avatar { .. }
            | Event::OwnPc { .. }
            | Event::Closed(_) => Vec::new(),
        }
    }

    /// A signal of a contact's is a remark until it is taken back, a message comes, or a key is
    /// pressed. One's own, from another device, is none.
    fn signalled(&mut self, from: u32, signal: &Signal) {
        let Some(contact) = self.contacts.iter().find(|contact| contact.user.id == from && from != self.me.id) else {
            return;
        };
        let name = text::printable(&contact.user.name, false);
        let typing = format!("{name} is typing …");
        match signal {
            Signal::Typing => self.notice = typing,
            Signal::Shake => self.notice = format!("{name} wants you to look here"),
            Signal::StoppedTyping if self.notice == typing => self.notice.clear(),
            Signal::StoppedTyping | Signal::Other(_) => {}
        }
    }

    fn on_message(&mut self, message: &Message) -> Vec<Effect> {
        self.signalled(message.from, &Signal::StoppedTyping);
        // Groups are not part of this chat.
        let Peer::User(peer) = message.conversation else { return Vec::new() };
        let is_new = self.conversations.entry(peer).or_default().insert(message);
        let from_me = message.from == self.me.id;
        match self.contact_mut(peer) {
            None => return vec![Effect::LoadContacts],
            Some(contact) if is_new && !from_me => contact.unread += 1,
            Some(_) => {}
        }
        let on_screen =
            self.open_peer() == Some(peer) && self.conversations.get(&peer).is_some_and(|open| open.scroll == 0);
        if on_screen { self.read_open() } else { Vec::new() }
    }

    /// The address book, who is online, the recent conversations and the unread ones.
    pub(super) fn on_contacts(
        &mut self,
        users: Vec<User>,
        presence: &HashMap<u32, Presence>,
        recent: &[Summary],
        unread: &[Summary],
    ) -> Vec<Effect> {
        let open = self.open_peer();
        let unread: HashMap<Peer, u32> = unread.iter().map(|entry| (entry.peer, entry.unread)).collect();
        let rank: HashMap<Peer, usize> = recent.iter().enumerate().map(|(rank, entry)| (entry.peer, rank)).collect();
        self.contacts = users
            .into_iter()
            .filter(|user| user.id != self.me.id)
            .map(|user| Contact {
                presence: presence.get(&user.id).copied().unwrap_or(Presence::Offline),
                unread: unread.get(&Peer::User(user.id)).copied().unwrap_or(0),
                user,
            })
            .collect();
        // Recent conversations first, the rest by name. The order then stays until the next
        // loading: a list that moves under the cursor is worse than one that is a little old.
        self.contacts.sort_by_cached_key(|contact| {
            let rank = rank.get(&Peer::User(contact.user.id)).copied().unwrap_or(usize::MAX);
            (rank, contact.user.name.to_lowercase(), contact.user.id)
        });
        if self.notice.starts_with("loading") {
            self.notice.clear();
        }
        let position = open.and_then(|open| self.contacts.iter().position(|contact| contact.user.id == open));
        self.selected = position.or(if self.contacts.is_empty() { None } else { Some(0) });
        self.open_selected()
    }

    /// A page of history, as asked for with `from_msg_id`.
    pub(super) fn on_history(&mut self, peer: u32, from_msg_id: u32, page: Result<Vec<Message>, Error>) -> Vec<Effect> {
        let conversation = self.conversations.entry(peer).or_default();
        match page {
            Ok(page) if from_msg_id == 0 => conversation.newest_page(&page),
            Ok(page) => conversation.older_page(&page),
            Err(error) => {
                conversation.loaded = if from_msg_id == 0 { Loaded::No } else { Loaded::Recent };
                self.on_failure(&error);
                return Vec::new();
            }
        }
        if self.open_peer() == Some(peer) { self.read_open() } else { Vec::new() }
    }

    /// A message of this person has been stored, or has not.
    pub(super) fn on_sent(&mut self, number: u64, to: u32, outcome: Result<u32, Error>) {
        let outcome = outcome.map_err(|error| {
            self.on_failure(&error);
            text::printable(&error.to_string(), false)
        });
        self.conversations.entry(to).or_default().settle(number, outcome);
    }

    /// Something asked for did not work.
    pub(super) fn on_failure(&mut self, error: &Error) {
        self.notice = text::printable(&error.to_string(), false);
    }

    /// How many messages of this person nobody has acknowledged.
    pub(super) fn pending(&self) -> usize {
        self.conversations.values().map(Conversation::pending).sum()
    }

    fn contact_mut(&mut self, user_id: u32) -> Option<&mut Contact> {
        self.contacts.iter_mut().find(|contact| contact.user.id == user_id)
    }
}

#[cfg(test)]
mod tests;
