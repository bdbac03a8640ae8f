//! The load generator: closed-loop framed echo in lock step, on one thread.
//!
//! A pass writes `depth` frames on every connection, then reads every answer, and verifies each byte. All of a
//! pass is outstanding before the first answer is waited for, and the connection that a server answers last is
//! read first, so generator and server change places once a pass. Two system calls per connection and pass.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    /// Frames outstanding on each connection.
    pub(crate) depth: usize,
    /// Bytes of a frame, the 16-byte header included.
    pub(crate) frame: usize,
}

/// Connections to one server, with their requests.
pub(crate) struct Load {
    lanes: Vec<Lane>,
    shape: Shape,
    pass: u64,
    answer: Vec<u8>,
}

struct Lane {
    stream: TcpStream,
    request: Vec<u8>,
}

/// An answer that takes longer than this ends the run: the server has stopped.
const PATIENCE: Duration = Duration::from_secs(10);

impl Load {
    pub(crate) fn connect(port: u16, shape: Shape) -> io::Result<Self> {
        let lanes =
            (0..shape.connections).map(|lane| Lane::connect(port, shape, lane as u64)).collect::<Result<_, _>>()?;
        Ok(Self { lanes, shape, pass: 0, answer: vec![0; shape.depth * shape.frame] })
    }

    /// Requests in so many passes.
    pub(crate) fn requests_in(&self, passes: u64) -> u64 {
        passes * (self.shape.connections * self.shape.depth) as u64
    }

    /// Runs `passes` passes; each is `connections × depth` requests.
    pub(crate) fn run(&mut self, passes: u64) -> io::Result<()> {
        for _ in 0..passes {
            self.one_pass()?;
        }
        Ok(())
    }

    fn one_pass(&mut self) -> io::Result<()> {
        self.pass += 1;
        for lane in &mut self.lanes {
            lane.send(self.pass, self.shape.frame)?;
        }
        for lane in self.lanes.iter_mut().rev() {
            lane.stream.read_exact(&mut self.answer)?;
            if self.answer != lane.request {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent"));
            }
        }
        Ok(())
    }
}

impl Lane {
    fn connect(port: u16, shape: Shape, number: u64) -> io::Result<Self> {
        assert!(shape.frame >= 40, "a frame carries its header and three numbers");
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = vec![0x5a; shape.depth * shape.frame];
        for (index, frame) in request.chunks_exact_mut(shape.frame).enumerate() {
            frame[..4].copy_from_slice(&(shape.frame as u32).to_be_bytes());
            frame[24..32].copy_from_slice(&number.to_be_bytes());
            frame[32..40].copy_from_slice(&(index as u64).to_be_bytes());
        }
        Ok(Self { stream, request })
    }

    fn send(&mut self, pass: u64, frame: usize) -> io::Result<()> {
        for frame in self.request.chunks_exact_mut(frame) {
            frame[16..24].copy_from_slice(&pass.to_be_bytes());
        }
        self.stream.write_all(&self.request)
    }
}
