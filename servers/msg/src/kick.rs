//! Kicks: a user has one connection of each class, and a phone may send the user's
//! PC away. A kicked client is told, may still beat and log out, and is closed after
//! a grace time (spec/flows.md §3.2).
//!
//! Two sign-ins of one class at once on two servers must leave exactly one, so a kick says when the connection
//! signed in that takes the others' place, and only older ones go. Clocks differ: a kick that looks older than
//! a connection here that has just signed in is answered with that one's own, so that its origin goes; one that
//! looks older than a connection that has been here for a while comes from a clock that is behind, and counts.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use netlib::{CloseReason, Conn, Context, FrameHandler, TimerId};
use tt_proto::Command;
use tt_proto::im::base_define::{ClientType, KickReasonType};
use tt_proto::im::login::{ImKickPcClientReq, ImKickPcClientRsp, ImKickUser, ImLogoutRsp};
use tt_proto::im::server::ImServerKickUser;
use tt_proto::pdu::encode;

use crate::account;
use crate::member::{self, Request};
use crate::state::{Class, Server};

/// Whom to send away, and why.
pub(crate) struct Kick {
    pub(crate) user: u32,
    pub(crate) class: Class,
    pub(crate) reason: KickReasonType,
    /// The sign-in that takes the others' place; None: whoever is there goes.
    pub(crate) newest: Option<SignIn>,
}

/// The moment of a sign-in, to be compared across servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SignIn {
    /// Microseconds of Unix time.
    pub(crate) at: u64,
    /// A random number: decides between two of the same moment.
    pub(crate) id: u64,
}

/// Two sign-ins further apart than this were not at once: a link that delays a kick for longer is dead.
const AT_ONCE: Duration = Duration::from_secs(30);

impl SignIn {
    /// Now.
    pub(crate) fn now(cx: &mut Context<Server>) -> Self {
        Self { at: u64::try_from(cx.unix_time().as_micros()).unwrap_or(u64::MAX), id: cx.random() }
    }
}

impl Kick {
    /// Another msg server asks for it.
    pub(crate) fn from_server(request: &ImServerKickUser) -> Self {
        let reason = i32::try_from(request.reason).ok().and_then(|reason| reason.try_into().ok());
        Self {
            user: request.user_id,
            class: Class::of_number(request.client_type),
            reason: reason.unwrap_or(KickReasonType::KickReasonDuplicateUser),
            newest: request.signed_in_at.map(|at| SignIn { at, id: request.sign_in_id() }),
        }
    }

    /// Kicks all matching connections on this server.
    pub(crate) fn here(&self, server: &mut Server, cx: &mut Context<Server>) {
        let now = cx.now();
        let mut newer = None;
        let notice: Bytes = encode(0, &ImKickUser { user_id: self.user, kick_reason: self.reason.into() });
        let grace = server.config.timeouts.kick_grace();
        for device in server.clients.devices_mut(self.user).filter(|device| device.class() == self.class) {
            if let Some(newest) = self.newest
                && newest <= device.signed_in
                && (newest == device.signed_in || now.duration_since(device.since) < AT_ONCE)
            {
                newer = newer.max(Some(device.signed_in)).filter(|found| *found != newest);
                continue;
            }
            device.send(&server.metrics, &notice);
            device.kicked = true;
            // A connection that was over its rate must be able to log out.
            device.conn.resume();
            let closing = cx.conn_timer(&device.conn, grace);
            let phone = if device.class() == Class::Mobile { device.name.clone() } else { None };
            let handler = Kicked { user: self.user, closing, phone };
            cx.replace_handler(&device.conn, member::framed(handler));
            server.metrics.kicked.inc();
            log::debug!("user {} kicked at {}: {:?}", self.user, device.conn.peer_addr(), self.reason);
        }
        if let Some(newer) = newer {
            server.metrics.kicks_answered.inc();
            Self { newest: Some(newer), ..*self }.elsewhere(server);
        }
    }

    /// Asks the other msg servers to do the same.
    pub(crate) fn elsewhere(&self, server: &mut Server) {
        // Any type of the class stands for all of it; MAC is the recorded choice for PCs.
        let client_type = match self.class {
            Class::Pc => ClientType::ClientTypeMac,
            Class::Mobile => ClientType::ClientTypeIos,
        };
        let notice = ImServerKickUser {
            user_id: self.user,
            client_type: client_type.into(),
            reason: self.reason as u32,
            signed_in_at: self.newest.map(|newest| newest.at),
            sign_in_id: self.newest.map(|newest| newest.id),
        };
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
    let kick = Kick { user, class: Class::Pc, reason: KickReasonType::KickReasonMobileKick, newest: None };
    kick.here(request.server, request.cx);
    kick.elsewhere(request.server);
    request.reply(&ImKickPcClientRsp { user_id: user, result_code: 0 });
}

/// A client that was told to leave.
struct Kicked {
    user: u32,
    closing: TimerId,
    /// What a phone calls itself. A phone without a name shares its push token's place with the phone that has
    /// just taken its place, so nothing of it can be forgotten.
    phone: Option<Rc<str>>,
}

impl FrameHandler<Server> for Kicked {
    fn on_frame(&mut self, server: &mut Server, _: &mut Context<Server>, conn: &Conn, frame: &[u8]) {
        let Some(pdu) = member::parse(server, conn, frame) else { return };
        match Command::try_from(pdu.header.command) {
            Ok(Command::HeartBeat) => member::echo(server, conn, frame),
            Ok(Command::LogoutReq) => {
                if let Some(phone) = &self.phone {
                    account::forget_token_of(server, self.user, phone, pdu.header.seq);
                }
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
        member::leave(server, cx, conn, self.user, reason);
    }
}
