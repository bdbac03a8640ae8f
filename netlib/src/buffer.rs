//! What a connection keeps between ticks: output that the kernel did not take yet, and the head
//! of a frame whose rest has not come. An idle connection keeps neither: both are then empty
//! and own no memory.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use bytes::{Buf, Bytes};

use crate::socket::Stream;
use crate::sys::Payload;

/// Pieces per system call. Linux takes up to 1,024; past some dozens the call itself is no
/// longer what costs, and the array below lives on the stack.
const MAX_PIECES: usize = 64;
/// Bytes of a file offered to the kernel in one call.
const FILE_CHUNK: u64 = 1 << 20;
/// Bytes of a file brought into memory at a time, where the kernel cannot send it by itself.
const LOADED_CHUNK: u64 = 64 << 10;
/// A drained buffer keeps at most so much memory for copies.
const KEPT_CAPACITY: usize = 64 << 10;

/// Output in the order in which it was sent. Reference-counted pieces stay where they are; slices
/// are copied behind one another, so that many small ones leave as one; parts of files are read
/// by the kernel when their turn comes.
///
/// ```
/// use bytes::Bytes;
/// use netlib::buffer::OutputBuffer;
/// use netlib::socket::Stream;
///
/// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
/// ours.set_nonblocking(true)?;
/// let stream = Stream::from(std::os::fd::OwnedFd::from(ours));
///
/// let mut output = OutputBuffer::new();
/// output.push(Bytes::from_static(b"one "));
/// output.push_slice(b"wri");
/// output.push_slice(b"te");
/// let progress = output.write_to(&stream)?;
/// assert_eq!((progress.written, progress.blocked, output.is_empty()), (9, false, true));
/// # drop(theirs);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Answers that are copies and nothing else, as most are, are dealt with in this one cache line.
#[derive(Debug)]
#[repr(align(64))]
pub struct OutputBuffer {
    /// Bytes that wait, those of files and those that a back end has included.
    len: u64,
    /// So many of the copied bytes come before all pieces. Mostly they are all there is.
    lead: usize,
    /// The bytes of `lead` and of all [`Piece::Copied`], from `copied_start` on.
    copied: Vec<u8>,
    copied_start: usize,
    /// So many bytes may leave until it is set anew.
    allowance: u64,
    /// What is behind `lead`; kept for its memory.
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Default)]
struct Rest {
    pieces: VecDeque<Piece>,
    /// Bytes of the pieces that are in memory, and of `in_flight`.
    in_memory: usize,
    /// Taken out by `take` and still counted in `len`.
    in_flight: usize,
}

#[derive(Debug)]
enum Piece {
    Shared(Bytes),
    /// So many of the copied bytes.
    Copied(usize),
    File(FilePart),
}

#[derive(Debug)]
struct FilePart {
    file: Rc<OwnedFd>,
    offset: u64,
    len: u64,
}

/// What one attempt to write came to.
///
/// ```
/// use netlib::buffer::Progress;
///
/// let progress = Progress { written: 3, blocked: true };
/// assert!(progress.blocked, "the rest waits until the stream is writable");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the kernel took.
    pub written: usize,
    /// It took less than it was offered: wait until the stream is writable again.
    pub blocked: bool,
}

impl OutputBuffer {
    /// Empty.
    pub const fn new() -> Self {
        Self { len: 0, lead: 0, copied: Vec::new(), copied_start: 0, allowance: u64::MAX, rest: None }
    }

    /// Bytes that wait, those of files included.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that wait in memory: what a limit on memory counts.
    pub fn in_memory(&self) -> usize {
        if self.is_lead_only() { self.lead } else { self.lead + self.rest.as_ref().map_or(0, |rest| rest.in_memory) }
    }

    /// Whether none waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    const fn is_lead_only(&self) -> bool {
        self.lead as u64 == self.len
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    fn front(&self) -> Option<&Piece> {
        self.rest.as_ref()?.pieces.front()
    }

    /// Appends a piece, which is shared and not copied.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len() as u64;
        let rest = self.rest();
        rest.in_memory += piece.len();
        rest.pieces.push_back(Piece::Shared(piece));
    }

    /// Appends a copy of `bytes`. Copies that follow each other become one piece.
    #[inline(always)]
    pub fn push_slice(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
        if self.is_lead_only() {
            self.lead += bytes.len();
        } else {
            self.copied_behind(bytes.len());
        }
        self.len += bytes.len() as u64;
    }

    #[inline(never)]
    fn copied_behind(&mut self, len: usize) {
        if self.front().is_none() {
            self.lead += len;
        } else if len > 0 {
            let rest = self.rest();
            rest.in_memory += len;
            match rest.pieces.back_mut() {
                Some(Piece::Copied(copied)) => *copied += len,
                _ => rest.pieces.push_back(Piece::Copied(len)),
            }
        }
    }

    /// Appends `len` bytes of a file from `offset` on. They are read when their turn comes; a
    /// file that has become shorter by then is an error of kind `UnexpectedEof`.
    pub fn push_file(&mut self, file: Rc<OwnedFd>, offset: u64, len: u64) {
        if len > 0 {
            self.len += len;
            self.rest().pieces.push_back(Piece::File(FilePart { file, offset, len }));
        }
    }

    /// Drops everything, and keeps a little memory for the next time.
    #[inline(always)]
    pub fn clear(&mut self) {
        if !self.is_lead_only() || self.copied.capacity() > KEPT_CAPACITY {
            self.clear_rest();
        }
        self.copied.clear();
        self.copied_start = 0;
        self.lead = 0;
        self.len = 0;
        self.allowance = u64::MAX;
    }

    #[cold]
    fn clear_rest(&mut self) {
        self.copied.clear();
        self.copied.shrink_to(KEPT_CAPACITY);
        if let Some(rest) = &mut self.rest {
            rest.pieces.clear();
            rest.pieces.shrink_to(MAX_PIECES);
            (rest.in_memory, rest.in_flight) = (0, 0);
        }
    }

    /// Lets so many bytes leave and then no more, until it is called again.
    pub(crate) fn allow(&mut self, bytes: u64) {
        self.allowance = bytes;
    }

    fn allowed(&self, len: usize) -> usize {
        usize::try_from(self.allowance).map_or(len, |allowance| allowance.min(len))
    }

    /// Offers the kernel what waits, in one system call of at most 64 pieces. "Would block" is
    /// progress of 0 bytes; errors are those of the stream, and of a file at the front.
    ///
    /// # Errors
    ///
    /// Those of the stream, and of a file at the front. "Would block" is none.
    #[inline(always)]
    pub fn write_to(&mut self, stream: &Stream) -> io::Result<Progress> {
        if !self.is_lead_only() || self.allowance != u64::MAX {
            return self.write_pieces(stream);
        }
        let offered = &self.copied[self.copied_start..][..self.lead];
        if offered.is_empty() {
            return Ok(Progress { written: 0, blocked: false });
        }
        let len = offered.len();
        let written = or_blocked(stream.write(offered))?;
        self.advance(written);
        Ok(Progress { written, blocked: written < len })
    }

    #[inline(never)]
    fn write_pieces(&mut self, stream: &Stream) -> io::Result<Progress> {
        let mut is_file = false;
        let (offered, result) = match self.front() {
            _ if self.allowance == 0 || self.is_empty() => return Ok(Progress { written: 0, blocked: false }),
            Some(Piece::File(part)) if self.lead == 0 => {
                is_file = true;
                let offered = self.allowed(part.len.min(FILE_CHUNK) as usize);
                (offered, send_file(stream, part, offered))
            }
            Some(Piece::Shared(bytes)) if self.is_one_piece() => {
                let offered = &bytes[..self.allowed(bytes.len())];
                (offered.len(), stream.write(offered))
            }
            _ => self.write_vectored(stream),
        };
        let written = or_blocked(result)?;
        self.advance(written);
        // Of a file less may leave because there is no more of it, and then room is never announced.
        let blocked = if is_file { written == 0 } else { written < offered };
        Ok(Progress { written, blocked })
    }

    fn is_one_piece(&self) -> bool {
        self.lead == 0 && self.rest.as_ref().is_some_and(|rest| rest.pieces.len() == 1)
    }

    fn write_vectored(&self, stream: &Stream) -> (usize, io::Result<usize>) {
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let (mut offered, mut count) = (0, 0);
        let (lead, mut copied) = self.copied[self.copied_start..].split_at(self.lead);
        let lead = (!lead.is_empty()).then_some(lead);
        let pieces = self.rest.iter().flat_map(|rest| &rest.pieces).map_while(|piece| match piece {
            Piece::Shared(bytes) => Some(&bytes[..]),
            Piece::Copied(len) => copied.split_off(..*len),
            Piece::File(_) => None,
        });
        for (slot, bytes) in slices.iter_mut().zip(lead.into_iter().chain(pieces)) {
            let left = self.allowed(usize::MAX) - offered;
            let bytes = &bytes[..bytes.len().min(left)];
            *slot = IoSlice::new(bytes);
            offered += bytes.len();
            count += 1;
        }
        (offered, stream.write_vectored(&slices[..count]))
    }

    /// The bytes that leave next, as many as lie together; empty if none may for now. For
    /// [layers](crate::layer), which encode them. A part of a file is read into memory for this
    /// (it blocks as reading a file does); errors are those of reading it.
    ///
    /// # Errors
    ///
    /// Those of reading a file.
    pub fn chunk(&mut self) -> io::Result<&[u8]> {
        if self.lead == 0
            && let Some(rest) = &mut self.rest
            && let Some(Piece::File(part)) = rest.pieces.front_mut()
        {
            let bytes = load(part)?;
            rest.in_memory += bytes.len();
            if part.len == 0 {
                rest.pieces.pop_front();
            }
            rest.pieces.push_front(Piece::Shared(bytes));
        }
        let chunk: &[u8] = match self.front() {
            _ if self.lead > 0 => &self.copied[self.copied_start..][..self.lead],
            Some(Piece::Shared(bytes)) => bytes,
            Some(Piece::Copied(len)) => &self.copied[self.copied_start..][..*len],
            Some(Piece::File(_)) | None => &[],
        };
        Ok(&chunk[..self.allowed(chunk.len())])
    }

    /// Forgets the first `count` bytes: they were written, or encoded.
    #[inline(always)]
    pub fn advance(&mut self, count: usize) {
        if count as u64 >= self.len {
            self.clear();
        } else {
            self.advance_within(count);
        }
    }

    #[inline(never)]
    fn advance_within(&mut self, count: usize) {
        self.len -= count as u64;
        if self.allowance != u64::MAX {
            self.allowance = self.allowance.saturating_sub(count as u64);
        }
        let lead = count.min(self.lead);
        self.lead -= lead;
        self.copied_start += lead;
        let mut left = count - lead;
        while left > 0 {
            let Some(rest) = &mut self.rest else { return };
            let Some(piece) = rest.pieces.front_mut() else { return };
            let (taken, used_up) = match piece {
                Piece::Shared(bytes) => {
                    let taken = left.min(bytes.len());
                    bytes.advance(taken);
                    rest.in_memory -= taken;
                    (taken, bytes.is_empty())
                }
                Piece::Copied(len) => {
                    let taken = left.min(*len);
                    *len -= taken;
                    self.copied_start += taken;
                    rest.in_memory -= taken;
                    (taken, *len == 0)
                }
                Piece::File(part) => {
                    let taken = part.len.min(left as u64);
                    part.offset += taken;
                    part.len -= taken;
                    (taken as usize, part.len == 0)
                }
            };
            left -= taken;
            if used_up {
                rest.pieces.pop_front();
            }
        }
        self.compact();
    }

    /// Each byte is moved at most once for each byte that has left.
    fn compact(&mut self) {
        if self.copied_start > self.copied.len() / 2 {
            self.copied.drain(..self.copied_start);
            self.copied_start = 0;
        }
    }

    /// Takes out what is next, at most 64 pieces of it, for a back end that sends it. It counts as waiting until
    /// [`sent`](Self::sent), and nothing else may leave meanwhile. None if a part of a file is next, or nothing.
    pub(crate) fn take(&mut self) -> Option<Payload> {
        let payload = match self.front() {
            None | Some(Piece::File(_)) if self.lead == 0 => return None,
            None => {
                self.copied.drain(..self.copied_start);
                self.copied_start = 0;
                let lead = std::mem::take(&mut self.lead);
                self.rest().in_memory += lead;
                Payload::Owned(std::mem::take(&mut self.copied))
            }
            Some(Piece::Shared(_)) if self.is_one_piece() => match self.rest().pieces.pop_front() {
                Some(Piece::Shared(bytes)) => Payload::Shared(bytes),
                _ => return None,
            },
            Some(_) => Payload::Parts(self.take_parts()),
        };
        self.rest().in_flight = payload.len();
        Some(payload)
    }

    fn take_parts(&mut self) -> Vec<Bytes> {
        let Some(rest) = &mut self.rest else { return Vec::new() };
        let mut parts = Vec::with_capacity(rest.pieces.len().min(MAX_PIECES) + 1);
        let lead = std::mem::take(&mut self.lead);
        if lead > 0 {
            rest.pieces.push_front(Piece::Copied(lead));
            rest.in_memory += lead;
        }
        while parts.len() < MAX_PIECES {
            match rest.pieces.pop_front() {
                Some(Piece::Shared(bytes)) => parts.push(bytes),
                Some(Piece::Copied(len)) => {
                    parts.push(Bytes::copy_from_slice(&self.copied[self.copied_start..][..len]));
                    self.copied_start += len;
                }
                Some(file @ Piece::File(_)) => {
                    rest.pieces.push_front(file);
                    break;
                }
                None => break,
            }
        }
        self.compact();
        parts
    }

    /// The first `count` bytes of what [`take`](Self::take) gave have been sent; the rest waits again.
    pub(crate) fn sent(&mut self, count: usize, payload: Payload) {
        let rest = self.rest();
        let taken = std::mem::take(&mut rest.in_flight);
        let count = count.min(taken);
        rest.in_memory -= count;
        self.len -= count as u64;
        if count < taken {
            return self.put_back(count, payload);
        }
        if self.len == 0 {
            self.clear_rest();
            self.clear();
        }
        if let Payload::Owned(mut bytes) = payload
            && self.copied.capacity() == 0
            && bytes.capacity() <= KEPT_CAPACITY
        {
            bytes.clear();
            self.copied = bytes; // for the next answer
        }
    }

    #[cold]
    fn put_back(&mut self, mut skip: usize, payload: Payload) {
        let parts = match payload {
            Payload::Owned(bytes) => vec![Bytes::from(bytes)],
            Payload::Shared(bytes) => vec![bytes],
            Payload::Parts(parts) => parts,
            Payload::Received(_) => return, // is never taken out of here
        };
        let lead = std::mem::take(&mut self.lead);
        let rest = self.rest();
        if lead > 0 {
            rest.pieces.push_front(Piece::Copied(lead));
            rest.in_memory += lead;
        }
        let mut left = Vec::new();
        for mut part in parts {
            let skipped = skip.min(part.len());
            skip -= skipped;
            part.advance(skipped);
            if !part.is_empty() {
                left.push(Piece::Shared(part));
            }
        }
        for piece in left.into_iter().rev() {
            rest.pieces.push_front(piece);
        }
    }

    /// How much of what waits in memory a back end has.
    pub(crate) fn in_flight(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.in_flight)
    }
}

impl Default for OutputBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// "Would block" is no bytes.
#[inline(always)]
fn or_blocked(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

fn send_file(stream: &Stream, part: &FilePart, count: usize) -> io::Result<usize> {
    match stream.send_file(part.file.as_fd(), part.offset, count)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// Takes the first bytes of a part into memory.
fn load(part: &mut FilePart) -> io::Result<Bytes> {
    let mut bytes = vec![0; part.len.min(LOADED_CHUNK) as usize];
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(&*part.file, &mut bytes, part.offset))?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(count);
    part.offset += count as u64;
    part.len -= count as u64;
    Ok(bytes.into())
}

/// Input that its handler could not use yet: the head of an incomplete frame.
///
/// ```
/// use netlib::buffer::InputTail;
///
/// let mut tail = InputTail::new();
/// tail.extend(b"GET / HT");
/// tail.extend(b"TP/1.1\r\n");
/// tail.consume(16);
/// assert!(tail.is_empty());
/// ```
#[derive(Debug, Default)]
pub struct InputTail {
    /// In a box, since most connections have none at most times.
    kept: Option<Box<Kept>>,
}

/// Never without bytes.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    /// So many of them are used already.
    start: usize,
    /// So many at the end were never shown to the handler.
    unseen: usize,
}

/// A tail keeps at most this much more memory than it needs.
const TAIL_SLACK: usize = 16 * 1024;

impl InputTail {
    /// Empty.
    pub const fn new() -> Self {
        Self { kept: None }
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether none is kept, and no memory either.
    pub fn is_empty(&self) -> bool {
        self.kept.is_none()
    }

    /// All of them, oldest first.
    pub fn as_slice(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], |kept| &kept.bytes[kept.start..])
    }

    /// Appends what was read.
    pub fn extend(&mut self, input: &[u8]) {
        if !input.is_empty() {
            self.kept.get_or_insert_default().bytes.extend_from_slice(input);
        }
    }

    /// [`extend`](Self::extend) by what a back end has received ahead of the handler.
    pub(crate) fn extend_unseen(&mut self, input: &[u8]) {
        self.extend(input);
        if let Some(kept) = &mut self.kept {
            kept.unseen += input.len();
        }
    }

    /// How many bytes were never shown to the handler.
    pub(crate) fn unseen(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.unseen)
    }

    /// So many more are shown from here on.
    pub(crate) fn see(&mut self, count: usize) {
        if let Some(kept) = &mut self.kept {
            kept.unseen -= count.min(kept.unseen);
        }
    }

    /// Those that may be shown, oldest first.
    pub(crate) fn seen(&self) -> &[u8] {
        &self.as_slice()[..self.len() - self.unseen()]
    }

    /// Forgets the first `count` bytes, and returns memory that is no longer needed. Each byte is moved at most once
    /// for each byte that was used.
    pub fn consume(&mut self, count: usize) {
        let Some(kept) = &mut self.kept else { return };
        kept.start += count.min(kept.bytes.len() - kept.start);
        let len = kept.bytes.len() - kept.start;
        if len == 0 {
            self.kept = None;
        } else if kept.start > len {
            kept.bytes.drain(..kept.start);
            kept.start = 0;
            if kept.bytes.capacity() - len > len + TAIL_SLACK {
                kept.bytes.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::clock::SplitMix64;

    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::from(OwnedFd::from(ours)), theirs)
    }

    fn numbered(from: usize, count: usize) -> Bytes {
        (from..from + count).map(|n| (n % 251) as u8).collect()
    }

    /// A file with the numbered bytes from 0 on.
    fn numbered_file(count: usize) -> Rc<OwnedFd> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&numbered(0, count)).unwrap();
        Rc::new(file.into())
    }

    #[test]
    fn many_pieces_leave_in_order_at_most_sixty_four_per_call() {
        let (stream, mut peer) = pair();
        let mut output = OutputBuffer::new();
        for n in 0..100 {
            output.push(Bytes::new());
            output.push(numbered(n * 3, 3));
        }
        let progress = output.write_to(&stream).unwrap();
        assert_eq!(progress, Progress { written: 64 * 3, blocked: false });
        assert_eq!(output.len(), 36 * 3);
        output.write_to(&stream).unwrap();
        assert!(output.is_empty());
        let mut received = [0; 300];
        peer.read_exact(&mut received).unwrap();
        assert_eq!(received[..], numbered(0, 300));
    }

    #[test]
    fn slices_that_follow_each_other_leave_as_one_piece() {
        let (stream, mut peer) = pair();
        let mut output = OutputBuffer::new();
        (0..100).for_each(|n| output.push_slice(&numbered(n * 3, 3)));
        assert!(output.is_lead_only());
        assert_eq!(output.write_to(&stream).unwrap(), Progress { written: 300, blocked: false });
        let mut received = [0; 300];
        peer.read_exact(&mut received).unwrap();
        assert_eq!(received[..], numbered(0, 300));
    }

    /// Pieces of every kind and of sizes that never divide what the kernel takes.
    #[test]
    fn a_full_kernel_blocks_and_no_byte_is_lost_or_doubled() {
        const TOTAL: usize = 3_000_000;
        let (stream, mut peer) = pair();
        let file = numbered_file(TOTAL);
        let mut output = OutputBuffer::new();
        let mut random = SplitMix64::new(7);
        let mut pushed = 0;
        while pushed < TOTAL {
            let count = (random.next() as usize % 7919 + 1).min(TOTAL - pushed);
            match random.next() % 3 {
                0 => output.push(numbered(pushed, count)),
                1 => output.push_slice(&numbered(pushed, count)),
                _ => output.push_file(Rc::clone(&file), pushed as u64, count as u64),
            }
            pushed += count;
        }
        let mut received = Vec::new();
        let mut times_blocked = 0;
        while !output.is_empty() {
            let progress = output.write_to(&stream).unwrap();
            if progress.blocked {
                times_blocked += 1;
                let mut some = [0; 10_007];
                let count = peer.read(&mut some).unwrap();
                received.extend_from_slice(&some[..count]);
            }
        }
        assert_eq!(output.in_memory(), 0);
        drop(stream);
        peer.read_to_end(&mut received).unwrap();
        assert!(times_blocked > 1);
        assert!(received == numbered(0, TOTAL));
    }

    #[test]
    fn a_layer_sees_the_same_bytes_chunk_by_chunk() {
        const TOTAL: usize = 200_000;
        let file = numbered_file(TOTAL);
        let mut output = OutputBuffer::new();
        output.push_slice(&numbered(0, 10));
        output.push_file(file, 10, (TOTAL - 30) as u64);
        output.push(numbered(TOTAL - 20, 20));
        assert_eq!((output.len(), output.in_memory()), (TOTAL as u64, 30));
        let mut seen = Vec::new();
        while !output.is_empty() {
            let chunk = output.chunk().unwrap();
            let taken = chunk.len().min(5_003);
            seen.extend_from_slice(&chunk[..taken]);
            output.advance(taken);
            assert!(output.in_memory() <= LOADED_CHUNK as usize + 30);
        }
        assert!(seen == numbered(0, TOTAL));
    }

    #[test]
    fn a_file_that_has_shrunk_is_an_error_and_not_an_endless_loop() {
        let (stream, _peer) = pair();
        let file = numbered_file(100);
        let mut output = OutputBuffer::new();
        output.push_file(Rc::clone(&file), 50, 100);
        assert_eq!(output.write_to(&stream).unwrap().written, 50);
        assert_eq!(output.write_to(&stream).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(output.chunk().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_drained_buffer_keeps_little_memory() {
        let (stream, mut peer) = pair();
        let mut output = OutputBuffer::new();
        output.push_slice(&[1; 100]);
        output.write_to(&stream).unwrap();
        let kept = output.copied.capacity();
        assert!(kept >= 100, "the next answer should allocate nothing");
        output.push_slice(&vec![1; 4 << 20]);
        let reader = std::thread::spawn(move || peer.read_exact(&mut vec![0; 100 + (4 << 20)]).unwrap());
        while !output.is_empty() {
            output.write_to(&stream).unwrap();
        }
        reader.join().unwrap();
        assert!(output.copied.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    fn a_buffer_that_a_back_end_has_drained_keeps_little_memory() {
        for shared in [false, true] {
            let mut output = OutputBuffer::new();
            for _ in 0..8 {
                output.push_slice(&vec![1; 1 << 20]);
                if shared {
                    output.push(numbered(0, 10)); // several pieces, so the slices are copied out
                }
            }
            let payload = output.take().unwrap();
            assert_eq!(payload.len(), output.in_flight());
            output.sent(payload.len(), payload);
            assert!(output.is_empty() && output.copied.capacity() <= KEPT_CAPACITY, "{}", output.copied.capacity());
        }
    }

    #[test]
    fn a_tail_knows_what_of_it_was_shown() {
        let mut tail = InputTail::new();
        tail.extend(b"shown");
        tail.extend_unseen(b"hidden");
        assert_eq!((tail.seen(), tail.unseen(), tail.len()), (&b"shown"[..], 6, 11));
        tail.see(3);
        assert_eq!((tail.seen(), tail.unseen()), (&b"shownhid"[..], 3));
        tail.consume(7);
        assert_eq!((tail.seen(), tail.as_slice()), (&b"d"[..], &b"dden"[..]));
        tail.see(100);
        tail.consume(4);
        assert!(tail.is_empty() && tail.unseen() == 0);
    }

    #[test]
    fn a_tail_gives_memory_back_when_what_remains_is_small() {
        let mut tail = InputTail::new();
        tail.extend(&vec![7; 1 << 20]);
        tail.consume((1 << 20) - 3);
        assert_eq!(tail.as_slice(), [7; 3]);
        assert!(tail.kept.as_ref().unwrap().bytes.capacity() <= TAIL_SLACK + 6);
        tail.consume(3);
        assert!(tail.is_empty() && tail.kept.is_none());
    }
}
