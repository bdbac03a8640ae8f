//! What connections have in common: with their whole loop, and with the others of their listener.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use crate::buffer::OutputBuffer;
use crate::conn_options::{CloseReason, ConnOptions, OutputPolicy};
use crate::per_address::PerAddress;
use crate::token::Token;

/// What all handles of one loop share with it.
pub(crate) struct Shared {
    /// Connections to look at in the next *Flush*.
    pub(crate) marked: RefCell<Vec<Token>>,
    /// Why those ended that are to be told so: an idle connection has no room for it.
    pub(crate) reasons: RefCell<BTreeMap<Token, CloseReason>>,
    /// When the loop was made: connections keep their times as nanoseconds since then.
    pub(crate) epoch: Instant,
    /// The time of this tick.
    now: Cell<Instant>,
    /// The same, since `epoch`.
    pub(crate) nanos: Cell<u64>,
    /// Bytes sent on all connections.
    pub(crate) bytes_out: Cell<u64>,
    /// Empty output buffers, which keep some memory. So a connection that has nothing to send
    /// holds none, and one that answers allocates nothing.
    #[allow(clippy::vec_box)] // they move between here and the connections
    spare: RefCell<Vec<Box<OutputBuffer>>>,
}

/// As many connections as may answer in one tick without allocating.
const SPARE_BUFFERS: usize = 64;

impl Shared {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            marked: RefCell::default(),
            reasons: RefCell::default(),
            epoch: now,
            now: Cell::new(now),
            nanos: Cell::new(0),
            bytes_out: Cell::new(0),
            spare: RefCell::new(Vec::with_capacity(SPARE_BUFFERS)),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(crate) fn set_now(&self, now: Instant) {
        self.now.set(now);
        // 584 years.
        self.nanos.set(now.saturating_duration_since(self.epoch).as_nanos() as u64);
    }

    #[allow(clippy::unnecessary_box_returns)] // as above
    pub(crate) fn take_buffer(&self) -> Box<OutputBuffer> {
        match self.spare.borrow_mut().pop() {
            Some(buffer) => buffer,
            None => Self::new_buffer(),
        }
    }

    #[cold]
    #[allow(clippy::unnecessary_box_returns)] // as above
    fn new_buffer() -> Box<OutputBuffer> {
        Box::default()
    }

    #[inline(always)]
    pub(crate) fn give_back(&self, buffer: Box<OutputBuffer>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < spare.capacity() {
            spare.push(buffer);
        }
    }
}

/// What the connections of one listener, or of one call of connect, have in common.
pub(crate) struct Group {
    pub(crate) shared: Rc<Shared>,
    pub(crate) options: ConnOptions,
    /// Bytes that may wait before a send is refused.
    pub(crate) most_queued: usize,
    /// How many there are.
    pub(crate) live: Cell<usize>,
    /// And of which addresses, if a listener limits that.
    pub(crate) per_address: PerAddress,
}

impl Group {
    pub(crate) fn new(shared: &Rc<Shared>, mut options: ConnOptions) -> Rc<Self> {
        // Nothing waits at 0, so a mark there would be passed all the time.
        options.high_water = options.high_water.max(1);
        let most_queued = match options.policy {
            OutputPolicy::Notify | OutputPolicy::Pause => options.output_limit,
            OutputPolicy::Drop | OutputPolicy::Close => options.high_water.min(options.output_limit),
        };
        Rc::new(Self {
            shared: Rc::clone(shared),
            options,
            most_queued,
            live: Cell::new(0),
            per_address: PerAddress::default(),
        })
    }
}
