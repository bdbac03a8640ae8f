//! The port for msg servers (and for http-msg servers, which only send notices).

use bytes::Bytes;
use netlib::{CloseReason, Context};
use tt_common::{Link, LinkHandler, LinkRole};
use tt_proto::Command;
use tt_proto::im::base_define::{ClientType, UserStat, UserStatType};
use tt_proto::im::buddy::{ImUsersStatReq, ImUsersStatRsp};
use tt_proto::im::server::{ImOnlineUserInfo, ImRoleSet, ImUserStatusUpdate};
use tt_proto::pdu::PduRef;

use crate::server::{Peer, Route};

pub(crate) struct MsgLink;

/// Ids answered of one status query; the rest of a longer list is not.
const MAX_STATUS_IDS: usize = 5_000;

/// Passed on from one link to all others, byte for byte.
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
        route.peers.insert(link.id(), Peer { link: link.clone(), reports_presence: false });
    }

    fn on_pdu(&mut self, route: &mut Route, cx: &mut Context<Route>, link: &Link<Route>, pdu: PduRef<'_>) {
        let Ok(command) = Command::try_from(pdu.header.command) else { return link.ignore(cx, pdu) };
        let understood = match command {
            Command::UserStatusUpdate => status_update(route, link, pdu),
            Command::OnlineUserInfo => snapshot(route, link, pdu),
            Command::UsersStatReq => status_query(route, link, pdu),
            Command::RoleSet => role_set(link, pdu),
            Command::SignInfoChangedNotify => {
                // The sender too: its own clients learn of it in the same way as all others.
                route.broadcast(&pdu.to_bytes(), None);
                Some(())
            }
            relayed if RELAYED.contains(&relayed) => {
                route.broadcast(&pdu.to_bytes(), Some(link.id()));
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
fn status_update(route: &mut Route, link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let update: ImUserStatusUpdate = pdu.decode().ok()?;
    let client = ClientType::try_from(update.client_type).ok()?;
    let status = UserStatType::try_from(i32::try_from(update.user_status).ok()?).ok()?;
    route.reports_presence(link.id());
    let notices = route.presence.update(link.id(), update.user_id, client, status);
    route.tell(&notices);
    Some(())
}

/// 0x0708. An entry with a number that is no client type spoils the whole, as it does for a recorded server.
fn snapshot(route: &mut Route, link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let snapshot: ImOnlineUserInfo = pdu.decode().ok()?;
    let connections: Option<Vec<_>> = snapshot
        .user_stat_list
        .iter()
        .map(|entry| {
            let client = ClientType::try_from(entry.client_type).ok()?;
            Some((entry.user_id, client, UserStatType::try_from(entry.status).ok()?))
        })
        .collect();
    let connections = connections?;
    log::info!("{link} has {} connections", connections.len());
    route.reports_presence(link.id());
    let notices = route.presence.snapshot(link.id(), connections.into_iter());
    route.tell(&notices);
    Some(())
}

/// 0x020a: one entry per id, in the order asked.
fn status_query(route: &Route, link: &Link<Route>, pdu: PduRef<'_>) -> Option<()> {
    let query: ImUsersStatReq = pdu.decode().ok()?;
    let user_stat_list = query
        .user_id_list
        .iter()
        .take(MAX_STATUS_IDS)
        .map(|&user_id| UserStat { user_id, status: route.presence.status(user_id).into() })
        .collect();
    let answer = ImUsersStatRsp { user_id: query.user_id, user_stat_list, attach_data: query.attach_data };
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
    /// Sends one PDU to all msg servers but `except`. All of them share its bytes.
    ///
    /// A link that has never reported presence is no msg server (an http-msg server opens one only to send
    /// notices): it gets nothing.
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
    fn is_msg_server(&self) -> bool {
        self.reports_presence && self.link.peer_role() != Some(LinkRole::HttpMsg)
    }
}
