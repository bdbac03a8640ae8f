//! Who is here: what the login and route servers are told about it, and what route
//! tells us about users elsewhere (spec/flows.md §3.4).

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use netlib::Context;
use tt_common::Link;
use tt_proto::im::base_define::{ClientType, ServerUserStat, UserStat, UserStatType};
use tt_proto::im::buddy::{ImUserStatNotify, ImpcLoginStatusNotify};
use tt_proto::im::server::{
    ImMsgServInfo, ImOnlineUserInfo, ImServerPcLoginStatusNotify, ImUserCntUpdate, ImUserStatusUpdate,
};
use tt_proto::pdu::encode;

use crate::member::Request;
use crate::state::{Class, Device, Server};

/// Values of `IMUserCntUpdate.user_action`.
const COUNT_UP: u32 = 1;
const COUNT_DOWN: u32 = 2;

/// What is remembered of presence between events.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// Changes that clients have yet to be told, in their order.
    gathered: Vec<UserStat>,
    /// The place of each user's latest one.
    latest: HashMap<u32, usize>,
    /// Whether the next write is set.
    due: bool,
    /// Users who came or went while no route server was up to be told.
    missed: HashSet<u32>,
    /// What the other route servers said in the last while. Every one of them says everything, and only the
    /// master's word counts; when it is lost, it may have died before it said what another has said already.
    others: VecDeque<(Instant, Change)>,
}

/// What a route server tells of a user.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// 0x0203, for everybody.
    Status(UserStat),
    /// 0x070e, for the user's phones.
    Pc(ImServerPcLoginStatusNotify),
}

/// Changes gathered at a time; then they go out early.
const MAX_GATHERED: usize = 32_768;
/// Users who came or went unreported; of more nobody is told.
const MAX_MISSED: usize = 100_000;
/// What other route servers said is kept for as long as a dead master may go unnoticed, and so many of it.
const MASTER_SILENCE: Duration = Duration::from_secs(35);
const MAX_OTHERS: usize = 32_768;

/// A connection has signed in. "Away" is told as online, as ever, and beside it.
pub(crate) fn signed_in(server: &mut Server, user: u32, device: &Device) {
    announce(server, user, device, COUNT_UP, UserStatType::UserStatusOnline);
}

/// A signed-in connection has closed.
pub(crate) fn signed_out(server: &mut Server, user: u32, device: &Device) {
    announce(server, user, device, COUNT_DOWN, UserStatType::UserStatusOffline);
}

fn announce(server: &mut Server, user: u32, device: &Device, action: u32, status: UserStatType) {
    // A link that is down gets the whole picture when it comes up.
    let count = encode(0, &ImUserCntUpdate { user_action: action, user_id: user });
    for link in &server.peers.login {
        let _ = link.send_frame(count.clone());
    }
    let update = encode(0, &status_update(user, device, status));
    let mut told = false;
    for link in &server.peers.route {
        told |= link.send_frame(update.clone()).is_ok();
    }
    let missed = &mut server.presence.missed;
    if !told && missed.len() < MAX_MISSED {
        missed.insert(user);
    }
}

fn status_update(user_id: u32, device: &Device, status: UserStatType) -> ImUserStatusUpdate {
    let here = status != UserStatType::UserStatusOffline;
    ImUserStatusUpdate {
        user_status: status as u32,
        user_id,
        client_type: device.client_type.into(),
        leave: device.away.then_some(true),
        signed_in_at: here.then_some(device.signed_in.at),
        sign_in_id: here.then_some(device.signed_in.id),
    }
}

/// What a login server must know to send clients here. A stopping server has room
/// for none.
pub(crate) fn server_info(server: &Server) -> ImMsgServInfo {
    let config = &server.config;
    let max = if server.drain.is_on() { 0 } else { config.max_connections };
    ImMsgServInfo {
        ip1: config.advertise.ip1.clone(),
        ip2: config.advertise.second().to_owned(),
        port: u32::from(config.advertise.port),
        max_conn_cnt: u32::try_from(max).unwrap_or(u32::MAX),
        cur_conn_cnt: u32::try_from(server.clients.connections()).unwrap_or(u32::MAX),
        host_name: config.server_id.clone(),
    }
}

/// Tells a route server that has just come up who is here: everybody at once, which tells nobody else
/// anything, and then, one by one, those of whose coming and going no route server has heard.
pub(crate) fn report_all(server: &mut Server, link: &Link<Server>) {
    let missed = std::mem::take(&mut server.presence.missed);
    let known = server.clients.all_devices().filter(|(user, _)| !missed.contains(user));
    let user_stat_list = known.map(|(user_id, device)| ServerUserStat {
        user_id,
        status: UserStatType::UserStatusOnline.into(),
        client_type: device.client_type.into(),
        leave: device.away.then_some(true),
        signed_in_at: Some(device.signed_in.at),
        sign_in_id: Some(device.signed_in.id),
    });
    // A link that fails now comes up again and gets all of it again.
    let _ = link.send(0, &ImOnlineUserInfo { user_stat_list: user_stat_list.collect() });
    for user in missed {
        let mut pc = false;
        for device in server.clients.devices_mut(user) {
            pc |= device.class() == Class::Pc;
            let _ = link.send(0, &status_update(user, device, UserStatType::UserStatusOnline));
        }
        if !pc {
            let gone = ImUserStatusUpdate {
                user_status: UserStatType::UserStatusOffline as u32,
                user_id: user,
                client_type: ClientType::ClientTypeWindows.into(),
                ..ImUserStatusUpdate::default()
            };
            let _ = link.send(0, &gone);
        }
    }
}

/// A route server tells of a change.
pub(crate) fn changed(server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, change: Change) {
    if server.peers.is_master(link) {
        apply(server, cx, change);
        return;
    }
    let (now, others) = (cx.now(), &mut server.presence.others);
    while others.front().is_some_and(|(at, _)| now.duration_since(*at) > MASTER_SILENCE) || others.len() >= MAX_OTHERS {
        others.pop_front();
    }
    others.push_back((now, change));
}

/// Another route server is the master now: what it and the rest said lately counts. Most of it is known
/// already, and saying the same once more changes nothing for a client.
pub(crate) fn take_over(server: &mut Server, cx: &mut Context<Server>) {
    let now = cx.now();
    let mut latest: HashMap<(u32, bool), Change> = HashMap::new();
    for (at, change) in std::mem::take(&mut server.presence.others) {
        if now.duration_since(at) <= MASTER_SILENCE {
            let key = match &change {
                Change::Status(stat) => (stat.user_id, true),
                Change::Pc(notice) => (notice.user_id, false),
            };
            latest.insert(key, change);
        }
    }
    for (_, change) in latest {
        apply(server, cx, change);
    }
}

fn apply(server: &mut Server, cx: &mut Context<Server>, change: Change) {
    match change {
        Change::Status(stat) => gather(server, cx, stat),
        Change::Pc(notice) => pc_changed(server, notice),
    }
}

/// Keeps a change for the next write. Telling everybody of each at once would cost a small write per change
/// and client.
fn gather(server: &mut Server, cx: &mut Context<Server>, stat: UserStat) {
    let presence = &mut server.presence;
    if let Some(last) = presence.latest.get(&stat.user_id).and_then(|at| presence.gathered.get_mut(*at))
        && (last.status, &last.client_types, last.leave) == (stat.status, &stat.client_types, stat.leave)
    {
        last.detail_only = last.detail_only.and(stat.detail_only);
        return;
    }
    server.metrics.presence_changes.inc();
    presence.latest.insert(stat.user_id, presence.gathered.len());
    presence.gathered.push(stat);
    if presence.gathered.len() >= MAX_GATHERED {
        tell(server);
    } else if !presence.due {
        presence.due = true;
        cx.after(server.config.timeouts.presence(), |server: &mut Server, _| {
            server.presence.due = false;
            tell(server);
        });
    }
}

/// One write for each client that has something to learn: every change for an old PC client; the latest of
/// each user that it has asked for, for a newer client.
fn tell(server: &mut Server) {
    let gathered = std::mem::take(&mut server.presence.gathered);
    let latest = std::mem::take(&mut server.presence.latest);
    let mut plain = BytesMut::new();
    let mut changes = 0;
    for stat in gathered.iter().filter(|stat| stat.detail_only != Some(true)) {
        let mut user_stat = stat.clone();
        shown(&mut user_stat, false);
        plain.extend_from_slice(&encode(0, &ImUserStatNotify { user_stat }));
        changes += 1;
    }
    let plain = plain.freeze();
    let mut detailed: Vec<(u32, Bytes)> = Vec::new();
    for (user, at) in latest {
        let mut user_stat = gathered[at].clone();
        shown(&mut user_stat, true);
        detailed.push((user, encode(0, &ImUserStatNotify { user_stat })));
    }
    detailed.sort_unstable_by_key(|(user, _)| *user);
    for (_, device) in server.clients.all_devices().filter(|(_, device)| !device.kicked) {
        if device.details {
            let mut notices = BytesMut::new();
            let mut count = 0;
            for (user, notice) in &detailed {
                if device.watched.binary_search(user).is_ok() {
                    notices.extend_from_slice(notice);
                    count += 1;
                }
            }
            if count > 0 {
                server.metrics.send_notices(&device.conn, notices.freeze(), count);
            }
        } else if device.class() == Class::Pc && changes > 0 {
            server.metrics.send_notices(&device.conn, plain.clone(), changes);
        }
    }
}

/// What a client may see of a status.
pub(crate) fn shown(stat: &mut UserStat, details: bool) {
    stat.detail_only = None;
    if !details {
        stat.client_types.clear();
        stat.leave = None;
    }
}

/// Notes whom the client asks about, if it is to be told of them from now on. Returns whether it is.
pub(crate) fn watch(request: &mut Request<'_>, users: &[u32]) -> bool {
    let (max, conn) = (request.server.config.limits.watched_users, request.conn.id());
    let mut devices = request.server.clients.devices_mut(request.member.user);
    let Some(device) = devices.find(|device| device.conn.id() == conn && device.details) else { return false };
    let mut new: Vec<u32> = users.to_vec();
    new.sort_unstable();
    new.dedup();
    new.retain(|user| device.watched.binary_search(user).is_err());
    let room = max.saturating_sub(device.watched.len()).min(new.len());
    let refused = new.len() - room;
    device.watched.extend_from_slice(&new[..room]);
    device.watched.sort_unstable();
    device.watched.shrink_to_fit();
    drop(devices);
    request.server.metrics.watches_refused.inc_by(refused as u64);
    true
}

/// A user's first PC came or the last one went: the user's phones are told.
fn pc_changed(server: &mut Server, notice: ImServerPcLoginStatusNotify) {
    let online = notice.login_status == 1;
    let status = if online { UserStatType::UserStatusOnline } else { UserStatType::UserStatusOffline };
    let pdu = encode(0, &ImpcLoginStatusNotify { user_id: notice.user_id, login_stat: status.into() });
    for device in server.clients.devices_mut(notice.user_id).filter(|device| device.class() == Class::Mobile) {
        device.send(&server.metrics, &pdu);
    }
}
