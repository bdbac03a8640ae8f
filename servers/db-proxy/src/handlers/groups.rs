//! Groups: listed (0x0401), shown (0x0403), made (0x0405), changed (0x0407), muted (0x0409), and
//! whom a push of theirs may reach (0x0711).
//!
//! Who may do what is decided by the store, in the transaction that does it. An answer that has a
//! place for a failure says so; a group that does not exist is one.

use tt_common::LinkRole;
use tt_proto::im::base_define::{GroupInfo, GroupModifyType, GroupType, GroupVersionInfo, ShieldStatus};
use tt_proto::im::group::{
    ImGroupChangeMemberReq, ImGroupChangeMemberRsp, ImGroupCreateReq, ImGroupCreateRsp, ImGroupInfoListReq,
    ImGroupInfoListRsp, ImGroupShieldReq, ImGroupShieldRsp, ImNormalGroupListReq, ImNormalGroupListRsp,
};
use tt_proto::im::server::{ImGroupGetShieldReq, ImGroupGetShieldRsp};
use tt_proto::pdu::{MAX_TEXT, encode};

use super::{Request, cut};
use crate::lanes::{Access, Conversation};
use crate::server::Server;
use crate::store::{Applied, Change, Group, GroupKind, MemberChange, NewGroup, Write};
use crate::writer::WriteError;

/// Cards in one answer; more are not looked up.
const MAX_CARDS: usize = 200;

/// What 0x0406, 0x0408 and 0x040a say of a failure.
const FAILED: u32 = 1;

/// 0x0401.
pub(super) fn list(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImNormalGroupListReq>() else { return };
    request.query(Access::ReadAll, move |store| {
        let groups = store.fixed_groups(query.user_id)?;
        let mut answer = ImNormalGroupListRsp {
            user_id: query.user_id,
            group_version_list: Vec::new(),
            attach_data: query.attach_data,
        };
        let version = |(group_id, version)| GroupVersionInfo { group_id, version };
        answer.group_version_list = cut(&answer, groups.into_iter().map(version).collect());
        Ok(answer)
    });
}

/// 0x0403. From user 0 it is a server's own question, which has nothing to wait for: what it wants
/// to know was stored before it asked.
pub(super) fn info(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImGroupInfoListReq>() else { return };
    query.group_version_list.truncate(MAX_CARDS);
    let access = match query.group_version_list[..] {
        _ if query.user_id == 0 => Access::Free,
        [ref only] => Access::Read(Conversation::group(only.group_id)),
        _ => Access::ReadAll,
    };
    request.query(access, move |store| {
        let wanted: Vec<_> = query.group_version_list.iter().map(|wanted| (wanted.group_id, wanted.version)).collect();
        let groups = store.groups(query.user_id, &wanted)?;
        let mut answer =
            ImGroupInfoListRsp { user_id: query.user_id, group_info_list: Vec::new(), attach_data: query.attach_data };
        // When somebody joined is between servers.
        let cards = groups.into_iter().map(|group| match query.user_id {
            0 => card(group),
            _ => GroupInfo { joined_after: Vec::new(), ..card(group) },
        });
        answer.group_info_list = cut(&answer, cards.collect());
        Ok(answer)
    });
}

fn card(group: Group) -> GroupInfo {
    GroupInfo {
        group_id: group.id,
        version: group.version,
        group_name: group.name,
        group_avatar: group.avatar,
        group_creator_id: group.creator,
        group_type: match group.kind {
            GroupKind::Fixed => GroupType::GroupTypeNormal,
            GroupKind::Temporary => GroupType::GroupTypeTmp,
        }
        .into(),
        shield_status: group.shielded.into(),
        group_member_list: group.members,
        joined_after: group.joined_after,
    }
}

/// 0x0405. The creator is a member only if listed.
pub(super) fn create(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImGroupCreateReq>() else { return };
    let seq = request.seq();
    // What is too long is refused, and the refusal, which repeats it, must not be too long for a client.
    let group_name = if query.group_name.len() > MAX_TEXT { String::new() } else { query.group_name.clone() };
    let most = request.server.config.limits.group_members as usize;
    let named: Vec<u32> = query.member_id_list.iter().take(most).copied().collect();
    let user_id = query.user_id;
    let answer = move |group: Option<(u32, Vec<u32>)>| {
        let (group_id, user_id_list) = group.map_or((None, named), |(id, list)| (Some(id), list));
        let result_code = if group_id.is_some() { 0 } else { FAILED };
        ImGroupCreateRsp { user_id, result_code, group_id, group_name, user_id_list, attach_data: query.attach_data }
    };
    let kind = u32::try_from(query.group_type).ok().and_then(GroupKind::from_number);
    let Some(kind) = kind.filter(|_| is_entitled(request, query.user_id)) else {
        request.server.metrics.group_refused("not permitted");
        request.reply(&answer(None));
        return;
    };
    let write = Write::CreateGroup(NewGroup {
        kind,
        creator: query.user_id,
        name: query.group_name,
        avatar: query.group_avatar,
        members: query.member_id_list,
        limits: request.server.config.limits.groups(),
    });
    request.write(
        Conversation::group(0),
        write,
        Box::new(move |server, outcome| {
            let made = match taken(server, outcome) {
                Some(Applied::CreatedGroup { id, members }) => Some((id, members)),
                _ => None,
            };
            Some(encode(seq, &answer(made)))
        }),
    );
}

/// 0x0407.
pub(super) fn change(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImGroupChangeMemberReq>() else { return };
    let (by, group, seq) = (query.user_id, query.group_id, request.seq());
    let answer = move |lists: Option<(Vec<u32>, Vec<u32>)>| {
        let result_code = if lists.is_some() { 0 } else { FAILED };
        let (cur_user_id_list, chg_user_id_list) = lists.unwrap_or_default();
        ImGroupChangeMemberRsp {
            user_id: by,
            change_type: query.change_type,
            result_code,
            group_id: group,
            cur_user_id_list,
            chg_user_id_list,
            attach_data: query.attach_data,
        }
    };
    let change = match GroupModifyType::try_from(query.change_type) {
        Ok(GroupModifyType::GroupModifyTypeAdd) => Change::Add,
        Ok(GroupModifyType::GroupModifyTypeDel) => Change::Remove,
        // As everywhere: an unknown number in such a field makes it no PDU.
        Err(_) => return request.link.malformed(request.cx, request.pdu),
    };
    if !is_entitled(request, by) {
        request.server.metrics.group_refused("not permitted");
        return request.reply(&answer(None));
    }
    let limits = request.server.config.limits.groups();
    let write = Write::ChangeMembers(MemberChange { by, group, change, members: query.member_id_list, limits });
    request.write(
        Conversation::group(group),
        write,
        Box::new(move |server, outcome| {
            let lists = match taken(server, outcome) {
                Some(Applied::ChangedMembers { current, changed }) => Some((current, changed)),
                _ => None,
            };
            Some(encode(seq, &answer(lists)))
        }),
    );
}

/// 0x0409.
pub(super) fn shield(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImGroupShieldReq>() else { return };
    let (user, group, seq) = (query.user_id, query.group_id, request.seq());
    let answer = move |result_code| ImGroupShieldRsp {
        user_id: user,
        group_id: group,
        result_code,
        attach_data: query.attach_data,
    };
    if query.shield_status > 1 {
        request.server.metrics.group_refused("no such status");
        return request.reply(&answer(FAILED));
    }
    request.write(
        Conversation::group(group),
        Write::ShieldGroup { user, group, on: query.shield_status == 1 },
        Box::new(move |server, outcome| {
            let done = matches!(taken(server, outcome), Some(Applied::ShieldedGroup));
            Some(encode(seq, &answer(if done { 0 } else { FAILED })))
        }),
    );
}

/// 0x0711. Its cookie is the message that the push is about.
pub(super) fn shields(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImGroupGetShieldReq>() else { return };
    let group = query.group_id;
    request.query(Access::Read(Conversation::group(group)), move |store| {
        let shields = store.group_shields(group, &query.user_id)?;
        let status = |(user_id, on)| ShieldStatus { user_id, group_id: group, shield_status: u32::from(on) };
        Ok(ImGroupGetShieldRsp {
            group_id: group,
            shield_status_list: shields.into_iter().map(status).collect(),
            attach_data: query.attach_data,
        })
    });
}

/// Whether a request in the name of this user may come over this link. User 0 is an operator, who
/// may do all, and no operator speaks through a msg server (spec/servers.md, D10).
fn is_entitled(request: &Request<'_>, user: u32) -> bool {
    user != 0 || request.link.peer_role() != Some(LinkRole::Msg)
}

/// What was done; a refusal is counted.
fn taken(server: &mut Server, outcome: Result<Applied, WriteError>) -> Option<Applied> {
    outcome
        .map_err(|error| {
            let reason = match error {
                WriteError::Overloaded(_) => "overloaded",
                WriteError::Store(error) if error.is_retryable() => "store failed",
                WriteError::Store(_) => "not permitted",
            };
            server.metrics.group_refused(reason);
        })
        .ok()
}
