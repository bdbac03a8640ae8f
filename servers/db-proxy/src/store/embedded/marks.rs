//! High-water marks: the highest message id of each conversation, kept outside the database's
//! journal (G7).
//!
//! SQLite ends its journal at the first frame that does not check out, so one flipped bit in the
//! tail silently takes the last transactions away, and their ids would be handed out again. The
//! marks expose that: at start a mark above the newest row means lost messages.
//!
//! The file is an array of 16-byte slots, one per conversation, at `conversation id * 16`:
//!
//! ```text
//!  0        4        8        12       16
//!  | low    | high   | msg_id | crc32  |   little-endian; crc32 over conversation id and slot[0..12]
//! ```
//!
//! `low` and `high` are the pair that the conversation belongs to (a group: its id and 0), so that
//! even a conversation whose own row was lost can be named. A mark is written between COMMIT and
//! the acknowledgement. It is not synced there: a killed process leaves the page cache to the
//! kernel, and after a power cut a mark that lags behind only loses its power to detect, not data.
//! Checkpoints and closing sync it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const SLOT: usize = 16;

/// The mark of one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Smaller user id, or the group id.
    pub(super) low: u32,
    /// Larger user id, or 0.
    pub(super) high: u32,
    /// The highest id that was handed out.
    pub(super) msg_id: u32,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Never written.
    Empty,
    /// Written and intact.
    Marked(Mark),
    /// Written, and not what was written.
    Damaged,
}

/// The mark file of a serving process.
#[derive(Debug)]
pub(super) struct Marks {
    file: File,
}

impl Marks {
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    /// Every slot with its conversation id.
    pub(super) fn read_all(&self) -> io::Result<Vec<(i64, Slot)>> {
        let mut bytes = vec![0; usize::try_from(self.file.metadata()?.len()).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes
            .chunks(SLOT)
            .enumerate()
            .skip(1) // conversation ids begin at 1
            .map(|(id, slot)| (id as i64, decode(id as i64, slot)))
            .collect())
    }

    /// Sets the mark of a conversation.
    pub(super) fn write(&self, conversation: i64, mark: Mark) -> io::Result<()> {
        let offset = conversation as u64 * SLOT as u64;
        self.file.write_all_at(&encode(conversation, mark), offset)
    }

    /// Forgets the mark of a conversation that does not exist.
    pub(super) fn clear(&self, conversation: i64) -> io::Result<()> {
        self.file.write_all_at(&[0; SLOT], conversation as u64 * SLOT as u64)
    }

    /// Forces the marks to disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode(conversation: i64, mark: Mark) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[0..4].copy_from_slice(&mark.low.to_le_bytes());
    slot[4..8].copy_from_slice(&mark.high.to_le_bytes());
    slot[8..12].copy_from_slice(&mark.msg_id.to_le_bytes());
    let crc = checksum(conversation, &slot[..12]);
    slot[12..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(conversation: i64, slot: &[u8]) -> Slot {
    if slot.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let Ok(slot) = <&[u8; SLOT]>::try_from(slot) else {
        return Slot::Damaged; // the file ends within a slot
    };
    let word = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    if word(12) != checksum(conversation, &slot[..12]) {
        return Slot::Damaged;
    }
    Slot::Marked(Mark { low: word(0), high: word(4), msg_id: word(8) })
}

fn checksum(conversation: i64, fields: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&conversation.to_le_bytes());
    crc.update(fields);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { low: 3, high: 9, msg_id: 41 };

    #[test]
    fn a_mark_reads_back() {
        assert_eq!(decode(7, &encode(7, MARK)), Slot::Marked(MARK));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..SLOT * 8 {
            let mut slot = encode(7, MARK);
            slot[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(7, &slot), Slot::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn a_slot_in_the_wrong_place_is_noticed() {
        assert_eq!(decode(8, &encode(7, MARK)), Slot::Damaged);
    }

    #[test]
    fn untouched_slots_between_two_conversations_are_empty() {
        let marks = Marks::new(tempfile::tempfile().expect("a temporary file"));
        marks.write(3, MARK).expect("write");
        let all = marks.read_all().expect("read");
        assert_eq!(all, [(1, Slot::Empty), (2, Slot::Empty), (3, Slot::Marked(MARK))]);
    }
}
