//! Opening connections to the database, and what SQLite's errors mean to a caller.

use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction};

use super::directory::{self, DATABASE, OpenError};
use super::schema;
use crate::store::{Refusal, StoreError};

/// How long a connection waits for the lock of another process (an operator command, a backup).
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements kept per connection: more than there are different ones.
const STATEMENTS: usize = 64;

/// [`open_writer`] for the process that serves: checkpoints are left to it, because they are made
/// between batches, while nobody waits for an answer.
pub(super) fn open_serving(directory: &Path) -> Result<Connection, OpenError> {
    let db = open_writer(directory)?;
    db.pragma_update(None, "wal_autocheckpoint", 0)
        .and_then(|()| keep_journal(&db))
        .map_err(|error| open_error(directory, error))?;
    Ok(db)
}

/// Opens the database of a directory for writing and makes sure that it can be written durably.
pub(super) fn open_writer(directory: &Path) -> Result<Connection, OpenError> {
    // Created here and not by SQLite, for the mode.
    directory::create_database(directory)?;
    let open = || -> rusqlite::Result<(Connection, u32)> {
        let db = open_plain(directory)?;
        if db.is_readonly("main")? {
            return Err(unusable(rusqlite::ffi::SQLITE_READONLY, "read-only file"));
        }
        let version = schema::version(&db)?;
        if version <= schema::VERSION {
            let mode: String = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
            if mode != "wal" {
                return Err(unusable(rusqlite::ffi::SQLITE_CANTOPEN, "the file system takes no write-ahead journal"));
            }
            // Every commit syncs the journal (G1). NORMAL would sync at checkpoints only.
            db.pragma_update(None, "synchronous", "full")?;
            db.pragma_update(None, "foreign_keys", true)?;
        }
        Ok((db, version))
    };
    let (db, found) = open().map_err(|error| open_error(directory, error))?;
    if found > schema::VERSION {
        return Err(OpenError::TooNew { path: directory.join(DATABASE), found, known: schema::VERSION });
    }
    Ok(db)
}

/// Closing the last connection neither folds nor removes the journal: one that closes after a failed sync does not
/// know what of the journal is on disk.
fn keep_journal(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

fn unusable(code: std::ffi::c_int, why: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(why.to_owned()))
}

fn open_plain(directory: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(
        directory.join(DATABASE),
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

/// Connections that only read. Each worker thread uses one at a time, so there are never more
/// than threads that read at once; in WAL mode they never wait for the writer.
#[derive(Debug, Default)]
pub(super) struct Readers {
    idle: Mutex<Vec<Connection>>,
    /// Shared by every read, and held by nobody else while they are held off.
    gate: RwLock<()>,
}

impl Readers {
    /// Runs `read` in a transaction of its own: everything it sees is of one moment.
    pub(super) fn with<T>(
        &self,
        directory: &Path,
        read: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let _through = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let idle = self.lock().pop();
        let outcome = (|| {
            let mut db = match idle {
                Some(db) => db,
                None => open_reader(directory)?,
            };
            let value = {
                let snapshot = db.transaction()?;
                read(&snapshot)?
            };
            Ok((db, value))
        })();
        match outcome {
            Ok((db, value)) => {
                self.lock().push(db);
                Ok(value)
            }
            // The connection that failed is dropped: the next read opens a fresh one.
            Err(error) => Err(store_error(&error)),
        }
    }

    /// Does `work` when the reads under way have ended; later ones wait for it.
    pub(super) fn hold_off<T>(&self, work: impl FnOnce() -> T) -> T {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A push or a pop cannot leave the list half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the idle connections, so that a last checkpoint finds no other.
    pub(super) fn close(&self) {
        self.lock().clear();
    }
}

fn open_reader(directory: &Path) -> rusqlite::Result<Connection> {
    let db = open_plain(directory)?;
    db.pragma_update(None, "query_only", true)?;
    keep_journal(&db)?;
    Ok(db)
}

/// An error in one line: a damaged schema is quoted in many.
fn one_line(error: &rusqlite::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What an error of a running store means.
pub(super) fn store_error(error: &rusqlite::Error) -> StoreError {
    let text = one_line(error);
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(text),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy(text),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(text),
        Some(ErrorCode::ConstraintViolation) => Refusal::Rejected(text).into(),
        None if is_no_value_of_ours(error) => StoreError::Damaged(text),
        _ => StoreError::Failed(text),
    }
}

/// A number out of range, or a column of another type: nothing that this program writes.
fn is_no_value_of_ours(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// Whether the connection that met this error may go on. After an I/O error nobody knows what is
/// on disk: a failed sync marks pages clean that never arrived.
pub(super) fn connection_survives(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::ConstraintViolation
        ),
        None => is_no_value_of_ours(error),
    }
}

/// What an error at opening means.
pub(super) fn open_error(directory: &Path, error: rusqlite::Error) -> OpenError {
    let path = directory.join(DATABASE);
    match error.sqlite_error_code() {
        // Nothing that is done at start breaks a constraint of tables that agree with themselves.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => {
            OpenError::Damaged { path, error: one_line(&error) }
        }
        Some(ErrorCode::DiskFull) => OpenError::Full(path),
        Some(ErrorCode::ReadOnly) => {
            OpenError::NotWritable { path: directory.to_owned(), error: std::io::Error::other(error) }
        }
        None if is_no_value_of_ours(&error) => OpenError::Damaged { path, error: one_line(&error) },
        _ => OpenError::Failed { path, error: one_line(&error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g1_every_commit_is_synced() {
        let home = tempfile::tempdir().expect("a directory");
        for db in [open_writer(home.path()), open_serving(home.path())] {
            let db = db.expect("open");
            let number = |pragma| db.query_row(pragma, [], |row| row.get::<_, u32>(0)).expect(pragma);
            assert_eq!(number("PRAGMA synchronous"), 2, "FULL");
            assert_eq!(number("PRAGMA foreign_keys"), 1);
            assert_eq!(db.query_row("PRAGMA journal_mode", [], |row| row.get(0)), Ok("wal".to_owned()));
        }
    }

    #[test]
    fn readers_cannot_write() {
        let home = tempfile::tempdir().expect("a directory");
        drop(open_writer(home.path()).expect("open"));
        let reader = open_reader(home.path()).expect("open");
        assert!(reader.execute_batch("CREATE TABLE t (a)").is_err());
    }
}
