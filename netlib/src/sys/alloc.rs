//! An allocator that counts: for tests and benchmarks that claim how much memory something
//! takes, or that it allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The system's allocator with counters. Counts what was asked for, not what the allocator
/// rounds it up to.
///
/// ```
/// use netlib::sys::CountingAllocator;
///
/// #[global_allocator]
/// static HEAP: CountingAllocator = CountingAllocator::new();
///
/// let before = HEAP.bytes();
/// let vector = vec![0_u8; 1000];
/// assert!(HEAP.bytes() >= before + 1000);
/// # drop(vector);
/// ```
#[derive(Debug, Default)]
pub struct CountingAllocator {
    bytes: AtomicUsize,
    peak: AtomicUsize,
    allocations: AtomicU64,
}

impl CountingAllocator {
    /// With all counters at zero.
    pub const fn new() -> Self {
        Self { bytes: AtomicUsize::new(0), peak: AtomicUsize::new(0), allocations: AtomicU64::new(0) }
    }

    /// Bytes in use, over all threads.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The most bytes that were in use at a time, over all threads, since
    /// [`reset_peak`](Self::reset_peak).
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Begins a new measurement of the [`peak`](Self::peak) with what is in use now.
    pub fn reset_peak(&self) {
        self.peak.store(self.bytes(), Ordering::Relaxed);
    }

    fn grow(&self, bytes: usize) {
        let in_use = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(in_use, Ordering::Relaxed);
    }

    /// Allocations and reallocations so far, over all threads.
    pub fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator, whose promises are those
// that the trait asks for; the counters allocate nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.grow(layout.size());
        // SAFETY: the caller keeps the trait's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; the pointer came from `alloc`, that is from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.grow(new_size);
        self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
