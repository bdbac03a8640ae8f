//! What a connection keeps between ticks: bytes that the kernel did not take yet, and the head
//! of a frame whose rest has not come. An idle connection keeps neither: both are then empty
//! and own no memory.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

use crate::socket::Stream;

/// Pieces per system call. Linux takes up to 1,024; past some dozens the call itself is no
/// longer what costs, and the array below lives on the stack.
const MAX_PIECES: usize = 64;

/// Output in the order in which it was sent: reference-counted pieces, never copied together.
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
/// output.push(Bytes::from_static(b"write"));
/// let progress = output.write_to(&stream)?;
/// assert_eq!((progress.written, progress.blocked, output.is_empty()), (9, false, true));
/// # drop(theirs);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct OutputBuffer {
    /// The piece to be written next; empty only if there is none. Apart from the others, so
    /// that one piece at a time, the common case, allocates nothing.
    front: Bytes,
    rest: VecDeque<Bytes>,
    len: usize,
}

/// What one attempt to write came to.
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
        Self { front: Bytes::new(), rest: VecDeque::new(), len: 0 }
    }

    /// Bytes that wait.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if self.front.is_empty() {
            self.front = piece;
        } else {
            self.rest.push_back(piece);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Offers the kernel what waits, in one system call of at most 64 pieces. "Would block" is
    /// progress of 0 bytes; errors are those of the stream.
    pub fn write_to(&mut self, stream: &Stream) -> io::Result<Progress> {
        if self.is_empty() {
            return Ok(Progress { written: 0, blocked: false });
        }
        let (offered, result) = if self.rest.is_empty() {
            (self.front.len(), stream.write(&self.front))
        } else {
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
            let mut offered = 0;
            let mut count = 0;
            for (slot, piece) in pieces.iter_mut().zip(std::iter::once(&self.front).chain(&self.rest)) {
                *slot = IoSlice::new(piece);
                offered += piece.len();
                count += 1;
            }
            (offered, stream.write_vectored(&pieces[..count]))
        };
        let written = match result {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.advance(written);
        Ok(Progress { written, blocked: written < offered })
    }

    /// The piece at the front; empty if nothing waits.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))] // layers read the pieces themselves
    pub(crate) fn chunk(&self) -> &[u8] {
        &self.front
    }

    /// Forgets the first `count` bytes, of those that wait.
    pub(crate) fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while count >= self.front.len() {
            count -= self.front.len();
            let Some(next) = self.rest.pop_front() else {
                self.clear();
                return;
            };
            self.front = next;
        }
        self.front.advance(count);
    }
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
    bytes: Vec<u8>,
}

/// A tail keeps at most this much more memory than it needs.
const TAIL_SLACK: usize = 16 * 1024;

impl InputTail {
    /// Empty.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Bytes kept.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether none is kept, and no memory either.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All of them, oldest first.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends what was read.
    pub fn extend(&mut self, input: &[u8]) {
        self.bytes.extend_from_slice(input);
    }

    /// Forgets the first `count` bytes, and returns memory that is no longer needed. Called once
    /// per read, not per frame, so that moving the remainder to the front stays cheap.
    pub fn consume(&mut self, count: usize) {
        if count >= self.bytes.len() {
            self.bytes = Vec::new();
        } else if count > 0 {
            self.bytes.drain(..count);
            if self.bytes.capacity() - self.bytes.len() > self.bytes.len() + TAIL_SLACK {
                self.bytes.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::from(OwnedFd::from(ours)), theirs)
    }

    fn numbered(from: usize, count: usize) -> Bytes {
        (from..from + count).map(|n| (n % 251) as u8).collect()
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
    fn a_full_kernel_blocks_and_no_byte_is_lost_or_doubled() {
        const TOTAL: usize = 3_000_000;
        let (stream, mut peer) = pair();
        let mut output = OutputBuffer::new();
        // Sizes that never divide what the kernel takes.
        let mut pushed = 0;
        while pushed < TOTAL {
            let count = (pushed % 7919 + 1).min(TOTAL - pushed);
            output.push(numbered(pushed, count));
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
        drop(stream);
        peer.read_to_end(&mut received).unwrap();
        assert!(times_blocked > 1);
        assert!(received == numbered(0, TOTAL));
    }

    #[test]
    fn a_drained_buffer_owns_no_memory() {
        let (stream, _peer) = pair();
        let mut output = OutputBuffer::new();
        (0..10).for_each(|n| output.push(numbered(n, 10)));
        output.write_to(&stream).unwrap();
        assert_eq!((output.len(), output.rest.capacity()), (0, 0));
    }

    #[test]
    fn a_tail_gives_memory_back_when_what_remains_is_small() {
        let mut tail = InputTail::new();
        tail.extend(&vec![7; 1 << 20]);
        tail.consume((1 << 20) - 3);
        assert_eq!(tail.as_slice(), [7; 3]);
        assert!(tail.bytes.capacity() <= TAIL_SLACK + 6);
        tail.consume(3);
        assert_eq!((tail.len(), tail.bytes.capacity()), (0, 0));
    }
}
