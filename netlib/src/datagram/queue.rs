//! Packets that wait to be sent: bounded, with a policy for what does not fit, and sent many at
//! a time. It stands alone too: a thread of its own may fill and flush one without a loop.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};

use super::socket::refuses_gso;
use super::{Address, DatagramError, DatagramSocket, Ecn, Outgoing};
use crate::SendError;
use crate::sys::{Class, MOST_MESSAGES, Message, SendBatch};

/// Pieces of memory in one call. The kernel takes 1,024 per message.
const MOST_PIECES: usize = 1024;
/// Packets that the kernel cuts one message into at most (`UDP_MAX_SEGMENTS` of all kernels).
const MOST_SEGMENTS: usize = 64;
/// Bytes of such a message at most: what fits into a datagram with the longest headers.
const LONGEST_MERGED: usize = 65_000;
/// Copied payloads share blocks of this size.
const BLOCK: usize = 64 << 10;
/// Errors told one by one in a flush; more are only counted.
const MOST_TOLD: usize = 32;

/// What happens to a packet that does not fit into the queue.
///
/// ```
/// use netlib::DatagramOptions;
/// use netlib::datagram::QueuePolicy;
///
/// let voice = DatagramOptions { policy: QueuePolicy::DropOldest, queue_packets: 50, ..DatagramOptions::default() };
/// # drop(voice);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueuePolicy {
    /// It is refused: right where a receiver needs what comes first.
    #[default]
    DropNewest,
    /// The oldest make room for it: right for live media, where late is worthless.
    DropOldest,
}

/// What a [`SendQueue`] has done so far.
///
/// ```
/// use netlib::datagram::{Outgoing, QueuePolicy, SendQueue};
///
/// let to: std::net::SocketAddr = "192.0.2.1:8900".parse().unwrap();
/// let mut queue = SendQueue::new(1, 1 << 20, QueuePolicy::DropOldest);
/// for text in ["late", "fresh"] {
///     queue.push(Outgoing::new(text, to)).expect("the oldest makes room");
/// }
/// assert_eq!((queue.counters().dropped, queue.counters().packets), (1, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendCounters {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that they were handed over as; fewer than packets where segmentation offload
    /// works.
    pub messages: u64,
    /// System calls made.
    pub calls: u64,
    /// Packets dropped by the policy, or when the socket was closed.
    pub dropped: u64,
    /// Packets that the kernel refused.
    pub failed: u64,
}

/// How a [flush](SendQueue::flush) ended.
///
/// ```
/// use netlib::datagram::{DatagramSocket, Flushed, SendBatch, SendQueue};
///
/// /// Whether a loop of one's own has to wait until the socket is writable.
/// fn must_wait(queue: &mut SendQueue, socket: &DatagramSocket, batch: &mut SendBatch) -> bool {
///     queue.flush(socket, batch, 1024, &mut Vec::new()) == Flushed::Blocked
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits.
    Empty,
    /// The socket takes no more until it is writable.
    Blocked,
    /// What is left is for Unix sockets that are full. The kernel does not tell when they are
    /// not: try again after a while.
    PeersFull,
    /// The budget is used up.
    Budget,
}

#[derive(Debug)]
struct Entry {
    payload: Bytes,
    to: Option<Address>,
    from: Option<IpAddr>,
    ecn: Ecn,
}

/// Packets that wait to be sent.
///
/// Thread rule: it may be sent to the thread that uses it.
///
/// ```
/// use netlib::datagram::{BindOptions, DatagramSocket, Flushed, Outgoing, QueuePolicy, SendBatch, SendQueue};
///
/// let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let socket = DatagramSocket::bind(any, &BindOptions::default())?;
/// let to = socket.local_addr()?;
///
/// let mut queue = SendQueue::new(1000, 1 << 20, QueuePolicy::DropOldest);
/// for _ in 0..10 {
///     queue.push(Outgoing::new("hello", to.clone())).expect("room for it");
/// }
/// let ended = queue.flush(&socket, &mut SendBatch::new(), usize::MAX, &mut Vec::new());
/// assert_eq!(ended, Flushed::Empty);
/// assert_eq!((queue.counters().packets, queue.counters().calls), (10, 1));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct SendQueue {
    entries: VecDeque<Entry>,
    bytes: usize,
    most_packets: usize,
    most_bytes: usize,
    /// Messages in one call.
    batch: usize,
    policy: QueuePolicy,
    block: BytesMut,
    counters: SendCounters,
}

/// One message of a call: so many entries of the queue, together.
struct Run {
    entries: usize,
    segment: Option<u16>,
}

impl SendQueue {
    /// A queue for at most `packets` packets and `bytes` bytes of payload.
    pub fn new(packets: usize, bytes: usize, policy: QueuePolicy) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            most_packets: packets,
            most_bytes: bytes,
            batch: MOST_MESSAGES,
            policy,
            block: BytesMut::new(),
            counters: SendCounters::default(),
        }
    }

    /// Hands over at most `messages` (1 to 64) by one system call; 64 unless set.
    pub fn set_batch(&mut self, messages: usize) {
        self.batch = messages.clamp(1, MOST_MESSAGES);
    }

    /// Packets waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it has done so far.
    pub fn counters(&self) -> SendCounters {
        self.counters
    }

    /// Whether a payload of `bytes` bytes, cut into segments of `segment`, would push another
    /// packet out or be refused.
    pub fn is_full_for(&self, bytes: usize, segment: Option<usize>) -> bool {
        self.len() + packets_of(bytes, segment) > self.most_packets || self.bytes + bytes > self.most_bytes
    }

    /// A copy of `payload` that shares its allocation with its neighbours.
    pub fn copy(&mut self, payload: &[u8]) -> Bytes {
        if self.block.capacity() - self.block.len() < payload.len() {
            self.block.reserve(BLOCK.max(payload.len()));
        }
        self.block.extend_from_slice(payload);
        self.block.split().freeze()
    }

    /// Appends a packet, or as many as it is to be cut into. With
    /// [`DropOldest`](QueuePolicy::DropOldest) it is only refused if it is larger than the whole
    /// queue.
    ///
    /// # Errors
    ///
    /// `Full`: it is dropped, and counted.
    pub fn push(&mut self, packet: Outgoing) -> Result<(), SendError> {
        let Outgoing { payload, to, from, ecn, segment } = packet;
        let segment = segment.filter(|segment| *segment > 0);
        let packets = packets_of(payload.len(), segment);
        let fits = packets <= self.most_packets && payload.len() <= self.most_bytes;
        if self.is_full_for(payload.len(), segment) && (!fits || self.policy == QueuePolicy::DropNewest) {
            self.counters.dropped += packets as u64;
            return Err(SendError::Full);
        }
        while self.is_full_for(payload.len(), segment) {
            self.counters.dropped += 1;
            self.pop_front();
        }
        self.bytes += payload.len();
        match segment {
            Some(segment) if packets > 1 => {
                for start in (0..payload.len()).step_by(segment) {
                    let payload = payload.slice(start..payload.len().min(start + segment));
                    self.entries.push_back(Entry { payload, to: to.clone(), from, ecn });
                }
            }
            _ => self.entries.push_back(Entry { payload, to, from, ecn }),
        }
        Ok(())
    }

    /// Drops what waits, which counts as dropped.
    pub fn clear(&mut self) {
        self.counters.dropped += self.entries.len() as u64;
        self.entries.clear();
        self.bytes = 0;
    }

    /// Sends what waits in order, about `budget` packets of it, until the socket takes no more.
    /// Adjacent packets of one size for one receiver are handed over as one where the kernel
    /// cuts them apart.
    ///
    /// A packet that the kernel refuses is lost, told in `errors` and counted; those behind it go
    /// on. Of the packets for a Unix socket that is full, the others for it wait with it, and
    /// only they.
    pub fn flush(
        &mut self,
        socket: &DatagramSocket,
        batch: &mut SendBatch,
        mut budget: usize,
        errors: &mut Vec<DatagramError>,
    ) -> Flushed {
        let mut for_full_peers = VecDeque::new();
        let mut failed_before = None;
        let mut suspect: Option<(u16, io::Error)> = None;
        let ended = loop {
            if self.entries.is_empty() {
                break Flushed::Empty;
            }
            if budget == 0 {
                break Flushed::Budget;
            }
            let gso_limit = if suspect.is_some() { 0 } else { socket.gso_limit() };
            match self.send_some(socket, batch, gso_limit) {
                Ok(packets) => {
                    if let Some((segment, error)) = suspect.take() {
                        socket.refuse_gso(usize::from(segment), &error);
                    }
                    budget = budget.saturating_sub(packets);
                    if let Some(error) = failed_before.take() {
                        tell(errors, DatagramError::Network(error));
                    }
                }
                Err((error, _)) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.entries.front().and_then(|head| head.to.clone()) {
                        Some(to) if socket.is_unix() => self.set_aside(&to, &mut for_full_peers),
                        _ => break Flushed::Blocked,
                    }
                }
                // It may be the network's report about an earlier packet, which is cleared by
                // being returned; then the next attempt succeeds.
                Err((error, _)) if failed_before.is_none() => failed_before = Some(error),
                Err((error, run)) => {
                    failed_before = None;
                    suspect = match run.segment {
                        // Whether that was for being several shows when they go one by one.
                        Some(segment) if refuses_gso(&error) => Some((segment, error)),
                        _ => {
                            self.refused(run.entries, error, errors);
                            None
                        }
                    };
                }
            }
        };
        if let Some(error) = failed_before {
            tell(errors, DatagramError::Network(error));
        }
        if for_full_peers.is_empty() {
            return ended;
        }
        for_full_peers.append(&mut self.entries);
        self.entries = for_full_peers;
        if ended == Flushed::Empty { Flushed::PeersFull } else { ended }
    }

    /// One system call. Returns how many packets went, or the error and what it is about.
    fn send_some(
        &mut self,
        socket: &DatagramSocket,
        batch: &mut SendBatch,
        gso_limit: usize,
    ) -> Result<usize, (io::Error, Run)> {
        let mut runs = self.plan(gso_limit);
        let count: usize = runs.iter().map(|run| run.entries).sum();
        let pieces: Vec<IoSlice<'_>> =
            self.entries.iter().take(count).map(|entry| IoSlice::new(&entry.payload)).collect();
        let mut start = 0;
        let mut messages = Vec::with_capacity(runs.len());
        for run in &runs {
            let head = &self.entries[start];
            messages.push(Message {
                pieces: &pieces[start..start + run.entries],
                to: head.to.as_ref(),
                over_ipv4: head.to.as_ref().and_then(Address::inet).map_or(socket.peer_is_ipv4(), |to| to.is_ipv4()),
                from: head.from.filter(|_| !socket.is_unix()),
                class: (head.ecn != Ecn::NotCapable && !socket.is_unix())
                    .then_some(Class { dscp: socket.dscp(), ecn: head.ecn }),
                segment: run.segment,
            });
            start += run.entries;
        }
        self.counters.calls += 1;
        match batch.send(socket.as_fd(), socket.is_ipv6(), &messages) {
            Ok(sent) => {
                let packets: usize = runs[..sent].iter().map(|run| run.entries).sum();
                self.counters.messages += sent as u64;
                self.counters.packets += packets as u64;
                for _ in 0..packets {
                    self.counters.bytes += self.pop_front() as u64;
                }
                Ok(packets)
            }
            Err(error) => Err((error, runs.swap_remove(0))),
        }
    }

    /// Which packets from the front make up the messages of one call.
    fn plan(&self, gso_limit: usize) -> Vec<Run> {
        let mut runs = Vec::with_capacity(self.batch.min(self.entries.len()));
        let mut start = 0;
        while start < self.entries.len() && runs.len() < self.batch {
            let length = self.run_length(start, gso_limit);
            let head = &self.entries[start];
            if start > 0 && start + length > MOST_PIECES {
                break;
            }
            start += length;
            let segment = if length > 1 { Some(head.payload.len() as u16) } else { None };
            runs.push(Run { entries: length, segment });
        }
        runs
    }

    /// How many packets from `start` on the kernel can be given as one: of one size, but for a
    /// last shorter one, and alike in all else.
    fn run_length(&self, start: usize, gso_limit: usize) -> usize {
        let head = &self.entries[start];
        let size = head.payload.len();
        if size == 0 || size > gso_limit {
            return 1;
        }
        let most = MOST_SEGMENTS.min(LONGEST_MERGED / size).max(1);
        let mut length = 1;
        for next in self.entries.range(start + 1..).take(most - 1) {
            let bytes = next.payload.len();
            let alike = next.to == head.to && next.from == head.from && next.ecn == head.ecn;
            if !alike || bytes == 0 || bytes > size {
                break;
            }
            length += 1;
            if bytes < size {
                break;
            }
        }
        length
    }

    /// Loses the first `packets` packets.
    fn refused(&mut self, packets: usize, error: io::Error, errors: &mut Vec<DatagramError>) {
        let to = self.entries.front().and_then(|entry| entry.to.clone());
        self.counters.failed += packets as u64;
        for _ in 0..packets {
            self.pop_front();
        }
        tell(errors, DatagramError::Send { to, packets, error });
    }

    /// Takes everything for `to` out of the way, in order.
    fn set_aside(&mut self, to: &Address, aside: &mut VecDeque<Entry>) {
        let (theirs, others) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| entry.to.as_ref() == Some(to));
        let mut theirs: VecDeque<Entry> = theirs;
        self.entries = others;
        aside.append(&mut theirs);
    }

    /// The bytes of what was first.
    fn pop_front(&mut self) -> usize {
        let bytes = self.entries.pop_front().map_or(0, |entry| entry.payload.len());
        self.bytes -= bytes;
        bytes
    }
}

fn packets_of(bytes: usize, segment: Option<usize>) -> usize {
    segment.map_or(1, |segment| bytes.div_ceil(segment.max(1)).max(1))
}

fn tell(errors: &mut Vec<DatagramError>, error: DatagramError) {
    if errors.len() < MOST_TOLD {
        errors.push(error);
    }
}
