//! The embedded store: SQLite in a data directory, nothing to install.
//!
//! One connection writes, in batches (`writer`, `batch`); reads run beside it on connections of their own
//! (`reads`). [`Embedded`] is the store of a serving process and holds the directory's lock;
//! [`Operator`] is for commands that change accounts beside it.
//!
//! | file | what it is |
//! |---|---|
//! | `teamtalk.db`, `-wal`, `-shm` | the database, its journal and the journal's index |
//! | `high-water.marks` | the highest message id per conversation, outside the journal |
//! | `LOCK` | held, and naming the holder, while a process serves |

mod accounts;
mod batch;
mod connection;
mod directory;
mod groups;
mod journal;
mod marks;
mod reads;
mod recovery;
mod row;
mod schema;
mod settings;
mod stamped;
mod writer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction};

use super::{
    Accounts, Applied, Department, Device, Group, MemberChange, Message, NewDepartment, NewGroup, NewUser, Page, Peer,
    Session, Stats, Store, StoreError, Unread, User, UserStatus, Validation, Write,
};
use accounts::Trouble;
use connection::{Readers, open_error, open_serving, open_writer, store_error};
use marks::Marks;
use recovery::RecoveryError;
use writer::Writer;

pub use directory::{DATABASE, LOCK, MARKS, OpenError, create};

/// `kind` of a conversation or session between two users.
const SINGLE: u32 = 1;
/// `kind` of a group's.
const GROUP: u32 = 2;

impl Peer {
    fn id(self) -> u32 {
        match self {
            Self::User(id) | Self::Group(id) => id,
        }
    }

    fn kind(self) -> u32 {
        match self {
            Self::User(_) => SINGLE,
            Self::Group(_) => GROUP,
        }
    }
}

/// What names a conversation: two users, the smaller id first, or a group and 0. Nobody has the
/// id 0, so the two never meet.
fn pair(user: u32, peer: Peer) -> (u32, u32) {
    match peer {
        Peer::User(other) => (user.min(other), user.max(other)),
        Peer::Group(group) => (group, 0),
    }
}

/// `kind` of the conversation that has this pair.
fn kind_of(pair: (u32, u32)) -> u32 {
    if pair.1 == 0 { GROUP } else { SINGLE }
}

/// The store of a serving process.
#[derive(Debug)]
pub struct Embedded {
    directory: PathBuf,
    writer: Mutex<Writer>,
    readers: Readers,
    counters: Counters,
    /// The last batch was not stored.
    failing: AtomicBool,
    /// Last: the directory is free only when everything else is closed.
    _lock: directory::Lock,
}

impl Embedded {
    /// Opens the store in an existing directory, for this process alone. Makes the database where
    /// there is none, makes certain what a killed process left in the journal, migrates an older
    /// database, and holds the high-water marks against the rows.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        directory::check(directory)?;
        let lock = directory::lock(directory)?;
        let mut db = open_serving(directory)?;
        let failed = |error| match error {
            RecoveryError::Database(error) => open_error(directory, error),
            RecoveryError::Marks(error) => OpenError::Failed { path: directory.join(MARKS), error: error.to_string() },
            RecoveryError::Journal(error) => directory::not_opened(directory, directory::JOURNAL, error),
        };
        journal::settle(&mut db, directory).map_err(failed)?;
        schema::migrate(&mut db).map_err(|error| open_error(directory, error))?;
        let marks = Marks::new(directory::open_file(directory, MARKS)?);
        let findings = recovery::reconcile(&mut db, &marks).map_err(failed)?;
        let counters = Counters::default();
        counters.count_findings(findings);
        Ok(Self {
            directory: directory.to_owned(),
            writer: Mutex::new(Writer::new(directory, db, marks)),
            readers: Readers::default(),
            counters,
            failing: AtomicBool::new(false),
            _lock: lock,
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.readers.with(&self.directory, read)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic in the middle of a batch rolled its transaction back.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verb<T>(&self, verb: impl FnOnce(&Connection) -> Result<T, Trouble>) -> Result<T, StoreError> {
        self.writer().with(&self.counters, |db| accounts::transact(db, verb))?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.readers.close();
        self.writer().close();
    }
}

impl Store for Embedded {
    fn validate(&self, name: &str, wire_digest: &str) -> Result<Validation, StoreError> {
        self.read(|db| accounts::validate(db, name, wire_digest))
    }

    fn users_changed_since(&self, since: u32, budget: usize) -> Result<Page<User>, StoreError> {
        self.read(|db| accounts::users_changed_since(db, since, budget))
    }

    fn users_by_ids(&self, ids: &[u32]) -> Result<Vec<User>, StoreError> {
        self.read(|db| accounts::users_by_ids(db, ids))
    }

    fn departments_changed_since(&self, since: u32, budget: usize) -> Result<Page<Department>, StoreError> {
        self.read(|db| accounts::departments_changed_since(db, since, budget))
    }

    fn push_shield(&self, user: u32) -> Result<Option<bool>, StoreError> {
        self.read(|db| accounts::push_shield(db, user))
    }

    fn devices(&self, users: &[u32]) -> Result<Vec<Device>, StoreError> {
        self.read(|db| settings::devices(db, users))
    }

    fn recent_sessions(&self, user: u32, since: u32, limit: u32) -> Result<Vec<Session>, StoreError> {
        self.read_sessions(user, since, limit)
    }

    fn unread(&self, user: u32) -> Result<Vec<Unread>, StoreError> {
        self.read_unread(user)
    }

    fn history(&self, user: u32, peer: Peer, begin: u32, count: u32) -> Result<Vec<Message>, StoreError> {
        self.read_history(user, peer, begin, count)
    }

    fn messages_by_id(&self, user: u32, peer: Peer, ids: &[u32]) -> Result<Vec<Message>, StoreError> {
        self.read_by_id(user, peer, ids)
    }

    fn latest_msg_id(&self, user: u32, peer: Peer) -> Result<u32, StoreError> {
        self.read_latest_id(user, peer)
    }

    fn fixed_groups(&self, user: u32) -> Result<Vec<(u32, u32)>, StoreError> {
        self.read(|db| groups::fixed(db, user))
    }

    fn groups(&self, user: u32, wanted: &[(u32, u32)]) -> Result<Vec<Group>, StoreError> {
        self.read(|db| groups::cards(db, user, wanted))
    }

    fn group_shields(&self, group: u32, users: &[u32]) -> Result<Vec<(u32, bool)>, StoreError> {
        self.read(|db| groups::shields(db, group, users))
    }

    fn apply(&self, batch: &[Write]) -> Vec<Result<Applied, StoreError>> {
        match self.writer().apply(batch, &self.counters) {
            Ok(answers) => {
                Counters::add(&self.counters.commits, 1);
                if self.failing.swap(false, Ordering::Relaxed) {
                    log::info!("the store writes again");
                }
                answers
            }
            Err(error) => {
                Counters::add(&self.counters.failed_batches, 1);
                // Once, not for each batch of a disk that stays full.
                if !self.failing.swap(true, Ordering::Relaxed) {
                    log::error!("a batch of {} was not stored, and nothing of it acknowledged: {error}", batch.len());
                }
                vec![Err(error); batch.len()]
            }
        }
    }

    fn tend(&self) {
        self.writer().tend(&self.counters, &self.readers);
    }

    fn stats(&self) -> Stats {
        self.counters.snapshot()
    }
}

impl Accounts for Embedded {
    fn add_user(&self, user: &NewUser) -> Result<u32, StoreError> {
        self.verb(|db| accounts::add(db, user))
    }

    fn add_users(&self, users: &[NewUser]) -> Result<Vec<u32>, StoreError> {
        self.verb(|db| users.iter().map(|user| accounts::add(db, user)).collect())
    }

    fn list_users(&self) -> Result<Vec<User>, StoreError> {
        self.read(|db| accounts::list(db))
    }

    fn set_password(&self, name: &str, wire_digest: &str) -> Result<(), StoreError> {
        self.verb(|db| accounts::set_password(db, name, wire_digest))
    }

    fn set_status(&self, name: &str, status: UserStatus) -> Result<(), StoreError> {
        self.verb(|db| accounts::set_status(db, name, status))
    }

    fn save_department(&self, department: &NewDepartment) -> Result<u32, StoreError> {
        self.verb(|db| accounts::save_department(db, department))
    }

    fn create_group(&self, group: &NewGroup) -> Result<u32, StoreError> {
        self.verb(|db| groups::make(db, group, now()).map(|(id, _)| id))
    }

    fn change_members(&self, change: &MemberChange) -> Result<Vec<u32>, StoreError> {
        self.verb(|db| groups::alter(db, change, now()))
    }

    fn list_groups(&self) -> Result<Vec<Group>, StoreError> {
        self.read(|db| groups::list(db))
    }
}

/// Accounts of a data directory, beside the process that serves it or without one.
#[derive(Debug)]
pub struct Operator {
    db: Mutex<Connection>,
}

impl Operator {
    /// Opens the accounts of an existing directory. Refused to anyone but the directory's owner.
    /// Takes no lock, unless the database has to be made or migrated first.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        directory::check(directory)?;
        directory::check_owner(directory)?;
        let mut db = open_writer(directory)?;
        let failed = |error| open_error(directory, error);
        if schema::version(&db).map_err(failed)? < schema::VERSION {
            // Not under the feet of an older program that is serving.
            let _lock = directory::lock(directory)?;
            schema::migrate(&mut db).map_err(failed)?;
        }
        Ok(Self { db: Mutex::new(db) })
    }

    fn verb<T>(&self, verb: impl FnOnce(&Connection) -> Result<T, Trouble>) -> Result<T, StoreError> {
        let mut db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        accounts::transact(&mut db, verb).map_err(|error| store_error(&error))?
    }
}

impl Accounts for Operator {
    fn add_user(&self, user: &NewUser) -> Result<u32, StoreError> {
        self.verb(|db| accounts::add(db, user))
    }

    fn add_users(&self, users: &[NewUser]) -> Result<Vec<u32>, StoreError> {
        self.verb(|db| users.iter().map(|user| accounts::add(db, user)).collect())
    }

    fn list_users(&self) -> Result<Vec<User>, StoreError> {
        self.verb(|db| Ok(accounts::list(db)?))
    }

    fn set_password(&self, name: &str, wire_digest: &str) -> Result<(), StoreError> {
        self.verb(|db| accounts::set_password(db, name, wire_digest))
    }

    fn set_status(&self, name: &str, status: UserStatus) -> Result<(), StoreError> {
        self.verb(|db| accounts::set_status(db, name, status))
    }

    fn save_department(&self, department: &NewDepartment) -> Result<u32, StoreError> {
        self.verb(|db| accounts::save_department(db, department))
    }

    fn create_group(&self, group: &NewGroup) -> Result<u32, StoreError> {
        self.verb(|db| groups::make(db, group, now()).map(|(id, _)| id))
    }

    fn change_members(&self, change: &MemberChange) -> Result<Vec<u32>, StoreError> {
        self.verb(|db| groups::alter(db, change, now()))
    }

    fn list_groups(&self) -> Result<Vec<Group>, StoreError> {
        self.verb(|db| Ok(groups::list(db)?))
    }
}

/// [`Stats`] while they grow.
#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    failed_batches: AtomicU64,
    reopened: AtomicU64,
    damaged_rows: AtomicU64,
    lost_messages: AtomicU64,
    damaged_marks: AtomicU64,
    damaged_records: AtomicU64,
    /// Damaged messages that the log knows already, by conversation and id.
    reported: Mutex<BTreeSet<(i64, i64)>>,
}

/// Damaged messages that are logged one by one.
const MAX_REPORTED: usize = 1_000;

impl Counters {
    fn add(counter: &AtomicU64, number: u64) {
        counter.fetch_add(number, Ordering::Relaxed);
    }

    /// Counts a read of a damaged message; the log tells of each message once.
    fn count_damaged_row(&self, conversation: i64, msg_id: i64) {
        Self::add(&self.damaged_rows, 1);
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() < MAX_REPORTED && reported.insert((conversation, msg_id)) {
            log::error!("message {msg_id} of conversation {conversation} is damaged or gone and is not served");
        }
    }

    fn count_findings(&self, findings: recovery::Findings) {
        Self::add(&self.lost_messages, findings.lost);
        Self::add(&self.damaged_marks, findings.damaged_marks);
        Self::add(&self.damaged_records, findings.damaged_records);
    }

    fn snapshot(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&self.commits),
            failed_batches: read(&self.failed_batches),
            reopened: read(&self.reopened),
            damaged_rows: read(&self.damaged_rows),
            lost_messages: read(&self.lost_messages),
            damaged_marks: read(&self.damaged_marks),
            damaged_records: read(&self.damaged_records),
        }
    }
}

/// Unix seconds.
fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}
