//! Everything a client can ask, one small type per question. A question knows its PDU, how to
//! read the answer, and whether asking twice is harmless; both layers of this library carry any
//! of them.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tt_proto::Body;
use tt_proto::content::{self, Kind};
use tt_proto::im::base_define::{GroupModifyType, GroupType, GroupVersionInfo};
use tt_proto::im::{buddy, group, login, message};

use crate::{Conversation, Department, Error, Group, GroupChange, Message, Peer, Presence, Sent, User, text};

/// Whether a request may be sent again when the connection was lost before its answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, or twice is the same as once.
    Always,
    /// Only on a server that recognises the client's message ids (spec/gaps.md §6).
    IfServerKnowsMessageIds,
    /// Never.
    Never,
}

/// A question to the message server with exactly one answer.
pub trait Request: 'static {
    /// The PDU body that asks.
    type Question: Body;
    /// The PDU body that answers.
    type Answer: Body;
    /// What the caller gets.
    type Output: 'static;
    /// The step's name in errors, as in "no answer to …".
    const WHAT: &'static str;
    /// What happens to it when the connection is lost.
    const REPEAT: Repeat = Repeat::Always;

    /// The question, asked by user `me`. Called again for each repetition.
    fn question(&self, me: u32) -> Self::Question;

    /// Reads the answer.
    ///
    /// # Errors
    /// Whatever the answer says went wrong.
    fn read(&self, me: u32, answer: Self::Answer) -> Result<Self::Output, Error>;
}

/// A message on its way to the server, whatever it carries.
#[derive(Debug, Clone)]
struct Outgoing {
    to: Peer,
    content: content::Content,
    body: Bytes,
    client_msg_id: String,
}

impl Outgoing {
    fn question(&self, me: u32) -> message::ImMsgData {
        let kind = Kind { session: self.to.session_type(), content: self.content };
        message::ImMsgData {
            from_user_id: me,
            to_session_id: self.to.id(),
            msg_id: 0,
            create_time: 0,
            msg_type: kind.to_wire() as i32,
            msg_data: self.body.clone(),
            client_msg_id: Some(self.client_msg_id.clone()),
            ..Default::default()
        }
    }

    fn read(&self, answer: &message::ImMsgDataAck) -> Result<Sent, Error> {
        match answer.result.unwrap_or(0) {
            0 if answer.msg_id == 0 => Err(Error::Protocol("an acknowledgement without a message number".to_owned())),
            0 => Ok(Sent { msg_id: answer.msg_id, client_msg_id: self.client_msg_id.clone() }),
            code => Err(Error::from_ack(code)),
        }
    }
}

/// 48 bits of milliseconds and 80 of chance (as a version 7 UUID has it): ids that come one after the
/// other sort so, which lets a server keep them side by side in its index.
fn fresh_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let value = since.as_millis() << 80 | rand::random::<u128>() >> 48;
    let mut id = String::with_capacity(32);
    // Writing to a String cannot fail.
    let _ = write!(id, "{value:032x}");
    id
}

/// Sends one text message; answered when the server has stored it.
#[derive(Debug, Clone)]
pub struct SendText(Outgoing);

impl SendText {
    /// A message with a fresh random id.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty text and one above the protocol's limit.
    pub fn new(to: impl Into<Peer>, text: &str) -> Result<Self, Error> {
        Self::with_id(to, text, fresh_id())
    }

    /// A message under an id of the caller's choice. Using the id of an earlier message with the
    /// same text repeats that message: the server stores it once and gives the same number again.
    ///
    /// # Errors
    /// As [`SendText::new`].
    pub fn with_id(to: impl Into<Peer>, text: &str, client_msg_id: String) -> Result<Self, Error> {
        let (to, body) = (to.into(), text::encrypt(text)?);
        Ok(Self(Outgoing { to, content: content::Content::Text, body, client_msg_id }))
    }

    /// The length of its body on the wire, where text is enciphered.
    pub fn body_len(&self) -> usize {
        self.0.body.len()
    }

    /// The id under which it goes; to be kept by who wants to repeat it later.
    pub fn client_msg_id(&self) -> &str {
        &self.0.client_msg_id
    }
}

/// Sends one voice message; answered when the server has stored it.
#[derive(Debug, Clone)]
pub struct SendVoice(Outgoing);

impl SendVoice {
    /// A message with a fresh random id: a recording of so many seconds, in a format that the
    /// receivers know. Servers keep it as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty recording and one above the protocol's limit.
    pub fn new(to: impl Into<Peer>, seconds: u32, recording: &[u8]) -> Result<Self, Error> {
        let (to, body) = (to.into(), text::voice(seconds, recording)?);
        Ok(Self(Outgoing { to, content: content::Content::Voice, body, client_msg_id: fresh_id() }))
    }
}

impl Request for SendText {
    type Question = message::ImMsgData;
    type Answer = message::ImMsgDataAck;
    type Output = Sent;
    const WHAT: &'static str = "the message";
    const REPEAT: Repeat = Repeat::IfServerKnowsMessageIds;

    fn question(&self, me: u32) -> Self::Question {
        self.0.question(me)
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Sent, Error> {
        self.0.read(&answer)
    }
}

impl Request for SendVoice {
    type Question = message::ImMsgData;
    type Answer = message::ImMsgDataAck;
    type Output = Sent;
    const WHAT: &'static str = "the voice message";
    const REPEAT: Repeat = Repeat::IfServerKnowsMessageIds;

    fn question(&self, me: u32) -> Self::Question {
        self.0.question(me)
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Sent, Error> {
        self.0.read(&answer)
    }
}

/// A page of a conversation's history, newest first.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// Which conversation.
    pub peer: Peer,
    /// The newest number wanted; 0 for the newest there is.
    pub from_msg_id: u32,
    /// How many at most. Servers answer fewer where the page would grow too large.
    pub count: u32,
}

impl Request for History {
    type Question = message::ImGetMsgListReq;
    type Answer = message::ImGetMsgListRsp;
    type Output = Vec<Message>;
    const WHAT: &'static str = "the history";

    fn question(&self, me: u32) -> Self::Question {
        message::ImGetMsgListReq {
            user_id: me,
            session_type: self.peer.session_type() as i32,
            session_id: self.peer.id(),
            msg_id_begin: self.from_msg_id,
            msg_cnt: self.count,
            ..Default::default()
        }
    }

    fn read(&self, me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.msg_list.iter().map(|info| Message::from_history(me, self.peer, info)).collect())
    }
}

/// Single messages of a conversation by number, newest first; unknown numbers are left out.
#[derive(Debug, Clone)]
pub struct MessagesById {
    /// Which conversation.
    pub peer: Peer,
    /// The numbers wanted, at most 100.
    pub msg_ids: Vec<u32>,
}

impl Request for MessagesById {
    type Question = message::ImGetMsgByIdReq;
    type Answer = message::ImGetMsgByIdRsp;
    type Output = Vec<Message>;
    const WHAT: &'static str = "messages by number";

    fn question(&self, me: u32) -> Self::Question {
        message::ImGetMsgByIdReq {
            user_id: me,
            session_type: self.peer.session_type() as i32,
            session_id: self.peer.id(),
            msg_id_list: self.msg_ids.clone(),
            ..Default::default()
        }
    }

    fn read(&self, me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.msg_list.iter().map(|info| Message::from_history(me, self.peer, info)).collect())
    }
}

/// The newest message's number in a conversation, 0 if there is none.
#[derive(Debug, Clone, Copy)]
pub struct LatestMsgId {
    /// Which conversation.
    pub peer: Peer,
}

impl Request for LatestMsgId {
    type Question = message::ImGetLatestMsgIdReq;
    type Answer = message::ImGetLatestMsgIdRsp;
    type Output = u32;
    const WHAT: &'static str = "the latest message number";

    fn question(&self, me: u32) -> Self::Question {
        message::ImGetLatestMsgIdReq {
            user_id: me,
            session_type: self.peer.session_type() as i32,
            session_id: self.peer.id(),
            ..Default::default()
        }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<u32, Error> {
        Ok(answer.latest_msg_id)
    }
}

/// The conversations with unread messages.
#[derive(Debug, Clone, Copy)]
pub struct Unread;

impl Request for Unread {
    type Question = message::ImUnreadMsgCntReq;
    type Answer = message::ImUnreadMsgCntRsp;
    type Output = Vec<Conversation>;
    const WHAT: &'static str = "the unread counts";

    fn question(&self, me: u32) -> Self::Question {
        message::ImUnreadMsgCntReq { user_id: me, ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.unreadinfo_list.into_iter().map(Conversation::from).collect())
    }
}

/// The server's clock, in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct ServerTime;

impl Request for ServerTime {
    type Question = message::ImClientTimeReq;
    type Answer = message::ImClientTimeRsp;
    type Output = u32;
    const WHAT: &'static str = "the server time";

    fn question(&self, _me: u32) -> Self::Question {
        message::ImClientTimeReq::default()
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<u32, Error> {
        Ok(answer.server_time)
    }
}

/// The recent conversations, most recent first, at most 100.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sessions {
    /// Only what changed after this time, in seconds since 1970; 0 for all.
    pub since: u32,
}

impl Request for Sessions {
    type Question = buddy::ImRecentContactSessionReq;
    type Answer = buddy::ImRecentContactSessionRsp;
    type Output = Vec<Conversation>;
    const WHAT: &'static str = "the recent conversations";

    fn question(&self, me: u32) -> Self::Question {
        buddy::ImRecentContactSessionReq { user_id: me, latest_update_time: self.since, ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.contact_session_list.into_iter().map(Conversation::from).collect())
    }
}

/// A page of the address book. A server cuts a long list; [`Session::users`](crate::Session::users)
/// fetches all pages.
#[derive(Debug, Clone, Copy, Default)]
pub struct UsersPage {
    /// Only who changed at or after this time, in seconds since 1970; 0 for everybody. Users who
    /// have left are listed only for a time other than 0.
    pub since: u32,
}

impl Request for UsersPage {
    type Question = buddy::ImAllUserReq;
    type Answer = buddy::ImAllUserRsp;
    /// The users, and the time of the newest change among them.
    type Output = (Vec<User>, u32);
    const WHAT: &'static str = "the address book";

    fn question(&self, me: u32) -> Self::Question {
        buddy::ImAllUserReq { user_id: me, latest_update_time: self.since, ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok((answer.user_list.into_iter().map(User::from).collect(), answer.latest_update_time))
    }
}

/// Users' cards by id; unknown ids are left out.
#[derive(Debug, Clone)]
pub struct UsersById {
    /// The ids wanted, at most 1,000.
    pub ids: Vec<u32>,
}

impl Request for UsersById {
    type Question = buddy::ImUsersInfoReq;
    type Answer = buddy::ImUsersInfoRsp;
    type Output = Vec<User>;
    const WHAT: &'static str = "users by id";

    fn question(&self, me: u32) -> Self::Question {
        buddy::ImUsersInfoReq { user_id: me, user_id_list: self.ids.clone(), ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.user_info_list.into_iter().map(User::from).collect())
    }
}

/// Who of these users is online, in the order asked. From then on, until the connection ends, the server tells of
/// changes of them ([`Event::Presence`](crate::Event::Presence)); after a reconnect it is to be asked again.
#[derive(Debug, Clone)]
pub struct Status {
    /// The ids wanted, at most 5,000.
    pub ids: Vec<u32>,
}

impl Request for Status {
    type Question = buddy::ImUsersStatReq;
    type Answer = buddy::ImUsersStatRsp;
    type Output = Vec<(u32, Presence)>;
    const WHAT: &'static str = "the online status";

    fn question(&self, me: u32) -> Self::Question {
        buddy::ImUsersStatReq { user_id: me, user_id_list: self.ids.clone(), ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        let read = |stat: &tt_proto::im::base_define::UserStat| (stat.user_id, Presence::from_wire(stat));
        Ok(answer.user_stat_list.iter().map(read).collect())
    }
}

/// The departments of the address book.
#[derive(Debug, Clone, Copy, Default)]
pub struct Departments {
    /// Only what changed after this time, in seconds since 1970; 0 for all.
    pub since: u32,
}

impl Request for Departments {
    type Question = buddy::ImDepartmentReq;
    type Answer = buddy::ImDepartmentRsp;
    type Output = Vec<Department>;
    const WHAT: &'static str = "the departments";

    fn question(&self, me: u32) -> Self::Question {
        buddy::ImDepartmentReq { user_id: me, latest_update_time: self.since, ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.dept_list.into_iter().map(Department::from).collect())
    }
}

/// The fixed groups that the user is in.
#[derive(Debug, Clone, Copy)]
pub struct FixedGroups;

impl Request for FixedGroups {
    type Question = group::ImNormalGroupListReq;
    type Answer = group::ImNormalGroupListRsp;
    /// Their ids and versions.
    type Output = Vec<(u32, u32)>;
    const WHAT: &'static str = "the list of groups";

    fn question(&self, me: u32) -> Self::Question {
        group::ImNormalGroupListReq { user_id: me, ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.group_version_list.into_iter().map(|row| (row.group_id, row.version)).collect())
    }
}

/// Groups' cards by id. Left out are unknown groups, groups that the user is not in, and those
/// whose version is not above the one given with the id.
#[derive(Debug, Clone)]
pub struct GroupsById {
    /// The ids wanted, each with the version that is known already (0: none).
    pub groups: Vec<(u32, u32)>,
}

impl GroupsById {
    /// The most ids that one question may have.
    pub const MOST: usize = 200;
}

impl Request for GroupsById {
    type Question = group::ImGroupInfoListReq;
    type Answer = group::ImGroupInfoListRsp;
    type Output = Vec<Group>;
    const WHAT: &'static str = "the groups";

    fn question(&self, me: u32) -> Self::Question {
        let wanted = |&(group_id, version): &(u32, u32)| GroupVersionInfo { group_id, version };
        group::ImGroupInfoListReq {
            user_id: me,
            group_version_list: self.groups.iter().map(wanted).collect(),
            ..Default::default()
        }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<Self::Output, Error> {
        Ok(answer.group_info_list.into_iter().map(Group::from).collect())
    }
}

/// Makes a temporary group.
#[derive(Debug, Clone)]
pub struct CreateGroup {
    /// Its name, 1 to 256 characters.
    pub name: String,
    /// Its picture; may be empty.
    pub avatar: String,
    /// Who is in it; the user too, if named.
    pub members: Vec<u32>,
}

impl Request for CreateGroup {
    type Question = group::ImGroupCreateReq;
    type Answer = group::ImGroupCreateRsp;
    /// Its id.
    type Output = u32;
    const WHAT: &'static str = "the new group";
    const REPEAT: Repeat = Repeat::Never;

    fn question(&self, me: u32) -> Self::Question {
        group::ImGroupCreateReq {
            user_id: me,
            group_type: GroupType::GroupTypeTmp.into(),
            group_name: self.name.clone(),
            group_avatar: self.avatar.clone(),
            member_id_list: self.members.clone(),
            ..Default::default()
        }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<u32, Error> {
        done(
            Self::WHAT,
            answer.result_code,
            "the name is empty or too long, nobody of the members exists, or a limit is reached",
        )?;
        answer.group_id.ok_or_else(|| Error::Protocol("a new group without a number".to_owned()))
    }
}

/// Adds members to a group or removes some.
#[derive(Debug, Clone)]
pub struct ChangeMembers {
    /// Which group.
    pub group: u32,
    /// Add them; if not, remove them.
    pub added: bool,
    /// Whom.
    pub members: Vec<u32>,
}

impl Request for ChangeMembers {
    type Question = group::ImGroupChangeMemberReq;
    type Answer = group::ImGroupChangeMemberRsp;
    type Output = GroupChange;
    const WHAT: &'static str = "the change of the group";
    const REPEAT: Repeat = Repeat::Never;

    fn question(&self, me: u32) -> Self::Question {
        let change = if self.added { GroupModifyType::GroupModifyTypeAdd } else { GroupModifyType::GroupModifyTypeDel };
        group::ImGroupChangeMemberReq {
            user_id: me,
            change_type: change.into(),
            group_id: self.group,
            member_id_list: self.members.clone(),
            ..Default::default()
        }
    }

    fn read(&self, me: u32, answer: Self::Answer) -> Result<GroupChange, Error> {
        let why = if self.added {
            "you are not in it, they are in it already, or it is full"
        } else {
            "only its creator removes others from a group, and there must be such a group"
        };
        done(Self::WHAT, answer.result_code, why)?;
        Ok(GroupChange {
            group: self.group,
            by: me,
            added: self.added,
            changed: answer.chg_user_id_list,
            members: answer.cur_user_id_list,
        })
    }
}

/// Holds a group's push notifications back, or lets them through again.
#[derive(Debug, Clone, Copy)]
pub struct ShieldGroup {
    /// Which group.
    pub group: u32,
    /// Hold them back.
    pub on: bool,
}

impl Request for ShieldGroup {
    type Question = group::ImGroupShieldReq;
    type Answer = group::ImGroupShieldRsp;
    type Output = ();
    const WHAT: &'static str = "muting the group";

    fn question(&self, me: u32) -> Self::Question {
        group::ImGroupShieldReq {
            user_id: me,
            group_id: self.group,
            shield_status: self.on.into(),
            ..Default::default()
        }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<(), Error> {
        done(Self::WHAT, answer.result_code, "you are not in the group")
    }
}

/// These answers say that it failed, not why: `why` names what can be the reason.
fn done(what: &'static str, code: u32, why: &'static str) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        code => Err(Error::Refused { what, code, text: why.to_owned() }),
    }
}

/// Logs out; the server closes the connection afterwards. A mobile client that only wants to go
/// away closes instead: logging out also forgets its push token.
#[derive(Debug, Clone, Copy)]
pub struct Logout;

impl Request for Logout {
    type Question = login::ImLogoutReq;
    type Answer = login::ImLogoutRsp;
    type Output = ();
    const WHAT: &'static str = "the log-out";
    const REPEAT: Repeat = Repeat::Never;

    fn question(&self, _me: u32) -> Self::Question {
        login::ImLogoutReq::default()
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<(), Error> {
        match answer.result_code {
            0 => Ok(()),
            code => Err(Error::Refused { what: Self::WHAT, code, text: "no reason given".to_owned() }),
        }
    }
}

/// The error of a change that was answered with a code other than 0.
fn changed(what: &'static str, code: u32) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        2 => Err(Error::Refused { what, code, text: "too many changes, try again in a minute".to_owned() }),
        code => Err(Error::Refused { what, code, text: "too long, or it could not be stored".to_owned() }),
    }
}

/// Changes one's signature line; everybody is told.
#[derive(Debug, Clone)]
pub struct SetSignature {
    /// The line, at most 128 bytes of UTF-8.
    pub text: String,
}

impl Request for SetSignature {
    type Question = buddy::ImChangeSignInfoReq;
    type Answer = buddy::ImChangeSignInfoRsp;
    type Output = ();
    const WHAT: &'static str = "the signature";

    fn question(&self, me: u32) -> Self::Question {
        buddy::ImChangeSignInfoReq { user_id: me, sign_info: self.text.clone(), ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<(), Error> {
        changed(Self::WHAT, answer.result_code)
    }
}

/// Changes the address of one's picture; everybody is told.
#[derive(Debug, Clone)]
pub struct SetAvatar {
    /// A full URL, or a path on the picture server; at most 255 bytes.
    pub url: String,
}

impl Request for SetAvatar {
    type Question = buddy::ImChangeAvatarReq;
    type Answer = buddy::ImChangeAvatarRsp;
    type Output = ();
    const WHAT: &'static str = "the picture";

    fn question(&self, me: u32) -> Self::Question {
        buddy::ImChangeAvatarReq { user_id: me, avatar_url: self.url.clone(), ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<(), Error> {
        changed(Self::WHAT, answer.result_code)
    }
}

/// Sets whether push notifications are held back at night.
#[derive(Debug, Clone, Copy)]
pub struct SetQuietNights {
    /// Whether they are.
    pub on: bool,
}

impl Request for SetQuietNights {
    type Question = login::ImPushShieldReq;
    type Answer = login::ImPushShieldRsp;
    type Output = ();
    const WHAT: &'static str = "quiet nights";

    fn question(&self, me: u32) -> Self::Question {
        login::ImPushShieldReq { user_id: me, shield_status: u32::from(self.on), ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<(), Error> {
        changed(Self::WHAT, answer.result_code)
    }
}

/// Whether push notifications are held back at night.
#[derive(Debug, Clone, Copy)]
pub struct QuietNights;

impl Request for QuietNights {
    type Question = login::ImQueryPushShieldReq;
    type Answer = login::ImQueryPushShieldRsp;
    type Output = bool;
    const WHAT: &'static str = "whether nights are quiet";

    fn question(&self, me: u32) -> Self::Question {
        login::ImQueryPushShieldReq { user_id: me, ..Default::default() }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<bool, Error> {
        match answer.result_code {
            0 => Ok(answer.shield_status == Some(1)),
            code => Err(Error::Refused { what: Self::WHAT, code, text: "it could not be read".to_owned() }),
        }
    }
}

/// Registers this device's push token; from mobile clients only, others get no answer.
#[derive(Clone)]
pub struct RegisterPushToken {
    /// What the push service calls the device; empty to be forgotten.
    pub token: String,
}

impl std::fmt::Debug for RegisterPushToken {
    /// Without the token: whoever has it can send notifications to the device.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegisterPushToken").finish_non_exhaustive()
    }
}

impl Request for RegisterPushToken {
    type Question = login::ImDeviceTokenReq;
    type Answer = login::ImDeviceTokenRsp;
    type Output = ();
    const WHAT: &'static str = "the push token";

    fn question(&self, me: u32) -> Self::Question {
        login::ImDeviceTokenReq { user_id: me, device_token: self.token.clone(), ..Default::default() }
    }

    fn read(&self, _me: u32, _answer: Self::Answer) -> Result<(), Error> {
        Ok(())
    }
}

/// Signs the user's desktop client out; from mobile clients only, others get no answer. The server
/// says that it is done whether or not there was one.
#[derive(Debug, Clone, Copy)]
pub struct KickPc;

impl Request for KickPc {
    type Question = login::ImKickPcClientReq;
    type Answer = login::ImKickPcClientRsp;
    type Output = ();
    const WHAT: &'static str = "signing the desktop client out";

    fn question(&self, me: u32) -> Self::Question {
        login::ImKickPcClientReq { user_id: me }
    }

    fn read(&self, _me: u32, answer: Self::Answer) -> Result<(), Error> {
        match answer.result_code {
            0 => Ok(()),
            code => Err(Error::Refused { what: Self::WHAT, code, text: "no reason given".to_owned() }),
        }
    }
}
