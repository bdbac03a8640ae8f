//! What a client's user talks about: users, conversations, messages. These types hide the wire's
//! spelling (session ids that mean users, a real name that is the login name) in one place.

use bytes::Bytes;
use tt_proto::im::base_define as base;
use tt_proto::im::base_define::{MsgType, SessionType, UserStatType};
use tt_proto::im::group::ImGroupChangeMemberNotify;
use tt_proto::im::message::ImMsgData;

use crate::text;

/// The other end of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Another user, by id.
    User(u32),
    /// A group, by id.
    Group(u32),
}

impl Peer {
    /// The user or group id.
    pub fn id(self) -> u32 {
        match self {
            Self::User(id) | Self::Group(id) => id,
        }
    }

    pub(crate) fn session_type(self) -> SessionType {
        match self {
            Self::User(_) => SessionType::SessionTypeSingle,
            Self::Group(_) => SessionType::SessionTypeGroup,
        }
    }

    pub(crate) fn from_wire(session_type: i32, id: u32) -> Self {
        if session_type == SessionType::SessionTypeGroup as i32 { Self::Group(id) } else { Self::User(id) }
    }
}

impl From<u32> for Peer {
    /// A plain number is a user id.
    fn from(user_id: u32) -> Self {
        Self::User(user_id)
    }
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Readable text.
    Text(String),
    /// A voice recording.
    Voice {
        /// Its length as the sender states it.
        seconds: u32,
        /// The recording, in the sender's format.
        samples: Bytes,
    },
    /// Text under another key, or of a kind this library does not know.
    Unreadable,
}

impl Content {
    /// The text, if there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// One chat message, live or from history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The conversation it belongs to: the other user (also for one's own messages) or the group.
    pub conversation: Peer,
    /// The sender's user id.
    pub from: u32,
    /// The receiver's user id, or the group's id.
    pub to: u32,
    /// Its number in the conversation, from 1.
    pub msg_id: u32,
    /// When the server took it, in seconds since 1970.
    pub time: u32,
    /// What it says.
    pub content: Content,
}

impl Message {
    /// The text, if it is readable text.
    pub fn text(&self) -> Option<&str> {
        self.content.text()
    }

    /// A delivered message, as `me` sees it.
    pub(crate) fn from_delivery(me: u32, data: &ImMsgData) -> Self {
        let is_group =
            matches!(MsgType::try_from(data.msg_type), Ok(MsgType::MsgTypeGroupText | MsgType::MsgTypeGroupAudio));
        let conversation = match is_group {
            true => Peer::Group(data.to_session_id),
            false if data.from_user_id == me => Peer::User(data.to_session_id),
            false => Peer::User(data.from_user_id),
        };
        Self {
            conversation,
            from: data.from_user_id,
            to: data.to_session_id,
            msg_id: data.msg_id,
            time: data.create_time,
            content: text::decrypt(data.msg_type, &data.msg_data),
        }
    }

    /// A row of the history of `conversation`, as `me` sees it.
    pub(crate) fn from_history(me: u32, conversation: Peer, info: &base::MsgInfo) -> Self {
        let to = match conversation {
            Peer::User(peer) if info.from_session_id == peer => me,
            other => other.id(),
        };
        Self {
            conversation,
            from: info.from_session_id,
            to,
            msg_id: info.msg_id,
            time: info.create_time,
            content: text::decrypt(info.msg_type, &info.msg_data),
        }
    }
}

/// A user's card in the address book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub id: u32,
    /// The login name.
    pub name: String,
    /// The name to show; may be empty.
    pub nick: String,
    /// The department's id, 0 for none.
    pub department: u32,
    /// 1 male, 2 female, 0 unknown.
    pub gender: u32,
    /// E-mail address.
    pub email: String,
    /// Telephone number.
    pub phone: String,
    /// URL, or path relative to the picture server.
    pub avatar: String,
    /// Signature line.
    pub signature: String,
    /// The user has left; clients hide such users.
    pub left: bool,
}

impl From<base::UserInfo> for User {
    fn from(info: base::UserInfo) -> Self {
        /// `UserInfo.status` of a user who has left (spec/messages.md).
        const RESIGNED: u32 = 3;
        Self {
            id: info.user_id,
            name: info.user_real_name,
            nick: info.user_nick_name,
            department: info.department_id,
            gender: info.user_gender,
            email: info.email,
            phone: info.user_tel,
            avatar: info.avatar_url,
            signature: info.sign_info.unwrap_or_default(),
            left: info.status == RESIGNED,
        }
    }
}

/// Whether a user can be reached now, and how. Only desktop clients count as online (spec/flows.md §3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Signed in with a desktop client.
    Online,
    /// Signed in, with mobile clients only.
    Mobile,
    /// Signed in, and every client says that its user is away.
    Away,
    /// Not signed in; of a server without presence v2 (capability 11) perhaps with a mobile client.
    Offline,
}

impl Presence {
    /// The status says only whether there is a desktop client; a newer server lists the kinds of all clients
    /// beside it.
    pub(crate) fn from_wire(stat: &base::UserStat) -> Self {
        if stat.leave() {
            return Self::Away;
        }
        match UserStatType::try_from(stat.status) {
            Ok(UserStatType::UserStatusOnline) => Self::Online,
            Ok(UserStatType::UserStatusLeave) => Self::Away,
            Ok(UserStatType::UserStatusOffline) | Err(_) if stat.client_types.is_empty() => Self::Offline,
            Ok(UserStatType::UserStatusOffline) | Err(_) => Self::Mobile,
        }
    }
}

/// A conversation with its latest message, from the recent list or the unread list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Whom it is with.
    pub peer: Peer,
    /// When it last changed, in seconds since 1970; 0 in the unread list, which does not say.
    pub updated: u32,
    /// How many messages wait to be read; 0 in the recent list, which does not say.
    pub unread: u32,
    /// The newest message's number.
    pub latest_msg_id: u32,
    /// The newest message's content.
    pub latest: Content,
}

impl From<base::ContactSessionInfo> for Conversation {
    fn from(info: base::ContactSessionInfo) -> Self {
        Self {
            peer: Peer::from_wire(info.session_type, info.session_id),
            updated: info.updated_time,
            unread: 0,
            latest_msg_id: info.latest_msg_id,
            latest: preview(info.latest_msg_type, &info.latest_msg_data),
        }
    }
}

impl From<base::UnreadInfo> for Conversation {
    fn from(info: base::UnreadInfo) -> Self {
        Self {
            peer: Peer::from_wire(info.session_type, info.session_id),
            updated: 0,
            unread: info.unread_cnt,
            latest_msg_id: info.latest_msg_id,
            latest: preview(info.latest_msg_type, &info.latest_msg_data),
        }
    }
}

/// Previews of voice messages are an encrypted text that stands for the recording, so whatever
/// the type says, text is tried first (spec/messages.md, `ContactSessionInfo`).
fn preview(msg_type: i32, data: &Bytes) -> Content {
    match text::decrypt(MsgType::MsgTypeSingleText as i32, data) {
        Content::Unreadable => text::decrypt(msg_type, data),
        text => text,
    }
}

/// A department of the address book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Department {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The department above, 0 at the top.
    pub parent: u32,
    /// Sort key.
    pub priority: u32,
    /// It was deleted.
    pub deleted: bool,
}

impl From<base::DepartInfo> for Department {
    fn from(info: base::DepartInfo) -> Self {
        Self {
            id: info.dept_id,
            name: info.dept_name,
            parent: info.parent_dept_id,
            priority: info.priority,
            deleted: info.dept_status == base::DepartmentStatusType::DeptStatusDelete as i32,
        }
    }
}

/// The receipt of a message that the server has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its number in the conversation.
    pub msg_id: u32,
    /// The id under which it was sent; sending it again under the same id makes no second message.
    pub client_msg_id: String,
}

/// A group's card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: u32,
    /// Counts the changes of its membership.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// URL, or path relative to the picture server; may be empty.
    pub avatar: String,
    /// The user who made it, 0 for an operator.
    pub creator: u32,
    /// Only an operator or its creator changes it. The other kind, temporary ones, are changed by
    /// their members too.
    pub fixed: bool,
    /// The ids of its members.
    pub members: Vec<u32>,
    /// Its push notifications are held back for this user.
    pub shielded: bool,
}

impl From<base::GroupInfo> for Group {
    fn from(info: base::GroupInfo) -> Self {
        Self {
            id: info.group_id,
            version: info.version,
            name: info.group_name,
            avatar: info.group_avatar,
            creator: info.group_creator_id,
            fixed: info.group_type == base::GroupType::GroupTypeNormal as i32,
            members: info.group_member_list,
            shielded: info.shield_status != 0,
        }
    }
}

/// A change of a group's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChange {
    /// Which group.
    pub group: u32,
    /// Who changed it, 0 for an operator.
    pub by: u32,
    /// Members were added; if not, they were removed or have left.
    pub added: bool,
    /// Who was added or removed.
    pub changed: Vec<u32>,
    /// Who is in it now.
    pub members: Vec<u32>,
}

impl From<ImGroupChangeMemberNotify> for GroupChange {
    fn from(notice: ImGroupChangeMemberNotify) -> Self {
        Self {
            group: notice.group_id,
            by: notice.user_id,
            added: notice.change_type == base::GroupModifyType::GroupModifyTypeAdd as i32,
            changed: notice.chg_user_id_list,
            members: notice.cur_user_id_list,
        }
    }
}
