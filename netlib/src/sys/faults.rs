//! What a kernel does to a program on a bad day, for tests: safe to call, of no use to a server.

use std::{io, ptr};

/// Makes system calls of the thread that made it end early with EINTR.
///
/// ```
/// let interrupter = netlib::sys::faults::Interrupter::of_this_thread()?;
/// interrupter.interrupt(); // a call that waits now, here or elsewhere in the thread, ends with EINTR
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Interrupter {
    thread: libc::pid_t,
}

impl Interrupter {
    /// The signal, which by default is ignored.
    const SIGNAL: libc::c_int = libc::SIGURG;

    /// For the calling thread. Gives the whole process a handler for SIGURG that does nothing.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn of_this_thread() -> io::Result<Self> {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: All-zero is a valid sigaction: no flags (in particular no SA_RESTART) and an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        // SAFETY: The structure is initialised, and the handler, which has the right type without
        // SA_SIGINFO, does nothing that a signal handler may not do.
        if unsafe { libc::sigaction(Self::SIGNAL, &raw const action, ptr::null_mut()) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: Takes no argument and cannot fail.
        Ok(Self { thread: unsafe { libc::gettid() } })
    }

    /// Sends the signal; to nobody if the thread is gone.
    pub fn interrupt(&self) {
        // SAFETY: Takes numbers only. The thread is looked for in this process, whose handler does nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, Self::SIGNAL) };
    }
}

/// From here on the kernel refuses io_uring to the calling thread and to what it starts, as
/// sandboxes do (EPERM). There is no way back.
///
/// # Errors
///
/// What the system says.
pub fn refuse_io_uring() -> io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt| libc::sock_filter { code, jt, jf: 0, k };
    let mut program = [
        step(LOAD_NUMBER, 0, 0), // the number of the system call stands first in what a filter sees
        step(JUMP_IF_EQUAL, libc::SYS_io_uring_setup as u32, 1),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
        step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: Takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The filter points to its program, and both live through the call, which copies them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
