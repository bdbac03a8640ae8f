//! The command numbers that the tests use, copied by hand from the command table of spec/wire.md §6:
//! the table in `tt_proto` is under test here and cannot vouch for itself.

#![allow(missing_docs)]

pub const REQ_MSGSERVER: u16 = 0x0101;
pub const RES_MSGSERVER: u16 = 0x0102;
pub const REQ_USERLOGIN: u16 = 0x0103;
pub const RES_USERLOGIN: u16 = 0x0104;
pub const REQ_LOGINOUT: u16 = 0x0105;
pub const RES_LOGINOUT: u16 = 0x0106;
pub const KICK_USER: u16 = 0x0107;
pub const REQ_DEVICETOKEN: u16 = 0x0108;
pub const RES_DEVICETOKEN: u16 = 0x0109;
pub const REQ_KICKPCCLIENT: u16 = 0x010a;
pub const RES_KICKPCCLIENT: u16 = 0x010b;
pub const REQ_PUSH_SHIELD: u16 = 0x010c;
pub const RES_PUSH_SHIELD: u16 = 0x010d;
pub const REQ_QUERY_PUSH_SHIELD: u16 = 0x010e;
pub const RES_QUERY_PUSH_SHIELD: u16 = 0x010f;

pub const RECENT_SESSION_REQUEST: u16 = 0x0201;
pub const RECENT_SESSION_RESPONSE: u16 = 0x0202;
pub const STATUS_NOTIFY: u16 = 0x0203;
pub const USER_INFO_REQUEST: u16 = 0x0204;
pub const USER_INFO_RESPONSE: u16 = 0x0205;
pub const ALL_USER_REQUEST: u16 = 0x0208;
pub const ALL_USER_RESPONSE: u16 = 0x0209;
pub const USERS_STATUS_REQUEST: u16 = 0x020a;
pub const USERS_STATUS_RESPONSE: u16 = 0x020b;
pub const CHANGE_AVATAR_REQUEST: u16 = 0x020c;
pub const CHANGE_AVATAR_RESPONSE: u16 = 0x020d;
pub const PC_LOGIN_STATUS_NOTIFY: u16 = 0x020e;
pub const DEPARTMENT_REQUEST: u16 = 0x0210;
pub const DEPARTMENT_RESPONSE: u16 = 0x0211;
pub const AVATAR_CHANGED_NOTIFY: u16 = 0x0212;
pub const CHANGE_SIGN_INFO_REQUEST: u16 = 0x0213;
pub const CHANGE_SIGN_INFO_RESPONSE: u16 = 0x0214;
pub const SIGN_INFO_CHANGED_NOTIFY: u16 = 0x0215;

pub const MSG_DATA: u16 = 0x0301;
pub const MSG_DATA_ACK: u16 = 0x0302;
pub const MSG_READ_ACK: u16 = 0x0303;
pub const MSG_READ_NOTIFY: u16 = 0x0304;
pub const TIME_REQUEST: u16 = 0x0305;
pub const TIME_RESPONSE: u16 = 0x0306;
pub const UNREAD_CNT_REQUEST: u16 = 0x0307;
pub const UNREAD_CNT_RESPONSE: u16 = 0x0308;
pub const MSG_LIST_REQUEST: u16 = 0x0309;
pub const MSG_LIST_RESPONSE: u16 = 0x030a;
pub const LATEST_MSG_ID_REQ: u16 = 0x030b;
pub const LATEST_MSG_ID_RSP: u16 = 0x030c;
pub const MSG_BY_ID_REQ: u16 = 0x030d;
pub const MSG_BY_ID_RES: u16 = 0x030e;

pub const GROUP_LIST_REQUEST: u16 = 0x0401;
pub const GROUP_LIST_RESPONSE: u16 = 0x0402;
pub const GROUP_INFO_REQUEST: u16 = 0x0403;
pub const GROUP_INFO_RESPONSE: u16 = 0x0404;
pub const GROUP_CREATE_REQUEST: u16 = 0x0405;
pub const GROUP_CREATE_RESPONSE: u16 = 0x0406;
pub const GROUP_CHANGE_MEMBER_REQUEST: u16 = 0x0407;
pub const GROUP_CHANGE_MEMBER_RESPONSE: u16 = 0x0408;
pub const GROUP_SHIELD_REQUEST: u16 = 0x0409;
pub const GROUP_SHIELD_RESPONSE: u16 = 0x040a;
pub const GROUP_CHANGE_MEMBER_NOTIFY: u16 = 0x040b;

pub const P2P_CMD: u16 = 0x0601;

pub const HEARTBEAT: u16 = 0x0701;
pub const VALIDATE_REQ: u16 = 0x0703;
pub const VALIDATE_RSP: u16 = 0x0704;
