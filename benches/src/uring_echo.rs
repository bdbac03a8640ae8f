//! The echo server by completions, as raw as it gets: what a back end on `io_uring` could reach at best. Multishot
//! accept and receive, buffers picked by the kernel, whole frames sent straight from the buffer they came in, sends
//! submitted with the wait: one system call per turn of the loop.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use netlib::sys::{Buffer, Completion, CompletionRing, Payload};

use crate::tokio_echo::whole_frames;

const ACCEPT: u32 = 0; // connection tags are slot + 1
const ENTRIES: u32 = 2048;
const BUFFERS: u16 = 1024;
const BUFFER_SIZE: usize = 4096;

/// A slot is reused only when nothing is in flight for it.
struct Peer {
    socket: OwnedFd,
    /// An incomplete frame.
    tail: Vec<u8>,
    /// What to send when the socket has room again.
    waiting: Vec<u8>,
    /// It had no room for all.
    blocked: bool,
    receiving: bool,
    broken: bool,
}

/// Serves until it is killed.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let mut ring = CompletionRing::new(ENTRIES, BUFFERS, BUFFER_SIZE)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    ring.accept_multishot(&listener, ACCEPT)?;
    println!("ready");
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut done = Vec::new();
    loop {
        ring.wait(&mut done, None)?;
        for completion in done.drain(..) {
            match completion {
                Completion::Accepted { result, more, .. } => {
                    if let Ok(socket) = result {
                        welcome(&mut ring, &mut peers, socket)?;
                    }
                    if !more {
                        ring.accept_multishot(&listener, ACCEPT)?;
                    }
                }
                Completion::Received { tag, result, more } => {
                    let tag = tag as u32; // as it was given
                    let slot = &mut peers[tag as usize - 1];
                    let peer = slot.as_mut().expect("a slot is kept while a receive is in flight");
                    peer.received(&mut ring, tag, result, more)?;
                    forget_if_over(slot);
                }
                Completion::Ready { tag, .. } => {
                    let slot = &mut peers[tag as usize - 1];
                    let peer = slot.as_mut().expect("a slot is kept while its socket is blocked");
                    peer.blocked = false;
                    peer.send_waiting(&mut ring, tag)?;
                    forget_if_over(slot);
                }
                Completion::Sent { tag, result, payload } => {
                    if let Some(peer) = &mut peers[tag as usize - 1] {
                        peer.sent(&mut ring, tag, result, payload)?;
                    }
                }
            }
        }
    }
}

fn welcome(ring: &mut CompletionRing, peers: &mut Vec<Option<Peer>>, socket: OwnedFd) -> io::Result<()> {
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    let free = peers.iter().position(Option::is_none);
    let slot = free.unwrap_or(peers.len());
    if free.is_none() {
        peers.push(None);
    }
    ring.receive_multishot(&socket, slot as u64 + 1)?;
    let (tail, waiting) = (vec![], vec![]);
    peers[slot] = Some(Peer { socket, tail, waiting, blocked: false, receiving: true, broken: false });
    Ok(())
}

fn forget_if_over(slot: &mut Option<Peer>) {
    if slot.as_ref().is_some_and(|peer| !peer.blocked && !peer.receiving) {
        *slot = None;
    }
}

impl Peer {
    fn received(
        &mut self,
        ring: &mut CompletionRing,
        tag: u32,
        result: io::Result<Option<Buffer>>,
        more: bool,
    ) -> io::Result<()> {
        self.receiving = more;
        match result {
            Ok(Some(buffer)) => {
                self.echo(ring, tag, buffer)?;
                if !more && !self.broken {
                    self.receive(ring, tag)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted || out_of_buffers(&error) => {
                self.receive(ring, tag)?;
            }
            Ok(None) | Err(_) => self.broken = true,
        }
        Ok(())
    }

    fn receive(&mut self, ring: &mut CompletionRing, tag: u32) -> io::Result<()> {
        self.receiving = true;
        ring.receive_multishot(&self.socket, u64::from(tag))
    }

    fn echo(&mut self, ring: &mut CompletionRing, tag: u32, mut buffer: Buffer) -> io::Result<()> {
        if self.tail.is_empty() && self.waiting.is_empty() {
            let Some(whole) = self.whole(&buffer) else { return Ok(()) };
            self.tail.extend_from_slice(&buffer[whole..]);
            if whole > 0 {
                buffer.truncate(whole);
                ring.send(&self.socket, Payload::Received(buffer), tag)?;
            }
            return Ok(());
        }
        self.tail.extend_from_slice(&buffer);
        let tail = std::mem::take(&mut self.tail);
        let Some(whole) = self.whole(&tail) else { return Ok(()) };
        self.tail.extend_from_slice(&tail[whole..]);
        self.waiting.extend_from_slice(&tail[..whole]);
        self.send_waiting(ring, tag)
    }

    /// Bytes of whole frames; none, and the connection shut, if a length is out of range.
    fn whole(&mut self, data: &[u8]) -> Option<usize> {
        let whole = whole_frames(data).ok();
        if whole.is_none() {
            self.broken = true;
            // Refused only if the peer is gone already; the receive in flight then ends likewise.
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        }
        whole
    }

    /// A socket without room is polled until it has some.
    fn sent(
        &mut self,
        ring: &mut CompletionRing,
        tag: u32,
        result: io::Result<usize>,
        payload: Payload,
    ) -> io::Result<()> {
        let sent = match result {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Ok(()), // the receive in flight ends as well
        };
        let bytes = match &payload {
            Payload::Received(buffer) => &buffer[sent..],
            Payload::Owned(bytes) => &bytes[sent..],
            Payload::Shared(_) | Payload::Parts(_) => &[], // nothing here sends these
        };
        if !bytes.is_empty() {
            self.waiting.splice(..0, bytes.iter().copied());
            if !self.blocked {
                self.blocked = true;
                ring.poll(&self.socket, true, tag)?;
            }
        }
        Ok(())
    }

    fn send_waiting(&mut self, ring: &mut CompletionRing, tag: u32) -> io::Result<()> {
        if self.blocked || self.waiting.is_empty() {
            return Ok(());
        }
        ring.send(&self.socket, Payload::Owned(std::mem::take(&mut self.waiting)), tag)
    }
}

fn out_of_buffers(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}
