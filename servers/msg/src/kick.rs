//! Kicks: a user has one connection of each class, and a phone may send the user's
//! PC away. A kicked client is told, may still beat and log out, and is closed after
//! a grace time (spec/flows.md §3.2).

use bytes::Bytes;
use netlib::{CloseReason, Conn, Context, FrameHandler, TimerId};
use tt_proto::Command;
use tt_proto::im::base_define::{ClientType, KickReasonType};
use tt_proto::im::login::{ImKickPcClientReq, ImKickPcClientRsp, ImKickUser, ImLogoutRsp};
use tt_proto::im::server::ImServerKickUser;
use tt_proto::pdu::encode;

use crate::member::{self, Request};
use crate::state::{Class, Server};

/// Whom to send away, and why.
pub(crate) struct Kick {
    pub(crate) user: u32,
    pub(crate) class: Class,
    pub(crate) reason: KickReasonType,
}

impl Kick {
    /// Another msg server asks for it.
    pub(crate) fn from_server(request: &ImServerKickUser) -> Self {
        let reason = i32::try_from(request.reason).ok().and_then(|reason| reason.try_into().ok());
        Self {
            user: request.user_id,
            class: Class::of_number(request.client_type),
            reason: reason.unwrap_or(KickReasonType::KickReasonDuplicateUser),
        }
    }

    /// Kicks all matching connections on this server.
    pub(crate) fn here(&self, server: &mut Server, cx: &mut Context<Server>) {
        let notice: Bytes = encode(0, &ImKickUser { user_id: self.user, kick_reason: self.reason.into() });
        let grace = server.config.timeouts.kick_grace();
        for device in server.clients.devices_mut(self.user).filter(|device| device.class() == self.class) {
            device.send(&server.metrics, &notice);
            device.kicked = true;
            // A connection that was over its rate must be able to log out.
            device.conn.resume();
            let closing = cx.conn_timer(&device.conn, grace);
            let handler = Kicked { user: self.user, client_type: device.client_type, closing };
            cx.replace_handler(&device.conn, member::framed(handler));
            server.metrics.kicked.inc();
            log::debug!("user {} kicked at {}: {:?}", self.user, device.conn.peer_addr(), self.reason);
        }
    }

    /// Asks the other msg servers to do the same.
    pub(crate) fn elsewhere(&self, server: &mut Server, client_type: ClientType) {
        let notice =
            ImServerKickUser { user_id: self.user, client_type: client_type.into(), reason: self.reason as u32 };
        server.relay(&encode(0, &notice));
    }
}

/// A phone sends the user's PC away. The recorded server reports success whether or
/// not there was one.
pub(crate) fn kick_pc(request: &mut Request<'_>) {
    if request.body::<ImKickPcClientReq>().is_none() || request.member.class() != Class::Mobile {
        return;
    }
    let user = request.member.user;
    let kick = Kick { user, class: Class::Pc, reason: KickReasonType::KickReasonMobileKick };
    kick.here(request.server, request.cx);
    kick.elsewhere(request.server, ClientType::ClientTypeMac);
    request.reply(&ImKickPcClientRsp { user_id: user, result_code: 0 });
}

/// A client that was told to leave.
struct Kicked {
    user: u32,
    client_type: ClientType,
    closing: TimerId,
}

impl FrameHandler<Server> for Kicked {
    fn on_frame(&mut self, server: &mut Server, _: &mut Context<Server>, conn: &Conn, frame: &[u8]) {
        let Some(pdu) = member::parse(server, conn, frame) else { return };
        match Command::try_from(pdu.header.command) {
            Ok(Command::HeartBeat) => member::echo(server, conn, frame),
            Ok(Command::LogoutReq) => {
                member::reply(server, conn, pdu.header.seq, &ImLogoutRsp { result_code: 0 });
                conn.close();
            }
            _ => conn.close_with(CloseReason::Refused("command after a kick")),
        }
    }

    fn on_timer(&mut self, _: &mut Server, _: &mut Context<Server>, conn: &Conn, timer: TimerId) {
        // The member's own timer may still come.
        if timer == self.closing {
            conn.close_with(CloseReason::Refused("kicked"));
        }
    }

    fn on_close(&mut self, server: &mut Server, cx: &mut Context<Server>, conn: &Conn, reason: &CloseReason) {
        member::leave(server, cx, conn, self.user, self.client_type, reason);
    }
}
