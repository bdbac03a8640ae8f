//! Who is online where: a table of counters per user, msg server link and client type, and what everybody has
//! to be told when it changes. Sans I/O: reports go in, notices come out.
//!
//! "Online" towards clients means "has a PC client": a user with nothing but a phone appears offline, and LEAVE
//! is passed on but never remembered. Published clients rely on both (spec/flows.md §3.4, §3.6).

use std::collections::{HashMap, HashSet};

use tt_proto::im::base_define::{ClientType, UserStatType};

/// What all msg servers have to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// 0x070e: whether the user has a PC client, for the user's own phones.
    PcLogin {
        /// Whose.
        user: u32,
        /// Whether there is one.
        on: bool,
    },
    /// 0x0203: the user's status, for everybody.
    Status {
        /// Whose.
        user: u32,
        /// As reported.
        status: UserStatType,
    },
}

/// Connections of one client type through one msg server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    link: u64,
    client: ClientType,
    count: u32,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Presence {
    /// Never holds a user without entries.
    users: HashMap<u32, Vec<Entry>>,
    max_users: usize,
    /// Entries not made for want of room, since the start.
    left_out: u64,
    /// Links that have sent a snapshot.
    known: HashSet<u64>,
    /// Users of whom everybody was told that they went offline because a link was lost. When a snapshot brings
    /// them back, everybody is told that too: a msg server that only lost its link has nothing to report.
    told_offline: HashSet<u32>,
}

/// Users remembered in `told_offline`; beyond that, a lost link's users come back unannounced.
const MAX_TOLD_OFFLINE: usize = 100_000;

impl Presence {
    pub(crate) fn new(max_users: usize) -> Self {
        Self { users: HashMap::new(), max_users, left_out: 0, known: HashSet::new(), told_offline: HashSet::new() }
    }

    /// Users with any connection.
    /// Entries not made for want of room, since the start.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// The status that clients are shown.
    pub(crate) fn status(&self, user: u32) -> UserStatType {
        if self.has_pc(user) { UserStatType::UserStatusOnline } else { UserStatType::UserStatusOffline }
    }

    /// One connection signed in or out (0x070a).
    pub(crate) fn update(&mut self, link: u64, user: u32, client: ClientType, status: UserStatType) -> Vec<Notice> {
        let mut notices = Vec::new();
        if status == UserStatType::UserStatusOffline {
            self.subtract(link, user, client);
            let pc_left = self.has_pc(user);
            if is_pc(client) && !pc_left {
                if self.users.contains_key(&user) {
                    notices.push(Notice::PcLogin { user, on: false });
                }
                notices.push(Notice::Status { user, status });
            }
        } else {
            self.add(link, user, client);
            // Also when a phone comes and a PC is there already: the phone has to learn of it.
            if self.has_pc(user) {
                self.told_offline.remove(&user);
                notices.push(Notice::PcLogin { user, on: true });
            }
            if is_pc(client) {
                notices.push(Notice::Status { user, status });
            }
        }
        notices
    }

    /// Everything that a msg server has (0x0708). It replaces whatever was known from that link.
    ///
    /// The first one of a link tells nobody anything, because it only repeats what everybody was told when it
    /// happened; except about users who were declared offline when a link was lost. Later ones tell the
    /// differences.
    pub(crate) fn snapshot(
        &mut self,
        link: u64,
        connections: impl Iterator<Item = (u32, ClientType, UserStatType)>,
    ) -> Vec<Notice> {
        let announce = !self.known.insert(link);
        let had_pc = self.forget(link);
        for (user, client, status) in connections {
            if status != UserStatType::UserStatusOffline {
                self.add(link, user, client);
            }
        }
        let mut notices = Vec::new();
        for user in &had_pc {
            self.gone_offline(*user, &mut notices);
        }
        let here = self.users.iter().filter(|(_, entries)| entries.iter().any(|e| e.link == link && is_pc(e.client)));
        for (&user, entries) in here {
            let elsewhere = entries.iter().any(|e| e.link != link && is_pc(e.client));
            let back = self.told_offline.remove(&user);
            if back || (announce && !elsewhere && had_pc.binary_search(&user).is_err()) {
                notices.push(Notice::PcLogin { user, on: true });
                notices.push(Notice::Status { user, status: UserStatType::UserStatusOnline });
            }
        }
        notices
    }

    /// A msg server's link is lost: all its connections are gone.
    pub(crate) fn lose(&mut self, link: u64) -> Vec<Notice> {
        self.known.remove(&link);
        let mut notices = Vec::new();
        for user in self.forget(link) {
            if self.gone_offline(user, &mut notices) && self.told_offline.len() < MAX_TOLD_OFFLINE {
                self.told_offline.insert(user);
            }
        }
        notices
    }

    /// Says that a user who had a PC has none any more, if it is so.
    fn gone_offline(&self, user: u32, notices: &mut Vec<Notice>) -> bool {
        if self.has_pc(user) {
            return false;
        }
        if self.users.contains_key(&user) {
            notices.push(Notice::PcLogin { user, on: false });
        }
        notices.push(Notice::Status { user, status: UserStatType::UserStatusOffline });
        true
    }

    /// Removes a link's entries; returns the users who had a PC there, in order.
    fn forget(&mut self, link: u64) -> Vec<u32> {
        let mut had_pc = Vec::new();
        self.users.retain(|user, entries| {
            if entries.iter().any(|entry| entry.link == link && is_pc(entry.client)) {
                had_pc.push(*user);
            }
            entries.retain(|entry| entry.link != link);
            !entries.is_empty()
        });
        had_pc.sort_unstable();
        had_pc
    }

    fn add(&mut self, link: u64, user: u32, client: ClientType) {
        if self.users.len() >= self.max_users && !self.users.contains_key(&user) {
            self.left_out += 1;
            if self.left_out.is_power_of_two() {
                log::warn!("the presence table is full (max_users): {} entries left out so far", self.left_out);
            }
            return;
        }
        let entries = self.users.entry(user).or_default();
        match entries.iter_mut().find(|entry| entry.link == link && entry.client == client) {
            Some(entry) => entry.count = entry.count.saturating_add(1),
            None => entries.push(Entry { link, client, count: 1 }),
        }
    }

    fn subtract(&mut self, link: u64, user: u32, client: ClientType) {
        let Some(entries) = self.users.get_mut(&user) else { return };
        let Some(at) = entries.iter().position(|entry| entry.link == link && entry.client == client) else { return };
        entries[at].count -= 1;
        if entries[at].count == 0 {
            entries.swap_remove(at);
        }
        if entries.is_empty() {
            self.users.remove(&user);
        }
    }

    fn has_pc(&self, user: u32) -> bool {
        self.users.get(&user).is_some_and(|entries| entries.iter().any(|entry| is_pc(entry.client)))
    }
}

/// The class of a client is its high nibble: 0 is PC, 1 is mobile.
fn is_pc(client: ClientType) -> bool {
    client as i32 >> 4 == 0
}

#[cfg(test)]
mod tests;
