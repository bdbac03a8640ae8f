//! Whom a relayed PDU concerns: the servers that hold its users get it and no others (spec/gaps.md §4).
//!
//! What a reader of the PDU would see is the same as if everybody got it: servers without one of its users
//! have nothing to do with it. What cannot be read goes to everybody, as the recorded route server has it.

use bytes::Bytes;
use tt_common::metrics::Label;
use tt_proto::Command;
use tt_proto::im::base_define::MsgType;
use tt_proto::im::buddy::ImRemoveSessionNotify;
use tt_proto::im::file::ImFileNotify;
use tt_proto::im::group::ImGroupChangeMemberNotify;
use tt_proto::im::message::{ImMsgData, ImMsgDataReadNotify};
use tt_proto::im::server::ImServerKickUser;
use tt_proto::im::switch_service::Imp2pCmdMsg;
use tt_proto::pdu::PduRef;

use crate::server::Route;

/// Whom a PDU concerns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Addressees {
    /// All msg servers.
    All,
    /// Those that hold any of these users.
    Users(Vec<u32>),
}

/// The addressees of one of the seven relayed commands.
pub(crate) fn of(command: Command, pdu: PduRef<'_>) -> Addressees {
    readable(command, pdu).filter(|users| !users.is_empty()).map_or(Addressees::All, Addressees::Users)
}

/// None if only its receivers know whom it concerns, or if it cannot be read.
fn readable(command: Command, pdu: PduRef<'_>) -> Option<Vec<u32>> {
    match command {
        Command::MsgData => {
            let message: ImMsgData = pdu.decode().ok()?;
            match MsgType::try_from(message.msg_type).ok()? {
                MsgType::MsgTypeSingleText | MsgType::MsgTypeSingleAudio => {
                    Some(vec![message.from_user_id, message.to_session_id])
                }
                // The members of a group are not known here.
                MsgType::MsgTypeGroupText | MsgType::MsgTypeGroupAudio => None,
            }
        }
        Command::MsgDataReadNotify => Some(vec![pdu.decode::<ImMsgDataReadNotify>().ok()?.user_id]),
        Command::RemoveSessionNotify => Some(vec![pdu.decode::<ImRemoveSessionNotify>().ok()?.user_id]),
        Command::FileNotify => Some(vec![pdu.decode::<ImFileNotify>().ok()?.to_user_id]),
        Command::P2pCmdMsg => {
            let command: Imp2pCmdMsg = pdu.decode().ok()?;
            Some(vec![command.from_user_id, command.to_user_id])
        }
        Command::GroupChangeMemberNotify => {
            let mut notice: ImGroupChangeMemberNotify = pdu.decode().ok()?;
            notice.cur_user_id_list.append(&mut notice.chg_user_id_list);
            Some(notice.cur_user_id_list)
        }
        Command::ServerKickUser => {
            let kick: ImServerKickUser = pdu.decode().ok()?;
            // An old server kicks before it reports the sign-in and never again: a connection that is just
            // being reported by another would be missed. A newer one is helped by `Route::part_rivals`.
            kick.signed_in_at.map(|_| vec![kick.user_id])
        }
        _ => None,
    }
}

impl Route {
    /// Sends one PDU to the msg servers it concerns, but `except`. All of them share its bytes.
    ///
    /// A link that has never reported presence is no msg server (an http-msg server opens one only to send
    /// notices): it gets nothing.
    ///
    /// Returns the links that it went to; None for all of them.
    pub(crate) fn send_to(&self, addressees: &Addressees, frame: &Bytes, except: Option<u64>) -> Option<Vec<u64>> {
        let Some(links) = self.links_of(addressees) else {
            self.relayed.get_or_create(&Label { kind: "all" }).inc();
            self.broadcast(frame, except);
            return None;
        };
        let kind = match links.iter().filter(|link| Some(**link) != except).count() {
            0 => "none",
            1 => "one",
            _ => "some",
        };
        self.relayed.get_or_create(&Label { kind }).inc();
        for link in &links {
            if let Some(peer) = self.peers.get(link)
                && Some(*link) != except
                && peer.is_msg_server()
            {
                self.count_lost(peer.link.send_frame(frame.clone()));
            }
        }
        Some(links)
    }

    /// The links that hold them; None for all of them.
    fn links_of(&self, addressees: &Addressees) -> Option<Vec<u64>> {
        let Addressees::Users(users) = addressees else { return None };
        // A table that was ever too small does not know where everybody is.
        if self.presence.left_out() > 0 {
            return None;
        }
        let mut links = Vec::new();
        for link in users.iter().flat_map(|user| self.presence.links_of(*user)) {
            // There are a handful of msg servers, so a list beats a set.
            if !links.contains(&link) {
                links.push(link);
            }
        }
        Some(links)
    }
}
