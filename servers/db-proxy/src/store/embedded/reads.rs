//! Reading messages: history, lists of sessions, unread counts. Every row is held against its
//! checksum; one that fails is counted, logged by its place and left out (G7).

use std::ops::RangeInclusive;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{self, Place};
use super::{Embedded, SINGLE};
use crate::store::{MAX_PAGE_BYTES, MAX_PAGE_ROWS, Message, MessageKind, Preview, Session, StoreError, Unread};

/// How far a list looks behind damaged messages for one to show.
const MAX_SKIPPED: u32 = 100;

impl Embedded {
    pub(super) fn read_history(
        &self,
        user: u32,
        peer: u32,
        begin: u32,
        count: u32,
    ) -> Result<Vec<Message>, StoreError> {
        self.read(|db| {
            let mut page = Vec::new();
            let Some((place, newest)) = conversation(db, user, peer)? else {
                return Ok(page);
            };
            // Hidden rows too: ids are dense (G3), so a row that is gone shows as a gap.
            let mut statement = db.prepare_cached(&format!(
                "SELECT {} FROM message WHERE conversation = ?1 AND msg_id <= ?2 ORDER BY msg_id DESC",
                row::COLUMNS
            ))?;
            let mut next = if begin == 0 { newest } else { begin.min(newest) };
            let mut rows = statement.query(params![place.id, next])?;
            let mut room = Room::new(count);
            while room.is_left() && next > 0 {
                let Some(row) = rows.next()? else {
                    self.missing(place, 1..=next);
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

    pub(super) fn read_by_id(&self, user: u32, peer: u32, ids: &[u32]) -> Result<Vec<Message>, StoreError> {
        let mut ids = ids.to_vec();
        ids.sort_unstable_by(|one, other| other.cmp(one));
        ids.dedup();
        self.read(|db| {
            let mut page = Vec::new();
            let Some((place, newest)) = conversation(db, user, peer)? else {
                return Ok(page);
            };
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

    pub(super) fn read_latest_id(&self, user: u32, peer: u32) -> Result<u32, StoreError> {
        self.read(|db| Ok(conversation(db, user, peer)?.map_or(0, |(_, newest)| newest)))
    }

    pub(super) fn read_sessions(&self, user: u32, since: u32, limit: u32) -> Result<Vec<Session>, StoreError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT peer, conversation, updated FROM session
                 WHERE user = ?1 AND status = 0 AND kind = ?2 AND updated > ?3
                 ORDER BY updated DESC, peer LIMIT ?4",
            )?;
            let mut rows = statement.query(params![user, SINGLE, since, limit])?;
            let mut sessions = Vec::new();
            while let Some(row) = rows.next()? {
                let peer = row.get(0)?;
                if let Some(latest) = self.preview(db, place(row.get(1)?, user, peer))? {
                    sessions.push(Session { peer, updated: row.get(2)?, latest });
                }
            }
            Ok(sessions)
        })
    }

    /// G5: counted from rows and the cursor, so there is no counter that could drift.
    pub(super) fn read_unread(&self, user: u32) -> Result<Vec<Unread>, StoreError> {
        self.read(|db| {
            let mut behind = db.prepare_cached(
                "SELECT s.peer, s.conversation, coalesce(r.read_msg_id, 0)
                 FROM session s
                 JOIN conversation c ON c.id = s.conversation
                 LEFT JOIN cursor r ON r.user = s.user AND r.conversation = s.conversation
                 WHERE s.user = ?1 AND s.status = 0 AND s.kind = ?2
                   AND c.last_msg_id > coalesce(r.read_msg_id, 0)
                 ORDER BY s.updated DESC, s.peer",
            )?;
            let mut count = db.prepare_cached(
                "SELECT count(*) FROM message
                 WHERE conversation = ?1 AND msg_id > ?2 AND sender <> ?3 AND status = 0",
            )?;
            let mut rows = behind.query(params![user, SINGLE])?;
            let mut unread = Vec::new();
            while let Some(row) = rows.next()? {
                let (peer, conversation, cursor): (u32, i64, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let count = count.query_row(params![conversation, cursor, user], |row| row.get(0))?;
                if count > 0
                    && let Some(latest) = self.preview(db, place(conversation, user, peer))?
                {
                    unread.push(Unread { peer, count, latest });
                }
            }
            Ok(unread)
        })
    }

    /// The newest message of a conversation that can be shown.
    fn preview(&self, db: &Connection, place: Place) -> rusqlite::Result<Option<Preview>> {
        let mut statement = db.prepare_cached(&format!(
            "SELECT {} FROM message WHERE conversation = ?1 AND status = 0 ORDER BY msg_id DESC LIMIT {MAX_SKIPPED}",
            row::COLUMNS
        ))?;
        let mut rows = statement.query([place.id])?;
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

/// The conversation of two users and its newest id.
fn conversation(db: &Connection, user: u32, peer: u32) -> rusqlite::Result<Option<(Place, u32)>> {
    db.prepare_cached("SELECT id, last_msg_id FROM conversation WHERE kind = ?1 AND low = ?2 AND high = ?3")?
        .query_row(params![SINGLE, user.min(peer), user.max(peer)], |row| {
            Ok((place(row.get(0)?, user, peer), row.get(1)?))
        })
        .optional()
}

fn place(id: i64, user: u32, peer: u32) -> Place {
    Place { id, pair: (user.min(peer), user.max(peer)) }
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
