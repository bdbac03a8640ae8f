//! TLS on one connection: carries bytes between the socket, rustls and the reactor. It waits for
//! nothing and asks for no time; what the bytes mean is rustls' business.
//!
//! Memory per connection is bounded: plaintext is handed on as soon as it is decrypted, what is
//! to be sent is encrypted only while less than [`MOST_PENDING`] bytes wait for the socket, and
//! rustls holds at most one incoming record, or 64 KiB of a handshake.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustls::{Connection, IoState};

use super::Session;
use super::fault;
use crate::buffer::{OutputBuffer, Progress};
use crate::layer::Layer;
use crate::socket::Stream;

/// Plaintext per record: the most that the protocol allows.
const RECORD: usize = 16 * 1024;

/// A record on the wire is larger than its plaintext by at most this much, header included
/// (RFC 5246 §6.2.3; RFC 8446 allows less).
const RECORD_OVERHEAD: usize = 2048 + 5;

/// Ciphertext that waits for the socket beyond which nothing more is encrypted. Large enough for
/// one system call to be worth its price, small enough for many connections.
const MOST_PENDING: usize = 64 * 1024;

/// Bytes of TLS without any data in them that a peer may send before it is thought to mean ill.
/// Most messages that come after a handshake are limited by rustls, but not a server's tickets,
/// and each of them costs time.
const MOST_FRUITLESS: usize = 1 << 20;

/// The TLS [`Layer`] of a connection, either side. [`Server`](super::Server) and
/// [`Client`](super::Client) make them; what was agreed upon is asked by
/// [`tls::session`](super::session).
///
/// ```
/// use netlib::{Conn, tls::TlsLayer};
///
/// fn is_encrypted(conn: &Conn) -> bool {
///     conn.with_layer(|_: &TlsLayer| ()).is_some()
/// }
/// # let _ = is_encrypted;
/// ```
pub struct TlsLayer {
    tls: Connection,
    /// Whom we call; None on the server's side, where the client says it.
    server: Option<Box<str>>,
    /// How the peer began: to say what it was if it was not TLS.
    opening: Opening,
    /// rustls has refused what came in. It knows why.
    failed: bool,
    /// Our good-bye was said.
    closed: bool,
    /// Ciphertext in rustls that the socket has not taken. rustls does not tell.
    pending: usize,
    /// Bytes read since the last data.
    fruitless: usize,
}

impl TlsLayer {
    pub(super) fn new(mut tls: Connection, server: Option<Box<str>>) -> Self {
        // The bound is kept here; theirs would only cut records short before ours is reached.
        tls.set_buffer_limit(Some(MOST_PENDING + 2 * (RECORD + RECORD_OVERHEAD)));
        let mut layer =
            Self { tls, server, opening: Opening::default(), failed: false, closed: false, pending: 0, fruitless: 0 };
        layer.count_pending();
        layer
    }

    /// What was agreed upon; None before the handshake is complete.
    pub fn session(&self) -> Option<Session> {
        if self.tls.is_handshaking() {
            return None;
        }
        let server_name = match &self.tls {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => self.server.as_deref().map(str::to_owned),
        };
        Session::new(&self.tls, server_name)
    }

    /// One read from the socket, small as handshakes are. 0 is the end.
    fn receive(&mut self, stream: &Stream) -> io::Result<usize> {
        let count = self.tls.read_tls(&mut Source { stream, opening: &mut self.opening })?;
        if count > 0 {
            self.process()?;
        }
        Ok(count)
    }

    fn process(&mut self) -> io::Result<()> {
        let outcome = if self.closed { self.step_after_close() } else { self.tls.process_new_packets() };
        match outcome {
            Ok(now) => {
                self.pending = now.tls_bytes_to_write();
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                self.count_pending();
                Err(self.fault(&error))
            }
        }
    }

    /// A peer that breaks the protocol after our good-bye makes rustls prepare an alert behind it,
    /// and a debug build of rustls asserts that this never happens. So that no peer can panic the
    /// loop, the assertion is turned into the error that it stands in the way of.
    fn step_after_close(&mut self) -> Result<IoState, rustls::Error> {
        // After a panic `failed` is set, and rustls refuses every further step by itself.
        catch_unwind(AssertUnwindSafe(|| self.tls.process_new_packets()))
            .unwrap_or_else(|_| Err(rustls::Error::General("the protocol was broken after our good-bye".to_owned())))
    }

    fn fault(&self, error: &rustls::Error) -> io::Error {
        fault::invalid(error, self.opening.bytes(), matches!(self.tls, Connection::Server(_)))
    }

    /// Reads once from the socket, as much as can be decrypted into `buffer`, and decrypts it.
    /// The ciphertext stands in the upper part of `buffer` meanwhile, so no memory of our own
    /// is needed and one system call brings several records. 0 says that no plaintext came of
    /// it, which means nothing yet.
    fn receive_into(&mut self, stream: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        // What is decrypted is at most what was read and the record that rustls had part of.
        const CARRIED: usize = RECORD + RECORD_OVERHEAD;
        // Less is not worth it: so much rustls reads by itself.
        const LEAST_READ: usize = 4 * 1024;
        let room = buffer.len().saturating_sub(CARRIED) / 2;
        if room < LEAST_READ {
            self.fruitless += self.receive(stream)?;
            return Ok(0);
        }
        let (plain, cipher) = buffer.split_at_mut(buffer.len() - room);
        let count = match stream.read(cipher) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    // Lets rustls give back what its buffer has grown by.
                    let _ = self.tls.read_tls(&mut Nothing);
                }
                return Err(error);
            }
        };
        self.fruitless += count;
        let mut input = &cipher[..count];
        if input.is_empty() {
            self.tls.read_tls(&mut io::empty())?;
        }
        let mut filled = 0;
        while !input.is_empty() {
            // 0 after the peer's good-bye: what comes behind it is not for us.
            if self.tls.read_tls(&mut input)? == 0 {
                break;
            }
            let outcome = self.process();
            filled += match self.tls.reader().read(&mut plain[filled..]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            match outcome {
                // What came before the fault is good; the fault is told at the next read.
                Err(_) if filled > 0 => break,
                outcome => outcome?,
            }
        }
        Ok(filled)
    }

    /// Encrypts what waits in `output`, while there is room. Small pieces go into one record:
    /// a record has its price, in bytes and in time.
    fn encrypt(&mut self, output: &mut OutputBuffer) -> io::Result<usize> {
        let mut taken = 0;
        while self.pending + taken < MOST_PENDING {
            let whole = output.len();
            let front = output.chunk()?;
            let count = if front.is_empty() {
                break;
            } else if front.len() >= RECORD || front.len() as u64 == whole {
                let count = self.tls.writer().write(&front[..front.len().min(RECORD)])?;
                output.advance(count);
                count
            } else {
                let mut record = [0; RECORD];
                let count = gather(output, &mut record)?;
                // It takes all: there is room for two records beyond our bound.
                self.tls.writer().write_all(&record[..count])?;
                count
            };
            taken += count;
        }
        if taken > 0 {
            self.count_pending();
        }
        Ok(taken)
    }

    /// Offers the socket the ciphertext that waits. True if it did not take all.
    fn flush(&mut self, stream: &Stream) -> io::Result<bool> {
        while self.tls.wants_write() {
            let mut sink = Sink { stream, offered: 0 };
            let outcome = self.tls.write_tls(&mut sink);
            let offered = sink.offered;
            match outcome {
                Ok(written) => {
                    self.pending = self.pending.saturating_sub(written);
                    if written < offered {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.pending = 0;
        Ok(false)
    }

    /// rustls tells it as the outcome of a step, so a step is made, with nothing new to do. After
    /// a failure it makes none; the little that waits then is weighed.
    fn count_pending(&mut self) {
        if !self.failed
            && let Ok(now) = self.tls.process_new_packets()
        {
            self.pending = now.tls_bytes_to_write();
            return;
        }
        let mut scale = Scale(0);
        if self.tls.wants_write() {
            // Refused by the scale, so nothing leaves.
            let _ = self.tls.write_tls(&mut scale);
        }
        self.pending = scale.0;
    }
}

impl Layer for TlsLayer {
    fn handshake(&mut self, stream: &Stream) -> io::Result<bool> {
        loop {
            self.flush(stream)?;
            if !self.tls.is_handshaking() {
                return Ok(true);
            }
            // Also while we wait to write: a peer that has gone is noticed by reading only.
            match self.receive(stream) {
                Ok(0) => return Err(fault::cut_off_in_handshake()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn read(&mut self, stream: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Ok(count) => {
                    self.fruitless = 0;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(fault::cut_off()),
                Err(error) => return Err(error),
            }
            if self.failed {
                self.process()?;
            }
            let count = self.receive_into(stream, buffer)?;
            if count > 0 {
                self.fruitless = 0;
                return Ok(count);
            }
            if self.fruitless > MOST_FRUITLESS {
                return Err(fault::fruitless());
            }
        }
    }

    fn write(&mut self, stream: &Stream, output: &mut OutputBuffer) -> io::Result<Progress> {
        if self.closed && !output.is_empty() {
            // rustls would encrypt it, and the peer would pass over it.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut written = 0;
        if !self.failed && !self.tls.is_handshaking() {
            written = self.encrypt(output)?;
        }
        let blocked = self.flush(stream)?;
        if self.failed && !blocked && !output.is_empty() {
            // It will never leave: say so, or the caller would offer it again for ever.
            self.process()?;
        }
        Ok(Progress { written, blocked })
    }

    fn pending(&self) -> usize {
        self.pending
    }

    fn close(&mut self) {
        self.closed = true;
        self.tls.send_close_notify();
        self.count_pending();
    }
}

impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLayer")
            .field("side", if self.server.is_some() { &"client" } else { &"server" })
            .field("handshaking", &self.tls.is_handshaking())
            .field("failed", &self.failed)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// Moves bytes from the front of `output` into `record` until either is exhausted.
fn gather(output: &mut OutputBuffer, record: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < record.len() {
        let front = output.chunk()?;
        if front.is_empty() {
            break;
        }
        let count = front.len().min(record.len() - filled);
        record[filled..filled + count].copy_from_slice(&front[..count]);
        output.advance(count);
        filled += count;
    }
    Ok(filled)
}

/// The first bytes that the peer sent.
#[derive(Default)]
struct Opening {
    bytes: [u8; 8],
    len: u8,
}

impl Opening {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn note(&mut self, input: &[u8]) {
        let from = usize::from(self.len);
        let count = input.len().min(self.bytes.len() - from);
        self.bytes[from..from + count].copy_from_slice(&input[..count]);
        self.len += count as u8;
    }
}

/// The socket, to be read by rustls.
struct Source<'a> {
    stream: &'a Stream,
    opening: &'a mut Opening,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.opening.note(&buffer[..count]);
        Ok(count)
    }
}

/// Has nothing to read now.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// The socket, to be written to by rustls. Remembers how much it was offered.
struct Sink<'a> {
    stream: &'a Stream,
    offered: usize,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.offered = bytes.len();
        self.stream.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [piece] = pieces {
            return self.write(piece);
        }
        self.offered = pieces.iter().map(|piece| piece.len()).sum();
        self.stream.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes nothing, but weighs what it is offered.
struct Scale(usize);

impl Write for Scale {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = bytes.len();
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0 = pieces.iter().map(|piece| piece.len()).sum();
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
