//! The chunked transfer coding as a decoder that takes its input in any pieces. Strict, since a
//! reader that guesses comes to another end of the message than the proxy before it, and that
//! difference is how requests are smuggled: line ends are CRLF, sizes are hexadecimal digits and
//! nothing else, extensions and trailers are bounded and dropped.

use std::ops::Range;

/// Bytes of chunk extensions in one body. They mean nothing to anybody here; a sender that
/// has more of them than this has something else in mind.
const MAX_EXTENSIONS: usize = 4 * 1024;
/// Bytes of the trailer section.
const MAX_TRAILERS: usize = 8 * 1024;
/// Digits of a size: enough for 2^60 bytes, too few to overflow.
const MAX_DIGITS: u8 = 15;

/// The input is not chunked coding, or over a limit of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadChunk;

/// What one step over the input found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Bytes of the input that are dealt with, the data included.
    pub(super) used: usize,
    /// Where in the input the data is; perhaps empty.
    pub(super) data: Range<usize>,
    /// The body is complete.
    pub(super) end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    /// Behind the CR of a size line.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// Decodes one body.
#[derive(Debug, Clone)]
pub(super) struct Chunked {
    state: State,
    /// Of the size being read, then of the data still to come.
    left: u64,
    digits: u8,
    extensions: usize,
    trailers: usize,
    /// The trailer line at hand has a colon.
    colon: bool,
}

impl Chunked {
    pub(super) const fn new() -> Self {
        Self { state: State::Size, left: 0, digits: 0, extensions: 0, trailers: 0, colon: false }
    }

    /// Goes on to the next piece of data, the end, or the end of the input.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, BadChunk> {
        let mut used = 0;
        while self.state != State::End {
            if self.state == State::Data {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - used);
                self.left -= count as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                if count > 0 || used == input.len() {
                    return Ok(Step { used: used + count, data: used..used + count, end: false });
                }
                continue;
            }
            let Some(&byte) = input.get(used) else { return Ok(Step { used, data: used..used, end: false }) };
            self.state = self.line_byte(byte)?;
            used += 1;
        }
        Ok(Step { used, data: used..used, end: true })
    }

    /// One byte outside the data.
    fn line_byte(&mut self, byte: u8) -> Result<State, BadChunk> {
        Ok(match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                self.left = self.left * 16 + u64::from(digit);
                self.digits += 1;
                State::Size
            }
            (State::Size, b';') if self.digits > 0 => self.extension()?,
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extension()?,
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            // A space here would continue the line before (obs-fold).
            (State::TrailerStart, b'!'..=b'9' | b';'..=b'~') => {
                self.colon = false;
                self.trailer()?
            }
            (State::Trailer, b'\r') if self.colon => State::TrailerLf,
            (State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.colon |= byte == b':';
                self.trailer()?
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::End,
            _ => return Err(BadChunk),
        })
    }

    fn extension(&mut self) -> Result<State, BadChunk> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS { Err(BadChunk) } else { Ok(State::Extension) }
    }

    fn trailer(&mut self) -> Result<State, BadChunk> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS { Err(BadChunk) } else { Ok(State::Trailer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes in pieces of that size: the data, the bytes used, and whether it ended.
    pub(super) fn decode(input: &[u8], size: usize) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let mut decoder = Chunked::new();
        let (mut data, mut used) = (Vec::new(), 0);
        for piece in input.chunks(size) {
            let mut at = 0;
            while at < piece.len() {
                let step = decoder.step(&piece[at..])?;
                data.extend_from_slice(&piece[at..][step.data]);
                at += step.used;
                used += step.used;
                if step.end {
                    return Ok((data, used, true));
                }
            }
        }
        Ok((data, used, false))
    }

    fn decode_anyhow(input: &[u8]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let whole = decode(input, input.len().max(1));
        for size in [1, 2, 3, 7] {
            assert_eq!(decode(input, size), whole, "in pieces of {size}: {:?}", String::from_utf8_lossy(input));
        }
        whole
    }

    #[test]
    fn data_comes_out_however_the_input_is_cut() {
        for (input, data) in [
            ("0\r\n\r\n", ""),
            ("3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n000\r\n\r\n", "abc0123456789"),
            ("1\r\n\r\r\n0\r\nA: b\r\nC:\r\n\r\n", "\r"),
        ] {
            assert_eq!(decode_anyhow(input.as_bytes()), Ok((data.as_bytes().to_vec(), input.len(), true)));
            let more = format!("{input}GET /");
            assert_eq!(decode_anyhow(more.as_bytes()).unwrap().1, input.len(), "what follows is left alone");
            for end in 0..input.len() {
                assert!(!decode_anyhow(&input.as_bytes()[..end]).unwrap().2, "{input:?} is not over at {end}");
            }
        }
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for bad in [
            "\r\n",
            ";\r\n",
            "x\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "1\na\n0\n\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\rb",
            "1;\n",
            "1;a\rb\r\n",
            "1;\0\r\n",
            "1000000000000000\r\n",
            "0\r\n folded\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n: no name\r\n\r\n",
            "0\r\nA: \0\r\n",
            "0\r\nA: b\n\n",
        ] {
            assert_eq!(decode_anyhow(bad.as_bytes()), Err(BadChunk), "{bad:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_limits() {
        let extension = |length| format!("1;{}\r\na\r\n", "x".repeat(length - 1));
        assert!(decode_anyhow(extension(MAX_EXTENSIONS).as_bytes()).is_ok());
        assert!(decode_anyhow(extension(MAX_EXTENSIONS + 1).as_bytes()).is_err());
        assert!(decode_anyhow("1;x\r\na\r\n".repeat(MAX_EXTENSIONS / 2 + 1).as_bytes()).is_err(), "over all chunks");
        let trailer = |length| format!("0\r\nA:{}\r\n\r\n", "x".repeat(length - 2));
        assert!(decode_anyhow(trailer(MAX_TRAILERS).as_bytes()).is_ok());
        assert!(decode_anyhow(trailer(MAX_TRAILERS + 1).as_bytes()).is_err());
    }
}
