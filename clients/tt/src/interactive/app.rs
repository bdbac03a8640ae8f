//! What the chat knows and how it reacts: keys and events go in, [`Effect`]s come out. No I/O and
//! no clock here, so every reaction is tested by calling it.

use std::collections::HashMap;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tt_client::request::SendText;
use tt_client::{Conversation as Summary, Error, Event, Group, GroupChange, Message, Peer, Presence, Signal, User};

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
    LoadHistory { peer: Peer, from_msg_id: u32 },
    /// Send a message; the number comes back with its outcome.
    Send { number: u64, to: Peer, text: String },
    /// Tell the server what was read.
    MarkRead { peer: Peer, msg_id: u32 },
    /// Make a group of these users.
    CreateGroup { name: String, members: Vec<u32> },
    /// Add members to a group, or remove some.
    ChangeMembers { group: u32, added: bool, members: Vec<u32> },
    /// Hold a group's push notifications back, or not.
    ShieldGroup { group: u32, on: bool },
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
    pub(super) who: Who,
    pub(super) unread: u32,
}

/// Whom a line of the contact list stands for.
#[derive(Debug, Clone)]
pub(super) enum Who {
    User(User, Presence),
    Group(Group),
}

impl Contact {
    pub(super) fn peer(&self) -> Peer {
        match &self.who {
            Who::User(user, _) => Peer::User(user.id),
            Who::Group(group) => Peer::Group(group.id),
        }
    }

    pub(super) fn name(&self) -> &str {
        match &self.who {
            Who::User(user, _) => &user.name,
            Who::Group(group) => &group.name,
        }
    }
}

/// What the server knows of all contacts.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) users: Vec<User>,
    pub(super) presence: HashMap<u32, Presence>,
    pub(super) groups: Vec<Group>,
    /// Most recent first.
    pub(super) recent: Vec<Summary>,
    pub(super) unread: Vec<Summary>,
}

/// The whole chat.
#[derive(Debug)]
pub(super) struct App {
    pub(super) me: User,
    pub(super) link: Link,
    pub(super) contacts: Vec<Contact>,
    /// Which of the contacts is open.
    pub(super) selected: Option<usize>,
    pub(super) conversations: HashMap<Peer, Conversation>,
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

    /// Whom the open conversation is with.
    pub(super) fn open_peer(&self) -> Option<Peer> {
        self.selected.and_then(|at| self.contacts.get(at)).map(Contact::peer)
    }

    /// The login name of a user, for people to read.
    pub(super) fn name_of(&self, id: u32) -> String {
        if id == self.me.id {
            return text::printable(&self.me.name, false);
        }
        let contact = self.contacts.iter().find(|contact| contact.peer() == Peer::User(id));
        contact.map_or_else(|| format!("#{id}"), |contact| text::printable(contact.name(), false))
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
        let line = self.editor.text();
        let text = match line.strip_prefix('/') {
            Some(rest) if rest.starts_with('/') => rest.to_owned(),
            Some(command) => {
                return match self.command(command) {
                    Ok(effects) => {
                        self.editor.submit();
                        effects
                    }
                    // The line stays, to be mended; here and below.
                    Err(why) => {
                        self.notice = why;
                        Vec::new()
                    }
                };
            }
            None => line,
        };
        let Some(to) = self.open_peer() else {
            "choose a contact first (Tab)".clone_into(&mut self.notice);
            return Vec::new();
        };
        if let Err(error) = SendText::new(to, &text) {
            self.on_failure(&error);
            return Vec::new();
        }
        self.editor.submit();
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

    /// A line that began with a slash; all of these are about groups.
    fn command(&mut self, line: &str) -> Result<Vec<Effect>, String> {
        const COMMANDS: &str = "/group NAME WHO…, /add WHO…, /remove WHO…, /members, /leave, /mute, /unmute";
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        if command == "group" {
            let (name, others) = words.split_first().ok_or("give the group a name: /group NAME WHO…")?;
            let mut members = self.ids_of(others)?;
            members.push(self.me.id);
            return Ok(vec![Effect::CreateGroup { name: (*name).to_owned(), members }]);
        }
        if !["add", "remove", "members", "leave", "mute", "unmute"].contains(&command) {
            return Err(format!("there is no command /{}; there are {COMMANDS}", text::printable(command, false)));
        }
        let open = self.selected.and_then(|at| self.contacts.get(at)).map(|contact| &contact.who);
        let Some(Who::Group(open)) = open else {
            return Err(format!("open a group first (Tab): /{command} is about the open one"));
        };
        let group = open.id;
        Ok(vec![match command {
            "add" => Effect::ChangeMembers { group, added: true, members: self.ids_of(&words)? },
            "remove" => Effect::ChangeMembers { group, added: false, members: self.ids_of(&words)? },
            "leave" => Effect::ChangeMembers { group, added: false, members: vec![self.me.id] },
            "mute" => Effect::ShieldGroup { group, on: true },
            "unmute" => Effect::ShieldGroup { group, on: false },
            _ => {
                let names: Vec<String> = open.members.iter().map(|id| self.name_of(*id)).collect();
                self.notice = names.join(", ");
                return Ok(Vec::new());
            }
        }])
    }

    fn ids_of(&self, names: &[&str]) -> Result<Vec<u32>, String> {
        if names.is_empty() {
            return Err("say who: one or more login names".to_owned());
        }
        let id_of = |name: &&str| {
            let user = self.contacts.iter().find_map(|contact| match &contact.who {
                Who::User(user, _) if user.name == *name => Some(user.id),
                _ => None,
            });
            user.ok_or_else(|| format!("nobody here is called {}", text::printable(name, false)))
        };
        names.iter().map(id_of).collect()
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
        let peer = contact.peer();
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
            Event::Read { conversation: peer, msg_id } => {
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
            Event::Presence { user_id, presence } => match self.contact_mut(Peer::User(user_id)) {
                Some(Contact { who: Who::User(_, is), .. }) => {
                    *is = presence;
                    Vec::new()
                }
                _ => vec![Effect::LoadContacts],
            },
            // Taken off the list by another device: read with it.
            Event::SessionRemoved { conversation } => {
                if let Some(contact) = self.contact_mut(conversation) {
                    contact.unread = 0;
                }
                Vec::new()
            }
            Event::Signal { from, signal, .. } => {
                self.signalled(from, &signal);
                Vec::new()
            }
            Event::Group(change) => self.on_group_change(&change),
            // Nothing of these is on the screen.
            Event::Signature { .. } | Event::Avatar { .. } | Event::OwnPc { .. } | Event::Closed(_) => Vec::new(),
        }
    }

    /// A signal of a contact's is a remark until it is taken back, a message comes, or a key is
    /// pressed. One's own, from another device, is none.
    fn signalled(&mut self, from: u32, signal: &Signal) {
        let contact = self.contacts.iter().find(|contact| contact.peer() == Peer::User(from) && from != self.me.id);
        let Some(contact) = contact else { return };
        let name = text::printable(contact.name(), false);
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
        let peer = message.conversation;
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

    /// A group was made: it is on the list before anybody has said something in it.
    pub(super) fn on_created(&mut self, group: Group) -> Vec<Effect> {
        self.notice = format!("made group {}", text::printable(&group.name, false));
        self.contacts.insert(0, Contact { who: Who::Group(group), unread: 0 });
        self.selected = Some(0);
        self.open_selected()
    }

    /// People have come into a group or gone. Whoever is not in it any more may read on, but what
    /// comes later is not for him.
    pub(super) fn on_group_change(&mut self, change: &GroupChange) -> Vec<Effect> {
        let names: Vec<String> = change
            .changed
            .iter()
            .map(|id| if *id == self.me.id { "you".to_owned() } else { self.name_of(*id) })
            .collect();
        let group = self.contact_mut(Peer::Group(change.group));
        let name = group
            .as_ref()
            .map_or_else(|| format!("#{}", change.group), |contact| text::printable(contact.name(), false));
        if let Some(Contact { who: Who::Group(group), .. }) = group {
            group.members.clone_from(&change.members);
        }
        let (happened, place) = if change.added { ("added", "to") } else { ("removed", "from") };
        self.notice = format!("{happened} {place} group {name}: {}", names.join(", "));
        if change.members.contains(&self.me.id) && self.contact_mut(Peer::Group(change.group)).is_none() {
            return vec![Effect::LoadContacts];
        }
        Vec::new()
    }

    /// The address book, who is online, the groups, the recent conversations and the unread ones.
    pub(super) fn on_contacts(&mut self, known: Known) -> Vec<Effect> {
        let Known { users, presence, groups, recent, unread } = known;
        let open = self.open_peer();
        let unread: HashMap<Peer, u32> = unread.iter().map(|entry| (entry.peer, entry.unread)).collect();
        let rank: HashMap<Peer, usize> = recent.iter().enumerate().map(|(rank, entry)| (entry.peer, rank)).collect();
        let people = users.into_iter().filter(|user| user.id != self.me.id).map(|user| {
            let presence = presence.get(&user.id).copied().unwrap_or(Presence::Offline);
            Who::User(user, presence)
        });
        self.contacts = people
            .chain(groups.into_iter().map(Who::Group))
            .map(|who| {
                let contact = Contact { who, unread: 0 };
                Contact { unread: unread.get(&contact.peer()).copied().unwrap_or(0), ..contact }
            })
            .collect();
        // Recent conversations first, the rest by name. The order then stays until the next
        // loading: a list that moves under the cursor is worse than one that is a little old.
        self.contacts.sort_by_cached_key(|contact| {
            let rank = rank.get(&contact.peer()).copied().unwrap_or(usize::MAX);
            (rank, contact.name().to_lowercase(), contact.peer())
        });
        if self.notice.starts_with("loading") {
            self.notice.clear();
        }
        let position = open.and_then(|open| self.contacts.iter().position(|contact| contact.peer() == open));
        self.selected = position.or(if self.contacts.is_empty() { None } else { Some(0) });
        self.open_selected()
    }

    /// A page of history, as asked for with `from_msg_id`.
    pub(super) fn on_history(
        &mut self,
        peer: Peer,
        from_msg_id: u32,
        page: Result<Vec<Message>, Error>,
    ) -> Vec<Effect> {
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
    pub(super) fn on_sent(&mut self, number: u64, to: Peer, outcome: Result<u32, Error>) {
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

    fn contact_mut(&mut self, peer: Peer) -> Option<&mut Contact> {
        self.contacts.iter_mut().find(|contact| contact.peer() == peer)
    }
}

#[cfg(test)]
mod tests;
