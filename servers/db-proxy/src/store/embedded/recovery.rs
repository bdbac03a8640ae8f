//! What happens at open, before anything is served: indexes are held against their tables, and the
//! high-water marks against the rows (see [`super::marks`]).
//!
//! An id that was handed out and has no row any more gets a tombstone: it is never handed out
//! again, and history shows a hole instead of a shorter conversation (G7).

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::kind_of;
use super::marks::{Mark, Marks, Slot};
use super::row::{self, Numbers, Place};
use crate::store::MessageKind;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Ids whose rows are gone.
    pub(super) lost: u64,
    /// Marks that could not be read.
    pub(super) damaged_marks: u64,
    /// Tables that do not agree with their indexes, and conversations whose pair was spoilt.
    pub(super) damaged_records: u64,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoveryError {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error("the high-water marks: {0}")]
    Marks(#[from] std::io::Error),
    #[error("the journal: {0}")]
    Journal(std::io::Error),
}

struct Conversation {
    id: i64,
    kind: u32,
    low: u32,
    high: u32,
    /// What its own row says was handed out last.
    counter: u32,
    /// The newest message row.
    newest: u32,
}

/// A counter that is further above the newest message is damaged rather than right.
const MOST_LOST: u32 = 1_000_000;

/// Compares marks and rows, records what is lost, and brings the marks up to date.
pub(super) fn reconcile(db: &mut Connection, marks: &Marks) -> Result<Findings, RecoveryError> {
    let slots = marks.read_all()?;
    let mut findings = Findings { damaged_records: check_indexes(db)?, ..Findings::default() };
    let mut found: HashMap<i64, Mark> = HashMap::new();
    for (id, slot) in &slots {
        match slot {
            Slot::Empty => {}
            Slot::Marked(mark) => {
                found.insert(*id, *mark);
            }
            Slot::Damaged => {
                log::error!("the high-water mark of conversation {id} is damaged; rebuilt from its messages");
                findings.damaged_marks += 1;
            }
        }
    }

    let step = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let known = conversations(&step)?;
    if slots.is_empty() && !known.is_empty() {
        log::warn!(
            "the high-water marks of {} conversations are missing; rebuilt from the messages, so a loss before this start cannot be seen",
            known.len()
        );
    }
    let mut right = HashMap::with_capacity(known.len());
    for conversation in &known {
        let Conversation { kind, mut low, mut high, .. } = *conversation;
        let mark = match found.remove(&conversation.id) {
            Some(mark) if (kind_of((mark.low, mark.high)), mark.low, mark.high) == (kind, low, high) => {
                Some(mark.msg_id)
            }
            Some(mark) if vouches(&step, conversation.id, mark)? => {
                log::error!(
                    "conversation {} was said to be of kind {kind} with #{low} and #{high}; it is of #{} and #{}",
                    conversation.id,
                    mark.low,
                    mark.high
                );
                findings.damaged_records += 1;
                (low, high) = (mark.low, mark.high);
                step.execute(
                    "UPDATE conversation SET kind = ?2, low = ?3, high = ?4 WHERE id = ?1",
                    params![conversation.id, kind_of((low, high)), low, high],
                )?;
                Some(mark.msg_id)
            }
            Some(_) => {
                log::error!(
                    "the high-water mark of conversation {} belongs to another pair; rebuilt from its messages",
                    conversation.id
                );
                findings.damaged_marks += 1;
                None
            }
            None => None,
        };
        // The counter has no checksum of its own: it counts where there is no mark, within reason.
        let counter = conversation.counter;
        let likely = counter.saturating_sub(conversation.newest) <= MOST_LOST;
        let handed_out = mark.or(likely.then_some(counter)).unwrap_or(0);
        let msg_id = handed_out.max(conversation.newest);
        if msg_id > conversation.newest {
            let place = Place { id: conversation.id, pair: (low, high) };
            findings.lost += bury(&step, place, conversation.newest + 1, msg_id)?;
        }
        if msg_id != counter {
            log::warn!(
                "conversation {}: the next message is {}, not {}",
                conversation.id,
                u64::from(msg_id) + 1,
                u64::from(counter) + 1
            );
            step.execute("UPDATE conversation SET last_msg_id = ?2 WHERE id = ?1", params![conversation.id, msg_id])?;
        }
        right.insert(conversation.id, Mark { low, high, msg_id });
    }
    for (id, mark) in found {
        if revive(&step, id, mark)? {
            findings.lost += bury(&step, Place { id, pair: (mark.low, mark.high) }, 1, mark.msg_id)?;
            right.insert(id, mark);
        } else {
            log::error!("the high-water mark of conversation {id} names a pair that has another conversation; ignored");
            findings.damaged_marks += 1;
        }
    }
    step.commit()?;

    for (id, slot) in &slots {
        // Reported above; without a conversation there is nothing to rebuild it from.
        if *slot != Slot::Empty && !right.contains_key(id) {
            marks.clear(*id)?;
        }
    }
    for (id, mark) in right {
        if slots.get(id as usize - 1).map(|(_, slot)| *slot) != Some(Slot::Marked(mark)) {
            marks.write(id, mark)?;
        }
    }
    marks.sync()?;
    Ok(findings)
}

/// Tables whose indexes decide what is found. (Messages are found by their own tree, and there are
/// too many of them to look at each at every start.)
const INDEXED: [&str; 7] = ["conversation", "session", "user", "depart", "device", "chat_group", "group_member"];

/// Looks for indexes that do not say what their tables say, and builds those anew. A conversation
/// that is not found by its pair would begin again with id 1.
fn check_indexes(db: &Connection) -> rusqlite::Result<u64> {
    let mut damaged = 0;
    for table in INDEXED {
        let finding: String = db.query_row(&format!("PRAGMA integrity_check({table})"), [], |row| row.get(0))?;
        if finding != "ok" {
            log::error!("the table {table} is damaged ({}); its indexes are built anew", finding.replace('\n', " "));
            db.execute_batch(&format!("REINDEX {table}"))?;
            damaged += 1;
        }
    }
    Ok(damaged)
}

/// Whether the newest message of a conversation belongs to the pair that its mark names.
fn vouches(step: &Transaction<'_>, id: i64, mark: Mark) -> rusqlite::Result<bool> {
    let place = Place { id, pair: (mark.low, mark.high) };
    step.prepare(&format!("SELECT {} FROM message WHERE conversation = ?1 ORDER BY msg_id DESC LIMIT 1", row::COLUMNS))?
        .query_row([id], |found| row::read(found, place))
        .optional()
        .map(|newest| matches!(newest, Some(Ok(_))))
}

fn conversations(step: &Transaction<'_>) -> rusqlite::Result<Vec<Conversation>> {
    step.prepare(
        // A number beyond any id is damage that mark and messages put right.
        "SELECT id, kind, low, high, min(max(last_msg_id, 0), 0xffffffff),
                coalesce((SELECT max(msg_id) FROM message WHERE conversation = id), 0)
         FROM conversation",
    )?
    .query_map([], |row| {
        Ok(Conversation {
            id: row.get(0)?,
            kind: row.get(1)?,
            low: row.get(2)?,
            high: row.get(3)?,
            counter: row.get(4)?,
            newest: row.get(5)?,
        })
    })?
    .collect()
}

/// Puts tombstones for `first..=last`.
fn bury(step: &Transaction<'_>, place: Place, first: u32, last: u32) -> rusqlite::Result<u64> {
    let id = place.id;
    log::error!(
        "conversation {id}: messages {first} to {last} were stored and are gone; their ids stay unused and history shows the hole"
    );
    let mut tombstone = step.prepare(
        "INSERT INTO message (conversation, msg_id, sender, type, created, content, checksum, status)
         VALUES (?1, ?2, ?3, ?4, ?5, x'', ?6, ?7)",
    )?;
    for msg_id in first..=last {
        let numbers = Numbers { msg_id, sender: 0, kind: MessageKind::Text as u32, created: 0, status: row::LOST };
        let Numbers { sender, kind, created, status, .. } = numbers;
        let checksum = row::checksum(place, numbers, &[]);
        tombstone.execute(params![id, msg_id, sender, kind, created, checksum, status])?;
    }
    Ok(u64::from(last - first) + 1)
}

/// Makes the row of a conversation that only its mark remembers. False if its pair has another.
fn revive(step: &Transaction<'_>, id: i64, mark: Mark) -> rusqlite::Result<bool> {
    let made = step.execute(
        "INSERT INTO conversation (id, kind, low, high, last_msg_id, created) VALUES (?1, ?2, ?3, ?4, ?5, unixepoch())
         ON CONFLICT (kind, low, high) DO NOTHING",
        params![id, kind_of((mark.low, mark.high)), mark.low, mark.high, mark.msg_id],
    )?;
    Ok(made == 1)
}
