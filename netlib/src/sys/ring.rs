//! Sockets by completion (`io_uring`): multishot accept, multishot receive into buffers that the kernel picks, and
//! sends that are submitted together with the wait. For servers that want to know what completions would buy them;
//! the reactor itself works by readiness and does not use this.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

/// A ring with a pool of receive buffers. It belongs to the thread that made it.
///
/// Descriptors are borrowed for the call that names them; the kernel keeps the socket itself alive until the
/// operation has completed.
///
/// Thread rule: it belongs to the thread that made it (it is not `Send`).
///
/// ```
/// use netlib::sys::{Completion, CompletionRing, Payload};
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> std::io::Result<()> {
/// let Ok(mut ring) = CompletionRing::new(8, 8, 4096) else { return Ok(()) }; // the kernel may refuse
/// let (mut near, far) = UnixStream::pair()?;
/// ring.receive_multishot(&far, 7)?;
/// near.write_all(b"hello")?;
/// let mut done = Vec::new();
/// ring.wait(&mut done)?;
/// let Some(Completion::Received { tag: 7, result: Ok(Some(buffer)), .. }) = done.pop() else { panic!() };
/// assert_eq!(&buffer[..], b"hello");
/// # Ok(())
/// # }
/// ```
pub struct CompletionRing {
    /// Dropped by hand: only when nothing is in flight may the memory under it go.
    ring: ManuallyDrop<IoUring>,
    pool: ManuallyDrop<Rc<Pool>>,
    sends: ManuallyDrop<Slab<Sending>>,
    /// Operations of which no last completion has been seen.
    in_flight: usize,
}

/// What has happened to an operation; `tag` is what the caller gave it.
///
/// ```
/// use netlib::sys::Completion;
///
/// fn tag(completion: &Completion) -> u64 {
///     match completion {
///         Completion::Accepted { tag, .. } | Completion::Received { tag, .. } | Completion::Sent { tag, .. } => *tag,
///     }
/// }
/// ```
#[derive(Debug)]
pub enum Completion {
    /// A connection was accepted, or accepting failed.
    Accepted {
        /// The caller's tag.
        tag: u64,
        /// The connection, close-on-exec.
        result: io::Result<OwnedFd>,
        /// False: this was the last; ask again for more.
        more: bool,
    },
    /// Bytes arrived, the peer ended its side (`None`), or receiving failed.
    Received {
        /// The caller's tag.
        tag: u64,
        /// The bytes; `ENOBUFS` when every buffer was in use.
        result: io::Result<Option<Buffer>>,
        /// False: this was the last; ask again for more.
        more: bool,
    },
    /// A send is over and its bytes are the caller's again.
    Sent {
        /// The caller's tag.
        tag: u64,
        /// Bytes taken by the kernel: all, unless the peer is gone.
        result: io::Result<usize>,
        /// What was sent from.
        payload: Payload,
    },
}

/// Bytes to send; they stay with the ring until the send has completed.
///
/// ```
/// use netlib::sys::{Buffer, CompletionRing, Payload};
/// use std::os::fd::AsFd;
///
/// /// Sends back what came, without a copy.
/// fn echo(ring: &mut CompletionRing, socket: &impl AsFd, received: Buffer) -> std::io::Result<()> {
///     let all = 0..received.len();
///     ring.send(socket, Payload::Received(received), all, 0)
/// }
/// ```
#[derive(Debug)]
pub enum Payload {
    /// Straight from where they were received.
    Received(Buffer),
    /// Any other bytes.
    Owned(Vec<u8>),
}

/// Received bytes in a buffer of the pool; dropping it gives the buffer back to the kernel.
///
/// ```
/// use netlib::sys::Buffer;
///
/// fn is_greeting(buffer: &Buffer) -> bool {
///     buffer.starts_with(b"hello") // it is a slice of bytes
/// }
/// ```
pub struct Buffer {
    pool: Rc<Pool>,
    id: u16,
    len: usize,
}

struct Sending {
    tag: u64,
    payload: Payload,
}

const KIND_SHIFT: u32 = 62;
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
/// The one buffer group of a ring.
const GROUP: u16 = 0;

impl CompletionRing {
    /// Opens a ring with room for `entries` submissions between two waits and `buffers` (a power of two, at most
    /// 32,768) of `buffer_size` bytes each. Fails where the kernel is older than 6.1 or forbids `io_uring`.
    ///
    /// # Errors
    ///
    /// Where the kernel is too old or forbids it.
    pub fn new(entries: u32, buffers: u16, buffer_size: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(entries.saturating_mul(4))
            .build(entries)?;
        let pool = Pool::new(buffers, buffer_size)?;
        // SAFETY: the entries are page-aligned, zeroed, `buffers` long, and live until nothing is in flight (`drop`).
        unsafe { ring.submitter().register_buf_ring_with_flags(pool.entries.as_ptr() as u64, buffers, GROUP, 0) }?;
        for id in 0..buffers {
            pool.give(id);
        }
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            pool: ManuallyDrop::new(Rc::new(pool)),
            sends: ManuallyDrop::new(Slab::new()),
            in_flight: 0,
        })
    }

    /// Accepts until a completion says `more: false`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn accept_multishot(&mut self, listener: &impl AsFd, tag: u64) -> io::Result<()> {
        let fd = Fd(listener.as_fd().as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(user_data(ACCEPT, tag)))
    }

    /// Receives until a completion says `more: false`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn receive_multishot(&mut self, socket: &impl AsFd, tag: u64) -> io::Result<()> {
        let fd = Fd(socket.as_fd().as_raw_fd());
        self.push(&opcode::RecvMulti::new(fd, GROUP).build().user_data(user_data(RECEIVE, tag)))
    }

    /// Sends `range` of `payload`, whole. Of two sends on one socket the second must wait for the first: the kernel
    /// promises no order.
    ///
    /// # Panics
    /// If the range is not within the payload.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn send(&mut self, socket: &impl AsFd, payload: Payload, range: Range<usize>, tag: u64) -> io::Result<()> {
        let bytes = &payload.bytes()[range];
        let (start, len) = (bytes.as_ptr(), bytes.len() as u32);
        let fd = Fd(socket.as_fd().as_raw_fd());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        // Moving the payload does not move its bytes: they are in the pool or on the heap.
        let key = self.sends.insert(Sending { tag, payload });
        let entry = opcode::Send::new(fd, start, len).flags(flags).build().user_data(user_data(SEND, key as u64));
        self.push(&entry).inspect_err(|_| drop(self.sends.remove(key)))
    }

    /// Submits what was asked for, waits until something has completed, and appends all that has.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn wait(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        for entry in self.ring.completion() {
            let more = cqueue::more(entry.flags());
            self.in_flight -= usize::from(!more);
            let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            let (kind, tag) = (entry.user_data() >> KIND_SHIFT, entry.user_data() & ((1 << KIND_SHIFT) - 1));
            completions.push(match kind {
                ACCEPT => {
                    // SAFETY: a successful accept hands over a descriptor that nobody else knows.
                    let result = result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
                    Completion::Accepted { tag, result, more }
                }
                RECEIVE => {
                    let buffer = |len| {
                        let id = cqueue::buffer_select(entry.flags())?;
                        Some(Buffer { pool: Rc::clone(&self.pool), id, len })
                    };
                    Completion::Received { tag, result: result.map(buffer), more }
                }
                _ => {
                    let Sending { tag, payload } = self.sends.remove(tag as usize);
                    Completion::Sent { tag, result, payload }
                }
            });
        }
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: what the entry points to (bytes of a payload in `sends`, buffers of the pool) lives until its last
        // completion has been seen; `drop` keeps it if that never comes.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))?;
        self.in_flight += 1;
        Ok(())
    }
}

impl Drop for CompletionRing {
    fn drop(&mut self) {
        // SAFETY: the ring is not used after this; closing it cancels what is in flight, but not at once.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if self.in_flight == 0 {
            // SAFETY: neither is used after this, and the kernel has nothing left that points into them.
            unsafe {
                ManuallyDrop::drop(&mut self.sends);
                ManuallyDrop::drop(&mut self.pool);
            }
        }
        // Else both are leaked: the kernel may still be writing to them.
    }
}

impl fmt::Debug for CompletionRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionRing").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

fn user_data(kind: u64, tag: u64) -> u64 {
    assert!(tag >> KIND_SHIFT == 0, "a tag has {KIND_SHIFT} bits");
    kind << KIND_SHIFT | tag
}

impl Payload {
    /// All bytes of the payload.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Received(buffer) => buffer,
            Payload::Owned(bytes) => bytes,
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer was zeroed when it was made and the kernel has completed its write; it will not write
        // again before `give`, which only `drop` calls; `len` came from the kernel, which knows the buffer's size.
        unsafe { slice::from_raw_parts(self.pool.address(self.id), self.len) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("id", &self.id).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give(self.id);
    }
}

/// The buffers, and the ring of entries by which they are given to the kernel.
struct Pool {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    count: u16,
    size: usize,
    /// How many entries were ever written, modulo 2^16; the kernel reads its copy in the first entry.
    tail: Cell<u16>,
}

const PAGE: usize = 4096;

impl Pool {
    fn new(count: u16, size: usize) -> io::Result<Self> {
        let fits = count.is_power_of_two() && count <= 1 << 15 && (1..=1 << 30).contains(&size);
        if !fits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "buffers: a power of two up to 32768, not empty"));
        }
        Ok(Self {
            entries: allocate(Self::entries_layout(count)).cast(),
            bytes: allocate(Self::bytes_layout(count, size)),
            count,
            size,
            tail: Cell::new(0),
        })
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE).expect("at most 512 KiB")
    }

    fn bytes_layout(count: u16, size: usize) -> Layout {
        Layout::from_size_align(usize::from(count) * size, PAGE).expect("at most 2^45 bytes")
    }

    fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "the kernel picks among the buffers it was given");
        // SAFETY: `id < count`, so this stays within the one allocation of `count * size` bytes.
        unsafe { self.bytes.as_ptr().add(usize::from(id) * self.size) }
    }

    /// Lets the kernel write to buffer `id`.
    fn give(&self, id: u16) {
        let address = self.address(id) as u64;
        let place = usize::from(self.tail.get() & (self.count - 1));
        // SAFETY: `place < count`. There are never more buffers given than `count`, so the kernel has consumed this
        // entry, and reads it again only once the tail says so. The fields are set one by one: the tail lies in the
        // unused bytes of entry 0.
        let entry = unsafe { &mut *self.entries.as_ptr().add(place) };
        entry.set_addr(address);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail.set(self.tail.get().wrapping_add(1));
        // SAFETY: the base is that of a ring of zeroed entries, and its tail is two aligned bytes of it that the
        // kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail.get(), Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts, and no `Buffer` is left, for each holds the pool.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count));
            dealloc(self.bytes.as_ptr(), Self::bytes_layout(self.count, self.size));
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout of the pool is empty.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ring(test: &str, buffers: u16) -> Option<CompletionRing> {
        CompletionRing::new(8, buffers, 64)
            .inspect_err(|error| eprintln!("SKIPPED {test}: the kernel refuses io_uring: {error}"))
            .ok()
    }

    fn next(ring: &mut CompletionRing) -> Completion {
        let mut done = Vec::new();
        ring.wait(&mut done).unwrap();
        assert_eq!(done.len(), 1, "{done:?}");
        done.remove(0)
    }

    #[test]
    fn a_connection_is_accepted_and_its_bytes_come_back_from_the_buffer_they_came_in() {
        let Some(mut ring) = ring("ring echo", 4) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ring.accept_multishot(&listener, 1).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let Completion::Accepted { tag: 1, result: Ok(server), more: true } = next(&mut ring) else { panic!() };
        ring.receive_multishot(&server, 2).unwrap();
        for pass in 0..20u8 {
            client.write_all(&[pass; 16]).unwrap();
            let Completion::Received { tag: 2, result: Ok(Some(buffer)), more: true } = next(&mut ring) else {
                panic!()
            };
            assert_eq!(&buffer[..], [pass; 16]);
            ring.send(&server, Payload::Received(buffer), 4..16, 3).unwrap();
            let Completion::Sent { tag: 3, result: Ok(12), .. } = next(&mut ring) else { panic!() };
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [pass; 12]);
        }
        drop(client);
        let Completion::Received { result: Ok(None), more: false, .. } = next(&mut ring) else { panic!() };
    }

    #[test]
    fn receiving_stops_with_an_error_when_all_buffers_are_held_and_goes_on_when_asked_again() {
        let Some(mut ring) = ring("ring without buffers", 1) else { return };
        let (mut near, far) = UnixStream::pair().unwrap();
        ring.receive_multishot(&far, 1).unwrap();
        near.write_all(b"one").unwrap();
        let Completion::Received { result: Ok(Some(held)), more: true, .. } = next(&mut ring) else { panic!() };
        near.write_all(b"two").unwrap();
        let Completion::Received { result: Err(error), more: false, .. } = next(&mut ring) else { panic!() };
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
        assert_eq!(&held[..], b"one");
        drop(held);
        ring.receive_multishot(&far, 1).unwrap();
        let Completion::Received { result: Ok(Some(buffer)), .. } = next(&mut ring) else { panic!() };
        assert_eq!(&buffer[..], b"two");
    }

    #[test]
    fn a_buffer_outlives_its_ring() {
        let Some(mut ring) = ring("ring dropped first", 2) else { return };
        let (mut near, far) = UnixStream::pair().unwrap();
        ring.receive_multishot(&far, 1).unwrap();
        near.write_all(b"kept").unwrap();
        let Completion::Received { result: Ok(Some(buffer)), .. } = next(&mut ring) else { panic!() };
        drop(ring);
        assert_eq!(&buffer[..], b"kept");
    }

    #[test]
    fn a_pool_that_the_kernel_would_refuse_is_refused() {
        for (buffers, size) in [(0, 64), (3, 64), (4, 0)] {
            assert_eq!(CompletionRing::new(8, buffers, size).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
