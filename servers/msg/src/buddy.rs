//! Questions that other servers answer: the address book, sessions, history, unread
//! counts, and who is online. Each is one row of what to change in the question and
//! where it goes; the answer goes back under the client's sequence number, without
//! the routing cookie.

use netlib::Context;
use tt_common::{CallError, Link};
use tt_proto::im::base_define::SessionType;
use tt_proto::im::buddy::{
    ImAllUserReq, ImAllUserRsp, ImDepartmentReq, ImDepartmentRsp, ImRecentContactSessionReq, ImRecentContactSessionRsp,
    ImRemoveSessionNotify, ImRemoveSessionReq, ImRemoveSessionRsp, ImUsersInfoReq, ImUsersInfoRsp, ImUsersStatReq,
    ImUsersStatRsp,
};
use tt_proto::im::message::{
    ImGetLatestMsgIdReq, ImGetLatestMsgIdRsp, ImGetMsgByIdReq, ImGetMsgByIdRsp, ImGetMsgListReq, ImGetMsgListRsp,
    ImUnreadMsgCntReq, ImUnreadMsgCntRsp,
};
use tt_proto::pdu::encode;
use tt_proto::{Attach, Body};

use crate::conversation::Conversation;
use crate::member::Request;
use crate::parts::{self, Parts};
use crate::peers::Half;
use crate::presence;
use crate::state::Server;

/// Ids in one question for user cards.
const MAX_USERS: usize = 1_000;
/// Ids in one question for who is online.
const MAX_STATUS: usize = 5_000;
/// Messages in one page of history.
const MAX_PAGE: u32 = 200;

pub(crate) fn recent_sessions(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImRecentContactSessionReq>() else { return };
    query.user_id = request.member.user;
    let link = any_db(request, Half::Login);
    ask::<_, ImRecentContactSessionRsp>(request, link, query);
}

pub(crate) fn unread_counts(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImUnreadMsgCntReq>() else { return };
    query.user_id = request.member.user;
    let link = any_db(request, Half::Login);
    ask::<_, ImUnreadMsgCntRsp>(request, link, query);
}

pub(crate) fn users_info(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImUsersInfoReq>() else { return };
    query.user_id = request.member.user;
    cut(request, &mut query.user_id_list, MAX_USERS);
    let link = any_db(request, Half::Login);
    ask::<_, ImUsersInfoRsp>(request, link, query);
}

/// The client keeps the time of an answer for its next question. Of an answer in
/// parts only the last may move that time on: whoever loses the others asks again.
pub(crate) fn all_users(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImAllUserReq>() else { return };
    query.user_id = request.member.user;
    let since = query.latest_update_time;
    let link = any_db(request, Half::Business);
    ask_in_parts::<_, ImAllUserRsp>(request, link, query, move |part| part.latest_update_time = since);
}

pub(crate) fn departments(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImDepartmentReq>() else { return };
    query.user_id = request.member.user;
    let since = query.latest_update_time;
    let link = any_db(request, Half::Business);
    ask_in_parts::<_, ImDepartmentRsp>(request, link, query, move |part| part.latest_update_time = since);
}

pub(crate) fn message_list(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGetMsgListReq>() else { return };
    query.user_id = request.member.user;
    query.msg_cnt = query.msg_cnt.min(MAX_PAGE);
    let Some(conversation) = conversation(request, query.session_type, query.session_id) else { return };
    let link = request.server.peers.db.of(conversation);
    ask::<_, ImGetMsgListRsp>(request, link, query);
}

pub(crate) fn latest_message_id(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGetLatestMsgIdReq>() else { return };
    query.user_id = request.member.user;
    let Some(conversation) = conversation(request, query.session_type, query.session_id) else { return };
    let link = request.server.peers.db.of(conversation);
    ask::<_, ImGetLatestMsgIdRsp>(request, link, query);
}

pub(crate) fn messages_by_id(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGetMsgByIdReq>() else { return };
    query.user_id = request.member.user;
    let Some(conversation) = conversation(request, query.session_type, query.session_id) else { return };
    let link = request.server.peers.db.of(conversation);
    ask::<_, ImGetMsgByIdRsp>(request, link, query);
}

/// Who is online: route knows. A client with capability 11 is told of every change of
/// these users from here on; an old one is told of everybody anyway.
pub(crate) fn users_status(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImUsersStatReq>() else { return };
    query.user_id = request.member.user;
    cut(request, &mut query.user_id_list, MAX_STATUS);
    let details = presence::watch(request, &query.user_id_list);
    let Some(link) = request.server.peers.master().cloned() else {
        request.ignore("no link", &"nobody to ask");
        return;
    };
    let (conn, seq, user) = (request.conn.clone(), request.pdu.header.seq, request.member.user);
    request.server.call(
        request.cx,
        &link,
        seq,
        query,
        move |server, cx, reply: Result<ImUsersStatRsp, _>| match reply {
            Ok(mut reply) => {
                for stat in &mut reply.user_stat_list {
                    presence::shown(stat, details);
                }
                parts::send(server, &conn, seq, reply, |_| {});
            }
            Err(error) => unanswered(server, cx, user, error),
        },
    );
}

/// Takes a session off the recent list; once that is done, the user's other devices
/// are told.
pub(crate) fn remove_session(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImRemoveSessionReq>() else { return };
    let user = request.member.user;
    query.user_id = user;
    let Some(conversation) = conversation(request, query.session_type, query.session_id) else { return };
    let (session_type, session_id) = (query.session_type, query.session_id);
    let answer = move |result_code| ImRemoveSessionRsp {
        user_id: user,
        result_code,
        session_type,
        session_id,
        attach_data: None,
    };
    let Some(link) = request.server.peers.db.of(conversation) else {
        request.reply(&answer(1));
        return;
    };
    let (conn, seq) = (request.conn.clone(), request.pdu.header.seq);
    request.server.call(request.cx, &link, seq, query, move |server, cx, reply| {
        let reply: ImRemoveSessionRsp = match reply {
            Ok(reply) => reply,
            Err(error) => {
                unanswered(server, cx, user, error);
                answer(1)
            }
        };
        if reply.result_code == 0 {
            let notice = ImRemoveSessionNotify { user_id: user, session_type, session_id };
            server.tell_others(user, conn.id(), &encode(0, &notice));
        }
        parts::send(server, &conn, seq, reply, |_| {});
    });
}

/// Asks another server for the client. No link or no answer: the client gets none,
/// as ever; these answers have no place for a failure.
pub(crate) fn ask<Q, R>(request: &mut Request<'_>, link: Option<Link<Server>>, query: Q)
where
    Q: Body + Attach,
    R: Parts,
{
    ask_in_parts(request, link, query, |_: &mut R| {});
}

/// [`ask`]; `unfinished` is applied to every part of the answer but the last.
fn ask_in_parts<Q, R>(
    request: &mut Request<'_>,
    link: Option<Link<Server>>,
    query: Q,
    unfinished: impl Fn(&mut R) + 'static,
) where
    Q: Body + Attach,
    R: Parts,
{
    let Some(link) = link else {
        request.ignore("no link", &"nobody to ask");
        return;
    };
    let (conn, seq, user) = (request.conn.clone(), request.pdu.header.seq, request.member.user);
    request.server.call(request.cx, &link, seq, query, move |server, cx, reply: Result<R, CallError>| match reply {
        Ok(reply) => parts::send(server, &conn, seq, reply, unfinished),
        Err(error) => unanswered(server, cx, user, error),
    });
}

pub(crate) fn unanswered(server: &mut Server, cx: &Context<Server>, user: u32, error: CallError) {
    server.metrics.unanswered(error.label());
    if let Some(unsaid) = server.noise.allow(cx.now()) {
        log::warn!("question of user {user} without answer: {error}{unsaid}");
    }
}

pub(crate) fn any_db(request: &mut Request<'_>, half: Half) -> Option<Link<Server>> {
    request.server.peers.db.choose(half, request.cx.random())
}

/// The conversation behind a session of the user; None, counted and logged, for a
/// session type that does not exist.
pub(crate) fn conversation(request: &mut Request<'_>, session_type: i32, session: u32) -> Option<Conversation> {
    let Ok(kind) = SessionType::try_from(session_type) else {
        request.ignore("malformed", &"unknown session type");
        return None;
    };
    Some(Conversation::of_session(request.member.user, kind, session))
}

pub(crate) fn cut<T>(request: &mut Request<'_>, ids: &mut Vec<T>, max: usize) {
    if ids.len() > max {
        ids.truncate(max);
        request.server.metrics.lists_cut.inc();
    }
}
