//! Who is here: what the login and route servers are told about it, and what route
//! tells us about users elsewhere (spec/flows.md §3.4).

use tt_proto::im::base_define::{ClientType, ServerUserStat, UserStatType};
use tt_proto::im::buddy::{ImUserStatNotify, ImpcLoginStatusNotify};
use tt_proto::im::server::{
    ImMsgServInfo, ImOnlineUserInfo, ImServerPcLoginStatusNotify, ImUserCntUpdate, ImUserStatusUpdate,
};
use tt_proto::pdu::encode;

use crate::state::{Class, Server};

/// Values of `IMUserCntUpdate.user_action`.
const COUNT_UP: u32 = 1;
const COUNT_DOWN: u32 = 2;

/// A connection has signed in. "Away" is told as online, as ever.
pub(crate) fn signed_in(server: &Server, user: u32, client_type: ClientType) {
    announce(server, user, client_type, COUNT_UP, UserStatType::UserStatusOnline);
}

/// A signed-in connection has closed.
pub(crate) fn signed_out(server: &Server, user: u32, client_type: ClientType) {
    announce(server, user, client_type, COUNT_DOWN, UserStatType::UserStatusOffline);
}

fn announce(server: &Server, user: u32, client_type: ClientType, action: u32, status: UserStatType) {
    // A link that is down gets the whole picture when it comes up.
    let count = encode(0, &ImUserCntUpdate { user_action: action, user_id: user });
    for link in &server.peers.login {
        let _ = link.send_frame(count.clone());
    }
    let update =
        encode(0, &ImUserStatusUpdate { user_status: status as u32, user_id: user, client_type: client_type.into() });
    for link in &server.peers.route {
        let _ = link.send_frame(update.clone());
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

/// Everybody who is signed in here, for a route server that has just come up.
pub(crate) fn snapshot(server: &Server) -> ImOnlineUserInfo {
    let user_stat_list = server.clients.all_devices().map(|(user_id, device)| ServerUserStat {
        user_id,
        status: UserStatType::UserStatusOnline.into(),
        client_type: device.client_type.into(),
    });
    ImOnlineUserInfo { user_stat_list: user_stat_list.collect() }
}

/// Somebody's PC came or went: every PC client is told.
pub(crate) fn status_changed(server: &mut Server, notice: ImUserStatNotify) {
    let pdu = encode(0, &notice);
    let all = server.clients.all_devices().map(|(_, device)| device);
    for device in all.filter(|device| !device.kicked && device.class() == Class::Pc) {
        device.send(&server.metrics, &pdu);
    }
}

/// A user's first PC came or the last one went: the user's phones are told.
pub(crate) fn pc_changed(server: &mut Server, notice: ImServerPcLoginStatusNotify) {
    let online = notice.login_status == 1;
    let status = if online { UserStatType::UserStatusOnline } else { UserStatType::UserStatusOffline };
    let pdu = encode(0, &ImpcLoginStatusNotify { user_id: notice.user_id, login_stat: status.into() });
    for device in server.clients.devices_mut(notice.user_id).filter(|device| device.class() == Class::Mobile) {
        device.send(&server.metrics, &pdu);
    }
}
