//! The session's end of its connection: turns frames, timers and the close into calls on the
//! session. Knows commands, decides nothing.

use std::time::Duration;

use netlib::{CloseReason, Conn, Context, FrameHandler, TimerId};
use tt_proto::Command;
use tt_proto::im::base_define::UserStatType;
use tt_proto::im::{buddy, group, login, message, other, switch_service};
use tt_proto::pdu::{self, PduRef};

use super::Session;
use crate::{Error, Event, GroupChange, KickReason, Peer, Presence, Signal};

/// How often a client shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The handler of one connection of one attempt.
pub(super) struct Wire<S: 'static> {
    session: Session<S>,
    attempt: u64,
}

impl<S: 'static> Wire<S> {
    pub(super) fn new(session: Session<S>, attempt: u64) -> Self {
        Self { session, attempt }
    }

    /// Something the server sent of its own accord, or an answer that nobody waits for any more.
    fn unsolicited(&self, state: &mut S, cx: &mut Context<S>, command: Command, pdu: PduRef<'_>) -> Result<(), Error> {
        let session = &self.session;
        let bad = |error| Error::Protocol(format!("{command}: {error}"));
        match command {
            Command::MsgData => session.arrived(state, cx, &pdu.decode().map_err(bad)?),
            Command::MsgDataReadNotify => {
                let notify: message::ImMsgDataReadNotify = pdu.decode().map_err(bad)?;
                let conversation = Peer::from_wire(notify.session_type, notify.session_id);
                session.emit(state, cx, Event::Read { conversation, msg_id: notify.msg_id });
            }
            Command::GroupChangeMemberNotify => {
                let notify: group::ImGroupChangeMemberNotify = pdu.decode().map_err(bad)?;
                session.emit(state, cx, Event::Group(GroupChange::from(notify)));
            }
            Command::UserStatNotify => {
                let notify: buddy::ImUserStatNotify = pdu.decode().map_err(bad)?;
                let presence = Presence::from_wire(&notify.user_stat);
                session.emit(state, cx, Event::Presence { user_id: notify.user_stat.user_id, presence });
            }
            Command::RemoveSessionNotify => {
                let notify: buddy::ImRemoveSessionNotify = pdu.decode().map_err(bad)?;
                let conversation = Peer::from_wire(notify.session_type, notify.session_id);
                session.emit(state, cx, Event::SessionRemoved { conversation });
            }
            Command::P2pCmdMsg => {
                let data: switch_service::Imp2pCmdMsg = pdu.decode().map_err(bad)?;
                let signal = Signal::from_wire(&data.cmd_msg_data);
                session.emit(state, cx, Event::Signal { from: data.from_user_id, to: data.to_user_id, signal });
            }
            Command::SignInfoChangedNotify => {
                let notify: buddy::ImSignInfoChangedNotify = pdu.decode().map_err(bad)?;
                let event = Event::Signature { user_id: notify.changed_user_id, text: notify.sign_info };
                session.emit(state, cx, event);
            }
            Command::AvatarChangedNotify => {
                let notify: buddy::ImAvatarChangedNotify = pdu.decode().map_err(bad)?;
                session.emit(state, cx, Event::Avatar { user_id: notify.changed_user_id, url: notify.avatar_url });
            }
            Command::PcLoginStatusNotify => {
                let notify: buddy::ImpcLoginStatusNotify = pdu.decode().map_err(bad)?;
                let online = notify.login_stat == UserStatType::UserStatusOnline as i32;
                session.emit(state, cx, Event::OwnPc { online });
            }
            Command::KickUser => {
                let kick: login::ImKickUser = pdu.decode().map_err(bad)?;
                session.hang_up(Error::Kicked(KickReason::from_wire(kick.kick_reason)));
            }
            // The echo of the heartbeat has done its work by arriving. Other commands belong to
            // features that this client does not have, or answer a request that has timed out.
            _ => log::debug!("ignored {command} with seq {}", pdu.header.seq),
        }
        Ok(())
    }
}

impl<S: 'static> FrameHandler<S> for Wire<S> {
    fn on_open(&mut self, _: &mut S, cx: &mut Context<S>, conn: &Conn) {
        if self.session.is_current_attempt(self.attempt) {
            self.session.connected();
            cx.conn_timer(conn, HEARTBEAT);
        }
    }

    fn on_frame(&mut self, state: &mut S, cx: &mut Context<S>, _: &Conn, frame: &[u8]) {
        let Ok(pdu) = PduRef::parse(frame) else {
            return self.session.hang_up(Error::Protocol("a PDU that contradicts its own length".to_owned()));
        };
        // Unknown commands are ignored by every peer of this protocol (spec/wire.md §2).
        let Ok(command) = Command::try_from(pdu.header.command) else { return };
        if command == Command::LoginRes {
            match pdu.decode::<login::ImLoginRes>() {
                Ok(answer) => self.session.signed_in(state, cx, answer),
                Err(error) => self.session.hang_up(Error::Protocol(format!("the answer to the sign-in: {error}"))),
            }
        } else if !self.session.is_online() && command != Command::KickUser {
            log::debug!("ignored {command} before the sign-in");
        } else if !self.session.answered(state, cx, command, pdu)
            && let Err(error) = self.unsolicited(state, cx, command, pdu)
        {
            log::warn!("{error}");
        }
    }

    fn on_timer(&mut self, _: &mut S, cx: &mut Context<S>, conn: &Conn, _: TimerId) {
        // Before the sign-in is done the server counts the time itself.
        if self.session.is_online() {
            // A closed connection reports itself through on_close.
            let _ = conn.send(pdu::encode(0, &other::ImHeartBeat::default()));
        }
        cx.conn_timer(conn, HEARTBEAT);
    }

    fn on_close(&mut self, state: &mut S, cx: &mut Context<S>, conn: &Conn, reason: &CloseReason) {
        if self.session.is_current_attempt(self.attempt) {
            self.session.disconnected(state, cx, conn, reason);
        }
    }
}
