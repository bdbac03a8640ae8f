//! What a message still has to give to its connection. The connection's output buffer is filled
//! only up to its high mark, so a body of any length waits here as a reference.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;

use crate::{Conn, ConnOptions};

/// Bytes given to the connection at a time.
const SLICE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    File(Rc<OwnedFd>, Range<u64>),
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pieces: VecDeque<Piece>,
    /// Bytes in memory among them.
    held: usize,
    high_water: usize,
    limit: usize,
    /// The connection has a file to send.
    file_given: bool,
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, range) => range.end - range.start,
        }
    }
}

impl Outgoing {
    pub(super) fn new(options: &ConnOptions) -> Self {
        // What is sent in slices must never run into the hard limit.
        let high_water = options.high_water.min(options.output_limit / 2).max(1);
        Self { pieces: VecDeque::new(), held: 0, high_water, limit: options.output_limit, file_given: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The connection should be given no more for now. Files take no memory, but each keeps a
    /// descriptor open: one answer's at a time.
    pub(super) fn is_full(&self, conn: &Conn) -> bool {
        let queued = conn.queued();
        !self.pieces.is_empty() || queued >= self.high_water as u64 || (self.file_given && queued > 0)
    }

    /// So much waits that whoever writes does not heed the signs.
    pub(super) fn is_over_limit(&self, conn: &Conn) -> bool {
        self.held + conn.in_memory() > self.limit
    }

    pub(super) fn push(&mut self, piece: Piece) {
        if piece.len() == 0 {
            return;
        }
        if let Piece::Bytes(bytes) = &piece {
            self.held += bytes.len();
        }
        self.pieces.push_back(piece);
    }

    /// Fills the connection's buffer up to its high mark.
    pub(super) fn pump(&mut self, conn: &Conn) {
        self.file_given &= conn.queued() > 0;
        // What is refused is lost with the connection, which then is closed.
        while conn.is_open() && conn.in_memory() < self.high_water {
            match self.pieces.pop_front() {
                None => {
                    self.pieces = VecDeque::new();
                    return;
                }
                Some(Piece::Bytes(mut bytes)) => {
                    let slice = bytes.split_to(bytes.len().min(SLICE));
                    self.held -= slice.len();
                    if !bytes.is_empty() {
                        self.pieces.push_front(Piece::Bytes(bytes));
                    }
                    let _ = conn.send(slice);
                }
                Some(Piece::File(file, range)) => {
                    self.file_given = true;
                    let _ = conn.send_file(&file, range.start, range.end - range.start);
                }
            }
        }
    }
}
