//! Reading messages: history, lists of sessions, unread counts. Every row is held against its
//! checksum; one that fails is counted, logged by its place and left out (G7).

use std::ops::RangeInclusive;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{self, Place};
use super::{Embedded, SINGLE, groups, kind_of, pair};
use crate::store::{MAX_PAGE_BYTES, MAX_PAGE_ROWS, Message, MessageKind, Peer, Preview, Session, StoreError, Unread};

/// How far a list looks behind damaged messages for one to show.
const MAX_SKIPPED: u32 = 100;

impl Embedded {
    pub(super) fn read_history(
        &self,
        user: u32,
        peer: Peer,
        begin: u32,
        count: u32,
    ) -> Result<Vec<Message>, StoreError> {
        self.read(|db| {
            let mut page = Vec::new();
            let Some(Open { place, floor, newest }) = conversation(db, user, peer)? else {
                return Ok(page);
            };
            // Hidden rows too: ids are dense (G3), so a row that is gone shows as a gap.
            let mut statement = db.prepare_cached(&format!(
                "SELECT {} FROM message WHERE conversation = ?1 AND msg_id <= ?2 AND msg_id > ?3 ORDER BY msg_id DESC",
                row::COLUMNS
            ))?;
            let mut next = if begin == 0 { newest } else { begin.min(newest) };
            let mut rows = statement.query(params![place.id, next, floor])?;
            let mut room = Room::new(count);
            while room.is_left() && next > floor {
                let Some(row) = rows.next()? else {
                    self.missing(place, floor + 1..=next);
                    break;
                };
                let message = self.intact(row, place)?;
                let at = row.get::<_, u32>(1)?.min(next);
                self.missing(place, at + 1..=next);
                next = at.saturating_sub(1);
                if let Some(message) = message {
                    if !room.take(&message) {
                        break;
                    }
                    page.push(message);
                }
            }
            Ok(page)
        })
    }

    pub(super) fn read_by_id(&self, user: u32, peer: Peer, ids: &[u32]) -> Result<Vec<Message>, StoreError> {
        let mut ids = ids.to_vec();
        ids.sort_unstable_by(|one, other| other.cmp(one));
        ids.dedup();
        self.read(|db| {
            let mut page = Vec::new();
            let Some(Open { place, floor, newest }) = conversation(db, user, peer)? else {
                return Ok(page);
            };
            ids.retain(|id| *id > floor);
            let mut statement = db.prepare_cached(&format!(
                "SELECT {} FROM message WHERE conversation = ?1 AND msg_id = ?2",
                row::COLUMNS
            ))?;
            let mut room = Room::new(MAX_PAGE_ROWS);
            for id in ids {
                let found = statement.query_row(params![place.id, id], |row| self.intact(row, place)).optional()?;
                if found.is_none() && (1..=newest).contains(&id) {
                    self.missing(place, id..=id);
                }
                if let Some(message) = found.flatten() {
                    if !room.is_left() || !room.take(&message) {
                        break;
                    }
                    page.push(message);
                }
            }
            Ok(page)
        })
    }

    pub(super) fn read_latest_id(&self, user: u32, peer: Peer) -> Result<u32, StoreError> {
        self.read(|db| {
            Ok(conversation(db, user, peer)?.filter(|open| open.newest > open.floor).map_or(0, |open| open.newest))
        })
    }

    pub(super) fn read_sessions(&self, user: u32, since: u32, limit: u32) -> Result<Vec<Session>, StoreError> {
        self.read(|db| {
            let mut listed = listed_singles(db, user, since, limit)?;
            listed.extend(listed_groups(db, user, since)?);
            sort(&mut listed);
            listed.truncate(limit as usize);
            let mut sessions = Vec::with_capacity(listed.len());
            for Listed { peer, updated, place, floor, .. } in listed {
                if let Some(latest) = self.preview(db, place, floor)? {
                    sessions.push(Session { peer, updated, latest });
                }
            }
            Ok(sessions)
        })
    }

    /// G5: counted from rows and the cursor, so there is no counter that could drift.
    pub(super) fn read_unread(&self, user: u32) -> Result<Vec<Unread>, StoreError> {
        self.read(|db| {
            let mut listed = listed_singles(db, user, 0, u32::MAX)?;
            listed.extend(listed_groups(db, user, 0)?);
            listed.retain(|row| row.newest > row.cursor);
            sort(&mut listed);
            let mut count = db.prepare_cached(
                "SELECT count(*) FROM message
                 WHERE conversation = ?1 AND msg_id > ?2 AND sender <> ?3 AND status = 0",
            )?;
            let mut unread = Vec::new();
            for Listed { peer, place, floor, cursor, .. } in listed {
                let count = count.query_row(params![place.id, cursor.max(floor), user], |row| row.get(0))?;
                if count > 0
                    && let Some(latest) = self.preview(db, place, floor)?
                {
                    unread.push(Unread { peer, count, latest });
                }
            }
            Ok(unread)
        })
    }

    /// The newest message above `floor` that can be shown.
    fn preview(&self, db: &Connection, place: Place, floor: u32) -> rusqlite::Result<Option<Preview>> {
        let mut statement = db.prepare_cached(&format!(
            "SELECT {} FROM message WHERE conversation = ?1 AND msg_id > ?2 AND status = 0
             ORDER BY msg_id DESC LIMIT {MAX_SKIPPED}",
            row::COLUMNS
        ))?;
        let mut rows = statement.query(params![place.id, floor])?;
        while let Some(row) = rows.next()? {
            if let Some(message) = self.intact(row, place)? {
                return Ok(Some(Preview {
                    msg_id: message.msg_id,
                    from: message.from,
                    kind: message.kind,
                    text: match message.kind {
                        MessageKind::Text => message.content,
                        MessageKind::Voice => bytes::Bytes::new(),
                    },
                }));
            }
        }
        Ok(None)
    }

    fn intact(&self, row: &Row<'_>, place: Place) -> rusqlite::Result<Option<Message>> {
        Ok(row::read(row, place)?.unwrap_or_else(|damaged| {
            self.counters.count_damaged_row(place.id, damaged.msg_id);
            None
        }))
    }

    /// Ids that were handed out and have no row.
    fn missing(&self, place: Place, ids: RangeInclusive<u32>) {
        for id in ids.take(MAX_PAGE_ROWS as usize) {
            self.counters.count_damaged_row(place.id, id.into());
        }
    }
}

/// A conversation, for one who takes part in it.
struct Open {
    place: Place,
    /// He sees what is above this id.
    floor: u32,
    /// The id handed out last.
    newest: u32,
}

/// The conversation, if there is one and the user takes part in it.
fn conversation(db: &Connection, user: u32, peer: Peer) -> rusqlite::Result<Option<Open>> {
    let floor = match peer {
        Peer::User(_) => Some(0),
        Peer::Group(group) => groups::membership(db, user, group)?,
    };
    let Some(floor) = floor else { return Ok(None) };
    let pair = pair(user, peer);
    db.prepare_cached("SELECT id, last_msg_id FROM conversation WHERE kind = ?1 AND low = ?2 AND high = ?3")?
        .query_row(params![kind_of(pair), pair.0, pair.1], |row| {
            Ok(Open { place: Place { id: row.get(0)?, pair }, floor, newest: row.get(1)? })
        })
        .optional()
}

/// A session that is on a user's list.
struct Listed {
    peer: Peer,
    updated: u32,
    place: Place,
    floor: u32,
    newest: u32,
    cursor: u32,
}

/// Most recent first.
fn sort(listed: &mut [Listed]) {
    listed.sort_unstable_by_key(|row| (std::cmp::Reverse(row.updated), row.peer));
}

/// Sessions with other users: each has a row that says whether it is on the list.
fn listed_singles(db: &Connection, user: u32, since: u32, limit: u32) -> rusqlite::Result<Vec<Listed>> {
    db.prepare_cached(
        "SELECT s.peer, s.updated, c.id, c.last_msg_id, coalesce(r.read_msg_id, 0)
         FROM session s
         JOIN conversation c ON c.id = s.conversation
         LEFT JOIN cursor r ON r.user = s.user AND r.conversation = s.conversation
         WHERE s.user = ?1 AND s.status = 0 AND s.kind = ?2 AND s.updated >= ?3
         ORDER BY s.updated DESC, s.peer LIMIT ?4",
    )?
    .query_map(params![user, SINGLE, since, limit], |row| {
        let peer = Peer::User(row.get(0)?);
        let place = Place { id: row.get(2)?, pair: pair(user, peer) };
        Ok(Listed { peer, updated: row.get(1)?, place, floor: 0, newest: row.get(3)?, cursor: row.get(4)? })
    })?
    .collect()
}

/// Sessions with groups: on the list if there is a message since the user joined, and since he
/// took the session off it.
fn listed_groups(db: &Connection, user: u32, since: u32) -> rusqlite::Result<Vec<Listed>> {
    db.prepare_cached(
        "SELECT g.id, g.last_chatted, c.id, c.last_msg_id, coalesce(r.read_msg_id, 0), m.joined_after
         FROM group_member m
         JOIN chat_group g ON g.id = m.group_id
         JOIN conversation c ON c.id = g.conversation
         LEFT JOIN cursor r ON r.user = m.user AND r.conversation = c.id
         WHERE m.user = ?1 AND m.status = 0 AND g.last_chatted >= ?2
           AND c.last_msg_id > max(m.joined_after, m.hidden_up_to)",
    )?
    .query_map([user, since], |row| {
        let peer = Peer::Group(row.get(0)?);
        let place = Place { id: row.get(2)?, pair: pair(user, peer) };
        let (floor, newest, cursor) = (row.get(5)?, row.get(3)?, row.get(4)?);
        Ok(Listed { peer, updated: row.get(1)?, place, floor, newest, cursor })
    })?
    .collect()
}

/// What still fits a page.
struct Room {
    rows: u32,
    bytes: usize,
}

impl Room {
    fn new(rows: u32) -> Self {
        Self { rows: rows.min(MAX_PAGE_ROWS), bytes: MAX_PAGE_BYTES }
    }

    fn is_left(&self) -> bool {
        self.rows > 0
    }

    /// Takes the room that a message needs, if there is enough.
    fn take(&mut self, message: &Message) -> bool {
        let Some(bytes) = self.bytes.checked_sub(message.content.len()) else {
            return false;
        };
        self.bytes = bytes;
        self.rows -= 1;
        true
    }
}
