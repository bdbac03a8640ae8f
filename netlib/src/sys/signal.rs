//! Signals as readiness (signalfd): they arrive as bytes to read, so no code of ours ever runs
//! in signal context.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{io, ptr};

use rustix::io::{Errno, read, retry_on_intr};

/// The signals that a server gives a meaning to.
///
/// ```
/// use netlib::Signal;
///
/// assert_eq!(Signal::Terminate.number(), 15);
/// ```
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
/// Thread rule: made before other threads start; then it may be sent to the one that reads it.
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
    ///
    /// # Errors
    ///
    /// If the kernel has no descriptor to give.
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
    ///
    /// # Errors
    ///
    /// What the system says.
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{BackendKind, Reactor, ReactorConfig};

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

    static HANDLED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn count(_: libc::c_int) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }

    /// EINTR in the loop: a signal handler of the embedding program runs while the loop sleeps.
    /// The tick ends early and empty, and nothing else comes of it.
    #[test]
    fn a_signal_handler_that_interrupts_the_wait_costs_the_loop_an_empty_tick() {
        // SAFETY: the structure is all integers and a pointer-sized handler, for which zeros are
        // valid; the handler only adds to an atomic, which is async-signal-safe. SIGWINCH is used
        // by nothing else here and is ignored by default.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(libc::c_int) as libc::sighandler_t;
            assert_eq!(libc::sigaction(libc::SIGWINCH, &raw const action, ptr::null_mut()), 0);
        }
        for kind in BackendKind::ALL {
            let config = ReactorConfig { backend: Some(kind), ..ReactorConfig::default() };
            let mut reactor = Reactor::<bool>::new(config).unwrap();
            let start = Instant::now();
            let due = Duration::from_millis(200);
            reactor.context().after(due, move |fired, _| {
                assert!(start.elapsed() >= due, "early");
                *fired = true;
            });
            // SAFETY: asks for the calling thread's own id.
            let sleeper = unsafe { libc::pthread_self() } as usize;
            let before = HANDLED.load(Ordering::SeqCst);
            let over = Arc::new(AtomicBool::new(false));
            let noise = {
                let over = Arc::clone(&over);
                std::thread::spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        // SAFETY: the thread is alive: it joins this one.
                        unsafe { libc::pthread_kill(sleeper as libc::pthread_t, libc::SIGWINCH) };
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            };
            let mut fired = false;
            while !fired {
                assert!(reactor.run_once(&mut fired, None).unwrap(), "{kind}");
            }
            over.store(true, Ordering::SeqCst);
            noise.join().unwrap();
            let handled = HANDLED.load(Ordering::SeqCst) - before;
            let stats = reactor.context().stats();
            assert!(handled > 2 && stats.ticks > 2, "{kind}: nothing was interrupted: {stats:?}");
            assert!(stats.ticks <= handled as u64 + 4, "{kind}: it spins: {stats:?}");
            assert_eq!(stats.events, 0, "{kind}");
        }
    }
}
