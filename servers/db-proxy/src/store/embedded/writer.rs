//! The one connection that writes: it commits batches (see [`super::batch`]), keeps the high-water
//! marks behind them, folds the journal into the database, and after a failure goes on only once
//! it knows what is on disk (G1, G7).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use super::connection::{Readers, connection_survives, open_serving, store_error};
use super::marks::{Mark, Marks};
use super::{Counters, batch, journal, recovery, schema};
use crate::store::{Applied, StoreError, Write};

/// Roughly how much journal may gather before it is folded into the database, in bytes.
const CHECKPOINT_AFTER: usize = 4 << 20;

/// A journal with more pages than this begins anew even if readers have to wait for that.
const JOURNAL_PAGES: i64 = 4_096;

#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    /// `None` after a failure that leaves open what is on disk.
    db: Option<Connection>,
    marks: Marks,
    /// Marks of committed messages that are not in the file yet.
    unwritten: BTreeMap<i64, Mark>,
    /// Estimate of what the journal gathered since the last checkpoint.
    journal: usize,
}

impl Writer {
    pub(super) fn new(directory: &Path, db: Connection, marks: Marks) -> Self {
        Self { directory: directory.to_owned(), db: Some(db), marks, unwritten: BTreeMap::new(), journal: 0 }
    }

    /// Runs a transaction, on a connection opened anew where that is due. After an error that leaves
    /// open what is on disk, nothing more goes over the connection.
    pub(super) fn with<T>(
        &mut self,
        counters: &Counters,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let outcome = work(self.connection(counters)?);
        outcome.map_err(|error| {
            if connection_survives(&error) {
                return store_error(&error);
            }
            self.db = None;
            match store_error(&error) {
                // The journal may have the whole transaction, and the reopened store will then have it too.
                StoreError::Failed(text) if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => {
                    StoreError::Uncertain(text)
                }
                other => other,
            }
        })
    }

    /// Applies a batch; the outer error is the whole batch's.
    pub(super) fn apply(
        &mut self,
        batch: &[Write],
        counters: &Counters,
    ) -> Result<Vec<Result<Applied, StoreError>>, StoreError> {
        let (answers, marks) = self.with(counters, |db| batch::commit(db, batch))?;
        self.unwritten.extend(marks);
        self.write_marks();
        self.journal += 16 << 10; // the pages that every commit touches
        for write in batch {
            self.journal += match write {
                Write::Message(_) | Write::CreateGroup(_) | Write::ChangeMembers(_) => 512,
                _ => 64,
            } + write.weight();
        }
        Ok(answers)
    }

    /// Folds the journal into the database once it has grown. The journal begins anew when no read
    /// needs it for a moment; where reads follow each other without a break, such a moment is made.
    pub(super) fn tend(&mut self, counters: &Counters, readers: &Readers) {
        if self.journal < CHECKPOINT_AFTER || self.db.is_none() {
            return;
        }
        self.journal = 0;
        self.sync_marks();
        let folded = self.with(counters, |db| journal::fold(db)).and_then(|pages| {
            if pages > JOURNAL_PAGES {
                return readers.hold_off(|| self.with(counters, |db| journal::restart(db)));
            }
            Ok(())
        });
        if let Err(error) = folded {
            log::warn!("the journal could not be folded into the database: {error}");
        }
    }

    /// The last folding, so that a closed store is one database file.
    pub(super) fn close(&mut self) {
        self.write_marks();
        self.sync_marks();
        if let Some(db) = self.db.take()
            // Removed with the connection now that it is empty.
            && let Err(error) =
                journal::empty(&db).and_then(|()| db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false))
        {
            log::warn!("the journal stays beside the database: {error}");
        }
    }

    fn connection(&mut self, counters: &Counters) -> Result<&mut Connection, StoreError> {
        if self.db.is_none() {
            self.db = Some(self.reopen(counters)?);
        }
        Ok(self.db.as_mut().expect("opened above"))
    }

    /// Opens anew after a failure. The journal's tail may be in the page cache and not on disk, so it
    /// is first made certain, and every acknowledged message must still be found; only then does the
    /// store go on.
    fn reopen(&mut self, counters: &Counters) -> Result<Connection, StoreError> {
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed(error.to_string());
        let mut db = open_serving(&self.directory).map_err(|error| failed(&error))?;
        journal::settle(&mut db, &self.directory).map_err(|error| match error {
            recovery::RecoveryError::Database(error) => store_error(&error),
            other => failed(&other),
        })?;
        if schema::version(&db).map_err(|error| store_error(&error))? != schema::VERSION {
            return Err(StoreError::Failed("the database was replaced".to_owned()));
        }
        self.write_marks();
        let findings = recovery::reconcile(&mut db, &self.marks).map_err(|error| failed(&error))?;
        counters.count_findings(findings);
        Counters::add(&counters.reopened, 1);
        Ok(db)
    }

    fn write_marks(&mut self) {
        while let Some(entry) = self.unwritten.first_entry() {
            if let Err(error) = self.marks.write(*entry.key(), *entry.get()) {
                // The messages are on disk; what is missing is the second witness. The next batch
                // tries again.
                log::error!("a high-water mark could not be written: {error}");
                return;
            }
            entry.remove();
        }
    }

    fn sync_marks(&self) {
        if let Err(error) = self.marks.sync() {
            log::error!("the high-water marks could not be synced: {error}");
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
