//! Many datagrams by one system call: recvmmsg(2) and sendmmsg(2) with the control messages that
//! media needs (destination and source address, traffic class, segmentation offload). What is
//! kept from one call to the next is memory only; pointers are set anew for every call.
//!
//! Names and control messages are written and parsed as bytes (`sockaddr.rs`, `control.rs`), which
//! leaves only the calls themselves to be unsafe.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::{fmt, ptr};

use super::control::{Control, Ecn, Facts};
use super::sockaddr::Name;
use crate::socket::Address;

/// Most messages of one call; the kernel's own limit is 1,024.
pub(crate) const MOST_MESSAGES: usize = 64;
/// Room for one message: the largest datagram, and the largest that GRO puts together.
pub(crate) const MESSAGE_ROOM: usize = 1 << 16;
/// From the start of one message's room to the next. Not a power of two, or the first lines of
/// all of them would compete for the same few sets of the cache.
const STRIDE: usize = MESSAGE_ROOM + 192;

/// Memory for the datagrams of one receive call. 4 MiB of addresses, of which only the pages
/// that datagrams were written to are ever backed by memory.
///
/// ```
/// use netlib::datagram::{BindOptions, DatagramSocket, ReceiveBatch};
///
/// let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let socket = DatagramSocket::bind(any, &BindOptions::default())?;
/// let sender = std::net::UdpSocket::bind(any)?;
/// sender.send_to(b"one", socket.local_addr()?.inet().unwrap())?;
/// sender.send_to(b"two", socket.local_addr()?.inet().unwrap())?;
///
/// let mut batch = ReceiveBatch::new();
/// let packets = socket.receive(&mut batch, 64, 2000)?; // on loopback they are there at once
/// let payloads: Vec<&[u8]> = packets.iter().map(|packet| packet.payload).collect();
/// assert_eq!(payloads, [b"one", b"two"]);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Thread rule: it belongs to one thread.
pub struct ReceiveBatch {
    bytes: Vec<u8>,
    headers: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    names: Vec<Name>,
    controls: Vec<Control>,
    received: Vec<Received>,
}

/// What one message of a [`ReceiveBatch`] was.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) length: usize,
    pub(crate) from: Address,
    /// It was longer than the room for it.
    pub(crate) truncated: bool,
    pub(crate) facts: Facts,
}

impl ReceiveBatch {
    /// Reserves the addresses.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; MOST_MESSAGES * STRIDE],
            headers: vec![empty_header(); MOST_MESSAGES],
            pieces: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MOST_MESSAGES],
            names: vec![Name::default(); MOST_MESSAGES],
            controls: vec![Control::default(); MOST_MESSAGES],
            received: Vec::with_capacity(MOST_MESSAGES),
        }
    }

    /// Receives what is there, at most `messages` of at most `room` bytes each; what they hold is
    /// cut off and marked as truncated. `WouldBlock` says that nothing is there. Fewer than
    /// `messages` say that nothing more is there.
    ///
    /// Without `control` no control messages are taken: on a Unix socket those could carry
    /// descriptors, which the kernel would open in this process.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: usize,
        room: usize,
        control: bool,
    ) -> io::Result<usize> {
        let messages = messages.clamp(1, MOST_MESSAGES);
        let room = room.clamp(1, MESSAGE_ROOM);
        self.received.clear();
        for (index, slot) in self.bytes.chunks_exact_mut(STRIDE).take(messages).enumerate() {
            self.pieces[index] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: room };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = self.names[index].as_mut_ptr().cast();
            header.msg_namelen = Name::ROOM as libc::socklen_t;
            header.msg_iov = &raw mut self.pieces[index];
            header.msg_iovlen = 1;
            header.msg_control = if control { self.controls[index].as_mut_ptr().cast() } else { ptr::null_mut() };
            header.msg_controllen = if control { Control::ROOM as _ } else { 0 };
            header.msg_flags = 0;
        }
        let count = retry(|| {
            // SAFETY: the first `messages` headers point to names, pieces and control buffers of
            // the stated sizes, and each piece to `room` bytes of its own stride of `bytes`. All of
            // that belongs to `self`, which is borrowed exclusively, and outlives the call.
            unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    messages as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            }
        })?;
        for index in 0..count.min(messages) {
            let header = &self.headers[index];
            let control = if control { header.msg_hdr.msg_controllen } else { 0 };
            self.received.push(Received {
                length: (header.msg_len as usize).min(room),
                from: self.names[index].parse(header.msg_hdr.msg_namelen as usize),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                facts: self.controls[index].parse(control),
            });
        }
        Ok(self.received.len())
    }

    /// The messages of the last call, in the order of their arrival.
    pub(crate) fn messages(&self) -> &[Received] {
        &self.received
    }

    /// The bytes of message `index`.
    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        &self.bytes[index * STRIDE..][..self.received[index].length]
    }
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBatch").field("received", &self.received).finish_non_exhaustive()
    }
}

/// One message for [`SendBatch::send`]: a datagram, or several of equal size for the kernel to
/// cut apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) pieces: &'a [IoSlice<'a>],
    /// None: where the socket is connected to.
    pub(crate) to: Option<&'a Address>,
    /// It goes out as IPv4, be the socket IPv6 or not.
    pub(crate) over_ipv4: bool,
    /// The address of this machine that it leaves from.
    pub(crate) from: Option<IpAddr>,
    pub(crate) class: Option<Class>,
    /// Cut into datagrams of so many bytes.
    pub(crate) segment: Option<u16>,
}

/// The byte that IPv4 calls type of service and IPv6 traffic class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    /// Six bits.
    pub(crate) dscp: u8,
    pub(crate) ecn: Ecn,
}

impl Class {
    pub(crate) fn bits(self) -> u8 {
        self.dscp << 2 | self.ecn.bits()
    }
}

/// Memory for the headers of one send call; see [`SendQueue`](crate::datagram::SendQueue) for its
/// use.
///
/// Thread rule: it belongs to one thread.
///
/// ```
/// use netlib::datagram::{BindOptions, DatagramSocket, Flushed, Outgoing, QueuePolicy, SendBatch, SendQueue};
///
/// let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
/// let socket = DatagramSocket::bind(any, &BindOptions::default())?;
/// let mut batch = SendBatch::new(); // one serves all sockets of a thread
/// let mut queue = SendQueue::new(10, 1 << 16, QueuePolicy::DropNewest);
/// queue.push(Outgoing::new("hello", socket.local_addr()?)).expect("room for it");
/// assert_eq!(queue.flush(&socket, &mut batch, 10, &mut Vec::new()), Flushed::Empty);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SendBatch {
    headers: Vec<libc::mmsghdr>,
    names: Vec<Name>,
    controls: Vec<Control>,
}

impl SendBatch {
    /// Allocates it, about 30 KiB.
    pub fn new() -> Self {
        Self {
            headers: vec![empty_header(); MOST_MESSAGES],
            names: vec![Name::default(); MOST_MESSAGES],
            controls: vec![Control::default(); MOST_MESSAGES],
        }
    }

    /// Sends the messages in order, at most [`MOST_MESSAGES`] of them, and returns how many went.
    /// An error is the first message's; one of a later message comes with the next call.
    ///
    /// `ipv6` says of which family the socket is: such a one names IPv4 addresses its own way.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, ipv6: bool, messages: &[Message<'_>]) -> io::Result<usize> {
        let messages = &messages[..messages.len().min(MOST_MESSAGES)];
        for (index, message) in messages.iter().enumerate() {
            let header = &mut self.headers[index].msg_hdr;
            let name = message.to.map_or(0, |to| self.names[index].write(to, ipv6));
            let control = self.controls[index].write(message);
            let name_start = if name == 0 { ptr::null_mut() } else { self.names[index].as_mut_ptr() };
            header.msg_name = name_start.cast();
            header.msg_namelen = name as libc::socklen_t;
            // The kernel only reads here, though the type says otherwise.
            header.msg_iov = message.pieces.as_ptr().cast_mut().cast();
            header.msg_iovlen = message.pieces.len() as _;
            let control_start = if control == 0 { ptr::null_mut() } else { self.controls[index].as_mut_ptr() };
            header.msg_control = control_start.cast();
            header.msg_controllen = control as _;
            header.msg_flags = 0;
        }
        retry(|| {
            // SAFETY: each of the headers points to a name and a control buffer of `self` and to
            // the message's pieces, all of the stated lengths and alive during the call. `IoSlice` has the
            // layout of iovec, as its documentation promises, and is only read from.
            unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    messages.len() as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            }
        })
    }
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBatch").finish_non_exhaustive()
    }
}

/// Sets an option whose value is a C int.
pub(crate) fn set_option(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is an int that outlives the call, and its size is stated.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the kernel knows an option whose value is a C int.
pub(crate) fn knows_option(socket: impl AsFd, level: i32, name: i32) -> bool {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the int it is pointed to.
    let result =
        unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    result == 0
}

fn retry(mut call: impl FnMut() -> libc::c_int) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: integers and pointers, for which zero is a value. (Written out it would not compile
    // where the C library has padding fields.)
    unsafe { MaybeUninit::zeroed().assume_init() }
}
