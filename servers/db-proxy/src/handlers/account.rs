//! What users change of their own accounts: the signature line (0x0213), the picture (0x020c), and
//! whether pushes are held back at night (0x010c, asked by 0x010e). Each is answered with result 0
//! once it is on disk, and with 1 where it is not.

use tt_proto::im::buddy::{ImChangeAvatarReq, ImChangeAvatarRsp, ImChangeSignInfoReq, ImChangeSignInfoRsp};
use tt_proto::im::login::{ImPushShieldReq, ImPushShieldRsp, ImQueryPushShieldReq, ImQueryPushShieldRsp};

use super::Request;
use crate::lanes::{Access, Conversation};
use crate::store::{AccountChange, Write};

pub(super) fn sign_info(request: &mut Request<'_>) {
    let Some(query) = request.body_of_user(|query: &ImChangeSignInfoReq| query.user_id) else { return };
    let ImChangeSignInfoReq { user_id, sign_info, attach_data } = query;
    let change = Write::Account { user: user_id, change: AccountChange::SignInfo(sign_info.clone()) };
    request.change(user_id, change, move |done| ImChangeSignInfoRsp {
        user_id,
        result_code: u32::from(!done),
        sign_info: done.then_some(sign_info),
        attach_data,
    });
}

pub(super) fn avatar(request: &mut Request<'_>) {
    let Some(query) = request.body_of_user(|query: &ImChangeAvatarReq| query.user_id) else { return };
    let ImChangeAvatarReq { user_id, avatar_url, attach_data } = query;
    let change = Write::Account { user: user_id, change: AccountChange::Avatar(avatar_url) };
    request.change(user_id, change, move |done| ImChangeAvatarRsp {
        user_id,
        result_code: u32::from(!done),
        attach_data,
    });
}

/// A status that is neither on nor off is refused.
pub(super) fn push_shield(request: &mut Request<'_>) {
    let Some(query) = request.body_of_user(|query: &ImPushShieldReq| query.user_id) else { return };
    let ImPushShieldReq { user_id, shield_status, attach_data } = query;
    let answer = move |done: bool| ImPushShieldRsp {
        user_id,
        result_code: u32::from(!done),
        shield_status: done.then_some(shield_status),
        attach_data,
    };
    if shield_status > 1 {
        request.server.metrics.not_changed("refused");
        request.reply(&answer(false));
        return;
    }
    let change = Write::Account { user: user_id, change: AccountChange::PushShield(shield_status == 1) };
    request.change(user_id, change, answer);
}

pub(super) fn query_push_shield(request: &mut Request<'_>) {
    let Some(query) = request.body_of_user(|query: &ImQueryPushShieldReq| query.user_id) else { return };
    let ImQueryPushShieldReq { user_id, attach_data } = query;
    let answer = move |shield: Option<bool>| ImQueryPushShieldRsp {
        user_id,
        result_code: u32::from(shield.is_none()),
        shield_status: shield.map(u32::from),
        attach_data,
    };
    let otherwise = answer.clone()(None);
    request.query_or(
        Access::Read(Conversation::own(user_id)),
        move |store| Ok(answer(store.push_shield(user_id)?)),
        Some(&otherwise),
    );
}
