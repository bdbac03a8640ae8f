//! The back end contract: what the reactor asks of a readiness mechanism (select, poll, epoll,
//! ...), written once. One file per mechanism implements [`Backend`], and one test suite,
//! `tests/backend_conformance.rs`, holds every one of them to this page.
//!
//! # Registering
//!
//! [`Backend::add`] ties a borrowed descriptor to a [`Token`], an [`Interest`] and a [`Trigger`].
//! The back end never owns or closes a descriptor. Adding one that is already registered is an
//! error of kind `AlreadyExists`; modifying or removing one that is not is `NotFound`. A trigger
//! that [`Backend::caps`] does not offer is `Unsupported`. What cannot be polled, such as a
//! regular file, is `PermissionDenied` or, without [`Caps::refuses_unpollable`], always ready.
//!
//! The caller removes a descriptor *before* it closes it; the close that follows then takes effect
//! at once (a socket sends its FIN). One that was closed all the same is forgotten by the next
//! wait, which may then return an empty batch; the others are unharmed, and its number can be
//! added anew. Without [`Caps::lets_go_of_closed`] the mechanism holds what it polls open until
//! then, and may go on reporting it.
//!
//! # Readiness that already exists
//!
//! [`Backend::add`] and [`Backend::modify`] count as a fresh look at the descriptor: what is
//! ready at that moment is reported by the next wait, with every trigger. So nobody has to read
//! "just in case" after registering, and a paused reader that resumes learns of the bytes that
//! came meanwhile.
//!
//! # Triggers
//!
//! * *Level*: reported by every wait for as long as it lasts.
//! * *Edge*: reported when it arises. The owner goes on until the operation would block, or
//!   keeps a note that it has not; a new edge is only promised after that. A mechanism may
//!   report more often than that.
//! * *One-shot*: reported once, then silent until the next `modify`.
//!
//! # Exclusive wake-up
//!
//! When several threads wait for one listener, each by a back end of its own, a connection wakes
//! them all and one gets it. [`Backend::add_exclusive`] registers so that at least one waiter is
//! woken, and as a rule only one. It stays so through [`Backend::modify`]. A one-shot cannot be
//! exclusive (`InvalidInput`): it could be spent on a waiter that does nothing about it.
//!
//! # No interest
//!
//! [`Interest::NONE`] is legal and silent, whatever happens to the descriptor: no read-closed,
//! no error. epoll (and mio upon it) always reports errors and hang-ups of what it knows, so
//! there the back end takes the descriptor out of the kernel's set and remembers that it did.
//!
//! # What an event says
//!
//! The flags of [`Event`] are hints to try, not facts: the truth is what the following `read`
//! or `write` returns.
//!
//! * `read_closed`: the peer will send no more. Bytes may still be waiting before the end.
//!   Only asked for together with interest in reading: under a level trigger a paused reader
//!   would otherwise be told in a busy loop.
//! * `write_closed`, `error`: the descriptor is broken; reported with any interest but NONE.
//!   Where the mechanism has no word for it (select), the direction that was asked for is
//!   ready, and its read or write returns the error.
//! * `urgent`: urgent (out-of-band) data. The reader reads on until it would block, which
//!   passes the urgent mark and ends the condition.
//!
//! `readable` is set along with any of `read_closed`, `error` and `urgent`, and `writable` along
//! with `error` and `write_closed`, even for a direction that was not asked for: a handler that
//! only looks at these two misses nothing, and one that has paused compares with its interest.
//!
//! # Spurious events
//!
//! An event for which nothing is to be done is allowed (another reader was faster, a checksum
//! failed after the report). Handlers treat "would block" as normal.
//!
//! # Stale events
//!
//! A wait hands over a batch. While the batch is worked through, a handler may remove a
//! descriptor whose event is further down, close it, and open another that gets the same
//! number. The event then carries the old [`Token`]: the reactor compares generations and drops
//! it. After `remove` returns, no *later* wait reports the old token.
//!
//! # Waiting
//!
//! [`Backend::wait`] empties the vector, then appends what is ready, at least one event if any
//! is. `None` waits without limit, zero only looks. Any other timeout is rounded *up* to the
//! mechanism's grain ([`Caps::timeout_grain`]): a wait that found nothing never ends early, or a
//! timer would spin through its last fraction of a millisecond. Two exceptions return an empty
//! batch before the time is over: an interruption (EINTR: a signal handler that ran, or the kernel
//! itself in a thread that has just closed an io_uring; the caller computes the timeout anew from
//! its clock), and a timeout above the mechanism's largest (24 days for epoll).
//!
//! # Embedding
//!
//! Where the kernel keeps the registrations, [`Backend::as_fd`] is a descriptor that is readable
//! while a wait would return at once, and at times once more, so that another loop can watch this
//! one. A mechanism may
//! collect changes and hand them over with its next wait; before the other loop goes to sleep,
//! [`Backend::flush`] hands them over without one. poll and select keep nothing in the kernel
//! between two waits, so they have no such descriptor (`None`): a loop on them can be embedded
//! only by a thread of its own, or by waiting with a short timeout.

mod completions;
mod epoll;
mod mio;
mod poll;
mod select;
mod uring;
mod uring_io;

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::time::Duration;
use std::{env, fmt, io};

use rustix::event::Timespec;

use crate::token::Token;

pub use completions::{Completions, Moved};

/// A readiness mechanism. The [module documentation](self) is the contract.
///
/// ```
/// use std::os::fd::AsFd;
/// use std::time::Duration;
/// use netlib::backend::{BackendKind, Interest};
/// use netlib::Token;
///
/// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
/// let mut backend = BackendKind::Mio.open()?;
/// let token = Token::new(0, 0);
/// backend.add(ours.as_fd(), token, Interest::READABLE, BackendKind::Mio.default_trigger())?;
///
/// drop(theirs);
/// let mut events = Vec::new();
/// backend.wait(&mut events, Some(Duration::from_secs(5)))?;
/// assert!(events[0].token == token && events[0].read_closed);
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Backend: fmt::Debug {
    /// The name by which it is chosen, such as `"epoll-et"`.
    fn name(&self) -> &'static str;

    /// What the mechanism can promise.
    fn caps(&self) -> Caps;

    /// Registers a descriptor.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, `Unsupported`, `PermissionDenied`, see [Registering](self#registering), or what the system says.
    fn add(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()>;

    /// Registers a descriptor that several back ends share, such as a listener; see
    /// [Exclusive wake-up](self#exclusive-wake-up). `Unsupported` without [`Caps::exclusive_wakeup`].
    ///
    /// # Errors
    ///
    /// Those of [`add`](Self::add); `Unsupported` without [`Caps::exclusive_wakeup`], `InvalidInput` for a one-shot.
    fn add_exclusive(
        &mut self,
        _fd: BorrowedFd<'_>,
        _token: Token,
        _interest: Interest,
        _trigger: Trigger,
    ) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the mechanism wakes every waiter"))
    }

    /// Replaces token, interest and trigger of a registered descriptor; re-arms a one-shot.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not registered, `Unsupported` for a trigger that is not offered, or what the system says.
    fn modify(&mut self, fd: BorrowedFd<'_>, token: Token, interest: Interest, trigger: Trigger) -> io::Result<()>;

    /// Forgets a descriptor, which is still open.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not registered.
    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Replaces the content of `events` by what is ready, waiting for it up to `timeout`.
    ///
    /// # Errors
    ///
    /// What the system says; an interruption is no error.
    fn wait(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()>;

    /// Makes the kernel know of every change so far; see [Embedding](self#embedding).
    ///
    /// # Errors
    ///
    /// What the system says.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The descriptor that another loop can watch; see [Embedding](self#embedding).
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The other contract, of a mechanism that moves bytes itself ([`Caps::completions`]).
    fn completions(&mut self) -> Option<&mut dyn Completions> {
        None
    }
}

/// Which directions of a descriptor are watched.
///
/// ```
/// use netlib::backend::Interest;
///
/// let paused = Interest::new(false, true);
/// assert_eq!(paused, Interest::WRITABLE);
/// assert!(!paused.is_readable() && Interest::NONE.is_none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest {
    readable: bool,
    writable: bool,
}

impl Interest {
    /// Registered, but silent.
    pub const NONE: Self = Self { readable: false, writable: false };
    /// Bytes (or a connection) to read, the end of them, urgent data.
    pub const READABLE: Self = Self { readable: true, writable: false };
    /// Room to write, or a connect that has ended.
    pub const WRITABLE: Self = Self { readable: false, writable: true };
    /// Reading and writing.
    pub const BOTH: Self = Self { readable: true, writable: true };

    /// From the two directions.
    pub const fn new(readable: bool, writable: bool) -> Self {
        Self { readable, writable }
    }

    /// Whether reading is watched.
    pub const fn is_readable(self) -> bool {
        self.readable
    }

    /// Whether writing is watched.
    pub const fn is_writable(self) -> bool {
        self.writable
    }

    /// Whether nothing is watched.
    pub const fn is_none(self) -> bool {
        !self.readable && !self.writable
    }
}

/// When a ready descriptor is reported; see [Triggers](self#triggers).
///
/// ```
/// use netlib::backend::{BackendKind, Trigger};
///
/// assert_eq!(BackendKind::Poll.default_trigger(), Trigger::Level);
/// assert!(!BackendKind::Poll.open()?.caps().edge); // asking for it would be `Unsupported`
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// By every wait, for as long as it is ready.
    Level,
    /// When it becomes ready.
    Edge,
    /// Once, until the next [`Backend::modify`].
    OneShot,
}

/// One ready descriptor; see [What an event says](self#what-an-event-says).
///
/// ```
/// use std::os::fd::AsFd;
/// use netlib::backend::{BackendKind, Interest, Trigger};
/// use netlib::Token;
///
/// let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
/// let mut backend = BackendKind::EpollLt.open()?;
/// backend.add(ours.as_fd(), Token::new(7, 1), Interest::BOTH, Trigger::Level)?;
///
/// let mut events = Vec::new();
/// backend.wait(&mut events, None)?;
/// assert_eq!(events[0].token, Token::new(7, 1));
/// assert!(events[0].writable && !events[0].readable);
/// # drop(theirs);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // independent conditions, any of which may hold together
pub struct Event {
    /// What the descriptor was registered with.
    pub token: Token,
    /// A read would not block.
    pub readable: bool,
    /// A write would not block.
    pub writable: bool,
    /// The peer has closed its sending side.
    pub read_closed: bool,
    /// Nothing written can arrive any more.
    pub write_closed: bool,
    /// The descriptor is in an error state.
    pub error: bool,
    /// Urgent data is waiting.
    pub urgent: bool,
}

/// What a mechanism can promise.
///
/// ```
/// use netlib::BackendKind;
///
/// let (epoll, select) = (BackendKind::EpollEt.open()?.caps(), BackendKind::Select.open()?.caps());
/// assert!(epoll.o1_wait && !select.o1_wait);
/// assert!(epoll.reports_read_closed && !select.reports_read_closed);
/// assert_eq!(select.max_fd, None); // also above 1023
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // a table of independent capabilities
pub struct Caps {
    /// Offers [`Trigger::Level`].
    pub level: bool,
    /// Offers [`Trigger::Edge`].
    pub edge: bool,
    /// Offers [`Trigger::OneShot`].
    pub one_shot: bool,
    /// A wait costs by what is ready, not by what is registered.
    pub o1_wait: bool,
    /// Of several waiters on one descriptor only one is woken.
    pub exclusive_wakeup: bool,
    /// Sets [`Event::read_closed`]. Where it does not, only a read tells the end, so a reader
    /// must not stop at a short read.
    pub reports_read_closed: bool,
    /// Sets [`Event::error`] and [`Event::write_closed`].
    pub reports_error: bool,
    /// Refuses what cannot be polled; otherwise such a descriptor is always ready.
    pub refuses_unpollable: bool,
    /// A descriptor that was closed without [`Backend::remove`] is really closed.
    pub lets_go_of_closed: bool,
    /// Also moves the bytes of streams itself; see [`Completions`].
    pub completions: bool,
    /// The largest descriptor number it accepts, if there is a limit.
    pub max_fd: Option<i32>,
    /// Timeouts are rounded up to a multiple of this.
    pub timeout_grain: Duration,
}

/// The mechanisms that can be chosen at run time.
///
/// ```
/// use netlib::backend::BackendKind;
///
/// let kind: BackendKind = "epoll-et".parse()?;
/// assert_eq!(kind.to_string(), "epoll-et");
/// assert_eq!(
///     "kqeue".parse::<BackendKind>().unwrap_err().to_string(),
///     "no back end is called \"kqeue\"; there are: mio, epoll-lt, epoll-et, poll, select, uring-poll, uring"
/// );
/// # Ok::<(), netlib::backend::UnknownBackend>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackendKind {
    /// The portable default: mio, edge-triggered.
    #[default]
    Mio,
    /// epoll, level-triggered unless asked otherwise.
    EpollLt,
    /// epoll, edge-triggered unless asked otherwise.
    EpollEt,
    /// poll, level-triggered; a wait costs by what is watched.
    Poll,
    /// select, level-triggered; a wait costs by the highest descriptor.
    Select,
    /// Polls through io_uring, edge-triggered unless asked otherwise.
    UringPoll,
    /// io_uring receives and sends; what it does not is edge-triggered unless asked otherwise.
    Uring,
}

impl BackendKind {
    /// Every kind, in the order of their documentation.
    pub const ALL: [Self; 7] =
        [Self::Mio, Self::EpollLt, Self::EpollEt, Self::Poll, Self::Select, Self::UringPoll, Self::Uring];

    /// Those that only say what is ready. A running loop can move between them.
    pub const READINESS: [Self; 6] =
        [Self::Mio, Self::EpollLt, Self::EpollEt, Self::Poll, Self::Select, Self::UringPoll];

    /// The environment variable that [`BackendKind::from_env`] reads.
    pub const ENV: &'static str = "NETLIB_BACKEND";

    /// The environment variable that forbids [`BackendKind::open_or_fall_back`] to fall back. The
    /// workspace's `.cargo/config.toml` sets it, so tests never run on another back end than they say.
    pub const ENV_STRICT: &'static str = "NETLIB_BACKEND_STRICT";

    /// The name by which it is chosen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mio => "mio",
            Self::EpollLt => "epoll-lt",
            Self::EpollEt => "epoll-et",
            Self::Poll => "poll",
            Self::Select => "select",
            Self::UringPoll => "uring-poll",
            Self::Uring => "uring",
        }
    }

    /// What `NETLIB_BACKEND` names; `None` if it is unset or empty.
    ///
    /// # Errors
    ///
    /// If it names no back end.
    pub fn from_env() -> Result<Option<Self>, UnknownBackend> {
        match env::var_os(Self::ENV) {
            None => Ok(None),
            Some(name) if name.is_empty() => Ok(None),
            Some(name) => Self::from_os_str(&name).map(Some),
        }
    }

    fn from_os_str(name: &OsStr) -> Result<Self, UnknownBackend> {
        name.to_string_lossy().parse()
    }

    /// The trigger that this kind stands for, and that a reactor uses with it.
    pub const fn default_trigger(self) -> Trigger {
        match self {
            Self::EpollLt | Self::Poll | Self::Select => Trigger::Level,
            Self::Mio | Self::EpollEt | Self::UringPoll | Self::Uring => Trigger::Edge,
        }
    }

    /// Opens the mechanism, or else epoll with the same trigger, and says which one it is.
    ///
    /// A server that was told to use io_uring should run where the kernel refuses that
    /// (`kernel.io_uring_disabled`, a sandbox, an old kernel), and its log should say what it runs
    /// on: the reason is logged as a warning. A test should not: while the environment variable
    /// [`BackendKind::ENV_STRICT`] is set and not empty this is [`BackendKind::open`].
    ///
    /// ```
    /// use netlib::backend::BackendKind;
    ///
    /// let (kind, backend) = BackendKind::EpollEt.open_or_fall_back()?;
    /// assert_eq!(kind, BackendKind::EpollEt);
    /// assert_eq!(backend.name(), "epoll-et");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If neither can be opened, or a fallback is forbidden.
    pub fn open_or_fall_back(self) -> io::Result<(Self, Box<dyn Backend>)> {
        let substitute = match self {
            Self::UringPoll | Self::Uring if env::var_os(Self::ENV_STRICT).is_none_or(|value| value.is_empty()) => {
                Self::EpollEt
            }
            kind => kind, // nothing switches the others off
        };
        match self.open() {
            Err(error) if substitute != self => {
                log::warn!("the back end {self} is refused here ({error}): {substitute} takes its place");
                Ok((substitute, substitute.open()?))
            }
            outcome => Ok((self, outcome?)),
        }
    }

    /// Opens the mechanism. Fails if the kernel refuses it or descriptors have run out.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it or descriptors have run out.
    pub fn open(self) -> io::Result<Box<dyn Backend>> {
        Ok(match self {
            Self::Mio => Box::new(mio::MioBackend::new()?),
            Self::EpollLt | Self::EpollEt => Box::new(epoll::EpollBackend::new(self.name())?),
            Self::Poll => Box::new(poll::PollBackend::default()),
            Self::Select => Box::new(select::SelectBackend::default()),
            Self::UringPoll => Box::new(uring::UringBackend::new()?),
            Self::Uring => Box::new(uring_io::UringIoBackend::new()?),
        })
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownBackend { name: name.to_owned() })
    }
}

/// A name that no back end has. Its text lists the names there are.
///
/// ```
/// use netlib::BackendKind;
///
/// let error = "kqueue".parse::<BackendKind>().unwrap_err();
/// assert!(error.to_string().contains("epoll-et"));
/// assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownBackend {
    name: String,
}

impl fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = BackendKind::ALL.map(BackendKind::name).join(", ");
        write!(f, "no back end is called {:?}; there are: {known}", self.name)
    }
}

impl std::error::Error for UnknownBackend {}

impl From<UnknownBackend> for io::Error {
    fn from(unknown: UnknownBackend) -> Self {
        Self::new(io::ErrorKind::InvalidInput, unknown)
    }
}

/// How many events one wait can return at first. A batch that was full doubles it, up to
/// [`MAX_BATCH`]: past that, more per call saves nothing and delays the flush.
const FIRST_BATCH: usize = 256;
const MAX_BATCH: usize = 4096;

// What the mechanisms without a registry in the kernel share.

/// Whether a registration fires once; poll and select have no edges.
fn once(trigger: Trigger) -> io::Result<bool> {
    match trigger {
        Trigger::Level => Ok(false),
        Trigger::OneShot => Ok(true),
        Trigger::Edge => Err(io::Error::new(io::ErrorKind::Unsupported, "the mechanism is level-triggered")),
    }
}

fn already_registered() -> io::Error {
    io::ErrorKind::AlreadyExists.into()
}

fn not_registered() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// To the nanosecond. What does not fit is longer than anybody waits.
fn timespec(timeout: Option<Duration>) -> Option<Timespec> {
    timeout.and_then(|timeout| Timespec::try_from(timeout).ok())
}
