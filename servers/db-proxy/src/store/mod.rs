//! The store: what db-proxy asks of the place where messages, users and read cursors live.
//!
//! [`Store`] is shaped by the requests that db-proxy answers, not by SQL, so that a second
//! implementation can be held to the same suite (`tests/suite`). [`embedded`] is the one that needs
//! no server: SQLite in a data directory. Every call blocks; the reactor never makes one, its
//! worker threads do.

mod error;
mod model;

pub mod embedded;

pub use error::{Refusal, StoreError};
pub use model::{
    AccountChange, Applied, Change, Department, Device, Group, GroupKind, GroupLimits, MAX_AVATAR, MAX_DEVICE_ID,
    MAX_DEVICES, MAX_GROUP_TEXT, MAX_PUSH_TOKEN, MAX_SIGN_INFO, MemberChange, Message, MessageKind, NewDepartment,
    NewGroup, NewMessage, NewUser, Page, Peer, Platform, Preview, PushToken, Session, Stats, Unread, User, UserStatus,
    Validation, Write,
};

/// History and id lists are cut at this many rows.
pub const MAX_PAGE_ROWS: u32 = 200;

/// History and id lists are cut before their contents exceed this many bytes: a page must fit a
/// frame of 384 KiB towards a client, and each row brings up to 40 bytes of its own.
pub const MAX_PAGE_BYTES: usize = 368 * 1024;

/// What db-proxy does with messages, sessions and the address book.
///
/// G1 to G7 are the guarantees of the message path; an implementation keeps them whatever happens
/// between two calls.
pub trait Store: Accounts {
    /// Checks a sign-in. `wire_digest` is the password as clients send it: lower-case hex of its
    /// MD5. A store that cannot tell answers with an error, which is not a wrong password.
    fn validate(&self, name: &str, wire_digest: &str) -> Result<Validation, StoreError>;

    /// Users changed since `since`, oldest change first, as many as fit `budget` bytes of text.
    ///
    /// `since` 0 is the full pull and leaves out users who left; otherwise everyone with a change
    /// stamp of at least `since`, once the newest stamp is above it. The page's `latest` is what
    /// the client asks with next; it equals `since` when there is nothing more.
    fn users_changed_since(&self, since: u32, budget: usize) -> Result<Page<User>, StoreError>;

    /// The users of these ids, whatever their status; unknown ids are left out.
    fn users_by_ids(&self, ids: &[u32]) -> Result<Vec<User>, StoreError>;

    /// Departments with a change stamp above `since`, oldest change first, deleted ones included.
    fn departments_changed_since(&self, since: u32, budget: usize) -> Result<Page<Department>, StoreError>;

    /// Whether pushes to the user are held back at night; `None` for an unknown user.
    fn push_shield(&self, user: u32) -> Result<Option<bool>, StoreError>;

    /// The devices of these users to which pushes may go, user by user in the order asked.
    fn devices(&self, users: &[u32]) -> Result<Vec<Device>, StoreError>;

    /// The user's sessions updated at `since` or later, newest first, at most `limit`; sessions without
    /// a message that can be shown are left out. Those of that second come again: one that was updated
    /// in it after the last pull would be missed otherwise.
    fn recent_sessions(&self, user: u32, since: u32, limit: u32) -> Result<Vec<Session>, StoreError>;

    /// Per session with unread messages: how many others sent above the user's cursor (G5), of a
    /// group since the user joined; most recent session first.
    fn unread(&self, user: u32) -> Result<Vec<Unread>, StoreError>;

    /// Messages of a conversation with an id of at most `begin` (0: from the newest), newest
    /// first. At most `count` rows, [`MAX_PAGE_ROWS`] and [`MAX_PAGE_BYTES`], whichever is least.
    /// A row that is lost or damaged is left out, so its id is missing from the answer (G7).
    ///
    /// Of a group, members see what was stored since they joined, others nothing.
    fn history(&self, user: u32, peer: Peer, begin: u32, count: u32) -> Result<Vec<Message>, StoreError>;

    /// The messages of these ids in a conversation, newest first, under the limits of
    /// [`history`](Store::history).
    fn messages_by_id(&self, user: u32, peer: Peer, ids: &[u32]) -> Result<Vec<Message>, StoreError>;

    /// The newest message id handed out in a conversation that the user may see, 0 if none. The
    /// id of a message that was lost counts, so that the hole shows.
    fn latest_msg_id(&self, user: u32, peer: Peer) -> Result<u32, StoreError>;

    /// The fixed groups that a user is in, as id and version, newest first.
    fn fixed_groups(&self, user: u32) -> Result<Vec<(u32, u32)>, StoreError>;

    /// The groups of these ids whose version is above the one given with the id, newest first.
    /// Only those that `user` is in; 0 is a server that asks for itself and sees all.
    fn groups(&self, user: u32, wanted: &[(u32, u32)]) -> Result<Vec<Group>, StoreError>;

    /// For which of these users the group's pushes are held back. Who is not in it is left out.
    fn group_shields(&self, group: u32, users: &[u32]) -> Result<Vec<(u32, bool)>, StoreError>;

    /// Applies a batch in order, as one transaction, and returns one answer per member.
    ///
    /// An `Ok` means that the change is on disk (G1). A refused member leaves the others alone; a
    /// store that fails fails every member, and nothing of the batch is acknowledged.
    fn apply(&self, batch: &[Write]) -> Vec<Result<Applied, StoreError>>;

    /// Housekeeping between batches, away from anyone who waits for an answer. Cheap when nothing
    /// is due.
    fn tend(&self) {}

    /// Counters for metrics.
    fn stats(&self) -> Stats;
}

/// What an operator does with accounts and groups, beside a running server or without one.
pub trait Accounts: Send + Sync {
    /// Adds an account and returns its id.
    fn add_user(&self, user: &NewUser) -> Result<u32, StoreError>;

    /// Adds many accounts, all or none of them, and returns their ids in order.
    fn add_users(&self, users: &[NewUser]) -> Result<Vec<u32>, StoreError> {
        users.iter().map(|user| self.add_user(user)).collect()
    }

    /// Every account, by id, users who left included.
    fn list_users(&self) -> Result<Vec<User>, StoreError>;

    /// Sets the password, given as its wire digest. Takes effect at the next sign-in.
    fn set_password(&self, name: &str, wire_digest: &str) -> Result<(), StoreError>;

    /// Sets the account's status; only [`UserStatus::Active`] can sign in.
    fn set_status(&self, name: &str, status: UserStatus) -> Result<(), StoreError>;

    /// Adds a department (id 0) or changes one, and returns its id.
    fn save_department(&self, department: &NewDepartment) -> Result<u32, StoreError>;

    /// Makes a group and returns its id.
    fn create_group(&self, group: &NewGroup) -> Result<u32, StoreError>;

    /// Changes a group's members and returns who was added or removed.
    fn change_members(&self, change: &MemberChange) -> Result<Vec<u32>, StoreError>;

    /// Every group, by id.
    fn list_groups(&self) -> Result<Vec<Group>, StoreError>;
}
