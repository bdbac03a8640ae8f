//! Every online device gets every message (G4), also when a relay between servers loses some: a link to a route
//! server that breaks takes with it what was on its way.
//!
//! Ids of a conversation have no holes, so a message that arrives with ids missing before it tells that they are
//! on their way or lost. It waits a moment; what has not come by then is fetched from the store, and all of it
//! is delivered in the order of the ids. What is lost at the end of a conversation shows in nothing that comes
//! later, so after a route link has returned, the recent sessions of everybody here are looked through.
//!
//! A server that remembers nothing of a conversation, because it has just started, cannot tell from an id
//! whether the ones before it came when somebody else served its users, or are on their way still. It asks for the last
//! of them too, and goes on back for as long as what it finds is younger than a device here: what was sent after a
//! device signed in has passed it by.
//!
//! What is fetched goes only to devices that were signed in when it was sent: the others find it in their unread
//! counts and history.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use netlib::Context;
use tt_common::{CallError, Link};
use tt_proto::im::base_define::{ContactSessionInfo, SessionType};
use tt_proto::im::buddy::{ImRecentContactSessionReq, ImRecentContactSessionRsp, ImUsersStatReq, ImUsersStatRsp};
use tt_proto::im::message::{ImGetMsgByIdReq, ImGetMsgByIdRsp, ImMsgData};

use crate::conversation::Conversation;
use crate::member;
use crate::message;
use crate::peers::Half;
use crate::state::Server;

/// Delivers a message that waited.
type Deliver = Box<dyn FnOnce(&mut Server, &mut Context<Server>)>;

/// Goes on with what was fetched.
type Fetched = Box<dyn FnOnce(&mut Server, &mut Context<Server>, Vec<ImMsgData>)>;

/// What is missing and who waits for it.
#[derive(Default)]
pub(crate) struct CatchUp {
    holds: HashMap<Conversation, Hold>,
    /// By route link: since when messages may have been lost with it, in Unix seconds.
    owed: HashMap<u64, u32>,
    /// Route links that have been up.
    met: HashSet<u64>,
    /// Users whose recent sessions are to be looked through, from when on.
    users: VecDeque<u32>,
    since: u32,
    /// How many are being looked through.
    asking: usize,
}

/// A conversation in which ids are missing.
struct Hold {
    place: Place,
    /// Among them may be ids before the first one of a conversation of which nothing was remembered: on their
    /// way, or delivered long ago.
    missing: BTreeSet<u32>,
    waiting: BTreeMap<u32, Deliver>,
    /// The lowest id that was asked for, while it is not known whether older ones are missing too. Until then
    /// nothing is delivered.
    looking_back: Option<u32>,
    /// When the oldest message that was seen was made, in Unix seconds.
    oldest: u32,
}

/// Where a conversation's messages are asked for.
#[derive(Clone, Copy)]
struct Place {
    user: u32,
    session: u32,
    kind: SessionType,
}

/// Ids before the first one that are looked for where nothing is remembered; more, if all of them are new.
const MAX_BEFORE: u32 = 16;
/// What is older, in seconds, has not passed anybody by: a route server knows within a moment who has signed in, and
/// what a lost link took with it is looked for when it is back.
const FRESH: u32 = 60;
/// How long a missing message may still come by itself: two servers that store messages of one conversation at
/// the same moment relay them in any order.
const GRACE: Duration = Duration::from_millis(30);
/// Ids that are fetched at a time; older ones are left to history.
const MAX_FETCH: usize = 100;
/// Messages that wait in one conversation, and conversations that wait; more do not.
const MAX_WAITING: usize = 1_024;
const MAX_HOLDS: usize = 10_000;
/// The newest messages that are looked at in a conversation of which nothing is remembered.
const MAX_UNKNOWN: u32 = 20;
/// Users looked through at a time.
const MAX_ASKING: usize = 16;
/// How long a broken link may have gone unnoticed, and how far clocks may differ, in seconds.
const UNNOTICED: u32 = 35;
/// What is not answered is asked again, so often and after so long: another db-proxy may have to take over.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_secs(1);

impl CatchUp {
    /// Whether messages of a conversation wait for others.
    pub(crate) fn holds(&self, conversation: Conversation) -> bool {
        self.holds.contains_key(&conversation)
    }
}

/// Delivers a message when those with lower ids are delivered. `gap`: the ids before it that have not been here;
/// `first`: nothing is remembered of the conversation.
pub(crate) fn in_order(
    server: &mut Server,
    cx: &mut Context<Server>,
    conversation: Conversation,
    message: &ImMsgData,
    gap: Range<u32>,
    first: bool,
    deliver: impl FnOnce(&mut Server, &mut Context<Server>) + 'static,
) {
    let id = message.msg_id;
    let before = if first { id.saturating_sub(MAX_BEFORE).max(1)..id } else { id..id };
    let holds = &mut server.catch_up.holds;
    if !holds.contains_key(&conversation) {
        if (gap.is_empty() && before.is_empty()) || holds.len() >= MAX_HOLDS {
            deliver(server, cx);
            return;
        }
        let kind = match conversation {
            Conversation::Single(..) => SessionType::SessionTypeSingle,
            Conversation::Group(_) => SessionType::SessionTypeGroup,
        };
        let place = Place { user: message.from_user_id, session: message.to_session_id, kind };
        server.delivered.expect(conversation, before.clone());
        let hold = Hold {
            place,
            looking_back: first.then_some(before.start),
            oldest: message.create_time,
            missing: before.collect(),
            waiting: BTreeMap::new(),
        };
        holds.insert(conversation, hold);
        if !gap.is_empty() {
            server.metrics.gaps.inc();
        }
        cx.after(GRACE, move |server: &mut Server, cx| fill(server, cx, conversation));
    }
    let Some(hold) = holds.get_mut(&conversation) else { return };
    hold.missing.remove(&id);
    hold.oldest = hold.oldest.min(message.create_time);
    hold.missing.extend(gap.rev().take(MAX_FETCH));
    hold.waiting.insert(id, Box::new(deliver));
    if hold.waiting.len() > MAX_WAITING {
        hold.missing.clear();
        hold.looking_back = None;
    }
    release(server, cx, conversation);
}

/// Delivers what no longer waits for anything.
fn release(server: &mut Server, cx: &mut Context<Server>, conversation: Conversation) {
    while let Some(hold) = server.catch_up.holds.get_mut(&conversation) {
        if hold.looking_back.is_some() {
            return;
        }
        let Some(entry) = hold.waiting.first_entry() else {
            server.catch_up.holds.remove(&conversation);
            return;
        };
        if hold.missing.first().is_some_and(|missing| missing < entry.key()) {
            return;
        }
        let deliver = entry.remove();
        deliver(server, cx);
    }
}

/// Fetches what has not come by itself.
fn fill(server: &mut Server, cx: &mut Context<Server>, conversation: Conversation) {
    let Some(hold) = server.catch_up.holds.get_mut(&conversation) else { return };
    if hold.missing.is_empty() && hold.looking_back.is_none() {
        release(server, cx, conversation);
        return;
    }
    let ids: Vec<u32> = hold.missing.iter().rev().take(MAX_FETCH).copied().collect();
    let place = hold.place;
    fetch(server, cx, conversation, place, ids.clone(), TRIES, move |server, cx, found| {
        let nothing = found.is_empty() && !ids.is_empty();
        for message in found {
            let Some(hold) = server.catch_up.holds.get_mut(&conversation) else { break };
            let id = message.msg_id;
            hold.oldest = hold.oldest.min(message.create_time);
            if hold.missing.contains(&id) {
                server.delivered.insert(conversation, id);
                let deliver = move |server: &mut Server, cx: &mut Context<Server>| recovered(server, cx, message);
                hold.waiting.insert(id, Box::new(deliver));
            }
        }
        look_further_back(server, cx, conversation, nothing);
        // What the store does not have will never come. What turned out to be missing while it was asked is
        // asked for next.
        if let Some(hold) = server.catch_up.holds.get_mut(&conversation) {
            for id in &ids {
                hold.missing.remove(id);
            }
        }
        release(server, cx, conversation);
        if server.catch_up.holds(conversation) {
            cx.after(GRACE, move |server: &mut Server, cx| fill(server, cx, conversation));
        }
    });
}

/// Asks for older messages too, if all that were seen are younger than a device here. `nothing`: the store had none of
/// those that it was asked for.
fn look_further_back(server: &mut Server, cx: &Context<Server>, conversation: Conversation, nothing: bool) {
    let Some(hold) = server.catch_up.holds.get_mut(&conversation) else { return };
    let Some(reached) = hold.looking_back else { return };
    let fresh = hold.oldest >= member::unix_seconds(cx).saturating_sub(FRESH);
    let first_sign_in = || server.clients.all_devices().map(|(_, device)| device.signed_in.at).min();
    let passed_by = reached > 1
        && fresh
        && !nothing
        && first_sign_in().is_some_and(|at| u64::from(hold.oldest) + 1 > at / 1_000_000);
    hold.looking_back = (passed_by && hold.waiting.len() < MAX_WAITING).then(|| {
        let next = reached.saturating_sub(MAX_FETCH as u32).max(1);
        hold.missing.extend(next..reached);
        next
    });
}

/// Asks the store for messages; `then` gets those there are, by id, and none if it does not answer.
fn fetch(
    server: &mut Server,
    cx: &mut Context<Server>,
    conversation: Conversation,
    place: Place,
    ids: Vec<u32>,
    tries: u32,
    then: impl FnOnce(&mut Server, &mut Context<Server>, Vec<ImMsgData>) + 'static,
) {
    let again = move |server: &mut Server, cx: &mut Context<Server>, ids: Vec<u32>, then: Fetched| {
        if tries == 0 {
            server.metrics.gaps_unfilled.inc_by(ids.len() as u64);
            if let Some(unsaid) = server.noise.allow(cx.now()) {
                log::warn!("{} lost messages of {conversation:?} could not be fetched{unsaid}", ids.len());
            }
            then(server, cx, Vec::new());
        } else {
            cx.after(AGAIN, move |server: &mut Server, cx| {
                fetch(server, cx, conversation, place, ids, tries - 1, then);
            });
        }
    };
    let then: Fetched = Box::new(then);
    if ids.is_empty() {
        then(server, cx, Vec::new());
        return;
    }
    let Some(link) = server.peers.db.of(conversation) else {
        again(server, cx, ids, then);
        return;
    };
    let query = ImGetMsgByIdReq {
        user_id: place.user,
        session_type: place.kind.into(),
        session_id: place.session,
        msg_id_list: ids.clone(),
        attach_data: None,
    };
    server.call(cx, &link, 0, query, move |server, cx, reply: Result<ImGetMsgByIdRsp, CallError>| match reply {
        Ok(reply) => {
            let peer = |from: u32| if from == place.user { place.session } else { place.user };
            let mut found: Vec<ImMsgData> = reply
                .msg_list
                .into_iter()
                .map(|info| ImMsgData {
                    from_user_id: info.from_session_id,
                    to_session_id: match place.kind {
                        SessionType::SessionTypeSingle => peer(info.from_session_id),
                        SessionType::SessionTypeGroup => place.session,
                    },
                    msg_id: info.msg_id,
                    create_time: info.create_time,
                    msg_type: info.msg_type,
                    msg_data: info.msg_data,
                    ..ImMsgData::default()
                })
                .collect();
            found.sort_unstable_by_key(|message| message.msg_id);
            // The answer begins at the newest and ends before it outgrows a frame, which a few
            // recordings fill: what is older than all of it is asked for again.
            let oldest = found.first().map_or(0, |message| message.msg_id);
            let rest: Vec<u32> = ids.into_iter().filter(|id| *id < oldest).collect();
            let all: Fetched = Box::new(move |server, cx, mut older| {
                older.extend(found);
                then(server, cx, older);
            });
            fetch(server, cx, conversation, place, rest, tries, all);
        }
        Err(_) => again(server, cx, ids, then),
    });
}

fn recovered(server: &mut Server, cx: &mut Context<Server>, message: ImMsgData) {
    server.metrics.recovered.inc();
    message::deliver_recovered(server, cx, message);
}

/// A link to a route server is gone.
pub(crate) fn route_lost(server: &mut Server, cx: &Context<Server>, link: &Link<Server>) {
    let since = member::unix_seconds(cx).saturating_sub(UNNOTICED);
    server.catch_up.owed.entry(link.id()).or_insert(since);
}

/// A link to a route server is there; it has been told who is here. If it was there before, what was lost with
/// it is looked for once the route server has taken note of that: from then on nothing passes us by. The same if
/// it is there for the first time and finds users here: other servers may have relayed through it before.
pub(crate) fn route_returned(server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>) {
    let id = link.id();
    let oldest = server.clients.all_devices().map(|(_, device)| device.signed_in.at).min();
    if server.catch_up.met.insert(id)
        && let Some(oldest) = oldest
    {
        server.catch_up.owed.entry(id).or_insert((oldest / 1_000_000) as u32);
    }
    if !server.catch_up.owed.contains_key(&id) {
        return;
    }
    let fence = ImUsersStatReq::default();
    server.call(cx, link, 0, fence, move |server, cx, reply: Result<ImUsersStatRsp, CallError>| {
        // Without an answer the link is lost once more, or will be.
        if reply.is_ok()
            && let Some(since) = server.catch_up.owed.remove(&id)
        {
            look_through(server, cx, since);
        }
    });
}

/// Looks through the recent sessions of everybody here.
fn look_through(server: &mut Server, cx: &mut Context<Server>, since: u32) {
    let users: HashSet<u32> = server.clients.all_devices().map(|(user, _)| user).collect();
    let catch_up = &mut server.catch_up;
    let idle = catch_up.users.is_empty() && catch_up.asking == 0;
    catch_up.since = if idle { since } else { since.min(catch_up.since) };
    catch_up.users = users.into_iter().collect();
    log::info!("looking for messages of {} users that a lost route link may have had", catch_up.users.len());
    next(server, cx);
}

fn next(server: &mut Server, cx: &mut Context<Server>) {
    while server.catch_up.asking < MAX_ASKING
        && let Some(user) = server.catch_up.users.pop_front()
    {
        server.catch_up.asking += 1;
        recent(server, cx, user, TRIES);
    }
}

fn recent(server: &mut Server, cx: &mut Context<Server>, user: u32, tries: u32) {
    let since = server.catch_up.since;
    let done = |server: &mut Server, cx: &mut Context<Server>| {
        server.catch_up.asking -= 1;
        next(server, cx);
    };
    let again = move |server: &mut Server, cx: &mut Context<Server>| {
        if tries == 0 {
            server.metrics.gaps_unfilled.inc();
            done(server, cx);
        } else {
            cx.after(AGAIN, move |server: &mut Server, cx| recent(server, cx, user, tries - 1));
        }
    };
    let Some(link) = server.peers.db.choose(Half::Login, u64::from(user)) else { return again(server, cx) };
    let latest_update_time = since.saturating_sub(1);
    let query = ImRecentContactSessionReq { user_id: user, latest_update_time, attach_data: None };
    server.call(
        cx,
        &link,
        0,
        query,
        move |server, cx, reply: Result<ImRecentContactSessionRsp, CallError>| match reply {
            Ok(reply) => {
                for session in &reply.contact_session_list {
                    look_at(server, cx, user, session, since);
                }
                done(server, cx);
            }
            Err(_) => again(server, cx),
        },
    );
}

/// Fetches what is newer in a session than anything that has been here.
fn look_at(server: &mut Server, cx: &mut Context<Server>, user: u32, session: &ContactSessionInfo, since: u32) {
    let Ok(kind) = SessionType::try_from(session.session_type) else { return };
    let conversation = Conversation::of_session(user, kind, session.session_id);
    let (known, latest) = (server.delivered.newest(conversation), session.latest_msg_id);
    let first = match known {
        Some(newest) if newest >= latest => return,
        Some(newest) => (newest + 1).max(latest.saturating_sub(MAX_FETCH as u32 - 1)),
        None => latest.saturating_sub(MAX_UNKNOWN - 1).max(1),
    };
    let place = Place { user, session: session.session_id, kind };
    let ids = (first..=latest).collect();
    fetch(server, cx, conversation, place, ids, TRIES, move |server, cx, found| {
        for message in found {
            let id = message.msg_id;
            let recent = known.is_some() || message.create_time >= since;
            if !recent || !server.delivered.insert(conversation, id) {
                continue;
            }
            match server.catch_up.holds.get_mut(&conversation) {
                // It came up while the store was asked: nothing overtakes what waits there.
                Some(hold) => {
                    hold.missing.remove(&id);
                    let deliver = move |server: &mut Server, cx: &mut Context<Server>| recovered(server, cx, message);
                    hold.waiting.insert(id, Box::new(deliver));
                    release(server, cx, conversation);
                }
                None => recovered(server, cx, message),
            }
        }
    });
}

impl std::fmt::Debug for CatchUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatchUp").field("holds", &self.holds.len()).finish_non_exhaustive()
    }
}
