//! What the login, route and db-proxy servers say to us: one handler for each kind
//! of link. Answers to our own calls do not come by here.

use bytes::Bytes;
use netlib::{CloseReason, Context};
use tt_common::link::{Link, LinkHandler};
use tt_proto::Command;
use tt_proto::im::buddy::{ImRemoveSessionNotify, ImUserStatNotify};
use tt_proto::im::message::{ImMsgData, ImMsgDataReadNotify};
use tt_proto::im::server::{ImRoleSet, ImServerKickUser, ImServerPcLoginStatusNotify};
use tt_proto::im::switch_service::Imp2pCmdMsg;
use tt_proto::pdu::{DecodeError, HEADER_LEN, MAX_TO_CLIENT, PduRef, encode};

use crate::kick::Kick;
use crate::presence::Change;
use crate::state::Server;
use crate::{account, catch_up, file, group, message, presence, signal};

/// The handler of a link to a login server: it is told our address and load.
pub(crate) struct LoginLink;

/// The handler of a link to a route server: presence, and what other msg servers
/// send to our users.
pub(crate) struct RouteLink;

/// The handler of a link to a db-proxy, which says nothing unasked that matters here.
pub(crate) struct DbLink;

impl LinkHandler<Server> for LoginLink {
    fn on_up(&mut self, server: &mut Server, _: &mut Context<Server>, link: &Link<Server>) {
        // A link that fails now comes up again and asks again.
        let _ = link.send(0, &presence::server_info(server));
        server.peer_changed();
    }

    fn on_pdu(&mut self, _: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, pdu: PduRef<'_>) {
        link.ignore(cx, pdu);
    }
}

impl LinkHandler<Server> for RouteLink {
    fn on_up(&mut self, server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>) {
        server.elect_master();
        presence::report_all(server, link);
        catch_up::route_returned(server, cx, link);
        server.peer_changed();
    }

    fn on_pdu(&mut self, server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, pdu: PduRef<'_>) {
        // What goes on to clients must not be longer than they take.
        let fits = HEADER_LEN + pdu.body.len() <= MAX_TO_CLIENT;
        if !fits || from_route(server, cx, link, &pdu).is_err() {
            link.malformed(cx, pdu);
        }
    }

    fn on_down(&mut self, server: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, _: &CloseReason) {
        catch_up::route_lost(server, cx, link);
        if server.elect_master() {
            presence::take_over(server, cx);
        }
    }
}

impl LinkHandler<Server> for DbLink {
    fn on_up(&mut self, server: &mut Server, cx: &mut Context<Server>, _: &Link<Server>) {
        message::resume_all(server, cx);
        server.peer_changed();
    }

    fn on_pdu(&mut self, _: &mut Server, cx: &mut Context<Server>, link: &Link<Server>, pdu: PduRef<'_>) {
        // The answer to a forgotten device token means nothing to anybody.
        if pdu.header.command != Command::DeviceTokenRsp.id() {
            link.ignore(cx, pdu);
        }
    }
}

fn from_route(
    server: &mut Server,
    cx: &mut Context<Server>,
    link: &Link<Server>,
    pdu: &PduRef<'_>,
) -> Result<(), DecodeError> {
    match Command::try_from(pdu.header.command) {
        Ok(Command::MsgData) => message::relayed(server, cx, pdu.decode::<ImMsgData>()?),
        Ok(Command::MsgDataReadNotify) => {
            let notice: ImMsgDataReadNotify = pdu.decode()?;
            server.tell(notice.user_id, &encode(0, &notice));
        }
        Ok(Command::RemoveSessionNotify) => {
            let notice: ImRemoveSessionNotify = pdu.decode()?;
            server.tell(notice.user_id, &encode(0, &notice));
        }
        Ok(Command::P2pCmdMsg) => signal::relayed(server, &pdu.decode::<Imp2pCmdMsg>()?),
        Ok(Command::SignInfoChangedNotify) => account::sign_info_changed(server, cx, &pdu.decode()?),
        Ok(Command::AvatarChangedNotify) => account::avatar_changed(server, cx, &pdu.decode()?),
        Ok(Command::GroupChangeMemberNotify) => {
            group::changed(server, &pdu.decode()?, None);
        }
        Ok(Command::FileNotify) => file::relayed(server, &pdu.decode()?),
        Ok(Command::ServerKickUser) => Kick::from_server(&pdu.decode::<ImServerKickUser>()?).here(server, cx),
        Ok(Command::UserStatNotify) => {
            let stat = pdu.decode::<ImUserStatNotify>()?.user_stat;
            presence::changed(server, cx, link, Change::Status(stat));
        }
        Ok(Command::ServerPcLoginStatusNotify) => {
            let notice = pdu.decode::<ImServerPcLoginStatusNotify>()?;
            presence::changed(server, cx, link, Change::Pc(notice));
        }
        _ => link.ignore(cx, *pdu),
    }
    Ok(())
}

impl Server {
    /// Sends something to the other msg servers. Without a route server it reaches
    /// only who is here; the rest of the message is in history.
    pub(crate) fn relay(&mut self, pdu: &Bytes) {
        self.peers.relayed.note(pdu);
        let sent = self.peers.master().map(|link| link.send_frame(pdu.clone()));
        if !matches!(sent, Some(Ok(()))) {
            self.metrics.relays_dropped.inc();
        }
    }

    /// Sends a notice to all connections of a user.
    pub(crate) fn tell(&mut self, user: u32, pdu: &Bytes) {
        for device in self.clients.devices_mut(user) {
            device.send(&self.metrics, pdu);
        }
    }

    /// A link came up: perhaps the last one that was missing.
    fn peer_changed(&mut self) {
        if self.can_serve()
            && let Some(ready) = self.drain.ready.take()
        {
            log::info!("ready for clients");
            ready.signal();
        }
    }

    /// Whether there is a new master.
    fn elect_master(&mut self) -> bool {
        let Some(link) = self.peers.elect_master() else { return false };
        log::info!("{link} relays for this server");
        let _ = link.send(0, &ImRoleSet { master: 1 });
        // What the last one had may never have left it. Receivers know what they have had before.
        for pdu in self.peers.relayed.iter() {
            let _ = link.send_frame(pdu.clone());
            self.metrics.relays_resent.inc();
        }
        true
    }
}
