//! A group message's way to the members who are here (spec/flows.md §6). All of them
//! get the same bytes.
//!
//! Who is in the group is asked of the store once per membership: the store says with
//! each message which version of it the message met, and a list of that version or a
//! later one is good. (A store that does not say is asked for each message, as the
//! recorded servers do.) While it is asked, the group's messages wait in their order.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use netlib::{Context, Token};
use tt_common::CallError;
use tt_proto::im::base_define::GroupVersionInfo;
use tt_proto::im::group::{ImGroupInfoListReq, ImGroupInfoListRsp};

use crate::conversation::Conversation;
use crate::recent::Generations;
use crate::state::{Device, Server};

/// Groups whose members are remembered; at most twice as many.
const GROUPS: usize = 1_000;
/// Messages of one group that may wait for its members.
const MAX_WAITING: usize = 1_024;
/// Bytes of messages that may wait, all groups together.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Questions about one group before its waiting messages are given up.
const MAX_ATTEMPTS: u32 = 10;
/// The time between two of them.
const RETRY: Duration = Duration::from_millis(500);

/// What goes to the members.
#[derive(Debug)]
pub(crate) struct Copy {
    /// The one PDU that all of them share.
    pub(crate) pdu: Bytes,
    /// The connection that sent it.
    pub(crate) except: Option<Token>,
    /// It was fetched from the store because its relay was lost.
    pub(crate) recovered: Option<Recovered>,
}

/// For whom a message is that comes late: who joined or signed in after it finds, or does not find, it in history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovered {
    pub(crate) msg_id: u32,
    /// Only for devices that had signed in by then, in Unix microseconds.
    pub(crate) signed_in_by: u64,
}

/// Members of the groups that were talked in.
#[derive(Debug)]
pub(crate) struct Groups {
    known: Generations<u32, Members>,
    /// Groups whose members are being asked for.
    waiting: HashMap<u32, Waiting>,
    waiting_bytes: usize,
}

#[derive(Clone, Debug)]
struct Members {
    /// 0: not known.
    version: u32,
    users: Rc<[u32]>,
    /// For each of them the message after which he joined; empty if the store does not say.
    joined_after: Rc<[u32]>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with the version that it met, if the store said so.
    copies: VecDeque<(Option<u32>, Copy)>,
    attempts: u32,
}

impl Groups {
    pub(crate) fn new() -> Self {
        Self { known: Generations::new(GROUPS), waiting: HashMap::new(), waiting_bytes: 0 }
    }

    fn known(&mut self, group: u32) -> &mut Members {
        self.known.entry(group, || Members { version: 0, users: Rc::default(), joined_after: Rc::default() })
    }

    /// Lets a copy wait. False if there is no room.
    fn wait(&mut self, group: u32, version: Option<u32>, copy: Copy) -> bool {
        let bytes = self.waiting_bytes + copy.pdu.len();
        let copies = &mut self.waiting.entry(group).or_default().copies;
        if copies.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            return false;
        }
        copies.push_back((version, copy));
        self.waiting_bytes = bytes;
        true
    }

    /// Lets copies that were taken out wait again.
    fn wait_on(&mut self, group: u32, copies: VecDeque<(Option<u32>, Copy)>, attempts: u32) {
        self.waiting_bytes += copies.iter().map(|(_, copy)| copy.pdu.len()).sum::<usize>();
        self.waiting.insert(group, Waiting { copies, attempts });
    }

    /// Takes out what a group's messages were waiting with.
    fn take(&mut self, group: u32) -> Waiting {
        let waiting = self.waiting.remove(&group).unwrap_or_default();
        self.waiting_bytes -= waiting.copies.iter().map(|(_, copy)| copy.pdu.len()).sum::<usize>();
        waiting
    }
}

/// Sends a message to all members who are here, now or as soon as it is known who they
/// are. `version` is that of the membership that it met.
pub(crate) fn deliver(server: &mut Server, cx: &mut Context<Server>, group: u32, version: Option<u32>, copy: Copy) {
    let is_asking = server.groups.waiting.contains_key(&group);
    let members = server.groups.known(group);
    if !is_asking && version.is_some_and(|version| version <= members.version) {
        let members = members.clone();
        send(server, &members, &copy);
        return;
    }
    if !server.groups.wait(group, version, copy) {
        give_up(server, cx, group, 1, "too many wait for its members");
    }
    if !is_asking {
        ask(server, cx, group);
    }
}

fn send(server: &mut Server, members: &Members, copy: &Copy) {
    for (place, &user) in members.users.iter().enumerate() {
        let joined_after = members.joined_after.get(place).copied().unwrap_or(0);
        if copy.recovered.is_some_and(|recovered| recovered.msg_id <= joined_after) {
            continue;
        }
        // They acknowledge no copies of group messages, so none is noted.
        let wanted = |device: &&mut Device| {
            Some(device.conn.id()) != copy.except
                && copy.recovered.is_none_or(|recovered| device.signed_in.at <= recovered.signed_in_by)
        };
        for device in server.clients.devices_mut(user).filter(wanted) {
            device.send(&server.metrics, &copy.pdu);
            server.metrics.copies.inc();
        }
    }
}

/// Asks for the members of a group. User 0 is this server itself.
fn ask(server: &mut Server, cx: &mut Context<Server>, group: u32) {
    let Some(link) = server.peers.db.of(Conversation::Group(group)) else {
        retry(server, cx, group, "no db link");
        return;
    };
    let question = ImGroupInfoListReq {
        user_id: 0,
        group_version_list: vec![GroupVersionInfo { group_id: group, version: 0 }],
        attach_data: None,
    };
    server.call(cx, &link, 0, question, move |server, cx, reply| answered(server, cx, group, reply));
}

fn answered(server: &mut Server, cx: &mut Context<Server>, group: u32, reply: Result<ImGroupInfoListRsp, CallError>) {
    let card = match reply {
        Ok(reply) => reply.group_info_list.into_iter().find(|card| card.group_id == group),
        Err(error) => return retry(server, cx, group, error.label()),
    };
    let waiting = server.groups.take(group);
    let Some(card) = card else {
        give_up(server, cx, group, waiting.copies.len(), "there is no such group");
        return;
    };
    let members =
        Members { version: card.version, users: card.group_member_list.into(), joined_after: card.joined_after.into() };
    *server.groups.known(group) = members.clone();
    let (mut copies, attempts) = (waiting.copies, waiting.attempts);
    while let Some((_, copy)) = copies.pop_front_if(|(version, _)| version.is_none_or(|met| met <= members.version)) {
        send(server, &members, &copy);
    }
    // These came while the store was asked, and met a later membership than that of its answer.
    if !copies.is_empty() {
        server.groups.wait_on(group, copies, attempts + 1);
        if attempts == 0 { ask(server, cx, group) } else { retry(server, cx, group, "the store has an old membership") }
    }
}

fn retry(server: &mut Server, cx: &mut Context<Server>, group: u32, why: &'static str) {
    let attempts = server.groups.waiting.get_mut(&group).map_or(MAX_ATTEMPTS, |waiting| {
        waiting.attempts += 1;
        waiting.attempts
    });
    if attempts < MAX_ATTEMPTS && !server.drain.is_on() {
        cx.after(RETRY, move |server: &mut Server, cx| ask(server, cx, group));
        return;
    }
    let waiting = server.groups.take(group);
    give_up(server, cx, group, waiting.copies.len(), why);
}

/// Members find what they did not get in history, and it counts as unread.
fn give_up(server: &mut Server, cx: &Context<Server>, group: u32, messages: usize, why: &'static str) {
    server.metrics.group_messages_missed.inc_by(messages as u64);
    if let Some(unsaid) = server.noise.allow(cx.now()) {
        log::warn!("{messages} messages of group {group} were not delivered: {why}{unsaid}");
    }
}
