//! Signals as readiness (signalfd): they arrive as bytes to read, so no code of ours ever runs
//! in signal context.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{io, ptr};

use rustix::io::{Errno, read, retry_on_intr};

/// The signals that a server gives a meaning to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: please end.
    Terminate,
    /// SIGHUP: the terminal is gone; for daemons, read the configuration again.
    Hangup,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

impl Signal {
    const ALL: [Self; 5] = [Self::Interrupt, Self::Terminate, Self::Hangup, Self::User1, Self::User2];

    /// Its number on this system.
    pub const fn number(self) -> i32 {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::Hangup => libc::SIGHUP,
            Self::User1 => libc::SIGUSR1,
            Self::User2 => libc::SIGUSR2,
        }
    }

    fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

/// A descriptor that is readable while one of its signals is pending.
///
/// ```no_run
/// use netlib::sys::{Signal, SignalFd};
///
/// // First thing in `main`, before any thread is started.
/// let signals = SignalFd::new(&[Signal::Interrupt, Signal::Terminate])?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` for the calling thread, so that they stay pending for this descriptor.
    ///
    /// **Call it before other threads start**: they inherit the mask. The kernel hands a signal
    /// for the process to any thread that does not block it, and there it takes its default
    /// action, which for most of these ends the process. The signals stay blocked when the
    /// descriptor is dropped: a second Ctrl-C during shutdown must not cut it short.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set it is given and cannot fail for a valid pointer.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is initialised and the number is one of the system's own constants.
            unsafe { libc::sigaddset(&raw mut set, signal.number()) };
        }
        // SAFETY: the set is initialised; a null pointer says that the old mask is not wanted.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes the next pending signal; `None` if there is none. Several of one kind that arrived
    /// together count as one.
    pub fn read(&self) -> io::Result<Option<Signal>> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut info = [0; SIZE];
        match retry_on_intr(|| read(&self.0, &mut info)) {
            // The record begins with the number (signalfd(2)), and a read is never partial.
            Ok(_) => Ok(Signal::from_number(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_instead_of_ending_the_thread() {
        let signals = SignalFd::new(&[Signal::User1, Signal::Hangup]).unwrap();
        assert_eq!(signals.read().unwrap(), None);
        for signal in [Signal::User1, Signal::Hangup] {
            // SAFETY: sends to this very thread, which blocks the signal.
            assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), signal.number()) }, 0);
            assert_eq!(signals.read().unwrap(), Some(signal));
        }
        assert_eq!(signals.read().unwrap(), None);
    }
}
