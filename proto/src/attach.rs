//! The routing cookie: field 20 of every message that crosses a server link and comes back.
//!
//! Whoever asks puts something there that finds the waiting request again; whoever answers echoes it
//! untouched. Only the asker reads it, so each server may choose its own layout. It never reaches a client.

use bytes::Bytes;

use crate::im::{buddy, extension, file, group, login, message, server};

/// A message with `attach_data`.
pub trait Attach {
    /// The cookie, if there is one.
    fn attach(&self) -> Option<&Bytes>;

    /// Replaces the cookie; `None` removes the field, as the hop to a client requires.
    fn set_attach(&mut self, cookie: Option<Bytes>);
}

macro_rules! attach {
    ($($module:ident: $($message:ident),+;)+) => {$($(
        impl Attach for $module::$message {
            fn attach(&self) -> Option<&Bytes> {
                self.attach_data.as_ref()
            }

            fn set_attach(&mut self, cookie: Option<Bytes>) {
                self.attach_data = cookie;
            }
        }
    )+)+};
}

attach! {
    buddy:
        ImRecentContactSessionReq, ImRecentContactSessionRsp, ImUsersInfoReq, ImUsersInfoRsp,
        ImRemoveSessionReq, ImRemoveSessionRsp, ImAllUserReq, ImAllUserRsp, ImUsersStatReq,
        ImUsersStatRsp, ImChangeAvatarReq, ImChangeAvatarRsp, ImDepartmentReq, ImDepartmentRsp,
        ImChangeSignInfoReq, ImChangeSignInfoRsp;
    extension:
        ImUserRouteReq, ImUserRouteRsp;
    file:
        ImFileHasOfflineReq, ImFileHasOfflineRsp;
    group:
        ImNormalGroupListReq, ImNormalGroupListRsp, ImGroupInfoListReq, ImGroupInfoListRsp,
        ImGroupCreateReq, ImGroupCreateRsp, ImGroupChangeMemberReq, ImGroupChangeMemberRsp,
        ImGroupShieldReq, ImGroupShieldRsp;
    login:
        ImDeviceTokenReq, ImDeviceTokenRsp, ImPushShieldReq, ImPushShieldRsp, ImQueryPushShieldReq,
        ImQueryPushShieldRsp, ImRegistReq, ImRegistRes;
    message:
        ImMsgData, ImUnreadMsgCntReq, ImUnreadMsgCntRsp, ImGetMsgListReq, ImGetMsgListRsp,
        ImGetLatestMsgIdReq, ImGetLatestMsgIdRsp, ImGetMsgByIdReq, ImGetMsgByIdRsp;
    server:
        ImValidateReq, ImValidateRsp, ImGetDeviceTokenReq, ImGetDeviceTokenRsp, ImGroupGetShieldReq,
        ImGroupGetShieldRsp, ImFileTransferReq, ImFileTransferRsp;
}
