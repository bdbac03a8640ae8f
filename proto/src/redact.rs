//! `Debug` for the messages that hold credentials, push tokens or what people write to each other: a log line
//! that prints a whole message must not print those. Which messages: `REDACTED` in `build.rs`.

use std::fmt;

use crate::im::base_define::{ContactSessionInfo, MsgInfo, PushResult, UnreadInfo, UserTokenInfo};
use crate::im::login::{ImDeviceTokenReq, ImLoginReq, ImLoginRes, ImRegistReq};
use crate::im::message::ImMsgData;
use crate::im::server::{
    ImGetDeviceTokenReq, ImGetDeviceTokenRsp, ImGroupGetShieldReq, ImGroupGetShieldRsp, ImPushToUserReq, ImValidateReq,
};
use crate::im::switch_service::Imp2pCmdMsg;

macro_rules! shown {
    ($($message:ident: $($field:ident),*;)+) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    )+};
}

// The fields that are shown. The rest appears as `..`.
shown! {
    ImLoginReq: user_name, online_status, client_type, client_version, capabilities, device_id;
    ImLoginRes: server_time, result_code, result_string, online_status, user_info, capabilities, token_expire;
    ImRegistReq: user_name;
    ImDeviceTokenReq: user_id, client_type, attach_data, device_id;
    ImMsgData: from_user_id, to_session_id, msg_id, create_time, msg_type, attach_data, client_msg_id, refusal,
        group_version;
    Imp2pCmdMsg: from_user_id, to_user_id;
    ImValidateReq: user_name, attach_data;
    // The cookie of these four holds a whole chat message.
    ImGetDeviceTokenReq: user_id;
    ImGetDeviceTokenRsp: user_token_info;
    ImGroupGetShieldReq: group_id, user_id;
    ImGroupGetShieldRsp: group_id, shield_status_list;
    ImPushToUserReq: user_token_list;
    MsgInfo: msg_id, from_session_id, create_time, msg_type;
    ContactSessionInfo: session_id, session_type, session_status, updated_time, latest_msg_id, latest_msg_type,
        latest_msg_from_user_id;
    UnreadInfo: session_id, session_type, unread_cnt, latest_msg_id, latest_msg_type, latest_msg_from_user_id;
    UserTokenInfo: user_id, user_type, push_count, push_type;
    PushResult: result_code;
}
