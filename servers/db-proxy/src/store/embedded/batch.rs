//! One batch is one transaction: ids are handed out in it (G3), a repeated client message id is
//! found in it (G2), and all of it is on disk or none.
//!
//! A conversation's counter and its two session rows are written once per batch, however many
//! messages it got.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::connection::store_error;
use super::marks::Mark;
use super::row::{self, Numbers, Place};
use super::{SINGLE, now, settings};
use crate::store::{Applied, NewMessage, Refusal, StoreError, Write};

/// One answer per member, and the new mark of each conversation that got a message.
pub(super) type Done = (Vec<Result<Applied, StoreError>>, Vec<(i64, Mark)>);

/// Applies a batch. An error is the whole batch's: nothing of it is stored.
pub(super) fn commit(db: &mut Connection, batch: &[Write]) -> rusqlite::Result<Done> {
    // Members that break a rule of the schema or meet damage are set aside and the rest runs again,
    // so that no member has to pay for a savepoint.
    let mut set_aside = BTreeMap::new();
    loop {
        match run(db, batch, &set_aside) {
            Ok(done) => return Ok(done),
            Err(Failure::Member(index, error @ StoreError::Damaged(_))) => {
                // The rest of its conversation would meet the same.
                let pair = pair_of(&batch[index]);
                let rest = (index..batch.len()).filter(|member| pair_of(&batch[*member]) == pair);
                set_aside.extend(rest.map(|member| (member, error.clone())));
            }
            Err(Failure::Member(index, error)) => {
                set_aside.insert(index, error);
            }
            Err(Failure::Batch(error)) => return Err(error),
        }
    }
}

/// Why an attempt did not commit.
enum Failure {
    /// This member broke a constraint, or needs what is damaged.
    Member(usize, StoreError),
    /// The database failed.
    Batch(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Batch(error)
    }
}

/// One attempt at the transaction. Dropping it on the way out rolls back.
fn run(db: &mut Connection, batch: &[Write], set_aside: &BTreeMap<usize, StoreError>) -> Result<Done, Failure> {
    let step = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut open = Batch { db: &step, now: now(), conversations: BTreeMap::new() };
    let mut answers = Vec::with_capacity(batch.len());
    for (index, write) in batch.iter().enumerate() {
        if let Some(error) = set_aside.get(&index) {
            answers.push(Err(error.clone()));
            continue;
        }
        let answer = match write {
            Write::Message(message) => open.message(message),
            Write::Read { user, peer, up_to } => open.read(*user, *peer, *up_to),
            Write::RemoveSession { user, peer } => open.remove_session(*user, *peer),
            Write::Account { user, change } => settings::change(open.db, *user, change),
            Write::Device { user, device, token } => {
                settings::keep_device(open.db, *user, device, token.as_ref(), open.now)
            }
        };
        answers.push(match answer {
            Ok(applied) => Ok(applied),
            Err(Rejection::Refused(error)) => Err(error),
            Err(Rejection::Database(error)) => {
                return Err(match store_error(&error) {
                    // Damage too is the member's own: others do not touch that page or row.
                    own @ (StoreError::Refused(_) | StoreError::Damaged(_)) => Failure::Member(index, own),
                    _ => Failure::Batch(error),
                });
            }
        });
    }
    let marks = open.finish()?;
    step.commit()?;
    Ok((answers, marks))
}

/// Why a member was not applied.
pub(super) enum Rejection {
    /// It is refused; the others go on.
    Refused(StoreError),
    /// The database said no.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Rejection {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

/// A conversation as this batch has left it so far.
struct Conversation {
    id: i64,
    last_msg_id: u32,
    /// Got a message in this batch.
    grown: bool,
    /// Its counter and sessions do not say so yet.
    unsettled: bool,
}

struct Batch<'a> {
    db: &'a Connection,
    now: u32,
    /// By pair, smaller id first.
    conversations: BTreeMap<(u32, u32), Conversation>,
}

impl Batch<'_> {
    fn message(&mut self, message: &NewMessage) -> Result<Applied, Rejection> {
        if message.content.is_empty() {
            return Err(Refusal::Empty.into());
        }
        if message.from == message.to {
            return Err(Refusal::ToOneself.into());
        }
        let pair = pair(message.from, message.to);
        if let Some(client_msg_id) = &message.client_msg_id
            && let Some(first) = self.repetition(message, pair, client_msg_id)?
        {
            return Ok(first);
        }
        if self.find(pair)?.is_none_or(|found| !found.grown) {
            self.begin(pair)?;
        }
        let conversation = self.conversations.get_mut(&pair).expect("begun in this batch");
        let msg_id = conversation.last_msg_id + 1;
        let numbers = Numbers {
            msg_id,
            sender: message.from,
            kind: message.kind as u32,
            created: message.created,
            status: row::NORMAL,
        };
        let place = Place { id: conversation.id, pair };
        self.db
            .prepare_cached(
                "INSERT INTO message
                     (conversation, msg_id, sender, type, created, content, client_msg_id, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                conversation.id,
                msg_id,
                numbers.sender,
                numbers.kind,
                numbers.created,
                &message.content[..],
                message.client_msg_id,
                row::checksum(place, numbers, &message.content),
            ])?;
        conversation.last_msg_id = msg_id;
        conversation.grown = true;
        conversation.unsettled = true;
        Ok(Applied::Message { msg_id, created: message.created, repeated: false })
    }

    /// G2: the answer to a client message id that is stored already.
    fn repetition(
        &mut self,
        message: &NewMessage,
        pair: (u32, u32),
        client_msg_id: &str,
    ) -> Result<Option<Applied>, Rejection> {
        let here = self.find(pair)?.map(|found| found.id);
        let stored = self
            .db
            .prepare_cached(&format!("SELECT {} FROM message WHERE sender = ?1 AND client_msg_id = ?2", row::COLUMNS))?
            .query_row(params![message.from, client_msg_id], |found| {
                let id: i64 = found.get(0)?;
                Ok(if here == Some(id) { Some(row::read(found, Place { id, pair })?) } else { None })
            })
            .optional()?;
        match stored {
            None => Ok(None),
            Some(Some(Err(damaged))) => {
                let which = format!("message {} between #{} and #{}", damaged.msg_id, pair.0, pair.1);
                Err(Rejection::Refused(StoreError::Damaged(which)))
            }
            // Not the time: the msg server stamps each attempt anew.
            Some(Some(Ok(Some(first)))) if first.kind == message.kind && first.content == message.content => {
                Ok(Some(Applied::Message { msg_id: first.msg_id, created: first.created, repeated: true }))
            }
            // Another content, or another conversation.
            Some(_) => Err(Refusal::IdReused.into()),
        }
    }

    /// G5: the cursor only moves forward, and never past the newest message.
    fn read(&mut self, user: u32, peer: u32, up_to: Option<u32>) -> Result<Applied, Rejection> {
        let Some(conversation) = self.find(pair(user, peer))? else {
            return Ok(Applied::Read { cursor: 0 });
        };
        let (id, newest) = (conversation.id, conversation.last_msg_id);
        let cursor = self
            .db
            .prepare_cached(
                "INSERT INTO cursor (user, conversation, read_msg_id) VALUES (?1, ?2, ?3)
                 ON CONFLICT (user, conversation)
                 DO UPDATE SET read_msg_id = max(read_msg_id, excluded.read_msg_id)
                 RETURNING read_msg_id",
            )?
            .query_row(params![user, id, up_to.map_or(newest, |id| id.min(newest))], |row| row.get(0))?;
        Ok(Applied::Read { cursor })
    }

    fn remove_session(&mut self, user: u32, peer: u32) -> Result<Applied, Rejection> {
        self.settle(pair(user, peer))?;
        let removed = self
            .db
            .prepare_cached(
                "UPDATE session SET status = 1, updated = max(updated, ?4)
                 WHERE user = ?1 AND kind = ?2 AND peer = ?3 AND status = 0",
            )?
            .execute(params![user, SINGLE, peer, self.now])?;
        if removed == 1 {
            self.read(user, peer, None)?;
        }
        Ok(Applied::RemovedSession { found: removed == 1 })
    }

    fn find(&mut self, pair: (u32, u32)) -> rusqlite::Result<Option<&mut Conversation>> {
        if !self.conversations.contains_key(&pair) {
            let found = self
                .db
                .prepare_cached(
                    "SELECT id, last_msg_id FROM conversation
                     WHERE kind = ?1 AND low = ?2 AND high = ?3",
                )?
                .query_row(params![SINGLE, pair.0, pair.1], |row| {
                    Ok(Conversation { id: row.get(0)?, last_msg_id: row.get(1)?, grown: false, unsettled: false })
                })
                .optional()?;
            if let Some(found) = found {
                self.conversations.insert(pair, found);
            }
        }
        Ok(self.conversations.get_mut(&pair))
    }

    /// The first message of a batch to a pair: both must exist, and so must their conversation.
    fn begin(&mut self, pair: (u32, u32)) -> Result<(), Rejection> {
        for user in [pair.0, pair.1] {
            let known = self.db.prepare_cached("SELECT 1 FROM user WHERE id = ?1")?.exists([user])?;
            if !known {
                return Err(Refusal::UnknownUser(user).into());
            }
        }
        if self.conversations.contains_key(&pair) {
            return Ok(());
        }
        let id = self
            .db
            .prepare_cached("INSERT INTO conversation (kind, low, high, created) VALUES (?1, ?2, ?3, ?4)")?
            .insert(params![SINGLE, pair.0, pair.1, self.now])?;
        self.conversations.insert(pair, Conversation { id, last_msg_id: 0, grown: false, unsettled: false });
        Ok(())
    }

    /// Writes what the batch has gathered for a conversation.
    fn settle(&mut self, pair: (u32, u32)) -> rusqlite::Result<()> {
        let Some(conversation) = self.conversations.get_mut(&pair).filter(|found| found.unsettled) else {
            return Ok(());
        };
        self.db
            .prepare_cached("UPDATE conversation SET last_msg_id = ?2 WHERE id = ?1")?
            .execute(params![conversation.id, conversation.last_msg_id])?;
        for (user, peer) in [pair, (pair.1, pair.0)] {
            self.db
                .prepare_cached(
                    "INSERT INTO session (user, kind, peer, conversation, created, updated)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?5)
                     ON CONFLICT (user, kind, peer)
                     DO UPDATE SET status = 0, updated = max(updated, excluded.updated)",
                )?
                .execute(params![user, SINGLE, peer, conversation.id, self.now])?;
        }
        conversation.unsettled = false;
        Ok(())
    }

    /// Writes all that the batch has gathered, and returns the new marks.
    fn finish(mut self) -> rusqlite::Result<Vec<(i64, Mark)>> {
        let pairs: Vec<_> = self.conversations.keys().copied().collect();
        for pair in pairs {
            self.settle(pair)?;
        }
        let grown = self.conversations.into_iter().filter(|(_, conversation)| conversation.grown);
        Ok(grown
            .map(|((low, high), Conversation { id, last_msg_id: msg_id, .. })| (id, Mark { low, high, msg_id }))
            .collect())
    }
}

fn pair_of(write: &Write) -> (u32, u32) {
    match write {
        Write::Message(message) => pair(message.from, message.to),
        Write::Read { user, peer, .. } | Write::RemoveSession { user, peer } => pair(*user, *peer),
        Write::Account { user, .. } | Write::Device { user, .. } => (*user, *user),
    }
}

/// A pair of users in the order in which conversations name it.
fn pair(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}
