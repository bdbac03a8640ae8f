//! The links to the login, route and db-proxy servers, and which of them a request
//! takes. The handlers of what comes back on them are in `links.rs`.

use tt_common::{Link, Links};

use crate::conversation::Conversation;
use crate::state::Server;

/// All links of a msg server.
#[derive(Default)]
pub(crate) struct Peers {
    pub(crate) login: Links<Server>,
    pub(crate) route: Links<Server>,
    pub(crate) db: DbLinks,
    /// The route link over which we reach the other msg servers.
    master: Option<Link<Server>>,
}

/// The db links in two halves by configured entry, so that sign-ins and first pulls
/// do not stand in line behind messages. Each half helps out when the other has no
/// link (spec/wire.md §6). With one entry everything is business.
#[derive(Default)]
pub(crate) struct DbLinks {
    pub(crate) login: Links<Server>,
    pub(crate) business: Links<Server>,
}

/// The links a request prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Login,
    Business,
}

impl DbLinks {
    pub(crate) fn is_open(&self) -> bool {
        self.login.usable() + self.business.usable() > 0
    }

    /// The link that `key` draws: the same one for the same key while it is usable.
    /// A random key draws a random link.
    pub(crate) fn choose(&self, half: Half, key: u64) -> Option<Link<Server>> {
        let (first, second) = match half {
            Half::Login => (&self.login, &self.business),
            Half::Business => (&self.business, &self.login),
        };
        first.choose(key).or_else(|| second.choose(key)).cloned()
    }

    /// The link of a conversation, among all of both halves: every msg server chooses the same db-proxy for it,
    /// however its own configuration lists them.
    pub(crate) fn of(&self, conversation: Conversation) -> Option<Link<Server>> {
        let key = conversation.key();
        let best = [&self.business, &self.login].into_iter().filter_map(|half| half.best(key));
        best.max_by_key(|(drawn, _)| *drawn).map(|(_, link)| link.clone())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link<Server>> {
        self.login.iter().chain(self.business.iter())
    }
}

impl Peers {
    /// The route server that relays for us.
    pub(crate) fn master(&self) -> Option<&Link<Server>> {
        self.master.as_ref().filter(|link| link.accepts_requests())
    }

    /// Whether that is the route server that relays for us.
    pub(crate) fn is_master(&self, link: &Link<Server>) -> bool {
        self.master().is_some_and(|master| master.id() == link.id())
    }

    /// Makes the route server to which we are connected longest the master, if there
    /// is none. Returns the new one, which is to be told (spec/flows.md §1.4).
    pub(crate) fn elect_master(&mut self) -> Option<Link<Server>> {
        if self.master().is_some() {
            return None;
        }
        self.master = self.route.eldest().cloned();
        self.master.clone()
    }

    /// All links of every kind.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link<Server>> {
        self.login.iter().chain(self.route.iter()).chain(self.db.iter())
    }
}
