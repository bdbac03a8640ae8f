//! The links to the login, route and db-proxy servers, and which of them a request
//! takes. The handlers of what comes back on them are in `links.rs`.

use std::collections::VecDeque;

use bytes::Bytes;
use tt_common::{Link, Links};
use tt_proto::Command;
use tt_proto::pdu::PduRef;

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
    /// Messages that went out over it lately.
    pub(crate) relayed: Relayed,
}

/// The messages that were relayed last, for the case that the master had some of them when it died.
#[derive(Debug, Default)]
pub(crate) struct Relayed {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

/// What is kept of them: as much as may be on the way.
const MAX_RELAYED: usize = 2_048;
const MAX_RELAYED_BYTES: usize = 4 << 20;

impl Relayed {
    /// Notes what is relayed, if it is a message: of everything else a client learns in other ways.
    pub(crate) fn note(&mut self, pdu: &Bytes) {
        if PduRef::parse(pdu).map(|pdu| pdu.header.command) != Ok(Command::MsgData.id()) {
            return;
        }
        self.bytes += pdu.len();
        self.frames.push_back(pdu.clone());
        while self.frames.len() > MAX_RELAYED || self.bytes > MAX_RELAYED_BYTES {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// In the order in which they went out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter()
    }
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
