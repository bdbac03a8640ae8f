//! The command table: every command, the message it carries and who may send it to whom.
//!
//! It is data. One table at the end of this file is expanded into the enum [`Command`], the static [`TABLE`]
//! and the [`Body`] of each message, so the three cannot disagree. Numbers, names and paths: spec/wire.md §6.

use std::fmt;

use prost::{Message, Name};

use crate::im::{buddy, extension, file, group, login, message, other, server, switch_service};

/// A message that travels as the body of a PDU. Each belongs to exactly one command.
pub trait Body: Message + Name + Default + 'static {
    /// The command whose PDUs carry this message.
    const COMMAND: Command;
}

/// What takes part in the protocol. The admin console and the file store speak HTTP only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    /// A chat client.
    Client,
    /// login: tells clients which msg server to use.
    Login,
    /// msg: holds the client connections.
    Msg,
    /// route: knows who is online where, passes PDUs between msg servers.
    Route,
    /// db-proxy: alone in front of the store.
    DbProxy,
    /// file: moves files between clients.
    File,
    /// push: hands notifications to the platforms.
    Push,
    /// http-msg: the HTTP interface to groups and users.
    HttpMsg,
}

/// One direction in which a command travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// Who sends it.
    pub from: Party,
    /// Who receives it on that link.
    pub to: Party,
}

/// A row of the command table.
#[derive(Debug, Clone, Copy)]
pub struct CommandInfo {
    /// The command.
    pub command: Command,
    /// The published name, such as `CID_MSG_DATA`.
    pub name: &'static str,
    /// The family, written into the header's service field: the command's high byte.
    pub service: u16,
    /// The package of the message, such as `IM.Message`.
    pub package: &'static str,
    /// The message's name within its package, such as `IMMsgData`.
    pub message: &'static str,
    /// The links on which it travels, and in which direction.
    pub paths: &'static [Path],
}

impl CommandInfo {
    /// Whether `from` may send this command to `to`.
    pub fn allows(&self, from: Party, to: Party) -> bool {
        self.paths.contains(&Path { from, to })
    }

    /// The full published name of the message, such as `IM.Message.IMMsgData`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.package, self.message)
    }
}

/// A number that is no command. Receivers ignore such a PDU and keep the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown command {0:#06x}")]
pub struct UnknownCommand(pub u16);

/// Code that is generic over the message type, to be run for a command known at run time only.
///
/// ```
/// use tt_proto::command::{Body, Command, Visitor};
///
/// /// How long the body is once encoded with nothing in it.
/// struct EmptyLen;
/// impl Visitor for EmptyLen {
///     type Output = usize;
///     fn visit<M: Body>(self) -> usize {
///         M::default().encoded_len()
///     }
/// }
///
/// assert_eq!(Command::HeartBeat.visit(EmptyLen), 0);
/// ```
pub trait Visitor {
    /// What the visit returns.
    type Output;
    /// Called with the message type of the command.
    fn visit<M: Body>(self) -> Self::Output;
}

impl Command {
    /// The number on the wire.
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// The family: the high byte of the number.
    pub const fn service(self) -> u16 {
        self.id() >> 8
    }

    /// This command's row of the table.
    pub const fn info(self) -> &'static CommandInfo {
        // Rows and variants come from the same list in the same order.
        &TABLE[self.index()]
    }
}

impl From<Command> for u16 {
    fn from(command: Command) -> u16 {
        command.id()
    }
}

impl fmt::Display for Command {
    /// Number and published name, as log lines show it: `0x0301 CID_MSG_DATA`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x} {}", self.id(), self.info().name)
    }
}

macro_rules! commands {
    ($($id:literal $variant:ident($module:ident::$message:ident) $name:ident:
        $($from:ident -> $to:ident),+;)+) => {
        /// Every command, named after the message that it carries.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Command {
            $(
                #[doc = concat!("`", stringify!($id), "` ", stringify!($name), ", carries [`",
                    stringify!($message), "`](crate::im::", stringify!($module), "::", stringify!($message), ").")]
                $variant = $id,
            )+
        }

        /// All commands in ascending order.
        pub static TABLE: &[CommandInfo] = &[$(
            CommandInfo {
                command: Command::$variant,
                name: stringify!($name),
                service: Command::$variant.service(),
                package: <$module::$message as Name>::PACKAGE,
                message: <$module::$message as Name>::NAME,
                paths: &[$(Path { from: Party::$from, to: Party::$to }),+],
            },
        )+];

        impl Command {
            /// The position in [`TABLE`].
            const fn index(self) -> usize {
                enum Index { $($variant),+ }
                match self { $(Self::$variant => Index::$variant as usize),+ }
            }

            /// Calls `visitor` with the message type of this command.
            pub fn visit<V: Visitor>(self, visitor: V) -> V::Output {
                match self { $(Self::$variant => visitor.visit::<$module::$message>()),+ }
            }
        }

        impl TryFrom<u16> for Command {
            type Error = UnknownCommand;

            fn try_from(id: u16) -> Result<Self, UnknownCommand> {
                match id {
                    $($id => Ok(Self::$variant),)+
                    _ => Err(UnknownCommand(id)),
                }
            }
        }

        $(impl Body for $module::$message {
            const COMMAND: Command = Command::$variant;
        })+
    };
}

// number, variant (body), published name: paths
commands! {
    // Signing in
    0x0101 MsgServReq(login::ImMsgServReq) CID_LOGIN_REQ_MSGSERVER:
        Client -> Login;
    0x0102 MsgServRsp(login::ImMsgServRsp) CID_LOGIN_RES_MSGSERVER:
        Login -> Client;
    0x0103 LoginReq(login::ImLoginReq) CID_LOGIN_REQ_USERLOGIN:
        Client -> Msg;
    0x0104 LoginRes(login::ImLoginRes) CID_LOGIN_RES_USERLOGIN:
        Msg -> Client;
    0x0105 LogoutReq(login::ImLogoutReq) CID_LOGIN_REQ_LOGINOUT:
        Client -> Msg;
    0x0106 LogoutRsp(login::ImLogoutRsp) CID_LOGIN_RES_LOGINOUT:
        Msg -> Client;
    0x0107 KickUser(login::ImKickUser) CID_LOGIN_KICK_USER:
        Msg -> Client;
    0x0108 DeviceTokenReq(login::ImDeviceTokenReq) CID_LOGIN_REQ_DEVICETOKEN:
        Client -> Msg, Msg -> DbProxy;
    0x0109 DeviceTokenRsp(login::ImDeviceTokenRsp) CID_LOGIN_RES_DEVICETOKEN:
        DbProxy -> Msg, Msg -> Client;
    0x010a KickPcClientReq(login::ImKickPcClientReq) CID_LOGIN_REQ_KICKPCCLIENT:
        Client -> Msg;
    0x010b KickPcClientRsp(login::ImKickPcClientRsp) CID_LOGIN_RES_KICKPCCLIENT:
        Msg -> Client;
    0x010c PushShieldReq(login::ImPushShieldReq) CID_LOGIN_REQ_PUSH_SHIELD:
        Client -> Msg, Msg -> DbProxy;
    0x010d PushShieldRsp(login::ImPushShieldRsp) CID_LOGIN_RES_PUSH_SHIELD:
        DbProxy -> Msg, Msg -> Client;
    0x010e QueryPushShieldReq(login::ImQueryPushShieldReq) CID_LOGIN_REQ_QUERY_PUSH_SHIELD:
        Client -> Msg, Msg -> DbProxy;
    0x010f QueryPushShieldRsp(login::ImQueryPushShieldRsp) CID_LOGIN_RES_QUERY_PUSH_SHIELD:
        DbProxy -> Msg, Msg -> Client;
    0x0110 RegistReq(login::ImRegistReq) CID_LOGIN_REQ_REGIST:
        Client -> Msg;
    0x0111 RegistRes(login::ImRegistRes) CID_LOGIN_RES_REGIST:
        Msg -> Client;

    // The address book
    0x0201 RecentContactSessionReq(buddy::ImRecentContactSessionReq) CID_BUDDY_LIST_RECENT_CONTACT_SESSION_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0202 RecentContactSessionRsp(buddy::ImRecentContactSessionRsp) CID_BUDDY_LIST_RECENT_CONTACT_SESSION_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x0203 UserStatNotify(buddy::ImUserStatNotify) CID_BUDDY_LIST_STATUS_NOTIFY:
        Route -> Msg, Msg -> Client;
    0x0204 UsersInfoReq(buddy::ImUsersInfoReq) CID_BUDDY_LIST_USER_INFO_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0205 UsersInfoRsp(buddy::ImUsersInfoRsp) CID_BUDDY_LIST_USER_INFO_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x0206 RemoveSessionReq(buddy::ImRemoveSessionReq) CID_BUDDY_LIST_REMOVE_SESSION_REQ:
        Client -> Msg, Msg -> DbProxy;
    0x0207 RemoveSessionRsp(buddy::ImRemoveSessionRsp) CID_BUDDY_LIST_REMOVE_SESSION_RES:
        DbProxy -> Msg, Msg -> Client;
    0x0208 AllUserReq(buddy::ImAllUserReq) CID_BUDDY_LIST_ALL_USER_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0209 AllUserRsp(buddy::ImAllUserRsp) CID_BUDDY_LIST_ALL_USER_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x020a UsersStatReq(buddy::ImUsersStatReq) CID_BUDDY_LIST_USERS_STATUS_REQUEST:
        Client -> Msg, Msg -> Route;
    0x020b UsersStatRsp(buddy::ImUsersStatRsp) CID_BUDDY_LIST_USERS_STATUS_RESPONSE:
        Route -> Msg, Msg -> Client;
    0x020c ChangeAvatarReq(buddy::ImChangeAvatarReq) CID_BUDDY_LIST_CHANGE_AVATAR_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x020d ChangeAvatarRsp(buddy::ImChangeAvatarRsp) CID_BUDDY_LIST_CHANGE_AVATAR_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x020e PcLoginStatusNotify(buddy::ImpcLoginStatusNotify) CID_BUDDY_LIST_PC_LOGIN_STATUS_NOTIFY:
        Msg -> Client;
    0x020f RemoveSessionNotify(buddy::ImRemoveSessionNotify) CID_BUDDY_LIST_REMOVE_SESSION_NOTIFY:
        Msg -> Client, Msg -> Route, Route -> Msg;
    0x0210 DepartmentReq(buddy::ImDepartmentReq) CID_BUDDY_LIST_DEPARTMENT_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0211 DepartmentRsp(buddy::ImDepartmentRsp) CID_BUDDY_LIST_DEPARTMENT_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x0212 AvatarChangedNotify(buddy::ImAvatarChangedNotify) CID_BUDDY_LIST_AVATAR_CHANGED_NOTIFY:
        Msg -> Route, Route -> Msg, Msg -> Client;
    0x0213 ChangeSignInfoReq(buddy::ImChangeSignInfoReq) CID_BUDDY_LIST_CHANGE_SIGN_INFO_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0214 ChangeSignInfoRsp(buddy::ImChangeSignInfoRsp) CID_BUDDY_LIST_CHANGE_SIGN_INFO_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x0215 SignInfoChangedNotify(buddy::ImSignInfoChangedNotify) CID_BUDDY_LIST_SIGN_INFO_CHANGED_NOTIFY:
        Msg -> Route, Route -> Msg, Msg -> Client;

    // Messages
    0x0301 MsgData(message::ImMsgData) CID_MSG_DATA:
        Client -> Msg, Msg -> DbProxy, DbProxy -> Msg, Msg -> Route, Route -> Msg,
        Msg -> Client;
    0x0302 MsgDataAck(message::ImMsgDataAck) CID_MSG_DATA_ACK:
        Msg -> Client, Client -> Msg;
    0x0303 MsgDataReadAck(message::ImMsgDataReadAck) CID_MSG_READ_ACK:
        Client -> Msg, Msg -> DbProxy;
    0x0304 MsgDataReadNotify(message::ImMsgDataReadNotify) CID_MSG_READ_NOTIFY:
        Msg -> Client, Msg -> Route, Route -> Msg;
    0x0305 ClientTimeReq(message::ImClientTimeReq) CID_MSG_TIME_REQUEST:
        Client -> Msg;
    0x0306 ClientTimeRsp(message::ImClientTimeRsp) CID_MSG_TIME_RESPONSE:
        Msg -> Client;
    0x0307 UnreadMsgCntReq(message::ImUnreadMsgCntReq) CID_MSG_UNREAD_CNT_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0308 UnreadMsgCntRsp(message::ImUnreadMsgCntRsp) CID_MSG_UNREAD_CNT_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x0309 GetMsgListReq(message::ImGetMsgListReq) CID_MSG_LIST_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x030a GetMsgListRsp(message::ImGetMsgListRsp) CID_MSG_LIST_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x030b GetLatestMsgIdReq(message::ImGetLatestMsgIdReq) CID_MSG_GET_LATEST_MSG_ID_REQ:
        Client -> Msg, Msg -> DbProxy;
    0x030c GetLatestMsgIdRsp(message::ImGetLatestMsgIdRsp) CID_MSG_GET_LATEST_MSG_ID_RSP:
        DbProxy -> Msg, Msg -> Client;
    0x030d GetMsgByIdReq(message::ImGetMsgByIdReq) CID_MSG_GET_BY_MSG_ID_REQ:
        Client -> Msg, Msg -> DbProxy;
    0x030e GetMsgByIdRsp(message::ImGetMsgByIdRsp) CID_MSG_GET_BY_MSG_ID_RES:
        DbProxy -> Msg, Msg -> Client;

    // Groups
    0x0401 NormalGroupListReq(group::ImNormalGroupListReq) CID_GROUP_NORMAL_LIST_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0402 NormalGroupListRsp(group::ImNormalGroupListRsp) CID_GROUP_NORMAL_LIST_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x0403 GroupInfoListReq(group::ImGroupInfoListReq) CID_GROUP_INFO_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x0404 GroupInfoListRsp(group::ImGroupInfoListRsp) CID_GROUP_INFO_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x0405 GroupCreateReq(group::ImGroupCreateReq) CID_GROUP_CREATE_REQUEST:
        Client -> Msg, Msg -> DbProxy, HttpMsg -> DbProxy;
    0x0406 GroupCreateRsp(group::ImGroupCreateRsp) CID_GROUP_CREATE_RESPONSE:
        DbProxy -> Msg, Msg -> Client, DbProxy -> HttpMsg;
    0x0407 GroupChangeMemberReq(group::ImGroupChangeMemberReq) CID_GROUP_CHANGE_MEMBER_REQUEST:
        Client -> Msg, Msg -> DbProxy, HttpMsg -> DbProxy;
    0x0408 GroupChangeMemberRsp(group::ImGroupChangeMemberRsp) CID_GROUP_CHANGE_MEMBER_RESPONSE:
        DbProxy -> Msg, Msg -> Client, DbProxy -> HttpMsg;
    0x0409 GroupShieldReq(group::ImGroupShieldReq) CID_GROUP_SHIELD_GROUP_REQUEST:
        Client -> Msg, Msg -> DbProxy;
    0x040a GroupShieldRsp(group::ImGroupShieldRsp) CID_GROUP_SHIELD_GROUP_RESPONSE:
        DbProxy -> Msg, Msg -> Client;
    0x040b GroupChangeMemberNotify(group::ImGroupChangeMemberNotify) CID_GROUP_CHANGE_MEMBER_NOTIFY:
        Msg -> Client, Msg -> Route, HttpMsg -> Route, Route -> Msg;

    // Files
    0x0501 FileLoginReq(file::ImFileLoginReq) CID_FILE_LOGIN_REQ:
        Client -> File;
    0x0502 FileLoginRsp(file::ImFileLoginRsp) CID_FILE_LOGIN_RES:
        File -> Client;
    0x0503 FileState(file::ImFileState) CID_FILE_STATE:
        Client -> File, File -> Client;
    0x0504 FilePullDataReq(file::ImFilePullDataReq) CID_FILE_PULL_DATA_REQ:
        Client -> File, File -> Client;
    0x0505 FilePullDataRsp(file::ImFilePullDataRsp) CID_FILE_PULL_DATA_RSP:
        Client -> File, File -> Client;
    0x0506 FileReq(file::ImFileReq) CID_FILE_REQUEST:
        Client -> Msg;
    0x0507 FileRsp(file::ImFileRsp) CID_FILE_RESPONSE:
        Msg -> Client;
    0x0508 FileNotify(file::ImFileNotify) CID_FILE_NOTIFY:
        Msg -> Client, Msg -> Route, Route -> Msg;
    0x0509 FileHasOfflineReq(file::ImFileHasOfflineReq) CID_FILE_HAS_OFFLINE_REQ:
        Client -> Msg, Msg -> DbProxy;
    0x050a FileHasOfflineRsp(file::ImFileHasOfflineRsp) CID_FILE_HAS_OFFLINE_RES:
        DbProxy -> Msg, Msg -> Client;
    0x050b FileAddOfflineReq(file::ImFileAddOfflineReq) CID_FILE_ADD_OFFLINE_REQ:
        Client -> Msg, Msg -> DbProxy;
    0x050c FileDelOfflineReq(file::ImFileDelOfflineReq) CID_FILE_DEL_OFFLINE_REQ:
        Client -> Msg, Msg -> DbProxy;

    // Signals between clients
    0x0601 P2pCmdMsg(switch_service::Imp2pCmdMsg) CID_SWITCH_P2P_CMD:
        Client -> Msg, Msg -> Client, Msg -> Route, Route -> Msg;

    // Keep-alive and the links between servers
    0x0701 HeartBeat(other::ImHeartBeat) CID_OTHER_HEARTBEAT:
        Client -> Msg, Msg -> Client, Client -> File, File -> Client, Msg -> Login,
        Login -> Msg, Msg -> Route, Route -> Msg, Msg -> DbProxy, DbProxy -> Msg,
        Msg -> File, File -> Msg, Msg -> Push, Push -> Msg, HttpMsg -> Route,
        Route -> HttpMsg, HttpMsg -> DbProxy, DbProxy -> HttpMsg;
    0x0702 StopReceivePacket(server::ImStopReceivePacket) CID_OTHER_STOP_RECV_PACKET:
        DbProxy -> Msg, DbProxy -> HttpMsg;
    0x0703 ValidateReq(server::ImValidateReq) CID_OTHER_VALIDATE_REQ:
        Msg -> DbProxy;
    0x0704 ValidateRsp(server::ImValidateRsp) CID_OTHER_VALIDATE_RSP:
        DbProxy -> Msg;
    0x0705 GetDeviceTokenReq(server::ImGetDeviceTokenReq) CID_OTHER_GET_DEVICE_TOKEN_REQ:
        Msg -> DbProxy;
    0x0706 GetDeviceTokenRsp(server::ImGetDeviceTokenRsp) CID_OTHER_GET_DEVICE_TOKEN_RSP:
        DbProxy -> Msg;
    0x0707 RoleSet(server::ImRoleSet) CID_OTHER_ROLE_SET:
        Msg -> Route, HttpMsg -> Route;
    0x0708 OnlineUserInfo(server::ImOnlineUserInfo) CID_OTHER_ONLINE_USER_INFO:
        Msg -> Route;
    0x0709 MsgServInfo(server::ImMsgServInfo) CID_OTHER_MSG_SERV_INFO:
        Msg -> Login;
    0x070a UserStatusUpdate(server::ImUserStatusUpdate) CID_OTHER_USER_STATUS_UPDATE:
        Msg -> Route;
    0x070b UserCntUpdate(server::ImUserCntUpdate) CID_OTHER_USER_CNT_UPDATE:
        Msg -> Login;
    0x070d ServerKickUser(server::ImServerKickUser) CID_OTHER_SERVER_KICK_USER:
        Msg -> Route, Route -> Msg;
    0x070e ServerPcLoginStatusNotify(server::ImServerPcLoginStatusNotify) CID_OTHER_LOGIN_STATUS_NOTIFY:
        Route -> Msg;
    0x070f PushToUserReq(server::ImPushToUserReq) CID_OTHER_PUSH_TO_USER_REQ:
        Msg -> Push;
    0x0710 PushToUserRsp(server::ImPushToUserRsp) CID_OTHER_PUSH_TO_USER_RSP:
        Push -> Msg;
    0x0711 GroupGetShieldReq(server::ImGroupGetShieldReq) CID_OTHER_GET_SHIELD_REQ:
        Msg -> DbProxy;
    0x0712 GroupGetShieldRsp(server::ImGroupGetShieldRsp) CID_OTHER_GET_SHIELD_RSP:
        DbProxy -> Msg;
    0x0731 FileTransferReq(server::ImFileTransferReq) CID_OTHER_FILE_TRANSFER_REQ:
        Msg -> File;
    0x0732 FileTransferRsp(server::ImFileTransferRsp) CID_OTHER_FILE_TRANSFER_RSP:
        File -> Msg;
    0x0733 FileServerIpReq(server::ImFileServerIpReq) CID_OTHER_FILE_SERVER_IP_REQ:
        Msg -> File;
    0x0734 FileServerIpRsp(server::ImFileServerIpRsp) CID_OTHER_FILE_SERVER_IP_RSP:
        File -> Msg;

    // Extensions of the 2015 system
    0x0780 UserRouteReq(extension::ImUserRouteReq) CID_OTHER_USER_ROUTE_REQ:
        Msg -> Route, HttpMsg -> Route;
    0x0781 UserRouteRsp(extension::ImUserRouteRsp) CID_OTHER_USER_ROUTE_RSP:
        Route -> Msg, Route -> HttpMsg;
    0x07f0 LinkHello(extension::ImLinkHello) CID_OTHER_LINK_HELLO:
        Msg -> Login, Login -> Msg, Msg -> Route, Route -> Msg, Msg -> DbProxy,
        DbProxy -> Msg, Msg -> File, File -> Msg, Msg -> Push, Push -> Msg,
        HttpMsg -> Route, Route -> HttpMsg, HttpMsg -> DbProxy, DbProxy -> HttpMsg;
    0x07f1 LinkProof(extension::ImLinkProof) CID_OTHER_LINK_PROOF:
        Msg -> Login, Login -> Msg, Msg -> Route, Route -> Msg, Msg -> DbProxy,
        DbProxy -> Msg, Msg -> File, File -> Msg, Msg -> Push, Push -> Msg,
        HttpMsg -> Route, Route -> HttpMsg, HttpMsg -> DbProxy, DbProxy -> HttpMsg;
}
