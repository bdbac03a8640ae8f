//! Who is online where: a table of counters per user, msg server link and client type, and what everybody has
//! to be told when it changes. Sans I/O: reports go in, notices come out.
//!
//! "Online" towards clients means "has a PC client": a user with nothing but a phone appears offline, and LEAVE
//! is passed on but never shown. Published clients rely on both (spec/flows.md §3.4, §3.6). Newer ones are told
//! the kinds of clients and whether their user is away (spec/gaps.md §5).
//!
//! The table is also the map by which PDUs find the servers that hold their addressee.

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
    /// Something changed that old clients are not shown: a phone, the second of two PCs, an absence.
    Detail {
        /// Whose.
        user: u32,
    },
}

/// What is reported of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) client: ClientType,
    pub(crate) status: UserStatType,
    /// Its user is away. Old msg servers say so in `status`.
    pub(crate) away: bool,
    /// When it signed in, Unix seconds; of old msg servers when it was heard of.
    pub(crate) since: u32,
}

/// Connections of one client type through one msg server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    link: u64,
    client: ClientType,
    count: u16,
    /// How many of them say that their user is away.
    away: u16,
    /// When the first of them signed in, Unix seconds.
    since: u32,
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
    /// Users of whom everybody was told that they changed because a link was lost. When a snapshot brings
    /// them back, everybody is told that too: a msg server that only lost its link has nothing to report.
    told_offline: HashSet<u32>,
}

/// A user of whom a link's entries were removed.
struct Forgotten {
    user: u32,
    had_pc: bool,
}

/// Users remembered in `told_offline`; beyond that, a lost link's users come back unannounced.
const MAX_TOLD_OFFLINE: usize = 100_000;

impl Presence {
    pub(crate) fn new(max_users: usize) -> Self {
        Self { users: HashMap::new(), max_users, left_out: 0, known: HashSet::new(), told_offline: HashSet::new() }
    }

    /// Entries not made for want of room, since the start.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Users with any connection.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// The status that clients are shown.
    pub(crate) fn status(&self, user: u32) -> UserStatType {
        if self.has_pc(user) { UserStatType::UserStatusOnline } else { UserStatType::UserStatusOffline }
    }

    /// The kinds of the user's clients, in ascending order, and whether all of them say that he is away.
    pub(crate) fn detail(&self, user: u32) -> (Vec<u32>, bool) {
        let Some(entries) = self.users.get(&user) else { return (Vec::new(), false) };
        let mut clients: Vec<u32> = entries.iter().map(|entry| entry.client as u32).collect();
        clients.sort_unstable();
        clients.dedup();
        (clients, entries.iter().all(|entry| entry.away >= entry.count))
    }

    /// The links behind which the user is, some of them perhaps twice.
    pub(crate) fn links_of(&self, user: u32) -> impl Iterator<Item = u64> {
        self.users.get(&user).map(Vec::as_slice).unwrap_or_default().iter().map(|entry| entry.link)
    }

    /// Where the user is: link, kind of client, and since when it has one of that kind, Unix seconds.
    pub(crate) fn routes(&self, user: u32) -> impl Iterator<Item = (u64, ClientType, u32)> {
        let entries = self.users.get(&user).map(Vec::as_slice).unwrap_or_default();
        entries.iter().map(|entry| (entry.link, entry.client, entry.since))
    }

    /// The links other than `link` behind which the user has a client of the same class.
    pub(crate) fn rivals(&self, link: u64, user: u32, client: ClientType) -> Vec<u64> {
        let entries = self.users.get(&user).map(Vec::as_slice).unwrap_or_default();
        let rivals = entries.iter().filter(|entry| entry.link != link && is_pc(entry.client) == is_pc(client));
        let mut links: Vec<u64> = rivals.map(|entry| entry.link).collect();
        links.sort_unstable();
        links.dedup();
        links
    }

    /// One connection signed in or out (0x070a).
    pub(crate) fn update(&mut self, link: u64, user: u32, report: Report) -> Vec<Notice> {
        let Report { client, status, .. } = report;
        let mut notices = Vec::new();
        if status == UserStatType::UserStatusOffline {
            let known = self.subtract(link, user, report);
            let pc_left = self.has_pc(user);
            if is_pc(client) && !pc_left {
                if self.users.contains_key(&user) {
                    notices.push(Notice::PcLogin { user, on: false });
                }
                notices.push(Notice::Status { user, status });
            } else if known {
                notices.push(Notice::Detail { user });
            }
        } else {
            self.add(link, user, report);
            self.told_offline.remove(&user);
            // Also when a phone comes and a PC is there already: the phone has to learn of it.
            if self.has_pc(user) {
                notices.push(Notice::PcLogin { user, on: true });
            }
            notices.push(if is_pc(client) { Notice::Status { user, status } } else { Notice::Detail { user } });
        }
        notices
    }

    /// Everything that a msg server has (0x0708). It replaces whatever was known from that link.
    ///
    /// The first one of a link tells nobody anything, because it only repeats what everybody was told when it
    /// happened; except about users who were declared offline when a link was lost. Later ones tell the
    /// differences.
    pub(crate) fn snapshot(&mut self, link: u64, connections: impl Iterator<Item = (u32, Report)>) -> Vec<Notice> {
        let announce = !self.known.insert(link);
        let before = self.forget(link);
        let mut here = HashSet::new();
        for (user, report) in connections {
            if report.status != UserStatType::UserStatusOffline {
                self.add(link, user, report);
                here.insert(user);
            }
        }
        let mut notices = Vec::new();
        for Forgotten { user, had_pc } in &before {
            if *had_pc {
                self.gone_offline(*user, &mut notices);
            } else if !here.contains(user) {
                notices.push(Notice::Detail { user: *user });
            }
        }
        for user in here {
            let back = self.told_offline.remove(&user);
            let was_here = before.binary_search_by_key(&user, |forgotten| forgotten.user).ok();
            let had_pc = was_here.is_some_and(|at| before[at].had_pc);
            let entries = self.users.get(&user).map(Vec::as_slice).unwrap_or_default();
            let pc_here = entries.iter().any(|entry| entry.link == link && is_pc(entry.client));
            let pc_elsewhere = entries.iter().any(|entry| entry.link != link && is_pc(entry.client));
            if pc_here && (back || (announce && !pc_elsewhere && !had_pc)) {
                notices.push(Notice::PcLogin { user, on: true });
                notices.push(Notice::Status { user, status: UserStatType::UserStatusOnline });
            } else if back || (announce && was_here.is_none()) {
                notices.push(Notice::Detail { user });
            }
        }
        notices
    }

    /// A msg server's link is lost: all its connections are gone.
    pub(crate) fn lose(&mut self, link: u64) -> Vec<Notice> {
        self.known.remove(&link);
        let mut notices = Vec::new();
        for Forgotten { user, had_pc } in self.forget(link) {
            if !(had_pc && self.gone_offline(user, &mut notices)) {
                notices.push(Notice::Detail { user });
            }
            if self.told_offline.len() < MAX_TOLD_OFFLINE {
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

    /// Removes a link's entries; returns the users who had any, in order.
    fn forget(&mut self, link: u64) -> Vec<Forgotten> {
        let mut forgotten = Vec::new();
        self.users.retain(|user, entries| {
            if entries.iter().any(|entry| entry.link == link) {
                let had_pc = entries.iter().any(|entry| entry.link == link && is_pc(entry.client));
                forgotten.push(Forgotten { user: *user, had_pc });
                entries.retain(|entry| entry.link != link);
            }
            !entries.is_empty()
        });
        forgotten.sort_unstable_by_key(|forgotten| forgotten.user);
        forgotten
    }

    fn add(&mut self, link: u64, user: u32, report: Report) {
        if self.users.len() >= self.max_users && !self.users.contains_key(&user) {
            self.left_out += 1;
            if self.left_out.is_power_of_two() {
                log::warn!("the presence table is full (max_users): {} entries left out so far", self.left_out);
            }
            return;
        }
        // Nearly everybody has one client: room for one, and more when they come.
        let entries = self.users.entry(user).or_insert_with(|| Vec::with_capacity(1));
        let away = u16::from(report.away);
        match entries.iter_mut().find(|entry| entry.link == link && entry.client == report.client) {
            Some(entry) => {
                entry.count = entry.count.saturating_add(1);
                entry.away = entry.away.saturating_add(away);
                entry.since = entry.since.min(report.since);
            }
            None => entries.push(Entry { link, client: report.client, count: 1, away, since: report.since }),
        }
    }

    /// False if there is no such connection.
    fn subtract(&mut self, link: u64, user: u32, report: Report) -> bool {
        let Some(entries) = self.users.get_mut(&user) else { return false };
        let found = entries.iter().position(|entry| entry.link == link && entry.client == report.client);
        let Some(at) = found else { return false };
        let entry = &mut entries[at];
        entry.count -= 1;
        entry.away = entry.away.saturating_sub(u16::from(report.away)).min(entry.count);
        if entry.count == 0 {
            entries.swap_remove(at);
        }
        if entries.is_empty() {
            self.users.remove(&user);
        }
        true
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
