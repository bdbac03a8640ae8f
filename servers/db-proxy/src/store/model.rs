//! What goes into the store and what comes out: plain data, without SQL and without the wire.
//!
//! Times are unix seconds. A *change stamp* is a time that also orders changes: each transaction
//! that changes users gets one that is larger than all before it (see `embedded::accounts`), so an
//! incremental pull by stamp misses nothing.

use std::fmt;

use bytes::Bytes;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id on the wire, never reused.
    pub id: u32,
    /// The login name; unique, case-sensitive, 1 to 32 characters.
    pub name: String,
    /// The name that others see.
    pub nick: String,
    /// 1 male, 2 female, 0 unknown.
    pub gender: u32,
    /// Spelling for sorting (pinyin).
    pub domain: String,
    /// Telephone number.
    pub phone: String,
    /// Mail address.
    pub email: String,
    /// Picture: a path on the image store or a full URL.
    pub avatar: String,
    /// Department id.
    pub department: u32,
    /// Whether the account may sign in and is shown.
    pub status: UserStatus,
    /// The signature line.
    pub sign_info: String,
    /// Whether pushes are held back at night.
    pub push_shield: bool,
    /// When the account was made.
    pub created: u32,
    /// Change stamp.
    pub updated: u32,
}

/// Where an account stands (spec/storage.md §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserStatus {
    /// May sign in.
    Active = 0,
    /// On probation.
    Probation = 1,
    /// Regular staff, by the books of the administration console.
    Regular = 2,
    /// Left, or disabled: cannot sign in and is hidden.
    Left = 3,
    /// Intern.
    Intern = 4,
}

impl UserStatus {
    /// The status with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Active, Self::Probation, Self::Regular, Self::Left, Self::Intern]
            .into_iter()
            .find(|status| *status as u32 == number)
    }
}

/// The outcome of a sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Name and password belong to this account.
    Accepted(Box<User>),
    /// No active account of that name has that password. Deliberately says no more.
    Refused,
}

/// An account to be made.
#[derive(Clone, Default)]
pub struct NewUser {
    /// Login name.
    pub name: String,
    /// Shown name; empty: the login name.
    pub nick: String,
    /// Lower-case hex MD5 of the password, as a client would send it.
    pub wire_digest: String,
    /// Department id; 0: the first department.
    pub department: u32,
}

/// A department.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Department {
    /// Id on the wire.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Sort key.
    pub priority: u32,
    /// The department above, 0 at the top.
    pub parent: u32,
    /// Deleted departments are still reported, so that clients drop them.
    pub deleted: bool,
    /// Change stamp.
    pub updated: u32,
}

/// A department to be made (id 0) or changed.
#[derive(Clone, Debug, Default)]
pub struct NewDepartment {
    /// 0 makes a new one.
    pub id: u32,
    /// Its name, 1 to 64 characters.
    pub name: String,
    /// Sort key.
    pub priority: u32,
    /// The department above, 0 at the top.
    pub parent: u32,
    /// Marks it deleted.
    pub deleted: bool,
}

/// A page of an incremental pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In order of change stamp.
    pub items: Vec<T>,
    /// The stamp to ask with next.
    pub latest: u32,
}

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Text as received: base64 of the message cipher.
    Text = 1,
    /// Four bytes of duration in seconds, then audio.
    Voice = 2,
}

impl MessageKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Text),
            2 => Some(Self::Voice),
            _ => None,
        }
    }
}

/// The other end of a conversation, as one of its users names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Another user.
    User(u32),
    /// A group that the user is in.
    Group(u32),
}

/// A message to a user or a group, to be stored.
#[derive(Clone)]
pub struct NewMessage {
    /// Who sends.
    pub from: u32,
    /// Who receives.
    pub to: Peer,
    /// When the msg server took it.
    pub created: u32,
    /// What it carries.
    pub kind: MessageKind,
    /// The body as received.
    pub content: Bytes,
    /// Unique per sender: the same id again is the same message (G2).
    pub client_msg_id: Option<String>,
}

/// A stored message whose checksum was right when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Id within its conversation, from 1, without holes (G3).
    pub msg_id: u32,
    /// Who sent it.
    pub from: u32,
    /// When.
    pub created: u32,
    /// What it carries.
    pub kind: MessageKind,
    /// The body as received.
    pub content: Bytes,
}

/// The newest message of a session, for a list of sessions.
#[derive(Clone, PartialEq, Eq)]
pub struct Preview {
    /// Its id.
    pub msg_id: u32,
    /// Who really sent it.
    pub from: u32,
    /// What it carries.
    pub kind: MessageKind,
    /// The text; empty for voice, where lists show a placeholder.
    pub text: Bytes,
}

/// A row of the recent-session list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The other user, or the group.
    pub peer: Peer,
    /// When something last happened in it.
    pub updated: u32,
    /// Its newest message.
    pub latest: Preview,
}

/// A session with unread messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The other user, or the group.
    pub peer: Peer,
    /// Messages above the cursor that others sent; of a group, since the user joined.
    pub count: u32,
    /// The session's newest message.
    pub latest: Preview,
}

/// Who may change a group and who makes it (spec/storage.md §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Made and changed by an operator, or by its creator.
    Fixed = 1,
    /// Made by a user; its members add others, its creator removes them, each may leave.
    Temporary = 2,
}

impl GroupKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Fixed, Self::Temporary].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// How large groups may become and how many a user may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Members of one group.
    pub members: u32,
    /// Groups that one user has made.
    pub created: u32,
}

/// Longest name and longest picture path of a group, in characters.
pub const MAX_GROUP_TEXT: usize = 256;

/// A group to be made.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// Which kind.
    pub kind: GroupKind,
    /// Who makes it; 0: an operator. A member only if listed.
    pub creator: u32,
    /// Its name, 1 to [`MAX_GROUP_TEXT`] characters.
    pub name: String,
    /// Picture: a path on the image store or a full URL.
    pub avatar: String,
    /// Who is in it; ids of nobody are left out.
    pub members: Vec<u32>,
    /// What it must keep.
    pub limits: GroupLimits,
}

/// Whether members come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// They come.
    Add,
    /// They go.
    Remove,
}

/// A change of a group's membership.
#[derive(Clone, Debug)]
pub struct MemberChange {
    /// Who asks for it; 0: an operator, who may do all.
    pub by: u32,
    /// Of which group.
    pub group: u32,
    /// Whether members come or go.
    pub change: Change,
    /// Who. Ids of nobody are left out, and so is who is in the group already, or is not.
    pub members: Vec<u32>,
    /// What the group must keep.
    pub limits: GroupLimits,
}

/// A group's card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The id on the wire, never reused.
    pub id: u32,
    /// Counts the changes of its membership, from 1.
    pub version: u32,
    /// Which kind.
    pub kind: GroupKind,
    /// Its name.
    pub name: String,
    /// Picture.
    pub avatar: String,
    /// Who made it; 0: an operator.
    pub creator: u32,
    /// Who is in it, by id.
    pub members: Vec<u32>,
    /// For each of them the message id above which he sees what was said.
    pub joined_after: Vec<u32>,
    /// Whether its pushes are held back for who asked.
    pub shielded: bool,
}

/// A change, member of a batch.
#[derive(Clone, Debug)]
pub enum Write {
    /// Store a message.
    Message(NewMessage),
    /// Move a user's read cursor forward.
    Read {
        /// Who has read.
        user: u32,
        /// In the conversation with whom.
        peer: Peer,
        /// Up to this id, at most the newest; `None`: everything there is.
        up_to: Option<u32>,
    },
    /// Take a session off the user's list and mark it as read. The next message brings it back.
    RemoveSession {
        /// Whose list.
        user: u32,
        /// The session with whom.
        peer: Peer,
    },
    /// Make a group.
    CreateGroup(NewGroup),
    /// Add members to a group or remove some.
    ChangeMembers(MemberChange),
    /// Hold a group's pushes back for one of its members, or let them through again.
    ShieldGroup {
        /// Which member.
        user: u32,
        /// Of which group.
        group: u32,
        /// Whether they are held back.
        on: bool,
    },
    /// Change what a user may change of the own account.
    Account {
        /// Whose.
        user: u32,
        /// What of it.
        change: AccountChange,
    },
    /// Keep or forget the push token of one device.
    Device {
        /// Whose device.
        user: u32,
        /// The device's name for itself, unique per user; empty for all that have none.
        device: String,
        /// Its token; `None` forgets it.
        token: Option<PushToken>,
    },
}

/// What a user may change of the own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountChange {
    /// The signature line, at most [`MAX_SIGN_INFO`] bytes.
    SignInfo(String),
    /// The picture, at most [`MAX_AVATAR`] bytes: a path on the image store or a full URL.
    Avatar(String),
    /// Whether pushes are held back at night.
    PushShield(bool),
}

/// Longest signature line, in bytes.
pub const MAX_SIGN_INFO: usize = 128;
/// Longest address of a picture, in bytes.
pub const MAX_AVATAR: usize = 255;
/// Longest push token, in bytes.
pub const MAX_PUSH_TOKEN: usize = 1_024;
/// Longest name that a device has for itself, in bytes.
pub const MAX_DEVICE_ID: usize = 64;
/// Devices of one user whose tokens are kept; the one that was registered longest ago goes first.
pub const MAX_DEVICES: u32 = 16;

/// Where a push notification for a device goes.
#[derive(Clone, PartialEq, Eq)]
pub struct PushToken {
    /// Whose push service.
    pub platform: Platform,
    /// What that service calls the device.
    pub token: String,
}

/// A push service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Apple's.
    Ios = 0x11,
    /// Google's and others'.
    Android = 0x12,
}

impl Platform {
    /// The platform of the client type with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Ios, Self::Android].into_iter().find(|platform| *platform as u32 == number)
    }
}

/// A device to which pushes may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whose.
    pub user: u32,
    /// Where it is reached.
    pub push: PushToken,
    /// Whether its user wants none at night.
    pub shield: bool,
}

impl Write {
    /// Bytes that it brings.
    pub fn weight(&self) -> usize {
        match self {
            Self::Message(message) => message.content.len(),
            Self::Account { change: AccountChange::SignInfo(text) | AccountChange::Avatar(text), .. } => text.len(),
            // A row and its index for each member.
            Self::CreateGroup(NewGroup { members, .. }) | Self::ChangeMembers(MemberChange { members, .. }) => {
                64 * members.len()
            }
            Self::Device { device, token, .. } => device.len() + token.as_ref().map_or(0, |push| push.token.len()),
            _ => 0,
        }
    }
}

/// What became of a member of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The message is on disk.
    Message {
        /// Its id.
        msg_id: u32,
        /// The time stored with it; on a repetition that of the first attempt.
        created: u32,
        /// The same client message id was stored before: no new row.
        repeated: bool,
        /// The version of the group's membership when it was stored, 0 for a message to a user.
        group_version: u32,
    },
    /// The cursor stands here now; 0 where there is no conversation.
    Read {
        /// Id of the last message read.
        cursor: u32,
    },
    /// The session is off the list.
    RemovedSession {
        /// Whether it was on it.
        found: bool,
    },
    /// The account or the device is as it was asked for.
    Changed,
    /// The group exists.
    CreatedGroup {
        /// Its id.
        id: u32,
        /// Who is in it, by id: those named who exist.
        members: Vec<u32>,
    },
    /// The members are added or removed.
    ChangedMembers {
        /// Who is in the group now, by id.
        current: Vec<u32>,
        /// Who was added or removed, by id.
        changed: Vec<u32>,
    },
    /// The group's pushes are held back, or not any more.
    ShieldedGroup,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions committed by `apply`.
    pub commits: u64,
    /// Batches that failed as a whole.
    pub failed_batches: u64,
    /// Times the writing connection was dropped after a failure and opened anew.
    pub reopened: u64,
    /// Reads that met a row whose checksum was wrong.
    pub damaged_rows: u64,
    /// Message ids that were handed out and whose rows are gone, found when the store was opened.
    pub lost_messages: u64,
    /// High-water marks that could not be read.
    pub damaged_marks: u64,
    /// Tables at odds with their indexes, and conversations with a spoilt pair, found and put right
    /// when the store was opened.
    pub damaged_records: u64,
}

// What follows keeps passwords and message texts out of logs and panics.

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser")
            .field("name", &self.name)
            .field("nick", &self.nick)
            .field("department", &self.department)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewMessage")
            .field("from", &self.from)
            .field("to", &self.to)
            .field("created", &self.created)
            .field("kind", &self.kind)
            .field("content", &Hidden(self.content.len()))
            .field("client_msg_id", &self.client_msg_id)
            .finish()
    }
}

impl fmt::Debug for PushToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushToken").field("platform", &self.platform).field("token", &Hidden(self.token.len())).finish()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("msg_id", &self.msg_id)
            .field("from", &self.from)
            .field("created", &self.created)
            .field("kind", &self.kind)
            .field("content", &Hidden(self.content.len()))
            .finish()
    }
}

impl fmt::Debug for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preview")
            .field("msg_id", &self.msg_id)
            .field("from", &self.from)
            .field("kind", &self.kind)
            .field("text", &Hidden(self.text.len()))
            .finish()
    }
}

/// Stands for a text of so many bytes.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_text_and_no_password() {
        let user = NewUser { name: "alice".to_owned(), wire_digest: "secret".to_owned(), ..NewUser::default() };
        let (kind, content) = (MessageKind::Text, Bytes::from_static(b"secret"));
        let message = Message { msg_id: 1, from: 2, created: 3, kind, content: content.clone() };
        let new =
            NewMessage { from: 1, to: Peer::User(2), created: 3, kind, content: content.clone(), client_msg_id: None };
        let preview = Preview { msg_id: 1, from: 2, kind, text: content };
        let shown = format!("{user:?} {message:?} {new:?} {preview:?}");
        assert!(!shown.contains("secret") && !shown.contains("115"), "{shown}");
        assert!(shown.contains("<6 bytes>"), "{shown}");
    }
}
