//! Messages: stored (0x0301), marked as read (0x0303), listed (0x0309, 0x030d), counted (0x030b).
//!
//! 0x0301 always comes back: with its id once it is on disk (G1), or with id 0 and a reason in
//! field 103, so that the msg server can say no to clients that understand it (G6). The exception is a
//! disk that failed while the message was written: nobody knows, and nothing is said.

use tt_proto::content::{self, Unfit};
use tt_proto::im::base_define::MsgInfo;
use tt_proto::im::message::{
    ImGetLatestMsgIdReq, ImGetLatestMsgIdRsp, ImGetMsgByIdReq, ImGetMsgByIdRsp, ImGetMsgListReq, ImGetMsgListRsp,
    ImMsgData, ImMsgDataReadAck,
};
use tt_proto::pdu::encode;

use super::{Request, cut, message_kind, msg_type, peer};
use crate::lanes::{Access, Conversation};
use crate::store::{Applied, Message, MessageKind, NewMessage, Peer, Refusal, StoreError, Write};
use crate::writer::WriteError;

/// Ids in one request for messages; more are not looked up.
const MAX_IDS: usize = 100;
/// Longest client message id, in bytes: room for a UUID in any spelling.
const MAX_CLIENT_MSG_ID: usize = 64;

/// Why a message is not stored: its number in field 103 (spec/gaps.md §6) and its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reason(u32, &'static str);

const NOT_STORED: Reason = Reason(1, "store failed");
const EMPTY: Reason = Reason(3, "empty");
const TO_ONESELF: Reason = Reason(3, "to oneself");
const UNKNOWN_USER: Reason = Reason(3, "unknown user");
const UNKNOWN_GROUP: Reason = Reason(3, "unknown group");
const NOT_A_MEMBER: Reason = Reason(3, "not a member");
const BAD_ID: Reason = Reason(3, "message id too long");
const ID_REUSED: Reason = Reason(6, "message id reused");
const OVERLOADED: Reason = Reason(7, "overloaded");

/// 0x0301.
pub(super) fn send(request: &mut Request<'_>) {
    let Some(message) = request.body::<ImMsgData>() else { return };
    let seq = request.seq();
    let (to, kind) = match check(&message) {
        Ok(checked) => checked,
        Err(reason) => {
            request.server.metrics.refused(reason.1);
            request.reply(&refused(message, reason));
            return;
        }
    };
    let conversation = Conversation::of(message.from_user_id, to);
    let write = Write::Message(NewMessage {
        from: message.from_user_id,
        to,
        created: message.create_time,
        kind,
        content: message.msg_data.clone(),
        client_msg_id: message.client_msg_id.clone().filter(|id| !id.is_empty()),
    });
    let answer = move |server: &mut crate::server::Server, outcome: Result<Applied, WriteError>| {
        let answer = match outcome {
            Ok(Applied::Message { msg_id, created, group_version, .. }) => {
                let group_version = (group_version > 0).then_some(group_version);
                ImMsgData { msg_id, create_time: created, refusal: None, group_version, ..message }
            }
            // No other answer belongs to a message; not stored is what can be said for sure.
            Ok(_) => refused(message, NOT_STORED),
            // It may turn out to be stored, so no is not true either. The msg server's and the client's own
            // repetitions get the answer.
            Err(WriteError::Store(StoreError::Uncertain(_))) => {
                server.metrics.unanswered("message of uncertain outcome");
                return None;
            }
            Err(error) => {
                let reason = reason(&error);
                server.metrics.refused(reason.1);
                refused(message, reason)
            }
        };
        Some(encode(seq, &answer))
    };
    request.write(conversation, write, Box::new(answer));
}

fn check(message: &ImMsgData) -> Result<(Peer, MessageKind), Reason> {
    let kind = content::check(message.msg_type, &message.msg_data).map_err(unfit)?;
    let to = peer(kind.session, message.to_session_id);
    if to == Peer::User(message.from_user_id) {
        return Err(TO_ONESELF);
    }
    if message.client_msg_id.as_ref().is_some_and(|id| id.len() > MAX_CLIENT_MSG_ID) {
        return Err(BAD_ID);
    }
    Ok((to, message_kind(kind.content)))
}

fn unfit(unfit: Unfit) -> Reason {
    let number = match unfit {
        Unfit::TooLarge => 5,
        Unfit::UnknownKind | Unfit::Empty | Unfit::NoRecording => 3,
    };
    Reason(number, unfit.label())
}

fn reason(error: &WriteError) -> Reason {
    match error {
        WriteError::Overloaded(_) => OVERLOADED,
        WriteError::Store(StoreError::Refused(refusal)) => match refusal {
            Refusal::IdReused => ID_REUSED,
            Refusal::UnknownUser(_) => UNKNOWN_USER,
            Refusal::UnknownGroup(_) => UNKNOWN_GROUP,
            Refusal::NotAMember { .. } => NOT_A_MEMBER,
            Refusal::ToOneself => TO_ONESELF,
            Refusal::Empty => EMPTY,
            _ => NOT_STORED,
        },
        WriteError::Store(_) => NOT_STORED,
    }
}

fn refused(message: ImMsgData, reason: Reason) -> ImMsgData {
    ImMsgData { msg_id: 0, refusal: Some(reason.0), ..message }
}

/// 0x0303. Has no answer. To old clients reading a session is reading all of it, so the id counts
/// only where the msg server says that the client means it (G5).
pub(super) fn read(request: &mut Request<'_>) {
    let Some(ack) = request.body::<ImMsgDataReadAck>() else { return };
    let user = ack.user_id;
    let Some((peer, conversation)) = request.conversation(ack.session_type, user, ack.session_id) else { return };
    let write = Write::Read { user, peer, up_to: (ack.exact == Some(true)).then_some(ack.msg_id) };
    request.write(
        conversation,
        write,
        Box::new(|server, outcome| {
            if outcome.is_err() {
                server.metrics.unanswered("read mark not stored");
            }
            None
        }),
    );
}

/// 0x0309.
pub(super) fn list(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImGetMsgListReq>() else { return };
    let user = query.user_id;
    let Some((peer, conversation)) = request.conversation(query.session_type, user, query.session_id) else { return };
    request.query(Access::Read(conversation), move |store| {
        let page = store.history(user, peer, query.msg_id_begin, query.msg_cnt)?;
        let mut answer = ImGetMsgListRsp {
            user_id: user,
            session_type: query.session_type,
            session_id: query.session_id,
            msg_id_begin: query.msg_id_begin,
            msg_list: Vec::new(),
            attach_data: query.attach_data,
        };
        answer.msg_list = cut(&answer, page.into_iter().map(|message| info(peer, message)).collect());
        Ok(answer)
    });
}

/// 0x030d.
pub(super) fn by_id(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGetMsgByIdReq>() else { return };
    let user = query.user_id;
    let Some((peer, conversation)) = request.conversation(query.session_type, user, query.session_id) else { return };
    request.query(Access::Read(conversation), move |store| {
        query.msg_id_list.truncate(MAX_IDS);
        let page = store.messages_by_id(user, peer, &query.msg_id_list)?;
        let mut answer = ImGetMsgByIdRsp {
            user_id: user,
            session_type: query.session_type,
            session_id: query.session_id,
            msg_list: Vec::new(),
            attach_data: query.attach_data,
        };
        answer.msg_list = cut(&answer, page.into_iter().map(|message| info(peer, message)).collect());
        Ok(answer)
    });
}

/// 0x030b.
pub(super) fn latest_id(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImGetLatestMsgIdReq>() else { return };
    let user = query.user_id;
    let Some((peer, conversation)) = request.conversation(query.session_type, user, query.session_id) else { return };
    request.query(Access::Read(conversation), move |store| {
        Ok(ImGetLatestMsgIdRsp {
            user_id: user,
            session_type: query.session_type,
            session_id: query.session_id,
            latest_msg_id: store.latest_msg_id(user, peer)?,
            attach_data: query.attach_data,
        })
    });
}

fn info(peer: Peer, message: Message) -> MsgInfo {
    MsgInfo {
        msg_id: message.msg_id,
        from_session_id: message.from,
        create_time: message.created,
        msg_type: msg_type(peer, message.kind),
        msg_data: message.content,
    }
}
