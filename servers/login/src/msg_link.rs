//! The port for msg servers: they register, report their load, and are forgotten with their link.

use netlib::{CloseReason, Context};
use tt_common::{Link, LinkHandler};
use tt_proto::Command;
use tt_proto::im::server::{ImMsgServInfo, ImUserCntUpdate};
use tt_proto::pdu::PduRef;

use crate::directory::MsgServer;
use crate::server::Login;

pub(crate) struct MsgServerLink;

/// `user_action` of 0x070b.
const UP: u32 = 1;
const DOWN: u32 = 2;

impl LinkHandler<Login> for MsgServerLink {
    fn on_up(&mut self, login: &mut Login, _: &mut Context<Login>, link: &Link<Login>) {
        login.links.insert(link.id(), link.clone());
    }

    fn on_pdu(&mut self, login: &mut Login, cx: &mut Context<Login>, link: &Link<Login>, pdu: PduRef<'_>) {
        match Command::try_from(pdu.header.command) {
            Ok(Command::MsgServInfo) => {
                let server = pdu.decode::<ImMsgServInfo>().ok().and_then(MsgServer::from_info);
                let Some(server) = server else { return link.malformed(cx, pdu) };
                let MsgServer { ip1, port, current, max, .. } = &server;
                log::info!("{link} registers {ip1}:{port} with {current} of {max} connections");
                login.directory.register(link.id(), server);
            }
            Ok(Command::UserCntUpdate) => match pdu.decode::<ImUserCntUpdate>() {
                Ok(update) if matches!(update.user_action, UP | DOWN) => {
                    // Before it has registered there is nothing to count on; its announcement has the count.
                    login.directory.count(link.id(), update.user_action == UP);
                }
                _ => return link.malformed(cx, pdu),
            },
            _ => return link.ignore(cx, pdu),
        }
        login.publish_totals();
    }

    fn on_down(&mut self, login: &mut Login, cx: &mut Context<Login>, link: &Link<Login>, _: &CloseReason) {
        login.links.remove(&link.id());
        if let Some(MsgServer { ip1, port, .. }) = login.directory.remove(link.id()) {
            log::info!("{link} is forgotten with {ip1}:{port}");
        }
        login.publish_totals();
        login.stop_if_done(cx);
    }
}
