//! A message row and its checksum (G7): what is read back is what was written, or it is not served.

use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::store::{Message, MessageKind};

/// The columns that [`read`] expects, in its order.
pub(super) const COLUMNS: &str = "conversation, msg_id, sender, type, created, content, checksum, status";

/// `status` of a message that can be shown.
pub(super) const NORMAL: u32 = 0;
/// `status` of a tombstone: the id had a message once.
pub(super) const LOST: u32 = 2;

/// Where a message belongs. The pair is part of its checksum: a conversation's own row has none,
/// and if damage gave it another pair, that pair would read what is not theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The conversation.
    pub(super) id: i64,
    /// The pair that it is of, smaller id first.
    pub(super) pair: (u32, u32),
}

/// A row that does not match its checksum, or is not even of the right types.
#[derive(Debug)]
pub(super) struct Damaged {
    /// As far as the row says.
    pub(super) msg_id: i64,
}

/// The numbers of a message row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) msg_id: u32,
    pub(super) sender: u32,
    pub(super) kind: u32,
    pub(super) created: u32,
    pub(super) status: u32,
}

/// Checksum over everything that a reader is told about a message, and whether it is told.
pub(super) fn checksum(place: Place, numbers: Numbers, content: &[u8]) -> u32 {
    let Numbers { msg_id, sender, kind, created, status } = numbers;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place.id.to_le_bytes());
    for field in [place.pair.0, place.pair.1, msg_id, sender, kind, created, status] {
        crc.update(&field.to_le_bytes());
    }
    crc.update(content);
    crc.finalize()
}

/// Reads a row of [`COLUMNS`]; `None` for one that is intact and not to be shown. `place` is where
/// the caller looked for it.
pub(super) fn read(row: &Row<'_>, place: Place) -> rusqlite::Result<Result<Option<Message>, Damaged>> {
    // By value, not by type: damage can change a column's type, and that is this row's damage, not
    // a failure of the query.
    let number = |column: usize| -> rusqlite::Result<Option<u32>> {
        Ok(match row.get_ref(column)? {
            ValueRef::Integer(number) => u32::try_from(number).ok(),
            _ => None,
        })
    };
    let numbers = (number(1)?, number(2)?, number(3)?, number(4)?, number(7)?);
    let damaged = Damaged { msg_id: numbers.0.map_or(0, i64::from) };
    let (Some(msg_id), Some(sender), Some(kind), Some(created), Some(status)) = numbers else {
        return Ok(Err(damaged));
    };
    let (ValueRef::Integer(conversation), ValueRef::Blob(content), Some(expected)) =
        (row.get_ref(0)?, row.get_ref(5)?, number(6)?)
    else {
        return Ok(Err(damaged));
    };
    let numbers = Numbers { msg_id, sender, kind, created, status };
    let Some(kind) = MessageKind::from_number(kind) else {
        return Ok(Err(damaged));
    };
    if conversation != place.id || checksum(place, numbers, content) != expected {
        return Ok(Err(damaged));
    }
    let message = || Message { msg_id, from: sender, created, kind, content: Bytes::copy_from_slice(content) };
    Ok(Ok((status == NORMAL).then(message)))
}
