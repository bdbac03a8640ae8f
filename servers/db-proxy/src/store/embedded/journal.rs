//! SQLite's journal: when it is folded into the database, and how it is made certain after a failure or a kill.
//!
//! What is found in the journal is not always on disk: a killed process leaves frames that no sync covered, and a
//! failed sync leaves frames that no later sync covers either (the kernel marks pages clean that never arrived).
//! SQLite believes both. [`settle`] writes them again before an answer rests on them (G1, G7).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::connection::BUSY_TIMEOUT;
use super::directory::JOURNAL;
use super::recovery::RecoveryError;

/// Bytes of the journal that are in memory at once while it is written again.
const CHUNK: usize = 1 << 20;

/// Writes the journal again as it is and syncs it: afterwards everything that the database shows is on disk.
///
/// This comes before any folding. Pages folded into the database from a journal with a hole on disk would, after a
/// power cut, lie under the older pages before the hole: a database of two moments. Readers are not in the way, as
/// they would be for a checkpoint; another process that writes, such as an operator's command, is waited for as long
/// as for any transaction, and an error after that is [`RecoveryError::Database`].
pub(super) fn settle(db: &mut Connection, directory: &Path) -> Result<(), RecoveryError> {
    // Nobody may append meanwhile. What other processes fold on their own only reads the journal.
    let alone = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let journal = OpenOptions::new().read(true).write(true).open(directory.join(JOURNAL));
    journal.and_then(|journal| write_again(&journal)).map_err(RecoveryError::Journal)?;
    alone.rollback()?;
    Ok(())
}

fn write_again(journal: &File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let read = journal.read_at(&mut chunk, at)?;
        if read == 0 {
            break;
        }
        journal.write_all_at(&chunk[..read], at)?;
        at += read as u64;
    }
    journal.sync_all()
}

/// Folds the journal into the database as far as no reader needs it. Returns the pages in the journal.
pub(super) fn fold(db: &Connection) -> rusqlite::Result<i64> {
    checkpoint(db, "PASSIVE").map(|(_, pages)| pages)
}

/// Makes the next commit write at the journal's beginning. Does not wait for other processes: one
/// that reads for long, such as a backup, must not hold up messages.
pub(super) fn restart(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(Duration::ZERO)?;
    let restarted = checkpoint(db, "RESTART");
    db.busy_timeout(BUSY_TIMEOUT)?;
    restarted.map(drop)
}

/// Folds all of the journal into the database and empties it.
pub(super) fn empty(db: &Connection) -> rusqlite::Result<()> {
    let (busy, _) = checkpoint(db, "TRUNCATE")?;
    if busy {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            Some("a reader holds the journal".to_owned()),
        ));
    }
    Ok(())
}

fn checkpoint(db: &Connection, mode: &str) -> rusqlite::Result<(bool, i64)> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| Ok((row.get(0)?, row.get(1)?)))
}
