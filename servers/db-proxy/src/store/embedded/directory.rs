//! The data directory: what must be true of it before a database is opened in it, who may work in
//! it, and the lock that keeps a second serving process out.
//!
//! Every failure is one line that names the path and says what to do.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The database file in the data directory.
pub const DATABASE: &str = "teamtalk.db";
/// The database's journal.
pub(super) const JOURNAL: &str = "teamtalk.db-wal";
/// The lock file of the serving process; it holds the process id as text.
pub const LOCK: &str = "LOCK";
/// The file of the high-water marks: the highest message id of each conversation.
pub const MARKS: &str = "high-water.marks";

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The path does not exist.
    #[error("the data directory {} does not exist: create it or choose another", .0.display())]
    Missing(PathBuf),
    /// The path is something else.
    #[error("{} is not a directory: choose another data directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory or a file in it cannot be written.
    #[error("the data directory {} cannot be written ({error}): make it writable for this user or choose another", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another serving process holds the lock.
    #[error("the data directory {} is in use by process {pid}: stop that one or choose another", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the lock file says about its holder.
        pid: String,
    },
    /// An operator command runs as somebody else than the directory's owner.
    #[error("the data directory {} belongs to user id {owner}, and this is user id {user}: run the command as its owner", path.display())]
    NotTheOwner {
        /// The directory.
        path: PathBuf,
        /// Whose directory it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// The database was written by a newer version.
    #[error("the database {} has version {found}, and this program knows versions up to {known}: use the newer program", path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that is understood here.
        known: u32,
    },
    /// The file is no database, or is damaged beyond opening.
    #[error("the database {} is damaged or no database ({error}): restore a backup of the directory, or move the directory away to start empty", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        error: String,
    },
    /// The database file is missing or empty beside files that only a used one leaves.
    #[error("the database {} is gone, and the files beside it show that there was one: restore a backup of the directory, or move the directory away to start empty", .0.display())]
    Gone(PathBuf),
    /// The file system is full.
    #[error("no space left for the database {}: free some and start again", .0.display())]
    Full(PathBuf),
    /// Anything else that the system refused.
    #[error("cannot open the database {}: {error}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: String,
    },
}

/// Makes a data directory, and what is missing above it, for this user alone (mode 0700).
pub fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Checks that `path` is a directory.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    match path.metadata() {
        Ok(found) if found.is_dir() => {
            if found.mode() & 0o077 != 0 {
                log::warn!(
                    "the data directory {} can be entered by other users: chmod 700 keeps them out",
                    path.display()
                );
            }
            Ok(())
        }
        Ok(_) => Err(OpenError::NotADirectory(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Missing(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(OpenError::NotADirectory(path.to_owned())),
        Err(error) => Err(not_writable(path, error)),
    }
}

/// Refuses anyone but the directory's owner: files that root leaves behind would lock the owner's
/// server out of its own database.
pub(super) fn check_owner(path: &Path) -> Result<(), OpenError> {
    let owner = path.metadata().map_err(|error| not_writable(path, error))?.uid();
    let user = rustix::process::geteuid().as_raw();
    if owner == user {
        return Ok(());
    }
    Err(OpenError::NotTheOwner { path: path.to_owned(), owner, user })
}

/// Makes the database file where there is none, with mode 0600; SQLite gives its journal the same.
/// A file that exists is not even opened: closing it again would release the locks that SQLite
/// holds on it elsewhere in this process. Refused where there was one: SQLite would begin an empty
/// database and throw the journal of the lost one away.
pub(super) fn create_database(directory: &Path) -> Result<(), OpenError> {
    let path = directory.join(DATABASE);
    let is_used = |path: &Path| path.metadata().is_ok_and(|found| found.len() > 0);
    if !is_used(&path) && (is_used(&directory.join(JOURNAL)) || is_used(&directory.join(MARKS))) {
        return Err(OpenError::Gone(path));
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(not_opened(directory, DATABASE, error)),
    }
}

/// Opens a file of the directory for reading and writing, creating it with mode 0600.
pub(super) fn open_file(directory: &Path, name: &str) -> Result<File, OpenError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(name))
        .map_err(|error| not_opened(directory, name, error))
}

/// The directory, taken for this process. The kernel releases it when the process ends, however it
/// ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child process that was forked a moment ago may still have a copy
        // of the descriptor. (An error would mean that it is not locked.)
        let _ = self.0.unlock();
    }
}

/// Takes the directory until the lock is dropped.
pub(super) fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let mut file = open_file(directory, LOCK)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The answer is the same whether or not the file says who holds it.
            let _ = file.read_to_string(&mut pid);
            return Err(OpenError::InUse { path: directory.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(not_writable(directory, error)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(|error| not_opened(directory, LOCK, error))?;
    Ok(Lock(file))
}

pub(super) fn not_opened(directory: &Path, name: &str, error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::StorageFull => OpenError::Full(directory.join(name)),
        _ => not_writable(directory, error),
    }
}

fn not_writable(path: &Path, error: io::Error) -> OpenError {
    OpenError::NotWritable { path: path.to_owned(), error }
}
