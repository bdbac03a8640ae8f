//! A system that nobody uses costs nothing: no polling tick, only the heartbeats of the links.
//! Judged from outside, by the system calls of one minute.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    process::{Command, Stdio},
};

use tt_tests::{Dev, Home, report};

/// Heartbeats leave each link end every five seconds and arrive as often. A wait and a read, a
/// wait and a write: 48 calls in a minute, and a few for what the links do besides.
const CALLS_PER_LINK_END: usize = 60;

/// One system call as strace wrote it, and the time of its last line.
struct Call {
    at: f64,
    text: String,
}

impl Call {
    fn is_wait(&self) -> bool {
        ["epoll_wait(", "epoll_pwait(", "ppoll(", "pselect6("].iter().any(|name| self.text.starts_with(name))
    }

    /// A wait that ended without any event.
    fn ended_empty(&self) -> bool {
        self.is_wait() && self.text.contains(") = 0")
    }

    /// How long a wait was to last, in milliseconds; -1 for ever.
    fn timeout(&self) -> i64 {
        let arguments = self.text.split(") = ").next().unwrap_or_default();
        if !arguments.starts_with("epoll") {
            // ppoll and pselect6 take a structure, or NULL.
            let number = |name| {
                let (_, rest) = arguments.split_once(name)?;
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<i64>().ok()
            };
            let milliseconds = |seconds| Some(seconds * 1000 + number("tv_nsec=")? / 1_000_000);
            return number("tv_sec=").and_then(milliseconds).unwrap_or(-1);
        }
        let last = arguments.rsplit(", ").next().and_then(|timeout| timeout.parse().ok());
        last.unwrap_or_else(|| panic!("a wait without a timeout in milliseconds: {}", self.text))
    }
}

/// Calls by thread id, in order of time, without what the attaching itself interrupts.
fn by_thread(trace: &str) -> BTreeMap<u32, Vec<Call>> {
    let mut threads: BTreeMap<u32, Vec<Call>> = BTreeMap::new();
    let mut begun: HashMap<u32, &str> = HashMap::new();
    for line in trace.lines() {
        // Short numbers are padded with spaces.
        let Some((tid, rest)) = line.split_once(' ') else { continue };
        let Some((at, text)) = rest.trim_start().split_once(' ') else { continue };
        let (Ok(tid), Ok(at)) = (tid.parse(), at.parse()) else { continue };
        let text = text.trim_start();
        // A call that another thread's line interrupted is written in two halves.
        if let Some((first, _)) = text.split_once("<unfinished ...>") {
            begun.insert(tid, first);
            continue;
        }
        let second = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>"));
        let text = match second {
            Some((name, rest)) => match begun.remove(&tid) {
                Some(first) => format!("{}{rest}", first.trim_end_matches(' ')),
                None => format!("{name}({rest}"),
            },
            None => text.to_owned(),
        };
        // A blocked call is shown when strace attaches and when it leaves.
        if text.starts_with("strace:") || text.starts_with("restart_syscall") || text.contains("<detached ...>") {
            continue;
        }
        threads.entry(tid).or_default().push(Call { at, text });
    }
    threads
}

/// How many ends of server links each role's thread holds, by the process's own connections.
fn link_ends(dev: &Dev) -> HashMap<&'static str, usize> {
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", dev.server.pid())).expect("proc");
    let established = |listener: &str| {
        let local = format!("0100007F:{:04X}", dev.address(listener).port());
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|columns| columns.len() > 3 && columns[1] == local && columns[3] == "01")
            .count()
    };
    let accepted =
        [("login", established("login_msg")), ("route", established("route")), ("db-proxy", established("db_proxy"))];
    let dialled = accepted.iter().map(|(_, count)| count).sum();
    accepted.into_iter().chain([("msg", dialled)]).collect()
}

fn thread_names(pid: u32) -> HashMap<u32, String> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("proc")
        .filter_map(|entry| {
            let path = entry.expect("proc").path();
            let tid = path.file_name().and_then(|tid| tid.to_str()?.parse().ok()).expect("a tid");
            // One that has just ended has no name.
            Some((tid, fs::read_to_string(path.join("comm")).ok()?.trim().to_owned()))
        })
        .collect()
}

#[test]
fn an_idle_minute_has_heartbeats_and_nothing_else() {
    let home = Home::new();
    let dev = home.start();
    let pid = dev.server.pid();
    let ends = link_ends(&dev);
    assert!(ends.values().all(|ends| *ends > 0), "every role has a link: {ends:?}");
    let trace = home.path("trace");
    let strace = Command::new("timeout")
        .args(["--signal=INT", "60", "strace", "-f", "-ttt", "-e", "trace=all", "-o"])
        .arg(&trace)
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::piped())
        .output();
    let said = match &strace {
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let trace = fs::read_to_string(&trace).unwrap_or_default();
    if trace.is_empty() && !said.contains("attached") {
        return report::skipped("an_idle_minute_has_heartbeats_and_nothing_else", said.trim());
    }

    // Only now: a thread that was started but has not run yet still bears its parent's name.
    let names = thread_names(pid);
    let threads = by_thread(&trace);
    for (tid, name) in &names {
        // A role beats twelve times a minute on each link; a trace without that saw nothing.
        let calls = threads.get(tid).map_or(0, Vec::len);
        assert!(
            !ends.contains_key(name.as_str()) || calls >= 12,
            "{name}, {tid} of {names:?}: {calls} calls in a minute:\n{trace}"
        );
    }
    for (tid, calls) in threads {
        let name = names.get(&tid).map_or("a new thread", String::as_str);
        let listing = || {
            let lines: Vec<_> = calls.iter().map(|call| format!("{:.6} {}", call.at, call.text)).collect();
            lines.join("\n")
        };
        let allowed = ends.get(name).map_or(0, |ends| ends * CALLS_PER_LINK_END);
        report::say(&format!("idle minute: {name}: {} calls, at most {allowed}", calls.len()));
        assert!(calls.len() <= allowed, "{name}:\n{}", listing());
        for pair in calls.windows(2) {
            // Two waits in a row with nothing in between: a timer may have been due that found
            // nothing to do. When the second has next to no time left, the first ended too early.
            let in_vain = pair[0].ended_empty() && pair[1].is_wait() && (0..=2).contains(&pair[1].timeout());
            assert!(!in_vain, "{name} waited in vain at {:.6}:\n{}", pair[1].at, listing());
        }
    }
}

#[test]
fn the_judge_of_the_trace_sees_what_it_should() {
    let trace = "\
7 1.000000 restart_syscall(<... resuming interrupted epoll_wait ...>) = 0
7 1.000100 sendto(9, \"\", 16, MSG_NOSIGNAL, NULL, 0) = 16
7 1.000200 epoll_wait(3,  <unfinished ...>
8 1.000300 futex(0x1, FUTEX_WAIT) = ? <unavailable>
7 1.500000 <... epoll_wait resumed>[], 1024, 5000) = 0
7 1.600000 epoll_wait(3, [{events=EPOLLIN}], 1024, 900) = 1
7 1.700000 epoll_wait(3,  <detached ...>
9 1.000000 ppoll([{fd=5, events=POLLIN}], 1, {tv_sec=4, tv_nsec=900000000}, NULL, 0 <unfinished ...>
7 1.800000 epoll_wait(3,  <detached ...>
9 5.900000 <... ppoll resumed>) = 0 (Timeout)
9 5.900100 pselect6(6, [5], [], [5], {tv_sec=0, tv_nsec=1500000}, NULL) = 1 (in [5], left {tv_sec=0, tv_nsec=9})
9 5.900200 ppoll([{fd=5, events=POLLIN}], 1, NULL, NULL, 0) = 1 ([{fd=5, revents=POLLIN}])";
    let threads = by_thread(trace);
    let calls = &threads[&7];
    assert_eq!(calls.len(), 3, "one write, two waits");
    assert_eq!((calls[1].timeout(), calls[2].timeout()), (5000, 900));
    let empty: Vec<bool> = calls.iter().map(Call::ended_empty).collect();
    assert_eq!(empty, [false, true, false]);
    assert_eq!(threads[&8].len(), 1);
    let timeouts: Vec<i64> = threads[&9].iter().map(Call::timeout).collect();
    assert_eq!(timeouts, [4900, 1, -1]);
    assert!(threads[&9][0].ended_empty() && !threads[&9][1].ended_empty());
}
