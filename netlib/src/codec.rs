//! Framing: where one message ends in a stream of bytes. Decoders are sans-I/O: they look at
//! what has arrived and answer with positions, so they neither read, nor copy, nor wait. How one
//! is put in front of a connection's handler is in [`Framed`](crate::Framed).

use std::fmt;
use std::ops::Range;

/// Finds frames in a byte stream.
///
/// ```
/// use netlib::{Decode, Frame, FrameError};
///
/// /// Messages that end with a semicolon.
/// struct Statements;
///
/// impl Decode for Statements {
///     fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError> {
///         match input.iter().position(|byte| *byte == b';') {
///             Some(end) => Ok(Some(Frame { consumed: end + 1, body: 0..end })),
///             None if input.len() > 1000 => Err(FrameError::TooLong),
///             None => Ok(None),
///         }
///     }
/// }
///
/// let frame = Statements.decode(b"select 1; sel").unwrap().unwrap();
/// assert_eq!((frame.consumed, frame.body), (9, 0..8));
/// ```
pub trait Decode: 'static {
    /// Looks for a frame at the beginning of `input`, which starts with the first byte that no
    /// frame has consumed. `None` asks for more: the next call shows the same bytes and further
    /// ones. After an error the stream is out of step, and the decoder is not called again.
    ///
    /// # Errors
    ///
    /// If what comes is no frame, or one that is too long.
    fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError>;
}

/// Where a frame lies in the input it was found in.
///
/// ```
/// use netlib::Frame;
///
/// let input = b"\x02hi\x03";
/// let frame = Frame { consumed: 3, body: 1..3 };
/// assert_eq!(&input[frame.body], b"hi");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Bytes from the beginning of the input to the end of the frame.
    pub consumed: usize,
    /// The part that is the message; within `0..consumed`.
    pub body: Range<usize>,
}

/// Why the bytes are not a frame.
///
/// ```
/// use netlib::FrameError;
///
/// assert_eq!(FrameError::TooLong.to_string(), "frame longer than the limit");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A length below the least possible one.
    TooShort,
    /// A length above the limit.
    TooLong,
    /// Anything else; says what.
    Malformed(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "frame shorter than its least length",
            Self::TooLong => "frame longer than the limit",
            Self::Malformed(what) => what,
        })
    }
}

impl std::error::Error for FrameError {}

/// The size of a length field.
///
/// ```
/// use netlib::codec::{Decode, LengthPrefixed, LengthWidth};
///
/// let mut decoder = LengthPrefixed::new(LengthWidth::Two, 100);
/// assert_eq!(decoder.decode(b"\0\x02hi").unwrap().unwrap().body, 2..4);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthWidth {
    /// 16 bits.
    Two,
    /// 32 bits.
    Four,
    /// 64 bits.
    Eight,
}

impl LengthWidth {
    const fn bytes(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// Frames that begin with their length, big-endian.
///
/// ```
/// use netlib::codec::{Decode, FrameError, LengthPrefixed, LengthWidth};
///
/// // The length counts itself, as in a TeamTalk PDU.
/// let mut decoder = LengthPrefixed::new(LengthWidth::Four, 1024).counting_itself();
/// let frame = decoder.decode(b"\0\0\0\x06hi\0\0").unwrap().unwrap();
/// assert_eq!((frame.consumed, frame.body), (6, 4..6));
/// assert_eq!(decoder.decode(b"\0\0\0"), Ok(None));
/// assert_eq!(decoder.decode(b"\0\0\0\x03"), Err(FrameError::TooShort));
/// assert_eq!(decoder.decode(b"\0\0\x04\x01"), Err(FrameError::TooLong));
/// ```
#[derive(Debug, Clone)]
pub struct LengthPrefixed {
    width: LengthWidth,
    counts_itself: bool,
    min: u64,
    max: u64,
}

impl LengthPrefixed {
    /// A length field of `width` that counts what follows it and is at most `max`.
    pub const fn new(width: LengthWidth, max: u64) -> Self {
        Self { width, counts_itself: false, min: 0, max }
    }

    /// The length counts the length field as well.
    pub const fn counting_itself(mut self) -> Self {
        self.counts_itself = true;
        self
    }

    /// The least value of the length field.
    pub const fn min(mut self, min: u64) -> Self {
        self.min = min;
        self
    }
}

impl Decode for LengthPrefixed {
    fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError> {
        let width = self.width.bytes();
        let length = match self.width {
            LengthWidth::Two => input.first_chunk().map(|field| u64::from(u16::from_be_bytes(*field))),
            LengthWidth::Four => input.first_chunk().map(|field| u64::from(u32::from_be_bytes(*field))),
            LengthWidth::Eight => input.first_chunk().map(|field| u64::from_be_bytes(*field)),
        };
        let Some(length) = length else { return Ok(None) };
        if length > self.max {
            return Err(FrameError::TooLong);
        }
        if length < self.min {
            return Err(FrameError::TooShort);
        }
        let length = usize::try_from(length).map_err(|_| FrameError::TooLong)?;
        let consumed = if self.counts_itself {
            if length < width {
                return Err(FrameError::TooShort);
            }
            length
        } else {
            length.checked_add(width).ok_or(FrameError::TooLong)?
        };
        Ok((input.len() >= consumed).then_some(Frame { consumed, body: width..consumed }))
    }
}

/// Frames that end with a line feed; it and a carriage return before it are not part of the
/// message.
///
/// ```
/// use netlib::codec::{Decode, Lines};
///
/// let mut decoder = Lines::new(80);
/// let frame = decoder.decode(b"PING\r\nPO").unwrap().unwrap();
/// assert_eq!((frame.consumed, frame.body), (6, 0..4));
/// ```
#[derive(Debug, Clone)]
pub struct Lines {
    max: usize,
    /// So much of the input is known to hold no line feed, so that a line that arrives byte by
    /// byte is searched once and not over and over.
    scanned: usize,
}

impl Lines {
    /// Lines of at most `max` bytes, their ending not counted.
    pub const fn new(max: usize) -> Self {
        Self { max, scanned: 0 }
    }
}

impl Decode for Lines {
    fn decode(&mut self, input: &[u8]) -> Result<Option<Frame>, FrameError> {
        let start = self.scanned.min(input.len());
        let feed = input[start..].iter().position(|byte| *byte == b'\n').map(|offset| start + offset);
        let line = &input[..feed.unwrap_or(input.len())];
        // A carriage return at the end may turn out to belong to the ending.
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        if length > self.max {
            return Err(FrameError::TooLong);
        }
        self.scanned = if feed.is_some() { 0 } else { input.len() };
        Ok(feed.map(|feed| Frame { consumed: feed + 1, body: 0..length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `stream` in pieces of `step` bytes, as a connection would, and collects the bodies.
    fn bodies(decoder: &mut impl Decode, stream: &[u8], step: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let (mut bodies, mut begin) = (Vec::new(), 0);
        let mut arrived = 0;
        while arrived < stream.len() {
            arrived = (arrived + step).min(stream.len());
            while let Some(frame) = decoder.decode(&stream[begin..arrived])? {
                bodies.push(stream[begin..arrived][frame.body].to_vec());
                begin += frame.consumed;
            }
        }
        assert_eq!(begin, stream.len(), "the stream ends with a frame");
        Ok(bodies)
    }

    /// spec/netlib.md §14 item 1.
    #[test]
    fn the_pieces_in_which_bytes_arrive_do_not_matter() {
        let lengths = b"\0\0\0\0\0\x05hello\0\x01!\0\0";
        let lines = b"\nhello\r\n!\r\r\n\r\n";
        for step in 1..=lengths.len() {
            let mut decoder = LengthPrefixed::new(LengthWidth::Two, 5);
            let expected: [&[u8]; 5] = [b"", b"", b"hello", b"!", b""];
            assert_eq!(bodies(&mut decoder, lengths, step).unwrap(), expected);
        }
        for step in 1..=lines.len() {
            let expected: [&[u8]; 4] = [b"", b"hello", b"!\r", b""];
            assert_eq!(bodies(&mut Lines::new(5), lines, step).unwrap(), expected);
        }
    }

    #[test]
    fn every_width_reads_big_endian() {
        for (width, bytes) in [
            (LengthWidth::Two, &b"\0\x01a"[..]),
            (LengthWidth::Four, b"\0\0\0\x01a"),
            (LengthWidth::Eight, b"\0\0\0\0\0\0\0\x01a"),
        ] {
            assert_eq!(bodies(&mut LengthPrefixed::new(width, 9), bytes, 1).unwrap(), [b"a"]);
        }
    }

    /// spec/netlib.md G6.1, §14 item 2.
    #[test]
    fn lengths_at_the_limits_pass_and_beyond_them_fail() {
        let mut decoder = LengthPrefixed::new(LengthWidth::Four, 20).min(16).counting_itself();
        let mut outcome = |length: u32| decoder.decode(&length.to_be_bytes());
        for length in [0, 1, 15] {
            assert_eq!(outcome(length), Err(FrameError::TooShort));
        }
        for length in [16, 20] {
            assert_eq!(outcome(length), Ok(None));
        }
        for length in [21, u32::MAX] {
            assert_eq!(outcome(length), Err(FrameError::TooLong));
        }
    }

    /// spec/netlib.md G8.1.
    #[test]
    fn a_length_that_would_overflow_is_too_long() {
        let mut decoder = LengthPrefixed::new(LengthWidth::Eight, u64::MAX);
        assert_eq!(decoder.decode(&[0xff; 8]), Err(FrameError::TooLong));
    }

    #[test]
    fn a_line_is_refused_as_soon_as_it_is_too_long() {
        assert_eq!(Lines::new(3).decode(b"abc"), Ok(None));
        assert_eq!(Lines::new(3).decode(b"abc\r"), Ok(None));
        assert_eq!(Lines::new(3).decode(b"abcd"), Err(FrameError::TooLong));
        assert_eq!(Lines::new(3).decode(b"abcd\n"), Err(FrameError::TooLong));
        assert_eq!(Lines::new(3).decode(b"abc\rd\n"), Err(FrameError::TooLong));
    }
}
