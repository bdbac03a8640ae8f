//! A counter that is readable while it is not zero (eventfd): how another thread makes a wait
//! return.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, retry_on_intr, write};

/// A descriptor that is readable from [`WakeFd::signal`] until [`WakeFd::acknowledge`].
///
/// Thread rule: it may be shared; every call may come from any thread.
///
/// ```
/// use netlib::sys::WakeFd;
///
/// let wake = WakeFd::new()?;
/// wake.signal()?;
/// wake.signal()?;
/// assert_eq!(wake.acknowledge()?, 2);
/// assert_eq!(wake.acknowledge()?, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct WakeFd(OwnedFd);

impl WakeFd {
    /// Opens one that is not readable.
    ///
    /// # Errors
    ///
    /// If the kernel has no descriptor to give.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable. Never blocks; may be called from any thread.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn signal(&self) -> io::Result<()> {
        match retry_on_intr(|| write(&self.0, &1_u64.to_ne_bytes())) {
            // The counter is full, so it is readable, which is all that was wanted.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes it unreadable; returns how many signals there were since the last time.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn acknowledge(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        match retry_on_intr(|| read(&self.0, &mut count)) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(Errno::AGAIN) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
