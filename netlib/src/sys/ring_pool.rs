//! The buffers of a [`CompletionRing`](super::CompletionRing): memory that is lent to the kernel, which writes what
//! it receives to any of it and says where.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

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

impl Buffer {
    /// What the kernel wrote to buffer `id`, which is no longer lent to it.
    pub(super) fn new(pool: &Rc<Pool>, id: u16, len: usize) -> Self {
        Self { pool: Rc::clone(pool), id, len }
    }

    /// Keeps the first `len` bytes only.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
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
pub(super) struct Pool {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    count: u16,
    size: usize,
    /// How many entries were ever written, modulo 2^16; the kernel reads its copy in the first entry.
    tail: Cell<u16>,
}

const PAGE: usize = 4096;

impl Pool {
    /// Where the entries are, for the kernel.
    pub(super) fn entries_address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    pub(super) fn new(count: u16, size: usize) -> io::Result<Self> {
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
    pub(super) fn give(&self, id: u16) {
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
