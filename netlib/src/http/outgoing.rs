//! What an answer still has to give to its connection. The connection's output buffer is filled
//! only up to its high mark, so an answer of any length, or a file, waits here as a reference.

use std::collections::VecDeque;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Conn, ConnOptions};

/// Bytes given to the connection at a time.
const SLICE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    File(Arc<fs::File>, Range<u64>),
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pieces: VecDeque<Piece>,
    /// Bytes in memory among them.
    held: usize,
    high_water: usize,
    limit: usize,
}

impl Outgoing {
    pub(super) fn new(options: &ConnOptions) -> Self {
        // What is sent in slices must never run into the hard limit.
        let high_water = options.high_water.min(options.output_limit / 2).max(1);
        Self { pieces: VecDeque::new(), held: 0, high_water, limit: options.output_limit }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The connection should be given no more for now.
    pub(super) fn is_full(&self, conn: &Conn) -> bool {
        !self.pieces.is_empty() || conn.queued() >= self.high_water
    }

    /// So much waits that whoever writes does not heed the signs.
    pub(super) fn is_over_limit(&self, conn: &Conn) -> bool {
        self.held + conn.queued() > self.limit
    }

    pub(super) fn push(&mut self, piece: Piece) {
        match &piece {
            Piece::Bytes(bytes) if bytes.is_empty() => return,
            Piece::Bytes(bytes) => self.held += bytes.len(),
            Piece::File(_, range) if range.is_empty() => return,
            Piece::File(..) => {}
        }
        self.pieces.push_back(piece);
    }

    /// Fills the connection's buffer. False if a file does not have what it had.
    pub(super) fn pump(&mut self, conn: &Conn) -> bool {
        while conn.is_open() && conn.queued() < self.high_water {
            let slice = match self.pieces.front_mut() {
                None => return true,
                Some(Piece::Bytes(bytes)) => {
                    let slice = bytes.split_to(bytes.len().min(SLICE));
                    self.held -= slice.len();
                    slice
                }
                Some(Piece::File(file, range)) => match read_some(file, range) {
                    Some(slice) => slice,
                    None => return false,
                },
            };
            let over = match self.pieces.front() {
                Some(Piece::Bytes(bytes)) => bytes.is_empty(),
                Some(Piece::File(_, range)) => range.is_empty(),
                None => false,
            };
            if over {
                self.pieces.pop_front();
            }
            let _ = conn.send(slice); // closed: the loop ends
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        true
    }
}

fn read_some(file: &fs::File, range: &mut Range<u64>) -> Option<Bytes> {
    let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(SLICE);
    let mut buffer = vec![0; wanted];
    let count = file.read_at(&mut buffer, range.start).ok().filter(|count| *count > 0)?;
    buffer.truncate(count);
    range.start += count as u64;
    Some(buffer.into())
}
