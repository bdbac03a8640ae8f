//! One batch is one transaction: ids are handed out in it (G3), a repeated client message id is
//! found in it (G2), and all of it is on disk or none.
//!
//! A conversation's counter and its two session rows, or its group's time, are written once per
//! batch, however many messages it got. Nothing is written per member of a group.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::accounts::Trouble;
use super::connection::store_error;
use super::marks::Mark;
use super::row::{self, Numbers, Place};
use super::{GROUP, SINGLE, groups, kind_of, now, pair, settings};
use crate::store::{Applied, MemberChange, NewMessage, Peer, Refusal, StoreError, Write};

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
            Write::CreateGroup(new) => groups::create(&step, new, open.now).map_err(Rejection::from),
            Write::ChangeMembers(change) => open.change_members(change),
            Write::ShieldGroup { user, group, on } => {
                groups::shield(&step, *user, *group, *on).map_err(Rejection::from)
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

impl From<Trouble> for Rejection {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(refusal) => refusal.into(),
            Trouble::Database(error) => error.into(),
        }
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
    /// By pair, as [`pair`] gives it.
    conversations: BTreeMap<(u32, u32), Conversation>,
}

impl Batch<'_> {
    fn message(&mut self, message: &NewMessage) -> Result<Applied, Rejection> {
        if message.content.is_empty() {
            return Err(Refusal::Empty.into());
        }
        if message.to == Peer::User(message.from) {
            return Err(Refusal::ToOneself.into());
        }
        let pair = pair(message.from, message.to);
        if let Some(client_msg_id) = &message.client_msg_id
            && let Some(first) = self.repetition(message, pair, client_msg_id)?
        {
            return Ok(first);
        }
        let mut group_version = 0;
        match message.to {
            Peer::User(_) if self.find(pair)?.is_some_and(|found| found.grown) => {}
            Peer::User(_) => self.begin(pair)?,
            Peer::Group(group) => {
                group_version = groups::admit(self.db, message.from, group)?;
                if self.find(pair)?.is_none() {
                    return Err(Refusal::UnknownGroup(group).into());
                }
            }
        }
        let conversation = self.conversations.get_mut(&pair).expect("found or begun above");
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
        Ok(Applied::Message { msg_id, created: message.created, repeated: false, group_version })
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
                let which = format!("message {} of conversation #{} #{}", damaged.msg_id, pair.0, pair.1);
                Err(Rejection::Refused(StoreError::Damaged(which)))
            }
            // Not the time: the msg server stamps each attempt anew.
            Some(Some(Ok(Some(first)))) if first.kind == message.kind && first.content == message.content => {
                let group_version = match message.to {
                    Peer::User(_) => 0,
                    Peer::Group(group) => groups::version(self.db, group)?,
                };
                let (msg_id, created) = (first.msg_id, first.created);
                Ok(Some(Applied::Message { msg_id, created, repeated: true, group_version }))
            }
            // Another content, or another conversation.
            Some(_) => Err(Refusal::IdReused.into()),
        }
    }

    /// G5: the cursor only moves forward, and never past the newest message.
    fn read(&mut self, user: u32, peer: Peer, up_to: Option<u32>) -> Result<Applied, Rejection> {
        if let Peer::Group(group) = peer
            && groups::membership(self.db, user, group)?.is_none()
        {
            return Ok(Applied::Read { cursor: 0 });
        }
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

    fn remove_session(&mut self, user: u32, peer: Peer) -> Result<Applied, Rejection> {
        self.settle(pair(user, peer))?;
        let found = match peer {
            Peer::User(_) => {
                self.db
                    .prepare_cached(
                        "UPDATE session SET status = 1, updated = max(updated, ?4)
                         WHERE user = ?1 AND kind = ?2 AND peer = ?3 AND status = 0",
                    )?
                    .execute(params![user, peer.kind(), peer.id(), self.now])?
                    == 1
            }
            Peer::Group(group) => groups::hide(self.db, user, group)?,
        };
        if found {
            self.read(user, peer, None)?;
        }
        Ok(Applied::RemovedSession { found })
    }

    fn change_members(&mut self, change: &MemberChange) -> Result<Applied, Rejection> {
        // Who comes sees what is stored from here on.
        self.settle((change.group, 0))?;
        Ok(groups::change(self.db, change, self.now)?)
    }

    fn find(&mut self, pair: (u32, u32)) -> rusqlite::Result<Option<&mut Conversation>> {
        if !self.conversations.contains_key(&pair) {
            let found = self
                .db
                .prepare_cached(
                    "SELECT id, last_msg_id FROM conversation
                     WHERE kind = ?1 AND low = ?2 AND high = ?3",
                )?
                .query_row(params![kind_of(pair), pair.0, pair.1], |row| {
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
            .insert(params![kind_of(pair), pair.0, pair.1, self.now])?;
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
        let sessions = if kind_of(pair) == GROUP { &[][..] } else { &[pair, (pair.1, pair.0)] };
        if sessions.is_empty() {
            groups::chatted(self.db, pair.0, self.now)?;
        }
        for (user, peer) in sessions {
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
        Write::ChangeMembers(change) => pair(change.by, Peer::Group(change.group)),
        Write::ShieldGroup { user, group, .. } => pair(*user, Peer::Group(*group)),
        // No conversation has this one.
        Write::CreateGroup(_) => (0, 0),
    }
}
