//! The lists that a client shows first: recent sessions (0x0201), unread counts (0x0307), and
//! taking a session off its list (0x0206).

use tt_proto::im::base_define::{ContactSessionInfo, SessionStatusType, UnreadInfo};
use tt_proto::im::buddy::{
    ImRecentContactSessionReq, ImRecentContactSessionRsp, ImRemoveSessionReq, ImRemoveSessionRsp,
};
use tt_proto::im::message::{ImUnreadMsgCntReq, ImUnreadMsgCntRsp};
use tt_proto::pdu::encode;

use super::{Request, cut, msg_type, preview_data, session};
use crate::lanes::Access;
use crate::store::{Applied, Session, Unread, Write};

/// Sessions in one answer.
const MAX_SESSIONS: u32 = 100;

pub(super) fn recent(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImRecentContactSessionReq>() else { return };
    request.query(Access::ReadAll, move |store| {
        let sessions = store.recent_sessions(query.user_id, query.latest_update_time, MAX_SESSIONS)?;
        let mut answer = ImRecentContactSessionRsp {
            user_id: query.user_id,
            contact_session_list: Vec::new(),
            attach_data: query.attach_data,
        };
        answer.contact_session_list = cut(&answer, sessions.iter().map(session_info).collect());
        Ok(answer)
    });
}

/// The total counts every session, also those that the list has no room for.
pub(super) fn unread(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImUnreadMsgCntReq>() else { return };
    request.query(Access::ReadAll, move |store| {
        let unread = store.unread(query.user_id)?;
        let mut answer = ImUnreadMsgCntRsp {
            user_id: query.user_id,
            total_cnt: unread.iter().fold(0, |total, row| total.saturating_add(row.count)),
            unreadinfo_list: Vec::new(),
            attach_data: query.attach_data,
        };
        answer.unreadinfo_list = cut(&answer, unread.iter().map(unread_info).collect());
        Ok(answer)
    });
}

/// Result 1 where there is nothing to remove, or where it cannot be removed now.
pub(super) fn remove(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImRemoveSessionReq>() else { return };
    let (user, seq) = (query.user_id, request.seq());
    let Some((peer, conversation)) = request.conversation(query.session_type, user, query.session_id) else { return };
    request.write(
        conversation,
        Write::RemoveSession { user, peer },
        Box::new(move |_, outcome| {
            let removed = matches!(outcome, Ok(Applied::RemovedSession { found: true }));
            let answer = ImRemoveSessionRsp {
                user_id: user,
                result_code: u32::from(!removed),
                session_type: query.session_type,
                session_id: query.session_id,
                attach_data: query.attach_data,
            };
            Some(encode(seq, &answer))
        }),
    );
}

fn session_info(row: &Session) -> ContactSessionInfo {
    let latest = &row.latest;
    let (session_type, session_id) = session(row.peer);
    ContactSessionInfo {
        session_id,
        session_type: session_type.into(),
        session_status: SessionStatusType::SessionStatusOk.into(),
        updated_time: row.updated,
        latest_msg_id: latest.msg_id,
        latest_msg_data: preview_data(latest),
        latest_msg_type: msg_type(row.peer, latest.kind),
        latest_msg_from_user_id: latest.from,
    }
}

fn unread_info(unread: &Unread) -> UnreadInfo {
    let latest = &unread.latest;
    let (session_type, session_id) = session(unread.peer);
    UnreadInfo {
        session_id,
        session_type: session_type.into(),
        unread_cnt: unread.count,
        latest_msg_id: latest.msg_id,
        latest_msg_data: preview_data(latest),
        latest_msg_type: msg_type(unread.peer, latest.kind),
        latest_msg_from_user_id: latest.from,
    }
}
