//! What the kernel knows of a process: its CPU time to the nanosecond and how many system calls it made; and where
//! and how eagerly it may run.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;

use crate::Outcome;

/// Nanoseconds on a CPU of all threads of a process, user and kernel together.
///
/// The kernel brings the figure up to date when a thread leaves its CPU, so it is exact for a process that sleeps;
/// `/proc/PID/stat` counts in ticks of 10 ms.
pub(crate) fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let line = match fs::read_to_string(task?.path().join("schedstat")) {
            // A thread that has just ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            line => line?,
        };
        total += on_cpu(&line).ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(total)
}

/// Nanoseconds on a CPU of the calling thread, up to this very moment.
pub(crate) fn own_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The first of the three numbers of a schedstat line: time on the CPU, in nanoseconds.
fn on_cpu(schedstat: &str) -> Option<u64> {
    let mut numbers = schedstat.split_ascii_whitespace();
    let first = numbers.next()?.parse().ok()?;
    (numbers.count() == 2).then_some(first)
}

/// Ties a process (or the caller, `None`) to one core. Children inherit it.
pub(crate) fn pin(pid: Option<u32>, core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(rustix::thread::sched_setaffinity(pid.map(pid_of), &cores)?)
}

/// Asks to run before what else the machine does; needs a privilege, and does without it.
pub(crate) fn be_eager() -> bool {
    rustix::process::setpriority_process(None, -10).is_ok()
}

/// Takes [`be_eager`] back, for the calling thread.
pub(crate) fn be_ordinary() {
    // Being less eager needs no privilege.
    let _ = rustix::process::setpriority_process(None, 0);
}

/// Puts a process into the batch class: waking up, it does not take the CPU from whoever woke it.
pub(crate) fn make_batch(pid: u32) -> Outcome<()> {
    let done = Command::new("chrt").args(["--batch", "--pid", "0", &pid.to_string()]).status()?.success();
    if done { Ok(()) } else { Err("chrt could not put the server into the batch class".into()) }
}

/// Counts the system calls of a process while `work` runs: by perf's tracepoint, else by strace.
pub(crate) fn count_syscalls(pid: u32, work: impl FnOnce() -> io::Result<()>) -> Outcome<u64> {
    let mut counter = Counter::attach(pid)?;
    work()?;
    counter.finish()
}

struct Counter {
    child: Child,
    read: fn(&str) -> Option<u64>,
}

impl Counter {
    fn attach(pid: u32) -> Outcome<Self> {
        match Self::perf(pid) {
            Ok(counter) => Ok(counter),
            Err(perf) => Self::strace(pid).map_err(|strace| {
                format!("system calls can be counted neither by perf ({perf}) nor by strace ({strace})").into()
            }),
        }
    }

    fn perf(pid: u32) -> Outcome<Self> {
        let child = Command::new("perf")
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut counter = Self { child, read: perf_total };
        let fds = PathBuf::from(format!("/proc/{}/fd", counter.child.id()));
        counter.until(|| {
            fs::read_dir(&fds).is_ok_and(|fds| {
                fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("anon_inode:[perf_event]")))
            })
        })?;
        // The descriptor is there a moment before perf enables it.
        thread::sleep(Duration::from_millis(50));
        Ok(counter)
    }

    fn strace(pid: u32) -> Outcome<Self> {
        let child = Command::new("strace")
            .args(["-c", "-f", "-p", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut counter = Self { child, read: strace_total };
        let status = format!("/proc/{pid}/status");
        counter.until(|| fs::read_to_string(&status).is_ok_and(|text| traced(&text)))?;
        Ok(counter)
    }

    /// Waits until the tool is attached; an error if it ends before, or takes more than five seconds.
    fn until(&mut self, attached: impl Fn() -> bool) -> Outcome<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !attached() {
            if self.child.try_wait()?.is_some() {
                return Err(self.output()?.trim().replace('\n', " ").into());
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                return Err("it did not attach".into());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn finish(&mut self) -> Outcome<u64> {
        rustix::process::kill_process(pid_of(self.child.id()), Signal::INT)?;
        let text = self.output()?;
        self.child.wait()?;
        (self.read)(&text).ok_or_else(|| format!("no count of system calls in: {text}").into())
    }

    fn output(&mut self) -> io::Result<String> {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut text)?;
        }
        Ok(text)
    }
}

/// The count in `perf stat -x,` output: the first field of the event's line.
fn perf_total(text: &str) -> Option<u64> {
    text.lines().find(|line| line.contains("raw_syscalls"))?.split(',').next()?.parse().ok()
}

/// The count in `strace -c` output: the fourth column of the line `total`.
fn strace_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_end().ends_with("total"))?;
    line.split_ascii_whitespace().nth(3)?.parse().ok()
}

fn traced(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}

fn pid_of(id: u32) -> Pid {
    Pid::from_raw(id as i32).expect("no process has the id 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_three_numbers_of_which_the_first_counts() {
        assert_eq!(on_cpu("123456789 48821 17\n"), Some(123_456_789));
        assert_eq!(on_cpu("123"), None);
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn this_process_has_used_some_cpu() {
        // The time of a running thread is booked when it leaves the CPU; so leave it.
        thread::sleep(Duration::from_millis(1));
        assert!(cpu_ns(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn the_tools_totals_are_found() {
        let perf = "# started on Thu\n\n4040,,raw_syscalls:sys_enter,123456,100.00,,\n";
        assert_eq!(perf_total(perf), Some(4040));
        assert_eq!(perf_total("<not counted>,,raw_syscalls:sys_enter,0,0.00,,"), None);
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      100.00    0.000000           0      1010         3 total\n";
        assert_eq!(strace_total(strace), Some(1010));
        assert!(traced("Name:\tx\nTracerPid:\t42\n") && !traced("TracerPid:\t0\n"));
    }
}
