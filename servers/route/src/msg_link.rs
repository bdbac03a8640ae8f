//! The port for msg servers (and for http-msg servers, which only send notices).

use std::time::Duration;

use bytes::Bytes;
use netlib::{CloseReason, Context};
use tt_common::link::CAPABILITY_PRESENCE;
use tt_common::{Link, LinkHandler, LinkRole};
use tt_proto::Command;
use tt_proto::im::base_define::{ClientType, KickReasonType, UserStat, UserStatType};
use tt_proto::im::buddy::{ImUsersStatReq, ImUsersStatRsp};
use tt_proto::im::extension::{ImUserRouteReq, ImUserRouteRsp, UserRoute, UserRoutes};
use tt_proto::im::server::{ImOnlineUserInfo, ImRoleSet, ImServerKickUser, ImUserStatusUpdate};
use tt_proto::pdu::PduRef;

use crate::addressees::{self, Addressees};
use crate::presence::Report;
use crate::server::{Peer, Route};

pub(crate) struct MsgLink;

/// Ids answered of one status query; the rest of a longer list is not.
const MAX_STATUS_IDS: usize = 5_000;

/// Ids answered of one query for routes; the rest of a longer list is not. Each may take some hundred bytes.
const MAX_ROUTE_IDS: usize = 1_000;

/// Passed on, byte for byte, from one link to the others that they concern.
const RELAYED: [Command; 8] = [
    Command::MsgData,
    Command::MsgDataReadNotify,
    Command::RemoveSessionNotify,
    Command::GroupChangeMemberNotify,
    Command::FileNotify,
    Command::P2pCmdMsg,
    // Sent by no recorded server; the sender tells its own clients itself.
    Command::AvatarChangedNotify,
    Command::ServerKickUser,
];

impl LinkHandler<Route> for MsgLink {
    fn on_up(&mut self, route: &mut Route, _: &mut Context<Route>, link: &Link<Route>) {
        let details = link.peer().is_some_and(|peer| peer.capabilities & CAPABILITY_PRESENCE != 0);
        route.peers.insert(link.id(), Peer { link: link.clone(), reports_presence: false, details });
    }

    fn on_pdu(&mut self, route: &mut Route, cx: &mut Context<Route>, link: &Link<Route>, pdu: PduRef<'_>) {
        let Ok(command) = Command::try_from(pdu.header.command) else { return link.ignore(cx, pdu) };
        let understood = match command {
            Command::UserStatusUpdate => status_update(route, cx, link, pdu),
            Command::OnlineUserInfo => snapshot(route, cx, link, pdu),
            Command::UsersStatReq => status_query(route, link, pdu),
            // Who is where is nobody's business who is only believed for an address. Old servers do not ask.
            Command::UserRouteReq if link.is_proven() => route_query(route, link, pdu),
            Command::RoleSet => role_set(link, pdu),
            Command::SignInfoChangedNotify => {
                // The sender too: its own clients learn of it in the same way as all others.
                route.broadcast(&pdu.to_bytes(), None);
                Some(())
            }
            relayed if RELAYED.contains(&relayed) => {
                route.pass_on(cx, relayed, link, pdu);
                Some(())
            }
            _ => return link.ignore(cx, pdu),
        };
        if understood.is_none() {
            link.malformed(cx, pdu);
        }
    }

    fn on_down(&mut self, route: &mut Route, cx: &mut Context<Route>, link: &Link<Route>, _: &CloseReason) {
        route.peers.remove(&link.id());
        let notices = route.presence.lose(link.id());
        route.tell(&notices);
        route.stop_if_done(cx);
    }
}

/// 0x070a. None if it does not parse, here and below.
fn status_update(route: &mut Route, cx: &Context<Route>, link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let update: ImUserStatusUpdate = pdu.decode().ok()?;
    let client = ClientType::try_from(update.client_type).ok()?;
    let status = UserStatType::try_from(i32::try_from(update.user_status).ok()?).ok()?;
    route.reports_presence(link.id());
    let away = status == UserStatType::UserStatusLeave || update.leave();
    let since = since(cx, update.signed_in_at);
    let user = update.user_id;
    let is_here = route.presence.links_of(user).any(|found| found == link.id());
    let notices = route.presence.update(link.id(), user, Report { client, status, away, since });
    route.tell(&notices);
    if status != UserStatType::UserStatusOffline {
        if !is_here {
            route.send_after(link, user, update.signed_in_at);
        }
        route.part_rivals(link.id(), user, client, update.signed_in_at, update.sign_in_id);
    }
    Some(())
}

/// 0x0708. An entry with a number that is no client type spoils the whole, as it does for a recorded server.
fn snapshot(route: &mut Route, cx: &Context<Route>, link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let snapshot: ImOnlineUserInfo = pdu.decode().ok()?;
    let connections: Option<Vec<_>> = snapshot
        .user_stat_list
        .iter()
        .map(|entry| {
            let client = ClientType::try_from(entry.client_type).ok()?;
            let status = UserStatType::try_from(entry.status).ok()?;
            let away = status == UserStatType::UserStatusLeave || entry.leave();
            let since = since(cx, entry.signed_in_at);
            Some((entry.user_id, Report { client, status, away, since }))
        })
        .collect();
    let connections = connections?;
    log::info!("{link} has {} connections", connections.len());
    route.reports_presence(link.id());
    let notices = route.presence.snapshot(link.id(), connections.into_iter());
    route.tell(&notices);
    for entry in &snapshot.user_stat_list {
        if let Ok(client) = ClientType::try_from(entry.client_type)
            && entry.status != UserStatType::UserStatusOffline as i32
        {
            route.part_rivals(link.id(), entry.user_id, client, entry.signed_in_at, entry.sign_in_id);
        }
    }
    Some(())
}

/// 0x020a: one entry per id, in the order asked.
fn status_query(route: &Route, link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let query: ImUsersStatReq = pdu.decode().ok()?;
    let details = route.peers.get(&link.id()).is_some_and(|peer| peer.details);
    let user_stat_list = query
        .user_id_list
        .iter()
        .take(MAX_STATUS_IDS)
        .map(|&user_id| match route.presence.status(user_id) {
            status if details => route.detailed(user_id, status),
            status => UserStat { user_id, status: status.into(), ..UserStat::default() },
        })
        .collect();
    let answer = ImUsersStatRsp { user_id: query.user_id, user_stat_list, attach_data: query.attach_data };
    route.count_lost(link.send(pdu.header.seq, &answer));
    Some(())
}

/// When a connection signed in, Unix seconds: as its msg server says, in microseconds, else now.
fn since(cx: &Context<Route>, signed_in_at: Option<u64>) -> u32 {
    let at = signed_in_at.map_or_else(|| cx.unix_time(), Duration::from_micros);
    at.as_secs().try_into().unwrap_or(u32::MAX)
}

/// 0x0780: one entry per id, in the order asked.
fn route_query(route: &Route, link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let query: ImUserRouteReq = pdu.decode().ok()?;
    let routes = |user| {
        let found = route.presence.routes(user).filter_map(|(link, client, since)| {
            let server_id = route.peers.get(&link)?.link.peer().map_or_else(String::new, |peer| peer.server_id.clone());
            Some(UserRoute { server_id: Some(server_id), client_type: Some(client as u32), since: Some(since) })
        });
        UserRoutes { user_id: Some(user), routes: found.collect() }
    };
    let user_list = query.user_id_list.into_iter().take(MAX_ROUTE_IDS).map(routes).collect();
    let answer = ImUserRouteRsp { user_list, attach_data: query.attach_data };
    route.count_lost(link.send(pdu.header.seq, &answer));
    Some(())
}

/// 0x0707: whether this is the msg server's first choice. The operator is told; nothing depends on it.
fn role_set(link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let role: ImRoleSet = pdu.decode().ok()?;
    log::info!("{link} has this server as its {}", if role.master == 0 { "secondary" } else { "primary" });
    Some(())
}

impl Route {
    /// Passes a PDU on, and remembers a message for somebody who is signing in at this moment.
    fn pass_on(&mut self, cx: &Context<Self>, command: Command, link: &Link<Self>, pdu: PduRef<'_>) {
        let (addressees, frame) = (addressees::of(command, pdu), pdu.to_bytes());
        let had = self.send_to(&addressees, &frame, Some(link.id()));
        if command == Command::MsgData
            && let Addressees::Users(users) = addressees
            && let Ok(users) = <[u32; 2]>::try_from(users)
            && let Some(mut links) = had
        {
            links.push(link.id());
            self.passing.note(cx.unix_time(), users, links, frame);
        }
    }

    /// A user has come to a msg server at which he was not: it gets what passed him by since he signed in, in
    /// Unix microseconds. An old msg server does not say when that was.
    fn send_after(&mut self, link: &Link<Self>, user: u32, signed_in_at: Option<u64>) {
        let Some(at) = signed_in_at else { return };
        for frame in self.passing.since(Duration::from_micros(at), user, link.id()) {
            self.sent_after.inc();
            self.count_lost(link.send_frame(frame));
        }
    }

    /// A user has one client of each class: whoever else has one of this class is told when the newest signed
    /// in, and the older one goes (spec/flows.md §3.2). The msg server asks for the same over its own route
    /// server; this catches what two sign-ins at once, or a link that was down, let through. An old msg server
    /// does not say when, so nothing can be decided here.
    fn part_rivals(&self, link: u64, user: u32, client: ClientType, at: Option<u64>, id: Option<u64>) {
        if at.is_none() {
            return;
        }
        let kick = ImServerKickUser {
            user_id: user,
            client_type: client.into(),
            reason: KickReasonType::KickReasonDuplicateUser as u32,
            signed_in_at: at,
            sign_in_id: id,
        };
        for rival in self.presence.rivals(link, user, client) {
            if let Some(peer) = self.peers.get(&rival) {
                self.count_lost(peer.link.send(0, &kick));
            }
        }
    }

    /// Sends one PDU to all msg servers but `except`.
    pub(crate) fn broadcast(&self, frame: &Bytes, except: Option<u64>) {
        for (id, peer) in &self.peers {
            if Some(*id) != except && peer.is_msg_server() {
                self.count_lost(peer.link.send_frame(frame.clone()));
            }
        }
    }

    fn reports_presence(&mut self, link: u64) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.reports_presence = true;
        }
    }
}

impl Peer {
    pub(crate) fn is_msg_server(&self) -> bool {
        self.reports_presence && self.link.peer_role() != Some(LinkRole::HttpMsg)
    }
}
