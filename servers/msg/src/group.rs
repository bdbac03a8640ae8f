//! The commands about groups. Who may do what is the store's decision; here a question
//! gets the asker's id, and a change that was made is told to everybody it concerns
//! (spec/flows.md §12). A message's way to a group's members is in `fan_out.rs`.

use std::collections::BTreeSet;

use bytes::Bytes;
use netlib::Token;
use tt_common::Link;
use tt_proto::im::base_define::{GroupModifyType, GroupType};
use tt_proto::im::group::{
    ImGroupChangeMemberNotify, ImGroupChangeMemberReq, ImGroupChangeMemberRsp, ImGroupCreateReq, ImGroupCreateRsp,
    ImGroupInfoListReq, ImGroupInfoListRsp, ImGroupShieldReq, ImGroupShieldRsp, ImNormalGroupListReq,
    ImNormalGroupListRsp,
};
use tt_proto::pdu::{MAX_TEXT, MAX_TO_CLIENT, encode};
use tt_proto::{Attach, Body};

use crate::buddy::{any_db, ask, cut, unanswered};
use crate::conversation::Conversation;
use crate::member::Request;
use crate::parts::{self, Parts};
use crate::peers::Half;
use crate::state::Server;

/// Groups in one question for cards.
const MAX_CARDS: usize = 200;

/// What an answer says of a failure.
const FAILED: u32 = 1;

/// 0x0401.
pub(crate) fn list(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImNormalGroupListReq>() else { return };
    query.user_id = request.member.user;
    match any_db(request, Half::Business) {
        None => request.reply(&ImNormalGroupListRsp { user_id: query.user_id, ..ImNormalGroupListRsp::default() }),
        link => ask::<_, ImNormalGroupListRsp>(request, link, query),
    }
}

/// 0x0403.
pub(crate) fn info(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGroupInfoListReq>() else { return };
    query.user_id = request.member.user;
    cut(request, &mut query.group_version_list, MAX_CARDS);
    // A card asked for right after a change goes the way of the change.
    let link = match query.group_version_list[..] {
        [ref only] => request.server.peers.db.of(Conversation::Group(only.group_id)),
        _ => any_db(request, Half::Business),
    };
    match link {
        None => request.reply(&ImGroupInfoListRsp { user_id: query.user_id, ..ImGroupInfoListRsp::default() }),
        link => ask::<_, ImGroupInfoListRsp>(request, link, query),
    }
}

/// 0x0405. A client makes temporary groups only. Nobody but the asker is told: members
/// learn of the group by its first message. The answer repeats the name, unless it is longer than
/// any text may be: a client would not take such an answer.
pub(crate) fn create(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGroupCreateReq>() else { return };
    query.user_id = request.member.user;
    let name_is_long = query.group_name.len() > MAX_TEXT;
    if name_is_long {
        query.group_name.clear();
    }
    let failure = ImGroupCreateRsp {
        user_id: query.user_id,
        result_code: FAILED,
        group_id: None,
        group_name: query.group_name.clone(),
        user_id_list: Vec::new(),
        attach_data: None,
    };
    match GroupType::try_from(query.group_type) {
        Ok(GroupType::GroupTypeTmp) if name_is_long => {
            request.server.metrics.refused("a group's name");
            request.reply(&failure);
        }
        Ok(GroupType::GroupTypeTmp) => {
            let link = any_db(request, Half::Business);
            ask_or(request, link, query, failure, |_, _, _| {});
        }
        Ok(GroupType::GroupTypeNormal) => {
            request.server.metrics.refused("a fixed group");
            request.reply(&failure);
        }
        Err(_) => request.ignore("malformed", &"unknown group type"),
    }
}

/// 0x0407. Removing oneself is how a member leaves.
pub(crate) fn change(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGroupChangeMemberReq>() else { return };
    query.user_id = request.member.user;
    if GroupModifyType::try_from(query.change_type).is_err() {
        request.ignore("malformed", &"unknown change");
        return;
    }
    let failure = ImGroupChangeMemberRsp {
        user_id: query.user_id,
        change_type: query.change_type,
        result_code: FAILED,
        group_id: query.group_id,
        ..ImGroupChangeMemberRsp::default()
    };
    let link = request.server.peers.db.of(Conversation::Group(query.group_id));
    ask_or(request, link, query, failure, |server, answer, asker| {
        if answer.result_code == 0 && !answer.chg_user_id_list.is_empty() {
            let notice = ImGroupChangeMemberNotify {
                user_id: answer.user_id,
                change_type: answer.change_type,
                group_id: answer.group_id,
                cur_user_id_list: answer.cur_user_id_list.clone(),
                chg_user_id_list: answer.chg_user_id_list.clone(),
            };
            let pdu = changed(server, &notice, Some(asker));
            server.relay(&pdu);
        }
    });
}

/// Tells the old and the new members who are here of a change, each connection once.
/// Returns what they were told.
pub(crate) fn changed(server: &mut Server, notice: &ImGroupChangeMemberNotify, except: Option<Token>) -> Bytes {
    let pdu = encode(0, notice);
    // Lists that come packed from another server are longer as clients get them.
    if pdu.len() > MAX_TO_CLIENT {
        server.metrics.ignored("group change");
        return pdu;
    }
    let told: BTreeSet<u32> = notice.chg_user_id_list.iter().chain(&notice.cur_user_id_list).copied().collect();
    for user in told {
        for device in server.clients.devices_mut(user).filter(|device| Some(device.conn.id()) != except) {
            device.send(&server.metrics, &pdu);
        }
    }
    pdu
}

/// 0x0409.
pub(crate) fn shield(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGroupShieldReq>() else { return };
    query.user_id = request.member.user;
    let failure =
        ImGroupShieldRsp { user_id: query.user_id, group_id: query.group_id, result_code: FAILED, attach_data: None };
    let link = request.server.peers.db.of(Conversation::Group(query.group_id));
    ask_or(request, link, query, failure, |_, _, _| {});
}

/// Asks the store for the client, with an answer for when it has none. `then` sees what
/// the client that asked, on the connection named, is about to get.
fn ask_or<Q, R>(
    request: &mut Request<'_>,
    link: Option<Link<Server>>,
    query: Q,
    failure: R,
    then: impl FnOnce(&mut Server, &R, Token) + 'static,
) where
    Q: Body + Attach,
    R: Parts,
{
    let Some(link) = link else {
        request.reply(&failure);
        return;
    };
    let (conn, seq, user) = (request.conn.clone(), request.pdu.header.seq, request.member.user);
    request.server.call(request.cx, &link, seq, query, move |server, cx, reply| {
        let answer: R = reply.unwrap_or_else(|error| {
            unanswered(server, cx, user, error);
            failure
        });
        then(server, &answer, conn.id());
        parts::send(server, &conn, seq, answer, |_| {});
    });
}
