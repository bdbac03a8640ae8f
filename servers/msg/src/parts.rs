//! Answers that are too long for one PDU. The largest clients take is 400 KiB, so a
//! longer list goes out as several answers to the same request, in order.

use netlib::Conn;
use prost::Message;
use tt_proto::im::base_define::{
    ContactSessionInfo, DepartInfo, GroupInfo, GroupVersionInfo, MsgInfo, UnreadInfo, UserInfo, UserStat,
};
use tt_proto::im::buddy::{
    ImAllUserRsp, ImChangeAvatarRsp, ImChangeSignInfoRsp, ImDepartmentRsp, ImRecentContactSessionRsp,
    ImRemoveSessionRsp, ImUsersInfoRsp, ImUsersStatRsp,
};
use tt_proto::im::group::{
    ImGroupChangeMemberRsp, ImGroupCreateRsp, ImGroupInfoListRsp, ImGroupShieldRsp, ImNormalGroupListRsp,
};
use tt_proto::im::login::{ImPushShieldRsp, ImQueryPushShieldRsp};
use tt_proto::im::message::{ImGetLatestMsgIdRsp, ImGetMsgByIdRsp, ImGetMsgListRsp, ImUnreadMsgCntRsp};
use tt_proto::pdu::{self, MAX_TO_CLIENT};
use tt_proto::{Attach, Body};

use crate::member;
use crate::state::Server;

/// An answer to a client, perhaps with a list that can be cut.
pub(crate) trait Parts: Body + Attach + Clone {
    /// What the list is of; `()` without one.
    type Item: Message;

    /// The list.
    fn items(&mut self) -> Option<&mut Vec<Self::Item>>;
}

macro_rules! parts {
    ($($answer:ident { $($list:ident: $item:ty)? })+) => {$(
        impl Parts for $answer {
            parts!(@list $($list: $item)?);
        }
    )+};
    (@list $list:ident: $item:ty) => {
        type Item = $item;

        fn items(&mut self) -> Option<&mut Vec<$item>> {
            Some(&mut self.$list)
        }
    };
    (@list) => {
        type Item = ();

        fn items(&mut self) -> Option<&mut Vec<()>> {
            None
        }
    };
}

parts! {
    ImAllUserRsp { user_list: UserInfo }
    ImChangeAvatarRsp {}
    ImChangeSignInfoRsp {}
    ImDepartmentRsp { dept_list: DepartInfo }
    ImPushShieldRsp {}
    ImQueryPushShieldRsp {}
    ImRecentContactSessionRsp { contact_session_list: ContactSessionInfo }
    ImRemoveSessionRsp {}
    ImUsersInfoRsp { user_info_list: UserInfo }
    ImUsersStatRsp { user_stat_list: UserStat }
    ImGetLatestMsgIdRsp {}
    ImGetMsgByIdRsp { msg_list: MsgInfo }
    ImGetMsgListRsp { msg_list: MsgInfo }
    ImUnreadMsgCntRsp { unreadinfo_list: UnreadInfo }
    ImNormalGroupListRsp { group_version_list: GroupVersionInfo }
    ImGroupInfoListRsp { group_info_list: GroupInfo }
    ImGroupCreateRsp {}
    ImGroupChangeMemberRsp {}
    ImGroupShieldRsp {}
}

/// Sends an answer of another server on to the client that asked. `unfinished` is
/// applied to all parts of a long one but the last.
pub(crate) fn send<R: Parts>(server: &Server, conn: &Conn, seq: u16, mut answer: R, unfinished: impl Fn(&mut R)) {
    answer.set_attach(None);
    let mut parts = split(answer, MAX_TO_CLIENT);
    if let Some((_, before)) = parts.split_last_mut() {
        before.iter_mut().for_each(unfinished);
    }
    for part in &parts {
        member::reply(server, conn, seq, part);
    }
}

/// Cuts an answer into parts of at most `max` bytes. A single item that is longer
/// goes alone.
fn split<R: Parts>(mut answer: R, max: usize) -> Vec<R> {
    let short = pdu::HEADER_LEN + answer.encoded_len() <= max;
    let mut items = match answer.items() {
        Some(items) if !short => std::mem::take(items),
        _ => return vec![answer],
    };
    let mut parts = Vec::new();
    while !items.is_empty() {
        let rest = items.split_off(pdu::fit(&answer, &items, max).max(1).min(items.len()));
        let mut part = answer.clone();
        if let Some(list) = part.items() {
            *list = std::mem::replace(&mut items, rest);
        }
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(messages: u32, size: usize) -> ImGetMsgListRsp {
        let message = |msg_id| MsgInfo { msg_id, msg_data: vec![b'x'; size].into(), ..MsgInfo::default() };
        ImGetMsgListRsp { session_id: 7, msg_list: (1..=messages).map(message).collect(), ..ImGetMsgListRsp::default() }
    }

    #[test]
    fn a_short_answer_is_one_part() {
        assert_eq!(split(page(3, 10), 1_000), [page(3, 10)]);
    }

    #[test]
    fn a_long_list_is_cut_below_the_limit_and_nothing_is_lost() {
        let parts = split(page(100, 100), 1_000);
        assert!(parts.len() > 10);
        assert!(parts.iter().all(|part| pdu::encode(1, part).len() <= 1_000 && part.session_id == 7));
        let ids: Vec<u32> = parts.into_iter().flat_map(|part| part.msg_list).map(|message| message.msg_id).collect();
        assert_eq!(ids, (1..=100).collect::<Vec<_>>());
    }

    #[test]
    fn an_item_over_the_limit_goes_alone() {
        let parts = split(page(2, 2_000), 1_000);
        assert_eq!(parts.iter().map(|part| part.msg_list.len()).collect::<Vec<_>>(), [1, 1]);
    }
}
